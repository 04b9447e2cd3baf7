"""Unit names and the size that an ECG can have."""

import numpy as np
import pytest

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaInputError
from modeling_ecg_jepa.units_ecg_jepa import canonical_unit, implausible_amplitude, median_deviation


@pytest.mark.parametrize(
    ("spelling", "unit"),
    [("mV", "mV"), ("MV", "mV"), ("uV", "uV"), ("\u00b5V", "uV"), ("\u03bcV", "uV"), (" microvolts", "uV"), ("V", "V")],
)
def test_spellings_of_units(spelling, unit):
    assert canonical_unit(spelling) == unit


@pytest.mark.parametrize("unit", ["mmHg", "", None, 1000])
def test_an_unknown_unit_is_refused_with_the_known_ones(unit):
    with pytest.raises(EcgJepaInputError, match=r"Unknown unit .*mV, uV, V"):
        canonical_unit(unit)


def test_median_deviation_is_that_of_all_samples_about_their_own_rows_median():
    rows = np.random.default_rng(0).normal(size=(3, 1001)) * [[1], [2], [5]] + [[0], [100], [-7]]
    expected = np.median(np.abs(rows - np.median(rows, axis=1, keepdims=True)))
    assert median_deviation(rows) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("deviation", "unit", "likely"),
    [(100.0, "mV", "uV"), (0.0001, "mV", "V"), (0.0001, "uV", "mV"), (100.0, "V", "mV"), (1e-7, "uV", "V")],
)
def test_the_likely_unit_is_named(deviation, unit, likely):
    assert f'pass unit="{likely}"' in implausible_amplitude(deviation, unit)


def test_plausible_impossible_and_flat_sizes():
    assert implausible_amplitude(0.1, "mV") is None
    assert "raw counts" in implausible_amplitude(100.0, "mV")
    assert "is it a calibrated ECG?" in implausible_amplitude(1e9, "mV")
    assert "flat or padded" in implausible_amplitude(0.0, "mV")
