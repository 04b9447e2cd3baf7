"""What `ecg-jepa check-leakage` says: a line a finding, a table, and the same as JSON."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from dataset_scripts.leakage import RELATIONS, DuplicatePair, LeakageReport
from dataset_scripts.outputs import whole_file
from dataset_scripts.recordings import Recording
from dataset_scripts.skipped import list_skipped

SCHEMA_VERSION = 1


def in_words(report: LeakageReport) -> Iterator[str]:
    """Lines for a person and for `grep`: each pair on one line with both ids."""
    yield from map(_pair_line, report.pairs)
    for shared in report.patients:
        counts = ", ".join(f"{count} in {_place_name(*place)}" for place, count in shared.counts.items())
        yield f"patient {shared.patient_id}: {counts}"
    if report.pairs or report.patients:
        yield ""
    yield from _table(report)
    if report.left_out:
        yield f"{len(report.left_out):,} left out:"
        yield from list_skipped(report.left_out)


def write_json(report: LeakageReport, path: str | os.PathLike) -> None:
    """Write all findings as JSON, whole or not at all.

    Raises:
        EcgJepaOutputError: the place cannot be written to.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "compared": report.compared,
        "counts": _counts(report),
        "pairs": [_pair_json(pair) for pair in report.pairs],
        "patients": [
            {
                "patient_id": shared.patient_id,
                "recordings": [
                    {"corpus": corpus, "split": split, "count": count}
                    for (corpus, split), count in shared.counts.items()
                ],
            }
            for shared in report.patients
        ],
        "left_out": [
            {"place": record.place, "reason": record.reason, "message": record.message} for record in report.left_out
        ],
    }
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _pair_line(pair: DuplicatePair) -> str:
    places = " and ".join(dict.fromkeys(_place_name(one.corpus, one.split) for one in (pair.first, pair.second)))
    leads = f"{pair.match.leads} lead{'s' if pair.match.leads > 1 else ''}"
    return f"{pair.first} = {pair.second}  {places}  correlation {pair.match.correlation:.4f} over {leads}"


def _place_name(corpus: str, split: str | None) -> str:
    return f"{corpus} {split}" if split else corpus


def _counts(report: LeakageReport) -> Mapping[str, int]:
    pairs = Counter(pair.relation for pair in report.pairs)
    return {relation: pairs[relation] for relation in RELATIONS} | {"patients in several splits": len(report.patients)}


def _table(report: LeakageReport) -> Iterator[str]:
    yield f"{report.compared:8,}  recordings compared"
    for what, count in _counts(report).items():
        yield f"{count:8,}  {what if what.startswith('patients') else f'pairs {what}'}"


def _pair_json(pair: DuplicatePair) -> dict[str, Any]:
    return {
        "relation": pair.relation,
        "correlation": round(pair.match.correlation, 6),
        "leads": pair.match.leads,
        "lag_seconds": pair.match.lag_seconds,
        "recordings": [_recording_json(recording) for recording in (pair.first, pair.second)],
    }


def _recording_json(recording: Recording) -> dict[str, str | None]:
    names = ("corpus", "record_id", "split", "patient_id", "place")
    return {name: getattr(recording, name) for name in names}
