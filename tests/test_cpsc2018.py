"""CPSC2018 in PhysioNet's layout and in the organisers', with their labels and the authors' split."""

import shutil
from datetime import datetime

import numpy as np
import pytest
import scipy.io
from made_records import challenge_record

from dataset_scripts import load_ecg_dataset
from dataset_scripts.corpus import CorpusEntry
from dataset_scripts.cpsc2018 import CLASSES, Cpsc2018, read_reference
from dataset_scripts.records import read_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

REFERENCE = "Recording,First_label,Second_label,Third_label\n"


def organisers_file(folder, name, samples=600):
    data = np.random.default_rng(0).normal(scale=0.3, size=(12, samples))
    scipy.io.savemat(folder / f"{name}.mat", {"ECG": {"sex": "Female", "age": 40, "data": data}})


def rows(folder, cache, **options):
    """Record -> row with names in place of the numbers of classes, over all splits."""
    dataset = load_ecg_dataset("cpsc2018", data_dir=folder, cache_dir=cache, **options)
    named = {}
    for split, part in dataset.items():
        names = part.features["labels"].feature.names
        for row in part:
            named[row["record_id"]] = row | {"split": split, "labels": [names[label] for label in row["labels"]]}
    return named


# The real records


def test_the_organisers_records_have_many_lengths_and_no_labels(shared_ecg, tmp_path):
    found = rows(shared_ecg / "cpsc2018", tmp_path)
    lengths = {name: len(row["signal"]) // 12 for name, row in found.items()}
    expected = {"A1980": 5000, "A1981": 7950, "A1982": 5000, "A1983": 7500, "A1984": 9500, "A1985": 5517}
    assert lengths == expected
    for row in found.values():
        assert row["labels"] == [] and row["codes"] == []
        assert "REFERENCE.csv" in " ".join(row["findings"])
    assert (found["A1984"]["age"], found["A1984"]["sex"]) == (23.0, "female")
    assert found["A1980"]["lead_names"] == list(STANDARD_12_LEADS)


def test_a_row_of_the_organisers_is_their_signal_to_half_a_microvolt(shared_ecg, tmp_path):
    row = rows(shared_ecg / "cpsc2018", tmp_path)["A1985"]
    data = scipy.io.loadmat(shared_ecg / "cpsc2018" / "A1985.mat")["ECG"][0, 0]["data"]
    millivolts = np.asarray(row["signal"]).reshape(12, -1) * row["signal_scale"]
    assert np.abs(millivolts - data).max() < 0.000501


def test_the_early_release_has_words_for_labels_and_swaps_date_and_time(shared_ecg, tmp_path):
    found = rows(shared_ecg / "cpsc2018-wfdb", tmp_path)
    labels = {name: row["labels"] for name, row in found.items()}
    assert labels == {
        "A0001": ["RBBB"],
        "A0002": ["Normal"],
        "A0003": ["AF"],
        "A0004": ["AF"],
        "A0005": ["PVC"],
        "A0006": ["RBBB"],
    }
    assert found["A0005"]["codes"] == ["PVC"]
    header = shared_ecg / "cpsc2018-wfdb" / "A0001.hea"
    assert header.read_text().splitlines()[0].endswith("05-Feb-2020 11:39:16")
    assert read_record(header).recorded_at == datetime(2020, 2, 5, 11, 39, 16)


def test_the_real_records_make_rows_ready_for_a_model(shared_ecg, tmp_path):
    options = {"sampling_rate": 250, "seconds": 10, "leads": ["I", "II", "V1"]}
    assert {len(row["signal"]) for row in rows(shared_ecg / "cpsc2018", tmp_path, **options).values()} == {7500}


# Labels


@pytest.mark.parametrize(
    ("dx", "labels"),
    [
        ("426783006", ["Normal"]),
        ("164889003,59118001", ["AF", "RBBB"]),
        ("713427006", ["RBBB"]),
        ("733534002", ["LBBB"]),
        ("164884008", ["PVC"]),
        ("17338001,63593006", ["PAC", "PVC"]),
        ("270492004,429622005,164931005", ["I-AVB", "STD", "STE"]),
        ("39732003,28189009", []),
    ],
)
def test_codes_become_the_nine_classes(tmp_path, dx, labels):
    challenge_record(tmp_path / "data", "A0007", dx)
    row = rows(tmp_path / "data", tmp_path / "cache")["A0007"]
    assert row["labels"] == labels and row["codes"] == dx.split(",")


def test_the_table_of_the_organisers_gives_the_labels(tmp_path):
    for name in ("A0001", "A0002", "A0003"):
        organisers_file(tmp_path, name)
    (tmp_path / "REFERENCE.csv").write_text(REFERENCE + "A0001,5,,\nA0002,8,2,\n")
    found = rows(tmp_path, tmp_path / "cache")
    assert {name: row["labels"] for name, row in found.items()} == {
        "A0001": ["RBBB"],
        "A0002": ["AF", "STD"],
        "A0003": [],
    }
    assert found["A0002"]["codes"] == ["8", "2"]
    assert {name: len(row["findings"]) for name, row in found.items()} == {"A0001": 0, "A0002": 0, "A0003": 1}


def test_every_number_of_the_table_is_its_class(tmp_path):
    lines = [f"A000{number},{number},,\n" for number in range(1, 10)]
    (tmp_path / "REFERENCE.csv").write_text(REFERENCE + "".join(lines))
    labels = {entry.record_id: entry.labels for entry in Cpsc2018(data_dir=tmp_path).index(tmp_path)}
    assert labels == {f"A000{number}": (name,) for number, name in enumerate(CLASSES, start=1)}
    assert CLASSES[0] == "Normal" and CLASSES[4] == "RBBB"  # as A0002 and A0001 have in both releases


def test_records_of_the_table_without_a_file_are_counted(tmp_path, caplog):
    organisers_file(tmp_path, "A0001")
    (tmp_path / "REFERENCE.csv").write_text(REFERENCE + "A0001,5,,\nA0002,8,2,\n")
    assert list(rows(tmp_path, tmp_path / "cache")) == ["A0001"]
    assert "1 x signal file missing" in caplog.text and "A0002" in caplog.text


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (REFERENCE + "A0001,10,,\n", "unclear label"),
        (REFERENCE + "A0001,AF,,\n", "unclear label"),
        (REFERENCE + "A0001,1,,\nA0001,2,,\n", "unclear label"),
        ("Recording,label\nA0001,1\n", "table incomplete"),
    ],
)
def test_a_table_that_is_not_clear_is_refused(tmp_path, table, reason):
    (tmp_path / "REFERENCE.csv").write_text(table)
    with pytest.raises(EcgJepaRecordError) as caught:
        read_reference(tmp_path)
    assert caught.value.reason == reason and "REFERENCE.csv" in str(caught.value)


