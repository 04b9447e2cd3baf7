"""Records are read as their files say, beside wfdb and numpy by hand; everything else is one typed error."""

import hashlib
import random
import shutil
import tracemalloc
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb

from dataset_scripts.records import EcgRecord, find_records, read_record, record_sha256
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

FIXTURES = Path(__file__).parent / "fixtures" / "records"
PTB_XL = FIXTURES / "ptb-xl" / "00001_hr"

COUNTS = np.array([[0, 10, -20, 500, -500], [7, 6, 5, 4, -3]], dtype=np.int16)
SIGNALS = ("x.dat 16 1000(0)/mV 16 0 0 SUM 0 I", "x.dat 16 1000(0)/mV 16 0 0 SUM 0 II")


def write_record(folder: Path, *lines: str, counts: np.ndarray = COUNTS, encoding: str = "utf-8") -> Path:
    """A header of `lines`, each SUM replaced by a signal's checksum, and `counts` as format 16 in `x.dat`."""
    text = "\n".join(lines)
    for checksum in counts.sum(axis=1, dtype=np.int64) % 65536:
        text = text.replace("SUM", str(checksum), 1)
    (folder / "x.hea").write_bytes(text.encode(encoding))
    counts.T.astype("<i2").tofile(folder / "x.dat")
    return folder / "x.hea"


