"""What all corpora share: the schema, the cache, splits, processes, and records that are left out."""

import json
import multiprocessing
import os
import re
import shutil
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from written_records import write_counts, write_record

import dataset_scripts.corpus
from dataset_scripts.corpus import (
    BATCH_ROWS,
    BATCH_VALUES,
    code_hash,
    existing_folder,
    files_hash,
    in_batches,
    inside,
    read_left_out,
    row_features,
)
from dataset_scripts.loading import CORPORA, corpus_builder, corpus_class
from dataset_scripts.records import read_record
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor, EcgJepaRecordError


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("written")
    for seed in range(12):
        write_record(root, f"r{seed:02}", seed=seed)
    (root / "r03.hea").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (root / "r07.dat").write_bytes(b"short")
    return root


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """12 records, of which r03 and r07 cannot be read."""
    return Path(shutil.copytree(written, tmp_path / "records"))


@pytest.fixture
def build(tmp_path):
    def build(folder: Path, **options):
        return corpus_builder("wfdb_folder", data_dir=folder, cache_dir=str(tmp_path / "cache"), **options)

    return build


def prepared(builder, **options) -> dict[str, dict]:
    """Rows by id, each with its split."""
    builder.download_and_prepare(**options)
    return {row["record_id"]: {**row, "split": name} for name, rows in builder.as_dataset().items() for row in rows}


# The schema


def described(name: str) -> datasets.DatasetInfo:
    corpus = corpus_class(name)
    return corpus(config_name=next((config.name for config in corpus.BUILDER_CONFIGS), None)).info


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_has_the_one_schema_and_then_its_own_columns(name):
    features = described(name).features
    common = row_features((), {})
    assert list(features)[: len(common)] == list(common)
    for column in common.keys() - {"labels"}:
        assert features[column] == common[column]
    label = features["labels"].feature
    assert isinstance(label, datasets.ClassLabel) or label == datasets.Value("string")


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_says_what_it_is(name):
    info = described(name)
    assert info.version is not None
    assert info.description and info.homepage.startswith("http")
    if name != "wfdb_folder":
        assert info.license and info.citation


def test_the_paragraph_from_a_row_to_millivolts_is_two_lines_that_do_it(folder, build):
    lines = re.search(r"From a row to millivolts:\n\n((?:    .+\n)+)", dataset_scripts.corpus.__doc__)[1]
    assert len(lines.splitlines()) == 2
    write_counts(folder, "gaps", np.array([[0, 1, -32768], [5, -7, 12345]]), leads=["I", "II"])
    for name, row in prepared(build(folder)).items():
        names = {"np": np, "row": row}
        exec("\n".join(line.strip() for line in lines.splitlines()), names)
        np.testing.assert_allclose(names["millivolts"], read_record(folder / name).signal, atol=1e-6)


def test_signals_have_one_size_where_the_options_fix_it(folder, build):
    write_record(folder, "faster", sampling_rate=257.0)
    write_record(folder, "short", seconds=0.9)
    builder = build(folder, sampling_rate=50, leads=["II", "V1", "V9"], seconds=1.0)
    rows = prepared(builder)
    assert builder.info.features["signal"].length == 150
    assert "faster" in rows
    for row in rows.values():
        counts = np.reshape(row["signal"], (3, 50))
        assert (row["lead_names"], row["sampling_rate"]) == (["II", "V1", "V9"], 50.0)
        assert (counts[2] == -32768).all()
        assert (counts[:2] != -32768).all()
    (short,) = [record for record in builder.left_out() if record.by_choice]
    assert (short.place, short.reason) == ("short (short)", "shorter than 1 s")


def test_a_rate_that_cannot_give_the_length_leaves_the_record_out(folder, build):
    write_record(folder, "odd", sampling_rate=60.0)
    builder = build(folder, sampling_rate=500, leads=["II"], seconds=0.99)
    assert "odd" not in prepared(builder)
    assert {"rate does not fit the length"} <= {record.reason for record in builder.left_out()}


def test_prepared_rows_are_the_extractors_output_to_a_count(shared_ecg, build):
    extractor = EcgJepaFeatureExtractor()
    builder = build(shared_ecg / "georgia", sampling_rate=250, seconds=10, leads=extractor.leads)
    rows = prepared(builder)
    assert len(rows) == 12
    for name, row in rows.items():
        native = read_record(shared_ecg / "georgia" / name)
        wanted = extractor(native.signal, sampling_rate=native.sampling_rate, leads=list(native.lead_names))
        millivolts = np.reshape(row["signal"], (8, 2500)) * np.float32(row["signal_scale"])
        assert np.abs(millivolts - np.asarray(wanted["input_values"][0])).max() <= row["signal_scale"]


