"""Records on their way into training: the same as one by one, bad ones counted, memory bounded, order seeded."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader, Subset

from dataset_scripts.records import read_record
from dataset_scripts.synthesis import synthesize_record
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor, EcgJepaRecordError
from train.data import MemoryRecords, SyntheticRecords, WfdbRecords, batches, prepare

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "records"
EXTRACTOR = EcgJepaFeatureExtractor()


def assert_same_rows(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two good records; a third whose signal file is cut short, a fourth in microvolts that claims millivolts."""
    shutil.copytree(FIXTURES / "ptb-xl", tmp_path, dirs_exist_ok=True)
    for name in ("cut", "microvolts"):
        header = (tmp_path / "00001_hr.hea").read_text().replace("00001_hr", name)
        (tmp_path / f"{name}.hea").write_text(
            header.replace("1000.0(0)/mV", "1.0(0)/mV") if name == "microvolts" else header
        )
        shutil.copy(tmp_path / "00001_hr.dat", tmp_path / f"{name}.dat")
    content = (tmp_path / "cut.dat").read_bytes()
    (tmp_path / "cut.dat").write_bytes(content[:5000])
    return tmp_path


def test_a_wfdb_row_is_the_extractors_view_of_the_record():
    records = WfdbRecords(EXTRACTOR, [FIXTURES])
    record = read_record(FIXTURES / "ptb-xl" / "00002_hr")
    features = EXTRACTOR(record.signal, sampling_rate=500, leads=list(record.lead_names), return_tensors="np")
    assert len(records) == 2
    assert_same_rows(records[1], {name: array[0] for name, array in features.items()})


def test_several_folders_are_read_one_after_the_other(folder):
    assert len(WfdbRecords(EXTRACTOR, [FIXTURES, folder])) == 2 + 4


def test_a_folder_without_records_is_an_error(tmp_path):
    with pytest.raises(EcgJepaRecordError, match=r"No WFDB header"):
        WfdbRecords(EXTRACTOR, [tmp_path])


def test_bad_records_are_left_out_and_say_why(folder):
    records, skipped = prepare(WfdbRecords(EXTRACTOR, [folder]), memory_gb=1, quiet=True)
    assert len(records) == 2
    assert [Path(record.place).stem for record in skipped] == ["cut", "microvolts"]
    assert "cut.dat" in skipped[0].message
    assert skipped[1].reason == "outside the input contract"
    assert "unit" in skipped[1].message


def test_no_good_record_at_all_is_an_error_that_lists_the_reasons(folder):
    for name in ("00001_hr", "00002_hr"):
        (folder / f"{name}.hea").unlink()
    with pytest.raises(EcgJepaConfigError, match=r"None of 2 records can be used.*(?s:.*)cut\.dat") as caught:
        prepare(WfdbRecords(EXTRACTOR, [folder]), memory_gb=1, quiet=True)
    assert "1 x outside the input contract" in str(caught.value)


def test_what_does_not_fit_into_memory_is_read_again_and_is_the_same(folder):
    source = WfdbRecords(EXTRACTOR, [folder])
    in_memory, _ = prepare(source, memory_gb=1, quiet=True)
    on_disk, skipped = prepare(source, memory_gb=1e-4, quiet=True)
    assert isinstance(in_memory, MemoryRecords)
    assert isinstance(on_disk, Subset)
    assert len(skipped) == 2
    for place in range(2):
        assert_same_rows(in_memory[place], on_disk[place])


def test_workers_prepare_the_same_records_in_the_same_order():
    source = SyntheticRecords(EXTRACTOR, seed=3, count=6)
    alone, _ = prepare(source, memory_gb=1, quiet=True)
    with_workers, _ = prepare(source, memory_gb=1, num_workers=2, quiet=True)
    assert len(alone) == len(with_workers) == 6
    for place in range(6):
        assert_same_rows(alone[place], with_workers[place])


def test_held_out_synthetic_records_are_others_than_those_of_training():
    training, held_out = SyntheticRecords(EXTRACTOR, 0, 5), SyntheticRecords(EXTRACTOR, 0, 5, first=5)
    row, truth = held_out.with_truth(2)
    assert truth == synthesize_record(0, 7)[1]
    assert all(not np.array_equal(row["input_values"], training[place]["input_values"]) for place in range(5))


def seen_places(seed: int, count: int) -> list[int]:
    """The first `count` batches of 2 among 7 rows, through Accelerate, as the rows' places."""
    rows = [{"input_values": np.float32(place)} for place in range(7)]
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=seed))
    loader = accelerator.prepare(DataLoader(MemoryRecords(rows, "0123456"), batch_size=2, shuffle=True, drop_last=True))
    stream = batches(loader)
    return [int(value) for _ in range(count) for value in next(stream)["input_values"]]


def test_batches_go_on_without_end_every_epoch_in_another_order_that_the_seed_decides():
    places = seen_places(seed=5, count=30)
    epochs = [tuple(places[start : start + 6]) for start in range(0, 60, 6)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len(set(epochs)) == 10
    assert places == seen_places(seed=5, count=30) != seen_places(seed=6, count=30)
