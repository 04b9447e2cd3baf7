"""CODE-15%: 345,779 exams of 233,770 patients of the Telehealth Network of Minas Gerais, with six labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from dataset_scripts.corpus import About, CorpusEntry, EcgCorpus, EcgCorpusConfig, inside
from dataset_scripts.download import Zenodo
from dataset_scripts.hdf5 import open_tracings
from dataset_scripts.records import EcgRecord
from dataset_scripts.tables import number, read_table
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

#: The columns of exams.csv that are labels, in the order of the publication.
CLASSES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")

SAMPLING_RATE = 400.0

_COLUMNS = (
    *("exam_id", "age", "is_male", *CLASSES, "patient_id", "trace_file"),
    *("nn_predicted_age", "death", "timey", "normal_ecg"),
)
_TRUTH = {"True": True, "1": True, "False": False, "0": False, "": None}


@dataclass
class Code15Config(EcgCorpusConfig):
    """Options of CODE-15%.

    Args:
        millivolts_a_unit: what one unit of the published values is. The record names no unit, and the text of the same
            group's models contradicts itself ("at the scale 1e-4V: so if the signal is in V it should be multiplied by
            1000"): the first half says 0.1 mV, the second 1 mV. The values fit neither: band-passed, they are about
            twice as high as PTB-XL's at 1 mV, and a fifth at 0.1 mV. The default 1 is the nearer one, what the
            PhysioNet Challenge 2025 takes, and what the weights of ECG-JEPA's authors have seen.
    """

    millivolts_a_unit: float = 1.0

    def check(self) -> None:
        super().check()
        if not 1e-4 <= self.millivolts_a_unit <= 1e4:
            raise EcgJepaConfigError(f"millivolts_a_unit={self.millivolts_a_unit!r} must be 0.0001 to 10,000.")


class Code15(EcgCorpus):
    """CODE-15%. Options in `Code15Config`; `seconds=10` keeps the exams of whole 10 s only, as the paper does."""

    BUILDER_CONFIG_CLASS = Code15Config
    VERSION = datasets.Version("1.0.0")
    LABEL_SETS = {"abnormalities": CLASSES}
    EXTRAS = {
        "nn_predicted_age": datasets.Value("float32"),
        "death": datasets.Value("bool"),
        "timey": datasets.Value("float32"),
        "normal_ecg": datasets.Value("bool"),
        "trace_file": datasets.Value("string"),
    }
    ABOUT = About(
        title="CODE-15%",
        description=(
            "12-lead ECGs of 7 or 10 s at 400 Hz from primary care in Minas Gerais, Brazil, 2010 to 2016: a stratified "
            "sample of 15% of the patients of the CODE data set. The zeros that fill up the published tracings are "
            "stripped. The publication names no unit; values are taken as millivolts unless `millivolts_a_unit` says "
            "otherwise, and are then about twice as high as in other corpora."
        ),
        homepage="https://doi.org/10.5281/zenodo.4916206",
        license="CC BY 4.0",
        citation=(
            "Ribeiro, A. H., Paixao, G. M. M., Lima, E. M., Horta Ribeiro, M., Pinto Filho, M. M., Gomes, P. R., "
            "Oliveira, D. M., Meira Jr, W., Schon, T. B., Ribeiro, A. L. P. (2021). CODE-15%: a large scale annotated "
            "dataset of 12-lead ECGs. Zenodo. doi:10.5281/zenodo.4916206"
        ),
    )

    def source(self) -> Zenodo:
        return Zenodo(record=4916206, gigabytes=45)

    def index(self, root: Path) -> Iterator[CorpusEntry]:
        table = read_table(root / "exams.csv", _COLUMNS)
        # File by file: every process then works through few of them. Within a file in the table's order.
        table = table.sort_values("trace_file", kind="stable")
        lines = table.index + 2
        for line, values in zip(lines, zip(*(table[column] for column in _COLUMNS), strict=True), strict=True):
            row = dict(zip(_COLUMNS, values, strict=True))
            try:
                entry = _entry(row, f"exams.csv, line {line}")
            except EcgJepaRecordError as error:
                self._leave_out(CorpusEntry(row["exam_id"][:20], row["trace_file"][:100]), error)
            else:
                yield entry

    def read(self, root: Path, entry: CorpusEntry) -> EcgRecord:
        path = inside(root, entry.file)
        if not path.is_file() and path.with_suffix(".zip").is_file():
            raise EcgJepaRecordError("HDF5 file missing", f"{path.name} is still in its archive: unzip {path.stem}.zip")
        tracing = open_tracings(path).read(int(entry.record_id))
        if tracing.shape[1] != len(STANDARD_12_LEADS):
            raise EcgJepaRecordError("not 12 leads", f"{path}: a tracing of shape {tracing.shape} has no 12 leads.")
        start, end = unpadded(tracing)
        if start == end:
            raise EcgJepaRecordError("no signal", f"{path}: the tracing of exam {entry.record_id} is zero throughout.")
        lopsided = abs(start - (len(tracing) - end)) > 1
        return EcgRecord(
            signal=np.ascontiguousarray(tracing[start:end].T) * np.float32(self.config.millivolts_a_unit),
            sampling_rate=SAMPLING_RATE,
            # DI, DII, DIII, AVR, AVL, AVF, V1 to V6 in the publication's words
            lead_names=STANDARD_12_LEADS,
            record_id=entry.record_id,
            path=path,
            findings=(f"{start} zero samples stripped before, {len(tracing) - end} after",) if lopsided else (),
        )


def unpadded(tracing: np.ndarray) -> tuple[int, int]:
    """First sample and end of what was recorded: without the zeros in all leads before and after; (0, 0) if all are.

    Args:
        tracing: (samples, leads).
    """
    recorded = np.flatnonzero(tracing.any(axis=1))
    return (int(recorded[0]), int(recorded[-1]) + 1) if len(recorded) else (0, 0)


def _entry(row: dict[str, str], where: str) -> CorpusEntry:
    if not (row["exam_id"].isascii() and row["exam_id"].isdigit() and len(row["exam_id"]) <= 18):
        raise EcgJepaRecordError("no number", f"{where}, exam_id: {row['exam_id']!r} is not a whole number.")
    is_male = _truth(row, "is_male", where)
    labels = tuple(name for name in CLASSES if _truth(row, name, where))
    return CorpusEntry(
        record_id=row["exam_id"],
        file=row["trace_file"].strip(),
        patient_id=row["patient_id"].strip() or None,
        labels=labels,
        codes=labels,
        age=number(row["age"], f"{where}, age"),
        sex=None if is_male is None else "male" if is_male else "female",
        extras={
            "nn_predicted_age": number(row["nn_predicted_age"], f"{where}, nn_predicted_age"),
            "death": _truth(row, "death", where),
            "timey": number(row["timey"], f"{where}, timey"),
            "normal_ecg": _truth(row, "normal_ecg", where),
            "trace_file": row["trace_file"],
        },
    )


def _truth(row: dict[str, str], column: str, where: str) -> bool | None:
    text = row[column].strip()
    if text not in _TRUTH:
        raise EcgJepaRecordError("unclear label", f"{where}, {column}: {text!r} is neither True nor False.")
    return _TRUTH[text]
