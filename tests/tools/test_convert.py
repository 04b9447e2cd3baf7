"""The authors' checkpoints become ours and go back bit for bit; all else is refused, and nothing is left behind."""

import copy
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from modeling_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfig,
    EcgJepaConfigError,
    EcgJepaForPreTraining,
    EcgJepaModel,
    EcgJepaOutputError,
)
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS
from modeling_ecg_jepa.tools.convert import (
    convert_from_authors,
    convert_to_authors,
    read_authors_checkpoint,
    to_authors_name,
    to_our_name,
)

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def theirs(authors_tiny) -> dict:
    return torch.load(authors_tiny / "encoder.pth", weights_only=True)


def saved(content, folder: Path) -> Path:
    torch.save(content, folder / "ckpt.pth")
    return folder / "ckpt.pth"


def with_leads(leads, folder: Path) -> Path:
    """A checkpoint in the authors' form for other leads, made of a random model of ours."""
    EcgJepaModel(EcgJepaConfig(**SMALL, leads=list(leads), num_patches=20)).save_pretrained(folder / "ours")
    convert_to_authors(folder / "ours", folder / "theirs.pth")
    return folder / "theirs.pth"


# What comes out ------------------------------------------------------------------------------------------------------


def test_a_converted_checkpoint_computes_what_the_authors_code_computed(converted, authors_tiny):
    reference = load_file(authors_tiny / "outputs.safetensors")
    model = AutoModel.from_pretrained(converted).eval()
    with torch.no_grad():
        output = model(reference["signal"])
    assert (output.pooler_output - reference["representation.all"]).abs().max() < 1e-5
    assert (output.last_hidden_state - reference["last_hidden_state"]).abs().max() < 1e-5


def test_sizes_are_read_off_the_shapes(converted, authors_tiny):
    sizes = json.loads((authors_tiny / "reference.json").read_text())
    config = AutoConfig.from_pretrained(converted)
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size"):
        assert getattr(config, name) == sizes[name]
    assert (len(config.leads), config.num_patches) == (sizes["leads"], sizes["patches"])


def test_the_folder_is_whole(converted):
    present = {path.name for path in converted.iterdir()}
    assert present >= {"model.safetensors", "config.json", "preprocessor_config.json", "verification.json", "cropa.py"}
    assert [path.name for path in converted.parent.iterdir()] == ["converted"]
    assert AutoFeatureExtractor.from_pretrained(converted).leads == AutoConfig.from_pretrained(converted).leads


def test_every_weight_is_the_authors_bit_for_bit(converted, theirs):
    ours = load_file(converted / "model.safetensors")
    assert {to_authors_name(name) for name in ours} == theirs["encoder"].keys() - {"pos_embed"}
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs["encoder"][to_authors_name(name)]), name


