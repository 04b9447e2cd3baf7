"""The files of embeddings: a Parquet file, or a folder of shards, each of which says what it was made with.

In the metadata of a file `ecg_jepa` says what it follows from (model, hashes, options; of a shard also its place and
its input), and `ecg_jepa_done` how many records it holds and which were left out.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dataset_scripts.skipped import SkippedRecord

from .. import __version__
from ..errors_ecg_jepa import EcgJepaInputError
from ..feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from ..modeling_ecg_jepa import EcgJepaModel
from .checkpoint import encoder_sha256, file_sha256, weight_files
from .columns import COLUMNS

SCHEMA_VERSION = 2

_ORIGIN, _DONE = "ecg_jepa", "ecg_jepa_done"

#: embeddings-00000-of-00012.parquet
_SHARD = re.compile(r"embeddings-(\d{5,})-of-(\d{5,})\.parquet")

# Rows that are collected before they are written: a row group, 3 MB at base size.
_ROWS_A_GROUP = 1024

_TYPES = {
    "record": pa.string(),
    "window": pa.int32(),
    "start_s": pa.float64(),
    "embedding": pa.list_(pa.float32()),
    "lead_names": pa.list_(pa.string()),
    "sampling_rate": pa.float64(),
    "quality": pa.list_(pa.string()),
    "sha256": pa.string(),
    "labels": pa.list_(pa.string()),
    "patient_id": pa.string(),
    "split": pa.string(),
}


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddedWindow:
    """A row of the output; `columns.COLUMNS` says what each field is. `embedding` is (hidden,) float32."""

    record: str
    window: int
    start_s: float
    embedding: np.ndarray
    lead_names: tuple[str, ...]
    sampling_rate: float
    quality: tuple[str, ...]
    sha256: str
    labels: tuple[str, ...] | None = None
    patient_id: str | None = None
    split: str | None = None


@dataclasses.dataclass(frozen=True)
class Done:
    """What a finished file holds: how many records, in how many rows, and which records were left out."""

    records: int
    rows: int
    left_out: list[SkippedRecord]


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings in memory.

    Attributes:
        place: the file or folder that they were read from.
        origin: what they follow from.
        vectors: (rows, hidden) float32.
        rows: all other columns.
    """

    place: Path
    origin: Mapping[str, Any]
    vectors: np.ndarray
    rows: pa.Table


def origin_of(
    model: str | os.PathLike[str],
    folder: Path,
    encoder: EcgJepaModel,
    extractor: EcgJepaFeatureExtractor,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What embeddings follow from. `encoder_sha256`, `window_seconds`, `stride_seconds` and `leads` decide them."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": os.fspath(model),
        "encoder_sha256": encoder_sha256(encoder, extractor),
        "weights_sha256": {path.name: file_sha256(path) for path in weight_files(folder)},
        "ecg_jepa": __version__,
        "torch": torch.__version__,
        "device": encoder.device.type,
        **{name: options.get(name) for name in ("window_seconds", "stride_seconds", "leads")},
    }


# Writing --------------------------------------------------------------------------------------------------------------


def write_embeddings(path: Path, embedded: Iterable[EmbeddedWindow | SkippedRecord], origin: Mapping[str, Any]) -> Done:
    """Write rows as they come, a group at a time, and at the end what was left out."""
    schema = pa.schema(
        [pa.field(name, kind, metadata={"description": COLUMNS[name]}) for name, kind in _TYPES.items()],
        metadata={_ORIGIN: json.dumps(origin)},
    )
    records, rows = set(), 0
    left_out: list[SkippedRecord] = []
    group: list[EmbeddedWindow] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for item in embedded:
            if isinstance(item, SkippedRecord):
                left_out.append(item)
                continue
            records.add(item.record)
            rows += 1
            group.append(item)
            if len(group) == _ROWS_A_GROUP:
                writer.write_table(_table(group, schema))
                group = []
        if group:
            writer.write_table(_table(group, schema))
        done = {"records": len(records), "left_out": [dataclasses.asdict(record) for record in left_out]}
        writer.add_key_value_metadata({_DONE: json.dumps(done)})
    return Done(len(records), rows, left_out)


