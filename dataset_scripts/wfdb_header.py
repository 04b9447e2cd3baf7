"""The text of a WFDB header (`.hea`) as typed fields; format: https://physionet.org/physiotools/wag/header-5.htm

Why not the wfdb library's own parser: it drops what is not ASCII ("µV" becomes volts), takes a date for a time where
the two are swapped, raises a different built-in error for each kind of damage, and takes 15 times as long.
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError

#: Real headers have some 20 lines; this holds thousands of signals or segments.
MAX_HEADER_BYTES = 2**20

#: The largest body-surface maps have some 250 channels.
MAX_SIGNALS = 1000

LFS_SIGNATURE = b"version https://git-lfs.github.com/spec/"

#: Frames per second and counts per unit where a header gives none; both are WFDB's own defaults.
DEFAULT_SAMPLING_RATE = 250.0
DEFAULT_GAIN = 200.0

#: An ECG is sampled at 100 to 2,000 Hz, pacemaker studies at some 10,000 Hz; beyond these it is a damaged field.
SAMPLING_RATE_RANGE = (10.0, 100_000.0)

_RECORD_LINE = re.compile(
    r"(?P<name>[^\s/]+)(?:/(?P<segments>\d{1,18}))?\s+(?P<signals>\d{1,18})"
    r"(?:\s+(?P<rate>[^\s/(]+)(?:[/(]\S*)?(?:\s+(?P<frames>\d{1,18})(?:\s+(?P<start>.*))?)?)?",
    re.ASCII,
)
_SIGNAL_LINE = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\d{1,4})(?:x(?P<per_frame>\d{1,9}))?(?::(?P<skew>\d{1,9}))?(?:\+(?P<offset>\d{1,18}))?"
    r"(?:\s+(?P<gain>[^\s/(]+)(?:\((?P<baseline>[-+]?\d{1,12})\))?(?:/(?P<unit>\S+))?"
    r"(?:\s+\d{1,9}(?:\s+(?P<zero>[-+]?\d{1,12})(?:\s+[-+]?\d{1,12}(?:\s+(?P<checksum>[-+]?\d{1,12})"
    r"(?:\s+[-+]?\d{1,12}(?:\s+(?P<name>.*))?)?)?)?)?)?)?",
    re.ASCII,
)
_SEGMENT_LINE = re.compile(r"(?P<name>\S+)\s+(?P<frames>\d{1,18})", re.ASCII)
_TIME = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{1,2})[-/](\d{1,2}|[A-Za-z]{3})[-/](\d{4})", re.ASCII)
_PERSON = re.compile(r"<?(age|sex)>?\s*:\s*(\S*)", re.IGNORECASE)
# Not strptime's %b: that follows the machine's locale.
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}


@dataclass(frozen=True)
class SignalLine:
    """One signal as its header line describes it; `gain` in counts per `unit`, None where absent or 0."""

    file: str
    format: str
    samples_per_frame: int
    offset: int
    gain: float | None
    baseline: int
    unit: str
    checksum: int | None
    name: str


@dataclass(frozen=True)
class Header:
    """A header's fields. A record of several segments has `segments` (name, frames) instead of `signals`.

    `frames` is None where the header leaves the length to the signal file; `sampling_rate` is frames per second.
    """

    path: Path
    sampling_rate: float
    frames: int | None
    num_signals: int
    signals: tuple[SignalLine, ...]
    segments: tuple[tuple[str, int], ...]
    recorded_at: datetime | None
    age: float | None
    sex: str | None
    comments: tuple[str, ...]
    findings: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Read and check the header at `path` (with its `.hea`); nothing else is opened.

    Raises:
        EcgJepaRecordError: unreadable, empty, a Git LFS pointer, or not a WFDB header.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_HEADER_BYTES + 1)
    except OSError as error:
        raise EcgJepaRecordError("not readable", f"Cannot read the header {path}: {error}.") from error
    refuse_lfs_pointer(content, path)
    if len(content) > MAX_HEADER_BYTES:
        raise EcgJepaRecordError("header too large", f"{path} is no WFDB header: over {MAX_HEADER_BYTES:,} bytes.")
    return parse_header(_decode(content), path)


def refuse_lfs_pointer(content: bytes, path: Path) -> None:
    """Raise where `content`, the start of the file `path`, is what a clone without Git LFS holds."""
    if content.startswith(LFS_SIGNATURE):
        raise EcgJepaRecordError(
            "Git LFS pointer",
            f"{path}: this is a Git LFS pointer, not a record. Run `git lfs pull` in the clone it came from.",
        )


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # older recorders write the micro sign as the byte B5


def parse_header(text: str, path: Path) -> Header:
    """The fields of a header's `text`; `path` is for messages and for finding the signal files later.

    Raises:
        EcgJepaRecordError: empty, a line that does not follow the format, or a count that does not match the lines.
    """
    lines = [line.strip() for line in text.split("\n")]
    comments = tuple(line.strip(" \t#") for line in lines if line.startswith("#"))
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise EcgJepaRecordError("header empty", f"{path} holds no record line; fetch the record again.")
    record = _match(_RECORD_LINE, "record line", lines[0], path)
    findings: list[str] = []
    num_signals = int(record["signals"])
    segments: tuple[tuple[str, int], ...] = ()
    signals: tuple[SignalLine, ...] = ()
    if num_signals > MAX_SIGNALS:
        raise EcgJepaRecordError(
            "too large", f"{path} announces {num_signals:,} signals; no ECG has more than {MAX_SIGNALS:,}."
        )
    if record["segments"] is None:
        _check_count("signals", num_signals, len(lines) - 1, path)
        signals = tuple(_parse_signal(line, path) for line in lines[1:])
    else:
        _check_count("segments", int(record["segments"]), len(lines) - 1, path)
        matches = [_match(_SEGMENT_LINE, "segment line", line, path) for line in lines[1:]]
        segments = tuple((match["name"], int(match["frames"])) for match in matches)
    age, sex = _parse_person(comments, findings)
    return Header(
        path=path,
        sampling_rate=_parse_sampling_rate(record["rate"], path, findings),
        frames=int(record["frames"] or 0) or None,
        num_signals=num_signals,
        signals=signals,
        segments=segments,
        recorded_at=_parse_start(record["start"], findings),
        age=age,
        sex=sex,
        comments=comments,
        findings=tuple(findings),
    )


def _match(pattern: re.Pattern[str], kind: str, line: str, path: Path) -> re.Match[str]:
    match = pattern.fullmatch(line)
    if match is None:
        raise EcgJepaRecordError(
            "header not understood",
            f"{path}: {line[:120]!r} is no {kind} of a WFDB header; fetch the record again or mend the line.",
        )
    return match


def _check_count(what: str, claimed: int, found: int, path: Path) -> None:
    if not claimed:
        raise EcgJepaRecordError("no signals", f"{path} describes no {what}: not a recording.")
    if claimed != found:
        raise EcgJepaRecordError(
            "header incomplete",
            f"{path} announces {claimed:,} {what} and describes {found:,}; fetch the record again.",
        )


def _parse_signal(line: str, path: Path) -> SignalLine:
    fields = _match(_SIGNAL_LINE, "signal line", line, path)
    if int(fields["skew"] or 0):
        raise EcgJepaRecordError(
            "skewed signals",
            f"{path}: {line[:120]!r} shifts a signal by {fields['skew']} frames; write it without.",
        )
    if int(fields["per_frame"] or 1) < 1:
        raise EcgJepaRecordError("header not understood", f"{path}: {line[:120]!r} has no sample in a frame.")
    return SignalLine(
        file=fields["file"],
        format=fields["format"],
        samples_per_frame=int(fields["per_frame"] or 1),
        offset=int(fields["offset"] or 0),
        gain=_parse_gain(fields["gain"], line, path),
        baseline=int(fields["baseline"] or fields["zero"] or 0),
        unit=fields["unit"] or "",
        checksum=None if fields["checksum"] is None else int(fields["checksum"]),
        name=(fields["name"] or "").strip(),
    )


def _parse_gain(text: str | None, line: str, path: Path) -> float | None:
    gain = _number(text or "0")
    if not 0 <= gain < math.inf:
        raise EcgJepaRecordError(
            "gain", f"{path}: {line[:120]!r} has the gain {text!r}; it must be a positive number of counts per unit."
        )
    return gain or None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _parse_sampling_rate(text: str | None, path: Path, findings: list[str]) -> float:
    if text is None:
        findings.append(f"no sampling rate in the header: {DEFAULT_SAMPLING_RATE:g} Hz assumed, WFDB's default")
        return DEFAULT_SAMPLING_RATE
    rate = _number(text)
    low, high = SAMPLING_RATE_RANGE
    if not low <= rate <= high:
        raise EcgJepaRecordError(
            "sampling rate", f"{path} gives the sampling rate {text!r}; an ECG has {low:g} to {high:,.0f} Hz."
        )
    return rate


def _parse_start(text: str | None, findings: list[str]) -> datetime | None:
    """Date and time of the first sample, in either order: CPSC2018 in Challenge 2020 writes "05-Feb-2020 11:39:16"."""
    tokens = (text or "").split()
    dates = [match for match in map(_DATE.fullmatch, tokens) if match]
    times = [match for match in map(_TIME.fullmatch, tokens) if match]
    if len(dates) + len(times) < len(tokens):
        findings.append(f"start of the recording not understood: {text!r}")
    if len(dates) != 1 or len(times) != 1:
        return None
    day, month, year = dates[0].groups()
    try:
        number = int(month) if month.isdigit() else _MONTHS.index(month.lower()) + 1
        hour, minute, second = map(int, times[0].groups())
        return datetime(int(year), number, int(day), hour, minute, second)
    except ValueError:
        findings.append(f"start of the recording not understood: {text!r}")
        return None


def _parse_person(comments: tuple[str, ...], findings: list[str]) -> tuple[float | None, str | None]:
    """Age in years and sex from "Age: 85", "<age>: 51", "# sex: female"; None where absent or unknown."""
    said: dict[str, str] = {}
    for match in filter(None, map(_PERSON.match, comments)):
        said.setdefault(match[1].lower(), match[2])
    age = _number(said.get("age", ""))
    if age < 0 or age > 130:
        findings.append(f"age {said['age']!r} is not an age in years: left out")
        age = math.nan
    return None if math.isnan(age) else age, _SEXES.get(said.get("sex", "").lower())
