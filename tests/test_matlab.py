"""The CPSC2018 organisers' files read as scipy reads them; anything else is one typed error, in bounded memory."""

import io
import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from dataset_scripts.matlab import MAX_BYTES, read_matlab_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

DATA = np.random.default_rng(0).normal(size=(12, 50))


def write(path: Path, compressed: bool = True, **fields) -> Path:
    """A file as the organisers' with some fields changed."""
    scipy.io.savemat(path, {"ECG": {"sex": "Male", "age": 52, "data": DATA} | fields}, do_compression=compressed)
    return path


def failure(path: Path) -> EcgJepaRecordError:
    with pytest.raises(EcgJepaRecordError) as caught:
        read_matlab_record(path)
    assert str(path) in str(caught.value)
    return caught.value


# What is read


def test_the_real_files_are_what_scipy_reads(shared_ecg):
    paths = sorted((shared_ecg / "cpsc2018").glob("*.mat"))
    for path in paths:
        record, content = read_matlab_record(path), scipy.io.loadmat(path)["ECG"][0, 0]
        assert np.array_equal(record.signal, content["data"].astype(np.float32))
        assert record.age == content["age"].item()
        assert record.sex == content["sex"].item().lower()
        assert (record.sampling_rate, record.record_id, record.findings) == (500.0, path.stem, ())
    assert len(paths) == 6


def test_the_order_of_the_real_leads_is_the_standard_one(shared_ecg):
    """The files name no leads; each dependent limb lead is where its equation holds, to the rounding of 1 uV."""
    for path in (shared_ecg / "cpsc2018").glob("*.mat"):
        i, ii, iii, avr, avl, avf = read_matlab_record(path).signal[:6]
        for dependent, expected in ((iii, ii - i), (avr, -(i + ii) / 2), (avl, i - ii / 2), (avf, ii - i / 2)):
            assert np.abs(dependent - expected).max() < 0.0015
            assert np.ptp(dependent) > 0.1


@pytest.mark.parametrize("compressed", [True, False])
def test_files_with_and_without_compression_are_alike(tmp_path, compressed):
    record = read_matlab_record(write(tmp_path / "A0001.mat", compressed))
    assert record.signal.dtype == np.float32 and record.signal.flags.c_contiguous
    assert np.array_equal(record.signal, DATA.astype(np.float32))
    assert (record.lead_names, record.age, record.sex) == (STANDARD_12_LEADS, 52.0, "male")


def test_the_fields_may_stand_in_any_order(tmp_path):
    scipy.io.savemat(tmp_path / "x.mat", {"ECG": {"data": DATA, "more": "x", "age": 7.0, "sex": "F"}})
    record = read_matlab_record(tmp_path / "x.mat")
    assert (record.age, record.sex, record.signal.shape) == (7.0, "female", (12, 50))


def test_a_file_of_a_big_endian_machine_is_read(tmp_path):
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    def matrix(kind: int, shape: tuple[int, int], name: bytes, *content: bytes) -> bytes:
        flags, dims = element(6, struct.pack(">II", kind, 0)), element(5, struct.pack(">ii", *shape))
        return element(14, flags + dims + element(1, name) + b"".join(content))

    fields = [
        matrix(4, (1, 6), b"", element(4, "Female".encode("utf-16-be"))),
        matrix(6, (1, 1), b"", element(2, bytes([48]))),
        matrix(6, DATA.shape, b"", element(9, DATA.astype(">f8").tobytes(order="F"))),
    ]
    names = element(5, struct.pack(">i", 8)) + element(
        1, b"".join(n.ljust(8, b"\0") for n in (b"sex", b"age", b"data"))
    )
    content = b"MATLAB".ljust(124) + b"\x01\x00MI" + matrix(2, (1, 1), b"ECG", names, *fields)
    (tmp_path / "x.mat").write_bytes(content)
    assert scipy.io.loadmat(tmp_path / "x.mat")["ECG"][0, 0]["age"] == 48  # the file is a good one
    record = read_matlab_record(tmp_path / "x.mat")
    assert (record.age, record.sex) == (48.0, "female")
    assert np.array_equal(record.signal, DATA.astype(np.float32))


@pytest.mark.parametrize(
    ("age", "read", "findings"),
    [(np.nan, None, 0), ("unknown", None, 0), ([], None, 0), (300, None, 1), (-1, None, 1), (0, 0.0, 0)],
)
def test_an_age_that_is_none_is_left_out(tmp_path, age, read, findings):
    record = read_matlab_record(write(tmp_path / "x.mat", age=age))
    assert record.age == read and len(record.findings) == findings


