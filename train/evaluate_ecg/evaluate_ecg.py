"""The metrics of train/metrics.py for the library `evaluate`: evaluate.load("train/evaluate_ecg"), without network.

Run from a checkout, so that `train` can be imported. `evaluate` copies this file and reads its imports line by line.
"""

import datasets
import evaluate
import numpy as np

from train.metrics import measures, summarise

DESCRIPTION = "Metrics of ECG classifiers whose labels may hold together: AUROC, AUPRC, F1, Fmax, Brier, calibration."

INPUTS = """
Args:
    predictions: probabilities, (records, classes).
    references: 1 where a class holds, else 0, (records, classes).
    thresholds: one a class, chosen on validation; then F1 is given at these too.
    one_label: a record has one class, and the likeliest is predicted.

Returns:
    macro_auroc, macro_average_precision, macro_f1_at_0.5, fmax, macro_brier, macro_expected_calibration_error, ...:
    means over the classes in which a metric is defined; and undefined_classes, the number of those without both
    outcomes, which are left out of the ranking metrics.

Example, from a checkout:
    >>> metric = evaluate.load("train/evaluate_ecg")
    >>> metric.compute(predictions=[[0.9, 0.2], [0.3, 0.7]], references=[[1, 0], [0, 1]])["macro_auroc"]
    1.0
"""


class EvaluateEcg(evaluate.Metric):
    """Macro metrics of probabilities, as a dictionary of numbers."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("int8")),
                }
            ),
        )

    def _compute(self, predictions, references, thresholds=None, one_label=False) -> dict[str, float]:
        labels, probabilities = np.asarray(references, bool), np.asarray(predictions, float)
        values = measures(labels, probabilities, thresholds=thresholds, one_label=one_label)
        return {**summarise(values), "undefined_classes": int(np.isnan(values["auroc"]).sum())}
