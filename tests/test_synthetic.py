"""The synthetic corpus as a `datasets` builder: what its rows hold, its shares of classes, its splits, its options."""

import math

import numpy as np
import pytest

from dataset_scripts import load_ecg_dataset
from dataset_scripts.loading import corpus_builder
from dataset_scripts.splits import split_by_hash
from dataset_scripts.synthesis import DIAGNOSES, synthesize_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError


def millivolts(row) -> np.ndarray:
    counts = np.asarray(row["signal"], np.int16).reshape(len(row["lead_names"]), -1)
    return counts * np.float32(row["signal_scale"])


def names_of(dataset, row) -> list[str]:
    return dataset.features["labels"].feature.int2str(row["labels"])


def test_a_row_is_the_record_of_its_seed_place_and_class(tmp_path):
    corpus = load_ecg_dataset("synthetic", seed=3, records=24, cache_dir=tmp_path, num_proc=2)
    assert sum(map(len, corpus.values())) == 24
    for split, dataset in corpus.items():
        for row in dataset:
            place = int(row["record_id"].removeprefix("synthetic-3-"))
            record, truth = synthesize_record(3, place, diagnoses=names_of(dataset, row))
            assert np.abs(millivolts(row) - record.signal).max() <= 0.00051
            assert row["lead_names"] == list(record.lead_names) and row["sampling_rate"] == 500
            assert split == split_by_hash(row["record_id"]) and row["patient_id"] is None
            assert names_of(dataset, row) == list(truth.diagnoses)
            assert dataset.features["rhythm"].int2str(row["rhythm"]) == truth.rhythm
            assert (row["pr_ms"] is None) == (truth.pr_ms is None)
            for name in ("heart_rate", "qrs_ms", "qt_ms", "axis_degrees"):
                assert row[name] == pytest.approx(getattr(truth, name), rel=1e-6)
            assert row["added_noise_mv"] == pytest.approx(truth.noise_mv, rel=1e-6)
            assert row["beats"] == list(truth.beats) and row["r_peaks"] == pytest.approx(truth.r_peaks, rel=1e-6)


def test_streaming_gives_the_same_rows_at_the_rate_that_is_asked_for(tmp_path):
    options = {"records": 12, "sampling_rate": 250, "seconds": 6, "leads": ["II", "V1"], "split": "train"}
    prepared = load_ecg_dataset("synthetic", cache_dir=tmp_path, **options)
    streamed = list(load_ecg_dataset("synthetic", streaming=True, **options))
    assert [row["record_id"] for row in streamed] == prepared["record_id"][:]
    for row, same in zip(streamed, prepared, strict=True):
        assert len(row["signal"]) == 2 * 6 * 250 and list(row["signal"]) == list(same["signal"])
    place = int(streamed[0]["record_id"].rsplit("-", 1)[1])
    at_250, _ = synthesize_record(0, place, 250, 6, names_of(prepared, prepared[0]))  # made at this rate, not resampled
    assert np.abs(millivolts(streamed[0]) - at_250.signal[[1, 6]]).max() <= 0.00051


def test_classes_have_their_shares(tmp_path):
    builder = corpus_builder("synthetic", records=4000, cache_dir=tmp_path)
    files = [entry.file for entry in builder.index(tmp_path)]
    counts = np.array([files.count(name) for name in DIAGNOSES])
    assert counts.sum() == 4000 and counts.min() > 170 and counts.max() < 310  # 235 each, SD 15
    mix = {"sinus_rhythm": 3, "atrial_fibrillation+left_bundle_branch_block": 1}
    builder = corpus_builder("synthetic", records=1000, classes=mix, cache_dir=tmp_path)
    entries = list(builder.index(tmp_path))
    both = [entry for entry in entries if len(entry.labels) == 2]
    assert 200 < len(both) < 300 and set(both[0].labels) == {"atrial_fibrillation", "left_bundle_branch_block"}
    fewer = corpus_builder("synthetic", records=10, classes=mix, cache_dir=tmp_path)
    assert list(fewer.index(tmp_path)) == entries[:10]


def test_the_noise_is_an_option(tmp_path):
    options = {"records": 6, "classes": ["sinus_rhythm"], "cache_dir": tmp_path, "split": "train"}
    pure = load_ecg_dataset("synthetic", snr_db=math.inf, **options)
    noisy = load_ecg_dataset("synthetic", snr_db={"mains": 10.0}, **options)
    assert max(pure["added_noise_mv"]) == 0 < min(noisy["added_noise_mv"])
    assert pure["heart_rate"][:] == noisy["heart_rate"][:]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": ["scurvy"]}, "scurvy"),
        ({"classes": []}, "classes=[]"),
        ({"classes": "t_inversion"}, "must be a list"),
        ({"classes": {"t_inversion": 0}}, "weight 0"),
        ({"classes": {"t_inversion": "many"}}, "weight 'many'"),
        ({"classes": ["sinus_rhythm+atrial_flutter"]}, "Only one of"),
        ({"records": 0}, "records=0"),
        ({"records": True}, "records=True"),
        ({"seed": -1}, "seed=-1"),
        ({"snr_db": {"hum": 1}}, "hum"),
        ({"seconds": 2}, "at least 5"),
        ({"sampling_rate": 100}, "sampling_rate=100"),
        ({"data_dir": "."}, "made, not read"),
    ],
)
def test_options_that_describe_no_corpus_are_refused(options, said, tmp_path):
    with pytest.raises(EcgJepaConfigError) as refusal:
        load_ecg_dataset("synthetic", cache_dir=tmp_path, **options)
    assert said in str(refusal.value)
