"""What the limb equations and the amplitude rule tell apart, on made signals and on every real record at hand."""

import itertools

import numpy as np
import pytest

from dataset_scripts.records import find_records, read_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS
from modeling_ecg_jepa.quality_ecg_jepa import (
    EINTHOVEN_THRESHOLD,
    GOLDBERGER_THRESHOLD,
    einthoven_ratio,
    goldberger_ratio,
    limb_finding,
    signal_findings,
)
from modeling_ecg_jepa.units_ecg_jepa import PLAUSIBLE_MILLIVOLTS, median_deviation


def limb_leads(samples: int = 500) -> dict[str, np.ndarray]:
    lead_i, lead_ii = np.random.default_rng(0).normal(size=(2, samples))
    return {
        "I": lead_i,
        "II": lead_ii,
        "III": lead_ii - lead_i,
        "aVR": -(lead_i + lead_ii) / 2,
        "aVL": lead_i - lead_ii / 2,
        "aVF": lead_ii - lead_i / 2,
    }


def beats(samples: int = 2500) -> np.ndarray:
    """Noise of 0.05 mV with a spike of 1 mV a second, (samples,) at 250 Hz."""
    signal = np.random.default_rng(1).normal(scale=0.05, size=samples)
    signal[::250] += 1.0
    return signal


def test_honest_limb_leads_break_nothing():
    assert limb_finding(limb_leads()) is None
    assert limb_finding({"II": beats(), "V1": beats()}) is None


def test_exchanged_leads_are_found_by_the_equation_that_can_see_them():
    leads = limb_leads()
    swapped = leads | {"I": leads["II"], "II": leads["I"]}
    assert "Einthoven" in limb_finding(swapped).text
    blind = leads | {"I": leads["III"], "III": leads["I"]}
    assert einthoven_ratio(blind["I"], blind["II"], blind["III"]) < 1e-12
    assert "Goldberger" in limb_finding(blind).text
    assert limb_finding(blind).value > GOLDBERGER_THRESHOLD


def test_leads_that_are_all_zero_prove_no_order():
    assert limb_finding({name: np.zeros(100) for name in ("I", "II", "III")}) is not None


def test_a_spike_is_reported_with_its_height():
    signal = beats()
    signal[700] = -11.35
    (finding,) = signal_findings(signal[None], ["V4"], 250)
    assert (finding.kind, finding.lead, finding.value) == ("spike", "V4", -11.35)
    assert "V4 reaches -11.35 mV" in finding.text


def test_clipping_is_reported_where_the_signal_stays_at_its_extreme():
    signal = beats()
    signal[500:520] = 3.0
    (finding,) = signal_findings(signal[None], ["V2"], 250)
    assert (finding.kind, finding.lead, finding.value) == ("saturation", "V2", 3.0)


def test_a_stretch_without_any_change_is_reported_with_its_length():
    signal = beats()
    signal[1000:1400] = signal[1000]
    (finding,) = signal_findings(signal[None], ["II"], 250)
    assert (finding.kind, finding.lead, finding.value) == ("flat", "II", pytest.approx(1.6))


def test_of_another_signal_only_flat_stretches_are_reported():
    # As ECGs they would have a spike, clipping, and limb leads that do not add up.
    signal = np.stack([beats(), beats() * 30, beats() - 1])
    signal[1, 500:520], signal[2, 1000:1400] = signal[1].max(), signal[2, 1000]
    assert {finding.kind for finding in signal_findings(signal, ["I", "II", "III"], 250)} == {
        "limb_equations",
        "saturation",
        "spike",
        "flat",
    }
    (finding,) = signal_findings(signal, ["I", "II", "III"], 250, "other")
    assert (finding.kind, finding.lead) == ("flat", "III")


def test_a_clean_signal_has_no_findings():
    assert signal_findings(np.stack(list(limb_leads(2500).values())) * 0.1, list(limb_leads()), 250) == []


@pytest.fixture(scope="module")
def real_signals(shared_ecg) -> list[np.ndarray]:
    """(12, samples) in mV of every WFDB record at hand, missing values as zeros."""
    signals = []
    for path in find_records(shared_ecg):
        try:
            record = read_record(path)
        except EcgJepaRecordError as error:
            assert "LFS" in str(error)  # the only ones that cannot be read
            continue
        rows = [record.lead_names.index(lead) for lead in STANDARD_12_LEADS]
        signals.append(np.nan_to_num(record.signal[rows].astype(np.float64)))
    assert len(signals) > 200
    return signals


def test_what_the_thresholds_separate_on_real_records(real_signals, capsys):
    honest = np.array([ratios(signal[:6]) for signal in real_signals])
    exchanged = np.array([ratios(signal[[2, 1, 0, 3, 4, 5]]) for signal in real_signals])
    wrong = wrong_orders(real_signals)
    sizes = np.array([median_deviation(signal[np.ptp(signal, axis=1) > 0]) for signal in real_signals])
    smallest, largest = PLAUSIBLE_MILLIVOLTS
    with capsys.disabled():
        print(f"\n{len(real_signals)} real 12-lead records               Einthoven        Goldberger")
        print(f"  threshold                            {EINTHOVEN_THRESHOLD:<16} {GOLDBERGER_THRESHOLD}")
        print(f"  honest order, worst                  {honest[:, 0].max():<16.4f} {honest[:, 1].max():.4f}")
        print(f"  I and III exchanged, least           (blind)          {exchanged[:, 1].min():.4f}")
        print(f"  719 wrong orders, least of the larger ratio over its threshold: {wrong.min():.2f}")
        print(
            f"distance from the median: {sizes.min():.4f} to {sizes.max():.4f} mV, allowed {smallest} to {largest} mV"
        )
    assert (honest <= [EINTHOVEN_THRESHOLD, GOLDBERGER_THRESHOLD]).all()
    assert (exchanged[:, 1] > GOLDBERGER_THRESHOLD).all()
    assert wrong.min() > 1
    assert ((sizes > smallest) & (sizes < largest)).all()
    assert ((sizes * 1000 > largest) & (sizes / 1000 < smallest)).all()


def ratios(limb: np.ndarray) -> tuple[float, float]:
    lead_i, lead_ii, lead_iii, avr, avl, avf = limb
    return einthoven_ratio(lead_i, lead_ii, lead_iii), goldberger_ratio(lead_i, lead_ii, avr, avl, avf)


def wrong_orders(signals: list[np.ndarray]) -> np.ndarray:
    """(719, records): for each other order of the limb leads, the larger of the two ratios over its threshold.

    Worked out from the leads' second moments, in which every residual is a quadratic form.
    """
    moments = np.stack([signal[:6] @ signal[:6].T / signal.shape[1] for signal in signals])
    equations = np.array([[-1, 1, -1, 0, 0, 0], [0.5, 0.5, 0, 1, 0, 0], [-1, 0.5, 0, 0, 1, 0], [0.5, -1, 0, 0, 0, 1]])
    outcomes = []
    for order in itertools.permutations(range(6)):
        ordered = moments[:, order][:, :, order]
        residuals = np.sqrt(np.maximum(np.einsum("ei,nij,ej->ne", equations, ordered, equations), 0))
        sizes = np.sqrt(np.einsum("nii->ni", ordered))
        einthoven = residuals[:, 0] / np.linalg.norm(sizes[:, :3], axis=1)
        goldberger = residuals[:, 1:].max(axis=1) / sizes[:, 3:].mean(axis=1)
        outcomes.append(np.maximum(einthoven / EINTHOVEN_THRESHOLD, goldberger / GOLDBERGER_THRESHOLD))
    return np.stack(outcomes[1:])  # the first is the identity
