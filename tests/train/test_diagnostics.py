"""Content share and rank on targets whose answer is known, the probe against scikit-learn and a closed form."""

import math

import numpy as np
import pytest
import torch

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaForPreTraining
from train.diagnostics import (
    between_std,
    bootstrap,
    content_share,
    mean_absolute_error,
    r_squared,
    rank_me,
    ridge_predictions,
    watch_targets,
)

GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def test_targets_that_are_the_position_have_no_content():
    positions = randn(8, 50, 16)
    assert content_share(positions.expand(20, -1, -1, -1)) == pytest.approx(0, abs=1e-12)


def test_targets_that_are_the_record_are_all_content():
    records = randn(20, 1, 1, 16)
    assert content_share(records.expand(-1, 8, 50, -1)) == pytest.approx(1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_share_is_that_of_the_variances(scale):
    targets = scale * randn(400, 4, 10, 32) + randn(4, 10, 32)
    assert content_share(targets) == pytest.approx(scale**2 / (scale**2 + 1), abs=0.05)


def test_what_all_targets_share_is_neither_content_nor_position():
    targets = randn(50, 4, 10, 8) + randn(4, 10, 8)
    assert content_share(targets + 100 * randn(8)) == pytest.approx(content_share(targets))


def test_the_share_is_a_plain_ratio_of_variances_where_everything_is_valid():
    targets = randn(6, 3, 5, 4)
    array = targets.double().numpy()
    expected = array.var(axis=0).mean() / array.var(axis=(0, 1, 2)).mean()
    assert content_share(targets) == pytest.approx(expected)
    assert content_share(targets, torch.ones(6, 3, 5, dtype=torch.bool)) == pytest.approx(expected)


def test_missing_leads_do_not_count():
    targets, valid = randn(10, 4, 5, 8), torch.ones(10, 4, 5, dtype=torch.bool)
    valid[:, 3] = False
    spoilt = targets.clone()
    spoilt[:, 3] = 1000 * randn(10, 5, 8)
    assert content_share(spoilt, valid) == pytest.approx(content_share(targets[:, :3]))


@pytest.mark.parametrize("rank", [1, 5, 24])
def test_rank_counts_directions_used_equally(rank):
    basis = torch.linalg.qr(randn(24, 24))[0][:rank]
    coefficients = torch.linalg.qr(randn(500, rank))[0]
    assert rank_me(coefficients @ basis) == pytest.approx(rank, rel=1e-3)


def test_rank_is_the_entropy_of_the_singular_values():
    embeddings = randn(200, 12) * torch.arange(1, 13)
    singular = np.linalg.svd(embeddings.double().numpy(), compute_uv=False)
    share = singular / singular.sum()
    assert rank_me(embeddings) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-6)


def watched(config: EcgJepaConfig) -> tuple[EcgJepaForPreTraining, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    batch = {
        "input_values": 0.3 * randn(6, 8, 2500),
        "lead_mask": torch.ones(6, 8, dtype=torch.bool),
        "attention_mask": torch.ones(6, 50, dtype=torch.bool),
    }
    return EcgJepaForPreTraining(config), batch


def test_a_fresh_paper_model_targets_positions_and_the_levers_bring_content():
    mask = torch.arange(50) % 2 == 0
    paper = watch_targets(*watched(EcgJepaConfig.from_preset("tiny")), mask)
    levers = {"patch_initializer_range": 0.4, "position_scale": 0.2}
    levered = watch_targets(*watched(EcgJepaConfig.from_preset("tiny", **levers)), mask)
    assert paper["content_share"] < 0.01
    assert levered["content_share"] > 0.3
    assert paper["target_std"] < 0.1 < 0.5 < levered["target_std"] < 1
    assert min(paper["student_rank_me"], paper["teacher_rank_me"]) > 10  # rank looks healthy in either
    assert paper["student_teacher_distance"] == levered["student_teacher_distance"] == 0  # before the first step


def test_the_distance_between_student_and_teacher_is_relative_to_the_teacher():
    model, batch = watched(EcgJepaConfig.from_preset("tiny"))
    with torch.no_grad():
        for parameter in model.encoder.norm.parameters():  # the last layer: its output doubles
            parameter *= 2
    seen = watch_targets(model, batch, torch.arange(50) < 20)
    assert seen["student_teacher_distance"] == pytest.approx(1, rel=1e-5)
    assert seen["student_rank_me"] == pytest.approx(seen["teacher_rank_me"], rel=1e-5)


def test_the_spread_between_records_leaves_out_what_is_missing():
    targets, valid = randn(400, 2, 3, 5) * 0.7 + 10 * randn(2, 3, 5), torch.ones(400, 2, 3, dtype=torch.bool)
    assert between_std(targets, valid) == pytest.approx(0.7, rel=0.03)
    spoilt, valid = targets.clone(), valid.clone()
    spoilt[:, 1], valid[:, 1] = 1e6, False
    assert between_std(spoilt, valid) == pytest.approx(between_std(targets[:, :1], valid[:, :1]))


def test_watching_leaves_the_model_as_it_was():
    model, batch = watched(EcgJepaConfig.from_preset("tiny", target_centering=True))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    watch_targets(model, batch, torch.arange(50) < 20)
    model.update_teacher(1.0)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_ridge_probe_finds_what_is_linear_in_the_embeddings():
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(300, 20)) * np.logspace(-2, 2, 20)
    values = 70 + inputs[:, 0] * 500 - inputs[:, 19] * 0.05
    predicted = ridge_predictions(inputs, values[:200])
    assert mean_absolute_error(values[200:], predicted) < 0.1
    assert r_squared(values[200:], predicted) > 0.999


def test_the_ridge_probe_makes_nothing_of_noise():
    generator = np.random.default_rng(0)
    inputs, values = generator.normal(size=(300, 50)), generator.normal(size=300)
    assert r_squared(values[200:], ridge_predictions(inputs, values[:200])) < 0.1


def test_bootstrap_intervals_of_a_mean_are_those_of_the_normal_law():
    values = np.random.default_rng(1).normal(5, 2, size=400)
    estimate = bootstrap(lambda column: column.mean(-1), values, seed=0)
    margin = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.05)


def test_differences_are_resampled_in_pairs():
    generator = np.random.default_rng(2)
    hardness = generator.normal(0, 50, size=300)  # records differ far more than the two predictions do
    worse, better = hardness + 1, hardness + generator.normal(0, 0.1, size=300)
    gain = bootstrap(lambda one, other: (one - other).mean(-1), worse, better, seed=0)
    assert 0.9 < gain.low < gain.high < 1.1


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(3).normal(size=50)
    first, second = (bootstrap(lambda column: column.mean(-1), values, seed=4) for _ in range(2))
    assert first == second
