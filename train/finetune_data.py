"""The records of fine-tuning: parts, labels or measurements, patients; who is left out and why; and their batches."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from dataset_scripts.leakage import DuplicatePair
from dataset_scripts.skipped import SkippedRecord
from dataset_scripts.splits import SPLITS, SplitManifest
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor
from modeling_ecg_jepa.resampling_ecg_jepa import bandpass

from .augmentations import RandAugment
from .corpora import open_parts
from .finetune_options import FinetuneOptions
from .metrics import outcomes, patient_groups
from .probe_records import (
    FITTED_FOLDS,
    TEST_FOLD,
    VALIDATION_FOLD,
    draw_patients,
    lead_places,
    leave_out_duplicates,
    read_labels,
)
from .schedules import mixed_seed
from .windows import PreparedRows, Windows, leave_out_refused

TRAIN, VALIDATION, TEST = SPLITS

#: The share of the training part's patients that is validated on where a corpus has no validation part.
VALIDATION_SHARE = 0.1

#: The most that rare classes are made to weigh, in positives.
GREATEST_WEIGHT = 20.0

#: Rows read at once.
_BLOCK = 256


@dataclass(frozen=True)
class Targets:
    """What is to be predicted.

    Attributes:
        problem: of `finetune_options.PROBLEMS`.
        names: of classes or measurements.
        units: of measurements, "" where unknown.
        values: (rows, names) float32: 1 where a class holds; measurements, NaN where unknown.
        missing: (rows,) in words why a row cannot be used, "" where it can.
    """

    problem: str
    names: list[str]
    units: list[str]
    values: np.ndarray
    missing: np.ndarray


@dataclass(frozen=True, eq=False)
class FinetuneRecords:
    """Usable records; all arrays have one entry a record of `windows`.

    Attributes:
        targets: of these records.
        ids, patients: as the corpus has them; an unknown patient is None.
        parts: "train", "validation" or "test".
        left_out: records that cannot be used, with the reasons.
        duplicates: pairs of one signal, of which the second was left out.
        notes: what to know of the records before their numbers are believed.
    """

    windows: Windows
    targets: Targets
    ids: list[str]
    patients: list[str | None]
    parts: np.ndarray
    left_out: list[SkippedRecord]
    duplicates: list[DuplicatePair]
    notes: list[str]

    def of_part(self, part: str) -> np.ndarray:
        """Places of its records."""
        return np.flatnonzero(self.parts == part)

    def patients_of(self, part: str) -> list[str | None]:
        return [self.patients[place] for place in self.of_part(part)]

    def values_of(self, part: str) -> np.ndarray:
        return self.targets.values[self.of_part(part)]

    def describe(self) -> dict[str, Any]:
        """Counts, the hash of the parts, and what was left out and why, for `results.json`."""
        parts = [part for part in SPLITS if len(self.of_part(part))]
        ids = {part: [self.ids[place] for place in self.of_part(part)] for part in parts}
        return {
            "records": {part: len(ids[part]) for part in parts},
            "patients": {part: len(set(patient_groups(self.patients_of(part)))) for part in parts},
            "splits_sha256": SplitManifest.of(self.windows.corpus, "", ids).sha256,
            "labels": [
                {"name": name, **{part: self._count(part, place) for part in parts}}
                for place, name in enumerate(self.targets.names)
            ],
            "left_out": dict(collections.Counter(record.reason for record in self.left_out)),
            "unusable_records": sum(not record.by_choice for record in self.left_out),
            "exclusions": [
                {"record": pair.second.record_id, "of": pair.second.split, "same_signal_as": pair.first.record_id}
                for pair in self.duplicates
            ],
            "notes": self.notes,
        }

    def _count(self, part: str, place: int) -> int:
        """Records that have a class, or whose measurement is known."""
        values = self.values_of(part)[:, place]
        return int((~np.isnan(values) if self.targets.problem == "regression" else values > 0).sum())


def load_records(options: FinetuneOptions, extractor: EcgJepaFeatureExtractor, quiet: bool = False) -> FinetuneRecords:
    """Open a corpus, keep its training and validation parts (and with `options.test` the test part, of which otherwise
    no signal is read), and leave out what cannot be used.

    Args:
        extractor: the model's grid.

    Raises:
        EcgJepaError: no such corpus or folder, no labels, or too few records or patients for what is asked.
    """
    wanted = SPLITS if options.test else SPLITS[:2]
    choice = options.corpus_choice()
    rows, parts, left_out = open_parts(choice, extractor, wanted)
    parts = _by_folds(rows, parts)
    targets = read_targets(options, rows, choice.title)
    plain = type(extractor).from_dict({**extractor.to_dict(), "bandpass": None})  # batches are filtered as a whole
    windows = Windows(rows, plain, choice.title)
    chosen = np.isin(parts, wanted)
    left_out += [
        SkippedRecord(f"{choice.title} {windows.record_id(row)}", targets.missing[row], targets.missing[row])
        for row in np.flatnonzero(chosen & (targets.missing != ""))
    ]
    windows.usable = np.flatnonzero(chosen & (targets.missing == ""))
    left_out += leave_out_refused(windows, num_workers=options.num_workers, quiet=quiet)
    left_out += leave_out_without_leads(windows, options.lead_names())
    notes = []
    if not (parts[windows.usable] == VALIDATION).any():
        parts = _draw_validation(windows, parts, options.seed)
        notes.append(
            f"The corpus has no validation part: {VALIDATION_SHARE:.0%} of the training part's patients are it."
        )
    windows.usable = np.concatenate([windows.usable[parts[windows.usable] == part] for part in SPLITS])
    duplicates = leave_out_duplicates(windows, parts, quiet, unit="")
    _draw_fraction(windows, parts, options)
    usable = windows.usable
    records = FinetuneRecords(
        windows=windows,
        targets=dataclasses.replace(targets, values=targets.values[usable], missing=targets.missing[usable]),
        ids=[windows.record_id(row) for row in usable],
        patients=_patients(rows, usable),
        parts=parts[usable],
        left_out=left_out,
        duplicates=duplicates,
        notes=notes,
    )
    check_records(records, options)
    return records


def _by_folds(rows: PreparedRows, parts: np.ndarray) -> np.ndarray:
    """The parts by the column `fold` where all rows are in one part but have the folds of PTB-XL."""
    column = rows.column("fold")
    if set(parts) != {TRAIN} or column is None or column.null_count:
        return parts
    folds = column.to_numpy()
    if not np.isin((VALIDATION_FOLD, TEST_FOLD), folds).any():
        return parts
    named = {**dict.fromkeys(FITTED_FOLDS, TRAIN), VALIDATION_FOLD: VALIDATION, TEST_FOLD: TEST}
    return np.array([named.get(fold, "") for fold in folds.tolist()])


def _patients(rows: PreparedRows, places: np.ndarray) -> list[str | None]:
    column = rows.column("patient_id")
    return [None] * len(places) if column is None else column.take(places).to_pylist()


def _draw_validation(windows: Windows, parts: np.ndarray, seed: int) -> np.ndarray:
    training = windows.usable[parts[windows.usable] == TRAIN]
    groups = np.array(patient_groups(_patients(windows.rows, training)))
    drawn = draw_patients(groups, np.arange(len(groups)), VALIDATION_SHARE, (seed, 1))
    parts = parts.astype(object)
    parts[training[drawn]] = VALIDATION
    return parts.astype(str)


def _draw_fraction(windows: Windows, parts: np.ndarray, options: FinetuneOptions) -> None:
    of_part = parts[windows.usable]
    groups = np.array(patient_groups(_patients(windows.rows, windows.usable)))
    training = draw_patients(groups, np.flatnonzero(of_part == TRAIN), options.train_fraction, (options.seed, 0))
    windows.usable = windows.usable[np.sort(np.concatenate([training, np.flatnonzero(of_part != TRAIN)]))]


def leave_out_without_leads(windows: Windows, leads: Sequence[str] | None) -> list[SkippedRecord]:
    """Drop from `windows.usable` the records of which none of some leads has a signal.

    Raises:
        EcgJepaConfigError: the model has no such lead.
    """
    if leads is None:
        return []
    places = lead_places(windows.extractor, leads)
    without = np.concatenate(
        [
            rows[~windows.ready(*windows.rows.read(rows))["lead_mask"][:, places].any(1)]
            for rows in _blocks(windows.usable)
        ]
    )
    windows.usable = np.setdiff1d(windows.usable, without)
    reason = f"no signal in {', '.join(leads)}"
    return [SkippedRecord(f"{windows.corpus} {windows.record_id(row)}", reason, reason) for row in without]


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, max(len(rows), 1), _BLOCK):
        yield rows[start : start + _BLOCK]


# Labels and measurements ----------------------------------------------------------------------------------------------


def read_targets(options: FinetuneOptions, rows: PreparedRows, title: str) -> Targets:
    """What the rows are to be predicted, all rows.

    Raises:
        EcgJepaConfigError: no labels, no such column, or one that holds no numbers.
    """
    if options.problem == "regression":
        return _read_measurements(options.targets or [], rows, title)
    names, labels = read_labels(rows, title)
    column = rows.column("labels")
    missing = np.where(column.is_null().to_numpy(), "labels missing", "").astype(object)
    if options.problem == "single_label":
        missing[(missing == "") & (labels.sum(1) != 1)] = "not exactly one label"
    return Targets(options.problem, names, [""] * len(names), labels.astype(np.float32), missing)


def _read_measurements(targets: Sequence[str], rows: PreparedRows, title: str) -> Targets:
    names, _, units = zip(*(target.partition(":") for target in targets), strict=True)
    columns = []
    for name in names:
        column = rows.column(name)
        kind = None if column is None else column.type
        if kind is None or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            numeric = [
                field.name
                for field in rows.schema
                if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
            ]
            raise EcgJepaConfigError(
                f"{title} has no numeric column {name!r}; it has {', '.join(numeric)}. Name one of them in --targets."
            )
        columns.append(column.to_numpy(zero_copy_only=False).astype(np.float32))
    values = np.stack(columns, axis=1)
    values[np.isinf(values)] = np.nan
    missing = np.where(np.isnan(values).all(1), "no measurement", "").astype(object)
    return Targets("regression", list(names), list(units), values, missing)


def check_records(records: FinetuneRecords, options: FinetuneOptions) -> None:
    """Refuse what no number could be trusted of, and note what is to be known of those that there will be.

    Raises:
        EcgJepaConfigError: a part without records or of one patient, fewer records than classes, or nothing to learn
            or to measure.
    """
    title, names = records.windows.corpus, records.targets.names
    for part in SPLITS if options.test else SPLITS[:2]:
        count = len(records.of_part(part))
        patients = len(set(patient_groups(records.patients_of(part))))
        if patients < 2:
            held = "no usable record" if not count else f"{count:,} usable records of a single patient"
            raise EcgJepaConfigError(
                f"{title}: its {part} part has {held} (train_fraction={options.train_fraction:g}), too few to learn or "
                "to measure anything of others. Use a larger copy, other parts, or a larger fraction."
            )
    training = len(records.of_part(TRAIN))
    if options.problem != "regression" and training < len(names):
        raise EcgJepaConfigError(
            f"{title}: {training:,} training records (train_fraction={options.train_fraction:g}) are fewer than the "
            f"{len(names)} classes. Use a larger fraction, or a smaller --label_set."
        )
    for part in np.unique(records.parts).tolist():
        _note_undefined(records, part)


def _note_undefined(records: FinetuneRecords, part: str) -> None:
    """
    Raises:
        EcgJepaConfigError: nothing is defined in this part.
    """
    values, names, count = records.values_of(part), records.targets.names, len(records.of_part(part))
    if records.targets.problem == "regression":
        undefined = [name for name, column in zip(names, values.T, strict=True) if np.isnan(column).all()]
        what, consequence = "is known of no record", "it is not measured"
    else:
        of_part = outcomes(values > 0, names)
        undefined = [f"{each.name} ({each.positives:,} of {count:,})" for each in of_part if not each.defined]
        what = "holds for none or for all of the records"
        consequence = "it cannot be learned" if part == TRAIN else "it is left out of the means"
    if len(undefined) == len(names):
        raise EcgJepaConfigError(
            f"{records.windows.corpus}: in the {part} part each of {', '.join(undefined)} {what}, so there is nothing "
            f"to {'learn' if part == TRAIN else 'measure'}. Use other labels or a larger copy of the corpus."
        )
    if undefined:
        records.notes.append(f"In the {part} part {', '.join(undefined)} {what}: {consequence}.")


def class_weights(records: FinetuneRecords) -> np.ndarray:
    """How much the records of each class weigh, (classes,): records without it over those with it, at most
    `GREATEST_WEIGHT`; for a single label in inverse proportion to the classes' records, 1 on average over the records.
    A class that no training record has weighs 1."""
    values = records.values_of(TRAIN)
    with_it = np.maximum(values.sum(0), 1)
    weights = (len(values) - with_it) / with_it
    if records.targets.problem == "single_label":
        weights = len(values) / (with_it * (values.sum(0) > 0).sum())
    return np.where(values.sum(0) > 0, np.clip(weights, 1 / GREATEST_WEIGHT, GREATEST_WEIGHT), 1.0)


# Batches --------------------------------------------------------------------------------------------------------------


class FinetuneDataset(Dataset):
    """Batches of a part as the model takes them: filtered, the chosen leads only, augmented anew in every epoch.

    The augmentations of a batch follow from seed, epoch and records, so that a run that goes on draws the same.

    Args:
        places: of the records.
        band: edges of the band-pass in Hz; None leaves the signals as they are.
        leads: places of the leads that are seen; None for all.
    """

    def __init__(
        self,
        records: FinetuneRecords,
        places: np.ndarray,
        band: tuple[float, float] | None,
        leads: Sequence[int] | None = None,
        augment: RandAugment | None = None,
        seed: int = 0,
    ):
        self.records, self.places, self.band, self.leads = records, places, band, leads
        self.augment, self.seed, self.epoch = augment, seed, 0

    def __len__(self) -> int:
        return len(self.places)

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate's loader."""
        self.epoch = epoch

    def __getitems__(self, items: Sequence[int]) -> dict[str, torch.Tensor]:
        """A whole batch, so that the loader's `collate_fn` is `as_it_is`; `record` has the places of its records."""
        places = self.places[np.asarray(items)]
        batch = self.records.windows.__getitems__(places)
        if self.leads is not None:
            batch |= {name: batch[name][:, self.leads] for name in ("input_values", "lead_mask")}
        if self.band is not None:
            rate = self.records.windows.extractor.sampling_rate
            filtered = bandpass(batch["input_values"].numpy(), self.band, rate)
            batch["input_values"] = torch.from_numpy(filtered.astype(np.float32))
        if self.augment is not None:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch, *places.tolist()))
            batch["input_values"] = self.augment(batch["input_values"], generator)
        return batch | {"labels": self._labels(places), "record": torch.from_numpy(places)}

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        return {name: array[0] for name, array in self.__getitems__([item]).items()}

    def _labels(self, places: np.ndarray) -> torch.Tensor:
        targets = self.records.targets
        values = targets.values[places]
        return torch.from_numpy(values.argmax(1) if targets.problem == "single_label" else values)
