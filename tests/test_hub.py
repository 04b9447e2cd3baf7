"""A saved folder is self-contained: it loads by trust_remote_code where the package cannot be imported."""

import copy
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from modeling_ecg_jepa import (
    EcgJepaConfig,
    EcgJepaFeatureExtractor,
    EcgJepaForMultiLabelClassification,
    EcgJepaForPreTraining,
    EcgJepaForRegression,
    EcgJepaModel,
)

TARGETS = [{"name": "heart rate", "unit": "bpm", "mean": 70.0, "scale": 15.0}]
CLASSES = {
    cls.__name__: cls
    for cls in (EcgJepaModel, EcgJepaForPreTraining, EcgJepaForMultiLabelClassification, EcgJepaForRegression)
}

ELSEWHERE = textwrap.dedent(
    """
    import importlib.abc, json, sys

    class Absent(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {"modeling_ecg_jepa", "dataset_scripts", "wfdb", "datasets", "typer"}:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    import torch, transformers

    wave = torch.sin(torch.arange(5000) / 40)
    signal = torch.stack([wave * (lead + 1) / 8 for lead in range(8)])

    def load(folder, again):
        trust = {"trust_remote_code": True}
        config = transformers.AutoConfig.from_pretrained(folder, **trust)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **trust)
        inputs = extractor(signal, sampling_rate=500, leads=config.leads, unit="mV", return_tensors="pt")
        found = {}
        for auto in ("AutoModel", "AutoModelForPreTraining", "AutoModelForSequenceClassification"):
            model = getattr(transformers, auto).from_pretrained(folder, **trust).eval()
            found[auto] = type(model).__name__
            if auto == "AutoModel":
                with torch.no_grad():
                    found["embedding"] = model(**inputs).pooler_output[0, :5].tolist()
                model.save_pretrained(again)  # what came from a Hub can be shared again
        return found

    print(json.dumps({folder: load(folder, folder + "-again") for folder in sys.argv[1:]}))
    """
)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    config = EcgJepaConfig.from_preset("tiny", num_hidden_layers=2, regression_targets=TARGETS)
    return {name: cls(copy.deepcopy(config)).eval() for name, cls in CLASSES.items()}


@pytest.fixture(scope="module")
def elsewhere(models, tmp_path_factory):
    """What a fresh process finds in each folder: another directory, no package, an empty cache of remote modules."""
    here = tmp_path_factory.mktemp("elsewhere")
    for name, model in models.items():
        model.save_pretrained(here / name)
    (here / "load.py").write_text(ELSEWHERE)
    environment = {**os.environ, "HF_MODULES_CACHE": str(here / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "load.py", *models]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return here, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_saved_from_any_class_serves_every_auto_class(name, models, elsewhere):
    here, found = elsewhere[0], elsewhere[1][name]
    assert found["AutoModel"] == "EcgJepaModel"
    assert found["AutoModelForPreTraining"] == "EcgJepaForPreTraining"
    head = "EcgJepaForRegression" if name == "EcgJepaForRegression" else "EcgJepaForMultiLabelClassification"
    assert found["AutoModelForSequenceClassification"] == head

    encoder = models[name] if name == "EcgJepaModel" else models[name].encoder
    wave = torch.sin(torch.arange(5000) / 40)
    signal = torch.stack([wave * (lead + 1) / 8 for lead in range(8)])
    extractor = EcgJepaFeatureExtractor.from_pretrained(here / name)
    inputs = extractor(signal, sampling_rate=500, leads=encoder.config.leads, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(**inputs).pooler_output[0, :5]
    torch.testing.assert_close(torch.tensor(found["embedding"]), expected, rtol=0, atol=1e-5)
    again = {path.name for path in (here / f"{name}-again").iterdir()}
    assert again == {path.name for path in (here / name).iterdir()}


@pytest.mark.parametrize("save", [EcgJepaConfig(), EcgJepaFeatureExtractor()], ids=["config", "extractor"])
def test_configuration_and_extractor_bring_the_code_too(save, tmp_path):
    save.save_pretrained(tmp_path)
    stored = json.loads(next(tmp_path.glob("*.json")).read_text())
    for reference in stored["auto_map"].values():
        assert (tmp_path / f"{reference.split('.')[0]}.py").is_file()


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path):
    EcgJepaModel(EcgJepaConfig.from_preset("tiny")).save_pretrained(tmp_path)
    modes = {name: (tmp_path / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert modes["config.json"] == modes["model.safetensors"]


def test_saving_into_the_folder_a_model_came_from_keeps_it_whole(tmp_path):
    model = EcgJepaModel(EcgJepaConfig.from_preset("tiny"))
    model.save_pretrained(tmp_path)
    extractor = EcgJepaFeatureExtractor(leads=["I", "II"], num_patches=20)
    extractor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert EcgJepaFeatureExtractor.from_pretrained(tmp_path).num_patches == 20  # a chosen extractor is not overwritten
