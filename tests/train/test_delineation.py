"""Boundaries read off patches: matched by hand-made cases and exhaustive search, and found where they can be."""

import itertools

import numpy as np
import pytest
import torch

from dataset_scripts.ludb import Wave
from train.delineation import (
    CLASSES,
    UNMARKED,
    FoundWave,
    LinearDelineator,
    sample_classes,
    waves_in,
    with_neighbours,
)
from train.delineation_scores import POINTS, count_lead, count_record, match, measures

WAVES = [Wave("P", 100, 110, 120), Wave("QRS", 140, 150, 165), Wave("T", 200, 220, 240), Wave("P", 300, 310, 320)]


# Samples and runs -----------------------------------------------------------------------------------------------------


def test_samples_have_a_class_inside_the_marked_span_only():
    classes = sample_classes({"II": WAVES}, ["I", "II"], 500)
    assert (classes[0] == UNMARKED).all()
    row = classes[1]
    assert (row[:100] == UNMARKED).all() and (row[321:] == UNMARKED).all()
    assert [CLASSES[row[place]] for place in (100, 120, 121, 140, 165, 166, 200, 240, 241, 320)] == (
        "P P none QRS QRS none T T none P".split()
    )


def test_runs_become_waves():
    row = np.repeat([0, 1, 0, 2, 3, 0], [10, 20, 15, 30, 40, 5])
    assert waves_in(row, shortest=1) == [FoundWave("P", 10, 29), FoundWave("QRS", 45, 74), FoundWave("T", 75, 114)]


def test_short_runs_go_to_the_longer_neighbour_and_join_what_they_parted():
    row = np.repeat([0, 3, 0, 3, 1, 0], [30, 20, 4, 25, 3, 18])
    assert waves_in(row, shortest=10) == [FoundWave("T", 30, 81)]
    assert waves_in(np.zeros(50, int), 10) == []
    assert waves_in(np.full(5, 2), 10) == [FoundWave("QRS", 0, 4)]  # nothing else is there


def test_neighbours_stand_beside_a_patch_and_zeros_beyond_the_ends():
    patches = torch.arange(1.0, 5).reshape(1, 4, 1)
    assert with_neighbours(patches, 1)[0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0]]


def test_a_linear_layer_finds_what_is_linear_in_the_features():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 4, (2000, 10, 5), generator=generator)
    patches = torch.nn.functional.one_hot(classes, 4).float().flatten(-2)
    delineator = LinearDelineator(patches, classes.flatten(1), patch_size=5, seed=0)
    assert (delineator.classes(patches) == classes.flatten(1)).float().mean() > 0.99


def test_unmarked_samples_are_not_learned_from():
    classes = torch.zeros(50, 20, dtype=torch.long)
    classes[:, 10:] = UNMARKED
    other = classes.clone()
    patches = torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(1))
    altered = patches.clone()
    altered[:, 2:] += 100  # patches without a marked sample
    first, second = (LinearDelineator(features, classes, 5, seed=0) for features in (patches, altered))
    assert torch.equal(first.layer.weight, second.layer.weight) and torch.equal(classes, other)


# Matching -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marked", "found", "pairs"),
    [
        ([100], [137], [(0, 0)]),  # 37 samples are 148 ms at 250 Hz
        ([100], [138], []),
        ([100], [], []),
        ([], [100], []),
        ([100], [95, 103], [(0, 1)]),  # one to one, the nearer
        ([100, 130], [120], [(1, 0)]),
        ([100, 130], [110, 100], [(0, 1), (1, 0)]),  # two pairs rather than the one that is nearest
        ([100, 130], [128, 150], [(0, 0), (1, 1)]),
    ],
)
def test_boundaries_are_matched_within_the_window(marked, found, pairs):
    matched = match(marked, found, window=37)
    assert [tuple(pair) for pair in matched.pairs.tolist()] == pairs
    assert len(matched.missed) == len(marked) - len(pairs) and len(matched.false) == len(found) - len(pairs)


