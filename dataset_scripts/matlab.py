"""The organisers' own files of CPSC2018: MATLAB 5 files (also 6 and 7) with one struct `ECG` {sex, age, data}.

The format is MathWorks' "MAT-File Format", chapter 1. Why not scipy.io.loadmat: it allocates what a file claims (192
bytes that claim a text of 10 million blanks become 40 MB), inflates without a limit, and raises a dozen kinds of
built-in errors on damage. The tests compare with it on every real record.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

from .records import EcgRecord
from .wfdb_header import refuse_lfs_pointer

#: The organisers' description of the data; the files themselves hold neither the rate nor the names of the leads.
CPSC2018_SAMPLING_RATE = 500.0

#: Of a file, and of what it inflates to: 12 leads of float64 at 500 Hz for 11 minutes; CPSC2018's longest has 144 s.
MAX_BYTES = 2**25

_HEADER_BYTES = 128
_SMALL_ELEMENT_BYTES = 4
_MAX_FIELDS = 100

# Types of elements, and classes of matrices, that mean something here.
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "ascii", 2: "ascii", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_STRUCT, _CHARS, _NUMERIC = 2, 4, range(6, 16)
_COMPLEX = 0x0800

_NOTHING = (0, memoryview(b""))

_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}


def read_matlab_record(path: str | os.PathLike[str]) -> EcgRecord:
    """Read a file of the CPSC2018 organisers: 12 leads x N samples in millivolts at 500 Hz, I to V6.

    Raises:
        EcgJepaRecordError: anything that keeps the file from being read as such a recording.
    """
    path = Path(path)
    fields = _read_struct(_read_bytes(path), path)
    missing = [name for name in ("sex", "age", "data") if name not in fields]
    if missing:
        raise _not_understood(path, f"its struct ECG has no field {', '.join(missing)}")
    signal = _signal(fields["data"].numbers(), path)
    age, findings = _age(fields["age"])
    return EcgRecord(
        signal=signal,
        sampling_rate=CPSC2018_SAMPLING_RATE,
        lead_names=STANDARD_12_LEADS,
        record_id=path.stem,
        path=path,
        age=age,
        sex=_SEXES.get(fields["sex"].text().strip().lower()),
        findings=findings,
    )


def _signal(data: np.ndarray, path: Path) -> np.ndarray:
    if len(data) != len(STANDARD_12_LEADS):
        shape = " x ".join(map(str, data.shape))
        raise EcgJepaRecordError("not 12 leads", f"{path}: ECG.data is {shape}; it must be 12 leads x samples.")
    if not data.shape[1]:
        raise EcgJepaRecordError("no samples", f"{path}: ECG.data holds no sample; fetch the file again.")
    with np.errstate(over="ignore", invalid="ignore"):
        signal = np.ascontiguousarray(data, dtype=np.float32)
    if np.isinf(signal).any():
        raise EcgJepaRecordError("infinite values", f"{path}: ECG.data has infinite values, which are no millivolts.")
    return signal


def _age(field: "_Matrix") -> tuple[float | None, tuple[str, ...]]:
    values = field.numbers() if field.kind in _NUMERIC else np.empty(0)
    if values.size != 1 or np.isnan(values.flat[0]):
        return None, ()
    age = float(values.flat[0])
    if 0 <= age <= 130:
        return age, ()
    return None, (f"age {age:g} is not an age in years: left out",)


# The format -----------------------------------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size) if size <= MAX_BYTES else b""
    except FileNotFoundError as error:
        raise EcgJepaRecordError("signal file missing", f"No file {path}; fetch it.") from error
    except OSError as error:
        raise EcgJepaRecordError("not readable", f"Cannot read {path}: {error}.") from error
    if size > MAX_BYTES:
        raise _too_large(path)
    refuse_lfs_pointer(content, path)
    return content


def _read_struct(content: bytes, path: Path) -> dict[str, "_Matrix"]:
    """The fields of the struct `ECG` in a file's bytes."""
    byte_order, version = content[126:128], content[124:126]
    if byte_order not in (b"IM", b"MI"):
        raise _not_understood(path, "it has no header of one (a WFDB signal file *.mat needs its *.hea beside it)")
    order = "<" if byte_order == b"IM" else ">"
    if struct.unpack(order + "H", version)[0] != 0x0100:
        raise EcgJepaRecordError(
            "MAT version", f"{path} is a MAT-file of version 7.3 or a later one; save it in MATLAB with '-v7'."
        )
    kind, element = next(_elements(memoryview(content)[_HEADER_BYTES:], order, path), _NOTHING)
    if kind == _COMPRESSED:
        kind, element = next(_elements(_inflate(element, path), order, path), _NOTHING)
    if kind != _MATRIX:
        raise _not_understood(path, "it holds no variable")
    matrix = _matrix(element, order, path)
    if (matrix.name, matrix.kind) != ("ECG", _STRUCT):
        raise _not_understood(path, f"its first variable is {matrix.name[:40]!r}, not a struct ECG")
    return matrix.fields()


