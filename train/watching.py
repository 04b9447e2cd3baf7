"""What a person sees of a run as it goes on: progress bar, log, and the measures that the loss cannot replace."""

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from modeling_ecg_jepa import EcgJepaError, EcgJepaForPreTraining

from .checkpoints import TrainLog
from .diagnostics import watch_targets
from .failures import failure


class Watch:
    """Shows every step and writes a log line every `logging_steps`; only then is anything fetched from the device.

    Args:
        model: without the wrappers that Accelerate puts around it.
        batch: a few records, the same throughout, on which the targets are measured.
        time_mask: the mask for them.
        log: where the lines go; None in all processes but the main one.
        records_per_step: over all processes.
        so_far: lines and losses of a run that goes on, as `state` gave them.
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
        so_far: dict[str, Any] | None = None,
    ):
        self.accelerator, self.model, self.log = accelerator, model, log
        self.batch, self.time_mask = batch, time_mask
        self.max_steps, self.logging_steps, self.records_per_step = max_steps, logging_steps, records_per_step
        self.lines: list[dict[str, Any]] = list(so_far["lines"]) if so_far else []
        self.pending = [torch.tensor(loss) for loss in so_far["pending"]] if so_far else []
        self.gradient_norm: Tensor | None = None
        self.said: set[str] = set()
        done = so_far["step"] if so_far else 0
        self.bar = tqdm(total=max_steps, initial=done, desc="pretraining", unit="step", disable=log is None)
        if not so_far:
            self._write({"step": 0})
        self._restart_clock()

    def _restart_clock(self) -> None:
        self.started, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def state(self, step: int) -> dict[str, Any]:
        """What a run that goes on from here has to know: exactly what it would have known."""
        return {"step": step, "lines": self.lines, "pending": [float(loss) for loss in self.pending]}

    def next_batch(self, stream: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The next batch, and how long it took to come."""
        asked = time.perf_counter()
        batch = next(stream)
        self.waited += time.perf_counter() - asked
        return batch

    def after_backward(self, step: int) -> None:
        """Measure the gradients of a step that is logged, before they are used."""
        if self._is_logged(step + 1) and self.accelerator.sync_gradients:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            scale = self.accelerator.scaler.get_scale() if self.accelerator.scaler else 1.0
            self.gradient_norm = torch.nn.utils.get_total_norm(gradients) / scale

    def _is_logged(self, done: int) -> bool:
        return done % self.logging_steps == 0 or done == self.max_steps

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
        self.steps += 1
        done = step + 1
        if not self._is_logged(done):
            return
        losses = torch.stack([loss.to(self.accelerator.device) for loss in self.pending])
        mean_loss = float(self.accelerator.reduce(losses.mean(), reduction="mean"))
        seconds = time.perf_counter() - self.started
        self.pending.clear()
        self._refuse_if_not_finite(mean_loss, done)
        self._write(
            {
                "step": done,
                "loss": mean_loss,
                "learning_rate": learning_rate,
                "momentum": momentum,
                "gradient_norm": None if self.gradient_norm is None else float(self.gradient_norm),
                "records_per_second": self.steps * self.records_per_step / seconds,
                "waiting_for_data": self.waited / seconds,
            }
        )
        self._restart_clock()

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
        said = failure(self.lines)
        if said and (kind := said.split(":")[0]) not in self.said:
            self.said.add(kind)
            self.bar.write(f"step {line['step']}: {said}")

    def _refuse_if_not_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise EcgJepaError(
                f"The loss became {loss} in the {self.logging_steps} steps up to step {step}. Lower --learning_rate "
                "or lengthen --warmup_steps; with --mixed_precision fp16, use bf16 or none."
            )
