"""ECG-Arrhythmia in its own layout and in the challenge's."""

import numpy as np
import pytest
import wfdb
from made_records import challenge_record

from dataset_scripts import load_ecg_dataset
from dataset_scripts.ecg_arrhythmia import EcgArrhythmia
from dataset_scripts.records import find_records
from dataset_scripts.snomed import SCORED_CLASSES
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError


def rows(folder, cache, **options):
    dataset = load_ecg_dataset("ecg_arrhythmia", data_dir=folder, cache_dir=cache, **options)
    names = next(iter(dataset.values())).features["labels"].feature.names
    return {
        row["record_id"]: row | {"split": split, "labels": [names[label] for label in row["labels"]]}
        for split, part in dataset.items()
        for row in part
    }


def test_the_official_layout_gives_its_records(shared_ecg, tmp_path):
    found = rows(shared_ecg / "ecg-arrhythmia", tmp_path)
    assert {name: row["labels"] for name, row in found.items()} == {
        "JS00001": ["AF", "RBBB", "TAb"],
        "JS00002": ["SB", "TAb"],
        "JS00004": ["SB"],
        "JS00005": ["AFL", "NSSTTA", "STD"],
    }
    first = found["JS00001"]
    assert first["codes"] == ["164889003", "59118001", "164934002"]
    assert (first["patient_id"], first["age"], first["sex"]) == ("JS00001", 85.0, "male")


def test_rows_are_what_wfdb_reads(shared_ecg, tmp_path):
    found = rows(shared_ecg / "ecg-arrhythmia", tmp_path)
    for path in find_records(shared_ecg / "ecg-arrhythmia"):
        row, expected = found[path.stem], wfdb.rdrecord(str(path.with_suffix("")))
        assert np.array_equal(np.asarray(row["signal"]).reshape(12, -1).T, expected.adc())
        assert row["lead_names"] == expected.sig_name and row["sampling_rate"] == expected.fs


def test_leads_of_zeros_are_missing_not_flat_hearts(shared_ecg, tmp_path):
    found = rows(shared_ecg / "ecg-arrhythmia-challenge", tmp_path)
    missing = {name: row["missing_leads"] for name, row in found.items() if row["missing_leads"]}
    assert len(found) == 12
    assert missing == {"JS20004": ["V2", "V4", "V6"], "JS20008": ["V2", "V4", "V6"]}


def test_any_layout_of_the_same_records_splits_alike(tmp_path):
    names = [f"JS{number:05}" for number in range(100, 130)]
    for name in names:
        challenge_record(tmp_path / "official" / "WFDBRecords" / "00" / "001", name, "426783006", samples=10)
        challenge_record(tmp_path / "training" / "chapman_shaoxing" / "g1", name, "426783006", samples=10)
    splits = [
        {name: row["split"] for name, row in rows(tmp_path / folder, tmp_path / "cache").items()}
        for folder in ("official", "training")
    ]
    assert splits[0] == splits[1] and set(splits[0]) == set(names)
    assert set(splits[0].values()) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("name", "merged", "reason"),
    [
        # The first lines of the official release's two headers without their line break.
        ("JS01052", "JS01052 12 500 500000/mV 16 0 15 31255 0 I", "header not understood"),
        ("JS23074", "JS23074 12 500 5000 JS23074.mat 16+24 1000/mV 16 0 54 12431 0 I", "header incomplete"),
    ],
)
def test_headers_without_their_line_break_are_counted(tmp_path, caplog, name, merged, reason):
    challenge_record(tmp_path, "JS00001", "426177001")
    header = challenge_record(tmp_path, name, "426177001")
    header.write_text("\n".join([merged, *header.read_text().splitlines()[2:]]))
    assert list(rows(tmp_path, tmp_path / "cache")) == ["JS00001"]
    assert f"1 x {reason}" in caplog.text and name in caplog.text


def test_label_sets_are_the_corpus_own_codes_and_the_scored_ones(tmp_path):
    every, scored = EcgArrhythmia.LABEL_SETS["all"], EcgArrhythmia.LABEL_SETS["scored"]
    assert len(every) == 90 and scored == SCORED_CLASSES and set(scored) < set(every)
    challenge_record(tmp_path, "JS00001", "426177001,55827005,28189009")
    assert rows(tmp_path, tmp_path / "cache")["JS00001"]["labels"] == ["SB", "LVHV"]
    row = rows(tmp_path, tmp_path / "cache", label_set="scored")["JS00001"]
    assert row["labels"] == ["SB"] and row["codes"] == ["426177001", "55827005", "28189009"]
    with pytest.raises(EcgJepaConfigError, match="'all', 'scored'"):
        rows(tmp_path, tmp_path / "cache", label_set="superclass")


def test_the_index_opens_no_header(tmp_path):
    for number in range(50):
        (tmp_path / f"JS{number:05}.hea").touch()
    entries = list(EcgArrhythmia(data_dir=tmp_path).index(tmp_path))
    assert len(entries) == 50 and {entry.labels for entry in entries} == {None}


def test_a_folder_of_other_records_is_refused(shared_ecg, tmp_path):
    with pytest.raises(EcgJepaRecordError, match="JS00001"):
        rows(shared_ecg / "georgia", tmp_path)
