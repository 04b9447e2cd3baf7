"""What people hand over, made into one form: every record an `EcgInput` with named rows, a rate and a unit."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .errors_ecg_jepa import EcgJepaInputError
from .leads_ecg_jepa import STANDARD_12_LEADS, Modality, canonical_leads
from .quality_ecg_jepa import limb_finding
from .units_ecg_jepa import canonical_unit

#: The shapes that the extractor takes; the README shows the same table.
ACCEPTED_SHAPES = """\
| you have | you pass |
| --- | --- |
| 12 rows in the order I, II, III, aVR, aVL, aVF, V1-V6 | `leads=` may be left out: the limb equations are checked |
| 8 rows | `leads=["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]`, in your rows' order |
| any other rows, in any order | `leads=[...]`, a name a row; leads the model lacks are dropped, missing ones masked |
| less than the model's 10 s | as it is; it is padded, and `attention_mask` says where |
| more than 10 s | `truncation="start"`, `"center"`, `"random"`, `None` (whole); `window_seconds=10, stride_seconds=5` |
| several records | a list of arrays (leads, samples), or one array (batch, leads, samples) |"""

#: Beyond this a value does not survive single precision and its resampling; it counts as not finite.
LARGEST_VALUE = 1e35

#: Of an ECG; below this a patch of 0.2 s has fewer than four samples: the rate was not given in samples a second.
LOWEST_SAMPLING_RATE = 20.0


@dataclasses.dataclass(frozen=True)
class EcgInput:
    """One record as given.

    Args:
        signal (`np.ndarray`): (leads, samples) in `unit`, any real dtype; a view of what the caller gave.
        leads (`tuple[str, ...]`): canonical names of the rows.
        sampling_rate (`float`): samples a second.
        unit (`str`): `"mV"`, `"uV"` or `"V"`.
        modality (`str`): `"ecg"`, or `"other"` for channels that no rule of ECGs holds for.
        index (`int`): its place in the batch.
        where (`str`): how errors begin: `"Record 3: "` in a batch, nothing for a single record.
    """

    signal: np.ndarray
    leads: tuple[str, ...]
    sampling_rate: float
    unit: str
    modality: Modality
    index: int
    where: str


def read_inputs(
    signal: Any, sampling_rate: Any, leads: Any, unit: Any, model_leads: Sequence[str], modality: Modality
) -> list[EcgInput]:
    """The records in `signal` with what was said about them, once for all or once for each.

    Raises:
        EcgJepaInputError: a shape, type, rate, unit, name or order of leads that does not describe ECGs.
    """
    arrays, batched = _as_arrays(signal)
    rates = _one_each(sampling_rate, len(arrays), "sampling_rate", lambda value: np.ndim(value) == 0)
    names = _one_each(leads, len(arrays), "leads", _names_one_record)
    units = _one_each(unit, len(arrays), "unit", lambda value: False)
    inputs = []
    for index, array in enumerate(arrays):
        where = f"Record {index}: " if batched else ""
        try:
            rate = _checked_rate(rates[index], modality)
            rows = _row_names(_checked_array(array, names[index]), names[index], model_leads, modality)
            inputs.append(EcgInput(array, rows, rate, canonical_unit(units[index]), modality, index, where))
        except EcgJepaInputError as error:
            raise EcgJepaInputError(f"{where}{error}") from error
    return inputs


def _as_arrays(signal: Any) -> tuple[list[np.ndarray], bool]:
    """The records as numpy arrays, and whether they came as a batch."""
    if isinstance(signal, (list, tuple)) and signal and all(hasattr(item, "ndim") for item in signal):
        return [_as_array(item) for item in signal], True
    array = _as_array(signal)
    if array.ndim != 3:
        return [array], False
    if len(array) == 0:
        raise EcgJepaInputError(f"The batch of shape {array.shape} holds no record.")
    return list(array), True


def _as_array(signal: Any) -> np.ndarray:
    if isinstance(signal, torch.Tensor):
        signal = signal.detach().cpu()
        return (signal.float() if signal.dtype == torch.bfloat16 else signal).numpy()
    try:
        return np.asarray(signal)
    except ValueError as error:
        raise EcgJepaInputError(f"Rows of different lengths are no record ({error}). {_shapes()}") from error


def _checked_array(array: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
    if array.dtype.kind not in "iuf":
        raise EcgJepaInputError(f"A signal has real numbers, not the type {array.dtype}. {_shapes()}")
    if array.size == 0:
        raise EcgJepaInputError(f"A signal of shape {array.shape} is empty. {_shapes()}")
    if array.ndim == 1:
        raise EcgJepaInputError(
            f"A signal of shape {array.shape} has no rows for leads; a single lead is signal[None, :] with its name, "
            'e.g. leads=["II"].'
        )
    if array.ndim != 2:
        raise EcgJepaInputError(f"A signal of shape {array.shape} is no record, which is (leads, samples). {_shapes()}")
    expected = len(STANDARD_12_LEADS) if names is None else len(names)
    if array.shape[0] != expected and array.shape[1] == expected:
        raise EcgJepaInputError(
            f"A signal of shape {array.shape} looks like (samples, leads); a record is (leads, samples): pass signal.T."
        )
    return array


def _checked_rate(rate: Any, modality: Modality) -> float:
    if rate is None:
        raise EcgJepaInputError(
            "sampling_rate is missing, and samples do not tell it: pass the record's own rate, e.g. sampling_rate=500."
        )
    try:
        value = math.nan if isinstance(rate, (bool, np.bool_, str)) else float(rate)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise EcgJepaInputError(f"sampling_rate={rate!r} must be a positive number of samples a second, e.g. 500.")
    if modality == "ecg" and value < LOWEST_SAMPLING_RATE:
        raise EcgJepaInputError(
            f"sampling_rate={rate!r} is too low for an ECG (at least {LOWEST_SAMPLING_RATE:g} Hz): it is counted in "
            "samples a second, not in kHz and not as the time between samples."
        )
    return value


def _names_one_record(leads: Any) -> bool:
    return not any(item is None or isinstance(item, (list, tuple, np.ndarray)) for item in leads)


def _one_each(value: Any, count: int, what: str, is_single: Callable[[Any], bool]) -> list:
    """`value` for each of `count` records: itself where it is for one record, else its items."""
    if value is None or isinstance(value, str):
        return [value] * count
    try:
        values = [value] * count if is_single(value) else list(value)
    except TypeError as error:
        raise EcgJepaInputError(f"{what}={value!r} is neither for all records nor a list with one each.") from error
    if len(values) != count:
        raise EcgJepaInputError(
            f"{what} is given {len(values)} times for {count} record{'s' * (count != 1)}; give it once for all of them "
            "or once for each."
        )
    return values


def _row_names(
    signal: np.ndarray, names: Sequence[str] | None, model_leads: Sequence[str], modality: Modality
) -> tuple[str, ...]:
    if names is None and modality == "ecg":
        return _standard_order(signal, model_leads)
    if names is None:
        raise EcgJepaInputError(
            f"{len(signal)} rows without names. Pass leads=[...], a name a row; the model has {', '.join(model_leads)}."
        )
    if isinstance(names, str):
        raise EcgJepaInputError(f"leads={names!r} must be a list of names, one a row, e.g. leads=[{names!r}].")
    if len(names) != len(signal):
        raise EcgJepaInputError(
            f"leads names {len(names)} rows ({', '.join(map(str, names))}), the signal of shape {signal.shape} has "
            f"{len(signal)}. A record is (leads, samples) with one name a row."
        )
    rows = canonical_leads(names, modality)
    if modality == "other":
        _refuse_foreign(rows, model_leads)
    return tuple(rows)


def _refuse_foreign(rows: Sequence[str], model_leads: Sequence[str]) -> None:
    """Without a table of names one that the model lacks may be a slip, so it is never dropped without a word."""
    foreign = [row for row in rows if row not in model_leads]
    if foreign:
        near = difflib.get_close_matches(foreign[0], model_leads, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise EcgJepaInputError(
            f"The model has no channel {', '.join(map(repr, foreign))}.{hint} It has {', '.join(model_leads)}: call "
            "the rows so, and leave others out of the signal and its names."
        )


def _standard_order(signal: np.ndarray, model_leads: Sequence[str]) -> tuple[str, ...]:
    """The standard 12 leads for unnamed rows, if the limb equations bear it out."""
    standard = ", ".join(STANDARD_12_LEADS)
    if len(signal) != len(STANDARD_12_LEADS):
        raise EcgJepaInputError(
            f"{len(signal)} rows without names: only {len(STANDARD_12_LEADS)} rows may come unnamed, as {standard}. "
            f"Pass leads=[...], a name a row; the model uses {', '.join(model_leads)}.\n{_shapes()}"
        )
    limbs = signal[:6].astype(np.float64)
    limbs = limbs[:, (np.abs(limbs) < LARGEST_VALUE).all(axis=0)]  # False for NaN
    broken = limb_finding(dict(zip(STANDARD_12_LEADS, limbs, strict=False))) if limbs.size else None
    if limbs.size and not broken:
        return STANDARD_12_LEADS
    if not any(_varies(row) for row in signal):
        return STANDARD_12_LEADS  # no names would make this a usable record, and that is what the user must hear
    reason = broken.text if broken else "no sample is finite in all limb leads, so the order cannot be checked"
    raise EcgJepaInputError(
        f"12 rows without names are not the standard order {standard}: {reason}. Pass leads=[...], a name a row."
    )


def _varies(row: np.ndarray) -> bool:
    values = row[np.isfinite(row)]
    return bool(values.size and values.min() < values.max())


def _shapes() -> str:
    return f"Accepted:\n{ACCEPTED_SHAPES}"


__all__ = ["ACCEPTED_SHAPES", "LARGEST_VALUE", "EcgInput", "read_inputs"]