def copy_of(record: Path, folder: Path) -> Path:
    """A writable copy of a record's header and signal file."""
    for file in record.parent.glob(record.name + ".*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / record.name


def failure(path: Path) -> EcgJepaRecordError:
    with pytest.raises(EcgJepaRecordError) as caught:
        read_record(path)
    return caught.value


# What is read


def test_a_record_equals_its_bytes_by_hand():
    record = read_record(PTB_XL)
    by_hand = np.fromfile(PTB_XL.with_suffix(".dat"), "<i2").reshape(5000, 12).T / 1000
    assert record.signal.dtype == np.float32 and record.signal.shape == (12, 5000)
    assert np.array_equal(record.signal, by_hand.astype(np.float32))
    assert record.lead_names == STANDARD_12_LEADS
    assert (record.sampling_rate, record.record_id, record.findings) == (500.0, "00001_hr", ())
    assert (record.age, record.sex, record.recorded_at, record.comments) == (None, None, None, ())


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_any_of_a_records_names_will_do(suffix):
    record = read_record(f"{PTB_XL}{suffix}")
    assert record.path == PTB_XL.with_suffix(".hea")
    assert np.array_equal(record.signal, read_record(PTB_XL).signal)


def test_every_real_record_reads_as_wfdb_reads_it(shared_ecg, capsys):
    read, failed = Counter(), Counter()
    for header in find_records(shared_ecg):
        corpus = header.relative_to(shared_ecg).parts[0]
        try:
            record = read_record(header)
        except EcgJepaRecordError as error:
            failed[corpus, error.reason] += 1
            assert "this is a Git LFS pointer, not a record" in str(error) and "git lfs pull" in str(error)
            continue
        read[corpus] += 1
        theirs = wfdb.rdrecord(str(header.with_suffix("")), physical=corpus != "ludb")
        expected = theirs.d_signal / 1000 if corpus == "ludb" else theirs.p_signal
        assert np.array_equal(record.signal, expected.T.astype(np.float32)), header
        assert (record.sampling_rate, list(record.comments)) == (theirs.fs, theirs.comments)
        assert set(STANDARD_12_LEADS) <= set(record.lead_names)
    with capsys.disabled():
        print(
            "\nread:", *(f"{corpus} {count}," for corpus, count in sorted(read.items())), sum(read.values()), "in all"
        )
    assert failed == {("ptb-xl-lfs-pointers", "Git LFS pointer"): 3}
    assert read == {
        "ptb-xl": 173,
        "ludb": 20,
        "ecg-arrhythmia-challenge": 12,
        "georgia": 12,
        "cpsc2018-wfdb": 6,
        "ptb-xl-challenge": 5,
        "ecg-arrhythmia": 4,
        "ptbdb": 1,
    }


def test_the_oddities_of_the_real_corpora(shared_ecg):
    cpsc = read_record(shared_ecg / "cpsc2018-wfdb" / "A0001")
    assert (cpsc.recorded_at, cpsc.signal.shape) == (datetime(2020, 2, 5, 11, 39, 16), (12, 7500))
    assert (cpsc.age, cpsc.sex) == (74.0, "male") and "Dx: RBBB" in cpsc.comments
    challenge = read_record(shared_ecg / "ptb-xl-challenge" / "HR06000")
    assert (challenge.age, challenge.sex, challenge.findings) == (59.0, "female", ())
    ludb = read_record(shared_ecg / "ludb" / "data" / "1")
    assert (ludb.age, ludb.sex) == (51.0, "female")
    assert len(ludb.findings) == 1 and "no calibration" in ludb.findings[0]
    i, ii, iii = ludb.signal[:3]
    assert np.abs(ii - i - iii).max() < 1e-6
    ptbdb = read_record(shared_ecg / "ptbdb" / "patient001" / "s0010_re")
    assert ptbdb.lead_names[-3:] == ("VX", "VY", "VZ") and ptbdb.sampling_rate == 1000.0
    assert len(ptbdb.findings) == 1 and "mV assumed" in ptbdb.findings[0]
    assert (ptbdb.age, ptbdb.sex) == (81.0, "female")


@pytest.mark.parametrize("layout", ["16", "24", "32", "80", "212", "508", "516", "524"])
def test_formats_that_the_library_writes(tmp_path, layout):
    rng = np.random.default_rng(0)
    counts = rng.integers(-100, 101, size=(501, 2))
    wfdb.wrsamp("x", 250, ["mV", "mV"], ["I", "V1"], d_signal=counts, fmt=[layout] * 2, adc_gain=[50.0, 100.0],
                baseline=[0, 3], write_dir=str(tmp_path))  # fmt: skip
    record = read_record(tmp_path / "x")
    expected = ((counts - [0, 3]) / [50, 100]).T
    assert record.lead_names == ("I", "V1") and record.sampling_rate == 250.0
    assert np.allclose(record.signal, expected, atol=1e-6)


def test_formats_packed_by_hand(tmp_path):
    counts = np.array([[1, -2, 300, -301], [5, 6, -7, 8]], dtype=np.int64).T  # (samples, signals)
    words = counts.reshape(-1)
    # Three 10-bit samples in the low 30 bits of a word, so 8 samples need a ninth to fill the last.
    tens = (np.append(words, 0).reshape(-1, 3) & 1023) << np.array([0, 10, 20])
    packed = {
        "61": words.astype(">i2").tobytes(),
        "160": (words + 32768).astype("<u2").tobytes(),
        "311": tens.sum(axis=1).astype("<u4").tobytes(),
    }
    for layout, content in packed.items():
        lines = [f"x.dat {layout} 1(0)/mV 16 0 {counts[0, row]} {counts[:, row].sum()} 0 {lead}"
                 for row, lead in enumerate(["I", "II"])]  # fmt: skip
        (tmp_path / "x.hea").write_text("\n".join(["x 2 500 4", *lines]))
        (tmp_path / "x.dat").write_bytes(content)
        assert np.array_equal(read_record(tmp_path / "x").signal, counts.T), layout


def test_format_8_holds_differences_from_the_initial_value(tmp_path):
    (tmp_path / "x.hea").write_text("x 1 500 4\nx.dat 8 1(0)/mV 16 0 100 385 0 I")
    np.array([0, 5, -10, -10], dtype=np.int8).tofile(tmp_path / "x.dat")
    assert read_record(tmp_path / "x").signal.tolist() == [[100, 105, 95, 85]]


@pytest.mark.parametrize(("layout", "missing"), [("16", -32768), ("212", -2048), ("32", -(2**31))])
def test_the_count_for_a_missing_sample_becomes_nan(tmp_path, layout, missing):
    counts = np.array([[1, missing, 3, 4]]).T
    wfdb.wrsamp("x", 250, ["mV"], ["II"], d_signal=counts, fmt=[layout], adc_gain=[100.0], baseline=[0],
                write_dir=str(tmp_path))  # fmt: skip
    assert np.array_equal(read_record(tmp_path / "x").signal, np.float32([[0.01, np.nan, 0.03, 0.04]]), equal_nan=True)


@pytest.mark.parametrize(
    ("unit", "encoding", "scale"),
    [
        ("/mV", "utf-8", 1),
        ("/mv", "utf-8", 1),
        ("/uV", "utf-8", 1e-3),
        ("/\N{MICRO SIGN}V", "utf-8", 1e-3),
        ("/\N{MICRO SIGN}V", "latin-1", 1e-3),
        ("/\N{GREEK SMALL LETTER MU}V", "utf-8", 1e-3),
        ("/V", "utf-8", 1e3),
        ("", "utf-8", 1),
    ],
)
def test_units_become_millivolts(tmp_path, unit, encoding, scale):
    lines = [line.replace("/mV", unit) for line in SIGNALS]
    record = read_record(write_record(tmp_path, "x 2 500 5", *lines, encoding=encoding))
    assert np.allclose(record.signal, COUNTS / 1000 * scale, rtol=1e-6)
    assert bool(record.findings) == (not unit) and all("mV assumed" in finding for finding in record.findings)


def test_an_uncalibrated_lead_gets_the_default_gain_and_a_finding(tmp_path):
    record = read_record(write_record(tmp_path, "x 2 500 5", SIGNALS[0].replace("1000", "0"), SIGNALS[1]))
    assert np.allclose(record.signal, COUNTS / [[200], [1000]])
    assert record.findings == ("no gain in the header for I: 200 counts per unit assumed, WFDB's default",)


def test_the_baseline_is_taken_off_and_defaults_to_the_adc_zero(tmp_path):
    path = write_record(
        tmp_path, "x 2 500 5", "x.dat 16 1000(-40)/mV 16 7 0 SUM 0 I", "x.dat 16 1000/mV 16 7 0 SUM 0 II"
    )
    assert np.allclose(read_record(path).signal, (COUNTS - [[-40], [7]]) / 1000)


def test_channels_that_are_no_ecg_are_left_out_with_a_finding(tmp_path):
    lines = (SIGNALS[0], SIGNALS[1].replace(" II", " RESP"))
    record = read_record(write_record(tmp_path, "x 2 500 5", *lines))
    assert record.lead_names == ("I",) and record.signal.shape == (1, 5)
    assert record.findings == ("channel 'RESP' is no known ECG lead: left out",)
    record = read_record(write_record(tmp_path, "x 2 500 5", SIGNALS[0], SIGNALS[1].replace("mV", "mmHg")))
    assert record.lead_names == ("I",) and "'mmHg', which is no voltage" in record.findings[0]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("11:39:16 05/02/2020", datetime(2020, 2, 5, 11, 39, 16)),
        ("05-Feb-2020 11:39:16", datetime(2020, 2, 5, 11, 39, 16)),
        ("31/12/1999 23:59:59.250", datetime(1999, 12, 31, 23, 59, 59)),
        ("11:39:16", None),
        ("", None),
    ],
)
def test_date_and_time_are_read_in_either_order(tmp_path, start, expected):
    record = read_record(write_record(tmp_path, f"x 2 500 5 {start}", *SIGNALS))
    assert (record.recorded_at, record.findings) == (expected, ())


