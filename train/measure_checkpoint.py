"""A model that measures: the ridge regression folded into the head of `EcgJepaForRegression`, and checked after."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dataset_scripts.outputs import whole_folder
from modeling_ecg_jepa import EcgJepaCheckpointError, EcgJepaForRegression
from modeling_ecg_jepa.tools.verify import write_verification

from .embeddings import EmbeddingCache, pooled
from .measure_fit import FittedRidge, fit_ridge, target_names, to_targets
from .measure_records import MeasuredRecords
from .measure_truth import MEASUREMENTS
from .probe_methods import Encoder

#: Between what the checkpoint gives after it was loaded and the ridge regression, in standard deviations of a target.
TOLERANCE = 1e-4


class FittedTarget(NamedTuple):
    """One output of the head: its name and unit, mean and standard deviation among the fitted, and its weights on the
    embedding as it is."""

    name: str
    unit: str
    mean: float
    scale: float
    weights: np.ndarray
    bias: float


def save_measuring_model(
    encoder: Encoder, records: MeasuredRecords, cache: EmbeddingCache, folder: Path, seed: int, overwrite: bool
) -> dict[str, Any]:
    """Fit every measurement that enough patients have to all records, on the mean over all patches, and save.

    Returns:
        For `results.json`: folder, targets, penalties, records, and the largest difference after loading.

    Raises:
        EcgJepaOutputError: the folder holds something else, or cannot be written to.
        EcgJepaCheckpointError: the loaded checkpoint does not give what the regression gave.
    """
    layer = encoder.model.config.num_hidden_layers
    by_lead = cache.embed(encoder.model, encoder.sha256, records.inputs, [layer], encoder.name)
    features = pooled(by_lead, "mean")
    targets, penalties = [], {}
    for name in records.evaluated():
        places, measurement = records.with_truth(name), MEASUREMENTS[name]
        values = to_targets(records.truth[name][places], measurement.circular)
        ridge = fit_ridge(features[places], values, records.inputs.groups[places], seed)
        penalties[name] = ridge.penalty
        named = target_names(name, measurement.unit, measurement.circular)
        targets += _targets_of(ridge, named, values)
    with whole_folder(folder, overwrite=overwrite) as unfinished:
        _save(encoder, targets, unfinished)
        write_verification(unfinished)
        difference = _largest_difference(unfinished, records, features, targets)
    return {
        "folder": str(folder),
        "model": encoder.name,
        "targets": [target._asdict() | {"weights": None} for target in targets],
        "penalties": penalties,
        "fitted_records": {name: len(records.with_truth(name)) for name in records.evaluated()},
        "largest_difference_after_loading": difference,
        "tolerance": TOLERANCE,
    }


def _targets_of(ridge: FittedRidge, named: Sequence[tuple[str, str]], values: np.ndarray) -> list[FittedTarget]:
    """Weights on standardised features become weights on features."""
    weights = ridge.weights / ridge.scale
    biases = ridge.bias - weights @ ridge.center
    means, scales = values.mean(0), np.maximum(values.std(0), 1e-6)
    return [
        FittedTarget(*name, float(mean), float(scale), of_target, float(bias))
        for name, mean, scale, of_target, bias in zip(named, means, scales, weights, biases, strict=True)
    ]


def _save(encoder: Encoder, targets: Sequence[FittedTarget], folder: Path) -> None:
    config = copy.deepcopy(encoder.model.config)
    config.pooling = "mean"
    config.regression_targets = [
        {"name": target.name, "unit": target.unit, "mean": target.mean, "scale": target.scale} for target in targets
    ]
    config.id2label = {place: target.name for place, target in enumerate(targets)}
    config.label2id = {target.name: place for place, target in enumerate(targets)}
    model = EcgJepaForRegression(config)
    weights = {name: value for name, value in encoder.model.state_dict().items() if not name.startswith("pooler.")}
    model.encoder.load_state_dict(weights)
    with torch.no_grad():
        for place, target in enumerate(targets):
            model.regressor.weight[place] = torch.from_numpy(target.weights / target.scale)
            model.regressor.bias[place] = (target.bias - target.mean) / target.scale
    encoder.extractor.save_pretrained(folder)
    model.save_pretrained(folder)


@torch.inference_mode()
def _largest_difference(
    folder: Path, records: MeasuredRecords, features: np.ndarray, targets: Sequence[FittedTarget]
) -> float:
    model = EcgJepaForRegression.from_pretrained(folder).eval()
    scale = np.array([target.scale for target in targets])
    expected = np.stack([features @ target.weights + target.bias for target in targets], axis=1)
    difference = 0.0
    for places in np.array_split(np.arange(len(features)), 1 + (len(features) - 1) // 32):
        found = model(**records.inputs.windows.__getitems__(places)).logits.double().numpy()
        difference = max(difference, float((np.abs(found - expected[places]) / scale).max()))
    if not difference < TOLERANCE:
        raise EcgJepaCheckpointError(
            f"The saved model differs from the regression by {difference:.1e} standard deviations of a target (at most "
            f"{TOLERANCE:g}), so it was not kept. Its weights are {next(model.parameters()).dtype}; save it in float32."
        )
    return difference
