"""What is to be known of many records before they are used: one reading of all, counts, and the worst of each kind."""

import collections
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from dataset_scripts.quality import quality_columns
from dataset_scripts.records import find_records, read_record
from dataset_scripts.skipped import SkippedRecord, skipped_by

from ..errors_ecg_jepa import EcgJepaRecordError


@dataclass(frozen=True)
class RecordQuality:
    """A record that was read: its header, what it holds, and its quality columns (`dataset_scripts.quality`)."""

    header: Path
    sampling_rate: float
    seconds: float
    lead_names: tuple[str, ...]
    remarks: tuple[str, ...]
    columns: dict[str, Any]


@dataclass(frozen=True)
class QualitySurvey:
    """All records of some folders: those that were read, and those that cannot be."""

    records: tuple[RecordQuality, ...]
    left_out: tuple[SkippedRecord, ...]


class FindingKind(NamedTuple):
    """A kind of finding: what it is called, which records have it, how bad it is, and how it reads for one record."""

    title: str
    is_found: Callable[[RecordQuality], bool]
    severity: Callable[[RecordQuality], float]
    text: Callable[[RecordQuality], str]


def _lead_finding(column: str, title: str, severity: str | None = None) -> FindingKind:
    return FindingKind(
        title,
        lambda record: bool(record.columns[column]),
        lambda record: record.columns[severity] if severity else len(record.columns[column]),
        lambda record: f"{title}: {', '.join(record.columns[column])}",
    )


#: Key -> kind of finding, in the order in which they are shown.
FINDING_KINDS = {
    "missing": _lead_finding("missing_leads", "missing leads"),
    "limb": FindingKind(
        "limb equations broken",
        lambda record: bool(record.columns["limb_violated"]),
        lambda record: record.columns["limb_error"] or 0.0,
        lambda record: "limb equations broken",
    ),
    "spike": _lead_finding("spike_leads", "over 10 mV", "peak_mv"),
    "saturation": _lead_finding("saturated_leads", "probably clipped"),
    "flat": _lead_finding("flat_leads", "flat for 1 s or longer"),
    "gaps": FindingKind(
        "missing values",
        lambda record: record.columns["missing_share"] > 0,
        lambda record: record.columns["missing_share"],
        lambda record: f"missing values: {record.columns['missing_share']:.2%}",
    ),
    "remark": FindingKind(
        "remarks of the reader",
        lambda record: bool(record.remarks),
        lambda record: len(record.remarks),
        lambda record: "; ".join(record.remarks),
    ),
}

#: Column -> what its distribution is called.
LEVELS = {
    "noise_mv": "noise above 40 Hz, mV",
    "wander_mv": "baseline wander, mV RMS",
    "peak_mv": "largest value, mV",
    "limb_error": "error of II = I + III",
}


def survey_quality(paths: Iterable[str | os.PathLike[str]], progress: bool = False) -> QualitySurvey:
    """Read all records that paths of records and folders stand for, each once; signals are not kept.

    Raises:
        EcgJepaRecordError: none of them can be read.
    """
    headers: dict[Path, None] = {}
    records, left_out = [], []
    for path in paths:
        try:
            headers |= dict.fromkeys(find_records(path))
        except EcgJepaRecordError as error:
            left_out.append(skipped_by(error, str(path)))
    for header in tqdm(headers, unit="record", disable=not progress):
        try:
            records.append(_assess(header))
        except EcgJepaRecordError as error:
            left_out.append(skipped_by(error, str(header)))
    if not records:
        reasons = "\n".join(f"  {record.place}: {record.message}" for record in left_out[:5])
        raise EcgJepaRecordError("no records", f"No record could be read:\n{reasons}")
    return QualitySurvey(tuple(records), tuple(left_out))


def findings_of(record: RecordQuality) -> list[str]:
    """All findings of a record, in words."""
    return [kind.text(record) for kind in FINDING_KINDS.values() if kind.is_found(record)]


def worst_records(survey: QualitySurvey, key: str, most: int) -> list[RecordQuality]:
    """The records that have a kind of finding, the worst first."""
    kind = FINDING_KINDS[key]
    return sorted(filter(kind.is_found, survey.records), key=kind.severity, reverse=True)[:most]


def highest_records(survey: QualitySurvey, column: str, most: int) -> list[RecordQuality]:
    """The records with the highest values of a column of `LEVELS`."""
    told = [record for record in survey.records if record.columns[column] is not None]
    return sorted(told, key=lambda record: record.columns[column], reverse=True)[:most]


def levels(survey: QualitySurvey, column: str) -> np.ndarray:
    """The values of a column of `LEVELS` where it could be told."""
    values = [record.columns[column] for record in survey.records]
    return np.array([value for value in values if value is not None])


def rates_and_lengths(survey: QualitySurvey) -> list[tuple[str, int]]:
    """How often each pair of rate and length occurs, in words."""
    return _counted(f"{record.sampling_rate:g} Hz, {record.seconds:.4g} s" for record in survey.records)


def lead_sets(survey: QualitySurvey) -> list[tuple[str, int]]:
    """How often each set of leads occurs, in words."""
    return _counted(f"{len(record.lead_names)}: {', '.join(record.lead_names)}" for record in survey.records)


def in_words(survey: QualitySurvey) -> list[str]:
    """The summary that the command prints."""
    total = len(survey.records)
    lines = [f"{total:,} records read, {len(survey.left_out):,} left out", "", "findings"]
    for kind in FINDING_KINDS.values():
        count = sum(map(kind.is_found, survey.records))
        lines.append(f"  {kind.title:24} {count:8,}  {count / total:7.2%}")
    lines.append(f"  {'any of these':24} {sum(1 for record in survey.records if findings_of(record)):8,}")
    lines += ["", f"{'':26} {'5 %':>9} {'median':>9} {'95 %':>9} {'most':>9}"]
    for column, title in LEVELS.items():
        values = levels(survey, column)
        if values.size:
            quantiles = np.quantile(values, (0.05, 0.5, 0.95, 1.0))
            lines.append(f"  {title:24} " + " ".join(f"{value:9.4f}" for value in quantiles))
    for title, counts in (("rate and length", rates_and_lengths(survey)), ("leads", lead_sets(survey))):
        lines += ["", title, *(f"  {count:8,}  {words}" for words, count in counts[:_MOST_LINES])]
        rest = sum(count for _, count in counts[_MOST_LINES:])
        lines += [f"  {rest:8,}  in {len(counts) - _MOST_LINES:,} other ways"] if rest else []
    return lines


_MOST_LINES = 12


def _assess(header: Path) -> RecordQuality:
    record = read_record(header)
    return RecordQuality(
        header=header,
        sampling_rate=record.sampling_rate,
        seconds=record.signal.shape[1] / record.sampling_rate,
        lead_names=record.lead_names,
        remarks=record.findings,
        columns=quality_columns(record),
    )


def _counted(words: Iterable[str]) -> list[tuple[str, int]]:
    return collections.Counter(words).most_common()


__all__ = [
    "FINDING_KINDS",
    "LEVELS",
    "FindingKind",
    "QualitySurvey",
    "RecordQuality",
    "findings_of",
    "highest_records",
    "in_words",
    "lead_sets",
    "levels",
    "rates_and_lengths",
    "survey_quality",
    "worst_records",
]
