"""Recordings under one name each, wherever they lie: WFDB folders, PTB-XL's layout, and prepared datasets.

A recording can be read but is not read yet, and says to which corpus, split and patient it belongs.
"""

import abc
import functools
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError

from .ptb_xl import TABLE as PTB_XL_TABLE
from .records import EcgRecord, find_records, read_record
from .signals import MISSING
from .splits import SPLITS
from .tables import read_table

#: What a row needs to be a recording; `corpus.row_features` describes them.
_COLUMNS = ("record_id", "signal", "signal_scale", "lead_names", "sampling_rate")

#: PTB-XL's files: records100/00000/00001_lr.hea and records500/00000/00001_hr.hea are one recording.
_PTB_XL_FOLDERS, _PTB_XL_FILE = ("records100", "records500"), re.compile(r"(\d{5})_[hl]r")

#: Names of shards: train-00000-of-00004.parquet.
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class Recording(abc.ABC):
    """A recording that can be read.

    Attributes:
        corpus: name of the folder or dataset that it was found in.
        record_id: its id there.
        split, patient_id: None where unknown.
    """

    corpus: str
    record_id: str
    split: str | None
    patient_id: str | None

    def __str__(self) -> str:
        return f"{self.corpus}:{self.record_id}"

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """Where it lies, for a person."""

    @abc.abstractmethod
    def read(self) -> EcgRecord:
        """Its signal.

        Raises:
            EcgJepaRecordError: it cannot be read.
        """


@dataclass(frozen=True)
class WfdbRecording(Recording):
    """A recording in WFDB files; `headers` are the same signal at several rates, the best first."""

    headers: tuple[Path, ...] = field(compare=False)

    @property
    def place(self) -> str:
        return str(self.headers[0])

    def read(self) -> EcgRecord:
        *better, last = self.headers
        for header in better:
            try:
                return read_record(header)
            except EcgJepaRecordError:  # the same signal is there once more, at another rate
                continue
        return read_record(last)


@dataclass(frozen=True)
class PreparedRecording(Recording):
    """A row of a Parquet file, or of a split in a folder of `save_to_disk`."""

    path: Path
    row: int

    @property
    def place(self) -> str:
        return f"{self.path}, row {self.row}"

    def read(self) -> EcgRecord:
        return _as_record(_row(self.path, self.row), self)


