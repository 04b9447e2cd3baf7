"""Fixtures of the whole suite: where the real recordings and the authors' frozen outputs lie, if they do."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
