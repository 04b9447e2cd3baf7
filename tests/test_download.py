"""Corpora arrive whole and verified from a real server, however often the connection breaks; else one typed error."""

import hashlib
import http.server
import io
import json
import threading
import urllib.parse
import zipfile
from collections import Counter
from pathlib import Path

import datasets
import h5py
import numpy as np
import pytest

from dataset_scripts import download
from dataset_scripts.code15 import Code15
from dataset_scripts.download import PhysioNet, Zenodo, fetch
from dataset_scripts.loading import CORPORA, corpus_builder
from dataset_scripts.wfdb_folder import WfdbFolder
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaOutputError, EcgJepaRecordError

RECORDS = Path(__file__).parent / "fixtures" / "records" / "ptb-xl"
PROJECT = "/files/small/1.0.0/"


class Publisher(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> bytes) on loopback; the other attributes say how badly."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.honours_range = True
        self.drops_after: dict[str, int] = {}  # path -> bytes after which the connection ends, each time
        self.statuses: dict[str, list[int]] = {}  # path -> statuses of the next answers
        self.asked: list[tuple[str, str | None]] = []  # path and range
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, files: dict[str, bytes]) -> None:
        """Files of a PhysioNet project, with their SHA256SUMS.txt."""
        sums = "".join(f"{hashlib.sha256(content).hexdigest()} {path}\n" for path, content in files.items())
        self.files = {PROJECT + path: content for path, content in {**files, "SHA256SUMS.txt": sums.encode()}.items()}

    def publish_record(self, files: dict[str, bytes]) -> None:
        """Files of the Zenodo record 7, with its JSON."""
        self.files = {f"/api/records/7/files/{name}/content": content for name, content in files.items()}
        entries = [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.host}/api/records/7/files/{name}/content"},
            }
            for name, content in files.items()
        ]
        self.files["/api/records/7"] = json.dumps({"id": 7, "files": entries}).encode()


class Answer(http.server.BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self):
        path = urllib.parse.unquote(self.path)
        content = self.server.files.get(path)
        self.server.asked.append((path.removeprefix(PROJECT), self.headers["Range"]))
        statuses = self.server.statuses.get(path, [])
        status = statuses.pop(0) if statuses else 200 if content is not None else 404
        if status != 200:
            return self.send_error(status)
        start = int((self.headers["Range"] or "bytes=0-")[6:-1]) if self.server.honours_range else 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.drops_after.get(path)])
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(download, "CHUNK_BYTES", 500)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Publisher()
    yield server
    server.shutdown()
    server.server_close()


FILES = {
    "RECORDS": b"a\nb\n",
    "data/a b.dat": bytes(range(256)) * 40,
    "data/empty": b"",
    "other/c.dat": b"c" * 5000,
}


def project(publisher: Publisher, *only: str) -> PhysioNet:
    return PhysioNet("small", "1.0.0", gigabytes=0.00002, only=only, host=publisher.host)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failure(source, folder: Path) -> EcgJepaRecordError:
    with pytest.raises(EcgJepaRecordError) as caught:
        fetch(source, folder)
    return caught.value


# Whole downloads


def test_a_project_arrives_as_it_is_published(publisher, tmp_path, caplog):
    publisher.publish(FILES)
    assert fetch(project(publisher), tmp_path / "small") == tmp_path / "small"
    assert contents(tmp_path / "small") == FILES
    assert "fetching 4 files, about 2e-05 GB, to" in caplog.text


def test_what_is_there_is_not_fetched_again_and_needs_no_network(publisher, tmp_path):
    publisher.publish(FILES)
    fetch(project(publisher), tmp_path / "small")
    (tmp_path / "small" / "RECORDS").unlink()
    publisher.asked.clear()
    fetch(project(publisher), tmp_path / "small")
    assert publisher.asked == [("RECORDS", None)]
    publisher.shutdown()
    publisher.server_close()
    fetch(project(publisher), tmp_path / "small")
    assert contents(tmp_path / "small") == FILES


