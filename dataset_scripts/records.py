"""From files to `EcgRecord`: the readers of this package, and what they check that libraries do not.

WFDB records (https://physionet.org/physiotools/wag/wag.htm): a text header `NAME.hea` beside a signal file, `.dat` or
`.mat`. Read are signal formats 8, 16, 24, 32, 61, 80, 160, 212, 310, 311 and FLAC (508, 516, 524), several samples a
frame, several signal files, and records of several segments. Refused, each with its reason: skewed signals, ECG leads
at different rates, segments inside segments.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import wfdb

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaInputError, EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import canonical_lead
from modeling_ecg_jepa.units_ecg_jepa import MILLIVOLTS, canonical_unit

from .wfdb_header import DEFAULT_GAIN, LFS_SIGNATURE, Header, SignalLine, read_header, refuse_lfs_pointer

#: Samples over all signals: 24 hours of 12 leads at 250 Hz, 1 GiB as float32. A header that claims more is refused
#: before anything is allocated.
MAX_VALUES = 2**28

#: WFDB signal format -> bytes a sample as (numerator, denominator), and the count that stands for a missing sample.
#: FLAC's length is known only after decoding.
_FORMATS: dict[str, tuple[tuple[int, int] | None, int | None]] = {
    "8": ((1, 1), None),
    "16": ((2, 1), -(2**15)),
    "24": ((3, 1), -(2**23)),
    "32": ((4, 1), -(2**31)),
    "61": ((2, 1), -(2**15)),
    "80": ((1, 1), -(2**7)),
    "160": ((2, 1), -(2**15)),
    "212": ((3, 2), -(2**11)),
    "310": ((4, 3), -(2**9)),
    "311": ((4, 3), -(2**9)),
    "508": (None, -(2**7)),
    "516": (None, -(2**15)),
    "524": (None, -(2**23)),
}

#: Formats of whole bytes -> numpy's type and the count that means 0. Read at once instead of through the wfdb library,
#: which parses the header once more, takes 10 times as long, and fails on format 61; all 12-lead corpora use 16. The
#: tests compare with the library on every real record.
_PLAIN_FORMATS = {"16": ("<i2", 0), "32": ("<i4", 0), "61": (">i2", 0), "80": ("u1", 128), "160": ("<u2", 32768)}

#: LUDB's headers hold no calibration (see `_counts_per_millivolt`); 1000 counts per mV fits by amplitude.
_LUDB_GAIN = 1000.0

# What the wfdb library raises on a signal file that does not hold what the header says.
_LIBRARY_ERRORS = (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, OSError)


@dataclass(frozen=True, eq=False)
class EcgRecord:
    """One recording: what every reader returns and every consumer takes.

    Attributes:
        signal: float32 (leads, samples) in millivolts; NaN where the file marks a sample as missing.
        sampling_rate: in Hz.
        lead_names: canonical names (`leads_ecg_jepa`), one a row, in the file's order.
        record_id: the file's name without suffix.
        path: the header or file it came from; None where it was generated.
        age: in years, None where unknown.
        sex: "female", "male", or None where unknown.
        recorded_at: when the recording began, where the file says so.
        comments: the header's comments as they stand, without the leading "#"; diagnoses are in here.
        findings: what was odd but readable, in words: assumed units, channels left out, and so on.
    """

    signal: np.ndarray
    sampling_rate: float
    lead_names: tuple[str, ...]
    record_id: str
    path: Path | None = None
    age: float | None = None
    sex: str | None = None
    recorded_at: datetime | None = None
    comments: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


def find_records(root: str | os.PathLike[str]) -> list[Path]:
    """The headers of all WFDB records under a folder, sorted; the path of one record gives that one.

    Raises:
        EcgJepaRecordError: nothing there, or a folder without any header.
    """
    root = Path(root)
    if not root.is_dir():
        return [_header_path(root)]
    headers = sorted(path for path in root.rglob("*.hea") if path.is_file())
    if not headers:
        raise EcgJepaRecordError("no records", f"No WFDB header (*.hea) in the folder {root} or below it.")
    return headers


def read_record(path: str | os.PathLike[str]) -> EcgRecord:
    """Read a WFDB record by the path of its header, its signal file, or of either without suffix.

    The checksum of every signal is verified where the header has one. Channels that are no ECG lead, or whose unit is
    no voltage, are left out with a finding.

    Raises:
        EcgJepaRecordError: anything that keeps the record from being read as what its header says;
            `.reason` is the same for all records with that fault.
    """
    header = read_header(_header_path(Path(path)))
    return _read_segments(header) if header.segments else _read_signals(header)


def record_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 over the bytes of a record's header and then its signal files, in the order the header names them.

    Raises:
        EcgJepaRecordError: as `read_record`, for headers and missing files.
    """
    digest = hashlib.sha256()
    for file in _record_files(read_header(_header_path(Path(path)))):
        try:
            with file.open("rb") as content:
                while chunk := content.read(2**20):
                    digest.update(chunk)
        except OSError as error:
            raise EcgJepaRecordError("not readable", f"Cannot read {file}: {error}.") from error
    return digest.hexdigest()


