"""Metrics and their intervals, against scikit-learn, torchmetrics, and resamples drawn one by one."""

import socket
import time
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    mean_absolute_error,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)
from torchmetrics.functional.classification import (
    binary_calibration_error,
    binary_sensitivity_at_specificity,
    multilabel_auroc,
    multilabel_average_precision,
)

from modeling_ecg_jepa import EcgJepaInputError
from train.metrics import (
    absolute_error,
    auroc,
    average_precision,
    best_thresholds,
    brier,
    correlation,
    estimate,
    expected_calibration_error,
    f1,
    fmax,
    macro,
    macro_values,
    measures,
    measures_of_values,
    outcomes,
    resample_patients,
    sensitivity_at_specificity,
    summarise,
    with_intervals,
)

SCIKIT_LEARN = [(auroc, roc_auc_score), (average_precision, average_precision_score)]


def labels_and_scores(records: int, classes: int, seed: int, levels: int | None = None):
    """Random labels, scores that know something of them, and with `levels` many equal scores."""
    rng = np.random.default_rng(seed)
    labels = rng.random((records, classes)) < rng.uniform(0.1, 0.6, classes)
    scores = labels + rng.normal(size=labels.shape)
    return labels, scores if levels is None else np.floor(scores * levels)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize(("ours", "theirs"), SCIKIT_LEARN)
def test_each_class_equals_scikit_learn_with_and_without_ties(ours, theirs, levels, seed):
    labels, scores = labels_and_scores(60, 7, seed, levels)
    expected = [theirs(labels[:, place], scores[:, place]) for place in range(7)]
    np.testing.assert_allclose(ours(labels, scores), expected, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), SCIKIT_LEARN)
def test_weights_are_scikit_learns_sample_weights(ours, theirs):
    labels, scores = labels_and_scores(200, 3, seed=1, levels=2)
    weights = np.random.default_rng(2).poisson(1.0, (100, 200))
    expected = [
        [theirs(labels[:, place], scores[:, place], sample_weight=row) for place in range(3)] for row in weights
    ]
    np.testing.assert_allclose(ours(labels, scores, weights), expected, atol=1e-12)


def probabilities_of(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(0.5 - scores))


@pytest.mark.parametrize("seed", range(5))
def test_ranking_and_calibration_equal_torchmetrics(seed):
    labels, scores = labels_and_scores(120, 4, seed, levels=3)
    probabilities = probabilities_of(scores)
    given, truth = torch.tensor(probabilities, dtype=torch.float64), torch.tensor(labels).long()
    for ours, theirs in ((auroc, multilabel_auroc), (average_precision, multilabel_average_precision)):
        np.testing.assert_allclose(ours(labels, probabilities), theirs(given, truth, 4, average=None), atol=1e-6)
    expected = [binary_calibration_error(given[:, place], truth[:, place], n_bins=15) for place in range(4)]
    np.testing.assert_allclose(expected_calibration_error(labels, probabilities), expected, atol=1e-6)
    for least in (0.5, 0.9, 1.0):
        expected = [binary_sensitivity_at_specificity(given[:, k], truth[:, k], least)[0] for k in range(4)]
        np.testing.assert_allclose(sensitivity_at_specificity(labels, scores, specificity=least), expected, atol=1e-6)


def test_weights_are_scikit_learns_for_every_other_metric():
    labels, scores = labels_and_scores(150, 3, seed=21, levels=4)
    probabilities = probabilities_of(scores)
    weights = np.random.default_rng(2).poisson(1.0, (20, 150))
    found = {
        "f1": f1(labels, probabilities >= 0.5, weights),
        "brier": brier(labels, probabilities, weights),
        "sensitivity": sensitivity_at_specificity(labels, scores, weights),
    }
    for row, place in np.ndindex(20, 3):
        truth, given, sample = labels[:, place], probabilities[:, place], {"sample_weight": weights[row]}
        false, true, _ = roc_curve(truth, given, drop_intermediate=False, **sample)
        expected = {
            "f1": f1_score(truth, given >= 0.5, **sample),
            "brier": brier_score_loss(truth, given, **sample),
            "sensitivity": true[1 - false >= 0.9 - 1e-9].max(),
        }
        for name, value in expected.items():
            assert found[name][row, place] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("metric", [expected_calibration_error, fmax, sensitivity_at_specificity])
