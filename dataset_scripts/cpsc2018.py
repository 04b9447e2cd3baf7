"""CPSC2018, the China Physiological Signal Challenge 2018: nine classes, records of 6 to 144 s, in both its layouts."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import datasets

from dataset_scripts.corpus import About, CorpusEntry, EcgCorpus, inside
from dataset_scripts.download import PhysioNet
from dataset_scripts.matlab import read_matlab_record
from dataset_scripts.records import EcgRecord, read_record
from dataset_scripts.snomed import class_of, statements
from dataset_scripts.splits import split_by_hash
from dataset_scripts.tables import read_table
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError

#: In the order of the numbers 1 to 9 in the organisers' REFERENCE.csv.
CLASSES = ("Normal", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE")

#: What the nine are called in the tables of Challenge 2021, which gave the same records SNOMED codes. Its headers have
#: "ventricular ectopics" (VEB) for the organisers' PVC.
_CHALLENGE_CLASSES = {
    "NSR": "Normal",
    "AF": "AF",
    "IAVB": "I-AVB",
    "LBBB": "LBBB",
    "RBBB": "RBBB",
    "PAC": "PAC",
    "PVC": "PVC",
    "VEB": "PVC",
    "STD": "STD",
    "STE": "STE",
}

_REFERENCE_COLUMNS = ("First_label", "Second_label", "Third_label")
_RECORD = re.compile(r"A(\d{4})")
_FOLDER = re.compile(r"g\d+")


class Cpsc2018(EcgCorpus):
    """CPSC2018 as PhysioNet gives it (WFDB, folders g1 to g7) or as the organisers did (one .mat a record).

    Labels come from REFERENCE.csv where there is one, else from the headers; the organisers' files hold none.
    """

    VERSION = datasets.Version("1.0.0")
    LABEL_SETS = {"cpsc2018": CLASSES}
    ABOUT = About(
        title="CPSC2018",
        description="The public 6,877 records of the China Physiological Signal Challenge 2018: 12 leads, 500 Hz, 6 to "
        "144 s, nine classes (a record has one to three), from 11 hospitals. The test split is PhysioNet's folder g7, "
        "records A6000 to A6877, as in the authors' evaluation of ECG-JEPA; the others are split by a keyed hash. "
        "Without REFERENCE.csv records in the organisers' own format have no labels, and a finding says so. "
        "Patients are not told.",
        homepage="http://2018.icbeb.org/Challenge.html",
        license="CC BY 4.0 (as part of the PhysioNet/CinC Challenges 2020 and 2021)",
        citation="Liu F, Liu C, Zhao L, et al. An open access database for evaluating the algorithms of "
        "electrocardiogram rhythm and morphology abnormality detection. J Med Imaging Health Inform 8:1368-1373 "
        "(2018).",
    )

    def source(self) -> PhysioNet:
        """The organisers' own files are not at PhysioNet; these are the same records, with labels in their headers."""
        return PhysioNet("challenge-2021", "1.0.3", gigabytes=1.4, only=("training/cpsc_2018/",))

    def index(self, root: Path) -> Iterator[CorpusEntry]:
        reference = read_reference(root)
        found = set()
        for path in _recordings(root):
            numbers = reference.get(path.stem)
            found.add(path.stem)
            yield _entry(path.stem, path.relative_to(root).as_posix(), numbers)
        for record_id in sorted(reference.keys() - found):
            yield _entry(record_id, f"{record_id}.mat", reference[record_id])

    def split_of(self, entry: CorpusEntry) -> str:
        return "test" if _folder(entry) == "g7" else split_by_hash(entry.record_id, test=0.0)

    def read(self, root: Path, entry: CorpusEntry) -> EcgRecord:
        path = inside(root, entry.file)
        if path.suffix == ".hea":
            return read_record(path)
        record = read_matlab_record(path)
        if entry.labels is not None:
            return record
        finding = "no labels: the organisers' files hold none, and no REFERENCE.csv names this record"
        return dataclasses.replace(record, findings=(*record.findings, finding))

    def annotate(self, entry: CorpusEntry, record: EcgRecord) -> CorpusEntry:
        if entry.labels is not None:
            return entry
        codes = statements(record.comments)
        held = {_CHALLENGE_CLASSES.get(class_of(code) or "") for code in codes}
        labels = tuple(name for name in CLASSES if name in held)
        return dataclasses.replace(entry, labels=labels, codes=codes)


def read_reference(root: Path) -> dict[str, tuple[int, ...]]:
    """Record -> its labels, 1 to 9, from every REFERENCE.csv under a folder; empty where there is none.

    Raises:
        EcgJepaRecordError: a table that cannot be read, a label that is none, or two tables that differ on a record.
    """
    labels: dict[str, tuple[int, ...]] = {}
    for path in sorted(root.rglob("REFERENCE.csv")):
        for row in read_table(path, ["Recording", *_REFERENCE_COLUMNS]).to_dict("records"):
            record_id = row["Recording"].strip()
            texts = [row[column].strip() for column in _REFERENCE_COLUMNS]
            numbers = tuple(_class_number(text, f"{path}, {record_id}") for text in texts if text)
            if labels.setdefault(record_id, numbers) != numbers:
                raise EcgJepaRecordError("unclear label", f"{path}: {record_id} has other labels in another table.")
    return labels


def _class_number(text: str, where: str) -> int:
    number = int(text.removesuffix(".0")) if text.removesuffix(".0").isdecimal() else 0
    if not 1 <= number <= len(CLASSES):
        raise EcgJepaRecordError("unclear label", f"{where}: {text!r} is not one of the classes 1 to {len(CLASSES)}.")
    return number


def _recordings(root: Path) -> list[Path]:
    """Headers, and the organisers' files: those named *.mat without a header beside them."""
    headers = [path for path in root.rglob("*.hea") if path.is_file()]
    signals = {path.with_suffix(".mat") for path in headers}
    return sorted([*headers, *(path for path in root.rglob("*.mat") if path.is_file() and path not in signals)])


def _entry(record_id: str, file: str, numbers: tuple[int, ...] | None) -> CorpusEntry:
    if numbers is None:
        return CorpusEntry(record_id=record_id, file=file)
    labels = tuple(name for number, name in enumerate(CLASSES, start=1) if number in numbers)
    return CorpusEntry(record_id=record_id, file=file, labels=labels, codes=tuple(map(str, numbers)))


def _folder(entry: CorpusEntry) -> str:
    """PhysioNet's folder of a record: that in its path, else by its number, a thousand a folder.

    The rule holds for A0001 in g1, A1473 in g2, A2758 in g3 and A5739 in g6, named in public code over the Challenge's
    data; PTB-XL's HR01000 there lies in g2, so a folder begins with the full thousand.
    """
    named = [part for part in Path(entry.file).parts[:-1] if _FOLDER.fullmatch(part)]
    number = _RECORD.fullmatch(entry.record_id)
    return named[-1] if named else f"g{int(number[1]) // 1000 + 1}" if number else ""
