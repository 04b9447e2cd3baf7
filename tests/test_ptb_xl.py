"""PTB-XL's rows, label sets and splits, beside the corpus's own tables read with pandas."""

import ast
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from dataset_scripts.loading import corpus_builder, load_ecg_dataset
from dataset_scripts.scp_statements import LABEL_SETS, STATEMENTS, labels_of, likely, parse_scp_codes
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError

FIXTURES = Path(__file__).parent / "fixtures" / "records" / "ptb-xl"

ROW = {
    "ecg_id": "1",
    "patient_id": "15709.0",
    "age": "56.0",
    "sex": "1",
    "height": "",
    "weight": "63.0",
    "device": "CS-12   E",
    "report": "sinusrhythmus periphere niederspannung",
    "scp_codes": "{'NORM': 100.0, 'LVOLT': 0.0, 'SR': 0.0}",
    "validated_by_human": "True",
    "static_noise": " , I-V1,  ",
    "strat_fold": "3",
    "filename_lr": "records100/00000/00001_lr",
    "filename_hr": "records500/00000/00001_hr",
}


def write_corpus(root: Path, *changes: dict[str, str], without: str = "") -> Path:
    """A folder in PTB-XL's layout with two real records; a row of the table for each of `changes`."""
    records = root / "records500" / "00000"
    records.mkdir(parents=True)
    for file in FIXTURES.iterdir():
        shutil.copy(file, records / file.name)
    table = pd.DataFrame([ROW | change for change in changes])
    table.drop(columns=[without] if without else []).to_csv(root / "ptbxl_database.csv", index=False)
    return root


SECOND = {"ecg_id": "2", "filename_hr": "records500/00000/00002_hr"}


def prepared(root: Path, cache: Path, **options):
    builder = corpus_builder("ptb_xl", data_dir=root, cache_dir=str(cache), **options)
    builder.download_and_prepare()
    return builder, builder.as_dataset()


def reasons(builder) -> dict[str, int]:
    return dict(Counter(record.reason for record in builder.left_out()))


def official_table(root: Path) -> pd.DataFrame:
    table = pd.read_csv(root / "ptbxl_database.csv", index_col="ecg_id")
    table["codes"] = table.scp_codes.map(ast.literal_eval)
    return table


def official_superclasses(root: Path, table: pd.DataFrame) -> pd.Series:
    """As in the example that PTB-XL ships: every diagnostic code, whatever its likelihood."""
    statements = pd.read_csv(root / "scp_statements.csv", index_col=0)
    diagnostic = statements[statements.diagnostic == 1]
    return table.codes.map(
        lambda codes: sorted({diagnostic.loc[code].diagnostic_class for code in codes if code in diagnostic.index})
    )


# Statements and label sets --------------------------------------------------------------------------------------------


def test_the_statements_are_those_of_the_corpus(shared_ecg):
    official = pd.read_csv(shared_ecg / "ptb-xl" / "scp_statements.csv", index_col=0).astype(object).fillna("")
    assert list(STATEMENTS) == list(official.index)
    for code, statement in STATEMENTS.items():
        row = official.loc[code]
        kinds = "".join(
            letter for letter, kind in zip("DFR", ("diagnostic", "form", "rhythm"), strict=True) if row[kind]
        )
        assert statement.kinds == kinds
        assert statement.description == row.description
        assert (statement.diagnostic_class, statement.diagnostic_subclass) == (
            row.diagnostic_class,
            row.diagnostic_subclass,
        )


def test_the_six_sets_have_the_classes_of_the_benchmark_in_the_order_of_its_code():
    sizes = {name: len(classes) for name, classes in LABEL_SETS.items()}
    assert sizes == {
        "all": 71,
        "diagnostic": 44,
        "subdiagnostic": 23,
        "superdiagnostic": 5,
        "form": 19,
        "rhythm": 12,
    }
    assert LABEL_SETS["superdiagnostic"] == ("CD", "HYP", "MI", "NORM", "STTC")
    binarizer = pytest.importorskip("sklearn.preprocessing").MultiLabelBinarizer()
    for name, classes in LABEL_SETS.items():
        assert tuple(binarizer.fit([labels_of(STATEMENTS, name)]).classes_) == classes


def test_codes_of_one_class_count_once_and_those_outside_the_set_not_at_all():
    assert labels_of(["SR", "IMI", "ASMI", "NDT"], "superdiagnostic") == ("MI", "STTC")
    assert labels_of(["SR", "IMI", "ASMI", "NDT"], "subdiagnostic") == ("AMI", "IMI", "STTC")
    assert labels_of(["SR", "IMI", "NDT"], "form") == ("NDT",)
    assert labels_of(["SR", "IMI", "NDT"], "rhythm") == ("SR",)
    assert labels_of(["SR"], "superdiagnostic") == ()


