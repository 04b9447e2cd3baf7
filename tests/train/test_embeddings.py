"""Frozen embeddings: what the model itself pools, any layer, missing leads, and nothing computed twice."""

import hashlib
import json

import numpy as np
import pytest
import torch
from probe_corpus import load_rows, make_rows, save_encoder, without_lead
from tqdm import tqdm

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaOutputError
from modeling_ecg_jepa.tools.checkpoint import encoder_sha256, load_encoder
from train import embeddings
from train.embeddings import EmbeddingCache, embed_by_lead, layer_number, pooled


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_encoder(save_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    rows = make_rows(per_fold=4, folds=(1, 2))
    rows[5] = without_lead(rows[5], lead=3)
    return load_rows(tmp_path_factory.mktemp("corpus"), rows, folds=(1, 2))


def embed(encoder, records, *layers: int) -> np.ndarray:
    return embed_by_lead(encoder[0], records, np.arange(8), layers, tqdm(disable=True), batch_size=3)


def test_mean_pool_is_the_models_own_also_where_a_lead_is_missing(encoder, records):
    batch = records.windows.__getitems__(list(range(8)))
    assert not batch["lead_mask"][5, 3]
    with torch.inference_mode():
        expected = encoder[0](**batch).pooler_output.numpy()
    np.testing.assert_allclose(pooled(embed(encoder, records, 2), "mean"), expected, atol=1e-5)


def test_lead_pool_puts_the_leads_side_by_side_and_marks_missing_ones(encoder, records):
    features = pooled(embed(encoder, records, 2), "lead")
    assert features.shape == (8, 8 * 16)
    assert np.isnan(features[5, 3 * 16 : 4 * 16]).all() and np.isnan(features).sum() == 16
    with torch.inference_mode():
        tokens = encoder[0](**records.windows.__getitems__([0])).last_hidden_state[0]
    np.testing.assert_allclose(features[0, 16:32], tokens[50:100].mean(0).numpy(), atol=1e-5)


def test_layers_are_hidden_states_side_by_side(encoder, records):
    both = embed(encoder, records, 0, 1)
    assert both.shape == (8, 2, 8, 16)
    with torch.inference_mode():
        states = encoder[0](**records.windows.__getitems__([0]), output_hidden_states=True).hidden_states
    for place, layer in enumerate((0, 1)):
        expected = states[layer][0].unflatten(0, (8, 50)).mean(1).numpy()
        np.testing.assert_allclose(both[0, place], expected, atol=1e-5)
    assert pooled(both, "mean").shape == (8, 2 * 16)
    assert pooled(both, "lead").shape == (8, 2 * 8 * 16)


def test_layers_count_from_either_end_and_others_are_refused(encoder):
    config = encoder[0].config
    assert [layer_number(layer, config, "x") for layer in (-1, 2, -3, 0)] == [2, 2, 0, 0]
    for layer in (3, -4):
        with pytest.raises(EcgJepaConfigError, match=f"--layer {layer}: mine has 2 layers; name one of 0"):
            layer_number(layer, config, "mine")


def test_nothing_is_embedded_twice(encoder, records, tmp_path, monkeypatch):
    model, extractor = encoder
    cache = EmbeddingCache(tmp_path / "cache", batch_size=3, quiet=True)
    first = cache.embed(model, encoder_sha256(model, extractor), records, [1, 2], "x")
    np.testing.assert_array_equal(first, embed(encoder, records, 1, 2))
    assert len(list((tmp_path / "cache").iterdir())) == 4  # two folds, two layers
    monkeypatch.setattr(embeddings, "embed_by_lead", lambda *arguments: pytest.fail("computed again"))
    np.testing.assert_array_equal(cache.embed(model, encoder_sha256(model, extractor), records, [2], "x"), first[:, 1:])


def test_a_damaged_file_and_a_folder_that_is_none_are_named(encoder, records, tmp_path):
    model, extractor = encoder
    cache, sha256 = EmbeddingCache(tmp_path / "cache", quiet=True), encoder_sha256(model, extractor)
    cache.embed(model, sha256, records, [1], "x")
    file = next((tmp_path / "cache").iterdir())
    for damage in (file.read_bytes()[:-9], b""):
        file.write_bytes(damage)
        with pytest.raises(EcgJepaOutputError, match=f"{file.name} is damaged .* Remove it"):
            cache.embed(model, sha256, records, [1], "x")
    with pytest.raises(EcgJepaOutputError, match="Cannot use .* for embeddings"):
        EmbeddingCache(file / "below", quiet=True).embed(model, sha256, records, [1], "x")


def test_settings_at_their_defaults_do_not_count_in_the_hash(encoder):
    model, extractor = encoder
    config = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_initializer_range": 0.4}
    config |= {"predictor_hidden_size": 48, "predictor_num_hidden_layers": 2, "predictor_num_attention_heads": 2}
    digest = hashlib.sha256(json.dumps([config, {}], sort_keys=True).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode() + weights.numpy().tobytes())
    assert encoder_sha256(model, extractor) == digest.hexdigest()


def test_what_changes_an_embedding_changes_the_hash(encoder, tmp_path):
    model, extractor = encoder
    assert encoder_sha256(*load_encoder(save_encoder(tmp_path / "same"))) == encoder_sha256(model, extractor)
    assert encoder_sha256(*load_encoder(save_encoder(tmp_path / "seed", seed=1))) != encoder_sha256(model, extractor)
    scaled = save_encoder(tmp_path / "scaled", position_scale=0.5)  # no weight differs
    assert encoder_sha256(*load_encoder(scaled)) != encoder_sha256(model, extractor)
