"""The challenge's training sets, a configuration each, found in their own folder or in one above."""

import re

import numpy as np
import pytest
import wfdb
from made_records import challenge_record

from dataset_scripts import load_ecg_dataset
from dataset_scripts.challenge2021 import SETS, Challenge2021
from dataset_scripts.loading import corpus_builder
from dataset_scripts.records import find_records
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError


def rows(config_name, folder, cache, **options):
    dataset = load_ecg_dataset("challenge2021", config_name=config_name, data_dir=folder, cache_dir=cache, **options)
    names = next(iter(dataset.values())).features["labels"].feature.names
    return {
        row["record_id"]: row | {"split": split, "labels": [names[label] for label in row["labels"]]}
        for split, part in dataset.items()
        for row in part
    }


# The real records


@pytest.mark.parametrize(
    ("config_name", "folder", "count"),
    [("ningbo", "ecg-arrhythmia-challenge", 12), ("georgia", "georgia", 12), ("ptb-xl", "ptb-xl-challenge", 5)],
)
def test_every_real_record_is_what_wfdb_reads(shared_ecg, tmp_path, config_name, folder, count):
    found = rows(config_name, shared_ecg / folder, tmp_path)
    headers = find_records(shared_ecg / folder)
    assert len(found) == len(headers) == count
    for path in headers:
        row, expected = found[path.stem], wfdb.rdrecord(str(path.with_suffix("")))
        assert np.array_equal(np.asarray(row["signal"]).reshape(12, -1).T, expected.adc())
        assert row["lead_names"] == expected.sig_name
        [dx] = [comment for comment in expected.comments if comment.startswith("Dx")]
        assert row["codes"] == dx.removeprefix("Dx: ").split(",")


def test_real_labels_are_the_scored_classes_or_all(shared_ecg, tmp_path):
    scored = rows("georgia", shared_ecg / "georgia", tmp_path)
    every = rows("georgia", shared_ecg / "georgia", tmp_path, label_set="all")
    assert scored["E07500"]["labels"] == ["SB"] and every["E07500"]["labels"] == ["SB", "LAE"]
    assert scored["E07505"]["labels"] == [] and every["E07505"]["labels"] == ["LVH"]
    assert scored["E07509"]["labels"] == ["RBBB", "SB"]


def test_units_in_any_spelling_and_headers_without_all_comments_are_read(shared_ecg, tmp_path):
    """PTB-XL's copy writes mv, Georgia's has no Sx: the sample's peaks are those of hearts, nothing is assumed."""
    assert "/mv " in (shared_ecg / "ptb-xl-challenge" / "HR06000.hea").read_text()
    assert "Sx" not in (shared_ecg / "georgia" / "E07500.hea").read_text()
    for config_name, folder in (("ptb-xl", "ptb-xl-challenge"), ("georgia", "georgia")):
        for row in rows(config_name, shared_ecg / folder, tmp_path).values():
            assert 0.3 < np.ptp(row["signal"]) * row["signal_scale"] < 10
            assert row["findings"] == [] and row["sex"] in ("female", "male") and 20 < row["age"] < 90


def test_georgias_two_equal_records_are_equal_and_declared(shared_ecg, tmp_path):
    found = rows("georgia", shared_ecg / "georgia", tmp_path)
    assert found["E07509"]["signal"] == found["E07510"]["signal"] != found["E07511"]["signal"]
    assert "E07509 and E07510" in Challenge2021(config_name="georgia", cache_dir=tmp_path).info.description


def test_zero_leads_of_the_ningbo_set_are_missing(shared_ecg, tmp_path):
    found = rows("ningbo", shared_ecg / "ecg-arrhythmia-challenge", tmp_path)
    missing = {name: row["missing_leads"] for name, row in found.items() if row["missing_leads"]}
    assert missing == {"JS20004": ["V2", "V4", "V6"], "JS20008": ["V2", "V4", "V6"]}


def test_a_set_is_found_among_all_others(shared_ecg, tmp_path):
    assert len(rows("ptb-xl", shared_ecg, tmp_path)) == 5
    assert len(rows("ningbo", shared_ecg, tmp_path)) == 12


# Sets, layouts and labels


def test_no_two_sets_share_a_name():
    names = [f"JS{number:05}" for number in range(1, 45552)]
    chapman = [name for name in names if re.fullmatch(SETS["chapman_shaoxing"].record, name)]
    ningbo = [name for name in names if re.fullmatch(SETS["ningbo"].record, name)]
    assert chapman == names[:10646] and ningbo == names[10646:]
    for own, chosen in SETS.items():
        assert [name for name, other in SETS.items() if re.fullmatch(other.record, chosen.example)] == [own]


def test_every_set_has_a_configuration_with_its_version_and_warning(tmp_path):
    builders = {name: corpus_builder("challenge2021", config_name=name, cache_dir=str(tmp_path)) for name in SETS}
    assert {str(builder.config.version) for builder in builders.values()} == {"1.0.3"}
    assert "PTB-XL's test fold" in builders["ptb-xl"].info.description
    for name in ("ptb", "ptb-xl", "st_petersburg_incart"):
        assert "a patient may be in" in builders[name].info.description
    assert len({builder.cache_dir for builder in builders.values()}) == 8


@pytest.mark.parametrize("folder", ["training/georgia/g1", "training/georgia", "georgia", "."])
def test_folders_may_be_the_releases_or_flat(tmp_path, folder):
    root = tmp_path / "data"
    challenge_record(root / folder, "E00001", "426177001")
    challenge_record(root / "training" / "cpsc_2018" / "g1", "A0001", "59118001")
    assert list(rows("georgia", root, tmp_path / "cache")) == ["E00001"]


def test_equivalent_codes_are_one_label_and_stay_apart_as_codes(tmp_path):
    challenge_record(tmp_path, "E00001", "713427006,59118001,17338001,999999")
    row = rows("georgia", tmp_path, tmp_path / "cache")["E00001"]
    assert row["labels"] == ["PVC", "RBBB"]
    assert row["codes"] == ["713427006", "59118001", "17338001", "999999"]


def test_single_label_counts_classes_not_codes(tmp_path, caplog):
    challenge_record(tmp_path, "E00001", "713427006,59118001")
    challenge_record(tmp_path, "E00002", "426177001,59118001")
    challenge_record(tmp_path, "E00003", "164873001")
    assert list(rows("georgia", tmp_path, tmp_path / "cache", single_label=True)) == ["E00001"]
    assert "2 x not exactly one label" in caplog.text


@pytest.mark.parametrize("options", [{}, {"config_name": "georgia2"}, {"label_set": "all"}])
def test_a_set_that_is_not_named_or_unknown_lists_all(tmp_path, options):
    challenge_record(tmp_path, "E00001", "426177001")
    with pytest.raises(EcgJepaConfigError, match="st_petersburg_incart"):
        load_ecg_dataset("challenge2021", data_dir=tmp_path, cache_dir=tmp_path / "cache", **options)


def test_the_folder_of_another_set_is_refused(tmp_path):
    challenge_record(tmp_path, "E00001", "426177001")
    with pytest.raises(EcgJepaRecordError, match=r"JS10647.*E00001\.hea"):
        rows("ningbo", tmp_path, tmp_path / "cache")


def test_the_longest_set_can_be_cropped_at_its_own_rate(tmp_path):
    challenge_record(tmp_path, "I0001", "426783006", samples=257 * 30, sampling_rate=257)
    row = rows("st_petersburg_incart", tmp_path, tmp_path / "cache", seconds=10, sampling_rate=250)["I0001"]
    assert len(row["signal"]) == 12 * 2500 and row["sampling_rate"] == 250
