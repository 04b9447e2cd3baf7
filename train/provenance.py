"""Where numbers come from: the command, the commit and the versions that a JSON of results tells."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from modeling_ecg_jepa import __version__


def provenance(command: str, *packages: str) -> dict[str, Any]:
    """Of a run of `python -m train.COMMAND`, with the versions of these packages beside those of torch and kin."""
    named = ("torch", "transformers", "numpy", *packages)
    return {
        "command": shlex.join(["python", "-m", f"train.{command}", *sys.argv[1:]]),
        "commit": checkout_commit(),
        "versions": {
            "ecg_jepa": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in named},
        },
    }


def checkout_commit() -> str | None:
    """Of the checkout that this runs from, with a mark where files differ from it; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
