"""Metrics and their intervals, against scikit-learn and against resamples drawn one by one."""

import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from modeling_ecg_jepa import EcgJepaInputError
from train.metrics import (
    auroc,
    average_precision,
    estimate,
    macro,
    macro_values,
    outcomes,
    resample_patients,
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
