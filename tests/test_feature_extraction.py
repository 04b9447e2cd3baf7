"""The input contract: what comes in, what comes out, what is refused and in which words."""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import FeatureExtractionMixin
from transformers.utils import logging

from dataset_scripts.records import find_records, read_record
from modeling_ecg_jepa.configuration_ecg_jepa import EcgJepaConfig
from modeling_ecg_jepa.errors_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfigError,
    EcgJepaError,
    EcgJepaInputError,
    EcgJepaOutputError,
    EcgJepaRecordError,
)
from modeling_ecg_jepa.feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from modeling_ecg_jepa.input_ecg_jepa import ACCEPTED_SHAPES
from modeling_ecg_jepa.leads_ecg_jepa import ECG_JEPA_LEADS, STANDARD_12_LEADS

FIXTURES = Path(__file__).parent / "fixtures"
LIMB = STANDARD_12_LEADS[:6]

extractor = EcgJepaFeatureExtractor()
extract = functools.partial(extractor, return_tensors="np")


def ecg(samples: int = 5000, seed: int = 0) -> np.ndarray:
    """(12, samples) in mV of band-limited noise that obeys the limb equations, in the standard order."""
    lead_i, lead_ii, *chest = 0.3 * np.random.default_rng(seed).normal(size=(8, samples)).cumsum(axis=1) / 10
    augmented = [-(lead_i + lead_ii) / 2, lead_i - lead_ii / 2, lead_ii - lead_i / 2]
    return np.stack([lead_i, lead_ii, lead_ii - lead_i, *augmented, *chest])


def of_model(signal: np.ndarray) -> np.ndarray:
    return signal[[STANDARD_12_LEADS.index(lead) for lead in ECG_JEPA_LEADS]]


def kinds(outcome) -> set[str]:
    return {finding.kind for finding in outcome["findings"]}


# Parity with the authors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "bandpass"), [("input_values", None), ("bandpassed", (0.67, 40.0))])
def test_a_real_record_comes_out_as_from_the_authors_preprocessing(stage, bandpass):
    record = read_record(FIXTURES / "records/ptb-xl/00001_hr")
    expected = load_file(FIXTURES / "preprocessing/ptb-xl-00001_hr.safetensors")[stage]
    made = EcgJepaFeatureExtractor(bandpass=bandpass)(
        record.signal, record.sampling_rate, record.lead_names, return_tensors="np"
    )
    assert np.abs(made["input_values"][0] - expected).max() < 1e-6


@pytest.mark.parametrize(("stage", "bandpass"), [("input_values", None), ("bandpassed", (0.67, 40.0))])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ptb-xl.00001_hr", "ptb-xl/records500/00000/00001_hr"),
        ("ecg-arrhythmia.JS00001", "ecg-arrhythmia/WFDBRecords/01/010/JS00001"),
    ],
)
def test_the_shared_records_come_out_as_the_reference(shared_ecg, shared_reference, name, path, stage, bandpass):
    record = read_record(shared_ecg / path)
    expected = load_file(shared_reference / "preprocessing.safetensors")[f"{name}.{stage}"]
    made = extract(record.signal, record.sampling_rate, record.lead_names, bandpass=bandpass)
    assert np.abs(made["input_values"][0] - expected).max() < 1e-6


def test_every_real_record_is_taken_with_and_without_names_and_refused_in_another_unit(shared_ecg):
    masked = {}
    for path in find_records(shared_ecg):
        try:
            record = read_record(path)
        except EcgJepaRecordError:
            continue  # Git LFS pointers
        given = record.signal, record.sampling_rate
        made = extract(*given, record.lead_names, nan_policy="interpolate")
        if not made["lead_mask"].all():
            masked[record.record_id] = made["lead_mask"].sum()
        if len(record.lead_names) == 12:
            unnamed = extract(*given, nan_policy="interpolate")
            np.testing.assert_array_equal(unnamed["input_values"], made["input_values"])
        for factor in (1000, 0.001):
            with pytest.raises(EcgJepaInputError, match="It is probably in"):
                extract(record.signal * factor, record.sampling_rate, record.lead_names, nan_policy="interpolate")
    assert masked == {"JS20004": 5, "JS20008": 5}  # V2, V4 and V6 are constant zero in the files


# Shapes, types, masks ------------------------------------------------------------------------------------------------


def test_ten_seconds_at_500_hz_are_the_models_grid():
    made = extract(ecg(), sampling_rate=500)
    assert set(made) == {"input_values", "lead_mask", "attention_mask"}
    assert made["input_values"].shape == (1, 8, 2500)
    assert made["input_values"].dtype == np.float32
    assert made["lead_mask"].shape == (1, 8)
    assert made["lead_mask"].all()
    assert made["attention_mask"].shape == (1, 50)
    assert made["attention_mask"].all()
    np.testing.assert_allclose(made["input_values"][0], scipy.signal.resample(of_model(ecg()), 2500, axis=1), atol=1e-6)


