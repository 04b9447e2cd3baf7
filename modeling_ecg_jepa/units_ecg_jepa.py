"""Units of a signal, and whether a record's size fits the one it claims."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from .errors_ecg_jepa import EcgJepaInputError

#: Millivolts in one of each unit that users may name.
MILLIVOLTS: Mapping[str, float] = MappingProxyType({"mV": 1.0, "uV": 0.001, "V": 1000.0})

#: A surface ECG's median distance from each lead's median, in mV. 2,460 real records lie from 0.015 to 0.49
#: (single quiet leads go lower, so the rule is on the record); a factor of 1,000 either way leaves the range.
PLAUSIBLE_MILLIVOLTS = (0.002, 5.0)

_SPELLINGS = {
    "mv": "mV",
    "millivolt": "mV",
    "millivolts": "mV",
    "uv": "uV",
    "microvolt": "uV",
    "microvolts": "uV",
    "v": "V",
    "volt": "V",
    "volts": "V",
}


def canonical_unit(unit: str) -> str:
    """`"mV"`, `"uV"` or `"V"` for a spelling of one: "MV", "µV", "microvolts".

    Raises:
        EcgJepaInputError: no unit of an ECG that we know.
    """
    spelling = unit.strip().lower().replace("\u00b5", "u").replace("\u03bc", "u") if isinstance(unit, str) else None
    if spelling not in _SPELLINGS:
        raise EcgJepaInputError(f"Unknown unit {unit!r}; a signal is given in {', '.join(MILLIVOLTS)}.")
    return _SPELLINGS[spelling]


def median_deviation(signal: np.ndarray) -> float:
    """Median, over all samples, of the distance from each row's own median, in the signal's unit.

    Args:
        signal (`np.ndarray`): (rows, samples), finite. Single precision halves the time and is exact enough.
    """
    middle = signal.shape[-1] // 2
    medians = np.partition(signal, middle, axis=-1)[..., middle, None]
    deviations = np.abs(signal - medians).ravel()
    return float(np.partition(deviations, deviations.size // 2)[deviations.size // 2])


def implausible_amplitude(deviation: float, unit: str) -> str | None:
    """What is wrong with a record whose `median_deviation` is `deviation` mV when taken as `unit`; None if nothing."""
    smallest, largest = PLAUSIBLE_MILLIVOLTS
    if smallest <= deviation <= largest:
        return None
    if deviation == 0:
        return "More than half of the signal's samples equal its median: flat or padded stretches? Cut them off first."
    found = (
        f"Taken as {unit}, the signal lies typically {deviation:.3g} mV from its median; "
        f"an ECG lies {smallest} to {largest} mV."
    )
    likely = _likely_unit(deviation / MILLIVOLTS[unit])
    if likely is None:
        return f"{found} No unit of {', '.join(MILLIVOLTS)} makes it one: is it a calibrated ECG?"
    counts = ", or raw counts of the converter: divide them by the record's gain" if likely == "uV" else ""
    return f'{found} It is probably in {likely}: pass unit="{likely}"{counts}.'


def _likely_unit(deviation: float) -> str | None:
    """The unit in which a deviation (in that unit) is nearest to that of real records, in decades."""
    smallest, largest = PLAUSIBLE_MILLIVOLTS
    plausible = [unit for unit, millivolts in MILLIVOLTS.items() if smallest <= deviation * millivolts <= largest]
    return min(plausible, key=lambda unit: abs(math.log10(deviation * MILLIVOLTS[unit] / 0.1)), default=None)


__all__ = ["MILLIVOLTS", "PLAUSIBLE_MILLIVOLTS", "canonical_unit", "implausible_amplitude", "median_deviation"]
