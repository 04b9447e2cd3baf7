"""What the commands around a checkpoint share on the command line: options, errors, exit codes, what was left out."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dataset_scripts.skipped import SkippedRecord, list_skipped
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaError

from .probe_methods import POOLS

#: Exit code: done, but some records or cells could not be used.
IN_PART = 3


def run_command(
    read: Callable[[Sequence[str]], Any], run: Callable[[Any], int], arguments: Sequence[str] | None
) -> int:
    """Read the options, run, and return the exit code: that of `run`, 1 after an error, 2 for wrong usage."""
    try:
        options = read(sys.argv[1:] if arguments is None else arguments)
    except EcgJepaConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return run(options)
    except EcgJepaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def report_left_out(left_out: Sequence[SkippedRecord]) -> bool:
    """Print the records that could not be used, those left out by choice aside; whether there are any."""
    faults = [record for record in left_out if not record.by_choice]
    if faults:
        print(f"{len(faults):,} records were left out:", *list_skipped(faults, most=3), sep="\n", file=sys.stderr)
    return bool(faults)


# Options that mean the same everywhere --------------------------------------------------------------------------------


def add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint folders, or names on the Hub")


def add_pools(group: argparse._ArgumentGroup) -> None:
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in POOLS.items())
    group.add_argument(
        "--pool", dest="pools", nargs="+", choices=POOLS, default=list(POOLS), help=f"{meanings} (default: both)"
    )


def add_seeds(group: argparse._ArgumentGroup, meaning: str) -> None:
    group.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help=f"{meaning} (default: 0 1 2)"
    )
    group.add_argument(
        "--resamples", type=int, default=1000, metavar="COUNT", help="for the intervals (default: %(default)s)"
    )


def add_run(group: argparse._ArgumentGroup, output_dir: str, written: str, cached: str, replaced: str) -> None:
    """Where results and what is kept go, and what computes; in words what is written, cached and replaced."""
    add = group.add_argument
    add(
        "--output_dir",
        default=output_dir,
        metavar="FOLDER",
        help=f"for {written}, and what an interrupted run goes on from (default: %(default)s)",
    )
    add("--cache_dir", metavar="FOLDER", help=f"for {cached}; in the output folder if not given")
    add("--batch_size", type=int, default=32, metavar="COUNT", help="records a forward pass (default: %(default)s)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: %(default)s)")
    add("--cpu_threads", type=int, metavar="COUNT", help="on a CPU; all cores if not given")
    add("--overwrite", action="store_true", help=f"replace {replaced}")
