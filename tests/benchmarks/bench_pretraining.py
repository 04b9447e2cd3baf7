"""How fast pretraining is, and what limits it: `python tests/benchmarks/bench_pretraining.py [--quick]`.

The step of train/recipes/multi_block_base.yaml as train/pretrain.py makes it (loader, masks of the seed, autocast in
bfloat16 where the machine has it, fused AdamW, moving average), on noise, everything in one process. Model FLOP
utilisation (MFU) is what the matrix products of teacher, student and predictor need by formula (flops.py), a second,
over what one large product reaches in the same type in the same run.
"""

import argparse
import dataclasses
import itertools
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from bench_model import device_name, has_fast_bfloat16, linear_products
from flops import step_flops
from measuring import medians, peak_memory, synchronize

from modeling_ecg_jepa import EcgJepaDataCollator, EcgJepaFeatureExtractor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `train` runs from a checkout
from train import schedules
from train.data import MemoryRecords, batches
from train.options import PretrainOptions, read_options
from train.pretrain import guard, scheduled
from train.starting import initial_model, make_loader, make_optimizer, start_accelerator

RECIPE = Path(__file__).resolve().parents[2] / "train" / "recipes" / "multi_block_base.yaml"

Batch = dict[str, torch.Tensor]

#: What the paper trains on: records times epochs; and how long the authors' RTX 3090 took.
RECORDS_OF_THE_PAPER = 180_000 * 100
HOURS_OF_THE_AUTHORS = 22


class Variant(NamedTuple):
    """How a step's layers are run."""

    attention: str
    compiled: bool

    def __str__(self) -> str:
        return f"{self.attention}, compiled" if self.compiled else self.attention


