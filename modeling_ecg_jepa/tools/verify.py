"""Whether a checkpoint computes what it did when it was exported: a built-in input and the embedding it must give."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from dataset_scripts.outputs import whole_file

from ..errors_ecg_jepa import EcgJepaCheckpointError
from ..feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from ..modeling_ecg_jepa import EcgJepaModel
from .checkpoint import CONFIG, EXTRACTOR_CONFIG, checkpoint_folder, file_sha256, load_encoder, read_json, weight_files

VERIFICATION = "verification.json"
SCHEMA_VERSION = 1

#: Norm of the difference over norm of the embedding, in float32. Most of an embedding is positions, so even a wrong
#: number of heads moves that of random weights by 4e-5 only; float32 is within 2e-7 of float64.
TOLERANCE = 1e-5

# Whatever cut the extractor was saved with: one row of the grid, always the same.
_ONE_ROW: dict[str, Any] = {
    "truncation": "start",
    "window_seconds": None,
    "stride_seconds": None,
    "padding": "max_length",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, in words, and whether it is as it was at export."""

    passed: bool
    text: str


def built_in_signal(leads: Sequence[str], seconds: float, sampling_rate: float) -> np.ndarray:
    """(leads, samples) in mV, float64: two sines a lead, of frequencies and phases that tell leads and times apart."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    lead = np.arange(len(leads))[:, None]
    slow = 0.6 * np.sin(2 * np.pi * (1.1 + 0.13 * lead) * time + lead)
    fast = 0.25 * np.sin(2 * np.pi * (9.0 + 1.7 * lead) * time)
    return slow + fast


def verification_embeddings(model: EcgJepaModel, extractor: EcgJepaFeatureExtractor) -> dict[str, list[list[float]]]:
    """The embeddings of the built-in inputs: the whole grid, and one with missing leads and padding.

    The signals are at twice the model's rate, so that resampling is part of what is checked.
    """
    seconds = extractor.num_patches * extractor.patch_size / extractor.sampling_rate
    rate = 2 * extractor.sampling_rate
    cases = {"all leads": (extractor.leads, seconds), "every other lead, padded": (extractor.leads[::2], 0.6 * seconds)}
    embeddings = {}
    for name, (leads, length) in cases.items():
        signal = built_in_signal(leads, length, rate)
        inputs = extractor(signal, rate, leads, "mV", return_tensors="pt", **_ONE_ROW)
        with torch.inference_mode():
            embeddings[name] = model(**inputs.to(model.device)).pooler_output.float().tolist()
    return embeddings


def write_verification(folder: str | os.PathLike) -> Path:
    """Load a saved checkpoint, embed the built-in inputs, and keep the result and the files' hashes beside the weights.

    Call it last, when everything else in the folder has been written.

    Raises:
        EcgJepaCheckpointError: the folder holds no checkpoint that loads.
        EcgJepaOutputError: the folder cannot be written to.
    """
    folder = Path(folder)
    content = {
        "schema_version": SCHEMA_VERSION,
        "tolerance": TOLERANCE,
        "computed_with": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
        },
        "sha256": {path.name: file_sha256(path) for path in _hashed_files(folder)},
        "embeddings": verification_embeddings(*load_encoder(checkpoint_folder(folder), dtype=torch.float32)),
    }
    with whole_file(folder / VERIFICATION) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder / VERIFICATION


def verify(model: str | os.PathLike, device: torch.device | str = "cpu") -> list[Check]:
    """Compare a checkpoint, a folder or a name on the Hub, with what was stored at its export.

    Raises:
        EcgJepaCheckpointError: no checkpoint, or one without a verification.json that can be used.
    """
    folder = checkpoint_folder(model)
    stored = _stored(folder)
    checks = [_check_file(folder / name, digest) for name, digest in sorted(stored["sha256"].items())]
    try:
        embeddings = verification_embeddings(*load_encoder(folder, device, dtype=torch.float32))
    except EcgJepaCheckpointError as error:
        return [*checks, Check(False, str(error))]
    for name, expected in stored["embeddings"].items():
        checks.append(_check_embedding(name, embeddings.get(name, []), expected, stored["tolerance"]))
    return checks


def _hashed_files(folder: Path) -> list[Path]:
    return [folder / CONFIG, folder / EXTRACTOR_CONFIG, *weight_files(folder)]


def _stored(folder: Path) -> dict:
    if not (folder / VERIFICATION).is_file():
        raise EcgJepaCheckpointError(
            f"{folder} has no {VERIFICATION}, so nothing says what the model must compute. If you trust it as it is, "
            f"`ecg-jepa verify {folder} --write` writes one for those who get it from you."
        )
    stored = read_json(folder / VERIFICATION)
    version = stored.get("schema_version")
    if version != SCHEMA_VERSION:
        raise EcgJepaCheckpointError(
            f"{folder / VERIFICATION} has schema_version {version!r}; this version of ecg-jepa reads {SCHEMA_VERSION}. "
            "Update the package."
        )
    if not all(isinstance(stored.get(part), dict) for part in ("sha256", "embeddings")) or "tolerance" not in stored:
        raise EcgJepaCheckpointError(f"{folder / VERIFICATION} is damaged; fetch or copy the checkpoint again.")
    return stored


def _check_file(path: Path, expected: str) -> Check:
    if not path.is_file():
        return Check(False, f"{path.name} is missing")
    found = file_sha256(path)
    if found == expected:
        return Check(True, f"{path.name} is the file of the export (SHA-256 {found})")
    return Check(False, f"{path.name} was changed after the export (SHA-256 {found}, exported {expected})")


def _check_embedding(name: str, found: list[list[float]], expected: list[list[float]], tolerance: float) -> Check:
    ours, stored = np.array(found), np.array(expected)
    if ours.shape != stored.shape:
        return Check(False, f"embedding of {name}: shape {ours.shape}, exported {stored.shape}")
    difference = float(np.linalg.norm(ours - stored) / np.linalg.norm(stored))
    text = f"embedding of {name}: differs by {difference:.1e} of its size (at most {tolerance:g})"
    return Check(difference <= tolerance, text)


__all__ = ["TOLERANCE", "VERIFICATION", "Check", "built_in_signal", "verify", "write_verification"]