def test_tensors_come_out_unless_arrays_are_wanted():
    for signal in (ecg(), torch.tensor(ecg()), [ecg()], [torch.tensor(ecg())], ecg().tolist()):
        made = extractor(signal, 500)
        assert [made[name].dtype for name in extractor.model_input_names] == [torch.float32, torch.bool, torch.bool]
        arrays = extractor(signal, 500, return_tensors="np")
        for name in extractor.model_input_names:
            assert isinstance(arrays[name], np.ndarray)
            np.testing.assert_array_equal(arrays[name], made[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_floating_tensor_is_taken(dtype):
    made = extract(torch.tensor(ecg()).to(dtype), 500, leads=STANDARD_12_LEADS)
    assert made["input_values"].dtype == np.float32
    np.testing.assert_allclose(made["input_values"], extract(ecg(), 500)["input_values"], atol=0.1)


def test_the_callers_signal_is_left_alone():
    signal = ecg()
    signal[3, 100:110] = np.nan
    before = signal.copy()
    extract(signal, 500, STANDARD_12_LEADS, unit="mV", nan_policy="interpolate", bandpass=(0.67, 40.0))
    np.testing.assert_array_equal(signal, before)


def test_integers_in_microvolts_are_taken():
    counts = np.round(ecg() * 1000).astype(np.int16)
    np.testing.assert_allclose(
        extract(counts, 500, STANDARD_12_LEADS, unit="uV")["input_values"],
        extract(ecg(), 500)["input_values"],
        atol=2e-3,
    )


def test_a_short_record_is_padded_and_the_mask_says_where():
    made = extract(ecg(2100), sampling_rate=500)  # 4.2 s: 21 patches
    assert made["input_values"].shape == (1, 8, 2500)
    assert made["attention_mask"][0].sum() == 21
    assert made["attention_mask"][0, :21].all()
    assert not made["input_values"][0, :, 21 * 50 :].any()
    np.testing.assert_allclose(
        made["input_values"][0, :, : 21 * 50], scipy.signal.resample(of_model(ecg(2100)), 1050, axis=1), atol=1e-6
    )


def test_a_trailing_part_of_a_patch_is_dropped():
    made = extract(ecg(2195), sampling_rate=500, padding="longest")  # 1,098 samples: 21 patches and a bit
    assert made["input_values"].shape == (1, 8, 1050)
    assert made["attention_mask"].shape == (1, 21)


def test_padding_to_the_longest_of_the_batch():
    made = extract([ecg(1000), ecg(2000)], sampling_rate=500, padding="longest")
    assert made["input_values"].shape == (2, 8, 1000)
    assert made["attention_mask"].sum(axis=1).tolist() == [10, 20]


@pytest.mark.parametrize(("rate", "samples"), [(100, 1000), (250, 2500), (257, 2570), (400, 4000), (1000, 10000)])
def test_ten_seconds_at_any_rate_fill_the_grid(rate, samples):
    made = extract(ecg(samples), sampling_rate=rate)
    assert made["attention_mask"].all()
    expected = scipy.signal.resample(of_model(ecg(samples)), 2500, axis=1)
    np.testing.assert_allclose(made["input_values"][0], expected, atol=1e-6)


def test_a_rate_that_is_nearly_round_still_fills_the_grid():
    for rate in (499.9999, 500.0001, 360.1):
        assert extract(ecg(6000), sampling_rate=rate)["attention_mask"].all()


def test_another_grid():
    other = EcgJepaFeatureExtractor(leads=["II", "V1"], sampling_rate=125, patch_size=25, num_patches=30)
    made = other(ecg(), sampling_rate=500)
    assert made["input_values"].shape == (1, 2, 750)
    assert made["attention_mask"].shape == (1, 30)


# Leads ---------------------------------------------------------------------------------------------------------------


def test_unnamed_twelve_rows_are_the_standard_order_if_the_limb_equations_hold():
    np.testing.assert_array_equal(
        extract(ecg(), 500)["input_values"], extract(ecg(), 500, STANDARD_12_LEADS)["input_values"]
    )


@pytest.mark.parametrize(
    ("order", "equation"),
    [
        ([1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], "Einthoven"),
        ([2, 1, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11], "Goldberger"),
        ([4, 0, 3, 1, 5, 2, 6, 7, 8, 9, 10, 11], "Einthoven"),
        ([11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0], "Einthoven"),
    ],
)
def test_unnamed_rows_in_another_order_are_refused(order, equation):
    with pytest.raises(EcgJepaInputError, match=rf"not the standard order I, II, III.*{equation}.*Pass leads="):
        extract(ecg()[order], sampling_rate=500)
    extract(ecg()[order], sampling_rate=500, leads=[STANDARD_12_LEADS[place] for place in order])


def test_unnamed_rows_are_judged_by_what_is_finite():
    signal = ecg()
    signal[2, 40:90] = np.nan
    made = extract(signal, 500, nan_policy="interpolate")
    assert made["lead_mask"].all()
    signal[2] = np.nan
    with pytest.raises(EcgJepaInputError, match="no sample is finite in all limb leads"):
        extract(signal, 500)


@pytest.mark.parametrize("rows", [1, 2, 8, 15])
def test_another_number_of_unnamed_rows_is_refused_with_what_is_expected(rows):
    with pytest.raises(EcgJepaInputError) as error:
        extract(np.resize(ecg(), (rows, 5000)), sampling_rate=500)
    assert f"{rows} rows without names: only 12 rows may come unnamed" in str(error.value)
    assert "Pass leads=[...]" in str(error.value)
    assert "the model uses I, II, V1, V2, V3, V4, V5, V6" in str(error.value)
    assert ACCEPTED_SHAPES in str(error.value)


def test_known_leads_that_the_model_does_not_use_are_dropped():
    names = [*STANDARD_12_LEADS, "vx", "vy", "V3R"]
    signal = np.concatenate([ecg(), 100 * ecg(seed=1)[:3]])
    signal[-1] = np.nan  # what is dropped cannot hurt
    np.testing.assert_array_equal(extract(signal, 500, names)["input_values"], extract(ecg(), 500)["input_values"])


def test_an_unknown_lead_name_is_refused():
    with pytest.raises(EcgJepaInputError, match="Unknown lead name 'Pleth'"):
        extract(ecg()[:2], 500, leads=["II", "Pleth"])


def test_missing_constant_and_empty_leads_are_masked_and_zero():
    signal = ecg()[[1, 6, 7, 8]]
    signal[1], signal[2] = 0.7, np.nan
    made = extract(signal, 500, ["II", "V1", "V2", "V3"], return_findings=True)
    assert made["lead_mask"][0].tolist() == [False, True, False, False, True, False, False, False]
    assert not made["input_values"][0][~made["lead_mask"][0]].any()
    by_lead = {finding.lead: finding for finding in made["findings"]}
    assert by_lead["V1"].kind == "constant_lead"
    assert by_lead["V2"].kind == "empty_lead"
    assert by_lead["V6"].kind == "missing_lead"
    assert by_lead["V6"].text == "V6 is not in the record: masked."


@pytest.mark.parametrize("pair", [("II", "III"), ("aVL", "aVF"), ("aVR", "III"), ("I", "aVF"), ("aVR", "aVL")])
def test_limb_leads_that_follow_from_two_others_are_derived(pair):
    full = extract(ecg(), 500)["input_values"][0, :2]
    rows = [STANDARD_12_LEADS.index(lead) for lead in pair]
    made = extract(ecg()[rows], 500, pair, return_findings=True)
    assert made["lead_mask"][0].tolist() == [True, True] + 6 * [False]
    np.testing.assert_allclose(made["input_values"][0, :2], full, atol=1e-6)
    assert any("derived from two other limb leads" in finding.text for finding in made["findings"])


def test_limb_leads_are_not_derived_unless_wanted():
    made = extract(ecg()[[1, 2, 6]], 500, ["II", "III", "V1"], derive_leads=False)
    assert made["lead_mask"][0].tolist() == [False, True, True] + 5 * [False]


def test_a_dead_limb_lead_is_derived_and_is_no_source_for_others():
    signal = ecg()
    signal[0] = 0.0
    made = extract(signal, 500, STANDARD_12_LEADS)
    np.testing.assert_allclose(made["input_values"], extract(ecg(), 500)["input_values"], atol=1e-6)
    signal[[2, 3, 4, 5]] = 0.0  # only II lives: nothing follows from one lead
    assert extract(signal, 500, STANDARD_12_LEADS)["lead_mask"][0].tolist() == [False, *7 * [True]]


def test_derived_leads_never_come_out_as_a_silent_zero():
    signal = ecg()[[1, 1]]  # II = III makes I zero
    assert not extract(signal, 500, ["II", "III"])["lead_mask"][0, 0]


def test_named_leads_that_break_the_equations_are_a_finding():
    made = extract(ecg()[[1, 0, *range(2, 12)]], 500, STANDARD_12_LEADS, return_findings=True)
    (finding,) = made["findings"]
    assert finding.kind == "limb_equations"
    assert finding.record == 0
    assert "Einthoven" in finding.text
    assert made["lead_mask"].all()


# Other signals -------------------------------------------------------------------------------------------------------

EEG = EcgJepaFeatureExtractor(
    modality="other", leads=["Fp1", "C3", "C4", "O1", "V3"], sampling_rate=200, patch_size=40, num_patches=20
)


def eeg(samples: int = 1024, channels: int = 5) -> np.ndarray:
    """(channels, samples) of noise about 0.02 in size: microvolts, were they taken as millivolts."""
    return 0.02 * np.random.default_rng(0).normal(size=(channels, samples))


@pytest.mark.parametrize(("rate", "samples"), [(100, 400), (200, 800), (256, 1024), (499.9999, 2000)])
def test_channels_of_another_signal_are_taken_by_their_names_in_any_order_at_any_rate(rate, samples):
    order = [3, 0, 4, 2, 1]
    made = EEG(eeg(samples)[order], rate, [EEG.leads[place] for place in order], return_tensors="np")
    assert made["lead_mask"].all()
    assert made["attention_mask"].all()
    np.testing.assert_allclose(made["input_values"][0], scipy.signal.resample(eeg(samples), 800, axis=1), atol=1e-7)


def test_missing_channels_of_another_signal_are_masked():
    made = EEG(eeg()[:2], 256, ["O1", "C3"], return_findings=True)
    assert made["lead_mask"][0].tolist() == [False, True, False, True, False]
    assert [finding.text for finding in made["findings"]] == [
        f"{name} is not in the record: masked." for name in ("Fp1", "C4", "V3")
    ]


def test_nothing_is_derived_in_another_signal_whatever_its_channels_are_called():
    made = EcgJepaFeatureExtractor(leads=LIMB, modality="other")(ecg()[:2], 500, LIMB[:2])
    assert made["lead_mask"][0].tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_another_signal_may_have_any_size(factor):
    base = EEG(eeg(), 256, EEG.leads, return_tensors="np")["input_values"]
    made = EEG(eeg() * factor, 256, EEG.leads, return_tensors="np", return_findings=True)
    np.testing.assert_allclose(made["input_values"] / factor, base, rtol=1e-5, atol=1e-7)
    assert made["findings"] == []
    in_microvolts = EEG(eeg() * factor * 1000, 256, EEG.leads, "uV", return_tensors="np")
    np.testing.assert_allclose(in_microvolts["input_values"], made["input_values"], rtol=1e-5, atol=1e-7 * factor)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["FP1", "C3"], r"no channel 'FP1'\. Did you mean 'Fp1'\? It has Fp1, C3, C4, O1, V3: call the rows so"),
        (["Fp1", "EOG"], r"no channel 'EOG'\. It has .*leave others out of the signal"),
        (["fp1", "MLII"], r"no channel 'fp1', 'MLII'"),
        (["C3", "C3"], "named twice"),
        (None, r"2 rows without names\. Pass leads=.*the model has Fp1, C3"),
    ],
)
def test_rows_of_another_signal_must_have_the_models_names(names, message):
    with pytest.raises(EcgJepaInputError, match=message):
        EEG(eeg(channels=2), 256, names)