@pytest.mark.parametrize("start", ["05-Mai-2020 11:39:16", "45/13/2020 11:39:16", "yesterday"])
def test_a_start_that_cannot_be_is_a_finding_not_a_failure(tmp_path, start):
    record = read_record(write_record(tmp_path, f"x 2 500 5 {start}", *SIGNALS))
    assert record.recorded_at is None and "not understood" in record.findings[0]


@pytest.mark.parametrize(
    ("comments", "age", "sex"),
    [
        (["#Age: 85", "#Sex: Male"], 85.0, "male"),
        (["# Age: 59", "# Sex: Female"], 59.0, "female"),
        (["#<age>: 51", "#<sex>: F"], 51.0, "female"),
        (["# age: 81", "# sex: M"], 81.0, "male"),
        (["# Age: NaN", "# Sex: Unknown"], None, None),
        (["# Age: 300"], None, None),
        ([], None, None),
    ],
)
def test_age_and_sex_come_from_the_comments(tmp_path, comments, age, sex):
    record = read_record(write_record(tmp_path, "x 2 500 5", *SIGNALS, *comments))
    assert (record.age, record.sex) == (age, sex)
    assert record.comments == tuple(comment.strip("# ") for comment in comments)
    assert bool(record.findings) == ("# Age: 300" in comments)


