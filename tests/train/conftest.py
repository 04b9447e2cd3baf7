"""Prepared windows for the tests: synthetic records as a corpus would write them."""

from collections.abc import Callable

import datasets
import numpy as np
import pytest

from dataset_scripts.corpus import row_features
from dataset_scripts.signals import to_counts, with_leads
from dataset_scripts.synthesis import synthesize_record
from modeling_ecg_jepa.leads_ecg_jepa import ECG_JEPA_LEADS

MakeRows = Callable[..., datasets.Dataset]


def windows_of(
    count: int,
    leads: tuple[str, ...] = tuple(ECG_JEPA_LEADS),
    sampling_rate: float = 250,
    seed: int = 0,
    folds: list[int] | None = None,
    prefix: str = "record",
    change: Callable[[int, np.ndarray], None] = lambda place, signal: None,
) -> datasets.Dataset:
    """Windows of 10 s; `change` alters the signal (leads, samples) of a place, in mV, before it becomes counts."""
    rows = []
    for place in range(count):
        record = with_leads(synthesize_record(seed, place, sampling_rate)[0], leads)
        change(place, record.signal)
        counts, scale = to_counts(record.signal)
        rows.append({"record_id": f"{prefix}{place:05d}", "signal": counts.ravel(), "signal_scale": scale})
        rows[-1] |= {"lead_names": list(leads), "sampling_rate": sampling_rate, "fold": folds and folds[place]}
    features = row_features((), {}, len(leads) * round(10 * sampling_rate))
    columns = {name: [row.get(name) for row in rows] for name in features}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(scope="session")
def make_rows() -> MakeRows:
    return windows_of
