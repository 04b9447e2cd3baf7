"""FSDP2, by train/accelerate_configs/fsdp2.yaml: two processes with a part of student and teacher each train as one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from train.options import read_options
from train.pretrain import pretrain

ROOT = Path(__file__).resolve().parents[2]

#: Eight records a step, without stochastic depth; watched, and the student probed, between the steps.
RUN = {
    "preset": "tiny",
    "max_steps": 4,
    "logging_steps": 2,
    "probe_steps": 2,
    "checkpointing_steps": 2,
    "drop_path_rate": 0.0,
    "patch_initializer_range": 0.4,
    "position_scale": 0.2,
    "target_centering": True,
    "learning_rate": 1e-3,
    "momentum_start": 0.9,
    "num_records": 16,
    "probe_records": 20,
    "cpu_threads": 1,
}


def words(**changes) -> list[str]:
    return [text for name, value in (RUN | changes).items() for text in (f"--{name}", str(value))]


def run_sharded(folder: Path, **changes) -> Path:
    """A run of two processes in the environment that `accelerate launch --config_file fsdp2.yaml` gives them."""
    config = ROOT / "train" / "accelerate_configs" / "fsdp2.yaml"
    arguments = launch_command_parser().parse_args(["--config_file", str(config), "--num_processes", "2", "script"])
    environment = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = subprocess.run(
        [*launcher, Path(__file__).with_name("sharded_run.py"), *words(batch_size=4, output_dir=folder, **changes)],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    pretrain(read_options(words(batch_size=8, output_dir=folder)))
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    return run_sharded(tmp_path_factory.mktemp("sharded"))


def log_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict:
    return load_file(folder / "pretraining" / "model.safetensors")


def test_student_teacher_and_predictor_end_as_those_of_one_process(sharded, alone):
    ours, theirs = weights(sharded), weights(alone)
    assert ours.keys() == theirs.keys()
    worst = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    print(f"{len(theirs)} tensors, largest difference {worst:.1e}")
    assert worst < 1e-6
    assert not ours["teacher.norm.weight"].equal(ours["encoder.norm.weight"])


def test_what_is_watched_and_probed_on_the_way_is_that_of_one_process(sharded, alone):
    (header, *ours), (_, *theirs) = log_lines(sharded), log_lines(alone)
    assert (header["processes"], len(ours)) == (2, 3)
    timed = {"records_per_second", "waiting_for_data"}
    for line, other in zip(ours, theirs, strict=True):
        assert line.keys() == other.keys()
        measured = {name: other[name] for name in other.keys() - timed}
        assert {name: line[name] for name in measured} == pytest.approx(measured, rel=1e-4, abs=1e-5)


def test_a_sharded_run_resumes_to_the_same_weights(sharded, tmp_path):
    checkpoint = sharded / "checkpoint-2"
    assert (checkpoint / "pytorch_model_fsdp.bin").exists()  # it was sharded, and not merely copied
    ours = weights(run_sharded(tmp_path, resume_from_checkpoint=checkpoint))
    theirs = weights(sharded)
    assert [name for name in theirs if not ours[name].equal(theirs[name])] == []