def test_twelve_rows_of_another_signal_are_no_standard_order():
    with pytest.raises(EcgJepaInputError, match="12 rows without names"):
        EcgJepaFeatureExtractor(leads=STANDARD_12_LEADS, modality="other")(ecg(), 500)


def test_another_signal_may_be_slow_but_a_rate_in_kilohertz_is_refused():
    slow = EcgJepaFeatureExtractor(modality="other", leads=["breath"], sampling_rate=2, patch_size=4, num_patches=30)
    assert slow(eeg(60, 1), 1, ["breath"])["input_values"].shape == (1, 1, 120)
    with pytest.raises(EcgJepaInputError, match=r"sampling_rate=0\.256 gives less than a sample a patch of 0\.2 s"):
        EEG(eeg(), 0.256, EEG.leads)


def test_what_the_modality_is_is_saved_and_follows_the_config(tmp_path):
    EEG.save_pretrained(tmp_path)
    loaded = EcgJepaFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == EEG.to_dict()
    grid = {"leads": EEG.leads, "sampling_rate": 200, "patch_size": 40, "num_patches": 20}
    config = EcgJepaConfig.from_preset("tiny", modality="other", **grid)
    assert EcgJepaFeatureExtractor.from_config(config).to_dict() == EEG.to_dict()
    assert extractor.modality == "ecg"


