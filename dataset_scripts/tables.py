"""CSV tables of corpora, read as text and checked: a wrong or missing column is an error that lists what there is."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError


def read_table(path: str | os.PathLike, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file with all values as text; an empty field is "".

    Args:
        columns: names of the columns that must be there.

    Raises:
        EcgJepaRecordError: no such file, not a CSV file, or a column is missing.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except OSError as error:
        raise EcgJepaRecordError(
            "table missing", f"Cannot read the table {path}: {error.strerror}. Name the folder or file that holds it."
        ) from error
    except (ValueError, pd.errors.ParserError) as error:  # also text that is not UTF-8, and an empty file
        raise EcgJepaRecordError("table not readable", f"{path} is not a CSV table in UTF-8: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas would take the first columns for names of rows
        raise EcgJepaRecordError("table not readable", f"{path} has lines with more fields than its first line.")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise EcgJepaRecordError(
            "table incomplete",
            f"{path} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, table.columns))}.",
        )
    return table.fillna("")  # lines with fewer fields


def number(text: str, what: str) -> float | None:
    """A number of a table; None for an empty field and for "nan".

    Raises:
        EcgJepaRecordError: it is no number; `what` says where it stands.
    """
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise EcgJepaRecordError("no number", f"{what}: {text!r} is not a number.") from error
    if math.isinf(value):
        raise EcgJepaRecordError("no number", f"{what}: {text!r} is not a finite number.")
    return None if math.isnan(value) else value
