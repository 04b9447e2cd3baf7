"""The three implementations of CroPA are one function: forward, backward, any grid, any mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ecg_jepa import EcgJepaConfig
from modeling_ecg_jepa.cropa import (
    CrossPatternAttention,
    _factorised,
    cropa_pattern,
    eager_cropa,
    factorised_cropa,
    sdpa_cropa,
)


def factorised_in_plain_operations(qkv, valid, grid, scaling):
    """The path of GPUs and compiled graphs, here on the CPU."""
    return _factorised(qkv, valid, grid, scaling), None


IMPLEMENTATIONS = {"sdpa": sdpa_cropa, "cropa": factorised_cropa, "plain": factorised_in_plain_operations}


def by_hand(query, key, value, valid, grid):
    """Loops over tokens and their keys, in float64: (tokens, heads, head_size) of one record."""
    leads, times = grid
    out = torch.zeros(leads * times, query.shape[0], query.shape[2], dtype=torch.float64)
    for lead in range(leads):
        for time in range(times):
            keys = {(lead, other) for other in range(times)} | {(other, time) for other in range(leads)}
            places = [one * times + two for one, two in sorted(keys) if valid[one, two]]
            if places:
                scores = torch.einsum("hd,hkd->hk", query[:, lead * times + time], key[:, places])
                weights = (scores * query.shape[2] ** -0.5).softmax(-1)
                out[lead * times + time] = torch.einsum("hk,hkd->hd", weights, value[:, places])
    return out


def run(attend, qkv, valid, grid, weight):
    """Output and gradient of a random projection of it."""
    leaf = qkv.clone().requires_grad_()
    attended, _ = attend(leaf, valid, grid, qkv.shape[-1] ** -0.5)
    (attended * weight).sum().backward()
    return attended.detach(), leaf.grad


def random_case(seed, batch, leads, times, masked):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(batch, leads * times, 3, 2, 12, generator=generator)
    weight = torch.randn(batch, leads * times, 2, 12, generator=generator)
    valid = None
    if masked:
        lead_there = torch.rand(batch, leads, 1, generator=generator) > 0.3
        time_there = torch.rand(batch, 1, times, generator=generator) > 0.3
        valid = lead_there & time_there
    return qkv, weight, valid


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    leads=st.integers(1, 12),
    times=st.integers(1, 20),
    masked=st.booleans(),
)
def test_all_implementations_agree_forward_and_backward(seed, batch, leads, times, masked):
    qkv, weight, valid = random_case(seed, batch, leads, times, masked)
    attended, grad = run(eager_cropa, qkv, valid, (leads, times), weight)
    for attend in IMPLEMENTATIONS.values():
        other, other_grad = run(attend, qkv, valid, (leads, times), weight)
        torch.testing.assert_close(other, attended, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other_grad, grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attend", [eager_cropa, *IMPLEMENTATIONS.values()])
@pytest.mark.parametrize("masked", [False, True])
def test_the_definition_spelt_out(attend, masked):
    qkv, weight, valid = random_case(5, 3, 4, 6, masked)
    attended, _ = run(attend, qkv, valid, (4, 6), weight)
    everything = torch.ones(3, 4, 6, dtype=torch.bool) if valid is None else valid
    for record in range(3):
        query, key, value = qkv[record].double().permute(1, 2, 0, 3)
        expected = by_hand(query, key, value, everything[record], (4, 6))
        torch.testing.assert_close(attended[record].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attend", [eager_cropa, *IMPLEMENTATIONS.values()])
def test_a_token_with_nothing_to_attend_to_gets_zeros(attend):
    qkv, weight, _ = random_case(1, 2, 3, 5, False)
    valid = torch.ones(2, 3, 5, dtype=torch.bool)
    valid[0] = False  # a record without anything
    valid[1, 0], valid[1, :, 0] = False, False  # a missing lead and a padded time
    attended, grad = run(attend, qkv, valid, (3, 5), weight)
    assert attended.isfinite().all() and grad.isfinite().all()
    assert (attended[0] == 0).all() and (grad[0] == 0).all()
    assert (attended[1, 0] == 0).all()  # the missing lead at the padded time sees nothing
    assert (attended[1, 1:] != 0).any(-1).all()


@pytest.mark.parametrize("chunk", [1, 21 * 10 * 2, 21 * 10 * 2 * 3, 10**6])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch, chunk):
    qkv, weight, valid = random_case(2, 5, 3, 7, True)
    attended, grad = run(eager_cropa, qkv, valid, (3, 7), weight)
    monkeypatch.setattr("modeling_ecg_jepa.cropa.SCORES_A_CHUNK", chunk)
    other, other_grad = run(factorised_cropa, qkv, valid, (3, 7), weight)
    torch.testing.assert_close(other, attended, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other_grad, grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attend", [eager_cropa, *IMPLEMENTATIONS.values()])
def test_bfloat16_stays_near_float32(attend):
    qkv, weight, valid = random_case(3, 2, 8, 10, True)
    expected, expected_grad = run(eager_cropa, qkv, valid, (8, 10), weight)
    attended, grad = run(attend, qkv.bfloat16(), valid, (8, 10), weight.bfloat16())
    assert attended.dtype == torch.bfloat16
    torch.testing.assert_close(attended.float(), expected, rtol=0, atol=0.05)
    torch.testing.assert_close(grad.float(), expected_grad, rtol=0, atol=0.2)


def test_eager_weights_are_a_distribution_over_lead_and_time():
    module = CrossPatternAttention(EcgJepaConfig(attn_implementation="eager"), hidden_size=24, num_heads=2)
    _, weights = module(torch.randn(2, 12, 24), grid=(3, 4))
    pattern = cropa_pattern(3, 4, torch.device("cpu"))
    assert pattern.sum(-1).eq(3 + 4 - 1).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 12))
    assert (weights[..., ~pattern] == 0).all()


def test_the_factorised_form_never_holds_the_dense_scores():
    """On a long grid its largest tensor stays far below (leads * times) squared."""
    leads, times = 12, 100
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            largest.extend(
                o.numel() for o in (out if isinstance(out, tuple) else (out,)) if isinstance(o, torch.Tensor)
            )
            return out

    qkv = torch.randn(1, leads * times, 3, 2, 12)
    for attend in (factorised_cropa, factorised_in_plain_operations):
        largest.clear()
        with Watch():
            attend(qkv, None, (leads, times), 0.3)
        assert max(largest) <= 2 * leads * times * (times + leads)
