"""The probe itself: logistic regression on frozen features, its penalty chosen inside the part that it is fitted to."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from .metrics import auroc, macro
from .probe_records import Part, inner_splits

#: How the penalty is chosen: among these inverse penalties (scikit-learn's C), from the strongest on until `patience`
#: in a row are worse than the best before, by splits of the fitted part by patient.
SETTINGS = {"C": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0), "patience": 2, "inner_splits": 4}

#: Of the solver; nearly free weights of 1,536 features need 500.
_MOST_ITERATIONS = 2000


class Fitted(NamedTuple):
    """Scores (tested records, classes), and what was chosen on the way: for the cell's JSON."""

    scores: np.ndarray
    chosen: dict


def fit_and_score(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, part: Part, seed: int) -> Fitted:
    """Fit a probe to a part's records and score those that it tests.

    Args:
        features: (all records, features); NaN is a missing lead and counts as its mean.
        labels: (all records, classes) boolean.
        groups: (all records,), the patients: none is fitted and validated when the penalty is chosen.
        seed: of the splits in which it is chosen.
    """
    fitted = part.fitted
    penalty, inner = choose_penalty(features[fitted], labels[fitted], groups[fitted], seed)
    probe = _Path(features[fitted], labels[fitted])
    return Fitted(probe.fit(penalty).scores(features[part.tested]), {"C": penalty, "inner_macro_auroc": inner})


def choose_penalty(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[float, dict[str, float]]:
    """The C of the highest macro AUROC over records that were not fitted, and the macro AUROC of each C; all classes
    share one C."""
    splits = list(inner_splits(groups, SETTINGS["inner_splits"], seed))
    paths = [_Path(features[fitted], labels[fitted]) for fitted, _ in splits]
    reached: dict[float, float] = {}
    for penalty in SETTINGS["C"]:
        scores = [
            path.fit(penalty).scores(features[validated]) for path, (_, validated) in zip(paths, splits, strict=True)
        ]
        reached[penalty] = inner_macro_auroc([labels[validated] for _, validated in splits], scores)
        best = max(reached, key=reached.__getitem__)
        if len(reached) - list(reached).index(best) > SETTINGS["patience"]:
            break
    return best, {f"{penalty:g}": round(value, 5) for penalty, value in reached.items()}


def inner_macro_auroc(labels: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> float:
    """Macro AUROC over inner splits: of each class the mean over the splits in which it has both outcomes.

    Not over the pooled records: a split that holds more of a class leaves fewer to fit, so its scores lie lower, and
    pooled scores of a strong penalty come out below chance.
    """
    by_split = np.stack([auroc(*split) for split in zip(labels, scores, strict=True)])
    return float(macro(macro(by_split.T)))


class _Path:
    """One logistic regression a class on standardised features, each fit starting from the one before."""

    def __init__(self, features: np.ndarray, labels: np.ndarray):
        self.scaler = StandardScaler().fit(features)
        self.features, self.labels = self._standardised(features), labels
        self.models = [LogisticRegression(warm_start=True, max_iter=_MOST_ITERATIONS) for _ in labels.T]

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        return np.nan_to_num(self.scaler.transform(features), nan=0.0).astype(np.float32)

    def fit(self, penalty: float) -> "_Path":
        with warnings.catch_warnings():
            # The last bit of float32 may leave no way down before the gradient is as small as the solver asks.
            warnings.filterwarnings("ignore", "(?s).*ABNORMAL", ConvergenceWarning)
            for model, holds in zip(self.models, self.labels.T, strict=True):
                if holds.any() and not holds.all():
                    model.set_params(C=penalty).fit(self.features, holds)
        return self

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(records, classes) log odds; 0 for a class without both outcomes among the fitted."""
        features = self._standardised(features)
        known = [hasattr(model, "coef_") for model in self.models]
        return np.stack(
            [
                model.decision_function(features) if fits else np.zeros(len(features))
                for model, fits in zip(self.models, known, strict=True)
            ],
            axis=1,
        )