def _table(group: Sequence[EmbeddedWindow], schema: pa.Schema) -> pa.Table:
    columns = [pa.array([getattr(row, field.name) for row in group], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


# Reading --------------------------------------------------------------------------------------------------------------


def shard_name(number: int, of: int) -> str:
    """The file name of a shard, counted from 0."""
    return f"embeddings-{number:05d}-of-{of:05d}.parquet"


def read_origin(path: Path) -> tuple[dict[str, Any], Done]:
    """What the embeddings in a file follow from, and what it holds.

    Raises:
        EcgJepaInputError: no file of `ecg-jepa embed`, or one of another version.
    """
    try:
        footer = pq.read_metadata(path)
        metadata = {key.decode(): value for key, value in (footer.metadata or {}).items()}
        origin, done = json.loads(metadata[_ORIGIN]), json.loads(metadata.get(_DONE, "null"))
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        why = "it lacks their metadata" if isinstance(error, KeyError) else str(error)
        raise EcgJepaInputError(
            f"{path} is no file of embeddings ({why}). Name what `ecg-jepa embed` wrote: a .parquet file, or the "
            "folder of --output-dir."
        ) from error
    version = origin.get("schema_version") if isinstance(origin, dict) else None
    if version != SCHEMA_VERSION or not done:
        raise EcgJepaInputError(
            f"{path} has schema_version {version!r}; this version of ecg-jepa reads {SCHEMA_VERSION}. Run "
            "`ecg-jepa embed` again."
        )
    return origin, Done(done["records"], footer.num_rows, [SkippedRecord(**record) for record in done["left_out"]])


def read_embeddings(place: str | os.PathLike[str]) -> Embeddings:
    """Embeddings in the order in which they were made, from a file or a complete folder of shards.

    Raises:
        EcgJepaInputError: not there, no embeddings, none in them, shards that are missing or that differ in model or
            options.
    """
    files = _files(Path(place))
    origins, dones = zip(*map(read_origin, files), strict=True)
    for file, origin in zip(files, origins, strict=True):
        differing = differences(origin, origins[0])
        if differing:
            raise EcgJepaInputError(
                f"{file} and {files[0]} are not of one run: {'; '.join(differing)}. Keep the shards of one."
            )
    count = sum(done.rows for done in dones)
    if not count:
        raise EcgJepaInputError(f"{place} holds no embedding: all records were left out. Embed other records.")
    vectors, tables = _vectors(files, count)
    return Embeddings(Path(place), origins[0], vectors, pa.concat_tables(tables))


def differences(origin: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What decides embeddings and is not the same, in words."""
    other_model = [f"another model ({origin['model']})"] if _differ("encoder_sha256", origin, expected) else []
    options = [name for name in ("window_seconds", "stride_seconds", "leads") if _differ(name, origin, expected)]
    return other_model + [f"{name} {origin[name]} instead of {expected[name]}" for name in options]


def _differ(name: str, origin: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return origin[name] != expected[name]


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise EcgJepaInputError(f"There is no {place}. Name the file or the folder that `ecg-jepa embed` wrote.")
    if not place.is_dir():
        return [place]
    files = sorted(path for path in place.iterdir() if _SHARD.fullmatch(path.name))
    counts = {match[2] for path in files if (match := _SHARD.fullmatch(path.name))}
    if len(counts) != 1:
        raise EcgJepaInputError(
            f"{place} holds {'shards of several runs' if counts else 'no shards of embeddings'}. Name the folder that "
            "one `ecg-jepa embed --output-dir` wrote."
        )
    expected = int(counts.pop())
    missing = [shard_name(number, expected) for number in range(expected)]
    missing = [name for name in missing if not (place / name).is_file()]
    if missing:
        names = f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        raise EcgJepaInputError(
            f"{place} lacks {len(missing)} of {expected} shards ({names}). Run the same `ecg-jepa embed` again: it "
            "makes what is missing."
        )
    return files


def _vectors(files: Sequence[Path], count: int) -> tuple[np.ndarray, list[pa.Table]]:
    """All vectors in one array, filled file by file, so that a large index is in memory once."""
    vectors = np.empty((0, 0), np.float32)
    tables, start = [], 0
    for file in files:
        table = pq.read_table(file)
        tables.append(table.drop_columns(["embedding"]))
        if not table.num_rows:
            continue
        lengths = set(table["embedding"].combine_chunks().value_lengths().to_pylist())
        if not vectors.size:
            vectors = np.empty((count, max(lengths)), np.float32)
        if lengths != {vectors.shape[1]}:
            raise EcgJepaInputError(
                f"{file} holds embeddings of {', '.join(map(str, sorted(lengths)))} numbers, others here have "
                f"{vectors.shape[1]}. Run `ecg-jepa embed` again, into an empty folder."
            )
        values = table["embedding"].combine_chunks().flatten().to_numpy()
        vectors[start : start + table.num_rows] = values.reshape(table.num_rows, -1)
        start += table.num_rows
    return vectors, tables


__all__ = [
    "SCHEMA_VERSION",
    "Done",
    "EmbeddedWindow",
    "Embeddings",
    "differences",
    "origin_of",
    "read_embeddings",
    "read_origin",
    "shard_name",
    "write_embeddings",
]
