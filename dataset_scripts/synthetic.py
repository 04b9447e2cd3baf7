"""Synthetic 12-lead ECGs with known truth, as a corpus; made when they are asked for, by `synthesis`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from dataset_scripts.corpus import About, CorpusEntry, EcgCorpus, EcgCorpusConfig, ListOf
from dataset_scripts.records import EcgRecord
from dataset_scripts.rhythm import RHYTHMS
from dataset_scripts.synthesis import DIAGNOSES, SyntheticTruth, check_record, complete_diagnoses, synthesize_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaInputError

#: Records that one corpus may have.
_MOST_RECORDS = 10_000_000

_EXTRAS = {
    "rhythm": datasets.ClassLabel(names=list(RHYTHMS)),
    "heart_rate": datasets.Value("float32"),
    "pr_ms": datasets.Value("float32"),
    "qrs_ms": datasets.Value("float32"),
    "qt_ms": datasets.Value("float32"),
    "axis_degrees": datasets.Value("float32"),
    "added_noise_mv": datasets.Value("float32"),
    "beats": ListOf(datasets.Value("string")),
    "r_peaks": ListOf(datasets.Value("float32")),
    "p_onsets": ListOf(datasets.Value("float32")),
    "qrs_onsets": ListOf(datasets.Value("float32")),
    "qrs_ends": ListOf(datasets.Value("float32")),
    "t_ends": ListOf(datasets.Value("float32")),
}


@dataclass
class SyntheticConfig(EcgCorpusConfig):
    """What the corpus is made of; `sampling_rate` (500 Hz) and `seconds` (10) are those that records are made with.

    Args:
        seed: another seed, other records.
        records: how many; the first ones are the same however many there are.
        classes: of `synthesis.DIAGNOSES`, or several joined by "+" ("atrial_fibrillation+left_bundle_branch_block");
            a list for equal shares, {class: weight} for others. None: every diagnosis, in equal shares.
        snr_db: as in `synthesize_record`.
    """

    seed: int = 0
    records: int = 1000
    classes: Sequence[str] | Mapping[str, float] | None = None
    snr_db: float | Mapping[str, float] | None = None

    def check(self) -> None:
        super().check()
        self.sampling_rate = self.sampling_rate or 500.0
        self.seconds = self.seconds or 10.0
        if isinstance(self.records, bool) or not isinstance(self.records, int) or not 0 < self.records <= _MOST_RECORDS:
            raise EcgJepaConfigError(f"records={self.records!r} must be a number from 1 to {_MOST_RECORDS:,}.")
        if self.data_dir is not None:
            raise EcgJepaConfigError(f"data_dir={self.data_dir!r}: synthetic records are made, not read; leave it out.")
        try:
            for name in self.shares():
                check_record(self.seed, 0, self.sampling_rate, self.seconds, diagnoses_of(name), self.snr_db)
        except EcgJepaInputError as error:
            raise EcgJepaConfigError(str(error)) from error

    def shares(self) -> dict[str, float]:
        """Class -> its share of the records; they sum to 1.

        Raises:
            EcgJepaConfigError: there is no class, or a weight is no positive number.
        """
        classes = DIAGNOSES if self.classes is None else self.classes
        if isinstance(classes, str) or not classes:
            raise EcgJepaConfigError(f"classes={classes!r} must be a list of classes, or {{class: weight}}.")
        weights = dict(classes) if isinstance(classes, Mapping) else dict.fromkeys(classes, 1.0)
        for name, weight in weights.items():
            if not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise EcgJepaConfigError(f"classes: the weight {weight!r} of {name} must be a positive number.")
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}


def diagnoses_of(name: str) -> tuple[str, ...]:
    """The diagnoses of a class: "a+b" has both, and a rhythm."""
    return complete_diagnoses(str(name).split("+"))


@dataclass(frozen=True, eq=False)
class _RecordWithTruth(EcgRecord):
    truth: SyntheticTruth | None = None


class Synthetic(EcgCorpus):
    """Synthetic records: labels are the diagnoses, the rhythm among them. Options in `SyntheticConfig`."""

    BUILDER_CONFIG_CLASS = SyntheticConfig
    VERSION = datasets.Version("1.0.0")
    ABOUT = About(
        title="Synthetic 12-lead ECGs",
        description=(
            "12-lead ECGs of a moving dipole with known rhythm, intervals, axis and diagnoses: for first runs, tests "
            "and ablations, never as evidence about patients."
        ),
        homepage="https://doi.org/10.1109/TBME.2003.808805",
        license="Generated; no rights are claimed.",
        citation=(
            "In the spirit of McSharry et al., A dynamical model for generating synthetic electrocardiogram signals, "
            "IEEE Trans Biomed Eng 50:289 (2003)."
        ),
    )
    EXTRAS = _EXTRAS
    LABEL_SETS = {"diagnoses": DIAGNOSES}

    def download(self, dl_manager: datasets.DownloadManager) -> Path:
        return Path()  # nothing is read

    def index(self, root: Path) -> Iterator[CorpusEntry]:
        config, shares = self.config, self.config.shares()
        names, borders = list(shares), np.cumsum(list(shares.values()))
        for place in range(config.records):
            # Apart from the record's own stream, which begins with [seed, index] alone.
            draw = np.random.default_rng([config.seed, place, 1]).random() * borders[-1]
            name = names[int(np.searchsorted(borders, draw, side="right"))]
            yield CorpusEntry(f"synthetic-{config.seed}-{place}", file=name, labels=diagnoses_of(name))

    def read(self, root: Path, entry: CorpusEntry) -> EcgRecord:
        config = self.config
        place = int(entry.record_id.rsplit("-", 1)[1])
        record, truth = synthesize_record(
            config.seed, place, config.sampling_rate, config.seconds, entry.labels, config.snr_db
        )
        return _RecordWithTruth(**vars(record), truth=truth)

    def annotate(self, entry: CorpusEntry, record: EcgRecord) -> CorpusEntry:
        # The column noise_mv is what the quality check measures, as in every corpus.
        truth = {**vars(record.truth), "added_noise_mv": record.truth.noise_mv}
        extras = {name: truth[name] for name in self.EXTRAS}
        return CorpusEntry(entry.record_id, entry.file, labels=entry.labels, extras=extras)
