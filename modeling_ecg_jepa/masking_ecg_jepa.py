"""Time masks of pretraining (arXiv 2410.08559): which patches of a record are hidden, the same in all leads."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .configuration_ecg_jepa import EcgJepaConfig
from .errors_ecg_jepa import EcgJepaInputError


def sample_time_mask(
    config: EcgJepaConfig, num_patches: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the mask that `config` describes.

    Args:
        config: says which kind of mask and how large (`mask_type`, `mask_ratio`, `mask_num_blocks`, ...).
        num_patches: patches a lead; the configured number by default.
        generator: source of randomness, on the CPU; torch's own by default.

    Returns:
        (num_patches,) boolean on the CPU, True = hidden. On the CPU so that counts are known without waiting for a GPU.

    Raises:
        EcgJepaInputError: a record so short that the mask hides all of it or nothing.
    """
    num_patches = config.num_patches if num_patches is None else num_patches
    if config.mask_type == "random":
        mask = _random_mask(num_patches, config.mask_ratio, generator)
    else:
        mask = _multi_block_mask(
            num_patches, config.mask_num_blocks, config.mask_block_ratio, config.mask_last_patch, generator
        )
    if not 0 < int(mask.sum()) < num_patches:
        raise EcgJepaInputError(
            f"A {config.mask_type} mask over {num_patches} patches hides {int(mask.sum())} of them; "
            "pretrain on longer records or with other mask ratios."
        )
    return mask


def _uniform(ratio: Sequence[float], generator: torch.Generator | None) -> float:
    low, high = ratio
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _random_mask(num_patches: int, ratio: Sequence[float], generator: torch.Generator | None) -> Tensor:
    """Hide a share of the patches, drawn uniformly within `ratio` and rounded down."""
    hidden = math.floor(num_patches * _uniform(ratio, generator))
    mask = torch.zeros(num_patches, dtype=torch.bool)
    mask[torch.randperm(num_patches, generator=generator)[:hidden]] = True
    return mask


def _multi_block_mask(
    num_patches: int, num_blocks: int, block_ratio: Sequence[float], last_patch: bool, generator: torch.Generator | None
) -> Tensor:
    """Hide the union of blocks whose lengths are shares drawn within `block_ratio`; blocks may overlap."""
    mask = torch.zeros(num_patches, dtype=torch.bool)
    for _ in range(num_blocks):
        length = math.floor(num_patches * _uniform(block_ratio, generator))
        # The authors draw starts below num_patches - length, so their blocks never reach the last patch.
        starts = num_patches - length + (1 if last_patch else 0)
        start = int(torch.randint(starts, (), generator=generator))
        mask[start : start + length] = True
    return mask


__all__ = ["sample_time_mask"]