def test_gains_that_are_each_leads_own_span_are_no_calibration(tmp_path):
    spans = COUNTS.max(axis=1) - COUNTS.min(axis=1)
    lines = [line.replace("1000(0)", f"{span}(3)") for line, span in zip(SIGNALS, spans, strict=True)]
    record = read_record(write_record(tmp_path, "x 2 500 5", *lines))
    assert np.allclose(record.signal, COUNTS / 1000)
    assert "peak-to-peak" in record.findings[0]


def test_signals_in_several_files_and_several_samples_a_frame(tmp_path):
    (tmp_path / "x.hea").write_text(
        "x 3 250 2\na.dat 16x2 1(0)/mV 16 0 0 10 0 I\na.dat 16 1(0)/mmHg 16 0 0 9 0 ABP\n"
        "b.dat 16x2 1(0)/mV 16 0 0 26 0 II"
    )
    np.array([[1, 2, 4], [3, 4, 5]], dtype="<i2").tofile(tmp_path / "a.dat")
    np.array([5, 6, 7, 8], dtype="<i2").tofile(tmp_path / "b.dat")
    record = read_record(tmp_path / "x")
    assert record.sampling_rate == 500.0
    assert record.signal.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_header_without_length_reads_the_whole_file(tmp_path):
    record = read_record(write_record(tmp_path, "x 2", *SIGNALS))
    assert record.signal.shape == (2, 5) and record.sampling_rate == 250.0
    assert "250 Hz assumed" in record.findings[0]


def test_samples_beyond_the_announced_are_a_finding(tmp_path):
    write_record(tmp_path, "x 2 500 3", *SIGNALS, counts=COUNTS[:, :3])
    COUNTS.T.astype("<i2").tofile(tmp_path / "x.dat")
    record = read_record(tmp_path / "x")
    assert record.signal.shape == (2, 3) and "x.dat holds 5 samples a signal, 3 announced" in record.findings[0]


# Records of several segments


def test_segments_are_joined_as_wfdb_joins_them(tmp_path):
    rng = np.random.default_rng(1)
    for name, samples in [("x_1", 300), ("x_2", 200)]:
        wfdb.wrsamp(name, 250, ["mV"] * 2, ["I", "V1"], d_signal=rng.integers(-900, 900, (samples, 2)), fmt=["16"] * 2,
                    adc_gain=[500.0, 1000.0], baseline=[0, 0], write_dir=str(tmp_path))  # fmt: skip
    (tmp_path / "x.hea").write_text("x/3 2 250 600\nx_1 300\n~ 100\nx_2 200\n# Age: 40\n")
    record = read_record(tmp_path / "x")
    parts = [wfdb.rdrecord(str(tmp_path / name)).p_signal for name in ("x_1", "x_2")]
    expected = np.concatenate([parts[0], np.full((100, 2), np.nan), parts[1]])
    assert np.allclose(record.signal, expected.T, atol=1e-6, equal_nan=True)
    assert (record.record_id, record.age, record.lead_names) == ("x", 40.0, ("I", "V1"))


def test_a_lead_that_a_segment_lacks_is_missing_there(tmp_path):
    (tmp_path / "x.hea").write_text("x/3 2 500 4\nlayout 0\na 2\nb 2")
    (tmp_path / "layout.hea").write_text("layout 2 500 0\n~ 0 1000(0)/mV 0 0 0 0 0 I\n~ 0 1000(0)/mV 0 0 0 0 0 II")
    for name, lead in [("a", "II"), ("b", "I")]:
        (tmp_path / f"{name}.hea").write_text(f"{name} 1 500 2\n{name}.dat 16 1(0)/mV 16 0 0 3 0 {lead}")
        np.array([1, 2], "<i2").tofile(tmp_path / f"{name}.dat")
    record = read_record(tmp_path / "x")
    assert record.lead_names == ("II", "I")
    assert np.array_equal(record.signal, [[1, 2, np.nan, np.nan], [np.nan, np.nan, 1, 2]], equal_nan=True)