class Training:
    """A run of `options` that can be stepped through, with one batch again and again or with what its loader reads."""

    def __init__(self, options: PretrainOptions, compile_layers: bool):
        self.options, self.config = options, options.model_config()
        self.accelerator = start_accelerator(options)
        self.device = self.accelerator.device
        bare = initial_model(self.config, options.seed)
        if compile_layers:
            bare.compile_layers()
        optimizer = make_optimizer(self.accelerator, bare, options)
        self.model, self.optimizer = self.accelerator.prepare(bare, optimizer)
        self.model.train()

    def masks(self, step: int) -> list[torch.Tensor]:
        """The recipe's one mask of a step."""
        return schedules.time_masks(step, config=self.config, seed=self.options.seed)

    def loader(self, batch_size: int, num_workers: int = 0) -> Iterator[Batch]:
        """Batches of the run's loader, of noise that is held in memory."""
        extractor = EcgJepaFeatureExtractor.from_config(self.config)
        noise = torch.randn(8 * batch_size, len(self.config.leads), self.config.num_patches * self.config.patch_size)
        rows = [{"input_values": record} for record in (0.3 * noise).numpy()]
        options = dataclasses.replace(self.options, batch_size=batch_size, num_workers=num_workers)
        records = MemoryRecords(rows, [f"noise-{place}" for place in range(len(rows))])
        return batches(self.accelerator.prepare(make_loader(options, records, EcgJepaDataCollator(extractor))))

    def parts(self, step: int, stream: Iterator[Batch]) -> Iterator[str]:
        """A step as in `train_loop`, stopping after each part to say which it was."""
        momentum = scheduled(step, self.options)[1]
        batch = next(stream)
        yield "waiting for data"
        loss = self.model(**batch, time_mask=self.masks(step)).loss
        yield "student and predictor"
        self.accelerator.backward(loss)
        yield "backward"
        guard(self.accelerator, self.model, self.optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad()
        yield "optimizer"
        self.model.update_teacher(momentum)
        yield "moving average"

    def run(self, steps: int, stream: Iterator[Batch], variant: Variant, through=lambda part: None) -> None:
        """So many steps from the first on; `through` is called after each part of a step."""
        self.model.config._attn_implementation_internal = variant.attention
        with torch.compiler.set_stance("default" if variant.compiled else "force_eager"):
            for step in range(steps):
                for part in self.parts(step, stream):
                    through(part)

    def split(self, steps: int, stream: Iterator[Batch], variant: Variant) -> dict[str, float]:
        """Seconds a step of each part, waiting for the device after each."""
        seconds: dict[str, float] = defaultdict(float)
        last = time.perf_counter()

        def through(part: str) -> None:
            nonlocal last
            synchronize()
            now = time.perf_counter()
            seconds[part] += (now - last) / steps
            last = now

        hook = self.model.teacher.register_forward_hook(lambda *_: through("teacher"))
        self.run(steps, stream, variant, through)
        hook.remove()
        return dict(seconds)

    def flops(self, steps: int) -> dict[str, float]:
        """FLOPs a record of the first steps, mean."""
        counts = [step_flops(self.config, hidden) for hidden in self.hidden(steps)]
        return {part: sum(count[part] for count in counts) / steps for part in counts[0]}

    def hidden(self, steps: int) -> list[int]:
        return [int(mask.sum()) for step in range(steps) for mask in self.masks(step)]

    def products(self, batch_size: int, steps: int, dtype: torch.dtype) -> float:
        """Seconds a step that the matrix products of its linear layers take alone, at the mean number of times."""
        leads, times, model = len(self.config.leads), self.config.num_patches, self.model
        visible, rows = times - round(sum(self.hidden(steps)) / steps), batch_size * leads
        limits = [
            linear_products(model.teacher, rows * times, dtype, backward=False),
            linear_products(model.encoder, rows * visible, dtype, backward=True),
            linear_products(model.predictor.layers, rows * times, dtype, backward=True),
        ]
        return sum(medians({"products": limit}, 3)["products"] for limit in limits)


def square_product(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOPs a second of a square matrix product."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / medians({"product": lambda: left @ right}, 25)["product"]


# ----------------------------------------------------------------------------------------------------------------------
# Tables


class Report:
    """Turns seconds of some steps into lines of a table."""

    def __init__(self, training: Training, steps: int, dtype: torch.dtype):
        self.steps, self.flops = steps, training.flops(steps)
        self.peak = square_product(8192 if training.device.type == "cuda" else 2048, dtype, training.device)

    def line(self, what: object, batch_size: int, seconds: float) -> str:
        """`seconds` for all steps."""
        rate = self.steps * batch_size / seconds
        utilisation = rate * sum(self.flops.values()) / self.peak
        return (
            f"{what!s:24s} {1000 * seconds / self.steps:9.1f} ms a step   MFU {utilisation:6.1%} {rate:9.2f} records/s"
        )


def bench_variants(training: Training, report: Report, batch_size: int, rounds: int, compiles: bool) -> Variant:
    """Attention implementations, eager and compiled, in turn; the fastest of them."""
    stream = itertools.repeat(next(training.loader(batch_size)))
    kinds = [Variant(attention, compiled) for compiled in {False, compiles} for attention in ("cropa", "sdpa")]
    cases = {kind: partial(training.run, report.steps, stream, kind) for kind in kinds}
    seconds = medians(cases, rounds)
    print(f"\nbatch {batch_size}, always the same")
    for kind, value in seconds.items():
        print(report.line(kind, batch_size, value), flush=True)
    return min(seconds, key=seconds.__getitem__)


def bench_batches(training: Training, report: Report, sizes: list[int], rounds: int, variant: Variant) -> int:
    """The fastest variant in ever larger batches, until memory ends; the best size."""
    print(f"\n{variant}, batch by batch")
    rates: dict[int, float] = {}
    for size in sizes:
        stream = itertools.repeat(next(training.loader(size)))
        try:
            seconds = medians({size: partial(training.run, report.steps, stream, variant)}, rounds)[size]
        except torch.OutOfMemoryError:
            print(f"batch {size}: out of memory")
            break
        rates[size] = size / seconds
        print(f"{report.line(f'batch {size}', size, seconds)}   peak {memory(training.device):.1f} GiB", flush=True)
    return max(rates, key=rates.__getitem__)


def memory(device: torch.device) -> float:
    """The most that was in use so far, GiB."""
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else peak_memory() / 2**10


def bench_parts(training: Training, report: Report, batch_size: int, variant: Variant, dtype: torch.dtype) -> None:
    """Where a step's time goes with the run's own loader, and what the paper's run would take."""
    stream = training.loader(batch_size, min(training.options.num_workers, os.cpu_count() or 1))
    training.run(1, stream, variant)
    start = time.perf_counter()
    training.run(report.steps, stream, variant)
    synchronize()
    whole = time.perf_counter() - start
    seconds = training.split(report.steps, stream, variant)
    seconds["linear layers alone"] = training.products(batch_size, report.steps, dtype)

    print(f"\n{variant}, batch {batch_size} from the loader; then part by part, waiting for the device after each")
    print(report.line("the step", batch_size, whole))
    for part, value in seconds.items():
        flops = sum(report.flops.values()) if part == "linear layers alone" else report.flops.get(part)
        share = f"   MFU {flops * batch_size / value / report.peak:6.1%}" if flops else ""
        print(f"{part:24s} {1000 * value:9.1f} ms a step{share}", flush=True)
    flops_a_second = report.steps * batch_size * sum(report.flops.values()) / whole
    hours = RECORDS_OF_THE_PAPER * sum(training.flops(1000).values()) / flops_a_second / 3600
    print(f"\n100 epochs of 180,000 records: {hours:,.1f} h (the authors on an RTX 3090: {HOURS_OF_THE_AUTHORS} h)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps: about four minutes on two cores")
    parser.add_argument("--threads", default="2", help="of a CPU")
    parser.add_argument("--preset", default="base", help="another size of the model, to try the script")
    parser.add_argument("--batches", type=int, nargs="+", help="sizes to try, the first also for the comparison")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="compiled layers, too; by default on a GPU"
    )
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    compiles = on_gpu if arguments.compile is None else arguments.compile
    sizes = arguments.batches or ([64, 128, 256, 512] if on_gpu else [4, 8])
    steps, rounds = (10, 3 if arguments.quick else 9) if on_gpu else (2, 1 if arguments.quick else 5)

    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    precision = "bf16" if dtype == torch.bfloat16 else "no"
    recipe = ["--config", str(RECIPE), "--preset", arguments.preset, "--cpu_threads", arguments.threads]
    training = Training(read_options([*recipe, "--mixed_precision", precision]), compiles)
    report = Report(training, steps, dtype)
    print(f"torch {torch.__version__}, {device_name(device)}, {torch.get_num_threads()} threads")
    print(f"one large matrix product in {str(dtype).removeprefix('torch.')}: {report.peak / 1e12:.3g} TFLOP/s")
    parts = ", ".join(f"{part} {flops / 1e9:.1f}" for part, flops in report.flops.items())
    print(f"GFLOP a record: {parts}; together {sum(report.flops.values()) / 1e9:.1f}")
    variant = bench_variants(training, report, sizes[0], rounds, compiles)
    best = bench_batches(training, report, sizes, rounds, variant)
    bench_parts(training, report, best, variant, dtype)


if __name__ == "__main__":
    main()
