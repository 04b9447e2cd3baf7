"""The synthetic hearts obey the physics of the leads, look like ECGs, and are what their truth says."""

import numpy as np
import pytest
from scipy.signal import butter, find_peaks, resample, sosfiltfilt, welch

from dataset_scripts.heart import DOWER_MATRIX
from dataset_scripts.synthesis import synthesize_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaInputError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

RECORDS = 60


@pytest.fixture(scope="module")
def corpus():
    return [synthesize_record(seed=1, index=index) for index in range(RECORDS)]


def leads_of(record) -> dict[str, np.ndarray]:
    return dict(zip(record.lead_names, record.signal.astype(np.float64), strict=True))


def mean_beat(record, truth) -> np.ndarray:
    """Median beat (12, samples) around R, 0.3 s before to 0.45 s after at 500 Hz, without its own isoelectric level."""
    places = [round(peak * 500) for peak in truth.r_peaks if 0.3 <= peak < 9.5]
    beats = np.stack([record.signal[:, place - 150 : place + 225] for place in places])
    before_qrs = 150 - round(0.06 * 500)  # 60 ms before R lies between P and QRS
    return np.median(beats - beats[:, :, before_qrs - 3 : before_qrs + 3].mean(axis=2, keepdims=True), axis=0)


def test_a_record_has_the_form_that_readers_return(corpus):
    record, _ = corpus[0]
    assert record.signal.dtype == np.float32 and record.signal.shape == (12, 5000)
    assert (record.lead_names, record.sampling_rate) == (STANDARD_12_LEADS, 500.0)
    assert (record.record_id, record.path) == ("synthetic-1-0", None)
    assert all(np.isfinite(record.signal).all() for record, _ in corpus)


def test_the_limb_leads_obey_einthoven_and_goldberger(corpus):
    for record, _ in corpus:
        lead = leads_of(record)
        assert np.abs(lead["III"] - (lead["II"] - lead["I"])).max() < 1e-6
        assert np.abs(lead["aVR"] + (lead["I"] + lead["II"]) / 2).max() < 1e-6
        assert np.abs(lead["aVL"] - (lead["I"] - lead["II"] / 2)).max() < 1e-6
        assert np.abs(lead["aVF"] - (lead["II"] - lead["I"] / 2)).max() < 1e-6


def test_a_record_depends_on_seed_and_index_alone():
    first, truth = synthesize_record(5, 17)
    synthesize_record(5, 18)
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    again, same_truth = synthesize_record(5, 17)
    assert np.array_equal(first.signal, again.signal) and truth == same_truth
    for seed, index in [(5, 18), (6, 17), (17, 5)]:
        assert not np.array_equal(first.signal, synthesize_record(seed, index)[0].signal)


