"""Where P, QRS and T begin and end, read linearly off a frozen encoder's patches: python -m train.measure on LUDB.

Each patch's features (patch embedding, middle and last layer) and those of its two neighbours in the lead go through
one linear layer to the classes none, P, QRS and T of each of its samples: multinomial logistic regression. A lead's
samples then have a class each; runs too short for a wave are given to their neighbours, and what is left are waves with
onset and end.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset_scripts.ludb import Wave
from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import EcgJepaModel, EcgJepaOutputError

from .measure_truth import waves_by_lead
from .probe_records import ProbeRecords

CLASSES = ("none", "P", "QRS", "T")

#: Of a sample outside the marked span of its lead, which is neither fitted nor tested.
UNMARKED = -1

#: How the linear layer is fitted, all of it fixed, and the shortest run of samples that stays a wave.
SETTINGS = {
    "layers": "patch embedding, middle, last",
    "neighbours": 1,
    "epochs": 10,
    "batch_size": 512,
    "learning_rate": 3e-3,
    "weight_decay": 0.1,
    "shortest_seconds": 0.04,
}


class FoundWave(NamedTuple):
    """A wave that was found in a lead: its first and its last sample."""

    kind: str
    onset: int
    end: int


FoundWaves = dict[str, dict[str, list[FoundWave]]]
"""Of each record, by lead, the waves in order."""


# The truth ------------------------------------------------------------------------------------------------------------


def marked_waves(records: ProbeRecords) -> list[dict[str, list[Wave]]]:
    """Of each record, by lead of the model, the waves of LUDB as samples of the model's input."""
    column = records.windows.rows.column("waves").take(records.windows.usable)
    return [waves_by_lead(table) for table in column.to_pylist()]


def start_of(wave: Wave) -> int:
    """Where a wave begins; at its peak where no onset is marked before it."""
    return wave.peak if wave.onset is None else min(wave.onset, wave.peak)


def end_of(wave: Wave) -> int:
    return wave.peak if wave.end is None else wave.end


def span_of(waves: Sequence[Wave]) -> tuple[int, int]:
    """First and last sample of what is marked in a lead: there a sample in no wave is in none."""
    return min(map(start_of, waves)), max(map(end_of, waves))


def sample_classes(waves: Mapping[str, Sequence[Wave]], leads: Sequence[str], samples: int) -> np.ndarray:
    """(leads, samples) int64: places in `CLASSES`; `UNMARKED` outside the span, and in leads without waves."""
    classes = np.full((len(leads), samples), UNMARKED)
    for row, lead in zip(classes, leads, strict=True):
        if waves.get(lead):
            start, end = span_of(waves[lead])
            row[start : end + 1] = 0
            for wave in waves[lead]:
                row[start_of(wave) : end_of(wave) + 1] = CLASSES.index(wave.kind)
    return classes


# Features and the linear layer ----------------------------------------------------------------------------------------


