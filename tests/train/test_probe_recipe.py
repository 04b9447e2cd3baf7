"""The authors' linear evaluation: its schedule, and that it finds what is linear."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from torch import nn, optim

from train.probe_recipe import RECIPE, fit_by_recipe, learning_rate_share
from train.probe_records import Part


def test_the_learning_rate_is_torchs_warm_up_and_cosine():
    """Against torch's own schedulers, one after the other."""
    steps, warmup, highest = 200, RECIPE["warmup_iterations"], RECIPE["learning_rate"]
    optimizer = optim.AdamW(nn.Linear(1, 1).parameters(), lr=highest)
    rise = optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
    fall = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, highest * RECIPE["lowest_share"])
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < warmup - 1:
            rise.step()
        elif step >= warmup:
            fall.step()
    assert [highest * learning_rate_share(step, steps) for step in range(steps)] == pytest.approx(rates)


def test_what_is_linear_is_found_and_a_seed_gives_the_same_again():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 8)).astype(np.float32)
    labels = features @ rng.normal(size=(8, 3)) > 0
    part = Part(1, np.arange(300), np.arange(300, 400))
    scores = fit_by_recipe(features, labels, part, seed=0).scores
    assert roc_auc_score(labels[300:], scores) > 0.98
    assert (scores == fit_by_recipe(features, labels, part, seed=0).scores).all()
    assert (scores != fit_by_recipe(features, labels, part, seed=1).scores).any()
