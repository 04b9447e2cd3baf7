"""Pretraining of ECG-JEPA through Accelerate: accelerate launch -m train.pretrain --config train/recipes/NAME.yaml

Read `train_loop` first: data, forward, backward, step, teacher, log on one screen. What surrounds it: options.py,
data.py (records), schedules.py (what follows from the step), watching.py and diagnostics.py (what is measured),
checkpoints.py and report.py (what is left and said at the end).
"""

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
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
    EcgJepaError,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
)

from . import schedules
from .checkpoints import (
    TrainLog,
    find_checkpoint,
    load_state,
    prepare_output_dir,
    read_progress,
    save_checkpoint,
    save_model,
    write_state,
)
from .corpora import held_out_warning, load_corpora
from .curves import save_curves
from .data import SyntheticRecords, WfdbRecords, as_it_is, batches, prepare
from .diagnostics import HeartRateProbe, probe_heart_rate
from .mixture import Mixture, MixtureSampler
from .options import PretrainOptions, read_options
from .report import report
from .watching import Watch

#: Records on which content share and rank are measured, the same throughout a run.
WATCHED_RECORDS = 32


def train_loop(
    accelerator: Accelerator,
    options: PretrainOptions,
    model: torch.nn.Module,
    optimizer: Optimizer,
    loader: DataLoader,
    watch: Watch,
    first_step: int = 0,
) -> None:
    """All optimizer steps. `model`, `optimizer` and `loader` as `accelerator.prepare` returns them."""
    student_and_teacher: EcgJepaForPreTraining = accelerator.unwrap_model(model)
    stream = batches(loader, first=first_step * options.gradient_accumulation_steps)
    model.train()
    for step in range(first_step, options.max_steps):
        learning_rate, momentum = scheduled(step, options)
        time_masks = schedules.time_masks(
            step, config=student_and_teacher.config, seed=options.seed, count=options.num_masks
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        for part in range(options.gradient_accumulation_steps):
            batch = watch.next_batch(stream)
            # Stochastic depth follows from here too, not from what loaders drew before: so runs can be resumed.
            torch.manual_seed(schedules.mixed_seed(options.seed, step, part, accelerator.process_index))
            with accelerator.accumulate(model):  # steps, and clears gradients, only after the last of these batches
                loss = model(**batch, time_mask=time_masks).loss
                accelerator.backward(loss)
                watch.after_backward(step)
                optimizer.step()
                optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:  # fp16's scaler skips a step whose gradients overflow
            student_and_teacher.update_teacher(momentum)
        watch.after_step(step, loss, learning_rate, momentum)
        if options.checkpointing_steps and (step + 1) % options.checkpointing_steps == 0:
            progress = {**watch.state(step + 1), "options": dataclasses.asdict(options)}
            save_checkpoint(accelerator, Path(options.output_dir), progress, keep=options.checkpoints_to_keep)


def scheduled(step: int, options: PretrainOptions) -> tuple[float, float]:
    """Learning rate and momentum of a step."""
    learning_rate = schedules.learning_rate(
        step,
        peak=options.learning_rate,
        minimum=options.min_learning_rate,
        warmup_steps=options.warmup_steps,
        max_steps=options.max_steps,
    )
    momentum = schedules.momentum(
        step, start=options.momentum_start, end=options.momentum_end, max_steps=options.max_steps
    )
    return learning_rate, momentum


def pretrain(options: PretrainOptions) -> dict[str, Any]:
    """A whole run: records, training, the saved model, probe and report. Returns what `training_state.json` holds.

    Raises:
        EcgJepaError: options, data or an output folder that no run can be made of.
    """
    started = time.perf_counter()
    config = options.model_config()
    extractor = EcgJepaFeatureExtractor.from_config(config)
    accelerator = start_accelerator(options)
    main = accelerator.is_main_process
    folder = Path(options.output_dir)
    if main:
        prepare_output_dir(folder, options.overwrite, options.resume_from_checkpoint)
    accelerator.wait_for_everyone()
    checkpoint = find_checkpoint(options.resume_from_checkpoint, folder)
    so_far = checkpoint and read_progress(checkpoint, dataclasses.asdict(options), accelerator.num_processes)
    records, skipped = load_records(options, extractor, quiet=not accelerator.is_local_main_process)

    loader = make_loader(options, records, EcgJepaDataCollator(extractor))
    bare = initial_model(config, options.seed)
    groups = schedules.parameter_groups(bare, options.weight_decay)
    optimizer = AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.999))
    model, optimizer, loader = accelerator.prepare(bare, optimizer, loader)
    if checkpoint:
        load_state(accelerator, checkpoint)

    header = describe(options, config, accelerator, len(records))
    log = TrainLog(folder, header, so_far["lines"] if so_far else ()) if main else None
    watch = start_watch(options, accelerator, bare, records, extractor, log, so_far)
    train_loop(accelerator, options, model, optimizer, loader, watch, so_far["step"] if so_far else 0)
    watch.close()
    accelerator.wait_for_everyone()
    state: dict[str, Any] = {}
    if main:
        save_model(bare, extractor, folder)
        probes = run_probe(options, bare, extractor) if options.probe_records else None
        state = summarise(options, watch, probes, len(records), skipped, time.perf_counter() - started)
        write_state(folder, state)
        save_curves(folder)
        report(folder, state)
    accelerator.end_training()
    return state


