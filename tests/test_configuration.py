"""The configuration is the paper's by default and refuses what describes no model."""

import copy
import json

import pytest

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaConfigError


def test_default_is_the_papers_base_model():
    config = EcgJepaConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 16)
    assert (config.predictor_hidden_size, config.predictor_num_hidden_layers) == (384, 6)
    assert config.predictor_num_attention_heads == 12
    assert config.leads == ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
    assert (config.sampling_rate, config.patch_size, config.num_patches) == (250, 50, 50)
    assert (config.mask_type, config.mask_num_blocks) == ("multi_block", 4)
    assert (config.mask_ratio, config.mask_block_ratio) == ([0.6, 0.7], [0.175, 0.225])
    assert (config.patch_initializer_range, config.position_scale, config.target_centering) == (0.02, 1.0, False)


@pytest.mark.parametrize(
    ("preset", "sizes"), [("tiny", (96, 4, 4, 48, 2, 2)), ("small", (384, 12, 6, 192, 6, 6)), ("base", None)]
)
def test_presets(preset, sizes):
    config = EcgJepaConfig.from_preset(preset)
    if sizes is None:
        assert config.to_dict() == EcgJepaConfig().to_dict()
        return
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    assert tuple(getattr(config, p + name) for p in ("", "predictor_") for name in names) == sizes


def test_unknown_preset_names_the_choices():
    with pytest.raises(EcgJepaConfigError, match="Unknown preset 'huge'; choose one of tiny, small, base"):
        EcgJepaConfig.from_preset("huge")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_sise": 768}, "has no field 'hidden_sise'. Did you mean 'hidden_size'?"),
        ({"hidden_size": 770}, "hidden_size=770 must divide by 4"),
        ({"hidden_size": "768"}, "'hidden_size' expected int, got str"),
        ({"num_attention_heads": 5}, "hidden_size=768 must divide by num_attention_heads=5"),
        (
            {"predictor_num_attention_heads": 7},
            "predictor_hidden_size=384 must divide by predictor_num_attention_heads=7",
        ),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be at least 1"),
        ({"leads": ["I", "Q9"]}, "Unknown lead name 'Q9'"),
        ({"leads": ["I", "DI"]}, "Lead I is named twice"),
        ({"leads": []}, "must name at least one lead"),
        ({"leads": ["I", "avrr"]}, "Did you mean 'aVR'"),
        ({"leads": ["Fp1", "Fp2"]}, "Unknown lead name 'Fp1'.*Channels of another signal.*need modality='other'"),
        ({"leads": ["Fp1", "Fp1"], "modality": "other"}, "Lead Fp1 is named twice"),
        ({"modality": "eeg"}, "expected one of .'ecg', 'other'."),
        ({"mask_type": "blocks"}, "expected one of .'multi_block', 'random'."),
        ({"mask_type": "random", "mask_ratio": (0.6, 1.0)}, "0 < low <= high < 1"),
        ({"mask_block_ratio": (0.3, 0.2)}, "0 < low <= high < 1"),
        ({"mask_type": "random", "mask_ratio": (0.01, 0.6)}, "hides no patch of num_patches=50"),
        ({"mask_block_ratio": (0.2, 0.26)}, "can hide all num_patches=50"),
        ({"num_patches": 1}, "num_patches=1 must be at least 2"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0 must be in"),
        ({"position_scale": 0.0}, "position_scale=0.0 must be a positive number"),
        ({"patch_initializer_range": float("nan")}, "patch_initializer_range=nan must be a positive number"),
        ({"thresholds": [0.5], "num_labels": 3}, "thresholds=.0.5. must have one number a label, num_labels=3"),
        ({"pos_weight": [1.0], "num_labels": 3}, "pos_weight=.1.0. must have one number a label, num_labels=3"),
        ({"regression_targets": [{"name": "HR"}]}, "must have exactly name, unit, mean and scale"),
        (
            {"regression_targets": [{"name": "HR", "unit": "bpm", "mean": 70, "scale": 0}]},
            "must have a finite mean and a positive scale",
        ),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(EcgJepaConfigError, match=message):
        EcgJepaConfig(**fields)


def test_a_lever_may_be_a_whole_number():
    assert EcgJepaConfig(patch_initializer_range=2, position_scale=1).patch_initializer_range == 2


def test_a_later_change_is_checked_before_saving(tmp_path):
    config = EcgJepaConfig()
    config.hidden_size = 770
    with pytest.raises(EcgJepaConfigError, match="hidden_size=770 must divide by 4"):
        config.save_pretrained(tmp_path)


def test_lead_aliases_become_canonical():
    assert EcgJepaConfig(leads=["MLII", "v1", "AVR"]).leads == ["II", "V1", "aVR"]


def test_channels_of_another_signal_are_kept_as_they_are_named(tmp_path):
    config = EcgJepaConfig.from_preset("tiny", modality="other", leads=["C3", "Fp1"], sampling_rate=200, patch_size=40)
    config.save_pretrained(tmp_path)
    loaded = EcgJepaConfig.from_pretrained(tmp_path)
    assert (loaded.modality, loaded.leads) == ("other", ["C3", "Fp1"])
    assert loaded.to_dict() == config.to_dict()


def test_saved_and_loaded_is_equal(tmp_path):
    config = EcgJepaConfig.from_preset("tiny", leads=["I", "II"], target_centering=True, id2label={0: "MI", 1: "HYP"})
    config.save_pretrained(tmp_path)
    loaded = EcgJepaConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.label2id == {"MI": 0, "HYP": 1}
    renamed = EcgJepaConfig.from_pretrained(tmp_path, id2label={0: "AF", 1: "SR", 2: "VT"})
    assert renamed.label2id == {"AF": 0, "SR": 1, "VT": 2} and renamed.num_labels == 3
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_what_the_trainer_stores_is_no_field_of_a_newer_version(tmp_path, caplog):
    EcgJepaConfig().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"use_cache": False}))
    EcgJepaConfig.from_pretrained(tmp_path)
    assert caplog.text == ""


def test_a_newer_versions_field_is_ignored_with_a_warning(tmp_path, caplog):
    EcgJepaConfig().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"from_the_future": 1}))
    config = EcgJepaConfig.from_pretrained(tmp_path)
    assert "does not know and ignores: from_the_future" in caplog.text
    assert config.hidden_size == 768
    assert not hasattr(config, "from_the_future")


def test_regression_targets_name_the_labels():
    config = EcgJepaConfig(regression_targets=[{"name": "QRS", "unit": "ms", "mean": 95.0, "scale": 15.0}])
    assert config.id2label == {0: "QRS"}
    assert config.num_labels == 1
