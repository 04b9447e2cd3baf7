"""The first experiments of the field as commands: python -m train.ablate EXPERIMENT [--OPTION VALUE ...]

An experiment is data (experiments.py): variants of one pretraining run with the same records, seeds and budget. Here is
the engine of them all; begin at `ablate`. What one variant with one seed goes through is in ablation_cells.py, what is
made of the numbers in ablation_report.py.
"""

import argparse
import dataclasses
import difflib
import functools
import json
import math
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaError, EcgJepaOutputError

from . import probing
from .ablation_cells import load_records, measure, start, step_seconds, train, training_records, truth
from .ablation_report import (
    CELLS,
    PLAN,
    PLOT,
    RECORDS,
    RESULTS,
    SCHEMA_VERSION,
    TABLE,
    cell_file,
    read_json,
    tables,
    write_json,
    write_report,
)
from .experiments import EXPERIMENTS, Experiment, Variant
from .options import PretrainOptions
from .options import read_options as read_pretraining
from .probe_records import ProbeRecords

#: What the experiments share unless told otherwise, and sizes below the tiny preset's, which another preset replaces.
RECIPE = Path(__file__).parent / "recipes" / "ablation.yaml"
SIZES = ("--hidden_size=48 --num_hidden_layers=2 --predictor_hidden_size=32 --predictor_num_hidden_layers=1").split()

#: Options that decide no result.
_FREE = frozenset("output_dir overwrite seed cpu_threads num_workers memory_gb logging_steps min_content_share".split())

#: For equal time: how often each variant's pace is taken, in turn, and over how many steps; the best of each counts.
PACE_ROUNDS, PACE_STEPS = 3, 20

Load = Callable[[Variant], ProbeRecords]


def ablate(name: str, options: PretrainOptions, seeds: Sequence[int], command: str) -> Path:
    """Run an experiment, or what is left of it, and write its results; returns their folder.

    Raises:
        EcgJepaError: options, records or a folder that the experiment cannot be made of.
    """
    if PartialState().num_processes > 1:
        raise EcgJepaConfigError("An ablation runs in one process: python -m train.ablate, without a launcher.")
    experiment, folder = EXPERIMENTS[name], Path(options.output_dir)
    options = dataclasses.replace(options, checkpointing_steps=0, tracker=None, probe_steps=0, probe_corpus=None)
    identity = identify(name, options)
    claim(folder, identity, options.overwrite)
    load = loader(options, experiment.variants[0])
    tested = truth(load(experiment.variants[0]))
    if not (folder / PLAN).exists():
        steps = equal_time(experiment, options, load) if experiment.equal == "time" else {}
        write_json(folder / PLAN, identity | {"steps": steps})
    write_json(folder / RECORDS, tested)
    steps = read_json(folder / PLAN)["steps"]
    with tqdm(total=len(seeds) * len(experiment.variants), desc=name, unit="cell", smoothing=0) as bar:
        for seed in seeds:
            for variant in experiment.variants:
                bar.set_postfix_str(f"{variant.name}, seed {seed}")
                run_cell(folder, experiment, variant, options_of(variant, options, seed, steps), load)
                bar.update()
    told = {"question": experiment.question, "finding": experiment.finding, "command": command, "seeds": list(seeds)}
    write_report(folder, told)
    return folder


def options_of(variant: Variant, options: PretrainOptions, seed: int, steps: dict[str, int]) -> PretrainOptions:
    """Of one cell. `steps` has the variants with other steps than the run; warm-up and log are then as much denser."""
    max_steps = steps.get(variant.name, options.max_steps)
    scaled = {
        name: getattr(options, name) * max_steps // options.max_steps for name in ("warmup_steps", "logging_steps")
    }
    scaled["logging_steps"] = max(1, scaled["logging_steps"])
    return dataclasses.replace(options, seed=seed, max_steps=max_steps, **scaled, **variant.options)


