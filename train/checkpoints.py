"""What a run leaves in its output folder, how it is written (whole or not at all), and how a killed run goes on."""

import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accelerate
import filelock
import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from dataset_scripts.outputs import flush, whole_file, whole_folder
from modeling_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaError,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
    EcgJepaOutputError,
)
from modeling_ecg_jepa.tools.verify import write_verification

#: Raised whenever a line or field of these files changes its meaning.
SCHEMA_VERSION = 1

LOG, STATE, PRETRAINING = "train_log.jsonl", "training_state.json", "pretraining"

#: By these a folder is known to hold a run or a model, and these are what `--overwrite` removes first.
_LEFT_BY_A_RUN = (LOG, STATE, PRETRAINING, "model.safetensors", "config.json", "preprocessor_config.json")


def prepare_output_dir(folder: str | Path, overwrite: bool, resume: str | None = None) -> Path:
    """The folder, made if need be, without an earlier run in it. Only what runs leave is ever removed.

    With `resume` (see `find_checkpoint`) a run that has a checkpoint stays as it is, and what a run left that was
    killed before its first is replaced.

    Raises:
        EcgJepaOutputError: it holds a run and `overwrite` is false, or it cannot be written to.
    """
    folder = Path(folder)
    left = [name for name in _LEFT_BY_A_RUN if (folder / name).exists()]
    left += [path.name for path in checkpoints(folder)]
    checkpoint = find_checkpoint(resume, folder)
    if checkpoint is not None and checkpoint.resolve().parent == folder.resolve():
        left = []
    barely_begun = resume == "latest" and left == [LOG]
    if left and not overwrite and not barely_begun:
        raise EcgJepaOutputError(
            f"The output folder {folder} holds another run ({', '.join(left)}). Choose another --output_dir, pass "
            "--overwrite to replace it, or --resume_from_checkpoint latest to go on with it."
        )
    with _as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in [*(folder / name for name in left), *folder.glob(".*.unfinished")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with tempfile.TemporaryFile(dir=folder):
            pass  # found out now rather than after hours of training
    return folder


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Within this no other run may write to `folder`, which is made; the system ends it with the process, however that
    ends.

    Raises:
        EcgJepaOutputError: another run, still going, holds the folder, or it cannot be written to.
    """
    with _as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".run.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise EcgJepaOutputError(
                f"A run that is still going writes to {folder}. A launcher that was killed may have left it behind: "
                "end its process (pgrep -fa train.pretrain lists them), or choose another --output_dir."
            ) from error
    try:
        yield
    finally:
        lock.release()


class TrainLog:
    """`train_log.jsonl`: a first line that describes the run, then one a log step; each stands as soon as written.

    Args:
        lines: of the run that goes on, up to its checkpoint; those after it are written anew.
    """

    def __init__(self, folder: Path, header: dict[str, Any], lines: Sequence[dict[str, Any]] = ()):
        self.path = folder / LOG
        text = "".join(json.dumps(line) + "\n" for line in [{"schema_version": SCHEMA_VERSION, **header}, *lines])
        with whole_file(self.path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """
        Raises:
            EcgJepaOutputError: the file cannot be written to.
        """
        with _as_output_error(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_log(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the lines of a run's log.

    Raises:
        EcgJepaCheckpointError: there is none, or it is damaged.
    """
    try:
        header, *lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise EcgJepaCheckpointError(f"Cannot read {folder / LOG} ({error}). Name a run's output folder.") from error
    return header, lines


def save_model(
    model: EcgJepaForPreTraining,
    extractor: EcgJepaFeatureExtractor,
    folder: Path,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """At the top of `folder` the student encoder, as users load it, and what verifies it; under `pretraining/` all.

    Args:
        state_dict: the whole weights, where `model` holds only this process's share of them.

    Raises:
        EcgJepaOutputError: something cannot be written.
    """
    state_dict = model.state_dict() if state_dict is None else state_dict
    student = {name.removeprefix("encoder."): part for name, part in state_dict.items() if name.startswith("encoder.")}
    with whole_folder(folder / PRETRAINING, overwrite=True) as unfinished:
        extractor.save_pretrained(unfinished)
        model.save_pretrained(unfinished, state_dict=state_dict)
    with replaced_files(folder) as unfinished:
        extractor.save_pretrained(unfinished)
        model.encoder.save_pretrained(unfinished, state_dict=student)
        write_verification(unfinished)


@contextmanager
def replaced_files(folder: Path) -> Iterator[Path]:
    """A temporary folder, whose files go to `folder` when the block ends well, each whole.

    Raises:
        EcgJepaOutputError: something cannot be written.
    """
    staged = folder / ".staged"
    with whole_folder(staged, overwrite=True) as unfinished:
        yield unfinished
    for file in sorted(staged.iterdir()):
        with whole_file(folder / file.name) as unfinished:
            os.replace(file, unfinished)
    staged.rmdir()


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `training_state.json`.

    Raises:
        EcgJepaOutputError: it cannot be written.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, **state}, indent=2) + "\n"
    with whole_file(folder / STATE) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


# Checkpoints: from which a killed run goes on -------------------------------------------------------------------------

#: How torch.save says that a disk is full; it has no class of its own for this.
_TORCH_CANNOT_WRITE = re.compile(r"PytorchStreamWriter|file write failed|unexpected pos|basic_ios", re.IGNORECASE)

