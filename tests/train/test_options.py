"""Options: recipe and command line say the same things; what is misspelt or mistyped is refused with a remedy."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaConfigError
from train.finetune_options import FinetuneOptions
from train.options import PretrainOptions, read_options

RECIPES = sorted((Path(__file__).resolve().parents[2] / "train" / "recipes").glob("*.yaml"))
RECIPES = [path for path in RECIPES if path.stem != "finetune"]  # of another command


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return write


def refusal(arguments: list[str]) -> str:
    with pytest.raises(EcgJepaConfigError) as caught:
        read_options(arguments)
    return str(caught.value)


def test_without_arguments_the_optimisation_is_the_papers():
    options = read_options([])
    assert options == PretrainOptions()
    assert (options.learning_rate, options.min_learning_rate, options.weight_decay) == (5.5e-5, 1e-6, 0.05)
    assert (options.batch_size, options.momentum_start, options.momentum_end) == (64, 0.996, 1.0)
    assert options.model_config().to_dict() == EcgJepaConfig().to_dict()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_describes_a_model_and_explains_each_line(path):
    read_options(["--config", str(path)]).model_config()
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all("#" in line for line in lines)


def test_the_command_line_overrides_the_recipe(recipe):
    path = recipe("max_steps: 7\nbatch_size: 3\n")
    options = read_options(["--batch_size", "5", "--config", path])
    assert (options.max_steps, options.batch_size) == (7, 5)


def test_every_option_can_be_given_in_either_place_and_means_the_same(recipe):
    values = {
        "output_dir": "123",
        "overwrite": True,
        "seed": 3,
        "max_steps": 20,
        "cpu_threads": 2,
        "data_dir": ["a", "b c"],
        "memory_gb": 0.5,
        "preset": "tiny",
        "leads": ["II", "V1"],
        "mask_ratio": [0.5, 0.6],
        "mask_last_patch": False,
        "target_centering": True,
        "learning_rate": 1e-3,
    }
    words = [
        word
        for name, value in values.items()
        for word in (f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value).lower()]))
    ]
    words[words.index("0.001")] = "1e-3"
    assert (
        read_options(words) == read_options(["--config", recipe(yaml.safe_dump(values))]) == PretrainOptions(**values)
    )


def test_numbers_without_a_dot_are_numbers_in_yaml_too(recipe):
    # YAML 1.1 takes 1e-3 for text.
    assert read_options(["--config", recipe("learning_rate: 1e-3\n")]).learning_rate == 1e-3


def test_a_corpus_on_the_command_line_may_have_the_options_of_a_recipe(recipe):
    mapping = "{name: ptb_xl, data_dir: somewhere, files: 100}"
    written = read_options(["--config", recipe(f"corpus: [{mapping}]")]).corpus
    assert read_options(["--corpus", mapping]).corpus == written
    assert written[0].options == {"files": 100}
    assert "is not a corpus" in refusal(["--corpus", "{name: ptb_xl"])


def test_dashes_and_underscores_are_alike():
    spellings = (["--max-steps", "9"], ["--max_steps", "9"], ["--max-steps=9"], ["--max_steps=9"])
    assert [read_options(words).max_steps for words in spellings] == [9] * 4
    assert read_options(["--output-dir", "runs/a-b"]).output_dir == "runs/a-b"


def test_a_switch_needs_no_value():
    assert read_options(["--overwrite", "--seed", "1"]).overwrite is True
    assert read_options(["--overwrite", "false"]).overwrite is False


def test_null_in_a_recipe_leaves_an_option_open(recipe):
    assert read_options(["--config", recipe("cpu_threads: null\ndata_dir:\n")]) == PretrainOptions()


def test_unknown_options_are_refused_with_the_nearest_name(recipe):
    assert "no option '--learning_rat'. Did you mean 'learning_rate'?" in refusal(["--learning-rat", "1"])
    assert "no option 'max_step'. Did you mean 'max_steps'?" in refusal(["--config", recipe("max_step: 5\n")])
    assert "--help lists all options" in refusal(["--qqqq", "1"])
    assert "no option '--batch'" in refusal(["--batch", "4"])  # no abbreviations: they would change with new options


@pytest.mark.parametrize(
    ("line", "words", "named"),
    [
        ("max_steps: 1.5", ["--max_steps", "1.5"], "a whole number"),
        ("max_steps: many", ["--max_steps", "many"], "a whole number"),
        ("max_steps: true", ["--max_steps", "true"], "a whole number"),
        ("learning_rate: fast", ["--learning_rate", "fast"], "a number"),
        ("overwrite: 1", ["--overwrite", "1"], "true or false"),
        ("mask_ratio: [0.1, x]", ["--mask_ratio", "0.1", "x"], "number"),
        ("cpu_threads: two", ["--cpu_threads", "two"], "a whole number"),
    ],
)
def test_wrong_types_are_refused(recipe, line, words, named):
    assert named in refusal(["--config", recipe(line)])
    assert named in refusal(words)


def test_text_is_not_guessed_from_numbers_in_a_recipe(recipe):
    assert "output_dir: 7 is not text" in refusal(["--config", recipe("output_dir: 7\n")])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--max_steps", "0"], "max_steps=0 must be at least 1"),
        (["--batch_size", "0"], "batch_size=0"),
        (["--max_steps", "5", "--warmup_steps", "5"], "warmup_steps=5 must be below max_steps"),
        (["--momentum_start", "1.2"], "momentum_start=1.2 must be at most 1"),
        (["--learning_rate", "0"], "learning_rate=0.0 is below min_learning_rate=1e-06"),
        (["--learning_rate", "nan"], "learning_rate=nan"),
        (["--probe_records", "3"], "probe_records=3 must be 0, or at least 20"),
        (["--probe_steps", "5", "--probe_records", "0"], "probe_steps=5 need --probe_records or --probe_corpus"),
        (["--probe_corpus", "ptb_xl:/x"], "probe_corpus='ptb_xl:/x' is probed every --probe_steps steps"),
        (["--tracker", "paper"], "tracker='paper' is none of none, tensorboard, trackio, wandb"),
        (["--mixed_precision", "int8"], "mixed_precision='int8' is none of no, bf16, fp16"),
        (["--cpu_threads", "0"], "cpu_threads=0"),
        (["--seed", "-1"], "seed=-1"),
    ],
)
def test_values_that_describe_no_run_are_refused(words, named):
    assert named in refusal(words)


def test_values_that_describe_no_model_are_refused_by_the_model():
    with pytest.raises(EcgJepaConfigError, match="mask_type"):
        read_options(["--mask_type", "blocks"]).model_config()
    with pytest.raises(EcgJepaConfigError, match="Unknown preset 'huge'"):
        read_options(["--preset", "huge"]).model_config()


def test_recipes_that_cannot_be_read_say_what_is_there(recipe, tmp_path):
    recipe("seed: 1\n")
    assert "In its folder: recipe.yaml" in refusal(["--config", str(tmp_path / "recip.yaml")])
    assert "is no YAML" in refusal(["--config", recipe("a: [1\n")])
    assert "option: value" in refusal(["--config", recipe("just words\n")])


def test_a_missing_value_is_usage_and_names_the_option():
    assert "max_steps" in refusal(["--max_steps"])


@pytest.mark.parametrize(("kind", "default"), [(PretrainOptions, "runs/pretrain"), (FinetuneOptions, "runs/finetuned")])
def test_help_explains_every_option(capsys, kind, default):
    with pytest.raises(SystemExit) as caught:
        read_options(["--help"], kind)
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{field.name} " in printed for field in dataclasses.fields(kind))
    assert f"(default: {default})" in " ".join(printed.split())
