"""What a person should know of a signal: the limb equations, and findings that alter nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from .leads_ecg_jepa import Modality

#: Thresholds of `einthoven_ratio` and `goldberger_ratio` between honest and wrong order. Over 2,460 real 12-lead
#: records honest order reaches 0.016 and 0.145. Of the 719 other orders of the six limb leads, and of the 36 swaps of
#: a limb lead with a V lead, none passes both: wherever Einthoven's holds, Goldberger's ratio is 0.21 or more.
EINTHOVEN_THRESHOLD = 0.05
GOLDBERGER_THRESHOLD = 0.2

SPIKE_MILLIVOLTS = 10.0
FLAT_SECONDS = 1.0
#: Clipped by the recorder: at its own extreme, this far from its median, for this long. Flags 9 of 29,517 real leads.
SATURATION_MILLIVOLTS = 0.5
SATURATION_SECONDS = 0.05

FindingKind = Literal[
    "truncated",
    "missing_lead",
    "constant_lead",
    "empty_lead",
    "interpolated",
    "limb_equations",
    "saturation",
    "spike",
    "flat",
]


@dataclasses.dataclass(frozen=True)
class EcgFinding:
    """Something worth knowing about a record that does not stop its use.

    Args:
        kind (`str`): which sort of finding, the same word for all records.
        text (`str`): what a person reads, with values and units.
        record (`int`, *optional*): index of the record in its batch.
        window (`int`, *optional*): row of the output, where the finding is about one window of a record.
        lead (`str`, *optional*): canonical name of the lead, where it is about one lead.
        value (`float`, *optional*): the figure behind it: mV, seconds or a ratio, as the text says.
    """

    kind: FindingKind
    text: str
    record: int | None = None
    window: int | None = None
    lead: str | None = None
    value: float | None = None


def einthoven_ratio(lead_i: np.ndarray, lead_ii: np.ndarray, lead_iii: np.ndarray) -> float:
    """How far II = I + III is from holding: RMS(II - I - III) over the root of the sum of the three squared RMS.

    Each lead is (samples,); NaN where all three are zero. Blind to I and III exchanged.
    """
    size = np.sqrt(_rms(lead_i) ** 2 + _rms(lead_ii) ** 2 + _rms(lead_iii) ** 2)
    return _rms(lead_ii - lead_i - lead_iii) / size if size > 0 else np.nan


def goldberger_ratio(
    lead_i: np.ndarray, lead_ii: np.ndarray, avr: np.ndarray, avl: np.ndarray, avf: np.ndarray
) -> float:
    """How far aVR = -(I + II) / 2, aVL = I - II / 2 and aVF = II - I / 2 are from holding: the largest RMS of the three
    differences over the mean RMS of aVR, aVL and aVF.

    Each lead is (samples,); NaN where the three are zero. Blind to the order of the V leads.
    """
    size = np.mean((_rms(avr), _rms(avl), _rms(avf)))
    error = max(_rms(avr + (lead_i + lead_ii) / 2), _rms(avl - lead_i + lead_ii / 2), _rms(avf - lead_ii + lead_i / 2))
    return float(error / size) if size > 0 else np.nan


def limb_finding(leads: Mapping[str, np.ndarray]) -> EcgFinding | None:
    """The first limb equation that the leads break; None where all that can be checked hold.

    Args:
        leads (`Mapping[str, np.ndarray]`): (samples,) a lead by canonical name; NaN is a missing value.
    """
    equations = (
        ("Einthoven's equation II = I + III", einthoven_ratio, EINTHOVEN_THRESHOLD, ("I", "II", "III")),
        (
            "Goldberger's equations of aVR, aVL, aVF in I and II",
            goldberger_ratio,
            GOLDBERGER_THRESHOLD,
            ("I", "II", "aVR", "aVL", "aVF"),
        ),
    )
    for name, ratio_of, threshold, needed in equations:
        if not leads.keys() >= set(needed):
            continue
        ratio = ratio_of(*(leads[lead] for lead in needed))
        if not ratio <= threshold:  # also where the leads are zero and nothing can be told
            text = f"{name} does not hold (relative error {ratio:.3f}, at most {threshold})"
            return EcgFinding("limb_equations", text, value=ratio)
    return None


def signal_findings(
    signal: np.ndarray, leads: Sequence[str], sampling_rate: float, modality: Modality = "ecg"
) -> list[EcgFinding]:
    """Spikes, saturation, flat stretches and broken limb equations of one piece of a record; of another signal than an
    ECG, whose size nobody knows, flat stretches only.

    Args:
        signal (`np.ndarray`): (leads, samples) in mV at the record's own rate, live leads only; NaN is a missing value.
        leads (`Sequence[str]`): canonical names of the rows.
        sampling_rate (`float`): samples a second.
    """
    is_ecg = modality == "ecg"
    broken = limb_finding(dict(zip(leads, signal, strict=True))) if is_ecg else None
    findings = [broken] if broken else []
    # A flat stretch holds a whole block of half its least length, so only leads with a flat block are searched.
    starts = np.arange(0, signal.shape[1], max(1, int(FLAT_SECONDS * sampling_rate) // 2))
    lows, highs = np.fmin.reduceat(signal, starts, axis=1), np.fmax.reduceat(signal, starts, axis=1)
    has_flat_block = (lows == highs).any(axis=1)
    extremes = zip(np.fmin.reduce(lows, axis=1), np.fmax.reduce(highs, axis=1), strict=True)
    for lead, row, (low, high), may_be_flat in zip(leads, signal, extremes, has_flat_block, strict=True):
        findings += _spikes(row, lead, low, high) if is_ecg else []
        findings += _saturation(row, lead, (high, low), sampling_rate) if is_ecg else []
        findings += _flat(row, lead, sampling_rate) if may_be_flat else []
    return findings


def _flat(row: np.ndarray, lead: str, sampling_rate: float) -> list[EcgFinding]:
    steady = (_longest_run(row[1:] == row[:-1]) + 1) / sampling_rate
    if steady < FLAT_SECONDS:
        return []
    text = f"{lead} does not change for {steady:.2f} s: padding, or an electrode that came off."
    return [EcgFinding("flat", text, lead=lead, value=float(steady))]


def _spikes(row: np.ndarray, lead: str, low: float, high: float) -> list[EcgFinding]:
    if max(-low, high) <= SPIKE_MILLIVOLTS:
        return []
    peak = row[np.nanargmax(np.abs(row))]
    text = f"{lead} reaches {peak:.2f} mV; a surface ECG stays within {SPIKE_MILLIVOLTS:g} mV."
    return [EcgFinding("spike", text, lead=lead, value=float(peak))]


def _saturation(row: np.ndarray, lead: str, extremes: Sequence[float], sampling_rate: float) -> list[EcgFinding]:
    findings = []
    for extreme in extremes:
        at_extreme = row == extreme
        if np.count_nonzero(at_extreme) < SATURATION_SECONDS * sampling_rate:
            continue
        clipped = _longest_run(at_extreme) / sampling_rate
        if clipped >= SATURATION_SECONDS and abs(extreme - np.nanmedian(row)) >= SATURATION_MILLIVOLTS:
            text = f"{lead} stays at {extreme:.2f} mV, its extreme, for {clipped:.2f} s: probably clipped."
            findings.append(EcgFinding("saturation", text, lead=lead, value=float(extreme)))
    return findings


def _longest_run(holds: np.ndarray) -> int:
    """Length of the longest run of True in a (samples,) array."""
    breaks = np.flatnonzero(~holds)
    if not breaks.size:
        return holds.size
    between = (breaks[1:] - breaks[:-1]).max(initial=1) - 1
    return int(max(breaks[0], between, holds.size - 1 - breaks[-1]))


def _rms(signal: np.ndarray) -> float:
    """Root mean square of a (samples,) array without its missing values."""
    size = signal.size
    power = signal @ signal  # many times faster than the mean of the squares
    if np.isnan(power):
        signal = signal[~np.isnan(signal)]
        size, power = signal.size, signal @ signal
    return float(np.sqrt(power / size)) if size else np.nan


__all__ = [
    "EINTHOVEN_THRESHOLD",
    "GOLDBERGER_THRESHOLD",
    "EcgFinding",
    "einthoven_ratio",
    "goldberger_ratio",
    "limb_finding",
    "signal_findings",
]