#: What a checkpoint holds beside the state that Accelerate saves: how far the run is, and which run it is.
PROGRESS = "progress.json"

#: Options that may change when a run goes on: they decide neither data nor arithmetic.
_FREE_OPTIONS = frozenset(
    "output_dir overwrite resume_from_checkpoint checkpointing_steps checkpoints_to_keep logging_steps tracker "
    "cpu_threads num_workers memory_gb min_content_share probe_records probe_steps probe_corpus mixed_precision".split()
)


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: dict[str, Any], keep: int) -> Path:
    """Save everything that the run needs to go on under `folder/checkpoint-{step}`, then remove all but the newest.

    All processes call this. The checkpoint has its name only when it is complete and on the disk.

    Args:
        progress: with "step", "options" and "setting"; what else is in it comes back from `read_progress`.
        keep: how many checkpoints stay.

    Raises:
        EcgJepaOutputError: it cannot be written; the earlier checkpoints are as they were.
    """
    target = folder / f"checkpoint-{progress['step']}"
    unfinished = folder / f".{target.name}.unfinished"
    try:
        with _as_output_error(target):
            if accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
            accelerator.wait_for_everyone()
            accelerator.save_state(os.fspath(unfinished))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                text = json.dumps({"schema_version": SCHEMA_VERSION, **progress})
                (unfinished / PROGRESS).write_text(text, encoding="utf-8")
                for file in filter(Path.is_file, unfinished.rglob("*")):
                    flush(file)
                _remove(target)  # of a run that went back to an earlier checkpoint
                os.replace(unfinished, target)
                for old in checkpoints(folder)[:-keep]:
                    _remove(old)
    except EcgJepaOutputError:
        shutil.rmtree(unfinished, ignore_errors=True)  # on a full disk what was written so far is in the way
        raise
    accelerator.wait_for_everyone()
    return target


def _remove(checkpoint: Path) -> None:
    """Under another name first, so that no half of it is ever taken for a checkpoint."""
    if checkpoint.exists():
        going = checkpoint.with_name(f".{checkpoint.name}.removed.unfinished")
        os.replace(checkpoint, going)
        shutil.rmtree(going)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of an output folder, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if (path / PROGRESS).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def find_checkpoint(wanted: str | None, folder: Path) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means: a folder, or with "latest" the newest of the output folder;
    None where nothing is wanted, or "latest" and there is none yet.

    Raises:
        EcgJepaCheckpointError: the folder is no checkpoint.
    """
    if wanted is None:
        return None
    if wanted == "latest":
        return next(reversed(checkpoints(folder)), None)
    if not (Path(wanted) / PROGRESS).is_file():
        there = ", ".join(path.name for path in checkpoints(folder)) or "none"
        raise EcgJepaCheckpointError(
            f"--resume_from_checkpoint {wanted}: no {PROGRESS} in there, so it is no checkpoint of a run. "
            f'Checkpoints in {folder}: {there}; "latest" takes the newest.'
        )
    return Path(wanted)


def read_progress(checkpoint: Path, options: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    """How far the run of a checkpoint was, if it is the same run.

    Args:
        options: the run's options, as a dictionary.
        setting: what else decides its numbers, by name: processes, precision, lanes that read.

    Raises:
        EcgJepaCheckpointError: it cannot be read, or belongs to a run with other options or another setting.
    """
    try:
        progress = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
        saved, saved_setting, step = progress["options"], progress["setting"], progress["step"]
    except (OSError, ValueError, KeyError) as error:
        raise EcgJepaCheckpointError(f"{checkpoint / PROGRESS} is damaged ({error}); resume from another.") from error
    decisive = {name: value for name, value in options.items() if name not in _FREE_OPTIONS}
    changed = _changes(saved, decisive) + _changes(saved_setting, setting)
    if changed:
        raise EcgJepaCheckpointError(
            f"{checkpoint} (step {step}) is of another run: {'; '.join(changed)}. Give the same options to go on with "
            "that run, or another --output_dir to start a new one."
        )
    return progress


def _changes(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"{name} was {saved.get(name)!r} and is {value!r}" for name, value in now.items() if saved.get(name) != value
    ]


def load_state(accelerator: Accelerator, checkpoint: Path) -> None:
    """Restore weights, optimizer, gradient scaler and random states, after `accelerator.prepare`.

    Raises:
        EcgJepaCheckpointError: a file is missing or damaged.
    """
    try:
        accelerator.load_state(os.fspath(checkpoint))
        random_states = accelerate.utils.load(checkpoint / f"random_states_{accelerator.process_index}.pkl")
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        raise EcgJepaCheckpointError(f"{checkpoint} is damaged ({error}); resume from another checkpoint.") from error
    # Accelerate only logs when it fails to restore these.
    if not torch.equal(torch.get_rng_state(), random_states["torch_manual_seed"]):
        raise EcgJepaCheckpointError(f"{checkpoint}: the random states could not be restored.")


@contextmanager
def _as_output_error(place: Path) -> Iterator[None]:
    try:
        yield
    except EcgJepaError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _TORCH_CANNOT_WRITE.search(str(error)):
            raise
        cause = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise EcgJepaOutputError(
            f"Cannot write to {place} ({cause}). Choose an --output_dir that you may write to and that has room."
        ) from error
