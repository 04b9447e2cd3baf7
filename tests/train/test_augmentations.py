"""Augmentations: what each changes of a record and leaves, how much at which level, and how they are drawn."""

import numpy as np
import pytest
import torch

from modeling_ecg_jepa import EcgJepaConfigError
from train.augmentations import (
    AUGMENTATIONS,
    DEFAULT,
    Cutout,
    Drop,
    Erase,
    Flip,
    PartialSine,
    PartialWhiteNoise,
    RandAugment,
    Shift,
    Sine,
)

RECORDS, LEADS, SAMPLES = 64, 3, 1000


@pytest.fixture
def signals() -> torch.Tensor:
    """No sample is zero."""
    return torch.rand((RECORDS, LEADS, SAMPLES), generator=torch.Generator().manual_seed(0)) + 0.5


def drawn(augmentation, signals: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return augmentation(signals, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_keeps_shape_and_input_and_draws_each_record_anew(name, signals):
    before, augmentation = signals.clone(), AUGMENTATIONS[name]()
    changed = drawn(augmentation, signals)
    assert changed.shape == signals.shape and changed.dtype == signals.dtype
    torch.testing.assert_close(signals, before, rtol=0, atol=0)
    torch.testing.assert_close(drawn(augmentation, signals), changed, rtol=0, atol=0)
    if name != "flip":
        same = drawn(augmentation, signals[:1].expand(RECORDS, -1, -1))
        assert len({record.numpy().tobytes() for record in same}) > 1
        assert not torch.equal(drawn(augmentation, signals, seed=2), changed)


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS) - {"flip", "erase"}))
def test_at_level_0_nothing_changes(name, signals):
    torch.testing.assert_close(drawn(AUGMENTATIONS[name](0), signals), signals, rtol=0, atol=0)


def test_a_shift_moves_all_leads_alike_by_up_to_three_tenths_and_leaves_zeros(signals):
    changed = drawn(Shift(), signals)
    moved = []
    for before, after in zip(signals.numpy(), changed.numpy(), strict=True):
        there = np.flatnonzero(after[0])
        shift = there[0] if there[0] > 0 else there[-1] + 1 - SAMPLES
        expected = np.roll(before, shift, axis=1)
        expected[:, slice(0, shift) if shift > 0 else slice(SAMPLES + shift, SAMPLES)] = 0
        np.testing.assert_array_equal(after, expected)
        moved.append(shift)
    assert -300 <= min(moved) < -200 and 200 < max(moved) <= 300


def test_a_cutout_is_one_stretch_of_the_same_length_in_all_leads(signals):
    zero = (drawn(Cutout(5), signals) == 0).numpy()
    assert (zero == zero[:, :1]).all() and (zero.sum(-1) == 150).all()
    assert (np.diff(zero.astype(int), axis=-1) != 0).sum(-1).max() <= 2
    starts = zero[:, 0].argmax(1)
    assert starts.min() < 100 and starts.max() > 700


def test_a_drop_sets_three_tenths_of_the_samples_to_zero_in_all_leads(signals):
    zero = (drawn(Drop(), signals) == 0).numpy()
    assert (zero == zero[:, :1]).all() and zero.mean() == pytest.approx(0.3, abs=0.01)


def test_erase_takes_one_lead_of_several(signals):
    zero = (drawn(Erase(), signals) == 0).all(-1)
    assert (zero.sum(1) == 1).all() and zero.any(0).all()
    torch.testing.assert_close(drawn(Erase(), signals[:, :1]), signals[:, :1], rtol=0, atol=0)


def test_a_flip_turns_the_sign_and_is_not_drawn_unless_asked_for(signals):
    torch.testing.assert_close(drawn(Flip(), signals), -signals, rtol=0, atol=0)
    assert set(AUGMENTATIONS) - set(DEFAULT) == {"flip"} and RandAugment().names == DEFAULT


def test_a_sine_has_two_periods_and_at_most_three_tenths_of_a_millivolt(signals):
    added = (drawn(Sine(), signals) - signals).numpy()
    np.testing.assert_allclose(added, np.repeat(added[:, :1], LEADS, axis=1), atol=1e-6)
    assert (np.abs(np.fft.rfft(added[:, 0]))[:, 1:].argmax(1) + 1 == 2).all()
    assert 0.25 < np.abs(added).max() <= 0.3 + 1e-6


@pytest.mark.parametrize("augmentation", [PartialSine, PartialWhiteNoise])
def test_partial_changes_are_one_stretch(augmentation, signals):
    changed = (drawn(augmentation(), signals) != signals).any(1).numpy()
    spans = [np.flatnonzero(record) for record in changed]
    assert all(290 <= span[-1] + 1 - span[0] <= 300 for span in spans)
    assert all(len(span) >= 290 for span in spans)


def test_noise_is_each_leads_own_and_as_strong_as_the_level_says(signals):
    added = (drawn(PartialWhiteNoise(), signals) - signals).numpy()
    assert np.abs(np.corrcoef(added.reshape(RECORDS, LEADS, -1).transpose(1, 0, 2).reshape(LEADS, -1))[0, 1]) < 0.05
    spread = [record[record != 0].std() for record in added]
    assert 0.25 < max(spread) < 0.33


def test_two_are_drawn_and_each_is_applied_with_its_probability(signals):
    unchanged = [
        (drawn(RandAugment(probability=probability), signals, seed) == signals).flatten(1).all(1).float().mean()
        for probability in (0.5, 0.0)
        for seed in range(10)
    ]
    # Neither of two at one half each; erasing, cutting and dropping never leave a record as it was.
    assert np.mean(unchanged[:10]) == pytest.approx(0.25, abs=0.05) and unchanged[10:] == [1.0] * 10
    flipped = drawn(RandAugment(("flip",), operations=1), signals)
    share = (flipped == -signals).flatten(1).all(1).float().mean()
    assert 0.3 < share < 0.7
    torch.testing.assert_close(drawn(RandAugment(("flip",), 2, 1.0), signals), signals, rtol=0, atol=0)


def test_an_unknown_augmentation_is_refused_with_those_there_are():
    with pytest.raises(EcgJepaConfigError, match="mirror is none of shift, cutout"):
        RandAugment(("shift", "mirror"))