# Lengths and windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("truncation", "start"), [("start", 0), ("center", 2000)])
def test_long_records_are_cropped_at_their_own_rate(truncation, start):
    made = extract(ecg(9000), 500, truncation=truncation, return_findings=True)
    crop = extract(ecg(9000)[:, start : start + 5000], 500)
    np.testing.assert_array_equal(made["input_values"], crop["input_values"])
    (finding,) = made["findings"]
    assert finding.kind == "truncated"
    assert finding.value == 8.0
    assert "of 18.00 s are used" in finding.text


def test_random_crops_come_from_the_generator():
    def starts(seed):
        made = extract([ecg(9000)] * 8, 500, truncation="random", generator=torch.Generator().manual_seed(seed))
        return made["input_values"][:, 0, 0].tolist()

    assert starts(1) == starts(1)
    assert starts(1) != starts(2)
    assert len(set(starts(1))) > 4


def test_whole_records():
    made = extract([ecg(9000), ecg(2000)], 500, truncation=None)
    assert made["input_values"].shape == (2, 8, 4500)
    assert made["attention_mask"].sum(axis=1).tolist() == [90, 20]
    assert extract(ecg(2000), 500, truncation=None)["input_values"].shape == (1, 8, 2500)


def test_windows_say_where_they_come_from():
    made = extract([ecg(12_500), ecg(5000)], 500, window_seconds=10, stride_seconds=5, return_findings=True)
    assert made["input_values"].shape == (5, 8, 2500)
    assert made["window_to_record"].tolist() == [0, 0, 0, 0, 1]
    assert made["window_start_seconds"].tolist() == [0, 5, 10, 15, 0]
    np.testing.assert_array_equal(made["input_values"][2], extract(ecg(12_500)[:, 5000:10_000], 500)["input_values"][0])
    assert kinds(made) == set()


