"""From a checkpoint to evidence: python -m train.benchmark MODEL --suite quick --data_dir PTB-XL --output_dir OUT

Read `benchmark` first: records, cells, tables. What surrounds it: benchmark_suites.py (what is run),
benchmark_cells.py (who computes it), the probe_*.py of train.linear_probe (methods, cells, intervals),
probe_finetuned.py, transfer.py (another corpus), train.measure (measurements), benchmark_report.py and
benchmark_plots.py (tables and plots from the JSON), published.py (numbers of others).

`OUT/results.json`, from which the tables, the plots and the model's card are made and nothing else, holds:

    schema_version, kind     1 and "benchmark"
    command, commit          of the run; a commit with "-dirty" is a checkout with changes
    versions, hardware       of the libraries; processor, cores, memory, GPU, processes and threads
    suite                    all that decides what is run
    seeds, resamples         of the methods; of the intervals
    corpus, records, ...     as in probe.json of train.linear_probe: counts by fold and class, patients known, splits'
                             SHA-256, what was left out and why, `exclusions` (same signal under two ids)
    other_corpus             the same of the corpus that is only tested; null without
    tested                   in words, which records the numbers are of
    leakage, leakage_check   what the models may have seen, in words; what was searched for, and what was found
    models, pools, baselines, probe, recipe, network     what was compared, with hashes and settings
    tables                   as in probe.json: title, tested records, methods with `measures` {name: value, low, high}
                             and runs by seed, paired `differences`, undefined classes with counts, and `subgroups`:
                             {by, group, records, undefined_classes, methods}
    measurements             results.json of train.measure, without its command; null where they failed
    published                numbers of others that stand beside each table, with their sources
    cells                    every cell: table, method, seed, status "done" with seconds, or "failed" with a message

Two runs with the same options give the same file but for `seconds`, `hardware` and `commit`, killed half-way or not.
"""

import dataclasses
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import EcgJepaError, EcgJepaOutputError

from . import probing
from .baselines import NETWORK
from .benchmark_cells import CELLS, EMBEDDINGS, MEASURED, MODELS, Bench, Sheet, describe_cells, in_words, run_all
from .benchmark_plots import PLOTS, save_plots
from .benchmark_report import LATEX, MARKDOWN, write_tables
from .benchmark_suites import BenchmarkOptions, read_benchmark_options
from .checkpoints import only_run
from .command_line import IN_PART, report_left_out, run_command
from .linear_probe import describe_encoder, describe_records, pretraining_of
from .probe_methods import BASELINES, POOLS, load_encoders
from .probe_recipe import RECIPE
from .probe_records import EVALUATIONS, FITTED_FOLDS, OTHER_CORPUS_FOLD, ProbeRecords, load_probe_records
from .probe_results import Tested, describe_table
from .provenance import provenance
from .published import published_for
from .transfer import transfer_records

SCHEMA_VERSION = 1

RESULTS, MARK = "results.json", "benchmark.json"

#: What a benchmark leaves in its folder, and all that `--overwrite` removes.
_LEFT_BY_A_BENCHMARK = {RESULTS, MARK, MARKDOWN, LATEX, *PLOTS, CELLS, EMBEDDINGS, MODELS, MEASURED}

LEAKAGE = (
    "An encoder that was pretrained on PTB-XL's training part has seen the fitted records of folds 1-8, without their "
    "labels, and none of folds 9 and 10. What each model was pretrained on stands beside it. Random weights, "
    "statistics and the supervised network have seen no record that they are tested on. Fold 9 is where choices are "
    "made: numbers on it may flatter what was chosen by it, and only those on fold 10 are a report."
)


def benchmark(options: BenchmarkOptions) -> tuple[dict[str, Any], ProbeRecords]:
    """A whole run, alone in its folder; what `results.json` holds, and the records that it is about.

    Raises:
        EcgJepaError: a model, records or an output folder that no benchmark can be made of. What fails later is noted.
    """
    torch.set_num_threads(options.threads)
    folder = Path(options.output_dir)
    with only_run(folder):
        prepare_output_dir(options, folder)
        return _run(options, folder)