def test_a_part_of_a_project_lies_in_its_own_folder(publisher, tmp_path):
    publisher.publish(FILES)
    assert fetch(project(publisher, "data/"), tmp_path / "small") == tmp_path / "small" / "data"
    assert set(contents(tmp_path / "small")) == {"data/a b.dat", "data/empty"}
    assert fetch(project(publisher, "RECORDS", "other/"), tmp_path / "small") == tmp_path / "small"
    assert contents(tmp_path / "small") == FILES
    assert "none of the files" in str(failure(project(publisher, "nothing/"), tmp_path / "small"))


# Broken connections


@pytest.mark.parametrize("honours_range", [True, False])
def test_a_dropped_connection_is_continued(publisher, tmp_path, honours_range):
    publisher.publish(FILES)
    path = PROJECT + "other/c.dat"
    publisher.honours_range = honours_range
    publisher.drops_after[path] = 2000
    if not honours_range:  # never gets further than 2000 bytes by itself
        assert failure(project(publisher), tmp_path / "small").reason == "download failed"
        assert (tmp_path / "small" / "other" / "c.dat.part").stat().st_size == 2000
        del publisher.drops_after[path]
    fetch(project(publisher), tmp_path / "small")
    assert contents(tmp_path / "small") == FILES
    ranges = [asked for name, asked in publisher.asked if name == "other/c.dat"]
    assert ranges[:3] == [None, "bytes=2000-", "bytes=4000-" if honours_range else "bytes=2000-"]


def test_a_rerun_continues_where_one_stopped(publisher, tmp_path):
    publisher.publish(FILES)
    publisher.statuses[PROJECT + "other/c.dat"] = [404]
    error = failure(project(publisher), tmp_path / "small")
    assert error.reason == "download failed" and "HTTP 404" in str(error)
    assert "A rerun continues" in str(error) and "wget -r -N -c -np" in str(error) and "data_dir=" in str(error)
    part = tmp_path / "small" / "other" / "c.dat.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"c" * 3000)
    publisher.asked.clear()
    fetch(project(publisher), tmp_path / "small")
    assert ("other/c.dat", "bytes=3000-") in publisher.asked
    assert contents(tmp_path / "small") == FILES


@pytest.mark.parametrize("held", [5000, 6000])
def test_a_part_as_long_as_the_file_or_longer_is_not_trusted(publisher, tmp_path, held):
    publisher.publish(FILES)
    part = tmp_path / "small" / "other" / "c.dat.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"c" * held)
    fetch(project(publisher), tmp_path / "small")
    assert contents(tmp_path / "small") == FILES


def test_a_busy_server_is_asked_again_but_not_for_ever(publisher, tmp_path):
    publisher.publish(FILES)
    publisher.statuses = {PROJECT + "RECORDS": [503, 429], PROJECT + "SHA256SUMS.txt": [502]}
    fetch(project(publisher), tmp_path / "small")
    publisher.statuses = {PROJECT + "RECORDS": [503] * 100}
    assert "503" in str(failure(project(publisher), tmp_path / "again"))
    assert Counter(name for name, _ in publisher.asked)["RECORDS"] == 3 + download.ATTEMPTS


def test_no_server_is_an_error_that_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    source = PhysioNet("small", "1.0.0", 1.0, ("data/",), host="http://127.0.0.1:9")
    error = failure(source, tmp_path / "small")
    assert error.reason == "download failed"
    command = f"wget -r -N -c -np -nH --cut-dirs=3 -P '{tmp_path / 'small'}' http://127.0.0.1:9/files/small/1.0.0/data/"
    assert command in str(error) and f"data_dir={str(tmp_path / 'small' / 'data')!r}" in str(error)


# Wrong content


def test_a_wrong_checksum_is_an_error_and_the_file_is_removed(publisher, tmp_path):
    publisher.publish(FILES)
    publisher.files[PROJECT + "other/c.dat"] = b"d" * 5000
    error = failure(project(publisher), tmp_path / "small")
    assert error.reason == "checksum mismatch" and "other/c.dat" in str(error)
    assert not list((tmp_path / "small" / "other").iterdir())
    publisher.publish(FILES)
    fetch(project(publisher), tmp_path / "small")
    assert contents(tmp_path / "small") == FILES


