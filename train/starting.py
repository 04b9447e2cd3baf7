"""What stands before the first step of pretraining: processes and precision, records, model, optimizer, watch."""

import dataclasses
import importlib.util
import os
import platform
from typing import Any

import accelerate
import numpy as np
import torch
import transformers
from accelerate import Accelerator, PartialState
from accelerate.utils import DataLoaderConfiguration, GradientAccumulationPlugin, set_seed
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset

import modeling_ecg_jepa
from dataset_scripts.skipped import SkippedRecord
from modeling_ecg_jepa import (
    EcgJepaConfig,
    EcgJepaConfigError,
    EcgJepaDataCollator,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
)

from . import schedules
from .checkpoints import TrainLog
from .corpora import held_out_warning, load_corpora
from .data import SyntheticRecords, WfdbRecords, as_it_is, prepare
from .mixture import Mixture, MixtureSampler
from .online_probe import OnlineProbe
from .options import PretrainOptions
from .watching import Watch

#: How a tracker that is an extra of this project is installed.
_INSTALL = {"tensorboard": 'pip install "ecg-jepa[tensorboard]"'}

#: Records on which content share and rank are measured, the same throughout a run.
WATCHED_RECORDS = 32


def start_accelerator(options: PretrainOptions) -> Accelerator:
    """
    Raises:
        EcgJepaConfigError: a tracker that is not installed, or fp16 without a GPU.
    """
    trackers = [name for name in options.tracker or () if name != "none"]
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise EcgJepaConfigError(f"tracker={name!r} is not installed: {_INSTALL.get(name, f'pip install {name}')}.")
    on_cpu = not torch.accelerator.is_available()
    precision = options.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION")
    if on_cpu and precision == "fp16":
        raise EcgJepaConfigError(
            "mixed_precision='fp16' on a CPU is 30 times slower than float32. Use bf16, where the CPU has it, or no."
        )
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=options.mixed_precision,
        log_with=trackers or None,
        project_dir=options.output_dir,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=options.seed, non_blocking=True),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=options.gradient_accumulation_steps, sync_with_dataloader=False
        ),
    )
    if accelerator.device.type == "cpu":
        # `accelerate launch` leaves each process a single thread unless told otherwise.
        torch.set_num_threads(options.cpu_threads or max(1, (os.cpu_count() or 1) // accelerator.num_processes))
    return accelerator


def start_trackers(accelerator: Accelerator, options: PretrainOptions) -> None:
    """Open the trackers of `options`, in a run of its own a folder, with the options that have a value."""
    if accelerator.log_with:
        simple = {
            name: value for name, value in dataclasses.asdict(options).items() if isinstance(value, int | float | str)
        }
        accelerator.init_trackers("logs", config=simple)


def make_optimizer(accelerator: Accelerator, model: EcgJepaForPreTraining, options: PretrainOptions) -> Optimizer:
    """AdamW. Fused but under a gradient scaler: a fused step that was skipped cannot be told from one that was not."""
    groups = schedules.parameter_groups(model, options.weight_decay)
    fused = accelerator.scaler is None
    return AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.999), fused=fused, foreach=not fused)


def load_records(
    options: PretrainOptions, extractor: EcgJepaFeatureExtractor, quiet: bool
) -> tuple[Dataset, list[SkippedRecord]]:
    """Synthetic records, those of `data_dir` or of corpora, ready to train on, and those left out.

    Raises:
        EcgJepaConfigError: fewer usable records than a step takes.
    """
    if options.corpus:
        records, skipped = load_corpora(options, extractor, quiet)
    else:
        records, skipped = load_waveforms(options, extractor, quiet)
    processes = PartialState().num_processes
    step = options.batch_size * processes * options.gradient_accumulation_steps
    if len(records) < step:
        factors = {"batch_size": options.batch_size, "processes": processes}
        factors["gradient_accumulation_steps"] = options.gradient_accumulation_steps
        taken = " x ".join(f"{name}={number}" for name, number in factors.items() if name == "batch_size" or number > 1)
        raise EcgJepaConfigError(
            f"{taken} is more than the {len(records):,} usable records"
            f"{f' ({len(skipped)} were left out)' if skipped else ''}. Lower --batch_size or give more records."
        )
    return records, skipped


