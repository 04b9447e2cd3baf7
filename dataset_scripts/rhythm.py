"""When the heart of a synthetic ECG beats: sinus rhythm, fibrillation, flutter, premature beats."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Rhythm -> slowest and fastest mean rate in beats per minute; flutter's follows from its atria.
RHYTHMS = {
    "sinus_rhythm": (63.0, 96.0),
    "sinus_bradycardia": (40.0, 57.0),
    "sinus_tachycardia": (104.0, 150.0),
    "atrial_fibrillation": (60.0, 140.0),
    "atrial_flutter": (67.5, 165.0),
}

#: Premature beats -> what WFDB annotations call them.
PREMATURE = {"atrial_premature_beats": "A", "ventricular_premature_beats": "V"}

#: The mean length of a flutter wave in s: 300 a minute.
_FLUTTER_PERIOD = 0.2


@dataclass(frozen=True)
class Beats:
    """Onsets of QRS in s from the start of the record, and the kind of each beat: "" for the heart's usual one."""

    onsets: np.ndarray
    kinds: np.ndarray


def draw_mean_rr(rng: np.random.Generator, rhythm: str | None, has_late_qrs: bool = False) -> float:
    """Seconds from beat to beat; without a rhythm of 40 to 140 beats a minute.

    Flutter: atria at 270 to 330 a minute, of which every second, third or fourth beat is conducted.
    """
    if rhythm is None:
        return 60.0 / rng.uniform(40.0, 140.0)
    if rhythm == "atrial_flutter":
        return float(rng.choice([2, 3, 4], p=[0.4, 0.2, 0.4])) * 60.0 / rng.uniform(270.0, 330.0)
    slowest, fastest = RHYTHMS[rhythm]
    if has_late_qrs:  # the faster, the less room is there for a long PR interval
        fastest = min(fastest, slowest + 17)
    return 60.0 / rng.uniform(slowest, fastest)


def draw_onsets(
    rng: np.random.Generator, mean_rr: float, breathing: tuple[float, float], seconds: float, rhythm: str | None = None
) -> np.ndarray:
    """Onsets of QRS in seconds, from before the record to after it."""
    beats = np.arange(math.ceil((seconds + 2 * mean_rr) / (0.85 * mean_rr)) + 2)
    if rhythm == "atrial_fibrillation":
        return _fibrillating(rng, mean_rr, seconds)
    if rhythm == "atrial_flutter":
        return mean_rr * (beats - 1 - rng.random())
    return _sinus(rng, mean_rr, breathing, beats)


def _sinus(rng: np.random.Generator, mean_rr: float, breathing: tuple[float, float], beats: np.ndarray) -> np.ndarray:
    """RR follows breathing (up to 5 %), the slower wave of blood pressure at 0.1 Hz (up to 3 %), and chance (1 %): the
    two bands of heart rate variability, as in McSharry's model.
    """
    about = (beats - 1) * mean_rr
    frequency, phase = breathing
    with_breath = rng.uniform(0.0, 0.05) * np.sin(2 * math.pi * frequency * about + phase)
    with_pressure = rng.uniform(0.0, 0.03) * np.sin(2 * math.pi * 0.1 * about + rng.uniform(0.0, 2 * math.pi))
    start = -mean_rr * (1.0 + rng.random())
    chance = np.clip(0.01 * rng.standard_normal(len(beats)), -0.04, 0.04)
    return start + np.cumsum(mean_rr * (1.0 + with_breath + with_pressure + chance))


def _fibrillating(rng: np.random.Generator, mean_rr: float, seconds: float) -> np.ndarray:
    """RR without order: never below 0.65 of the mean, skewed to long pauses, coefficient of variation about 0.22."""
    beats = math.ceil((seconds + 3 * mean_rr) / (0.65 * mean_rr)) + 2
    intervals = mean_rr * (0.65 + 0.35 * rng.gamma(2.5, 1 / 2.5, size=beats))
    return np.cumsum(intervals) - mean_rr * (1.0 + rng.random())


def with_premature(rng: np.random.Generator, onsets: np.ndarray, kinds: Sequence[str], seconds: float) -> Beats:
    """Let some beats, at least one of each kind, come early, at 0.58 to 0.74 of the interval before.

    After a ventricular one the next beat comes when it would have come; an atrial one resets the rhythm.
    """
    onsets, labels = onsets.copy(), np.full(len(onsets), "", dtype=object)
    chosen = _places(rng, onsets, len(kinds), seconds)
    for place, kind in zip(chosen, itertools.cycle(kinds), strict=False):
        interval = onsets[place] - onsets[place - 1]
        early = (1.0 - rng.uniform(0.58, 0.74)) * interval
        onsets[place] -= early
        labels[place] = kind
        if kind == "A":
            onsets[place + 1 :] -= early - rng.uniform(0.0, 0.1) * interval
    return Beats(onsets, labels)


def _places(rng: np.random.Generator, onsets: np.ndarray, kinds: int, seconds: float) -> np.ndarray:
    """Which beats come early: those within the record every 2 to 6 beats, or closer where the record is short."""
    inside = np.flatnonzero((onsets > 0.7) & (onsets < seconds - 0.6))
    step = min(int(rng.integers(2, 7)), max(len(inside) // kinds, 1))
    spare = len(inside) - 1 - step * (kinds - 1)
    return inside[rng.integers(min(step, spare + 1)) :: step]


def fibrillation(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Dipole (3, samples) in mV of fibrillating atria: 330 to 520 waves a minute of changing size, largest in V1."""
    directions = np.array([[-0.25, 0.60, -0.80], [0.45, 0.30, 0.25]]).T
    size = rng.uniform(0.04, 0.10) * np.array([1.0, 0.7])
    frequency, slow = rng.uniform(5.5, 8.7, 2), rng.uniform(0.15, 0.6, (2, 2))
    phase = rng.uniform(0.0, 2 * math.pi, (3, 2, 1))
    angle = 2 * math.pi * frequency[:, None] * time + phase[0]
    angle += 2.0 * np.sin(2 * math.pi * slow[0][:, None] * time + phase[1])
    swell = 1.0 + 0.5 * np.sin(2 * math.pi * slow[1][:, None] * time + phase[2])
    return (directions * size) @ (swell * np.sin(angle + 0.5 * np.sin(angle)))


def flutter(rng: np.random.Generator, time: np.ndarray, mean_rr: float, first_onset: float) -> np.ndarray:
    """Dipole (3, samples) in mV of fluttering atria: a saw that falls slowly in II, III, aVF and rises in V1."""
    period = mean_rr / round(mean_rr / _FLUTTER_PERIOD)
    angle = 2 * math.pi * ((time - first_onset) / period + rng.random())
    harmonics = np.arange(1, 6)[:, None]
    saw = (np.sinc(harmonics / 6) / harmonics * np.sin(harmonics * angle)).sum(axis=0)
    return np.outer(rng.uniform(0.08, 0.16) * np.array([-0.10, 1.0, 0.75]), saw)
