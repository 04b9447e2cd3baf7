"""Embeddings in the file are those of the model called by hand; records that cannot be used are left out by name."""

import hashlib
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from transformers import AutoFeatureExtractor, AutoModel

from dataset_scripts.records import read_record, record_sha256
from dataset_scripts.skipped import SkippedRecord
from modeling_ecg_jepa import (
    EcgJepaConfig,
    EcgJepaConfigError,
    EcgJepaForMultiLabelClassification,
    EcgJepaForPreTraining,
    EcgJepaInputError,
    EcgJepaOutputError,
    EcgJepaRecordError,
)
from modeling_ecg_jepa.tools.columns import COLUMNS
from modeling_ecg_jepa.tools.embed import _ahead, embed_records, embed_to_parquet
from modeling_ecg_jepa.tools.embed_sources import name_records
from modeling_ecg_jepa.tools.embedding_files import EmbeddedWindow

NAMES = ["ptb-xl/00001_hr", "ptb-xl/00002_hr"]


@pytest.fixture(scope="module")
def model(random_model):
    return AutoModel.from_pretrained(random_model).eval()


@pytest.fixture(scope="module")
def extractor(random_model):
    return AutoFeatureExtractor.from_pretrained(random_model)


def by_hand(model, extractor, record, **options) -> np.ndarray:
    inputs = extractor(record.signal, record.sampling_rate, record.lead_names, return_tensors="pt", **options)
    for extra in ("window_to_record", "window_start_seconds"):
        inputs.pop(extra, None)
    with torch.no_grad():
        return model(**inputs).pooler_output.numpy()


def write_record(folder: Path, name: str, signal: np.ndarray, sampling_rate: float = 500) -> Path:
    """A WFDB record of leads I and II, (2, samples) in mV."""
    counts = np.round(1000 * signal).astype("<i2")
    counts.T.tofile(folder / f"{name}.dat")
    lines = [f"{name} 2 {sampling_rate} {counts.shape[1]}"]
    lines += [
        f"{name}.dat 16 1000(0)/mV 16 0 0 {row.sum(dtype=int) % 65536} 0 {lead}"
        for row, lead in zip(counts, ("I", "II"), strict=True)
    ]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return folder / f"{name}.hea"


def waves(seconds: float, sampling_rate: float = 500) -> np.ndarray:
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return np.stack([np.sin(7.1 * time) + 0.2 * np.sin(0.31 * time**1.5), np.cos(9.3 * time)])


def rows_of(items) -> list[EmbeddedWindow]:
    return [item for item in items if isinstance(item, EmbeddedWindow)]


# Rows ----------------------------------------------------------------------------------------------------------------


def test_the_file_holds_what_the_model_gives(random_model, records, model, extractor, tmp_path):
    summary = embed_to_parquet([records], random_model, tmp_path / "e.parquet", device="cpu")
    table = pq.read_table(tmp_path / "e.parquet")
    assert (summary.records, summary.rows, summary.left_out) == (2, 2, ())
    assert table["record"].to_pylist() == NAMES
    for row in table.to_pylist():
        record = read_record(records / row["record"])
        assert np.abs(np.array(row["embedding"]) - by_hand(model, extractor, record)[0]).max() < 1e-5
        assert row["lead_names"] == list(record.lead_names)
        assert (row["sampling_rate"], row["window"], row["start_s"]) == (500.0, 0, 0.0)
        assert row["sha256"] == record_sha256(records / row["record"])


def test_columns_are_those_documented_and_say_what_they_are(random_model, records, tmp_path):
    embed_to_parquet([records], random_model, tmp_path / "e.parquet", device="cpu")
    schema = pq.read_schema(tmp_path / "e.parquet")
    assert schema.names == list(COLUMNS)
    assert schema.field("embedding").type == pa.list_(pa.float32())
    assert {field.name: field.metadata[b"description"].decode() for field in schema} == COLUMNS
    origin = json.loads(schema.metadata[b"ecg_jepa"])
    weights = hashlib.sha256((random_model / "model.safetensors").read_bytes()).hexdigest()
    assert origin["weights_sha256"] == {"model.safetensors": weights}
    assert origin["model"] == str(random_model)


