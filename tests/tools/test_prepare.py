"""`ecg-jepa prepare`: a folder that plain `datasets` reads, its card, and what goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from matplotlib.image import imread
from typer.testing import CliRunner
from written_records import LEADS, write_record

from dataset_scripts import load_ecg_dataset
from dataset_scripts.corpus import as_table, row_features
from dataset_scripts.dataset_card import COLUMNS
from dataset_scripts.dataset_statistics import split_statistics
from dataset_scripts.splits import read_split_manifest
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaOutputError
from modeling_ecg_jepa.tools.cli import app
from modeling_ecg_jepa.tools.prepare import parse_options, prepare, push

TABLE = ["--option", "table=table.csv", "--option", "label_columns=AF,MI", "--option", "patient_column=who"]


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """40 sound records of 20 patients, one that cannot be read, and one that is short."""
    root = tmp_path_factory.mktemp("source")
    rows = []
    for seed in range(40):
        write_record(root, f"r{seed:02}", seed=seed, comments=[f"Age: {20 + seed}", "Sex: Female"])
        rows.append({"record": f"r{seed:02}", "who": f"p{seed // 2}", "AF": seed % 2, "MI": int(seed % 5 == 0)})
    (root / "broken.hea").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    write_record(root, "short", seconds=0.5)
    rows += [{"record": name, "who": "p99", "AF": 0, "MI": 0} for name in ("broken", "short")]
    pd.DataFrame(rows).to_csv(root / "table.csv", index=False)
    return root


def run(*arguments, expect: int = 0) -> str:
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == expect, result.output
    return result.output


@pytest.fixture(scope="module")
def exported(records, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "prepared"
    arguments = ("wfdb_folder", "--data_dir", records, "--output_dir", folder, "--no_progress", *TABLE)
    text = run(*arguments, "--num-proc", 2, "--seconds", 1, "--cache-dir", folder.parent / "cache", expect=3)
    assert (
        "2 left out:\n     1 x Git LFS pointer\n     1 x shorter than 1 s\n  broken (broken): broken.hea: this is"
        in text
    )
    return folder


def test_it_holds_shards_card_plots_and_lists_and_nothing_else(exported):
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    shards = {f"data/{split}-0000{n}-of-00002.parquet" for split in ("train", "validation", "test") for n in (0, 1)}
    plots = {f"plots/{name}.png" for name in ("labels", "patients", "ecg")}
    assert files == {"README.md", "left_out.jsonl", "split.json"} | shards | plots
    assert [path.name for path in exported.parent.iterdir() if path.name != "cache"] == ["prepared"]


def test_plain_datasets_reads_it_without_our_code_as_load_ecg_dataset_does(exported, records, tmp_path):
    # Imports of our packages fail there, wherever they may be installed.
    script = (
        "import sys\n"
        "sys.modules['dataset_scripts'] = sys.modules['modeling_ecg_jepa'] = None\n"
        "import datasets, json\n"
        f"loaded = datasets.load_dataset({str(exported)!r}, cache_dir={str(tmp_path / 'plain')!r})\n"
        "rows = {split: list(rows) for split, rows in loaded.items()}\n"
        "names = {split: rows.features['labels'].feature.names for split, rows in loaded.items()}\n"
        f"json.dump([rows, names, repr(loaded['train'].features)], open({str(tmp_path / 'rows.json')!r}, 'w'))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=tmp_path)
    rows, names, features = json.loads((tmp_path / "rows.json").read_text())
    options = {"table": "table.csv", "label_columns": ["AF", "MI"], "patient_column": "who", "seconds": 1}
    ours = load_ecg_dataset("wfdb_folder", data_dir=records, cache_dir=tmp_path / "ours", **options)
    assert rows == {split: list(of_split) for split, of_split in ours.items()}
    assert set(map(tuple, names.values())) == {("AF", "MI")}
    assert features == repr(ours["train"].features)
    assert sum(map(len, rows.values())) == 40


def test_the_card_is_one_that_the_hub_understands(exported):
    card = DatasetCard.load(exported / "README.md")
    assert card.data.license == "unknown"
    assert card.data.size_categories == ["n<1K"]
    assert "ecg" in card.data.tags
    (config,) = card.data.configs
    assert [files["split"] for files in config["data_files"]] == ["train", "validation", "test"]
    info = card.data.dataset_info
    counted = {split["name"]: split["num_examples"] for split in info["splits"]}
    shards = {split: exported.glob(f"data/{split}-*") for split in counted}
    assert counted == {split: sum(pq.read_metadata(file).num_rows for file in files) for split, files in shards.items()}
    assert info["download_size"] == sum(file.stat().st_size for file in exported.glob("data/*"))


def test_the_figures_of_the_card_are_those_of_the_rows(exported):
    text = (exported / "README.md").read_text()
    for split in ("train", "validation", "test"):
        rows = pd.concat(pq.read_table(file).to_pandas() for file in sorted(exported.glob(f"data/{split}-*")))
        hours = f"{len(rows) / 3600:.2f}"
        line = f"| {split} | {len(rows)} | {rows['patient_id'].nunique()} | 0 | {hours} | {rows['age'].median():g} ("
        assert line in text
    labels = {split: [] for split in ("train", "validation", "test")}
    for split, counts in labels.items():
        rows = pd.concat(pq.read_table(file).to_pandas() for file in sorted(exported.glob(f"data/{split}-*")))
        held = sum(1 in labels for labels in rows["labels"])
        counts.append(f"{held} ({held / len(rows):.1%})")
    assert f"| MI | {' | '.join(count for (count,) in labels.values())} |" in text
    assert "No known patient has records in more than one split." in text
    assert "| by the options: shorter than 1 s | 1 | short (short) |" in text
    assert "| Git LFS pointer | 1 | broken (broken) |" in text
    assert "`label_columns=['AF', 'MI']`" in text
    assert "Research use only" in text


def test_nothing_tells_where_the_files_lay_on_this_machine(exported, records):
    for name in ("README.md", "left_out.jsonl"):
        text = (exported / name).read_text()
        assert str(records) not in text
        assert str(exported) not in text


def test_the_lists_beside_it(exported):
    left_out = [json.loads(line) for line in (exported / "left_out.jsonl").read_text().splitlines()]
    assert [(record["place"], record["by_choice"]) for record in left_out] == [
        ("broken (broken)", False),
        ("short (short)", True),
    ]
    manifest = read_split_manifest(exported / "split.json")
    assert manifest.sha256 in (exported / "README.md").read_text()
    for split, ids in manifest.splits.items():
        files = exported.glob(f"data/{split}-*")
        written = [name for file in files for name in pq.read_table(file)["record_id"].to_pylist()]
        assert sorted(written) == list(ids)


def test_the_plots_are_pictures_with_something_on_them(exported):
    text = (exported / "README.md").read_text()
    for plot in (exported / "plots").iterdir():
        assert f"](plots/{plot.name})" in text
        height, width, _ = imread(plot).shape
        assert 200 < height < 2000 and 600 < width < 2000
        assert imread(plot)[..., :3].std() > 0.02


def test_lengths_are_drawn_where_they_differ(records, tmp_path):
    prepare("wfdb_folder", tmp_path / "out", data_dir=records, cache_dir=str(tmp_path))
    assert (tmp_path / "out" / "plots" / "lengths.png").is_file()
    assert not (tmp_path / "out" / "plots" / "labels.png").exists()
    assert "The rows have no labels." in (tmp_path / "out" / "README.md").read_text()


def test_windows_for_a_model_have_one_size_and_small_row_groups(records, tmp_path):
    leads = "I,II,V1,V2,V3,V4,V5,V6"
    arguments = ("--sampling_rate", 50, "--leads", leads, "--seconds", 1, "--cache_dir", tmp_path)
    run("wfdb_folder", "--data-dir", records, "--output-dir", tmp_path / "out", *arguments, expect=3)
    for file in (tmp_path / "out" / "data").iterdir():
        table = pq.read_table(file)
        assert str(table.schema.field("signal").type) == "fixed_size_list<element: int16>[400]"
        assert np.asarray(table["lead_names"].to_pylist()).tolist() == [leads.split(",")] * table.num_rows
        metadata = pq.read_metadata(file)
        assert all(metadata.row_group(n).num_rows <= 64 for n in range(metadata.num_row_groups))


def test_shards_have_the_size_asked_for(tmp_path):
    write_record(tmp_path / "r", "one", seconds=1.0)
    header = (tmp_path / "r" / "one.hea").read_text()
    for place in range(139):  # more records of the same signal file
        (tmp_path / "r" / f"r{place:03}.hea").write_text(header.replace("one ", f"r{place:03} ", 1))
    prepared = prepare(
        "wfdb_folder", tmp_path / "out", data_dir=tmp_path / "r", cache_dir=str(tmp_path), max_shard_size="100KB"
    )
    files = sorted((tmp_path / "out" / "data").glob("train-*"))
    assert len(files) == 2
    assert sum(pq.read_metadata(file).num_rows for file in files) == prepared.splits["train"].records


def test_memory_for_counting_does_not_grow_with_the_shard(tmp_path):
    features = row_features((), {})
    row = dict.fromkeys(features) | {"signal": np.arange(60_000) % 997, "lead_names": list(LEADS), "sampling_rate": 500}
    row |= {"labels": [], "codes": [], "findings": []}
    usual, most = pa.default_memory_pool(), []
    for groups in (4, 20):
        with pq.ParquetWriter(tmp_path / "shard", features.arrow_schema) as shard:
            for group in range(groups):
                shard.write_table(as_table([row | {"record_id": f"{group}-{place}"} for place in range(16)], features))
        pa.set_memory_pool(counting := pa.proxy_memory_pool(usual))
        try:
            statistics = split_statistics([tmp_path / "shard"], features)
        finally:
            pa.set_memory_pool(usual)
        assert (statistics.records, set(statistics.seconds)) == (16 * groups, {10.0})
        most.append(counting.max_memory())
    assert most[1] < 1.2 * most[0]


def test_exit_code_and_words_without_faults(records, tmp_path):
    only = ("--option", "table=sound.csv", "--cache_dir", tmp_path)
    (records / "sound.csv").write_text("record\nr00\nr01\nshort\n")
    text = run("wfdb_folder", "--data_dir", records, "--output_dir", tmp_path / "a", *only)
    assert "left out" not in text
    text = run("wfdb_folder", "--data_dir", records, "--output_dir", tmp_path / "b", *only, "--seconds", 1)
    assert "1 left out:\n     1 x shorter than 1 s" in text


def test_a_folder_with_something_in_it_is_refused_and_replaced_only_by_its_like(exported, records, tmp_path):
    arguments = ("wfdb_folder", "--data_dir", records, "--cache_dir", tmp_path, "--output_dir")
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    assert "is not empty" in run(*arguments, exported, expect=1)
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "is not empty" in run(*arguments, tmp_path / "mine", expect=1)
    assert "thesis.tex, which would be lost" in run(*arguments, tmp_path / "mine", "--overwrite", expect=1)
    run(*arguments, tmp_path / "again", expect=3)
    run(*arguments, tmp_path / "again", "--overwrite", "--seconds", 1, expect=3)
    assert "`seconds=1.0`" in (tmp_path / "again" / "README.md").read_text()


@pytest.mark.parametrize("fault", ["on_error", "no folder", "unknown corpus"])
def test_a_run_that_fails_leaves_nothing(records, tmp_path, fault):
    corpus, options = {
        "on_error": ("wfdb_folder", ["--data_dir", records, "--on_error", "raise"]),
        "no folder": ("wfdb_folder", ["--data_dir", tmp_path / "absent"]),
        "unknown corpus": ("mitbih", []),
    }[fault]
    text = run(corpus, *options, "--output_dir", tmp_path / "out" / "x", "--cache_dir", tmp_path / "c", expect=1)
    assert text.strip().splitlines()[-1].startswith("Error: ")
    assert not list(tmp_path.glob("out/.*"))
    # On a busy machine the signal may come only after the folder was put in its place.
    assert all((folder / "README.md").exists() and list(folder.rglob("*.parquet")) for folder in tmp_path.glob("out/*"))


def test_an_interrupted_run_leaves_nothing_half_made(records, tmp_path):
    command = [sys.executable, "-m", "modeling_ecg_jepa.tools.cli", "prepare", "wfdb_folder", "--data_dir", records]
    process = subprocess.Popen(
        [*command, "--output_dir", tmp_path / "out" / "x", "--cache_dir", tmp_path / "c"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
    )
    while process.poll() is None and not list(tmp_path.glob("out/.x.*/written")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) != 0
    assert not list(tmp_path.glob("out/.*"))
    # On a busy machine the signal may come only after the folder was put in its place.
    assert all((folder / "README.md").exists() and list(folder.rglob("*.parquet")) for folder in tmp_path.glob("out/*"))


def test_options_have_the_types_of_their_fields():
    texts = ["table=a.csv", "label_columns=AF, MI", "seconds=2.5", "single-label=TRUE", "label_separator==", "leads=II"]
    assert parse_options("wfdb_folder", texts) == {
        "table": "a.csv",
        "label_columns": ["AF", "MI"],
        "seconds": 2.5,
        "single_label": True,
        "label_separator": "=",
        "leads": ["II"],
    }
    for text, words in [
        ("colour=red", "one of the options of wfdb_folder: .*label_columns"),
        ("table", "write name=value"),
        ("seconds=long", "could not convert"),
        ("single_label=1", "neither true nor false"),
        ("data_dir=x", "one of the options"),
    ]:
        with pytest.raises(EcgJepaConfigError, match=words):
            parse_options("wfdb_folder", [text])


def test_every_column_of_the_schema_is_explained():
    assert list(COLUMNS) == list(row_features((), {}))


# Pushing


def test_what_cannot_be_pushed_is_said_before_the_work(records, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    arguments = ("wfdb_folder", "--data_dir", records, "--output_dir", tmp_path / "out", "--push_to_hub")
    assert "'a/b/c' is no name on the Hub" in run(*arguments, "a/b/c", expect=1)
    assert "Not logged in" in run(*arguments, "someone/ecg", expect=1)
    assert not (tmp_path / "out").exists()


def test_a_hub_that_cannot_be_reached_leaves_the_folder_and_says_how_to_go_on(exported, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with pytest.raises(EcgJepaOutputError, match="is complete, but could not be pushed to someone/ecg: .*hf upload"):
        push(exported, "someone/ecg")
    assert (exported / "README.md").is_file()
    assert os.listdir(exported / "data")
