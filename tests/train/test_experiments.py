"""What experiments change of the model does what its name says, and leaves alone what it shall be compared in."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaForPreTraining
from train.ablate import read_options
from train.ablation_cells import load_records, training_records
from train.experiments import EXPERIMENTS, full_attention, model_of_full_attention, model_of_raw_reconstruction
from train.starting import initial_model

CONFIG = EcgJepaConfig.from_preset("tiny", leads=["I", "II", "V2"], num_patches=10, drop_path_rate=0.0)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(2, 3, 500, generator=generator)
    leads = torch.tensor([[True, True, True], [True, False, True]])
    return {"input_values": signal, "lead_mask": leads, "attention_mask": torch.ones(2, 10, dtype=torch.bool)}


TIME_MASK = torch.tensor([False, True, True, False, True, False, False, True, True, False])


def differing(one: torch.nn.Module, other: torch.nn.Module) -> set[str]:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return {name for name in ours if not torch.equal(ours[name], theirs[name])}


# Attention ------------------------------------------------------------------------------------------------------------


def test_full_attention_is_a_softmax_over_all_valid_tokens():
    qkv = torch.randn(2, 6, 3, 4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.tensor([[[True] * 3] * 2, [[True] * 3, [False] * 3]])
    attended, _ = full_attention(qkv, valid, (2, 3), 0.3)
    query, key, value = qkv.numpy().transpose(2, 0, 3, 1, 4)
    weights = np.exp(query @ key.transpose(0, 1, 3, 2) * 0.3) * valid.flatten(1).numpy()[:, None, None, :]
    expected = weights / weights.sum(-1, keepdims=True) @ value
    assert np.allclose(attended.numpy(), expected.transpose(0, 2, 1, 3))


def test_only_the_model_of_full_attention_lets_a_patch_see_another_lead_at_another_time(batch):
    cropa, full = initial_model(CONFIG, 0).encoder.eval(), model_of_full_attention(CONFIG, 0).encoder.eval()
    assert differing(cropa, full) == set()
    signal = torch.nn.Parameter(batch["input_values"])
    for encoder, sees in ((cropa, False), (full, True)):
        encoder.layers = encoder.layers[:1]  # two layers of CroPA reach everything
        (grad,) = torch.autograd.grad(encoder(signal).last_hidden_state[0, 0, 0], signal)
        assert bool(grad[0, 0, 50:100].any()) and bool(grad[0, 1, :50].any())  # its lead, its time
        assert bool(grad[0, 1, 50:100].any()) == sees


def test_full_attention_is_not_what_the_next_model_gets():
    model_of_full_attention(CONFIG, 0)
    assert initial_model(CONFIG, 0).encoder.config._attn_implementation == "cropa"


# Raw reconstruction ---------------------------------------------------------------------------------------------------


def test_raw_reconstruction_regresses_the_samples_of_hidden_patches_of_leads_that_are_there(batch):
    model = model_of_raw_reconstruction(CONFIG, 0).train()
    outputs = model(**batch, time_mask=TIME_MASK)
    hidden = batch["input_values"].unflatten(2, (10, 50))[:, :, TIME_MASK]
    assert outputs.predictions.shape == hidden.shape == (2, 3, 5, 50)
    there = batch["lead_mask"]
    assert outputs.loss.item() == pytest.approx(F.mse_loss(outputs.predictions[there], hidden[there]).item(), rel=1e-5)
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.predictor.parameters())
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


def test_several_masks_reconstruct_to_the_mean_of_their_losses(batch):
    model = model_of_raw_reconstruction(CONFIG, 0).eval()
    masks = [TIME_MASK, ~TIME_MASK]
    losses = [model(**batch, time_mask=mask).loss for mask in masks]
    for given in (masks, [mask.numpy() for mask in masks]):  # arrays are what the training loop hands over
        assert model(**batch, time_mask=given).loss.item() == pytest.approx(sum(losses).item() / 2)


def test_both_objectives_start_from_the_same_student_and_predictor():
    latent, raw = initial_model(CONFIG, 3), model_of_raw_reconstruction(CONFIG, 3)
    assert isinstance(raw, EcgJepaForPreTraining)
    assert differing(latent, raw) == {"predictor.projection.weight", "predictor.projection.bias"}


def test_noisier_variants_are_the_same_hearts():
    options = read_options(["objective", "--num_records=120", "--leads", "II", "V2"])[1]
    corpora = [variant.corpus for variant in EXPERIMENTS["objective"].variants if not variant.trained]
    quiet, _, noisy = (load_records(options, corpus) for corpus in corpora)
    assert quiet.ids == noisy.ids and np.array_equal(quiet.labels, noisy.labels)
    clean, loud = (records.windows.__getitems__(range(40))["input_values"] for records in (quiet, noisy))
    assert (loud - clean).std() > 2 * clean.std()


# Records --------------------------------------------------------------------------------------------------------------


def test_a_share_of_the_records_lies_within_a_larger_one_and_holds_none_that_is_tested():
    options = read_options(["scale", "--num_records=120", "--leads", "II", "V2"])[1]
    records = load_records(options, {})
    shares = [set(training_records(records, share).corpora[0].usable) for share in (1 / 8, 0.5, 1)]
    assert shares[0] < shares[1] < shares[2]
    assert len(shares[1]) == round(len(shares[2]) / 2)
    assert shares[2].isdisjoint(records.windows.usable[records.of_fold(0)])
    assert len(shares[2]) + len(records.of_fold(0)) == 120
