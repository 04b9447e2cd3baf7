"""How pretraining fails, told from the lines of the log, in plain words as soon as it shows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]

#: Below these a run has a signature of failure; healthy runs of every recipe stay well above (see the tests).
LEAST_CONTENT_SHARE = 0.01
LEAST_RANK_SHARE = 0.25
LEAST_DISTANCE = 0.005

COLLAPSE_ONTO_POSITIONS = """\
Collapse onto positions: only {content_share:.4f} of the targets' variance lies between records; the rest says where a
patch is, not what it holds. The loss looks good and means nothing. On small data use the levers:
--patch_initializer_range 0.4 --position_scale 0.2 --target_centering true."""

RANK_COLLAPSE = """\
Rank collapse: the {who}'s patches use {now:.1f} directions, at the start {start:.1f}. Embeddings become
alike. Lower --learning_rate, lengthen --warmup_steps, or raise --momentum_start."""

MOMENTUM_TOO_LOW = """\
Momentum too low: the teacher follows the student so fast (distance {student_teacher_distance:.4f}) that the student
predicts little but itself. Raise --momentum_start, {momentum:.4f} now."""


def failure(lines: Sequence[Line]) -> str | None:
    """What the newest line of a log shows to go wrong, in words that name the remedy; None if nothing does.

    Args:
        lines: what `watching.Watch` wrote so far, the first from before the first step.
    """
    if len(lines) < 2:  # before the first step nothing has failed yet: the paper's settings begin so and may climb
        return None
    return next(filter(None, (signature(lines) for signature in _SIGNATURES)), None)


def _collapse_onto_positions(lines: Sequence[Line]) -> str | None:
    low = lines[-1]["content_share"] < LEAST_CONTENT_SHARE
    return COLLAPSE_ONTO_POSITIONS.format(**lines[-1]) if low else None


def _rank_collapse(lines: Sequence[Line]) -> str | None:
    for who in ("teacher", "student"):
        start, now = lines[0][f"{who}_rank_me"], lines[-1][f"{who}_rank_me"]
        if now < LEAST_RANK_SHARE * start:
            return RANK_COLLAPSE.format(who=who, now=now, start=start)
    return None


def _momentum_too_low(lines: Sequence[Line]) -> str | None:
    line = lines[-1]
    # At momentum 1 the teacher stands still, and a rate near 0 leaves nothing to follow.
    moving = line.get("momentum", 1.0) < 0.99 and line["learning_rate"] > 0.1 * max(
        earlier.get("learning_rate", 0.0) for earlier in lines
    )
    low = moving and line["student_teacher_distance"] < LEAST_DISTANCE
    return MOMENTUM_TOO_LOW.format(**line) if low else None


_SIGNATURES: tuple[Callable[[Sequence[Line]], str | None], ...] = (
    _collapse_onto_positions,
    _rank_collapse,
    _momentum_too_low,
)
