"""What intervals cost: `python tests/benchmarks/bench_metrics.py [--resamples 1000] [--records 2200] [--classes 71]`.

Each metric on the whole set and all resamples at once, as PTB-XL's test fold with all 71 statements needs it, on one
thread; beside scikit-learn's AUROC, one resample and class at a time, timed on a few resamples and multiplied.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `train` runs from a checkout
from train import metrics

SLOW = 3


def seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("resamples", 1000), ("records", 2200), ("classes", 71)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = rng.random((options.records, options.classes)) < rng.uniform(0.02, 0.4, options.classes)
    probabilities = 1 / (1 + np.exp(-rng.normal(size=labels.shape) - labels))
    weights = metrics.resample_patients([None] * options.records, 0, options.resamples).weights
    by_name = {
        "auroc": metrics.auroc,
        "average precision": metrics.average_precision,
        "sensitivity at specificity": metrics.sensitivity_at_specificity,
        "F1": lambda *given: metrics.f1(given[0], given[1] >= 0.5, given[2]),
        "Brier": metrics.brier,
        "calibration error": metrics.expected_calibration_error,
        "Fmax": metrics.fmax,
    }
    print(f"{options.resamples:,} resamples of {options.records:,} records x {options.classes} classes, one thread")
    with threadpool_limits(1):
        for name, metric in by_name.items():
            print(f"{name:<28}{seconds(lambda metric=metric: metric(labels, probabilities, weights)):8.2f} s")
        slow = seconds(
            lambda: [
                roc_auc_score(labels[:, place], probabilities[:, place], sample_weight=row)
                for row in weights[:SLOW]
                for place in range(options.classes)
            ]
        )
    print(f"{'auroc, scikit-learn':<28}{slow * options.resamples / SLOW:8.0f} s, from {SLOW} resamples")


if __name__ == "__main__":
    main()
