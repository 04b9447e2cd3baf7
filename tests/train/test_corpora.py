"""Corpora of a pretraining run: opened by name, mixed, prepared folders streamed, held-out parts refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import datasets
import pytest

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor, EcgJepaRecordError
from train.corpora import held_out_warning, load_corpora
from train.mixture import Mixture
from train.options import CorpusChoice, PretrainOptions, read_options
from train.pretrain import main, pretrain

EXTRACTOR = EcgJepaFeatureExtractor()
RECORDS = Path(__file__).resolve().parents[1] / "fixtures" / "records"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.fixture
def write_prepared(tmp_path):
    """A folder as `ecg-jepa prepare` leaves it, with one file a split."""

    def write(name: str, **splits: datasets.Dataset) -> Path:
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        for split, rows in splits.items():
            rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", batch_size=8)
        return folder

    return write


@pytest.fixture
def own_folder(tmp_path) -> Path:
    """Seven WFDB records, and a table that puts each into a split."""
    folder = tmp_path / "own"
    folder.mkdir()
    lines = ["record,split"]
    for place in range(7):
        header = (RECORDS / "ptb-xl" / "00001_hr.hea").read_text().replace("00001_hr", f"r{place}")
        (folder / f"r{place}.hea").write_text(header)
        shutil.copy(RECORDS / "ptb-xl" / "00001_hr.dat", folder / f"r{place}.dat")
        lines.append(f"r{place},{'test' if place == 6 else 'validation' if place == 5 else 'train'}")
    (folder / "r0.dat").write_bytes(b"")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder


TABLE = {"table": "table.csv", "split_column": "split"}


def load(*choices: CorpusChoice, **options) -> tuple[Mixture, list]:
    return load_corpora(PretrainOptions(corpus=list(choices), **options), EXTRACTOR, quiet=True)


def refusal(*choices: CorpusChoice, **options) -> str:
    with pytest.raises(EcgJepaConfigError) as caught:
        load(*choices, **options)
    return str(caught.value)


# How corpora are said -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "choice"),
    [
        ("ptb_xl", CorpusChoice("ptb_xl")),
        ("ptb_xl:a/b", CorpusChoice("ptb_xl", "a/b")),
        ("challenge2021/georgia:a/b:0.5", CorpusChoice("challenge2021/georgia", "a/b", 0.5)),
        ("wfdb_folder:a:b:2", CorpusChoice("wfdb_folder", "a:b", 2.0)),
        ("wfdb_folder:C:/data", CorpusChoice("wfdb_folder", "C:/data")),
        ("prepared:runs/1.5", CorpusChoice("prepared", "runs/1.5")),
    ],
)
def test_a_word_names_corpus_folder_and_weight(word, choice):
    assert read_options(["--corpus", word]).corpus == [choice]


def test_several_corpora_in_one_or_in_repeated_options():
    expected = [CorpusChoice("code15", "x"), CorpusChoice("ptb_xl", "y", 3.0)]
    assert read_options(["--corpus", "code15:x", "ptb_xl:y:3"]).corpus == expected
    assert read_options(["--corpus", "code15:x", "--corpus", "ptb_xl:y:3"]).corpus == expected


def test_a_recipe_says_the_same_and_the_builders_options(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "corpus:\n  - name: code15\n    data_dir: x\n    amplitude: 2\n  - {name: ptb_xl, weight: 3, held_out: true}\n"
        "  - ludb:z\n"
    )
    assert read_options(["--config", str(recipe)]).corpus == [
        CorpusChoice("code15", "x", options={"amplitude": 2}),
        CorpusChoice("ptb_xl", weight=3.0, held_out=True),
        CorpusChoice("ludb", "z"),
    ]


def test_data_dir_is_the_folder_of_a_single_corpus():
    assert read_options(["--corpus", "ptb_xl", "--data_dir", "x"]).corpora() == [CorpusChoice("ptb_xl", "x")]
    for words in (["a:x", "--data_dir", "y"], ["a", "b", "--data_dir", "y"], ["a", "--data_dir", "y", "z"]):
        with pytest.raises(EcgJepaConfigError, match="data_dir=.* is the folder of one corpus"):
            read_options(["--corpus", *words])


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("corpus: [{data_dir: x}]", "not a list of corpora"),
        ("corpus: [{name: x, weight: much}]", "not a list of corpora"),
        ("corpus: [{name: x, weight: -1}]", "weight=-1.0 of x must be above 0"),
        ("corpus: 5", "not a list of corpora"),
    ],
)
def test_what_names_no_corpus_is_refused(tmp_path, line, named):
    (tmp_path / "recipe.yaml").write_text(line)
    with pytest.raises(EcgJepaConfigError, match=named):
        read_options(["--config", str(tmp_path / "recipe.yaml")])
    with pytest.raises(EcgJepaConfigError, match="weight=0.0 of x must be above 0"):
        read_options(["--corpus", "x:y:0"])


# What is opened -------------------------------------------------------------------------------------------------------


def test_a_corpus_gives_its_training_part_and_lists_what_it_left_out(own_folder):
    records, skipped = load(CorpusChoice("wfdb_folder", str(own_folder), options=TABLE))
    assert len(records) == 4  # 0 to 4 without the damaged record 0
    assert [Path(record.place.split(" ")[0]).name for record in skipped] == ["r0"]
    assert records[0]["input_values"].shape == (8, 2500)


@pytest.mark.parametrize("leave", [{"allow_held_out": True}, {}])
def test_with_leave_it_gives_all_parts(own_folder, leave):
    choice = CorpusChoice("wfdb_folder", str(own_folder), held_out=not leave, options=TABLE)
    assert len(load(choice, **leave)[0]) == 6


def test_a_corpus_without_a_training_part_says_so(own_folder):
    table = (own_folder / "table.csv").read_text()
    (own_folder / "table.csv").write_text(table.replace(",train", ",test"))
    assert "has no training part, only" in refusal(CorpusChoice("wfdb_folder", str(own_folder), options=TABLE))


def test_unknown_corpora_options_and_folders_are_errors(own_folder, tmp_path):
    folder = str(own_folder)
    assert "Unknown corpus 'ptbxl'" in refusal(CorpusChoice("ptbxl", folder))
    assert "has no option colour" in refusal(CorpusChoice("wfdb_folder", folder, options={"colour": 1}))
    message = refusal(CorpusChoice("wfdb_folder", folder, options={"leads": ["I"], "seconds": 5}))
    assert "leads, seconds follow from the model" in message
    assert "needs the folder that ecg-jepa prepare wrote" in refusal(CorpusChoice("prepared"))
    for name in ("wfdb_folder", "prepared"):
        with pytest.raises(EcgJepaRecordError):
            load(CorpusChoice(name, str(tmp_path / "nowhere")))


def test_a_prepared_folder_is_read_as_it_is_and_only_its_training_files(make_rows, write_prepared, cache):
    folder = write_prepared("georgia", train=make_rows(10), test=make_rows(6, seed=1))
    records, skipped = load(CorpusChoice("prepared", str(folder)))
    assert (len(records), skipped) == (10, [])
    assert not cache.exists()
    assert len(load(CorpusChoice("prepared", str(folder), held_out=True))[0]) == 16
    shutil.rmtree(folder / "data")
    assert len(load(CorpusChoice("prepared", str(write_prepared("one", all=make_rows(3)))))[0]) == 3


def test_a_prepared_folder_with_nothing_but_held_out_files_is_refused(make_rows, write_prepared):
    folder = write_prepared("tested", test=make_rows(3), validation=make_rows(3))
    assert "has no training part" in refusal(CorpusChoice("prepared", str(folder)))


def test_folds_9_and_10_are_refused_wherever_they_are(make_rows, write_prepared):
    folder = write_prepared("all-folds", train=make_rows(6, folds=[1, 9, 3, 10, 8, 10]))
    message = refusal(CorpusChoice("prepared", str(folder)))
    assert "holds 3 records of folds 9 and 10" in message and "--allow_held_out" in message
    assert len(load(CorpusChoice("prepared", str(folder)), allow_held_out=True)[0]) == 6
    assert len(load(CorpusChoice("prepared", str(write_prepared("some", train=make_rows(2, folds=[1, 8])))))[0]) == 2


def test_ptb_xl_under_the_challenges_names_is_refused(make_rows, write_prepared):
    folder = write_prepared("challenge", train=make_rows(4, prefix="HR"))
    assert "holds 4 records of PTB-XL under the Challenge's ids" in refusal(CorpusChoice("prepared", str(folder)))


def test_ptb_xl_is_trained_on_folds_1_to_8(shared_ecg):
    records, skipped = load(CorpusChoice("ptb_xl", str(shared_ecg / "ptb-xl")))
    folds = set(records.corpora[0].rows.column("fold").to_pylist())
    assert len(records) == 35 and folds <= set(range(1, 9))
    assert len(skipped) == 70
    everything, _ = load(CorpusChoice("ptb_xl", str(shared_ecg / "ptb-xl")), allow_held_out=True)
    assert len(everything) == 53
    authors = CorpusChoice("ptb_xl", str(shared_ecg / "ptb-xl"), options={"folds": "authors"})
    assert "14 records of folds 9 and 10" in refusal(authors)


def test_ludb_is_kept_for_judging(shared_ecg):
    assert "ludb is kept out of pretraining" in refusal(CorpusChoice("ludb", str(shared_ecg / "ludb")))
    assert len(load(CorpusChoice("ludb", str(shared_ecg / "ludb"), held_out=True))[0]) == 20


# Plain folders --------------------------------------------------------------------------------------------------------


def test_a_plain_folder_inside_ptb_xl_gets_a_warning_and_nothing_else_does(tmp_path, own_folder):
    (tmp_path / "ptb-xl" / "records500" / "00000").mkdir(parents=True)
    (tmp_path / "ptb-xl" / "ptbxl_database.csv").touch()
    for folder in ("ptb-xl", "ptb-xl/records500", "ptb-xl/records500/00000"):
        warning = held_out_warning([str(own_folder), str(tmp_path / folder)])
        assert f"--corpus ptb_xl --data_dir {tmp_path / 'ptb-xl'}" in warning
    assert held_out_warning([str(own_folder)]) is None


# Whole runs -----------------------------------------------------------------------------------------------------------

SMALL = PretrainOptions(preset="tiny", max_steps=3, logging_steps=1, batch_size=4, probe_records=0, cpu_threads=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_mixes_a_corpus_with_a_prepared_folder(make_rows, write_prepared, own_folder, tmp_path, workers):
    prepared = write_prepared("georgia", train=make_rows(10))
    choices = [
        CorpusChoice("wfdb_folder", str(own_folder), weight=2.0, options=TABLE),
        CorpusChoice("prepared", str(prepared)),
    ]
    options = dataclasses.replace(SMALL, corpus=choices, output_dir=str(tmp_path / "run"), num_workers=workers)
    state = pretrain(options)
    assert (state["records"], len(state["records_left_out"])) == (14, 1)
    kept = json.loads((tmp_path / "run" / "training_state.json").read_text())["options"]["corpus"]
    assert [(corpus["name"], corpus["weight"]) for corpus in kept] == [("wfdb_folder", 2.0), ("prepared", 1.0)]


def test_the_command_says_what_it_refuses(make_rows, write_prepared, tmp_path, capsys):
    folder = write_prepared("all-folds", train=make_rows(4, folds=[9, 9, 9, 9]))
    words = ["--preset", "tiny", "--batch_size", "4", "--output_dir", str(tmp_path / "run")]
    assert main([*words, "--corpus", "prepared", "--data_dir", str(folder)]) == 1
    assert "folds 9 and 10" in capsys.readouterr().err
