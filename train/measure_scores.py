"""How far predictions lie from the truth: errors, agreement, and their values in resamples of patients."""

import numpy as np

from .metrics import correlation

#: Of the normal distribution, for limits within which 95% of differences lie: Bland and Altman, Lancet 1:307 (1986).
_LIMIT = 1.96


def differences(predictions: np.ndarray, truth: np.ndarray, circular: bool) -> np.ndarray:
    """Prediction - truth; of degrees the shorter way round, from -180 up to 180."""
    raw = np.asarray(predictions) - truth
    return (raw + 180) % 360 - 180 if circular else raw


def agreement(predictions: np.ndarray, truth: np.ndarray, weights: np.ndarray, circular: bool) -> dict[str, np.ndarray]:
    """Measures of agreement in each resample, (resamples,).

    Args:
        predictions, truth: (records,), in the measurement's unit.
        weights: (resamples, records), how often each record counts.

    Returns:
        "mae", the mean absolute error; "correlation" (Pearson's, or for degrees the circular one of Jammalamadaka and
        SenGupta; NaN where either does not vary); "bias", the mean difference; "lower_limit" and "upper_limit" of
        agreement, the bias -+ 1.96 standard deviations of the differences.
    """
    apart = differences(predictions, truth, circular)
    total = weights.sum(1)
    bias = weights @ apart / total
    # Two-pass, since a mean of squares minus a squared mean loses digits where the bias is large.
    square = np.einsum("sr,sr->s", weights, np.square(apart - bias[:, None]))
    spread = np.sqrt(square / np.maximum(total - 1, 1))
    return {
        "mae": weights @ np.abs(apart) / total,
        "correlation": _circular_correlation(truth, predictions, weights)
        if circular
        else correlation(truth[:, None], predictions[:, None], weights)[:, 0],
        "bias": bias,
        "lower_limit": bias - _LIMIT * spread,
        "upper_limit": bias + _LIMIT * spread,
    }


def _circular_correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    first, second = (_sines_about_mean(np.radians(degrees), weights) for degrees in (first, second))
    both, of_first, of_second = (
        np.einsum("sr,sr,sr->s", weights.astype(float), *pair)
        for pair in ((first, second), (first, first), (second, second))
    )
    size = np.sqrt(of_first * of_second)
    return np.divide(both, size, out=np.full(len(both), np.nan), where=size > 1e-12)


def _sines_about_mean(angle: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(records,) in radians -> (resamples, records), about the mean direction of each resample."""
    mean = np.arctan2(weights @ np.sin(angle), weights @ np.cos(angle))
    return np.sin(angle - mean[:, None])
