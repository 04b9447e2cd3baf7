"""Prepared windows, ready for the model: rows of a corpus, all of one shape, read straight from Arrow or Parquet.

A prepared row holds the model's leads at the model's rate, so all that the extractor would still do is to turn counts
into millivolts and to mask leads without a signal. `Windows` does that for a whole batch at once, with the extractor's
result; the few rows where more is to be done (a gap, a limb lead to derive) go through the extractor itself.
"""

import bisect
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from dataset_scripts.skipped import SkippedRecord, skipped_by
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaError, EcgJepaFeatureExtractor
from modeling_ecg_jepa.collator_ecg_jepa import MISSING_COUNT
from modeling_ecg_jepa.leads_ecg_jepa import LIMB_RULES
from modeling_ecg_jepa.units_ecg_jepa import PLAUSIBLE_MILLIVOLTS, median_deviation

from .data import Row, as_it_is

#: Rows of Parquet files held in memory by a process: 164 MB of 8 leads x 2,500.
BUFFER_ROWS = 4096

#: Places of a corpus that a step draws from at once, in each of which rows are shuffled among a share of those.
LANES_A_STEP = 8

#: Rows checked together.
_BLOCK = 256


class PreparedRows(Protocol):
    """Rows of one shape in some file format."""

    def __len__(self) -> int: ...

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts (rows, leads x samples) int16 and the millivolts of a count (rows,) float32."""

    def column(self, name: str) -> pa.ChunkedArray | None:
        """A small column of all rows; None if there is none of this name."""

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """All places in random order, as far apart as this format can be read quickly."""

    #: Whether neighbours are read together, so that workers had better share the rows out among them.
    read_in_groups: bool

    @property
    def schema(self) -> pa.Schema: ...


class ArrowRows:
    """Rows of a `datasets` dataset, which lie in memory-mapped files: read without a copy, in any order."""

    read_in_groups = False

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset if dataset._indices is None else dataset.flatten_indices()
        self._parts: list[tuple[np.ndarray, np.ndarray]] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def schema(self) -> pa.Schema:
        return self.dataset.data.schema

    def column(self, name: str) -> pa.ChunkedArray | None:
        return self.dataset.data.column(name) if name in self.dataset.column_names else None

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._parts is None:
            table = self.dataset.data.table.select(["signal", "signal_scale"])
            self._parts = [_arrays(batch) for batch in table.to_batches()]
            self._starts = np.cumsum([0, *(len(scales) for _, scales in self._parts)]).tolist()
        counts = np.empty((len(places), self.schema.field("signal").type.list_size), dtype=np.int16)
        scales = np.empty(len(places), dtype=np.float32)
        for row, place in enumerate(places.tolist()):
            part = bisect.bisect_right(self._starts, place) - 1
            in_part = place - self._starts[part]
            counts[row], scales[row] = self._parts[part][0][in_part], self._parts[part][1][in_part]
        return counts, scales

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(len(self))

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "_parts": None}  # views of a mapped file do not go to another process


class ParquetRows:
    """Rows of Parquet files, read a row group at a time; nothing is converted or kept but `BUFFER_ROWS` rows."""

    read_in_groups = True

    def __init__(self, files: Sequence[Path]):
        self.files = list(files)
        self.schema = pq.read_schema(self.files[0])
        self.groups: list[tuple[Path, int, int]] = []  # file, row group, rows
        for file in self.files:
            metadata = pq.read_metadata(file)
            self.groups += [
                (file, group, metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)
            ]
        self.starts = np.cumsum([0, *(rows for _, _, rows in self.groups)])
        self._held: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def column(self, name: str) -> pa.ChunkedArray | None:
        if name not in self.schema.names:
            return None
        return pa.concat_tables([pq.read_table(file, columns=[name]) for file in self.files]).column(0)

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = np.empty((len(places), self.schema.field("signal").type.list_size), dtype=np.int16)
        scales = np.empty(len(places), dtype=np.float32)
        groups = np.searchsorted(self.starts, places, side="right") - 1
        for group, (group_counts, group_scales) in self._hold(np.unique(groups).tolist()).items():
            rows = np.flatnonzero(groups == group)
            in_group = places[rows] - self.starts[group]
            counts[rows], scales[rows] = group_counts[in_group], group_scales[in_group]
        return counts, scales

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Row groups of all files in random order, then the rows of as many as a lane's share of the buffer, mixed."""
        chunks: list[list[np.ndarray]] = []
        room = 0
        for group in rng.permutation(len(self.groups)):
            rows = self.groups[group][2]
            if not chunks or rows > room:
                chunks.append([])
                room = BUFFER_ROWS // LANES_A_STEP
            chunks[-1].append(np.arange(self.starts[group], self.starts[group + 1]))
            room -= rows
        return np.concatenate([rng.permutation(np.concatenate(chunk)) for chunk in chunks])

    def _hold(self, wanted: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """These row groups, of which those not held yet are read, all at once where no other process does the same."""
        missing = [group for group in wanted if group not in self._held]
        threads = 1 if get_worker_info() else min(len(missing), os.cpu_count() or 1)
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            self._held.update(zip(missing, pool.map(self._load, missing), strict=True))
        for group in wanted:
            self._held.move_to_end(group)
        groups = {group: self._held[group] for group in wanted}
        while len(self._held) > 1 and sum(self.groups[held][2] for held in self._held) > BUFFER_ROWS:
            self._held.popitem(last=False)
        return groups

    def _load(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        file, place, _ = self.groups[group]
        table = pq.ParquetFile(file).read_row_group(place, columns=["signal", "signal_scale"], use_threads=False)
        return _arrays(table.combine_chunks().to_batches()[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict()}


def _arrays(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """`signal` (rows, values) and `signal_scale` (rows,) as views of Arrow's own buffers."""
    counts = batch.column("signal").flatten().to_numpy(zero_copy_only=True)
    return counts.reshape(batch.num_rows, -1), batch.column("signal_scale").to_numpy(zero_copy_only=True)


class Windows(Dataset):
    """Prepared rows as the model expects them.

    Args:
        rows: with leads, rate and length of the extractor's grid.
        extractor: the model's.
        corpus: its name, for messages.

    Raises:
        EcgJepaConfigError: rows of another shape.
    """

    def __init__(self, rows: PreparedRows, extractor: EcgJepaFeatureExtractor, corpus: str = "prepared rows"):
        self.rows, self.extractor, self.corpus = rows, extractor, corpus
        self.shape = len(extractor.leads), extractor.num_patches * extractor.patch_size
        self.derivable = np.array(
            [any(rule.keys() <= set(extractor.leads) for rule in LIMB_RULES.get(lead, ())) for lead in extractor.leads]
        )
        check_shape(self)
        self.usable = np.arange(len(rows))

    def __len__(self) -> int:
        return len(self.usable)

    def __getitem__(self, place: int) -> Row:
        return {name: array[0].numpy() for name, array in self.__getitems__([place]).items()}

    def __getitems__(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch, as the collator would make it of these rows; so the loader's `collate_fn` is `as_it_is`."""
        counts, scales = self.rows.read(self.usable[np.asarray(places)])
        return {name: torch.from_numpy(array) for name, array in self.ready(counts, scales).items()}

    def ready(self, counts: np.ndarray, scales: np.ndarray) -> Row:
        """Counts (rows, leads x samples) and millivolts a count (rows,) as arrays with a leading axis of rows.

        Raises:
            EcgJepaInputError: a row that the extractor refuses; after `leave_out_refused` there is none.
        """
        counts = counts.reshape(-1, *self.shape)
        lowest = counts.min(axis=-1)
        dead = lowest == counts.max(axis=-1)  # constant, or missing throughout
        values = counts * scales[:, None, None]
        lead_mask = ~dead
        if dead.any() or (lowest == MISSING_COUNT).any():
            values[dead] = 0.0
            gaps = (lowest == MISSING_COUNT) & ~dead
            for row in np.flatnonzero((gaps | dead & self.derivable).any(axis=1) | dead.all(axis=1)):
                features = self.extract(counts[row], scales[row])
                values[row], lead_mask[row] = features["input_values"], features["lead_mask"]
        attention_mask = np.ones((len(counts), self.extractor.num_patches), dtype=bool)
        return {"input_values": values, "lead_mask": lead_mask, "attention_mask": attention_mask}

    def extract(self, counts: np.ndarray, scale: float) -> Row:
        """One row (leads, samples) through the extractor itself."""
        signal = np.where(counts == MISSING_COUNT, np.nan, counts * float(scale))
        extractor = self.extractor
        features = extractor(
            signal, sampling_rate=extractor.sampling_rate, leads=extractor.leads, unit="mV", return_tensors="np"
        )
        return {name: array[0] for name, array in features.items()}

    def record_id(self, place: int) -> str:
        """The id of a row; its number where there is none."""
        ids = self.rows.column("record_id")
        return str(place) if ids is None else str(ids[place].as_py())

    def name(self, place: int) -> str:
        return f"{self.corpus} {self.record_id(int(self.usable[place]))}"

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Places 0 .. len - 1 in random order."""
        number = np.full(len(self.rows), -1)
        number[self.usable] = np.arange(len(self.usable))
        order = number[self.rows.order(rng)]
        return order[order >= 0]


def check_shape(windows: Windows) -> None:
    """
    Raises:
        EcgJepaConfigError: rows of other leads, another rate or another length than the model's; how to prepare such.
    """
    extractor, rows = windows.extractor, windows.rows
    leads, samples = windows.shape
    needed = {"signal", "signal_scale", "lead_names", "sampling_rate"}
    text = f"it has no column {', '.join(sorted(needed - set(rows.schema.names)))}"
    if needed <= set(rows.schema.names):
        text = _difference(rows, extractor.leads, leads * samples, extractor.sampling_rate)
    if text:
        remedy = (
            f"Prepare them with ecg-jepa prepare --leads {','.join(extractor.leads)} --sampling_rate "
            f"{extractor.sampling_rate} --seconds {samples / extractor.sampling_rate:g}."
        )
        if extractor.modality == "other":
            remedy = 'Make them with the model\'s extractor, as the README shows under "Other signals".'
        raise EcgJepaConfigError(f"{windows.corpus} does not hold prepared windows of this model: {text}. {remedy}")


def _difference(rows: PreparedRows, leads: Sequence[str], values: int, sampling_rate: float) -> str | None:
    kind = rows.schema.field("signal").type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.int16():
        return f"its signals are {kind}, not of one length"
    rates = set(rows.column("sampling_rate").unique().to_pylist())
    if rates - {sampling_rate}:
        return f"sampled at {', '.join(f'{rate:g}' for rate in sorted(rates))} Hz"
    names = rows.column("lead_names").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(names) != len(rows) * len(leads) or (names.reshape(-1, len(leads)) != np.array(leads)).any():
        return f"its leads are not {', '.join(leads)}"
    return None if kind.list_size == values else f"its signals have {kind.list_size} values, not {values}"


# Before the start: every row once -------------------------------------------------------------------------------------


def leave_out_refused(windows: Windows, *, num_workers: int = 0, quiet: bool = False) -> list[SkippedRecord]:
    """Drop from `windows.usable` the rows that the extractor refuses, so that training never meets one; and say why.
    Other rows are not read."""
    loader = DataLoader(_Refusals(windows), batch_size=None, collate_fn=as_it_is, num_workers=num_workers)
    refused = []
    with tqdm(total=len(windows), desc=f"checking {windows.corpus}", disable=quiet) as bar:
        for checked, pairs in loader:
            refused += pairs
            bar.update(checked)
    if refused:
        windows.usable = np.setdiff1d(windows.usable, [place for place, _ in refused])
    return [skipped_by(error, f"{windows.corpus} {windows.record_id(place)}") for place, error in refused]


class _Refusals(Dataset):
    """By blocks: how many rows, and the places of those that the extractor refuses, with its errors."""

    def __init__(self, windows: Windows):
        self.windows = windows

    def __len__(self) -> int:
        return -(-len(self.windows) // _BLOCK)

    def __getitem__(self, block: int) -> tuple[int, list[tuple[int, EcgJepaError]]]:
        places = self.windows.usable[block * _BLOCK : (block + 1) * _BLOCK]
        return len(places), list(self._refused(places, *self.windows.rows.read(places)))

    def _refused(
        self, places: np.ndarray, counts: np.ndarray, scales: np.ndarray
    ) -> Iterator[tuple[int, EcgJepaError]]:
        for place, signal, scale in zip(places, counts.reshape(-1, *self.windows.shape), scales, strict=True):
            if looks_sound(signal, scale):
                continue
            try:
                self.windows.extract(signal, scale)
            except EcgJepaError as error:
                yield int(place), error


def looks_sound(counts: np.ndarray, scale: float) -> bool:
    """Whether the extractor is sure to take a row (leads, samples): no lead without a signal, no gap, a plausible size.

    Quick, for every row once; where this cannot tell, the extractor is asked.
    """
    lowest = counts.min(axis=-1)
    if (lowest == counts.max(axis=-1)).any() or (lowest == MISSING_COUNT).any():
        return False
    smallest, largest = PLAUSIBLE_MILLIVOLTS
    return smallest < median_deviation(counts.astype(np.int32)) * scale < largest
