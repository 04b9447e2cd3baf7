"""What ends a run too soon is said with the place and the remedy, and what was learned so far is kept."""

import dataclasses
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaError, EcgJepaOutputError
from train.checkpoints import save_checkpoint
from train.data import MemoryRecords
from train.options import PretrainOptions
from train.pretrain import pretrain
from train.starting import start_accelerator

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = PretrainOptions(
    preset="tiny",
    max_steps=6,
    logging_steps=3,
    num_records=12,
    batch_size=2,
    drop_path_rate=0.0,
    patch_initializer_range=0.4,
    position_scale=0.2,
    target_centering=True,
    learning_rate=1e-3,
    probe_records=0,
    cpu_threads=1,
)


@pytest.fixture
def damaged(monkeypatch):
    """Makes runs train on records whose rows a function has changed after they were checked."""

    def change(kind: type[MemoryRecords]):
        from train import starting

        load = starting.load_records

        def loaded(*arguments, **options):
            records, skipped = load(*arguments, **options)
            return kind(records.rows, records.names), skipped

        monkeypatch.setattr("train.pretrain.load_records", loaded)

    return change


class OneNotFinite(MemoryRecords):
    def __getitem__(self, place):
        row = super().__getitem__(place)
        if place == 7:
            row = row | {"input_values": row["input_values"].copy()}
            row["input_values"][2, 10:13] = [np.nan, np.inf, -np.inf]
        return row


def test_a_record_that_is_not_finite_is_named_and_the_run_without_it_saved(damaged, tmp_path, monkeypatch):
    options = dataclasses.replace(OPTIONS, output_dir=str(tmp_path), gradient_accumulation_steps=3)
    damaged(OneNotFinite)  # two steps an epoch, so one of the first two has it, and the line after three says so
    with pytest.raises(EcgJepaError) as caught:
        pretrain(options)
    said = str(caught.value)
    assert "The loss became nan at step" in said
    assert "(of 6 records), by no fault of the training: synthetic-0-7 has 3 of 20,000 values that are not" in said
    assert f"latest goes on from {tmp_path / 'checkpoint-3'}." in said
    assert (tmp_path / "curves.png").exists()
    saved = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(bool(values.isfinite().all()) for values in saved.values())
    monkeypatch.undo()
    state = pretrain(dataclasses.replace(options, resume_from_checkpoint="latest"))
    assert np.isfinite(state["loss"]["last_logged"])


def test_when_a_reading_process_is_killed_the_run_says_why_that_may_be_and_how_to_go_on(tmp_path):
    options = {"preset": "tiny", "num_records": 12, "batch_size": 2, "max_steps": 100_000, "cpu_threads": 1}
    options |= {"num_workers": 1, "memory_gb": 0, "checkpointing_steps": 2, "output_dir": tmp_path}
    words = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "train.pretrain", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "checkpoint-2").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        readers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        for reader in readers.stdout.split():
            os.kill(int(reader), signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    gone = r"error: A process that reads records for training is gone .*(Killed|exited unexpectedly).*--num_workers"
    assert re.search(gone, said), said
    assert re.search(r"newest checkpoint is .*checkpoint-\d+: --resume_from_checkpoint latest goes on", said), said


def test_an_interrupted_run_says_which_checkpoint_it_left(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("train.pretrain.scheduled", interrupted)
    with pytest.raises(EcgJepaError, match="Interrupted by signal SIGTERM. There is no checkpoint yet"):
        pretrain(dataclasses.replace(OPTIONS, output_dir=str(tmp_path)))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin"])
def test_a_disk_that_fills_up_in_a_save_leaves_the_earlier_checkpoint_and_nothing_half_written(tmp_path, file):
    accelerator = start_accelerator(OPTIONS)
    wide, narrow = torch.nn.Linear(300, 300), torch.nn.Linear(300, 300)
    trained = (wide if file == "optimizer.bin" else torch.nn.Linear(2, 2)).parameters()
    model = torch.nn.ModuleList([wide, narrow])
    optimizer = torch.optim.AdamW(trained)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    accelerator.prepare(model, optimizer)
    if file == "optimizer.bin":
        for state in optimizer.state.values():
            state["extra"] = torch.zeros(300_000)
    save_checkpoint(accelerator, tmp_path, {"step": 1}, keep=2)
    size = (tmp_path / "checkpoint-1" / file).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, limits[1]))
    try:
        with pytest.raises(EcgJepaOutputError, match=r"Cannot write to .*checkpoint-2 .*has room"):
            save_checkpoint(accelerator, tmp_path, {"step": 2}, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1"]


def test_a_step_larger_than_the_data_says_what_it_is_made_of(tmp_path):
    options = dataclasses.replace(OPTIONS, output_dir=str(tmp_path), gradient_accumulation_steps=7)
    rule = r"batch_size=2 x gradient_accumulation_steps=7 is more than the 12 usable records"
    with pytest.raises(EcgJepaConfigError, match=rule):
        pretrain(options)


def test_a_model_of_another_signal_needs_recordings_of_its_own(tmp_path):
    options = dataclasses.replace(OPTIONS, output_dir=str(tmp_path), modality="other", leads=["x", "y"])
    with pytest.raises(EcgJepaConfigError, match="modality='other' needs recordings of its own: --corpus prepared:"):
        pretrain(options)


def test_half_precision_on_a_cpu_and_trackers_that_are_not_installed_are_refused():
    with pytest.raises(EcgJepaConfigError, match="fp16' on a CPU is 30 times slower"):
        start_accelerator(dataclasses.replace(OPTIONS, mixed_precision="fp16"))
    with pytest.raises(EcgJepaConfigError, match="tracker='trackio' is not installed: pip install trackio"):
        start_accelerator(dataclasses.replace(OPTIONS, tracker=["tensorboard", "trackio"]))