def _run(options: BenchmarkOptions, folder: Path) -> tuple[dict[str, Any], ProbeRecords]:
    extractor = load_encoders([options.model], torch.device("cpu"))[0].extractor
    folds = sorted({*FITTED_FOLDS, *EVALUATIONS[options.evaluation]})
    records = load_probe_records(options.corpus, extractor, folds, subgroups=options.subgroups)
    transferred, refused = None, []
    if options.other_corpus:
        others = range(1, 11) if options.final else range(1, 10)
        try:
            transferred = transfer_records(records, options.other_corpus, extractor, others)
        except EcgJepaError as error:
            refused.append({"table": options.other_corpus.title, "status": "failed", "message": in_words(error)})
    bench = Bench(options, records, transferred)
    bench.refused += refused
    failed = run_all(bench, records, transferred)
    results = describe_run(options, bench, records, transferred)
    results["tables"] = [table for sheet in bench.sheets for table in _table(options, bench, sheet)]
    measured = bench.measurements.cells()
    results["measurements"] = measured[0]["results"] if measured else None
    results["published"] = [_beside(options, table) for table in results["tables"]]
    results["cells"] = describe_cells(bench, failed)
    with whole_file(folder / RESULTS) as unfinished:
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return write_report(folder), records


def write_report(folder: Path) -> dict[str, Any]:
    """Tables and plots from `results.json` alone, which is returned."""
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    write_tables(results, folder)
    save_plots(results, folder)
    return results


def _table(options: BenchmarkOptions, bench: Bench, sheet: Sheet) -> list[dict[str, Any]]:
    """The table of a sheet, of the methods and seeds that are whole; none where nothing can be measured."""
    runs = {}
    for method, by_seed in sheet.tasks.items():
        whole = {seed: task.cells() for seed, task in by_seed.items()}
        whole = {seed: cells for seed, cells in whole.items() if cells}
        if whole:
            runs[method] = whole
    try:
        tested = Tested(sheet.setting, sheet.records, options.resamples)
    except EcgJepaError as error:
        bench.refused.append({"table": sheet.title, "status": "failed", "message": in_words(error)})
        return []
    if not runs:
        return []
    table = describe_table(tested, runs)
    if options.other_corpus:
        table["title"] = table["title"].replace("another corpus", options.other_corpus.name)
    return [table]


def _beside(options: BenchmarkOptions, table: dict[str, Any]) -> list[dict[str, Any]]:
    corpus, leads = options.corpus, table["leads"]
    if table["evaluation"] == "transfer":
        return []
    label_set = str(corpus.options.get("label_set", ""))
    found = published_for(corpus.name, label_set, table["fraction"], leads and tuple(leads))
    return [each._asdict() for each in found]


# The output folder ----------------------------------------------------------------------------------------------------


def prepare_output_dir(options: BenchmarkOptions, folder: Path) -> None:
    """Empty, or with what a benchmark of the same corpus and model left, with which this one goes on.

    Raises:
        EcgJepaOutputError: it holds something else, or cannot be used. Only what benchmarks leave is ever removed.
    """
    asked = {"model": options.model, "corpus": _corpus(options), "evaluation": options.evaluation}
    mark = {"schema_version": SCHEMA_VERSION, **asked}
    present = {path.name for path in folder.iterdir()} - {".run.lock"}
    foreign = sorted(present - _LEFT_BY_A_BENCHMARK)
    if foreign:
        raise EcgJepaOutputError(
            f"The output folder {folder} holds {', '.join(foreign[:5])}, which no benchmark left. Choose another "
            "--output_dir."
        )
    same = (folder / MARK).is_file() and json.loads((folder / MARK).read_text(encoding="utf-8")) == mark
    if present and not same and not options.overwrite:
        raise EcgJepaOutputError(
            f"The output folder {folder} holds a benchmark of another model, corpus or test fold. Choose another "
            "--output_dir, or pass --overwrite to replace it."
        )
    if options.overwrite:
        for path in (folder / name for name in present):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with whole_file(folder / MARK) as unfinished:
        unfinished.write_text(json.dumps(mark) + "\n", encoding="utf-8")


