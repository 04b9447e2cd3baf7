"""Damaged files of every format are read, or refused with one typed error: no crash, no hang, bounded memory.

Some 100 cases a test by default; thousands with `pytest tests/test_fuzz.py --hypothesis-profile=fuzz`.
"""

import itertools
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset_scripts.download import PhysioNet, Zenodo, _check_manifest
from dataset_scripts.hdf5 import TracingsFile
from dataset_scripts.matlab import read_matlab_record
from dataset_scripts.records import _read_counts, read_record, record_sha256
from dataset_scripts.wfdb_header import read_header
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError

#: What reading a file of some kilobytes may add to the process, whatever the file claims.
MEMORY_BYTES = 2**30

# The deadline is for what hangs, on a machine that others use as well.
fuzzed = settings(deadline=10_000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

NASTY_WORDS = (
    *(b"", b"0", b"-1", b"1", b"12", b"255", b"65536", b"2147483648", b"999999999999999999", b"9" * 400),
    *(b"nan", b"inf", b"1e308", b"1e-308", b"-0.0", b"0x10", "\u0661\u0662".encode(), b"1_000"),
    *(b"16", b"8", b"24", b"32", b"61", b"80", b"160", b"212", b"310", b"311", b"508", b"516", b"524"),
    *(b"16x100000000", b"212x3", b"16:5", b"16+1000", b"16+999999999", b"200(0)/mV", b"1e-300/mV", b"1000/uV"),
    *(b"../x.dat", b"/etc/passwd", b"x.hea", b"x.dat", b"~", b".", b"\x00", b"\xb5V", b"\xff\xfe", b"x/2", b"x/99999"),
    *(b"I", b"II", b"aVR", b"ECG", b"V1", b"#", b"\n", b"\r", b"# Age: 1e9", b"10:10:10", b"31/02/2000"),
)

places = st.floats(0, 1, exclude_max=True)
byte_edits = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "delete", "truncate", "repeat"]),
        places,
        st.binary(min_size=1, max_size=9) | st.sampled_from([b"\x00" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f"]),
    ),
    min_size=1,
    max_size=8,
)
word_edits = st.lists(st.tuples(places, st.sampled_from(NASTY_WORDS)), max_size=4)


def with_bytes_changed(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, value in edits:
        at = int(place * len(content))
        if kind == "overwrite":
            content = content[:at] + value + content[at + len(value) :]
        elif kind == "insert":
            content = content[:at] + value + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + value[0] :]
        elif kind == "truncate":
            content = content[:at]
        else:
            content = content[:at] + content[max(at - value[0], 0) :]
    return content


def with_words_changed(content: bytes, edits: list[tuple[float, bytes]]) -> bytes:
    lines = [line.split(b" ") for line in content.split(b"\n")]
    for place, word in edits:
        spots = [(row, column) for row, words in enumerate(lines) for column in range(len(words))]
        row, column = spots[int(place * len(spots))]
        lines[row][column] = word
    return b"\n".join(b" ".join(words) for words in lines)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """More memory than `MEMORY_BYTES` above what the process has is a MemoryError, which is none of our errors."""
    if not sys.platform.startswith("linux"):
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check(read, *arguments) -> None:
    """Reading gives a sound record, or an error that says where and what."""
    try:
        record = read(*arguments)
    except EcgJepaRecordError as error:
        assert error.reason and str(error)
        return
    leads, samples = record.signal.shape
    assert record.signal.dtype == np.float32 and leads == len(set(record.lead_names)) and samples
    assert not np.isinf(record.signal).any()
    assert 0 < record.sampling_rate < 1e6 and (record.age is None or 0 <= record.age <= 130)


# Sound files, to be damaged

SIGNAL = np.random.default_rng(0).integers(-100, 100, (300, 2))


def record_files(folder: Path, signal_format: str) -> dict[str, bytes]:
    """Files of a small sound WFDB record, by name."""
    folder.mkdir()
    wfdb.wrsamp(
        "x", 250, ["mV"] * 2, ["I", "II"], d_signal=SIGNAL, fmt=[signal_format] * 2, adc_gain=[200.0] * 2,
        baseline=[0, 0], comments=["Age: 50", "Sex: M"], write_dir=str(folder),
    )  # fmt: skip
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def sound_records(tmp_path_factory) -> list[dict[str, bytes]]:
    """Of every family of formats one, and one of two segments."""
    folder = tmp_path_factory.mktemp("sound")
    records = [record_files(folder / name, name) for name in ("16", "24", "80", "516")]
    for packed in (b"212", b"310"):  # the library cannot write these; any bytes are some samples
        write(folder, {**records[0], "x.hea": records[0]["x.hea"].replace(b"x.dat 16", b"x.dat " + packed)})
        records.append({**records[0], "x.hea": with_fitting_checksums(folder / "x.hea")})
    segments = {name.replace("x", "a"): content for name, content in records[0].items()}
    segments = {name: content.replace(b"x", b"a") if name == "a.hea" else content for name, content in segments.items()}
    records.append({**segments, "x.hea": b"x/3 2 250 800\na 300\n~ 200\na 300\n"})
    for number, record in enumerate(records):
        (folder / f"check{number}").mkdir()
        write(folder / f"check{number}", record)
        assert read_record(folder / f"check{number}" / "x.hea").lead_names == ("I", "II")
    return records


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


