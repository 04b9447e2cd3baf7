"""How a command ends: errors in a line, exit codes, what was left out."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from dataset_scripts.skipped import SkippedRecord, list_skipped
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaError

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
