"""Files for several GPUs: read by Accelerate itself, keys and classes exist, and what they tell to type works."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import torch.distributed.run
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaForPreTraining
from train.options import read_options

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "train" / "accelerate_configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
SLURM = FOLDER / "slurm.sbatch"
RECIPES = [ROOT / "train" / "recipes" / f"{name}.yaml" for name in ("random_base", "multi_block_base", "small", "tiny")]


def name_of(path: Path) -> str:
    return path.name


def commands(path: Path) -> list[list[str]]:
    """The words of every pretraining command in a file, in comments or not, a line's continuation joined to it."""
    text = re.sub(r"^# ?", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.rstrip(" &") for line in text.splitlines() if "-m train.pretrain" in line]
    return [shlex.split(line) for line in lines]


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """What the launcher gets, and what pretraining gets."""
    place = words.index("train.pretrain") + 1
    return words[:place], words[place:]


def processes(launcher: list[str]) -> int:
    """How many a launcher starts, over all machines."""
    if "accelerate" in launcher:
        words = launcher[launcher.index("accelerate") + 2 :]
        file = launch_command_parser().parse_args(words).config_file
        return load_config_from_file(str(ROOT / file)).num_processes if file else 1
    arguments = torch.distributed.run.get_args_parser().parse_args(launcher[launcher.index("torchrun") + 1 :])
    nodes = sbatch_options()["nodes"] if arguments.nnodes == "$SLURM_NNODES" else arguments.nnodes
    return int(nodes) * int(arguments.nproc_per_node)


def sbatch_options() -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", SLURM.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_accelerate_reads_every_file_and_knows_every_key(path):
    load_config_from_file(str(path))  # refuses unknown keys, but for those one level below
    known = vars(launch_command_parser().parse_args(["script"]))
    nested = [key for value in yaml.safe_load(path.read_text()).values() if isinstance(value, dict) for key in value]
    assert [key for key in nested if key not in known] == []


def test_a_misspelt_key_is_found(tmp_path):
    text = (FOLDER / "multi_gpu.yaml").read_text().replace("num_processes:", "num_proceses:")
    (tmp_path / "misspelt.yaml").write_text(text)
    with pytest.raises(ValueError, match="num_proceses"):
        load_config_from_file(str(tmp_path / "misspelt.yaml"))


@pytest.mark.parametrize("path", [*CONFIGS, SLURM, *RECIPES], ids=name_of)
def test_the_commands_can_be_typed_and_a_step_sees_as_many_records_as_the_recipe_says(path):
    found = [split(words) for words in commands(path)]
    assert found
    for launcher, words in found:
        options = read_options(words)
        recipe = read_options(words[:2])
        assert options.batch_size * processes(launcher) == recipe.batch_size * recipe.gradient_accumulation_steps
        if "--config_file" in launcher:
            assert str(path.relative_to(ROOT)) in launcher


@pytest.mark.parametrize("path", [*CONFIGS, SLURM], ids=name_of)
def test_what_nobody_has_tried_says_so(path):
    assert "NOT TRIED ON SUCH HARDWARE YET" in path.read_text()


def test_the_classes_that_fsdp_wraps_are_in_the_model():
    with torch.device("meta"):
        model = EcgJepaForPreTraining(EcgJepaConfig.from_preset("tiny"))
    wrapped = load_config_from_file(str(FOLDER / "fsdp2.yaml")).fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    assert set(wrapped.split(",")) <= {type(module).__name__ for module in model.modules()}


def test_deepspeed_keeps_parameters_whole_and_in_float32_and_clips_nothing():
    config = load_config_from_file(str(FOLDER / "deepspeed_zero2.yaml"))
    settings = json.loads((ROOT / config.deepspeed_config["deepspeed_config_file"]).read_text())
    assert settings["zero_optimization"]["stage"] <= 2
    assert settings["torch_autocast"]["enabled"]
    assert not settings["bf16"]["enabled"] and not settings["fp16"]["enabled"]
    assert settings["gradient_clipping"] == 0
    assert config.mixed_precision is None  # beside such a file Accelerate refuses it


def test_the_slurm_script_is_shell_and_asks_for_the_gpus_that_it_uses():
    subprocess.run(["bash", "-n", SLURM], check=True)
    options = sbatch_options()
    (launcher, words), *others = [split(words) for words in commands(SLURM)]
    assert not others
    arguments = torch.distributed.run.get_args_parser().parse_args(launcher[launcher.index("torchrun") + 1 :])
    assert (arguments.nproc_per_node, options["ntasks-per-node"]) == (options["gpus-per-node"], "1")
    assert read_options(words).resume_from_checkpoint == "latest"