def test_batches_do_not_change_embeddings(model, extractor, records, tmp_path):
    write_record(tmp_path, "short", waves(4))
    paths = [records, tmp_path]
    together = rows_of(embed_records(paths, model, extractor, batch_size=32))
    alone = rows_of(embed_records(paths, model, extractor, batch_size=1, num_workers=1))
    assert [row.record for row in together] == [row.record for row in alone] == [*NAMES, "short"]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.embedding - other.embedding).max() < 1e-5
    assert np.abs(together[0].embedding - together[1].embedding).max() > 1e-4


def test_quality_holds_the_findings_of_reader_and_extractor(model, extractor, tmp_path):
    record = write_record(tmp_path, "long", waves(12))
    record.write_text(record.read_text().replace("1000(0)/mV", "1000(0)", 1))
    (row,) = rows_of(embed_records([record], model, extractor))
    quality = "\n".join(row.quality)
    assert "no unit in the header for I" in quality
    assert "V1 is not in the record: masked." in quality
    assert "Only 0.00 to 10.00 s of 12.00 s are used." in quality


def test_windows_are_those_of_the_extractor(model, extractor, records):
    options = {"window_seconds": 4.0, "stride_seconds": 2.5}
    record = read_record(records / NAMES[0])
    rows = rows_of(embed_records([records / NAMES[0]], model, extractor, **options))
    expected = by_hand(model, extractor, record, **options)
    assert [(row.window, row.start_s) for row in rows] == [(0, 0.0), (1, 2.5), (2, 5.0)]
    assert np.abs(np.stack([row.embedding for row in rows]) - expected).max() < 1e-5


def test_windows_without_stride_follow_one_another(model, extractor, records):
    rows = rows_of(embed_records([records], model, extractor, window_seconds=5.0))
    assert [(row.record, row.start_s) for row in rows] == [(name, start) for name in NAMES for start in (0.0, 5.0)]


def test_windows_begin_at_samples_also_at_odd_rates(model, extractor, tmp_path):
    record = read_record(write_record(tmp_path, "odd", waves(20, 257), 257))
    rows = rows_of(embed_records([record.path], model, extractor, window_seconds=3.0, stride_seconds=2.5))
    made = extractor(record.signal, 257, record.lead_names, window_seconds=3.0, stride_seconds=2.5)
    assert [row.start_s for row in rows] == pytest.approx(made["window_start_seconds"].tolist(), abs=1e-12)


def test_only_the_first_ten_seconds_count_unless_windows_are_asked_for(model, extractor, tmp_path):
    write_record(tmp_path, "whole", waves(30))
    write_record(tmp_path, "start", waves(30)[:, :5000])
    start, whole = rows_of(embed_records([tmp_path], model, extractor))
    assert np.abs(start.embedding - whole.embedding).max() < 1e-6


def test_chosen_leads_are_embedded_as_the_model_does(model, extractor, records):
    record = read_record(records / NAMES[0])
    inputs = extractor(record.signal, record.sampling_rate, record.lead_names, return_tensors="pt")
    with torch.no_grad():
        expected = model(inputs["input_values"][:, [1, 2]], leads=["II", "V1"]).pooler_output[0].numpy()
    (row,) = rows_of(embed_records([records / NAMES[0]], model, extractor, leads=["DII", "v1"]))
    assert np.abs(row.embedding - expected).max() < 1e-5


@pytest.mark.parametrize("kind", [EcgJepaForPreTraining, EcgJepaForMultiLabelClassification])
def test_any_of_our_models_gives_its_encoders_embeddings_and_keeps_its_mode(kind, extractor, records):
    model = kind(EcgJepaConfig.from_preset("tiny", num_hidden_layers=1, drop_path_rate=0.5)).train()
    rows = rows_of(embed_records([records], model, extractor))
    assert model.encoder.training
    model.encoder.eval()
    expected = by_hand(model.encoder, extractor, read_record(records / NAMES[1]))[0]
    assert np.abs(rows[1].embedding - expected).max() < 1e-5


# Prepared corpora ----------------------------------------------------------------------------------------------------


