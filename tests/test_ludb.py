"""LUDB's rhythms, statements and marked waves, beside pandas and wfdb."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from dataset_scripts.loading import corpus_builder, load_ecg_dataset
from dataset_scripts.ludb import RHYTHMS, Wave, read_waves, waves_of
from dataset_scripts.records import read_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

HEADER = (
    "ID,Sex,Age,Rhythms,Electric axis of the heart,Conduction abnormalities,Extrasystolies,Hypertrophies,"
    "Cardiac pacing,Ischemia,Non-specific repolarization abnormalities,Other states\n"
)
ROW = '1,"F\n","51\n",Sinus rhythm,Electric axis of the heart: normal,,,"Left atrial hypertrophy\n\nX\n",,,,\n'
SYMBOLS, SAMPLES = ["(", "p", ")", "(", "N", ")", "(", "t", ")"], [100, 110, 121, 130, 141, 152, 180, 200, 999]


def write_corpus(root: Path, table: str = HEADER + ROW, records: tuple[str, ...] = ("1",)) -> Path:
    """LUDB's layout with records of 2 s in leads I and II, each with a whole beat in both."""
    data = root / "data"
    data.mkdir(parents=True)
    (root / "ludb.csv").write_text(table)
    signal = np.sin(np.arange(1000)[:, None] * [0.05, 0.07])
    for record in records:
        wfdb.wrsamp(
            record, fs=500, units=["mV"] * 2, sig_name=["i", "ii"], p_signal=signal, fmt=["16"] * 2, write_dir=str(data)
        )
        for lead in ("i", "ii"):
            wfdb.wrann(record, lead, np.array(SAMPLES), SYMBOLS, write_dir=str(data))
    return root


def prepared(root: Path, cache: Path, **options):
    builder = corpus_builder("ludb", data_dir=root, cache_dir=str(cache), **options)
    builder.download_and_prepare()
    return builder, [row for split in builder.as_dataset().values() for row in split]


def reasons(builder) -> dict[str, int]:
    return dict(Counter(record.reason for record in builder.left_out()))


# Waves ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marks", "waves"),
    [
        ("( 1 p 2 ) 3 ( 4 N 5 ) 6", [("P", 1, 2, 3), ("QRS", 4, 5, 6)]),
        # as in record 7, V1: the onset is not marked, or lies behind the peak
        ("N 968 ) 996 ( 1095 t 1133 ) 1157", [("QRS", None, 968, 996), ("T", 1095, 1133, 1157)]),
        ("N 1765 ( 1766 ) 1796 N 2339 ) 2371", [("QRS", 1766, 1765, 1796), ("QRS", None, 2339, 2371)]),
        # as in record 8, V5: a wave without a peak is left out, and does not disturb the next
        ("( 1066 ) 1138 ( 1156 t 1214 ) 1266", [("T", 1156, 1214, 1266)]),
        ("( 3555 N 3617", [("QRS", 3555, 3617, None)]),
        # as in record 116, V2 and V4: several waves within each other; an end that is not marked
        ("( 373 ( 394 t 422 t 425 ) 457 ) 461", [("T", 373, 422, 457), ("T", 394, 425, 461)]),
        ("( 1 t 2 ( 5 p 6 ) 7 ( 8 N 9 ) 10", [("T", 1, 2, None), ("P", 5, 6, 7), ("QRS", 8, 9, 10)]),
        (") 3 ( 4 N 5 ) 6", [("QRS", 4, 5, 6)]),
        ("", []),
    ],
)
def test_marks_become_waves_whatever_is_missing(marks, waves):
    words = marks.split()
    assert waves_of(words[::2], [int(word) for word in words[1::2]]) == [Wave(*wave) for wave in waves]


