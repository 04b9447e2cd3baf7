"""What a benchmark holds, and its options from the command line."""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modeling_ecg_jepa import EcgJepaConfigError

from .options import CorpusChoice, with_underscores
from .probe_options import read_choice, read_corpus
from .subgroups import COMMON

Leads = tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """What is run.

    Attributes:
        meaning: in words.
        seeds: of random weights, the network, fine-tuning, and draws of few labels.
        fractions: shares of the labelled patients beside all of them, three draws each.
        leads: which leads are seen, beside all of them.
        pools: of `probe_methods.POOLS`.
        finetune: options where fine-tuning is not by the authors' recipe.
        finetune_random: also fine-tune from random weights.
        networks: also train the supervised network with few labels, few leads and for another corpus.
        delineation: also find the boundaries of waves.
        synthetic: records of which measurements are taken where there is no LUDB.
    """

    meaning: str
    seeds: Sequence[int]
    fractions: Sequence[float]
    leads: Sequence[Leads]
    pools: Sequence[str]
    finetune: Mapping[str, Any] = field(default_factory=dict)
    finetune_random: bool = False
    networks: bool = True
    delineation: bool = True
    synthetic: int = 1000


SUITES = {
    "quick": Suite(
        meaning="a first look in minutes: one seed, 10% of the labels, lead II, one epoch of fine-tuning",
        seeds=(0,),
        fractions=(0.1,),
        leads=(("II",),),
        pools=("mean", "lead"),
        finetune={"num_train_epochs": 1.0, "warmup_epochs": 0.2, "base_learning_rate": 8e-3},
        networks=False,
        delineation=False,
        synthetic=300,
    ),
    "paper": Suite(
        meaning="the paper's tables: three seeds, 1% and 10% of the labels, leads II, I + II and II + V1, fine-tuning "
        "by the authors' recipe (10 epochs)",
        seeds=(0, 1, 2),
        fractions=(0.1, 0.01),
        leads=(("II",), ("I", "II"), ("II", "V1")),
        pools=("mean", "lead"),
        finetune_random=True,
    ),
}

#: The draws of few labels, whatever the seeds of the rest.
DRAWS = (0, 1, 2)


@dataclass(frozen=True)
class BenchmarkOptions:
    """What a run is told; `--help` says what each option means.

    Raises:
        EcgJepaConfigError: a value that describes no run.
    """

    model: str
    corpus: CorpusChoice
    suite: Suite = SUITES["quick"]
    output_dir: str = "runs/benchmark"
    final: bool = False
    ludb_dir: str | None = None
    other_corpus: CorpusChoice | None = None
    subgroups: Sequence[str] = ()
    resamples: int = 1000
    processes: int = 1
    batch_size: int = 32
    device: str = "auto"
    cpu_threads: int | None = None
    overwrite: bool = False

    def __post_init__(self):
        for name, least in (("resamples", 100), ("processes", 1), ("batch_size", 1), ("cpu_threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise EcgJepaConfigError(f"{name}={value!r} must be at least {least}.")
        if len(set(self.suite.seeds)) < len(self.suite.seeds) or min(self.suite.seeds, default=-1) < 0:
            raise EcgJepaConfigError(f"seeds={list(self.suite.seeds)} must be different numbers of at least 0.")

    @property
    def evaluation(self) -> str:
        """Which of `probe_records.EVALUATIONS`: the test fold is looked at only when told."""
        return "final" if self.final else "confirm"

    @property
    def threads(self) -> int:
        """Of each process."""
        return self.cpu_threads or max(1, (os.cpu_count() or 1) // self.processes)


def read_benchmark_options(arguments: Sequence[str]) -> BenchmarkOptions:
    """Options from a command line, spelt with dashes or underscores.

    Raises:
        EcgJepaConfigError: a value that describes no run.
        SystemExit: wrong usage, or after `--help`.
    """
    given = vars(_parser().parse_args([with_underscores(text) for text in arguments]))
    suite, seeds, other = SUITES[given.pop("suite")], given.pop("seeds"), given.pop("other_corpus")
    corpus = read_corpus(given.pop("corpus"), *(given.pop(name) for name in ("data_dir", "label_set", "files")))
    return BenchmarkOptions(
        corpus=corpus,
        suite=dataclasses.replace(suite, seeds=seeds) if seeds else suite,
        other_corpus=read_choice(other, None) if other else None,
        **given,
    )


def _parser() -> argparse.ArgumentParser:
    suites = "; ".join(f"{name}: {suite.meaning}" for name, suite in SUITES.items()).replace("%", "%%")
    parser = argparse.ArgumentParser(
        prog="python -m train.benchmark",
        description="From a checkpoint to evidence: linear probes, few labels, few leads, fine-tuning, measurements "
        "and another corpus, with 95%% intervals over patients and paired differences, beside random weights, simple "
        "statistics, a supervised network and the published numbers.",
        epilog="A killed run goes on with the same command, cell by cell. Exit codes: 0 good, 1 error, 2 usage, 3 done "
        "in part: without some records or cells, which the tables name. Example: python -m train.benchmark runs/mine "
        "--suite quick --data_dir path/to/ptb-xl --output_dir runs/benchmark --subgroups age sex",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="checkpoint folder, or a name on the Hub")
    add("--suite", choices=SUITES, default="quick", help=f"{suites} (default: %(default)s)")
    add("--corpus", default="ptb_xl", metavar="NAME[:FOLDER]", help="as of train.linear_probe (default: %(default)s)")
    add("--data_dir", metavar="FOLDER", help="of the corpus; downloaded if not given")
    add("--label_set", metavar="NAME", help="PTB-XL's set of labels (default: superdiagnostic, 5 classes)")
    add("--files", type=int, metavar="HZ", help="PTB-XL's files, 500 or 100 (default: 100)")
    add(
        "--final",
        action="store_true",
        help="test fold 10: once, for the report; without it fold 9 is tested and fold 10 never read",
    )
    add("--ludb_dir", metavar="FOLDER", help="of LUDB, for measurements; without it synthetic records are measured")
    add(
        "--other_corpus",
        metavar="NAME[:FOLDER]",
        help="also fit on --corpus and test on this one, over the classes that both name alike",
    )
    add(
        "--subgroups",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help=f"divide the tested records by columns of the corpus: {', '.join(COMMON)} or others",
    )
    add("--seeds", type=int, nargs="+", metavar="SEED", help="instead of the suite's")
    add("--resamples", type=int, default=1000, metavar="COUNT", help="for the intervals (default: %(default)s)")
    add("--output_dir", default="runs/benchmark", metavar="FOLDER", help="for all results (default: %(default)s)")
    add(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        metavar="COUNT",
        help="cells run at once (default: all cores, %(default)s); on one GPU pass 1",
    )
    add("--batch_size", type=int, default=32, metavar="COUNT", help="records a forward pass (default: %(default)s)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: %(default)s)")
    add("--cpu_threads", type=int, metavar="COUNT", help="of each process; the cores, shared, if not given")
    add("--overwrite", action="store_true", help="replace the benchmark that is in the output folder")
    return parser