@pytest.mark.parametrize(
    ("master", "reason"),
    [
        ("x/1 2 500 5\nx 5", "nested segments"),
        ("x/1 2 500 5\n../a 5", "file outside the record's folder"),
        ("x/1 2 500 5\nmissing 5", "header missing"),
        ("x/2 2 500 10\na 5", "header incomplete"),
        ("x/1 2 500 6\na 5", "header incomplete"),
        ("x/1 2 500 4\na 4", "segments disagree"),
        ("x/1 2 250 5\na 5", "segments disagree"),
        ("x/2 2 500 100000005\na 5\n~ 100000000", "mostly gaps"),
        ("x/1 2 500 0\n~ 0", "mostly gaps"),
        ("x/1 2 500 999999999999\n~ 999999999999", "too large"),
        ("x/1 2 500 5\na", "header not understood"),
    ],
)
def test_segments_that_do_not_fit_are_refused(tmp_path, master, reason):
    header = write_record(tmp_path, "x 2 500 5", *SIGNALS)
    shutil.copy(header, tmp_path / "a.hea")
    header.write_text(master)
    assert failure(header).reason == reason


# What is refused


def test_a_flipped_bit_fails_the_checksum(tmp_path):
    record = copy_of(PTB_XL, tmp_path)
    content = bytearray(record.with_suffix(".dat").read_bytes())
    content[60_001] ^= 1
    record.with_suffix(".dat").write_bytes(content)
    error = failure(record)
    assert error.reason == "checksum mismatch" and "fetch the record again" in str(error)
    assert np.isfinite(wfdb.rdrecord(str(record)).p_signal).all()  # the library alone lets it pass


def test_a_truncated_signal_file_is_named_with_both_lengths(tmp_path):
    record = copy_of(PTB_XL, tmp_path)
    with record.with_suffix(".dat").open("r+b") as file:
        file.truncate(119_990)
    error = failure(record)
    assert error.reason == "signal file truncated" and "holds 4,999 of the 5,000 samples" in str(error)


def test_a_git_lfs_pointer_is_called_by_its_name(tmp_path):
    record = copy_of(PTB_XL, tmp_path)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:c0ca99\nsize 120000\n"
    for suffix in (".dat", ".hea"):
        record.with_suffix(suffix).write_bytes(pointer)
        error = failure(record)
        assert error.reason == "Git LFS pointer" and suffix in str(error)
        assert "this is a Git LFS pointer, not a record" in str(error) and "git lfs pull" in str(error)


@pytest.mark.parametrize(
    "name", ["../00002_hr.dat", "/etc/hostname", "a/b.dat", "..\\x.dat", "C:x.dat", "..", "a\0b.dat", "\x1b[2J.dat"]
)
def test_a_signal_file_is_read_only_beside_its_header(tmp_path, name):
    error = failure(write_record(tmp_path, "x 2 500 5", *(line.replace("x.dat", name) for line in SIGNALS)))
    assert error.reason == "file outside the record's folder"
    assert "only a plain name beside the header is read" in str(error)


def test_what_is_no_regular_file_is_missing(tmp_path):
    header = write_record(tmp_path, "x 2 500 5", *SIGNALS)
    (tmp_path / "x.dat").unlink()
    assert failure(header).reason == "signal file missing"
    (tmp_path / "x.dat").mkdir()
    assert failure(header).reason == "signal file missing"


@pytest.mark.parametrize("gain", ["-1000(0)/mV", "nan/mV", "inf/mV", "x/mV"])
def test_a_gain_that_is_no_gain_is_refused(tmp_path, gain):
    error = failure(write_record(tmp_path, "x 2 500 5", SIGNALS[0].replace("1000(0)/mV", gain), SIGNALS[1]))
    assert error.reason == "gain" and gain.split("(")[0].split("/")[0] in str(error)


def test_a_gain_that_leaves_no_finite_value_is_refused(tmp_path):
    error = failure(write_record(tmp_path, "x 2 500 5", SIGNALS[0].replace("1000", "1e-300"), SIGNALS[1]))
    assert error.reason == "gain" and "infinite" in str(error)