def _corpus(options: BenchmarkOptions) -> dict[str, Any]:
    return {"name": options.corpus.name, **options.corpus.options}


# What results.json says beside the tables -----------------------------------------------------------------------------


def describe_run(
    options: BenchmarkOptions, bench: Bench, records: ProbeRecords, transferred: ProbeRecords | None
) -> dict[str, Any]:
    """Where the numbers come from."""
    suite, other = options.suite, options.other_corpus
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "benchmark",
        **provenance("benchmark", "scikit-learn"),
        "hardware": hardware(options),
        "suite": dataclasses.asdict(suite),
        "seeds": list(suite.seeds),
        "resamples": options.resamples,
        **describe_records(options.corpus, records),
        "other_corpus": describe_records(other, _tested_only(transferred)) if other and transferred else None,
        "tested": in_words_tested(options, records),
        "leakage": LEAKAGE,
        "leakage_check": leakage_check(options, bench, records),
        "models": [describe_encoder(bench.encoder)],
        "pools": {pool: POOLS[pool] for pool in suite.pools},
        "baselines": BASELINES,
        "probe": {
            "model": "logistic regression, one a class, on standardised features (scikit-learn)",
            **probing.SETTINGS,
        },
        "recipe": RECIPE,
        "network": NETWORK,
    }


def _tested_only(transferred: ProbeRecords) -> ProbeRecords:
    return transferred.take(transferred.of_fold(OTHER_CORPUS_FOLD))


def in_words_tested(options: BenchmarkOptions, records: ProbeRecords) -> str:
    """Which records the numbers are of."""
    fold = EVALUATIONS[options.evaluation][0]
    role = "the test fold, to be looked at once" if options.final else "where choices are made; fold 10 was not read"
    return (
        f"Fitted on folds 1-8 of {options.corpus.name}, tested on the {len(records.of_fold(fold)):,} records of fold "
        f"{fold}, {role}. Penalties and numbers of epochs are chosen inside folds 1-8."
    )


def leakage_check(options: BenchmarkOptions, bench: Bench, records: ProbeRecords) -> dict[str, Any]:
    """What was searched for, and what was found."""
    told = pretraining_of(bench.encoder.folder)
    corpora = sorted({corpus["name"] for corpus in (told or {}).get("corpus") or []})
    seen = options.corpus.name in corpora
    return {
        "searched": "the same signal in two folds, or the same patient; the second of a pair is left out",
        "recordings_searched": len(records.ids) + len(records.duplicates),
        "same_signal": len(records.duplicates),
        "patients_in_several_folds": 0,  # load_probe_records refuses such a corpus
        "pretrained_on": corpora if told else None,
        "pretrained_on_held_out_parts": bool(told and told.get("allow_held_out")) if told else None,
        "tested_corpus_was_pretrained_on": seen if told else None,
    }


def hardware(options: BenchmarkOptions) -> dict[str, Any]:
    """Of this machine, as far as it tells."""
    cpu = Path("/proc/cpuinfo")
    names = [line for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.exists() else []
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "processor": names[0].partition(": ")[2] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": memory and round(memory / 2**30, 1),
        "gpu": gpu,
        "processes": options.processes,
        "threads_a_process": options.threads,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 good, 1 error, 2 usage, 3 done without some cells, or some records that could not be read."""
    return run_command(read_benchmark_options, _benchmark_and_report, arguments)


def _benchmark_and_report(options: BenchmarkOptions) -> int:
    results, records = benchmark(options)
    folder = Path(options.output_dir)
    print((folder / MARKDOWN).read_text(encoding="utf-8"))
    print(f"These tables are in {folder / MARKDOWN} and {LATEX}, all numbers in {RESULTS}, plots beside them.")
    failed = [cell for cell in results["cells"] if cell["status"] == "failed"]
    for cell in failed:
        print(f"failed: {cell['table']}, {cell.get('method', 'all')}: {cell['message']}", file=sys.stderr)
    return IN_PART if report_left_out(records.left_out) or failed else 0


if __name__ == "__main__":
    sys.exit(main())
