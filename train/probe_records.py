"""The records of a linear probe: labels, patients and folds of a corpus, each signal once; who is fitted on whom."""

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch

from dataset_scripts.leakage import DuplicatePair, check_leakage
from dataset_scripts.recordings import Recording
from dataset_scripts.records import EcgRecord
from dataset_scripts.skipped import SkippedRecord
from dataset_scripts.splits import SPLITS, SplitManifest
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor
from modeling_ecg_jepa.collator_ecg_jepa import MISSING_COUNT

from .corpora import open_parts
from .metrics import patient_groups
from .options import CorpusChoice
from .subgroups import read_subgroups
from .windows import PreparedRows, Windows, leave_out_refused

#: PTB-XL's folds: cross-validated and fitted, chosen on, tested once (Wagner et al., Sci Data 7:154 (2020)).
FITTED_FOLDS, VALIDATION_FOLD, TEST_FOLD = tuple(range(1, 9)), 9, 10

#: Where the records of another corpus stand, which are tested and never fitted (transfer.py).
OTHER_CORPUS_FOLD = 11

#: Evaluation -> the folds that it tests. What is tested outside `FITTED_FOLDS` is fitted on all of them.
EVALUATIONS = {
    "cross_validate": FITTED_FOLDS,
    "confirm": (VALIDATION_FOLD,),
    "final": (TEST_FOLD,),
    "transfer": (OTHER_CORPUS_FOLD,),
}

#: Fewer patients than this cannot be split once more to choose a penalty or a number of epochs.
FEWEST_PATIENTS = 20


