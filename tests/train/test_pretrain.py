"""Whole runs: what they print, leave and repeat, the order within a step, and what they refuse."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoModelForPreTraining

from modeling_ecg_jepa import (
    EcgJepaDataCollator,
    EcgJepaError,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
    EcgJepaOutputError,
)
from train.checkpoints import only_run
from train.data import MemoryRecords, SyntheticRecords
from train.options import PretrainOptions
from train.pretrain import drop_leads, main, pretrain, scheduled, train_loop
from train.schedules import parameter_groups, time_masks
from train.starting import initial_model, make_optimizer, start_accelerator

ROOT = Path(__file__).resolve().parents[2]
LEVERS = {"patch_initializer_range": 0.4, "position_scale": 0.2, "target_centering": True}
SMALL = PretrainOptions(
    preset="tiny",
    leads=["I", "II", "V2", "V5"],
    max_steps=4,
    logging_steps=2,
    num_records=12,
    batch_size=4,
    learning_rate=1e-3,
    probe_records=0,
    cpu_threads=1,
    **LEVERS,
)


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


# A run through the launcher, as the README says -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> tuple[Path, str]:
    """The quickstart recipe, shortened, in a process of its own: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("launched") / "run"
    shorter = ["--max_steps", "200", "--logging-steps", "100", "--num_records", "1200", "--probe_records", "600"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "-m", "train.pretrain"]
    command += ["--config", "train/recipes/quickstart.yaml", "--output-dir", str(folder), *shorter]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


def test_the_quickstart_prints_content_share_probe_embedding_and_where_everything_is(launched):
    folder, printed = launched
    assert re.search(r"Content share .*: 0\.\d+ at the start, 0\.\d+ at the end, .* floor 0\.\d+ held\.", printed)
    for pooling in ("mean over all patches", "mean a lead, side by side"):
        assert re.search(rf"  {pooling}\n    pretrained \d+\.\d+ \(\d+\.\d+ to \d+\.\d+\), R2", printed)
    assert printed.count("pretraining beats random weights") >= 1
    assert "PTB-XL 00001_hr (12 leads, 10 s at 500 Hz)" in printed
    assert f"Everything is in {folder}" in printed


def test_the_quickstart_holds_its_floor_and_learns_heart_rate(launched):
    state = json.loads((launched[0] / "training_state.json").read_text())
    share, probe = state["content_share"], state["heart_rate_probe"]["lead"]
    assert share["held"]
    assert share["lowest"] >= share["floor"] >= 0.3
    assert probe["beats_random"] and probe["gain"]["low"] > 0
    assert probe["pretrained_r2"]["value"] > probe["random_r2"]["value"] > 0.5


def test_the_log_has_a_header_and_a_line_a_log_step(launched):
    header, *lines = [json.loads(line) for line in (launched[0] / "train_log.jsonl").read_text().splitlines()]
    assert header["schema_version"] == 1
    assert header["processes"] == 1
    assert header["options"]["max_steps"] == 200
    assert [line["step"] for line in lines] == [0, 100, 200]
    names = {"loss", "learning_rate", "momentum", "records_per_second", "content_share", "target_std"}
    names |= {"gradient_norm", "waiting_for_data"}
    names |= {"student_rank_me", "teacher_rank_me", "student_teacher_distance"}
    assert all(names <= line.keys() for line in lines[1:])


def test_a_launched_cpu_run_uses_every_core(launched):
    # `accelerate launch` alone would leave it one thread.
    header = json.loads((launched[0] / "train_log.jsonl").read_text().splitlines()[0])
    assert header["device"] != "cpu" or header["cpu_threads"] == os.cpu_count()


def test_automodel_loads_the_student_that_training_ended_with(launched):
    encoder = AutoModel.from_pretrained(launched[0])
    whole = AutoModelForPreTraining.from_pretrained(launched[0] / "pretraining")
    assert differing(weights_of(encoder), weights_of(whole.encoder)) == []
    assert differing(weights_of(encoder), weights_of(whole.teacher)) != []
    config = json.loads((launched[0] / "config.json").read_text())
    assert config["position_scale"] == 0.2


# The loop -------------------------------------------------------------------------------------------------------------


