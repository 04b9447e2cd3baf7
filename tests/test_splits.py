"""Splits: stable, in the shares asked for, patients together; and manifests that are what was written."""

import collections
import hashlib
import json

import datasets
import pytest

from dataset_scripts.corpus import CorpusEntry, EcgCorpus
from dataset_scripts.splits import (
    SPLITS,
    SplitManifest,
    apply_split_manifest,
    read_split_manifest,
    split_by_hash,
    split_manifest_of,
    write_split_manifest,
)
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaOutputError, EcgJepaRecordError

IDS = {"train": ["3", "1", "20"], "validation": ["5"], "test": ["4", "2"]}
MANIFEST = SplitManifest.of("ptb_xl", "1.0.3", IDS)


def dataset_of(*ids: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"record_id": ids, "age": list(range(len(ids)))})


def test_the_split_of_a_patient_never_changes():
    # A change here moves records from test to train: every figure published with the old split would be void.
    known = {"1": "train", "15709": "train", "patient001": "validation", "A0001": "train", "JS00010": "train"}
    assert {patient: split_by_hash(patient) for patient in known} == known
    assert [next(str(i) for i in range(1000) if split_by_hash(str(i)) == split) for split in SPLITS] == ["0", "8", "29"]


def test_split_by_hash_is_a_keyed_blake2b():
    for patient in map(str, range(200)):
        digest = hashlib.blake2b(patient.encode(), key=b"ecg-jepa split 1", digest_size=8).hexdigest()
        tenth = int(digest, 16) * 10 >> 64
        assert split_by_hash(patient) == {0: "test", 1: "validation"}.get(tenth, "train")


def test_records_of_a_patient_share_a_split_and_those_without_one_go_by_their_own_id():
    entries = [CorpusEntry(f"r{place}", f"{place}.hea", patient_id=f"p{place % 40}") for place in range(400)]
    splits_of = collections.defaultdict(set)
    for entry in entries:
        splits_of[entry.patient_id].add(EcgCorpus.split_of(None, entry))
    assert {len(splits) for splits in splits_of.values()} == {1}
    assert set.union(*splits_of.values()) == set(SPLITS)
    assert EcgCorpus.split_of(None, CorpusEntry("29", "29.hea")) == "test"


def test_shares_are_near_those_asked_for():
    splits = [split_by_hash(f"patient {place}") for place in range(20_000)]
    # Three standard deviations of a share of 10 % in 20,000 are 0.0064.
    assert splits.count("validation") / 20_000 == pytest.approx(0.1, abs=0.0064)
    assert splits.count("test") / 20_000 == pytest.approx(0.1, abs=0.0064)
    half = [split_by_hash(f"patient {place}", validation=0.2, test=0.3) for place in range(20_000)]
    assert half.count("train") / 20_000 == pytest.approx(0.5, abs=0.011)


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    write_split_manifest(tmp_path / "split.json", MANIFEST)
    assert read_split_manifest(tmp_path / "split.json") == MANIFEST
    assert MANIFEST.splits == {"train": ("1", "20", "3"), "validation": ("5",), "test": ("2", "4")}
    content = json.loads((tmp_path / "split.json").read_text())
    assert (content["schema_version"], content["sha256"]) == (1, MANIFEST.sha256)
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


def test_the_hash_depends_on_the_content_and_on_nothing_else():
    other_order = SplitManifest.of("ptb_xl", "1.0.3", {split: IDS[split][::-1] for split in reversed(IDS)})
    assert other_order.sha256 == MANIFEST.sha256
    text = '["ptb_xl","1.0.3",[["test",["2","4"]],["train",["1","20","3"]],["validation",["5"]]]]'
    assert MANIFEST.sha256 == hashlib.sha256(text.encode()).hexdigest()
    moved = SplitManifest.of("ptb_xl", "1.0.3", {"train": ["3", "1"], "validation": ["5", "20"], "test": ["4", "2"]})
    assert len({MANIFEST.sha256, moved.sha256, SplitManifest.of("ptb_xl", "1.0.2", IDS).sha256}) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content["splits"]["train"].append("2"), "manifest altered"),
        (lambda content: content.update(version="1.0.1"), "manifest altered"),
        (lambda content: content["splits"].pop("test"), "manifest altered"),
        (lambda content: content.update(schema_version=2), "manifest of another version"),
        (lambda content: content.pop("schema_version"), "manifest of another version"),
        (lambda content: content.pop("sha256"), "manifest not readable"),
        (lambda content: content["splits"].update(train=[1, 2]), "manifest not readable"),
        (lambda content: content.update(splits=["1"]), "manifest not readable"),
    ],
)
def test_a_manifest_that_is_not_what_was_written_is_refused(tmp_path, change, reason):
    path = tmp_path / "split.json"
    write_split_manifest(path, MANIFEST)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(EcgJepaRecordError, match="split.json") as caught:
        read_split_manifest(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, content):
    (tmp_path / "split.json").write_bytes(content)
    with pytest.raises(EcgJepaRecordError) as caught:
        read_split_manifest(tmp_path / "split.json")
    assert caught.value.reason == "manifest not readable"


def test_missing_files_and_unwritable_places_are_named(tmp_path):
    with pytest.raises(EcgJepaRecordError, match="none.json"):
        read_split_manifest(tmp_path / "none.json")
    with pytest.raises(EcgJepaOutputError, match="no_folder"):
        write_split_manifest(tmp_path / "no_folder" / "split.json", MANIFEST)


@pytest.mark.parametrize("splits", [{"train": ["1"], "test": ["1"]}, {"train": ["7", "7"]}, {}, {"": ["1"]}])
def test_a_manifest_has_each_id_once_and_names_its_splits(splits):
    with pytest.raises(EcgJepaConfigError):
        SplitManifest.of("ptb_xl", "1.0.3", splits)


def test_a_manifest_of_a_dataset_makes_the_same_dataset_again():
    dataset = datasets.DatasetDict({split: dataset_of(*ids) for split, ids in IDS.items()})
    manifest = split_manifest_of(dataset, "ptb_xl", "1.0.3")
    assert manifest == MANIFEST
    again = apply_split_manifest(dataset_of("1", "2", "3", "4", "5", "20"), manifest)
    assert {split: list(rows["record_id"]) for split, rows in again.items()} == {
        split: sorted(ids) for split, ids in IDS.items()
    }
    assert list(again["test"]["age"]) == [1, 3]  # the whole row goes along
    assert list(apply_split_manifest(dataset, manifest)["train"]["record_id"]) == ["1", "20", "3"]


def test_a_manifest_that_does_not_fit_names_the_ids():
    with pytest.raises(EcgJepaConfigError) as caught:
        apply_split_manifest(dataset_of("1", "2", "3", "4", "5", "5", "90"), MANIFEST)
    message = str(caught.value)
    assert "The dataset lacks 1 id (20)." in message
    assert "The manifest lacks 1 id (90)." in message
    assert "The dataset has twice 1 id (5)." in message
    with pytest.raises(EcgJepaConfigError, match=r"lacks 6 ids \(1, 2, 20, 3, 4 and 1 more\)"):
        apply_split_manifest(dataset_of("x"), MANIFEST)
