"""Which records of an index of embeddings lie nearest to a record, by the cosine between their vectors."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_scripts.skipped import SkippedRecord, list_skipped

from ..errors_ecg_jepa import EcgJepaCheckpointError, EcgJepaConfigError, EcgJepaInputError, EcgJepaRecordError
from .checkpoint import checkpoint_folder, choose_device, encoder_sha256, load_encoder
from .embed import embed_records
from .embedding_files import EmbeddedWindow, Embeddings, read_embeddings


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A row of the index. `distance` is 1 minus the cosine: 0 for the same direction, 1 for a right angle, at most 2.

    Of a record in several windows it is the distance from the nearest of them, which starts at `from_s`, in seconds.
    """

    record: str
    start_s: float
    distance: float
    labels: tuple[str, ...] | None
    patient_id: str | None
    from_s: float


def find_similar(
    record: str | os.PathLike[str],
    index: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    count: int = 10,
    device: str = "auto",
) -> list[Neighbor]:
    """The rows of an index that are nearest to a record, which is embedded just as they were.

    Args:
        record: a WFDB record.
        index: what `ecg-jepa embed` wrote.
        model: of the index; where the index says it was, if not given.
        count: neighbours wanted; fewer come back if the index is smaller.

    Raises:
        EcgJepaInputError: no index, or `record` is several records.
        EcgJepaRecordError: the record cannot be read or embedded.
        EcgJepaCheckpointError: the model is not there, or not the one of the index.
        EcgJepaConfigError: scikit-learn is not installed.
    """
    embeddings = read_embeddings(index)
    windows = _embed_as(embeddings, record, model, device)
    queries = np.stack([window.embedding for window in windows])
    distances, window_of = nearest_distances(embeddings.vectors, queries, count)
    rows = sorted(distances, key=lambda row: (distances[row], row))[:count]
    return [_neighbor(embeddings, row, distances[row], windows[window_of[row]].start_s) for row in rows]


def nearest_distances(vectors: np.ndarray, queries: np.ndarray, count: int) -> tuple[dict[int, float], dict[int, int]]:
    """Cosine distances of the rows that are among the `count` nearest of any query, and the query that is nearest.

    Args:
        vectors: (rows, hidden).
        queries: (queries, hidden).

    Returns:
        row -> its smallest distance, and row -> the query it has that distance from.

    Raises:
        EcgJepaInputError: vectors and queries are of different sizes.
        EcgJepaConfigError: scikit-learn is not installed.
    """
    if vectors.shape[1] != queries.shape[1]:
        raise EcgJepaInputError(
            f"The index has vectors of {vectors.shape[1]} numbers, the record one of {queries.shape[1]}: they are not "
            "of one model. Embed the index again with this one."
        )
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError as error:
        raise EcgJepaConfigError('Neighbours need scikit-learn: pip install "ecg-jepa[explore]".') from error
    search = NearestNeighbors(n_neighbors=min(count, len(vectors)), metric="cosine", algorithm="brute").fit(vectors)
    distances: dict[int, float] = {}
    nearest_query: dict[int, int] = {}
    for query, (its_distances, its_rows) in enumerate(zip(*search.kneighbors(queries), strict=True)):
        for distance, row in zip(its_distances.tolist(), its_rows.tolist(), strict=True):
            if distance < distances.get(row, np.inf):
                distances[row], nearest_query[row] = distance, query
    return distances, nearest_query


def _embed_as(
    embeddings: Embeddings, record: str | os.PathLike[str], model: str | os.PathLike[str] | None, device: str
) -> list[EmbeddedWindow]:
    """The windows of a record, embedded with the model and the options of an index."""
    origin = embeddings.origin
    if Path(record).is_dir():
        raise EcgJepaInputError(f"{record} is a folder; name one WFDB record in it, for instance {record}/NAME.hea.")
    try:
        folder = checkpoint_folder(origin["model"] if model is None else model)
    except EcgJepaCheckpointError as error:
        if model is not None:
            raise
        raise EcgJepaCheckpointError(
            f"{embeddings.place} was made with {origin['model']}, which is not there ({error}). Say by --model where "
            "it lies now."
        ) from error
    encoder, extractor = load_encoder(folder, choose_device(device))
    if encoder_sha256(encoder, extractor) != origin["encoder_sha256"]:
        raise EcgJepaCheckpointError(
            f"{embeddings.place} was made with {origin['model']} of another hash than {folder} has, so distances would "
            "mean nothing. Pass that model by --model, or embed the index again with this one."
        )
    options = {name: origin[name] for name in ("window_seconds", "stride_seconds", "leads")}
    embedded = list(embed_records([record], encoder, extractor, **options))
    windows = [item for item in embedded if isinstance(item, EmbeddedWindow)]
    if not windows:
        left_out = [item for item in embedded if isinstance(item, SkippedRecord)]
        raise EcgJepaRecordError("record not embedded", "\n".join([f"{record}:", *list_skipped(left_out)]))
    return windows


def _neighbor(embeddings: Embeddings, row: int, distance: float, from_s: float) -> Neighbor:
    found = embeddings.rows.slice(row, 1).to_pylist()[0]
    labels = None if found["labels"] is None else tuple(found["labels"])
    return Neighbor(found["record"], found["start_s"], max(distance, 0.0), labels, found["patient_id"], from_s)


def in_words(neighbors: Sequence[Neighbor]) -> list[str]:
    """A table for a person: distance, record, where in it if it is not its start, and labels."""
    with_windows = any(neighbor.start_s or neighbor.from_s for neighbor in neighbors)
    head = ["distance", "record", *(["starts at", "nearest to"] if with_windows else []), "labels"]
    lines = [head, *(_line(neighbor, with_windows) for neighbor in neighbors)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return ["  ".join(line).rstrip() for line in padded]


def _line(neighbor: Neighbor, with_windows: bool) -> list[str]:
    windows = [f"{neighbor.start_s:g} s", f"{neighbor.from_s:g} s"] if with_windows else []
    labels = "unknown" if neighbor.labels is None else ", ".join(neighbor.labels) or "none"
    return [f"{neighbor.distance:.6f}", neighbor.record, *windows, labels]


def as_json(neighbors: Sequence[Neighbor]) -> list[dict[str, Any]]:
    """For programs: an object a neighbour, nearest first."""
    return [dataclasses.asdict(neighbor) for neighbor in neighbors]


__all__ = ["Neighbor", "as_json", "find_similar", "in_words", "nearest_distances"]
