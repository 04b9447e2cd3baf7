"""Metrics of labels that may hold together, and of measurements, with intervals: what a score is worth, and what a
difference is worth.

Every metric is computed on all resamples at once: a resample is a row of weights, how often each record was drawn, and
rank statistics of weighted records are cumulative sums over the records in the order of their scores. So 1,000
resamples of 2,200 records and 71 classes take seconds (test_metrics.py holds them against scikit-learn).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeling_ecg_jepa import EcgJepaInputError

from .diagnostics import Estimate

#: Resamples computed at once: their weights, in the order of a class's scores, should stay in the processor's cache.
_AT_ONCE = 64

#: The specificity at which `measures` looks at sensitivity.
SPECIFICITY = 0.9

#: Bins of equal width in which probabilities are compared with frequencies.
CALIBRATION_BINS = 15

#: Measures that are not from 0 to 1, and from where to where they are; what shifts an interval must not leave it.
_BOUNDS = {"correlation": (-1.0, 1.0), "mean_absolute_error": (0.0, np.inf)}

#: The thresholds among which Fmax is sought.
_FMAX_THRESHOLDS = np.linspace(0.01, 0.99, 99)

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


def sensitivity_at_specificity(
    labels: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray | None = None,
    folds: np.ndarray | None = None,
    specificity: float = SPECIFICITY,
) -> np.ndarray:
    """The largest share of the records with a class that some threshold finds, while it leaves at least the share
    `specificity` of the others alone. The threshold is sought in each resample anew. Otherwise as `auroc`."""
    return _by_class(functools.partial(_found, specificity=specificity), labels, scores, weights, folds)


def f1(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Harmonic mean of precision and recall of yes-or-no predictions (records, classes); NaN where no record has the
    class. Otherwise as `auroc`."""
    labels, predicted = np.asarray(labels, bool), np.asarray(predicted, bool)
    both, either = _sums_of([labels & predicted, labels.astype(float) + predicted], weights)
    positives = _sums_of([labels], weights)[0]
    return np.divide(2 * both, either, out=np.full(both.shape, np.nan), where=positives > 0)


