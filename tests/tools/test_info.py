"""What `ecg-jepa info` says of a checkpoint is what its files hold."""

import hashlib
import json

import pytest

from modeling_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfig,
    EcgJepaForMultiLabelClassification,
    EcgJepaForPreTraining,
    EcgJepaForRegression,
    EcgJepaModel,
)
from modeling_ecg_jepa.tools.info import describe, encoder_parameters, in_words

TINY = {"leads": ["I", "II"], "num_hidden_layers": 1}


def test_the_base_model_has_the_papers_parameters():
    assert encoder_parameters(EcgJepaConfig()) == 85_067_520


def test_a_converted_checkpoint_is_described(converted):
    description = describe(converted)
    assert description["architectures"] == ["EcgJepaModel"]
    assert description["sizes"]["hidden_size"] == 64
    assert description["input"]["leads"] == ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
    assert (description["input"]["sampling_rate"], description["input"]["seconds"]) == (250, 10.0)
    assert description["parameters"]["stored"] == {"encoder": description["parameters"]["encoder"]}
    assert description["converted_from"]["epoch"] == 99
    for name, digest in description["files"].items():
        assert digest == hashlib.sha256((converted / name).read_bytes()).hexdigest()
    assert description["files"].keys() >= {"model.safetensors", "config.json", "preprocessor_config.json"}


def test_the_parts_of_a_pretraining_checkpoint_are_counted(tmp_path):
    model = EcgJepaForPreTraining(EcgJepaConfig.from_preset("tiny", **TINY))
    model.save_pretrained(tmp_path)
    stored = describe(tmp_path)["parameters"]["stored"]
    for part in ("encoder", "teacher", "predictor"):
        assert stored[part] == sum(parameter.numel() for parameter in getattr(model, part).parameters())


def test_another_signal_than_an_ecg_is_named(tmp_path):
    config = EcgJepaConfig.from_preset("tiny", **(TINY | {"leads": ["Fz", "Cz"], "modality": "other"}))
    EcgJepaModel(config).save_pretrained(tmp_path)
    assert describe(tmp_path)["input"]["modality"] == "other"
    assert "modality         other" in in_words(describe(tmp_path))


def test_labels_are_named(tmp_path):
    config = EcgJepaConfig.from_preset("tiny", **TINY, id2label={0: "NORM", 1: "MI"})
    EcgJepaForMultiLabelClassification(config).save_pretrained(tmp_path / "classes")
    assert describe(tmp_path / "classes")["labels"] == ["NORM", "MI"]
    targets = [{"name": "heart rate", "unit": "bpm", "mean": 70.0, "scale": 15.0}]
    config = EcgJepaConfig.from_preset("tiny", **TINY, regression_targets=targets)
    EcgJepaForRegression(config).save_pretrained(tmp_path / "targets")
    assert "1: heart rate (bpm)" in "\n".join(in_words(describe(tmp_path / "targets")))


def test_the_training_state_is_told_where_there_is_one(own_copy):
    state = {
        "schema_version": 1,
        "steps": 600,
        "loss": {"first_logged": 0.5, "last_logged": 0.25},
        "records_left_out": [],
    }
    (own_copy / "training_state.json").write_text(json.dumps(state))
    (own_copy / "pretraining").mkdir()
    description = describe(own_copy)
    assert description["training"]["state"] == state
    text = "\n".join(in_words(description))
    assert "steps 600" in text
    assert "loss: first_logged 0.5, last_logged 0.25" in text
    assert "student, teacher and predictor are in pretraining/" in text


def test_it_is_all_json(converted):
    assert json.loads(json.dumps(describe(converted))) == describe(converted)


def test_damaged_or_missing_weights_are_an_error(own_copy):
    weights = own_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EcgJepaCheckpointError, match=r"model.safetensors is damaged"):
        describe(own_copy)
    weights.unlink()
    with pytest.raises(EcgJepaCheckpointError, match="has no weights"):
        describe(own_copy)
