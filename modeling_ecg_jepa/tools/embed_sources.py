"""What there is to embed: WFDB records, and rows of prepared corpora, under one name each, read when they are due."""

import collections
import functools
import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow.parquet as pq

from dataset_scripts.recordings import PreparedRecording, find_recordings
from dataset_scripts.records import EcgRecord, find_records, read_record, record_sha256
from dataset_scripts.skipped import SkippedRecord, skipped_by

from ..errors_ecg_jepa import EcgJepaInputError, EcgJepaRecordError


class ReadRecord(NamedTuple):
    """A record with what is known of it; `labels` is None where nobody has told."""

    name: str
    record: EcgRecord
    sha256: str
    labels: tuple[str, ...] | None = None
    patient_id: str | None = None
    split: str | None = None


class NamedRecord(NamedTuple):
    """A WFDB record to embed: its name in the output, and its header."""

    name: str
    header: Path

    @property
    def place(self) -> str:
        return str(self.header)

    @property
    def remedy(self) -> str:
        """What to do where another has the same name."""
        return "Give a folder that holds both, or embed them into two files."

    def read(self) -> ReadRecord:
        """
        Raises:
            EcgJepaRecordError: it cannot be read.
        """
        return ReadRecord(self.name, read_record(self.header), record_sha256(self.header))

    def fingerprint(self) -> bytes:
        """The header, which holds the checksums of the signals; nothing where it cannot be read."""
        try:
            return self.header.read_bytes()
        except OSError:
            return b""


class NamedRow(NamedTuple):
    """A row of a prepared corpus to embed: its name in the output, and where it lies."""

    name: str
    recording: PreparedRecording

    @property
    def place(self) -> str:
        return self.recording.place

    @property
    def remedy(self) -> str:
        return "Embed them into two files; within a corpus each record_id stands once."

    def read(self) -> ReadRecord:
        """
        Raises:
            EcgJepaRecordError: it cannot be read.
        """
        record = self.recording.read()
        labels = _labels(self.recording.path)[self.recording.row]
        return ReadRecord(
            self.name, record, _signal_sha256(record), labels, self.recording.patient_id, self.recording.split
        )

    def fingerprint(self) -> bytes:
        """Sizes and statistics of all columns of its file, and its place in it."""
        return f"{_footer_sha256(self.recording.path)} {self.recording.row}".encode()


Source = NamedRecord | NamedRow


def name_records(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Source], list[SkippedRecord]]:
    """What paths of records, folders and prepared corpora stand for, each once, and the paths that stand for nothing.

    A folder with WFDB headers is one of records; one without but with Parquet files is a prepared corpus.

    Raises:
        EcgJepaInputError: two records would have one name in the output.
    """
    found: dict[Hashable, Source] = {}
    absent = []
    for path in map(Path, paths):
        try:
            for key, source in _sources(path):
                found.setdefault(key, source)
        except EcgJepaRecordError as error:
            absent.append(skipped_by(error, str(path)))
    _refuse_one_name(found.values())
    return list(found.values()), absent


def _sources(path: Path) -> Iterator[tuple[Hashable, Source]]:
    """Each with what tells it from all others, by whatever path it was found."""
    if _is_prepared(path):
        for recording in find_recordings([path]):
            if isinstance(recording, PreparedRecording):
                yield (recording.path.resolve(), recording.row), NamedRow(recording.record_id, recording)
        return
    for header in find_records(path):
        name = header.relative_to(path).with_suffix("").as_posix() if path.is_dir() else header.stem
        yield header.resolve(), NamedRecord(name, header)


def _is_prepared(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix == ".parquet"
    return not any(path.rglob("*.hea")) and any(path.rglob("*.parquet"))


def _refuse_one_name(sources: Iterable[Source]) -> None:
    of_name = collections.defaultdict(list)
    for source in sources:
        of_name[source.name].append(source)
    for name, same in of_name.items():
        if len(same) > 1:
            raise EcgJepaInputError(
                f"{same[0].place} and {same[1].place} would both be called {name!r} in the output. {same[0].remedy}"
            )


def input_sha256(sources: Sequence[Source]) -> str:
    """Over names and fingerprints, in their order: other records, or the same in another order, give another hash."""
    digest = hashlib.sha256()
    for source in sources:
        for part in (source.name.encode(), source.fingerprint()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


# Prepared corpora -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _labels(path: Path) -> list[tuple[str, ...] | None]:
    """Of each row of a Parquet file the names of its labels, None where the corpus has none."""
    file = pq.ParquetFile(path)
    if "labels" not in file.schema_arrow.names:
        return [None] * file.metadata.num_rows
    feature = datasets.Features.from_arrow_schema(file.schema_arrow)["labels"]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return [_named(labels, names) for labels in file.read(["labels"])["labels"].to_pylist()]


def _named(labels: Any, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if labels is None:
        return None
    several = labels if isinstance(labels, list) else [labels]
    return tuple(str(label if names is None else names[label]) for label in several)


@functools.lru_cache(maxsize=1024)
def _footer_sha256(path: Path) -> str:
    return hashlib.sha256(json.dumps(pq.read_metadata(path).to_dict(), default=str).encode()).hexdigest()


def _signal_sha256(record: EcgRecord) -> str:
    digest = hashlib.sha256(json.dumps([record.lead_names, record.sampling_rate]).encode())
    digest.update(np.ascontiguousarray(record.signal).tobytes())
    return digest.hexdigest()


__all__ = ["NamedRecord", "NamedRow", "ReadRecord", "Source", "input_sha256", "name_records"]