def test_a_name_in_the_table_leads_nowhere_else(tmp_path, caplog):
    folder = tmp_path / "data"
    folder.mkdir()
    organisers_file(folder, "A0001")
    organisers_file(tmp_path, "A0002")
    (folder / "REFERENCE.csv").write_text(REFERENCE + "../A0002,1,,\n")
    assert list(rows(folder, tmp_path / "cache")) == ["A0001"]
    assert "path outside the folder" in caplog.text


# Splits and files


def test_the_folder_g7_is_the_test_split(tmp_path):
    root = tmp_path / "data"
    challenge_record(root / "g7", "A0001", "426783006")
    challenge_record(root / "g1", "A6500", "426783006")
    splits = {name: row["split"] for name, row in rows(root, tmp_path / "cache").items()}
    assert splits["A0001"] == "test" and splits["A6500"] != "test"


def test_without_folders_the_number_tells_the_folder(tmp_path):
    builder = Cpsc2018(data_dir=tmp_path)
    names = [f"A{number:04}" for number in range(1, 6878)]
    splits = {name: builder.split_of(CorpusEntry(record_id=name, file=f"{name}.mat")) for name in names}
    held_out = {name for name, split in splits.items() if split == "test"}
    assert held_out == {f"A{number:04}" for number in range(6000, 6878)}
    share = sum(split == "validation" for split in splits.values()) / 6000
    assert 0.08 < share < 0.12


def test_both_layouts_of_one_record_count_once(tmp_path, caplog):
    challenge_record(tmp_path / "a", "A0001", "426783006")
    (tmp_path / "b").mkdir()
    organisers_file(tmp_path / "b", "A0001")
    found = rows(tmp_path, tmp_path / "cache")
    assert found["A0001"]["labels"] == ["Normal"] and "1 x duplicate id" in caplog.text


def test_damaged_files_are_left_out_with_their_reasons(shared_ecg, tmp_path, caplog):
    for name in ("A1980", "A1981"):
        shutil.copyfile(shared_ecg / "cpsc2018" / f"{name}.mat", tmp_path / f"{name}.mat")
    with (tmp_path / "A1981.mat").open("r+b") as file:
        file.truncate(300_000)
    assert list(rows(tmp_path, tmp_path / "cache")) == ["A1980"]
    assert "1 x MAT file not understood" in caplog.text
    with pytest.raises(EcgJepaRecordError, match="A1981"):
        rows(tmp_path, tmp_path / "cache", on_error="raise")


def test_an_empty_folder_is_an_error(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(EcgJepaRecordError, match="no record"):
        rows(tmp_path / "data", tmp_path / "cache")
