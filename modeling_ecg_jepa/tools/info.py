"""What a checkpoint is: sizes, parameters, input, labels, where it comes from, and the hashes of its files."""

import collections
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..configuration_ecg_jepa import EcgJepaConfig
from ..errors_ecg_jepa import EcgJepaCheckpointError
from ..modeling_ecg_jepa import EcgJepaModel
from .checkpoint import CONFIG, EXTRACTOR_CONFIG, checkpoint_folder, file_sha256, read_json, weight_files
from .convert import CONVERSION
from .verify import VERIFICATION

#: Where pretraining leaves the whole of student, teacher and predictor, and what it says of the run.
PRETRAINING, TRAINING_STATE = "pretraining", "training_state.json"

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "pooling")
_LEVERS = ("patch_initializer_range", "position_scale", "target_centering")


def describe(model: str | os.PathLike) -> dict[str, Any]:
    """What there is to say of a checkpoint, a folder or a name on the Hub, as JSON types; no weights are loaded.

    Raises:
        EcgJepaCheckpointError: no ECG-JEPA checkpoint, or damaged files.
    """
    folder = checkpoint_folder(model)
    config = EcgJepaConfig.from_pretrained(folder)
    return {
        "model": os.fspath(model),
        "architectures": config.architectures or [],
        "parameters": {"encoder": encoder_parameters(config), "stored": stored_values(folder)},
        "sizes": {name: getattr(config, name) for name in _SIZES},
        "input": {
            "modality": config.modality,
            "leads": list(config.leads),
            "sampling_rate": config.sampling_rate,
            "patch_size": config.patch_size,
            "num_patches": config.num_patches,
            "seconds": config.num_patches * config.patch_size / config.sampling_rate,
        },
        "labels": _labels(config),
        "training": {
            "levers": {name: getattr(config, name) for name in _LEVERS},
            "state": _read_if_there(folder / TRAINING_STATE),
            "continues_from": PRETRAINING if (folder / PRETRAINING).is_dir() else None,
        },
        "converted_from": _read_if_there(folder / CONVERSION),
        "files": {path.name: file_sha256(path) for path in _described_files(folder)},
    }


def encoder_parameters(config: EcgJepaConfig) -> int:
    """Parameters of the encoder with this configuration; positions are computed and count for nothing."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in EcgJepaModel(config).parameters())


def stored_values(folder: Path) -> dict[str, int]:
    """Values in the weight files by part: encoder, teacher, predictor, classifier and so on.

    Raises:
        EcgJepaCheckpointError: no safetensors file, or a damaged one.
    """
    files = weight_files(folder)
    if not files:
        raise EcgJepaCheckpointError(f"{folder} has no weights (*.safetensors).")
    counts: dict[str, int] = collections.Counter()
    for path in files:
        try:
            with safe_open(path, framework="pt") as weights:
                names = weights.keys()  # the open file is no dictionary and cannot be walked over itself
                for name in names:
                    counts[_part(name)] += torch.Size(weights.get_slice(name).get_shape()).numel()
        except (OSError, SafetensorError) as error:
            raise EcgJepaCheckpointError(
                f"{path} is damaged ({error}); it may be an interrupted download. Fetch or copy it again."
            ) from error
    return dict(counts)


def _part(name: str) -> str:
    part = name.split(".")[0]
    return part if part in {"teacher", "predictor", "classifier", "regressor", "target_mean"} else "encoder"


def _labels(config: EcgJepaConfig) -> list[Any]:
    """Classes, or measurements with their units; nothing for a model without a head."""
    if config.regression_targets:
        return list(config.regression_targets)
    has_head = any("Classification" in name for name in config.architectures or [])
    return list((config.id2label or {}).values()) if has_head else []


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _described_files(folder: Path) -> list[Path]:
    names = [folder / name for name in (CONFIG, EXTRACTOR_CONFIG, VERIFICATION)]
    return [path for path in (*weight_files(folder), *names) if path.is_file()]


def in_words(description: dict[str, Any]) -> list[str]:
    """`describe` as lines for a person."""
    sizes, given, training = description["sizes"], description["input"], description["training"]
    architectures = ", ".join(description["architectures"]) or "no architecture named"
    parts = ", ".join(f"{part} {count:,}" for part, count in description["parameters"]["stored"].items())
    levers = ", ".join(f"{name} {value}" for name, value in training["levers"].items())
    lines = [
        f"model            {description['model']} ({architectures})",
        f"sizes            hidden {sizes['hidden_size']}, {sizes['num_hidden_layers']} layers, "
        f"{sizes['num_attention_heads']} heads, MLP {sizes['mlp_ratio']}x, {sizes['pooling']} pooling",
        f"parameters       {description['parameters']['encoder']:,} in the encoder; stored values: {parts}",
        f"modality         {given['modality']}",
        f"leads            {len(given['leads'])}: {', '.join(given['leads'])}",
        f"sampling rate    {given['sampling_rate']} Hz",
        f"patch            {given['patch_size']} samples ({given['patch_size'] / given['sampling_rate']:g} s)",
        f"record           {given['num_patches']} patches ({given['seconds']:g} s); other lengths work as well",
        f"labels           {_labels_in_words(description['labels'])}",
        f"training         {levers}",
        *_training_in_words(training),
        *_conversion_in_words(description["converted_from"]),
    ]
    return lines + [f"SHA-256          {digest}  {name}" for name, digest in description["files"].items()]


def _labels_in_words(labels: list[Any]) -> str:
    if not labels:
        return "none: an encoder"
    names = [f"{label['name']} ({label['unit']})" if isinstance(label, dict) else str(label) for label in labels]
    return f"{len(names)}: {', '.join(names)}"


def _training_in_words(training: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in (training["state"] or {}).items():
        if isinstance(value, (int, float, str)):
            lines.append(f"                 {key} {value}")
        elif isinstance(value, dict) and all(isinstance(entry, (int, float, str)) for entry in value.values()):
            lines.append(f"                 {key}: {', '.join(f'{name} {entry}' for name, entry in value.items())}")
    if training["continues_from"]:
        lines.append(f"                 student, teacher and predictor are in {training['continues_from']}/")
    return lines


def _conversion_in_words(conversion: dict[str, Any] | None) -> list[str]:
    if conversion is None:
        return []
    return [
        f"converted from   {conversion.get('source')}, epoch {conversion.get('epoch')}, "
        f"SHA-256 {conversion.get('source_sha256')}"
    ]


__all__ = ["describe", "encoder_parameters", "in_words", "stored_values"]
