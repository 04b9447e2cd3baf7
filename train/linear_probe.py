"""What labels can be read off a frozen encoder, linearly: python -m train.linear_probe MODEL --data_dir PTB-XL

Read `probe` first: records, methods, cells, results. What surrounds it: probe_records.py (who is fitted and who is
tested), embeddings.py (computed once), probing.py (the logistic regression), baselines.py (what has to be beaten),
metrics.py (intervals), probe_report.py (tables and plot from the JSON).
"""

import argparse
import collections
import dataclasses
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn
import torch
import transformers
import yaml
from tqdm import tqdm

import modeling_ecg_jepa
from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfigError,
    EcgJepaError,
    EcgJepaFeatureExtractor,
    EcgJepaModel,
    EcgJepaOutputError,
)
from modeling_ecg_jepa.tools.checkpoint import checkpoint_folder, choose_device, load_encoder, read_json

from . import probing
from .baselines import STATISTICS, lead_statistics
from .checkpoints import STATE
from .embeddings import EmbeddingCache, encoder_sha256, layer_number, pooled
from .metrics import (
    Resamples,
    auroc,
    average_precision,
    estimate,
    macro_values,
    macro_values_by_fold,
    outcomes,
    resample_patients,
)
from .options import CorpusChoice
from .probe_records import EVALUATIONS, FITTED_FOLDS, Part, ProbeRecords, label_counts, load_probe_records, parts_of
from .probe_report import save_plot, write_tables
from .probing import Fitted

#: Raised whenever a field of `probe.json` or of a cell changes its meaning.
SCHEMA_VERSION = 1

RESULTS, TABLES, PLOT, CELLS, EMBEDDINGS = "probe.json", "probe.md", "probe.png", "cells", "embeddings"

#: What a run leaves in its folder, and all that `--overwrite` removes.
_LEFT_BY_A_PROBE = (RESULTS, TABLES, PLOT, CELLS, EMBEDDINGS)

POOLS = {"mean": "mean over all patches", "lead": "mean a lead, side by side"}

BASELINES = ("random", "statistics")

#: How the published encoders are trained; `pretraining_of` says what is known of each.
SEEN_IN_PRETRAINING = (
    "Pretrained on PTB-XL's training part, an encoder has seen the held-out records of folds 1-8, without labels; "
    "folds 9 and 10 not. Random weights, statistics and the supervised network have seen no record they are tested on."
)


# Options --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProbeOptions:
    """What a run is told; `_parser` says what each option means.

    Raises:
        EcgJepaConfigError: a value that describes no run.
    """

    models: Sequence[str]
    corpus: CorpusChoice
    output_dir: str = "runs/probe"
    evaluations: Sequence[str] = ("cross_validate",)
    pools: Sequence[str] = tuple(POOLS)
    layers: Sequence[tuple[int, ...]] = ((-1,),)
    baselines: Sequence[str] = BASELINES
    train_fractions: Sequence[float] = (1.0,)
    seeds: Sequence[int] = (0, 1, 2)
    resamples: int = 1000
    cache_dir: str | None = None
    batch_size: int = 32
    device: str = "auto"
    cpu_threads: int | None = None
    overwrite: bool = False

    def __post_init__(self):
        for fraction in self.train_fractions:
            _require(0 < fraction <= 1, "train_fraction", fraction, "must be above 0 and at most 1")
        _require(len(set(self.models)) == len(self.models), "MODEL", list(self.models), "names a model twice")
        _require(min(self.seeds) >= 0, "seeds", list(self.seeds), "must not be negative")
        _require(self.resamples >= 100, "resamples", self.resamples, "is too few for 95% intervals; pass at least 100")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1")
        threads = self.cpu_threads
        _require(threads is None or threads >= 1, "cpu_threads", threads, "must be at least 1")


def _require(holds: bool, name: str, value: Any, rule: str) -> None:
    if not holds:
        raise EcgJepaConfigError(f"{name}={value!r} {rule}.")


# Encoders and methods -------------------------------------------------------------------------------------------------


class Encoder(NamedTuple):
    """A pretrained encoder, under the name that tables give it."""

    name: str
    folder: Path
    model: EcgJepaModel
    extractor: EcgJepaFeatureExtractor
    sha256: str