@pytest.mark.parametrize("path", ["../out.dat", "/out.dat", "a/../../out.dat", "..\\out.dat", "C:out.dat", "a\x1b.dat"])
def test_no_path_of_a_list_leads_out(publisher, tmp_path, path):
    publisher.publish({**FILES, path: b"x"})
    assert failure(project(publisher), tmp_path / "small").reason == "path outside the folder"
    assert not list(tmp_path.rglob("*out.dat"))


def test_no_link_in_the_folder_leads_out(publisher, tmp_path):
    publisher.publish(FILES)
    (tmp_path / "small").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "small" / "data").symlink_to(tmp_path / "elsewhere")
    assert failure(project(publisher), tmp_path / "small").reason == "path outside the folder"
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "text", [b"", b"<html>not found</html>", b"\xff\xfe", b"0" * 64, ("0" * 64 + " a\n").encode() * 2]
)
def test_another_text_is_no_list_of_files(publisher, tmp_path, text):
    publisher.publish(FILES)
    publisher.files[PROJECT + "SHA256SUMS.txt"] = text
    assert failure(project(publisher), tmp_path / "small").reason == "list of files not understood"


def test_a_list_without_end_is_refused(publisher, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_MANIFEST_BYTES", 100)
    publisher.publish(FILES)
    assert "over 100 bytes" in str(failure(project(publisher), tmp_path / "small"))


def test_a_folder_that_cannot_be_written_is_an_error(publisher, tmp_path):
    publisher.publish(FILES)
    (tmp_path / "small").write_text("a file")
    with pytest.raises(EcgJepaOutputError, match="small"):
        fetch(project(publisher), tmp_path / "small")


# Zenodo and archives


def archive(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(name, data)
    return content.getvalue()


def record(publisher: Publisher) -> Zenodo:
    return Zenodo(7, gigabytes=0.1, host=publisher.host)


def test_archives_of_a_record_are_unpacked_once(publisher, tmp_path):
    publisher.publish_record(
        {"exams.csv": b"exam_id\n1\n", "part.zip": archive({"part.hdf5": b"x" * 10_000, "d/": b""})}
    )
    folder = fetch(record(publisher), tmp_path / "record")
    assert contents(folder) == {
        "exams.csv": b"exam_id\n1\n",
        "part.hdf5": b"x" * 10_000,
        "part.zip.unpacked": b"part.hdf5\n",
    }
    publisher.asked.clear()
    fetch(record(publisher), tmp_path / "record")
    assert publisher.asked == []
    (folder / "part.hdf5").unlink()
    fetch(record(publisher), tmp_path / "record")
    assert (folder / "part.hdf5").read_bytes() == b"x" * 10_000


def test_an_archive_that_waits_for_being_unpacked_is_not_fetched_again(publisher, tmp_path):
    packed = archive({"part.hdf5": b"x" * 10_000})
    publisher.publish_record({"part.zip": packed})
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "part.zip").write_bytes(packed)
    fetch(record(publisher), tmp_path / "record")
    assert [path for path, _ in publisher.asked] == ["/api/records/7"]
    assert (tmp_path / "record" / "part.hdf5").is_file() and not (tmp_path / "record" / "part.zip").exists()


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_no_member_of_an_archive_leads_out(publisher, tmp_path, name):
    publisher.publish_record({"part.zip": archive({"good": b"1", name: b"2"})})
    assert failure(record(publisher), tmp_path / "record").reason == "path outside the folder"
    assert not list(tmp_path.rglob("good")) and not list(tmp_path.rglob("out"))


def test_an_archive_that_unpacks_to_too_much_is_refused(publisher, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_UNPACKED_BYTES", 10**6)
    publisher.publish_record({"part.zip": archive({"zeros": bytes(10**6 + 1)})})
    assert failure(record(publisher), tmp_path / "record").reason == "archive too large"
    assert not list(tmp_path.rglob("zeros*"))


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_damaged_archive_is_an_error(publisher, tmp_path, place):
    packed = bytearray(archive({"a": np.random.default_rng(0).bytes(3000)}))
    at = {"start": 0, "middle": len(packed) // 2, "end": len(packed) - 10}[place]
    packed[at : at + 8] = b"\xaa" * 8
    publisher.publish_record({"part.zip": bytes(packed)})
    assert failure(record(publisher), tmp_path / "record").reason == "archive damaged"
    assert not (tmp_path / "record" / "a").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"checksum": "md5:12"},
        {"checksum": "crc32:" + "0" * 32},
        {"links": {}},
        {"links": {"self": "file:///etc/passwd"}},
        {"size": "many"},
        {"key": None},
    ],
)
def test_a_records_list_is_checked(publisher, tmp_path, change):
    publisher.publish_record({"exams.csv": b"1"})
    content = json.loads(publisher.files["/api/records/7"])
    content["files"][0] |= change
    publisher.files["/api/records/7"] = json.dumps(content).encode()
    assert failure(record(publisher), tmp_path / "record").reason == "list of files not understood"