@pytest.mark.parametrize(
    ("lines", "reason", "said"),
    [
        ((), "header empty", "no record line"),
        (("# only a comment",), "header empty", "no record line"),
        (("x",), "header not understood", "'x' is no record line"),
        (("x 0 500 5",), "no signals", "not a recording"),
        (("x 3 500 5", *SIGNALS), "header incomplete", "announces 3 signals and describes 2"),
        (("x 1 500 5", *SIGNALS), "header incomplete", "announces 1 signals and describes 2"),
        (("x 2 500 6", *SIGNALS), "signal file truncated", "holds 5 of the 6"),
        (("x 2 500 1000000000000", *SIGNALS), "too large", "2,000,000,000,000 samples"),
        (("x 2 500 9" + "9" * 5000, *SIGNALS), "header not understood", "no record line"),
        (("x 1000000 500 5", *SIGNALS), "too large", "1,000,000 signals"),
        (("x 2 0 5", *SIGNALS), "sampling rate", "'0'"),
        (("x 2 1e9 5", *SIGNALS), "sampling rate", "'1e9'"),
        (("x 2 nan 5", *SIGNALS), "sampling rate", "'nan'"),
        (("x 2 500 5", SIGNALS[0], "x.dat 999 1000/mV 16 0 0 0 0 II"), "signal format", "999 is none of 8, 16"),
        (("x 2 500 5", SIGNALS[0], "x.dat sixteen"), "header not understood", "'x.dat sixteen' is no signal line"),
        (("x 2 500 5", SIGNALS[0], SIGNALS[0]), "lead named twice", "lead I twice"),
        (("x 2 500 5", *(line.replace("mV", "mmHg") for line in SIGNALS)), "no ECG lead", "'I' in mmHg"),
        (("x 2 500 5", "x.dat 16", "x.dat 16"), "no ECG lead", "'' in no unit"),
        (("x 2 500 5", SIGNALS[0].replace(" 16 1000", " 16:3 1000"), SIGNALS[1]), "skewed signals", "3 frames"),
        (("x 2 500 2", SIGNALS[0].replace(" 16 1000", " 16x2 1000"), SIGNALS[1]), "checksum mismatch", "'I'"),
        (("x 2 500 1", "x.dat 16x2 1/mV 16 0 0", "x.dat 16 1/mV 16 0 0"), "no ECG lead", "'' in mV"),
        (("x 2 500 5", SIGNALS[0].replace(" 16 ", " 16x0 ", 1), SIGNALS[1]), "header not understood", "no sample"),
        (("x 2 500 5", SIGNALS[0], SIGNALS[1].replace(" 16 ", " 16+2 ", 1)), "header not understood", "one offset"),
        (("x 2 500", *(line.replace(" 16 ", " 516 ", 1) for line in SIGNALS)), "length unknown", "number of samples"),
        (("x 2 500 5", *(line.replace(" 16 ", " 516 ", 1) for line in SIGNALS)), "signal not decodable", "x.hea"),
        (("x 2 500", *(line.replace(" 16 ", " 16+999 ", 1) for line in SIGNALS)), "no samples", "empty"),
    ],
)
def test_headers_that_describe_no_record_are_refused(tmp_path, lines, reason, said):
    error = failure(write_record(tmp_path, *lines))
    assert (error.reason, said in str(error)) == (reason, True), str(error)
    assert isinstance(error, OSError) and str(tmp_path) in str(error)


def test_leads_at_different_rates_are_refused(tmp_path):
    (tmp_path / "x.hea").write_text("x 2 250 2\nx.dat 16x2 1/mV 16 0 0 12 0 I\nx.dat 16 1/mV 16 0 0 9 0 II")
    np.array([[1, 2, 4], [4, 5, 5]], dtype="<i2").tofile(tmp_path / "x.dat")
    error = failure(tmp_path / "x")
    assert error.reason == "leads at different rates" and "[1, 2] samples a frame" in str(error)


def test_a_mat_file_without_header_is_no_record(tmp_path):
    scipy.io.savemat(tmp_path / "A1980.mat", {"ECG": {"data": np.zeros((12, 10))}})
    error = failure(tmp_path / "A1980.mat")
    assert error.reason == "header missing" and "A1980.hea" in str(error)


def test_an_overlong_header_is_not_read_to_its_end(tmp_path):
    (tmp_path / "x.hea").write_bytes(b"x 2 500 5\n" + b"#" * 2**21)
    assert failure(tmp_path / "x").reason == "header too large"