def test_the_way_back_gives_the_authors_file_bit_for_bit(converted, theirs, tmp_path):
    convert_to_authors(converted, tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == theirs.keys()
    assert back["epoch"] == theirs["epoch"] == 99
    assert back["encoder"].keys() == theirs["encoder"].keys()
    for name, tensor in theirs["encoder"].items():
        assert torch.equal(back["encoder"][name], tensor), name


def test_hashes_of_source_and_result_are_those_of_the_files(authors_tiny, tmp_path):
    conversion = convert_from_authors(authors_tiny / "encoder.pth", tmp_path / "out", 4)
    for path, digest in ((conversion.source, conversion.source_sha256), (conversion.result, conversion.result_sha256)):
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    origin = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert (origin["source_sha256"], origin["epoch"]) == (conversion.source_sha256, 99)


def test_the_way_back_of_a_pretraining_checkpoint_holds_the_student(tmp_path):
    model = EcgJepaForPreTraining(EcgJepaConfig.from_preset("tiny"))
    torch.nn.init.ones_(model.teacher.norm.weight)
    torch.nn.init.constant_(model.encoder.norm.weight, 2.0)
    model.save_pretrained(tmp_path / "ours")
    convert_to_authors(tmp_path / "ours", tmp_path / "theirs.pth")
    state, epoch = read_authors_checkpoint(tmp_path / "theirs.pth")
    assert epoch == 0
    assert not any("predictor" in name or "teacher" in name for name in state)
    assert torch.equal(state["norm.weight"], torch.full((96,), 2.0))


def test_scaled_positions_are_written_as_our_model_adds_them(tmp_path):
    EcgJepaModel(EcgJepaConfig(**SMALL, position_scale=0.2)).save_pretrained(tmp_path / "ours")
    convert_to_authors(tmp_path / "ours", tmp_path / "theirs.pth")
    state, _ = read_authors_checkpoint(tmp_path / "theirs.pth")
    quarter = 16 // 4
    assert torch.allclose(state["pos_embed"][0, quarter : 2 * quarter], torch.tensor(0.2))  # the cosines of time 0


# Names ---------------------------------------------------------------------------------------------------------------


def test_names_of_the_encoder_map_one_to_one(theirs):
    ours = {to_our_name(name): name for name in theirs["encoder"] if name != "pos_embed"}
    model = EcgJepaModel(EcgJepaConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4))
    assert ours.keys() == model.state_dict().keys()
    assert all(to_authors_name(name) == authors for name, authors in ours.items())


def test_names_of_the_predictor_map_one_to_one(authors_tiny):
    prefix = "state.predictor."
    names = [name.removeprefix(prefix) for name in load_file(authors_tiny / "states.safetensors") if prefix in name]
    ours = {to_our_name(name): name for name in names if name != "pos_embed"}
    predictor = EcgJepaForPreTraining(EcgJepaConfig.from_preset("tiny")).predictor
    assert ours.keys() == predictor.state_dict().keys()
    assert all(to_authors_name(name, "predictor") == authors for name, authors in ours.items())


# Leads ---------------------------------------------------------------------------------------------------------------


def test_twelve_leads_have_their_standard_names(tmp_path):
    conversion = convert_from_authors(with_leads(STANDARD_12_LEADS, tmp_path), tmp_path / "out", 2)
    assert conversion.config.leads == list(STANDARD_12_LEADS)
    assert conversion.config.num_patches == 20


def test_another_number_of_leads_needs_names(tmp_path):
    checkpoint = with_leads(["II", "V1", "V5"], tmp_path)
    with pytest.raises(EcgJepaConfigError, match="has 3 leads; only 8 and 12 have standard names"):
        convert_from_authors(checkpoint, tmp_path / "out", 2)
    with pytest.raises(EcgJepaConfigError, match="has 3 leads, --leads names 2: II, V1"):
        convert_from_authors(checkpoint, tmp_path / "out", 2, ["II", "V1"])
    conversion = convert_from_authors(checkpoint, tmp_path / "out", 2, ["II", "V1", "V5"])
    assert conversion.config.leads == ["II", "V1", "V5"]


def test_one_lead_is_a_grid_too(tmp_path):
    conversion = convert_from_authors(with_leads(["II"], tmp_path), tmp_path / "out", 2, ["II"])
    assert (conversion.config.leads, conversion.config.num_patches) == (["II"], 20)


# What is refused -----------------------------------------------------------------------------------------------------

FC1 = "encoder_blocks.blocks.1.mlp.fc1.weight"


def without(content, name):
    del content["encoder"][name]


def replaced(content, name, change):
    content["encoder"][name] = change(content["encoder"][name])


def spoilt(value):
    def change(tensor):
        tensor = tensor.clone()
        tensor.flatten()[3] = value
        return tensor

    return change


