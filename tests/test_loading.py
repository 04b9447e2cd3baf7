"""`load_ecg_dataset`: corpora by their names."""

import logging
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from written_records import write_record

from dataset_scripts import load_ecg_dataset
from dataset_scripts.loading import CORPORA, corpus_class
from modeling_ecg_jepa import EcgJepaConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("records")
    for seed in range(8):
        write_record(root, f"r{seed}", seed=seed, seconds=1.0)
    (root / "bad.hea").write_text("nothing")
    return root


@pytest.fixture
def options(folder, tmp_path) -> dict:
    return {"data_dir": folder, "cache_dir": tmp_path / "cache"}


def test_loading_gives_all_splits_one_a_slice_or_a_stream(options):
    whole = load_ecg_dataset("wfdb_folder", **options)
    assert isinstance(whole, datasets.DatasetDict)
    assert sum(whole.num_rows.values()) == 8
    train = load_ecg_dataset("wfdb_folder", split="train", **options)
    assert train[:] == whole["train"][:]
    assert load_ecg_dataset("wfdb_folder", split="train[:2]", **options)[:] == train[:2]
    stream = load_ecg_dataset("wfdb_folder", split="train", streaming=True, **options)
    assert isinstance(stream, datasets.IterableDataset)
    assert list(stream) == list(train)


def test_records_left_out_are_shown_every_time(options, caplog):
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_ecg_dataset("wfdb_folder", **options)
        assert "wfdb_folder: 1 records were left out:" in caplog.text
        assert "bad (bad)" in caplog.text


def test_a_stream_says_what_it_leaves_out(options, caplog):
    with caplog.at_level(logging.WARNING):
        for stream in load_ecg_dataset("wfdb_folder", streaming=True, **options).values():
            list(stream)
    assert "wfdb_folder: left out bad (bad): " in caplog.text


def test_unknown_corpora_options_and_configurations_are_named_with_those_there_are(options):
    with pytest.raises(EcgJepaConfigError, match="Unknown corpus 'mitbih'. Known: ptb_xl, .*wfdb_folder"):
        load_ecg_dataset("mitbih")
    with pytest.raises(EcgJepaConfigError, match=r"wfdb_folder has no option rate\. It has .*sampling_rate"):
        load_ecg_dataset("wfdb_folder", rate=250, **options)
    with pytest.raises(EcgJepaConfigError, match="wfdb_folder has no configuration 'big'; it has none by name"):
        load_ecg_dataset("wfdb_folder", config_name="big", **options)
    with pytest.raises(EcgJepaConfigError, match="several configurations; pass config_name=.*georgia"):
        load_ecg_dataset("challenge2021", **options)


def test_without_a_folder_and_without_a_download_the_message_says_what_to_pass(tmp_path):
    with pytest.raises(EcgJepaConfigError, match="data_dir"):
        load_ecg_dataset("wfdb_folder", cache_dir=tmp_path)


def test_every_corpus_is_a_builder_in_a_file_of_its_name():
    for name in CORPORA:
        assert corpus_class(name).__module__ == f"dataset_scripts.{name}"
        assert datasets.naming.camelcase_to_snakecase(corpus_class(name).__name__).replace("_", "") == name.replace(
            "_", ""
        )


def test_importing_the_package_imports_no_corpus_library():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, dataset_scripts; print('datasets' in sys.modules, 'wfdb' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, r"split='val' must be train, validation, test, all, or a part"),
        ({"num_proc": 0}, r"num_proc=0 must be at least 1"),
        ({"sampling_rate": "250"}, r"sampling_rate='250' must be a number"),
        ({"leads": "I,II"}, r"leads='I,II' must be a list of names: \['I', 'II'\]"),
        ({"label_colums": ["AF"]}, r"no option label_colums\. Did you mean 'label_columns'\?"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(EcgJepaConfigError, match=message):
        load_ecg_dataset("wfdb_folder", data_dir=tmp_path, cache_dir=tmp_path / "cache", **options)


def test_a_misspelt_corpus_is_guessed():
    with pytest.raises(EcgJepaConfigError, match=r"Unknown corpus 'ptb-xl'\. Did you mean 'ptb_xl'\?"):
        load_ecg_dataset("ptb-xl")


def test_a_part_without_records_says_where_they_are(tmp_path):
    write_record(tmp_path / "records", "only")
    there = {"data_dir": tmp_path / "records", "cache_dir": tmp_path / "cache"}
    (split,) = load_ecg_dataset("wfdb_folder", **there)
    other = "test" if split != "test" else "train"
    with pytest.raises(
        EcgJepaConfigError, match=rf"no record of this copy falls into split='{other}'; all are in {split}"
    ):
        load_ecg_dataset("wfdb_folder", split=other, **there)


def test_leads_that_a_record_lacks_are_named_as_missing_and_labels_that_all_lack_are_a_warning(tmp_path, caplog):
    write_record(tmp_path / "records", "a", leads=("I", "II", "V1"))
    (tmp_path / "records" / "t.csv").write_text("record,AF\na,0\n")
    dataset = load_ecg_dataset(
        "wfdb_folder",
        data_dir=tmp_path / "records",
        cache_dir=tmp_path / "cache",
        table="t.csv",
        label_columns=["AF"],
        leads=["II", "III", "V7"],
        split="all",
    )
    assert dataset[0]["missing_leads"] == ["V7"]
    assert "none of its records has a label" in caplog.text
