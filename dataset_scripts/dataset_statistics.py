"""What a split of a prepared corpus holds: records, patients, labels, ages, lengths; read from its Parquet shards."""

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc
import pyarrow.parquet as pq


@dataclass
class SplitStatistics:
    """Counts of one split.

    Attributes:
        record_ids: of all rows, in their order.
        without_patient: rows whose patient is not known.
        patients: the ids of the patients that are known.
        labels: records of each class.
        without_label: records in which no class holds.
        ages, sexes: of the same records, in their order; None where unknown.
        seconds: length of each record.
        rates, leads: records of each sampling rate and number of leads.
    """

    record_ids: list[str] = field(default_factory=list)
    without_patient: int = 0
    patients: set[str] = field(default_factory=set)
    labels: collections.Counter[str] = field(default_factory=collections.Counter)
    without_label: int = 0
    ages: list[float | None] = field(default_factory=list)
    sexes: list[str | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rates: collections.Counter[float] = field(default_factory=collections.Counter)
    leads: collections.Counter[int] = field(default_factory=collections.Counter)

    @property
    def records(self) -> int:
        return len(self.record_ids)


def split_statistics(files: Sequence[Path], features: datasets.Features) -> SplitStatistics:
    """Count over the shards of a split, some rows at a time."""
    statistics = SplitStatistics()
    label = getattr(features["labels"], "feature", features["labels"])
    names = label.names if isinstance(label, datasets.ClassLabel) else None
    for row, values in _rows(files):
        statistics.record_ids.append(row["record_id"])
        if row["patient_id"] is None:
            statistics.without_patient += 1
        else:
            statistics.patients.add(row["patient_id"])
        labels = [names[place] for place in row["labels"]] if names else row["labels"]
        statistics.labels.update(set(labels))
        statistics.without_label += not labels
        statistics.ages.append(row["age"])
        statistics.sexes.append(row["sex"])
        leads = len(row["lead_names"])
        statistics.leads[leads] += 1
        statistics.rates[row["sampling_rate"]] += 1
        statistics.seconds.append(values / leads / row["sampling_rate"])
    return statistics


def _rows(files: Sequence[Path]) -> Iterator[tuple[dict[str, Any], int]]:
    """Each row without its signal, and the number of values of the signal."""
    columns = ["record_id", "patient_id", "labels", "age", "sex", "lead_names", "sampling_rate"]
    for file in files:
        shard = pq.ParquetFile(file)
        for group in range(shard.num_row_groups):  # not iter_batches, which holds the whole file in the end
            rows = shard.read_row_group(group, columns=[*columns, "signal"], use_threads=False)
            values = pc.list_value_length(rows.column("signal")).to_pylist()
            yield from zip(rows.select(columns).to_pylist(), values, strict=True)