def loader(options: PretrainOptions, first: Variant) -> Load:
    """What gives the records of a variant; each corpus is opened once.

    Raises:
        EcgJepaError: by what it returns, where they are not the same records as those of the first variant.
    """
    opened = functools.cache(lambda corpus: load_records(options, json.loads(corpus)))

    def load(variant: Variant) -> ProbeRecords:
        records, others = (opened(json.dumps(dict(one.corpus))) for one in (variant, first))
        if records.ids != others.ids:
            raise EcgJepaError(
                f"{variant.name}: {len(records.ids):,} records can be used, of {first.name} {len(others.ids):,}, so "
                "that nothing is paired. Use a corpus of which all records can be used."
            )
        return records

    return load


def run_cell(folder: Path, experiment: Experiment, variant: Variant, options: PretrainOptions, load: Load) -> None:
    """Train and measure, and leave a file; nothing is done where it is there.

    Raises:
        EcgJepaError: with the cell's name, whatever went wrong.
    """
    file = cell_file(folder, variant.name, options.seed)
    if file.is_file():
        return
    records = load(variant)
    try:
        accelerator, model = start(variant, options)
        cell: dict[str, Any] = {"variant": variant.name, "seed": options.seed}
        if variant.trained:
            data = training_records(records, variant.share)
            cell |= train(accelerator, model, options, data, file.with_name(file.name.removesuffix(".json")))
        cell["views"] = {view: measure(model.encoder, records, leads) for view, leads in experiment.views.items()}
    except EcgJepaError as error:
        raise EcgJepaError(f"{variant.name}, seed {options.seed}: {error}") from error
    file.parent.mkdir(exist_ok=True)
    write_json(file, cell)


def equal_time(experiment: Experiment, options: PretrainOptions, load: Load) -> dict[str, int]:
    """The steps of each variant that take as long as `max_steps` of the first, by what a step of each takes: measured
    in turn, over and over, of which the shortest counts."""
    variants = [variant for variant in experiment.variants if variant.trained]
    shortest = dict.fromkeys((variant.name for variant in variants), math.inf)
    for _ in tqdm(range(PACE_ROUNDS), desc="taking the pace", unit="round"):
        for variant in variants:
            brief = options_of(variant, options, seed=0, steps={variant.name: PACE_STEPS})
            shortest[variant.name] = min(shortest[variant.name], step_seconds(variant, brief, load(variant)))
    first = shortest[variants[0].name]
    return {name: max(1, round(options.max_steps * first / seconds)) for name, seconds in shortest.items()}


# The folder -----------------------------------------------------------------------------------------------------------


def identify(name: str, options: PretrainOptions) -> dict[str, Any]:
    """All that decides the results of a cell beside its seed, as JSON gives it back."""
    experiment = EXPERIMENTS[name]
    identity = {
        "schema_version": SCHEMA_VERSION,
        "experiment": name,
        "equal": experiment.equal,
        "views": experiment.views,
        "probe": probing.SETTINGS,
        "options": {key: value for key, value in dataclasses.asdict(options).items() if key not in _FREE},
        "variants": [dataclasses.asdict(variant) for variant in experiment.variants],
    }
    return json.loads(json.dumps(identity, default=lambda function: function.__name__))


