"""Near-duplicate recordings: the same signal under two ids, also resampled, filtered, scaled or shifted.

Three steps, so that the work grows almost linearly with the number of records:

1. `sketch`: a record becomes a few numbers a lead. All signals are brought into one band (1.5 to 20 Hz, which every
   rate and every usual ECG filter keeps) and to one rate; of each window of 10 s and each lead the amplitudes of the
   Fourier coefficients are kept, which a shift leaves alone, normalised, which takes the scale away, and projected on
   32 fixed random directions.
2. `candidate_pairs`: locality-sensitive hashing (Datar et al., "Locality-sensitive hashing scheme based on p-stable
   distributions", SCG 2004) finds the pairs that are close, without looking at all pairs.
3. `correlation`: candidates are read again and compared sample by sample, where they fit each other best.

What is covered: copies of the whole record; one 10 s piece of a longer record, from anywhere in its first 5 minutes;
any set of leads with at least one of I, II, V1-V6 in common, limb leads derived where they can be. What is not: pieces
shorter than 10 s of longer records, exchanged or inverted leads, changed speed.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.signal
from tqdm import tqdm

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaError, EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import ECG_JEPA_LEADS

from .recordings import Recording
from .records import EcgRecord
from .signals import with_leads
from .skipped import SkippedRecord, skipped_by

#: All signals are compared in this band, Hz: kept whole inside, gone outside the outer pair.
BAND = (1.5, 20.0)
_BAND_EDGES = (0.75, 24.0)

#: Only the beginning of a long record is searched.
LONGEST_SECONDS = 300.0
SHORTEST_SECONDS = 3.0
WINDOW_SECONDS = 10.0
#: A piece of a longer record lies at most half of this beside one of its windows.
STRIDE_SECONDS = 0.5

#: Rates at which sketches are computed and candidates compared, Hz.
_SKETCH_RATE, _COMPARED_RATE = 50, 500
_DIMENSIONS = 32

#: Two windows are candidates up to this mean distance over the leads that both have (amplitudes are unit vectors: a
#: cosine of 0.97). Measured on 190 records: copies shifted by 0.25 s 0.09, with 0.05 mV of white noise at most 0.242,
#: with the baseline taken off by a median filter 0.234; of 1.96 million pairs of different records 3 are closer.
CLOSE = 0.25

# A bucket of one table holds the windows whose 12 coordinates lie in the same cells of this width. Of two windows at
# distance 0.1 a table finds 37 %, at 0.25 7 %; eight leads with eight tables each leave next to none unfound.
_TABLES_A_LEAD, _COORDINATES, _CELL = 8, 12, 1.0
#: In a bucket each window is compared with so many others at most: a corpus of equal records stays linear.
_MOST_NEIGHBOURS = 64
#: A recording is compared with its closest so many, and with those that it is among the closest of.
_MOST_CANDIDATES = 16

#: When records are moved against each other, this much of a window, or of the shorter record, may find no counterpart.
_OVERHANG_SECONDS = 0.6
#: Filters of different origin differ most at the ends; these seconds are not compared.
_ENDS_SECONDS = 0.5

#: Below this root mean square in the band (mV) a lead holds no heart: constant, or the rounding of a constant.
_QUIET_MILLIVOLTS = 1e-4

#: Longer constant stretches at the ends are padding.
_PADDING_SECONDS = 0.3

#: Larger gaps in a window, as a share of it, make its lead missing.
_LARGEST_GAP = 0.1


def sketch(record: EcgRecord) -> np.ndarray:
    """What is remembered of a record: (windows, 8 leads, 32) float32, NaN for a lead that is missing in a window.

    The leads are I, II, V1-V6, as far as the record has them or they follow from what it has.

    Raises:
        EcgJepaRecordError: it has none of these leads, is constant, too short (3 s), or sampled below 50 Hz.
    """
    signal = common_signal(record, _SKETCH_RATE)
    length = min(signal.shape[1], round(WINDOW_SECONDS * _SKETCH_RATE))
    last = signal.shape[1] - length
    starts = np.unique(np.r_[0 : last + 1 : round(STRIDE_SECONDS * _SKETCH_RATE), last])
    windows = np.lib.stride_tricks.sliding_window_view(signal, length, axis=1)[:, starts].swapaxes(0, 1)
    points = _normalised_amplitudes(windows) @ _projection()
    points[np.sqrt(np.mean(windows**2, axis=-1)) < _QUIET_MILLIVOLTS] = np.nan
    if np.isnan(points).all():
        raise EcgJepaRecordError("no signal to compare", f"{record.record_id}: I, II, V1-V6 are missing or constant.")
    return points.astype(np.float32)


def common_signal(record: EcgRecord, sampling_rate: int) -> np.ndarray:
    """The first 5 minutes of leads I, II, V1-V6 in the common band at a common rate: (8, samples), missing leads 0.

    Raises:
        EcgJepaRecordError: as `sketch`.
    """
    if record.sampling_rate < 2 * _BAND_EDGES[1]:
        text = f"{record.record_id}: {record.sampling_rate:g} Hz is too slow; {2 * _BAND_EDGES[1]:g} Hz are needed."
        raise EcgJepaRecordError("sampling rate too low", text)
    signal = with_leads(record, ECG_JEPA_LEADS).signal[:, : round(LONGEST_SECONDS * record.sampling_rate)]
    signal = _without_padding(signal.astype(np.float64), record.sampling_rate)
    samples = int(signal.shape[1] * sampling_rate / record.sampling_rate + 1e-6)
    if samples < SHORTEST_SECONDS * sampling_rate:
        seconds = signal.shape[1] / record.sampling_rate
        text = f"{record.record_id}: {seconds:.1f} s of signal cannot be compared; {SHORTEST_SECONDS:g} s are needed."
        raise EcgJepaRecordError("too short to compare", text)
    # Cut to whole samples of the new rate: otherwise a crop would be stretched by a part of a sample.
    signal = _without_gaps(signal[:, : round(samples * record.sampling_rate / sampling_rate)])
    return _in_common_band(signal, record.sampling_rate, samples)


def _without_padding(signal: np.ndarray, sampling_rate: float) -> np.ndarray:
    """The signal without long constant stretches at its ends, such as the zeros around short exams in CODE-15%."""
    changes = np.flatnonzero((np.diff(np.nan_to_num(signal), axis=1) != 0).any(axis=0))
    if not len(changes):
        return signal[:, :0]
    first, last = changes[0], changes[-1] + 1
    long = _PADDING_SECONDS * sampling_rate
    return signal[:, first if first > long else 0 : last + 1 if signal.shape[1] - last > long else None]


def _without_gaps(signal: np.ndarray) -> np.ndarray:
    """The signal with short gaps filled linearly, and leads with long ones set to 0, which is missing."""
    missing = ~np.isfinite(signal)
    places = np.arange(signal.shape[1])
    for row, gaps in zip(signal, missing, strict=True):
        if gaps.mean() > _LARGEST_GAP:
            row[:] = 0.0
        elif gaps.any():
            row[gaps] = np.interp(places[gaps], places[~gaps], row[~gaps])
    return signal


def _in_common_band(signal: np.ndarray, sampling_rate: float, samples: int) -> np.ndarray:
    """Band-pass without a change of phase, and change of rate, in one step in the Fourier domain."""
    signal = signal - signal.mean(axis=1, keepdims=True)
    ends = min(1.0, 2 * _ENDS_SECONDS * sampling_rate / signal.shape[1])
    spectrum = scipy.fft.rfft(signal * scipy.signal.windows.tukey(signal.shape[1], ends))
    frequencies = np.arange(spectrum.shape[1]) * (sampling_rate / signal.shape[1])
    rise = np.clip((frequencies - _BAND_EDGES[0]) / (BAND[0] - _BAND_EDGES[0]), 0, 1)
    fall = np.clip((_BAND_EDGES[1] - frequencies) / (_BAND_EDGES[1] - BAND[1]), 0, 1)
    spectrum *= np.sin(np.pi / 2 * np.minimum(rise, fall)) ** 2
    return scipy.fft.irfft(spectrum[:, : samples // 2 + 1], samples) * (samples / signal.shape[1])


def _normalised_amplitudes(windows: np.ndarray) -> np.ndarray:
    """(windows, leads, samples) -> (windows, leads, frequencies): unit vectors of mean 0, or 0 for a silent lead."""
    tapered = windows * scipy.signal.windows.hann(windows.shape[-1], sym=False)
    amplitudes = np.abs(scipy.fft.rfft(tapered, round(WINDOW_SECONDS * _SKETCH_RATE)))[..., _bins()]
    amplitudes -= amplitudes.mean(axis=-1, keepdims=True)
    return amplitudes / np.maximum(np.linalg.norm(amplitudes, axis=-1, keepdims=True), 1e-12)


def _bins() -> slice:
    return slice(round(BAND[0] * WINDOW_SECONDS), round(BAND[1] * WINDOW_SECONDS) + 1)


@functools.cache
def _projection() -> np.ndarray:
    """(frequencies, 32): keeps distances, on average (Johnson and Lindenstrauss); the same in every run."""
    bins = _bins()
    return np.random.default_rng(20).normal(size=(bins.stop - bins.start, _DIMENSIONS)) / np.sqrt(_DIMENSIONS)


# Pairs that may be the same ------------------------------------------------------------------------------------------


def candidate_pairs(points: np.ndarray, owners: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of records with windows that are close on average over the leads that both have.

    Args:
        points: (windows, 8, 32), the sketches of all records.
        owners: (windows,) the number of each window's record.

    Returns:
        (first, second) numbers of records, first < second, in this order, each pair once.
    """
    first, second, distances = _close_windows(points, owners)
    closest: Counter[int] = Counter()
    chosen: set[tuple[int, int]] = set()
    for place in np.argsort(distances, kind="stable"):
        records = int(owners[first[place]]), int(owners[second[place]])
        pair = min(records), max(records)
        if pair not in chosen and min(closest[record] for record in pair) < _MOST_CANDIDATES:
            chosen.add(pair)
            closest.update(pair)
    return sorted(chosen)


