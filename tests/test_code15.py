"""CODE-15% exams come out as the per-exam originals hold them; a damaged container costs its own exams only."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.signal

from dataset_scripts import hdf5
from dataset_scripts.code15 import CLASSES, Code15, unpadded
from dataset_scripts.hdf5 import TracingsFile, open_tracings
from dataset_scripts.loading import corpus_builder, load_ecg_dataset
from dataset_scripts.records import find_records, read_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS
from modeling_ecg_jepa.quality_ecg_jepa import (
    EINTHOVEN_THRESHOLD,
    GOLDBERGER_THRESHOLD,
    einthoven_ratio,
    goldberger_ratio,
)

HEADER = "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"


def tracing(seed: int, samples: int = 2934) -> np.ndarray:
    """(4096, 12): noise with the zeros that the publisher adds on both sides."""
    filled = np.zeros((4096, 12), np.float32)
    start = (4096 - samples) // 2
    filled[start : start + samples] = np.random.default_rng(seed).normal(size=(samples, 12)).round(3)
    return filled


def write_part(path: Path, exams: list[int], tracings: np.ndarray | None = None) -> Path:
    """A part as published: the exams, then one more row of zeros with id 0."""
    rows = np.stack([tracing(exam) for exam in exams]) if tracings is None else tracings
    with h5py.File(path, "w") as file:
        file["exam_id"] = np.array([*exams, 0])
        file["tracings"] = np.concatenate([rows, np.zeros_like(rows[:1])])
    return path


def write_table(folder: Path, *rows: str) -> Path:
    (folder / "exams.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def row(exam: int, part: str = "exams_part0.hdf5", patient: int | None = None) -> str:
    return f"{exam},50,True,49.5,False,True,False,False,False,True,{patient or exam},,,False,{part}"


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Two parts of four exams, the table in another order than the files."""
    folder = tmp_path / "code15"
    folder.mkdir()
    write_part(folder / "exams_part0.hdf5", [11, 12, 13])
    write_part(folder / "exams_part1.hdf5", [21], tracing(21, samples=4096)[None])
    return write_table(folder, row(13), row(21, "exams_part1.hdf5"), row(11), row(12, patient=99))


def rows_of(folder: Path, cache: Path, **options) -> dict[str, dict]:
    splits = load_ecg_dataset("code15", data_dir=folder, cache_dir=cache, **options)
    return {example["record_id"]: example for split in splits.values() for example in split}


def millivolts(example: dict) -> np.ndarray:
    counts = np.asarray(example["signal"], np.int16).reshape(len(example["lead_names"]), -1)
    return counts * np.float32(example["signal_scale"])


def left_out(folder: Path, cache: Path, **options) -> dict[str, str]:
    """Record id -> reason."""
    builder = corpus_builder("code15", data_dir=folder, cache_dir=str(cache), **options)
    builder.download_and_prepare()
    return {record.place.split()[0]: record.reason for record in builder.left_out()}


# The corpus


def test_exams_are_matched_by_id_and_their_padding_is_stripped(corpus, tmp_path):
    rows = rows_of(corpus, tmp_path / "cache")
    assert set(rows) == {"11", "12", "13", "21"}
    for name, example in rows.items():
        recorded = tracing(int(name), 4096 if name == "21" else 2934)
        recorded = recorded if name == "21" else recorded[581:3515]
        assert np.allclose(millivolts(example), recorded.T, atol=1e-6)
        assert example["sampling_rate"] == 400 and example["lead_names"] == list(STANDARD_12_LEADS)
        assert example["findings"] == []


def test_columns_of_the_table_become_the_schemas(corpus, tmp_path):
    example = rows_of(corpus, tmp_path / "cache")["12"]
    assert (example["patient_id"], example["age"], example["sex"]) == ("99", 50.0, "male")
    assert [CLASSES[label] for label in example["labels"]] == example["codes"] == ["RBBB", "AF"]
    assert (example["nn_predicted_age"], example["death"], example["timey"]) == (49.5, None, None)
    assert example["normal_ecg"] is False and example["trace_file"] == "exams_part0.hdf5"


