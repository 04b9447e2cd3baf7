"""Records that a run leaves out: counted by reason, listed, shown at the end; never dropped without a word."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SkippedRecord:
    """A record left out: where it is, a few words by which it is counted, and the whole message.

    `by_choice`: the record is sound, and the options exclude it.
    """

    place: str
    reason: str
    message: str
    by_choice: bool = False


def skipped_by(error: Exception, place: str) -> SkippedRecord:
    """The record at `place` as left out because of `error`."""
    reason = getattr(error, "reason", "outside the input contract")
    return SkippedRecord(place, reason, str(error), by_choice=getattr(error, "by_choice", False))


def list_skipped(skipped: Sequence[SkippedRecord], most: int | None = None) -> list[str]:
    """Lines for a person: the count of each reason, then the records (the first `most`) with their messages.

    With `most=0` the counts alone.
    """
    reasons = collections.Counter(record.reason for record in skipped).most_common()
    lines = [f"{count:6,} x {reason}" for reason, count in reasons]
    lines += [f"  {record.place}: {record.message}" for record in skipped[:most]]
    rest = len(skipped) - len(skipped[:most])
    return lines + ([f"  ... and {rest:,} more"] if rest and most != 0 else [])