def test_weights_are_records_given_so_often(metric):
    labels, scores = labels_and_scores(80, 3, seed=22)
    probabilities = probabilities_of(scores)
    weights = np.random.default_rng(3).poisson(1.0, (10, 80))
    repeated = [metric(np.repeat(labels, row, axis=0), np.repeat(probabilities, row, axis=0)) for row in weights]
    np.testing.assert_allclose(metric(labels, probabilities, weights), repeated, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [None, 2])
def test_no_threshold_has_a_higher_f1_than_the_chosen_one(seed, levels):
    labels, scores = labels_and_scores(90, 4, seed, levels)
    reached = f1(labels, scores >= best_thresholds(labels, scores))
    for place in range(4):
        precision, recall, _ = precision_recall_curve(labels[:, place], scores[:, place])
        highest = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
        assert reached[place] == pytest.approx(highest, abs=1e-12)


def test_a_class_without_both_outcomes_gets_no_threshold():
    labels, scores = labels_and_scores(30, 3, seed=1)
    labels[:, 0], labels[:, 1] = False, True
    assert np.isnan(best_thresholds(labels, scores)).tolist() == [True, True, False]
    assert np.isnan(f1(labels, scores > 0)).tolist() == [True, False, False]


def test_fmax_is_the_best_f1_of_mean_precision_and_mean_recall():
    labels, scores = labels_and_scores(60, 5, seed=23)
    labels[:5] = False  # no class: no recall
    probabilities = probabilities_of(scores)
    found = []
    for threshold in np.linspace(0.01, 0.99, 99):
        pairs = [
            (set(np.flatnonzero(truth)), set(np.flatnonzero(given >= threshold)))
            for truth, given in zip(labels, probabilities, strict=True)
        ]
        precisions = [len(truth & given) / len(given) for truth, given in pairs if given]
        recalls = [len(truth & given) / len(truth) for truth, given in pairs if truth]
        if sum(recalls) > 0:
            precision, recall = np.mean(precisions), np.mean(recalls)
            found.append(2 * precision * recall / (precision + recall))
    assert fmax(labels, probabilities) == pytest.approx(max(found), abs=1e-12)


def test_measurements_are_compared_where_their_truth_is_known():
    rng = np.random.default_rng(24)
    truth = rng.normal(70, 10, (50, 2))
    values = truth + rng.normal(0, 5, truth.shape)
    truth[:20, 1] = np.nan
    known = slice(20, None)
    found = measures_of_values(truth, values)
    errors = [mean_absolute_error(truth[:, 0], values[:, 0]), mean_absolute_error(truth[known, 1], values[known, 1])]
    np.testing.assert_allclose(found["mean_absolute_error"], errors)
    expected = [pearsonr(truth[:, 0], values[:, 0])[0], pearsonr(truth[known, 1], values[known, 1])[0]]
    np.testing.assert_allclose(found["correlation"], expected)
    weights = rng.poisson(1.0, (5, 50))
    for row, weight in enumerate(weights):
        again = np.repeat(truth, weight, axis=0), np.repeat(values, weight, axis=0)
        np.testing.assert_allclose(absolute_error(truth, values, weights)[row], absolute_error(*again))
        np.testing.assert_allclose(correlation(truth, values, weights)[row], correlation(*again))


def test_all_measures_have_the_numbers_of_one_and_intervals_around_them():
    labels, scores = labels_and_scores(200, 3, seed=25)
    labels[:, 2] = False
    probabilities = probabilities_of(scores)
    resamples = resample_patients([None] * 200, seed=0, resamples=200)
    thresholds = [0.4, 0.6, 0.5]
    alone = summarise(measures(labels, probabilities, thresholds=thresholds))
    found = with_intervals(measures(labels, probabilities, resamples.weights, thresholds), ["a", "b", "c"])
    assert found["measures"].keys() == alone.keys()
    for name, number in found["measures"].items():
        assert number["value"] == pytest.approx(alone[name], abs=1e-5) and number["low"] <= number["high"]
    assert found["classes"]["c"]["auroc"] is None and found["classes"]["c"]["brier"] is not None
    assert alone["macro_auroc"] == pytest.approx(
        np.mean([found["classes"][c]["auroc"]["value"] for c in "ab"]), abs=1e-5
    )
    expected = [f1_score(labels[:, k], probabilities[:, k] >= thresholds[k]) for k in range(2)]
    assert alone["macro_f1_at_validation_thresholds"] == pytest.approx(np.mean(expected))


