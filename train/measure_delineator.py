"""Boundaries of waves where nobody marked them: neurokit2's delineator, for measurements on any corpus.

Its marks are an algorithm's, not a cardiologist's: how far they lie apart is measured on LUDB, whose rows have both,
by `--corpus ludb --truth delineator`, and stands in the results.
"""

import importlib
import warnings
from collections.abc import Mapping
from types import ModuleType

import numpy as np

from dataset_scripts.ludb import Wave
from modeling_ecg_jepa import EcgJepaConfigError

#: Leads that are delineated, where a record has them: the frontal axis needs I and aVF, the amplitude of T lead II.
DELINEATED_LEADS = ("I", "II", "aVF", "V2", "V5")

#: R peaks are found in the first of these that a record has, and hold for all leads.
_RHYTHM_LEADS = ("II", "I", "V5")

#: Of neurokit2's methods the nearest to the cardiologists' marks on 20 records of LUDB, and the fastest: mean absolute
#: distances of PR, QRS and QT of 9, 23 and 16 ms ("dwt", its default, 49, 62 and 44). Its QRS is some 20 ms too short.
METHOD = "prominence"

#: neurokit2's names of onset, peak and end of each wave.
_POINTS = {
    "P": ("ECG_P_Onsets", "ECG_P_Peaks", "ECG_P_Offsets"),
    "QRS": ("ECG_R_Onsets", None, "ECG_R_Offsets"),
    "T": ("ECG_T_Onsets", "ECG_T_Peaks", "ECG_T_Offsets"),
}

# What the library raises on signals in which it finds no beats.
_LIBRARY_ERRORS = (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, AttributeError)


def load_delineator() -> ModuleType:
    """
    Raises:
        EcgJepaConfigError: neurokit2 is not installed.
    """
    try:
        return importlib.import_module("neurokit2")
    except ImportError as error:
        raise EcgJepaConfigError(
            f"--truth delineator needs neurokit2, which is not installed ({error}). Install it with "
            'pip install -c constraints.txt -e ".[measure]", or use a corpus with boundaries of its own (ludb).'
        ) from error


def delineate(signal: Mapping[str, np.ndarray], sampling_rate: float) -> dict[str, list[Wave]]:
    """Waves of the leads of `DELINEATED_LEADS` in order, as samples; a lead in which none can be found is left out.

    Args:
        signal: of each lead (samples,), in mV.
    """
    neurokit = load_delineator()
    rate = round(sampling_rate)
    usable = {lead: values for lead, values in signal.items() if np.isfinite(values).all() and np.ptp(values) > 0}
    rhythm = next((lead for lead in _RHYTHM_LEADS if lead in usable), None)
    if rhythm is None:
        return {}
    waves = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cleaned = neurokit.ecg_clean(usable[rhythm], sampling_rate=rate)
            peaks = neurokit.ecg_peaks(cleaned, sampling_rate=rate)[1]["ECG_R_Peaks"]
        except _LIBRARY_ERRORS:
            return {}
        for lead in (lead for lead in DELINEATED_LEADS if lead in usable):
            try:
                cleaned = neurokit.ecg_clean(usable[lead], sampling_rate=rate)
                points = neurokit.ecg_delineate(cleaned, peaks, sampling_rate=rate, method=METHOD)[1]
            except _LIBRARY_ERRORS:
                continue
            waves[lead] = waves_from(points, peaks.tolist())
    return waves


def waves_from(points: Mapping[str, list], peaks: list[int]) -> list[Wave]:
    """neurokit2's points, lists with an entry a beat of which some are NaN, as waves in order; a wave needs its peak,
    an onset before it and an end after it."""
    waves = []
    for kind, (onsets, middles, ends) in _POINTS.items():
        of_peaks = peaks if middles is None else points[middles]
        for onset, peak, end in zip(points[onsets], of_peaks, points[ends], strict=False):
            if np.isfinite([onset, peak, end]).all() and onset <= peak <= end:
                waves.append(Wave(kind, int(onset), int(peak), int(end)))
    return sorted(waves, key=lambda wave: wave.peak)