# Processes and streams


def test_two_processes_make_what_one_makes(folder, build, tmp_path):
    one = build(folder)
    rows = prepared(one)
    two = corpus_builder("wfdb_folder", data_dir=folder, cache_dir=str(tmp_path / "other"))
    assert prepared(two, num_proc=2) == rows
    assert two.left_out() == one.left_out()
    assert len(rows) == 10


def test_a_process_of_which_all_records_are_left_out_does_no_harm(tmp_path, build):
    write_record(tmp_path / "r", "good")
    (tmp_path / "r" / "zbad.hea").write_text("nothing")
    (tmp_path / "r" / "table.csv").write_text("record,split\ngood,train\nzbad,train\n")
    builder = build(tmp_path / "r", table="table.csv", split_column="split")
    assert list(prepared(builder, num_proc=2)) == ["good"]
    assert [record.place for record in builder.left_out()] == ["zbad (zbad)"]


def test_streaming_gives_the_rows_that_preparing_gives(folder, build):
    rows = prepared(build(folder))
    streamed = {}
    for split, stream in build(folder).as_streaming_dataset().items():
        streamed.update({row["record_id"]: {**row, "split": split} for row in stream})
    assert {name: dict(row) for name, row in streamed.items()} == rows


def test_batches_end_before_long_records_fill_the_memory():
    short = [{"signal": np.zeros(10)}] * (2 * BATCH_ROWS + 3)
    assert [len(batch) for batch in in_batches(short)] == [BATCH_ROWS, BATCH_ROWS, 3]
    long = [{"signal": np.broadcast_to(np.int16(0), BATCH_VALUES // 2)}] * 5
    assert [len(batch) for batch in in_batches(long)] == [2, 2, 1]


# Records that are left out


def test_records_that_cannot_be_used_are_counted_and_listed(folder, build):
    builder = build(folder)
    rows = prepared(builder)
    assert len(rows) == 10
    assert {record.place: record.reason for record in builder.left_out()} == {
        "r03 (r03)": "Git LFS pointer",
        "r07 (r07)": "signal file truncated",
    }
    assert not any(record.by_choice for record in builder.left_out())
    assert "2 records were left out:" in builder.info.description
    assert "     1 x Git LFS pointer" in builder.info.description
    # A later builder finds the list in the cache.
    again = build(folder)
    again.download_and_prepare()
    assert again.left_out() == builder.left_out()


@pytest.mark.parametrize("num_proc", [None, 2])
def test_on_error_raise_stops_at_the_record_with_its_own_error(folder, build, num_proc):
    builder = build(folder, on_error="raise")
    with pytest.raises(EcgJepaRecordError, match=r"r0[37] \(r0[37]\): ") as caught:
        builder.download_and_prepare(num_proc=num_proc)
    assert caught.value.reason in ("Git LFS pointer", "signal file truncated")


def test_on_error_raise_does_not_mind_records_that_the_options_exclude(tmp_path, build):
    for seconds in (1, 2):
        write_record(tmp_path / "r", f"of{seconds}", seconds=seconds)
    builder = build(tmp_path / "r", on_error="raise", seconds=1.5)
    assert list(prepared(builder)) == ["of2"]
    assert [record.place for record in builder.left_out()] == ["of1 (of1)"]


def test_on_error_raise_stops_a_stream_as_well(folder, build):
    with pytest.raises(EcgJepaRecordError, match=r"r0[37]"):
        for stream in build(folder, on_error="raise").as_streaming_dataset().values():
            list(stream)


def test_when_every_record_is_left_out_the_reasons_are_the_error(folder, build):
    with pytest.raises(EcgJepaRecordError, match="every record was left out:\n *10 x shorter than 60 s") as caught:
        build(folder, seconds=60).download_and_prepare()
    assert caught.value.reason == "no records"


def test_what_a_killed_run_noted_is_not_taken_for_ours(folder, build):
    builder = build(folder)
    leftover = Path(builder.cache_dir + ".incomplete")
    leftover.mkdir(parents=True)
    (leftover / "left_out.jsonl.99999").write_text('{"place": "ghost"')
    assert len(prepared(builder)) == 10
    assert [record.place for record in builder.left_out()] == ["r03 (r03)", "r07 (r07)"]
    assert sorted(path.name for path in Path(builder.cache_dir).glob("left_out*")) == ["left_out.jsonl"]


def test_a_folder_without_the_list_has_none(tmp_path):
    assert read_left_out(tmp_path) == []
    (tmp_path / "left_out.jsonl").write_text(json.dumps({"place": "p", "reason": "r", "message": "m"}) + "\n")
    assert [record.reason for record in read_left_out(tmp_path)] == ["r"]


# The cache


def test_the_cache_is_used_again_only_for_the_same_files_options_and_code(folder, build, monkeypatch):
    first = build(folder).cache_dir
    assert build(folder).cache_dir == first
    assert build(folder, leads=["II"]).cache_dir != first
    monkeypatch.setattr(dataset_scripts.corpus, "code_hash", lambda: "changed")
    assert build(folder).cache_dir != first


def test_the_cache_notices_a_changed_a_new_and_a_missing_file(folder, build):
    seen = {build(folder).cache_dir}
    write_record(folder, "r00", seed=99)
    seen.add(build(folder).cache_dir)
    write_record(folder, "new")
    seen.add(build(folder).cache_dir)
    (folder / "r05.hea").unlink()
    seen.add(build(folder).cache_dir)
    os.utime(folder / "r06.dat", ns=(0, 1))
    seen.add(build(folder).cache_dir)
    assert len(seen) == 5
    rows = prepared(build(folder))
    assert "new" in rows and "r05" not in rows
    millivolts = np.reshape(rows["r00"]["signal"], (12, -1)) / 1000
    np.testing.assert_allclose(millivolts, read_record(folder / "r00").signal, atol=1e-6)


def test_the_cache_notices_a_change_behind_a_link(folder, tmp_path, build):
    write_record(tmp_path / "store", "r", seed=1)
    (folder / "linked.dat").symlink_to(tmp_path / "store" / "r.dat")
    before = build(folder).cache_dir
    os.utime(tmp_path / "store" / "r.dat", ns=(0, 1))
    assert build(folder).cache_dir != before


def test_the_code_hash_is_that_of_the_code_here():
    assert re.fullmatch("[0-9a-f]{64}", code_hash())
    assert code_hash() == code_hash()


# Folders


@pytest.mark.parametrize("kind", ["absent", "file", "loop"])
def test_a_folder_that_is_none_is_named(tmp_path, build, kind):
    place = tmp_path / kind
    if kind == "file":
        place.touch()
    if kind == "loop":
        place.symlink_to(tmp_path / "pool")
        (tmp_path / "pool").symlink_to(place)
    with pytest.raises(EcgJepaRecordError, match=f"data_dir=.*{kind}") as caught:
        build(place)
    assert caught.value.reason == "folder not readable"


def reason_for_a_plain_user(folder: str, answers) -> None:
    if os.getuid() == 0:  # who may list everything
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        files_hash(str(existing_folder(folder)))
    except EcgJepaRecordError as error:
        answers.put(error.reason)
    else:
        answers.put("listed")


@pytest.mark.parametrize("below", [None, ".", "ward"])
def test_a_folder_without_permission_is_an_error_and_not_a_smaller_corpus(below):
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        os.chmod(place, 0o755)
        root = Path(place, "r")
        (root / "ward").mkdir(parents=True)
        if below is not None:
            (root / below).chmod(0)
        forked = multiprocessing.get_context("fork")
        answers = forked.Queue()
        process = forked.Process(target=reason_for_a_plain_user, args=(str(root), answers))
        process.start()
        assert answers.get(timeout=60) == ("listed" if below is None else "folder not readable")
        process.join()
        (root / (below or ".")).chmod(0o755)


def test_places_inside_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    assert inside(tmp_path, "a/../a/b") == tmp_path.resolve() / "a/../a/b"
    assert inside(tmp_path, "not/there") == tmp_path.resolve() / "not/there"
    for file in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(EcgJepaRecordError, match="leads out of") as caught:
            inside(tmp_path, file)
        assert caught.value.reason == "path outside the folder"
    with pytest.raises(EcgJepaRecordError) as caught:
        inside(tmp_path, "a\0b")
    assert caught.value.reason == "not readable"


# Options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on_error": "ignore"}, "on_error='ignore' must be 'skip' or 'raise'"),
        ({"sampling_rate": 0}, "sampling_rate=0 must be a number above 0"),
        ({"sampling_rate": float("nan")}, "sampling_rate=nan"),
        ({"seconds": -1}, "seconds=-1"),
        ({"label_set": "nine"}, "label_set='nine'"),
    ],
)
def test_options_that_describe_no_dataset_are_refused(folder, build, options, text):
    with pytest.raises(EcgJepaConfigError, match=re.escape(text)):
        build(folder, **options)


def test_unknown_leads_are_refused(folder, build):
    with pytest.raises(ValueError, match="V77"):
        build(folder, leads=["II", "V77"])


def test_aliases_of_leads_are_understood(folder, build):
    assert build(folder, leads=["avr", "MLII"]).config.leads == ("aVR", "II")