FAULTS = {
    "missing key": (lambda c: without(c, FC1), f"lacks {FC1}"),
    "missing patches": (lambda c: without(c, "W_P.weight"), "has no W_P.weight, so it is no encoder"),
    "missing positions": (lambda c: without(c, "pos_embed"), "has no pos_embed"),
    "missing layer": (lambda c: c["encoder"].update({"encoder_blocks.blocks.7.norm1.bias": torch.zeros(64)}), "lacks"),
    "extra key": (lambda c: c["encoder"].update(cls_token=torch.zeros(64)), "has no place for cls_token"),
    "wrong shape": (
        lambda c: replaced(c, FC1, lambda t: t[:, :63].contiguous()),
        r"has the shape \(256, 63\).*256, 64",
    ),
    "wrong dimensions": (lambda c: replaced(c, "W_P.weight", lambda t: t[0]), r"W_P.weight .* has the shape \(50,\)"),
    "NaN": (lambda c: replaced(c, FC1, spoilt(float("nan"))), f"{FC1} .* has 1 values that are NaN or infinite"),
    "infinity": (lambda c: replaced(c, "norm.bias", spoilt(float("inf"))), "norm.bias .* NaN or infinite"),
    "half precision": (lambda c: replaced(c, FC1, torch.Tensor.half), "tensor of torch.float16.*float32"),
    "sparse": (lambda c: replaced(c, FC1, torch.Tensor.to_sparse), "torch.sparse_coo"),
    "no tensor": (lambda c: replaced(c, FC1, lambda t: 3), f"{FC1}. in the checkpoint is a int, not a tensor"),
    "no name": (
        lambda c: c["encoder"].update({7: torch.zeros(64)}),
        "7 in the checkpoint is a Tensor, not a tensor by name",
    ),
    "other positions": (lambda c: replaced(c, "pos_embed", lambda t: 1.001 * t), "positions .* differ by up to 0.001"),
    "learned positions": (lambda c: replaced(c, "pos_embed", torch.zeros_like), "positions .* differ by up to 1"),
    "odd grid": (lambda c: replaced(c, "pos_embed", lambda t: t[:-1]), "are not those of a .* grid"),
    "more in the file": (lambda c: c.update(optimizer={}), "holds optimizer beside the encoder and the epoch"),
    "no encoder": (lambda c: c.pop("encoder"), "not of the authors' form.*a dictionary of epoch"),
    "encoder of another kind": (lambda c: c.update(encoder=[1]), "not of the authors' form"),
    "empty encoder": (lambda c: c.update(encoder={}), "has no W_P.weight.*It has nothing"),
}


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_a_checkpoint_with_a_fault_is_refused_and_leaves_nothing(theirs, tmp_path, spoil, message):
    content = copy.deepcopy(theirs)
    spoil(content)
    checkpoint = saved(content, tmp_path)
    with pytest.raises(EcgJepaCheckpointError, match=message):
        convert_from_authors(checkpoint, tmp_path / "deep" / "out", 4)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_state_dict_alone_is_refused_with_the_expected_form(theirs, tmp_path):
    with pytest.raises(EcgJepaCheckpointError, match=r'form \{"encoder": state_dict, "epoch": n\}'):
        convert_from_authors(saved(theirs["encoder"], tmp_path), tmp_path / "out", 4)


