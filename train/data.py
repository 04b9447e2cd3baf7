"""What pretraining sees: records, synthetic or of WFDB folders, through the one extractor, all checked at the start."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import skip_first_batches
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from dataset_scripts.records import find_records, read_record
from dataset_scripts.skipped import SkippedRecord, list_skipped, skipped_by
from dataset_scripts.synthesis import SyntheticTruth, synthesize_record
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaError, EcgJepaFeatureExtractor

Row = dict[str, np.ndarray]
"""One record as the extractor gives it: `input_values` (leads, samples), `lead_mask` (leads,), `attention_mask`
(patches,)."""


class SyntheticRecords(Dataset):
    """Records first .. first + count - 1 of the synthetic corpus `seed`, made when asked for, the same every time."""

    def __init__(self, extractor: EcgJepaFeatureExtractor, seed: int, count: int, first: int = 0):
        self.extractor, self.seed, self.count, self.first = extractor, seed, count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Row:
        return self.with_truth(place)[0]

    def with_truth(self, place: int) -> tuple[Row, SyntheticTruth]:
        """A record and what it was made with."""
        record, truth = synthesize_record(self.seed, self.first + place)
        return extract(self.extractor, record), truth

    def name(self, place: int) -> str:
        return f"synthetic-{self.seed}-{self.first + place}"


class WfdbRecords(Dataset):
    """The WFDB records under some folders, read when asked for; of each the first 10 s."""

    def __init__(self, extractor: EcgJepaFeatureExtractor, folders: Sequence[str | Path]):
        self.extractor = extractor
        self.paths = [path for folder in folders for path in find_records(folder)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Row:
        return extract(self.extractor, read_record(self.paths[place]))

    def name(self, place: int) -> str:
        return str(self.paths[place])


def extract(extractor: EcgJepaFeatureExtractor, record) -> Row:
    """An `EcgRecord` as the model expects it."""
    features = extractor(
        record.signal, sampling_rate=record.sampling_rate, leads=list(record.lead_names), return_tensors="np"
    )
    return {name: array[0] for name, array in features.items()}


class MemoryRecords(Dataset):
    """Rows that are held in memory, and how each is called."""

    def __init__(self, rows: list[Row], names: Sequence[str]):
        self.rows, self.names = rows, names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Row:
        return self.rows[place]

    def name(self, place: int) -> str:
        return self.names[place]


class UsableRecords(Subset):
    """The records of another dataset that can be used, read when asked for."""

    def name(self, place: int) -> str:
        return self.dataset.name(self.indices[place])


# Before the start: every record once ----------------------------------------------------------------------------------


class _Checked(Dataset):
    """The rows of another dataset, or why there is none."""

    def __init__(self, source: Dataset):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: int) -> Row | SkippedRecord:
        try:
            return self.source[place]
        except EcgJepaError as error:
            return skipped_by(error, self.source.name(place))


def prepare(
    source: Dataset, *, memory_gb: float, num_workers: int = 0, title: str = "records", quiet: bool = False
) -> tuple[Dataset, list[SkippedRecord]]:
    """Read every record once: those that can be used, in memory if they fit into `memory_gb`, and those left out.

    So that training meets only records that it can read, their number is known, and their order depends on the seed
    alone. What does not fit is read again, by the loader's processes, in every epoch.

    Raises:
        EcgJepaConfigError: no record can be used.
    """
    rows: list[Row] = []
    usable, skipped, budget = [], [], memory_gb * 1e9
    for place, row in enumerate(tqdm(_walk(source, num_workers), total=len(source), desc=title, disable=quiet)):
        if isinstance(row, SkippedRecord):
            skipped.append(row)
            continue
        usable.append(place)
        budget -= sum(array.nbytes for array in row.values())
        if budget >= 0:
            rows.append(row)
        else:
            rows.clear()
    if not usable:
        listed = "\n".join(list_skipped(skipped, most=10))
        raise EcgJepaConfigError(f"None of {len(source):,} records can be used.\n{listed}")
    if budget < 0:
        return UsableRecords(source, usable), skipped
    return MemoryRecords(rows, [source.name(place) for place in usable]), skipped


def _walk(source: Dataset, num_workers: int) -> Iterator[Row | SkippedRecord]:
    return iter(DataLoader(_Checked(source), batch_size=None, collate_fn=as_it_is, num_workers=num_workers))


def as_it_is(rows: Any) -> Any:
    """What a loader collates that gives single rows, or whose dataset makes whole batches."""
    return rows


# During training ------------------------------------------------------------------------------------------------------


def batches(loader: DataLoader, parts: int = 1, first_step: int = 0) -> Iterator[dict]:
    """Batches without end, `parts` a step, every epoch in another order, from a step on as if those before had been
    taken. An epoch has whole steps only: what is left of it is passed over."""
    epoch, passed = _place(loader, parts, first_step)
    while True:
        loader.set_epoch(epoch)
        rest = skip_first_batches(loader, passed) if passed else loader
        for number, batch in enumerate(rest, start=passed):
            if number < _batches_an_epoch(loader, parts):
                yield batch
        epoch, passed = epoch + 1, 0


def batches_of_step(loader: DataLoader, parts: int, step: int) -> list[list[int]]:
    """The places in the dataset of a step's records, a list a batch of this process; nothing is read."""
    epoch, passed = _place(loader, parts, step)
    loader.set_epoch(epoch)
    return list(islice(iter(loader.batch_sampler), passed, passed + parts))


def _place(loader: DataLoader, parts: int, step: int) -> tuple[int, int]:
    """The epoch of a step, and how many batches of it come before."""
    return divmod(step * parts, _batches_an_epoch(loader, parts))


def _batches_an_epoch(loader: DataLoader, parts: int) -> int:
    return len(loader) // parts * parts
