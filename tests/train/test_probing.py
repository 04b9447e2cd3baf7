"""The logistic regression: scikit-learn's, its penalty chosen without a look at what is tested."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from train.probe_records import Part
from train.probing import SETTINGS, _Path, choose_penalty, fit_and_score, inner_macro_auroc

RECORDS, FITTED = 240, 180
PART = Part(1, np.arange(FITTED), np.arange(FITTED, RECORDS))
GROUPS = np.array([f"p{place // 2}" for place in range(RECORDS)])


def features_and_labels(features: int = 12, signal: float = 0.7, seed: int = 0):
    """Two classes, of which the first feature knows the first and the second the second."""
    rng = np.random.default_rng(seed)
    labels = rng.random((RECORDS, 2)) < 0.4
    values = rng.normal(size=(RECORDS, features))
    values[:, :2] += signal * labels
    return (values * rng.uniform(0.1, 30, features)).astype(np.float32), labels


def test_scores_are_those_of_scikit_learn_at_the_chosen_penalty():
    features, labels = features_and_labels()
    scores, chosen = fit_and_score(features, labels, GROUPS, PART, seed=0)
    for place in range(2):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=chosen["C"], max_iter=2000))
        expected = model.fit(features[:FITTED], labels[:FITTED, place]).decision_function(features[FITTED:])
        np.testing.assert_allclose(scores[:, place], expected, atol=5e-3)


def test_weights_without_a_penalty_to_speak_of_are_those_of_double_precision():
    features, labels = features_and_labels(features=100, signal=3.0)
    path = _Path(features, labels)
    for penalty in (1e-3, 1e-1, 10.0):
        path.fit(penalty)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=10.0, max_iter=5000, tol=1e-8))
    expected = model.fit(features.astype(float), labels[:, 0]).decision_function(features.astype(float))
    assert np.corrcoef(path.scores(features)[:, 0], expected)[0, 1] > 0.999


def test_labels_of_tested_records_change_nothing():
    features, labels = features_and_labels()
    others = labels.copy()
    others[FITTED:] = ~others[FITTED:]
    one, other = (fit_and_score(features, each, GROUPS, PART, seed=0) for each in (labels, others))
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.chosen == other.chosen


def test_noise_is_penalised_more_than_signal():
    of_noise = choose_penalty(*features_and_labels(features=150, signal=0.6), GROUPS, seed=0)[0]
    of_signal = choose_penalty(*features_and_labels(features=2, signal=3.0), GROUPS, seed=0)[0]
    assert of_noise < of_signal


def test_the_search_ends_when_penalties_get_no_better():
    features, labels = features_and_labels(features=150, signal=0.6)
    best, reached = choose_penalty(features, labels, GROUPS, seed=0)
    values = list(reached.values())
    assert len(values) < len(SETTINGS["C"]) and values.index(max(values)) == len(values) - 1 - SETTINGS["patience"]
    assert f"{best:g}" == max(reached, key=reached.get)


def test_a_missing_feature_counts_as_the_mean():
    features, labels = features_and_labels()
    gaps, filled = features.copy(), features.copy()
    gaps[FITTED::3, 0] = np.nan
    filled[FITTED::3, 0] = features[:FITTED, 0].mean()
    scores = [fit_and_score(each, labels, GROUPS, PART, seed=0).scores for each in (gaps, filled)]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_a_class_that_nobody_fitted_has_scores_nothing():
    features, labels = features_and_labels(signal=2.0)
    labels[:FITTED, 1] = False
    scores = fit_and_score(features, labels, GROUPS, PART, seed=0).scores
    assert (scores[:, 1] == 0).all() and roc_auc_score(labels[FITTED:, 0], scores[:, 0]) > 0.6


def test_inner_splits_are_averaged_not_pooled():
    """Scores that only tell which split was validated, against its share of positives, rank the pool below chance."""
    labels = [np.array([[True]] * 3 + [[False]]), np.array([[True]] + [[False]] * 3)]
    scores = [np.full((4, 1), -1.0), np.full((4, 1), 1.0)]
    assert inner_macro_auroc(labels, scores) == 0.5
    assert roc_auc_score(np.concatenate(labels), np.concatenate(scores)) == pytest.approx(0.25)


def test_a_split_without_both_outcomes_of_a_class_does_not_count_for_it():
    labels = [np.array([[True, True], [False, True]]), np.array([[True, False], [False, True]])]
    scores = [np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])]
    assert inner_macro_auroc(labels, scores) == pytest.approx((0.5 + 0.0) / 2)