def claim(folder: Path, identity: dict[str, Any], overwrite: bool) -> None:
    """Make the folder ready for an ablation that begins or goes on in it.

    Raises:
        EcgJepaOutputError: it holds something else.
    """
    if overwrite:
        shutil.rmtree(folder / CELLS, ignore_errors=True)
        for name in (PLAN, RECORDS, RESULTS, TABLE, PLOT):
            (folder / name).unlink(missing_ok=True)
    elif (folder / PLAN).is_file():
        changes = _changes(read_json(folder / PLAN), identity)
        if changes:
            raise EcgJepaOutputError(
                f"{folder} holds another ablation: {'; '.join(changes)}. Give the same options to go on with that one, "
                "another --output_dir, or --overwrite to replace it."
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise EcgJepaOutputError(
            f"{folder} holds {next(folder.iterdir()).name} and no ablation. Choose another --output_dir."
        )


def _changes(plan: dict[str, Any], now: dict[str, Any]) -> list[str]:
    if plan["experiment"] != now["experiment"]:
        return [f"the experiment was {plan['experiment']!r} and is {now['experiment']!r}"]
    old, new = plan["options"], now["options"]
    changes = [f"{key} was {old.get(key)!r} and is {value!r}" for key, value in new.items() if old.get(key) != value]
    others = [key for key in now if key != "options" and plan.get(key) != now[key]]
    return changes + [f"the definition of its {key} is another" for key in others]


# The command line -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    plain = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(
        prog="python -m train.ablate",
        description="The first experiments of the field on ECG-JEPA: matched pretrainings that differ in one thing, "
        "and what\nlinear probes read off them. EXPERIMENT --help tells what is known about each and how to run it.",
        **plain,
    )
    chosen = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    for name, experiment in EXPERIMENTS.items():
        one = chosen.add_parser(
            name, help=experiment.question, description=_describe(experiment), epilog=_HOW_TO.format(name), **plain
        )
        one.add_argument("--seeds", type=int, nargs="+", default=list(experiment.seeds), metavar="SEED")
        one.add_argument("--output_dir", default=f"runs/ablate/{name}", metavar="FOLDER")
    several = chosen.add_parser("tables", help="print the tables of finished experiments as one page", **plain)
    several.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    return parser


def _describe(experiment: Experiment) -> str:
    variants = [f"  {variant.name}" for variant in experiment.variants]
    parts = [experiment.question, "", f"Published: {experiment.finding}", "", f"Variants, at equal {experiment.equal}:"]
    return "\n".join([*(textwrap.fill(part, 100) for part in parts), *variants])


_HOW_TO = """\
All other options are those of `python -m train.pretrain --help` and hold for every variant, but for checkpoints,
trackers and probes, which are left out. Without --config the recipe is train/recipes/ablation.yaml: minutes on a CPU,
on synthetic ECGs with known truth. At full scale, on real labels:
  python -m train.ablate {0} --config train/recipes/small.yaml --corpus ptb_xl:FOLDER --seeds 0 1 2 3 4
--max_steps, --num_records (of synthetic ones), --preset and --batch_size change the budget. A killed run goes on with
the same command, cell by cell; more --seeds are added to those that are there. FOLDER then holds results.json,
table.md, plot.png, and in cells/ the log of every pretraining (`python -m train.curves` draws one)."""


def read_options(arguments: Sequence[str]) -> tuple[argparse.Namespace, PretrainOptions | None]:
    """The experiment, or "tables", with its own options, and those of pretraining.

    Raises:
        EcgJepaConfigError: an unknown experiment or option, or a value that describes no run.
        SystemExit: wrong usage, or after `--help`.
    """
    known = [*EXPERIMENTS, "tables"]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
        near = difflib.get_close_matches(arguments[0], known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(EXPERIMENTS)}."
        raise EcgJepaConfigError(f"There is no experiment {arguments[0]!r}. {hint}")
    spelt = [re.sub(r"(?<=\w)-", "_", text) if text.startswith("--") else text for text in arguments]
    given, rest = _parser().parse_known_args(spelt)
    named = {text.split("=")[0] for text in rest if text.startswith("--")}
    if given.experiment == "tables":
        if rest:
            raise EcgJepaConfigError(f"tables takes folders only, not {rest[0]!r}.")
        return given, None
    if "--seed" in named:
        raise EcgJepaConfigError("--seed: every variant runs with several; give --seeds.")
    if min(given.seeds) < 0 or len(set(given.seeds)) < len(given.seeds):
        raise EcgJepaConfigError(f"seeds={given.seeds} must be different numbers of at least 0.")
    defaults = [] if "--config" in named else ["--config", str(RECIPE), *([] if "--preset" in named else SIZES)]
    return given, read_pretraining([*defaults, *rest, "--output_dir", given.output_dir])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 good, 1 error, 2 usage."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        given, options = read_options(arguments)
    except EcgJepaConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        if options is None:
            print(tables(given.folders))
            return 0
        folder = ablate(given.experiment, options, given.seeds, f"python -m train.ablate {shlex.join(arguments)}")
    except EcgJepaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: Interrupted. The cells that are whole stay; the same command goes on.", file=sys.stderr)
        return 1
    print((folder / TABLE).read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
