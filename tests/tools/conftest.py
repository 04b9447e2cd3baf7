"""Checkpoints that the tools are tried on: the authors' weights converted, and random ones of ours."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaModel
from modeling_ecg_jepa.tools.convert import convert_from_authors
from modeling_ecg_jepa.tools.verify import write_verification

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="session")
def authors_tiny() -> Path:
    """What the authors' code computed: weights in their format, and outputs."""
    return FIXTURES / "authors_tiny"


@pytest.fixture(scope="session")
def records() -> Path:
    """A folder with two real records, ptb-xl/00001_hr and ptb-xl/00002_hr."""
    return FIXTURES / "records"


@pytest.fixture(scope="session")
def converted(authors_tiny, tmp_path_factory) -> Path:
    """The authors' weights as `ecg-jepa convert` leaves them. Not to be written to: see `own_copy`."""
    folder = tmp_path_factory.mktemp("checkpoints") / "converted"
    heads = json.loads((authors_tiny / "reference.json").read_text())["num_attention_heads"]
    convert_from_authors(authors_tiny / "encoder.pth", folder, heads)
    return folder


@pytest.fixture(scope="session")
def random_model(tmp_path_factory) -> Path:
    """A small model with random weights. Not to be written to."""
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    torch.manual_seed(0)
    EcgJepaModel(EcgJepaConfig.from_preset("tiny", num_hidden_layers=2)).save_pretrained(folder)
    write_verification(folder)
    return folder


@pytest.fixture
def own_copy(converted, tmp_path) -> Path:
    """A copy of `converted` that a test may damage."""
    return Path(shutil.copytree(converted, tmp_path / "copy"))
