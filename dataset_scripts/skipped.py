"""Records that a run leaves out: counted by reason, listed, shown at the end; never dropped without a word."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SkippedRecord:
    """A record left out: where it is, a few words by which it is counted, and the whole message."""

    place: str
    reason: str
    message: str


def skipped_by(error: Exception, place: str) -> SkippedRecord:
    """The record at `place` as left out because of `error`."""
    return SkippedRecord(place, getattr(error, "reason", "outside the input contract"), str(error))


def list_skipped(skipped: Sequence[SkippedRecord], most: int | None = None) -> list[str]:
    """Lines for a person: the count of each reason, then the records (the first `most`) with their messages."""
    reasons = collections.Counter(record.reason for record in skipped).most_common()
    lines = [f"{count:6,} x {reason}" for reason, count in reasons]
    lines += [f"  {record.place}: {record.message}" for record in skipped[:most]]
    rest = len(skipped) - len(skipped[:most])
    return lines + ([f"  ... and {rest:,} more"] if rest else [])