def test_windows_are_whole_and_the_rest_is_a_finding():
    made = extract(ecg(9000), 500, window_seconds=4, return_findings=True, return_tensors="pt")
    assert made["input_values"].shape == (4, 8, 1000)
    assert made["window_start_seconds"].tolist() == [0, 4, 8, 12]
    (finding,) = made["findings"]
    assert (finding.kind, finding.value) == ("truncated", 2.0)


def test_a_record_shorter_than_a_window_is_one_padded_window():
    made = extract(ecg(1500), 500, window_seconds=4)
    assert made["input_values"].shape == (1, 8, 1000)
    assert made["attention_mask"][0].tolist() == 15 * [True] + 5 * [False]


@settings(max_examples=15, deadline=None)
@given(window=st.integers(0, 4), seed=st.integers(0, 1000))
def test_a_window_does_not_depend_on_the_rest(window, seed):
    signal, other = ecg(6000, seed), ecg(6000, seed + 1)
    span = slice(window * 1000, window * 1000 + 2000)
    other[:, span] = signal[:, span]
    rows = [extract(both, 500, window_seconds=4, stride_seconds=2)["input_values"][window] for both in (signal, other)]
    np.testing.assert_array_equal(*rows)


def test_a_window_without_signal_is_masked_and_the_others_stand():
    signal = ecg(10_000)
    signal[:, :5000] = 0.25
    made = extract(signal, 500, STANDARD_12_LEADS, window_seconds=10)
    assert made["lead_mask"].sum(axis=1).tolist() == [0, 8]


# Properties ----------------------------------------------------------------------------------------------------------

SPELLINGS = {"I": "DI", "II": "MLII", "III": "iii", "aVR": "AVR", "aVL": "avl", "aVF": "AVF", "V1": "C1", "V6": "v6"}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_order_and_spelling_of_any_subset_gives_the_same_values(data):
    names = data.draw(st.permutations(STANDARD_12_LEADS))[: data.draw(st.integers(1, 12))]
    signal = ecg(2000)[[STANDARD_12_LEADS.index(name) for name in names]]
    spelt = [data.draw(st.sampled_from([name, SPELLINGS.get(name, name)])) for name in names]
    full = extract(ecg(2000), 500)["input_values"][0]
    if not {*names} & {*ECG_JEPA_LEADS} and len(names) < 2:
        with pytest.raises(EcgJepaInputError, match="No usable lead"):
            extract(signal, 500, spelt)
        return
    made = extract(signal, 500, spelt)
    limb_known = len({*names} & {*LIMB}) >= 2
    expected = [lead in names or (lead in LIMB and limb_known) for lead in ECG_JEPA_LEADS]
    assert made["lead_mask"][0].tolist() == expected
    np.testing.assert_allclose(made["input_values"][0][expected], full[expected], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(0.1, 5).map(lambda value: value * 1.0))
def test_values_scale_with_the_signal(factor):
    base = extract(ecg(2000), 500)["input_values"]
    np.testing.assert_allclose(extract(ecg(2000) * factor, 500)["input_values"], base * factor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1e3), ("\u00b5V", 1e3), ("V", 1e-3)])
def test_units_are_converted(unit, factor):
    made = extract(ecg() * factor, 500, unit=unit)["input_values"]
    np.testing.assert_allclose(made, extract(ecg(), 500)["input_values"], atol=1e-6)
    own = EcgJepaFeatureExtractor(unit=unit)(ecg() * factor, 500, return_tensors="np")["input_values"]
    np.testing.assert_array_equal(own, made)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    records=st.lists(
        st.tuples(st.integers(100, 3000), st.sampled_from([100, 250, 360.5, 500]), st.permutations(range(12))),
        min_size=1,
        max_size=5,
    )
)
def test_a_batch_of_mixed_records_equals_one_by_one(records):
    signals = [ecg(samples, seed)[order] for seed, (samples, _, order) in enumerate(records)]
    rates = [rate for _, rate, _ in records]
    leads = [[STANDARD_12_LEADS[place] for place in order] for _, _, order in records]
    batch = extract(signals, rates, leads)
    for row, (signal, rate, names) in enumerate(zip(signals, rates, leads, strict=True)):
        alone = extract(signal, rate, names)
        for name in extractor.model_input_names:
            np.testing.assert_array_equal(batch[name][row], alone[name][0])


