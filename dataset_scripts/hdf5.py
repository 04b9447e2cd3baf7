"""Recordings in HDF5: one file with the ids and the tracings of many exams, as CODE-15% has them.

Files are opened read-only, a recording at a time; what would lead out of the file (external links, external storage,
virtual datasets) is refused, and sizes are checked before anything is read.
"""

import os
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError

from .wfdb_header import LFS_SIGNATURE, refuse_lfs_pointer

#: HDF5 unpacks whole chunks: one larger than this is refused before a few bytes become gigabytes.
MAX_CHUNK_BYTES = 2**28

#: Of one recording, samples x leads: CODE-15% has 4,096 x 12. And of exams in a file: CODE-15% has 20,001.
MAX_VALUES, MAX_EXAMS = 2**24, 2**20

#: Files that a process keeps open.
MAX_OPEN_FILES = 32

# What h5py raises on a damaged file, depending on where the damage is.
_LIBRARY_ERRORS = (OSError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError)


class TracingsFile:
    """An open HDF5 file with `ids` (exams) and `tracings` (exams, samples, leads); use it through `open_tracings`.

    Raises:
        EcgJepaRecordError: not there, not HDF5, or without these two datasets in such shapes.
    """

    def __init__(self, path: str | os.PathLike[str], ids: str = "exam_id", tracings: str = "tracings"):
        self.path = Path(path)
        _check_start(self.path)
        try:
            self._file = h5py.File(self.path, "r")
        except _LIBRARY_ERRORS as error:
            raise self._damaged(error) from error
        try:
            self._rows = self._read_ids(ids)
            self._tracings = self._dataset(tracings)
            self._check_tracings()
        except EcgJepaRecordError:
            self.close()
            raise
        except _LIBRARY_ERRORS as error:
            self.close()
            raise self._damaged(error) from error

    def __contains__(self, exam: int) -> bool:
        return exam in self._rows

    def close(self) -> None:
        self._file.close()

    def read(self, exam: int) -> np.ndarray:
        """The tracing of an exam as the file holds it: float32 (samples, leads).

        Raises:
            EcgJepaRecordError: no such exam, fewer tracings than ids, damaged or infinite values.
        """
        row = self._rows.get(exam)
        if row is None:
            raise EcgJepaRecordError(
                "exam not in its file", f"{self.path.name} holds {len(self._rows):,} exams, and {exam} is none of them."
            )
        if row >= len(self._tracings):
            raise EcgJepaRecordError(
                "HDF5 file incomplete",
                f"{self.path}: exam {exam} is number {row + 1:,} of its ids, but there are {len(self._tracings):,} "
                "tracings; fetch the file again.",
            )
        try:
            with np.errstate(over="ignore"):
                tracing = np.asarray(self._tracings[row], dtype=np.float32)
        except _LIBRARY_ERRORS as error:
            raise self._damaged(error) from error
        if np.isinf(tracing).any():
            raise EcgJepaRecordError("infinite values", f"{self.path}: the tracing of exam {exam} has infinite values.")
        return tracing

    def _read_ids(self, name: str) -> dict[int, int]:
        """Exam -> row; of an exam that is there twice, the first."""
        ids = self._dataset(name)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise self._unexpected(ids, "a column of whole numbers")
        rows: dict[int, int] = {}
        for row, exam in enumerate(ids[:].tolist()):
            rows.setdefault(exam, row)
        return rows

    def _check_tracings(self) -> None:
        tracings = self._tracings
        if tracings.ndim != 3 or tracings.dtype.kind not in "fiu":
            raise self._unexpected(tracings, "numbers of the shape (exams, samples, leads)")
        if not all(tracings.shape[1:]):
            raise self._unexpected(tracings, "at least one sample and one lead")
        if int(np.prod(tracings.shape[1:], dtype=object)) > MAX_VALUES:
            raise EcgJepaRecordError(
                "too large", f"{self.path}: a tracing of shape {tracings.shape[1:]} has over {MAX_VALUES:,} values."
            )

    def _dataset(self, name: str) -> h5py.Dataset:
        """A dataset that lies in this very file and can be read piece by piece in bounded memory."""
        held = self._file[name] if isinstance(self._file.get(name, getlink=True), h5py.HardLink) else None
        if not isinstance(held, h5py.Dataset):
            names = ", ".join(sorted(self._file)[:9]) or "nothing"
            text = f"{self.path} has no dataset {name!r} of its own, only {names}."
            raise EcgJepaRecordError("HDF5 file of another kind", text)
        if held.external or held.is_virtual:
            raise EcgJepaRecordError("path outside the folder", f"{self.path}: {name!r} lies in other files.")
        chunk_bytes = int(np.prod(held.chunks or (), dtype=object)) * held.dtype.itemsize
        if chunk_bytes > MAX_CHUNK_BYTES or (held.ndim == 1 and held.size > MAX_EXAMS):
            raise EcgJepaRecordError(
                "too large", f"{self.path}: {name!r} of shape {held.shape} in chunks of {chunk_bytes:,} bytes."
            )
        return held

    def _unexpected(self, dataset: h5py.Dataset, expected: str) -> EcgJepaRecordError:
        return EcgJepaRecordError(
            "HDF5 file of another kind",
            f"{self.path}: {dataset.name!r} is {dataset.dtype} of shape {dataset.shape}; expected {expected}.",
        )

    def _damaged(self, error: Exception) -> EcgJepaRecordError:
        return EcgJepaRecordError(
            "HDF5 file damaged", f"{self.path} cannot be read as HDF5 ({error}); fetch the file again."
        )


_open_files: OrderedDict[tuple, TracingsFile] = OrderedDict()


def open_tracings(path: str | os.PathLike[str]) -> TracingsFile:
    """The file, open: once a process, with the `MAX_OPEN_FILES` last used ones kept.

    Raises:
        EcgJepaRecordError: as `TracingsFile`.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise EcgJepaRecordError("HDF5 file missing", f"Cannot read {path}: {error.strerror}.") from error
    # A handle does not survive a fork, nor a file that another one has replaced.
    key = (os.getpid(), os.fspath(path), status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _open_files:
        _open_files[key] = TracingsFile(path)
    _open_files.move_to_end(key)
    while len(_open_files) > MAX_OPEN_FILES:
        _open_files.popitem(last=False)[1].close()
    return _open_files[key]


def _check_start(path: Path) -> None:
    try:
        with path.open("rb") as content:
            start = content.read(len(LFS_SIGNATURE))
    except OSError as error:
        raise EcgJepaRecordError("not readable", f"Cannot read {path}: {error.strerror}.") from error
    refuse_lfs_pointer(start, path)


__all__ = ["MAX_CHUNK_BYTES", "MAX_OPEN_FILES", "TracingsFile", "open_tracings"]
