"""From records to embeddings: records are read and prepared ahead in threads, the model sees full batches of them."""

import collections
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from dataset_scripts.outputs import whole_file
from dataset_scripts.records import EcgRecord, find_records, read_record, record_sha256
from dataset_scripts.skipped import SkippedRecord, list_skipped, skipped_by

from .. import __version__
from ..collator_ecg_jepa import EcgJepaDataCollator
from ..errors_ecg_jepa import EcgJepaInputError, EcgJepaOutputError, EcgJepaRecordError
from ..feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from ..modeling_ecg_jepa import EcgJepaModel, lead_places
from .checkpoint import checkpoint_folder, choose_device, file_sha256, load_encoder, weight_files
from .columns import COLUMNS

SCHEMA_VERSION = 1

# Rows that are collected before they are written: a row group, 3 MB at base size.
_ROWS_A_GROUP = 1024

# Records in memory before the model asks for them: one at work in each direction.
_RECORDS_AHEAD = 2

_TYPES = {
    "record": pa.string(),
    "window": pa.int32(),
    "start_s": pa.float64(),
    "embedding": pa.list_(pa.float32()),
    "lead_names": pa.list_(pa.string()),
    "sampling_rate": pa.float64(),
    "quality": pa.list_(pa.string()),
    "sha256": pa.string(),
}


class NamedRecord(NamedTuple):
    """A record to embed: its name in the output, and its header."""

    name: str
    header: Path


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


@dataclasses.dataclass(frozen=True)
class EmbeddingSummary:
    """What became of the records: how many were embedded, in how many rows of which size, and which were left out."""

    output: Path
    records: int
    rows: int
    hidden_size: int
    left_out: tuple[SkippedRecord, ...]


def name_records(
    paths: Iterable[str | os.PathLike[str]],
) -> tuple[list[NamedRecord], list[SkippedRecord]]:
    """The records that paths of records and folders stand for, each once, and the paths that stand for none.

    Raises:
        EcgJepaInputError: two records from different folders would have one name in the output.
    """
    found: dict[Path, str] = {}
    absent = []
    for path in map(Path, paths):
        try:
            headers = find_records(path)
        except EcgJepaRecordError as error:
            absent.append(skipped_by(error, str(path)))
            continue
        for header in headers:
            name = header.relative_to(path).with_suffix("").as_posix() if path.is_dir() else header.stem
            found.setdefault(header.resolve(), name)
    headers_of = collections.defaultdict(list)
    for header, name in found.items():
        headers_of[name].append(header)
    for name, same in headers_of.items():
        if len(same) > 1:
            raise EcgJepaInputError(
                f"{same[0]} and {same[1]} would both be called {name!r} in the output. "
                "Give a folder that holds both, or embed them into two files."
            )
    return [NamedRecord(name, header) for header, name in found.items()], absent


