"""ECG-Arrhythmia (Chapman-Shaoxing-Ningbo) 1.0.0: 45,152 records of 10 s, as PhysioNet or the Challenge gives them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import datasets

from dataset_scripts.challenge2021 import headers_named
from dataset_scripts.corpus import About, CorpusEntry, EcgCorpus
from dataset_scripts.download import PhysioNet
from dataset_scripts.records import EcgRecord
from dataset_scripts.snomed import CLASSES, SCORED_CLASSES, classes_of, statements

# Codes that the challenge does not score and that its tables count in chapman_shaoxing or ningbo: the same records.
# The corpus's own ConditionNames_SNOMED-CT.csv lists fewer, and four that no record has.
_UNSCORED = (
    "AAR AED AIVR AJR AMI AnMI AB ARH ATach AVB AVD AVJR AVNRT AVRT BPAC BRU CCR CVCL/CCVCL CHB CR ERe FB FQRS IIAVB "
    "IIAVBII ILBBB JE JPC JTach LAE LAH LPFB LVH LVHV MI MoI NSSTTA PPW PVT PWC RAH RAHV RVH SAAWR SAB SARR SPRI SQT "
    "STC STD STE STIAb SVT TPW UAb VBig VEsB VEsR VF VFL VPEx VTrig WAP WPW"
).split()


class EcgArrhythmia(EcgCorpus):
    """The official layout WFDBRecords/01/010, or the Challenge's folders chapman_shaoxing and ningbo.

    Label sets: "all" 90 classes, every code of the corpus with the challenge's equivalences; "scored" the 26 that the
    challenge scores. A record without any of them has no labels.
    """

    VERSION = datasets.Version("1.0.0")
    LABEL_SETS = {
        "all": tuple(name for name in CLASSES if name in {*SCORED_CLASSES, *_UNSCORED}),
        "scored": SCORED_CLASSES,
    }
    ABOUT = About(
        title="ECG-Arrhythmia (Chapman-Shaoxing-Ningbo)",
        description="45,152 records of 12 leads, 10 s at 500 Hz, one a patient, from Shaoxing People's Hospital "
        "(JS00001 to JS10646) and Ningbo First Hospital (the others), with SNOMED CT codes. Split by a keyed hash of "
        "the record. The published ECG-JEPA weights were pretrained on these records. In the official release the "
        "headers of JS01052 and JS23074 lack a line break and are left out. Some records have leads that are zero "
        "throughout: missing, not flat; the column missing_leads names them.",
        homepage="https://physionet.org/content/ecg-arrhythmia/1.0.0/",
        license="CC BY 4.0",
        citation="Zheng J, Zhang J, Danioko S, Yao H, Guo H, Rakovski C. A 12-lead electrocardiogram database for "
        "arrhythmia research covering more than 10,000 patients. Sci Data 7:48 (2020). Goldberger AL, et al. "
        "PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101:e215-e220 (2000).",
    )

    def source(self) -> PhysioNet:
        return PhysioNet("ecg-arrhythmia", "1.0.0", gigabytes=5.5)

    def index(self, root: Path) -> Iterator[CorpusEntry]:
        for path in headers_named(r"JS\d{5}", "JS00001", root):
            yield CorpusEntry(record_id=path.stem, file=path.relative_to(root).as_posix(), patient_id=path.stem)

    def annotate(self, entry: CorpusEntry, record: EcgRecord) -> CorpusEntry:
        codes = statements(record.comments)
        return dataclasses.replace(entry, labels=classes_of(codes, self.label_names()), codes=codes)