@dataclass(frozen=True, eq=False)
class ProbeRecords:
    """Records with labels, patients and folds, ordered by fold.

    Attributes:
        windows: the model's inputs; all arrays below have one entry a record of it.
        names: of the classes.
        labels: (records, classes) boolean.
        ids, patients: as the corpus has them; an unknown patient is None.
        folds: (records,).
        left_out: records that could not be read or have no label, with the reasons.
        duplicates: pairs of one signal, of which the second was left out.
        subgroups: of each way to divide the records, the group of each.
    """

    windows: Windows
    names: list[str]
    labels: np.ndarray
    ids: list[str]
    patients: list[str | None]
    folds: np.ndarray
    left_out: list[SkippedRecord]
    duplicates: list[DuplicatePair]
    subgroups: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def groups(self) -> np.ndarray:
        """What stays together when records are drawn or split: the patient, or the record of an unknown one."""
        return np.array(patient_groups(self.patients))

    def fold_counts(self) -> dict[int, int]:
        folds, counts = np.unique(self.folds, return_counts=True)
        return dict(zip(folds.tolist(), counts.tolist(), strict=True))

    def manifest(self, corpus: str) -> SplitManifest:
        """Which record is in which fold, with a hash."""
        folds = {f"fold {fold}": [self.ids[place] for place in self.of_fold(fold)] for fold in self.fold_counts()}
        return SplitManifest.of(corpus, "", folds)

    def of_fold(self, fold: int) -> np.ndarray:
        """Places of its records."""
        return np.flatnonzero(self.folds == fold)

    def part_sha256(self, part: "Part") -> str:
        """Over ids, labels and signals of the records that a part fits and tests."""
        digest = hashlib.sha256()
        for places in (part.fitted, part.tested):
            digest.update("\n".join(self.ids[place] for place in places).encode())
            digest.update(self.labels[places].tobytes())
            for fold in np.unique(self.folds[places]).tolist():
                digest.update(self.signals_sha256[fold].encode())
        return digest.hexdigest()

    @functools.cached_property
    def signals_sha256(self) -> dict[int, str]:
        """Of each fold, over its ids and prepared signals."""
        return {fold: self._signals_sha256(self.of_fold(fold)) for fold in self.fold_counts()}

    def _signals_sha256(self, places: np.ndarray) -> str:
        digest = hashlib.sha256("\n".join(self.ids[place] for place in places).encode())
        if isinstance(self.windows, SeenLeads):
            digest.update(json.dumps(self.windows.leads).encode())
        for some in np.array_split(places, 1 + len(places) // 256):
            for array in self.windows.rows.read(self.windows.usable[some]):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def take(self, places: np.ndarray) -> "ProbeRecords":
        """Some of the records, in ascending order of their places."""
        windows = copy.copy(self.windows)
        windows.usable = windows.usable[places]
        return dataclasses.replace(
            self,
            windows=windows,
            labels=self.labels[places],
            ids=[self.ids[place] for place in places],
            patients=[self.patients[place] for place in places],
            folds=self.folds[places],
            subgroups={name: groups[places] for name, groups in self.subgroups.items()},
        )

    def seen_in(self, leads: Sequence[str]) -> "ProbeRecords":
        """The records with some leads only, for encoder, statistics and network alike; those without a signal in any of
        them are left out.

        Raises:
            EcgJepaConfigError: the model has no such lead, or no record has these.
        """
        windows = SeenLeads(self.windows, leads)
        there = [
            windows.__getitems__(some)["lead_mask"].any(1).numpy()
            for some in np.array_split(np.arange(len(self.ids)), 1 + len(self.ids) // 256)
        ]
        places = np.flatnonzero(np.concatenate(there))
        if not len(places):
            raise EcgJepaConfigError(f"{self.windows.corpus}: no record has a signal in {', '.join(leads)}.")
        reason = f"no signal in {', '.join(leads)}"
        without = [SkippedRecord(self.ids[place], reason, reason) for place in set(range(len(self.ids))) - set(places)]
        return dataclasses.replace(self, windows=windows, left_out=self.left_out + without).take(places)


class SeenLeads(Windows):
    """Windows of which a model is given some leads only.

    Raises:
        EcgJepaConfigError: the model has no such lead.
    """

    def __init__(self, windows: Windows, leads: Sequence[str]):
        super().__init__(windows.rows, windows.extractor, windows.corpus)
        self.usable, self.leads, self.places = windows.usable, list(leads), lead_places(windows.extractor, leads)

    def __getitems__(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """As of `Windows`, with fewer leads, and as `leads` which they are."""
        batch = super().__getitems__(places)
        fewer = {name: batch[name][:, self.places] for name in ("input_values", "lead_mask")}
        return batch | fewer | {"leads": torch.tensor(self.places)}


def lead_places(extractor: EcgJepaFeatureExtractor, leads: Sequence[str]) -> list[int]:
    """
    Raises:
        EcgJepaConfigError: the model has no such lead.
    """
    absent = [lead for lead in leads if lead not in extractor.leads]
    if absent:
        raise EcgJepaConfigError(f"leads={list(leads)!r}: the model has only {', '.join(extractor.leads)}.")
    return [list(extractor.leads).index(lead) for lead in leads]


def load_probe_records(
    choice: CorpusChoice,
    extractor: EcgJepaFeatureExtractor,
    folds: Sequence[int],
    quiet: bool = False,
    subgroups: Sequence[str] = (),
) -> ProbeRecords:
    """Open a corpus, keep some folds of it, and of recordings that are the same signal keep one: that of the lowest
    fold, so that nothing is tested that was fitted, or seen in pretraining, under another id.

    Args:
        subgroups: how results will be divided: columns of the corpus, such as age or sex.

    Raises:
        EcgJepaError: no such corpus or folder, no labels of a set, no folds, no usable record, no column of a subgroup,
            or a patient in several folds.
    """
    rows, parts, left_out = open_parts(choice, extractor, SPLITS)
    names, labels = read_labels(rows, choice.title)
    all_folds = read_folds(rows, parts, choice.title)
    divided = read_subgroups(rows, subgroups, choice.title)
    windows = Windows(rows, extractor, choice.title)
    left_out += leave_out_refused(windows, quiet=quiet)
    wanted = windows.usable[np.isin(all_folds[windows.usable], folds)]
    windows.usable = wanted[np.argsort(all_folds[wanted], kind="stable")]
    if not len(windows):
        there = ", ".join(map(str, np.unique(all_folds))) or "no fold"
        raise EcgJepaConfigError(
            f"{choice.title} has no usable record in the folds {', '.join(map(str, folds))}; it has {there}."
        )
    duplicates = leave_out_duplicates(windows, all_folds, quiet)
    usable = windows.usable
    columns = {name: windows.rows.column(name) for name in ("record_id", "patient_id")}
    return ProbeRecords(
        windows=windows,
        names=names,
        labels=labels[usable],
        ids=columns["record_id"].take(usable).to_pylist(),
        patients=columns["patient_id"].take(usable).to_pylist()
        if columns["patient_id"] is not None
        else [None] * len(usable),
        folds=all_folds[usable],
        left_out=left_out,
        duplicates=duplicates,
        subgroups={name: of_rows[usable] for name, of_rows in divided.items()},
    )


def read_labels(rows: PreparedRows, title: str) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and (rows, classes) which of them hold.

    Raises:
        EcgJepaConfigError: the corpus tells of no classes.
    """
    features = datasets.Features.from_arrow_schema(rows.schema)
    names = getattr(getattr(features.get("labels"), "feature", None), "names", None)
    if not names:
        raise EcgJepaConfigError(f"{title} has no labels of known classes, so there is nothing to probe for.")
    labels = np.zeros((len(rows), len(names)), dtype=bool)
    for row, classes in zip(labels, rows.column("labels").to_pylist(), strict=True):
        row[classes or []] = True  # labels that are missing hold none
    return list(names), labels


def read_folds(rows: PreparedRows, parts: np.ndarray, title: str) -> np.ndarray:
    """The fold of each row: the corpus's own, or 9 and 10 for its validation and test parts and 1 to 8, by a hash of
    the patient, for its training part.

    Raises:
        EcgJepaConfigError: the corpus has neither folds nor these parts.
    """
    folds = rows.column("fold")
    if folds is not None and not folds.null_count:
        return folds.to_numpy()
    if set(parts.tolist()) != set(SPLITS):
        raise EcgJepaConfigError(
            f"{title} has records without a fold. The probe needs folds as PTB-XL has them (1 to 8 to fit and to "
            "cross-validate, 9 to confirm, 10 to test), or all of the parts train, validation and test: --corpus "
            "ptb_xl, or prepare a corpus with the column `fold`."
        )
    ids, patients = (rows.column(name).to_pylist() for name in ("record_id", "patient_id"))
    drawn = np.array([_hashed_fold(patient or name) for name, patient in zip(ids, patients, strict=True)])
    return np.where(parts == SPLITS[0], drawn, np.where(parts == SPLITS[1], VALIDATION_FOLD, TEST_FOLD))


def _hashed_fold(patient: str) -> int:
    return FITTED_FOLDS[hashlib.sha256(f"fold of {patient}".encode()).digest()[0] % len(FITTED_FOLDS)]


# The same signal twice ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowRecording(Recording):
    """A prepared row as a recording that can be compared with others."""

    windows: Windows = field(compare=False, repr=False)
    row: int

    @property
    def place(self) -> str:
        return f"{self.windows.corpus}, row {self.row}"

    def read(self) -> EcgRecord:
        counts, scales = self.windows.rows.read(np.array([self.row]))
        signal = np.where(counts == MISSING_COUNT, np.nan, counts * scales[:, None]).reshape(self.windows.shape)
        extractor = self.windows.extractor
        return EcgRecord(
            signal.astype(np.float32), extractor.sampling_rate, tuple(extractor.leads), record_id=self.record_id
        )


def leave_out_duplicates(windows: Windows, folds: np.ndarray, quiet: bool, unit: str = "fold ") -> list[DuplicatePair]:
    """Drop from `windows.usable`, of recordings that are the same signal, all but that of the lowest fold.

    Args:
        folds: of each row of `windows.rows`.
        unit: before a fold in messages.

    Raises:
        EcgJepaConfigError: a patient in several folds.
    """
    ids, patients = (windows.rows.column(name) for name in ("record_id", "patient_id"))
    recordings = [
        RowRecording(
            corpus=windows.corpus,
            record_id=ids[row].as_py(),
            split=f"{unit}{folds[row]}",
            patient_id=patients[row].as_py() if patients else None,
            windows=windows,
            row=row,
        )
        for row in windows.usable.tolist()
    ]
    report = check_leakage(recordings, progress=not quiet)
    if report.patients:
        patient = report.patients[0]
        places = ", ".join(str(split) for _, split in patient.counts)
        raise EcgJepaConfigError(
            f"{windows.corpus}: {len(report.patients):,} patients are in several folds, such as {patient.patient_id!r} "
            f"in {places}: what is fitted on one fold would be tested on the same hearts. Give each patient one fold."
        )
    windows.usable = np.setdiff1d(windows.usable, [pair.second.row for pair in report.pairs], assume_unique=True)
    windows.usable = windows.usable[np.argsort(folds[windows.usable], kind="stable")]
    return report.pairs


# Who is fitted, who is tested -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Part:
    """One fold that is tested, and what a probe for it is fitted on: places of records."""

    fold: int
    fitted: np.ndarray
    tested: np.ndarray


def parts_of(records: ProbeRecords, evaluation: str, fraction: float = 1.0, seed: int = 0) -> list[Part]:
    """The parts of an evaluation: in cross-validation each of folds 1 to 8 is tested once and the others are fitted.

    Args:
        evaluation: one of `EVALUATIONS`.
        fraction: the share of its patients that stays in each fitted part, drawn at random; the labels play no role.
        seed: of this draw.

    Raises:
        EcgJepaConfigError: too few folds or patients.
    """
    parts = []
    for fold in EVALUATIONS[evaluation]:
        tested = records.of_fold(fold)
        if len(tested):
            fitted = np.flatnonzero(np.isin(records.folds, FITTED_FOLDS) & (records.folds != fold))
            parts.append(Part(fold, draw_patients(records.groups, fitted, fraction, (seed, fold)), tested))
    if not parts or not len(parts[0].fitted):
        counts = ", ".join(f"{fold}: {count}" for fold, count in records.fold_counts().items())
        raise EcgJepaConfigError(
            f"--{evaluation} tests fold {' and '.join(map(str, EVALUATIONS[evaluation]))} and fits the others of 1 to "
            f"8, but the records by fold are {counts}. Use a copy that holds more folds."
        )
    fewest = min(parts, key=lambda part: len(np.unique(records.groups[part.fitted])))
    patients = len(np.unique(records.groups[fewest.fitted]))
    if patients < FEWEST_PATIENTS:
        raise EcgJepaConfigError(
            f"Only {patients} patients are left to fit on when fold {fewest.fold} is tested (train_fraction="
            f"{fraction:g}); at least {FEWEST_PATIENTS} are needed to choose a penalty among them. Use a larger copy "
            "of the corpus or a larger fraction."
        )
    return parts


def draw_patients(groups: np.ndarray, places: np.ndarray, fraction: float, seed: Sequence[int]) -> np.ndarray:
    """Those of `places` whose patient is among a random share of the patients there."""
    if fraction == 1.0:
        return places
    there = np.unique(groups[places])
    drawn = np.random.default_rng(seed).permutation(there)[: round(fraction * len(there))]
    return places[np.isin(groups[places], drawn)]


def inner_splits(groups: np.ndarray, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places fitted and places validated, each patient validated once: how a fitted part is split for its choices."""
    there, of_record = np.unique(groups, return_inverse=True)
    part = np.random.default_rng(seed).permutation(len(there)) % count
    for number in range(count):
        yield np.flatnonzero(part[of_record] != number), np.flatnonzero(part[of_record] == number)


def label_counts(records: ProbeRecords) -> list[dict[str, Any]]:
    """Of each class the records that have it, in all and by fold."""
    return [
        {
            "name": name,
            "records": int(records.labels[:, place].sum()),
            "by_fold": {
                str(fold): int(records.labels[records.of_fold(fold), place].sum()) for fold in records.fold_counts()
            },
        }
        for place, name in enumerate(records.names)
    ]
