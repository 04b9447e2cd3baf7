"""Near duplicates are found through every usual change to a signal, and different records are not taken for one."""

import csv
import dataclasses
import functools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.signal
import wfdb
from typer.testing import CliRunner

from dataset_scripts.leakage import DuplicatePair, candidate_pairs, check_leakage, correlation, sketch
from dataset_scripts.recordings import Recording, find_recordings
from dataset_scripts.records import EcgRecord, find_records, read_record
from dataset_scripts.signals import to_counts
from dataset_scripts.synthesis import synthesize_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError
from modeling_ecg_jepa.tools.cli import app

GOOD, ERROR, IN_PART, FINDINGS = 0, 1, 3, 4


@dataclasses.dataclass(frozen=True)
class InMemory(Recording):
    """A recording that is there already."""

    record: EcgRecord = dataclasses.field(compare=False)

    @property
    def place(self) -> str:
        return "memory"

    def read(self) -> EcgRecord:
        return self.record


def recordings_of(records, split=None, corpus="memory") -> list[InMemory]:
    return [InMemory(corpus, name, split, None, record) for name, record in records.items()]


def ids(pairs: list[DuplicatePair]) -> set[tuple[str, str]]:
    return {(pair.first.record_id, pair.second.record_id) for pair in pairs}


@functools.cache
def synthetic(index: int, seconds: float = 10.0) -> EcgRecord:
    return synthesize_record(7, index, seconds=seconds)[0]


def changed(record: EcgRecord, signal: np.ndarray, sampling_rate: float | None = None) -> EcgRecord:
    rate = record.sampling_rate if sampling_rate is None else sampling_rate
    return dataclasses.replace(record, signal=signal.astype(np.float32), sampling_rate=rate)


def resampled(record: EcgRecord, rate: int) -> EcgRecord:
    signal = scipy.signal.resample_poly(record.signal.astype(float), rate, int(record.sampling_rate), axis=1)
    return changed(record, signal, rate)


def filtered(record: EcgRecord, order: int, band, kind: str, apply=scipy.signal.sosfiltfilt) -> EcgRecord:
    sections = scipy.signal.butter(order, band, kind, fs=record.sampling_rate, output="sos")
    return changed(record, apply(sections, record.signal - record.signal[:, :1]))


def noisy(record: EcgRecord, millivolts: float) -> EcgRecord:
    noise = np.random.default_rng(3).normal(0, millivolts, record.signal.shape)
    return changed(record, record.signal + noise)


def leads_only(record: EcgRecord, *leads: str) -> EcgRecord:
    rows = [record.lead_names.index(lead) for lead in leads]
    return dataclasses.replace(record, signal=record.signal[rows], lead_names=leads)


def padded(record: EcgRecord) -> EcgRecord:
    return changed(record, np.pad(record.signal, ((0, 0), (700, 700))))


