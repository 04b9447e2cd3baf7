"""Files and folders that come into being whole or not at all: written beside their place, then moved there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaError, EcgJepaOutputError


@contextmanager
def whole_file(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path in the same folder, which becomes `path` when the block ends well and is removed otherwise.

    Raises:
        EcgJepaOutputError: the place cannot be written to, is a folder, or is taken and may not be overwritten.
    """
    path = Path(path)
    if path.is_dir():
        raise EcgJepaOutputError(f"{path} is a folder; name a file to write.")
    if path.exists() and not overwrite:
        raise EcgJepaOutputError(f"{path} exists already. Choose another name, or pass --overwrite to replace it.")
    unfinished = _beside(path, "unfinished")
    try:
        with _as_output_error(path):
            yield unfinished
            flush(unfinished)
            os.replace(unfinished, path)
    finally:
        with suppress(OSError):
            unfinished.unlink()


@contextmanager
def whole_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path`, which becomes `path` when the block ends well and is removed otherwise.

    With `overwrite` a folder in its place is replaced, but only if every file in it has a successor of its name.

    Raises:
        EcgJepaOutputError: the place cannot be written to, is a file, or holds something that may not be replaced.
    """
    folder = Path(path).resolve()
    _refuse_taken(folder, overwrite)
    unfinished = _beside(folder, "unfinished")
    try:
        with _as_output_error(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            unfinished.mkdir()
            yield unfinished
            for file in filter(Path.is_file, unfinished.rglob("*")):
                flush(file)
            _put_in_place(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _refuse_taken(folder: Path, overwrite: bool) -> None:
    with _as_output_error(folder):
        if folder.exists() and not folder.is_dir():
            raise EcgJepaOutputError(f"{folder} is a file; name a folder to write.")
        if not overwrite and folder.is_dir() and any(folder.iterdir()):
            raise EcgJepaOutputError(
                f"The folder {folder} is not empty. Choose another, or pass --overwrite to replace what is in it."
            )


def _put_in_place(unfinished: Path, folder: Path) -> None:
    present = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(present - {file.name for file in unfinished.iterdir()})
    if foreign:
        raise EcgJepaOutputError(
            f"The folder {folder} holds {', '.join(foreign[:5])}, which would be lost; it is replaced only if it holds "
            "nothing but what is written anew. Choose another folder or move that away."
        )
    if not present:
        os.replace(unfinished, folder)
        return
    aside = _beside(folder, "replaced")
    os.replace(folder, aside)
    try:
        os.replace(unfinished, folder)
    except OSError:
        os.replace(aside, folder)
        raise
    shutil.rmtree(aside)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{what}")


def flush(file: Path) -> None:
    """Wait until a file is on the disk."""
    with file.open("rb") as content:
        os.fsync(content.fileno())


@contextmanager
def _as_output_error(place: Path) -> Iterator[None]:
    try:
        yield
    except EcgJepaError:
        raise
    except (OSError, SafetensorError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise EcgJepaOutputError(
            f"Cannot write {place} ({cause}). Choose a place that exists, that you may write to and that has room."
        ) from error


__all__ = ["flush", "whole_file", "whole_folder"]