class Malicious:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_code_in_a_checkpoint_is_never_run(theirs, tmp_path):
    mark = tmp_path / "mark"
    for content in (
        Malicious(mark),
        {**theirs, "epoch": Malicious(mark)},
        {"encoder": {"W_P.weight": Malicious(mark)}},
    ):
        checkpoint = saved(content, tmp_path)
        with pytest.raises(EcgJepaCheckpointError, match=r"is refused: it holds code \(posix.mkdir\)") as caught:
            convert_from_authors(checkpoint, tmp_path / "out", 4)
        assert "weights_only" not in str(caught.value)
    checkpoint.write_bytes(pickle.dumps(Malicious(mark)))  # a bare pickle
    with pytest.raises(EcgJepaCheckpointError):
        convert_from_authors(checkpoint, tmp_path / "out", 4)
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize("length", [0, 1, 100, 5_000, 363_000, -1])
def test_a_truncated_file_is_refused(authors_tiny, tmp_path, length):
    checkpoint = tmp_path / "ckpt.pth"
    checkpoint.write_bytes((authors_tiny / "encoder.pth").read_bytes()[:length])
    with pytest.raises(EcgJepaCheckpointError, match=r"ckpt.pth .*PyTorch checkpoint"):
        convert_from_authors(checkpoint, tmp_path / "out", 4)
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", b"\x80\x04K\x01."]
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "ckpt.pth").write_bytes(content)
    with pytest.raises(EcgJepaCheckpointError, match="ckpt.pth"):
        convert_from_authors(tmp_path / "ckpt.pth", tmp_path / "out", 4)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(EcgJepaCheckpointError, match=r"absent.pth cannot be read .*No such file"):
        convert_from_authors(tmp_path / "absent.pth", tmp_path / "out", 4)
    with pytest.raises(EcgJepaCheckpointError, match="is a folder.*--to-authors"):
        convert_from_authors(tmp_path, tmp_path / "out", 4)


def test_heads_that_do_not_divide_the_size_are_refused(authors_tiny, tmp_path):
    with pytest.raises(EcgJepaConfigError, match="hidden_size=64 must divide by num_attention_heads=5"):
        convert_from_authors(authors_tiny / "encoder.pth", tmp_path / "out", 5)
    assert list(tmp_path.iterdir()) == []


def test_what_the_authors_code_cannot_express_is_refused(tmp_path):
    EcgJepaModel(EcgJepaConfig(**SMALL, pooling="attention")).save_pretrained(tmp_path / "ours")
    with pytest.raises(EcgJepaCheckpointError, match="pooling='attention'; the authors' code has 'mean' and no other"):
        convert_to_authors(tmp_path / "ours", tmp_path / "theirs.pth")
    assert not (tmp_path / "theirs.pth").exists()


# Where it is written -------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_empty_is_kept_unless_told_otherwise(authors_tiny, tmp_path):
    source, out = authors_tiny / "encoder.pth", tmp_path / "out"
    out.mkdir()
    convert_from_authors(source, out, 4)
    before = (out / "config.json").read_text()
    with pytest.raises(EcgJepaOutputError, match="not empty. Choose another, or pass --overwrite"):
        convert_from_authors(source, out, 2)
    assert (out / "config.json").read_text() == before
    convert_from_authors(source, out, 2, overwrite=True)
    assert AutoConfig.from_pretrained(out).num_attention_heads == 2
    assert list(tmp_path.iterdir()) == [out]


def test_overwriting_never_removes_what_no_conversion_wrote(authors_tiny, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(EcgJepaOutputError, match="holds thesis.tex, which would be lost"):
        convert_from_authors(authors_tiny / "encoder.pth", out, 4, overwrite=True)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    assert list(tmp_path.iterdir()) == [out]


def test_a_place_that_cannot_be_written_is_named(authors_tiny, converted, tmp_path):
    (tmp_path / "file").write_text("")
    for out, message in ((tmp_path / "file" / "out", "Cannot write .*file.*out"), (tmp_path / "file", "is a file")):
        with pytest.raises(EcgJepaOutputError, match=message):
            convert_from_authors(authors_tiny / "encoder.pth", out, 4)
    with pytest.raises(EcgJepaOutputError, match=r"Cannot write .*absent.out.pth"):
        convert_to_authors(converted, tmp_path / "absent" / "out.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_way_back_replaces_a_file_only_when_told(converted, tmp_path):
    target = tmp_path / "out.pth"
    target.write_text("mine")
    with pytest.raises(EcgJepaOutputError, match="exists already"):
        convert_to_authors(converted, target)
    assert target.read_text() == "mine"
    convert_to_authors(converted, target, overwrite=True)
    assert read_authors_checkpoint(target)[1] == 99
