"""What is measured on an ECG and by which rule, from the boundaries of its waves or from how a synthetic one was made.

A *beat* of a lead is a marked QRS complex with the P wave marked just before it and the T wave marked just after it,
if there are such. All marked beats count, extrasystoles too, and no others: LUDB's cardiologists left the first and the
last of a record unmarked. Every interval is taken within a beat of one lead, both of its marks in this lead, then the
median over the lead's beats, then the median over leads. A lead counts if at least half of its QRS complexes have both
marks, and a record if at least half of its leads do: so a stray P wave in atrial fibrillation makes no PR interval.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dataset_scripts.ludb import Wave
from modeling_ecg_jepa.collator_ecg_jepa import MISSING_COUNT


class Measurement(NamedTuple):
    """Something measured: its name in tables, its unit, whether 360 of it are 0, and the rule, in words."""

    title: str
    unit: str
    rule: str
    circular: bool = False


#: In the order of tables. Intervals after Surawicz et al., J Am Coll Cardiol 53:976 (2009); leads one at a time.
MEASUREMENTS = {
    "heart_rate": Measurement(
        "heart rate", "bpm", "60 over the mean distance of neighbouring QRS peaks of a lead in s; median over leads"
    ),
    "pr_interval": Measurement(
        "PR interval", "ms", "onset of P to onset of QRS; median over a lead's beats, then over leads"
    ),
    "qrs_duration": Measurement(
        "QRS duration", "ms", "onset to end of QRS in a lead; median over its beats, then over leads"
    ),
    "qt_interval": Measurement(
        "QT interval", "ms", "onset of QRS to end of T, uncorrected; median over a lead's beats, then over leads"
    ),
    "axis": Measurement(
        "QRS axis",
        "degrees",
        "direction of (I, aVF x 2 / sqrt 3), each the net area between a lead's own onset and end of QRS above its "
        "baseline, median over beats; 0 points left, 90 down; regressed as sine and cosine",
        circular=True,
    ),
    "t_amplitude": Measurement(
        "T amplitude in II", "mV", "lead II at the marked peak of T above the baseline; median over beats"
    ),
}

#: Before the onset of QRS, in s; its median is the baseline of a beat.
BASELINE_SECONDS = 0.02
BASELINE_RULE = "The baseline of a beat is the median of its lead in the 20 ms before the onset of QRS."

Truth = dict[str, float | str]
"""Of each measurement its value in its unit, or in words why it has none."""


class Beat(NamedTuple):
    p: Wave | None
    qrs: Wave
    t: Wave | None


def beats_of(waves: Sequence[Wave]) -> list[Beat]:
    """The beats of one lead, whose waves are in the order of time."""
    padded = [None, *waves, None]
    return [
        Beat(before if before and before.kind == "P" else None, wave, after if after and after.kind == "T" else None)
        for before, wave, after in zip(padded, padded[1:], padded[2:], strict=False)
        if wave is not None and wave.kind == "QRS"
    ]


def measure(waves: Mapping[str, Sequence[Wave]], signal: Mapping[str, np.ndarray], sampling_rate: float) -> Truth:
    """All measurements of a record.

    Args:
        waves: of each lead, in order, as samples of the signal.
        signal: of each lead, in mV; leads without waves are not looked at.
        sampling_rate: in Hz.
    """
    beats = {lead: found for lead, of_lead in waves.items() if (found := beats_of(of_lead))}
    if not beats:
        return dict.fromkeys(MEASUREMENTS, "no QRS complex is marked")
    milliseconds = 1000 / sampling_rate
    return {
        "heart_rate": _heart_rate(beats, sampling_rate),
        "pr_interval": _interval(beats, _pr, milliseconds, "P is not marked before half of the QRS complexes"),
        "qrs_duration": _interval(beats, _qrs, milliseconds, "onset and end of QRS are not marked in half of them"),
        "qt_interval": _interval(beats, _qt, milliseconds, "the end of T is not marked after half of the QRS"),
        "axis": _axis(beats, signal, sampling_rate),
        "t_amplitude": _t_amplitude(beats, signal, sampling_rate),
    }


def _heart_rate(beats: Mapping[str, Sequence[Beat]], sampling_rate: float) -> float | str:
    rates = [
        60 * sampling_rate * (len(of_lead) - 1) / (of_lead[-1].qrs.peak - of_lead[0].qrs.peak)
        for of_lead in beats.values()
        if of_lead[-1].qrs.peak > of_lead[0].qrs.peak
    ]
    return float(np.median(rates)) if rates else "fewer than two QRS complexes are marked"


def _pr(beat: Beat) -> int | None:
    return _between(beat.p and beat.p.onset, beat.qrs.onset)


def _qrs(beat: Beat) -> int | None:
    return _between(beat.qrs.onset, beat.qrs.end)


def _qt(beat: Beat) -> int | None:
    return _between(beat.qrs.onset, beat.t and beat.t.end)


def _between(start: int | None, end: int | None) -> int | None:
    return None if start is None or end is None else end - start


def _interval(beats: Mapping[str, Sequence[Beat]], interval, milliseconds: float, undefined: str) -> float | str:
    of_leads = []
    for of_lead in beats.values():
        found = [samples for beat in of_lead if (samples := interval(beat)) is not None]
        if 2 * len(found) >= len(of_lead):
            of_leads.append(float(np.median(found)) * milliseconds)
    return float(np.median(of_leads)) if of_leads and 2 * len(of_leads) >= len(beats) else undefined


def _axis(beats: Mapping[str, Sequence[Beat]], signal: Mapping[str, np.ndarray], sampling_rate: float) -> float | str:
    areas = {}
    for lead in ("I", "aVF"):
        found = [
            (signal[lead][beat.qrs.onset : beat.qrs.end + 1] - baseline).sum()
            for beat, baseline in _above_baseline(lead, beats, signal, sampling_rate)
            if beat.qrs.end is not None
        ]
        if not found:
            return f"no QRS complex with onset and end in lead {lead}"
        areas[lead] = float(np.median(found))
    return math.degrees(math.atan2(areas["aVF"] * 2 / math.sqrt(3), areas["I"]))


def _t_amplitude(
    beats: Mapping[str, Sequence[Beat]], signal: Mapping[str, np.ndarray], sampling_rate: float
) -> float | str:
    found = [
        signal["II"][beat.t.peak] - baseline
        for beat, baseline in _above_baseline("II", beats, signal, sampling_rate)
        if beat.t is not None
    ]
    return float(np.median(found)) if found else "no T wave after a QRS complex with an onset in lead II"


def _above_baseline(
    lead: str, beats: Mapping[str, Sequence[Beat]], signal: Mapping[str, np.ndarray], sampling_rate: float
) -> Iterator[tuple[Beat, float]]:
    """The beats of a lead that have an onset of QRS and room before it, and their baselines."""
    samples = round(BASELINE_SECONDS * sampling_rate)
    for beat in beats.get(lead, []):
        onset = beat.qrs.onset
        if onset is not None and onset >= samples:
            yield beat, float(np.median(signal[lead][onset - samples : onset]))


# From rows of corpora -------------------------------------------------------------------------------------------------


def signal_of(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Of each lead of a row its signal in mV, float64; missing samples are NaN."""
    counts = np.asarray(row["signal"], np.int16).reshape(len(row["lead_names"]), -1)
    millivolts = np.where(counts == MISSING_COUNT, np.nan, counts * float(row["signal_scale"]))
    return dict(zip(row["lead_names"], millivolts, strict=True))


def waves_by_lead(table: Mapping[str, Sequence[Any]]) -> dict[str, list[Wave]]:
    """The column `waves` of a row, by lead."""
    rows = zip(*(table[name] for name in ("lead", "wave", "onset", "peak", "end")), strict=True)
    return {lead: [Wave(*row[1:]) for row in of_lead] for lead, of_lead in itertools.groupby(rows, lambda row: row[0])}


def from_boundaries(row: Mapping[str, Any]) -> Truth:
    """Of a row whose waves cardiologists marked."""
    return measure(waves_by_lead(row["waves"]), signal_of(row), row["sampling_rate"])


def from_synthesis(row: Mapping[str, Any]) -> Truth:
    """Of a synthetic row, with which it was made; its intervals are those of the beats that are not premature."""
    columns = {
        "heart_rate": "heart_rate",
        "pr_interval": "pr_ms",
        "qrs_duration": "qrs_ms",
        "qt_interval": "qt_ms",
        "axis": "axis_degrees",
    }
    known: Truth = {
        name: "no P wave leads to QRS" if row[column] is None else float(row[column])
        for name, column in columns.items()
    }
    return known | {"t_amplitude": "synthetic records do not tell it"}