def test_rows_of_a_prepared_corpus_get_the_embeddings_of_their_records(
    model, extractor, prepared_corpus, labelled_records
):
    rows = {row.record: row for row in rows_of(embed_records([prepared_corpus], model, extractor))}
    records = rows_of(embed_records([labelled_records], model, extractor))
    assert len(rows) == len(records) == 15
    for record in records:
        assert np.abs(rows[record.record].embedding - record.embedding).max() < 1e-5
        assert rows[record.record].lead_names == record.lead_names
        assert (record.labels, record.patient_id, record.split) == (None, None, None)


def test_rows_keep_labels_patients_and_splits(random_model, prepared_corpus, tmp_path):
    embed_to_parquet([prepared_corpus], random_model, tmp_path / "e.parquet", device="cpu")
    table = pq.read_table(tmp_path / "e.parquet").to_pylist()
    plain = load_dataset(str(prepared_corpus), cache_dir=str(tmp_path / "cache"))
    names = plain["train"].features["labels"].feature.names
    expected = {
        row["record_id"]: ([names[label] for label in row["labels"]], row["patient_id"], split)
        for split, part in plain.items()
        for row in part
    }
    assert {row["record"]: (row["labels"], row["patient_id"], row["split"]) for row in table} == expected
    assert len({row["sha256"] for row in table}) == 15


def test_a_shard_of_a_corpus_and_its_folder_name_the_same_rows(prepared_corpus):
    shard = min((prepared_corpus / "data").glob("train-*.parquet"))
    alone, _ = name_records([shard])
    together, absent = name_records([prepared_corpus, shard])
    assert absent == [] and len(together) == 15
    assert {row.name for row in alone} < {row.name for row in together}


def test_a_folder_of_records_with_an_old_output_in_it_is_one_of_records(random_model, records, tmp_path):
    folder = Path(shutil.copytree(records, tmp_path / "records"))
    for _ in range(2):
        assert embed_to_parquet([folder], random_model, folder / "e.parquet").rows == 2


def test_two_corpora_with_the_same_ids_are_refused(prepared_corpus, tmp_path):
    shutil.copytree(prepared_corpus, tmp_path / "other")
    with pytest.raises(EcgJepaInputError, match=r"row \d+ and .* would both be called 'r\d+'.*Embed them into two"):
        name_records([prepared_corpus, tmp_path / "other"])


