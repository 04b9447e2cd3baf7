"""A small corpus with labels, patients and folds, as `ecg-jepa prepare` leaves one, and a small encoder for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from dataset_scripts.corpus import row_features
from dataset_scripts.signals import to_counts, with_leads
from dataset_scripts.synthesis import synthesize_record
from modeling_ecg_jepa import EcgJepaConfig, EcgJepaFeatureExtractor, EcgJepaModel
from modeling_ecg_jepa.leads_ecg_jepa import ECG_JEPA_LEADS
from train.options import CorpusChoice
from train.probe_records import ProbeRecords, load_probe_records

CLASSES = ("FAST", "LARGE")

#: What the classes are by: above this heart rate in beats per minute, and three times as large as the others.
_FAST, _FACTOR = 80, 3.0

EXTRACTOR = EcgJepaFeatureExtractor()

Row = dict[str, Any]


def make_rows(per_fold: int, folds: Sequence[int] = range(1, 11)) -> list[Row]:
    """Synthetic records, the patients of half of them known, two records each; every third record is LARGE."""
    rows = []
    for place in range(per_fold * len(folds)):
        record, truth = synthesize_record(seed=0, index=place, sampling_rate=250)
        large = place % 3 == 0
        counts, scale = to_counts(with_leads(record, ECG_JEPA_LEADS).signal * (_FACTOR if large else 1))
        rows.append(
            {
                "record_id": f"r{place:04d}",
                "patient_id": f"p{place // 2}" if place % per_fold < per_fold // 2 // 2 * 2 else None,
                "signal": counts.ravel(),
                "signal_scale": scale,
                "lead_names": list(ECG_JEPA_LEADS),
                "sampling_rate": 250,
                "fold": folds[place // per_fold],
                "labels": [
                    name for name, holds in zip(CLASSES, (truth.heart_rate > _FAST, large), strict=True) if holds
                ],
            }
        )
    return rows


def write_rows(folder: Path, rows: Sequence[Row], classes: Sequence[str] = CLASSES) -> CorpusChoice:
    """Rows as a prepared folder, and the choice that names it."""
    features = row_features(classes, {}, len(rows[0]["signal"]))
    columns = {name: [row.get(name) for row in rows] for name in features}
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "train-00000-of-00001.parquet")
    return CorpusChoice("prepared", str(folder))


def load_rows(folder: Path, rows: Sequence[Row], folds: Sequence[int] = range(1, 11)) -> ProbeRecords:
    return load_probe_records(write_rows(folder, rows), EXTRACTOR, folds, quiet=True)


def save_encoder(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A checkpoint of random weights, small enough for tests."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_initializer_range": 0.4}
    configuration = EcgJepaConfig.from_preset("tiny", **(sizes | config))
    torch.manual_seed(seed)
    EcgJepaModel(configuration).save_pretrained(folder)
    EcgJepaFeatureExtractor.from_config(configuration).save_pretrained(folder)
    return folder


def without_lead(row: Row, lead: int) -> Row:
    """The row as if a lead had not been recorded: missing throughout."""
    signal = row["signal"].reshape(len(ECG_JEPA_LEADS), -1).copy()
    signal[lead] = np.iinfo(np.int16).min
    return row | {"signal": signal.ravel()}