@pytest.mark.parametrize("index", range(5))
def test_the_sampling_rate_changes_the_sampling_only(index):
    at_500, truth = synthesize_record(3, index, sampling_rate=500)
    at_1000, same_truth = synthesize_record(3, index, sampling_rate=1000)
    at_250, _ = synthesize_record(3, index, sampling_rate=250)
    at_200, _ = synthesize_record(3, index, sampling_rate=200)
    assert (truth.heart_rate, truth.r_peaks) == (same_truth.heart_rate, same_truth.r_peaks)
    # All noise lies below 250 Hz, so nothing differs between 500 and 1000 Hz.
    assert np.abs(at_1000.signal[:, ::2] - at_500.signal).max() < 1e-4
    # Below, the band above half the rate is gone: what is left equals the record resampled, but for its ends.
    for lower in (at_250, at_200):
        samples = lower.signal.shape[1]
        difference = resample(at_500.signal, samples, axis=1) - lower.signal
        assert np.sqrt(np.mean(difference[:, samples // 20 : -samples // 20] ** 2)) < 0.003


def test_the_heart_rate_is_what_an_independent_detector_counts(corpus):
    band = butter(2, [5, 25], "bandpass", fs=500, output="sos")
    errors = []
    for record, truth in corpus:
        lead_ii = np.abs(sosfiltfilt(band, record.signal[1]))
        peaks, _ = find_peaks(lead_ii, height=0.5 * np.percentile(lead_ii, 99.5), distance=150)
        errors.append(abs(60 * 500 / np.diff(peaks).mean() - truth.heart_rate))
    assert np.mean(np.array(errors) < 2) >= 0.95
    assert np.median(errors) < 0.3


def test_the_r_peaks_lie_where_the_qrs_is_largest(corpus):
    for record, truth in corpus:
        size = np.linalg.norm(record.signal[[0, 1, *range(6, 12)]], axis=0)
        for peak in truth.r_peaks:
            place = round(peak * 500)
            around = size[max(place - 60, 0) : place + 60]
            if 60 <= place < 4940:
                assert abs(int(around.argmax()) - 60) <= 15  # 30 ms, within QRS
        rates = 60 / np.diff(truth.r_peaks)
        assert rates.min() > 40 * 0.85 and rates.max() < 140 / 0.85
        assert np.isclose(60 / np.diff(truth.r_peaks).mean(), truth.heart_rate)


def test_rates_intervals_and_axes_spread_over_their_ranges():
    truths = [synthesize_record(2, index, sampling_rate=200)[1] for index in range(400)]
    rates = np.array([truth.heart_rate for truth in truths])
    assert rates.min() < 45 and rates.max() > 135 and abs(rates.mean() - 90) < 6
    assert np.histogram(rates, bins=5, range=(40, 140))[0].min() > 50
    for name, low, high in [("pr_ms", 100, 220), ("qrs_ms", 75, 160), ("qt_ms", 250, 550)]:
        values = np.array([getattr(truth, name) for truth in truths])
        assert low <= values.min() < values.max() <= high
    assert np.corrcoef(rates, [truth.qt_ms for truth in truths])[0, 1] < -0.8  # QT shortens with rate
    assert abs(np.corrcoef(rates, [truth.qrs_ms for truth in truths])[0, 1]) < 0.2
    axes = np.array([truth.axis_degrees for truth in truths])
    assert 15 < axes.mean() < 60 and 15 < axes.std() < 45


def test_amplitudes_lie_where_those_of_real_records_lie(corpus):
    """The record-level medians measured on 2,600 real records are 0.015 to 0.49 mV."""
    for record, _ in corpus:
        deviation = np.abs(record.signal - np.median(record.signal, axis=1, keepdims=True))
        assert 0.015 <= np.median(deviation) <= 0.49
        assert 0.5 < np.abs(record.signal).max() < 8


def test_a_cardiologist_would_know_the_beat(corpus):
    beats = np.stack([mean_beat(record, truth) for record, truth in corpus])
    beat = dict(zip(STANDARD_12_LEADS, np.median(beats, axis=0), strict=True))
    qrs, t_wave = slice(125, 185), slice(200, 330)  # 50 ms before to 70 ms after R; 0.1 to 0.36 s after R
    r = {lead: beat[lead][qrs].max() for lead in beat}
    s = {lead: -beat[lead][qrs].min() for lead in beat}
    progression = [r[lead] / (r[lead] + s[lead]) for lead in ("V1", "V2", "V3", "V4", "V5")]
    assert progression == sorted(progression) and progression[0] < 0.35 and progression[-1] > 0.75
    assert s["aVR"] > 2 * r["aVR"] and r["II"] > 2 * s["II"] and r["I"] > 2 * s["I"]
    for lead in ("I", "II", "V3", "V4", "V5", "V6"):
        t_waves = beats[:, STANDARD_12_LEADS.index(lead), t_wave]
        assert np.mean(t_waves.max(axis=1) > -t_waves.min(axis=1)) > 0.75, lead  # upright in most, not in all
    assert np.median(beats[:, 1, t_wave].max(axis=1)) > 0.15
    assert beat["aVR"][t_wave].min() < -0.05
    slow = np.array([truth.heart_rate < 90 for _, truth in corpus])
    p_wave = np.median(beats[slow, 1], axis=0)[20:110]  # lead II, 260 to 80 ms before R
    assert 0.05 < p_wave.max() < 0.3 and p_wave.max() > p_wave[0] + 0.04


def test_the_intervals_are_those_of_the_beat(corpus):
    """QRS and T rise from the isoelectric line and return to it where the truth says (slow hearts, little noise)."""
    quiet = [(record, truth) for record, truth in corpus if truth.heart_rate < 80 and truth.noise_mv < 0.06]
    assert len(quiet) > 10
    for record, truth in quiet:
        size = np.linalg.norm(mean_beat(record, truth)[[0, 1, *range(6, 12)]], axis=0)
        onset = 150 - round(0.44 * truth.qrs_ms / 2)  # samples at 500 Hz, R at 150
        end, t_end = onset + round(truth.qrs_ms / 2), onset + round(truth.qt_ms / 2)
        peak = size[onset:end].max()
        assert size[onset - 5] < 0.12 * peak < size[onset + round(0.3 * (end - onset))]
        assert size[end] < 0.25 * peak
        assert size[t_end : t_end + 10].mean() < 0.5 * size[end:t_end].max()


def test_the_axis_is_that_of_the_leads(corpus):
    """Net QRS areas in I and aVF of the recorded beats give the axis again (leads scaled a little per chest)."""
    errors = []
    for record, truth in corpus:
        beat = mean_beat(record, truth)
        area_i, area_avf = beat[0, 125:180].sum(), beat[5, 125:180].sum()
        axis = np.degrees(np.arctan2(2 * area_avf / np.sqrt(3), area_i))
        errors.append(abs((axis - truth.axis_degrees + 180) % 360 - 180))
    assert np.median(errors) < 10


def test_the_spectrum_is_that_of_an_ecg_with_a_little_noise(corpus):
    frequencies, power = welch(np.stack([record.signal for record, _ in corpus]), fs=500, nperseg=1000)
    power = power.mean(axis=1)
    total = power[:, frequencies > 0.5].sum(axis=1)
    assert (power[:, (frequencies > 0.5) & (frequencies < 40)].sum(axis=1) / total > 0.95).all()
    fast = sosfiltfilt(butter(4, [60.5, 150], "bandpass", fs=500, output="sos"), [r.signal for r, _ in corpus], axis=2)
    strength = np.median(np.abs(fast), axis=2).mean(axis=1) / 0.6745  # robust RMS; QRS is too short to count
    assert strength.min() > 0.0005 and strength.max() < 0.05 and 0.001 < np.median(strength) < 0.01
    noises = [truth.noise_mv for _, truth in corpus]
    assert min(noises) > 0.005 and max(noises) < 0.4 and max(noises) > 3 * min(noises)


def test_eight_leads_show_a_heart_of_three_dimensions(corpus):
    """Without noise the eight leads are three numbers apart: the fourth singular value is noise only."""
    for record, truth in corpus:
        independent = record.signal[[0, 1, *range(6, 12)]]
        values = np.linalg.svd(independent, compute_uv=False) / np.sqrt(independent.shape[1])
        assert values[3] < 4 * truth.noise_mv
    assert np.linalg.matrix_rank(DOWER_MATRIX) == 3


@pytest.mark.parametrize("seconds", [1.0, 2.5, 60.0])
def test_any_length_will_do(seconds):
    record, truth = synthesize_record(1, 0, sampling_rate=250, seconds=seconds)
    assert record.signal.shape == (12, round(250 * seconds))
    assert 39 < truth.heart_rate < 142 and all(0 <= peak < seconds for peak in truth.r_peaks)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"index": 1.5}, "index=1.5"),
        ({"sampling_rate": 0}, "sampling_rate=0"),
        ({"sampling_rate": float("nan")}, "sampling_rate=nan"),
        ({"seconds": 0}, "seconds=0"),
        ({"seconds": 1e9}, "seconds=1000000000.0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, said):
    with pytest.raises(EcgJepaInputError, match=said):
        synthesize_record(**{"seed": 0, "index": 0, **arguments})
