"""Metrics of labels that may hold together, with intervals: what a score is worth, and what a difference is worth.

Every metric is computed on all resamples at once: a resample is a row of weights, how often each record was drawn, and
rank statistics of weighted records are cumulative sums over the records in the order of their scores. So 1,000
resamples of 2,200 records and 71 classes take seconds (test_metrics.py holds them against scikit-learn).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modeling_ecg_jepa import EcgJepaInputError

from .diagnostics import Estimate

#: Resamples computed at once: their weights, in the order of a class's scores, should stay in the processor's cache.
_AT_ONCE = 64

Metric = Callable[..., np.ndarray]
"""Labels, scores, weights and folds as of `auroc` -> (resamples, classes)."""


# One class at a time --------------------------------------------------------------------------------------------------


def auroc(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None, folds: np.ndarray | None = None
) -> np.ndarray:
    """Area under the receiver operating characteristic of each class against the rest: of all pairs of a record with
    the class and one without it, the share in which the first has the higher score; equal scores count half.

    Args:
        labels: (records, classes) boolean.
        scores: (records, classes), higher where the class is likelier.
        weights: (resamples, records), how often each record counts; each once if not given.
        folds: (records,). With it only pairs of one fold are compared, and counted over all folds: scores of models
            that were fitted to different records share no scale.

    Returns:
        (resamples, classes), or (classes,) without weights; NaN where a class has not both outcomes.
    """
    return _by_class(_ranked_pairs, labels, scores, weights, folds)


def average_precision(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None, folds: np.ndarray | None = None
) -> np.ndarray:
    """Area under the precision-recall curve as a sum of steps (scikit-learn's definition): the mean, over the records
    with the class, of the precision among all records (of their fold) that score as high. Otherwise as `auroc`."""
    return _by_class(_precisions, labels, scores, weights, folds)


def macro(of_classes: np.ndarray) -> np.ndarray:
    """The mean over the classes (last axis) in which a metric is defined; NaN where it is in none."""
    defined = ~np.isnan(of_classes)
    with np.errstate(invalid="ignore"):
        return np.where(defined, of_classes, 0).sum(-1) / np.where(defined.any(-1), defined.sum(-1), np.nan)


def _by_class(
    of_class: Callable[..., tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray | None,
    folds: np.ndarray | None,
) -> np.ndarray:
    labels, scores = np.asarray(labels, bool), np.asarray(scores, float)
    _check(labels, scores, weights)
    if weights is None:
        return _by_class(of_class, labels, scores, np.ones((1, len(labels))), folds)[0]
    sums, counts = np.zeros((2, len(weights), labels.shape[1]))
    for part in _parts(len(labels), folds):
        orders = [_in_order(column) for column in scores[part].T]
        for start in range(0, len(weights), _AT_ONCE):
            some = np.ascontiguousarray(weights[start : start + _AT_ONCE, part].T, dtype=float)
            for place, (order, first, end) in enumerate(orders):
                summed, count = of_class(labels[part][order, place], first, end, some[order])
                sums[start : start + _AT_ONCE, place] += summed
                counts[start : start + _AT_ONCE, place] += count
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _parts(records: int, folds: np.ndarray | None) -> list[np.ndarray]:
    return [np.arange(records)] if folds is None else [np.flatnonzero(folds == fold) for fold in np.unique(folds)]


def _check(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None) -> None:
    if labels.shape != scores.shape or labels.ndim != 2:
        raise EcgJepaInputError(f"Labels {labels.shape} and scores {scores.shape} must both be (records, classes).")
    if weights is not None and weights.shape[1:] != labels.shape[:1]:
        raise EcgJepaInputError(f"Weights {weights.shape} must be (resamples, {len(labels)}): one a record.")
    if not np.isfinite(scores).all():
        place = tuple(np.argwhere(~np.isfinite(scores))[0].tolist())
        raise EcgJepaInputError(f"The score at {place} (record, class) is {scores[place]}; it must be a number.")


def _in_order(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of ascending scores and, for each place in it, where the run of equal scores begins and ends."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    return order, np.searchsorted(ordered, ordered, "left"), np.searchsorted(ordered, ordered, "right")


def _ranked_pairs(
    holds: np.ndarray, first: np.ndarray, end: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of one class the pairs in the right order, and all pairs, (resamples,) each.

    Args:
        holds: whether each record has the class, in the order of scores.
        first, end: as of `_in_order`.
        weights: (records, resamples) in that order.
    """
    negatives = _sums(np.where(holds[:, None], 0, weights))
    positives = weights[holds]
    beaten = (negatives[first[holds]] + negatives[end[holds]]) / 2
    return (positives * beaten).sum(0), positives.sum(0) * negatives[-1]


def _precisions(
    holds: np.ndarray, first: np.ndarray, end: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of one class the sum of precisions over the records that have it, and their number; 0 and 0 if all have it."""
    all_records, positives = _sums(weights), _sums(np.where(holds[:, None], weights, 0))
    taken = all_records[-1] - all_records[first[holds]]  # with at least this score
    right = positives[-1] - positives[first[holds]]
    precision = np.divide(right, taken, out=np.zeros_like(right), where=taken > 0)
    defined = positives[-1] < all_records[-1]
    return defined * (weights[holds] * precision).sum(0), defined * positives[-1]


def _sums(weights: np.ndarray) -> np.ndarray:
    """Cumulative sums down the records, from 0: (records + 1, resamples)."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


@dataclass(frozen=True)
class Outcomes:
    """A class and how many records have it and have it not; without both no metric is defined."""

    name: str
    positives: int
    negatives: int

    @property
    def defined(self) -> bool:
        return self.positives > 0 and self.negatives > 0


def outcomes(labels: np.ndarray, names: Sequence[str]) -> list[Outcomes]:
    """Of each class of labels (records, classes)."""
    positives = np.asarray(labels, bool).sum(0).tolist()
    return [Outcomes(name, count, len(labels) - count) for name, count in zip(names, positives, strict=True)]


# Resamples ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resamples:
    """How often each record counts: in the set itself (once, row 0), then in each resample of it.

    Attributes:
        weights: (1 + resamples, records).
        unit: what was drawn with replacement, in words.
    """

    weights: np.ndarray
    unit: str


def resample_patients(patients: Sequence[str | None], seed: int, resamples: int = 1000) -> Resamples:
    """Draw patients with replacement, each with all their records; a record of unknown patient stands for itself.

    Args:
        patients: the id of each record's patient, or None.
    """
    groups, group = np.unique(patient_groups(patients), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(groups), np.full(len(groups), 1 / len(groups)), resamples)
    weights = np.concatenate([np.ones((1, len(group)), dtype=drawn.dtype), drawn[:, group]])
    return Resamples(weights, _unit(list(patients)))


def patient_groups(patients: Sequence[str | None]) -> list[str]:
    """What stays together: the patient, or the record itself where the patient is unknown."""
    return [f"record {place}" if patient is None else f"patient {patient}" for place, patient in enumerate(patients)]


def _unit(patients: list[str | None]) -> str:
    unknown = patients.count(None)
    if unknown == len(patients):
        return f"records ({unknown:,}; their patients are unknown)"
    known = f"patients ({len(set(patients) - {None}):,})"
    return f"{known}, and records where the patient is unknown ({unknown:,})" if unknown else known


def estimate(values: np.ndarray) -> Estimate:
    """A number with its 95% interval, from its values (1 + resamples,) in the order of `Resamples`; those in which it
    is undefined do not count.

    The interval is that of the resamples' percentiles, moved by the distance of their mean from the number. That is
    nothing for the AUROC; but copies of a record rank together, which makes the average precision of a resample too
    high, with few records by half the width of the interval.
    """
    resampled = values[1:] - np.nanmean(values[1:]) + values[0]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))


def macro_values(
    metric: Metric, labels: np.ndarray, scores: np.ndarray, resamples: Resamples, folds: np.ndarray | None = None
) -> np.ndarray:
    """The macro metric in the set itself and in each resample, (1 + resamples,). Two methods' values on the same
    resamples may be subtracted, and a method's runs averaged, before `estimate`.

    Classes without both outcomes in a resample are left out there, whichever the method.
    """
    return macro(metric(labels, scores, resamples.weights, folds))
