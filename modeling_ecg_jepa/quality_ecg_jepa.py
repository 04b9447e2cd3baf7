"""What a person should know of a signal: the limb equations, and findings that alter nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

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
        leads (`Mapping[str, np.ndarray]`): (samples,) a lead, finite, by canonical name.
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


def signal_findings(signal: np.ndarray, leads: Sequence[str], sampling_rate: float) -> list[EcgFinding]:
    """Spikes, saturation, flat stretches and broken limb equations of one piece of a record.

    Args:
        signal (`np.ndarray`): (leads, samples) in mV at the record's own rate, live leads only, finite.
        leads (`Sequence[str]`): canonical names of the rows.
        sampling_rate (`float`): samples a second.
    """
    broken = limb_finding(dict(zip(leads, signal, strict=True)))
    findings = [broken] if broken else []
    for lead, row in zip(leads, signal, strict=True):
        findings += [dataclasses.replace(finding, lead=lead) for finding in _lead_findings(row, lead, sampling_rate)]
    return findings


def _lead_findings(row: np.ndarray, lead: str, sampling_rate: float) -> list[EcgFinding]:
    findings = []
    peak = row[np.argmax(np.abs(row))]
    if abs(peak) > SPIKE_MILLIVOLTS:
        text = f"{lead} reaches {peak:.2f} mV; a surface ECG stays within {SPIKE_MILLIVOLTS:g} mV."
        findings.append(EcgFinding("spike", text, value=float(peak)))
    for extreme in (row.max(), row.min()):
        clipped = _longest_run(row == extreme) / sampling_rate
        if clipped >= SATURATION_SECONDS and abs(extreme - np.median(row)) >= SATURATION_MILLIVOLTS:
            text = f"{lead} stays at {extreme:.2f} mV, its extreme, for {clipped:.2f} s: probably clipped."
            findings.append(EcgFinding("saturation", text, value=float(extreme)))
    flat = (_longest_run(row[1:] == row[:-1]) + 1) / sampling_rate
    if flat >= FLAT_SECONDS:
        text = f"{lead} does not change for {flat:.2f} s: padding, or an electrode that came off."
        findings.append(EcgFinding("flat", text, value=float(flat)))
    return findings


def _longest_run(holds: np.ndarray) -> int:
    """Length of the longest run of True in a (samples,) array."""
    breaks = np.flatnonzero(~holds)
    edges = np.concatenate(([-1], breaks, [holds.size]))
    return int(np.diff(edges).max()) - 1


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal))))


__all__ = [
    "EINTHOVEN_THRESHOLD",
    "GOLDBERGER_THRESHOLD",
    "EcgFinding",
    "einthoven_ratio",
    "goldberger_ratio",
    "limb_finding",
    "signal_findings",
]
