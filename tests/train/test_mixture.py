"""The order of training: every record once an epoch, other in each, the same for a seed, processes disjoint."""

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler

from modeling_ecg_jepa import EcgJepaFeatureExtractor
from train.mixture import Mixture, MixtureSampler
from train.windows import ArrowRows, ParquetRows, Windows

EXTRACTOR = EcgJepaFeatureExtractor()


@pytest.fixture(scope="module")
def arrow(make_rows) -> Windows:
    return Windows(ArrowRows(make_rows(24)), EXTRACTOR)


@pytest.fixture(scope="module")
def parquet(make_rows, tmp_path_factory) -> Windows:
    """40 records in 3 files of several row groups; a buffer of 4,096 rows would make one chunk of all."""
    folder = tmp_path_factory.mktemp("shards")
    rows = make_rows(40, seed=1)
    files = [folder / f"{place}.parquet" for place in range(3)]
    for place, file in enumerate(files):
        rows.shard(3, place, contiguous=True).to_parquet(file, batch_size=5)
    return Windows(ParquetRows(files), EXTRACTOR)


def epoch(sampler: MixtureSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    places = list(sampler)
    assert len(places) == len(sampler)
    return places


@pytest.mark.parametrize("source", ["arrow", "parquet"])
def test_two_passes_differ_and_a_seed_repeats_itself(source, request, monkeypatch):
    monkeypatch.setattr("train.windows.BUFFER_ROWS", 12)
    windows = request.getfixturevalue(source)
    mixture = Mixture([windows], [1.0])
    sampler = MixtureSampler(mixture, step=4, seed=3)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(first) == sorted(second) == list(range(len(windows)))
    assert first != second != sorted(second)
    assert epoch(MixtureSampler(mixture, 4, seed=3), 1) == second  # without having gone through epoch 0
    assert epoch(MixtureSampler(mixture, 4, seed=4), 0) != first


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_see_disjoint_records_and_together_all(arrow, parquet, workers):
    mixture = Mixture([arrow, parquet], [1.0, 1.0])
    sampler = MixtureSampler(mixture, step=8, seed=0, workers=workers)
    batches = list(BatchSampler(sampler, 4, drop_last=True))
    ranks = [[place for batch in batches[rank::2] for place in batch] for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    assert not set(ranks[0]) & set(ranks[1])
    together = set(ranks[0]) | set(ranks[1])
    # Lanes may end earlier by a record a corpus, and lose an incomplete run.
    assert len(together) == len(sampler) >= 64 - sampler.lanes * (2 + sampler.run - 1)
    seen = set(together)
    for number in range(1, 6):
        seen |= set(epoch(sampler, number))
    assert seen == set(range(64))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["arrow", "parquet"])
def test_two_processes_together_take_the_records_of_one_step_by_step(source, workers, request):
    from accelerate.data_loader import BatchSamplerShard

    mixture = Mixture([request.getfixturevalue(source)], [1.0])
    sampler = MixtureSampler(mixture, step=8, seed=0, workers=workers)
    whole = list(BatchSampler(sampler, 8, drop_last=True))
    shards = [list(BatchSamplerShard(BatchSampler(sampler, 4, True), 2, rank, even_batches=True)) for rank in (0, 1)]
    assert [first + second for first, second in zip(*shards, strict=True)] == whole


@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_a_worker_reads_what_lies_together(parquet, monkeypatch, processes, workers):
    monkeypatch.setattr("train.windows.BUFFER_ROWS", 8 * 5)  # a lane shuffles within one row group
    sampler = MixtureSampler(Mixture([parquet], [1.0]), step=8, seed=0, workers=workers)
    batches = list(BatchSampler(sampler, 8 // processes, drop_last=True))
    readers, starts = processes * workers, parquet.rows.starts
    read = [
        {group for batch in batches[reader::readers] for group in np.searchsorted(starts, batch, side="right")}
        for reader in range(readers)
    ]
    # A lane is a stretch of the groups, and its ends may lie within one.
    assert sum(map(len, read)) <= len(parquet.rows.groups) + sampler.lanes


def test_weights_say_how_often_a_record_is_drawn(arrow, parquet):
    sampler = MixtureSampler(Mixture([arrow, parquet], [5.0, 1.0]), step=8, seed=0)
    drawn = np.bincount(np.concatenate([epoch(sampler, number) for number in range(40)]), minlength=64)
    rare, often = drawn[24:].mean(), drawn[:24].mean()
    assert often / rare == pytest.approx(5.0, rel=0.05)
    # A pass over the whole corpus before the next begins: no record is drawn much more often than another.
    assert np.ptp(drawn[:24]) <= 3 and np.ptp(drawn[24:]) <= 3


def test_corpora_are_mixed_within_a_batch_and_rows_keep_their_places(arrow, parquet):
    mixture = Mixture([arrow, parquet], [1.0, 1.0])
    sampler = MixtureSampler(mixture, step=16, seed=0)
    batches = list(BatchSampler(sampler, 16, drop_last=True))
    assert all(min(batch) < 24 <= max(batch) for batch in batches)
    values = mixture.__getitems__(batches[0])["input_values"]
    for place, expected in zip(batches[0], values, strict=True):
        assert torch.equal(torch.from_numpy(mixture[place]["input_values"]), expected)
    assert len(mixture) == 64


def test_workers_without_work_take_no_lane(parquet):
    few = MixtureSampler(Mixture([parquet], [1.0]), step=40, seed=0, workers=8)
    assert len(epoch(few, 0)) == 40
