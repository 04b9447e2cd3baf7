"""A checkpoint that no longer computes what it did at export is found, whatever was changed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

from modeling_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfig,
    EcgJepaForMultiLabelClassification,
    EcgJepaForPreTraining,
    EcgJepaForRegression,
    EcgJepaModel,
    EcgJepaOutputError,
)
from modeling_ecg_jepa.tools.verify import built_in_signal, verify, write_verification


def failures(folder: Path) -> list[str]:
    return [check.text for check in verify(folder) if not check.passed]


def change_weight(folder: Path, name: str, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[name] = change(weights[name])
    save_file(weights, path, metadata={"format": "pt"})


def change_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def accept_files(folder: Path) -> None:
    """Write the hashes of the files as they are into the verification, so that only the embeddings can tell."""
    stored = json.loads((folder / "verification.json").read_text())
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in stored["sha256"]}
    change_json(folder / "verification.json", sha256=hashes)


def test_a_checkpoint_as_exported_passes(converted):
    checks = verify(converted)
    assert failures(converted) == []
    texts = "\n".join(check.text for check in checks)
    for part in (
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "all leads",
        "every other lead, padded",
    ):
        assert part in texts


def test_what_is_stored_is_what_auto_model_computes(converted):
    stored = json.loads((converted / "verification.json").read_text())["embeddings"]["all leads"]
    extractor, model = AutoFeatureExtractor.from_pretrained(converted), AutoModel.from_pretrained(converted).eval()
    inputs = extractor(built_in_signal(extractor.leads, 10, 500), 500, extractor.leads, return_tensors="pt")
    with torch.no_grad():
        embedding = model(**inputs).pooler_output
    assert np.abs(np.array(stored) - embedding.numpy()).max() < 1e-6
    assert np.std(stored) > 0.01  # of a kind that tells models apart


def test_the_built_in_signal_is_a_formula_without_chance():
    signal = built_in_signal(["I", "II", "V1"], 2.0, 500)
    assert signal.shape == (3, 1000)
    place, sample = 2, 333
    angle = 2 * np.pi * sample / 500
    by_hand = 0.6 * np.sin((1.1 + 0.13 * place) * angle + place) + 0.25 * np.sin((9.0 + 1.7 * place) * angle)
    assert signal[place, sample] == pytest.approx(by_hand, abs=1e-12)


def test_a_changed_weight_is_found_by_its_hash_and_by_what_it_computes(own_copy):
    change_weight(own_copy, "layers.1.mlp.fc1.weight", lambda weight: 1.05 * weight)
    found = failures(own_copy)
    assert len(found) == 3
    assert "model.safetensors was changed after the export" in found[0]
    assert all("embedding of" in text for text in found[1:])
    accept_files(own_copy)
    assert len(failures(own_copy)) == 2


def test_another_number_of_heads_is_found_by_what_it_computes(own_copy):
    change_json(own_copy / "config.json", num_attention_heads=2)
    assert len(failures(own_copy)) == 3
    accept_files(own_copy)
    assert len(failures(own_copy)) == 2


def test_another_preprocessing_is_found_by_what_comes_of_it(own_copy):
    change_json(own_copy / "preprocessor_config.json", bandpass=[0.67, 40.0])
    accept_files(own_copy)
    assert len(failures(own_copy)) == 2


def test_differences_between_processors_are_tolerated(own_copy):
    torch.manual_seed(0)
    change_weight(
        own_copy, "layers.0.attention.qkv.weight", lambda weight: weight * (1 + 1e-6 * torch.randn_like(weight))
    )
    accept_files(own_copy)
    assert failures(own_copy) == []


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"num_hidden_layers": 2}, "have, beside what config.json describes, layers.2."),
        ({"num_hidden_layers": 4}, "lack layers.3."),
        ({"hidden_size": 32, "num_attention_heads": 4}, "cannot be loaded"),
    ],
)
def test_weights_of_another_model_fail_instead_of_being_filled_up_at_random(own_copy, field, message):
    change_json(own_copy / "config.json", **field)
    assert any(message in text for text in failures(own_copy))


def test_leads_that_differ_between_extractor_and_model_fail(own_copy):
    leads = json.loads((own_copy / "preprocessor_config.json").read_text())["leads"]
    change_json(own_copy / "preprocessor_config.json", leads=leads[::-1])
    assert any("preprocessor_config.json has leads=['V6'" in text for text in failures(own_copy))


def test_truncated_weights_fail(own_copy):
    weights = (own_copy / "model.safetensors").read_bytes()
    (own_copy / "model.safetensors").write_bytes(weights[:-100])
    found = failures(own_copy)
    assert "model.safetensors was changed" in found[0]
    assert "damaged" in found[1]


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_fails(own_copy, name):
    (own_copy / name).unlink()
    assert f"{name} is missing" in failures(own_copy)


def test_a_folder_without_verification_says_how_to_get_one(own_copy):
    (own_copy / "verification.json").unlink()
    with pytest.raises(EcgJepaCheckpointError, match=r"has no verification.json.*ecg-jepa verify .*copy --write"):
        verify(own_copy)
    write_verification(own_copy)
    assert failures(own_copy) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "holds no JSON object"),
        ('{"schema_version": 99}', "has schema_version 99; this version of ecg-jepa reads 1"),
        ('{"schema_version": 1, "sha256": []}', "is damaged"),
    ],
)
def test_a_verification_that_cannot_be_used_is_an_error(own_copy, content, message):
    (own_copy / "verification.json").write_text(content)
    with pytest.raises(EcgJepaCheckpointError, match=message):
        verify(own_copy)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (EcgJepaModel, {"leads": ["II"], "pooling": "attention"}),
        (EcgJepaForPreTraining, {"leads": ["I", "II", "V1"], "num_patches": 20}),
        (EcgJepaForMultiLabelClassification, {"num_labels": 3}),
        (EcgJepaForRegression, {"regression_targets": [{"name": "age", "unit": "years", "mean": 50.0, "scale": 15.0}]}),
    ],
)
def test_every_kind_of_checkpoint_can_be_verified(tmp_path, kind, options):
    kind(EcgJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **options)).save_pretrained(tmp_path)
    write_verification(tmp_path)
    assert failures(tmp_path) == []


def test_what_is_no_checkpoint_is_an_error(own_copy, tmp_path):
    with pytest.raises(EcgJepaCheckpointError, match=r"config.json is missing; a checkpoint is a folder with"):
        verify(tmp_path)
    change_json(own_copy / "config.json", model_type="bert")
    with pytest.raises(EcgJepaCheckpointError, match="a model of type 'bert', not an ECG-JEPA model"):
        verify(own_copy)
    with pytest.raises(EcgJepaCheckpointError, match="neither a folder nor a model that the Hub gives out"):
        verify(tmp_path / "absent" / "model")


def test_a_verification_that_cannot_be_written_is_an_output_error(own_copy):
    (own_copy / "verification.json").unlink()
    (own_copy / "verification.json").mkdir()
    with pytest.raises(EcgJepaOutputError, match="verification.json is a folder"):
        write_verification(own_copy)