def test_the_unit_is_an_option(corpus, tmp_path):
    as_published = rows_of(corpus, tmp_path / "cache")["11"]
    tenth = rows_of(corpus, tmp_path / "cache", millivolts_a_unit=0.1)["11"]
    assert np.allclose(millivolts(tenth), 0.1 * millivolts(as_published), atol=6e-4)
    with pytest.raises(EcgJepaConfigError, match="millivolts_a_unit=0"):
        corpus_builder("code15", data_dir=corpus, cache_dir=str(tmp_path), millivolts_a_unit=0)


def test_whole_ten_seconds_leave_the_seven_second_exams_out(corpus, tmp_path):
    rows = rows_of(corpus, tmp_path / "cache", seconds=10, sampling_rate=250)
    assert list(rows) == ["21"] and millivolts(rows["21"]).shape == (12, 2500)


def test_a_corpus_of_which_nothing_is_left_says_why(corpus, tmp_path):
    with pytest.raises(EcgJepaRecordError, match="every record was left out:\n +4 x shorter than 11 s"):
        load_ecg_dataset("code15", data_dir=corpus, cache_dir=tmp_path / "cache", seconds=11)


def test_lopsided_padding_is_a_finding(tmp_path):
    shifted = np.roll(tracing(7), 100, axis=0)
    write_part(tmp_path / "exams_part0.hdf5", [7], shifted[None])
    write_table(tmp_path, row(7))
    assert rows_of(tmp_path, tmp_path / "cache")["7"]["findings"] == ["681 zero samples stripped before, 481 after"]


def test_padding_is_what_is_zero_in_all_leads():
    signal = np.zeros((9, 2))
    signal[2, 0] = signal[6, 1] = 1
    assert unpadded(signal) == (2, 7) and unpadded(np.zeros((9, 2))) == (0, 0)


def test_processes_prepare_the_same_rows(corpus, tmp_path):
    one = rows_of(corpus, tmp_path / "one")
    two = rows_of(corpus, tmp_path / "two", num_proc=2)
    assert one.keys() == two.keys() and all(one[name] == two[name] for name in one)


# Bad input: each costs its own exams only


def test_exams_that_cannot_be_read_are_left_out_by_reason(corpus, tmp_path):
    write_part(corpus / "exams_part3.hdf5", [31])
    with h5py.File(corpus / "exams_part3.hdf5", "r+") as file:
        del file["exam_id"]
        file["exam_id"] = np.array([31, 0, 32])
    write_part(corpus / "exams_part4.hdf5", [41], np.zeros((1, 4096, 12), np.float32))
    write_part(corpus / "exams_part5.hdf5", [51], np.ones((1, 4096, 8), np.float32))
    (corpus / "exams_part6.zip").touch()
    (corpus / "exams_part7.hdf5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (corpus / "exams_part8.hdf5").write_bytes((corpus / "exams_part1.hdf5").read_bytes()[:-5000])
    expected = {
        14: ("exams_part0.hdf5", "exam not in its file"),
        22: ("exams_part2.hdf5", "HDF5 file missing"),
        32: ("exams_part3.hdf5", "HDF5 file incomplete"),
        41: ("exams_part4.hdf5", "no signal"),
        51: ("exams_part5.hdf5", "not 12 leads"),
        61: ("exams_part6.hdf5", "HDF5 file missing"),
        71: ("exams_part7.hdf5", "Git LFS pointer"),
        81: ("exams_part8.hdf5", "HDF5 file damaged"),
        91: ("../../etc/passwd", "path outside the folder"),
        92: ("/etc/passwd", "path outside the folder"),
        93: (".", "not readable"),  # a folder
    }
    write_table(corpus, row(11), *(row(exam, part) for exam, (part, _) in expected.items()), row(11))
    reasons = left_out(corpus, tmp_path / "cache")
    assert reasons.pop("11") == "duplicate id"
    assert reasons == {str(exam): reason for exam, (_, reason) in expected.items()}
    with pytest.raises(EcgJepaRecordError, match="61.*still in its archive: unzip exams_part6.zip"):
        write_table(corpus, row(61, "exams_part6.hdf5"))
        load_ecg_dataset("code15", data_dir=corpus, cache_dir=tmp_path / "cache", on_error="raise")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("11,", "1e1,"), "no number"),
        (("11,", "9" * 5000 + ","), "no number"),
        ((",50,", ",old,"), "no number"),
        ((",True,49.5", ",perhaps,49.5"), "unclear label"),
    ],
)
def test_a_line_that_is_not_understood_costs_its_exam_only(corpus, tmp_path, change, reason):
    write_table(corpus, row(11).replace(*change), row(12))
    assert set(rows_of(corpus, tmp_path / "cache")) == {"12"}
    assert [*left_out(corpus, tmp_path / "again").values()] == [reason]
    with pytest.raises(EcgJepaRecordError, match="exams.csv, line 2"):
        load_ecg_dataset("code15", data_dir=corpus, cache_dir=tmp_path / "cache", on_error="raise")


