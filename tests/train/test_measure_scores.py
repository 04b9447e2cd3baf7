"""Ridge regression and agreement, beside scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from train.measure_fit import (
    SETTINGS,
    choose_penalty,
    cross_validate,
    fit_ridge,
    folds_of,
    from_targets,
    mean_of_others,
    to_targets,
)
from train.measure_scores import agreement, differences
from train.probe_records import inner_splits

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(60, 12)) * RNG.uniform(0.1, 10, 12) + 3
TARGETS = FEATURES[:, :2] * [1.0, 0.2] + RNG.normal(size=(60, 2))
GROUPS = np.array([f"patient {place // 2}" for place in range(60)])
ONCE = np.ones((1, 60), int)


def test_the_chosen_penalty_is_that_of_a_grid_search_over_the_same_splits():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": SETTINGS["penalties"]},
        scoring="neg_mean_squared_error",
        cv=list(inner_splits(GROUPS, SETTINGS["inner_splits"], 3)),
    ).fit(FEATURES, TARGETS)
    assert choose_penalty(FEATURES, TARGETS, GROUPS, 3) == search.best_params_["ridge__alpha"]
    ridge = fit_ridge(FEATURES, TARGETS, GROUPS, 3)
    assert np.allclose(ridge.predict(FEATURES), search.predict(FEATURES))


def test_one_target_is_fitted_as_several_are():
    ridge = fit_ridge(FEATURES, TARGETS[:, :1], GROUPS, 0)
    assert ridge.predict(FEATURES).shape == (60, 1) and ridge.weights.shape == (1, 12)


def test_a_missing_lead_counts_as_its_mean():
    features = FEATURES.copy()
    features[:5, 3] = np.nan
    ridge = fit_ridge(features, TARGETS, GROUPS, 0)
    filled = features.copy()
    filled[:5, 3] = np.nanmean(features[:, 3])
    assert np.allclose(ridge.predict(features), ridge.predict(filled)) and np.isfinite(ridge.weights).all()


def test_what_is_tested_was_not_fitted_and_patients_stay_together():
    folds = folds_of(GROUPS, 5, seed=0)
    assert set(folds) == set(range(5))
    assert all(len(set(folds[group == GROUPS])) == 1 for group in set(GROUPS))
    altered = TARGETS + np.where(folds == 2, 1000, 0)[:, None]  # of a fold that must not see its own truth
    predictions, penalties = cross_validate(FEATURES, TARGETS, GROUPS, folds, 0)
    others, _ = cross_validate(FEATURES, altered, GROUPS, folds, 0)
    assert np.allclose(predictions[folds == 2], others[folds == 2]) and len(penalties) == 5
    assert not np.allclose(predictions[folds != 2], others[folds != 2])
    assert mean_of_others(TARGETS, folds)[folds == 2][0] == pytest.approx(TARGETS[folds != 2].mean(0))


def test_degrees_are_regressed_across_their_seam():
    degrees = np.array([179.0, -179.0, 90.0, 0.0, -45.0])
    assert np.allclose(from_targets(to_targets(degrees, True), True), degrees)
    assert differences(np.array([179.0, 10.0]), np.array([-179.0, 350.0]), True).tolist() == [-2.0, 20.0]
    middle = to_targets(degrees[:2], True).mean(0, keepdims=True)
    assert abs(from_targets(middle, True)[0]) == pytest.approx(180)


def test_agreement_is_that_of_scikit_learn_scipy_and_bland_and_altman():
    truth, predictions = TARGETS[:, 0], TARGETS[:, 0] * 0.7 + RNG.normal(size=60) + 1
    found = {name: value[0] for name, value in agreement(predictions, truth, ONCE, False).items()}
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, predictions))
    assert found["correlation"] == pytest.approx(pearsonr(truth, predictions).statistic)
    apart = predictions - truth
    assert found["bias"] == pytest.approx(apart.mean())
    spread = 1.96 * apart.std(ddof=1)
    assert [found["lower_limit"], found["upper_limit"]] == pytest.approx([apart.mean() - spread, apart.mean() + spread])


@pytest.mark.parametrize("circular", [False, True])
def test_a_resample_is_as_if_its_records_stood_there_several_times(circular):
    truth, predictions = RNG.uniform(-180, 180, (2, 60))
    weights = RNG.multinomial(60, np.full(60, 1 / 60), size=3)
    found = agreement(predictions, truth, weights, circular)
    for row, drawn in enumerate(weights):
        repeated = (np.repeat(values, drawn) for values in (predictions, truth))
        alone = agreement(*repeated, np.ones((1, 60), int), circular)
        for name, values in found.items():
            assert values[row] == pytest.approx(alone[name][0]), name


def test_the_circular_correlation_is_that_of_its_definition():
    truth = RNG.uniform(-180, 180, 60)
    predictions = truth + RNG.normal(size=60) * 20
    first, second = np.radians(truth), np.radians(predictions)
    about = [np.sin(angle - np.angle(np.exp(1j * angle).mean())) for angle in (first, second)]
    expected = (about[0] * about[1]).sum() / np.sqrt((about[0] ** 2).sum() * (about[1] ** 2).sum())
    turned = (predictions + 90 + 180) % 360 - 180
    for values in (predictions, turned):  # a turn of all degrees changes nothing
        assert agreement(values, truth, ONCE, True)["correlation"][0] == pytest.approx(expected)


def test_what_does_not_vary_has_no_correlation():
    assert np.isnan(agreement(np.ones(60), TARGETS[:, 0], ONCE, False)["correlation"][0])