def test_the_waves_of_a_row_are_samples_of_its_own_signal(tmp_path):
    root = write_corpus(tmp_path / "ludb")
    _, (row,) = prepared(root, tmp_path / "native")
    beat = pd.DataFrame(row["waves"]).query("lead == 'II'").drop(columns="lead").values.tolist()
    assert beat == [["P", 100, 110, 121], ["QRS", 130, 141, 152], ["T", 180, 200, 999]]
    _, (row,) = prepared(root, tmp_path / "short", leads=["II", "V1"], seconds=0.4, sampling_rate=250)
    # 999 and the peak at 200 lie behind the first 200 samples
    assert row["waves"] == {
        "lead": ["II", "II"],
        "wave": ["P", "QRS"],
        "onset": [50, 65],
        "peak": [55, 70],
        "end": [60, 76],
    }
    _, (row,) = prepared(root, tmp_path / "cut", leads=["I"], seconds=0.41, sampling_rate=250)
    assert (row["waves"]["wave"][-1], row["waves"]["peak"][-1], row["waves"]["end"][-1]) == ("T", 100, None)


# The table ------------------------------------------------------------------------------------------------------------


def test_a_field_of_several_lines_is_a_list_of_statements_without_its_newlines(tmp_path):
    _, (row,) = prepared(write_corpus(tmp_path / "ludb"), tmp_path / "cache")
    assert (row["record_id"], row["patient_id"], row["age"], row["sex"]) == ("1", "1", 51.0, "female")
    assert row["labels"] == [RHYTHMS.index("Sinus rhythm")]
    assert (row["electric_axis"], row["hypertrophies"], row["ischemia"]) == (
        "normal",
        ["Left atrial hypertrophy", "X"],
        [],
    )
    assert row["codes"] == ["Sinus rhythm", "Electric axis of the heart: normal", "Left atrial hypertrophy", "X"]


def _break(name: str, content: bytes | None):
    def change(root: Path) -> None:
        (root / "data" / name).unlink()
        if content is not None:
            (root / "data" / name).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_break("2.ii", None), "annotation missing"),
        (_break("2.ii", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "Git LFS pointer"),
        (_break("2.ii", b""), "annotation not readable"),
        (_break("2.ii", b"\x00" * 200_000), "annotation not readable"),
        (_break("2.ii", b"\xff\xff" * 30 + b"\0\0"), "annotation not readable"),
        (_break("2.ii", b"\x05\x04\x07"), "annotation not readable"),
        (_break("2.hea", None), "header missing"),
        (
            lambda root: wfdb.wrann("2", "i", np.array([5000]), ["N"], write_dir=str(root / "data")),
            "annotation not readable",
        ),
    ],
)
def test_a_record_whose_waves_cannot_be_read_is_left_out_and_counted(tmp_path, change, reason):
    root = write_corpus(tmp_path / "ludb", HEADER + ROW + ROW.replace("1,", "2,", 1), ("1", "2"))
    change(root)
    builder, rows = prepared(root, tmp_path / "cache")
    assert [row["record_id"] for row in rows] == ["1"]
    assert reasons(builder) == {reason: 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ROW.replace("Sinus rhythm", "Asystole").replace("1,", "2,", 1), "unknown rhythm"),
        (ROW.replace("51", "old").replace("1,", "2,", 1), "no number"),
        (ROW.replace("1,", "../../../etc/passwd,", 1), "path outside the folder"),
        (ROW, "duplicate id"),
    ],
)
def test_a_bad_row_is_left_out_and_counted(tmp_path, row, reason):
    builder, rows = prepared(write_corpus(tmp_path / "ludb", HEADER + ROW + row), tmp_path / "cache")
    assert [row["record_id"] for row in rows] == ["1"]
    assert reasons(builder) == {reason: 1}


def test_a_missing_column_is_named(tmp_path):
    root = write_corpus(tmp_path / "ludb", HEADER.replace("Rhythms", "Rhythm") + ROW)
    with pytest.raises(EcgJepaRecordError, match="has no column 'Rhythms'"):
        load_ecg_dataset("ludb", data_dir=root, cache_dir=tmp_path / "cache")


