"""Boundaries by neurokit2 where nobody marked them: its points as waves, its absence, and what they measure."""

import sys

import numpy as np
import pytest

from dataset_scripts.ludb import Wave
from dataset_scripts.synthesis import synthesize_record
from modeling_ecg_jepa import EcgJepaConfigError
from train.measure_delineator import DELINEATED_LEADS, delineate, load_delineator, waves_from
from train.measure_truth import measure

POINTS = {
    "ECG_P_Onsets": [90, np.nan],
    "ECG_P_Peaks": [100, 400],
    "ECG_P_Offsets": [110, 420],
    "ECG_R_Onsets": [130, 450],
    "ECG_R_Offsets": [170, 440],
    "ECG_T_Onsets": [200, 510],
    "ECG_T_Peaks": [240, 550],
    "ECG_T_Offsets": [260, 590],
}


def test_points_become_waves_and_what_is_incomplete_or_out_of_order_does_not():
    assert waves_from(POINTS, [150, 460]) == [
        Wave("P", 90, 100, 110),
        Wave("QRS", 130, 150, 170),
        Wave("T", 200, 240, 260),
        Wave("T", 510, 550, 590),
    ]


def test_without_neurokit2_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "neurokit2", None)
    with pytest.raises(EcgJepaConfigError, match=r"needs neurokit2.*\.\[measure\]"):
        load_delineator()


@pytest.fixture
def neurokit():
    return pytest.importorskip("neurokit2", reason="needs the extra `measure`")


@pytest.mark.parametrize("index", range(3))
def test_a_clean_synthetic_record_measures_as_it_was_made(neurokit, index):
    record, made = synthesize_record(4, index, 500, 10, ("sinus_rhythm",), 60.0)
    signal = dict(zip(record.lead_names, record.signal.astype(float), strict=True))
    waves = delineate(signal, 500)
    assert set(waves) <= set(DELINEATED_LEADS) and len(waves) >= 4
    measured = measure(waves, signal, 500)
    assert measured["heart_rate"] == pytest.approx(made.heart_rate, rel=0.02)
    # An algorithm's boundaries, so far from exact; its distance from cardiologists is measured on LUDB.
    assert measured["qt_interval"] == pytest.approx(made.qt_ms, abs=80)


def test_a_record_without_beats_is_measured_as_nothing_and_raises_nothing(neurokit):
    still = {lead: np.zeros(5000) for lead in DELINEATED_LEADS}
    missing = {lead: np.full(5000, np.nan) for lead in DELINEATED_LEADS}
    for signal in (still, missing, {}):
        assert set(measure(delineate(signal, 500), signal, 500).values()) == {"no QRS complex is marked"}
    noise = np.random.default_rng(0).normal(size=5000)
    delineate(dict.fromkeys(DELINEATED_LEADS, noise), 500)
    delineate(dict.fromkeys(DELINEATED_LEADS, noise[:60]), 500)
