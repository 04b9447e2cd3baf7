"""A cell of an ablation: one variant with one seed, pretrained by the loop of pretrain.py and read by linear probes."""

import copy
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from modeling_ecg_jepa import (
    EcgJepaConfigError,
    EcgJepaDataCollator,
    EcgJepaError,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
    EcgJepaModel,
)

from .checkpoints import TrainLog
from .corpora import load_corpora
from .diagnostics import ridge_predictions
from .experiments import DIAGNOSES, Variant
from .mixture import Mixture
from .options import CorpusChoice, PretrainOptions
from .pretrain import train_loop
from .probe_records import FEWEST_PATIENTS, Part, ProbeRecords, read_labels
from .probing import fit_and_score
from .starting import describe, make_loader, make_optimizer, start_accelerator, start_watch
from .stopping import NotFiniteError

#: Labels of a corpus that has several sets of them.
_LABEL_SETS = {"ptb_xl": {"label_set": "superdiagnostic"}}

#: Records embedded at once.
_BATCH = 64


# Records --------------------------------------------------------------------------------------------------------------


def load_records(options: PretrainOptions, synthetic: Mapping[str, Any]) -> ProbeRecords:
    """Labelled records in four folds by patient: fold 0 is tested, on the others encoders and probes are trained.

    Args:
        synthetic: options of the synthetic corpus that a variant asks for.

    Raises:
        EcgJepaError: no such corpus, no labels, labels with one outcome only, or too few patients.
    """
    choice = choose_corpus(options, synthetic)
    extractor = EcgJepaFeatureExtractor.from_config(options.model_config())
    mixture, left_out = load_corpora(replace(options, corpus=[choice], data_dir=None), extractor, quiet=False)
    (windows,) = mixture.corpora
    names, labels = read_labels(windows.rows, windows.corpus)
    ids, patients = column(windows, "record_id"), column(windows, "patient_id")
    owners = [patient or record for patient, record in zip(patients, ids, strict=True)]
    folds = np.array([zlib.crc32(owner.encode()) % 4 for owner in owners])
    records = ProbeRecords(windows, names, labels[windows.usable], ids, patients, folds, left_out, duplicates=[])
    counts = [len({owner for owner, fold in zip(owners, folds, strict=True) if (fold == 0) == of}) for of in (0, 1)]
    if min(counts) < FEWEST_PATIENTS:
        raise EcgJepaConfigError(
            f"{windows.corpus} has {len(ids):,} usable records, of {counts[0]} patients to train and fit on and of "
            f"{counts[1]} to test; each part needs at least {FEWEST_PATIENTS} patients. Use a larger copy, "
            "or more synthetic ones by --num_records."
        )
    if not readable(records).any():
        raise EcgJepaConfigError(
            f"{windows.corpus}: each label ({', '.join(names)}) holds for all or for none of the records, tested or "
            "other, so that there is nothing to tell apart. Use a corpus or label set with both outcomes."
        )
    return records


def choose_corpus(options: PretrainOptions, synthetic: Mapping[str, Any]) -> CorpusChoice:
    """The one corpus of a run: synthetic records unless another was named.

    Raises:
        EcgJepaConfigError: several, a folder without labels, or another than the experiment can use.
    """
    choices = options.corpora()
    if options.data_dir and not choices:
        raise EcgJepaConfigError(f"data_dir={options.data_dir!r} names no corpus with labels: --corpus NAME:FOLDER.")
    if not choices:
        made = {"records": options.num_records, "classes": list(DIAGNOSES), **synthetic}
        return CorpusChoice("synthetic", held_out=True, options=made)
    if len(choices) > 1:
        raise EcgJepaConfigError(f"corpus: an ablation trains and probes on one corpus, not on {len(choices)}.")
    if synthetic:
        raise EcgJepaConfigError(f"corpus={choices[0].title!r}: this experiment makes its own records; leave it out.")
    return replace(choices[0], options=_LABEL_SETS.get(choices[0].name, {}) | choices[0].options)


def column(windows, name: str) -> list:
    """A column of the usable rows; None for each where the corpus has no such column."""
    values = windows.rows.column(name)
    return [None] * len(windows) if values is None else values.take(windows.usable).to_pylist()


def readable(records: ProbeRecords) -> np.ndarray:
    """(classes,): which have both outcomes among the tested records and among the others."""
    parts = [records.labels[records.folds == 0], records.labels[records.folds != 0]]
    return np.all([part.any(0) & ~part.all(0) for part in parts], axis=0)


def truth(records: ProbeRecords) -> dict[str, Any]:
    """What the report has to know of the tested records, and of how many others there are."""
    tested, kept, hold = records.of_fold(0).tolist(), readable(records), records.labels.any(0)
    rates = column(records.windows, "heart_rate")
    return {
        "corpus": records.windows.corpus,
        "trained_and_fitted": len(records.ids) - len(tested),
        "tested": len(tested),
        "classes": [name for name, can in zip(records.names, kept, strict=True) if can],
        "classes_left_out": [name for name, out in zip(records.names, hold & ~kept, strict=True) if out],
        "ids": [records.ids[place] for place in tested],
        "patients": [records.patients[place] for place in tested],
        "labels": records.labels[tested][:, kept].astype(int).tolist(),
        "heart_rates": None if None in rates else [rates[place] for place in tested],
    }


# Pretraining ----------------------------------------------------------------------------------------------------------


