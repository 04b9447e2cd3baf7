"""What a linear probe compares: frozen encoders with a pooling and layers, and the baselines that they must beat."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from modeling_ecg_jepa import EcgJepaCheckpointError, EcgJepaFeatureExtractor, EcgJepaModel
from modeling_ecg_jepa.tools.checkpoint import BESIDE_THE_POINT, checkpoint_folder, encoder_sha256, load_encoder

from . import probing
from .baselines import NETWORK, STATISTICS, fit_network, lead_statistics
from .embeddings import EmbeddingCache, layer_number, pooled
from .probe_recipe import RECIPE, fit_by_recipe
from .probe_records import Part, ProbeRecords
from .probing import Fitted

POOLS = {"mean": "mean over all patches", "lead": "mean over the patches of each lead, side by side"}

BASELINES = {
    "random": "random weights of the same configuration",
    "statistics": f"{', '.join(STATISTICS)} of each lead",
    "supervised": "a small residual network trained on the same labels",
}

#: What of a configuration matters in pretraining alone.
_OF_PRETRAINING = ("mask_", "predictor_", "target_", "drop_path_rate")


class Reading(NamedTuple):
    """What is read off an encoder, and how: layers, pooling, and a logistic regression or the authors' recipe."""

    layers: tuple[int, ...]
    pool: str
    recipe: bool = False

    @property
    def title(self) -> str:
        layers = "" if self.layers == (-1,) else f", layer {' + '.join(map(str, self.layers))}"
        return f"{self.pool} pool{layers}" + (", authors' recipe" if self.recipe else "")

    @property
    def identity(self) -> dict[str, Any]:
        return {"pool": self.pool, **({"recipe": RECIPE} if self.recipe else {"probe": probing.SETTINGS})}

    def fit(self, by_lead: np.ndarray, records: ProbeRecords, part: Part, seed: int) -> Fitted:
        """
        Args:
            by_lead: embeddings of `EmbeddingCache.embed`.
        """
        features = pooled(by_lead, self.pool)
        if self.recipe:
            return fit_by_recipe(features, records.labels, part, seed)
        return _probe(features, records, part, seed)


class Encoder(NamedTuple):
    """A pretrained encoder, under the name that tables give it."""

    name: str
    folder: Path
    model: EcgJepaModel
    extractor: EcgJepaFeatureExtractor
    sha256: str

    @property
    def shape(self) -> str:
        """Sizes and levers: what decides, with a seed, what random weights compute."""
        config = self.model.config.to_dict()
        kept = config.keys() - BESIDE_THE_POINT
        return json.dumps({name: config[name] for name in sorted(kept) if not name.startswith(_OF_PRETRAINING)})


@dataclass(frozen=True, eq=False)
class Method:
    """Something that scores records after it was fitted to others.

    Attributes:
        name: in tables.
        kind: "pretrained", or one of `BASELINES`.
        identity: what decides its scores beside the records and the seed.
        fit: part, seed -> scores.
        varies: its scores depend on the seed even where all labels are used.
        features: what it is compared by: the encoder's shape, and pooling and layers; nothing for the other baselines.
    """

    name: str
    kind: str
    identity: dict[str, Any]
    fit: Callable[[Part, int], Fitted]
    varies: bool = False
    features: dict[str, str] = dataclasses.field(default_factory=dict)

    def is_rival(self, other: "Method") -> bool:
        """Whether the other has features of the same kind, or features that are not an encoder's."""
        return all(self.features.get(name) == value for name, value in other.features.items())


def load_encoders(models: Sequence[str], device: torch.device) -> list[Encoder]:
    """The encoders of some checkpoints, all with the same grid: then their probes see the same inputs.

    Raises:
        EcgJepaCheckpointError: no checkpoint of ours, a damaged one, or one of another grid than the first.
    """
    short = [os.path.basename(os.path.normpath(model)) for model in models]
    names = short if len(set(short)) == len(short) else models
    encoders: list[Encoder] = []
    for name, given in zip(names, models, strict=True):
        folder = checkpoint_folder(given)
        model, extractor = load_encoder(folder, device)
        encoders.append(Encoder(name, folder, model, extractor, encoder_sha256(model, extractor)))
        _check_same_grid(encoders[0], encoders[-1])
    return encoders


def _check_same_grid(first: Encoder, other: Encoder) -> None:
    for what in ("leads", "sampling_rate", "patch_size", "num_patches"):
        values = [getattr(encoder.extractor, what) for encoder in (first, other)]
        if values[0] != values[1]:
            raise EcgJepaCheckpointError(
                f"{other.name} has {what}={values[1]!r}, {first.name} has {values[0]!r}: they take different inputs. "
                "Probe models of one grid together, and the others in a run and an output folder of their own."
            )


