"""The training sets of the PhysioNet/CinC Challenge 2021, a configuration each, with the challenge's classes."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import datasets

from dataset_scripts.corpus import About, CorpusEntry, EcgCorpus, EcgCorpusConfig
from dataset_scripts.download import PhysioNet
from dataset_scripts.records import EcgRecord, find_records
from dataset_scripts.snomed import CLASSES, SCORED_CLASSES, classes_of, statements
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError

VERSION = datasets.Version("1.0.3")


@dataclass(frozen=True)
class ChallengeSet:
    """A training set: what its records are called, about how large it is, and what to know of it."""

    record: str
    example: str
    gigabytes: float
    description: str


SETS: Mapping[str, ChallengeSet] = MappingProxyType(
    {
        "georgia": ChallengeSet(
            r"E\d{5}",
            "E00001",
            1.3,
            "10,344 records of 5 to 10 s at 500 Hz, from Emory University, Atlanta. E07509 and E07510 are the same "
            "recording.",
        ),
        "cpsc_2018": ChallengeSet(
            r"A\d{4}",
            "A0001",
            1.4,
            "6,877 records of 6 to 144 s at 500 Hz: the public part of CPSC2018, the same records as the corpus "
            "cpsc2018. Its premature ventricular beats are coded as ventricular ectopics (VEB), which are not scored.",
        ),
        "cpsc_2018_extra": ChallengeSet(
            r"Q\d{4}", "Q0001", 0.7, "3,453 records of 8 to 98 s at 500 Hz: what CPSC2018 did not use."
        ),
        "ptb": ChallengeSet(
            r"S\d{4}",
            "S0001",
            1.5,
            "516 records of 32 to 120 s at 1000 Hz: the same recordings as the PTB Diagnostic ECG Database. Several "
            "are of one patient, which the headers do not tell: a patient may be in several splits. The corpus ptbdb "
            "knows its patients.",
        ),
        "ptb-xl": ChallengeSet(
            r"HR\d{5}",
            "HR00001",
            2.7,
            "21,837 records of 10 s at 500 Hz: the same data as PTB-XL, HR00001 being its ecg_id 1. Whatever is "
            "trained on this set has seen PTB-XL's test fold; and as the headers do not tell patients, a patient may "
            "be in several splits here. For PTB-XL's own folds use the corpus ptb_xl.",
        ),
        "chapman_shaoxing": ChallengeSet(
            r"JS(0\d{4}|10[0-5]\d\d|106[0-3]\d|1064[0-6])",
            "JS00001",
            1.3,
            "10,247 records of 10 s at 500 Hz: part of the corpus ecg_arrhythmia, on which the published ECG-JEPA "
            "weights were pretrained.",
        ),
        "ningbo": ChallengeSet(
            r"JS(1064[7-9]|106[5-9]\d|10[7-9]\d\d|1[1-9]\d{3}|[2-9]\d{4})",
            "JS10647",
            4.3,
            "34,905 records of 10 s at 500 Hz: part of the corpus ecg_arrhythmia, on which the published ECG-JEPA "
            "weights were pretrained.",
        ),
        "st_petersburg_incart": ChallengeSet(
            r"I\d{4}",
            "I0001",
            0.9,
            "74 records of 30 minutes at 257 Hz, of 32 patients, which the headers do not tell: a patient may be in "
            "several splits. A row of a whole record is large: give `seconds`.",
        ),
    }
)


class Challenge2021(EcgCorpus):
    """One of `SETS`, named by `config_name`; the folder may be the set's own or one above it, as `training`.

    Label sets: "scored" 26 classes, the challenge's 30 codes with four pairs counted as one; "all" 129, every code of
    its tables. A record without any of them has no labels.
    """

    DEFAULT_WRITER_BATCH_SIZE = 16  # a row of st_petersburg_incart has 11 MB
    BUILDER_CONFIGS = [EcgCorpusConfig(name=name, version=VERSION) for name in SETS]
    LABEL_SETS = {"scored": SCORED_CLASSES, "all": CLASSES}
    ABOUT = About(
        title="PhysioNet/CinC Challenge 2021",
        description="A training set of the PhysioNet/Computing in Cardiology Challenge 2021, with SNOMED CT codes. "
        "Split by a keyed hash of the record.",
        homepage="https://physionet.org/content/challenge-2021/1.0.3/",
        license="CC BY 4.0",
        citation="Reyna MA, Sadr N, Perez Alday EA, et al. Will two do? Varying dimensions in electrocardiography: the "
        "PhysioNet/Computing in Cardiology Challenge 2021. Computing in Cardiology 48 (2021). Perez Alday EA, Gu A, "
        "Shah AJ, et al. Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology Challenge 2020. Physiol "
        "Meas 41:124003 (2020). Goldberger AL, et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation "
        "101:e215-e220 (2000).",
    )

    def _info(self) -> datasets.DatasetInfo:
        info = super()._info()
        info.description += f" {self.config.name}: {self._set().description}"
        return info

    def _set(self) -> ChallengeSet:
        if self.config.name not in SETS:
            raise EcgJepaConfigError(
                f"{self.name} has no set {self.config.name!r}; config_name must be one of {', '.join(SETS)}."
            )
        return SETS[self.config.name]

    def source(self) -> PhysioNet:
        return PhysioNet("challenge-2021", "1.0.3", self._set().gigabytes, only=(f"training/{self.config.name}/",))

    def index(self, root: Path) -> Iterator[CorpusEntry]:
        chosen = self._set()
        for path in headers_named(chosen.record, chosen.example, root):
            yield CorpusEntry(record_id=path.stem, file=path.relative_to(root).as_posix())

    def annotate(self, entry: CorpusEntry, record: EcgRecord) -> CorpusEntry:
        codes = statements(record.comments)
        return dataclasses.replace(entry, labels=classes_of(codes, self.label_names()), codes=codes)


def headers_named(pattern: str, example: str, root: Path) -> list[Path]:
    """The headers under a folder whose records are called so: the sets lie side by side and no two share a name.

    Raises:
        EcgJepaRecordError: none.
    """
    headers = find_records(root)
    chosen = [path for path in headers if re.fullmatch(pattern, path.stem)]
    if not chosen:
        raise EcgJepaRecordError(
            "no records",
            f"None of the {len(headers):,} WFDB headers under {root} is named as this set's ({example}), the first is "
            f"{headers[0].name}. Pass the set's own folder or one above it.",
        )
    return chosen
