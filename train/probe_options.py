"""The options of a linear probe, from its command line."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaError
from modeling_ecg_jepa.leads_ecg_jepa import canonical_leads

from .options import CorpusChoice, require, with_underscores
from .probe_methods import BASELINES, POOLS
from .probe_records import EVALUATIONS
from .subgroups import COMMON


@dataclass(frozen=True)
class ProbeOptions:
    """What a run is told; `--help` says what each option means.

    Raises:
        EcgJepaConfigError: a value that describes no run.
    """

    models: Sequence[str]
    corpus: CorpusChoice
    output_dir: str = "runs/probe"
    evaluations: Sequence[str] = ("cross_validate",)
    train_fractions: Sequence[float] = (1.0,)
    pools: Sequence[str] = tuple(POOLS)
    layers: Sequence[tuple[int, ...]] = ((-1,),)
    leads: Sequence[tuple[str, ...] | None] = (None,)
    recipe: bool = False
    subgroups: Sequence[str] = ()
    baselines: Sequence[str] = tuple(BASELINES)
    seeds: Sequence[int] = (0, 1, 2)
    resamples: int = 1000
    cache_dir: str | None = None
    batch_size: int = 32
    device: str = "auto"
    cpu_threads: int | None = None
    overwrite: bool = False

    def __post_init__(self):
        check_shared(self, ("models", "train_fractions", "pools", "layers", "leads", "seeds"))
        for fraction in self.train_fractions:
            require(0 < fraction <= 1, "train_fraction", fraction, "must be above 0 and at most 1")


def read_probe_options(arguments: Sequence[str]) -> ProbeOptions:
    """Options from a command line, spelt with dashes or underscores.

    Raises:
        EcgJepaConfigError: a value that describes no run.
        SystemExit: wrong usage, or after `--help`.
    """
    given = vars(_parser().parse_args([with_underscores(text) for text in arguments]))
    evaluations = [name for name in EVALUATIONS if given.pop(name, False)] or ["cross_validate"]
    corpus = read_corpus(given.pop("corpus"), *(given.pop(name) for name in ("data_dir", "label_set", "files")))
    return ProbeOptions(corpus=corpus, evaluations=evaluations, **given)


def read_corpus(text: str, data_dir: str | None, label_set: str | None, files: int | None) -> CorpusChoice:
    """The corpus of the command line; PTB-XL's label set and files have defaults of their own here.

    Raises:
        EcgJepaConfigError: as `read_choice`.
    """
    choice = read_choice(text, data_dir)
    defaults = {"label_set": "superdiagnostic", "files": 100} if choice.name == "ptb_xl" else {}
    given = {name: value for name, value in (("label_set", label_set), ("files", files)) if value is not None}
    return dataclasses.replace(choice, options=defaults | choice.options | given)


def read_choice(text: str, data_dir: str | None) -> CorpusChoice:
    """A corpus with its folder, which may stand beside it.

    Raises:
        EcgJepaConfigError: it names no corpus, or two folders.
    """
    try:
        choice = CorpusChoice.read(text)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise EcgJepaConfigError(
            f"--corpus {text}: {error}. Write NAME, NAME:FOLDER, or '{{name: NAME, OPTION: VALUE}}'."
        ) from error
    if data_dir and choice.data_dir:
        raise EcgJepaConfigError(f"--data_dir {data_dir} and --corpus {text} name two folders; give one.")
    return dataclasses.replace(choice, data_dir=choice.data_dir or data_dir)


def _layers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def read_leads(text: str) -> tuple[str, ...] | None:
    """`all`, or names with commas between, as the lead table calls them."""
    try:
        return None if text == "all" else tuple(canonical_leads(text.split(",")))
    except EcgJepaError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.linear_probe",
        description="What can be read, linearly, off frozen encoders: logistic regression on PTB-XL's labels, with "
        "95% intervals over patients and paired differences, beside what an encoder must beat.",
        epilog="Choose by --cross_validate, check the choice by --confirm, and look at --final once, for the report. "
        "An interrupted run goes on where it stopped; more models can join the same folder. Exit codes: 0 good, 1 "
        "error, 2 usage, 3 done without some records. Example: python -m train.linear_probe runs/mine --data_dir "
        "path/to/ptb-xl --output_dir runs/probe --cross_validate --train_fraction 1 0.1",
        allow_abbrev=False,
    )
    add_models(parser)
    _add_records(parser.add_argument_group("records"))
    _add_comparison(parser.add_argument_group("what is fitted, tested and compared"))
    written, replaced = "probe.json, probe.md and probe.png", "the probe that is in the output folder"
    add_run(parser.add_argument_group("run"), "runs/probe", written, "embeddings", replaced)
    return parser


def _add_records(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--corpus",
        default="ptb_xl",
        metavar="NAME[:FOLDER]",
        help="a corpus with folds, or `prepared:FOLDER` of ecg-jepa prepare, or a mapping with the corpus's options as "
        "in a recipe: '{name: ptb_xl, min_likelihood: 50}' (default: %(default)s)",
    )
    add("--data_dir", metavar="FOLDER", help="of the corpus; downloaded if not given")
    add("--label_set", metavar="NAME", help="PTB-XL's set of labels (default: superdiagnostic, 5 classes)")
    add("--files", type=int, metavar="HZ", help="PTB-XL's files, 500 or 100 (default: 100)")


def _add_comparison(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--cross_validate",
        action="store_true",
        help="test each of folds 1-8 once, fit on the others: for every decision (default)",
    )
    add("--confirm", action="store_true", help="fit on folds 1-8, test on fold 9: does a decision hold?")
    add("--final", action="store_true", help="fit on folds 1-8, test on fold 10: once, for the report")
    add(
        "--train_fraction",
        dest="train_fractions",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="SHARE",
        help="few labels: the share of its patients that stays in each fitted part, drawn anew for each seed "
        "(default: 1)",
    )
    add_pools(group)
    add(
        "--layer",
        dest="layers",
        nargs="+",
        type=_layers,
        default=[(-1,)],
        metavar="N[,N...]",
        help="which layer is probed: 0 the patch embedding, 1 the first, -1 the last (default); 2,4 puts two side by "
        "side",
    )
    add(
        "--recipe",
        action="store_true",
        help="also the linear layer of ECG-JEPA's authors: AdamW, 10 epochs, on the mean pool as it is",
    )
    add(
        "--leads",
        nargs="+",
        type=read_leads,
        default=[None],
        metavar="LEAD[,LEAD...]",
        help="what is given to encoder, statistics and network: all (default), or some leads, such as all II I,II",
    )
    add(
        "--subgroups",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help=f"also divide the tested records by columns of the corpus: {', '.join(COMMON)} or others",
    )
    baselines = "; ".join(f"{name}: {meaning}" for name, meaning in BASELINES.items())
    add("--baselines", nargs="*", choices=BASELINES, default=list(BASELINES), help=f"{baselines} (default: all)")
    meaning = "of random weights, of the network, and of the draws of --train_fraction; results are means over them"
    add_seeds(group, meaning)


# What other commands around checkpoints ask for as well ---------------------------------------------------------------


def check_shared(options: Any, several: Sequence[str]) -> None:
    """Check what `add_models`, `add_pools`, `add_seeds` and `add_run` ask for; of `several` each value is named once.

    Raises:
        EcgJepaConfigError: a value that describes no run.
    """
    for name in several:
        values = getattr(options, name)
        require(len(set(values)) == len(values) > 0, name, list(values), "must name at least one, and none twice")
    require(min(options.seeds) >= 0, "seeds", list(options.seeds), "must not be negative")
    require(options.resamples >= 100, "resamples", options.resamples, "is too few for 95% intervals; pass at least 100")
    for name in ("batch_size", "cpu_threads"):
        value = getattr(options, name)
        require(value is None or value >= 1, name, value, "must be at least 1")


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