@dataclass(frozen=True, eq=False)
class Method:
    """Something that scores records after it was fitted to others.

    Attributes:
        name: in tables.
        kind: pretrained, random, statistics or supervised.
        identity: what decides its scores beside records and seed.
        fit: part, seed -> scores.
        varies: its scores depend on the seed even where all labels are used.
        rival: what only the same kind of feature is compared by: model, pool and layers.
    """

    name: str
    kind: str
    identity: dict[str, Any]
    fit: Callable[[Part, int], Fitted]
    varies: bool = False
    rival: dict[str, Any] = dataclasses.field(default_factory=dict)


def load_encoders(models: Sequence[str], device: torch.device) -> list[Encoder]:
    """The encoders of some checkpoints, all with the same grid: then their probes see the same inputs.

    Raises:
        EcgJepaCheckpointError: no checkpoint of ours, a damaged one, or one of another grid than the first.
    """
    folders = [checkpoint_folder(model) for model in models]
    short = [os.path.basename(os.path.normpath(model)) for model in models]
    names = short if len(set(short)) == len(short) else list(models)
    encoders = []
    for name, folder in zip(names, folders, strict=True):
        model, extractor = load_encoder(folder, device)
        encoders.append(Encoder(name, folder, model, extractor, encoder_sha256(model, extractor)))
        for what in ("leads", "sampling_rate", "patch_size", "num_patches"):
            first, this = (getattr(each.extractor, what) for each in (encoders[0], encoders[-1]))
            if first != this:
                raise EcgJepaCheckpointError(
                    f"{name} has {what}={this!r} and {encoders[0].name} has {first!r}: they take different inputs. "
                    "Probe models of one shape together and the others in another run."
                )
    return encoders


def methods_of(options: ProbeOptions, encoders: Sequence[Encoder], records: ProbeRecords) -> list[Method]:
    """Every encoder with every pooling and layer, and the baselines; a baseline of random weights for each shape."""
    cache_dir = options.cache_dir or os.path.join(options.output_dir, EMBEDDINGS)
    cache = EmbeddingCache(Path(cache_dir), options.batch_size)
    methods = []
    for layers in options.layers:
        for pool in options.pools:
            methods += [encoder_method(encoder, layers, pool, records, cache) for encoder in encoders]
            if "random" in options.baselines:
                shapes = {_shape(encoder): encoder for encoder in reversed(encoders)}
                methods += [
                    random_method(encoder, layers, pool, records, cache, several=len(shapes) > 1)
                    for encoder in reversed(shapes.values())
                ]
    if "statistics" in options.baselines:
        methods.append(statistics_method(records))
    return methods


def encoder_method(
    encoder: Encoder, layers: tuple[int, ...], pool: str, records: ProbeRecords, cache: EmbeddingCache
) -> Method:
    numbers = [layer_number(layer, encoder.model, encoder.name) for layer in layers]

    @functools.cache
    def features() -> np.ndarray:
        return pooled(cache.embed(encoder.model, encoder.sha256, records, numbers, encoder.name), pool)

    return Method(
        name=f"{encoder.name}, {_variant(layers, pool)}",
        kind="pretrained",
        identity={"encoder": encoder.sha256, "layers": numbers, "pool": pool},
        fit=lambda part, seed: _probe(features(), records, part, seed),
        rival={"model": encoder.name, "shape": _shape(encoder), "variant": _variant(layers, pool)},
    )


def random_method(
    like: Encoder, layers: tuple[int, ...], pool: str, records: ProbeRecords, cache: EmbeddingCache, several: bool
) -> Method:
    """Encoders of the same configuration, levers included, with the weights that a seed gives."""
    numbers = [layer_number(layer, like.model, like.name) for layer in layers]

    @functools.cache
    def features(seed: int) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = EcgJepaModel(like.model.config).eval()
        model.to(like.model.device)
        sha256 = encoder_sha256(model, like.extractor)
        return pooled(cache.embed(model, sha256, records, numbers, f"random weights {seed}"), pool)

    name = f"random weights like {like.name}" if several else "random weights"
    return Method(
        name=f"{name}, {_variant(layers, pool)}",
        kind="random",
        identity={"random": _shape(like), "layers": numbers, "pool": pool, "torch": torch.__version__},
        fit=lambda part, seed: _probe(features(seed), records, part, seed),
        varies=True,
        rival={"shape": _shape(like), "variant": _variant(layers, pool)},
    )


