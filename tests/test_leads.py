"""Lead names and the algebra of the limb leads."""

import itertools

import numpy as np
import pytest

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaInputError
from modeling_ecg_jepa.leads_ecg_jepa import (
    ECG_JEPA_LEADS,
    KNOWN_LEADS,
    LIMB_RULES,
    STANDARD_12_LEADS,
    canonical_lead,
    canonical_leads,
)


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("AVR", "aVR"),
        ("avr", "aVR"),
        ("aVL", "aVL"),
        ("MLII", "II"),
        ("MDC_ECG_LEAD_II", "II"),
        ("MDC_ECG_LEAD_AVR", "aVR"),
        ("DI", "I"),
        ("diii", "III"),
        ("D2", "II"),
        ("v1", "V1"),
        ("V-6", "V6"),
        ("C3", "V3"),
        ("Lead II", "II"),
        ("ECG_V5", "V5"),
        ("vx", "VX"),
        ("z", "VZ"),
        ("v3r", "V3R"),
    ],
)
def test_recorders_spellings_are_resolved(name, lead):
    assert canonical_lead(name) == lead


def test_every_canonical_name_is_its_own_alias():
    assert canonical_leads(KNOWN_LEADS) == list(KNOWN_LEADS)
    assert set(ECG_JEPA_LEADS) < set(STANDARD_12_LEADS) < set(KNOWN_LEADS)


@pytest.mark.parametrize("name", ["V10", "Pleth", "", None, 3])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(EcgJepaInputError, match=r"Unknown lead name .*Known leads: I, II, III, aVR"):
        canonical_lead(name)


def test_a_slip_gets_a_suggestion():
    with pytest.raises(EcgJepaInputError, match="Did you mean 'aVR'"):
        canonical_lead("aVRR")


def test_two_names_in_one_are_not_taken_for_a_third_lead():
    with pytest.raises(EcgJepaInputError, match=r"Unknown lead name 'I,II'\. Give several names one by one"):
        canonical_leads(["I,II"])


def test_a_lead_named_twice_is_refused_under_both_names():
    with pytest.raises(EcgJepaInputError, match=r"Lead II is named twice \('II' and 'MLII'\)"):
        canonical_leads(["II", "V1", "MLII"])


def test_channels_of_another_signal_keep_their_names():
    # An electrode of an EEG is called C3, which for an ECG is another name of V3.
    names = ["C3", "V3", "Fp1", "dii", "EOG left"]
    assert canonical_leads(names, modality="other") == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["C3", "Fz", "C3"], "Lead C3 is named twice"),
        (["C3", ""], "cannot be named ''"),
        (["C3", 4], "cannot be named 4"),
    ],
)
def test_channels_of_another_signal_need_names_of_their_own(names, message):
    with pytest.raises(EcgJepaInputError, match=message):
        canonical_leads(names, modality="other")


def test_any_two_limb_leads_give_the_other_four():
    # Potentials of the three electrodes, and the leads by their definitions: independent of the table under test.
    right, left, foot = np.random.default_rng(0).normal(size=(3, 200))
    limb = {
        "I": left - right,
        "II": foot - right,
        "III": foot - left,
        "aVR": right - (left + foot) / 2,
        "aVL": left - (right + foot) / 2,
        "aVF": foot - (right + left) / 2,
    }
    assert set(LIMB_RULES) == set(limb)
    for lead, rules in LIMB_RULES.items():
        pairs = {frozenset(pair) for pair in itertools.combinations(set(limb) - {lead}, 2)}
        assert {frozenset(rule) for rule in rules} == pairs
        for rule in rules:
            derived = sum(weight * limb[source] for source, weight in rule.items())
            np.testing.assert_allclose(derived, limb[lead], atol=1e-12)
