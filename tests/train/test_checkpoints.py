"""What a run leaves: refused over another run, written whole or not at all, loaded by the Auto classes."""

import json
import resource

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from modeling_ecg_jepa import (
    EcgJepaConfig,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
    EcgJepaModel,
    EcgJepaOutputError,
)
from modeling_ecg_jepa.tools.verify import verify
from train.checkpoints import TrainLog, prepare_output_dir, save_model, write_state

CONFIG = EcgJepaConfig.from_preset("tiny", leads=["I", "II"])


def new_model(seed: int) -> EcgJepaForPreTraining:
    torch.manual_seed(seed)
    model = EcgJepaForPreTraining(CONFIG)
    torch.nn.init.normal_(model.teacher.norm.bias)  # so that teacher and student are told apart
    return model


def save(model: EcgJepaForPreTraining, folder) -> None:
    save_model(model, EcgJepaFeatureExtractor.from_config(CONFIG), folder)


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_top_of_the_folder_is_the_student_and_pretraining_is_everything(tmp_path):
    model = new_model(0)
    save(model, tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is EcgJepaModel
    assert_same_weights(encoder, model.encoder)
    assert_same_weights(AutoModelForPreTraining.from_pretrained(tmp_path / "pretraining"), model)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).leads == ["I", "II"]
    assert all(check.passed for check in verify(tmp_path))


def test_nothing_unfinished_stays_behind(tmp_path):
    save(new_model(0), tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_saving_again_replaces_the_model_and_leaves_other_files_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    save(new_model(0), tmp_path)
    later = new_model(1)
    save(later, tmp_path)
    assert_same_weights(AutoModel.from_pretrained(tmp_path), later.encoder)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.fixture
def files_of_100_kb():
    """The largest file that can be written: the weights do not fit, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def saved(tmp_path) -> EcgJepaForPreTraining:
    model = new_model(0)
    save(model, tmp_path)
    return model


def test_a_save_that_fails_leaves_the_model_that_was_there(saved, tmp_path, files_of_100_kb):
    with pytest.raises(EcgJepaOutputError, match="Cannot write"):
        save(new_model(1), tmp_path)
    assert_same_weights(AutoModel.from_pretrained(tmp_path), saved.encoder)
    assert_same_weights(AutoModelForPreTraining.from_pretrained(tmp_path / "pretraining"), saved)


def test_a_new_folder_is_made_and_an_empty_or_foreign_one_is_taken(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert prepare_output_dir(tmp_path, overwrite=False) == tmp_path
    assert prepare_output_dir(tmp_path / "a" / "b", overwrite=False).is_dir()


@pytest.mark.parametrize("name", ["train_log.jsonl", "config.json", "training_state.json"])
def test_a_folder_with_another_run_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(EcgJepaOutputError, match=rf"holds another run \({name}\).*--output_dir.*--overwrite"):
        prepare_output_dir(tmp_path, overwrite=False)
    assert (tmp_path / name).exists()


def test_overwrite_removes_what_runs_leave_and_nothing_else(tmp_path):
    save(new_model(0), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    prepare_output_dir(tmp_path, overwrite=True)
    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "pretraining").exists()
    assert (tmp_path / "notes.txt").exists()


def test_an_output_folder_that_cannot_be_written_is_an_error_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EcgJepaOutputError, match=r"Cannot write to .*file/runs.*Choose an --output_dir"):
        prepare_output_dir(tmp_path / "file" / "runs", overwrite=False)


def test_log_lines_stand_as_soon_as_they_are_written(tmp_path):
    log = TrainLog(tmp_path, {"seed": 3})
    log.write({"step": 1, "loss": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert lines == [{"schema_version": 1, "seed": 3}, {"step": 1, "loss": 0.5}]


def test_the_state_has_a_schema_version(tmp_path):
    write_state(tmp_path, {"steps": 4})
    assert json.loads((tmp_path / "training_state.json").read_text()) == {"schema_version": 1, "steps": 4}
