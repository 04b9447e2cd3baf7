"""From records to embeddings: records are read and prepared ahead in threads, the model sees full batches of them."""

import collections
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from dataset_scripts.outputs import whole_file
from dataset_scripts.skipped import SkippedRecord, list_skipped, skipped_by

from ..collator_ecg_jepa import EcgJepaDataCollator
from ..errors_ecg_jepa import EcgJepaInputError, EcgJepaOutputError, EcgJepaRecordError
from ..feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from ..modeling_ecg_jepa import EcgJepaModel, lead_places
from .checkpoint import checkpoint_folder, choose_device, load_encoder
from .embed_sources import ReadRecord, Source, name_records
from .embedding_files import EmbeddedWindow, origin_of, write_embeddings

# Records in memory before the model asks for them: one at work in each direction.
_RECORDS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class EmbeddingSummary:
    """What became of the records: how many were embedded, in how many rows of which size, in how many seconds (without
    loading the model), and which were left out."""

    output: Path
    records: int
    rows: int
    hidden_size: int
    seconds: float
    left_out: tuple[SkippedRecord, ...]

    def in_words(self) -> list[str]:
        """Lines for a person: what is there, and how fast it came."""
        held = f"{self.records:,} records embedded, {self.rows:,} rows of {self.hidden_size} numbers: {self.output}"
        return [held, throughput(self.records, self.seconds)]


def embed_records(
    paths: Iterable[str | os.PathLike[str]],
    model: PreTrainedModel,
    extractor: EcgJepaFeatureExtractor,
    *,
    progress: bool = False,
    **options: Any,
) -> Iterator[EmbeddedWindow | SkippedRecord]:
    """Embed records one after another, in batches across records, with bounded memory.

    Args:
        paths: WFDB records (with or without suffix), folders (searched for .hea files), and prepared corpora (folders
            of `ecg-jepa prepare`, or Parquet files of them).
        model, extractor, options: as of `embed_sources`.
        progress: show a progress bar over records.

    Yields:
        `EmbeddedWindow`, in the order of the records, and `SkippedRecord` for each record or window that is left out.

    Raises:
        EcgJepaInputError: a lead that the model does not have, or two records of one name.
        EcgJepaConfigError: a window or stride that cannot be.
    """
    found, absent = name_records(paths)
    yield from absent
    with tqdm(total=len(found), unit="record", disable=not progress) as bar:
        yield from embed_sources(found, model, extractor, bar=bar, **options)


def embed_sources(
    sources: Iterable[Source],
    model: PreTrainedModel,
    extractor: EcgJepaFeatureExtractor,
    *,
    bar: tqdm,
    batch_size: int = 32,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    leads: Sequence[str] | None = None,
    num_workers: int = 2,
) -> Iterator[EmbeddedWindow | SkippedRecord]:
    """As `embed_records`, of records that were found already.

    Args:
        model: any of our models, on its device; its encoder is used, in evaluation mode and without gradients.
        extractor: the one that fits it. Its windows and truncation are set here.
        bar: moves on with every record.
        batch_size: windows a forward pass.
        window_seconds, stride_seconds: embed every such window of a record; its first `num_patches` (10 s) if not
            given. A stride that is not given is the window.
        leads: embed only these leads of the model's; all that the record has if not given.
        num_workers: threads that read and prepare records ahead.
    """
    cut = {"truncation": "start", "window_seconds": window_seconds, "stride_seconds": stride_seconds}
    extractor = type(extractor).from_dict(extractor.to_dict() | cut)
    encoder = cast(EcgJepaModel, model.base_model)
    places = None if leads is None else lead_places(encoder.config, leads, torch.device("cpu"))

    batch: list[PreparedWindow] = []
    with ThreadPoolExecutor(num_workers) as pool, _for_inference(encoder):
        read = _ahead(pool, _read, _counted(sources, bar), _RECORDS_AHEAD)
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
    origin = origin_of(model, folder, encoder, extractor, options)
    start = time.perf_counter()
    with whole_file(output) as unfinished:
        done = write_embeddings(unfinished, embed_records(paths, encoder, extractor, **options), origin)
        if not done.rows:
            raise nothing_embedded(done.left_out)
    seconds = time.perf_counter() - start
    return EmbeddingSummary(
        Path(output), done.records, done.rows, encoder.config.hidden_size, seconds, tuple(done.left_out)
    )


def throughput(records: int, seconds: float) -> str:
    return f"{records:,} records in {seconds:.1f} s, {records / seconds:.3g} a second"


def nothing_embedded(left_out: Sequence[SkippedRecord]) -> EcgJepaRecordError:
    """The error that no record at all could be embedded, with the reasons."""
    listed = "\n".join(list_skipped(left_out))
    return EcgJepaRecordError("nothing embedded", f"No record could be embedded:\n{listed}")


# One record -----------------------------------------------------------------------------------------------------------


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


def _counted(sources: Iterable[Source], bar: tqdm) -> Iterator[Source]:
    for source in sources:
        yield source
        bar.update()


def _read(source: Source) -> ReadRecord | SkippedRecord:
    try:
        return source.read()
    except EcgJepaRecordError as error:
        return skipped_by(error, source.name)


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
        "labels": piece.read.labels,
        "patient_id": piece.read.patient_id,
        "split": piece.read.split,
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


__all__ = ["EmbeddingSummary", "embed_records", "embed_sources", "embed_to_parquet", "nothing_embedded", "throughput"]