def _header_path(path: Path) -> Path:
    candidates = [path] if path.suffix == ".hea" else [path.with_name(path.name + ".hea")] if path.name else []
    if path.suffix:
        candidates.append(path.with_suffix(".hea"))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise EcgJepaRecordError(
        "header missing",
        f"No WFDB header for {path}: looked for {' and '.join(map(str, dict.fromkeys(candidates))) or 'a name'}"
        f"{'' if path.exists() else ', and there is no folder of that name'}. "
        "A record is a header NAME.hea beside its signal file.",
    )


def _record_files(header: Header) -> list[Path]:
    files = [header.path, *_signal_files(header)]
    for name, _ in header.segments:
        if name != "~":
            files += _record_files(_segment_header(header, name))
    return files


def _record(
    header: Header, signal: np.ndarray, sampling_rate: float, lead_names: Iterable[str], findings: Iterable[str]
) -> EcgRecord:
    return EcgRecord(
        signal=signal,
        sampling_rate=sampling_rate,
        lead_names=tuple(lead_names),
        record_id=header.path.stem,
        path=header.path,
        age=header.age,
        sex=header.sex,
        recorded_at=header.recorded_at,
        comments=header.comments,
        findings=tuple(findings),
    )


# Reading one segment: signal files -> counts -> millivolts


def _read_signals(header: Header) -> EcgRecord:
    findings = list(header.findings)
    counts = _read_counts(header, findings)
    _verify_checksums(header, counts)
    rows, lead_names = _ecg_leads(header, findings)
    lines = [header.signals[row] for row in rows]
    samples_per_frame = _common_samples_per_frame(lines, header.path)
    signal = _to_millivolts([counts[row] for row in rows], lines, header.path, findings)
    return _record(header, signal, header.sampling_rate * samples_per_frame, lead_names, findings)


def _signal_files(header: Header) -> dict[Path, list[SignalLine]]:
    """The signal files with the signals in each, in order; every one lies beside the header.

    A file may be a symbolic link, as in git-annex clones and download caches; the name in the header may not leave.
    """
    files: dict[Path, list[SignalLine]] = {}
    file = header.path
    for line in header.signals:
        if line.format not in _FORMATS:
            raise EcgJepaRecordError(
                "signal format", f"{header.path}: signal format {line.format} is none of {', '.join(_FORMATS)}."
            )
        apart = line.file != file.name
        if apart or not files:
            _check_plain_name(line.file, header.path)
            file = header.path.with_name(line.file)
        group = files.setdefault(file, [])
        if group and (apart or (group[0].format, group[0].offset) != (line.format, line.offset)):
            raise EcgJepaRecordError(
                "header not understood",
                f"{header.path}: the signals of {line.file!r} must stand together, in one format and with one offset.",
            )
        group.append(line)
    return files