def load_waveforms(
    options: PretrainOptions, extractor: EcgJepaFeatureExtractor, quiet: bool
) -> tuple[Dataset, list[SkippedRecord]]:
    """Records of `data_dir`, or synthetic ones.

    Raises:
        EcgJepaConfigError: a model of another signal; these are ECGs.
    """
    if options.modality == "other":
        raise EcgJepaConfigError(
            "modality='other' needs recordings of its own: --corpus prepared:FOLDER, made as the README shows under "
            '"Other signals".'
        )
    if options.data_dir:
        source: Dataset = WfdbRecords(extractor, options.data_dir)
        title = "reading records"
    else:
        source = SyntheticRecords(extractor, options.seed, options.num_records)
        title = "generating records"
    return prepare(source, memory_gb=options.memory_gb, num_workers=options.num_workers, title=title, quiet=quiet)


def make_loader(options: PretrainOptions, records: Dataset, collator: EcgJepaDataCollator) -> DataLoader:
    """Batches of one process, whose workers read ahead of training."""
    sampler = None
    if isinstance(records, Mixture):
        step = options.batch_size * options.gradient_accumulation_steps * PartialState().num_processes
        sampler = MixtureSampler(records, step, options.seed, options.num_workers)
    return DataLoader(
        records,
        batch_size=options.batch_size,
        shuffle=sampler is None,
        sampler=sampler,
        drop_last=True,
        collate_fn=collator if sampler is None else as_it_is,  # a mixture gives whole batches
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def initial_model(config: EcgJepaConfig, seed: int) -> EcgJepaForPreTraining:
    """Student, teacher and predictor with the random weights of `seed`."""
    set_seed(seed)
    return EcgJepaForPreTraining(config)


def start_watch(
    options: PretrainOptions,
    accelerator: Accelerator,
    model: EcgJepaForPreTraining,
    records: Dataset,
    extractor: EcgJepaFeatureExtractor,
    log: TrainLog | None,
    so_far: dict[str, Any] | None,
) -> Watch:
    """Watched are sound records spread evenly over the data, under the mask of step 0."""
    count = min(WATCHED_RECORDS, len(records))
    rows = [records[place * len(records) // count] for place in range(count)]
    batch = EcgJepaDataCollator(extractor)([row for row in rows if np.isfinite(row["input_values"]).all()])
    probe = OnlineProbe(options, extractor, quiet=log is None) if options.probe_steps else None
    return Watch(
        accelerator,
        model,
        {name: part.to(accelerator.device) for name, part in batch.items()},
        *schedules.time_masks(0, config=model.config, seed=options.seed),
        log,
        max_steps=options.max_steps,
        logging_steps=options.logging_steps,
        records_per_step=options.batch_size * options.gradient_accumulation_steps * accelerator.num_processes,
        probe=probe,
        probe_steps=options.probe_steps,
        so_far=so_far,
    )


def setting(options: PretrainOptions, accelerator: Accelerator, records: Dataset) -> dict[str, Any]:
    """What decides a run's numbers beside the options that say so."""
    grouped = isinstance(records, Mixture) and records.read_in_groups
    return {
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        "num_workers": options.num_workers if grouped else None,
    }


def describe(
    options: PretrainOptions, config: EcgJepaConfig, accelerator: Accelerator, num_records: int
) -> dict[str, Any]:
    """The first line of the log: what is needed to tell this run from others, and to repeat it."""
    step = options.batch_size * accelerator.num_processes * options.gradient_accumulation_steps
    return {
        "options": dataclasses.asdict(options),
        "model": config.to_diff_dict(),
        "records": num_records,
        "records_a_step": step,
        "steps_an_epoch": num_records // step,
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "mixed_precision": accelerator.mixed_precision,
        "cpu_threads": torch.get_num_threads(),
        "versions": {
            "ecg-jepa": modeling_ecg_jepa.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
            "python": platform.python_version(),
        },
    }


def describe_start(header: dict[str, Any], left_out: int) -> str:
    """The header of the log in a sentence."""
    count = header["processes"]
    text = (
        f"{header['records']:,} records, {header['records_a_step']} a step ({count} process{'es' * (count > 1)}), "
        f"{header['steps_an_epoch']:,} steps an epoch; {header['device']}, mixed precision {header['mixed_precision']}"
    )
    return f"{text}\n{left_out:,} records are left out; the end of the run lists why." if left_out else text


def warnings_of(options: PretrainOptions) -> list[str]:
    """What to know of a run's records, and what a launcher did silently."""
    warnings = [held_out_warning(options.data_dir)] if options.data_dir and not options.corpus else []
    # What accelerate launch sets for several processes, and what it then does not set on a CPU, where it starts one.
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        warnings.append(
            "WARNING: the launcher was asked for several processes and started one. On CPUs: torchrun "
            "--nproc_per_node N -m train.pretrain ..."
        )
    return [warning for warning in warnings if warning]
