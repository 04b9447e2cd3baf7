"""The records of measurements: inputs of the model, patients and folds of a corpus, and what was truly measured."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from dataset_scripts.loading import corpus_builder
from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor

from .corpora import HELD_OUT_CORPORA, open_corpus
from .measure_delineator import METHOD, delineate, load_delineator
from .measure_fit import folds_of
from .measure_scores import differences
from .measure_truth import MEASUREMENTS, Truth, from_boundaries, from_synthesis, measure, signal_of
from .metrics import patient_groups
from .options import PREPARED, CorpusChoice
from .probe_records import ProbeRecords, leave_out_duplicates
from .windows import Windows, leave_out_refused

#: Where the truth can come from, in words.
TRUTHS = {
    "boundaries": "waves marked by cardiologists (ludb)",
    "delineator": "waves found by neurokit2 (any corpus; an algorithm's marks)",
    "synthesis": "what synthetic records were made with (synthetic)",
}

#: A measurement that fewer patients have cannot be split again to choose a penalty, and is not evaluated.
FEWEST_PATIENTS = 20

#: Records whose embeddings, and whose delineation, are computed and kept together: what a killed run loses at most.
_BLOCK = 256
_DELINEATED_TOGETHER = 32

#: Raised whenever a rule of measure_truth.py or measure_delineator.py changes, so that nothing old is read back.
_RULES = 1

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class MeasuredRecords:
    """Records with what was measured on them.

    Attributes:
        inputs: what embeddings are made of; its `folds` are blocks of the cache, not those of cross-validation.
        folds: (records,), of cross-validation, from 0; patients stay together.
        source: one of `TRUTHS`.
        truth: of each measurement its value in each record (records,); NaN where it has none.
        undefined: of each measurement, by reason, the ids of the records that have none.
        delineator_beside_marks: where a delineator gave the truth of records that cardiologists marked as well, of
            each measurement the mean absolute difference, the bias, and the records that have both.
    """

    inputs: ProbeRecords
    folds: np.ndarray
    source: str
    truth: dict[str, np.ndarray]
    undefined: dict[str, dict[str, list[str]]]
    delineator_beside_marks: dict[str, dict[str, float]] | None = None

    def with_truth(self, name: str) -> np.ndarray:
        """Places of the records in which a measurement has a value."""
        return np.flatnonzero(np.isfinite(self.truth[name]))

    def evaluated(self) -> list[str]:
        """The measurements that enough patients have; at least one."""
        return [name for name in MEASUREMENTS if self.patients_with(name) >= FEWEST_PATIENTS]

    def patients_with(self, name: str) -> int:
        return len(np.unique(self.inputs.groups[self.with_truth(name)]))


def choose_source(corpus: CorpusChoice, asked: str) -> str:
    """Where the truth of a corpus comes from, if `asked` is "auto".

    Raises:
        EcgJepaConfigError: the corpus cannot give what was asked for.
    """
    own = {"ludb": "boundaries", "synthetic": "synthesis"}.get(corpus.name, "delineator")
    source = own if asked == "auto" else asked
    if source not in (own, "delineator"):
        raise EcgJepaConfigError(
            f"--truth {source}: {corpus.name} has none. Truths: "
            f"{'; '.join(f'{name}: {words}' for name, words in TRUTHS.items())}."
        )
    if source != "synthesis" and corpus.name == PREPARED:
        raise EcgJepaConfigError(
            "Waves are found in the corpus's own leads and rate, which a prepared folder no longer has. Name the "
            "corpus itself: --corpus NAME:FOLDER."
        )
    return source


def load_measured_records(
    corpus: CorpusChoice, extractor: EcgJepaFeatureExtractor, source: str, folds: int, seed: int, cache: Path
) -> MeasuredRecords:
    """Open a corpus for a model and measure its records; of LUDB and synthetic records all, of others their training
    part, so that no test fold is looked at. Of recordings that are the same signal one stays.

    Args:
        source: of `TRUTHS`, as `choose_source` gives it.
        folds: of cross-validation.
        seed: of the draw of patients into folds.
        cache: folder for what the delineator found.

    Raises:
        EcgJepaError: no such corpus or folder, too few records, none that can be measured, or no neurokit2.
    """
    if source == "delineator":
        load_delineator()
    if extractor.modality == "other":
        raise EcgJepaConfigError("The model's channels are no ECG leads, so it has no heart rate or QRS to measure.")
    everything = corpus.name in (*HELD_OUT_CORPORA, "synthetic")
    rows, left_out = open_corpus(dataclasses.replace(corpus, held_out=everything), extractor)
    windows = Windows(rows, extractor, corpus.title)
    left_out += leave_out_refused(windows)
    patients = _column(windows, "patient_id")
    if len(set(patient_groups(patients[windows.usable]))) < folds:
        raise EcgJepaConfigError(
            f"{corpus.title} has {len(windows):,} usable records, too few for {folds} folds of different patients. "
            "Use a larger copy, or fewer --folds."
        )
    by_row = np.full(len(rows), -1)
    by_row[windows.usable] = folds_of(np.array(patient_groups(patients[windows.usable])), folds, seed)
    duplicates = leave_out_duplicates(windows, by_row, quiet=False)
    usable = windows.usable = np.sort(windows.usable)
    inputs = ProbeRecords(
        windows=windows,
        names=[],
        labels=np.zeros((len(usable), 0), dtype=bool),
        ids=_column(windows, "record_id")[usable].tolist(),
        patients=patients[usable].tolist(),
        folds=np.arange(len(usable)) // _BLOCK,
        left_out=left_out,
        duplicates=duplicates,
    )
    truth, undefined = _as_columns(inputs.ids, _measure_all(corpus, inputs, source, cache))
    records = MeasuredRecords(inputs, by_row[usable], source, truth, undefined)
    if source == "delineator" and corpus.name == "ludb":
        marked, _ = _as_columns(inputs.ids, _measure_all(corpus, inputs, "boundaries", cache))
        records = dataclasses.replace(records, delineator_beside_marks=_beside_marks(truth, marked))
    _require_some(records, corpus)
    return records


def _column(windows: Windows, name: str) -> np.ndarray:
    column = windows.rows.column(name)
    values = np.full(len(windows.rows), None, dtype=object)
    if column is not None:
        values[:] = column.to_pylist()
    return values


def _as_columns(
    ids: list[str], measured: Mapping[str, Truth]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, list[str]]]]:
    truth, undefined = {}, {}
    for name in MEASUREMENTS:
        reasons: dict[str, list[str]] = collections.defaultdict(list)
        values = np.full(len(ids), np.nan)
        for place, record in enumerate(ids):
            value = measured[record][name]
            if isinstance(value, str):
                reasons[value].append(record)
            elif np.isfinite(value):
                values[place] = value
            else:
                reasons["samples are missing where it is measured"].append(record)
        truth[name], undefined[name] = values, dict(reasons)
    return truth, undefined


def _beside_marks(found: Mapping[str, np.ndarray], marked: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    beside = {}
    for name, measurement in MEASUREMENTS.items():
        both = np.isfinite(found[name]) & np.isfinite(marked[name])
        apart = differences(found[name][both], marked[name][both], measurement.circular)
        if len(apart):
            means = {"mae": float(np.abs(apart).mean()), "bias": float(apart.mean())}
            beside[name] = {"records": len(apart), **{key: round(value, 3) for key, value in means.items()}}
    return beside


def _require_some(records: MeasuredRecords, corpus: CorpusChoice) -> None:
    if records.evaluated():
        return
    counts = ", ".join(f"{MEASUREMENTS[name].title} {records.patients_with(name):,}" for name in MEASUREMENTS)
    raise EcgJepaConfigError(
        f"{corpus.title}: no measurement is known of at least {FEWEST_PATIENTS} patients ({counts}; "
        f"{len(records.folds):,} records). Use a larger copy, or another --truth."
    )


# The truth of each record ---------------------------------------------------------------------------------------------


def _measure_all(corpus: CorpusChoice, inputs: ProbeRecords, source: str, cache: Path) -> dict[str, Truth]:
    if source == "synthesis":
        return _from_columns(inputs)
    extractor = inputs.windows.extractor
    seconds = extractor.num_patches * extractor.patch_size / extractor.sampling_rate
    rows = _native_rows(corpus, seconds, set(inputs.ids))
    if source == "boundaries":
        bar = tqdm(rows, desc="measuring marked waves")
        return {row["record_id"]: from_boundaries(row) for row in bar}
    return _delineate_all(rows, cache)


def _native_rows(corpus: CorpusChoice, seconds: float, ids: set[str]) -> datasets.Dataset:
    """The corpus in its own leads and at its own rate: the seconds that the model sees."""
    name, _, config = corpus.name.partition("/")
    named = {"config_name": config} if config else {}
    builder = corpus_builder(name, data_dir=corpus.data_dir, seconds=seconds, **named, **corpus.options)
    builder.download_and_prepare()
    rows = datasets.concatenate_datasets(list(builder.as_dataset().values()))
    return rows.select([place for place, name in enumerate(rows["record_id"]) if name in ids])


def _from_columns(inputs: ProbeRecords) -> dict[str, Truth]:
    names = ("heart_rate", "pr_ms", "qrs_ms", "qt_ms", "axis_degrees")
    columns = {name: inputs.windows.rows.column(name) for name in names}
    if None in columns.values():
        raise EcgJepaConfigError(f"{inputs.windows.corpus} holds no synthetic records: it lacks {', '.join(names)}.")
    values = {name: column.take(inputs.windows.usable).to_pylist() for name, column in columns.items()}
    rows = (dict(zip(names, row, strict=True)) for row in zip(*values.values(), strict=True))
    return {record: from_synthesis(row) for record, row in zip(inputs.ids, rows, strict=True)}


def _delineate_all(rows: datasets.Dataset, cache: Path) -> dict[str, Truth]:
    """Measurements by the delineator, read where a run has left them: some 0.2 s a record."""
    measured: dict[str, Truth] = {}
    with tqdm(total=len(rows), desc="delineating") as bar:
        for start in range(0, len(rows), _DELINEATED_TOGETHER):
            some = list(rows.select(range(start, min(start + _DELINEATED_TOGETHER, len(rows)))))
            measured |= _kept(cache, some, lambda some: {row["record_id"]: _by_delineator(row) for row in some})
            bar.update(len(some))
    return measured


def _by_delineator(row: Row) -> Truth:
    signal = signal_of(row)
    return measure(delineate(signal, row["sampling_rate"]), signal, row["sampling_rate"])


def _kept(cache: Path, rows: list[Row], compute: Callable[[list[Row]], dict[str, Truth]]) -> dict[str, Truth]:
    digest = hashlib.sha256(json.dumps([_RULES, METHOD, load_delineator().__version__]).encode())
    for part in _identity(rows):
        digest.update(part)
    file = cache / f"delineated-{digest.hexdigest()[:16]}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    found = compute(rows)
    cache.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as unfinished:
        unfinished.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found


def _identity(rows: Iterable[Row]) -> Iterator[bytes]:
    for row in rows:
        yield json.dumps([row[name] for name in ("record_id", "sampling_rate", "signal_scale", "lead_names")]).encode()
        yield np.asarray(row["signal"], np.int16).tobytes()
