"""Synthetic 12-lead ECGs with known truth: for first runs, tests and ablations, never as evidence about patients.

A heart (`heart`) beats in a rhythm (`rhythm`), its dipole is projected onto the leads, noise (`noise`) is added.
Everything random is drawn from (seed, index) and apart from the sampling rate: the same pair is the same heart at any
rate, in any order, in any process.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaInputError
from modeling_ecg_jepa.leads_ecg_jepa import ECG_JEPA_LEADS, LIMB_RULES, STANDARD_12_LEADS

from .heart import (
    DOWER_MATRIX,
    ST_ELEVATION,
    VENTRICLES,
    Heart,
    Wave,
    atrial_premature,
    draw_heart,
    ventricular_premature,
    with_criteria,
)
from .noise import NOISES, at_ratio, draw_noise
from .records import EcgRecord
from .rhythm import PREMATURE, RHYTHMS, Beats, draw_mean_rr, draw_onsets, fibrillation, flutter, with_premature

#: All that a record can be asked to show.
DIAGNOSES = (*RHYTHMS, *PREMATURE, "first_degree_av_block", *VENTRICLES, *ST_ELEVATION, "t_inversion")

#: Of each of these at most one can hold.
_ALTERNATIVES = (tuple(RHYTHMS), tuple(VENTRICLES), (*ST_ELEVATION, "t_inversion"))

_FAST_ATRIA = ("atrial_fibrillation", "atrial_flutter")

#: A diagnosis -> the others that it leaves no room for.
_EXCLUDES = {
    "first_degree_av_block": (*_FAST_ATRIA, "ventricular_pacing"),
    "atrial_premature_beats": (*_FAST_ATRIA, "ventricular_pacing"),
    "ventricular_pacing": (*_FAST_ATRIA, *ST_ELEVATION, "t_inversion"),
}

#: In a shorter record a diagnosis need not show.
_SHORTEST_DIAGNOSIS = 5.0


@dataclass(frozen=True)
class SyntheticTruth:
    """What a synthetic record was made with.

    Attributes:
        heart_rate: in beats per minute, from the R peaks inside the record.
        pr_ms, qrs_ms, qt_ms: intervals in ms of the beats that are not premature, from onset of P to onset of QRS,
            onset to end of QRS, onset of QRS to end of T; a wave's onset and end are where its Gaussian has fallen to
            4 % of its peak. `pr_ms` is None where no P wave leads to QRS.
        axis_degrees: frontal QRS axis from the net areas of QRS in I and aVF.
        noise_mv: root mean square of everything added to the eight independent leads, wander included, in mV.
        r_peaks: seconds from the start of the record; where QRS is largest.
        rhythm: one of `rhythm.RHYTHMS`.
        diagnoses: those that were asked for and the rhythm, in the order of `DIAGNOSES`.
        beats: for each R peak what WFDB annotations call the beat: N, L and R with a bundle branch block, A and V
            premature, / paced.
        p_onsets: seconds of every P wave inside the record.
        qrs_onsets, qrs_ends, t_ends: seconds, for each R peak; some may lie just outside the record.
    """

    heart_rate: float
    pr_ms: float | None
    qrs_ms: float
    qt_ms: float
    axis_degrees: float
    noise_mv: float
    r_peaks: tuple[float, ...]
    rhythm: str
    diagnoses: tuple[str, ...]
    beats: tuple[str, ...]
    p_onsets: tuple[float, ...]
    qrs_onsets: tuple[float, ...]
    qrs_ends: tuple[float, ...]
    t_ends: tuple[float, ...]


def synthesize_record(
    seed: int,
    index: int,
    sampling_rate: float = 500.0,
    seconds: float = 10.0,
    diagnoses: Sequence[str] = (),
    snr_db: float | Mapping[str, float] | None = None,
) -> tuple[EcgRecord, SyntheticTruth]:
    """Record `index` of the corpus `seed`: 12 leads in mV, and what it was made with.

    Lead III and the augmented leads are computed from I and II, so Einthoven's and Goldberger's equations are exact.

    Args:
        seed, index: not negative; together with the options they determine everything but the sampling.
        sampling_rate: in Hz, 200 to 2,000; below, the steepest QRS would alias.
        seconds: 1 to 3,600, with diagnoses at least 5.
        diagnoses: of `DIAGNOSES`, what the record shall show, and nothing else abnormal; in sinus rhythm of 60 to 100
            beats a minute unless another rhythm is among them. Without any: sinus rhythm of 40 to 140 beats a minute,
            at times with a wide QRS or a flat or inverted T.
        snr_db: signal-to-noise ratio in dB of all noise, inf for none; or {kind: ratio} with the kinds "wander",
            "mains" and "muscle", those not named left out. None: as much noise as real records have.

    Raises:
        EcgJepaInputError: an argument out of its range, or diagnoses that exclude each other.
    """
    diagnoses = complete_diagnoses(diagnoses)
    check_record(seed, index, sampling_rate, seconds, diagnoses, snr_db)
    rng = np.random.default_rng([seed, index])
    rhythm = diagnoses[0] if diagnoses else None
    mean_rr = draw_mean_rr(rng, rhythm, "first_degree_av_block" in diagnoses)
    heart = draw_heart(rng, mean_rr, diagnoses)
    breathing = rng.uniform(0.15, 0.4), rng.uniform(0.0, 2 * math.pi)  # Hz and phase; 9 to 24 breaths a minute
    onsets = draw_onsets(rng, mean_rr, breathing, 1.5 * seconds if diagnoses else seconds, rhythm)
    depth = rng.uniform(0.0, 0.12)
    lead_matrix = DOWER_MATRIX * np.exp(0.1 * rng.standard_normal((8, 1)))  # chests differ
    heart = with_criteria(rng, heart, diagnoses, lead_matrix)
    beats = _draw_beats(rng, onsets, diagnoses, seconds)
    hearts = _draw_hearts(rng, heart, beats)

    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    dipole = sum(
        _beating_dipole(time, beats.onsets[beats.kinds == kind], heart.waves(sampling_rate))
        for kind, heart in hearts.items()
    )
    dipole *= (1.0 + depth * np.sin(2 * math.pi * breathing[0] * time + breathing[1])).astype(np.float32)
    if rhythm == "atrial_fibrillation":
        dipole += fibrillation(rng, time).astype(np.float32)
    if rhythm == "atrial_flutter":
        dipole += flutter(rng, time, mean_rr, onsets[0]).astype(np.float32)
    leads = lead_matrix.astype(np.float32) @ dipole
    noise = draw_noise(rng, time, seconds, breathing[0], always_mains=isinstance(snr_db, Mapping))
    noise = at_ratio(noise, leads, snr_db)
    record = EcgRecord(
        signal=_twelve_leads(leads + noise),
        sampling_rate=float(sampling_rate),
        lead_names=STANDARD_12_LEADS,
        record_id=f"synthetic-{seed}-{index}",
    )
    return record, _truth(heart, hearts, beats, diagnoses, 60.0 / mean_rr, seconds, noise)


def complete_diagnoses(diagnoses: Sequence[str]) -> tuple[str, ...]:
    """The diagnoses in the order of `DIAGNOSES`, with sinus rhythm where no rhythm is among them; none stay none.

    Raises:
        EcgJepaInputError: an unknown diagnosis, or two that exclude each other.
    """
    if isinstance(diagnoses, str) or any(name not in DIAGNOSES for name in diagnoses):
        raise EcgJepaInputError(f"diagnoses={diagnoses!r} must be a list of names of {', '.join(DIAGNOSES)}.")
    for names in _ALTERNATIVES:
        both = [name for name in names if name in diagnoses]
        if len(both) > 1:
            raise EcgJepaInputError(f"Only one of {', '.join(both)} can hold; give one of them.")
    for name, excluded in _EXCLUDES.items():
        for other in excluded:
            if name in diagnoses and other in diagnoses:
                raise EcgJepaInputError(f"{name} and {other} exclude each other; give one of them.")
    if diagnoses and not RHYTHMS.keys() & set(diagnoses):
        diagnoses = ("sinus_rhythm", *diagnoses)
    return tuple(name for name in DIAGNOSES if name in diagnoses)


def check_record(
    seed: int,
    index: int,
    sampling_rate: float,
    seconds: float,
    diagnoses: Sequence[str],
    snr_db: float | Mapping[str, float] | None,
) -> None:
    """What `synthesize_record` asks of its arguments, but for the names of the diagnoses.

    Raises:
        EcgJepaInputError: an argument out of its range.
    """
    for name, value in (("seed", seed), ("index", index)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise EcgJepaInputError(f"{name}={value!r} must be an integer of at least 0.")
    if not 200 <= sampling_rate <= 2000:
        raise EcgJepaInputError(f"sampling_rate={sampling_rate!r} must be 200 to 2,000 Hz.")
    if not 1 <= seconds <= 3600:
        raise EcgJepaInputError(f"seconds={seconds!r} must be 1 to 3,600.")
    if diagnoses and seconds < _SHORTEST_DIAGNOSIS:
        raise EcgJepaInputError(f"seconds={seconds!r} must be at least {_SHORTEST_DIAGNOSIS:g} with diagnoses.")
    _check_ratio(snr_db)


def _check_ratio(snr_db: float | Mapping[str, float] | None) -> None:
    if isinstance(snr_db, Mapping) and not (snr_db and snr_db.keys() <= set(NOISES)):
        raise EcgJepaInputError(f"snr_db={snr_db!r} must name {', '.join(NOISES)}, or some of them.")
    for ratio in snr_db.values() if isinstance(snr_db, Mapping) else [] if snr_db is None else [snr_db]:
        if not isinstance(ratio, int | float | np.number) or not ratio >= -40:
            raise EcgJepaInputError(f"snr_db={snr_db!r} must be at least -40 dB; inf for no noise.")


def _draw_beats(rng: np.random.Generator, onsets: np.ndarray, diagnoses: Sequence[str], seconds: float) -> Beats:
    kinds = [code for name, code in PREMATURE.items() if name in diagnoses]
    if kinds:
        return with_premature(rng, onsets, kinds, seconds)
    return Beats(onsets, np.full(len(onsets), "", dtype=object))


def _draw_hearts(rng: np.random.Generator, heart: Heart, beats: Beats) -> dict[str, Heart]:
    """Kind of beat -> the heart that makes it."""
    hearts = {"": heart}
    if "A" in beats.kinds:
        hearts["A"] = atrial_premature(rng, heart)
    if "V" in beats.kinds:
        hearts["V"] = ventricular_premature(rng, heart)
    return hearts


def _truth(
    usual: Heart,
    hearts: Mapping[str, Heart],
    beats: Beats,
    diagnoses: tuple[str, ...],
    nominal_rate: float,
    seconds: float,
    noise: np.ndarray,
) -> SyntheticTruth:
    each = [(onset, hearts[kind]) for onset, kind in zip(beats.onsets.tolist(), beats.kinds, strict=True)]
    peaks = [onset + heart.r_peak * (1000 * heart.qrs) / 1000 for onset, heart in each]
    shown = [beat for peak, beat in zip(peaks, each, strict=True) if 0 <= peak < seconds]
    r_peaks = [peak for peak in peaks if 0 <= peak < seconds]
    p_onsets = [onset - heart.pr for onset, heart in each if heart.pr is not None]
    rate = 60.0 / float(np.diff(r_peaks).mean()) if len(r_peaks) > 1 else nominal_rate
    if not diagnoses:
        diagnoses = ("sinus_bradycardia" if rate < 60 else "sinus_tachycardia" if rate > 100 else "sinus_rhythm",)
    return SyntheticTruth(
        heart_rate=rate,
        pr_ms=None if usual.pr is None else 1000 * usual.pr,
        qrs_ms=1000 * usual.qrs,
        qt_ms=1000 * usual.qt,
        axis_degrees=usual.axis_degrees(),
        noise_mv=float(np.linalg.norm(noise)) / math.sqrt(noise.size),
        r_peaks=tuple(r_peaks),
        rhythm=diagnoses[0],
        diagnoses=diagnoses,
        beats=tuple(heart.code for _, heart in shown),
        p_onsets=tuple(onset for onset in p_onsets if 0 <= onset < seconds),
        qrs_onsets=tuple(onset for onset, _ in shown),
        qrs_ends=tuple(onset + heart.qrs for onset, heart in shown),
        t_ends=tuple(onset + heart.qt for onset, heart in shown),
    )


def _beating_dipole(time: np.ndarray, onsets: np.ndarray, waves: Sequence[Wave]) -> np.ndarray:
    """The dipole (3, samples) in mV: each sample sees each wave of the beat in which that wave is nearest."""
    peaks = np.array([[wave.peak] for wave in waves])
    borders = np.searchsorted(time, (onsets[1:] + onsets[:-1]) / 2 + peaks)
    counts = np.diff(borders, axis=1, prepend=0, append=len(time))
    nearest = np.repeat((onsets + peaks).ravel(), counts.ravel()).reshape(len(waves), len(time))
    shapes = (time - nearest).astype(np.float32)
    for shape, wave in zip(shapes, waves, strict=True):
        if wave.width_after == wave.width:
            shape /= np.float32(wave.width)
        else:
            shape /= np.where(shape < 0, np.float32(wave.width), np.float32(wave.width_after))
    np.multiply(shapes, shapes, out=shapes)
    shapes *= np.float32(-0.5)
    np.exp(shapes, out=shapes)
    return np.stack([wave.dipole for wave in waves], axis=1).astype(np.float32) @ shapes


def _twelve_leads(independent: np.ndarray) -> np.ndarray:
    """float32 (12, samples) in the standard order from the 8 independent leads."""
    signal = np.empty((len(STANDARD_12_LEADS), independent.shape[1]), dtype=np.float32)
    rows = dict(zip(STANDARD_12_LEADS, signal, strict=True))
    for lead, values in zip(ECG_JEPA_LEADS, independent, strict=True):
        rows[lead][:] = values
    for lead in rows.keys() - set(ECG_JEPA_LEADS):
        rows[lead][:] = sum(weight * rows[source] for source, weight in LIMB_RULES[lead][0].items())
    return signal