# The real corpus ------------------------------------------------------------------------------------------------------


def test_the_sample_has_20_records_with_the_rhythms_of_the_table(shared_ecg, tmp_path):
    builder, rows = prepared(shared_ecg / "ludb", tmp_path, leads=["II"])
    assert len(rows) == 20
    assert reasons(builder) == {"header missing": 180}
    table = pd.read_csv(shared_ecg / "ludb" / "ludb.csv", index_col="ID")
    for row in rows:
        assert [RHYTHMS[label] for label in row["labels"]] == [table.Rhythms[int(row["record_id"])].split("\n")[0]]
        assert any("no calibration" in finding for finding in row["findings"])


def test_the_whole_table_has_the_rhythms_that_the_readme_counts(shared_ecg, tmp_path):
    entries = list(
        corpus_builder("ludb", data_dir=shared_ecg / "ludb", cache_dir=str(tmp_path)).index(shared_ecg / "ludb")
    )
    assert Counter(label for entry in entries for label in entry.labels) == {
        "Sinus rhythm": 143,
        "Sinus tachycardia": 4,
        "Sinus bradycardia": 25,
        "Sinus arrhythmia": 8,
        "Irregular sinus rhythm": 2,
        "Atrial fibrillation": 15,
        "Atrial flutter, typical": 3,
    }
    assert sum(entry.sex == "female" for entry in entries) == 85
    assert (min(entry.age for entry in entries), max(entry.age for entry in entries)) == (11, 90)
    axes = Counter(entry.extras["electric_axis"] for entry in entries)
    assert (axes["normal"], axes["left axis deviation"], axes[None]) == (75, 66, 10)


@pytest.mark.parametrize("name", ["1", "7", "8"])
def test_every_mark_of_a_real_record_is_in_its_waves(shared_ecg, name):
    path = shared_ecg / "ludb" / "data" / name
    record = read_record(path)
    assert set(record.lead_names) == set(STANDARD_12_LEADS)
    for lead in record.lead_names:
        annotation = wfdb.rdann(str(path), lead.lower())
        marked = pd.Series(annotation.symbol, annotation.sample)
        waves = pd.DataFrame(read_waves(record, lead), columns=["kind", "onset", "peak", "end"])
        for symbol, kind in (("p", "P"), ("N", "QRS"), ("t", "T")):
            assert waves.peak[waves.kind == kind].tolist() == marked.index[marked == symbol].tolist()
        # Record 8, V5 has two beats with onset and end, one without a peak, one with a peak behind its end.
        lone = 2 if (name, lead) == ("8", "V5") else 0
        assert waves.onset.notna().sum() == (marked == "(").sum() - lone
        assert waves.end.notna().sum() == (marked == ")").sum() - lone
        assert (waves.onset.dropna() <= waves.peak[waves.onset.notna()] + 2).all()
        assert (waves.end.dropna() > waves.peak[waves.end.notna()]).all()


def test_the_160_records_of_the_bulk_have_waves_in_order(shared_bulk, tmp_path):
    builder, rows = prepared(shared_bulk / "ludb", tmp_path, leads=["V2"])
    assert (len(rows), reasons(builder)) == (160, {"header missing": 40})
    waves = pd.concat(pd.DataFrame(row["waves"]) for row in rows)
    whole = waves.dropna()
    assert len(whole) > 0.98 * len(waves)
    assert (whole.peak < whole.end).all()
    assert (whole.onset <= whole.peak + 2).all()


def test_a_copied_record_without_its_annotations_stops_if_asked(shared_ecg, tmp_path):
    root = tmp_path / "ludb"
    (root / "data").mkdir(parents=True)
    for name in ("ludb.csv", "data/1.hea", "data/1.dat"):
        shutil.copy(shared_ecg / "ludb" / name, root / name)
    with pytest.raises(EcgJepaRecordError, match="Fetch it too"):
        prepared(root, tmp_path / "cache", on_error="raise")