def _check_plain_name(name: str, header_path: Path) -> None:
    if not name.isprintable() or name in {".", ".."} or any(character in name for character in "/\\:"):
        raise EcgJepaRecordError(
            "file outside the record's folder",
            f"{header_path} names the file {name!r}; only a plain name beside the header is read.",
        )


def _read_counts(header: Header, findings: list[str]) -> list[np.ndarray]:
    """Each signal's counts as the file holds them, 1-D integer arrays in the header's order."""
    files = _signal_files(header)
    frames = _number_of_frames(header, files, findings)
    if any(line.format not in _PLAIN_FORMATS for line in header.signals):
        return _decode_with_library(header, frames)
    counts: list[np.ndarray] = []
    for file, lines in files.items():
        widths = [line.samples_per_frame for line in lines]
        content = _read_plain(file, lines[0], frames * sum(widths)).reshape(frames, sum(widths))
        starts = np.cumsum([0, *widths[:-1]])
        counts += [content[:, start : start + width].reshape(-1) for start, width in zip(starts, widths, strict=True)]
    return counts


def _read_plain(file: Path, line: SignalLine, count: int) -> np.ndarray:
    dtype, zero = _PLAIN_FORMATS[line.format]
    try:
        content = np.fromfile(file, dtype=dtype, count=count, offset=line.offset)
    except OSError as error:
        raise EcgJepaRecordError("not readable", f"Cannot read {file}: {error}.") from error
    if len(content) != count:
        raise EcgJepaRecordError("signal file truncated", f"{file} became shorter while it was read.")
    return content.astype(np.int32) - zero if zero else content


def _number_of_frames(header: Header, files: dict[Path, list[SignalLine]], findings: list[str]) -> int:
    """Frames of the record, once every file is seen to hold them and the whole to be of a size worth allocating."""
    held = {file: _frames_held(file, lines, header) for file, lines in files.items()}
    known = [frames for frames in held.values() if frames is not None]
    if header.frames is None and not known:
        raise EcgJepaRecordError(
            "length unknown", f"{header.path} gives no number of samples, which compressed signals need."
        )
    frames = header.frames or min(known)
    _check_size(frames * sum(line.samples_per_frame for line in header.signals), header.path)
    if not frames:
        raise EcgJepaRecordError("no samples", f"The signal file of {header.path} is empty; fetch the record again.")
    for file, available in held.items():
        if available is not None and available > frames:
            findings.append(f"{file.name} holds {available:,} samples a signal, {frames:,} announced are read")
        if available is not None and available < frames:
            raise EcgJepaRecordError(
                "signal file truncated",
                f"{file} holds {available:,} of the {frames:,} samples a signal that {header.path.name} announces; "
                "fetch the record again.",
            )
    return frames


def _check_size(values: int, path: Path) -> None:
    if values > MAX_VALUES:
        raise EcgJepaRecordError(
            "too large",
            f"{path} announces {values:,} samples over all signals; at most {MAX_VALUES:,} are read.",
        )


def _frames_held(file: Path, lines: Sequence[SignalLine], header: Header) -> int | None:
    """Frames that a signal file has room for; None for compressed formats."""
    if not file.is_file():
        raise EcgJepaRecordError(
            "signal file missing", f"{header.path} needs {file.name!r} beside it, which is not there; fetch it too."
        )
    try:
        with file.open("rb") as content:
            start = content.read(len(LFS_SIGNATURE))
            size = content.seek(0, os.SEEK_END)
    except OSError as error:
        raise EcgJepaRecordError("not readable", f"Cannot read {file}: {error}.") from error
    refuse_lfs_pointer(start, file)
    bytes_a_sample = _FORMATS[lines[0].format][0]
    if bytes_a_sample is None:
        return None
    numerator, denominator = bytes_a_sample
    samples = max(size - lines[0].offset, 0) * denominator // numerator
    return samples // sum(line.samples_per_frame for line in lines)


