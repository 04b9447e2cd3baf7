"""Prepared windows: what the extractor makes of the same rows, from either format; refused rows are known at start."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaDataCollator, EcgJepaFeatureExtractor, EcgJepaInputError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS
from train.data import as_it_is
from train.windows import ArrowRows, ParquetRows, Windows, leave_out_refused

EXTRACTOR = EcgJepaFeatureExtractor()


def write_parquet(rows: datasets.Dataset, folder: Path, group: int = 4, files: int = 2) -> list[Path]:
    paths = [folder / f"train-{place:05d}-of-{files:05d}.parquet" for place in range(files)]
    for place, path in enumerate(paths):
        rows.shard(files, place, contiguous=True).to_parquet(path, batch_size=group)
    return paths


def assert_same_batch(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        torch.testing.assert_close(tensor, other[name], rtol=1e-6, atol=1e-7)


def odd_leads(place: int, signal: np.ndarray) -> None:
    """Of every three records one is left whole; one lacks V2, and V5 is constant; one has a spike and lacks I."""
    if place % 3 == 1:
        signal[3], signal[6] = np.nan, 0.25
    if place % 3 == 2:
        signal[0], signal[7, 100] = np.nan, 40.0  # beyond what 0.001 mV a count can hold


@pytest.mark.parametrize("leads", [tuple(EXTRACTOR.leads), STANDARD_12_LEADS])
def test_a_batch_is_the_extractors_view_of_its_rows_masks_included(make_rows, leads):
    # With 12 leads a missing I is derived from others, with 8 it is masked.
    extractor = EcgJepaFeatureExtractor(leads=leads)
    rows = make_rows(9, leads, change=odd_leads)
    places = [7, 2, 0, 3, 1, 8]
    batch = Windows(ArrowRows(rows), extractor).__getitems__(places)
    assert_same_batch(batch, EcgJepaDataCollator(extractor)([rows[place] for place in places]))
    assert not batch["lead_mask"].all()
    assert batch["lead_mask"][1, 0] == (len(leads) == 12)


def test_real_records_too(shared_ecg, tmp_path):
    from dataset_scripts import load_ecg_dataset

    # JS20004 and JS20008 lack V2, V4 and V6.
    rows = load_ecg_dataset(
        "wfdb_folder",
        data_dir=shared_ecg / "ecg-arrhythmia-challenge",
        cache_dir=tmp_path,
        leads=EXTRACTOR.leads,
        sampling_rate=250.0,
        seconds=10,
    )
    rows = datasets.concatenate_datasets(list(rows.values()))
    windows = Windows(ArrowRows(rows), EXTRACTOR)
    assert leave_out_refused(windows, quiet=True) == []
    batch = windows.__getitems__(range(len(rows)))
    assert_same_batch(batch, EcgJepaDataCollator(EXTRACTOR, with_labels=False)(list(rows)))
    lacking = {name for name, mask in zip(rows["record_id"], batch["lead_mask"], strict=True) if not mask.all()}
    assert {Path(name).name for name in lacking} == {"JS20004", "JS20008"}


def test_arrow_rows_are_views_of_arrows_own_memory(make_rows):
    rows = ArrowRows(make_rows(3))
    rows.read(np.array([0]))
    counts, scales = rows._parts[0]
    buffers = rows.dataset.data.table.column("signal").chunk(0).flatten().buffers()
    assert counts.ctypes.data == buffers[1].address
    assert not counts.flags.owndata and not scales.flags.owndata


def test_both_formats_and_selections_give_the_same_rows(make_rows, tmp_path):
    rows = make_rows(20, change=odd_leads)
    arrow = Windows(ArrowRows(rows), EXTRACTOR)
    parquet = Windows(ParquetRows(write_parquet(rows, tmp_path)), EXTRACTOR)
    turned = Windows(ArrowRows(rows.select(range(19, -1, -1))), EXTRACTOR)
    assert len(parquet.rows.groups) > 2
    places = [19, 4, 5, 0, 11]
    expected = arrow.__getitems__(places)
    assert_same_batch(parquet.__getitems__(places), expected)
    assert_same_batch(turned.__getitems__([19 - place for place in places]), expected)
    assert_same_batch(pickle.loads(pickle.dumps(parquet)).__getitems__(places), expected)
    assert_same_batch(pickle.loads(pickle.dumps(arrow)).__getitems__(places), expected)
    for name, array in arrow[4].items():
        np.testing.assert_array_equal(array, expected[name][1])


def test_a_loader_with_workers_gives_whole_batches(make_rows):
    rows = make_rows(6)
    loader = DataLoader(Windows(ArrowRows(rows), EXTRACTOR), batch_size=2, num_workers=2, collate_fn=as_it_is)
    batches = list(loader)
    assert [batch["input_values"].shape for batch in batches] == [(2, 8, 2500)] * 3
    assert_same_batch(batches[1], EcgJepaDataCollator(EXTRACTOR)([rows[2], rows[3]]))


def test_parquet_holds_no_more_rows_than_its_buffer(make_rows, tmp_path, monkeypatch):
    monkeypatch.setattr("train.windows.BUFFER_ROWS", 8)
    rows = ParquetRows(write_parquet(make_rows(24), tmp_path))
    loaded: list[int] = []
    load = rows._load
    monkeypatch.setattr(rows, "_load", lambda group: (loaded.append(group), load(group))[1])
    for place in rows.order(np.random.default_rng(0)):
        rows.read(np.array([place]))
        assert sum(rows.groups[group][2] for group in rows._held) <= 8
    # In its own order every row group is read once: all its rows are drawn while it is held.
    assert sorted(loaded) == list(range(len(rows.groups)))


def refusable(place: int, signal: np.ndarray) -> None:
    if place == 1:
        signal[2, 500:520] = np.nan  # a gap in a lead that lives
    if place == 3:
        signal[:] = np.nan
    if place == 4:
        signal *= 1e-4  # too small for millivolts, at 0.001 mV a count
    if place == 5:
        signal[2] = 0.0
        signal[2, :9] = np.nan  # a gap in a lead that does not


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_the_extractor_refuses_are_left_out_at_the_start_and_say_why(make_rows, workers):
    windows = Windows(ArrowRows(make_rows(7, change=refusable)), EXTRACTOR, "mine")
    with pytest.raises(EcgJepaInputError, match="NaN"):
        windows[1]
    skipped = leave_out_refused(windows, num_workers=workers, quiet=True)
    assert [record.place for record in skipped] == ["mine record00001", "mine record00003", "mine record00004"]
    assert "NaN or infinite" in skipped[0].message
    assert "No usable lead" in skipped[1].message
    assert len(windows) == 4
    assert windows.__getitems__(range(4))["lead_mask"].sum(dim=1).tolist() == [8, 8, 7, 8]
    assert sorted(windows.order(np.random.default_rng(0))) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling_rate": 500}, "sampled at 500 Hz"),
        ({"leads": STANDARD_12_LEADS}, "leads are not I, II, V1"),
        ({"leads": tuple(reversed(EXTRACTOR.leads))}, "leads are not I, II, V1"),
    ],
)
def test_rows_of_another_shape_are_refused_with_the_command_that_makes_them(make_rows, options, words):
    with pytest.raises(EcgJepaConfigError, match=words) as caught:
        Windows(ArrowRows(make_rows(2, **options)), EXTRACTOR)
    command = "ecg-jepa prepare --leads I,II,V1,V2,V3,V4,V5,V6 --sampling_rate 250 --seconds 10"
    assert command in str(caught.value)


def test_rows_of_any_length_and_rows_of_something_else_are_refused(make_rows):
    rows = make_rows(2)
    with pytest.raises(EcgJepaConfigError, match="no column lead_names"):
        Windows(ArrowRows(rows.remove_columns("lead_names")), EXTRACTOR)
    native = rows.cast_column("signal", datasets.Sequence(datasets.Value("int16")))
    with pytest.raises(EcgJepaConfigError, match="not of one length"):
        Windows(ArrowRows(native), EXTRACTOR)