def statistics_method(records: ProbeRecords) -> Method:
    features = functools.cache(lambda: lead_statistics(records))
    return Method(
        name="statistics of each lead",
        kind="statistics",
        identity={"statistics": STATISTICS},
        fit=lambda part, seed: _probe(features(), records, part, seed),
    )


def _probe(features: np.ndarray, records: ProbeRecords, part: Part, seed: int) -> Fitted:
    return probing.fit_and_score(features, records.labels, records.groups, part, seed)


def _shape(encoder: Encoder) -> str:
    """Sizes and levers: all of a configuration that decides what random weights compute."""
    config = {
        name: value
        for name, value in encoder.model.config.to_diff_dict().items()
        if name not in ("transformers_version", "dtype", "architectures", "auto_map", "_name_or_path")
        and not name.startswith(("mask_", "predictor_", "target_"))
        and name != "drop_path_rate"
    }
    return json.dumps(config, sort_keys=True)


def _variant(layers: tuple[int, ...], pool: str) -> str:
    return f"{pool} pool" + ("" if layers == (-1,) else f", layer {' + '.join(map(str, layers))}")


# Cells: a method, an evaluation, a fraction of the labels, a seed, a fold ---------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What all methods of a table share."""

    evaluation: str
    fraction: float

    @property
    def title(self) -> str:
        labels = "all labels" if self.fraction == 1 else f"{self.fraction:.3g} of the labels"
        return f"{self.evaluation}, {labels}"

    def seeds_of(self, method: Method, seeds: Sequence[int]) -> Sequence[int]:
        """One where another would give the same scores again."""
        return seeds if method.varies or self.fraction < 1 else seeds[:1]


def run_cells(
    folder: Path, records: ProbeRecords, methods: Sequence[Method], settings: Sequence[Setting], seeds: Sequence[int]
) -> dict[tuple[Setting, Method, int], list[dict[str, Any]]]:
    """Every cell, from the file that an earlier run left or computed: {(setting, method, seed): a cell a fold}."""
    plan = [
        (setting, method, seed, parts_of(records, setting.evaluation, setting.fraction, seed))
        for setting in settings
        for method in methods
        for seed in setting.seeds_of(method, seeds)
    ]
    done: dict[tuple[Setting, Method, int], list[dict[str, Any]]] = {}
    with tqdm(total=sum(len(parts) for *_, parts in plan), desc="cells", smoothing=0) as bar:
        for setting, method, seed, parts in plan:
            bar.set_postfix_str(method.name)
            cells = []
            for part in parts:
                cells.append(run_cell(folder, records, method, setting, seed, part))
                bar.update()
            done[setting, method, seed] = cells
    return done


