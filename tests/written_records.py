"""Small WFDB records, written by the wfdb library for the tests of corpora."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import wfdb

from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

LEADS = STANDARD_12_LEADS


def write_record(
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    seconds: float = 2.0,
    sampling_rate: float = 100.0,
    leads: Sequence[str] = LEADS,
    comments: Sequence[str] = (),
) -> np.ndarray:
    """Write smoothed noise of about 1 mV; the (leads, samples) counts of 0.001 mV, of which -32768 is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = round(seconds * sampling_rate)
    noise = np.random.default_rng(seed).normal(size=(len(leads), samples)).cumsum(axis=1)
    counts = np.rint(300 * (noise - noise.mean(axis=1, keepdims=True))).clip(-5000, 5000).astype(np.int64)
    write_counts(folder, name, counts, sampling_rate=sampling_rate, leads=leads, comments=comments)
    return counts


def write_counts(
    folder: Path,
    name: str,
    counts: np.ndarray,
    *,
    sampling_rate: float = 100.0,
    leads: Sequence[str] = LEADS,
    comments: Sequence[str] = (),
    gain: float = 1000.0,
) -> None:
    """Write (leads, samples) counts as they are."""
    wfdb.wrsamp(
        name,
        fs=sampling_rate,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        d_signal=np.ascontiguousarray(counts.T),
        fmt=["16"] * len(leads),
        adc_gain=[gain] * len(leads),
        baseline=[0] * len(leads),
        comments=list(comments),
        write_dir=str(folder),
    )
