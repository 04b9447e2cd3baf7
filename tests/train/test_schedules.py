"""Schedules against torch's own, hand-computed values, and the rules that the authors' code follows."""

import itertools
import math

import pytest
import torch

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaForPreTraining
from train.schedules import learning_rate, momentum, parameter_groups, time_masks

TINY = EcgJepaConfig.from_preset("tiny")


def test_without_warmup_the_learning_rate_is_torchs_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=1e-6)
    for step in range(41):
        ours = learning_rate(step, peak=3e-4, minimum=1e-6, warmup_steps=0, max_steps=40)
        assert ours == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_the_warmup_is_a_straight_line_from_the_minimum():
    rates = [learning_rate(step, peak=1e-3, minimum=1e-6, warmup_steps=10, max_steps=100) for step in range(10)]
    assert rates[0] == 1e-6
    steps = [after - before for before, after in itertools.pairwise(rates)]
    assert steps == pytest.approx([(1e-3 - 1e-6) / 10] * 9)


def test_the_cosine_is_not_shifted_by_the_warmup():
    # timm's CosineLRScheduler without warmup_prefix: at the warm-up's end it is where a cosine from step 0 would be.
    with_warmup = learning_rate(25, peak=1.0, minimum=0.0, warmup_steps=25, max_steps=100)
    assert with_warmup == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert learning_rate(50, peak=1.0, minimum=0.0, warmup_steps=25, max_steps=100) == pytest.approx(0.5)


def test_after_the_last_step_the_learning_rate_stays_at_the_minimum():
    assert learning_rate(130, peak=1e-3, minimum=1e-6, warmup_steps=5, max_steps=100) == 1e-6


@pytest.mark.parametrize(("step", "expected"), [(0, 0.996), (25, 0.997), (50, 0.998), (100, 1.0), (120, 1.0)])
def test_momentum_rises_linearly(step, expected):
    assert momentum(step, start=0.996, end=1.0, max_steps=100) == pytest.approx(expected, abs=1e-12)


def test_masks_follow_from_seed_and_step_alone():
    torch.manual_seed(1)
    masks = [time_masks(step, config=TINY, seed=7)[0] for step in range(20)]
    torch.manual_seed(2)
    assert all(torch.equal(mask, time_masks(step, config=TINY, seed=7)[0]) for step, mask in enumerate(masks))
    assert all(mask.device.type == "cpu" and mask.shape == (50,) for mask in masks)


def test_masks_of_other_steps_and_seeds_differ():
    # Seeds beyond 32 bits, too: torch's CPU generator alone would drop the upper ones.
    pairs = [(0, step) for step in range(100)] + [(2**40 + seed, 0) for seed in range(100)] + [(1, 0)]
    masks = {tuple(time_masks(step, config=TINY, seed=seed)[0].tolist()) for seed, step in pairs}
    assert len(masks) > 195


def test_norms_and_biases_are_not_decayed_and_the_mask_token_is():
    model = EcgJepaForPreTraining(TINY)
    decayed, free = parameter_groups(model, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    free_names = {names[id(parameter)] for parameter in free["params"]}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert {"predictor.mask_token", "encoder.patch_embedding.weight"} <= decayed_names
    assert {"encoder.patch_embedding.bias", "encoder.norm.weight", "predictor.layers.0.norm1.bias"} <= free_names
    assert all("norm" in name or name.endswith("bias") for name in free_names)
    assert not any("norm" in name or name.endswith("bias") for name in decayed_names)


def test_the_optimizer_gets_everything_that_learns_and_nothing_of_the_teacher():
    model = EcgJepaForPreTraining(TINY)
    grouped = [id(parameter) for group in parameter_groups(model, 0.05) for parameter in group["params"]]
    learning = [id(parameter) for part in (model.encoder, model.predictor) for parameter in part.parameters()]
    assert sorted(grouped) == sorted(learning)
