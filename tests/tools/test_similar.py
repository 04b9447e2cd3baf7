"""Neighbours are those of a plain search over cosines; the record is embedded as the index was, or refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial.distance import cdist
from typer.testing import CliRunner

from modeling_ecg_jepa import EcgJepaCheckpointError, EcgJepaInputError, EcgJepaRecordError
from modeling_ecg_jepa.tools.cli import app
from modeling_ecg_jepa.tools.embed import embed_to_parquet
from modeling_ecg_jepa.tools.embed_shards import embed_to_shards
from modeling_ecg_jepa.tools.embedding_files import read_embeddings
from modeling_ecg_jepa.tools.similar import Neighbor, find_similar, in_words, nearest_distances


@pytest.fixture(scope="module")
def index(prepared_corpus, random_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("index") / "index.parquet"
    embed_to_parquet([prepared_corpus], random_model, path, device="cpu")
    return path


def test_distances_are_those_of_scipy_and_the_nearest_query_counts():
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(200, 12)).astype(np.float32), rng.normal(size=(3, 12)).astype(np.float32)
    expected = cdist(queries, vectors, "cosine")
    distances, query_of = nearest_distances(vectors, queries, 7)
    nearest = sorted(distances, key=distances.get)[:7]
    assert nearest == np.argsort(expected.min(axis=0))[:7].tolist()
    for row in nearest:
        assert distances[row] == pytest.approx(expected[:, row].min(), abs=1e-6)
        assert query_of[row] == expected[:, row].argmin()


def test_a_record_finds_itself_first_then_the_others_with_their_labels(index, labelled_records):
    found = find_similar(labelled_records / "r04", index, count=5, device="cpu")
    assert (found[0].record, found[0].labels, found[0].patient_id) == ("r04", ("AF",), "p4")
    assert found[0].distance < 1e-5
    assert len(found) == 5 and [each.distance for each in found] == sorted(each.distance for each in found)
    embeddings = read_embeddings(index)
    names = embeddings.rows["record"].to_pylist()
    expected = cdist(embeddings.vectors[[names.index("r04")]], embeddings.vectors, "cosine")[0]
    assert [each.record for each in found] == [names[row] for row in np.argsort(expected)[:5]]


def test_a_folder_of_shards_gives_what_a_file_does(index, prepared_corpus, labelled_records, random_model, tmp_path):
    embed_to_shards([prepared_corpus], random_model, tmp_path / "shards", shard_records=4, device="cpu")
    one, other = (find_similar(labelled_records / "r07", place, device="cpu") for place in (index, tmp_path / "shards"))
    assert [each.record for each in one] == [each.record for each in other]
    assert [each.distance for each in one] == pytest.approx([each.distance for each in other], abs=1e-6)


def test_the_record_is_cut_and_reduced_to_leads_as_the_index_was(records, random_model, tmp_path):
    options = {"window_seconds": 4.0, "stride_seconds": 2.0, "leads": ["II", "V1"]}
    embed_to_parquet([records], random_model, tmp_path / "windows.parquet", device="cpu", **options)
    found = find_similar(records / "ptb-xl/00002_hr", tmp_path / "windows.parquet", count=4, device="cpu")
    assert {(each.record, each.start_s, each.from_s) for each in found} == {
        ("ptb-xl/00002_hr", start, start) for start in (0.0, 2.0, 4.0, 6.0)
    }
    assert max(each.distance for each in found) < 1e-5
    assert in_words(found)[0].split() == ["distance", "record", "starts", "at", "nearest", "to", "labels"]


def test_fewer_rows_than_wanted_are_all_of_them(index, labelled_records):
    assert len(find_similar(labelled_records / "r00", index, count=100, device="cpu")) == 15


def test_another_model_than_that_of_the_index_is_refused(index, labelled_records, converted):
    with pytest.raises(EcgJepaCheckpointError, match=r"of another hash than .*Pass that model by --model"):
        find_similar(labelled_records / "r00", index, model=converted, device="cpu")


def test_the_same_model_elsewhere_is_taken_and_one_that_is_gone_is_asked_for(labelled_records, random_model, tmp_path):
    moved = Path(shutil.copytree(random_model, tmp_path / "first"))
    embed_to_parquet([labelled_records], moved, tmp_path / "e.parquet", device="cpu")
    moved.rename(tmp_path / "second")
    with pytest.raises(EcgJepaCheckpointError, match=r"which is not there .*Say by --model where it lies now"):
        find_similar(labelled_records / "r00", tmp_path / "e.parquet", device="cpu")
    found = find_similar(labelled_records / "r00", tmp_path / "e.parquet", model=tmp_path / "second", device="cpu")
    assert (found[0].record, found[0].labels) == ("r00", None)


def test_records_that_cannot_be_embedded_are_refused_with_the_reason(index, labelled_records, tmp_path):
    with pytest.raises(EcgJepaInputError, match="is a folder; name one WFDB record"):
        find_similar(labelled_records, index, device="cpu")
    with pytest.raises(EcgJepaRecordError, match=r"absent:\n +1 x header missing"):
        find_similar(tmp_path / "absent", index, device="cpu")


def test_an_index_that_is_none_is_refused(labelled_records, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("text")
    for name, message in (("a.parquet", "it lacks their metadata"), ("b.parquet", "is no file of embeddings")):
        with pytest.raises(EcgJepaInputError, match=message):
            find_similar(labelled_records / "r00", tmp_path / name, device="cpu")


def test_vectors_of_another_size_are_refused():
    with pytest.raises(EcgJepaInputError, match="vectors of 12 numbers, the record one of 8"):
        nearest_distances(np.ones((3, 12), np.float32), np.ones((1, 8), np.float32), 1)


def test_the_table_says_which_labels_are_none_and_which_unknown():
    neighbors = [Neighbor("a", 0.0, 0.25, ("AF", "MI"), None, 0.0), Neighbor("long", 0.0, 0.5, (), None, 0.0)]
    assert in_words([*neighbors, Neighbor("b", 0.0, 1.0, None, None, 0.0)]) == [
        "distance  record  labels",
        "0.250000  a       AF, MI",
        "0.500000  long    none",
        "1.000000  b       unknown",
    ]


def test_the_command_prints_a_table_or_json(index, labelled_records):
    words = ["similar", str(labelled_records / "r02.hea"), "--index", str(index), "--neighbors", "2"]
    table = CliRunner().invoke(app, words)
    assert (table.exit_code, table.output.splitlines()[1].split()[1:]) == (0, ["r02", "AF"])
    objects = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert len(objects) == 2 and objects[0]["record"] == "r02"
    assert objects[0].keys() == {"record", "start_s", "distance", "labels", "patient_id", "from_s"}
