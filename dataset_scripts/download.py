"""Published corpora into a folder: several connections, interrupted files continued, every checksum verified.

A publisher's list says which files there are and what their checksums must be. A file grows as `NAME.part` and gets its
name once it is verified, so whatever has its name is never fetched again, and a rerun continues where one stopped.
Archives (.zip) are then unpacked and removed.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import filelock
import requests
from datasets.utils import tqdm

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaOutputError, EcgJepaRecordError

logger = logging.getLogger(__name__)

#: A list of 100,000 files has some 12 MB.
MAX_MANIFEST_BYTES = 2**26

#: What the archives of one corpus may unpack to: a part of CODE-15% has some 4 GB.
MAX_UNPACKED_BYTES = 2**35

#: Attempts in a row that bring no byte, and the seconds before the second one; they double.
ATTEMPTS, PAUSE_SECONDS = 5, 1.0

TIMEOUT_SECONDS = (15, 60)
CHUNK_BYTES = 2**16  # a broken connection loses what had come of a chunk

_HEX_DIGITS = {"sha256": 64, "md5": 32}
_FOR_NOW = {408, 425, 429, 500, 502, 503, 504}
_CHECKSUM_LINE = re.compile(r"([0-9a-fA-F]{64})\s+\*?(\S.*)")


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its place in the folder (with "/"), where it is, and what it must be."""

    path: str
    url: str
    algorithm: str
    checksum: str
    size: int | None = None


@dataclass(frozen=True)
class PhysioNet:
    """A project of https://physionet.org, or the part of it under some paths.

    Args:
        slug, version: as in the project's address.
        gigabytes: about how much it is; the list of files does not say.
        only: what the wanted paths begin with; nothing: all of them. A single one is a folder: the corpus lies there.
    """

    slug: str
    version: str
    gigabytes: float
    only: tuple[str, ...] = ()
    host: str = "https://physionet.org"

    @property
    def name(self) -> str:
        return f"{self.slug}-{self.version}"

    @property
    def root(self) -> str:
        return f"{self.host}/files/{self.slug}/{self.version}/"

    @property
    def manifest_url(self) -> str:
        return self.root + "SHA256SUMS.txt"

    def parse_manifest(self, content: bytes) -> list[RemoteFile]:
        """The files of a SHA256SUMS.txt: a line each, checksum and path.

        Raises:
            EcgJepaRecordError: another text.
        """
        lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
        matches = [_CHECKSUM_LINE.fullmatch(line) for line in lines]
        if not lines or None in matches:
            odd = next((line for line, match in zip(lines, matches, strict=True) if match is None), "")
            raise _not_a_manifest(self.manifest_url, f"{odd[:80]!r} is not a SHA-256 and a path")
        return [
            RemoteFile(path, self.root + urllib.parse.quote(path), "sha256", checksum.lower())
            for checksum, path in (match.groups() for match in matches if match)
        ]

    def wants(self, path: str) -> bool:
        return not self.only or path.startswith(self.only)

    def place(self, folder: Path) -> Path:
        return folder / self.only[0] if len(self.only) == 1 else folder

    def by_hand(self, folder: Path) -> str:
        places = " ".join(self.root + part for part in self.only or ("",))
        return f"wget -r -N -c -np -nH --cut-dirs=3 -P '{folder}' {places}"


@dataclass(frozen=True)
class Zenodo:
    """A record of https://zenodo.org."""

    record: int
    gigabytes: float
    host: str = "https://zenodo.org"

    @property
    def name(self) -> str:
        return f"zenodo-{self.record}"

    @property
    def manifest_url(self) -> str:
        return f"{self.host}/api/records/{self.record}"

    def parse_manifest(self, content: bytes) -> list[RemoteFile]:
        """The files of a record's JSON.

        Raises:
            EcgJepaRecordError: another text.
        """
        try:
            return [_zenodo_file(entry) for entry in json.loads(content)["files"]]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _not_a_manifest(self.manifest_url, f"no list of files with checksums ({error})") from error

    def wants(self, path: str) -> bool:
        return True

    def place(self, folder: Path) -> Path:
        return folder

    def by_hand(self, folder: Path) -> str:
        page = f"{self.host}/records/{self.record}"
        return f"wget -c -P '{folder}' {page}/files/NAME for every NAME at {page}, and unzip"