def _decode_with_library(header: Header, frames: int) -> list[np.ndarray]:
    try:
        record = wfdb.rdrecord(str(header.path.absolute().with_suffix("")), physical=False, smooth_frames=False)
    except _LIBRARY_ERRORS as error:
        raise EcgJepaRecordError(
            "signal not decodable", f"The signal file of {header.path} does not hold what the header says: {error}."
        ) from error
    # The library parses the header on its own; a text that both understand differently must not pass.
    ours = [(line.file, line.format, line.samples_per_frame, line.offset) for line in header.signals]
    offsets = [offset or 0 for offset in record.byte_offset]
    if (record.sig_len, ours) != (
        frames,
        list(zip(record.file_name, record.fmt, record.samps_per_frame, offsets, strict=True)),
    ):
        raise EcgJepaRecordError("header not understood", f"{header.path} can be read in two ways; mend its lines.")
    return list(record.e_d_signal)


def _verify_checksums(header: Header, counts: Sequence[np.ndarray]) -> None:
    """Compare modulo 65536: the headers of some corpora hold signed, of others unsigned 16-bit sums."""
    for line, samples in zip(header.signals, counts, strict=True):
        if line.checksum is not None and (int(samples.sum(dtype=np.int64)) - line.checksum) % 65536:
            raise EcgJepaRecordError(
                "checksum mismatch",
                f"{header.path}: signal {line.name!r} in {line.file!r} does not have the checksum {line.checksum} of "
                "its header; the file is damaged, fetch the record again.",
            )


def _ecg_leads(header: Header, findings: list[str]) -> tuple[list[int], list[str]]:
    """Places and canonical names of the channels that are ECG leads in a unit of voltage."""
    places: list[int] = []
    names: list[str] = []
    for place, line in enumerate(header.signals):
        try:
            name = canonical_lead(line.name)
        except EcgJepaInputError:
            findings.append(f"channel {line.name!r} is no known ECG lead: left out")
            continue
        if not _is_voltage(line):
            findings.append(f"channel {line.name!r} has the unit {line.unit!r}, which is no voltage: left out")
            continue
        if name in names:
            raise EcgJepaRecordError("lead named twice", f"{header.path} names lead {name} twice; name each lead once.")
        places.append(place)
        names.append(name)
    if not names:
        channels = ", ".join(f"{line.name!r} in {line.unit or 'no unit'}" for line in header.signals[:12])
        raise EcgJepaRecordError("no ECG lead", f"{header.path} has no known ECG lead in mV, uV or V, only {channels}.")
    return places, names


def _is_voltage(line: SignalLine) -> bool:
    try:
        canonical_unit(line.unit or "mV")
    except EcgJepaInputError:
        return False
    return True


def _common_samples_per_frame(lines: Sequence[SignalLine], path: Path) -> int:
    rates = {line.samples_per_frame for line in lines}
    if len(rates) > 1:
        raise EcgJepaRecordError(
            "leads at different rates",
            f"{path} has ECG leads with {sorted(rates)} samples a frame; write them at one rate.",
        )
    return rates.pop()


def _to_millivolts(
    counts: Sequence[np.ndarray], lines: Sequence[SignalLine], path: Path, findings: list[str]
) -> np.ndarray:
    gains, baselines = _counts_per_millivolt(counts, lines, findings)
    signal = np.empty((len(lines), len(counts[0])), dtype=np.float32)
    for row, (line, samples) in enumerate(zip(lines, counts, strict=True)):
        with np.errstate(over="ignore"):
            signal[row] = (samples - baselines[row]) / gains[row]
        if not np.isfinite(signal[row]).all():
            raise EcgJepaRecordError("gain", f"{path}: the gain {line.gain} of {line.name!r} gives infinite values.")
        missing = _FORMATS[line.format][1]
        if missing is not None:
            signal[row, samples == missing] = np.nan
    return signal


