"""Cropping, choosing leads, resampling and storing as counts."""

import dataclasses

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dataset_scripts.records import EcgRecord, read_record
from dataset_scripts.signals import first_seconds, in_canonical_order, resampled, to_counts, with_leads
from modeling_ecg_jepa import EcgJepaFeatureExtractor, EcgJepaRecordError


def record(signal, leads=("I", "II"), sampling_rate=500.0) -> EcgRecord:
    return EcgRecord(np.asarray(signal, np.float32), sampling_rate, tuple(leads), "r")


def noise(leads: int, samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(leads, samples)).astype(np.float32)


def test_leads_come_in_the_order_of_the_lead_table():
    signal = noise(4, 10)
    ordered = in_canonical_order(record(signal, ["V2", "aVF", "VX", "I"]))
    assert ordered.lead_names == ("I", "aVF", "V2", "VX")
    np.testing.assert_array_equal(ordered.signal, signal[[3, 1, 0, 2]])


def test_chosen_leads_are_kept_derived_or_missing():
    signal = noise(3, 10)
    chosen = with_leads(record(signal, ["I", "II", "V1"]), ["V1", "III", "aVR", "V6"])
    assert chosen.lead_names == ("V1", "III", "aVR", "V6")
    first, second, v1 = signal
    np.testing.assert_array_equal(chosen.signal[0], v1)
    np.testing.assert_allclose(chosen.signal[1], second - first, atol=1e-6)
    np.testing.assert_allclose(chosen.signal[2], -(first + second) / 2, atol=1e-6)
    assert np.isnan(chosen.signal[3]).all()


def test_none_of_the_chosen_leads_is_an_error_that_lists_both():
    with pytest.raises(EcgJepaRecordError, match="it has V1, V2, and none of I, II is or follows from these"):
        with_leads(record(noise(2, 10), ["V1", "V2"]), ["I", "II"])


def test_cropping_keeps_the_first_seconds():
    signal = noise(2, 1285)
    np.testing.assert_array_equal(first_seconds(record(signal, sampling_rate=257.0), 2.0).signal, signal[:, :514])


@pytest.mark.parametrize(("given", "wanted", "samples"), [(500, 250, 5000), (400, 250, 4096), (1000, 250, 10001)])
def test_resampling_is_scipys_fourier_method(given, wanted, samples):
    signal = noise(3, samples)
    result = resampled(record(signal, ["I", "II", "V1"], given), wanted)
    number = round(samples * wanted / given)
    assert (result.signal.dtype, result.sampling_rate) == (np.float32, wanted)
    np.testing.assert_allclose(result.signal, scipy.signal.resample(signal.astype(float), number, axis=1), atol=1e-6)


def test_the_same_rate_changes_nothing():
    one = record(noise(2, 100))
    assert resampled(one, 500.0) is one


def test_short_gaps_are_interpolated_with_a_finding_and_empty_leads_stay_empty():
    signal = np.vstack([np.linspace(0, 1, 1000), np.full(1000, np.nan)])
    signal[0, 200:300] = np.nan
    result = resampled(record(signal), 250.0)
    assert result.findings == ("I: 100 missing values were interpolated before resampling",)
    assert np.isnan(result.signal[1]).all()
    np.testing.assert_allclose(result.signal[0], scipy.signal.resample(np.linspace(0, 1, 1000), 500), atol=1e-6)
    assert np.isnan(signal[0, 200:300]).all()  # the record given is as it was


def test_a_longer_gap_is_an_error_that_says_where():
    signal = noise(2, 1000)
    signal[1, 500:601] = np.nan
    with pytest.raises(EcgJepaRecordError, match="II lacks 0.202 s from 1.000 s on") as caught:
        resampled(record(signal), 250.0)
    assert caught.value.reason == "gap in the signal"


def test_a_record_of_which_no_sample_would_be_left_is_refused():
    with pytest.raises(EcgJepaRecordError) as caught:
        resampled(record(noise(2, 1)), 1.0)
    assert caught.value.reason == "too short"


@pytest.mark.parametrize("name", ["ptb-xl/records500/00000/00001_hr", "ptb-xl/records100/00000/00001_lr"])
def test_prepared_records_are_what_the_extractor_makes_of_the_native_ones(shared_ecg, name):
    native = read_record(shared_ecg / name)
    extractor = EcgJepaFeatureExtractor()
    wanted = extractor(native.signal, sampling_rate=native.sampling_rate, leads=list(native.lead_names))
    prepared = resampled(with_leads(first_seconds(native, 10.0), extractor.leads), extractor.sampling_rate)
    counts, scale = to_counts(prepared.signal)
    off = np.abs(counts * np.float32(scale) - np.asarray(wanted["input_values"][0]))
    assert off.max() <= 0.0005 + 1e-6


def test_counts_of_a_thousandth_of_a_millivolt_come_back_exactly():
    stored = np.random.default_rng(0).integers(-32767, 32768, size=(12, 5000)).astype(np.int16)
    counts, scale = to_counts((stored / 1000.0).astype(np.float32))
    assert (scale, counts.dtype) == (0.001, np.int16)
    np.testing.assert_array_equal(counts, stored)


@pytest.mark.parametrize(("peak", "scale"), [(32.767, 0.001), (32.768, 0.002), (-65.5, 0.002), (70.0, 0.004)])
def test_larger_records_have_larger_counts(peak, scale):
    signal = np.array([[0.0, 1.0, peak]], np.float32)
    counts, used = to_counts(signal)
    assert used == scale
    np.testing.assert_allclose(counts * used, signal, atol=used / 2 + 1e-6)


def test_missing_values_have_a_count_of_their_own():
    counts, scale = to_counts(np.array([[np.nan, -32.767, 0.0]], np.float32))
    assert (counts.tolist(), scale) == ([[-32768, -32767, 0]], 0.001)
    assert to_counts(np.full((2, 3), np.nan, np.float32))[0].tolist() == [[-32768] * 3] * 2


def test_infinite_values_are_refused():
    with pytest.raises(EcgJepaRecordError, match="1 values are infinite"):
        to_counts(np.array([[0.0, -np.inf]], np.float32))


@given(hnp.arrays(np.float32, (2, 7), elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan)))
def test_counts_are_within_half_a_count_of_every_signal(signal):
    counts, scale = to_counts(signal)
    restored = np.where(counts == -32768, np.nan, counts * scale)
    np.testing.assert_array_equal(np.isnan(restored), np.isnan(signal))
    assert np.nanmax(np.abs(restored - signal), initial=0.0) <= scale * 0.505


def test_findings_of_the_reader_are_kept():
    one = dataclasses.replace(record(noise(2, 1000)), findings=("odd",))
    assert resampled(one, 250.0).findings == ("odd",)
