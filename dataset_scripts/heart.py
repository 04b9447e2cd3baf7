"""The heart of a synthetic ECG: a dipole that moves through each beat, and what each diagnosis changes of it.

The dipole is a vector in Frank's directions (x to the left, y to the feet, z to the back), a sum of Gaussian waves; the
leads are its projections. In the spirit of McSharry et al., "A dynamical model for generating synthetic
electrocardiogram signals", IEEE Trans Biomed Eng 50:289 (2003), and Sameni et al., "Multichannel ECG and noise
modeling: application to maternal and fetal ECG signals", EURASIP J Adv Signal Process 2007:043407.

Ranges without another source are those of the AHA/ACCF/HRS recommendations: resting adults and bundle branch blocks in
Surawicz et al., part III, Circulation 119:e235 (2009), ST and T in Rautaharju et al., part IV, 119:e241, hypertrophy in
Hancock et al., part V, 119:e251, and infarction in Wagner et al., part VI, 119:e262.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from modeling_ecg_jepa.leads_ecg_jepa import ECG_JEPA_LEADS, LIMB_RULES

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

# A wave is the sum of parts: the dipole at the part's peak in mV (x, y, z); the place of the peak and the standard
# deviation as shares of the whole wave's duration, counted from its onset.
Vector = Sequence[float] | np.ndarray
Part = tuple[Vector, float, float]

_ATRIA: tuple[Part, ...] = (
    ((0.02, 0.10, -0.05), 0.37, 0.14),  # right atrium, forward
    ((0.07, 0.08, 0.04), 0.63, 0.14),  # left atrium, to the left and back
)


@dataclass(frozen=True)
class Ventricles:
    """One way in which the ventricles are activated and recover.

    Attributes:
        qrs: parts of QRS.
        t, st: dipoles of the T wave and of a raised or lowered ST segment, in mV.
        duration: of QRS, shortest and longest, in s.
        r_peak: where QRS is largest, as a share of its duration.
        code: what WFDB annotations call such a beat.
    """

    qrs: tuple[Part, ...]
    t: Vector
    duration: tuple[float, float]
    r_peak: float
    st: Vector = (0.0, 0.0, 0.0)
    code: str = "N"


_NORMAL = Ventricles(
    qrs=(
        ((-0.12, -0.06, -0.30), 0.22, 0.085),  # septum, to the right and forward: r in V1, q in V6
        ((1.00, 0.62, -0.12), 0.43, 0.085),  # both ventricles, to the left and down
        ((0.45, 0.16, 1.05), 0.57, 0.095),  # free left wall, to the back: S in V1-V3
        ((-0.24, -0.16, 0.20), 0.77, 0.090),  # base, to the right and back: s in I and V6
    ),
    t=(0.28, 0.20, -0.16),
    duration=(0.078, 0.108),
    r_peak=0.44,
)

#: Finding -> what it makes of the ventricles; at most one holds.
VENTRICLES = {
    "left_bundle_branch_block": Ventricles(
        qrs=(  # from the right ventricle slowly through the septum, so no q in V6; notched on the left
            ((0.50, 0.26, 0.30), 0.31, 0.110),
            ((0.42, 0.10, 0.85), 0.50, 0.110),
            ((0.80, 0.08, 0.62), 0.66, 0.120),
        ),
        t=(-0.34, -0.06, -0.30),
        st=(-0.09, -0.02, -0.12),
        duration=(0.126, 0.162),
        r_peak=0.58,
        code="L",
    ),
    "right_bundle_branch_block": Ventricles(
        qrs=(  # the left ventricle as ever, then the right one late and slowly: R' in V1, broad S in I and V6
            ((-0.12, -0.06, -0.30), 0.13, 0.055),
            ((1.00, 0.62, -0.12), 0.27, 0.060),
            ((0.40, 0.16, 0.85), 0.37, 0.060),
            ((-0.62, -0.04, -0.66), 0.68, 0.120),
        ),
        t=(0.40, 0.20, 0.04),
        duration=(0.124, 0.156),
        r_peak=0.29,
        code="R",
    ),
    "left_ventricular_hypertrophy": Ventricles(
        qrs=(
            ((-0.10, -0.06, -0.28), 0.20, 0.080),
            ((1.30, 0.42, 0.10), 0.43, 0.090),
            ((0.80, 0.10, 1.35), 0.57, 0.100),
            ((-0.16, -0.12, 0.22), 0.79, 0.080),
        ),
        t=(-0.16, -0.02, -0.22),  # strain: away from QRS
        st=(-0.07, -0.02, -0.08),
        duration=(0.090, 0.114),
        r_peak=0.49,
    ),
    "right_ventricular_hypertrophy": Ventricles(
        qrs=(
            ((0.34, 0.10, -0.12), 0.24, 0.085),
            ((-0.50, 0.62, -0.78), 0.48, 0.100),
            ((-0.42, 0.06, 0.02), 0.70, 0.100),
        ),
        t=(0.22, 0.10, 0.20),  # strain over the right ventricle
        st=(0.03, -0.02, 0.06),
        duration=(0.084, 0.112),
        r_peak=0.48,
    ),
    "ventricular_pacing": Ventricles(
        qrs=(  # from the apex of the right ventricle: to the left, up and back
            ((0.30, -0.45, 0.30), 0.30, 0.110),
            ((0.42, -0.75, 0.80), 0.50, 0.120),
            ((0.55, -0.50, 0.60), 0.68, 0.120),
        ),
        t=(-0.22, 0.34, -0.34),
        st=(-0.05, 0.08, -0.10),
        duration=(0.140, 0.180),
        r_peak=0.52,
        code="/",
    ),
}

#: Where ventricular premature beats come from: the right ventricle, or the left.
_ECTOPIC = (
    Ventricles(
        qrs=(((0.30, 0.75, 0.20), 0.34, 0.120), ((0.60, 0.95, 0.95), 0.58, 0.140)),
        t=(-0.25, -0.38, -0.36),
        st=(-0.05, -0.06, -0.08),
        duration=(0.140, 0.170),
        r_peak=0.52,
        code="V",
    ),
    Ventricles(
        qrs=(((-0.30, -0.20, -0.55), 0.34, 0.120), ((-0.85, -0.60, -0.75), 0.58, 0.140)),
        t=(0.34, 0.26, 0.34),
        st=(0.05, 0.04, 0.08),
        duration=(0.140, 0.170),
        r_peak=0.54,
        code="V",
    ),
)

#: Finding -> direction of the injured wall, and the leads that face it.
ST_ELEVATION = {
    "anterior_st_elevation": ((0.22, -0.16, -0.40), ("V2", "V3", "V4")),
    "inferior_st_elevation": ((-0.06, 0.40, 0.06), ("II", "III", "aVF")),
    "lateral_st_elevation": ((0.40, -0.16, 0.12), ("I", "aVL", "V5", "V6")),
}

#: Of a unipolar pacing spike, in mV where it lasts 1 ms.
_SPIKE = (-0.9, -1.3, -0.6)


@dataclass(frozen=True)
class Wave:
    """A Gaussian in every beat: peak in seconds from the onset of QRS, widths before and after it, mV (x, y, z)."""

    dipole: np.ndarray
    peak: float
    width: float
    width_after: float


@dataclass(frozen=True)
class Heart:
    """What a beat is made of: durations in s, dipoles in mV.

    Attributes:
        pr, p, qrs, qt: intervals and durations; `pr` is None where no P wave leads to QRS.
        p_parts, qrs_parts: as `Part`.
        st, t: dipoles of ST segment and T wave.
        injury: dipole of an ST segment that is raised from the end of QRS on, None where it is not.
        spike: dipole of a pacing spike, None without a pacemaker.
        r_peak, code: as in `Ventricles`.
    """

    pr: float | None
    p: float
    qrs: float
    qt: float
    p_parts: list[Part]
    qrs_parts: list[Part]
    st: np.ndarray
    t: np.ndarray
    injury: np.ndarray | None = None
    spike: np.ndarray | None = None
    r_peak: float = _NORMAL.r_peak
    code: str = "N"

    def waves(self, sampling_rate: float = 500.0) -> list[Wave]:
        """All waves of a beat; the sampling rate limits only how short a pacing spike can be."""
        waves = []
        if self.pr is not None:
            waves += [_wave(dipole, at * self.p - self.pr, width * self.p) for dipole, at, width in self.p_parts]
        waves += self.qrs_waves()
        t_peak = self.qt - _EDGE * 0.08 * self.qt
        st_middle, st_width = (self.qrs + t_peak) / 2, (t_peak - self.qrs) / (2 * _EDGE)
        waves.append(_wave(self.st, st_middle, st_width))
        waves.append(_wave(self.t, t_peak, 0.13 * self.qt, 0.08 * self.qt))
        if self.injury is not None:  # a dome from the J point into the T wave
            length = t_peak - self.qrs
            waves.append(_wave(self.injury, self.qrs + 0.45 * length, 0.32 * length, 0.40 * length))
        if self.spike is not None:
            width = max(0.001, 0.5 / sampling_rate)
            waves.append(_wave(self.spike * 0.001 / width, -0.004, width))
        return waves

    def qrs_waves(self) -> list[Wave]:
        return [_wave(dipole, at * self.qrs, width * self.qrs) for dipole, at, width in self.qrs_parts]

    def axis_degrees(self) -> float:
        """Frontal QRS axis from the net areas of QRS in I and aVF."""
        lead_i, lead_ii = DOWER_MATRIX[:2] @ sum(wave.dipole * wave.width for wave in self.qrs_waves())
        return math.degrees(math.atan2((lead_ii - lead_i / 2) * 2 / math.sqrt(3), lead_i))


def _wave(dipole: Vector, peak: float, width: float, width_after: float | None = None) -> Wave:
    return Wave(np.asarray(dipole), float(peak), float(width), float(width_after or width))


def draw_heart(rng: np.random.Generator, mean_rr: float, diagnoses: Collection[str] = ()) -> Heart:
    """A heart that beats every `mean_rr` seconds: healthy but for the diagnoses; without any, whatever comes.

    Intervals: PR 110-220 ms, a little shorter at fast rates; QRS 75-115 ms, one in ten wide, up to 160; QT from a
    normal QTc with Fridericia's cube root, short enough that at fast rates T ends where the next P begins. Axis: mean
    near 35 degrees, SD 30.
    """
    ventricles = next((VENTRICLES[name] for name in diagnoses if name in VENTRICLES), _NORMAL)
    if diagnoses:
        qrs = rng.uniform(*ventricles.duration)
    else:
        qrs = _within(0.075, rng.normal(0.095, 0.009), 0.115) if rng.random() < 0.9 else rng.uniform(0.12, 0.16)
    late = qrs - 0.1 if ventricles.code != "N" else 0.0  # recovery is as late as activation
    qt = min(_within(0.35, rng.normal(0.405, 0.022), 0.47) * mean_rr ** (1 / 3) + late, 0.7 * mean_rr)
    longest_pr = 0.19 if diagnoses else 0.22
    pr = min(_within(0.11, rng.normal(0.16, 0.02) - 0.02 * (1 / mean_rr - 1), longest_pr), 0.3 * mean_rr)
    p = min(rng.uniform(0.08, 0.12), 0.8 * pr)
    p_scale, qrs_scale, t_scale = np.exp([0.25, 0.3, 0.35] * rng.standard_normal(3))
    if rng.random() < 0.12 and not diagnoses:  # flat or inverted T, as in ischaemia and strain
        t_scale *= rng.uniform(-0.8, 0.3)

    # Position of the heart in the chest: turned about x, y and z by a standard deviation of 8, 12 and 17 degrees.
    position, p_turn, t_turn = _turns(rng, [[8.0, 12.0, 17.0], [8.0, 8.0, 8.0], [8.0, 8.0, 8.0]], bool(diagnoses))
    p_position, t_position = position @ p_turn, position @ t_turn
    heart = Heart(
        pr=pr,
        p=p,
        qrs=qrs,
        qt=qt,
        p_parts=_turned(p_scale * p_position, _ATRIA),
        qrs_parts=_turned(qrs_scale * position, ventricles.qrs),
        st=0.02 * rng.standard_normal(3),
        t=t_scale * t_position @ ventricles.t,
        injury=qrs_scale * position @ ventricles.st if any(ventricles.st) else None,
        r_peak=ventricles.r_peak,
        code=ventricles.code,
    )
    return _with_conduction(rng, heart, mean_rr, diagnoses)


def _turned(matrix: np.ndarray, parts: Sequence[Part]) -> list[Part]:
    return [(matrix @ dipole, at, width) for dipole, at, width in parts]


def _within(least: float, value: float, most: float) -> float:
    return min(max(value, least), most)


def _turns(rng: np.random.Generator, degrees: Sequence[Sequence[float]], halved: bool) -> np.ndarray:
    """Rotation matrices about random axes; `degrees` are the standard deviations about x, y and z of each."""
    vectors = np.radians(degrees) * rng.standard_normal((len(degrees), 3))
    # The heart that shows a diagnosis lies as most hearts do, or its position would hide what it shows.
    return Rotation.from_rotvec(vectors / 2 if halved else vectors).as_matrix()


def _with_conduction(rng: np.random.Generator, heart: Heart, mean_rr: float, diagnoses: Collection[str]) -> Heart:
    """No P wave in fibrillation and flutter; a late QRS in first-degree block; a spike before a paced QRS."""
    if "atrial_fibrillation" in diagnoses or "atrial_flutter" in diagnoses:
        return replace(heart, pr=None)
    if "first_degree_av_block" in diagnoses:  # where the rate allows, P begins after the T wave before it
        return replace(heart, pr=min(rng.uniform(0.22, 0.32), max(0.22, mean_rr - heart.qt - 0.04)))
    if "ventricular_pacing" in diagnoses:
        return replace(heart, spike=rng.uniform(0.7, 1.6) * _turns(rng, [[15.0] * 3], False)[0] @ _SPIKE)
    return heart


def atrial_premature(rng: np.random.Generator, heart: Heart) -> Heart:
    """The heart's beat when it starts low in the atria: P points up, or at least not down as in sinus rhythm."""
    up = np.array([1.0, rng.uniform(-0.9, -0.3), 1.0])
    return replace(heart, p_parts=[(dipole * up, at, width) for dipole, at, width in heart.p_parts], code="A")