def methods_of(
    encoders: Sequence[Encoder],
    records: ProbeRecords,
    *,
    pools: Sequence[str],
    layers: Sequence[tuple[int, ...]],
    baselines: Sequence[str],
    cache: EmbeddingCache,
    device: torch.device,
    recipe: bool = False,
) -> list[Method]:
    """Every encoder with every pooling and choice of layers, and the baselines; random weights for each shape once.

    Args:
        recipe: also read the mean pool by the authors' recipe.

    Raises:
        EcgJepaConfigError: a layer that an encoder does not have.
    """
    first_of_shape = {encoder.shape: encoder for encoder in reversed(encoders)}
    methods = []
    readings = [Reading(chosen, pool) for chosen in layers for pool in pools]
    for reading in readings + ([Reading(layers[0], "mean", recipe=True)] if recipe else []):
        methods += [encoder_method(encoder, reading, records, cache) for encoder in encoders]
        if "random" in baselines:
            several = len(first_of_shape) > 1
            methods += [
                random_method(encoder, reading, records, cache, several)
                for encoder in encoders
                if first_of_shape[encoder.shape] is encoder
            ]
    if "statistics" in baselines:
        methods.append(statistics_method(records))
    if "supervised" in baselines:
        methods.append(supervised_method(records, device))
    return methods


def encoder_method(encoder: Encoder, reading: Reading, records: ProbeRecords, cache: EmbeddingCache) -> Method:
    """A probe on what a frozen encoder makes of the records."""
    numbers = [layer_number(layer, encoder.model.config, encoder.name) for layer in reading.layers]

    @functools.cache
    def by_lead() -> np.ndarray:
        return cache.embed(encoder.model, encoder.sha256, records, numbers, encoder.name)

    return Method(
        name=f"{encoder.name}, {reading.title}",
        kind="pretrained",
        identity={"encoder": encoder.sha256, "layers": numbers, **reading.identity},
        fit=lambda part, seed: reading.fit(by_lead(), records, part, seed),
        varies=reading.recipe,
        features={"shape": encoder.shape, "variant": reading.title},
    )


def random_method(
    like: Encoder, reading: Reading, records: ProbeRecords, cache: EmbeddingCache, several: bool
) -> Method:
    """The same with an encoder of the same configuration, levers included, and the weights that the seed gives."""
    numbers = [layer_number(layer, like.model.config, like.name) for layer in reading.layers]

    @functools.cache
    def by_lead(seed: int) -> np.ndarray:
        model = random_encoder(like, seed)
        sha256 = encoder_sha256(model, like.extractor)
        return cache.embed(model, sha256, records, numbers, f"random weights {seed}")

    name = f"random weights like {like.name}" if several else "random weights"
    return Method(
        name=f"{name}, {reading.title}",
        kind="random",
        identity={"random": like.shape, "torch": torch.__version__, "layers": numbers, **reading.identity},
        fit=lambda part, seed: reading.fit(by_lead(seed), records, part, seed),
        varies=True,
        features={"shape": like.shape, "variant": reading.title},
    )


def random_encoder(like: Encoder, seed: int) -> EcgJepaModel:
    """An encoder of the same configuration as it is before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EcgJepaModel(like.model.config)
    return model.to(like.model.device).eval()


def statistics_method(records: ProbeRecords) -> Method:
    """A probe on simple statistics of each lead."""
    features = functools.cache(lambda: lead_statistics(records))
    return Method(
        name="statistics of each lead",
        kind="statistics",
        identity={"statistics": STATISTICS, "probe": probing.SETTINGS},
        fit=lambda part, seed: _probe(features(), records, part, seed),
    )


def supervised_method(records: ProbeRecords, device: torch.device) -> Method:
    """A network that has nothing but the labels."""
    signals = functools.cache(lambda: records.windows.__getitems__(np.arange(len(records.ids)))["input_values"])
    return Method(
        name="supervised network",
        kind="supervised",
        identity={"supervised": NETWORK, "torch": torch.__version__},
        fit=lambda part, seed: fit_network(signals(), records.labels, records.groups, part, seed, device),
        varies=True,
    )


def _probe(features: np.ndarray, records: ProbeRecords, part: Part, seed: int) -> Fitted:
    return probing.fit_and_score(features, records.labels, records.groups, part, seed)