def test_a_threshold_drops_unlikely_codes_and_those_of_unknown_likelihood():
    codes = {"NORM": 100.0, "LVOLT": 0.0, "IMI": 15.0}
    assert likely(codes, None) == ["NORM", "LVOLT", "IMI"]
    assert likely(codes, 15) == ["NORM", "IMI"]
    assert likely(codes, 50) == ["NORM"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nan",
        "{'NORM': 100.0",
        "['NORM']",
        "{'NORM': 'yes'}",
        "{'NORM': 1e999}",
        "{'NORM': True}",
        "__import__('os').getcwd()",
        "{'NORM': 100.0, **{}}",
        "(" * 3000,
        "-" * 3000 + "1",
        "{'NORM': 1}" + " " * 10_000,
    ],
)
def test_statements_that_are_no_codes_with_likelihoods_are_refused(text):
    with pytest.raises(EcgJepaRecordError, match="ecg_id 7: scp_codes") as error:
        parse_scp_codes(text, "ecg_id 7")
    assert error.value.reason == "statements not readable"


def test_an_unknown_code_is_named():
    with pytest.raises(EcgJepaRecordError, match="'XYZ' is none of the 71 codes"):
        parse_scp_codes("{'NORM': 100.0, 'XYZ': 0.0}", "ecg_id 7")


# Rows -----------------------------------------------------------------------------------------------------------------


def test_a_row_holds_what_the_table_and_the_record_say(tmp_path):
    root = write_corpus(tmp_path / "ptb-xl", {}, SECOND | {"patient_id": "", "age": "300.0", "sex": "0", "report": ""})
    _, splits = prepared(root, tmp_path / "cache")
    first, second = splits["train"]
    names = splits["train"].features["labels"].feature.names
    assert names == list(LABEL_SETS["all"])
    assert [names[label] for label in first["labels"]] == ["LVOLT", "NORM", "SR"]
    assert (first["codes"], first["likelihoods"]) == (["NORM", "LVOLT", "SR"], [100.0, 0.0, 0.0])
    assert (first["record_id"], first["patient_id"], first["fold"]) == ("1", "15709", 3)
    assert (first["age"], first["sex"], first["height"], first["weight"]) == (56.0, "female", None, 63.0)
    assert (first["device"], first["static_noise"], first["pacemaker"]) == ("CS-12   E", "I-V1", None)
    assert (first["validated_by_human"], first["second_opinion"]) == (True, None)
    assert first["report"] == ROW["report"]
    assert (second["patient_id"], second["age"], second["sex"], second["report"]) == (None, 300.0, "male", None)

    signal = np.asarray(first["signal"]).reshape(12, -1) * first["signal_scale"]
    record = wfdb.rdrecord(str(FIXTURES / "00001_hr"))
    assert [lead.upper() for lead in first["lead_names"]] == record.sig_name
    np.testing.assert_allclose(signal, record.p_signal.T, atol=1e-6)


def test_only_likely_codes_are_labels_but_all_stay_codes(tmp_path):
    root = write_corpus(tmp_path / "ptb-xl", {}, SECOND | {"scp_codes": "{'IMI': 15.0, 'SR': 0.0}"})
    builder, splits = prepared(root, tmp_path / "cache", min_likelihood=50)
    (row,) = splits["train"]
    assert (row["labels"], row["codes"]) == ([LABEL_SETS["all"].index("NORM")], ["NORM", "LVOLT", "SR"])
    assert reasons(builder) == {"no label of the set": 1}


@pytest.mark.parametrize(("folds", "nine"), [("benchmark", "validation"), ("authors", "train")])
def test_folds_are_the_benchmarks_or_the_authors(folds, nine):
    builder = corpus_builder("ptb_xl", folds=folds)
    split = {
        int(fold): builder.split_of(builder._entry(ROW | {"strat_fold": fold}, "x")) for fold in map(str, range(1, 11))
    }
    assert split == {**dict.fromkeys(range(1, 9), "train"), 9: nine, 10: "test"}


def test_single_label_keeps_records_with_exactly_one_class(tmp_path):
    root = write_corpus(tmp_path / "ptb-xl", {}, SECOND | {"scp_codes": "{'IMI': 15.0, 'CLBBB': 0.0}"})
    builder, splits = prepared(root, tmp_path / "cache", label_set="superdiagnostic", single_label=True)
    assert splits["train"]["record_id"][:] == ["1"]
    assert reasons(builder) == {"not exactly one label": 1}


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"filename_hr": "../../../etc/passwd"}, "path outside the folder"),
        ({"filename_hr": "/etc/passwd"}, "path outside the folder"),
        ({"filename_hr": ""}, "no file named"),
        ({"filename_hr": "records500/00000/00009_hr"}, "header missing"),
        ({"ecg_id": "1"}, "duplicate id"),
        ({"scp_codes": "{'NORM': 100.0"}, "statements not readable"),
        ({"scp_codes": "{'XYZ': 100.0}"}, "unknown statement"),
        ({"strat_fold": "11"}, "unknown fold"),
        ({"age": "old"}, "no number"),
    ],
)
def test_a_bad_row_is_left_out_counted_or_stops_if_asked(tmp_path, change, reason):
    root = write_corpus(tmp_path / "ptb-xl", {}, SECOND | change)
    builder, splits = prepared(root, tmp_path / "cache")
    assert splits["train"]["record_id"][:] == ["1"]
    assert reasons(builder) == {reason: 1}
    with pytest.raises(EcgJepaRecordError) as error:
        prepared(root, tmp_path / "strict", on_error="raise")
    assert error.value.reason == reason


