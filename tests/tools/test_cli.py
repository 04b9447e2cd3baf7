"""The command `ecg-jepa`: what it prints, its exit codes, and errors of one line."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

import modeling_ecg_jepa
from modeling_ecg_jepa import EcgJepaConfigError
from modeling_ecg_jepa.tools.cli import _Commands, app
from modeling_ecg_jepa.tools.columns import COLUMNS


def run(*arguments, expect: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == expect, result.output
    return result.output


def test_help_teaches_every_command_with_an_example():
    text = run("--help")
    commands = ("convert", "verify", "embed", "plot-embeddings", "similar", "predict", "info", "card")
    for command in (*commands, "labels", "prepare", "quality", "check-leakage"):
        assert command in text
        assert f"ecg-jepa {command} " in run(command, "--help")
    assert "3 done in part" in text
    columns = " ".join(run("embed", "--help").split())
    for name, meaning in COLUMNS.items():
        assert f"{name}: {meaning}".replace("`", "") in columns


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "modeling_ecg_jepa.tools.cli", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"ecg-jepa {modeling_ecg_jepa.__version__}\n")


def test_convert_then_verify_then_info(authors_tiny, tmp_path):
    text = run("convert", authors_tiny / "encoder.pth", tmp_path / "out", "--num_attention_heads", 4)
    assert "epoch 99" in text
    assert "hidden 64, 3 layers, 4 heads (as you say: the file does not hold their number), 50 patches" in text
    assert text.count("SHA-256") == 2
    assert "computes what it did when it was exported" in run("verify", tmp_path / "out")
    assert "64, 3 layers" in run("info", tmp_path / "out")
    assert json.loads(run("info", tmp_path / "out", "--json"))["sizes"]["num_attention_heads"] == 4
    assert "Their scripts have to be told" in run("convert", tmp_path / "out", tmp_path / "back.pth", "--to_authors")
    assert (tmp_path / "back.pth").is_file()


def test_options_may_be_spelt_with_dashes_or_underscores(random_model, records, tmp_path):
    for place, (seconds, stride) in enumerate(
        [("--window-seconds", "--stride-seconds"), ("--window_seconds", "--stride_seconds")]
    ):
        output = tmp_path / f"{place}.parquet"
        run("embed", records, "--model", random_model, "--output", output, seconds, 5, stride, 2.5, "--no_progress")
        assert pq.read_table(output).num_rows == 6


def test_verify_fails_when_something_was_changed(own_copy):
    config = own_copy / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_attention_heads": 2}))
    text = run("verify", own_copy, expect=1)
    assert "FAILED  config.json was changed after the export" in text
    assert "FAILED  embedding of all leads" in text
    assert "written" in run("verify", own_copy, "--write")
    run("verify", own_copy)


def test_embed_counts_lists_and_leaves_out_what_it_cannot_read(random_model, records, tmp_path):
    (tmp_path / "pointer.hea").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    arguments = ("--model", random_model, "--output", tmp_path / "e.parquet")
    assert "2 records embedded, 2 rows of 96 numbers" in run("embed", records, *arguments)
    text = run("embed", records, tmp_path, *arguments, expect=3)
    assert "1 left out:\n     1 x Git LFS pointer\n  pointer: " in text
    text = run("embed", tmp_path, *arguments, expect=1)
    assert "Error: No record could be embedded:\n     1 x Git LFS pointer" in text


def test_embed_of_the_shared_sample_leaves_out_the_three_pointers(random_model, shared_ecg, tmp_path):
    text = run("embed", shared_ecg, "--model", random_model, "--output", tmp_path / "e.parquet", expect=3)
    assert "233 records embedded, 233 rows" in text
    assert "3 left out:\n     3 x Git LFS pointer\n" in text
    assert text.count("ptb-xl-lfs-pointers/records500/00000/0000") >= 3
    table = pq.read_table(tmp_path / "e.parquet")
    assert len(set(table["record"].to_pylist())) == 233
    assert "ptbdb/patient001/s0010_re" in table["record"].to_pylist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "absent.pth", "out"], "Error: absent.pth cannot be read as a PyTorch checkpoint (No such file"),
        (["verify", "absent/absent/absent"], "Error: 'absent/absent/absent' is neither a folder nor a model"),
        (["info", "absent/absent/absent"], "Error: 'absent/absent/absent' is neither a folder nor a model"),
        (["embed", ".", "--model", "a/b/c", "--output", "e.parquet"], "Error: 'a/b/c' is neither a folder nor a model"),
        (["verify", ".", "--device", "nowhere"], "Error: The device 'nowhere' is not available here"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_1(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = run(*arguments, expect=1)
    assert text.startswith(message)
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "only-one"],
        ["convert", "a.pth", "b", "--num-attention-heads", "0"],
        ["convert", "a", "b.pth", "--to-authors", "--leads", "I"],
        ["embed", ".", "--model", "m", "--output", "e.parquet", "--batch-size", "0"],
        ["embed", ".", "--model", "m", "--output", "e.parquet", "--stride-seconds", "5"],
        ["embed", ".", "--output", "e.parquet"],
        ["verify", "m", "--fast"],
        ["invert", "m"],
    ],
)
def test_a_wrong_call_is_exit_code_2(arguments):
    assert "Usage: " in run(*arguments, expect=2)


def test_only_typed_errors_lose_their_traceback():
    failing = typer.Typer(cls=_Commands, pretty_exceptions_enable=False)

    @failing.command()
    def typed() -> None:
        raise EcgJepaConfigError("hidden_size=5 must divide by 4.")

    @failing.command()
    def unexpected() -> None:
        raise ZeroDivisionError("a fault of ours")

    result = CliRunner().invoke(failing, ["typed"])
    assert (result.exit_code, result.output) == (1, "Error: hidden_size=5 must divide by 4.\n")
    result = CliRunner().invoke(failing, ["unexpected"])
    assert isinstance(result.exception, ZeroDivisionError)
