"""What labels can be read off a frozen encoder, linearly: python -m train.linear_probe MODEL --data_dir PTB-XL

Read `probe` first: encoders, records, methods, cells, tables. What surrounds it: probe_records.py (who is fitted and
who is tested), probe_methods.py (what is compared), embeddings.py (computed once), probing.py (the logistic
regression), baselines.py (what has to be beaten), probe_cells.py (what a killed run leaves), metrics.py and
probe_results.py (numbers with intervals), probe_report.py (tables and plot from the JSON).
"""

import collections
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import EcgJepaError, EcgJepaOutputError
from modeling_ecg_jepa.tools.checkpoint import choose_device, read_json

from . import probing
from .baselines import NETWORK
from .checkpoints import STATE
from .command_line import IN_PART, report_left_out, run_command
from .embeddings import EmbeddingCache
from .options import CorpusChoice
from .probe_cells import SCHEMA_VERSION, Setting, run_cells
from .probe_methods import BASELINES, POOLS, Encoder, load_encoders, methods_of
from .probe_options import ProbeOptions, read_probe_options
from .probe_records import EVALUATIONS, FITTED_FOLDS, ProbeRecords, label_counts, load_probe_records
from .probe_report import save_plot, write_tables
from .probe_results import Tested, describe_table
from .provenance import provenance

RESULTS, TABLES, PLOT = "probe.json", "probe.md", "probe.png"
CELLS, EMBEDDINGS = "cells", "embeddings"

#: Says of which records the cells in a folder are.
MARK = "corpus.json"

#: What a probe leaves in its folder, and all that `--overwrite` removes.
_LEFT_BY_A_PROBE = {RESULTS, TABLES, PLOT, CELLS, EMBEDDINGS, MARK}

LEAKAGE = (
    "An encoder that was pretrained on PTB-XL's training part has seen the records of folds 1-8 that are held out in "
    "cross-validation, without their labels; those of folds 9 and 10 not. What each model was pretrained on stands "
    "beside it. Random weights, statistics and the supervised network have seen no record that they are tested on."
)


def probe(options: ProbeOptions) -> tuple[dict[str, Any], ProbeRecords]:
    """A whole run; what `probe.json` holds, and the records that it is about.

    Raises:
        EcgJepaError: models, records or an output folder that no probe can be made of.
    """
    if options.cpu_threads:
        torch.set_num_threads(options.cpu_threads)
    device = choose_device(options.device)
    encoders = load_encoders(options.models, device)
    folder = prepare_output_dir(options)
    folds = {*FITTED_FOLDS, *(fold for name in options.evaluations for fold in EVALUATIONS[name])}
    records = load_probe_records(options.corpus, encoders[0].extractor, sorted(folds), subgroups=options.subgroups)
    tables = [
        table
        for leads in options.leads
        for table in _tables_of(options, encoders, records.seen_in(leads) if leads else records, leads, device)
    ]
    results = describe_run(options, encoders, records) | {"tables": tables}
    with whole_file(folder / RESULTS) as unfinished:
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_tables(results, folder / TABLES)
    save_plot(results, folder / PLOT)
    return results, records


