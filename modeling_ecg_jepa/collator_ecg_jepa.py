"""Rows of mixed leads and lengths, as corpora or the extractor give them, made into one batch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .errors_ecg_jepa import EcgJepaInputError
from .feature_extraction_ecg_jepa import EcgJepaFeatureExtractor

#: The count that stands for a missing value in the corpora's rows.
MISSING_COUNT = -32768


@dataclasses.dataclass
class EcgJepaDataCollator:
    """
    Batches rows of any leads and lengths for the Trainer, pipelines and pretraining.

    Rows are all of one of two kinds; columns not named here are dropped:

    - as the corpora have them: `signal` (int16, flat, leads x samples; -32768 = missing), `signal_scale` (mV a count),
      `lead_names`, `sampling_rate`. They go through `extractor`.
    - as the extractor gives them: `input_values` (leads, samples), `lead_mask` (leads,), `attention_mask` (patches,).
      Missing masks mean that everything is there. Shorter rows are padded with zeros to the longest.

    `labels` (or `label`) that are a list of class indices become multi-hot floats over `num_labels`; a single index
    stays an index; floats are passed on. With windows every window has its record's labels.

    With the Trainer pass `remove_unused_columns=False`: it would drop `signal` before the collator sees it.

    Args:
        extractor (`EcgJepaFeatureExtractor`, *optional*): the model's; the paper's 10 s grid if not given.
        num_labels (`int`, *optional*): classes of multi-label data.
        with_labels (`bool`, defaults to `True`): return labels where the rows have them; pretraining wants none.
    """

    extractor: EcgJepaFeatureExtractor = dataclasses.field(default_factory=EcgJepaFeatureExtractor)
    num_labels: int | None = None
    with_labels: bool = True

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Returns:
            `dict`: `input_values` (batch, leads, samples), `lead_mask` (batch, leads), `attention_mask`
            (batch, patches), and `labels` (batch, ...) where the rows have them.

        Raises:
            EcgJepaInputError: a row that is of neither kind, or labels that do not fit.
        """
        if not rows:
            raise EcgJepaInputError("A batch of no rows cannot be made.")
        raw = ["signal" in row for row in rows]
        if any(raw) and not all(raw):
            raise EcgJepaInputError(
                f"Row {raw.index(False)} has no signal, row {raw.index(True)} has one: a batch is made of rows as the "
                "corpora have them or of rows as the extractor gives them, not of both."
            )
        batch = self._extract(rows) if all(raw) else self._pad(rows)
        labels = self._labels(rows) if self.with_labels else None
        origin = batch.pop("window_to_record", None)
        if labels is not None:
            batch["labels"] = labels if origin is None else labels[origin]
        return batch

    def _extract(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        features = self.extractor(
            [signal_of_row(row, f"Row {place}") for place, row in enumerate(rows)],
            sampling_rate=[row["sampling_rate"] for row in rows],
            leads=[list(row["lead_names"]) for row in rows],
            unit="mV",
            return_tensors="pt",
        )
        features.pop("window_start_seconds", None)
        return dict(features)

    def _pad(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        patch_size, leads = self.extractor.patch_size, len(self.extractor.leads)
        values = [self._values_of(place, row) for place, row in enumerate(rows)]
        patches = [array.shape[1] // patch_size for array in values]
        input_values = np.zeros((len(rows), leads, max(patches) * patch_size), dtype=np.float32)
        lead_mask = np.zeros((len(rows), leads), dtype=bool)
        attention_mask = np.zeros((len(rows), max(patches)), dtype=bool)
        for place, (row, array) in enumerate(zip(rows, values, strict=True)):
            input_values[place, :, : array.shape[1]] = array
            lead_mask[place] = _mask_of(place, row, "lead_mask", leads)
            attention_mask[place, : patches[place]] = _mask_of(place, row, "attention_mask", patches[place])
        arrays = {"input_values": input_values, "lead_mask": lead_mask, "attention_mask": attention_mask}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _values_of(self, place: int, row: Mapping[str, Any]) -> np.ndarray:
        patch_size, leads = self.extractor.patch_size, len(self.extractor.leads)
        try:
            values = np.asarray(row.get("input_values"), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise EcgJepaInputError(f"Row {place}: input_values are no (leads, samples) numbers ({error}).") from error
        if values.ndim != 2 or values.shape[0] != leads or values.shape[1] % patch_size or not values.size:
            raise EcgJepaInputError(
                f"Row {place}: input_values of shape {values.shape} are not ({leads} leads, a whole number of patches "
                f"of {patch_size} samples), and the row has no signal; it has {', '.join(map(str, row))}."
            )
        return values

    def _labels(self, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor | None:
        given = [row.get("labels", row.get("label")) for row in rows]
        missing = [place for place, labels in enumerate(given) if labels is None]
        if len(missing) == len(rows):
            return None
        if missing:
            raise EcgJepaInputError(f"Row {missing[0]} has no labels, others of the batch have; give all rows labels.")
        arrays = [np.asarray(labels) for labels in given]
        are_values = any(array.size > 0 and array.dtype.kind in "fb" for array in arrays)
        if not are_values and any(array.ndim for array in arrays):
            return torch.from_numpy(np.stack([self._multi_hot(place, array) for place, array in enumerate(arrays)]))
        if len({array.shape for array in arrays}) > 1 or any(array.dtype.kind not in "iufb" for array in arrays):
            raise EcgJepaInputError(
                f"Labels must be numbers of one shape; the batch has {', '.join(map(repr, given))[:200]}."
            )
        return torch.from_numpy(np.stack(arrays).astype(np.float32 if are_values else np.int64))

    def _multi_hot(self, place: int, classes: np.ndarray) -> np.ndarray:
        if self.num_labels is None:
            raise EcgJepaInputError(
                f"Row {place}: labels={classes.tolist()} are class indices; give EcgJepaDataCollator num_labels, "
                "or with_labels=False where labels are not wanted."
            )
        unique = np.unique(classes)
        if (
            classes.ndim != 1
            or (unique.size and classes.dtype.kind not in "iu")
            or unique.size != classes.size
            or np.any((unique < 0) | (unique >= self.num_labels))
        ):
            raise EcgJepaInputError(
                f"Row {place}: labels={classes.tolist()} must be different class indices from 0 to "
                f"{self.num_labels - 1}; labels that are multi-hot already are given as floats."
            )
        multi_hot = np.zeros(self.num_labels, dtype=np.float32)
        multi_hot[classes.astype(int)] = 1.0
        return multi_hot


def _mask_of(place: int, row: Mapping[str, Any], name: str, size: int) -> np.ndarray:
    if row.get(name) is None:
        return np.ones(size, dtype=bool)
    mask = np.asarray(row[name])
    if mask.shape != (size,):
        raise EcgJepaInputError(f"Row {place}: {name} has the shape {mask.shape}, its input_values need ({size},).")
    return mask.astype(bool)


def signal_of_row(row: Mapping[str, Any], where: str = "The row") -> np.ndarray:
    """(leads, samples) in mV of a row as the corpora have it, NaN where missing.

    Raises:
        EcgJepaInputError: a column that is missing, or a signal that is no counts of these leads; begins with `where`.
    """
    absent = {"signal", "signal_scale", "lead_names", "sampling_rate"} - {name for name in row if row[name] is not None}
    if absent:
        raise EcgJepaInputError(f"{where} has a signal but no {', '.join(sorted(absent))}.")
    counts, leads = np.asarray(row["signal"]), len(row["lead_names"])
    if counts.dtype.kind not in "iu" or leads == 0 or counts.size % leads:
        raise EcgJepaInputError(
            f"{where}: signal of type {counts.dtype} and shape {counts.shape} must be integer counts, flat, of "
            f"{leads} leads x samples."
        )
    counts = counts.reshape(leads, -1)
    return np.where(counts == MISSING_COUNT, np.nan, counts * float(row["signal_scale"]))


__all__ = ["MISSING_COUNT", "EcgJepaDataCollator", "signal_of_row"]