CHANGES = {
    "100 Hz": lambda record: resampled(record, 100),
    "250 Hz": lambda record: resampled(record, 250),
    "1000 Hz": lambda record: resampled(record, 1000),
    "band-pass 0.67-40 Hz": lambda record: filtered(record, 5, (0.67, 40), "band"),
    "causal high-pass": lambda record: filtered(record, 2, 0.5, "high", scipy.signal.sosfilt),
    "causal low-pass": lambda record: filtered(record, 4, 40, "low", scipy.signal.sosfilt),
    "offset": lambda record: changed(record, record.signal + 0.7),
    "gain 2": lambda record: changed(record, record.signal * 2),
    "own gain a lead": lambda record: changed(record, record.signal * np.linspace(0.3, 3, 12)[:, None]),
    "shift of 5": lambda record: changed(record, record.signal[:, 5:]),
    "shift of 5 the other way": lambda record: changed(record, np.pad(record.signal, ((0, 0), (5, 0)), "edge")),
    "noise": lambda record: noisy(record, 0.03),
    "zeros around it": padded,
    "other order": lambda record: leads_only(record, *reversed(record.lead_names)),
    "8 leads": lambda record: leads_only(record, *"I II V1 V2 V3 V4 V5 V6".split()),
    "limb leads to be derived": lambda record: leads_only(record, "aVR", "aVF"),
    "one lead": lambda record: leads_only(record, "V2"),
    "all of it": lambda record: noisy(
        filtered(resampled(changed(record, 2 * record.signal[:, 5:] + 0.5), 250), 5, (0.67, 40), "band"), 0.02
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_others(change):
    others = {str(index): synthetic(index) for index in range(12)}
    copies = {f"copy of {index}": CHANGES[change](synthetic(index)) for index in range(3)}
    report = check_leakage(recordings_of(others) + recordings_of(copies))
    assert ids(report.pairs) == {(str(index), f"copy of {index}") for index in range(3)}
    assert report.left_out == []


@pytest.mark.parametrize("change", CHANGES)
def test_real_records_are_found_too_after_the_change(shared_ecg, change):
    headers = find_records(shared_ecg / "ludb")[:20] + find_records(shared_ecg / "ptb-xl/records500")[:10]
    records = {f"{header.parent.name}/{header.stem}": read_record(header) for header in headers}
    copies = {f"copy of {name}": CHANGES[change](record) for name, record in records.items()}
    report = check_leakage(recordings_of(records) + recordings_of(copies))
    assert ids(report.pairs) == {(name, f"copy of {name}") for name in records}


def test_different_synthetic_records_are_no_pair():
    report = check_leakage(recordings_of({str(index): synthetic(index) for index in range(300)}))
    assert (report.pairs, report.compared) == ([], 300)


def test_two_recordings_of_one_heart_are_no_pair():
    """The worst case of two records of one patient: the same heart, one after the other."""
    longs = [synthetic(index, seconds=30.0) for index in range(20)]
    parts = {
        f"{place} {second}": changed(long, long.signal[:, second * 500 : (second + 10) * 500])
        for place, long in enumerate(longs)
        for second in (0, 15)
    }
    assert check_leakage(recordings_of(parts)).pairs == []


@pytest.mark.parametrize("start", [0, 1_635, 3_001, 12_125, 15_000])
def test_ten_seconds_out_of_a_longer_record_are_found(start):
    longs = {str(index): synthetic(index, seconds=40.0) for index in range(4)}
    pieces = {f"of {name}": changed(long, long.signal[:, start : start + 5_000]) for name, long in longs.items()}
    report = check_leakage(recordings_of(longs) + recordings_of(pieces))
    assert ids(report.pairs) == {(name, f"of {name}") for name in longs}


def test_a_piece_of_a_real_holter_like_record_is_found(shared_ecg):
    [header] = find_records(shared_ecg / "ptbdb")
    whole = read_record(header)
    piece = resampled(changed(whole, whole.signal[:, 17_400:27_400]), 250)
    [pair] = check_leakage(recordings_of({"whole": whole}) + recordings_of({"piece": piece})).pairs
    assert pair.match.correlation > 0.97


def test_records_without_a_heart_make_no_pairs_and_cost_no_others():
    rng = np.random.default_rng(0)
    record = synthetic(0)
    noise = {f"noise {place}": changed(record, rng.normal(0, 0.3, (12, 5000))) for place in range(40)}
    walks = {f"wander {place}": changed(record, rng.normal(0, 0.02, (12, 5000)).cumsum(1)) for place in range(40)}
    flat = {f"flat {place}": changed(record, np.full((12, 5000), place / 10)) for place in range(3)}
    missing = {f"missing {place}": changed(record, np.full((12, 5000), np.nan)) for place in range(3)}
    short = {"short": changed(record, record.signal[:, :1000]), "slow": resampled(record, 40)}
    frank = {"frank": dataclasses.replace(record, signal=record.signal[:3], lead_names=("VX", "VY", "VZ"))}
    hearts = {"one": record, "same": noisy(record, 0.01)}
    report = check_leakage(recordings_of({**noise, **walks, **flat, **missing, **short, **frank, **hearts}))
    assert ids(report.pairs) == {("one", "same")}
    assert {record.place.split(" (")[0].removeprefix("memory:") for record in report.left_out} == {
        *flat, *missing, *short, *frank,
    }  # fmt: skip
    assert {record.reason for record in report.left_out} == {
        "too short to compare", "sampling rate too low", "none of the leads",
    }  # fmt: skip


def test_missing_leads_and_short_gaps_are_not_compared_as_zeros():
    record = synthetic(0)
    signal = record.signal.copy()
    signal[[0, 1, 2, 3, 4, 5, 8]] = np.nan
    signal[9, 2_000:2_040] = np.nan
    match = correlation(record, changed(record, signal))
    assert match.leads == 5
    assert match.correlation > 0.98
    assert np.isnan(sketch(changed(record, signal))[0, :, 0]).sum() == 3
    no_limbs, only_limbs = leads_only(record, "V1"), leads_only(record, "I")
    with pytest.raises(EcgJepaRecordError, match="in common"):
        correlation(no_limbs, only_limbs)


def test_the_lag_is_that_of_the_shift():
    record = synthetic(1)
    assert correlation(record, changed(record, record.signal[:, 25:])).lag_seconds == pytest.approx(0.05, abs=0.002)
    assert correlation(changed(record, record.signal[:, 25:]), record).lag_seconds == pytest.approx(-0.05, abs=0.002)


def test_correlations_equal_those_of_numpy():
    one, two = synthetic(2), noisy(synthetic(2), 0.05)
    low = scipy.signal.firwin(2001, (1.5, 20), pass_zero=False, fs=500)
    kept = slice(1000, 4000)
    by_hand = [
        np.corrcoef(*(np.convolve(r.signal[lead] - r.signal[lead].mean(), low, "same")[kept] for r in (one, two)))[0, 1]
        for lead in (0, 1, 6, 7, 8, 9, 10, 11)
    ]
    # Another filter of the same band over other seconds: close, not equal.
    assert correlation(one, two).correlation == pytest.approx(np.mean(by_hand), abs=0.01)


def test_many_equal_records_stay_linear():
    points = np.repeat(sketch(synthetic(0)), 600, axis=0)
    pairs = candidate_pairs(points, np.arange(600))
    assert 300 <= len(pairs) <= 16 * 600
    assert {place for pair in pairs for place in pair} == set(range(600))


# Splits, corpora, patients --------------------------------------------------------------------------------------------


def test_pairs_are_counted_by_where_the_two_lie():
    train = recordings_of({"a": synthetic(0), "b": synthetic(0)}, "train", "one")
    test = recordings_of({"c": synthetic(0)}, "test", "one")
    other = recordings_of({"d": synthetic(0)}, "train", "two")
    relations = {
        (pair.first.record_id, pair.second.record_id): pair.relation for pair in report_pairs(train, test, other)
    }
    assert relations == {
        ("a", "b"): "within a split",
        ("a", "c"): "across splits",
        ("b", "c"): "across splits",
        ("a", "d"): "across corpora",
        ("b", "d"): "across corpora",
        ("c", "d"): "across corpora",
    }  # fmt: skip


def report_pairs(*recordings) -> list[DuplicatePair]:
    return check_leakage([one for part in recordings for one in part]).pairs


def test_patients_are_compared_within_a_corpus_unless_told_otherwise():
    def recording(corpus, split, record_id, patient):
        return InMemory(corpus, record_id, split, patient, synthetic(int(record_id)))

    recordings = [
        recording("one", "train", "0", "p1"),
        recording("one", "train", "1", "p1"),
        recording("one", "test", "2", "p1"),
        recording("one", "test", "3", None),
        recording("one", "train", "4", None),
        recording("one", "train", "5", "p2"),
        recording("two", "test", "6", "p2"),
    ]
    [shared] = check_leakage(recordings).patients
    assert (shared.patient_id, dict(shared.counts)) == ("p1", {("one", "train"): 2, ("one", "test"): 1})
    patients = check_leakage(recordings, same_patients=True).patients
    assert {shared.patient_id: len(shared.counts) for shared in patients} == {"p1": 2, "p2": 2}


def test_ptb_xl_two_rates_of_one_id_are_one_recording(shared_ecg):
    recordings = find_recordings([shared_ecg / "ptb-xl"])
    with (shared_ecg / "ptb-xl/ptbxl_database.csv").open() as table:
        rows = {row["ecg_id"]: row for row in csv.DictReader(table)}
    assert len(recordings) == len({recording.record_id for recording in recordings}) == 120
    assert sum(len(recording.headers) == 2 for recording in recordings) == 53
    assert {recording.read().sampling_rate for recording in recordings} == {100, 500}
    for recording in recordings:
        row = rows[recording.record_id]
        assert recording.split == {"9": "validation", "10": "test"}.get(row["strat_fold"], "train")
        assert recording.patient_id == (row["patient_id"].removesuffix(".0") or None)


def test_the_known_duplicates_of_ptb_xl_and_georgia_are_found(shared_ecg):
    report = check_leakage(find_recordings([shared_ecg / "ptb-xl", shared_ecg / "georgia"]))
    assert {f"{pair.first} = {pair.second}" for pair in report.pairs} == {
        "ptb-xl:137 = ptb-xl:138",
        "ptb-xl:143 = ptb-xl:144",
        "ptb-xl:145 = ptb-xl:463",
        "ptb-xl:456 = ptb-xl:457",
        "georgia:E07509 = georgia:E07510",
    }
    assert report.compared == 132


def test_every_record_is_found_across_rates(shared_ecg):
    """PTB-XL's own files at 100 and 500 Hz as two corpora: 53 pairs, and those of the duplicates."""
    report = check_leakage(find_recordings([shared_ecg / "ptb-xl/records100", shared_ecg / "ptb-xl/records500"]))
    across = [pair for pair in report.pairs if pair.relation == "across corpora"]
    same = [pair for pair in across if pair.first.record_id == pair.second.record_id]
    assert len(same) == 53
    assert min(pair.match.correlation for pair in same) > 0.99
    known = {frozenset(pair) for pair in (("137", "138"), ("143", "144"), ("145", "463"), ("456", "457"))}
    assert {frozenset(pair) for pair in ids(report.pairs) if pair[0] != pair[1]} == known


def test_the_bulk_archive_has_no_pair_that_is_none(shared_bulk):
    """Each of these pairs was plotted and is one recording; 1370 is a rebuilt row without a patient."""
    report = check_leakage(find_recordings([shared_bulk / "ptb-xl", shared_bulk / "ludb"]))
    known = {("137", "138"), ("140", "1370"), ("143", "144"), ("145", "463"), ("456", "457")}
    assert ids(report.pairs) == known
    assert (report.compared, report.left_out, report.patients) == (1_951, [], [])
    assert {pair.relation for pair in report.pairs if pair.first.record_id == "140"} == {"across splits"}


# Folders and prepared datasets ----------------------------------------------------------------------------------------


def write_wfdb(folder, name, record: EcgRecord) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=record.sampling_rate,
        units=["mV"] * len(record.lead_names),
        sig_name=list(record.lead_names),
        p_signal=record.signal.T.astype(float),
        fmt=["16"] * len(record.lead_names),
        adc_gain=[1000.0] * len(record.lead_names),
        baseline=[0] * len(record.lead_names),
        write_dir=str(folder),
    )


def row_of(record: EcgRecord, record_id: str, patient_id: str | None = None) -> dict:
    counts, scale = to_counts(record.signal)
    return {
        "record_id": record_id,
        "patient_id": patient_id,
        "signal": counts.ravel(),
        "signal_scale": scale,
        "lead_names": list(record.lead_names),
        "sampling_rate": record.sampling_rate,
    }


def dataset_of(*rows: dict) -> datasets.Dataset:
    return datasets.Dataset.from_list([row | {"signal": row["signal"].tolist()} for row in rows])


@pytest.fixture
def prepared() -> datasets.DatasetDict:
    train = [row_of(synthetic(index), str(index), f"p{index}") for index in range(5)]
    test = [row_of(resampled(synthetic(2), 250), "x"), row_of(synthetic(9), "y", "p3")]
    return datasets.DatasetDict({"train": dataset_of(*train), "held_out": dataset_of(*test)})


def as_saved(prepared, folder):
    prepared.save_to_disk(folder)


def as_shards(prepared, folder):
    (folder / "data").mkdir(parents=True)
    for split, rows in prepared.items():
        for shard in range(2):
            part = rows.shard(2, shard)
            pq.write_table(part.data.table, folder / f"data/{split}-{shard:05d}-of-00002.parquet", row_group_size=1)


@pytest.mark.parametrize("write", [as_saved, as_shards])
@pytest.mark.parametrize("num_proc", [1, 2])
def test_prepared_datasets_are_read_with_their_splits(tmp_path, prepared, write, num_proc):
    write(prepared, tmp_path / "corpus")
    report = check_leakage(find_recordings([tmp_path / "corpus"]), num_proc=num_proc)
    [pair] = report.pairs
    assert {str(pair.first), str(pair.second)} == {"corpus:2", "corpus:x"}
    assert {pair.first.split, pair.second.split} == {"train", "held_out"}
    [shared] = report.patients
    assert (shared.patient_id, set(shared.counts)) == ("p3", {("corpus", "train"), ("corpus", "held_out")})
    assert report.compared == 7


def test_a_prepared_row_is_the_record_it_was_made_of(tmp_path):
    signal = synthetic(0).signal.copy()
    signal[3, 100:200] = np.nan
    original = changed(synthetic(0), signal)
    as_shards(datasets.DatasetDict({"train": dataset_of(row_of(original, "0"), row_of(synthetic(1), "1"))}), tmp_path)
    first, second = sorted(find_recordings([tmp_path]), key=lambda recording: recording.record_id)
    assert (first.record_id, second.record_id, first.patient_id) == ("0", "1", None)
    assert first.read().lead_names == original.lead_names
    np.testing.assert_allclose(first.read().signal, signal, atol=0.00051)
    np.testing.assert_allclose(second.read().signal, synthetic(1).signal, atol=0.00051)


def test_threads_take_turns_at_a_parquet_file(tmp_path, monkeypatch):
    """Several threads inside one ParquetFile can wait for each other for ever."""
    rows = [row_of(synthetic(place), str(place)) for place in range(8)]
    dataset_of(*rows).to_parquet(tmp_path / "train-00000.parquet", batch_size=1)
    read, inside, most = pq.ParquetFile.read_row_group, [], []

    def watched(self, *args, **kwargs):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        table = read(self, *args, **kwargs)
        inside.pop()
        return table

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    with ThreadPoolExecutor(4) as threads:
        records = list(threads.map(lambda recording: recording.read(), find_recordings([tmp_path])))
    assert sorted(record.record_id for record in records) == [str(place) for place in range(8)]
    assert (len(most), max(most)) == (8, 1)


def test_folders_of_one_name_keep_apart_and_ids_tell_records_apart(tmp_path):
    write_wfdb(tmp_path / "a/ecg/one", "r1", synthetic(0))
    write_wfdb(tmp_path / "a/ecg/two", "r1", synthetic(1))
    write_wfdb(tmp_path / "a/ecg/two", "r2", synthetic(2))
    write_wfdb(tmp_path / "b/ecg", "r9", synthetic(3))
    names = [str(recording) for recording in find_recordings([tmp_path / "a/ecg", tmp_path / "b/ecg"])]
    assert names == [
        f"{tmp_path}/a/ecg:one/r1",
        f"{tmp_path}/a/ecg:two/r1",
        f"{tmp_path}/a/ecg:r2",
        f"{tmp_path}/b/ecg:r9",
    ]


def test_a_damaged_file_of_ptb_xl_is_made_up_for_by_its_other_rate(tmp_path):
    write_wfdb(tmp_path / "records500/00000", "00007_hr", synthetic(0))
    write_wfdb(tmp_path / "records100/00000", "00007_lr", resampled(synthetic(0), 100))
    [recording] = find_recordings([tmp_path])
    assert recording.read().sampling_rate == 500
    (tmp_path / "records500/00000/00007_hr.dat").write_bytes(b"\0" * 100)
    assert recording.read().sampling_rate == 100


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "no records"),
        ({"a.parquet": b"PAR1 not really"}, "no Parquet file"),
        ({"dataset_dict.json": b"{}", "train/state.json": b"{"}, "no saved dataset"),
        ({"records500/00000/00001_hr.hea": b"", "ptbxl_database.csv": b"ecg_id\n1\n"}, "table incomplete"),
    ],
)
def test_folders_that_are_none_are_typed_errors(tmp_path, content, reason):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
    with pytest.raises(EcgJepaRecordError) as caught:
        find_recordings([tmp_path])
    assert caught.value.reason == reason


