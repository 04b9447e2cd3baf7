"""PTB Diagnostic: patients from folders, diagnoses from headers."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import wfdb

from dataset_scripts.loading import corpus_builder, load_ecg_dataset
from dataset_scripts.ptbdb import REASONS
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError

CLASSES = list(REASONS)


def write_record(root: Path, name: str, reason: str | None = "Healthy control") -> None:
    folder, _, record = name.rpartition("/")
    (root / folder).mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        record,
        fs=1000,
        units=["mV"] * 2,
        sig_name=["i", "vx"],
        p_signal=np.sin(np.arange(2000)[:, None] * [0.05, 0.07]),
        fmt=["16"] * 2,
        comments=["age: 55", "sex: male", "Smoker: n/a"]
        + ([] if reason is None else [f"Reason for admission: {reason}"]),
        write_dir=str(root / folder),
    )


def prepared(root: Path, cache: Path, **options):
    builder = corpus_builder("ptbdb", data_dir=root, cache_dir=str(cache), **options)
    builder.download_and_prepare()
    return builder, {row["record_id"]: row for split in builder.as_dataset().values() for row in split}


def reasons(builder) -> dict[str, int]:
    return dict(Counter(record.reason for record in builder.left_out()))


def test_every_reason_for_admission_has_its_class(tmp_path):
    expected = {}
    for number, (name, texts) in enumerate(REASONS.items()):
        for place, text in enumerate(texts):
            write_record(tmp_path / "ptbdb", f"patient{number:03}/s{place}", text)
            expected[f"patient{number:03}/s{place}"] = [CLASSES.index(name)]
    _, rows = prepared(tmp_path / "ptbdb", tmp_path / "cache")
    assert {record: row["labels"] for record, row in rows.items()} == expected
    assert rows["patient001/s1"]["codes"] == ["Heart failure (NYHA 2)"]
    assert len(CLASSES) == 9


def test_a_record_without_a_reason_is_left_out_unless_no_labels_are_asked_for(tmp_path):
    root = tmp_path / "ptbdb"
    for name, reason in (("patient001/a", "Myocarditis"), ("patient002/b", "n/a"), ("patient003/c", None)):
        write_record(root, name, reason)
    builder, rows = prepared(root, tmp_path / "cache")
    assert (list(rows), reasons(builder)) == (["patient001/a"], {"no label of the set": 2})
    builder, rows = prepared(root, tmp_path / "cache", label_set="none")
    assert [row["labels"] for row in rows.values()] == [[], [], []]
    assert builder.left_out() == []


def test_the_records_of_a_patient_are_in_one_split(tmp_path):
    root = tmp_path / "ptbdb"
    for patient in range(12):
        for record in "ab":
            write_record(root, f"patient{patient:03}/s{patient}{record}")
    splits = load_ecg_dataset("ptbdb", data_dir=root, cache_dir=tmp_path / "cache")
    where: dict[str, set[str]] = {}
    for split, rows in splits.items():
        for patient in rows["patient_id"]:
            where.setdefault(patient, set()).add(split)
    assert len(where) == 12
    assert {len(found) for found in where.values()} == {1}
    assert len(splits) > 1


@pytest.mark.parametrize(
    ("name", "reason_text", "reason"),
    [("patient002/b", "Boredom", "unknown diagnosis"), ("elsewhere/b", "Myocarditis", "patient unknown")],
)
def test_a_record_without_known_diagnosis_or_patient_is_left_out_and_counted(tmp_path, name, reason_text, reason):
    root = tmp_path / "ptbdb"
    write_record(root, "patient001/a")
    write_record(root, name, reason_text)
    builder, rows = prepared(root, tmp_path / "cache")
    assert (list(rows), reasons(builder)) == (["patient001/a"], {reason: 1})
    with pytest.raises(EcgJepaRecordError) as error:
        prepared(root, tmp_path / "strict", on_error="raise")
    assert error.value.reason == reason


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "ptbdb").mkdir()
    with pytest.raises(EcgJepaRecordError, match="No WFDB header"):
        prepared(tmp_path / "ptbdb", tmp_path / "cache")


def test_the_real_record_has_15_leads_and_its_clinical_summary(shared_ecg, tmp_path):
    builder, rows = prepared(shared_ecg / "ptbdb", tmp_path)
    (row,) = rows.values()
    assert builder.left_out() == []
    assert (row["record_id"], row["patient_id"]) == ("patient001/s0010_re", "patient001")
    assert (row["age"], row["sex"], row["sampling_rate"]) == (81.0, "female", 1000.0)
    assert [CLASSES[label] for label in row["labels"]] == ["Myocardial infarction"]
    assert (row["acute_infarction"], row["former_infarction"], row["smoker"]) == ("infero-latera", "no", "no")
    assert row["additional_diagnoses"] == "Diabetes mellitus"
    assert "Lytic agent: Gamma-TPA" in row["report"].splitlines()
    record = wfdb.rdrecord(str(shared_ecg / "ptbdb" / "patient001" / "s0010_re"))
    assert [lead.lower() for lead in row["lead_names"]] == record.sig_name
    signal = np.asarray(row["signal"]).reshape(15, -1) * row["signal_scale"]
    np.testing.assert_allclose(signal, record.p_signal.T, atol=0.0006)


def test_a_patients_folder_alone_is_read_as_well(shared_ecg, tmp_path):
    root = shutil.copytree(shared_ecg / "ptbdb" / "patient001", tmp_path / "patient001")
    _, rows = prepared(root, tmp_path / "cache")
    assert list(rows) == ["patient001/s0010_re"]
