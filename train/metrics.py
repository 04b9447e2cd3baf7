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

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Labels (records, classes), scores (records, classes), weights (resamples, records) -> (resamples, classes)."""


# One class at a time --------------------------------------------------------------------------------------------------


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the receiver operating characteristic of each class against the rest; ties count half.

    Args:
        labels: (records, classes) boolean.
        scores: (records, classes), higher where the class is likelier.
        weights: (resamples, records), how often each record counts; each once if not given.

    Returns:
        (resamples, classes), or (classes,) without weights; NaN where a class has not both outcomes.
    """
    return _by_class(_auroc, labels, scores, weights)


def average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the precision-recall curve as a sum of steps (scikit-learn's definition); otherwise as `auroc`."""
    return _by_class(_average_precision, labels, scores, weights)


def macro(of_classes: np.ndarray) -> np.ndarray:
    """The mean over the classes (last axis) in which a metric is defined; NaN where it is in none."""
    defined = ~np.isnan(of_classes)
    with np.errstate(invalid="ignore"):
        return np.where(defined, of_classes, 0).sum(-1) / np.where(defined.any(-1), defined.sum(-1), np.nan)


def _by_class(
    of_class: Callable[..., np.ndarray], labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    labels, scores = np.asarray(labels, bool), np.asarray(scores, float)
    _check(labels, scores, weights)
    if weights is None:
        return _by_class(of_class, labels, scores, np.ones((1, len(labels))))[0]
    values = np.empty((len(weights), labels.shape[1]))
    orders = [_in_order(column) for column in scores.T]
    for start in range(0, len(weights), _AT_ONCE):
        some = np.ascontiguousarray(weights[start : start + _AT_ONCE].T, dtype=float)
        for place, (order, first, end) in enumerate(orders):
            values[start : start + _AT_ONCE, place] = of_class(labels[order, place], first, end, some[order])
    return values


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


def _auroc(holds: np.ndarray, first: np.ndarray, end: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of one class: labels in the order of scores, `_in_order`'s runs, weights (records, resamples) in that order."""
    negatives = _sums(np.where(holds[:, None], 0, weights))
    positive = weights[holds]
    beaten = (negatives[first[holds]] + negatives[end[holds]]) / 2
    pairs = positive.sum(0) * negatives[-1]
    return np.divide((positive * beaten).sum(0), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _average_precision(holds: np.ndarray, first: np.ndarray, end: np.ndarray, weights: np.ndarray) -> np.ndarray:
    all_weights, positives = _sums(weights), _sums(np.where(holds[:, None], weights, 0))
    taken = all_weights[-1] - all_weights[first[holds]]  # the records with at least this score
    right = positives[-1] - positives[first[holds]]
    precision = np.divide(right, taken, out=np.zeros_like(right), where=taken > 0)
    total = positives[-1]
    defined = (total > 0) & (total < all_weights[-1])
    return np.divide((weights[holds] * precision).sum(0), total, out=np.full(len(total), np.nan), where=defined)


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
    """A number with its 95% percentile interval, from its values (1 + resamples,) in the order of `Resamples`; those
    in which it is undefined do not count."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))


# All resamples of a method, which may be paired with those of another -------------------------------------------------


def macro_values(metric: Metric, labels: np.ndarray, scores: np.ndarray, resamples: Resamples) -> np.ndarray:
    """The macro metric in the set itself and in each resample, (1 + resamples,); two methods' values on the same
    resamples may be subtracted, and a method's runs averaged, before `estimate`.

    Classes without both outcomes in a resample are left out there, whichever the method.
    """
    return macro(metric(labels, scores, resamples.weights))


def macro_values_by_fold(
    metric: Metric, labels: np.ndarray, scores: np.ndarray, resamples: Resamples, folds: np.ndarray
) -> np.ndarray:
    """As `macro_values`, within each fold (records,): (folds, 1 + resamples), folds in ascending order.

    Scores of models fitted to different parts need not share a scale; within a fold all are of one model.
    """
    return np.stack(
        [
            macro(metric(labels[folds == fold], scores[folds == fold], resamples.weights[:, folds == fold]))
            for fold in np.unique(folds)
        ]
    )