# Corpora


@pytest.mark.parametrize("name", sorted(CORPORA.keys() - {"wfdb_folder", "synthetic"}))
def test_every_published_corpus_names_the_version_that_it_documents(name, tmp_path):
    builder = corpus_builder(
        name, cache_dir=str(tmp_path), **({"config_name": "ptb"} if name == "challenge2021" else {})
    )
    source = builder.source()
    assert 0 < source.gigabytes < 100
    if isinstance(source, Zenodo):
        assert str(source.record) in builder.ABOUT.homepage
    elif name != "cpsc2018":  # of which PhysioNet has a copy in the Challenge's data
        assert source.root.removeprefix("https://physionet.org/files") in builder.ABOUT.homepage
        assert source.version == str(builder.config.version or builder.VERSION)


def test_the_challenges_sets_and_ptb_xls_rates_are_fetched_apart(tmp_path):
    one = corpus_builder("challenge2021", config_name="georgia", cache_dir=str(tmp_path)).source()
    assert one.place(tmp_path) == tmp_path / "training" / "georgia" and not one.wants("training/ptb-xl/g1/HR00001.hea")
    assert one.wants("training/georgia/g1/E00001.mat")
    low = corpus_builder("ptb_xl", files=100, cache_dir=str(tmp_path)).source()
    assert low.wants("records100/00000/00001_lr.dat") and low.wants("ptbxl_database.csv")
    assert not low.wants("records500/00000/00001_hr.dat")


def test_a_corpus_without_a_folder_is_fetched(publisher, tmp_path, monkeypatch):
    files = {f"data/{path.name}": path.read_bytes() for path in RECORDS.iterdir() if path.suffix in (".hea", ".dat")}
    publisher.publish(files)
    monkeypatch.setattr(WfdbFolder, "source", lambda self: project(publisher))
    builder = WfdbFolder(cache_dir=str(tmp_path))
    builder.download_and_prepare()
    rows = [row["record_id"] for split in builder.as_dataset().values() for row in split]
    assert sorted(rows) == sorted({path.removesuffix(".hea").removesuffix(".dat") for path in files})
    assert contents(tmp_path / "downloads" / "ecg-jepa" / "small-1.0.0") == files


def test_code15_is_read_from_its_archives(publisher, tmp_path, monkeypatch):
    part = io.BytesIO()
    with h5py.File(part, "w") as file:
        file["exam_id"], file["tracings"] = [5, 0], np.stack([np.ones((4096, 12)), np.zeros((4096, 12))])
    header = (
        "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"
    )
    line = "5,50,True,49,False,True,False,False,False,True,9,,,False,exams_part0.hdf5"
    publisher.publish_record(
        {
            "exams.csv": f"{header}\n{line}\n".encode(),
            "exams_part0.zip": archive({"exams_part0.hdf5": part.getvalue()}),
        }
    )
    monkeypatch.setattr(Code15, "source", lambda self: record(publisher))
    builder = Code15(cache_dir=str(tmp_path))
    builder.download_and_prepare()
    (split,) = builder.as_dataset().values()
    assert split["record_id"][:] == ["5"]


def test_progress_can_be_switched_off(publisher, tmp_path, capsys):
    publisher.publish(FILES)
    datasets.disable_progress_bars()
    try:
        fetch(project(publisher), tmp_path / "small")
    finally:
        datasets.enable_progress_bars()
    assert capsys.readouterr().err == ""
