"""Recipes: the paper's two hold the paper's numbers, and every one describes a model that can be built."""

import dataclasses
from pathlib import Path

import pytest
import torch

from dataset_scripts.loading import CORPORA
from modeling_ecg_jepa import EcgJepaConfig, EcgJepaForPreTraining
from train.options import PREPARED, PretrainOptions, read_options

RECIPES = Path(__file__).resolve().parents[2] / "train" / "recipes"

#: Records of 10 s: Chapman-Shaoxing-Ningbo without its two unreadable headers, and CODE-15%.
PAPER_RECORDS = 45_150 + 130_900
PAPER_EPOCHS, WARMUP_EPOCHS = 100, 5

# arXiv 2410.08559 and its authors' code: (batch, learning rate, what their configuration says of masks).
PAPER = {
    "random_base": (128, 2.5e-5, {"mask_type": "random", "mask_ratio": [0.6, 0.7]}),
    "multi_block_base": (
        64,
        5.5e-5,
        {"mask_type": "multi_block", "mask_num_blocks": 4, "mask_block_ratio": [0.175, 0.225]},
    ),
}


def options_of(name: str) -> PretrainOptions:
    return read_options(["--config", str(RECIPES / f"{name}.yaml")])


@pytest.mark.parametrize("name", sorted({path.stem for path in RECIPES.glob("*.yaml")} - {"finetune"}))
def test_every_recipe_builds_a_model_from_corpora_that_there_are(name):
    options = options_of(name)
    with torch.device("meta"):
        EcgJepaForPreTraining(options.model_config())
    assert {choice.name.partition("/")[0] for choice in options.corpora()} <= {*CORPORA, PREPARED}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_hold_the_papers_numbers(name):
    batch, learning_rate, masks = PAPER[name]
    options = options_of(name)
    assert (options.batch_size, options.gradient_accumulation_steps, options.num_masks) == (batch, 1, 1)
    assert (options.learning_rate, options.min_learning_rate) == (learning_rate, 1e-6)
    assert (options.momentum_start, options.momentum_end) == (0.996, 1.0)
    assert options.weight_decay == 0.05
    assert options.model_config().to_dict() == EcgJepaConfig(**masks).to_dict()
    config = options.model_config()
    assert config.drop_path_rate == 0.1
    assert (config.patch_initializer_range, config.position_scale, config.target_centering) == (0.02, 1.0, False)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_run_a_hundred_epochs_five_of_them_warmup(name):
    options = options_of(name)
    steps_an_epoch = PAPER_RECORDS // options.batch_size
    assert options.max_steps == PAPER_EPOCHS * steps_an_epoch
    assert options.warmup_steps == WARMUP_EPOCHS * steps_an_epoch
    assert options.checkpointing_steps == steps_an_epoch


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_train_on_all_of_the_papers_corpora(name):
    corpora = options_of(name).corpora()
    assert [(choice.name, choice.weight, choice.held_out) for choice in corpora] == [
        ("ecg_arrhythmia", 1.0, True),
        ("code15", 1.0, True),
    ]


def test_the_papers_base_model_has_the_authors_sizes():
    with torch.device("meta"):
        model = EcgJepaForPreTraining(options_of("multi_block_base").model_config())
    sizes = [sum(part.numel() for part in module.parameters()) for module in (model.encoder, model.predictor)]
    assert sizes == [85_067_520, 11_232_000]


def test_the_papers_two_recipes_differ_in_masks_batch_and_what_follows_from_it():
    one, other = (dataclasses.asdict(options_of(name)) for name in PAPER)
    differing = {name for name in one if one[name] != other[name]}
    masks = {"mask_type", "mask_ratio", "mask_num_blocks", "mask_block_ratio", "mask_last_patch"}
    steps = {"max_steps", "warmup_steps", "logging_steps", "checkpointing_steps"}
    assert differing == {"output_dir", "batch_size", "learning_rate", *masks, *steps}


#: Encoder and predictor twice as wide as the preset's, with heads of about the same width.
DOUBLED_TINY = {
    "hidden_size": 192,
    "num_attention_heads": 6,
    "predictor_hidden_size": 96,
    "predictor_num_attention_heads": 4,
}


@pytest.mark.parametrize(("name", "sizes"), [("small", {}), ("tiny", DOUBLED_TINY)])
def test_recipes_for_small_data_pull_all_three_levers_and_leave_held_out_parts_alone(name, sizes):
    options = options_of(name)
    config = options.model_config()
    levers = {"patch_initializer_range": 0.4, "position_scale": 0.2, "target_centering": True}
    masks = {"mask_type": "random", "mask_ratio": [0.6, 0.7], "drop_path_rate": config.drop_path_rate}
    expected = EcgJepaConfig.from_preset(name, **sizes, **masks, **levers)
    assert config.to_dict() == expected.to_dict()
    assert options.min_content_share >= 0.3
    assert not any(choice.held_out for choice in options.corpora())
