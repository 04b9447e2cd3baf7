"""Synthetic 12-lead ECGs with known truth: for first runs, tests and ablations, never as evidence about patients.

A heart dipole, a vector in Frank's directions (x to the left, y to the feet, z to the back), moves through each beat
as a sum of Gaussian waves, and the leads are its projections. In the spirit of McSharry et al., "A dynamical model for
generating synthetic electrocardiogram signals", IEEE Trans Biomed Eng 50:289 (2003), and Sameni et al., "Multichannel
ECG and noise modeling: application to maternal and fetal ECG signals", EURASIP J Adv Signal Process 2007:043407.

Everything random is drawn from (seed, index) and apart from the sampling rate: the same pair is the same heart at any
rate, in any order, in any process. Ranges without another source are those of resting adult ECGs as in Surawicz et
al., AHA/ACCF/HRS recommendations, part III, Circulation 119:e235 (2009), and Rautaharju et al., part IV, 119:e241.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaInputError
from modeling_ecg_jepa.leads_ecg_jepa import ECG_JEPA_LEADS, LIMB_RULES, STANDARD_12_LEADS

from .records import EcgRecord

#: Leads I, II, V1-V6 from Frank's x, y, z: Dower, Machado, Osborne, "On deriving the electrocardiogram from
#: vectorcardiographic leads", Clin Cardiol 3:87 (1980).
DOWER_MATRIX = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

#: A wave begins and ends where its Gaussian has fallen to 4 % of its peak, this many standard deviations away.
_EDGE = 2.5

# The beat of an average heart: dipole at each wave's peak in mV (x, y, z). The places and standard deviations of the
# parts of P and QRS are shares of the whole wave's duration, counted from its onset.
_P = (
    ((0.02, 0.10, -0.05), 0.37, 0.14),  # right atrium, forward
    ((0.07, 0.08, 0.04), 0.63, 0.14),  # left atrium, to the left and back
)
_QRS = (
    ((-0.12, -0.06, -0.30), 0.22, 0.085),  # septum, to the right and forward: r in V1, q in V6
    ((1.00, 0.62, -0.12), 0.43, 0.085),  # both ventricles, to the left and down
    ((0.45, 0.16, 1.05), 0.57, 0.095),  # free left wall, to the back: S in V1-V3
    ((-0.24, -0.16, 0.20), 0.77, 0.090),  # base, to the right and back: s in I and V6
)
_T = (0.28, 0.20, -0.16)

#: Where the R peak lies within QRS, as a share of its duration.
_R_PEAK = 0.44

#: The noise is one and the same continuous function at every sampling rate: band-limited to this many Hz.
_NOISE_BAND = 250.0


@dataclass(frozen=True)
class SyntheticTruth:
    """What a synthetic record was made with.

    Attributes:
        heart_rate: in beats per minute, from the R peaks inside the record.
        pr_ms, qrs_ms, qt_ms: intervals in ms, from onset of P to onset of QRS, onset to end of QRS, onset of QRS to
            end of T; a wave's onset and end are where its Gaussian has fallen to 4 % of its peak.
        axis_degrees: frontal QRS axis from the net areas of QRS in I and aVF.
        noise_mv: root mean square of everything added to the eight independent leads, wander included, in mV.
        r_peaks: seconds from the start of the record.
    """

    heart_rate: float
    pr_ms: float
    qrs_ms: float
    qt_ms: float
    axis_degrees: float
    noise_mv: float
    r_peaks: tuple[float, ...]


@dataclass(frozen=True)
class _Wave:
    """A Gaussian in every beat: peak in seconds from the onset of QRS, widths before and after it, mV (x, y, z)."""

    dipole: np.ndarray
    peak: float
    width: float
    width_after: float


def synthesize_record(
    seed: int, index: int, sampling_rate: float = 500.0, seconds: float = 10.0
) -> tuple[EcgRecord, SyntheticTruth]:
    """Record `index` of the corpus `seed`: sinus rhythm of 40 to 140 beats per minute, 12 leads in mV.

    Lead III and the augmented leads are computed from I and II, so Einthoven's and Goldberger's equations are exact.

    Args:
        seed, index: not negative; together they determine everything but the sampling.
        sampling_rate: in Hz, 200 to 2,000; below, the steepest QRS would alias.
        seconds: 1 to 3,600.

    Raises:
        EcgJepaInputError: an argument out of its range.
    """
    _check_arguments(seed, index, sampling_rate, seconds)
    rng = np.random.default_rng([seed, index])
    nominal_rate = rng.uniform(40.0, 140.0)
    waves, intervals, axis = _draw_heart(rng, 60.0 / nominal_rate)
    breathing = rng.uniform(0.15, 0.4), rng.uniform(0.0, 2 * math.pi)  # Hz and phase; 9 to 24 breaths a minute
    onsets = _draw_onsets(rng, 60.0 / nominal_rate, breathing, seconds)
    depth = rng.uniform(0.0, 0.12)
    lead_matrix = DOWER_MATRIX * np.exp(0.1 * rng.standard_normal((8, 1)))  # chests differ

    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    breath = (1.0 + depth * np.sin(2 * math.pi * breathing[0] * time + breathing[1])).astype(np.float32)
    noise = _draw_noise(rng, time, sampling_rate, seconds, breathing[0])
    leads = lead_matrix.astype(np.float32) @ (_beating_dipole(time, onsets, waves) * breath) + noise

    r_peaks = onsets + _R_PEAK * intervals["qrs_ms"] / 1000
    r_peaks = r_peaks[(r_peaks >= 0) & (r_peaks < seconds)]
    record = EcgRecord(
        signal=_twelve_leads(leads),
        sampling_rate=float(sampling_rate),
        lead_names=STANDARD_12_LEADS,
        record_id=f"synthetic-{seed}-{index}",
    )
    truth = SyntheticTruth(
        heart_rate=60.0 / float(np.diff(r_peaks).mean()) if len(r_peaks) > 1 else nominal_rate,
        **intervals,
        axis_degrees=axis,
        noise_mv=float(np.sqrt(np.mean(noise**2))),
        r_peaks=tuple(r_peaks.tolist()),
    )
    return record, truth


def _check_arguments(seed: int, index: int, sampling_rate: float, seconds: float) -> None:
    for name, value in (("seed", seed), ("index", index)):
        if not isinstance(value, int | np.integer) or value < 0:
            raise EcgJepaInputError(f"{name}={value!r} must be an integer of at least 0.")
    if not 200 <= sampling_rate <= 2000:
        raise EcgJepaInputError(f"sampling_rate={sampling_rate!r} must be 200 to 2,000 Hz.")
    if not 1 <= seconds <= 3600:
        raise EcgJepaInputError(f"seconds={seconds!r} must be 1 to 3,600.")


def _draw_heart(rng: np.random.Generator, mean_rr: float) -> tuple[list[_Wave], dict[str, float], float]:
    """The waves of one heart, its intervals in ms, and its frontal QRS axis in degrees.

    Intervals: PR 110-220 ms, a little shorter at fast rates; QRS 75-115 ms, one in ten wide, up to 160; QT from a
    normal QTc with Fridericia's cube root, short enough that at fast rates T ends where the next P begins. Axis: mean
    near 35 degrees, SD 30.
    """
    qrs = np.clip(rng.normal(0.095, 0.009), 0.075, 0.115) if rng.random() < 0.9 else rng.uniform(0.12, 0.16)
    qt = min(np.clip(rng.normal(0.405, 0.022), 0.35, 0.47) * mean_rr ** (1 / 3), 0.7 * mean_rr)
    pr = min(np.clip(rng.normal(0.16, 0.02) - 0.02 * (1 / mean_rr - 1), 0.11, 0.22), 0.3 * mean_rr)
    p = min(rng.uniform(0.08, 0.12), 0.8 * pr)
    p_scale, qrs_scale, t_scale = np.exp([0.25, 0.3, 0.35] * rng.standard_normal(3))
    if rng.random() < 0.12:  # flat or inverted T, as in ischaemia and strain
        t_scale *= rng.uniform(-0.8, 0.3)

    # Position of the heart in the chest: turned about x, y and z by a standard deviation of 8, 12 and 17 degrees.
    position = _turn(rng, 8.0, 12.0, 17.0)
    p_position, t_position = position @ _turn(rng, 8.0, 8.0, 8.0), position @ _turn(rng, 8.0, 8.0, 8.0)

    t_peak = qt - _EDGE * 0.08 * qt
    st_middle, st_width = (qrs + t_peak) / 2, (t_peak - qrs) / (2 * _EDGE)
    qrs_waves = [_wave(qrs_scale * position @ dipole, at * qrs, width * qrs) for dipole, at, width in _QRS]
    waves = [
        *(_wave(p_scale * p_position @ dipole, at * p - pr, width * p) for dipole, at, width in _P),
        *qrs_waves,
        _wave(0.02 * rng.standard_normal(3), st_middle, st_width),  # ST deviation, mV
        _wave(t_scale * t_position @ _T, t_peak, 0.13 * qt, 0.08 * qt),
    ]
    lead_i, lead_ii = DOWER_MATRIX[:2] @ sum(wave.dipole * wave.width for wave in qrs_waves)
    axis = math.degrees(math.atan2((lead_ii - lead_i / 2) * 2 / math.sqrt(3), lead_i))
    return waves, {"pr_ms": 1000 * float(pr), "qrs_ms": 1000 * float(qrs), "qt_ms": 1000 * float(qt)}, axis


def _turn(rng: np.random.Generator, *degrees: float) -> np.ndarray:
    """A rotation matrix about a random axis; `degrees` are the standard deviations about x, y and z."""
    return Rotation.from_rotvec(np.radians(degrees) * rng.standard_normal(3)).as_matrix()


def _wave(dipole: np.ndarray, peak: float, width: float, width_after: float | None = None) -> _Wave:
    return _Wave(dipole, float(peak), float(width), float(width_after or width))


def _draw_onsets(
    rng: np.random.Generator, mean_rr: float, breathing: tuple[float, float], seconds: float
) -> np.ndarray:
    """Onsets of QRS in seconds, from before the record to after it.

    RR follows breathing (up to 5 %), the slower wave of blood pressure at 0.1 Hz (up to 3 %), and chance (1 %): the
    two bands of heart rate variability, as in McSharry's model.
    """
    beats = np.arange(math.ceil((seconds + 2 * mean_rr) / (0.85 * mean_rr)) + 2)
    about = (beats - 1) * mean_rr
    frequency, phase = breathing
    with_breath = rng.uniform(0.0, 0.05) * np.sin(2 * math.pi * frequency * about + phase)
    with_pressure = rng.uniform(0.0, 0.03) * np.sin(2 * math.pi * 0.1 * about + rng.uniform(0.0, 2 * math.pi))
    start = -mean_rr * (1.0 + rng.random())
    chance = np.clip(0.01 * rng.standard_normal(len(beats)), -0.04, 0.04)
    return start + np.cumsum(mean_rr * (1.0 + with_breath + with_pressure + chance))


def _beating_dipole(time: np.ndarray, onsets: np.ndarray, waves: list[_Wave]) -> np.ndarray:
    """The dipole (3, samples) in mV: each sample sees each wave of the beat in which that wave is nearest."""
    middles = (onsets[1:] + onsets[:-1]) / 2
    shapes = np.empty((len(waves), len(time)), dtype=np.float32)
    for shape, wave in zip(shapes, waves, strict=True):
        borders = [0, *np.searchsorted(time, middles + wave.peak), len(time)]
        shape[:] = time - np.repeat(onsets + wave.peak, np.diff(borders))
        shape /= np.where(shape < 0, np.float32(wave.width), np.float32(wave.width_after))
    np.exp(-0.5 * shapes**2, out=shapes)
    return np.stack([wave.dipole for wave in waves], axis=1).astype(np.float32) @ shapes


def _draw_noise(
    rng: np.random.Generator, time: np.ndarray, sampling_rate: float, seconds: float, breathing: float
) -> np.ndarray:
    """Noise (8, samples) in mV, independent from lead to lead: wander, mains, muscle and the recorder's own.

    Strengths are those of 87 records of PTB-XL, Georgia, CPSC2018 and Chapman-Shaoxing-Ningbo, 5th to 95th
    percentile: wander below 0.5 Hz 0.010 to 0.122 mV RMS, 60 to 150 Hz 0.001 to 0.014 mV RMS, 50 Hz up to 0.007 mV.
    """
    per_lead = np.exp(0.35 * rng.standard_normal((4, 8, 1)))
    wander = (0.018 + 0.025 * math.exp(0.7 * rng.standard_normal())) * per_lead[0]
    muscle = 0.004 * math.exp(0.7 * rng.standard_normal()) * per_lead[1]
    recorder = rng.uniform(0.001, 0.003) * per_lead[2]
    noise = _band_noise(rng, len(time), seconds, muscle, recorder)
    noise += _tones(rng, time, np.array([breathing, *rng.uniform(0.05, 0.5, 3)]), wander / 2)
    if rng.random() < 0.4:
        mains, frequency = rng.uniform(0.0, 0.008) * per_lead[3], 50.0 if rng.random() < 0.7 else 60.0
        if frequency < sampling_rate / 2:
            noise += _tones(rng, time, np.array([frequency]), mains)
    return noise


def _band_noise(
    rng: np.random.Generator, samples: int, seconds: float, muscle: np.ndarray, recorder: np.ndarray
) -> np.ndarray:
    """Noise up to 250 Hz of two kinds, (8, samples), from the RMS (8, 1) of each.

    Its spectrum is drawn whole and then cut at what the sampling can hold, so that it is one function of time.
    Surface EMG lies mostly between 20 and 150 Hz; the recorder's own noise is white.
    """
    frequencies = np.arange(1, math.ceil(_NOISE_BAND * seconds), dtype=np.float32) / np.float32(seconds)
    shape = 1 / (1 + (20 / frequencies) ** 4) / (1 + (frequencies / 120) ** 4)
    power = (muscle**2 / shape.sum()).astype(np.float32) * shape + np.float32(recorder**2 / len(frequencies))
    parts = rng.standard_normal((8, 2 * len(frequencies)), dtype=np.float32).view(np.complex64)
    kept = min(len(frequencies), (samples - 1) // 2)
    spectrum = np.zeros((8, samples // 2 + 1), dtype=np.complex64)
    spectrum[:, 1 : kept + 1] = (parts * np.sqrt(power))[:, :kept] * np.float32(samples / 2)
    return np.fft.irfft(spectrum, n=samples, axis=1)


def _tones(rng: np.random.Generator, time: np.ndarray, frequencies: np.ndarray, rms: np.ndarray) -> np.ndarray:
    """Sines (8, samples) at the given frequencies, each with `rms` (8, 1) on average and its own phase in each lead."""
    turns = frequencies[:, None] * time
    angles = (2 * math.pi * (turns - np.floor(turns))).astype(np.float32)
    weights = (rms * rng.standard_normal((8, 2 * len(frequencies)))).astype(np.float32)
    return weights @ np.concatenate([np.sin(angles), np.cos(angles)])


def _twelve_leads(independent: np.ndarray) -> np.ndarray:
    """float32 (12, samples) in the standard order from the 8 independent leads."""
    rows = dict(zip(ECG_JEPA_LEADS, independent, strict=True))
    for lead in STANDARD_12_LEADS:
        if lead not in rows:
            rows[lead] = sum(weight * rows[source] for source, weight in LIMB_RULES[lead][0].items())
    return np.stack([rows[lead] for lead in STANDARD_12_LEADS]).astype(np.float32)