def test_parquet_files_that_are_no_corpus_are_left_out_with_the_reason(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    found, (absent,) = name_records([tmp_path])
    assert found == [] and absent.reason == "no prepared dataset"
    (tmp_path / "a.parquet").write_text("no Parquet")
    found, (absent,) = name_records([tmp_path / "a.parquet"])
    assert found == [] and "a.parquet" in absent.message


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_single_record_goes_by_its_name(records, suffix):
    (found,), absent = name_records([f"{records / NAMES[0]}{suffix}"])
    assert (found.name, found.header, absent) == ("00001_hr", records / "ptb-xl" / "00001_hr.hea", [])


def test_names_are_relative_to_the_folder_given(records):
    assert [record.name for record in name_records([records])[0]] == NAMES
    assert [record.name for record in name_records([records / "ptb-xl"])[0]] == ["00001_hr", "00002_hr"]


def test_a_record_given_twice_is_embedded_once(records):
    found, _ = name_records([records, records / NAMES[1], f"{records / NAMES[1]}.hea"])
    assert [record.name for record in found] == NAMES


def test_two_records_of_one_name_are_refused(records, tmp_path):
    shutil.copytree(records / "ptb-xl", tmp_path / "other")
    with pytest.raises(EcgJepaInputError, match=r"would both be called '00001_hr'.*Give a folder that holds both"):
        name_records([records / "ptb-xl", tmp_path / "other"])


# What is left out ----------------------------------------------------------------------------------------------------


def test_bad_records_are_left_out_each_with_its_reason(model, extractor, records, tmp_path):
    folder = Path(shutil.copytree(records, tmp_path / "records"))
    (folder / "pointer.hea").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    data = (folder / "ptb-xl" / "00002_hr.dat").read_bytes()
    (folder / "ptb-xl" / "00002_hr.dat").write_bytes(data[:-10])
    write_record(folder, "microvolts", 1e-3 * np.round(waves(10)))
    write_record(folder, "constant", np.zeros((2, 5000)))
    items = list(embed_records([folder, tmp_path / "absent"], model, extractor))
    left_out = {item.place: item for item in items if isinstance(item, SkippedRecord)}
    assert [row.record for row in rows_of(items)] == ["ptb-xl/00001_hr"]
    assert {place: item.reason for place, item in left_out.items()} == {
        "pointer": "Git LFS pointer",
        "ptb-xl/00002_hr": "signal file truncated",
        "microvolts": "outside the input contract",
        "constant": "outside the input contract",
        str(tmp_path / "absent"): "header missing",
    }
    assert "Taken as mV, the signal lies typically" in left_out["microvolts"].message
    assert "No usable lead" in left_out["constant"].message


def test_a_window_that_cannot_be_used_costs_no_other(model, extractor, tmp_path):
    signal = waves(9)
    signal[:, 1500:3000] = 0.0
    items = list(embed_records([write_record(tmp_path, "off", signal)], model, extractor, window_seconds=3.0))
    assert [row.window for row in rows_of(items)] == [0, 2]
    (left_out,) = (item for item in items if isinstance(item, SkippedRecord))
    assert left_out.place == "off, window 1"


def test_a_record_without_the_chosen_leads_is_left_out(model, extractor, tmp_path):
    (item,) = embed_records([write_record(tmp_path, "limb", waves(10))], model, extractor, leads=["V1", "V2"])
    assert (item.place, item.reason) == ("limb", "chosen leads missing")


def test_when_nothing_can_be_embedded_no_file_appears_and_an_old_one_stays(random_model, tmp_path):
    write_record(tmp_path, "constant", np.zeros((2, 5000)))
    with pytest.raises(EcgJepaRecordError, match=r"No record could be embedded:\n +1 x outside the input contract"):
        embed_to_parquet([tmp_path / "constant"], random_model, tmp_path / "e.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["constant.dat", "constant.hea"]
    (tmp_path / "e.parquet").write_text("of an earlier run")
    with pytest.raises(EcgJepaRecordError):
        embed_to_parquet([tmp_path / "constant"], random_model, tmp_path / "e.parquet")
    assert (tmp_path / "e.parquet").read_text() == "of an earlier run"


def test_options_that_cannot_be_are_refused_before_anything_is_read(random_model, records, tmp_path):
    faults = [
        ({"leads": ["V7"]}, EcgJepaInputError, "This model has no lead V7"),
        ({"window_seconds": 0.3}, EcgJepaConfigError, "no whole number of patches"),
        ({"window_seconds": 5.0, "stride_seconds": -1.0}, EcgJepaConfigError, "stride_seconds"),
        ({"device": "gpu"}, EcgJepaInputError, "The device 'gpu' is not available here"),
    ]
    for options, kind, message in faults:
        with pytest.raises(kind, match=message):
            embed_to_parquet([records], random_model, tmp_path / "e.parquet", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_named(random_model, records, tmp_path):
    (tmp_path / "taken.parquet").mkdir()
    for output, message in (
        (tmp_path / "taken.parquet", "is a folder"),
        (tmp_path / "absent" / "e.parquet", "Cannot write"),
    ):
        with pytest.raises(EcgJepaOutputError, match=message):
            embed_to_parquet([records], random_model, output)


def test_reading_ahead_stays_within_its_bound_and_keeps_the_order():
    started, most_open = [], 0
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        return item * item

    with ThreadPoolExecutor(4) as pool:
        for done, result in enumerate(_ahead(pool, work, range(50), 3)):
            assert result == done * done
            most_open = max(most_open, len(started) - done)
    assert most_open <= 4


def test_what_comes_after_the_last_whole_window_is_noted(random_model, records, tmp_path):
    embed_to_parquet([records], random_model, tmp_path / "e.parquet", window_seconds=3.0, progress=False)
    rows = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert [row["window"] for row in rows[:3]] == [0, 1, 2]
    assert "The 1.00 s after this, the last whole window, are not embedded." in rows[2]["quality"]
    assert not any("after this" in text for row in rows[:2] for text in row["quality"])


def test_another_suffix_than_parquet_is_refused(random_model, records, tmp_path):
    with pytest.raises(EcgJepaOutputError, match=r"written as Parquet; name the file .*e\.parquet"):
        embed_to_parquet([records], random_model, tmp_path / "e.csv", progress=False)