def test_no_other_matching_has_more_pairs_or_closer_ones():
    rng = np.random.default_rng(0)
    for _ in range(40):
        marked, found = (np.sort(rng.integers(0, 200, rng.integers(1, 5))) for _ in range(2))
        best = max(
            (_quality(marked, found, zip(chosen, order, strict=True), 37))
            for size in range(min(len(marked), len(found)) + 1)
            for chosen in itertools.combinations(range(len(marked)), size)
            for order in itertools.permutations(range(len(found)), size)
        )
        assert _quality(marked, found, match(marked, found, 37).pairs, 37) == best


def _quality(marked, found, pairs, window):
    apart = [abs(int(marked[one]) - int(found[other])) for one, other in pairs]
    return (-1, 0) if any(each > window for each in apart) else (len(apart), -sum(apart))


def row_of(counts: np.ndarray, wave: str, point: str) -> list[float]:
    return counts[POINTS.index((wave, point))].tolist()


def test_counts_and_errors_of_a_lead_by_hand():
    found = [FoundWave("P", 105, 118), FoundWave("QRS", 140, 160), FoundWave("QRS", 250, 270)]
    counts = count_lead(WAVES, found, 250)
    # one of two P waves, 5 samples (20 ms) late; the second QRS is false; T is missed
    assert row_of(counts, "P", "onset") == [1, 1, 0, 20, 400]
    assert row_of(counts, "P", "end") == [1, 1, 0, -8, 64]
    assert row_of(counts, "QRS", "onset") == [1, 0, 1, 0, 0]
    assert row_of(counts, "QRS", "end") == [1, 0, 1, -20, 400]
    assert row_of(counts, "T", "onset") == [0, 1, 0, 0, 0]


def test_nothing_outside_the_marked_span_is_false():
    found = [FoundWave("QRS", 10, 30), FoundWave("QRS", 141, 160), FoundWave("QRS", 400, 420)]
    assert row_of(count_lead(WAVES, found, 250), "QRS", "onset") == [1, 0, 0, 4, 16]


def test_a_boundary_that_is_not_marked_is_neither_demanded_nor_false():
    waves = [Wave("QRS", None, 150, 165), *WAVES[2:]]
    assert row_of(count_lead(waves, [FoundWave("QRS", 152, 165)], 250), "QRS", "onset") == [0, 0, 0, 0, 0]
    assert row_of(count_lead(waves, [], 250), "QRS", "onset") == [0, 0, 0, 0, 0]
    assert row_of(count_lead(waves, [], 250), "QRS", "end") == [0, 1, 0, 0, 0]


def test_measures_are_those_of_all_boundaries_together():
    errors = [np.array([4.0, -8.0, 12.0]), np.array([20.0])]
    counts = np.zeros((2, len(POINTS), 5))
    counts[0, 0] = [3, 1, 2, errors[0].sum(), (errors[0] ** 2).sum()]
    counts[1, 0] = [1, 0, 0, errors[1].sum(), (errors[1] ** 2).sum()]
    found = measures(counts, np.array([[1, 1], [2, 0]]))
    everything = np.concatenate(errors)
    assert found["sensitivity"][:, 0].tolist() == [4 / 5, 6 / 8]
    assert found["positive_predictive_value"][:, 0].tolist() == [4 / 6, 6 / 10]
    assert found["mean_error"][0, 0] == pytest.approx(everything.mean())
    assert found["sd_error"][:, 0] == pytest.approx([everything.std(ddof=1), np.tile(errors[0], 2).std(ddof=1)])
    assert np.isnan(found["sensitivity"][0, 1])


def test_leads_that_were_not_looked_at_do_not_count():
    assert count_record({"II": WAVES}, {}, 250).sum() == 0
    assert count_record({"II": WAVES, "V1": WAVES}, {"II": []}, 250)[:, 1].tolist() == [2, 2, 1, 1, 1, 1]
