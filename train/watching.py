"""What a person sees of a run as it goes on: progress bar, log, and the measures that the loss cannot replace."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from modeling_ecg_jepa import EcgJepaForPreTraining

from .checkpoints import TrainLog
from .diagnostics import watch_targets
from .failures import failure
from .online_probe import OnlineProbe
from .stopping import NotFiniteError


class Watch:
    """Shows every step and writes a log line every `logging_steps`; only then is anything fetched from the device.

    Args:
        model: without the wrappers that Accelerate puts around it.
        batch: a few records, the same throughout, on which the targets are measured.
        time_mask: the mask for them.
        log: where the lines go; None in all processes but the main one.
        probe: of the student, every `probe_steps` steps.
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
        probe: OnlineProbe | None = None,
        probe_steps: int = 0,
        so_far: dict[str, Any] | None = None,
    ):
        self.accelerator, self.model, self.log = accelerator, model, log
        self.batch, self.time_mask = batch, time_mask
        self.max_steps, self.logging_steps, self.records_per_step = max_steps, logging_steps, records_per_step
        self.probe, self.probe_steps = probe, probe_steps
        self.lines: list[dict[str, Any]] = list(so_far["lines"]) if so_far else []
        #: Loss and gradient norm of each step since the last line, (2,), on the device.
        self.pending = [torch.tensor(pair) for pair in so_far["pending"]] if so_far else []
        self.said: set[str] = set()
        self.done = so_far["step"] if so_far else 0
        self.bar = tqdm(total=max_steps, initial=self.done, desc="pretraining", unit="step", disable=log is None)
        if not so_far:
            self._write({"step": 0})
        self._restart_clock()

    def _restart_clock(self) -> None:
        self.started, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def state(self) -> dict[str, Any]:
        """What a run that goes on from here has to know: exactly what it would have known."""
        return {"step": self.done, "lines": self.lines, "pending": [pair.tolist() for pair in self.pending]}

    def next_batches(self, stream: Iterator[dict[str, Tensor]], count: int) -> list[dict[str, Tensor]]:
        """The next batches, and how long they took to come."""
        asked = time.perf_counter()
        taken = [next(stream) for _ in range(count)]
        self.waited += time.perf_counter() - asked
        return taken

    def after_step(self, loss: Tensor, gradient_norm: Tensor, learning_rate: float, momentum: float) -> None:
        """
        Args:
            loss: the mean over this process's part of the step; it stays on its device, as
            gradient_norm: of the gradients that the step used, times the gradient scaler's scale if there is one.

        Raises:
            NotFiniteError: the loss or, without a gradient scaler, the gradients of a step are not finite.
        """
        self.pending.append(torch.stack([loss, gradient_norm.to(loss)]))
        self.bar.update()
        self.steps += 1
        self.done += 1
        if self.done % self.logging_steps and self.done != self.max_steps:
            return
        measured = torch.stack([pair.to(self.accelerator.device) for pair in self.pending])
        losses, norms = self.accelerator.reduce(measured, reduction="mean").T.cpu()
        seconds = time.perf_counter() - self.started
        self._refuse_if_not_finite(losses, norms)
        self.pending.clear()
        scale = self.accelerator.scaler.get_scale() if self.accelerator.scaler else 1.0
        self._write(
            {
                "step": self.done,
                "loss": float(losses.mean()),
                "learning_rate": learning_rate,
                "momentum": momentum,
                "gradient_norm": float(norms[-1]) / scale,
                "records_per_second": self.steps * self.records_per_step / seconds,
                "waiting_for_data": self.waited / seconds,
            }
        )
        self._restart_clock()

    def _refuse_if_not_finite(self, losses: Tensor, norms: Tensor) -> None:
        for measured, values in (("loss", losses), ("norm of the gradients", norms)):
            bad = (~values.isfinite()).nonzero()
            if len(bad) and (
                measured == "loss" or self.accelerator.scaler is None
            ):  # a scaler makes gradients overflow
                first = int(bad[0])
                self.pending.clear()
                raise NotFiniteError(self.done - len(values) + first, f"The {measured} became {float(values[first])}")

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
        """All processes measure, since the model may lie in pieces over them; the main one writes."""
        with torch.compiler.set_stance("force_eager"):  # other shapes than in training, and seldom: not worth compiling
            line |= watch_targets(self.model, self.batch, self.time_mask)
            if self.probe and (line["step"] % self.probe_steps == 0 or line["step"] == self.max_steps):
                line |= self.probe.measure(self.model.encoder)
        self.lines.append(line)
        if self.log is None:
            return
        self.log.write(line)
        self.accelerator.log({name: value for name, value in line.items() if value is not None}, step=line["step"])
        shown = {"loss": "loss", "learning_rate": "lr", "momentum": "momentum", "content_share": "content"}
        shown |= {"probe_auroc_lead": "AUROC", "probe_bpm_lead": "bpm"}
        words = [f"{word} {line[name]:.4g}" for name, word in shown.items() if name in line]
        if "records_per_second" in line:
            words.append(f"{line['records_per_second']:.0f} records/s")
        self.bar.set_postfix_str(", ".join(words))
        said = failure(self.lines)
        if said and (kind := said.split(":")[0]) not in self.said:
            self.said.add(kind)
            self.bar.write(f"step {line['step']}: {said}")