def _tables_of(
    options: ProbeOptions,
    encoders: Sequence[Encoder],
    records: ProbeRecords,
    leads: tuple[str, ...] | None,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Of records as they are seen in some leads."""
    folder = Path(options.output_dir)
    settings = [Setting(name, share, leads) for name in options.evaluations for share in options.train_fractions]
    tested = {setting: Tested(setting, records, options.resamples) for setting in settings}
    methods = methods_of(
        encoders,
        records,
        pools=options.pools,
        layers=options.layers,
        baselines=options.baselines,
        cache=EmbeddingCache(Path(options.cache_dir or folder / EMBEDDINGS), options.batch_size),
        device=device,
        recipe=options.recipe,
    )
    cells = run_cells(folder / CELLS, records, methods, settings, options.seeds)
    return [describe_table(tested[setting], cells[setting]) for setting in settings]


def prepare_output_dir(options: ProbeOptions) -> Path:
    """The folder, made if need be: empty, or with what a probe of the same corpus left, with which this one goes on.

    Raises:
        EcgJepaOutputError: it holds something else, or cannot be used. Only what probes leave is ever removed.
    """
    folder = Path(options.output_dir)
    mark = {"schema_version": SCHEMA_VERSION, "corpus": {"name": options.corpus.name, **options.corpus.options}}
    try:
        present = {path.name for path in folder.iterdir()} if folder.exists() else set()
        of_this = (folder / MARK).is_file() and json.loads((folder / MARK).read_text(encoding="utf-8")) == mark
        _refuse_other_run(folder, present, of_this or options.overwrite)
        if options.overwrite:
            for path in (folder / name for name in present):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
    except EcgJepaError:
        raise
    except (OSError, ValueError) as error:
        raise EcgJepaOutputError(f"Cannot use the output folder {folder} ({error}). Choose another.") from error
    with whole_file(folder / MARK) as unfinished:
        unfinished.write_text(json.dumps(mark) + "\n", encoding="utf-8")
    return folder


def _refuse_other_run(folder: Path, present: set[str], may_go_on: bool) -> None:
    foreign = sorted(present - _LEFT_BY_A_PROBE)
    if foreign:
        raise EcgJepaOutputError(
            f"The output folder {folder} holds {', '.join(foreign[:5])}, which no probe left. Choose another "
            "--output_dir."
        )
    if present and not may_go_on:
        raise EcgJepaOutputError(
            f"The output folder {folder} holds a probe of another corpus or other labels. Choose another --output_dir, "
            "or pass --overwrite to replace it."
        )


# What probe.json says beside the tables -------------------------------------------------------------------------------


def describe_run(options: ProbeOptions, encoders: Sequence[Encoder], records: ProbeRecords) -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "schema_version": SCHEMA_VERSION,
        **provenance("linear_probe", "scikit-learn"),
        "seeds": list(options.seeds),
        "resamples": options.resamples,
        **describe_records(options.corpus, records),
        "leakage": LEAKAGE,
        "models": [describe_encoder(encoder) for encoder in encoders],
        "pools": {pool: POOLS[pool] for pool in options.pools},
        "baselines": {name: BASELINES[name] for name in options.baselines},
        "probe": {
            "model": "logistic regression, one a class, on standardised features (scikit-learn)",
            **probing.SETTINGS,
        },
        "network": NETWORK if "supervised" in options.baselines else None,
    }


def describe_records(corpus: CorpusChoice, records: ProbeRecords) -> dict[str, Any]:
    """Counts, the splits' hash, and what was left out and why."""
    return {
        "corpus": {"name": corpus.name, "data_dir": corpus.data_dir, **corpus.options},
        "records": len(records.ids),
        "records_of_known_patients": len(records.ids) - records.patients.count(None),
        "splits": {
            "sha256": records.manifest(corpus.name).sha256,
            "records_by_fold": {str(fold): count for fold, count in records.fold_counts().items()},
        },
        "labels": label_counts(records),
        "left_out": dict(collections.Counter(record.reason for record in records.left_out)),
        "exclusions": [
            {
                "record": pair.second.record_id,
                "of": pair.second.split,
                "same_signal_as": pair.first.record_id,
                "in": pair.first.split,
                "correlation": round(pair.match.correlation, 4),
            }
            for pair in records.duplicates
        ],
    }


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Name, hash, sizes, levers, and what is known of its pretraining."""
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    levers = ("patch_initializer_range", "position_scale", "target_centering")
    return {
        "name": encoder.name,
        "folder": str(encoder.folder),
        "sha256": encoder.sha256,
        "parameters": encoder.model.num_parameters(),
        **{name: getattr(encoder.model.config, name) for name in sizes + levers},
        "pretraining": pretraining_of(encoder.folder),
    }


def pretraining_of(folder: Path) -> dict[str, Any] | None:
    """Steps, records, corpora and all options of the run that left a checkpoint; None where it does not tell."""
    if not (folder / STATE).is_file():
        return None
    state = read_json(folder / STATE)
    told = state.get("options", {})
    return {
        **{name: state.get(name) for name in ("steps", "records", "seed")},
        **{name: told.get(name) for name in ("corpus", "data_dir", "allow_held_out")},
        "options": told,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 good, 1 error, 2 usage, 3 done without some records that could not be read."""
    return run_command(read_probe_options, _probe_and_report, arguments)


def _probe_and_report(options: ProbeOptions) -> int:
    _, records = probe(options)
    folder = Path(options.output_dir)
    print((folder / TABLES).read_text(encoding="utf-8"))
    print(f"These tables are in {folder / TABLES}, all numbers in {folder / RESULTS}, a plot in {folder / PLOT}.")
    return IN_PART if report_left_out(records.left_out) else 0


if __name__ == "__main__":
    sys.exit(main())
