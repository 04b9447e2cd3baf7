"""What can be measured, linearly, on a frozen encoder's embeddings: python -m train.measure MODEL --data_dir LUDB

Read `run` first: records, methods, tables. What surrounds it: measure_truth.py (what is measured, by which rule),
measure_delineator.py (boundaries where nobody marked them), measure_records.py (who is fitted, who is tested),
measure_fit.py (ridge regression), measure_scores.py (error and agreement), delineation.py and delineation_scores.py
(boundaries read off the patches), measure_results.py (numbers with intervals), measure_checkpoint.py (a model that
measures), measure_report.py (table and plots from the JSON).
"""

import collections
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_scripts.outputs import whole_file
from dataset_scripts.splits import SplitManifest
from modeling_ecg_jepa import EcgJepaError, EcgJepaOutputError
from modeling_ecg_jepa.tools.checkpoint import choose_device

from . import delineation, measure_fit
from .command_line import IN_PART, report_left_out, run_command
from .delineation_scores import WINDOW_SECONDS
from .embeddings import EmbeddingCache
from .linear_probe import describe_encoder
from .measure_checkpoint import save_measuring_model
from .measure_options import MeasureOptions, read_measure_options
from .measure_records import FEWEST_PATIENTS, TRUTHS, MeasuredRecords, choose_source, load_measured_records
from .measure_report import save_plot, write_tables
from .measure_results import delineation_table, measure_table, methods_of
from .measure_truth import BASELINE_RULE, MEASUREMENTS
from .probe_methods import POOLS, Encoder, load_encoders
from .provenance import provenance

SCHEMA_VERSION = 1

RESULTS, TABLES, PLOT = "results.json", "measure.md", "measure.png"
CACHE = "cache"

#: What a run leaves in its folder, and all that `--overwrite` removes.
_LEFT_BY_A_RUN = {RESULTS, TABLES, PLOT, CACHE}


def run(options: MeasureOptions) -> tuple[dict[str, Any], MeasuredRecords]:
    """A whole run; what `results.json` holds, and the records that it is about.

    Raises:
        EcgJepaError: models, records or an output folder that nothing can be measured with.
    """
    if options.cpu_threads:
        torch.set_num_threads(options.cpu_threads)
    source = choose_source(options.corpus, options.truth)
    encoders = load_encoders(options.models, choose_device(options.device))
    folder = prepare_output_dir(options)
    kept = Path(options.cache_dir or folder / CACHE)
    seed = options.seeds[0]
    records = load_measured_records(options.corpus, encoders[0].extractor, source, options.folds, seed, kept)
    cache = EmbeddingCache(kept, options.batch_size)
    methods = methods_of(encoders, records, options.pools, options.seeds, cache)
    results = describe_run(options, encoders, records)
    results["measurements"] = [
        measure_table(name, records, methods, seed, options.resamples) for name in records.evaluated()
    ]
    if options.delineation and source == "boundaries":
        results["delineation"] = delineation_table(encoders, records, seed, options.resamples, kept, options.batch_size)
    if options.save:
        results["saved"] = save_measuring_model(
            encoders[0], records, cache, Path(options.save), seed, options.overwrite
        )
    with whole_file(folder / RESULTS) as unfinished:
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_tables(results, folder / TABLES)
    save_plot(results, folder / PLOT)
    return results, records


def prepare_output_dir(options: MeasureOptions) -> Path:
    """The folder, made if need be. What an interrupted run left in it is gone on from; a finished run in it is replaced
    only if asked to.

    Raises:
        EcgJepaOutputError: it holds something else or a finished run, or cannot be used.
    """
    folder = Path(options.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = {path.name for path in folder.iterdir()}
        foreign = sorted(present - _LEFT_BY_A_RUN)
        if foreign:
            raise EcgJepaOutputError(
                f"The output folder {folder} holds {', '.join(foreign[:5])}, which no run of measurements left. Choose "
                "another --output_dir."
            )
        if RESULTS in present and not options.overwrite:
            raise EcgJepaOutputError(
                f"The output folder {folder} holds the results of a finished run. Choose another --output_dir, or pass "
                "--overwrite to replace them."
            )
        if options.overwrite:
            for path in (folder / name for name in present):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        if isinstance(error, EcgJepaError):
            raise
        raise EcgJepaOutputError(f"Cannot use the output folder {folder} ({error}). Choose another.") from error
    return folder


# What results.json says beside the tables -----------------------------------------------------------------------------


def describe_run(options: MeasureOptions, encoders: Sequence[Encoder], records: MeasuredRecords) -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "schema_version": SCHEMA_VERSION,
        **provenance("measure", "scikit-learn", "scipy", *(["neurokit2"] if records.source == "delineator" else [])),
        "seeds": list(options.seeds),
        "resamples": options.resamples,
        **describe_records(options, records),
        "models": [describe_encoder(encoder) for encoder in encoders],
        "pools": {pool: POOLS[pool] for pool in options.pools},
        "ridge": {"model": "ridge regression on standardised features (scikit-learn)", **measure_fit.SETTINGS},
        "delineation_settings": {**delineation.SETTINGS, "window_seconds": WINDOW_SECONDS},
    }


def describe_records(options: MeasureOptions, records: MeasuredRecords) -> dict[str, Any]:
    """Counts, the folds' hash, the truth's rules, and what was left out of what and why."""
    inputs, corpus = records.inputs, options.corpus
    grid = inputs.windows.extractor
    of_folds = {
        f"fold {fold}": [inputs.ids[place] for place in np.flatnonzero(records.folds == fold)]
        for fold in np.unique(records.folds).tolist()
    }
    return {
        "corpus": {"name": corpus.name, "data_dir": corpus.data_dir, **corpus.options},
        "grid": {name: getattr(grid, name) for name in ("leads", "sampling_rate", "patch_size", "num_patches")},
        "records": len(inputs.ids),
        "records_of_known_patients": len(inputs.ids) - inputs.patients.count(None),
        "splits": {
            "sha256": SplitManifest.of(corpus.name, "", of_folds).sha256,
            "records_by_fold": {name: len(ids) for name, ids in of_folds.items()},
        },
        "truth": {
            "source": records.source,
            "in_words": TRUTHS[records.source],
            "rules": {name: measurement.rule for name, measurement in MEASUREMENTS.items()},
            "baseline": BASELINE_RULE,
            "delineator_beside_marks": records.delineator_beside_marks,
        },
        "left_out": dict(collections.Counter(record.reason for record in inputs.left_out)),
        "duplicates": [
            {"record": pair.second.record_id, "same_signal_as": pair.first.record_id} for pair in inputs.duplicates
        ],
        "exclusions": records.undefined,
        "not_evaluated": {
            name: f"known of {records.patients_with(name)} patients; {FEWEST_PATIENTS} are needed"
            for name in MEASUREMENTS
            if name not in records.evaluated()
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 good, 1 error, 2 usage, 3 done without some records that could not be read."""
    return run_command(read_measure_options, _measure_and_report, arguments)


def _measure_and_report(options: MeasureOptions) -> int:
    results, records = run(options)
    folder = Path(options.output_dir)
    print((folder / TABLES).read_text(encoding="utf-8"))
    print(f"This is in {folder / TABLES}, all numbers in {folder / RESULTS}, plots in {folder / PLOT}.")
    if "saved" in results:
        print(f"The model that measures is in {results['saved']['folder']}.")
    return IN_PART if report_left_out(records.inputs.left_out) else 0


if __name__ == "__main__":
    sys.exit(main())
