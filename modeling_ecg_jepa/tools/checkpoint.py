"""A checkpoint as the tools need it: where it is, what its files hash to, encoder and extractor out of it, strictly."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModel

from ..configuration_ecg_jepa import EcgJepaConfig
from ..errors_ecg_jepa import EcgJepaCheckpointError, EcgJepaError, EcgJepaInputError
from ..feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from ..modeling_ecg_jepa import EcgJepaModel

CONFIG, EXTRACTOR_CONFIG = "config.json", "preprocessor_config.json"

#: What a configuration says beside the sizes and options that decide an embedding.
BESIDE_THE_POINT = {"transformers_version", "_name_or_path", "architectures", "auto_map", "dtype"}

# What a checkpoint may hold beside the encoder: the rest of pretraining, and heads.
_BESIDE_THE_ENCODER = ("teacher.", "predictor.", "target_mean", "classifier.", "regressor.")


def checkpoint_folder(model: str | os.PathLike) -> Path:
    """The folder of a checkpoint, given as such or by its name on the Hub (then fetched, or found in the cache).

    Raises:
        EcgJepaCheckpointError: neither a folder nor a model that can be fetched, or no ECG-JEPA checkpoint.
    """
    folder = Path(model)
    if not folder.is_dir():
        try:
            patterns = ["*.json", "*.safetensors", "*.py"]
            folder = Path(snapshot_download(os.fspath(model), allow_patterns=patterns))
        except (OSError, ValueError) as error:
            raise EcgJepaCheckpointError(
                f"{os.fspath(model)!r} is neither a folder nor a model that the Hub gives out ({error})."
            ) from error
    kind = read_json(folder / CONFIG).get("model_type")
    if kind != EcgJepaConfig.model_type:
        raise EcgJepaCheckpointError(f"{folder / CONFIG} describes a model of type {kind!r}, not an ECG-JEPA model.")
    return folder


def read_json(path: Path) -> dict:
    """The object in a JSON file of a checkpoint.

    Raises:
        EcgJepaCheckpointError: missing, unreadable, or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EcgJepaCheckpointError(
            f"{path} is missing; a checkpoint is a folder with {CONFIG}, {EXTRACTOR_CONFIG} and model.safetensors."
        ) from error
    except (OSError, ValueError) as error:
        raise EcgJepaCheckpointError(f"{path} is damaged ({error}); fetch or copy the checkpoint again.") from error
    if not isinstance(content, dict):
        raise EcgJepaCheckpointError(f"{path} holds no JSON object; fetch or copy the checkpoint again.")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files at the top of a checkpoint, sorted."""
    return sorted(folder.glob("*.safetensors"))


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encoder_sha256(model: EcgJepaModel, extractor: EcgJepaFeatureExtractor) -> str:
    """Over weights, configuration and extractor: equal hashes give equal embeddings of equal records.

    A setting at its default does not count, so that a field that a later version adds leaves the hashes of before.
    """
    settings = [_beside_defaults(part.to_dict(), type(part)().to_dict()) for part in (model.config, extractor)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _beside_defaults(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    told, dull = (json.loads(json.dumps(each, default=str)) for each in (settings, defaults))
    return {name: value for name, value in told.items() if name not in BESIDE_THE_POINT and value != dull.get(name)}


def load_encoder(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[EcgJepaModel, EcgJepaFeatureExtractor]:
    """The encoder in evaluation mode and the extractor that fits it, from the folder of any of our classes: as
    `load_model`."""
    return load_model(folder, AutoModel, device, dtype)


def load_model(
    folder: Path, auto_class: Any, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Any, EcgJepaFeatureExtractor]:
    """The model that an Auto class makes of a folder, in evaluation mode, and the extractor that fits it.

    Args:
        folder (`Path`): as `checkpoint_folder` gives it.
        dtype (`torch.dtype`, *optional*): of the weights in memory; as stored if not given.

    Raises:
        EcgJepaCheckpointError: weights that are damaged, missing or of other sizes than config.json says, where
            transformers would go on with random ones; or an extractor that makes another input than the model takes.
    """
    extractor = EcgJepaFeatureExtractor.from_pretrained(folder)
    try:
        model, report = auto_class.from_pretrained(
            folder, output_loading_info=True, dtype=dtype or "auto", trust_remote_code=False
        )
    except EcgJepaError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise EcgJepaCheckpointError(f"The checkpoint {folder} cannot be loaded: {error}") from error
    missing = sorted(report["missing_keys"])
    unused = sorted(key for key in report["unexpected_keys"] if not key.startswith(_BESIDE_THE_ENCODER))
    for what, keys in (("lack", missing), ("have, beside what config.json describes,", unused)):
        if keys:
            raise EcgJepaCheckpointError(
                f"The weights in {folder} {what} {', '.join(keys[:5])}{' ...' if len(keys) > 5 else ''}: "
                "they and config.json are not of one model. Fetch or copy the checkpoint again."
            )
    for name in ("leads", "sampling_rate", "patch_size"):
        takes, makes = getattr(model.config, name), getattr(extractor, name)
        if takes != makes:
            raise EcgJepaCheckpointError(
                f"{folder}: {EXTRACTOR_CONFIG} has {name}={makes!r}, {CONFIG} has {takes!r}: they are not of one model."
            )
    return model.to(device).eval(), extractor


def choose_device(name: str) -> torch.device:
    """The device of a name: `auto` is a GPU where there is one.

    Raises:
        EcgJepaInputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise EcgJepaInputError(
            f"The device {name!r} is not available here ({str(error).splitlines()[0]}); use auto or cpu."
        ) from error


__all__ = [
    "BESIDE_THE_POINT",
    "CONFIG",
    "EXTRACTOR_CONFIG",
    "checkpoint_folder",
    "choose_device",
    "encoder_sha256",
    "file_sha256",
    "load_encoder",
    "load_model",
    "read_json",
    "weight_files",
]
