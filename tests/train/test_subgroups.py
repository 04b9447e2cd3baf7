"""Groups of records: bands of age, what is unknown, and what is too small to say anything of."""

import numpy as np
import pytest
from probe_corpus import EXTRACTOR, make_rows, write_rows

from modeling_ecg_jepa import EcgJepaConfigError
from train.probe_records import load_probe_records
from train.subgroups import SMALL, SMALLEST, UNKNOWN, age_band, divide


@pytest.mark.parametrize(
    ("years", "band"),
    [
        *((0, "0 to 17"), (17.9, "0 to 17"), (18, "18 to 39"), (59, "40 to 59"), (79.5, "60 to 79")),
        *((80, "80 and older"), (300, "80 and older"), (None, UNKNOWN), (float("nan"), UNKNOWN), (-1, UNKNOWN)),
    ],
)
def test_a_band_begins_at_its_first_year(years, band):
    assert age_band(years) == band


def test_small_groups_are_put_together_and_every_record_is_in_one_group():
    groups = np.array(["a"] * SMALLEST + ["b"] * (SMALLEST - 1) + ["c"])
    divided = divide(groups)
    assert {name: len(places) for name, places in divided.items()} == {"a": SMALLEST, SMALL: SMALLEST}
    assert sorted(np.concatenate(list(divided.values()))) == list(range(len(groups)))


def test_records_keep_their_groups_in_the_order_of_their_folds(tmp_path):
    rows = [row | {"sex": "female" if row["labels"] else None} for row in make_rows(per_fold=4)]
    choice = write_rows(tmp_path, rows[::-1])
    records = load_probe_records(choice, EXTRACTOR, range(1, 11), quiet=True, subgroups=["sex"])
    expected = {row["record_id"]: row["sex"] or UNKNOWN for row in rows}
    assert dict(zip(records.ids, records.subgroups["sex"].tolist(), strict=True)) == expected


def test_a_column_without_values_is_refused(tmp_path):
    choice = write_rows(tmp_path, [row | {"sex": "male"} for row in make_rows(per_fold=2)])
    with pytest.raises(EcgJepaConfigError, match="tells no 'age' .* it has sex"):
        load_probe_records(choice, EXTRACTOR, range(1, 11), quiet=True, subgroups=["age"])
