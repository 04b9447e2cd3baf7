"""Masks have the shares, blocks and reach that the paper gives them, and never hide everything or nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaInputError, sample_time_mask


def draw(config, seed, num_patches=None):
    return sample_time_mask(config, num_patches, torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**31), patches=st.integers(10, 200))
def test_random_masks_hide_the_configured_share(seed, patches):
    mask = draw(EcgJepaConfig(mask_type="random"), seed, patches)
    assert mask.dtype == torch.bool and mask.shape == (patches,)
    assert int(0.6 * patches) <= mask.sum() <= int(0.7 * patches)


@given(seed=st.integers(0, 2**31), patches=st.integers(10, 200))
def test_block_masks_are_unions_of_four_blocks(seed, patches):
    mask = draw(EcgJepaConfig(), seed, patches)
    shortest, longest = int(0.175 * patches), int(0.225 * patches)
    assert shortest <= mask.sum() <= 4 * longest
    starts = (torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int)) == 1).sum()
    assert 1 <= starts <= 4
    runs = [len(run) for run in "".join("x" if hidden else " " for hidden in mask.tolist()).split()]
    assert min(runs) >= shortest


def test_the_last_patch_is_hidden_only_where_the_authors_sampler_is_not_asked_for():
    ours = torch.stack([draw(EcgJepaConfig(), seed) for seed in range(300)])
    theirs = torch.stack([draw(EcgJepaConfig(mask_last_patch=False), seed) for seed in range(300)])
    assert ours[:, -1].any() and ours[:, 0].any()
    assert not theirs[:, -1].any() and theirs[:, -2].any()


def test_a_generator_decides():
    config = EcgJepaConfig()
    assert draw(config, 3).equal(draw(config, 3))
    assert not torch.stack([draw(config, seed) for seed in range(5)]).all(0).equal(draw(config, 0))


@pytest.mark.parametrize(("mask_type", "patches"), [("random", 1), ("multi_block", 4)])
def test_a_record_too_short_for_the_mask_is_an_error(mask_type, patches):
    with pytest.raises(EcgJepaInputError, match=f"mask over {patches} patches hides 0 of them"):
        draw(EcgJepaConfig(mask_type=mask_type), 0, patches)
