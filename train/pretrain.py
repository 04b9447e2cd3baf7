"""Pretraining of ECG-JEPA through Accelerate: accelerate launch -m train.pretrain --config train/recipes/NAME.yaml

Read `train_loop` first: data, forward, backward, step, teacher, log on one screen. What surrounds it: options.py,
starting.py and data.py (what stands before the first step), schedules.py (what follows from the step), watching.py,
diagnostics.py and online_probe.py (what is measured), checkpoints.py and report.py (what is left and said at the end),
stopping.py (what is said before its time).
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dataset_scripts.skipped import SkippedRecord
from modeling_ecg_jepa import (
    EcgJepaConfig,
    EcgJepaDataCollator,
    EcgJepaError,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
    EcgJepaModel,
)
from modeling_ecg_jepa.modeling_ecg_jepa import count_hidden

from . import schedules
from .checkpoints import (
    TrainLog,
    find_checkpoint,
    load_state,
    only_run,
    prepare_output_dir,
    read_progress,
    save_checkpoint,
    save_model,
    write_state,
)
from .command_line import run_command
from .curves import save_curves
from .data import batches
from .diagnostics import HeartRateProbe, probe_heart_rate
from .online_probe import heart_rate_records
from .options import PretrainOptions, read_options
from .report import report
from .starting import (
    describe,
    describe_start,
    initial_model,
    load_records,
    make_loader,
    make_optimizer,
    setting,
    start_accelerator,
    start_trackers,
    start_watch,
    warnings_of,
)
from .stopping import NotFiniteError, blame, ends_in_words, how_to_go_on
from .watching import Watch


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
    parts = options.gradient_accumulation_steps
    stream = batches(loader, parts, first_step)
    model.train()
    for step in range(first_step, options.max_steps):
        learning_rate, momentum = scheduled(step, options)
        time_masks = schedules.time_masks(
            step, config=student_and_teacher.config, seed=options.seed, count=options.num_masks
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        taken = watch.next_batches(stream, parts)  # all of them before anything changes
        if options.lead_dropping:
            taken = drop_leads(taken, options, step, accelerator.process_index)
        num_hidden = hidden_a_batch(accelerator, taken, time_masks)
        masks = [mask.numpy() for mask in time_masks]  # tensors DDP would send to its GPU, where counting them waits
        losses = []
        for part, batch in enumerate(taken):
            # Stochastic depth follows from here too, not from what loaders drew before: so runs can be resumed.
            torch.manual_seed(schedules.mixed_seed(options.seed, step, part, accelerator.process_index))
            with accelerator.accumulate(model):  # steps, and clears gradients, only after the last of these batches
                loss = model(**batch, time_mask=masks, num_hidden=num_hidden).loss
                accelerator.backward(loss)
                losses.append(loss.detach())
                if accelerator.sync_gradients:
                    gradient_norm = guard(accelerator, student_and_teacher, optimizer)
                optimizer.step()
                optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:  # fp16's scaler skips a step whose gradients overflow
            student_and_teacher.update_teacher(momentum)
        watch.after_step(torch.stack(losses).mean(), gradient_norm, learning_rate, momentum)
        if options.checkpointing_steps and (step + 1) % options.checkpointing_steps == 0:
            checkpoint(accelerator, options, loader, watch)


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


def drop_leads(
    taken: Sequence[dict[str, Tensor]], options: PretrainOptions, step: int, process: int
) -> list[dict[str, Tensor]]:
    """The batches of a step with leads missing at random, each with the same probability; of a record one stays."""
    fewer = []
    for part, batch in enumerate(taken):
        there = batch["lead_mask"]
        generator = torch.Generator().manual_seed(schedules.mixed_seed(options.seed, step, part, process, 1))
        luck = torch.rand(there.shape, generator=generator).to(there.device, non_blocking=True)
        luck = luck.masked_fill(~there, -1.0)
        kept = (luck >= options.lead_dropping) | (luck == luck.amax(1, keepdim=True))
        fewer.append(batch | {"lead_mask": there & kept})
    return fewer


def hidden_a_batch(
    accelerator: Accelerator, taken: Sequence[dict[str, Tensor]], time_masks: Sequence[Tensor]
) -> list[Tensor] | None:
    """For each mask the mean number of hidden patches of the step's batches, over all processes; None for one batch.

    Divided by it, the batches' losses average to the loss of one batch of all their records, whatever leads and ends
    are missing in each: so the same global batch gives the same step however it is divided.
    """
    if accelerator.num_processes * len(taken) == 1:
        return None
    counts = [
        [count_hidden(mask, batch["attention_mask"], batch["lead_mask"]) for mask in time_masks] for batch in taken
    ]
    mean = torch.stack([torch.stack(of_batch) for of_batch in counts]).float().mean(0)
    return list(accelerator.reduce(mean, reduction="mean"))


def guard(accelerator: Accelerator, model: torch.nn.Module, optimizer: Optimizer) -> Tensor:
    """The norm of the gradients, a scalar on their device; where it is not finite, the step will change nothing.

    Fused AdamW's own switch for gradient scalers does it on the device: nobody has to wait and look.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = (
        get_total_norm(gradients) if gradients else torch.zeros((), device=accelerator.device)
    )  # DeepSpeed keeps its own
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP2
    if is_guarded(accelerator):
        optimizer.optimizer.found_inf = (~norm.isfinite()).float()
    return norm