def find_recordings(folders: Sequence[str | os.PathLike]) -> list[Recording]:
    """All recordings of some folders or datasets, each folder a corpus of its own.

    Args:
        folders: WFDB records (PTB-XL's layout is recognised anywhere in them), Parquet shards with this package's
            columns, or what `datasets` wrote with `save_to_disk`.

    Raises:
        EcgJepaConfigError: a folder is named twice.
        EcgJepaRecordError: nothing there that can be read, or a table of PTB-XL that cannot.
    """
    paths = [Path(os.path.abspath(os.path.expanduser(folder))) for folder in folders]
    twice = [str(path) for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise EcgJepaConfigError(f"{', '.join(twice)} is named twice; every record would be found in both.")
    names = Counter(path.name for path in paths)
    recordings: list[Recording] = []
    for path, folder in zip(paths, folders, strict=True):
        recordings += _recordings(path, path.name if names[path.name] == 1 else str(folder))
    return recordings


def _recordings(path: Path, corpus: str) -> Iterator[Recording]:
    if not path.exists():
        raise EcgJepaRecordError("folder not readable", f"There is no {path}. Name a folder of records or a dataset.")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _of_saved(path, corpus)
    shards = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    if not shards and path.is_dir() and not any(path.rglob("*.hea")):
        text = f"{path} holds neither WFDB headers nor a prepared dataset. For corpora in other formats run "
        raise EcgJepaRecordError("no records", text + "`ecg-jepa prepare` first, and name its output folder.")
    return _of_parquet(shards, corpus) if shards else _of_wfdb(path, corpus)


# WFDB -----------------------------------------------------------------------------------------------------------------


def _of_wfdb(root: Path, corpus: str) -> Iterator[Recording]:
    groups: dict[Path, list[Path]] = {}
    for header in find_records(root):
        groups.setdefault(_name(header), []).append(header)
    stems = Counter(name.name for name in groups)
    for name, headers in groups.items():
        # The bare id where it says which record is meant, else the path.
        path = Path(os.path.relpath(name, root)).as_posix()
        split, patient_id = _ptb_xl_row(name) if name != _plain_name(headers[0]) else (None, None)
        best_first = tuple(sorted(headers, reverse=True))  # records500 before records100
        yield WfdbRecording(corpus, name.name if stems[name.name] == 1 else path, split, patient_id, best_first)


def _plain_name(header: Path) -> Path:
    return header.with_suffix("")


def _name(header: Path) -> Path:
    """The name of a recording: its path without suffix; PTB-XL/137 for PTB-XL/records100/00000/00137_lr.hea."""
    file = _PTB_XL_FILE.fullmatch(header.stem)
    if file and header.parents[1].name in _PTB_XL_FOLDERS:
        return header.parents[2] / str(int(file[1]))
    return _plain_name(header)


def _ptb_xl_row(name: Path) -> tuple[str | None, str | None]:
    """Split and patient of a record of PTB-XL, as its table says."""
    return _ptb_xl_table(name.parent).get(name.name, (None, None))


@functools.lru_cache(maxsize=4)
def _ptb_xl_table(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    if not (folder / PTB_XL_TABLE).is_file():
        return {}
    table = read_table(folder / PTB_XL_TABLE, ["ecg_id", "patient_id", "strat_fold"])
    rows: dict[str, tuple[str | None, str | None]] = {}
    for ecg_id, patient_id, fold in table[["ecg_id", "patient_id", "strat_fold"]].itertuples(index=False):
        split = {"9": "validation", "10": "test"}.get(fold.removesuffix(".0"), "train")
        rows[ecg_id.removesuffix(".0")] = (split, patient_id.removesuffix(".0") or None)
    return rows


# Prepared datasets ----------------------------------------------------------------------------------------------------


def _of_parquet(shards: Sequence[Path], corpus: str) -> Iterator[Recording]:
    for shard in shards:
        _check_columns(shard, _parquet(shard).schema_arrow.names)
        table = _parquet(shard).read(_id_columns(_parquet(shard).schema_arrow.names))
        yield from _of_table(shard, table, corpus, _split(shard))


def _of_saved(path: Path, corpus: str) -> Iterator[Recording]:
    whole = (path / "state.json").is_file()
    for part in [path] if whole else sorted(file.parent for file in path.glob("*/state.json")):
        rows = _saved(part)
        _check_columns(part, rows.column_names)
        table = rows.select_columns(_id_columns(rows.column_names)).with_format("arrow")[:]
        yield from _of_table(part, table, corpus, _split(part) if whole else part.name)


def _check_columns(path: Path, names: Sequence[str]) -> None:
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        text = f"{path} lacks the columns {', '.join(missing)}; `ecg-jepa prepare` and `load_ecg_dataset` write them."
        raise EcgJepaRecordError("no prepared dataset", text)


def _id_columns(names: Sequence[str]) -> list[str]:
    return [name for name in ("record_id", "patient_id") if name in names]


def _of_table(path: Path, table: pa.Table, corpus: str, split: str | None) -> Iterator[Recording]:
    ids = table["record_id"].to_pylist()
    patients = table["patient_id"].to_pylist() if "patient_id" in table.column_names else [None] * len(ids)
    for row, (record_id, patient_id) in enumerate(zip(ids, patients, strict=True)):
        patient = None if patient_id is None else str(patient_id)
        yield PreparedRecording(corpus, str(record_id), split, patient, path, row)


def _split(path: Path) -> str | None:
    """By the name of the file, as `datasets` does, or of its folder."""
    shard = _SHARD.fullmatch(path.stem)
    if shard:
        return shard["split"]
    return next((name for name in (path.stem, path.parent.name) if name in SPLITS), None)


#: An open ParquetFile is for one thread at a time: two that read from it can wait for each other for ever.
_READING = threading.Lock()


def _row(path: Path, row: int) -> dict[str, pa.Array]:
    if path.is_dir():
        table, place = _saved(path).with_format("arrow")[row], 0
    else:
        with _READING:
            group, first = _row_group(path, row)
            table, place = _read_group(path, group), row - first
    return {name: table[name][place] for name in _COLUMNS}


def _row_group(path: Path, row: int) -> tuple[int, int]:
    """The row group that holds a row, and the group's first row."""
    ends = _group_ends(path)
    group = int(np.searchsorted(ends, row, side="right"))
    return group, int(ends[group - 1]) if group else 0


@functools.lru_cache(maxsize=1024)
def _group_ends(path: Path) -> np.ndarray:
    metadata = _parquet(path).metadata
    return np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])


@functools.lru_cache(maxsize=8)
def _read_group(path: Path, group: int) -> pa.Table:
    try:
        return _parquet(path).read_row_group(group, columns=list(_COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise EcgJepaRecordError("Parquet file damaged", f"{path}, row group {group}: {error}") from error


@functools.lru_cache(maxsize=64)
def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise EcgJepaRecordError("no Parquet file", f"{path} cannot be read as Parquet: {error}") from error


@functools.lru_cache(maxsize=64)
def _saved(path: Path) -> datasets.Dataset:
    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        text = f"{path} cannot be read as a dataset of `save_to_disk`: {error}"
        raise EcgJepaRecordError("no saved dataset", text) from error


def _as_record(row: dict[str, pa.Scalar], recording: PreparedRecording) -> EcgRecord:
    leads = row["lead_names"].as_py()
    try:
        counts = row["signal"].values.to_numpy(zero_copy_only=False).reshape(len(leads), -1)
        signal = np.where(counts == MISSING, np.nan, counts * np.float32(row["signal_scale"].as_py()))
        rate = float(row["sampling_rate"].as_py())
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        text = f"{recording.place}: no {leads} of equal length with a scale and a rate in it: {error}"
        raise EcgJepaRecordError("row not readable", text) from error
    return EcgRecord(signal.astype(np.float32), rate, tuple(leads), recording.record_id)
