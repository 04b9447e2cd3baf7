"""A user's own folder of records, with and without a table."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from written_records import write_record

from dataset_scripts import load_ecg_dataset
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError


@pytest.fixture
def load(tmp_path):
    def load(folder: Path, **options):
        return load_ecg_dataset("wfdb_folder", data_dir=folder, cache_dir=tmp_path / "cache", **options)

    return load


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "records"
    for seed in range(6):
        write_record(root / f"ward{seed % 2}", f"r{seed}", seed=seed, comments=["Age: 50", "Sex: Male"])
    return root


def table(folder: Path, rows: list[dict], name: str = "table.csv") -> str:
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return name


def rows_of(splits) -> dict[str, dict]:
    return {row["record_id"]: {**row, "split": name} for name, split in splits.items() for row in split}


ROWS = [
    {"record": "ward0/r0", "who": "p1", "AF": 1, "MI": 0, "years": 61, "gender": "F", "text": "AF", "part": "train"},
    {"record": "ward1/r1.hea", "who": "p1", "AF": "true", "MI": "yes", "years": "", "gender": "m", "part": "train"},
    {"record": "ward0/r2.dat", "who": "p2", "AF": "", "MI": "no", "years": 7.5, "gender": "?", "part": "test"},
]
COLUMNS = {
    "label_columns": ["AF", "MI"],
    "patient_column": "who",
    "age_column": "years",
    "sex_column": "gender",
    "report_column": "text",
    "split_column": "part",
}


def test_without_a_table_every_record_is_a_row_as_wfdb_reads_it(folder, load):
    rows = rows_of(load(folder))
    assert sorted(rows) == ["ward0/r0", "ward0/r2", "ward0/r4", "ward1/r1", "ward1/r3", "ward1/r5"]
    for name, row in rows.items():
        counts = wfdb.rdrecord(str(folder / name), physical=False).d_signal.T
        np.testing.assert_array_equal(np.reshape(row["signal"], counts.shape), counts)
        assert (row["age"], row["sex"], row["labels"], row["patient_id"]) == (50.0, "male", [], None)


def test_a_table_gives_labels_patients_splits_and_what_else_is_known(folder, load):
    splits = load(folder, table=table(folder, ROWS), **COLUMNS)
    assert splits["train"].features["labels"].feature.names == ["AF", "MI"]
    rows = rows_of(splits)
    assert {name: (row["split"], row["patient_id"], row["labels"]) for name, row in rows.items()} == {
        "ward0/r0": ("train", "p1", [0]),
        "ward1/r1": ("train", "p1", [0, 1]),
        "ward0/r2": ("test", "p2", []),
    }
    # What the table leaves open the header says.
    assert [rows[name]["age"] for name in ("ward0/r0", "ward1/r1", "ward0/r2")] == [61.0, 50.0, 7.5]
    assert [rows[name]["sex"] for name in ("ward0/r0", "ward1/r1", "ward0/r2")] == ["female", "male", "male"]
    assert rows["ward0/r0"]["report"] == "AF"


def test_columns_of_measurements_are_numbers_of_the_rows(folder, load):
    rows = [row | {"qt_ms": value} for row, value in zip(ROWS, ("412", "", "398.5"), strict=True)]
    loaded = rows_of(load(folder, table=table(folder, rows), value_columns=["qt_ms"], split_column="part"))
    assert [loaded[name]["qt_ms"] for name in ("ward0/r0", "ward1/r1", "ward0/r2")] == [412.0, None, 398.5]
    with pytest.raises(EcgJepaConfigError, match="rows have a column age of their own"):
        load(folder, table=table(folder, rows), value_columns=["age"])
    with pytest.raises(EcgJepaRecordError, match="'long' is not a number"):
        load(folder, table=table(folder, [ROWS[0] | {"qt_ms": "long"}]), value_columns=["qt_ms"])


def test_labels_may_stand_in_one_column(folder, load):
    rows = [{"file": "ward0/r0", "dx": "MI; AF"}, {"file": "ward1/r1", "dx": "AF"}, {"file": "ward0/r2", "dx": ""}]
    splits = load(folder, table=table(folder, rows), record_column="file", label_column="dx")
    names = next(iter(splits.values())).features["labels"].feature.names
    assert names == ["AF", "MI"]
    labels = {name: sorted(names[label] for label in row["labels"]) for name, row in rows_of(splits).items()}
    assert labels == {"ward0/r0": ["AF", "MI"], "ward1/r1": ["AF"], "ward0/r2": []}


def test_only_records_with_exactly_one_label(folder, load):
    splits = load(folder, table=table(folder, ROWS), single_label=True, **COLUMNS)
    assert list(rows_of(splits)) == ["ward0/r0"]


def test_a_patient_is_in_one_split(tmp_path, load):
    rows = []
    for seed in range(60):
        write_record(tmp_path / "many", f"r{seed}", seed=seed, seconds=0.1)
        rows.append({"record": f"r{seed}", "who": f"p{seed // 4}"})
    loaded = rows_of(load(tmp_path / "many", table=table(tmp_path / "many", rows), patient_column="who"))
    splits = {(row["patient_id"], row["split"]) for row in loaded.values()}
    assert len(loaded) == 60
    assert len(splits) == 15
    assert {split for _, split in splits} == {"train", "validation", "test"}


def test_a_table_may_lie_elsewhere_and_is_noticed_when_it_changes(folder, tmp_path, load):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = str(elsewhere / table(elsewhere, ROWS[:2]))
    assert len(rows_of(load(folder, table=place))) == 2
    table(elsewhere, ROWS)
    assert len(rows_of(load(folder, table=place))) == 3


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        ({"AF": "maybe"}, "unclear label", "line 2, AF: 'maybe' is neither yes"),
        ({"years": "old"}, "no number", "line 2, years: 'old'"),
        ({"part": "dev"}, "unknown split", "line 2: 'dev' is none of train, validation, test"),
        ({"record": " "}, "no record named", "line 2: the column 'record' is empty"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_with_its_line(folder, load, change, reason, text):
    with pytest.raises(EcgJepaRecordError, match=text) as caught:
        load(folder, table=table(folder, [ROWS[0] | change, *ROWS[1:]]), **COLUMNS)
    assert caught.value.reason == reason


def test_a_missing_column_and_a_missing_table_are_named(folder, load):
    with pytest.raises(EcgJepaRecordError, match="no column 'who'; it has 'record'"):
        load(folder, table=table(folder, [{"record": "ward0/r0"}]), patient_column="who")
    with pytest.raises(EcgJepaRecordError, match=r"absent\.csv"):
        load(folder, table="absent.csv", label_columns=["AF"])


def test_contradicting_options_are_refused(folder, load):
    with pytest.raises(EcgJepaConfigError, match="not both"):
        load(folder, table="t.csv", label_columns=["AF"], label_column="dx")
    with pytest.raises(EcgJepaConfigError, match="table=None, but columns are named: who"):
        load(folder, patient_column="who")


def left_out(folder, load, rows: list[dict], tmp_path) -> dict[str, str]:
    """Reason of each record left out, of a table in which the first row is sound."""
    from dataset_scripts.loading import corpus_builder

    sound = [{"record": "ward0/r0"}]
    builder = corpus_builder(
        "wfdb_folder", data_dir=folder, cache_dir=str(tmp_path / "c"), table=table(folder, sound + rows)
    )
    builder.download_and_prepare()
    assert builder.as_dataset().num_rows == {next(iter(builder.info.splits)): 1}
    return {record.place.partition(" (")[0]: record.reason for record in builder.left_out()}


def test_paths_that_lead_out_of_the_folder_are_never_read(folder, load, tmp_path):
    write_record(tmp_path, "outside")
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    for suffix in (".hea", ".dat"):
        (folder / f"linked{suffix}").symlink_to(tmp_path / f"outside{suffix}")
    names = ["../../etc/passwd", "../outside", str(tmp_path / "outside"), "link/outside", "linked"]
    rows = [{"record": name} for name in names]
    assert left_out(folder, load, rows, tmp_path) == dict.fromkeys(names, "path outside the folder")


def test_links_within_the_folder_are_followed(folder, load):
    for suffix in (".hea", ".dat"):
        (folder / f"r0{suffix}").symlink_to(Path("ward0", f"r0{suffix}"))
    shutil.rmtree(folder / "ward1")
    rows = rows_of(load(folder))
    assert rows["r0"]["signal"] == rows["ward0/r0"]["signal"]


def test_names_that_are_no_files_are_left_out(folder, load, tmp_path):
    (folder / "loop.hea").symlink_to("pool.hea")
    (folder / "pool.hea").symlink_to("loop.hea")
    names = ["absent", "x" * 300, ".", "ward0", "loop"]
    reasons = left_out(folder, load, [{"record": name} for name in names], tmp_path)
    assert reasons == {
        "absent": "header missing",
        "x" * 300: "not readable",
        ".": "not readable",
        "ward0": "header missing",
        "loop": "not readable",
    }


def test_a_loop_of_folders_ends(folder, load):
    (folder / "ward0" / "again").symlink_to(folder, target_is_directory=True)
    assert len(rows_of(load(folder))) == 6


def test_a_record_named_twice_is_used_once(folder, load, tmp_path):
    reasons = left_out(folder, load, [{"record": "ward0/r0.hea"}, {"record": "ward0/r0.dat"}], tmp_path)
    assert reasons == {"ward0/r0": "duplicate id"}


def test_channels_that_are_no_lead_are_left_out_of_the_record(tmp_path, load):
    write_record(tmp_path / "r", "one", leads=["II", "PLETH", "V1"])
    (row,) = rows_of(load(tmp_path / "r")).values()
    assert row["lead_names"] == ["II", "V1"]
    assert row["findings"] == ["channel 'PLETH' is no known ECG lead: left out"]


def test_an_empty_folder_says_so(tmp_path, load):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EcgJepaRecordError, match="empty") as caught:
        load(tmp_path / "empty")
    assert caught.value.reason == "no records"
    assert os.listdir(tmp_path / "empty") == []