def run_probe(
    options: PretrainOptions, model: EcgJepaForPreTraining, extractor: EcgJepaFeatureExtractor
) -> dict[str, HeartRateProbe]:
    """The heart-rate probe on synthetic records that training did not see, against the weights it started from."""
    held_out = SyntheticRecords(extractor, options.seed, options.probe_records, first=options.num_records)
    rows, truths = zip(*(held_out.with_truth(place) for place in range(len(held_out))), strict=True)
    random = initial_model(model.config, options.seed).encoder.to(model.device)
    heart_rates = np.array([truth.heart_rate for truth in truths])
    collator = EcgJepaDataCollator(extractor)
    return probe_heart_rate(model.encoder, random, rows, heart_rates, collator, seed=options.seed)


def summarise(
    options: PretrainOptions,
    watch: Watch,
    probes: dict[str, HeartRateProbe] | None,
    num_records: int,
    skipped: Sequence[SkippedRecord],
    seconds: float,
) -> dict[str, Any]:
    """What `training_state.json` says of the run."""
    shares = watch.content_shares
    return {
        "steps": options.max_steps,
        "seed": options.seed,
        "records": num_records,
        "records_left_out": [dataclasses.asdict(record) for record in skipped],
        "loss": {"first_logged": watch.losses[0], "last_logged": watch.losses[-1]},
        "content_share": {
            "at_start": shares[0],
            "at_end": shares[-1],
            "lowest": min(shares),
            "floor": options.min_content_share,
            "held": min(shares) >= options.min_content_share,
        },
        "heart_rate_probe": probes
        and {name: dataclasses.asdict(probe) | {"beats_random": probe.beats_random} for name, probe in probes.items()},
        "seconds": round(seconds, 1),
        "options": dataclasses.asdict(options),
    }


# Before the first step ------------------------------------------------------------------------------------------------


def start_accelerator(options: PretrainOptions) -> Accelerator:
    accelerator = Accelerator(
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=options.seed),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=options.gradient_accumulation_steps, sync_with_dataloader=False
        ),
    )
    if accelerator.device.type == "cpu":
        # `accelerate launch` leaves each process a single thread unless told otherwise.
        torch.set_num_threads(options.cpu_threads or max(1, (os.cpu_count() or 1) // accelerator.num_processes))
    return accelerator


def load_records(
    options: PretrainOptions, extractor: EcgJepaFeatureExtractor, quiet: bool
) -> tuple[Dataset, list[SkippedRecord]]:
    """Synthetic records, those of `data_dir` or of corpora, ready to train on, and those left out.

    Raises:
        EcgJepaConfigError: fewer usable records than one batch.
    """
    if options.corpus:
        return load_corpora(options, extractor, quiet)
    if options.data_dir:
        warning = held_out_warning(options.data_dir)
        if warning and not quiet:
            print(warning, file=sys.stderr)
        source: Dataset = WfdbRecords(extractor, options.data_dir)
        title = "reading records"
    else:
        source = SyntheticRecords(extractor, options.seed, options.num_records)
        title = "generating records"
    records, skipped = prepare(
        source, memory_gb=options.memory_gb, num_workers=options.num_workers, title=title, quiet=quiet
    )
    if len(records) < options.batch_size:
        raise EcgJepaConfigError(
            f"batch_size={options.batch_size} is more than the {len(records)} usable records"
            f"{f' ({len(skipped)} were left out)' if skipped else ''}. Lower --batch_size or give more records."
        )
    return records, skipped


def make_loader(options: PretrainOptions, records: Dataset, collator: EcgJepaDataCollator) -> DataLoader:
    """
    Raises:
        EcgJepaConfigError: a mixture with fewer records than one batch for every process.
    """
    sampler = None
    if isinstance(records, Mixture):
        processes = PartialState().num_processes
        sampler = MixtureSampler(records, options.batch_size, options.seed, processes, options.num_workers)
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
    """Watched are records spread evenly over the data, under the mask of step 0."""
    count = min(WATCHED_RECORDS, len(records))
    rows = [records[place * len(records) // count] for place in range(count)]
    batch = EcgJepaDataCollator(extractor)(rows)
    return Watch(
        accelerator,
        model,
        {name: part.to(accelerator.device) for name, part in batch.items()},
        *schedules.time_masks(0, config=model.config, seed=options.seed),
        log,
        max_steps=options.max_steps,
        logging_steps=options.logging_steps,
        records_per_step=options.batch_size * options.gradient_accumulation_steps * accelerator.num_processes,
        so_far=so_far,
    )


def describe(
    options: PretrainOptions, config: EcgJepaConfig, accelerator: Accelerator, num_records: int
) -> dict[str, Any]:
    """The first line of the log: what is needed to tell this run from others, and to repeat it."""
    return {
        "options": dataclasses.asdict(options),
        "model": config.to_diff_dict(),
        "records": num_records,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 good, also with records left out (a launcher takes all else for a crash), 1 error, 2 usage."""
    try:
        options = read_options(sys.argv[1:] if arguments is None else arguments)
    except EcgJepaConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        pretrain(options)
    except EcgJepaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
