"""Fitted on one corpus, tested on another, over the classes that both have: their records side by side."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor

from .options import CorpusChoice
from .probe_records import FITTED_FOLDS, OTHER_CORPUS_FOLD, ProbeRecords, leave_out_duplicates, load_probe_records
from .windows import PreparedRows, Windows


class JoinedRows:
    """Rows of two corpora as if they were of one (`windows.PreparedRows`), the second's ids marked by its name."""

    def __init__(self, first: PreparedRows, second: PreparedRows, name: str):
        self.parts, self.name, self.read_in_groups = (first, second), name, False

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def schema(self) -> pa.Schema:
        return self.parts[0].schema

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As of `PreparedRows`; places of the first corpus before those of the second, as `transfer_records` has
        them."""
        border = len(self.parts[0])
        chosen = [places[places < border], places[places >= border] - border]
        pairs = [rows.read(some) for rows, some in zip(self.parts, chosen, strict=True) if len(some)]
        counts, scales = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        order = np.argsort(np.concatenate([np.flatnonzero(places < border), np.flatnonzero(places >= border)]))
        return counts[order], scales[order]

    def column(self, name: str) -> pa.ChunkedArray | None:
        first, second = (rows.column(name) for rows in self.parts)
        if first is None or second is None:
            return None
        values = second.to_pylist()
        if name in ("record_id", "patient_id"):
            values = [value and f"{self.name}/{value}" for value in values]
        return pa.chunked_array([*first.chunks, pa.array(values, first.type)])

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(len(self))


def transfer_records(
    records: ProbeRecords,
    choice: CorpusChoice,
    extractor: EcgJepaFeatureExtractor,
    folds: Sequence[int],
    quiet: bool = False,
) -> ProbeRecords:
    """Folds 1 to 8 of `records`, which are fitted, and of another corpus some folds, which are tested as one; of
    recordings that are the same signal the first corpus keeps it.

    Args:
        choice: the other corpus.
        folds: of it.

    Raises:
        EcgJepaConfigError: the corpora share no class.
        EcgJepaError: as `load_probe_records`.
    """
    other = load_probe_records(choice, extractor, folds, quiet)
    shared = [name for name in records.names if name in other.names]
    if not shared:
        raise EcgJepaConfigError(
            f"{choice.title} shares no class with {records.windows.corpus}: it has {', '.join(other.names[:8])}, the "
            f"other {', '.join(records.names[:8])}. Choose label sets with names in common."
        )
    fitted = records.take(np.flatnonzero(np.isin(records.folds, FITTED_FOLDS)))
    rows = JoinedRows(fitted.windows.rows, other.windows.rows, choice.name)
    windows = Windows(rows, extractor, f"{fitted.windows.corpus} and {choice.title}")
    border = len(fitted.windows.rows)
    windows.usable = np.concatenate([fitted.windows.usable, border + other.windows.usable])
    by_row = np.full(len(rows), OTHER_CORPUS_FOLD)
    by_row[fitted.windows.usable] = fitted.folds
    labels = np.zeros((len(rows), len(shared)), dtype=bool)
    for part, start in ((fitted, 0), (other, border)):
        labels[start + part.windows.usable] = part.labels[:, [part.names.index(name) for name in shared]]
    duplicates = leave_out_duplicates(windows, by_row, quiet)
    ids, patients = (rows.column(name) for name in ("record_id", "patient_id"))
    return ProbeRecords(
        windows=windows,
        names=shared,
        labels=labels[windows.usable],
        ids=ids.take(windows.usable).to_pylist(),
        patients=[None] * len(windows) if patients is None else patients.take(windows.usable).to_pylist(),
        folds=by_row[windows.usable],
        left_out=other.left_out,
        duplicates=other.duplicates + duplicates,
    )
