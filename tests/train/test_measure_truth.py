"""The rules of measurement, beside values worked out by hand on LUDB's marks and those of synthetic records."""

import numpy as np
import pytest

from dataset_scripts.loading import load_ecg_dataset
from dataset_scripts.ludb import Wave
from dataset_scripts.synthesis import synthesize_record
from train.measure_truth import MEASUREMENTS, beats_of, from_boundaries, from_synthesis, measure

#: Lead II of record 1 of LUDB, its first three marked beats; samples at 500 Hz.
LEAD_II = [
    Wave("QRS", 644, 662, 682),
    Wave("T", 776, 843, 878),
    Wave("P", 1250, 1278, 1302),
    Wave("QRS", 1324, 1342, 1374),
    Wave("T", 1458, 1524, 1572),
    Wave("P", 1911, 1935, 1955),
    Wave("QRS", 1979, 2000, 2028),
    Wave("T", 2120, 2176, 2224),
]
#: And those of V2.
LEAD_V2 = [
    Wave("QRS", 641, 660, 681),
    Wave("T", 765, 830, 880),
    Wave("P", 1240, 1275, 1299),
    Wave("QRS", 1318, 1339, 1360),
    Wave("T", 1434, 1510, 1556),
    Wave("P", 1911, 1932, 1963),
    Wave("QRS", 1978, 1998, 2021),
    Wave("T", 2078, 2167, 2215),
]
FLAT = {lead: np.zeros(2500) for lead in ("I", "II", "aVF", "V2")}


def test_a_beat_is_a_qrs_with_the_waves_next_to_it():
    assert [tuple(wave and wave.peak for wave in beat) for beat in beats_of(LEAD_II)] == [
        (None, 662, 843),
        (1278, 1342, 1524),
        (1935, 2000, 2176),
    ]


def test_intervals_are_medians_over_beats_worked_out_by_hand():
    truth = measure({"II": LEAD_II}, FLAT, 500)
    assert truth["heart_rate"] == pytest.approx(60 / (0.002 * (2000 - 662) / 2))  # 44.84 bpm
    assert truth["pr_interval"] == 142.0  # 148 and 136 ms
    assert truth["qrs_duration"] == 98.0  # 76, 100 and 98
    assert truth["qt_interval"] == 490.0  # 468, 496 and 490


def test_then_medians_over_leads():
    truth = measure({"II": LEAD_II, "V2": LEAD_V2}, FLAT, 500)
    assert truth["qrs_duration"] == pytest.approx((98 + 84) / 2)  # V2: 80, 84 and 86
    assert truth["qt_interval"] == pytest.approx((490 + 476) / 2)  # V2: 478, 476 and 474
    assert truth["pr_interval"] == pytest.approx((142 + (156 + 134) / 2) / 2)


def test_a_p_wave_before_less_than_half_of_the_complexes_makes_no_pr_interval():
    one_p = [wave for wave in LEAD_II if wave.kind != "P" or wave.peak == 1278]
    assert measure({"II": one_p}, FLAT, 500)["pr_interval"].startswith("P is not marked")
    # Nor do P waves in one lead of three.
    without = [wave for wave in LEAD_II if wave.kind != "P"]
    leads = {"II": LEAD_II, "V2": without, "aVF": without}
    assert measure(leads, FLAT, 500)["pr_interval"].startswith("P is not marked")


def test_missing_marks_leave_their_beat_out_of_what_needs_them_only():
    waves = [wave._replace(onset=None) if wave.peak == 662 else wave for wave in LEAD_II]
    truth = measure({"II": waves}, FLAT, 500)
    assert truth["qrs_duration"] == 99.0 and truth["heart_rate"] == pytest.approx(44.843, abs=1e-3)