def test_a_table_without_a_column_is_an_error(corpus, tmp_path):
    write_table(corpus, row(11))
    table = corpus / "exams.csv"
    table.write_text(table.read_text().replace("trace_file", "file"))
    with pytest.raises(EcgJepaRecordError, match="no column 'trace_file'"):
        load_ecg_dataset("code15", data_dir=corpus, cache_dir=tmp_path / "cache")


# The HDF5 reader


def reason_of(path: Path, exam: int = 1) -> str:
    with pytest.raises(EcgJepaRecordError) as caught:
        open_tracings(path).read(exam)
    return caught.value.reason


def test_any_number_type_and_any_packing_reads_as_float32(tmp_path):
    values = np.arange(2 * 30 * 12).reshape(2, 30, 12)
    for name, dtype in (("a", "f8"), ("b", "i2"), ("c", ">f4"), ("d", "f2")):
        with h5py.File(tmp_path / name, "w") as file:
            file["exam_id"] = np.array([5, 6], "u4")
            file.create_dataset("tracings", data=values.astype(dtype), compression="gzip", chunks=(1, 7, 12))
        read = open_tracings(tmp_path / name).read(6)
        assert read.dtype == np.float32 and np.array_equal(read, values[1].astype(dtype).astype(np.float32))


def test_a_file_is_opened_once_and_only_so_many_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "MAX_OPEN_FILES", 2)
    paths = [write_part(tmp_path / f"{part}.hdf5", [part]) for part in (1, 2, 3)]
    first = open_tracings(paths[0])
    assert open_tracings(paths[0]) is first
    open_tracings(paths[1]), open_tracings(paths[2])
    assert len(hdf5._open_files) == 2
    assert open_tracings(paths[0]) is not first and not first._file


def test_a_file_that_was_replaced_is_opened_anew(tmp_path):
    path = write_part(tmp_path / "part.hdf5", [1])
    assert 2 not in open_tracings(path)
    write_part(tmp_path / "new.hdf5", [2]).replace(path)
    assert 2 in open_tracings(path)


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_nothing_outside_the_file_is_read(tmp_path, kind):
    secret = tmp_path / "secret.hdf5"
    write_part(secret, [1])
    path = tmp_path / "part.hdf5"
    with h5py.File(path, "w") as file:
        file["exam_id"] = np.array([1, 0])
        if kind == "external link":
            file["tracings"] = h5py.ExternalLink(secret.name, "/tracings")
        elif kind == "soft link":
            file["there"] = h5py.ExternalLink(secret.name, "/")
            file["tracings"] = h5py.SoftLink("/there/tracings")
        elif kind == "external storage":
            file.create_dataset("tracings", (2, 4096, 12), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((2, 4096, 12), "f4")
            layout[:] = h5py.VirtualSource(secret, "tracings", (2, 4096, 12))
            file.create_virtual_dataset("tracings", layout)
    expected = "HDF5 file of another kind" if "link" in kind else "path outside the folder"
    assert reason_of(path) == expected


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ({"exam_id": [1]}, "HDF5 file of another kind"),
        ({"exam_id": [1], "tracings": np.zeros((1, 5))}, "HDF5 file of another kind"),
        ({"exam_id": [1], "tracings": np.zeros((1, 0, 12))}, "HDF5 file of another kind"),
        ({"exam_id": [1], "tracings": np.full((1, 5, 12), b"x")}, "HDF5 file of another kind"),
        ({"exam_id": [[1]], "tracings": np.zeros((1, 5, 12))}, "HDF5 file of another kind"),
        ({"exam_id": [1.5], "tracings": np.zeros((1, 5, 12))}, "HDF5 file of another kind"),
        ({"exam_id/nested": [1], "tracings": np.zeros((1, 5, 12))}, "HDF5 file of another kind"),
        ({"exam_id": [1], "tracings": np.full((1, 5, 12), np.inf)}, "infinite values"),
        ({"exam_id": [1], "tracings": np.full((1, 5, 12), 1e300)}, "infinite values"),
    ],
)
def test_other_contents_are_refused(tmp_path, datasets, reason):
    with h5py.File(tmp_path / "part.hdf5", "w") as file:
        for name, values in datasets.items():
            file[name] = values
    assert reason_of(tmp_path / "part.hdf5") == reason