def test_of_one_label_a_record_the_likeliest_class_is_predicted():
    rng = np.random.default_rng(26)
    truth, probabilities = rng.integers(0, 4, 100), rng.dirichlet(np.ones(4), 100)
    labels = np.arange(4) == truth[:, None]
    found = summarise(measures(labels, probabilities, one_label=True))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, probabilities.argmax(1)))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, probabilities.argmax(1), average="macro"))


def test_evaluate_loads_the_same_numbers_by_path_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("asked the network"))
    metric = evaluate.load(str(Path(__file__).resolve().parents[2] / "train/evaluate_ecg"), cache_dir=str(tmp_path))
    labels, scores = labels_and_scores(100, 3, seed=27)
    labels[:, 2] = False
    probabilities = probabilities_of(scores)
    found = metric.compute(predictions=probabilities, references=labels.astype(int), thresholds=[0.3, 0.4, 0.5])
    expected = summarise(measures(labels, probabilities, thresholds=[0.3, 0.4, 0.5]))
    assert found == pytest.approx(expected | {"undefined_classes": 1})


@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_a_class_without_both_outcomes_is_undefined_and_left_out_of_the_mean(metric):
    labels, scores = labels_and_scores(40, 4, seed=3)
    labels[:, 1], labels[:, 2] = False, True
    of_classes = metric(labels, scores)
    assert np.isnan(of_classes).tolist() == [False, True, True, False]
    assert macro(of_classes) == pytest.approx(of_classes[[0, 3]].mean())
    counted = outcomes(labels, list("abcd"))
    assert [(o.name, o.positives, o.negatives) for o in counted if not o.defined] == [("b", 0, 40), ("c", 40, 0)]


def test_the_mean_of_no_defined_class_is_undefined():
    assert np.isnan(macro(np.full(3, np.nan)))


def test_a_class_is_undefined_in_the_resamples_that_lack_an_outcome():
    labels, scores = np.array([[True], [False], [False]]), np.array([[2.0], [1.0], [3.0]])
    weights = np.array([[1, 1, 1], [0, 2, 1], [3, 0, 0], [1, 2, 0]])
    np.testing.assert_array_equal(auroc(labels, scores, weights)[:, 0], [0.5, np.nan, np.nan, 1.0])


def test_patients_are_drawn_whole():
    resamples = resample_patients(["a", "b", "a", None, "b", None], seed=0, resamples=500)
    weights = resamples.weights
    assert weights.shape == (501, 6) and (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, 3] != weights[:, 5]).any()  # unknown patients are no patient
    of_groups = weights[1:, [0, 1, 3, 5]]
    assert (of_groups.sum(1) == 4).all() and np.abs(of_groups.mean(0) - 1).max() < 0.15
    assert resamples.unit == "patients (2), and records where the patient is unknown (2)"


def test_the_unit_says_when_no_patient_is_known():
    assert resample_patients([None] * 5, seed=0).unit == "records (5; their patients are unknown)"
    assert resample_patients(["a", "a"], seed=0).unit == "patients (1)"


def test_the_interval_is_that_of_resamples_drawn_one_by_one():
    labels, scores = labels_and_scores(300, 1, seed=4)
    rng = np.random.default_rng(5)
    drawn = [rng.integers(300, size=300) for _ in range(1000)]
    one_by_one = [roc_auc_score(labels[places, 0], scores[places, 0]) for places in drawn]
    ours = estimate(macro_values(auroc, labels, scores, resample_patients([None] * 300, seed=6, resamples=1000)))
    assert ours.value == pytest.approx(roc_auc_score(labels[:, 0], scores[:, 0]))
    np.testing.assert_allclose([ours.low, ours.high], np.quantile(one_by_one, [0.025, 0.975]), atol=0.01)


