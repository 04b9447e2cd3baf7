"""What a person sees of a run as it goes on: progress bar, log, and the measures that the loss cannot replace."""

import math
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from modeling_ecg_jepa import EcgJepaError, EcgJepaForPreTraining

from .checkpoints import TrainLog
from .diagnostics import watch_targets


class Watch:
    """Shows every step and writes a log line every `logging_steps`; only then is anything fetched from the device.

    Args:
        model: without the wrappers that Accelerate puts around it.
        batch: a few records, the same throughout, on which the targets are measured.
        time_mask: the mask for them.
        log: where the lines go; None in all processes but the main one.
        records_per_step: over all processes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: EcgJepaForPreTraining,
        batch: dict[str, Tensor],
        time_mask: Tensor,
        log: TrainLog | None,
        *,
        max_steps: int,
        logging_steps: int,
        records_per_step: int,
    ):
        self.accelerator, self.model, self.log = accelerator, model, log
        self.batch, self.time_mask = batch, time_mask
        self.max_steps, self.logging_steps, self.records_per_step = max_steps, logging_steps, records_per_step
        self.lines: list[dict[str, Any]] = []
        self.pending: list[Tensor] = []
        self.bar = tqdm(total=max_steps, desc="pretraining", unit="step", disable=log is None)
        self._write({"step": 0})
        self.started = time.perf_counter()

    def after_step(self, step: int, loss: Tensor, learning_rate: float, momentum: float) -> None:
        """
        Args:
            step: counted from 0.
            loss: of this process's last batch; it stays on its device.

        Raises:
            EcgJepaError: the loss is not a finite number.
        """
        self.pending.append(loss.detach())
        self.bar.update()
        done = step + 1
        if done % self.logging_steps and done != self.max_steps:
            return
        mean_loss = float(self.accelerator.reduce(torch.stack(self.pending).mean(), reduction="mean"))
        seconds = time.perf_counter() - self.started
        rate = len(self.pending) * self.records_per_step / seconds
        self.pending.clear()
        self._refuse_if_not_finite(mean_loss, done)
        self._write(
            {
                "step": done,
                "loss": mean_loss,
                "learning_rate": learning_rate,
                "momentum": momentum,
                "records_per_second": rate,
            }
        )
        self.started = time.perf_counter()

    def close(self) -> None:
        self.bar.close()

    @property
    def content_shares(self) -> list[float]:
        """From before the first step to after the last."""
        return [line["content_share"] for line in self.lines]

    @property
    def losses(self) -> list[float]:
        """The mean of each stretch from one log line to the next."""
        return [line["loss"] for line in self.lines if "loss" in line]

    def _write(self, line: dict[str, Any]) -> None:
        if self.log is None:
            return
        line |= watch_targets(self.model, self.batch, self.time_mask)
        self.lines.append(line)
        self.log.write(line)
        shown = {"loss": "loss", "learning_rate": "lr", "momentum": "momentum", "content_share": "content"}
        words = [f"{word} {line[name]:.4g}" for name, word in shown.items() if name in line]
        if "records_per_second" in line:
            words.append(f"{line['records_per_second']:.0f} records/s")
        self.bar.set_postfix_str(", ".join(words))

    def _refuse_if_not_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise EcgJepaError(
                f"The loss became {loss} in the {self.logging_steps} steps up to step {step}. Lower --learning_rate "
                "or lengthen --warmup_steps; with --mixed_precision fp16, use bf16 or none."
            )
