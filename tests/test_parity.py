"""Equal to what the authors' code computed (tests/fixtures/authors_tiny), for each attention implementation."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaForPreTraining
from modeling_ecg_jepa.tools.convert import to_our_name

FIXTURE = Path(__file__).parent / "fixtures" / "authors_tiny"
SUBSETS = json.loads((FIXTURE / "reference.json").read_text())["subsets"]


@pytest.fixture(scope="module")
def reference():
    parts = [load_file(FIXTURE / f"{part}.safetensors") for part in ("states", "outputs", "gradients")]
    student = torch.load(FIXTURE / "encoder.pth", weights_only=True)["encoder"]
    return parts[0] | parts[1] | parts[2] | {f"state.encoder.{name}": tensor for name, tensor in student.items()}


@pytest.fixture(params=["eager", "sdpa", "cropa"])
def model(request, reference):
    sizes = json.loads((FIXTURE / "reference.json").read_text())
    config = EcgJepaConfig(**{name: size for name, size in sizes.items() if "hidden" in name or "heads" in name})
    model = EcgJepaForPreTraining(config).eval()
    model.set_attn_implementation(request.param)
    for part, theirs in ((model.encoder, "encoder"), (model.teacher, "target_encoder"), (model.predictor, "predictor")):
        part.load_state_dict(named(reference, f"state.{theirs}."))
    return model


def named(reference, prefix):
    """Their tensors under our names; their stored positions have no counterpart."""
    names = [name.removeprefix(prefix) for name in reference if name.startswith(prefix) and "pos_embed" not in name]
    return {to_our_name(name): reference[prefix + name] for name in names}


def assert_near(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=0, atol=tolerance)


@torch.no_grad()
def test_embeddings(model, reference):
    out = model.encoder(reference["signal"])
    assert_near(out.last_hidden_state, reference["last_hidden_state"])
    assert_near(out.pooler_output, reference["representation.all"])


@pytest.mark.parametrize("subset", SUBSETS)
@torch.no_grad()
def test_lead_subsets(model, reference, subset):
    there = SUBSETS[subset]
    names = [model.config.leads[place] for place in there]
    signal, expected = reference["signal"], reference[f"representation.{subset}"]
    assert_near(model.encoder(signal[:, there], leads=names).pooler_output, expected)
    lead_mask = torch.zeros(len(signal), 8, dtype=torch.bool)
    lead_mask[:, there] = True
    assert_near(model.encoder(signal, lead_mask=lead_mask).pooler_output, expected)


@pytest.mark.parametrize("mask", ["random", "block"])
def test_pretraining_and_its_gradients(model, reference, mask):
    out = model(reference["signal"], time_mask=reference[f"{mask}.time_mask"].bool())
    assert_near(out.targets, reference[f"{mask}.target"])
    assert_near(out.context.flatten(1, 2), reference[f"{mask}.context"])
    assert_near(out.predictions, reference[f"{mask}.prediction"])
    assert_near(out.loss, reference[f"{mask}.loss"])
    out.loss.backward()
    for part, kind in ((model.encoder, "encoder"), (model.predictor, "predictor")):
        theirs = named(reference, f"{mask}.grad.{kind}.")
        ours = {name: parameter.grad for name, parameter in part.named_parameters()}
        assert ours.keys() == theirs.keys()
        for name, grad in ours.items():
            assert (grad - theirs[name]).norm() <= 1e-4 * theirs[name].norm(), name


def test_teacher_update(model, reference):
    model.update_teacher(0.996)
    moved = named(reference, "ema_0.996.")
    assert len(moved) == 3
    for name, expected in moved.items():
        assert_near(model.teacher.get_parameter(name), expected, tolerance=1e-7)
