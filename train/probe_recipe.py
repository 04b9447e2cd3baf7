"""The linear evaluation as ECG-JEPA's authors do it, beside our logistic regression: a linear layer on mean-pooled
features as they are, trained for ten epochs."""

import numpy as np
import torch
from torch import nn

from .probe_records import Part
from .probing import Fitted

#: Of the authors' code (sehunfromdaegu/ECG_JEPA): AdamW, a linear warm-up, then a cosine; nothing is chosen.
RECIPE = {
    "optimizer": "AdamW",
    "learning_rate": 0.01,
    "epochs": 10,
    "batch_size": 16,
    "warmup_iterations": 10,
    "lowest_share": 0.1,
}


def fit_by_recipe(features: np.ndarray, labels: np.ndarray, part: Part, seed: int) -> Fitted:
    """Fit to a part's records and score those that it tests.

    Args:
        features: (all records, features).
        labels: (all records, classes) boolean.
        seed: of the first weights and the order of records.
    """
    inputs = torch.from_numpy(np.ascontiguousarray(features[part.fitted], dtype=np.float32))
    wanted = torch.from_numpy(labels[part.fitted]).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = _trained(inputs, wanted)
    with torch.inference_mode():
        scores = head(torch.from_numpy(np.ascontiguousarray(features[part.tested], dtype=np.float32)))
    return Fitted(scores.double().numpy(), {"epochs": RECIPE["epochs"]})


def _trained(inputs: torch.Tensor, wanted: torch.Tensor) -> nn.Linear:
    head = nn.Linear(inputs.shape[1], wanted.shape[1])
    optimizer = torch.optim.AdamW(head.parameters(), lr=RECIPE["learning_rate"])
    batches = -(-len(inputs) // RECIPE["batch_size"])
    steps = RECIPE["epochs"] * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, steps))
    for _ in range(RECIPE["epochs"]):
        for batch in torch.randperm(len(inputs)).split(RECIPE["batch_size"]):
            loss = nn.functional.binary_cross_entropy_with_logits(head(inputs[batch]), wanted[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head


def learning_rate_share(step: int, steps: int) -> float:
    """The share of the highest learning rate in a step of `steps`."""
    warmup, lowest = RECIPE["warmup_iterations"], RECIPE["lowest_share"]
    if step < warmup:
        return (step + 1) / warmup
    passed = (step - warmup) / max(1, steps - warmup)
    return float(lowest + (1 - lowest) * (1 + np.cos(np.pi * min(passed, 1.0))) / 2)
