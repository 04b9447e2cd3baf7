"""Records and classes of PTB-XL's six label sets, counted from its table and compared with the published numbers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from dataset_scripts.corpus import existing_folder
from dataset_scripts.ptb_xl import read_database, statements_and_fold
from dataset_scripts.scp_statements import LABEL_SETS, check_min_likelihood, labels_of, likely

#: Rows of the whole table of PTB-XL 1.0.3.
WHOLE = 21_799

FOLDS = range(1, 11)


@dataclass(frozen=True)
class LabelCounts:
    """A label set in numbers.

    Attributes:
        records: with at least one class of the set.
        fold_10: those of them in fold 10.
        exactly_one: those with exactly one class.
        by_class: class -> records in folds 1 to 10.
    """

    label_set: str
    records: int
    fold_10: int
    exactly_one: int
    by_class: dict[str, list[int]]


#: Counted from the codes of PTB-XL 1.0.3, whatever their likelihood: (label set, what) -> number.
PUBLISHED = {
    ("all", "classes"): 71,
    ("all", "records"): 21_799,
    ("all", "fold 10"): 2_198,
    ("diagnostic", "classes"): 44,
    ("diagnostic", "records"): 21_388,
    ("diagnostic", "fold 10"): 2_158,
    ("subdiagnostic", "classes"): 23,
    ("subdiagnostic", "records"): 21_388,
    ("subdiagnostic", "fold 10"): 2_158,
    ("subdiagnostic", "exactly one"): 15_211,
    ("superdiagnostic", "classes"): 5,
    ("superdiagnostic", "records"): 21_388,
    ("superdiagnostic", "fold 10"): 2_158,
    ("superdiagnostic", "exactly one"): 16_244,
    ("superdiagnostic", "NORM"): 9_514,
    ("superdiagnostic", "MI"): 5_469,
    ("superdiagnostic", "STTC"): 5_235,
    ("superdiagnostic", "CD"): 4_898,
    ("superdiagnostic", "HYP"): 2_649,
    ("form", "classes"): 19,
    ("form", "records"): 8_978,
    ("form", "fold 10"): 880,
    ("rhythm", "classes"): 12,
    ("rhythm", "records"): 21_030,
    ("rhythm", "fold 10"): 2_098,
}


def count_labels(
    data_dir: str | os.PathLike[str], min_likelihood: float | None = None
) -> tuple[int, list[LabelCounts]]:
    """Rows of the table in a folder of PTB-XL, and the counts of each label set; no signal is needed.

    Raises:
        EcgJepaRecordError: no such folder or table, or a row that cannot be read.
        EcgJepaConfigError: `min_likelihood` is not None, nor more than 0 and at most 100.
    """
    check_min_likelihood(min_likelihood)
    rows = []
    for row in read_database(existing_folder(data_dir)).to_dict("records"):
        codes, fold = statements_and_fold(row)
        rows.append((likely(codes, min_likelihood), fold))
    return len(rows), [_count(name, rows) for name in LABEL_SETS]


def _count(label_set: str, rows: Sequence[tuple[list[str], int]]) -> LabelCounts:
    labels = [(labels_of(codes, label_set), fold) for codes, fold in rows]
    by_class = {name: [0] * len(FOLDS) for name in LABEL_SETS[label_set]}
    for names, fold in labels:
        for name in names:
            by_class[name][fold - 1] += 1
    return LabelCounts(
        label_set=label_set,
        records=sum(bool(names) for names, _ in labels),
        fold_10=sum(bool(names) for names, fold in labels if fold == 10),
        exactly_one=sum(len(names) == 1 for names, _ in labels),
        by_class=by_class,
    )


def differences(counts: Sequence[LabelCounts]) -> list[str]:
    """A line for each published number that the counts do not match."""
    found: dict[tuple[str, str], int] = {}
    for count in counts:
        numbers = {
            "classes": len(count.by_class),
            "records": count.records,
            "fold 10": count.fold_10,
            "exactly one": count.exactly_one,
            **{name: sum(folds) for name, folds in count.by_class.items()},
        }
        found |= {(count.label_set, what): number for what, number in numbers.items()}
    return [
        f"{label_set}, {what}: {found[label_set, what]:,}, published {number:,}"
        for (label_set, what), number in PUBLISHED.items()
        if found[label_set, what] != number
    ]


def in_words(counts: Sequence[LabelCounts]) -> list[str]:
    """The lines of both tables: the sets, and the superdiagnostic classes a fold."""
    lines = [f"{'set':<16}{'classes':>8}{'records':>9}{'fold 10':>9}{'exactly one':>13}"]
    for count in counts:
        numbers = f"{len(count.by_class):8,}{count.records:9,}{count.fold_10:9,}{count.exactly_one:13,}"
        lines.append(f"{count.label_set:<16}{numbers}")
    lines += ["", f"{'fold':<8}" + "".join(f"{fold:7}" for fold in FOLDS) + f"{'all':>8}"]
    superdiagnostic = next(count for count in counts if count.label_set == "superdiagnostic")
    for name, folds in superdiagnostic.by_class.items():
        lines.append(f"{name:<8}" + "".join(f"{number:7,}" for number in folds) + f"{sum(folds):8,}")
    return lines