class Silent:
    """A watch that keeps the losses."""

    def __init__(self):
        self.losses = []

    def after_step(self, loss, gradient_norm, learning_rate, momentum):
        self.losses.append(loss.item())

    def next_batches(self, stream, count):
        return [next(stream) for _ in range(count)]


def run_loop(options: PretrainOptions, scaler=None) -> tuple[EcgJepaForPreTraining, list[float]]:
    """`train_loop` on synthetic records, alone."""
    config = options.model_config()
    extractor = EcgJepaFeatureExtractor.from_config(config)
    source = SyntheticRecords(extractor, options.seed, options.num_records)
    places = range(options.num_records)
    records = MemoryRecords([source[place] for place in places], [source.name(place) for place in places])
    accelerator = start_accelerator(options)
    model = initial_model(config, options.seed)
    accelerator.scaler = scaler
    optimizer = make_optimizer(accelerator, model, options)
    loader = DataLoader(
        records, options.batch_size, shuffle=True, drop_last=True, collate_fn=EcgJepaDataCollator(extractor)
    )
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    watch = Silent()
    torch.manual_seed(options.seed)
    train_loop(accelerator, options, prepared, optimizer, loader, watch)
    return model, watch.losses


def plain_loop(options: PretrainOptions) -> EcgJepaForPreTraining:
    """The same run in bare PyTorch: forward, backward, step, and only then the teacher."""
    config = options.model_config()
    extractor = EcgJepaFeatureExtractor.from_config(config)
    source = SyntheticRecords(extractor, options.seed, options.num_records)
    rows = [source[place] for place in range(options.num_records)]
    model = initial_model(config, options.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), betas=(0.9, 0.999))
    torch.manual_seed(options.seed)
    model.train()
    for step in range(options.max_steps):
        # One epoch of one batch: whatever the order, every record is in it.
        batch = EcgJepaDataCollator(extractor)(rows)
        learning_rate, momentum = scheduled(step, options)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        model(**batch, time_mask=time_masks(step, config=config, seed=options.seed)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        student = weights_of(model.encoder)
        for name, value in model.teacher.state_dict().items():
            value.mul_(momentum).add_(student[name], alpha=1 - momentum)
        total = torch.stack([part for part, _ in model._seen_targets]).sum(0) / len(rows)
        model._seen_targets.clear()
        model.target_mean.lerp_(total, 0.05)
    return model


def test_a_step_is_forward_backward_optimizer_and_then_the_teacher():
    options = dataclasses.replace(SMALL, num_records=4, drop_path_rate=0.0, momentum_start=0.9, warmup_steps=1)
    ours, plain = run_loop(options)[0].state_dict(), plain_loop(options).state_dict()
    for name, value in ours.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=2e-6, msg=name)


def test_a_step_that_the_scaler_skips_moves_neither_student_nor_teacher():
    options = dataclasses.replace(SMALL, max_steps=1, warmup_steps=0, momentum_start=0.5)
    before = weights_of(initial_model(options.model_config(), options.seed))
    overflowing = torch.amp.GradScaler("cpu", init_scale=float("inf"))
    assert differing(weights_of(run_loop(options, overflowing)[0]), before) == []
    fitting = torch.amp.GradScaler("cpu", init_scale=1024.0)
    changed = differing(weights_of(run_loop(options, fitting)[0]), before)
    assert {"encoder.norm.weight", "teacher.norm.weight", "predictor.mask_token", "target_mean"} <= set(changed)


def test_two_half_batches_accumulated_are_one_batch():
    options = dataclasses.replace(SMALL, drop_path_rate=0.0, batch_size=4)
    halves = dataclasses.replace(options, batch_size=2, gradient_accumulation_steps=2)
    whole, accumulated = run_loop(options)[0].state_dict(), run_loop(halves)[0].state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(accumulated[name], value, rtol=1e-3, atol=2e-5, msg=name)


# Whole runs in this process -------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(tmp_path):
    def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
        pretrain(dataclasses.replace(SMALL, output_dir=str(tmp_path / name), seed=seed))
        return weights_of(AutoModelForPreTraining.from_pretrained(tmp_path / name / "pretraining"))

    first = weights("first", seed=1)
    assert differing(first, weights("second", seed=1)) == []
    assert "encoder.patch_embedding.weight" in differing(first, weights("third", seed=2))