def test_a_large_batch_equals_one_by_one():
    signals = np.stack([ecg(seed=seed) for seed in range(20)])  # more than is computed in one call
    batch = extract(signals, 500)["input_values"]
    alone = np.concatenate([extract(signal, 500)["input_values"] for signal in signals])
    np.testing.assert_array_equal(batch, alone)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (None, "sampling_rate is missing.*sampling_rate=500"),
        (0, "sampling_rate=0 must be a positive number"),
        (-500, "sampling_rate=-500 must be a positive number"),
        (float("nan"), "sampling_rate=nan must be a positive number"),
        (float("inf"), "sampling_rate=inf must be a positive number"),
        ("500 Hz", "sampling_rate='500 Hz' must be a positive number"),
        (True, "sampling_rate=True must be a positive number"),
        (0.5, "sampling_rate=0.5 is too low for an ECG.*not in kHz"),
        ([500, 500], "sampling_rate is given 2 times for 1 record;"),
    ],
)
def test_a_rate_that_is_none_is_refused(rate, message):
    with pytest.raises(EcgJepaInputError, match=message):
        extract(ecg(), sampling_rate=rate)


@pytest.mark.parametrize(
    ("signal", "leads", "message"),
    [
        (ecg()[1], ["II"], r"shape \(5000,\) has no rows.*signal\[None, :\]"),
        (ecg().T, None, r"shape \(5000, 12\) looks like \(samples, leads\).*pass signal\.T"),
        (ecg()[:2].T, ["I", "II"], r"shape \(5000, 2\) looks like \(samples, leads\)"),
        (ecg()[:3], ["I", "II"], r"leads names 2 rows \(I, II\), the signal of shape \(3, 5000\) has 3"),
        (ecg()[:1], "II", r"leads='II' must be a list of names"),
        (ecg()[:2], ["II", "MLII"], r"Lead II is named twice"),
        (ecg()[:2], 5, r"leads=5 is neither for all records nor a list with one each"),
        (np.zeros((12, 0)), None, r"shape \(12, 0\) is empty"),
        (np.zeros((0, 12, 5000)), None, r"shape \(0, 12, 5000\) holds no record"),
        (np.zeros((1, 1, 12, 5000)), None, r"shape \(1, 1, 12, 5000\) is no record"),
        ([], None, r"shape \(0,\) is empty"),
        ([[0.1, 0.2], [0.1]], None, "Rows of different lengths"),
        ("ecg.dat", None, "real numbers, not the type <U7"),
        (None, None, "real numbers, not the type object"),
        (ecg() + 0j, None, "real numbers, not the type complex128"),
        (ecg() > 0, None, "real numbers, not the type bool"),
    ],
)
def test_what_is_no_record_is_refused(signal, leads, message):
    with pytest.raises(EcgJepaInputError, match=message):
        extract(signal, sampling_rate=500, leads=leads)


def test_too_short_a_record_is_refused():
    with pytest.raises(EcgJepaInputError, match=r"90 samples at 500 Hz hold no whole patch of 0\.2 s"):
        extract(ecg(90), 500)


def test_errors_in_a_batch_name_the_record():
    with pytest.raises(EcgJepaInputError, match=r"^Record 1: 90 samples"):
        extract([ecg(), ecg(90)], 500)
    with pytest.raises(EcgJepaInputError, match=r"^Record 1: Unknown lead name 'X9'"):
        extract([ecg()[:1], ecg()[:1]], 500, leads=[["II"], ["X9"]])
    with pytest.raises(EcgJepaInputError, match=r"^Record 1: .*pass unit=\"uV\""):
        extract([ecg(), ecg() * 1000], 500)
    with pytest.raises(EcgJepaInputError, match=r"leads is given 3 times for 2 records"):
        extract([ecg(), ecg()], 500, leads=[None, None, None])


@pytest.mark.parametrize(
    ("signal", "unit", "message"),
    [
        (ecg() * 1000, "mV", 'probably in uV: pass unit="uV", or raw counts'),
        (ecg() / 1000, "mV", 'probably in V: pass unit="V"'),
        (ecg(), "uV", 'Taken as uV.*probably in mV: pass unit="mV"'),
        (ecg() * 1e9, "mV", "is it a calibrated ECG"),
    ],
)
def test_a_size_that_no_ecg_has_is_refused_with_the_likely_unit(signal, unit, message):
    with pytest.raises(EcgJepaInputError, match=message):
        extract(signal, 500, unit=unit)


def test_an_unknown_unit_is_refused():
    with pytest.raises(EcgJepaInputError, match="Unknown unit 'mmHg'; a signal is given in mV, uV, V"):
        extract(ecg(), 500, unit="mmHg")


@pytest.mark.parametrize("value", [0.0, 1.5, np.nan, np.inf])
def test_a_record_without_any_usable_lead_is_refused(value):
    with pytest.raises(EcgJepaInputError, match=r"No usable lead: the record has II, V1, the model uses I, II, V1"):
        extract(np.full((2, 5000), value), 500, ["II", "V1"])
    with pytest.raises(EcgJepaInputError, match=r"No usable lead: .*missing, constant or all NaN"):
        extract(np.full((12, 5000), value), 500)