_numbers = itertools.count()


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


# Damage


@fuzzed
@given(which=st.integers(0, 6), words=word_edits, changes=byte_edits | st.just([]))
def test_wfdb_headers(sound_records, workshop, which, words, changes):
    files = dict(sound_records[which])
    files["x.hea"] = with_bytes_changed(with_words_changed(files["x.hea"], words), changes)
    write(workshop, files)
    check(read_record, workshop / "x.hea")
    try:
        record_sha256(workshop / "x.hea")
    except EcgJepaRecordError as error:
        assert error.reason


@fuzzed
@given(which=st.integers(0, 6), changes=byte_edits, keeps_checksum=st.booleans())
def test_wfdb_signals(sound_records, workshop, which, changes, keeps_checksum):
    files = dict(sound_records[which])
    name = next(name for name in files if name.endswith(".dat"))
    files[name] = with_bytes_changed(files[name], changes)
    write(workshop, files)
    if not keeps_checksum:  # else nearly all damage ends there
        header = workshop / ("a.hea" if "a.hea" in files else "x.hea")
        try:
            header.write_bytes(with_fitting_checksums(header))
        except EcgJepaRecordError as error:
            assert error.reason
    check(read_record, workshop / "x.hea")


def with_fitting_checksums(path: Path) -> bytes:
    """The header with the checksums that its signals have."""
    counts = _read_counts(read_header(path), [])
    lines = [line.split(b" ") for line in path.read_bytes().split(b"\n")]
    for line, samples in zip(lines[1:], counts, strict=False):
        line[6] = str(int(samples.sum()) % 65536).encode()
    return b"\n".join(b" ".join(words) for words in lines)


def matlab_file(path: Path, compressed: bool) -> bytes:
    ecg = {"sex": "Male", "age": 50, "data": np.random.default_rng(0).normal(size=(12, 60))}
    scipy.io.savemat(path, {"ECG": ecg}, do_compression=compressed)
    return path.read_bytes()


@pytest.fixture(scope="module")
def sound_matlab(workshop) -> list[bytes]:
    files = [matlab_file(workshop / "sound.mat", compressed) for compressed in (False, True)]
    assert read_matlab_record(workshop / "sound.mat").age == 50
    return files


@fuzzed
@given(compressed=st.booleans(), changes=byte_edits)
def test_matlab_files(sound_matlab, workshop, compressed, changes):
    write(workshop, {"x.mat": with_bytes_changed(sound_matlab[compressed], changes)})
    check(read_matlab_record, workshop / "x.mat")


@pytest.fixture(scope="module")
def sound_hdf5(workshop) -> list[bytes]:
    contents = []
    for options in ({}, {"compression": "gzip", "chunks": (1, 16, 3), "fletcher32": True, "shuffle": True}):
        with h5py.File(workshop / "sound.hdf5", "w") as file:
            file["exam_id"] = np.array([11, 12, 0])
            file.create_dataset("tracings", data=np.random.default_rng(0).normal(size=(3, 40, 12)), **options)
        contents.append((workshop / "sound.hdf5").read_bytes())
    return contents


@fuzzed
@given(packed=st.booleans(), changes=byte_edits, in_metadata=st.booleans())
def test_hdf5_files(sound_hdf5, workshop, packed, changes, in_metadata):
    content = sound_hdf5[packed]
    head = 1000 if in_metadata else 0  # most of the bytes are samples
    changed = with_bytes_changed(content[: head or None], changes) + (content[head:] if head else b"")
    # HDF5 knows a file that is still open by its inode, so every case has its own.
    path = workshop / f"{next(_numbers)}.hdf5"
    path.write_bytes(changed)
    try:
        file = TracingsFile(path)
        for exam in (11, 12):
            tracing = file.read(exam)
            assert tracing.dtype == np.float32 and tracing.ndim == 2 and not np.isinf(tracing).any()
        file.close()
    except EcgJepaRecordError as error:
        assert error.reason and path.name in str(error)
    finally:
        path.unlink()


SUMS = b"".join(b"%064d %s\n" % (number, name) for number, name in enumerate([b"RECORDS", b"a/b.dat", b"c d.hea"]))
RECORD = (
    b'{"files": [{"key": "a.zip", "size": 10, "checksum": "md5:00112233445566778899aabbccddeeff", '
    b'"links": {"self": "https://zenodo.org/api/records/7/files/a.zip/content"}}]}'
)


@fuzzed
@given(from_zenodo=st.booleans(), changes=byte_edits | st.just([]), words=word_edits)
def test_lists_of_files(from_zenodo, changes, words):
    source = Zenodo(7, 1.0) if from_zenodo else PhysioNet("small", "1.0.0", 1.0)
    content = with_bytes_changed(with_words_changed(RECORD if from_zenodo else SUMS, words), changes)
    try:
        files = source.parse_manifest(content)
        _check_manifest(source, files)
    except EcgJepaRecordError as error:
        assert error.reason
        return
    assert all(len(file.checksum) in (32, 64) and ".." not in Path(file.path).parts for file in files)