def ventricular_premature(rng: np.random.Generator, heart: Heart) -> Heart:
    """The heart's beat when it starts in a ventricle: no P, a broad QRS, and T to the other side."""
    source = _ECTOPIC[rng.integers(len(_ECTOPIC))]
    qrs = rng.uniform(*source.duration)
    turn = rng.uniform(0.8, 1.4) * _turns(rng, [[15.0] * 3], False)[0]
    return replace(
        heart,
        pr=None,
        spike=None,
        qrs=qrs,
        qt=heart.qt + max(qrs - heart.qrs, 0.0),
        qrs_parts=_turned(turn, source.qrs),
        t=turn @ source.t,
        injury=turn @ source.st,
        r_peak=source.r_peak,
        code="V",
    )


# Criteria: what a diagnosis is read from on paper, so that each record with it meets them -----------------------------


def with_criteria(rng: np.random.Generator, heart: Heart, diagnoses: Collection[str], lead_matrix: np.ndarray) -> Heart:
    """The heart with its dipoles scaled until these leads, (8, 3) of I, II, V1-V6, show the diagnoses.

    Left ventricular hypertrophy: S in V1 and R in V5 or V6 add up to 4.0 to 5.5 mV (Sokolow and Lyon: 3.5); without it
    to 3.0 at most. Right: R in V1 of 0.8 to 1.6 mV. ST elevation: 0.15 to 0.35 mV or more 60 ms after QRS in all leads
    of the territory. T inversion: 0.15 to 0.45 mV or more in V4, V5 and V6.
    """
    if not diagnoses:
        return heart
    leads = _lead_vectors(lead_matrix)
    v1, v5, v6 = _in_qrs(heart, [leads[lead] for lead in ("V1", "V5", "V6")])
    voltage = max(v5.max(), v6.max()) - v1.min()
    if "left_ventricular_hypertrophy" in diagnoses:
        heart = _scaled(heart, rng.uniform(4.0, 5.5) / voltage)
    elif not VENTRICLES.keys() & diagnoses and voltage > 3.0:
        heart = _scaled(heart, rng.uniform(2.4, 3.0) / voltage)
    if "right_ventricular_hypertrophy" in diagnoses:
        heart = _scaled(heart, rng.uniform(0.8, 1.6) / v1.max())
    if "t_inversion" in diagnoses:
        smallest = min(leads[lead] @ heart.t for lead in ("V4", "V5", "V6"))
        heart = replace(heart, t=-rng.uniform(0.15, 0.45) / smallest * heart.t)
    for name in ST_ELEVATION.keys() & diagnoses:
        heart = _with_st_elevation(rng, heart, *ST_ELEVATION[name], leads)
    return heart