def test_axis_is_the_direction_of_net_areas_above_the_baseline():
    signal = {lead: np.full(2500, 7.0) for lead in ("I", "aVF")}  # an offset is no deflection
    signal["I"][1000:1020] += 0.5
    signal["aVF"][1000:1020] -= 0.5 * np.sqrt(3) / 2
    waves = [Wave("QRS", 1000, 1010, 1019)]
    assert measure({"I": waves, "aVF": waves}, signal, 500)["axis"] == pytest.approx(-45)
    assert "aVF" in measure({"I": waves}, signal, 500)["axis"]


def test_t_amplitude_is_that_of_lead_ii_above_the_baseline_before_qrs():
    signal = {"II": np.full(2500, -3.0)}
    for peak, height in ((843, 0.2), (1524, 0.3), (2176, -0.1)):
        signal["II"][peak] += height
    assert measure({"II": LEAD_II}, signal, 500)["t_amplitude"] == pytest.approx(0.2)


def test_without_a_complex_nothing_is_measured():
    truth = measure({"II": [wave for wave in LEAD_II if wave.kind == "T"], "V1": []}, FLAT, 500)
    assert set(truth.values()) == {"no QRS complex is marked"} and truth.keys() == MEASUREMENTS.keys()


def test_missing_samples_give_no_number():
    signal = {"II": np.full(2500, np.nan)}
    assert np.isnan(measure({"II": LEAD_II}, signal, 500)["t_amplitude"])


@pytest.mark.parametrize("index", range(6))
def test_the_rules_agree_with_what_synthetic_records_were_made_with(index):
    record, made = synthesize_record(4, index, 500, 10, ("sinus_rhythm",), 60.0)
    signal = dict(zip(record.lead_names, record.signal.astype(float), strict=True))

    def sample(seconds: float) -> int:
        return round(500 * seconds)

    waves = []
    beats = zip(made.r_peaks, made.qrs_onsets, made.qrs_ends, made.t_ends, strict=True)
    for peak, onset, end, t_end in beats:
        if onset - made.pr_ms / 1000 < 0 or t_end >= 10:
            continue
        p_onset = onset - made.pr_ms / 1000
        waves += [
            Wave("P", sample(p_onset), sample(p_onset + 0.04), sample(p_onset + 0.08)),
            Wave("QRS", sample(onset), sample(peak), sample(end)),
            Wave("T", sample(end + 0.05), sample((end + t_end) / 2), sample(t_end)),
        ]
    measured = measure(dict.fromkeys(("I", "II", "aVF"), waves), signal, record.sampling_rate)
    known = from_synthesis({**vars(made), "axis_degrees": made.axis_degrees})
    for name in ("pr_interval", "qrs_duration", "qt_interval"):
        assert measured[name] == pytest.approx(known[name], abs=4), name
    assert measured["heart_rate"] == pytest.approx(known["heart_rate"], rel=0.03)
    # The P wave is not over where QRS begins, so the baseline is not quite that of the dipole.
    assert abs((measured["axis"] - known["axis"] + 180) % 360 - 180) < 20


def test_synthetic_records_without_p_waves_have_no_pr_interval():
    _, made = synthesize_record(0, 0, 500, 10, ("atrial_fibrillation",))
    assert from_synthesis(vars(made))["pr_interval"] == "no P wave leads to QRS"


def test_ludb_itself_agrees_with_its_own_tables(shared_ecg, tmp_path):
    rows = load_ecg_dataset("ludb", data_dir=shared_ecg / "ludb", cache_dir=tmp_path)
    rows = {row["record_id"]: row for part in rows.values() for row in part}
    truth = {record: from_boundaries(row) for record, row in rows.items()}
    assert len(truth) == 20
    assert truth["1"]["heart_rate"] < 60 and "Sinus bradycardia" in rows["1"]["codes"]
    for record, row in rows.items():
        fibrillates = any("fibrillation" in code or "flutter" in code for code in row["codes"])
        assert isinstance(truth[record]["pr_interval"], str) == fibrillates, record
        if row["electric_axis"] == "normal":
            assert -30 < truth[record]["axis"] < 100, record
