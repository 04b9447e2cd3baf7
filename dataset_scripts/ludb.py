"""LUDB 1.0.1: 200 records of 10 s of 200 people, 12 leads at 500 Hz, with the P, QRS and T waves marked a lead."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import wfdb

from dataset_scripts.corpus import About, CorpusEntry, EcgCorpus, ListOf
from dataset_scripts.download import PhysioNet
from dataset_scripts.records import EcgRecord
from dataset_scripts.tables import number, read_table
from dataset_scripts.wfdb_header import refuse_lfs_pointer
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import KNOWN_LEADS

TABLE = "ludb.csv"

#: The rhythms of the corpus's README, in its order; every record has exactly one.
RHYTHMS = (
    "Sinus rhythm",
    "Sinus tachycardia",
    "Sinus bradycardia",
    "Sinus arrhythmia",
    "Irregular sinus rhythm",
    "Atrial fibrillation",
    "Atrial flutter, typical",
)

# Column of the table -> ours; a field holds one statement a line.
_STATEMENTS = {
    "Conduction abnormalities": "conduction_abnormalities",
    "Extrasystolies": "extrasystoles",
    "Hypertrophies": "hypertrophies",
    "Cardiac pacing": "pacing",
    "Ischemia": "ischemia",
    "Non-specific repolarization abnormalities": "repolarization_abnormalities",
    "Other states": "other_states",
}
_AXIS = "Electric axis of the heart"
_COLUMNS = ("ID", "Sex", "Age", "Rhythms", _AXIS, *_STATEMENTS)
_SEXES = {"M": "male", "F": "female"}

#: Symbol of a peak in the annotation files -> wave.
_PEAKS = {"p": "P", "N": "QRS", "t": "T"}

#: The largest file of the corpus has some 400 bytes.
_LARGEST_ANNOTATION = 2**16

# What the wfdb library raises on a file that is no annotation.
_LIBRARY_ERRORS = (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, OSError)


class Wave(NamedTuple):
    """A wave in one lead; samples, None where it is not marked."""

    kind: str
    onset: int | None
    peak: int
    end: int | None


class Ludb(EcgCorpus):
    """LUDB, labelled with the rhythm (`label_set` "rhythm", 7 classes, exactly one holds).

    The column `waves` is a table of all marked waves, which `pandas.DataFrame(row["waves"])` shows: `lead`, `wave`
    ("P", "QRS" or "T"), and `onset`, `peak`, `end` as samples of the row's own signal: if the options crop or resample
    the signal or choose leads, these follow (rounded to the nearest sample). None where the cardiologists marked none;
    in some QRS complexes of V1 to V3 that begin with their peak, the onset lies up to two samples behind the peak. One
    beat of record 116 has several T waves in V1 and V2, as in the files.

    The age of the record whose age stands as ">89" is given as 90, the corpus's greatest according to its README.
    """

    VERSION = datasets.Version("1.0.1")
    ABOUT = About(
        title="Lobachevsky University Electrocardiography Database (LUDB)",
        description="200 12-lead ECGs of 10 s of 200 people, healthy and with various diseases, recorded in 2017 and "
        "2018, with onset, peak and end of every P wave, QRS complex and T wave marked by cardiologists in each lead. "
        "The gains in the headers are each lead's peak-to-peak and hold no calibration: the counts are read with 1000 "
        "per mV, which fits by amplitude but is documented nowhere.",
        homepage="https://physionet.org/content/ludb/1.0.1/",
        license="ODC-By 1.0",
        citation="Kalyakulina, A. I., et al.: LUDB: A New Open-Access Validation Tool for Electrocardiogram "
        "Delineation Algorithms. IEEE Access 8:186181 (2020). doi:10.13026/eegm-h675. Goldberger, A. L., et al.: "
        "PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101:e215 (2000).",
    )
    LABEL_SETS = {"rhythm": RHYTHMS}
    EXTRAS = {
        "waves": {
            "lead": ListOf(datasets.Value("string")),
            "wave": ListOf(datasets.Value("string")),
            **{point: ListOf(datasets.Value("int32")) for point in ("onset", "peak", "end")},
        },
        "electric_axis": datasets.Value("string"),
        **{name: ListOf(datasets.Value("string")) for name in _STATEMENTS.values()},
    }

    def source(self) -> PhysioNet:
        return PhysioNet("ludb", "1.0.1", gigabytes=0.04)

    def index(self, root: Path) -> Iterator[CorpusEntry]:
        for row in read_table(root / TABLE, _COLUMNS).to_dict("records"):
            try:
                entry = _entry(row)
            except EcgJepaRecordError as error:
                self._leave_out(CorpusEntry(row["ID"], f"data/{row['ID']}"), error)
            else:
                yield entry

    def annotate(self, entry: CorpusEntry, record: EcgRecord) -> CorpusEntry:
        leads = [lead for lead in self.config.leads or KNOWN_LEADS if lead in record.lead_names]
        rows = [(lead, *wave) for lead in leads for wave in self._fitted(read_waves(record, lead), record)]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 5
        table = dict(zip(self.EXTRAS["waves"], columns, strict=True))
        return dataclasses.replace(entry, extras={**entry.extras, "waves": table})

    def _fitted(self, waves: Sequence[Wave], record: EcgRecord) -> list[Wave]:
        """The waves of one lead as samples of the signal that the options ask for."""
        native = record.sampling_rate
        samples = record.signal.shape[1]
        if self.config.seconds is not None:
            samples = min(samples, round(self.config.seconds * native))
        ratio = (self.config.sampling_rate or native) / native

        def place(sample: int | None) -> int | None:
            if sample is None or sample >= samples:
                return None
            return min(round(sample * ratio), round(samples * ratio) - 1)

        return [
            Wave(wave.kind, place(wave.onset), place(wave.peak), place(wave.end))
            for wave in waves
            if wave.peak < samples
        ]


def _entry(row: dict[str, str]) -> CorpusEntry:
    record_id = row["ID"].strip()
    where = f"{TABLE}, ID {record_id}"
    rhythms = _lines(row["Rhythms"])
    labels = tuple(rhythm for rhythm in RHYTHMS if rhythm in rhythms)
    if len(labels) != 1:
        raise EcgJepaRecordError(
            "unknown rhythm", f"{where}: the rhythm {row['Rhythms']!r} is not exactly one of {'; '.join(RHYTHMS)}."
        )
    statements = {name: _lines(row[column]) for column, name in _STATEMENTS.items()}
    axis = row[_AXIS].strip()
    return CorpusEntry(
        record_id=record_id,
        file=f"data/{record_id}",
        patient_id=record_id,  # one record a person
        labels=labels,
        codes=tuple(filter(None, [*rhythms, axis, *(line for lines in statements.values() for line in lines)])),
        age=90.0 if row["Age"].strip() == ">89" else number(row["Age"], f"{where}, age"),
        sex=_SEXES.get(row["Sex"].strip()),
        extras={"electric_axis": axis.removeprefix(f"{_AXIS}: ") or None, **statements},
    )


def _lines(field: str) -> list[str]:
    return [line.strip() for line in field.splitlines() if line.strip()]


def read_waves(record: EcgRecord, lead: str) -> list[Wave]:
    """The waves of a lead in order, at the record's own rate, from the annotation file beside its header.

    Raises:
        EcgJepaRecordError: the file is missing, or is no annotation of this record.
    """
    if record.path is None:
        raise EcgJepaRecordError("annotation missing", f"{record.record_id} came from no file, so it has no waves.")
    path = record.path.with_suffix(f".{lead.lower()}")
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_ANNOTATION + 1)
    except OSError as error:
        raise EcgJepaRecordError(
            "annotation missing", f"Cannot read {path}, the waves of lead {lead}: {error.strerror}. Fetch it too."
        ) from error
    refuse_lfs_pointer(content, path)
    if len(content) > _LARGEST_ANNOTATION:
        raise EcgJepaRecordError("annotation not readable", f"{path} is too large for the waves of one lead.")
    if not content.endswith(b"\0\0"):  # how every WFDB annotation ends
        raise EcgJepaRecordError("annotation not readable", f"{path} is cut off or no WFDB annotation; fetch it again.")
    try:
        annotation = wfdb.rdann(str(path.with_suffix("")), path.suffix[1:])
    except _LIBRARY_ERRORS as error:
        raise EcgJepaRecordError("annotation not readable", f"{path} is no WFDB annotation: {error}.") from error
    samples = np.asarray(annotation.sample)
    if len(samples) and not 0 <= samples.min() <= samples.max() < record.signal.shape[1]:
        raise EcgJepaRecordError(
            "annotation not readable",
            f"{path} marks samples {samples.min():,} to {samples.max():,}; the record has {record.signal.shape[1]:,}.",
        )
    return waves_of(annotation.symbol, samples.tolist())


def waves_of(symbols: Sequence[str], samples: Sequence[int]) -> list[Wave]:
    """Waves of a lead's marks in the order of time: "(" an onset, "p", "N", "t" a peak, ")" an end.

    A whole wave is "(p)". A missing mark leaves None; a wave of which only onset and end are marked is left out. In
    "N()" the onset belongs to the peak before it. Several waves within each other, "((tt))", are taken in their order.
    """
    waves: list[list[Any]] = []
    onsets: list[int] = []  # of waves whose peak is to come
    open_waves: list[list[Any]] = []  # whose end is to come
    for symbol, sample in zip(symbols, samples, strict=True):
        if symbol == "(" and open_waves and open_waves[-1][1] is None:
            open_waves[-1][1] = sample
        elif symbol == "(":
            open_waves.clear()
            onsets.append(sample)
        elif symbol in _PEAKS:
            waves.append([_PEAKS[symbol], onsets.pop(0) if onsets else None, sample, None])
            open_waves.append(waves[-1])
        elif symbol == ")":
            onsets.clear()
            if open_waves:
                open_waves.pop(0)[3] = sample
    return [Wave(*wave) for wave in waves]
