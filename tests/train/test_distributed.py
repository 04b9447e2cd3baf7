"""Two processes, or accumulated batches, give the run of one process with the same global batch; a lost one is said."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]

#: Two epochs of eight records a step, some of which lack leads, from memory, without stochastic depth.
RUN = {
    "preset": "tiny",
    "max_steps": 6,
    "logging_steps": 1,
    "drop_path_rate": 0.0,
    "patch_initializer_range": 0.4,
    "position_scale": 0.2,
    "target_centering": True,
    "num_masks": 2,
    "learning_rate": 1e-3,
    "probe_records": 0,
    "cpu_threads": 1,
    "checkpointing_steps": 2,
}


@pytest.fixture(scope="module")
def prepared(make_rows, tmp_path_factory) -> Path:
    """26 windows as `ecg-jepa prepare` writes them; every third lacks a lead, every fifth has V1 missing at its end."""

    def damage(place, signal):
        if place % 3 == 0:
            signal[2 + place % 6] = 0.0

    folder = tmp_path_factory.mktemp("prepared")
    make_rows(26, change=damage).to_parquet(folder / "train-00000.parquet")
    return folder


def command(processes: int, prepared: Path, folder: Path, **changes) -> list[str]:
    options = RUN | {"corpus": f"prepared:{prepared}", "output_dir": folder} | changes
    words = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*(launcher if processes > 1 else [sys.executable]), "-m", "train.pretrain", *words]


def run(processes: int, prepared: Path, folder: Path, **changes) -> Path:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = command(processes, prepared, folder, **changes)
    finished = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    return folder


def read_log(folder: Path) -> tuple[dict, list[dict]]:
    header, *lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return header, lines


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory) -> Path:
    return run(1, prepared, tmp_path_factory.mktemp("alone"), batch_size=8)


@pytest.fixture(scope="module")
def two(prepared, tmp_path_factory) -> Path:
    return run(2, prepared, tmp_path_factory.mktemp("two"), batch_size=4)


def assert_same_trajectory(ours: Path, theirs: Path, tolerance: float = 1e-5) -> None:
    for name in ("loss", "gradient_norm", "target_std", "content_share"):
        pairs = [(a[name], b[name]) for a, b in zip(read_log(ours)[1][1:], read_log(theirs)[1][1:], strict=True)]
        worst = max(abs(a - b) for a, b in pairs)
        print(f"{name}: {len(pairs)} steps, largest difference {worst:.1e}")
        assert worst < tolerance, name


def test_two_processes_give_the_losses_of_one_with_the_same_global_batch(alone, two):
    assert_same_trajectory(two, alone)
    header = read_log(two)[0]
    assert (header["processes"], header["records_a_step"], header["steps_an_epoch"]) == (2, 8, 3)


def test_accumulated_batches_give_the_losses_of_one_batch(alone, prepared, tmp_path):
    assert_same_trajectory(run(1, prepared, tmp_path, batch_size=2, gradient_accumulation_steps=4), alone)


def test_two_processes_that_accumulate_do_too(alone, prepared, tmp_path):
    assert_same_trajectory(run(2, prepared, tmp_path, batch_size=2, gradient_accumulation_steps=2), alone)


def test_two_processes_resume_to_the_same_weights(two, prepared, tmp_path):
    halfway = tmp_path / "run"
    run(2, prepared, halfway, batch_size=4, resume_from_checkpoint=two / "checkpoint-4")
    ours, theirs = (load_file(folder / "pretraining" / "model.safetensors") for folder in (halfway, two))
    assert [name for name in theirs if not ours[name].equal(theirs[name])] == []


def test_when_one_of_two_processes_dies_the_other_says_how_to_go_on(two, prepared, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = command(2, prepared, tmp_path, batch_size=4, max_steps=100000, checkpointing_steps=2)
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (tmp_path / "checkpoint-2").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.kill(ranks(process.pid)[1], signal.SIGKILL)
        errors = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode != 0
    said = re.search(r"error: (Process 0 lost another process|Interrupted by signal SIGTERM).*", errors)
    assert said, errors
    assert re.search(r"newest checkpoint is .*checkpoint-\d+: --resume_from_checkpoint latest", said[0])


def ranks(launcher: int) -> list[int]:
    """Ids of the processes that a launcher started, by their rank."""
    children = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True, check=True).stdout.split()
    of_rank = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_text().split("\0")
        rank = next((word.removeprefix("RANK=") for word in environment if word.startswith("RANK=")), None)
        if rank is not None:
            of_rank[int(rank)] = int(child)
    return [of_rank[rank] for rank in sorted(of_rank)]