def test_a_record_of_unused_leads_only_is_refused():
    with pytest.raises(EcgJepaInputError, match=r"No usable lead: the record has VX, VY"):
        extract(ecg()[:2], 500, ["vx", "vy"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error(value):
    signal = ecg()
    signal[7, 1000:1050] = value
    with pytest.raises(
        EcgJepaInputError,
        match=r"Lead V2 has 50 values that are NaN or infinite; the longest gap lasts 0\.100 s and begins at 2\.000 s"
        r'\. Pass nan_policy="interpolate"',
    ):
        extract(signal, 500)


def test_short_gaps_are_interpolated_and_counted():
    signal = ecg()
    signal[1, :20], signal[7, 1000:1100] = np.nan, np.inf
    made = extract(signal, 500, nan_policy="interpolate", return_findings=True)
    filled = ecg()
    filled[1, :20] = filled[1, 20]
    filled[7, 1000:1100] = np.interp(np.arange(1000, 1100), [999, 1100], filled[7, [999, 1100]])
    np.testing.assert_allclose(made["input_values"], extract(filled, 500, STANDARD_12_LEADS)["input_values"], atol=1e-6)
    counts = {finding.lead: finding.value for finding in made["findings"] if finding.kind == "interpolated"}
    assert counts == {"II": 20, "V2": 100}


def test_long_gaps_are_an_error_under_either_policy():
    signal = ecg()
    signal[7, 1000:1101] = np.nan
    with pytest.raises(
        EcgJepaInputError, match=r"fills gaps of up to 0\.2 s only: cut the record there, or leave V2 out"
    ):
        extract(signal, 500, nan_policy="interpolate")


def test_what_is_not_used_cannot_hurt():
    signal = ecg(9000)
    signal[:, 6000] = np.nan
    np.testing.assert_array_equal(extract(signal, 500)["input_values"], extract(ecg(9000), 500)["input_values"])


def test_spikes_saturation_and_flat_stretches_are_findings_and_alter_nothing():
    signal = ecg()
    signal[6, 100], signal[7, 200:260], signal[8, 1000:2000] = -11.35, 9.0, signal[8, 1000]
    made = extract(signal, 500, return_findings=True)
    assert kinds(made) == {"spike", "saturation", "flat"}
    np.testing.assert_allclose(
        made["input_values"][0], scipy.signal.resample(of_model(signal), 2500, axis=1), atol=1e-6
    )


def test_finding_says_which_record_and_window():
    signal = ecg(10_000)
    signal[6, 7000] = 15.0
    made = extract([ecg(), signal], 500, window_seconds=10, return_findings=True)
    (finding,) = made["findings"]
    assert (finding.record, finding.window, finding.lead, finding.kind) == (1, 2, "V1", "spike")


ANYTHING = (None, 5, "x", {}, [], [None], [[]], [[1, "a"], [2, 3]], float("nan"), 10**400, 1j, True, np.zeros(3))
SIGNALS = (ecg()[:2], torch.tensor(ecg()), [ecg(300)[:2], ecg()[:2]], ecg()[:2] * 1e300, ecg()[:2].astype("U"))


@settings(max_examples=150, deadline=None)
@given(
    signal=st.sampled_from((*SIGNALS, *ANYTHING)),
    rate=st.sampled_from((500, 500.0, [500, 100], torch.tensor(250.0), 1e12, *ANYTHING)),
    leads=st.sampled_from(
        (["I", "II"], [["I", "II"], ["V1", "V2"]], None, np.array(["I", "II"]), [b"I", 3], *ANYTHING)
    ),
    unit=st.sampled_from(("mV", "V", ["uV", "mV"], *ANYTHING)),
    options=st.dictionaries(
        st.sampled_from(("truncation", "window_seconds", "bandpass", "leads")), st.sampled_from(ANYTHING)
    ),
)
def test_whatever_comes_is_taken_or_refused_with_a_typed_error(signal, rate, leads, unit, options):
    try:
        made = extractor(signal, rate, options.pop("leads", leads), unit, **options)
    except EcgJepaError:
        return
    assert torch.isfinite(made["input_values"]).all()


# Options and files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncate": "start"}, "no option 'truncate'. Did you mean 'truncation'?"),
        ({"zzz": 1}, "no option 'zzz'. It has leads, sampling_rate"),
        ({"truncation": "middle"}, "truncation='middle' must be one of 'start', 'center', 'random', None"),
        ({"padding": True}, "padding=True must be one of 'max_length', 'longest'"),
        ({"nan_policy": "zero"}, "nan_policy='zero' must be one of 'error', 'interpolate'"),
        ({"derive_leads": "yes"}, "derive_leads='yes' must be one of True, False"),
        ({"sampling_rate": 0}, "sampling_rate=0 must be a positive number"),
        ({"sampling_rate": 250.5}, "sampling_rate=250.5 must be a positive whole number"),
        ({"patch_size": -1}, "patch_size=-1 must be a positive number"),
        ({"num_patches": "50"}, "num_patches='50' must be a positive number"),
        ({"unit": "mmHg"}, "unit='mmHg': Unknown unit"),
        ({"leads": []}, "leads=[] must be a list of at least one lead name"),
        ({"leads": "II"}, "leads='II' must be a list"),
        ({"leads": ["II", "X9"]}, "leads=['II', 'X9']: Unknown lead name 'X9'"),
        ({"leads": ["Fp1", "C3"]}, "Channels of another signal than an ECG need modality='other'"),
        ({"modality": "eeg"}, "modality='eeg' must be one of 'ecg', 'other'"),
        ({"window_seconds": 0}, "window_seconds=0 must be a positive number"),
        ({"window_seconds": 10.1}, "window_seconds=10.1 is no whole number of patches of 0.2 s; 10 would be"),
        ({"stride_seconds": 5}, "stride_seconds=5 needs window_seconds"),
        ({"window_seconds": 10, "stride_seconds": -5}, "stride_seconds=-5 must be a positive number"),
        ({"window_seconds": 10, "stride_seconds": 1e-9}, "stride_seconds=1e-09 is less than a sample at 250 Hz"),
        ({"bandpass": (40, 0.67)}, "bandpass=(40, 0.67) must be two frequencies"),
        ({"bandpass": ("low", "high")}, "bandpass='low' must be a positive number"),
        ({"bandpass": (0.67, 125)}, "0 < low < high < 125"),
    ],
)
def test_options_are_validated(options, message):
    with pytest.raises(EcgJepaConfigError) as error:
        EcgJepaFeatureExtractor(**options)
    assert message in str(error.value)