def is_guarded(accelerator: Accelerator) -> bool:
    """Whether a step with gradients that are not finite changes nothing: a gradient scaler sees to it, or `guard`."""
    whole = accelerator.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    return whole and accelerator.scaler is None


def checkpoint(accelerator: Accelerator, options: PretrainOptions, loader: DataLoader, watch: Watch) -> Path:
    """Save where the run is. All processes call this."""
    its_setting = setting(options, accelerator, loader.dataset)
    progress = watch.state() | {"options": dataclasses.asdict(options), "setting": its_setting}
    return save_checkpoint(accelerator, Path(options.output_dir), progress, keep=options.checkpoints_to_keep)


def pretrain(options: PretrainOptions) -> dict[str, Any]:
    """A whole run, alone in its output folder. Returns what `training_state.json` holds.

    Raises:
        EcgJepaError: options, data or an output folder that no run can be made of, or what ended the run too soon.
    """
    config = options.model_config()
    accelerator = start_accelerator(options)
    folder = Path(options.output_dir)
    with ExitStack() as held:
        if accelerator.is_main_process:
            held.enter_context(only_run(folder))
            prepare_output_dir(folder, options.overwrite, options.resume_from_checkpoint)
        accelerator.wait_for_everyone()
        return run(accelerator, options, config, folder)


def run(accelerator: Accelerator, options: PretrainOptions, config: EcgJepaConfig, folder: Path) -> dict[str, Any]:
    """Records, training, the saved model, probe and report."""
    started, main = time.perf_counter(), accelerator.is_main_process
    extractor = EcgJepaFeatureExtractor.from_config(config)
    resumed = find_checkpoint(options.resume_from_checkpoint, folder)
    records, skipped = load_records(options, extractor, quiet=not accelerator.is_local_main_process)

    bare = initial_model(config, options.seed)
    if options.compile:
        bare.compile_layers()
    model, optimizer, loader = accelerator.prepare(
        bare, make_optimizer(accelerator, bare, options), make_loader(options, records, EcgJepaDataCollator(extractor))
    )
    so_far = resumed and read_progress(resumed, dataclasses.asdict(options), setting(options, accelerator, records))
    if resumed:
        load_state(accelerator, resumed)

    header = describe(options, config, accelerator, len(records))
    log = TrainLog(folder, header, so_far["lines"] if so_far else ()) if main else None
    if main:
        print(describe_start(header, len(skipped)), *warnings_of(options), sep="\n", flush=True)
    start_trackers(accelerator, options)
    with ends_in_words(accelerator, folder):
        watch = start_watch(options, accelerator, bare, records, extractor, log, so_far)
        try:
            train_loop(accelerator, options, model, optimizer, loader, watch, so_far["step"] if so_far else 0)
        except NotFiniteError as error:
            raise EcgJepaError(save_and_say(accelerator, options, loader, watch, error)) from error
        finally:
            watch.close()
    weights = accelerator.get_state_dict(model)  # of all processes, where each has a share
    state: dict[str, Any] = {}
    if main:
        save_model(bare, extractor, folder, weights)
        probes = run_probe(options, folder, extractor) if options.probe_records else None
        state = summarise(options, watch, probes, len(records), skipped, time.perf_counter() - started)
        write_state(folder, state)
        save_curves(folder)
        report(folder, state)
    accelerator.end_training()
    return state


def save_and_say(
    accelerator: Accelerator, options: PretrainOptions, loader: DataLoader, watch: Watch, error: NotFiniteError
) -> str:
    """Save the run as it is without the step that is not finite, and put into words what happened. All processes see
    it at the same log line, and all call this."""
    said = blame(accelerator, loader, options.gradient_accumulation_steps, error)
    if accelerator.is_main_process:
        save_curves(Path(options.output_dir))
    if accelerator.scaler is None and not is_guarded(accelerator):
        return f"{said} {how_to_go_on(Path(options.output_dir))}"
    saved = checkpoint(accelerator, options, loader, watch)
    return (
        f"{said} The run without that step is saved: with the same options --resume_from_checkpoint latest goes on "
        f"from {saved}."
    )


def run_probe(options: PretrainOptions, folder: Path, extractor: EcgJepaFeatureExtractor) -> dict[str, HeartRateProbe]:
    """The heart-rate probe of the saved encoder on synthetic records that training did not see, against the weights
    that it started from."""
    rows, heart_rates = heart_rate_records(options, extractor)
    pretrained = EcgJepaModel.from_pretrained(folder)
    random = initial_model(options.model_config(), options.seed).encoder
    for encoder in (pretrained, random):
        encoder.to(PartialState().device)
    return probe_heart_rate(pretrained, random, rows, heart_rates, EcgJepaDataCollator(extractor), seed=options.seed)


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
        "online_probe": online_probe_of(watch.lines),
        "heart_rate_probe": probes
        and {name: dataclasses.asdict(probe) | {"beats_random": probe.beats_random} for name, probe in probes.items()},
        "seconds": round(seconds, 1),
        "options": dataclasses.asdict(options),
    }


def online_probe_of(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first and the last line of the online probe, its numbers only; nothing without one."""
    probed = [{name: line[name] for name in line if name == "step" or name.startswith("probe_")} for line in lines]
    probed = [line for line in probed if len(line) > 1]
    return [probed[0], probed[-1]] if probed else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 good, also with records left out (a launcher takes all else for a crash), 1 error, 2 usage."""
    return run_command(read_options, _pretrain, arguments)


def _pretrain(options: PretrainOptions) -> int:
    pretrain(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