def start(variant: Variant, options: PretrainOptions) -> tuple[Accelerator, EcgJepaForPreTraining]:
    """The model with its first weights, on its device."""
    accelerator = start_accelerator(options)
    return accelerator, variant.make_model(options.model_config(), options.seed).to(accelerator.device)


def train(
    accelerator: Accelerator,
    model: EcgJepaForPreTraining,
    options: PretrainOptions,
    data: Mixture,
    log_folder: Path,
) -> dict[str, Any]:
    """Pretrain `model` in place and log it.

    Returns:
        Steps, seconds by `clock`, loss from the last but one line of the log to the last, content share at the end.

    Raises:
        EcgJepaError: fewer records than a step takes, or numbers that are not finite.
    """
    parts = prepare(accelerator, model, options, data)
    log_folder.mkdir(parents=True, exist_ok=True)
    log = TrainLog(log_folder, describe(options, model.config, accelerator, len(data)))
    watch = start_watch(options, accelerator, model, data, data.corpora[0].extractor, log, None)
    began = clock(accelerator)
    try:
        train_loop(accelerator, options, *parts, watch)
    except NotFiniteError as error:
        raise EcgJepaError(f"{error.measured} at step {error.step + 1}. Lower --learning_rate.") from error
    finally:
        watch.close()
    seconds, last = clock(accelerator) - began, watch.lines[-1]
    return {"steps": last["step"], "seconds": seconds, "loss": last["loss"], "content_share": last["content_share"]}


def training_records(records: ProbeRecords, share: float = 1.0) -> Mixture:
    """The records outside fold 0, or a share of them: the same ones in every run, a smaller share within a larger."""
    windows = copy.copy(records.windows)
    mixed = np.random.default_rng(0).permutation(windows.usable[records.folds != 0])
    windows.usable = np.sort(mixed[: round(share * len(mixed))])
    return Mixture([windows], [1.0])


def prepare(accelerator: Accelerator, model: EcgJepaForPreTraining, options: PretrainOptions, data: Mixture) -> tuple:
    """Model, optimizer and loader as `train_loop` takes them."""
    if len(data) < options.batch_size:
        raise EcgJepaConfigError(f"batch_size={options.batch_size} is more than the {len(data)} records to train on.")
    collator = EcgJepaDataCollator(data.corpora[0].extractor)
    optimizer = make_optimizer(accelerator, model, options)
    return accelerator.prepare(model, optimizer, make_loader(options, data, collator))


def clock(accelerator: Accelerator) -> float:
    """Seconds: of the processor on a CPU, which other jobs on the machine do not make longer; else on the wall."""
    return time.process_time() if accelerator.device.type == "cpu" else time.perf_counter()


class Stopwatch:
    """Takes the place of `Watch` in `train_loop` where only the time of the steps is wanted."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.seconds = accelerator, []

    def next_batches(self, stream: Iterator, count: int) -> list:
        self.began = clock(self.accelerator)
        return [next(stream) for _ in range(count)]

    def after_step(self, loss: torch.Tensor, *_) -> None:
        loss.item()  # waits for a GPU
        self.seconds.append(clock(self.accelerator) - self.began)


def step_seconds(variant: Variant, options: PretrainOptions, records: ProbeRecords) -> float:
    """What a step of a variant takes: the median of a short training."""
    accelerator, model = start(variant, options)
    stopwatch = Stopwatch(accelerator)
    parts = prepare(accelerator, model, options, training_records(records, variant.share))
    train_loop(accelerator, options, *parts, stopwatch)
    return float(np.median(stopwatch.seconds))


# Probes ---------------------------------------------------------------------------------------------------------------


def measure(encoder: EcgJepaModel, records: ProbeRecords, leads: Sequence[str] | None) -> dict[str, Any]:
    """What linear probes, fitted to the other records, say of the tested ones: log odds of each class and heart rate.

    Args:
        leads: what is left of every record; all leads if None.
    """
    features = embed(encoder, records, leads)
    part = Part(0, np.flatnonzero(records.folds != 0), records.of_fold(0))
    labels = fit_and_score(features, records.labels[:, readable(records)], records.groups, part, seed=0)
    said = {"scores": labels.scores.round(5).tolist(), "C": labels.chosen["C"]}
    rates = column(records.windows, "heart_rate")
    if None not in rates:
        in_order = features[np.concatenate([part.fitted, part.tested])]
        said["heart_rates"] = ridge_predictions(in_order, np.array(rates)[part.fitted]).round(4).tolist()
    return said


@torch.inference_mode()
def embed(encoder: EcgJepaModel, records: ProbeRecords, leads: Sequence[str] | None) -> np.ndarray:
    """(records, channels): the mean over the patches of the leads that are there.

    Raises:
        EcgJepaConfigError: a lead that the model does not have.
    """
    missing = sorted(set(leads or ()) - set(encoder.config.leads))
    if missing:
        raise EcgJepaConfigError(f"leads={encoder.config.leads}: this experiment also needs {', '.join(missing)}.")
    seen = torch.tensor([leads is None or lead in leads for lead in encoder.config.leads])
    encoder.eval()
    pooled = []
    for places in np.array_split(np.arange(len(records.ids)), 1 + len(records.ids) // _BATCH):
        batch = records.windows.__getitems__(places)
        batch["lead_mask"] &= seen
        pooled.append(encoder(**{name: part.to(encoder.device) for name, part in batch.items()}).pooler_output)
    return torch.cat(pooled).double().cpu().numpy()
