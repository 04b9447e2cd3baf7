"""Fixtures of the whole suite: where the real recordings and the authors' frozen outputs lie, if they do."""

import tarfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# One thread: the models here are tiny, and threads that wait for each other on a busy machine cost ten times the work.
torch.set_num_threads(1)

# pytest tests/test_fuzz.py --hypothesis-profile=fuzz
settings.register_profile("fuzz", max_examples=3000)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="how often a pretraining run is killed and resumed")


def _shared(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"needs the folder ../shared/{folder} beside the repository")
    return path


@pytest.fixture(scope="session")
def shared_ecg() -> Path:
    """Real recordings in their corpora's own layouts; its SOURCES.md lists them."""
    return _shared("ecg")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """What the authors' code computed: `authors_tiny/` and `preprocessing.safetensors`."""
    return _shared("reference")


@pytest.fixture(scope="session")
def shared_bulk(tmp_path_factory) -> Path:
    """More real recordings, `ptb-xl` and `ludb`, unpacked for this session."""
    archive = _shared("ecg").parent / "ecg-bulk.tar.xz"
    if not archive.is_file():
        pytest.skip("needs the file ../shared/ecg-bulk.tar.xz beside the repository")
    folder = tmp_path_factory.mktemp("bulk")
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder
