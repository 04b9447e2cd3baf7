"""Measurements read linearly off embeddings: ridge regression, its penalty chosen inside the part that is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from .probe_records import inner_splits

#: Among these penalties, by splits of the fitted part by patient, the one of the least squared error.
SETTINGS = {"penalties": [10.0 ** (power / 2) for power in range(-2, 13)], "inner_splits": 4}


@dataclass(frozen=True, eq=False)
class FittedRidge:
    """Ridge regression on standardised features; a missing lead (NaN) counts as its mean.

    Attributes:
        center, scale: (features,), of the fitted records.
        weights: (targets, features) on standardised features.
        bias: (targets,).
        penalty: that was chosen.
    """

    center: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    penalty: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(records, features) -> (records, targets)."""
        return np.nan_to_num((features - self.center) / self.scale) @ self.weights.T + self.bias


def fit_ridge(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, seed: int) -> FittedRidge:
    """Choose a penalty by splits of these records by patient, then fit all of them.

    Args:
        features: (records, features); NaN is a missing lead.
        targets: (records, targets), which share the penalty.
        groups: (records,), the patients.
        seed: of the splits.
    """
    penalty = choose_penalty(features, targets, groups, seed)
    scaler, standardised = _standardise(features)
    model = Ridge(alpha=penalty, solver="svd").fit(standardised, targets)
    weights = model.coef_.reshape(targets.shape[1], -1)  # of one target scikit-learn drops the axis
    return FittedRidge(scaler.mean_, scaler.scale_, weights, np.atleast_1d(model.intercept_), penalty)


def choose_penalty(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """The penalty of `SETTINGS` with the least squared error over records that were not fitted."""
    penalties, number = SETTINGS["penalties"], targets.shape[1]
    errors = np.zeros(len(penalties))
    for fitted, validated in inner_splits(groups, SETTINGS["inner_splits"], seed):
        scaler, standardised = _standardise(features[fitted])
        # Every target once a penalty: then one decomposition serves them all.
        model = Ridge(alpha=np.repeat(penalties, number), solver="svd")
        model.fit(standardised, np.tile(targets[fitted], len(penalties)))
        predicted = model.predict(np.nan_to_num(scaler.transform(features[validated])))
        squared = np.square(predicted - np.tile(targets[validated], len(penalties)))
        errors += squared.sum(0).reshape(len(penalties), number).sum(1)
    return penalties[int(errors.argmin())]


def _standardise(features: np.ndarray) -> tuple[StandardScaler, np.ndarray]:
    features = np.asarray(features, dtype=float)
    with np.errstate(invalid="ignore"):  # a lead that no record has is nowhere a number
        scaler = StandardScaler().fit(features)
    return scaler, np.nan_to_num(scaler.transform(features))


def cross_validate(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray, folds: np.ndarray, seed: int
) -> tuple[np.ndarray, list[float]]:
    """Predictions (records, targets) of each record by a ridge that was fitted to the other folds, and the penalties
    chosen, a fold each."""
    predictions, penalties = np.empty(targets.shape), []
    for fold in np.unique(folds):
        tested, fitted = folds == fold, folds != fold
        ridge = fit_ridge(features[fitted], targets[fitted], groups[fitted], seed)
        predictions[tested] = ridge.predict(features[tested])
        penalties.append(ridge.penalty)
    return predictions, penalties


def mean_of_others(targets: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """What knows nothing of a record: the mean of the targets (records, targets) over the other folds."""
    predictions = np.empty(targets.shape)
    for fold in np.unique(folds):
        predictions[folds == fold] = targets[folds != fold].mean(0)
    return predictions


def folds_of(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A fold, from 0, of each record; all of a patient's in the same."""
    folds = np.empty(len(groups), dtype=int)
    for fold, (_, tested) in enumerate(inner_splits(groups, count, seed)):
        folds[tested] = fold
    return folds


# Circular measurements ------------------------------------------------------------------------------------------------


def to_targets(values: np.ndarray, circular: bool) -> np.ndarray:
    """(records,) -> (records, 1), or the sine and cosine of degrees (records, 2): -179 and 179 are neighbours, which
    no single number can say."""
    if not circular:
        return values[:, None]
    return np.stack([np.sin(np.radians(values)), np.cos(np.radians(values))], axis=1)


def from_targets(targets: np.ndarray, circular: bool) -> np.ndarray:
    """Of what was predicted (records, targets) the measurement (records,); degrees from -180 to 180."""
    return np.degrees(np.arctan2(targets[:, 0], targets[:, 1])) if circular else targets[:, 0]


def target_names(name: str, unit: str, circular: bool) -> Sequence[tuple[str, str]]:
    """Name and unit of each target of a measurement."""
    return [(f"{name}_sine", "1"), (f"{name}_cosine", "1")] if circular else [(name, unit)]