def test_hostile_headers_cost_neither_time_nor_memory(tmp_path):
    """Overlong tokens, thousands of signals and segments: refused in the time of a few reads."""
    long = "9" * 300_000
    texts = [f"x 2 {long} {long}", f"x 2 500 5\n{long} {long}", "x 2 500 5\nx.dat 16 " + "(" * 300_000,
             "x 900 500 5\n" + "x.dat 16 1/mV 16 0 0 0 0 lead?\n" * 900,
             "x/90000 2 500 450000\n" + "x 5\n" * 90_000]  # fmt: skip
    (tmp_path / "x.dat").write_bytes(bytes(9000))
    tracemalloc.start()
    for text in texts:
        (tmp_path / "x.hea").write_text(text)
        failure(tmp_path / "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


# Finding and hashing


def test_records_are_found_by_their_headers_in_order(tmp_path):
    for name in ("b/2.hea", "b/10.hea", "a.hea", "a.dat", "RECORDS", "c/d/e.hea"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.hea").mkdir()
    found = find_records(tmp_path)
    assert found == [tmp_path / name for name in ("a.hea", "b/10.hea", "b/2.hea", "c/d/e.hea")]
    assert find_records(tmp_path / "a") == find_records(tmp_path / "a.dat") == [tmp_path / "a.hea"]


def test_a_place_without_records_is_an_error(tmp_path):
    for path, reason in [(tmp_path, "no records"), (tmp_path / "absent", "header missing")]:
        with pytest.raises(EcgJepaRecordError, match=str(path)) as caught:
            find_records(path)
        assert caught.value.reason == reason


def test_the_hash_covers_header_and_signal_file(tmp_path):
    record = copy_of(PTB_XL, tmp_path)
    content = record.with_suffix(".hea").read_bytes() + record.with_suffix(".dat").read_bytes()
    assert record_sha256(record) == record_sha256(PTB_XL) == hashlib.sha256(content).hexdigest()
    record.with_suffix(".dat").write_bytes(bytes(120_000))
    assert record_sha256(record) != record_sha256(PTB_XL)
    record.with_suffix(".dat").unlink()
    with pytest.raises(EcgJepaRecordError, match="Cannot read"):
        record_sha256(record)


# Anything at all


def mutated(text: str, rng: random.Random) -> str:
    """`text` with one or two characters, tokens or lines changed."""
    tokens = ["0", "-1", "1e400", "nan", "999999999999", "..", "~", "16x3", "212", "516+24", "8", "310", "/", "x/2",
              "(5)/uV", "1000(0)/V", "", "\n", "\0", "\xff", "#", "II", "V1", "00:00:00", "01/01/2000"]  # fmt: skip
    for _ in range(rng.randint(1, 2)):
        place, lines, words = rng.randrange(len(text) + 1), text.split("\n"), text.split(" ")
        match rng.randrange(10):
            case 0:
                text = text[:place]
            case 1:
                lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
                text = "\n".join(lines)
            case 2 | 3 | 4:
                words[rng.randrange(len(words))] = rng.choice(tokens)
                text = " ".join(words)
            case _:
                text = text[:place] + rng.choice(tokens) + text[place + rng.randint(0, 3) :]
    return text


def test_whatever_the_files_hold_the_answer_is_a_record_or_our_error(tmp_path):
    rng = random.Random(7)
    counts = np.random.default_rng(7).integers(-100, 101, (200, 3))
    bases = []
    for layout in ("16", "24", "80", "212", "516"):
        wfdb.wrsamp("x", 500, ["mV"] * 3, ["I", "II", "V1"], d_signal=counts, fmt=[layout] * 3, adc_gain=[100.0] * 3,
                    baseline=[0] * 3, comments=["Age: 60", "Dx: a, b, c, d"], write_dir=str(tmp_path))  # fmt: skip
        bases.append(((tmp_path / "x.hea").read_text(), (tmp_path / "x.dat").read_bytes()))
    answers = Counter()
    for _ in range(400):
        header, signal = rng.choice(bases)
        if rng.random() < 0.8:
            header = mutated(header, rng)
        if rng.random() < 0.2:
            place = rng.randrange(len(signal))
            signal = signal[:place] + rng.choice([b"", rng.randbytes(1) + signal[place + 1 :]])
        (tmp_path / "x.hea").write_text(header, encoding="latin-1")
        (tmp_path / "x.dat").write_bytes(signal)
        try:
            record = read_record(tmp_path / "x")
        except EcgJepaRecordError as error:
            answers[error.reason] += 1
            continue
        answers["read"] += 1
        assert isinstance(record, EcgRecord) and record.signal.dtype == np.float32
        assert record.signal.shape[0] == len(record.lead_names) > 0 and not np.isinf(record.signal).any()
    assert answers["read"] > 80 and len(answers) > 10, answers
