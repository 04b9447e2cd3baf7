"""Resampling and band-pass equal scipy's."""

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ecg_jepa.resampling_ecg_jepa import bandpass, resample


@settings(max_examples=60, deadline=None)
@given(given_samples=st.integers(2, 1200), wanted=st.integers(1, 1200), seed=st.integers(0, 2**32 - 1))
def test_resampling_equals_scipy(given_samples, wanted, seed):
    signal = np.random.default_rng(seed).normal(size=(2, 3, given_samples))
    expected = scipy.signal.resample(signal, wanted, axis=-1)
    np.testing.assert_allclose(resample(signal, wanted), expected, atol=1e-9)


def test_resampling_leaves_its_input_alone():
    signal = np.random.default_rng(0).normal(size=(2, 500))
    before = signal.copy()
    resample(signal, 250)
    np.testing.assert_array_equal(signal, before)


def test_bandpass_keeps_the_qrs_band_and_removes_drift_and_hum():
    time = np.arange(15_000) / 250
    drift, beat, hum = (np.sin(2 * np.pi * hertz * time) for hertz in (0.1, 8, 100))
    filtered = bandpass(np.stack([drift, beat, hum]), (0.67, 40.0), 250)[:, 5000:-5000]
    assert np.abs(filtered[0]).max() < 0.01
    np.testing.assert_allclose(filtered[1], beat[5000:-5000], atol=0.01)
    assert np.abs(filtered[2]).max() < 0.01


def test_bandpass_equals_the_authors_two_filters():
    signal = np.random.default_rng(0).normal(size=(2, 2500))
    expected = signal
    for edge, kind in ((0.67, "high"), (40, "low")):
        numerator, denominator = scipy.signal.butter(5, edge / 125, kind)
        expected = scipy.signal.filtfilt(numerator, denominator, expected, axis=-1)
    assert np.abs(bandpass(signal, (0.67, 40.0), 250) - expected).max() == pytest.approx(0, abs=1e-6)