@pytest.mark.parametrize("sex", ["unknown", "", 1])
def test_a_sex_that_is_none_is_left_out(tmp_path, sex):
    assert read_matlab_record(write(tmp_path / "x.mat", sex=sex)).sex is None


def test_missing_samples_stay_missing(tmp_path):
    data = DATA.copy()
    data[3, 7:9] = np.nan
    signal = read_matlab_record(write(tmp_path / "x.mat", data=data)).signal
    assert np.array_equal(np.isnan(signal), np.isnan(data))


# What is refused


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DATA[:11], "not 12 leads"),
        (DATA.T, "not 12 leads"),
        (DATA[:, :0], "no samples"),
        (np.where(DATA > 2, np.inf, DATA), "infinite values"),
        (DATA * 1e300, "infinite values"),
        (DATA * 1j, "MAT file not understood"),
        ("text", "MAT file not understood"),
        (np.zeros((12, 5, 2)), "MAT file not understood"),
        ([DATA.tolist(), "a cell"], "MAT file not understood"),
    ],
)
def test_data_that_are_no_recording_are_refused(tmp_path, data, reason):
    data = np.array(data, dtype=object) if isinstance(data, list) else data
    assert failure(write(tmp_path / "x.mat", data=data)).reason == reason


def test_other_variables_are_refused_by_name(tmp_path):
    scipy.io.savemat(tmp_path / "x.mat", {"val": DATA})
    assert "'val'" in str(failure(tmp_path / "x.mat"))
    scipy.io.savemat(tmp_path / "x.mat", {"ECG": {"data": DATA}})
    assert "sex, age" in str(failure(tmp_path / "x.mat"))


def test_the_files_of_newer_matlab_are_refused_with_the_remedy(tmp_path):
    with h5py.File(tmp_path / "x.mat", "w", userblock_size=512) as file:
        file["ECG/data"] = DATA
    with (tmp_path / "x.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    error = failure(tmp_path / "x.mat")
    assert error.reason == "MAT version" and "-v7" in str(error)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "MAT file not understood"),
        (b"<html>Not found</html>" * 20, "MAT file not understood"),
        (b"MATLAB".ljust(124) + b"\x00\x01IM", "MAT file not understood"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
    ],
)
def test_files_that_hold_no_recording_are_refused(tmp_path, content, reason):
    (tmp_path / "x.mat").write_bytes(content)
    assert failure(tmp_path / "x.mat").reason == reason


def test_a_wfdb_signal_file_is_told_from_a_recording(shared_ecg):
    assert "hea" in str(failure(shared_ecg / "cpsc2018-wfdb" / "A0001.mat"))


def test_missing_files_and_folders_are_typed_errors(tmp_path):
    assert failure(tmp_path / "A9999.mat").reason == "signal file missing"
    assert failure(tmp_path).reason == "not readable"


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    for compressed in (True, False):
        content = write(tmp_path / "whole.mat", compressed).read_bytes()
        for length in range(0, len(content) - 8, 97):
            (tmp_path / "x.mat").write_bytes(content[:length])
            assert failure(tmp_path / "x.mat").reason == "MAT file not understood"


def test_a_file_that_inflates_without_end_is_refused_in_bounded_memory(tmp_path):
    bomb = zlib.compress(bytes(4 * MAX_BYTES))
    content = b"MATLAB".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(bomb)) + bomb
    (tmp_path / "x.mat").write_bytes(content)
    tracemalloc.start()
    error = failure(tmp_path / "x.mat")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.reason == "too large" and peak < 3 * MAX_BYTES


def test_a_damaged_file_costs_one_typed_error_and_little_memory(tmp_path):
    """A few hundred mutations of the first 560 bytes, where all claims stand."""
    buffers = [io.BytesIO(), io.BytesIO()]
    for buffer, compressed in zip(buffers, (True, False), strict=True):
        scipy.io.savemat(buffer, {"ECG": {"sex": "Male", "age": 52, "data": DATA}}, do_compression=compressed)
    rng = random.Random(0)
    claims = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\x0e\x00\x00\x00", b"\x0f\x00\x00\x00"]
    refused = 0
    tracemalloc.start()
    for _ in range(600):
        content = bytearray(rng.choice(buffers).getvalue())
        for _ in range(rng.choice((1, 1, 2, 4))):
            place = rng.randrange(100, 560)
            damage = rng.choice([bytes([rng.randrange(256)]), rng.choice(claims), b""])
            content[place : place + (len(damage) or rng.randrange(1, 50))] = damage
        (tmp_path / "x.mat").write_bytes(content)
        try:
            assert read_matlab_record(tmp_path / "x.mat").signal.shape[0] == 12
        except EcgJepaRecordError:
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 200 and peak < 2_000_000