def brier(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean square of the distance between probability and outcome; 0 is best. Otherwise as `auroc`."""
    squares, records = _sums_of([(probabilities - np.asarray(labels, float)) ** 2, np.ones(labels.shape)], weights)
    return squares / records


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, bins: int = CALIBRATION_BINS
) -> np.ndarray:
    """Mean distance between the mean probability and the frequency of a class, over bins of equal width, weighted by
    their records; 0 is best. Otherwise as `auroc`."""
    place = np.clip((probabilities * bins).astype(int), 0, bins - 1)
    excess = probabilities - np.asarray(labels, float)
    distances = sum(abs(_sums_of([np.where(place == each, excess, 0)], weights)[0]) for each in range(bins))
    return distances / _sums_of([np.ones(labels.shape)], weights)[0]


def macro(of_classes: np.ndarray) -> np.ndarray:
    """The mean over the classes (last axis) in which a metric is defined; NaN where it is in none."""
    defined = ~np.isnan(of_classes)
    with np.errstate(invalid="ignore"):
        return np.where(defined, of_classes, 0).sum(-1) / np.where(defined.any(-1), defined.sum(-1), np.nan)


def _sums_of(values: Sequence[np.ndarray], weights: np.ndarray | None) -> list[np.ndarray]:
    """Sums over the records of values (records, ...), for each resample where there are weights."""
    if weights is None:
        return [np.asarray(each, float).sum(0) for each in values]
    return [weights.astype(float) @ np.asarray(each, float) for each in values]


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


def _found(
    holds: np.ndarray, first: np.ndarray, end: np.ndarray, weights: np.ndarray, specificity: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of one class the records that have it and score above the lowest threshold of enough specificity, and their
    number; 0 and 0 without both outcomes."""
    cuts = np.append(np.unique(first), len(holds))
    negatives, positives = _sums(np.where(holds[:, None], 0, weights)), _sums(np.where(holds[:, None], weights, 0))
    enough = negatives[cuts] >= specificity * negatives[-1] - 1e-9
    below = np.take_along_axis(positives[cuts], enough.argmax(0)[None], axis=0)[0]
    defined = (negatives[-1] > 0) & (positives[-1] > 0)
    return defined * (positives[-1] - below), defined * positives[-1]


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


# Thresholds -----------------------------------------------------------------------------------------------------------


def best_thresholds(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of each class the threshold from which on its scores mean yes, so that F1 is highest, (classes,): halfway between
    two scores; NaN where the class has not both outcomes.

    Choose it on validation: on the records that it was chosen on, F1 flatters.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, float)
    _check(labels, scores, None)
    return np.array([_best_threshold(*columns) for columns in zip(labels.T, scores.T, strict=True)])


def _best_threshold(holds: np.ndarray, scores: np.ndarray) -> float:
    if holds.all() or not holds.any():
        return np.nan
    order, first, _ = _in_order(scores)
    ordered, cuts = scores[order], np.unique(first)  # at each cut, all from there on are predicted
    right = holds.sum() - np.append(0, np.cumsum(holds[order]))[cuts]
    best = cuts[np.argmax(2 * right / (holds.sum() + len(holds) - cuts))]
    return float(ordered[best] if best == 0 else (ordered[best - 1] + ordered[best]) / 2)


def fmax(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The highest F1 of precision and recall that are means over records, at one threshold for all classes (0.01 to
    0.99): as PTB-XL's benchmark has it (Strodthoff et al., arXiv 2004.13701).

    Precision is the mean over the records for which some class is predicted, recall over those that have some class.

    Returns:
        (resamples,), or a scalar array without weights; NaN where no record has a class.
    """
    labels = np.asarray(labels, bool)
    has, holds = labels.sum(1), labels.any(1).astype(float)
    precision, predicts, recall = (np.zeros((len(labels), len(_FMAX_THRESHOLDS))) for _ in range(3))
    for place, threshold in enumerate(_FMAX_THRESHOLDS):
        predicted = probabilities >= threshold
        right, count = (labels & predicted).sum(1), predicted.sum(1)
        predicts[:, place] = count > 0
        precision[:, place], recall[:, place] = right / np.maximum(count, 1), right / np.maximum(has, 1)
    precision, predicts, recall = _sums_of([precision, predicts, recall], weights)
    precision = precision / np.maximum(predicts, 1)
    labelled = np.asarray(_sums_of([holds], weights)[0])[..., None]
    recall = np.divide(recall, labelled, out=np.full(recall.shape, np.nan), where=labelled > 0)
    both = precision + recall
    return np.where(both == 0, 0, 2 * precision * recall / np.where(both == 0, 1, both)).max(-1)


# Measurements ---------------------------------------------------------------------------------------------------------


def absolute_error(truth: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean absolute error of each measurement (records, measurements), in its unit; records where the truth is NaN do
    not count. Otherwise as `auroc`."""
    known = ~np.isnan(truth)
    errors, records = _sums_of([np.where(known, abs(values - truth), 0), known], weights)
    return np.divide(errors, records, out=np.full(errors.shape, np.nan), where=records > 0)


def correlation(truth: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Pearson's correlation of each measurement (records, measurements) with its truth; NaN where either is constant.
    Otherwise as `absolute_error`."""
    known = ~np.isnan(truth)
    count = np.maximum(known.sum(0), 1)
    ours, theirs = (np.where(known, each - np.where(known, each, 0).sum(0) / count, 0) for each in (values, truth))
    moments = [known, ours, theirs, ours * ours, theirs * theirs, ours * theirs]
    n, sum_ours, sum_theirs, of_ours, of_theirs, of_both = _sums_of(moments, weights)
    spread = (n * of_ours - sum_ours**2) * (n * of_theirs - sum_theirs**2)
    shared = n * of_both - sum_ours * sum_theirs
    return np.divide(shared, np.sqrt(np.maximum(spread, 0)), out=np.full(n.shape, np.nan), where=spread > 1e-12)


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


# All of them ----------------------------------------------------------------------------------------------------------

Values = Mapping[str, np.ndarray]
"""Of each measure its value (classes,), or () for one of all classes; with weights of resamples a leading axis more."""


def measures(
    labels: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray | None = None,
    thresholds: Sequence[float] | np.ndarray | None = None,
    one_label: bool = False,
) -> Values:
    """Every metric of labels (records, classes) and their probabilities.

    Args:
        thresholds: one a class, chosen on other records; then F1 is given at these too.
        one_label: a record has one class, and the likeliest is predicted.
    """
    labels, probabilities = np.asarray(labels, bool), np.asarray(probabilities, float)
    values = {
        "auroc": auroc(labels, probabilities, weights),
        "average_precision": average_precision(labels, probabilities, weights),
        f"sensitivity_at_specificity_{SPECIFICITY:g}": sensitivity_at_specificity(labels, probabilities, weights),
        "brier": brier(labels, probabilities, weights),
        "expected_calibration_error": expected_calibration_error(labels, probabilities, weights),
    }
    if one_label:
        likeliest = np.arange(labels.shape[1]) == probabilities.argmax(1)[:, None]
        right, records = _sums_of([(labels & likeliest).any(1), np.ones(len(labels))], weights)
        return values | {"f1": f1(labels, likeliest, weights), "accuracy": right / records}
    values["f1_at_0.5"] = f1(labels, probabilities >= 0.5, weights)
    if thresholds is not None:
        values["f1_at_validation_thresholds"] = f1(labels, probabilities >= np.asarray(thresholds), weights)
    return values | {"fmax": fmax(labels, probabilities, weights)}


def measures_of_values(truth: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> Values:
    """Every metric of measurements (records, measurements) in their units; truth that is NaN does not count."""
    truth, values = np.asarray(truth, float), np.asarray(values, float)
    of_error, of_correlation = (metric(truth, values, weights) for metric in (absolute_error, correlation))
    return {"mean_absolute_error": of_error, "correlation": of_correlation}


def summarise(values: Values) -> dict[str, float]:
    """One number a measure, of values without resamples: `macro_` and its mean over classes where it has one a class.
    What is undefined is NaN."""
    return {
        f"macro_{name}" if each.ndim else name: float(macro(each)) if each.ndim else float(each)
        for name, each in values.items()
    }


def with_intervals(values: Values, names: Sequence[str]) -> dict[str, Any]:
    """Numbers with 95% intervals, of values on `Resamples.weights`, ready for JSON.

    Returns:
        `measures`, {name: Estimate or None} as `summarise` names them, and `classes`, the same for each class.
        None where a measure is undefined, or a resample never has it.
    """
    of_all = {
        f"macro_{name}" if each.ndim > 1 else name: macro(each) if each.ndim > 1 else each
        for name, each in values.items()
    }
    return {
        "measures": {name: _estimate_or_none(name, each) for name, each in of_all.items()},
        "classes": {
            of_class: {name: _estimate_or_none(name, each[:, place]) for name, each in values.items() if each.ndim > 1}
            for place, of_class in enumerate(names)
        },
    }


def _estimate_or_none(name: str, values: np.ndarray) -> dict[str, float] | None:
    if np.isnan(values[0]) or np.isnan(values[1:]).all():
        return None
    numbers = dataclasses.asdict(estimate(values))
    bounds = _BOUNDS.get(name.removeprefix("macro_"), (0.0, 1.0))
    return {part: round(float(np.clip(number, *bounds)), 5) for part, number in numbers.items()}