def run_cell(
    folder: Path, records: ProbeRecords, method: Method, setting: Setting, seed: int, part: Part
) -> dict[str, Any]:
    """One cell, from its file if it is there.

    Raises:
        EcgJepaOutputError: its file is damaged, or cannot be written.
    """
    described = {
        "schema_version": SCHEMA_VERSION,
        "method": method.name,
        **dataclasses.asdict(setting),
        "seed": seed,
        "fold": part.fold,
    }
    decides = {
        **described,
        "method": method.identity,
        "part": records.part_sha256(part),
        "probe": [probing.PENALTIES, probing.PATIENCE, probing.INNER_SPLITS],
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    name = f"{setting.evaluation}-{setting.fraction:g}-seed{seed}-fold{part.fold}-{key}.json"
    file = folder / re.sub(r"[^\w.+-]+", "-", method.name) / name
    if file.is_file():
        return _read_cell(file)
    scores, chosen = method.fit(part, seed)
    counts = outcomes(records.labels[part.fitted], records.names)
    cell = {
        **described,
        "fitted_records": len(part.fitted),
        "tested_records": len(part.tested),
        "classes_not_fitted": [dataclasses.asdict(outcome) for outcome in counts if not outcome.defined],
        **chosen,
        "scores": {records.ids[place]: row for place, row in zip(part.tested, scores.round(6).tolist(), strict=True)},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as unfinished:
        unfinished.write_text(json.dumps(cell) + "\n", encoding="utf-8")
    return cell


def _read_cell(file: Path) -> dict[str, Any]:
    try:
        cell = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EcgJepaOutputError(
            f"The cell {file} is damaged ({error}). Remove it; it is then computed anew."
        ) from error
    return cell


# Results --------------------------------------------------------------------------------------------------------------


class Table:
    """All methods of a setting on the same records and the same resamples."""

    def __init__(
        self,
        setting: Setting,
        records: ProbeRecords,
        runs: dict[Method, dict[int, list[dict[str, Any]]]],
        resamples: int,
    ):
        self.setting, self.runs = setting, runs
        tested = np.concatenate([part.tested for part in parts_of(records, setting.evaluation)])
        self.ids = [records.ids[place] for place in tested]
        self.folds = records.folds[tested]
        self.outcomes = outcomes(records.labels[tested], records.names)
        self.defined = np.array([outcome.defined for outcome in self.outcomes])
        if not self.defined.any():
            counts = ", ".join(f"{outcome.name} {outcome.positives}" for outcome in self.outcomes)
            raise EcgJepaConfigError(
                f"{setting.title}: none of the classes has both outcomes among the {len(tested):,} tested records "
                f"({counts}), so nothing can be measured. Use another label_set or a larger copy of the corpus."
            )
        self.labels = records.labels[tested]
        self.resamples: Resamples = resample_patients([records.patients[place] for place in tested], 0, resamples)
        self.values = {method: self._values(method) for method in tqdm(runs, desc=f"intervals, {setting.title}")}

    def scores(self, cells: Sequence[dict[str, Any]]) -> np.ndarray:
        by_id = {name: row for cell in cells for name, row in cell["scores"].items()}
        return np.array([by_id[name] for name in self.ids])

    def _values(self, method: Method) -> dict[str, np.ndarray]:
        """Of each measure its value in the set and in each resample, the mean over the method's seeds."""
        by_seed = [self._of_scores(self.scores(cells)) for cells in self.runs[method].values()]
        return {name: np.mean([values[name] for values in by_seed], axis=0) for name in by_seed[0]}

    def _of_scores(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        values = {
            "macro_auroc": macro_values(auroc, self.labels, scores, self.resamples),
            "macro_average_precision": macro_values(average_precision, self.labels, scores, self.resamples),
        }
        folds = np.unique(self.folds)
        if len(folds) > 1:
            by_fold = macro_values_by_fold(auroc, self.labels, scores, self.resamples, self.folds)
            values["mean_over_folds"] = by_fold.mean(0)
            values |= {f"fold {fold}": of_fold for fold, of_fold in zip(folds, by_fold, strict=True)}
        for metric, name in ((auroc, "auroc"), (average_precision, "average_precision")):
            of_classes = metric(self.labels, scores, self.resamples.weights).T
            values |= {f"{name} of {outcome.name}": row for outcome, row in zip(self.outcomes, of_classes, strict=True)}
        return {name: row for name, row in values.items() if not np.isnan(row[0])}

    def describe(self) -> dict[str, Any]:
        """For `probe.json`."""
        return {
            **dataclasses.asdict(self.setting),
            "title": self.setting.title,
            "tested_records": len(self.ids),
            "tested_folds": np.unique(self.folds).tolist(),
            "resampled": self.resamples.unit,
            "undefined_classes": [dataclasses.asdict(each) for each in self.outcomes if not each.defined],
            "methods": [self._describe_method(method) for method in self.runs],
            "differences": list(self._differences()),
        }

    def _describe_method(self, method: Method) -> dict[str, Any]:
        return {
            "name": method.name,
            "kind": method.kind,
            **method.rival,
            "measures": {name: _rounded(estimate(values)) for name, values in self.values[method].items()},
            "runs": [self._describe_run(seed, cells) for seed, cells in self.runs[method].items()],
        }

    def _describe_run(self, seed: int, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
        scores = self.scores(cells)
        values = macro_values(auroc, self.labels, scores, Resamples(self.resamples.weights[:1], ""))
        kept = [{name: item for name, item in cell.items() if name in _KEPT_OF_CELLS} for cell in cells]
        return {"seed": seed, "macro_auroc": round(float(values[0]), 5), "cells": kept}

    def _differences(self) -> Iterator[dict[str, Any]]:
        """Pretrained minus each baseline of the same kind of features, and minus the first model, paired."""
        pretrained = [method for method in self.runs if method.kind == "pretrained"]
        for method in pretrained:
            for other in self.runs:
                if other is not method and _are_rivals(method, other, pretrained):
                    ours, theirs = self.values[method], self.values[other]
                    yield {
                        "method": method.name,
                        "minus": other.name,
                        "kind": other.kind,
                        "measures": {
                            name: _rounded(estimate(ours[name] - theirs[name])) for name in ours if " of " not in name
                        },
                    }


_KEPT_OF_CELLS = ("fold", "fitted_records", "tested_records", "classes_not_fitted", "C", "inner_macro_auroc")


def _are_rivals(method: Method, other: Method, pretrained: Sequence[Method]) -> bool:
    if other.kind == "pretrained":
        first = next(each for each in pretrained if each.rival["variant"] == method.rival["variant"])
        return other is first
    return all(method.rival.get(name) == value for name, value in other.rival.items())


def _rounded(number) -> dict[str, float]:
    return {name: round(value, 5) for name, value in dataclasses.asdict(number).items()}


# A run ----------------------------------------------------------------------------------------------------------------


def probe(options: ProbeOptions) -> dict[str, Any]:
    """A whole run; returns what `probe.json` holds.

    Raises:
        EcgJepaError: models, records or an output folder that no probe can be made of.
    """
    if options.cpu_threads:
        torch.set_num_threads(options.cpu_threads)
    encoders = load_encoders(options.models, choose_device(options.device))
    folder = prepare_output_dir(options)
    folds = sorted({*FITTED_FOLDS, *(fold for name in options.evaluations for fold in EVALUATIONS[name])})
    records = load_probe_records(options.corpus, encoders[0].extractor, folds)
    methods = methods_of(options, encoders, records)
    settings = [
        Setting(evaluation, fraction) for evaluation in options.evaluations for fraction in options.train_fractions
    ]
    cells = run_cells(folder / CELLS, records, methods, settings, options.seeds)
    tables = []
    for setting in settings:
        runs = {
            method: {seed: cells[setting, method, seed] for seed in setting.seeds_of(method, options.seeds)}
            for method in methods
        }
        tables.append(Table(setting, records, runs, options.resamples).describe())
    results = describe_run(options, encoders, records) | {"tables": tables}
    with whole_file(folder / RESULTS) as unfinished:
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_tables(results, folder / TABLES)
    save_plot(results, folder / PLOT)
    return results


def prepare_output_dir(options: ProbeOptions) -> Path:
    """The folder, made if need be: empty, or with what a probe of the same records left, with which this one goes on.

    Raises:
        EcgJepaOutputError: it holds something else, and `overwrite` is false; only what probes leave is ever removed.
    """
    folder, mark = Path(options.output_dir), {"schema_version": SCHEMA_VERSION, "corpus": _corpus(options.corpus)}
    marked = folder / CELLS / "corpus.json"
    try:
        present = {path.name for path in folder.iterdir()} if folder.exists() else set()
        same = marked.is_file() and json.loads(marked.read_text(encoding="utf-8")) == mark
        foreign = sorted(present - {*_LEFT_BY_A_PROBE})
        if foreign or (present and not same and not options.overwrite):
            raise EcgJepaOutputError(
                f"The output folder {folder} holds {'something else' if foreign else 'a probe of other records'} "
                f"({', '.join(foreign or sorted(present))}). Choose another --output_dir"
                f"{'' if foreign else ', or pass --overwrite to replace it'}."
            )
        if options.overwrite:
            for name in present:
                shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        marked.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(marked) as unfinished:
            unfinished.write_text(json.dumps(mark) + "\n", encoding="utf-8")
    except EcgJepaError:
        raise
    except (OSError, ValueError) as error:
        raise EcgJepaOutputError(f"Cannot use the output folder {folder} ({error}). Choose another.") from error
    return folder


def _corpus(choice: CorpusChoice) -> dict[str, Any]:
    return {"name": choice.name, "data_dir": choice.data_dir, **choice.options}


def describe_run(options: ProbeOptions, encoders: Sequence[Encoder], records: ProbeRecords) -> dict[str, Any]:
    """All of `probe.json` but the tables."""
    left_out = collections.Counter(record.reason for record in records.left_out)
    manifest = records.manifest(options.corpus.name)
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "python -m train.linear_probe " + " ".join(sys.argv[1:]),
        "commit": _commit(),
        "versions": {
            "ecg_jepa": modeling_ecg_jepa.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
        },
        "seeds": list(options.seeds),
        "resamples": options.resamples,
        "corpus": _corpus(options.corpus),
        "records": len(records.ids),
        "records_of_known_patients": len(records.ids) - records.patients.count(None),
        "splits": {"sha256": manifest.sha256, "records_by_fold": records.fold_counts()},
        "labels": label_counts(records),
        "left_out": left_out,
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
        "leakage": SEEN_IN_PRETRAINING,
        "models": [describe_encoder(encoder) for encoder in encoders],
        "pools": {pool: POOLS[pool] for pool in options.pools},
        "probe": {
            "model": "logistic regression, one a class, on standardised features (scikit-learn)",
            "C": list(probing.PENALTIES),
            "chosen": f"by macro AUROC over {probing.INNER_SPLITS} splits by patient inside the fitted part",
        },
    }


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    config = encoder.model.config
    return {
        "name": encoder.name,
        "folder": str(encoder.folder),
        "sha256": encoder.sha256,
        "parameters": encoder.model.num_parameters(),
        **{name: getattr(config, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
        **{name: getattr(config, name) for name in ("patch_initializer_range", "position_scale", "target_centering")},
        "pretraining": pretraining_of(encoder.folder),
    }


def pretraining_of(folder: Path) -> dict[str, Any] | None:
    """Steps, records and corpora of the run that left a checkpoint; None where it does not tell."""
    if not (folder / STATE).is_file():
        return None
    state = read_json(folder / STATE)
    told = state.get("options", {})
    return {
        "steps": state.get("steps"),
        "records": state.get("records"),
        "seed": state.get("seed"),
        **{name: told.get(name) for name in ("corpus", "data_dir", "allow_held_out")},
    }


def _commit() -> str | None:
    """Of the checkout that this runs from, with a mark where files differ from it; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


# The command line -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.linear_probe",
        description="What can be read, linearly, off frozen encoders: logistic regression on PTB-XL's labels, with "
        "95% intervals over patients, beside random weights of the same configuration and statistics of each lead.",
        epilog="Choose by --cross_validate, check the choice by --confirm, and look at --final once, for the report. "
        "An interrupted run goes on where it stopped. Exit codes: 0 good, 1 error, 2 usage. Example: python -m "
        "train.linear_probe runs/mine --data_dir path/to/ptb-xl --output_dir runs/probe --cross_validate",
        allow_abbrev=False,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint folders, or names on the Hub")
    data = parser.add_argument_group("records")
    data.add_argument(
        "--corpus",
        default="ptb_xl",
        metavar="NAME[:FOLDER]",
        help="a corpus with folds, `prepared:FOLDER` of ecg-jepa prepare, or a mapping with the corpus's options as in "
        "a recipe: '{name: ptb_xl, min_likelihood: 50}' (default: ptb_xl)",
    )
    data.add_argument("--data_dir", metavar="FOLDER", help="of the corpus; downloaded if not given")
    data.add_argument("--label_set", metavar="NAME", help="PTB-XL's labels: superdiagnostic if not given")
    data.add_argument("--files", type=int, metavar="HZ", help="PTB-XL's files: 500 or 100 (default: 100)")
    what = parser.add_argument_group("what is fitted and tested")
    what.add_argument(
        "--cross_validate",
        action="store_true",
        help="each of folds 1-8 tested once, the others fitted: for every decision (default)",
    )
    what.add_argument("--confirm", action="store_true", help="folds 1-8 fitted, fold 9 tested: does the choice hold?")
    what.add_argument("--final", action="store_true", help="folds 1-8 fitted, fold 10 tested: once, for the report")
    what.add_argument(
        "--train_fraction",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="SHARE",
        help="the share of its patients that stays in each fitted part, drawn once a seed (default: 1)",
    )
    what.add_argument(
        "--pool", nargs="+", choices=POOLS, default=list(POOLS), help="; ".join(f"{k}: {v}" for k, v in POOLS.items())
    )
    what.add_argument(
        "--layer",
        nargs="+",
        type=_layers,
        default=[(-1,)],
        metavar="N[,N...]",
        help="0 the patch embedding, 1 the first layer, ... -1 the last (default); 2,4 puts two side by side",
    )
    what.add_argument(
        "--baselines",
        nargs="*",
        choices=BASELINES,
        default=list(BASELINES),
        help="what the encoders are compared with (default: all)",
    )
    what.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        metavar="SEED",
        help="of random weights and of --train_fraction's draws; results are means over them (default: 0 1 2)",
    )
    what.add_argument("--resamples", type=int, default=1000, metavar="COUNT", help="for the intervals (default: 1000)")
    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", default="runs/probe", metavar="FOLDER", help="for probe.json, probe.md, probe.png")
    run.add_argument("--cache_dir", metavar="FOLDER", help="for embeddings; in the output folder if not given")
    run.add_argument("--batch_size", type=int, default=32, metavar="COUNT", help="records a forward pass (default: 32)")
    run.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: auto)")
    run.add_argument("--cpu_threads", type=int, metavar="COUNT", help="of the encoder; all cores if not given")
    run.add_argument("--overwrite", action="store_true", help="replace the probe that is in the output folder")
    return parser


def _layers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def read_options(arguments: Sequence[str]) -> ProbeOptions:
    """Options from a command line, spelt with dashes or underscores.

    Raises:
        EcgJepaConfigError: a value that describes no run.
        SystemExit: wrong usage, or after `--help`.
    """
    spelt = [text.replace("-", "_").replace("__", "--", 1) if text.startswith("--") else text for text in arguments]
    given = vars(_parser().parse_args(spelt))
    chosen = [name for name in EVALUATIONS if given.pop(name)]
    corpus = read_corpus(given.pop("corpus"), *(given.pop(name) for name in ("data_dir", "label_set", "files")))
    renamed = {"pool": "pools", "layer": "layers", "train_fraction": "train_fractions"}
    options = {renamed.get(name, name): value for name, value in given.items()}
    return ProbeOptions(corpus=corpus, evaluations=chosen or ["cross_validate"], **options)


def read_corpus(text: str, data_dir: str | None, label_set: str | None, files: int | None) -> CorpusChoice:
    """The corpus of the command line; PTB-XL's label set and files have defaults of their own here.

    Raises:
        EcgJepaConfigError: it names no corpus, or two folders.
    """
    try:
        choice = CorpusChoice.read(yaml.safe_load(text) if text.lstrip().startswith("{") else text)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise EcgJepaConfigError(
            f"--corpus {text}: {error}. Write NAME, NAME:FOLDER or {{name: NAME, ...}}."
        ) from error
    if data_dir and choice.data_dir:
        raise EcgJepaConfigError(f"--data_dir {data_dir} and --corpus {text} name two folders; give one.")
    defaults = {"label_set": "superdiagnostic", "files": 100} if choice.name == "ptb_xl" else {}
    given = {name: value for name, value in (("label_set", label_set), ("files", files)) if value is not None}
    return dataclasses.replace(choice, data_dir=choice.data_dir or data_dir, options=defaults | choice.options | given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 good, 1 error, 2 usage."""
    try:
        options = read_options(sys.argv[1:] if arguments is None else arguments)
    except EcgJepaConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        probe(options)
    except EcgJepaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((Path(options.output_dir) / TABLES).read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
