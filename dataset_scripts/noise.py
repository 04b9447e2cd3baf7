"""The noise of a synthetic ECG: baseline wander, mains, muscle; independent from lead to lead, one function of time."""

import functools
import math
from collections.abc import Mapping

import numpy as np

#: The kinds of noise; "muscle" includes the recorder's own.
NOISES = ("wander", "mains", "muscle")

#: The noise is one and the same continuous function at every sampling rate: band-limited to this many Hz.
_BAND = 250.0


def draw_noise(
    rng: np.random.Generator, time: np.ndarray, seconds: float, breathing: float, always_mains: bool = False
) -> dict[str, np.ndarray]:
    """Each kind of noise, (8, samples) in mV; mains in two of five records unless asked for.

    Strengths are those of 87 records of PTB-XL, Georgia, CPSC2018 and Chapman-Shaoxing-Ningbo, 5th to 95th
    percentile: wander below 0.5 Hz 0.010 to 0.122 mV RMS, 60 to 150 Hz 0.001 to 0.014 mV RMS, 50 Hz up to 0.007 mV.

    Args:
        time: of the samples, in s, evenly spaced.
        breathing: breaths a second.
    """
    per_lead = np.exp(0.35 * rng.standard_normal((4, 8, 1)))
    wander = (0.018 + 0.025 * math.exp(0.7 * rng.standard_normal())) * per_lead[0]
    muscle = 0.004 * math.exp(0.7 * rng.standard_normal()) * per_lead[1]
    recorder = rng.uniform(0.001, 0.003) * per_lead[2]
    noises = {
        "muscle": _band_noise(rng, len(time), seconds, muscle, recorder),
        "wander": _tones(rng, time, np.array([breathing, *rng.uniform(0.05, 0.5, 3)]), wander / 2),
    }
    if rng.random() < 0.4 or always_mains:
        mains, frequency = rng.uniform(0.0, 0.008) * per_lead[3], 50.0 if rng.random() < 0.7 else 60.0
        noises["mains"] = _tones(rng, time, np.array([frequency]), mains)
    return noises


def at_ratio(
    noises: Mapping[str, np.ndarray], signal: np.ndarray, snr_db: float | Mapping[str, float] | None
) -> np.ndarray:
    """The sum of the noises (8, samples), as drawn or at a signal-to-noise ratio.

    The ratio is that of variances over all leads, in dB: of everything together, or of each kind that is named, where
    the others are left out.
    """
    if isinstance(snr_db, Mapping):
        parts = [_scaled(noises[kind], signal, ratio) for kind, ratio in snr_db.items()]
        return functools.reduce(np.add, parts, np.zeros_like(signal))
    noise = functools.reduce(np.add, noises.values())
    return noise if snr_db is None else _scaled(noise, signal, snr_db)


def _scaled(noise: np.ndarray, signal: np.ndarray, snr_db: float) -> np.ndarray:
    ratio = math.sqrt(signal.var(axis=1).mean() / noise.var(axis=1).mean())
    return noise * np.float32(ratio * 10 ** (-snr_db / 20))


def _band_noise(
    rng: np.random.Generator, samples: int, seconds: float, muscle: np.ndarray, recorder: np.ndarray
) -> np.ndarray:
    """Noise up to 250 Hz of two kinds, (8, samples), from the RMS (8, 1) of each.

    Its spectrum is drawn whole and then cut at what the sampling can hold, so that it is one function of time. The
    recorder's own noise is white.
    """
    shape = _muscle_spectrum(seconds)
    power = (muscle**2 / shape.sum()).astype(np.float32) * shape + np.float32(recorder**2 / len(shape))
    parts = rng.standard_normal((8, 2 * len(shape)), dtype=np.float32).view(np.complex64)
    kept = min(len(shape), (samples - 1) // 2)
    spectrum = np.zeros((8, samples // 2 + 1), dtype=np.complex64)
    np.multiply(parts[:, :kept], np.sqrt(power[:, :kept]), out=spectrum[:, 1 : kept + 1])
    spectrum *= np.float32(samples / 2)
    return np.fft.irfft(spectrum, n=samples, axis=1)


@functools.lru_cache(maxsize=4)
def _muscle_spectrum(seconds: float) -> np.ndarray:
    """Relative power of surface EMG, mostly between 20 and 150 Hz, at multiples of 1 / seconds up to 250 Hz."""
    frequencies = np.arange(1, math.ceil(_BAND * seconds), dtype=np.float32) / np.float32(seconds)
    return 1 / (1 + (20 / frequencies) ** 4) / (1 + (frequencies / 120) ** 4)


def _tones(rng: np.random.Generator, time: np.ndarray, frequencies: np.ndarray, rms: np.ndarray) -> np.ndarray:
    """Sines (8, samples) at the given frequencies, each with `rms` (8, 1) on average and its own phase in each lead."""
    turns = frequencies[:, None] * time
    angles = (2 * math.pi * (turns - np.floor(turns))).astype(np.float32)
    weights = (rms * rng.standard_normal((8, 2 * len(frequencies)))).astype(np.float32)
    return weights @ np.concatenate([np.sin(angles), np.cos(angles)])