def _close_windows(points: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of windows and the mean over leads of their distances."""
    shape = len(points), len(points)
    found = np.empty(0, np.int64)
    for lead in range(points.shape[1]):
        near = [found]
        for table in range(_TABLES_A_LEAD):
            for pairs in _sharing_a_bucket(points[:, lead], seed=(lead, table)):
                pairs = pairs[owners[pairs[:, 0]] != owners[pairs[:, 1]]]
                pairs = pairs[_distance(points[:, lead], pairs) < CLOSE]
                near.append(np.ravel_multi_index(tuple(pairs.T), shape))
        found = np.unique(np.concatenate(near))
    found = np.stack(np.unravel_index(found, shape), axis=1)
    parts = np.array_split(found, 1 + len(found) // 10_000)
    distances = np.concatenate([np.nanmean(_distance(points, part), axis=1) for part in parts])
    kept = distances < CLOSE
    return found[kept, 0], found[kept, 1], distances[kept]


def _sharing_a_bucket(points: np.ndarray, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Pairs (n, 2) of windows that fall into one bucket of a table: each with the next, the next but one, and so on."""
    rng = np.random.default_rng(seed)
    # In any order but that of time, lest the neighbours be windows of one long record; the same order in all tables,
    # lest equal records make ever more pairs.
    order = np.random.default_rng(0).permutation(len(points))
    present = order[~np.isnan(points[order, 0])]
    directions = rng.normal(size=(_DIMENSIONS, _COORDINATES)).astype(np.float32)
    cells = np.floor(points[present] @ directions / _CELL + rng.uniform(size=_COORDINATES)).astype(np.int64)
    keys = cells @ rng.integers(-(2**62), 2**62, _COORDINATES)  # wraps around, as hashes do
    order = np.argsort(keys, kind="stable")
    keys, present = keys[order], present[order]
    for step in range(1, _MOST_NEIGHBOURS + 1):
        shared = np.flatnonzero(keys[step:] == keys[:-step])
        if not len(shared):
            return
        yield np.sort(np.stack([present[shared], present[shared + step]], axis=1), axis=1)


def _distance(points: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=-1)


# Are they the same? ---------------------------------------------------------------------------------------------------


#: Mean correlations from which two records are one, with five common leads or more, and with fewer.
#:
#: Measured on 1,791 records of PTB-XL at 100 Hz and 453 at 500 Hz, 160 of LUDB, and 30 of Georgia, CPSC2018 and Ningbo.
#: The same record at both rates: at least 0.998. Copies of 190 records: band-passed 0.67-40 or 1-47 Hz, causally
#: high-passed at 0.5 Hz, with 1 mV of wander at 0.3 Hz, with a median-filtered baseline taken off: at least 0.957;
#: with white noise of 0.05 mV 0.962, of 0.1 mV 0.875. The most alike of different records: 0.848 over all eight leads,
#: 0.938 over four, 0.959 over one or two.
SAME, SAME_IN_FEW_LEADS = 0.92, 0.98
_FEW_LEADS = 4


class Match(NamedTuple):
    """How alike two records are.

    Attributes:
        correlation: mean over the common leads of the correlation at the best lag.
        leads: the number of common leads.
        lag_seconds: by how much later the signal comes in the first record.
    """

    correlation: float
    leads: int
    lag_seconds: float

    @property
    def is_duplicate(self) -> bool:
        """Whether the two are one recording."""
        return self.correlation >= (SAME if self.leads > _FEW_LEADS else SAME_IN_FEW_LEADS)


def correlation(first: EcgRecord, second: EcgRecord) -> Match:
    """Compare two records sample by sample, lead by lead, in the common band, where they fit each other best.

    Raises:
        EcgJepaRecordError: as `sketch`, or the two have no lead in common.
    """
    one, two = common_signal(first, _COMPARED_RATE), common_signal(second, _COMPARED_RATE)
    live = np.flatnonzero(_is_live(one) & _is_live(two))
    if not len(live):
        text = f"{first.record_id} and {second.record_id} have none of I, II, V1-V6 in common."
        raise EcgJepaRecordError("no lead in common", text)
    one, two = one[live], two[live]
    lag = _best_lag(one, two)
    one, two = one[:, max(lag, 0) :], two[:, max(-lag, 0) :]
    ends, length = round(_ENDS_SECONDS * _COMPARED_RATE), min(one.shape[1], two.shape[1])
    leads = _correlations(one[:, ends : length - ends], two[:, ends : length - ends])
    return Match(float(np.mean(leads)), len(live), lag / _COMPARED_RATE)


def _is_live(signal: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(signal**2, axis=1)) >= _QUIET_MILLIVOLTS


def _best_lag(one: np.ndarray, two: np.ndarray) -> int:
    """Samples by which `one` is late: the lag at which the leads' correlations are highest on average."""
    lengths = one.shape[1], two.shape[1]
    window = round(WINDOW_SECONDS * _COMPARED_RATE)
    overlap = max(1, min(*lengths, window) - round(_OVERHANG_SECONDS * _COMPARED_RATE))
    lags = np.arange(overlap - lengths[1], lengths[0] - overlap + 1)
    size = scipy.fft.next_fast_len(sum(lengths), real=True)
    products = scipy.fft.irfft(scipy.fft.rfft(one, size) * scipy.fft.rfft(two, size).conj(), size)[:, lags]
    energies = [
        _energy(signal, np.maximum(shift, 0), np.minimum(signal.shape[1], other.shape[1] + shift))
        for signal, other, shift in ((one, two, lags), (two, one, -lags))
    ]
    size = np.sqrt(np.maximum(energies[0] * energies[1], 1e-20))
    return int(lags[np.argmax((products / size).sum(axis=0))])


def _energy(signal: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(leads, lags) sums of squares from each start to each end."""
    sums = np.pad(np.cumsum(signal**2, axis=1), ((0, 0), (1, 0)))
    return sums[:, ends] - sums[:, starts]


def _correlations(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    one, two = (x - x.mean(axis=1, keepdims=True) for x in (one, two))
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return (one * two).sum(axis=1) / np.maximum(size, 1e-12)


# All together ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DuplicatePair:
    """Two recordings that are one."""

    first: Recording
    second: Recording
    match: Match

    @property
    def relation(self) -> str:
        """Where the two lie to each other: one of `RELATIONS`."""
        if self.first.corpus != self.second.corpus:
            return RELATIONS[2]
        return RELATIONS[0] if self.first.split == self.second.split else RELATIONS[1]


RELATIONS = ("within a split", "across splits", "across corpora")


@dataclass(frozen=True)
class SharedPatient:
    """A patient with recordings in several splits; `counts` are recordings by (corpus, split)."""

    patient_id: str
    counts: Mapping[tuple[str, str | None], int]


@dataclass(frozen=True)
class LeakageReport:
    """What `check_leakage` found; `compared` is the number of recordings whose signals were compared."""

    pairs: list[DuplicatePair]
    patients: list[SharedPatient]
    left_out: list[SkippedRecord]
    compared: int


def check_leakage(
    recordings: Sequence[Recording], *, num_proc: int = 1, same_patients: bool = False, progress: bool = False
) -> LeakageReport:
    """Find recordings that are the same signal, and patients in several splits.

    Args:
        recordings: as `recordings.find_recordings` gives them.
        num_proc: processes that read; the search itself takes one, and seconds.
        same_patients: patient ids mean the same in all corpora; else they are compared within each.
        progress: show bars.
    """
    with _workers(num_proc) as mapped:
        sketches = list(tqdm(mapped(_sketch_of, recordings), "reading", len(recordings), disable=not progress))
        left_out = [result for result in sketches if isinstance(result, SkippedRecord)]
        pairs = _candidates(recordings, sketches)
        matches = tqdm(mapped(_match_of, pairs), "comparing", len(pairs), disable=not progress)
        found = [
            DuplicatePair(first, second, match)
            for (first, second), match in zip(pairs, matches, strict=True)
            if match.is_duplicate
        ]
    compared = len(recordings) - len(left_out)
    return LeakageReport(found, shared_patients(recordings, same_patients), left_out, compared)


def shared_patients(recordings: Sequence[Recording], same_patients: bool = False) -> list[SharedPatient]:
    """Patients with recordings in several splits, or with `same_patients` also in several corpora."""
    places: dict[tuple[str | None, str], Counter] = {}
    for recording in recordings:
        if recording.patient_id is not None:
            corpus = None if same_patients else recording.corpus
            counts = places.setdefault((corpus, recording.patient_id), Counter())
            counts[recording.corpus, recording.split] += 1
    return [SharedPatient(patient, counts) for (_, patient), counts in places.items() if len(counts) > 1]


def _candidates(
    recordings: Sequence[Recording], sketches: Sequence[np.ndarray | SkippedRecord]
) -> list[tuple[Recording, Recording]]:
    kept = {place: points for place, points in enumerate(sketches) if not isinstance(points, SkippedRecord)}
    if not kept:
        return []
    owners = np.repeat(list(kept), [len(points) for points in kept.values()])
    pairs = candidate_pairs(np.concatenate(list(kept.values())), owners)
    return [(recordings[first], recordings[second]) for first, second in pairs]


def _sketch_of(recording: Recording) -> np.ndarray | SkippedRecord:
    try:
        return sketch(recording.read())
    except EcgJepaError as error:
        return skipped_by(error, f"{recording} ({recording.place})")


def _match_of(pair: tuple[Recording, Recording]) -> Match:
    return correlation(*map(_read, pair))


@functools.lru_cache(maxsize=16)
def _read(recording: Recording) -> EcgRecord:
    return recording.read()


@contextmanager
def _workers(num_proc: int) -> Iterator[Callable[[Callable, Sequence], Iterable]]:
    """`map`, in order, over some processes or in this one."""
    if num_proc == 1:
        yield map
        return
    with ProcessPoolExecutor(num_proc) as pool:
        yield functools.partial(pool.map, chunksize=16)