def _inflate(element: memoryview, path: Path) -> memoryview:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(element, MAX_BYTES)
    except zlib.error as error:
        raise _not_understood(path, f"its compressed part is damaged ({error})") from error
    if inflater.unconsumed_tail:
        raise _too_large(path)
    return memoryview(content)


def _elements(buffer: memoryview, order: str, path: Path) -> Iterator[tuple[int, memoryview]]:
    """(type, content) of the elements that follow each other in a buffer."""
    place = 0
    while place + 8 <= len(buffer):
        kind, size = struct.unpack_from(order + "II", buffer, place)
        if kind >> 16:  # up to 4 bytes stand in the tag itself
            kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
            if size > _SMALL_ELEMENT_BYTES:
                raise _not_understood(path, f"an element of {size} bytes stands where 4 have room")
        else:
            start = place + 8
            end = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(buffer):
            raise _not_understood(path, f"it ends before an element of {size:,} bytes does")
        yield kind, buffer[start : start + size]
        place = end


@dataclass(frozen=True)
class _Matrix:
    """A variable or a field: its class, dimensions, name, and the elements that follow these."""

    kind: int
    is_complex: bool
    shape: tuple[int, int]
    name: str
    elements: Iterator[tuple[int, memoryview]]
    order: str
    path: Path

    def fields(self) -> dict[str, "_Matrix"]:
        if math.prod(self.shape) != 1:
            raise _not_understood(self.path, f"its struct {self.name} is an array of {self.shape}")
        _, length = next(self.elements, _NOTHING)
        _, names = next(self.elements, _NOTHING)
        width = int.from_bytes(length, "little" if self.order == "<" else "big")
        if not width or len(names) % width or len(names) // width > _MAX_FIELDS:
            raise _not_understood(self.path, "the names of its fields are damaged")
        starts = range(0, len(names), width)
        texts = [bytes(names[start : start + width]).split(b"\0")[0].decode("latin-1") for start in starts]
        contents = (content for kind, content in self.elements if kind == _MATRIX)
        fields = {text: _matrix(content, self.order, self.path) for text, content in zip(texts, contents, strict=False)}
        if len(fields) != len(texts):
            raise _not_understood(self.path, f"{len(texts)} fields are announced and {len(fields)} held")
        return fields

    def numbers(self) -> np.ndarray:
        kind, content = next(self.elements, _NOTHING)
        if self.kind not in _NUMERIC or self.is_complex or (kind not in _NUMBERS and content):
            raise _not_understood(self.path, "a field of the struct ECG that must hold real numbers does not")
        dtype = np.dtype(self.order + _NUMBERS.get(kind, "f8"))
        if len(content) != math.prod(self.shape) * dtype.itemsize:
            raise _not_understood(self.path, f"{len(content):,} bytes are held for an array of {self.shape}")
        return np.frombuffer(content, dtype).reshape(self.shape, order="F")

    def text(self) -> str:
        kind, content = next(self.elements, _NOTHING)
        if self.kind != _CHARS or kind not in _TEXTS:
            return ""
        encoding = _TEXTS[kind] + ({"<": "-le", ">": "-be"}[self.order] if _TEXTS[kind] == "utf-16" else "")
        return bytes(content).decode(encoding, errors="replace")


def _matrix(content: memoryview, order: str, path: Path) -> _Matrix:
    elements = _elements(content, order, path)
    flags, shape, name = (next(elements, _NOTHING)[1] for _ in range(3))
    if len(flags) != 8 or len(shape) != 8:  # all that a recording consists of has two dimensions
        raise _not_understood(path, "one of its arrays has a damaged description")
    (word,) = struct.unpack_from(order + "I", flags)
    return _Matrix(
        kind=word & 0xFF,
        is_complex=bool(word & _COMPLEX),
        shape=struct.unpack(order + "II", shape),
        name=bytes(name).decode("latin-1"),
        elements=elements,
        order=order,
        path=path,
    )


def _not_understood(path: Path, why: str) -> EcgJepaRecordError:
    return EcgJepaRecordError(
        "MAT file not understood", f"{path} is not a CPSC2018 recording in MATLAB 5 format: {why}. Fetch it again."
    )


def _too_large(path: Path) -> EcgJepaRecordError:
    return EcgJepaRecordError(
        "too large", f"{path} holds more than {MAX_BYTES:,} bytes; no recording of CPSC2018 has a quarter of that."
    )
