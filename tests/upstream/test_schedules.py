"""Our learning rate against timm's CosineLRScheduler, called as the authors call it; run by `tests/upstream/run.py`."""

from pathlib import Path

import pytest
import torch
from timm.scheduler import CosineLRScheduler

import train
from train.options import read_options
from train.schedules import learning_rate

RECIPES = Path(train.__file__).parent / "recipes"


@pytest.mark.parametrize("recipe", ["random_base", "multi_block_base", "tiny"])
def test_the_learning_rate_is_timms_at_every_step(recipe):
    options = read_options(["--config", str(RECIPES / f"{recipe}.yaml")])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=options.learning_rate)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=options.max_steps,
        lr_min=options.min_learning_rate,
        warmup_t=options.warmup_steps,
        warmup_lr_init=options.min_learning_rate,
        cycle_decay=0.1,
        cycle_limit=1,
    )
    for step in range(options.max_steps + 10):
        scheduler.step(step)  # the authors count steps where timm says epochs
        ours = learning_rate(
            step,
            peak=options.learning_rate,
            minimum=options.min_learning_rate,
            warmup_steps=options.warmup_steps,
            max_steps=options.max_steps,
        )
        timms = optimizer.param_groups[0]["lr"]
        assert abs(ours - timms) <= 1e-12 * timms, step