@torch.inference_mode()
def patch_features(model: EcgJepaModel, records: ProbeRecords, batch_size: int, title: str) -> Tensor:
    """(records, leads, patches, 3 channels): patch embedding, middle layer, and the last after the final norm."""
    parts = []
    with tqdm(total=len(records.ids), desc=f"patches with {title}") as bar:
        for places in np.array_split(np.arange(len(records.ids)), 1 + (len(records.ids) - 1) // batch_size):
            batch = {name: part.to(model.device) for name, part in records.windows.__getitems__(places).items()}
            outputs = model(**batch, output_hidden_states=True)
            first, middle = outputs.hidden_states[0], outputs.hidden_states[model.config.num_hidden_layers // 2]
            tokens = torch.cat([first, middle, outputs.last_hidden_state], dim=-1).float().cpu()
            parts.append(tokens.unflatten(1, (len(model.config.leads), -1)))
            bar.update(len(places))
    return torch.cat(parts)


def with_neighbours(patches: Tensor, number: int) -> Tensor:
    """(..., patches, channels) -> (..., patches, (2 number + 1) channels): those around each; zeros beyond the ends."""
    times = patches.shape[-2]
    padded = nn.functional.pad(patches, (0, 0, number, number))
    return torch.cat([padded[..., shift : shift + times, :] for shift in range(2 * number + 1)], dim=-1)


class LinearDelineator:
    """Fitted to patches (..., T, D) with classes (..., T x P): the same layer for every lead and time."""

    def __init__(self, patches: Tensor, classes: Tensor, patch_size: int, seed: int):
        features, targets = patches.flatten(0, -2), classes.unflatten(-1, (-1, patch_size)).flatten(0, -2)
        known = (targets != UNMARKED).any(-1)
        features, targets = features[known], targets[known]
        self.center, self.scale = features.mean(0), features.std(0).clamp(min=1e-6)
        self.layer = nn.Linear(features.shape[-1], patch_size * len(CLASSES))
        for parameter in self.layer.parameters():
            nn.init.zeros_(parameter)
        self._fit((features - self.center) / self.scale, targets, torch.Generator().manual_seed(seed))

    def _fit(self, features: Tensor, targets: Tensor, generator: torch.Generator) -> None:
        rate, decay = SETTINGS["learning_rate"], SETTINGS["weight_decay"]
        optimizer = torch.optim.AdamW(self.layer.parameters(), lr=rate, weight_decay=decay)
        batches = -(-len(features) // SETTINGS["batch_size"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=SETTINGS["epochs"] * batches)
        for _ in range(SETTINGS["epochs"]):
            for batch in torch.randperm(len(features), generator=generator).tensor_split(batches):
                logits = self.layer(features[batch]).unflatten(-1, (-1, len(CLASSES)))
                loss = nn.functional.cross_entropy(
                    logits.flatten(0, 1), targets[batch].flatten(), ignore_index=UNMARKED
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    @torch.inference_mode()
    def classes(self, patches: Tensor) -> Tensor:
        """(..., T, D) -> (..., T x P), the likeliest class of each sample."""
        logits = self.layer((patches - self.center) / self.scale)
        return logits.unflatten(-1, (-1, len(CLASSES))).argmax(-1).flatten(-2)


def waves_in(classes: np.ndarray, shortest: int) -> list[FoundWave]:
    """The waves of a lead's samples (samples,): runs of one class, after every run of fewer than `shortest` samples,
    the shortest first, was given to the longer of its neighbours."""
    borders = np.flatnonzero(np.diff(classes)) + 1
    runs = [[int(run[0]), len(run)] for run in np.split(classes, borders)]
    while len(runs) > 1 and min(length for _, length in runs) < shortest:
        place = min(range(len(runs)), key=lambda place: runs[place][1])
        around = [other for other in (place - 1, place + 1) if 0 <= other < len(runs)]
        runs[place][0] = runs[max(around, key=lambda other: runs[other][1])][0]
        runs = _joined(runs)
    ends = np.cumsum([length for _, length in runs]).tolist()
    return [
        FoundWave(CLASSES[kind], end - length, end - 1) for (kind, length), end in zip(runs, ends, strict=True) if kind
    ]


def _joined(runs: Sequence[list[int]]) -> list[list[int]]:
    joined: list[list[int]] = []
    for kind, length in runs:
        if joined and joined[-1][0] == kind:
            joined[-1][1] += length
        else:
            joined.append([kind, length])
    return joined


# Cross-validation -----------------------------------------------------------------------------------------------------


def delineate_all(
    model: EcgJepaModel, records: ProbeRecords, folds: np.ndarray, seed: int, batch_size: int, title: str
) -> FoundWaves:
    """The waves that are found in every record by a layer that was fitted to the other folds."""
    samples = records.windows.shape[1]
    grid = records.windows.extractor
    marked = marked_waves(records)
    classes = torch.from_numpy(np.stack([sample_classes(waves, grid.leads, samples) for waves in marked]))
    patches = with_neighbours(patch_features(model, records, batch_size, title), SETTINGS["neighbours"])
    shortest = round(SETTINGS["shortest_seconds"] * grid.sampling_rate)
    found: FoundWaves = {}
    for fold in tqdm(np.unique(folds), desc=f"delineating with {title}"):
        fitted, tested = (torch.from_numpy(np.flatnonzero(which)) for which in (folds != fold, folds == fold))
        head = LinearDelineator(patches[fitted], classes[fitted], grid.patch_size, seed)
        for place, of_record in zip(tested.tolist(), head.classes(patches[tested]).numpy(), strict=True):
            by_lead = zip(grid.leads, of_record, strict=True)
            found[records.ids[place]] = {
                lead: waves_in(row, shortest) for lead, row in by_lead if marked[place].get(lead)
            }
    return found


def keep_delineation(
    folder: Path, sha256: str, records: ProbeRecords, folds: np.ndarray, seed: int, compute
) -> FoundWaves:
    """What `compute` gives, or what an earlier run left of the same encoder, records, folds and settings.

    Args:
        sha256: of the encoder.

    Raises:
        EcgJepaOutputError: the file of the earlier run is damaged.
    """
    decides = [sha256, records.signals_sha256, folds.tolist(), seed, SETTINGS, torch.__version__]
    decides.append(
        [{lead: [list(wave) for wave in of_lead] for lead, of_lead in waves.items()} for waves in marked_waves(records)]
    )
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    file = folder / f"delineation-{key}.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as unfinished:
            unfinished.write_text(json.dumps(compute()) + "\n", encoding="utf-8")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            record: {lead: [FoundWave(*wave) for wave in waves] for lead, waves in by_lead.items()}
            for record, by_lead in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EcgJepaOutputError(f"{file} is damaged ({error}). Remove it: it is then computed anew.") from error