Source = PhysioNet | Zenodo


def fetch(source: Source, folder: str | os.PathLike[str], connections: int = 4) -> Path:
    """Fetch what a folder lacks of a corpus, and say where in it the corpus lies; no network if it lacks nothing.

    Raises:
        EcgJepaRecordError: a file cannot be fetched or is not what the publisher says; the message says what to run
            instead, and a rerun continues.
        EcgJepaOutputError: the folder cannot be written to, or has no room.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"), requests.Session() as session:
            session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=connections))
            session.headers["Accept-Encoding"] = "identity"  # else the bytes of a range are not those of the file
            _fetch_missing(source, folder, session, connections)
    except EcgJepaRecordError as error:
        text = f"{error} A rerun continues where this one stopped. By hand: `{source.by_hand(folder)}`, then pass "
        raise EcgJepaRecordError(error.reason, f"{text}data_dir={str(source.place(folder))!r}.") from error
    except (OSError, filelock.Timeout) as error:
        if isinstance(error, EcgJepaOutputError):
            raise
        raise EcgJepaOutputError(f"Cannot write to {folder}: {error.strerror or error}.") from error
    return source.place(folder)


def _fetch_missing(source: Source, folder: Path, session: requests.Session, connections: int) -> None:
    files = _manifest(source, Path(f"{folder}.manifest.json"), session)
    missing = [file for file in files if not _is_there(file, folder)]
    if not missing:
        return
    sizes = [file.size for file in missing if file.size is not None]
    total = sum(sizes) if len(sizes) == len(missing) else int(source.gigabytes * 1e9 * len(missing) / len(files))
    logger.warning("%s: fetching %s files, about %.2g GB, to %s", source.name, f"{len(missing):,}", total / 1e9, folder)
    with tqdm(total=total, unit="B", unit_scale=True, desc=source.name) as progress:
        _fetch_all(missing, folder, session, connections, progress)


def _fetch_all(
    files: Iterable[RemoteFile], folder: Path, session: requests.Session, connections: int, progress: tqdm
) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(connections) as threads:
        jobs = [threads.submit(_fetch_file, file, folder, session, progress, stop) for file in files]
        try:
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        finally:  # also where a person interrupts
            stop.set()
            threads.shutdown(cancel_futures=True)
    for job in done:
        job.result()


class _Stopped(Exception):
    """Another file failed; this one is continued next time."""


def _fetch_file(
    file: RemoteFile, folder: Path, session: requests.Session, progress: tqdm, stop: threading.Event
) -> None:
    place = _place(folder, file.path)
    if not _is_whole(place, file.size):  # an archive may be, and only wait for being unpacked
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(place.name + ".part")
        if not _fill(part, file, session, progress, stop):
            return
        _verify(file, part)
        os.replace(part, place)
    if place.suffix == ".zip":
        _unpack(place, folder)


def _fill(part: Path, file: RemoteFile, session: requests.Session, progress: tqdm, stop: threading.Event) -> bool:
    """Fetch a file in as many attempts as it takes; False if another file failed meanwhile."""
    progress.update(_size(part))
    failures = 0
    while file.size is None or not _is_whole(part, file.size):
        held = _size(part)
        try:
            if _continue(file, part, session, progress, stop):
                break
            cause = "the connection ended early"
        except _Stopped:
            return False
        except requests.RequestException as error:
            cause = str(error)
        failures = 1 if _size(part) > held else failures + 1
        if failures == ATTEMPTS:
            raise EcgJepaRecordError("download failed", f"{file.url} cannot be fetched: {cause}.")
        if stop.wait(PAUSE_SECONDS * 2 ** (failures - 1)):
            return False
    return True


def _continue(file: RemoteFile, part: Path, session: requests.Session, progress: tqdm, stop: threading.Event) -> bool:
    """Fetch what `part` lacks; whether it then is complete as far as the server tells."""
    held = _size(part)
    headers = {"Range": f"bytes={held}-"} if held else {}
    with session.get(file.url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        status = response.status_code
        if status == 416:  # longer than the file, or just as long where the size was not known
            if response.headers.get("Content-Range", "").endswith(f"/{held}"):
                return True
            part.unlink()
            return False
        if status >= 400 and status not in _FOR_NOW:
            raise EcgJepaRecordError("download failed", f"{file.url} cannot be fetched: HTTP {status}.")
        response.raise_for_status()
        goes_on = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {held}-")
        if held and not goes_on:
            progress.update(-held)
        start = held if goes_on else 0
        with part.open("ab" if goes_on else "wb") as target:
            written = start + _copy(response, target, file, progress, stop, start)
    expected = response.headers.get("Content-Length", "")
    return written == file.size or (file.size is None and (not expected or written == start + int(expected)))


def _copy(response, target, file: RemoteFile, progress: tqdm, stop: threading.Event, start: int) -> int:
    written = 0
    for chunk in response.iter_content(CHUNK_BYTES):
        if stop.is_set():
            raise _Stopped
        target.write(chunk)
        written += len(chunk)
        progress.update(len(chunk))
        if file.size is not None and start + written > file.size:
            break  # the checksum will not fit
    return written


def _verify(file: RemoteFile, part: Path) -> None:
    with part.open("rb") as content:
        checksum = hashlib.file_digest(content, lambda: hashlib.new(file.algorithm, usedforsecurity=False)).hexdigest()
    if checksum != file.checksum:
        part.unlink()
        raise EcgJepaRecordError(
            "checksum mismatch",
            f"{file.url} has the {file.algorithm} {checksum}, and the publisher says {file.checksum}; it was removed.",
        )


# Lists of files -------------------------------------------------------------------------------------------------------


def _manifest(source: Source, stored: Path, session: requests.Session) -> list[RemoteFile]:
    """The list of a version, which never changes: fetched once, then kept beside the folder."""
    files = _stored_manifest(source, stored)
    if not files:
        files = source.parse_manifest(_get(source.manifest_url, session))
        _check_manifest(source, files)
        unfinished = stored.with_name(stored.name + ".part")
        content = {"of": source.manifest_url, "files": [asdict(file) for file in files]}
        unfinished.write_text(json.dumps(content), encoding="utf-8")
        os.replace(unfinished, stored)
    wanted = [file for file in files if source.wants(file.path)]
    if not wanted:
        raise _not_a_manifest(source.manifest_url, "it has none of the files that are wanted")
    return wanted


def _stored_manifest(source: Source, stored: Path) -> list[RemoteFile]:
    try:
        content = json.loads(stored.read_bytes())
        return [RemoteFile(**entry) for entry in content["files"]] if content["of"] == source.manifest_url else []
    except (FileNotFoundError, ValueError, LookupError, TypeError):  # none yet, or not ours
        return []


def _get(url: str, session: requests.Session) -> bytes:
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            with session.get(url, stream=True, timeout=TIMEOUT_SECONDS) as response:
                status = response.status_code
                if status < 400:
                    return _limited(response, url)
                cause = f"HTTP {status}"
                if status not in _FOR_NOW:
                    break
        except requests.RequestException as error:
            cause = str(error)
    raise EcgJepaRecordError("download failed", f"{url} cannot be fetched: {cause}.")


def _limited(response: requests.Response, url: str) -> bytes:
    content = bytearray()
    for chunk in response.iter_content(CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_MANIFEST_BYTES:
            raise _not_a_manifest(url, f"over {MAX_MANIFEST_BYTES:,} bytes")
    return bytes(content)


def _zenodo_file(entry: dict) -> RemoteFile:
    algorithm, _, checksum = entry["checksum"].partition(":")
    name, url = entry["key"], entry["links"]["self"]
    if not (isinstance(name, str) and isinstance(url, str)):
        raise TypeError(f"a file named {name!r} at {url!r}")
    return RemoteFile(name, url, algorithm, checksum.lower(), int(entry["size"]))


def _check_manifest(source: Source, files: Sequence[RemoteFile]) -> None:
    for file in files:
        _check_path(file.path)
        digits = _HEX_DIGITS.get(file.algorithm)
        if len(file.checksum) != digits or not re.fullmatch("[0-9a-f]+", file.checksum):
            text = f"{file.algorithm}:{file.checksum[:80]} of {file.path!r} is no SHA-256 or MD5"
            raise _not_a_manifest(source.manifest_url, text)
        if not file.url.startswith(("https://", "http://")):
            raise _not_a_manifest(source.manifest_url, f"{file.path!r} lies at {file.url[:80]!r}")
    if len({file.path for file in files}) < len(files):
        raise _not_a_manifest(source.manifest_url, "a file stands in it twice")


def _check_path(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not path.isprintable() or not parts or {"..", "/"} & set(parts) or any(sign in path for sign in "\\:"):
        raise EcgJepaRecordError("path outside the folder", f"The file name {path!r} leads out of the folder.")


def _place(folder: Path, path: str) -> Path:
    _check_path(path)
    place = folder / path
    if not place.resolve().is_relative_to(folder.resolve()):
        raise EcgJepaRecordError("path outside the folder", f"{path!r} leads out of {folder} by a symbolic link.")
    return place


def _not_a_manifest(url: str, why: str) -> EcgJepaRecordError:
    return EcgJepaRecordError("list of files not understood", f"{url} is no list of files with checksums: {why}.")


def _is_there(file: RemoteFile, folder: Path) -> bool:
    place = _place(folder, file.path)
    if place.suffix != ".zip":
        return _is_whole(place, file.size)
    unpacked = _unpacked(place)
    if not unpacked.is_file():
        return False
    return all((folder / name).is_file() for name in unpacked.read_text(encoding="utf-8").splitlines())


def _is_whole(path: Path, size: int | None) -> bool:
    return path.is_file() and size in (None, path.stat().st_size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


# Archives -------------------------------------------------------------------------------------------------------------


def _unpacked(archive: Path) -> Path:
    """What stands for an archive that was unpacked and removed: the names of its files."""
    return archive.with_name(archive.name + ".unpacked")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a verified archive into the folder, each file whole or not at all, and remove it."""
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if not member.is_dir()]
            _check_members(archive, members, folder)
            for member in members:
                place = _place(folder, member.filename)
                place.parent.mkdir(parents=True, exist_ok=True)
                part = place.with_name(place.name + ".part")
                with content.open(member) as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
                os.replace(part, place)
    # zipfile's words for a compression it does not know (NotImplementedError), a password (RuntimeError), and damage.
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise EcgJepaRecordError("archive damaged", f"{archive} cannot be unpacked: {error}.") from error
    _unpacked(archive).write_text("".join(f"{member.filename}\n" for member in members), encoding="utf-8")
    archive.unlink()


def _check_members(archive: Path, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    for member in members:
        _place(folder, member.filename)
    needed = sum(member.file_size for member in members)  # reading stops there, whatever the archive holds
    if needed > MAX_UNPACKED_BYTES:
        text = f"{archive} would unpack to {needed:,} bytes, more than the {MAX_UNPACKED_BYTES:,} of any known corpus."
        raise EcgJepaRecordError("archive too large", text)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise EcgJepaOutputError(f"{archive} unpacks to {needed:,} bytes; {folder} has room for {free:,}. Make room.")


__all__ = ["PhysioNet", "RemoteFile", "Source", "Zenodo", "fetch"]