def test_other_parquet_files_and_bad_rows_are_named(tmp_path):
    pq.write_table(pa.table({"record_id": ["1"], "signal": [[1, 2]]}), tmp_path / "other.parquet")
    with pytest.raises(EcgJepaRecordError, match="signal_scale, lead_names, sampling_rate"):
        find_recordings([tmp_path])
    (tmp_path / "other.parquet").unlink()
    broken = row_of(synthetic(0), "broken") | {"signal": np.arange(7, dtype=np.int16)}
    as_shards(datasets.DatasetDict({"train": dataset_of(broken, row_of(synthetic(1), "good"))}), tmp_path)
    report = check_leakage(find_recordings([tmp_path]))
    assert [(record.reason, "broken" in record.place) for record in report.left_out] == [("row not readable", True)]
    with pytest.raises(EcgJepaConfigError, match="named twice"):
        find_recordings([tmp_path, f"{tmp_path}/"])
    with pytest.raises(EcgJepaRecordError, match="There is no"):
        find_recordings([tmp_path / "none"])


# The command ----------------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, ["check-leakage", *map(str, arguments), "--no-progress"])


def test_the_command_names_each_pair_on_one_line_and_exits_with_4(tmp_path):
    write_wfdb(tmp_path / "train", "a", synthetic(0))
    write_wfdb(tmp_path / "train", "b", synthetic(1))
    write_wfdb(tmp_path / "test", "c", resampled(synthetic(0), 100))
    (tmp_path / "test/broken.hea").write_text("broken 12 500 5000\n")
    result = run(tmp_path / "train", tmp_path / "test", "--output", tmp_path / "report.json")
    assert result.exit_code == FINDINGS
    assert "train:a = test:c  train and test  correlation 0.99" in result.output or "correlation 1.0" in result.output
    assert "       1  pairs across corpora" in result.output
    assert "1 left out:" in result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["schema_version"], report["compared"], len(report["left_out"])) == (1, 3, 1)
    assert report["counts"] == {
        "within a split": 0, "across splits": 0, "across corpora": 1, "patients in several splits": 0,
    }  # fmt: skip
    [pair] = report["pairs"]
    assert [one["record_id"] for one in pair["recordings"]] == ["a", "c"]


def test_exit_codes_without_findings(tmp_path):
    write_wfdb(tmp_path / "records", "a", synthetic(0))
    write_wfdb(tmp_path / "records", "b", synthetic(1))
    assert run(tmp_path / "records").exit_code == GOOD
    (tmp_path / "records/broken.hea").write_text("version https://git-lfs.github.com/spec/v1\n")
    partly = run(tmp_path / "records")
    assert partly.exit_code == IN_PART
    assert "1 x Git LFS pointer" in partly.output
    assert run(tmp_path / "none").exit_code == ERROR


def test_a_patient_in_two_splits_is_a_finding(tmp_path, prepared):
    only_patients = prepared.filter(lambda row: row["record_id"] != "x", load_from_cache_file=False)
    only_patients.save_to_disk(tmp_path / "corpus")
    result = run(tmp_path / "corpus")
    assert result.exit_code == FINDINGS
    assert "patient p3: 1 in corpus held_out, 1 in corpus train" in result.output