def _counts_per_millivolt(
    counts: Sequence[np.ndarray], lines: Sequence[SignalLine], findings: list[str]
) -> tuple[list[float], list[float]]:
    """Gain and baseline of each lead, in counts per mV and counts.

    LUDB's gains are each lead's own peak-to-peak in counts, so that every lead comes out as 1 "mV" high and the ratios
    between leads are lost. The counts themselves obey II = I + III exactly, so there one common gain is the truth.
    """
    spans = [int(samples.max()) - int(samples.min()) for samples in counts]
    if len(lines) > 1 and spans == [line.gain for line in lines]:
        findings.append(
            "every lead's gain is its own peak-to-peak in counts, no calibration: "
            f"counts read with {_LUDB_GAIN:g} per mV instead"
        )
        return [_LUDB_GAIN] * len(lines), [0.0] * len(lines)
    _note_defaults("gain", f"{DEFAULT_GAIN:g} counts per unit", [line for line in lines if line.gain is None], findings)
    _note_defaults("unit", "mV", [line for line in lines if not line.unit], findings)
    gains = [(line.gain or DEFAULT_GAIN) / MILLIVOLTS[canonical_unit(line.unit or "mV")] for line in lines]
    return gains, [float(line.baseline) for line in lines]


def _note_defaults(what: str, default: str, lines: Sequence[SignalLine], findings: list[str]) -> None:
    if lines:
        names = ", ".join(line.name for line in lines)
        findings.append(f"no {what} in the header for {names}: {default} assumed, WFDB's default")


# Records of several segments


def _segment_header(header: Header, name: str) -> Header:
    _check_plain_name(name, header.path)
    segment = read_header(_header_path(header.path.with_name(name + ".hea")))
    if segment.segments:
        raise EcgJepaRecordError("nested segments", f"{header.path}: its segment {name!r} has segments of its own.")
    return segment


def _read_segments(header: Header) -> EcgRecord:
    """Join the segments in time; leads that a segment lacks, and gaps, are NaN."""
    total = sum(frames for _, frames in header.segments)
    if total != (header.frames or total):
        raise EcgJepaRecordError(
            "header incomplete",
            f"{header.path} announces {header.frames:,} samples and segments of {total:,}; fetch the record again.",
        )
    _check_size(total * header.num_signals, header.path)
    parts = _segment_records(header)
    recorded = sum(part.signal.shape[1] for _, part in parts)
    if not recorded or total > 100 * recorded:
        raise EcgJepaRecordError("mostly gaps", f"{header.path}: {recorded:,} of {total:,} samples were recorded.")
    lead_names = tuple(dict.fromkeys(name for _, part in parts for name in part.lead_names))
    signal = np.full((len(lead_names), total), np.nan, dtype=np.float32)
    for start, part in parts:
        rows = [lead_names.index(name) for name in part.lead_names]
        signal[rows, start : start + part.signal.shape[1]] = part.signal
    findings = dict.fromkeys([*header.findings, *(text for _, part in parts for text in part.findings)])
    return _record(header, signal, header.sampling_rate, lead_names, findings)


def _segment_records(header: Header) -> list[tuple[int, EcgRecord]]:
    """(first sample, record) of each segment that holds signals: not of gaps ("~") nor of a layout, which is empty."""
    parts = []
    start = 0
    for name, frames in header.segments:
        if name != "~" and frames:
            part = _read_signals(_segment_header(header, name))
            if (part.sampling_rate, part.signal.shape[1]) != (header.sampling_rate, frames):
                raise EcgJepaRecordError(
                    "segments disagree",
                    f"{header.path}: segment {name!r} has {part.signal.shape[1]:,} samples at {part.sampling_rate:g} "
                    f"Hz, announced are {frames:,} at {header.sampling_rate:g} Hz.",
                )
            parts.append((start, part))
        start += frames
    return parts