def test_records_of_one_patient_widen_the_interval():
    labels, scores = labels_and_scores(100, 1, seed=7)
    labels, scores = np.repeat(labels, 4, axis=0), np.repeat(scores, 4, axis=0)
    by_patient = [f"p{place // 4}" for place in range(400)]
    width = {}
    for unit, patients in {"patient": by_patient, "record": [None] * 400}.items():
        interval = estimate(macro_values(auroc, labels, scores, resample_patients(patients, seed=0)))
        width[unit] = interval.high - interval.low
    assert width["patient"] == pytest.approx(2 * width["record"], rel=0.2)  # the square root of 4


def test_paired_differences_are_narrower_than_two_intervals():
    labels, scores = labels_and_scores(400, 2, seed=8)
    better = scores + 0.3 * labels
    resamples = resample_patients([None] * 400, seed=0)
    values, of_better = (macro_values(auroc, labels, each, resamples) for each in (scores, better))
    difference, alone = estimate(of_better - values), estimate(values)
    assert difference.value == pytest.approx(macro(auroc(labels, better)) - macro(auroc(labels, scores)))
    assert difference.low > 0 and difference.high - difference.low < 0.5 * (alone.high - alone.low)
    assert not (of_better - of_better).any()


def test_within_folds_another_scale_a_fold_costs_nothing():
    labels, scores = labels_and_scores(300, 2, seed=9)
    folds = np.arange(300) % 3
    shifted = scores + 10.0 * folds[:, None]
    for metric in (auroc, average_precision):
        np.testing.assert_allclose(metric(labels, shifted, folds=folds), metric(labels, scores, folds=folds))
        assert macro(metric(labels, shifted)) < macro(metric(labels, shifted, folds=folds)) - 0.1


def test_folds_are_pooled_by_their_pairs_and_by_their_positives():
    labels, scores = labels_and_scores(200, 1, seed=11, levels=2)
    folds = np.where(np.arange(200) < 50, 1, 7)
    of_fold = [(labels[folds == fold, 0], scores[folds == fold, 0]) for fold in (1, 7)]
    positives = np.array([holds.sum() for holds, _ in of_fold])
    pairs = positives * [(~holds).sum() for holds, _ in of_fold]
    areas = [roc_auc_score(*each) for each in of_fold]
    assert auroc(labels, scores, folds=folds)[0] == pytest.approx(np.average(areas, weights=pairs))
    precisions = [average_precision_score(*each) for each in of_fold]
    expected = np.average(precisions, weights=positives)
    assert average_precision(labels, scores, folds=folds)[0] == pytest.approx(expected)


@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_a_fold_without_both_outcomes_does_not_count(metric):
    labels, scores = labels_and_scores(90, 1, seed=12)
    folds = np.arange(90) % 3
    labels[folds == 0], labels[folds == 1] = False, True
    kept = folds == 2
    np.testing.assert_allclose(metric(labels, scores, folds=folds), metric(labels[kept], scores[kept]))


def test_a_thousand_resamples_of_the_whole_test_fold_take_seconds():
    labels, scores = labels_and_scores(2200, 71, seed=10)
    resamples = resample_patients([None] * 2200, seed=0, resamples=1000)
    started = time.process_time()
    assert np.isfinite(macro_values(auroc, labels, scores, resamples)).all()
    assert time.process_time() - started < 10


def test_refusals_name_the_shape_or_the_place():
    labels, scores = labels_and_scores(5, 2, seed=0)
    with pytest.raises(EcgJepaInputError, match=r"\(5, 2\).*\(5, 1\)"):
        auroc(labels, scores[:, :1])
    with pytest.raises(EcgJepaInputError, match=r"\(3, 4\).*\(resamples, 5\)"):
        auroc(labels, scores, np.ones((3, 4)))
    scores[3, 1] = np.nan
    with pytest.raises(EcgJepaInputError, match=r"\(3, 1\).*nan"):
        auroc(labels, scores)


@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_intervals_hold_what_a_large_sample_shows(metric):
    labels, scores = labels_and_scores(100_000, 1, seed=13)
    truth, covered = float(metric(labels, scores)[0]), 0
    for start in range(0, 20_000, 200):
        part = slice(start, start + 200)
        resamples = resample_patients([None] * 200, seed=start, resamples=200)
        interval = estimate(macro_values(metric, labels[part], scores[part], resamples))
        covered += interval.low <= truth <= interval.high
    assert 88 <= covered <= 99
