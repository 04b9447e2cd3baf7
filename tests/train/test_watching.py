"""What is seen of a run: the online probe teaches nothing, and a tracker gets what the log says."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor
from train.online_probe import INVERSE_PENALTY, label_auroc, labelled_records
from train.options import CorpusChoice, PretrainOptions
from train.pretrain import pretrain
from train.report import describe_online_probe

CLASSES = ["sinus_rhythm", "atrial_fibrillation", "left_bundle_branch_block"]
LABELLED = CorpusChoice("synthetic", options={"records": 40, "classes": CLASSES})
OPTIONS = PretrainOptions(
    preset="tiny",
    max_steps=4,
    logging_steps=2,
    num_records=8,
    batch_size=4,
    learning_rate=1e-3,
    probe_records=0,
    cpu_threads=1,
)
PROBED = dataclasses.replace(OPTIONS, probe_records=20, probe_steps=2, probe_corpus=LABELLED, tracker=["tensorboard"])


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def probed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("probed")
    pretrain(dataclasses.replace(PROBED, output_dir=str(folder)))
    return folder


def test_every_so_many_steps_heart_rate_and_labels_are_read_off_the_student(probed):
    for line in log_of(probed):
        assert 0 < line["probe_bpm_mean"] < 100 and 0 < line["probe_bpm_lead"] < 100
        assert 0 <= line["probe_auroc_mean"] <= 1 and 0 <= line["probe_auroc_lead"] <= 1


def test_the_summary_has_what_the_probe_read_first_and_last(probed):
    first, last = json.loads((probed / "training_state.json").read_text())["online_probe"]
    lines = log_of(probed)
    assert (first["step"], last["step"]) == (0, 4)
    assert last["probe_auroc_lead"] == lines[-1]["probe_auroc_lead"]
    assert f"macro AUROC of labels, mean a lead, side by side: {last['probe_auroc_lead']:.3f}" in describe_online_probe(
        first, last
    )


def test_the_probe_changes_nothing_of_what_is_learned(probed, tmp_path):
    pretrain(dataclasses.replace(OPTIONS, output_dir=str(tmp_path)))
    ours, theirs = (load_file(folder / "pretraining" / "model.safetensors") for folder in (probed, tmp_path))
    assert [name for name in theirs if not ours[name].equal(theirs[name])] == []


def test_tensorboard_gets_every_number_of_every_line_of_the_log(probed):
    events = EventAccumulator(str(probed / "logs")).Reload()
    lines = log_of(probed)
    names = {name for line in lines for name in line}
    assert set(events.Tags()["scalars"]) >= names
    for name in names:
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line], name


def test_the_held_out_part_is_the_same_every_time_and_keeps_patients_together():
    options = dataclasses.replace(OPTIONS, probe_corpus=LABELLED, probe_steps=1)
    rows, labels, held_out = labelled_records(options, EcgJepaFeatureExtractor(), quiet=True)
    assert len(rows) == len(labels) == len(held_out)
    assert 0 < held_out.sum() < len(rows) / 2
    assert np.array_equal(held_out, labelled_records(options, EcgJepaFeatureExtractor(), quiet=True)[2])


def test_a_corpus_without_labels_cannot_be_probed(make_rows, tmp_path):
    make_rows(4).to_parquet(tmp_path / "train-00000.parquet")
    choice = CorpusChoice("prepared", str(tmp_path))
    with pytest.raises(EcgJepaConfigError, match=r"prepared:.* has no labels"):
        labelled_records(
            dataclasses.replace(OPTIONS, probe_corpus=choice, probe_steps=1), EcgJepaFeatureExtractor(), quiet=True
        )


def test_the_macro_auroc_is_the_mean_over_the_classes_that_both_parts_have():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(80, 5))
    labels = np.stack([embeddings[:, 0] > 0, rng.random(80) > 0.5, np.zeros(80)], axis=1).astype(int)
    held_out = np.arange(80) % 4 == 0
    mean, std = embeddings[~held_out].mean(0), embeddings[~held_out].std(0)
    scaled = (embeddings - mean) / std
    expected = []
    for label in (0, 1):
        reader = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(scaled[~held_out], labels[~held_out, label])
        expected.append(roc_auc_score(labels[held_out, label], reader.decision_function(scaled[held_out])))
    assert label_auroc(embeddings, labels, held_out) == pytest.approx(np.mean(expected))
    assert label_auroc(embeddings, labels[:, 2:], held_out) is None