def embed_records(
    paths: Iterable[str | os.PathLike[str]],
    model: PreTrainedModel,
    extractor: EcgJepaFeatureExtractor,
    *,
    batch_size: int = 32,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    leads: Sequence[str] | None = None,
    num_workers: int = 2,
    progress: bool = False,
) -> Iterator[EmbeddedWindow | SkippedRecord]:
    """Embed WFDB records one after another, in batches across records, with bounded memory.

    Args:
        paths: records (with or without suffix) and folders (searched for .hea files).
        model: any of our models, on its device; its encoder is used, in evaluation mode and without gradients.
        extractor: the one that fits it. Its windows and truncation are set here.
        batch_size: windows a forward pass.
        window_seconds, stride_seconds: embed every such window of a record; its first `num_patches` (10 s) if not
            given. A stride that is not given is the window.
        leads: embed only these leads of the model's; all that the record has if not given.
        num_workers: threads that read and prepare records ahead.
        progress: show a progress bar over records.

    Yields:
        `EmbeddedWindow`, in the order of the records, and `SkippedRecord` for each record or window that is left out.

    Raises:
        EcgJepaInputError: a lead that the model does not have, or two records of one name.
        EcgJepaConfigError: a window or stride that cannot be.
    """
    cut = {"truncation": "start", "window_seconds": window_seconds, "stride_seconds": stride_seconds}
    extractor = type(extractor).from_dict(extractor.to_dict() | cut)
    encoder = cast(EcgJepaModel, model.base_model)
    places = None if leads is None else lead_places(encoder.config, leads, torch.device("cpu"))
    found, absent = name_records(paths)
    yield from absent

    batch: list[PreparedWindow] = []
    with ThreadPoolExecutor(num_workers) as pool, _for_inference(encoder):
        bar = tqdm(found, unit="record", disable=not progress)
        read = _ahead(pool, _read, bar, _RECORDS_AHEAD)
        pieces = (piece for record in read for piece in _pieces(record, extractor))
        prepare = functools.partial(_prepare, extractor=extractor, places=places)
        for prepared in _ahead(pool, prepare, pieces, 2 * num_workers):
            if isinstance(prepared, SkippedRecord):
                yield prepared
                continue
            batch.append(prepared)
            if len(batch) == batch_size:
                yield from _embed(batch, encoder, extractor, places)
                batch = []
        if batch:
            yield from _embed(batch, encoder, extractor, places)


def embed_to_parquet(
    paths: Iterable[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    device: str = "auto",
    **options,
) -> EmbeddingSummary:
    """Embed records with a checkpoint, a folder or a name on the Hub, into a Parquet file (columns: `COLUMNS`).

    Args:
        device: `auto`, `cpu`, `cuda` or any other name of a device.
        options: as in `embed_records`.

    Raises:
        EcgJepaError: the checkpoint, the output or an option; or no record at all could be embedded.
    """
    if Path(output).suffix != ".parquet":
        better = Path(output).with_suffix(".parquet")
        raise EcgJepaOutputError(f"--output {output}: embeddings are written as Parquet; name the file {better}.")
    folder = checkpoint_folder(model)
    encoder, extractor = load_encoder(folder, choose_device(device))
    origin = {
        "schema_version": SCHEMA_VERSION,
        "model": os.fspath(model),
        "weights_sha256": {path.name: file_sha256(path) for path in weight_files(folder)},
        "ecg_jepa": __version__,
        "torch": torch.__version__,
        "device": encoder.device.type,
        **{name: options.get(name) for name in ("window_seconds", "stride_seconds", "leads")},
    }
    left_out: list[SkippedRecord] = []
    embedded = embed_records(paths, encoder, extractor, **options)
    with whole_file(output) as unfinished:
        records, rows = _write(unfinished, embedded, origin, left_out)
        if not rows:
            listed = "\n".join(list_skipped(left_out))
            raise EcgJepaRecordError("nothing embedded", f"No record could be embedded:\n{listed}")
    return EmbeddingSummary(Path(output), records, rows, encoder.config.hidden_size, tuple(left_out))


# One record -----------------------------------------------------------------------------------------------------------


class ReadRecord(NamedTuple):
    name: str
    record: EcgRecord
    sha256: str


class Piece(NamedTuple):
    """What is prepared at once: a whole record, of which the extractor takes the start, or a window cut out of it."""

    place: str
    read: ReadRecord
    window: int
    start: int
    signal: np.ndarray
    rest: int = 0  # samples of the record after its last window


class PreparedWindow(NamedTuple):
    """A window's row of the output without the embedding, and the model's input for it without the batch dimension."""

    row: dict[str, Any]
    inputs: dict[str, np.ndarray]


def _read(record: NamedRecord) -> ReadRecord | SkippedRecord:
    try:
        return ReadRecord(record.name, read_record(record.header), record_sha256(record.header))
    except EcgJepaRecordError as error:
        return skipped_by(error, record.name)


def _pieces(read: ReadRecord | SkippedRecord, extractor: EcgJepaFeatureExtractor) -> Iterator[Piece | SkippedRecord]:
    if isinstance(read, SkippedRecord):
        yield read
        return
    signal = read.record.signal
    if extractor.window_seconds is None:
        yield Piece(read.name, read, 0, 0, signal)
        return
    spans = extractor.spans(signal.shape[1], read.record.sampling_rate)
    for window, (start, length) in enumerate(spans):
        rest = signal.shape[1] - start - length if window == len(spans) - 1 else 0
        yield Piece(f"{read.name}, window {window}", read, window, start, signal[:, start : start + length], rest)


def _prepare(
    piece: Piece | SkippedRecord, extractor: EcgJepaFeatureExtractor, places: Tensor | None
) -> PreparedWindow | SkippedRecord:
    """The extractor's work for one piece. A window is judged on its own: one that cannot be used costs no other."""
    if isinstance(piece, SkippedRecord):
        return piece
    record = piece.read.record
    try:
        features = extractor(
            piece.signal, record.sampling_rate, record.lead_names, return_tensors="np", return_findings=True
        )
    except EcgJepaInputError as error:
        return skipped_by(error, piece.place)
    inputs = {key: features[key][0] for key in ("input_values", "lead_mask", "attention_mask")}
    if places is not None and not inputs["lead_mask"][places].any():
        return SkippedRecord(piece.place, "chosen leads missing", "None of the chosen leads is in it and usable.")
    row = {
        "record": piece.read.name,
        "window": piece.window,
        "start_s": piece.start / record.sampling_rate,
        "lead_names": record.lead_names,
        "sampling_rate": record.sampling_rate,
        "quality": (*record.findings, *_rest(piece), *(finding.text for finding in features["findings"])),
        "sha256": piece.read.sha256,
    }
    return PreparedWindow(row, inputs)


def _rest(piece: Piece) -> list[str]:
    """What of a record comes after its last whole window."""
    seconds = piece.rest / piece.read.record.sampling_rate
    return [f"The {seconds:.2f} s after this, the last whole window, are not embedded."] if piece.rest else []


# Batches --------------------------------------------------------------------------------------------------------------


def _ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterable, most: int) -> Iterator:
    """`map(function, items)` with up to `most` results computed or under way before they are asked for."""
    pending: collections.deque = collections.deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > most:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextmanager
def _for_inference(model: EcgJepaModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _embed(
    batch: Sequence[PreparedWindow],
    encoder: EcgJepaModel,
    extractor: EcgJepaFeatureExtractor,
    places: Tensor | None,
) -> Iterator[EmbeddedWindow]:
    inputs = EcgJepaDataCollator(extractor)([prepared.inputs for prepared in batch])
    if places is not None:
        inputs |= {name: inputs[name][:, places] for name in ("input_values", "lead_mask")}
        inputs["leads"] = places
    with torch.inference_mode():
        output = encoder(**{name: tensor.to(encoder.device) for name, tensor in inputs.items()})
    for prepared, embedding in zip(batch, output.pooler_output.float().cpu().numpy(), strict=True):
        yield EmbeddedWindow(embedding=embedding, **prepared.row)


# The file -------------------------------------------------------------------------------------------------------------


def _write(
    path: Path,
    embedded: Iterator[EmbeddedWindow | SkippedRecord],
    origin: Mapping[str, Any],
    left_out: list[SkippedRecord],
) -> tuple[int, int]:
    """Write rows as they come, a group at a time; collect what is left out. The number of records, and of rows."""
    schema = pa.schema(
        [pa.field(name, kind, metadata={"description": COLUMNS[name]}) for name, kind in _TYPES.items()],
        metadata={"ecg_jepa": json.dumps(origin)},
    )
    records, rows = set(), 0
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
    return len(records), rows


def _table(group: Sequence[EmbeddedWindow], schema: pa.Schema) -> pa.Table:
    columns = [pa.array([getattr(row, field.name) for row in group], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


__all__ = ["EmbeddedWindow", "EmbeddingSummary", "NamedRecord", "embed_records", "embed_to_parquet", "name_records"]
