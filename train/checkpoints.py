"""What a run leaves in its output folder, and how it is written: whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeling_ecg_jepa import EcgJepaFeatureExtractor, EcgJepaForPreTraining, EcgJepaOutputError
from modeling_ecg_jepa.tools.outputs import whole_file, whole_folder
from modeling_ecg_jepa.tools.verify import write_verification

#: Raised whenever a line or field of these files changes its meaning.
SCHEMA_VERSION = 1

LOG, STATE, PRETRAINING = "train_log.jsonl", "training_state.json", "pretraining"

#: By these a folder is known to hold a run or a model, and these are what `--overwrite` removes first.
_LEFT_BY_A_RUN = (LOG, STATE, PRETRAINING, "model.safetensors", "config.json", "preprocessor_config.json")


def prepare_output_dir(folder: str | Path, overwrite: bool) -> Path:
    """The folder, made if need be, without an earlier run in it. Only what runs leave is ever removed.

    Raises:
        EcgJepaOutputError: it holds a run and `overwrite` is false, or it cannot be written to.
    """
    folder = Path(folder)
    present = [name for name in _LEFT_BY_A_RUN if (folder / name).exists()]
    if present and not overwrite:
        raise EcgJepaOutputError(
            f"The output folder {folder} holds another run ({', '.join(present)}). "
            "Choose another --output_dir, or pass --overwrite to replace it."
        )
    with _as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in present:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        with tempfile.TemporaryFile(dir=folder):
            pass  # found out now rather than after hours of training
    return folder


class TrainLog:
    """`train_log.jsonl`: a first line that describes the run, then one a log step; each stands as soon as written."""

    def __init__(self, folder: Path, header: dict[str, Any]):
        self.path = folder / LOG
        self._append({"schema_version": SCHEMA_VERSION, **header}, mode="w")

    def write(self, line: dict[str, Any]) -> None:
        """
        Raises:
            EcgJepaOutputError: the file cannot be written to.
        """
        self._append(line, mode="a")

    def _append(self, line: dict[str, Any], mode: str) -> None:
        with _as_output_error(self.path), self.path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def save_model(model: EcgJepaForPreTraining, extractor: EcgJepaFeatureExtractor, folder: Path) -> None:
    """At the top of `folder` the student encoder, as users load it, and what verifies it; under `pretraining/` all.

    Raises:
        EcgJepaOutputError: something cannot be written.
    """
    with whole_folder(folder / PRETRAINING, overwrite=True) as unfinished:
        extractor.save_pretrained(unfinished)
        model.save_pretrained(unfinished)
    staged = folder / ".encoder"
    with whole_folder(staged, overwrite=True) as unfinished:
        extractor.save_pretrained(unfinished)
        model.encoder.save_pretrained(unfinished)
        write_verification(unfinished)
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


@contextmanager
def _as_output_error(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EcgJepaOutputError(
            f"Cannot write to {place} ({error.strerror or error}). Choose an --output_dir that you may write to and "
            "that has room."
        ) from error
