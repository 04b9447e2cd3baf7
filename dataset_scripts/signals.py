"""What the options of a corpus do to a record: crop, choose leads, resample, store as counts."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import KNOWN_LEADS, LIMB_RULES
from modeling_ecg_jepa.preparation_ecg_jepa import LONGEST_GAP_SECONDS, longest_gap
from modeling_ecg_jepa.resampling_ecg_jepa import resample

from .records import EcgRecord

#: The count that stands for a missing value.
MISSING = -(2**15)

#: Millivolts of one count, unless a record is larger than 32.767 mV.
MILLIVOLTS_A_COUNT = 0.001


def in_canonical_order(record: EcgRecord) -> EcgRecord:
    """The record with its leads in the order of the lead table: the standard 12, then the others."""
    return _with_rows(record, sorted(record.lead_names, key=KNOWN_LEADS.index))


def first_seconds(record: EcgRecord, seconds: float) -> EcgRecord:
    return dataclasses.replace(record, signal=record.signal[:, : round(seconds * record.sampling_rate)])


def with_leads(record: EcgRecord, leads: Sequence[str]) -> EcgRecord:
    """The record with exactly these leads, in this order.

    A limb lead that the record lacks is derived from two others; any other lead that it lacks is NaN throughout.

    Raises:
        EcgJepaRecordError: the record has none of them.
    """
    rows = dict(zip(record.lead_names, record.signal, strict=True))
    signal = np.full((len(leads), record.signal.shape[1]), np.nan, dtype=np.float32)
    found = 0
    for target, lead in zip(signal, leads, strict=True):
        rules = [{lead: 1.0}, *LIMB_RULES.get(lead, ())]
        rule = next((rule for rule in rules if rule.keys() <= rows.keys()), None)
        if rule is not None:
            target[:] = sum(weight * rows[source] for source, weight in rule.items())
            found += 1
    if not found:
        text = f"it has {', '.join(record.lead_names)}, and none of {', '.join(leads)} is or follows from these"
        raise EcgJepaRecordError("none of the leads", text)
    return dataclasses.replace(record, signal=signal, lead_names=tuple(leads))


def resampled(record: EcgRecord, sampling_rate: float) -> EcgRecord:
    """The record at another rate, by the feature extractor's own function (Fourier, in double precision).

    Gaps of up to 0.2 s are filled linearly first, and a finding says so; a lead without any value stays so.

    Raises:
        EcgJepaRecordError: a longer gap, or fewer than one sample would be left.
    """
    if sampling_rate == record.sampling_rate:
        return record
    samples = round(record.signal.shape[1] * sampling_rate / record.sampling_rate)
    if not samples:
        raise EcgJepaRecordError("too short", f"{record.signal.shape[1]} samples hold none at {sampling_rate:g} Hz")
    signal = record.signal.astype(np.float64)
    missing = np.isnan(signal)
    empty = missing.all(axis=1)
    findings = [
        _fill_gaps(signal[row], missing[row], record.lead_names[row], record.sampling_rate)
        for row in np.flatnonzero(missing.any(axis=1) & ~empty)
    ]
    signal[empty] = 0.0
    signal = resample(signal, samples)
    signal[empty] = np.nan
    return dataclasses.replace(
        record,
        signal=signal.astype(np.float32),
        sampling_rate=float(sampling_rate),
        findings=(*record.findings, *findings),
    )


def to_counts(signal: np.ndarray) -> tuple[np.ndarray, float]:
    """int16 counts (leads, samples) of a signal in mV, and the millivolts of one count: 0.001 where it fits.

    Exact for signals stored at 0.001 mV a count; else rounded to the nearest. NaN becomes -32768.

    Raises:
        EcgJepaRecordError: a value is infinite.
    """
    largest = float(np.nanmax(np.abs(signal), initial=0.0))
    if not np.isfinite(largest):
        raise EcgJepaRecordError("infinite value", f"{np.isinf(signal).sum()} values are infinite, no voltage")
    scale = MILLIVOLTS_A_COUNT
    while largest > 32767.49 * scale:
        scale *= 2
    counts = np.rint(signal / np.float32(scale))
    return np.where(np.isnan(counts), np.float32(MISSING), counts).astype(np.int16), scale


def _with_rows(record: EcgRecord, leads: Sequence[str]) -> EcgRecord:
    if tuple(leads) == record.lead_names:
        return record
    rows = [record.lead_names.index(lead) for lead in leads]
    return dataclasses.replace(record, signal=record.signal[rows], lead_names=tuple(leads))


def _fill_gaps(row: np.ndarray, missing: np.ndarray, lead: str, sampling_rate: float) -> str:
    """Fill the gaps of one lead in place; the finding."""
    start, length = longest_gap(missing)
    if length > LONGEST_GAP_SECONDS * sampling_rate + 1e-6:
        raise EcgJepaRecordError(
            "gap in the signal",
            f"{lead} lacks {length / sampling_rate:.3f} s from {start / sampling_rate:.3f} s on; gaps of up to "
            f"{LONGEST_GAP_SECONDS:g} s are filled when resampling. Keep the native rate, or leave the lead out",
        )
    places = np.arange(len(row))
    row[missing] = np.interp(places[missing], places[~missing], row[~missing])
    return f"{lead}: {missing.sum()} missing values were interpolated before resampling"