def test_an_unknown_option_of_a_call_is_refused():
    with pytest.raises(EcgJepaConfigError, match="Did you mean 'truncation'"):
        extract(ecg(), 500, truncate="start")
    with pytest.raises(EcgJepaConfigError, match="return_tensors='tf' must be one of 'pt', 'np'"):
        extract(ecg(), 500, return_tensors="tf")


def test_it_fits_a_config():
    config = EcgJepaConfig.from_preset("tiny", leads=["II", "V1"], num_patches=20, patch_size=25, sampling_rate=125)
    fitting = EcgJepaFeatureExtractor.from_config(config, truncation="center")
    made = fitting(ecg(), 500)
    assert made["input_values"].shape == (1, 2, config.num_patches * config.patch_size)
    assert fitting.truncation == "center"


def test_saved_and_loaded_it_is_the_same(tmp_path):
    options = {
        "leads": ["II", "V1"],
        "truncation": None,
        "window_seconds": 4.0,
        "stride_seconds": 2,
        "bandpass": (0.67, 40.0),
        "unit": "uV",
        "nan_policy": "interpolate",
        "derive_leads": False,
        "padding": "longest",
    }
    saved = EcgJepaFeatureExtractor(**options)
    (path,) = saved.save_pretrained(tmp_path)
    assert Path(path).name == "preprocessor_config.json"
    assert not list(tmp_path.glob(".*"))  # nothing unfinished is left
    loaded = EcgJepaFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(loaded, FeatureExtractionMixin)
    assert loaded.to_dict() == saved.to_dict()
    signal = 1000 * ecg(9000)
    for name, array in saved(signal, 500).items():
        np.testing.assert_array_equal(array, loaded(signal, 500)[name])
    assert EcgJepaFeatureExtractor.from_pretrained(tmp_path, unit="mV").unit == "mV"
    assert json.loads(Path(path).read_text())["feature_extractor_type"] == "EcgJepaFeatureExtractor"


def test_an_option_of_a_newer_version_is_a_warning_and_one_that_is_absent_a_default(tmp_path, caplog):
    (path,) = extractor.save_pretrained(tmp_path)
    options = json.loads(Path(path).read_text())
    del options["nan_policy"]
    Path(path).write_text(json.dumps(options | {"from_the_future": 1}))
    logging.enable_propagation()
    loaded = EcgJepaFeatureExtractor.from_pretrained(tmp_path, nan_policy="interpolate")
    logging.disable_propagation()
    assert "from_the_future" in caplog.text
    assert loaded.nan_policy == "interpolate"


def test_a_folder_without_extractor_config_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(EcgJepaCheckpointError) as error:
        EcgJepaFeatureExtractor.from_pretrained(tmp_path)
    assert f"{tmp_path}: preprocessor_config.json is missing" in str(error.value)
    assert "EcgJepaFeatureExtractor.from_config" in str(error.value)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(EcgJepaCheckpointError, match="is no valid JSON"):
        EcgJepaFeatureExtractor.from_pretrained(tmp_path)


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EcgJepaOutputError, match="Cannot write to the folder"):
        extractor.save_pretrained(tmp_path / "file")
    os.mkdir(tmp_path / "folder")
    os.mkdir(tmp_path / "folder/preprocessor_config.json")
    with pytest.raises(EcgJepaOutputError, match=r"Cannot write .*preprocessor_config\.json"):
        extractor.save_pretrained(tmp_path / "folder")
