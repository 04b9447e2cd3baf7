"""Shards hold the same rows whoever makes them; a killed run is completed; shards of anything else are refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from written_records import write_record

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaInputError, EcgJepaOutputError, EcgJepaRecordError
from modeling_ecg_jepa.tools.cli import app
from modeling_ecg_jepa.tools.embed import embed_to_parquet
from modeling_ecg_jepa.tools.embed_shards import Part, embed_to_shards, launcher_warning, parse_part
from modeling_ecg_jepa.tools.embedding_files import read_embeddings

ROOT = Path(__file__).resolve().parents[2]


def make(corpus: Path, model: Path, folder: Path, **options):
    return embed_to_shards([corpus], model, folder, **{"shard_records": 4, "device": "cpu", **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def shards(prepared_corpus, random_model, tmp_path_factory) -> Path:
    """The corpus in four shards by one process. Not to be written to."""
    folder = tmp_path_factory.mktemp("shards") / "whole"
    summary = make(prepared_corpus, random_model, folder)
    assert (summary.records, summary.rows, summary.shards, summary.made, summary.left_out) == (15, 15, 4, 4, ())
    return folder


@pytest.fixture
def own_shards(shards, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(shards, tmp_path / "own"))


# Whoever makes them --------------------------------------------------------------------------------------------------


def test_they_hold_in_order_what_a_single_file_does(shards, prepared_corpus, random_model, tmp_path):
    embed_to_parquet([prepared_corpus], random_model, tmp_path / "e.parquet", device="cpu")
    ours, theirs = read_embeddings(shards), read_embeddings(tmp_path / "e.parquet")
    assert ours.rows.equals(theirs.rows)
    assert np.abs(ours.vectors - theirs.vectors).max() < 1e-6
    assert list(contents(shards)) == [f"embeddings-0000{number}-of-00004.parquet" for number in range(4)]


def test_two_processes_make_the_same_rows(shards, prepared_corpus, random_model, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = ["-m", "modeling_ecg_jepa.tools.cli", "embed", prepared_corpus, "--model", random_model]
    done = subprocess.run(
        [*launcher, *words, "--output-dir", tmp_path / "two", "--shard-records", "4", "--device", "cpu"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("15 records embedded, 15 rows of 96 numbers, shards 4: ") == 1
    assert "a second, by 2 processes" in done.stdout
    made, expected = read_embeddings(tmp_path / "two"), read_embeddings(shards)
    assert made.rows.equals(expected.rows)
    assert np.abs(made.vectors - expected.vectors).max() < 1e-6  # processes may have other numbers of threads


def test_an_array_of_jobs_makes_the_same_bytes(shards, prepared_corpus, random_model, tmp_path):
    summaries = [make(prepared_corpus, random_model, tmp_path / "jobs", part=Part(job, 3)) for job in (3, 1, 2)]
    assert [summary.shards for summary in summaries] == [1, 2, 1]
    assert sum(summary.records for summary in summaries) == 15
    assert contents(tmp_path / "jobs") == contents(shards)


def test_more_jobs_than_shards_is_no_error(prepared_corpus, random_model, tmp_path):
    summary = make(prepared_corpus, random_model, tmp_path / "jobs", part=Part(9, 9))
    assert summary.shards == 0
    assert summary.in_words() == [f"No shard falls to this job: there are fewer shards than jobs. {tmp_path / 'jobs'}"]


def test_windows_of_a_record_stay_in_its_shard(records, random_model, tmp_path):
    summary = make(records, random_model, tmp_path / "w", shard_records=1, window_seconds=4.0, leads=["II"])
    assert (summary.records, summary.rows, summary.shards) == (2, 4, 2)
    assert read_embeddings(tmp_path / "w").rows["window"].to_pylist() == [0, 1, 0, 1]


@pytest.mark.parametrize("text", ["5/4", "0/4", "4", "1/0", "-1/4", "a/b", "1/4/2", ""])
def test_a_part_that_cannot_be_is_refused(text):
    with pytest.raises(EcgJepaConfigError, match=r"must be i/n with i from 1 to n"):
        parse_part(text)


def test_parts_count_from_one():
    assert [parse_part("1/1"), parse_part(" 4/4 ")] == [Part(1, 1), Part(4, 4)]


def test_a_launcher_that_started_one_process_is_told_of(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # all that `accelerate launch --cpu --num_processes 2` leaves
    assert "torchrun --nproc_per_node" in launcher_warning()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launcher_warning() is None


# Going on ------------------------------------------------------------------------------------------------------------


def test_a_killed_run_makes_only_what_is_missing(shards, prepared_corpus, random_model, tmp_path):
    folder = tmp_path / "killed"
    script = (
        "import os, pathlib, signal, sys, threading, time\n"
        "from modeling_ecg_jepa.tools.embed_shards import embed_to_shards\n"
        "corpus, model, folder = sys.argv[1:]\n"
        "def kill():\n"
        "    while not any(pathlib.Path(folder).glob('embeddings-*')):\n"
        "        time.sleep(1e-4)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "threading.Thread(target=kill, daemon=True).start()\n"
        "embed_to_shards([corpus], model, folder, shard_records=4, device='cpu', batch_size=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, prepared_corpus, random_model, folder], cwd=ROOT, env=os.environ, timeout=300
    )
    assert done.returncode == -9
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("embeddings-*")}
    assert 1 <= len(kept) < 4
    with pytest.raises(EcgJepaInputError, match=r"lacks [123] of 4 shards .*Run the same `ecg-jepa embed` again"):
        read_embeddings(folder)

    summary = make(prepared_corpus, random_model, folder)
    assert summary.made == 4 - len(kept)
    assert summary.in_words()[1] == f"shards that were there already: {len(kept)}"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    made, expected = read_embeddings(folder), read_embeddings(shards)
    assert made.rows.equals(expected.rows)
    assert np.abs(made.vectors - expected.vectors).max() < 1e-6


def test_what_an_earlier_run_left_out_is_listed_again(random_model, tmp_path):
    for seed in range(3):
        write_record(tmp_path / "in", f"r{seed}", seed=seed)
    (tmp_path / "in" / "r1.dat").write_bytes(b"")
    for made in (2, 0):
        summary = make(tmp_path / "in", random_model, tmp_path / "out", shard_records=2)
        assert (summary.made, summary.records) == (made, 2)
        assert [record.place for record in summary.left_out] == ["r1"]


def test_when_nothing_can_be_embedded_it_is_said_each_time(random_model, tmp_path):
    write_record(tmp_path / "in", "r")
    (tmp_path / "in" / "r.dat").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(EcgJepaRecordError, match="No record could be embedded"):
            make(tmp_path / "in", random_model, tmp_path / "out")
    with pytest.raises(EcgJepaInputError, match="holds no embedding"):
        read_embeddings(tmp_path / "out")


# Other shards --------------------------------------------------------------------------------------------------------


def test_shards_of_another_model_options_or_size_are_refused(own_shards, prepared_corpus, random_model, converted):
    before = contents(own_shards)
    faults = [
        (converted, {}, rf"another model \({random_model}\)"),
        (random_model, {"leads": ["II"]}, r"leads None instead of \['II'\]"),
        (random_model, {"window_seconds": 1.0}, "window_seconds None instead of 1.0"),
        (random_model, {"shard_records": 5}, r"none of the 3 shards of this input and --shard-records"),
    ]
    for model, options, message in faults:
        with pytest.raises(EcgJepaOutputError, match=message):
            make(prepared_corpus, model, own_shards, **options)
    assert contents(own_shards) == before


def test_shards_of_other_records_are_refused(random_model, tmp_path):
    for seed in range(2):
        write_record(tmp_path / "in", f"r{seed}", seed=seed)
    make(tmp_path / "in", random_model, tmp_path / "out")
    write_record(tmp_path / "in", "r1", seed=5)
    with pytest.raises(EcgJepaOutputError, match=r"embeddings-00000-of-00001.parquet, made of other records"):
        make(tmp_path / "in", random_model, tmp_path / "out")


def test_a_file_that_is_no_shard_is_named(own_shards, prepared_corpus, random_model):
    (own_shards / "embeddings-00001-of-00004.parquet").write_bytes(b"no Parquet")
    with pytest.raises(EcgJepaOutputError, match=r"00001-of-00004.parquet is no file of embeddings.*remove this file"):
        make(prepared_corpus, random_model, own_shards)
    (own_shards / "embeddings-00001-of-00004.parquet").unlink()
    pq.write_table(pa.table({"a": [1]}), own_shards / "other.parquet")
    with pytest.raises(EcgJepaOutputError, match=r"holds other.parquet, none of the 4 shards"):
        make(prepared_corpus, random_model, own_shards)


def test_a_file_in_the_place_of_the_folder_is_refused(prepared_corpus, random_model, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(EcgJepaOutputError, match=r"Cannot use .*taken for shards"):
        make(prepared_corpus, random_model, tmp_path / "taken")


# Reading -------------------------------------------------------------------------------------------------------------


def test_what_is_no_folder_of_one_run_is_refused(own_shards, tmp_path):
    with pytest.raises(EcgJepaInputError, match=r"There is no .*absent"):
        read_embeddings(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EcgJepaInputError, match="holds no shards of embeddings"):
        read_embeddings(tmp_path / "empty")
    shutil.copy(own_shards / "embeddings-00000-of-00004.parquet", own_shards / "embeddings-00000-of-00009.parquet")
    with pytest.raises(EcgJepaInputError, match="holds shards of several runs"):
        read_embeddings(own_shards)


def test_shards_of_two_models_are_not_read_as_one(own_shards, prepared_corpus, converted, tmp_path):
    make(prepared_corpus, converted, tmp_path / "other")
    name = "embeddings-00002-of-00004.parquet"
    shutil.copy(tmp_path / "other" / name, own_shards / name)
    with pytest.raises(EcgJepaInputError, match=rf"{name} and .* are not of one run: another model"):
        read_embeddings(own_shards)


def test_a_file_of_an_earlier_version_is_refused(tmp_path):
    schema = pa.schema([("embedding", pa.list_(pa.float32()))], metadata={"ecg_jepa": '{"schema_version": 1}'})
    pq.write_table(pa.table({"embedding": [[1.0]]}, schema=schema), tmp_path / "old.parquet")
    with pytest.raises(EcgJepaInputError, match=r"has schema_version 1; this version of ecg-jepa reads 2"):
        read_embeddings(tmp_path / "old.parquet")


# The command ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "pass either --output FILE.parquet or --output-dir"),
        (["--output", "e.parquet", "--output-dir", "e"], 2, "pass either --output FILE.parquet or --output-dir"),
        (["--output", "e.parquet", "--shard", "1/2"], 2, "pass --output-dir instead of --output"),
        (["--output-dir", "e", "--shard", "5/4"], 1, "Error: --shard '5/4' must be i/n"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_read(words, code, message):
    result = CliRunner().invoke(app, ["embed", ".", "--model", "absent", *words], env={"COLUMNS": "200"})
    assert result.exit_code == code
    assert message in " ".join(result.output.split())


def test_the_command_says_how_fast_it_was(records, random_model, tmp_path):
    words = ["embed", records, "--model", random_model, "--output-dir", tmp_path / "out", "--no-progress"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert f"2 records embedded, 2 rows of 96 numbers, shards 1: {tmp_path / 'out'}" in result.output
    assert "a second" in result.output
