"""Learning rate, momentum, masks and parameter groups: pure functions of the step (arXiv 2410.08559, design 3.8)."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from modeling_ecg_jepa import EcgJepaConfig, sample_time_mask


def learning_rate(step: int, *, peak: float, minimum: float, warmup_steps: int, max_steps: int) -> float:
    """Linear from `minimum` to `peak` over the warm-up, then a cosine back to `minimum` at `max_steps`.

    The cosine counts from step 0, not from the end of the warm-up, as timm's CosineLRScheduler does by default, which
    the authors used: right after the warm-up the rate is already a little below the peak.
    """
    if step < warmup_steps:
        return minimum + (peak - minimum) * step / warmup_steps
    if step >= max_steps:
        return minimum
    return minimum + (peak - minimum) * (1 + math.cos(math.pi * step / max_steps)) / 2


def momentum(step: int, *, start: float, end: float, max_steps: int) -> float:
    """The share of the old teacher kept at each update, linear from `start` at step 0 to `end` at `max_steps`."""
    return start + (end - start) * min(step / max_steps, 1.0)


def time_masks(step: int, *, config: EcgJepaConfig, seed: int, count: int = 1) -> list[Tensor]:
    """The masks of a step, each (config.num_patches,) bool on the CPU; the same in every process, and when resumed."""
    generator = torch.Generator().manual_seed(mixed_seed(seed, step))
    return [sample_time_mask(config, generator=generator) for _ in range(count)]


def mixed_seed(*parts: int) -> int:
    """One seed of several numbers. torch's CPU generator keeps 32 bits of a seed: mixed, not added up, they differ."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for the optimizer: weights are decayed; biases and parameters of one dimension (norms) are not.

    The mask token, of shape (1, 1, channels), is decayed, as in the authors' code. Parameters without gradient, such
    as the teacher's, are in neither group.
    """
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if parameter.dim() == 1 or "bias" in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