def test_the_papers_settings_collapse_on_small_data_and_the_run_says_so(tmp_path, capsys):
    paper = {"patch_initializer_range": None, "position_scale": None, "target_centering": None}
    options = dataclasses.replace(SMALL, **paper, output_dir=str(tmp_path), min_content_share=0.3, max_steps=2)
    state = pretrain(options)
    assert not state["content_share"]["held"]
    printed = capsys.readouterr().out
    assert "floor 0.3 NOT HELD" in printed
    assert "WARNING: the targets say where a patch is" in printed
    assert "--patch_initializer_range 0.4" in printed


def test_wfdb_folders_are_trained_on_and_bad_records_listed(tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(ROOT / "tests" / "fixtures" / "records", data)
    header = (data / "ptb-xl" / "00001_hr.hea").read_text()
    (data / "ptb-xl" / "lost.hea").write_text(header.replace("00001_hr", "lost"))
    options = dataclasses.replace(
        SMALL, data_dir=[str(data)], output_dir=str(tmp_path / "run"), batch_size=2, max_steps=2
    )
    state = pretrain(options)
    assert state["records"] == 2
    assert [Path(record["place"]).name for record in state["records_left_out"]] == ["lost.hea"]
    printed = capsys.readouterr().out
    assert "1 records were left out" in printed
    assert "lost.dat" in printed


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path):
    options = dataclasses.replace(SMALL, output_dir=str(tmp_path), learning_rate=1e30, max_steps=6)
    with pytest.raises(
        EcgJepaError,
        match=r"became (inf|nan) at step \d.*Its records are sound: synthetic-0-.*--learning_rate",
    ):
        pretrain(options)
    assert not (tmp_path / "model.safetensors").exists()


def test_the_command_reports_errors_in_a_sentence(tmp_path, capsys):
    words = ["--preset", "tiny", "--num_records", "3", "--output_dir", str(tmp_path / "run")]
    assert main(words) == 1
    assert "error: batch_size=64 is more than the 3 usable records" in capsys.readouterr().err
    assert main(["--max-step", "3"]) == 2
    assert "Did you mean 'max_steps'?" in capsys.readouterr().err
    (tmp_path / "run" / "config.json").write_text("{}")
    assert main(words) == 1
    assert "holds another run" in capsys.readouterr().err


def test_a_folder_that_a_run_still_writes_to_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "train_log.jsonl").write_text("its log")
    with only_run(tmp_path), pytest.raises(EcgJepaOutputError, match="A run that is still going writes to"):
        pretrain(dataclasses.replace(SMALL, output_dir=str(tmp_path), overwrite=True))
    assert (tmp_path / "train_log.jsonl").read_text() == "its log"


def test_records_that_were_left_out_are_counted_before_training_begins(tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(ROOT / "tests" / "fixtures" / "records" / "ptb-xl", data)
    (data / "lost.hea").write_text((data / "00001_hr.hea").read_text().replace("00001_hr", "lost"))
    (tmp_path / "ptbxl_database.csv").write_text("")
    options = dataclasses.replace(SMALL, data_dir=[str(data)], output_dir=str(tmp_path / "run"), batch_size=2)
    pretrain(dataclasses.replace(options, max_steps=1, logging_steps=1))
    start = capsys.readouterr().out.split("Content share")[0]
    assert "1 records are left out; the end of the run lists why." in start
    assert "belongs to PTB-XL" in start


# Leads hidden in training ---------------------------------------------------------------------------------------------


def test_dropped_leads_follow_from_seed_step_part_and_process_and_one_lead_always_stays():
    there = torch.ones(64, 8, dtype=torch.bool)
    there[::2, 3:] = False

    def dropped(share: float, step: int = 0, process: int = 0) -> torch.Tensor:
        options = dataclasses.replace(SMALL, lead_dropping=share)
        (batch,) = drop_leads([{"lead_mask": there}], options, step, process)
        return batch["lead_mask"]

    assert torch.equal(dropped(0.5), dropped(0.5))
    assert not torch.equal(dropped(0.5), dropped(0.5, step=1))
    assert not torch.equal(dropped(0.5), dropped(0.5, process=1))
    for share in (0.5, 1.0):
        kept = dropped(share)
        assert not (kept & ~there).any()
        assert kept.any(1).all()
    assert dropped(1.0).sum() == 64
    assert dropped(0.25)[1::2].float().mean().item() == pytest.approx(0.75, abs=0.06)
