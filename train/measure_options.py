"""The options of measurements, from the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from .measure_records import TRUTHS
from .options import CorpusChoice, require, with_underscores
from .probe_methods import POOLS
from .probe_options import add_models, add_pools, add_run, add_seeds, check_shared, read_choice


@dataclass(frozen=True)
class MeasureOptions:
    """What a run is told; `--help` says what each option means.

    Raises:
        EcgJepaConfigError: a value that describes no run.
    """

    models: Sequence[str]
    corpus: CorpusChoice
    truth: str = "auto"
    output_dir: str = "runs/measure"
    pools: Sequence[str] = tuple(POOLS)
    folds: int = 5
    seeds: Sequence[int] = (0, 1, 2)
    resamples: int = 1000
    delineation: bool = True
    save: str | None = None
    cache_dir: str | None = None
    batch_size: int = 32
    device: str = "auto"
    cpu_threads: int | None = None
    overwrite: bool = False

    def __post_init__(self):
        check_shared(self, ("models", "pools", "seeds"))
        require(self.folds >= 2, "folds", self.folds, "must be at least 2: one tested, the others fitted")
        alone = self.save is None or len(self.models) == 1
        require(alone, "save", self.save, f"takes one model; {len(self.models)} were named")


def read_measure_options(arguments: Sequence[str]) -> MeasureOptions:
    """Options from a command line, spelt with dashes or underscores.

    Raises:
        EcgJepaConfigError: a value that describes no run.
        SystemExit: wrong usage, or after `--help`.
    """
    given = vars(_parser().parse_args([with_underscores(text) for text in arguments]))
    return MeasureOptions(corpus=read_choice(given.pop("corpus"), given.pop("data_dir")), **given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.measure",
        description="Heart rate, PR, QRS, QT, axis and T amplitude read linearly off frozen encoders, and on LUDB "
        "where P, QRS and T begin and end: cross-validated, with 95% intervals over patients, beside random weights "
        "and the mean of the other records.",
        epilog="The truth decides what the numbers mean: cardiologists' marks (ludb), an algorithm's (--truth "
        "delineator, any corpus), or how records were made (synthetic). An interrupted run goes on where it stopped. "
        "Exit codes: 0 good, 1 error, 2 usage, 3 done without some records. Example: python -m train.measure "
        "path/to/checkpoint --data_dir path/to/ludb --output_dir runs/measure --save runs/measurements",
        allow_abbrev=False,
    )
    add_models(parser)
    _add_records(parser.add_argument_group("records and truth"))
    _add_comparison(parser.add_argument_group("what is fitted and compared"))
    written = "results.json, measure.md and measure.png"
    cached, replaced = "embeddings and delineations", "the measurements in the output folder, and the saved model"
    add_run(parser.add_argument_group("run"), "runs/measure", written, cached, replaced)
    return parser


def _add_records(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--corpus",
        default="ludb",
        metavar="NAME[:FOLDER]",
        help="ludb (default) and synthetic are used whole, of others the training part; or a mapping with the corpus's "
        "options as in a recipe: '{name: synthetic, records: 500}'",
    )
    add("--data_dir", metavar="FOLDER", help="of the corpus; downloaded if not given")
    truths = "; ".join(f"{name}: {words}" for name, words in TRUTHS.items())
    add(
        "--truth",
        default="auto",
        choices=["auto", *TRUTHS],
        help=f"{truths}; auto (default) takes the first that the corpus has, boundaries or synthesis before delineator",
    )
    add(
        "--no_delineation",
        dest="delineation",
        action="store_false",
        help="on ludb: measurements alone, without the boundaries read off the patches (which take a minute a model)",
    )


def _add_comparison(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add_pools(group)
    add("--folds", type=int, default=5, metavar="COUNT", help="of cross-validation by patient (default: %(default)s)")
    meaning = "of random weights, whose results are means over them; the first also draws the folds and the splits in "
    add_seeds(group, meaning + "which penalties are chosen")
    add(
        "--save",
        metavar="FOLDER",
        help="also fit all records, on the mean over all patches, and save an EcgJepaForRegression that measures, "
        "checked against the regression after loading",
    )
