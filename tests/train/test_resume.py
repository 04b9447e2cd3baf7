"""A run that was killed, at any moment, goes on to bitwise the weights of one that never was."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from modeling_ecg_jepa import EcgJepaCheckpointError, EcgJepaOutputError
from train.checkpoints import checkpoints, find_checkpoint, prepare_output_dir, read_progress
from train.options import PretrainOptions
from train.pretrain import pretrain

ROOT = Path(__file__).resolve().parents[2]

#: Almost two epochs of tiny batches with all that could go astray: stochastic depth, centring, accumulation, two masks.
OPTIONS = PretrainOptions(
    preset="tiny",
    num_records=12,
    batch_size=2,
    gradient_accumulation_steps=2,
    max_steps=5,
    logging_steps=3,
    checkpointing_steps=2,
    num_masks=2,
    drop_path_rate=0.2,
    target_centering=True,
    learning_rate=1e-3,
    probe_records=0,
    cpu_threads=1,
)


#: What else decides the numbers of these runs.
SETTING = {"processes": 1, "mixed_precision": "no", "num_workers": None}


def options_in(folder: Path, **changes) -> PretrainOptions:
    return dataclasses.replace(OPTIONS, output_dir=str(folder), **changes)


def weights(folder: Path) -> dict:
    return load_file(folder / "pretraining" / "model.safetensors")


def assert_same_run(folder: Path, reference: Path) -> None:
    ours, theirs = weights(folder), weights(reference)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []
    assert measures(folder) == measures(reference)


def measures(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()[1:]]
    return [
        {name: value for name, value in line.items() if name not in ("records_per_second", "waiting_for_data")}
        for line in lines
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    pretrain(options_in(folder, checkpoints_to_keep=99))
    return folder


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_resumed_from_any_checkpoint_ends_at_the_same_weights_and_log(uninterrupted, tmp_path, step):
    pretrain(options_in(tmp_path, resume_from_checkpoint=str(uninterrupted / f"checkpoint-{step}")))
    assert_same_run(tmp_path, uninterrupted)


def test_the_newest_checkpoints_stay_and_hold_only_what_is_loaded_safely(uninterrupted, tmp_path):
    assert [path.name for path in checkpoints(uninterrupted)] == [f"checkpoint-{step}" for step in (2, 4)]
    shutil.copytree(uninterrupted, tmp_path / "run")
    options = options_in(tmp_path / "run", resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    pretrain(dataclasses.replace(options, checkpoints_to_keep=1))
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-4"]
    assert_same_run(tmp_path / "run", uninterrupted)


def test_latest_starts_afresh_where_there_is_no_checkpoint_yet(uninterrupted, tmp_path):
    (tmp_path / "train_log.jsonl").write_text("{}\n")  # of a run that was killed before its first
    pretrain(options_in(tmp_path, resume_from_checkpoint="latest", checkpointing_steps=0))
    assert_same_run(tmp_path, uninterrupted)


def test_what_is_no_checkpoint_of_this_run_is_refused(uninterrupted, tmp_path):
    with pytest.raises(EcgJepaCheckpointError, match=r"no progress\.json in there.*checkpoint-4"):
        find_checkpoint(str(tmp_path), uninterrupted)
    changed = dataclasses.asdict(dataclasses.replace(OPTIONS, learning_rate=1e-4, num_workers=3))
    with pytest.raises(EcgJepaCheckpointError, match=r"another run: learning_rate was 0\.001 and is 0\.0001\. Give"):
        read_progress(uninterrupted / "checkpoint-4", changed, SETTING)
    with pytest.raises(EcgJepaCheckpointError, match="processes was 1 and is 2"):
        read_progress(uninterrupted / "checkpoint-4", dataclasses.asdict(OPTIONS), SETTING | {"processes": 2})
    with pytest.raises(EcgJepaOutputError, match="--resume_from_checkpoint latest to go on with it"):
        prepare_output_dir(uninterrupted, overwrite=False)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "random_states_0.pkl"])
def test_a_damaged_checkpoint_is_an_error_and_not_a_fresh_start(uninterrupted, tmp_path, file):
    broken = tmp_path / "broken" / "checkpoint-4"
    shutil.copytree(uninterrupted / "checkpoint-4", broken)
    content = (broken / file).read_bytes()
    (broken / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(EcgJepaCheckpointError, match="is damaged"):
        pretrain(options_in(tmp_path / "run", resume_from_checkpoint=str(broken)))


#: A longer one, killed again and again.
LONG = {"max_steps": 12, "logging_steps": 3, "checkpointing_steps": 2}


def launch(folder: Path) -> subprocess.Popen:
    given = dataclasses.asdict(options_in(folder, resume_from_checkpoint="latest", **LONG))
    arguments = [text for name, value in given.items() if value is not None for text in (f"--{name}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train.pretrain", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def kill_at(process: subprocess.Popen, folder: Path, moment: str, chance: random.Random) -> bool:
    """SIGKILL inside the first, second or third save of this process, or at some time after its training began; False
    if it was over before."""
    launched = time.time_ns()

    def written(*paths: Path) -> int:
        """How many of these were written by this process."""
        return sum(path.exists() and path.stat().st_mtime_ns > launched for path in paths)

    def now(saves: int) -> bool:
        if moment == "in a step":
            return written(folder / "train_log.jsonl") > 0
        return written(*checkpoints(folder)) >= saves and written(*folder.glob(".checkpoint-*.unfinished/*")) > 0

    saves = chance.randrange(3)
    while process.poll() is None:
        with suppress(FileNotFoundError):  # of a file that was moved meanwhile
            if now(saves):
                time.sleep(chance.uniform(0, 0.02 if moment == "in a save" else 2.0))
                process.send_signal(signal.SIGKILL)
                return process.wait() == -signal.SIGKILL
        time.sleep(0.001)
    return False


def test_a_run_killed_in_steps_and_in_saves_ends_at_the_same_weights(tmp_path, request):
    """`--kills 20` kills more often, at random moments."""
    kills, chance, killed = request.config.getoption("--kills"), random.Random(0), []
    reference, folder = tmp_path / "uninterrupted", tmp_path / "killed"
    pretrain(options_in(reference, **LONG))
    while len(killed) < kills:
        moment = ("in a save", "in a step")[len(killed) % 2]
        process = launch(folder)
        if kill_at(process, folder, moment, chance):
            killed.append(f"{moment}, newest checkpoint {([None, *checkpoints(folder)][-1] or Path('none')).name}")
        else:
            assert process.returncode == 0, process.stderr.read()
            assert_same_run(folder, reference)
            shutil.rmtree(folder)
    process = launch(folder)
    assert process.wait() == 0, process.stderr.read()
    print(
        "\n".join(["", f"{len(killed)} kills:", *killed, "and the weights are bitwise those of the run never killed"])
    )
    assert_same_run(folder, reference)
    assert [path for path in folder.glob(".*") if path.name.endswith(".unfinished")] == []