def _lead_vectors(lead_matrix: np.ndarray) -> dict[str, np.ndarray]:
    vectors = dict(zip(ECG_JEPA_LEADS, lead_matrix, strict=True))
    derived = {
        lead: sum(weight * vectors[source] for source, weight in rules[0].items())
        for lead, rules in LIMB_RULES.items()
        if lead not in vectors
    }
    return vectors | derived


def dipole_at(waves: Sequence[Wave], time: np.ndarray) -> np.ndarray:
    """The dipole (3, samples) of one beat in mV; time in s from the onset of QRS."""
    peaks, before, after = np.array([(wave.peak, wave.width, wave.width_after) for wave in waves]).T[:, :, None]
    distance = time - peaks
    distance /= np.where(distance < 0, before, after)
    return np.stack([wave.dipole for wave in waves], axis=1) @ np.exp(-0.5 * distance**2)


def _in_qrs(heart: Heart, leads: Sequence[np.ndarray]) -> np.ndarray:
    """These leads through QRS, in mV every 2 ms."""
    return np.stack(leads) @ dipole_at(heart.qrs_waves(), np.arange(0.0, heart.qrs, 0.002))


def _scaled(heart: Heart, factor: float) -> Heart:
    """The heart with larger or smaller ventricular voltages; T grows less than QRS."""
    parts = [(factor * dipole, at, width) for dipole, at, width in heart.qrs_parts]
    less = math.sqrt(factor)
    injury = None if heart.injury is None else less * heart.injury
    return replace(heart, qrs_parts=parts, t=less * heart.t, injury=injury)


def _with_st_elevation(
    rng: np.random.Generator, heart: Heart, wall: Vector, facing: Sequence[str], leads: dict[str, np.ndarray]
) -> Heart:
    """Raise ST, and T with it, until every lead that faces the wall is at a height that is drawn."""
    wall = _turns(rng, [[4.0] * 3], False)[0] @ np.asarray(wall)
    place = np.array([heart.qrs + 0.06])
    healthy = dipole_at(heart.waves(), place)[:, 0]
    raised = replace(heart, injury=wall, t=heart.t + 0.8 * wall)
    gain = dipole_at(raised.waves(), place)[:, 0] - healthy
    height = rng.uniform(0.15, 0.35)
    strength = max((height - leads[lead] @ healthy) / (leads[lead] @ gain) for lead in facing)
    return replace(heart, injury=strength * wall, t=heart.t + 0.8 * strength * wall)
