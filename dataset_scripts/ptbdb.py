"""PTB Diagnostic ECG Database 1.0.0: 549 records of 290 patients, 15 leads at 1000 Hz, half a minute to two minutes."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import datasets

from dataset_scripts.corpus import About, CorpusEntry, EcgCorpus
from dataset_scripts.download import PhysioNet
from dataset_scripts.records import EcgRecord, find_records
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError

#: The diagnostic classes of the corpus's page, in its order -> what the headers give as the reason for admission.
#: The page counts 18 patients in the second class, 7 in the fifth and 4 in the eighth, as the headers do together.
REASONS = {
    "Myocardial infarction": ("Myocardial infarction",),
    "Cardiomyopathy/Heart failure": (
        *("Cardiomyopathy", "Heart failure (NYHA 2)", "Heart failure (NYHA 3)", "Heart failure (NYHA 4)"),
    ),
    "Bundle branch block": ("Bundle branch block",),
    "Dysrhythmia": ("Dysrhythmia",),
    "Myocardial hypertrophy": ("Hypertrophy", "Myocardial hypertrophy"),
    "Valvular heart disease": ("Valvular heart disease",),
    "Myocarditis": ("Myocarditis",),
    "Miscellaneous": ("Stable angina", "Unstable angina", "Palpitation"),
    "Healthy controls": ("Healthy control",),
}
_CLASS_OF = {reason.lower(): name for name, reasons in REASONS.items() for reason in reasons}

# Entry of the clinical summary -> our column.
_SUMMARY = {
    "Acute infarction (localization)": "acute_infarction",
    "Former infarction (localization)": "former_infarction",
    "Additional diagnoses": "additional_diagnoses",
    "Smoker": "smoker",
    "ECG date": "ecg_date",
    "Infarction date (acute)": "infarction_date",
}
_UNKNOWN = {"", "n/a", "unknown"}


class Ptbdb(EcgCorpus):
    """PTB Diagnostic, labelled with the class of the reason for admission (`label_set` "diagnosis", 9 classes).

    Records without a reason (27 of the whole) are left out; with `label_set="none"` there are no labels and all records
    stay. `report` is the clinical summary; the Frank leads VX, VY, VZ come after the standard 12.
    """

    VERSION = datasets.Version("1.0.0")
    ABOUT = About(
        title="PTB Diagnostic ECG Database",
        description="549 ECGs of 290 patients and healthy volunteers with the 12 standard and the 3 Frank leads at "
        "1000 Hz, each with a clinical summary, from the University Clinic Benjamin Franklin in Berlin.",
        homepage="https://physionet.org/content/ptbdb/1.0.0/",
        license="ODC-By 1.0",
        citation="Bousseljot, R., Kreiseler, D., Schnabel, A.: Nutzung der EKG-Signaldatenbank CARDIODAT der PTB über "
        "das Internet. Biomedizinische Technik 40, Ergänzungsband 1, S317 (1995). doi:10.13026/C28C71. Goldberger, "
        "A. L., et al.: PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101:e215 (2000).",
    )
    LABEL_SETS = {"diagnosis": tuple(REASONS), "none": ()}
    NEEDS_LABEL = True
    EXTRAS = {name: datasets.Value("string") for name in _SUMMARY.values()}

    def source(self) -> PhysioNet:
        return PhysioNet("ptbdb", "1.0.0", gigabytes=2)

    def index(self, root: Path) -> Iterator[CorpusEntry]:
        for path in find_records(root):
            patient = path.parent.name
            record_id = f"{patient}/{path.stem}"
            entry = CorpusEntry(record_id, path.relative_to(root).with_suffix("").as_posix(), patient_id=patient)
            if re.fullmatch(r"patient\d+", patient):
                yield entry
            else:
                text = f"{path} is not in a folder patientNNN, which tells whose record it is; keep the corpus's layout"
                self._leave_out(entry, EcgJepaRecordError("patient unknown", text))

    def annotate(self, entry: CorpusEntry, record: EcgRecord) -> CorpusEntry:
        summary = dict(_summary_line(comment) for comment in record.comments)
        reason = summary.get("Reason for admission")
        return dataclasses.replace(
            entry,
            labels=(_diagnosis(reason, record),) if reason and self.label_names() else (),
            codes=(reason,) if reason else (),
            report="\n".join(record.comments) or None,
            extras={name: summary.get(key) for key, name in _SUMMARY.items()},
        )


def _diagnosis(reason: str, record: EcgRecord) -> str:
    if reason.lower() not in _CLASS_OF:
        raise EcgJepaRecordError(
            "unknown diagnosis",
            f"{record.path}: the reason for admission {reason!r} is none of {', '.join(sum(REASONS.values(), ()))}.",
        )
    return _CLASS_OF[reason.lower()]


def _summary_line(comment: str) -> tuple[str, str | None]:
    key, _, value = comment.partition(":")
    return key.strip(), None if value.strip().lower() in _UNKNOWN else value.strip()
