"""Groups of records that results can be divided by: bands of age, sex, and other columns of a corpus."""

from collections.abc import Sequence

import numpy as np

from modeling_ecg_jepa import EcgJepaConfigError

from .windows import PreparedRows

#: What is commonly looked at; any other column of words or small numbers will do as well.
COMMON = ("age", "sex", "device", "site")

#: Where a band of age begins, in years; the last has no end (PTB-XL writes 300 for over 89).
AGE_BANDS = (0, 18, 40, 60, 80)

#: Groups of fewer records are put together: their intervals would say nothing.
SMALLEST = 20

UNKNOWN, SMALL = "unknown", f"groups of fewer than {SMALLEST} records"


def read_subgroups(rows: PreparedRows, names: Sequence[str], title: str) -> dict[str, np.ndarray]:
    """Of each of `names` the group of each row, as text.

    Raises:
        EcgJepaConfigError: the corpus has no such column, or it is empty.
    """
    groups = {}
    for name in names:
        column = rows.column(name)
        if column is None or not _told(rows, name):
            known = [each for each in COMMON if _told(rows, each)]
            raise EcgJepaConfigError(
                f"{title} tells no {name!r} of its records, so results cannot be divided by it; of the common "
                f"columns it has {', '.join(known) or 'none'}."
            )
        in_words = age_band if name == "age" else _in_words
        groups[name] = np.array([in_words(value) for value in column.to_pylist()])
    return groups


def _told(rows: PreparedRows, name: str) -> bool:
    column = rows.column(name)
    return column is not None and column.null_count < len(column)


def age_band(years: float | None) -> str:
    if years is None or not years >= 0:
        return UNKNOWN
    place = np.searchsorted(AGE_BANDS, years, side="right")
    start = AGE_BANDS[place - 1]
    return f"{start} to {AGE_BANDS[place] - 1}" if place < len(AGE_BANDS) else f"{start} and older"


def _in_words(value: object) -> str:
    return UNKNOWN if value is None or value != value or str(value).strip() == "" else str(value).strip()


def divide(groups: np.ndarray) -> dict[str, np.ndarray]:
    """Group -> places of its records, those of small groups together, in the order of their names."""
    names, counts = np.unique(groups, return_counts=True)
    large = names[counts >= SMALLEST].tolist()
    divided = {name: np.flatnonzero(groups == name) for name in large}
    small = np.flatnonzero(~np.isin(groups, large))
    return divided | ({SMALL: small} if len(small) else {})
