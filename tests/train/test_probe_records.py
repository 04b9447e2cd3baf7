"""Records of a probe: each signal once, nobody fitted and tested, and refusals where no honest split can be made."""

import numpy as np
import pyarrow as pa
import pytest
from probe_corpus import CLASSES, EXTRACTOR, load_rows, make_rows, without_lead, write_rows

from modeling_ecg_jepa import EcgJepaConfigError
from train.options import CorpusChoice
from train.probe_records import (
    ProbeRecords,
    draw_patients,
    inner_splits,
    label_counts,
    load_probe_records,
    parts_of,
    read_folds,
)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make_rows(per_fold=8)


@pytest.fixture(scope="module")
def records(rows, tmp_path_factory) -> ProbeRecords:
    return load_rows(tmp_path_factory.mktemp("corpus"), rows)


def test_labels_patients_and_folds_are_those_of_the_rows(rows, records):
    assert records.ids == [row["record_id"] for row in rows]
    assert records.patients == [row["patient_id"] for row in rows] and None in records.patients
    assert records.folds.tolist() == [row["fold"] for row in rows]
    assert [[CLASSES[k] for k in np.flatnonzero(row)] for row in records.labels] == [row["labels"] for row in rows]
    assert records.duplicates == [] and records.fold_counts() == dict.fromkeys(range(1, 11), 8)
    large = next(label for label in label_counts(records) if label["name"] == "LARGE")
    assert large["records"] == sum("LARGE" in row["labels"] for row in rows) == sum(large["by_fold"].values())


def test_rows_of_a_fold_that_is_not_wanted_are_not_there(rows, tmp_path):
    records = load_rows(tmp_path, rows, folds=(2, 1))
    assert records.folds.tolist() == [1] * 8 + [2] * 8
    assert records.windows.rows.column("record_id")[int(records.windows.usable[8])].as_py() == records.ids[8]


def test_of_one_signal_under_two_ids_the_lower_fold_keeps_it(rows, tmp_path):
    twice = [dict(row) for row in rows]
    twice[75]["signal"], twice[75]["signal_scale"] = twice[3]["signal"], twice[3]["signal_scale"]  # folds 10 and 1
    twice[20]["signal"], twice[20]["signal_scale"] = twice[21]["signal"], twice[21]["signal_scale"]  # both fold 3
    records = load_rows(tmp_path, twice)
    pairs = {(pair.first.record_id, pair.second.record_id) for pair in records.duplicates}
    assert pairs == {("r0003", "r0075"), ("r0020", "r0021")}
    assert sorted({row["record_id"] for row in rows} - set(records.ids)) == ["r0021", "r0075"]
    assert records.fold_counts()[10] == 7
    assert records.labels[records.ids.index("r0003")].tolist() == [name in rows[3]["labels"] for name in CLASSES]