@pytest.mark.parametrize(
    ("shape", "chunks"), [((1, 2**28, 12), (1, 1024, 12)), ((20_000, 4096, 12), (20_000, 4096, 12))]
)
def test_a_few_bytes_that_unpack_to_gigabytes_are_refused(tmp_path, shape, chunks):
    with h5py.File(tmp_path / "part.hdf5", "w") as file:
        file["exam_id"] = [1]
        file.create_dataset("tracings", shape, "f4", chunks=chunks, compression="gzip")
    assert reason_of(tmp_path / "part.hdf5") == "too large"


def test_missing_values_stay_missing(tmp_path):
    values = np.ones((1, 5, 12), np.float32)
    values[0, 2] = np.nan
    with h5py.File(tmp_path / "part.hdf5", "w") as file:
        file["exam_id"], file["tracings"] = [1], values
    assert np.array_equal(TracingsFile(tmp_path / "part.hdf5").read(1), values[0], equal_nan=True)


# The real exams


def test_the_sample_has_ten_exams_and_four_of_whole_ten_seconds(shared_ecg, tmp_path):
    assert len(rows_of(shared_ecg / "code15", tmp_path)) == 10
    whole = rows_of(shared_ecg / "code15", tmp_path, seconds=10)
    assert {name: millivolts(example).shape for name, example in whole.items()} == dict.fromkeys(
        ("1594286", "2969044", "270272", "975093"), (12, 4000)
    )


def test_real_exams_equal_their_originals_lead_by_lead(shared_ecg, tmp_path):
    rows = rows_of(shared_ecg / "code15", tmp_path)
    for name, example in rows.items():
        original = scipy.io.loadmat(shared_ecg / "code15" / "ecg-fm-org" / f"code_15_{name}.mat")
        assert np.allclose(millivolts(example), original["feats"], atol=0.00051)
        assert original["org_sample_rate"].item() == example["sampling_rate"]
        assert original["org_sample_size"].item() == len(example["signal"]) // 12 in (2934, 4096)
        assert example["findings"] == []


def test_real_exams_obey_the_limb_equations(shared_ecg):
    builder = Code15(data_dir=shared_ecg / "code15")
    for entry in builder.index(shared_ecg / "code15"):
        one, two, three, avr, avl, avf = builder.read(shared_ecg / "code15", entry).signal[:6]
        assert einthoven_ratio(one, two, three) < EINTHOVEN_THRESHOLD
        assert goldberger_ratio(one, two, avr, avl, avf) < GOLDBERGER_THRESHOLD


def test_millivolts_are_the_nearer_reading_of_the_disputed_unit(shared_ecg):
    """Band-passed peak to peak against PTB-XL's: about twice as high at 1 mV a unit, a fifth at 0.1."""

    def height(signal: np.ndarray, rate: float) -> float:
        band = scipy.signal.butter(2, (0.67, 40), "bandpass", fs=rate, output="sos")
        filtered = scipy.signal.sosfiltfilt(band, signal, axis=1)[:, int(rate / 2) : -int(rate / 2)]
        return float(np.median(np.ptp(filtered, axis=1)))

    builder = Code15(data_dir=shared_ecg / "code15")
    exams = [builder.read(shared_ecg / "code15", entry) for entry in builder.index(shared_ecg / "code15")]
    references = [read_record(path) for path in find_records(shared_ecg / "ptb-xl" / "records500")]
    factor = np.median([height(e.signal, 400) for e in exams]) / np.median([height(r.signal, 500) for r in references])
    assert 1.3 < factor < 3.2  # so 0.1 would be 0.13 to 0.32: further off in ratio
