"""`ecg-jepa labels`: PTB-XL's label sets counted, beside pandas, and compared with the published numbers."""

import ast

import pandas as pd
import pytest
from typer.testing import CliRunner

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError
from modeling_ecg_jepa.tools import labels
from modeling_ecg_jepa.tools.cli import app

TABLE = """ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr
1,,,,,"{'NORM': 100.0, 'SR': 0.0}",1,,
2,,,,,"{'IMI': 15.0, 'ASMI': 100.0, 'NDT': 0.0}",10,,
3,,,,,"{'AFIB': 0.0}",10,,
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ptbxl_database.csv").write_text(TABLE)
    return tmp_path


def run(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["labels", *map(str, arguments)])
    return result.exit_code, result.output


def counts_of(folder, **options) -> dict[str, labels.LabelCounts]:
    return {count.label_set: count for count in labels.count_labels(folder, **options)[1]}


def test_records_are_counted_with_any_class_in_fold_10_and_with_exactly_one(folder):
    counts = counts_of(folder)
    numbers = {name: (count.records, count.fold_10, count.exactly_one) for name, count in counts.items()}
    assert numbers == {
        "all": (3, 2, 1),
        "diagnostic": (2, 1, 1),
        "subdiagnostic": (2, 1, 1),
        "superdiagnostic": (2, 1, 1),
        "form": (1, 1, 1),
        "rhythm": (2, 1, 2),
    }
    by_class = counts["superdiagnostic"].by_class
    assert (by_class["NORM"], by_class["MI"]) == ([1, *[0] * 9], [*[0] * 9, 1])


def test_with_a_threshold_only_likely_codes_count(folder):
    assert counts_of(folder, min_likelihood=50)["subdiagnostic"].exactly_one == 2
    assert counts_of(folder, min_likelihood=50)["rhythm"].records == 0
    with pytest.raises(EcgJepaConfigError, match="min_likelihood=0"):
        labels.count_labels(folder, 0)


def test_the_command_prints_the_sets_and_the_superclasses_a_fold(folder):
    code, text = run(folder)
    assert code == 0
    assert ["superdiagnostic", "5", "2", "1", "1"] in [line.split() for line in text.splitlines()]
    assert ["MI", *"000000000", "1", "1"] in [line.split() for line in text.splitlines()]
    assert "Not compared" in text


def test_a_whole_table_with_other_numbers_ends_with_exit_code_1_and_says_which(folder, monkeypatch):
    monkeypatch.setattr(labels, "WHOLE", 3)
    code, text = run(folder)
    assert code == 1
    assert "superdiagnostic, NORM: 1, published 9,514" in text
    assert "classes" not in text.partition("Error")[2]
    assert "Not compared" in run(folder, "--min_likelihood", 50)[1]


def test_a_whole_table_with_the_published_numbers_passes(folder, monkeypatch):
    monkeypatch.setattr(labels, "WHOLE", 3)
    monkeypatch.setattr(labels, "PUBLISHED", {("rhythm", "records"): 2, ("superdiagnostic", "NORM"): 1})
    code, text = run(folder)
    assert (code, text.splitlines()[-1]) == (0, "These are the published numbers.")


def test_a_table_that_cannot_be_read_is_one_error(folder):
    with pytest.raises(EcgJepaRecordError, match="data_dir"):
        labels.count_labels(folder / "nowhere")
    (folder / "ptbxl_database.csv").write_text(TABLE.replace("'AFIB'", "AFIB"))
    code, text = run(folder)
    assert code == 1
    assert "ecg_id 3: scp_codes" in text


def test_the_sample_counts_as_pandas_counts(shared_ecg):
    root = shared_ecg / "ptb-xl"
    table = pd.read_csv(root / "ptbxl_database.csv")
    statements = pd.read_csv(root / "scp_statements.csv", index_col=0)
    codes = table.scp_codes.map(ast.literal_eval)
    columns = {
        "all": pd.Series(statements.index, statements.index),
        "diagnostic": pd.Series(statements.index, statements.index)[statements.diagnostic == 1],
        "subdiagnostic": statements.diagnostic_subclass.dropna(),
        "superdiagnostic": statements.diagnostic_class.dropna(),
        "form": pd.Series(statements.index, statements.index)[statements.form == 1],
        "rhythm": pd.Series(statements.index, statements.index)[statements.rhythm == 1],
    }
    rows, counts = labels.count_labels(root)
    assert rows == len(table)
    for count in counts:
        classes = columns[count.label_set]
        sets = codes.map(lambda record, classes=classes: {classes[code] for code in record if code in classes})
        sizes = sets.str.len()
        assert len(count.by_class) == classes.nunique()
        assert count.records == (sizes > 0).sum()
        assert count.fold_10 == ((sizes > 0) & (table.strat_fold == 10)).sum()
        assert count.exactly_one == (sizes == 1).sum()
        assert {name: sum(folds) for name, folds in count.by_class.items() if sum(folds)} == (
            sets.explode().value_counts().to_dict()
        )


def test_the_published_numbers_hang_together():
    published = labels.PUBLISHED
    classes = {what: number for (name, what), number in published.items() if name == "superdiagnostic"}
    # Records with one class each, and at least two for every other record.
    more = sum(classes[name] for name in ("NORM", "MI", "STTC", "CD", "HYP")) - classes["exactly one"]
    assert more >= 2 * (classes["records"] - classes["exactly one"])
    assert {number for (_, what), number in published.items() if what == "classes"} == {71, 44, 23, 5, 19, 12}