@pytest.mark.parametrize("evaluation", ["cross_validate", "confirm", "final"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_nobody_is_fitted_and_tested(records, evaluation, fraction):
    for part in parts_of(records, evaluation, fraction, seed=3):
        assert not set(records.groups[part.fitted]) & set(records.groups[part.tested])
        assert set(records.folds[part.fitted]) <= set(range(1, 9)) - {part.fold}
        assert set(records.folds[part.tested]) == {part.fold}


def test_cross_validation_tests_every_record_of_folds_1_to_8_once(records):
    tested = np.concatenate([part.tested for part in parts_of(records, "cross_validate")])
    assert sorted(tested) == np.flatnonzero(records.folds <= 8).tolist()
    assert [part.fold for part in parts_of(records, "final")] == [10]


def test_a_fraction_is_of_patients_and_another_for_each_seed(records):
    fitted = np.flatnonzero(records.folds <= 8)
    drawn = draw_patients(records.groups, fitted, 0.5, (0, 1))
    groups = records.groups
    assert len(set(groups[drawn])) == round(0.5 * len(set(groups[fitted])))
    assert set(drawn) == {place for place in fitted if groups[place] in set(groups[drawn])}  # patients are whole
    assert drawn.tolist() == draw_patients(groups, fitted, 0.5, (0, 1)).tolist()
    assert drawn.tolist() != draw_patients(groups, fitted, 0.5, (1, 1)).tolist()


def test_inner_splits_validate_each_record_once_and_keep_patients_together():
    groups = np.array([f"p{place // 3}" for place in range(60)])
    validated = []
    for fitted, held_out in inner_splits(groups, 4, seed=0):
        assert not set(groups[fitted]) & set(groups[held_out])
        assert len(fitted) + len(held_out) == 60 and len(held_out) == 15
        validated += held_out.tolist()
    assert sorted(validated) == list(range(60))


def test_hashes_follow_ids_labels_and_signals(rows, records, tmp_path):
    part = parts_of(records, "confirm")[0]
    again = load_rows(tmp_path / "again", rows)
    assert records.part_sha256(part) == again.part_sha256(part)
    assert records.manifest("x").sha256 == again.manifest("x").sha256
    louder = [dict(row) for row in rows]
    louder[70]["signal"] = louder[70]["signal"] + 1  # fold 9, tested
    changed = load_rows(tmp_path / "louder", louder)
    assert changed.part_sha256(part) != records.part_sha256(part)
    assert changed.manifest("x").sha256 == records.manifest("x").sha256
    other = [dict(row) for row in rows]
    other[0]["labels"] = ["FAST"] if other[0]["labels"] != ["FAST"] else []
    assert load_rows(tmp_path / "other", other).part_sha256(part) != records.part_sha256(part)


# Refusals -------------------------------------------------------------------------------------------------------------


def refusal(choice: CorpusChoice, folds=range(1, 11)) -> str:
    with pytest.raises(EcgJepaConfigError) as caught:
        load_probe_records(choice, EXTRACTOR, folds, quiet=True)
    return str(caught.value)


def test_a_patient_in_two_folds_is_refused(rows, tmp_path):
    torn = [row | {"patient_id": "p7"} if row["record_id"] in ("r0000", "r0040") else row for row in rows]
    text = refusal(write_rows(tmp_path, torn))
    assert "1 patients are in several folds, such as 'p7' in fold 1, fold 6" in text and "one fold" in text


def test_records_without_folds_are_refused(rows, tmp_path):
    text = refusal(write_rows(tmp_path, [row | {"fold": None} for row in rows[:4]]))
    assert "without a fold" in text and "--corpus ptb_xl" in text


def test_a_corpus_without_classes_is_refused(rows, tmp_path):
    text = refusal(write_rows(tmp_path, [row | {"labels": []} for row in rows[:4]], classes=()))
    assert "no labels of known classes" in text


def test_folds_that_are_not_there_are_named(rows, tmp_path):
    text = refusal(write_rows(tmp_path, rows[:16]), folds=[10])
    assert "no usable record in the folds 10; it has 1, 2" in text


def test_a_split_of_which_nothing_is_there_says_what_is(rows, tmp_path):
    records = load_rows(tmp_path, rows[:16])
    with pytest.raises(EcgJepaConfigError, match="--confirm tests fold 9 .* the records by fold are 1: 8, 2: 8"):
        parts_of(records, "confirm")
    one_fold = load_rows(tmp_path / "one", rows[:8])
    with pytest.raises(EcgJepaConfigError, match="--cross_validate tests fold 1 and .* by fold are 1: 8"):
        parts_of(one_fold, "cross_validate")


def test_too_few_patients_to_fit_are_counted(records):
    with pytest.raises(EcgJepaConfigError, match=r"Only 4 patients .* \(train_fraction=0.1\); at least 20"):
        parts_of(records, "cross_validate", 0.1)


# Some leads only ------------------------------------------------------------------------------------------------------


def test_a_few_leads_are_the_same_rows_of_the_signal_and_all_leads_keep_their_hashes(records):
    seen = records.seen_in(["II", "V1"])
    whole, few = (each.windows.__getitems__([0, 5]) for each in (records, seen))
    assert few["input_values"].equal(whole["input_values"][:, [1, 2]])
    assert few["leads"].tolist() == [1, 2] and few["lead_mask"].shape == (2, 2)
    assert seen.ids == records.ids and seen.signals_sha256[1] != records.signals_sha256[1]
    assert records.take(np.arange(len(records.ids))).signals_sha256 == records.signals_sha256


def test_records_without_a_signal_in_the_leads_are_left_out(rows, tmp_path):
    records = load_rows(tmp_path, [without_lead(rows[0], 1), *rows[1:]])
    seen = records.seen_in(["II"])
    assert len(seen.ids) == len(records.ids) - 1 and seen.left_out[-1].message == "no signal in II"
    with pytest.raises(EcgJepaConfigError, match="the model has only I, II"):
        records.seen_in(["aVR"])


def test_parts_stand_for_folds_where_a_corpus_has_none_and_keep_patients_together():
    rows = pa.table({"record_id": list("abcdef"), "patient_id": ["p", "p", None, "q", "r", "s"]})

    class Rows:
        def column(self, name):
            return rows.column(name) if name in rows.column_names else None

    folds = read_folds(Rows(), np.array(["train", "train", "train", "train", "validation", "test"]), "mine").tolist()
    assert folds[4:] == [9, 10] and folds[0] == folds[1] and set(folds[:4]) <= set(range(1, 9))
