"""Boundaries that were found against those that are marked, at the field's window of 150 ms."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from dataset_scripts.ludb import Wave

from .delineation import FoundWave, end_of, span_of, start_of

#: A found boundary may lie this far from the marked one: ANSI/AAMI EC57, as the literature on LUDB applies it.
WINDOW_SECONDS = 0.15

#: What is scored, a row each: wave and boundary.
POINTS = [(wave, point) for wave in ("P", "QRS", "T") for point in ("onset", "end")]

#: Of each row: true positives, false negatives, false positives, sum of timing errors in ms, sum of their squares.
COUNTS = ("true_positives", "false_negatives", "false_positives", "errors", "squared_errors")


class Matched(NamedTuple):
    """Marked and found boundaries, paired one to one.

    Attributes:
        pairs: (pairs, 2) places in the marked and in the found.
        missed, false: places of the marked and of the found without a partner.
    """

    pairs: np.ndarray
    missed: np.ndarray
    false: np.ndarray


def match(marked: Sequence[int], found: Sequence[int], window: int) -> Matched:
    """As many pairs within `window` samples, that included, as there can be, and of these the closest."""
    apart = np.abs(np.subtract.outer(np.asarray(marked, float), np.asarray(found, float)))
    if not apart.size:
        return Matched(np.empty((0, 2), int), np.arange(len(marked)), np.arange(len(found)))
    # One pair too far apart costs more than all others together.
    cost = np.where(apart <= window, apart, (window + 1.0) * (apart.size + 1))
    pairs = np.stack(linear_sum_assignment(cost), axis=1)
    pairs = pairs[apart[pairs[:, 0], pairs[:, 1]] <= window]
    return Matched(
        pairs,
        np.setdiff1d(np.arange(len(marked)), pairs[:, 0]),
        np.setdiff1d(np.arange(len(found)), pairs[:, 1]),
    )


def count_lead(waves: Sequence[Wave], found: Sequence[FoundWave], sampling_rate: float) -> np.ndarray:
    """(POINTS, COUNTS) of one lead.

    Outside the marked span nothing that was found is false, since the first and the last beats are not marked. A
    boundary that is not marked in a wave that is (its peak stands for it) is neither demanded nor, if found, false.
    """
    window = round(WINDOW_SECONDS * sampling_rate)
    start, end = span_of(waves)
    counts = np.zeros((len(POINTS), len(COUNTS)))
    for row, (kind, point) in zip(counts, POINTS, strict=True):
        of_kind = [wave for wave in waves if wave.kind == kind]
        places = [start_of(wave) if point == "onset" else end_of(wave) for wave in of_kind]
        demanded = np.array([getattr(wave, point) is not None for wave in of_kind], dtype=bool)
        candidates = [getattr(wave, point) for wave in found if wave.kind == kind]
        matched = match(places, candidates, window)
        pairs = matched.pairs[demanded[matched.pairs[:, 0]]]
        errors = (np.array(candidates)[pairs[:, 1]] - np.array(places)[pairs[:, 0]]) * 1000 / sampling_rate
        false = sum(start <= candidates[place] <= end for place in matched.false)
        row[:] = len(pairs), demanded[matched.missed].sum(), false, errors.sum(), np.square(errors).sum()
    return counts


def count_record(
    waves: Mapping[str, Sequence[Wave]], found: Mapping[str, Sequence[FoundWave]], sampling_rate: float
) -> np.ndarray:
    """(POINTS, COUNTS) over the leads in which something was looked for."""
    counts = [count_lead(waves[lead], found[lead], sampling_rate) for lead in found]
    return np.sum(counts, axis=0) if counts else np.zeros((len(POINTS), len(COUNTS)))


def measures(counts: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Of each row of `POINTS` in each resample, (resamples, POINTS).

    Args:
        counts: (records, POINTS, COUNTS).
        weights: (resamples, records), how often each record counts.

    Returns:
        "sensitivity", "positive_predictive_value", and in ms "mean_error" (above 0: found late) and "sd_error" of the
        true positives; NaN where nothing is marked or found.
    """
    sums = np.einsum("sr,rpc->spc", weights.astype(float), counts)
    hits, missed, false, errors, squares = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = errors / hits
        spread = np.sqrt(np.maximum(squares - hits * mean**2, 0) / (hits - 1))
        return {
            "sensitivity": hits / (hits + missed),
            "positive_predictive_value": hits / (hits + false),
            "mean_error": mean,
            "sd_error": np.where(hits > 1, spread, np.nan),
        }
