"""Embeddings of a frozen encoder, a vector a lead and layer, kept by the hash of all that they follow from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import (
    EcgJepaConfig,
    EcgJepaConfigError,
    EcgJepaModel,
    EcgJepaOutputError,
)

from .probe_records import ProbeRecords


def layer_number(layer: int, config: EcgJepaConfig, name: str) -> int:
    """A layer counted from 0, the patch embedding; N, or -1, is the last of N, after the final norm.

    Raises:
        EcgJepaConfigError: the model has no such layer.
    """
    layers = config.num_hidden_layers
    if not -layers - 1 <= layer <= layers:
        raise EcgJepaConfigError(
            f"--layer {layer}: {name} has {layers} layers; name one of 0 (the patch embedding) to {layers}, or count "
            "from the end: -1 is the last."
        )
    return layer % (layers + 1)


@torch.inference_mode()
def embed_by_lead(
    model: EcgJepaModel, records: ProbeRecords, places: np.ndarray, layers: Sequence[int], bar: tqdm, batch_size: int
) -> np.ndarray:
    """(records, layers, leads, channels) float32: means over the patches of each lead that is given; NaN where it is
    missing."""
    parts = []
    for some in np.array_split(places, 1 + (len(places) - 1) // batch_size):
        batch = records.windows.__getitems__(some)
        outputs = model(**{name: part.to(model.device) for name, part in batch.items()}, output_hidden_states=True)
        tokens = [
            outputs.last_hidden_state if layer == model.config.num_hidden_layers else outputs.hidden_states[layer]
            for layer in layers
        ]
        grid = batch["lead_mask"].shape[1], -1
        by_lead = torch.stack([layer.unflatten(1, grid).mean(2) for layer in tokens], dim=1)
        by_lead = by_lead.float().masked_fill(~batch["lead_mask"].to(model.device)[:, None, :, None], torch.nan)
        parts.append(by_lead.cpu().numpy())
        bar.update(len(some))
    return np.concatenate(parts)


class EmbeddingCache:
    """Embeddings in a folder, a file for each encoder, layer and fold."""

    def __init__(self, folder: Path, batch_size: int = 32, quiet: bool = False):
        self.folder, self.batch_size, self.quiet = folder, batch_size, quiet

    def embed(
        self, model: EcgJepaModel, sha256: str, records: ProbeRecords, layers: Sequence[int], title: str
    ) -> np.ndarray:
        """(records, layers, leads, channels), read where they are there and computed where not.

        Args:
            sha256: `checkpoint.encoder_sha256` of the model.
            layers: from 0 to the number of layers.
            title: of the progress bar.

        Raises:
            EcgJepaOutputError: the folder cannot be written to, or a file in it is damaged.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EcgJepaOutputError(f"Cannot use {self.folder} for embeddings ({error}). Choose another.") from error
        folds = list(records.fold_counts())
        files = {fold: self._files(sha256, records.signals_sha256[fold], layers) for fold in folds}
        absent = [fold for fold in folds if not all(file.is_file() for file in files[fold])]
        number = sum(len(records.of_fold(fold)) for fold in absent)
        with tqdm(total=number, desc=f"embedding with {title}", disable=self.quiet or not number) as bar:
            for fold in absent:
                of_fold = embed_by_lead(model, records, records.of_fold(fold), layers, bar, self.batch_size)
                for file, layer in zip(files[fold], of_fold.swapaxes(0, 1), strict=True):
                    with whole_file(file) as unfinished, unfinished.open("wb") as content:
                        np.save(content, layer)
        by_fold = [[_load(file) for file in files[fold]] for fold in folds]
        return np.concatenate([np.stack(layers_of_fold, axis=1) for layers_of_fold in by_fold])

    def _files(self, encoder: str, signals: str, layers: Sequence[int]) -> list[Path]:
        return [self.folder / f"{encoder[:16]}-{signals[:16]}-layer{layer}.npy" for layer in layers]


def _load(file: Path) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EcgJepaOutputError(f"{file} is damaged ({error}). Remove it: it is then computed anew.") from error


def pooled(by_lead: np.ndarray, pool: str) -> np.ndarray:
    """Features of `EmbeddingCache.embed`: (records, layers x channels) for "mean", over the leads that are there, or
    (records, layers x leads x channels) for "lead", where a missing lead stays NaN."""
    if pool == "lead":
        return by_lead.reshape(len(by_lead), -1)
    return np.nanmean(by_lead, axis=2).reshape(len(by_lead), -1)