@pytest.mark.parametrize("column", ["scp_codes", "strat_fold", "filename_hr"])
def test_a_missing_column_is_named(tmp_path, column):
    root = write_corpus(tmp_path / "ptb-xl", {}, without=column)
    with pytest.raises(EcgJepaRecordError, match=f"has no column '{column}'"):
        load_ecg_dataset("ptb_xl", data_dir=root, cache_dir=tmp_path / "cache")


def test_a_folder_without_the_table_is_refused(tmp_path):
    with pytest.raises(EcgJepaRecordError, match="ptbxl_database.csv"):
        load_ecg_dataset("ptb_xl", data_dir=tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    "options",
    [{"files": 250}, {"folds": "mine"}, {"min_likelihood": 0}, {"min_likelihood": 101}, {"label_set": "super"}],
)
def test_options_that_mean_nothing_are_refused(options):
    (value,) = options.values()
    with pytest.raises(EcgJepaConfigError, match=f"{value}"):
        corpus_builder("ptb_xl", **options)


# The real corpus ------------------------------------------------------------------------------------------------------


def test_the_bulk_has_453_records_at_500_hz(shared_bulk, tmp_path):
    builder, splits = prepared(shared_bulk / "ptb-xl", tmp_path, leads=["II"])
    assert sum(map(len, splits.values())) == 453
    assert reasons(builder) == {"header missing": 1546}


@pytest.mark.parametrize(("files", "rows", "missing"), [(100, 120, 3), (500, 53, 70)])
def test_the_sample_has_so_many_records_and_counts_what_it_lacks(shared_ecg, tmp_path, files, rows, missing):
    builder, splits = prepared(shared_ecg / "ptb-xl", tmp_path, files=files)
    assert sum(map(len, splits.values())) == rows
    assert reasons(builder) == {"header missing": missing}
    folds = official_table(shared_ecg / "ptb-xl").strat_fold
    for split, wanted in (("train", range(1, 9)), ("validation", [9]), ("test", [10])):
        data = splits[split].select_columns(["record_id", "fold"])
        assert set(data["fold"]) <= set(wanted)
        assert data["fold"][:] == [folds[int(record)] for record in data["record_id"]]


def test_git_lfs_pointers_are_counted_as_such(shared_ecg, tmp_path):
    root = shutil.copytree(shared_ecg / "ptb-xl-lfs-pointers", tmp_path / "clone")
    records = root / "records500" / "00000"
    table = pd.read_csv(shared_ecg / "ptb-xl" / "ptbxl_database.csv", dtype=str)
    table[table.ecg_id.isin(["1", "2"])].to_csv(root / "ptbxl_database.csv", index=False)
    for file in FIXTURES.glob("00002_hr.*"):
        shutil.copy(file, records / file.name)
    builder, splits = prepared(root, tmp_path / "cache")
    assert [row["record_id"] for split in splits.values() for row in split] == ["2"]
    assert reasons(builder) == {"Git LFS pointer": 1}


def test_the_bulk_has_the_superclasses_of_its_table_in_each_fold(shared_bulk, tmp_path):
    root = shared_bulk / "ptb-xl"
    builder, splits = prepared(root, tmp_path, files=100, label_set="superdiagnostic")
    table = official_table(root)
    table["classes"] = official_superclasses(root, table)
    on_disk = table[[(root / f"{name}.hea").is_file() for name in table.filename_lr]]
    labelled = on_disk[on_disk.classes.str.len() > 0]

    rows = [row for split in splits.values() for row in split.select_columns(["record_id", "fold", "labels"])]
    names = LABEL_SETS["superdiagnostic"]
    assert {row["record_id"]: [names[label] for label in row["labels"]] for row in rows} == {
        str(record): classes for record, classes in labelled.classes.items()
    }
    counts = Counter((names[label], row["fold"]) for row in rows for label in row["labels"])
    exploded = labelled.explode("classes")
    assert counts == Counter(zip(exploded.classes, exploded.strat_fold, strict=True))
    assert len(on_disk) == 1791
    unlabelled = (table.classes.str.len() == 0).sum()
    assert reasons(builder) == {
        "header missing": len(table) - unlabelled - len(labelled),
        "no label of the set": unlabelled,
    }
