"""The labels by which a plot of embeddings is coloured: a column of theirs, or a CSV table beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_scripts.tables import read_table

from ..errors_ecg_jepa import EcgJepaConfigError, EcgJepaInputError
from .embedding_files import Embeddings

#: Labels of a row; none hold for (), and nothing is known of None.
Labels = tuple[str, ...] | None

_RECORD = "record"


def labels_of(embeddings: Embeddings, source: str | None) -> list[Labels] | None:
    """The labels of each row.

    Args:
        source: a column of the embeddings; or a CSV table with a column `record` and either one other column, whose
            labels are separated by semicolons, or several, each a label that holds where it says 1; or None for the
            column `labels`, if anything is known there.

    Returns:
        None without a source, where the column `labels` says nothing.

    Raises:
        EcgJepaConfigError: no such column, or one that is no label.
        EcgJepaInputError: nothing is known of any row.
        EcgJepaRecordError: a table that cannot be read.
    """
    if source is None:
        labels = _of_column(embeddings, "labels")
        return labels if any(each is not None for each in labels) else None
    table = Path(source).suffix.lower() == ".csv"
    labels = _of_table(embeddings, Path(source)) if table else _of_column(embeddings, source)
    if all(each is None for each in labels):
        why = _ids_that_differ(embeddings, Path(source)) if table else "it is empty in every row"
        raise EcgJepaInputError(
            f"--labels {source}: {why}. Corpora of `ecg-jepa prepare` carry labels; for WFDB records pass a CSV table."
        )
    return labels


def _of_column(embeddings: Embeddings, name: str) -> list[Labels]:
    there = embeddings.rows.column_names
    if name not in there:
        raise EcgJepaConfigError(
            f"--labels {name}: {embeddings.place} has no such column; it has {', '.join(there)}. A table must "
            "end in .csv."
        )
    return [_as_labels(value) for value in embeddings.rows[name].to_pylist()]


def _as_labels(value: Any) -> Labels:
    if value is None:
        return None
    several = value if isinstance(value, list) else [value]
    return tuple(f"{each:g}" if isinstance(each, float) else str(each) for each in several)


def _of_table(embeddings: Embeddings, path: Path) -> list[Labels]:
    table = read_table(path, [_RECORD])
    names = [name for name in table.columns if name != _RECORD]
    if not names:
        raise EcgJepaConfigError(f"--labels {path}: beside {_RECORD!r} it has no column; add one with the labels.")
    labels: dict[str, tuple[str, ...]] = {}
    for line, row in enumerate(table.to_dict("records"), start=2):
        found = _of_ones(row, names, f"{path}, line {line}") if len(names) > 1 else _split(row[names[0]])
        labels[row[_RECORD]] = labels.get(row[_RECORD], ()) + found
    return [labels.get(record) for record in embeddings.rows["record"].to_pylist()]


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";") if part.strip())


def _of_ones(row: dict[str, str], names: Sequence[str], place: str) -> tuple[str, ...]:
    for name in names:
        if row[name].strip() not in ("", "0", "1", "0.0", "1.0"):
            raise EcgJepaConfigError(
                f"--labels {place}: {name} is {row[name]!r}, neither 0 nor 1. With several columns each is a label; to "
                f"colour by the values of one, keep {_RECORD!r} and that one alone."
            )
    return tuple(name for name in names if row[name].strip() in ("1", "1.0"))


def _ids_that_differ(embeddings: Embeddings, path: Path) -> str:
    theirs = read_table(path, [_RECORD])[_RECORD].tolist()
    ours = embeddings.rows["record"].to_pylist()
    return f"none of its records ({', '.join(theirs[:2])} ...) is one of the embeddings' ({', '.join(ours[:2])} ...)"


__all__ = ["Labels", "labels_of"]
