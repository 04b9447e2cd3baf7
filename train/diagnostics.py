"""Whether a run learns anything: content share, rank, and a heart-rate probe. The loss alone shows none of it."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import DataLoader

from modeling_ecg_jepa import EcgJepaDataCollator, EcgJepaForPreTraining, EcgJepaModel

#: Penalties that the probe chooses from, by leave-one-out on the records it is fitted to.
RIDGE_PENALTIES = np.logspace(-3, 4, 15)


# Collapse -------------------------------------------------------------------------------------------------------------


def content_share(targets: Tensor, valid: Tensor | None = None) -> float:
    """The part of the targets' variance that lies between records at the same lead and time, in [0, 1].

    The rest is the position's: near 0 the targets say where a patch is and not what it holds, and a small loss or a
    healthy rank means nothing (design 3.11).

    Args:
        targets: (records, leads, times, channels), at least 2 records.
        valid: (records, leads, times) boolean, False where a lead is missing or a time is padding.
    """
    targets = targets.double()
    weights = torch.ones_like(targets[..., :1]) if valid is None else valid[..., None].double()
    of_place = (targets * weights).sum(0) / weights.sum(0).clamp(min=1)
    of_channel = (targets * weights).sum((0, 1, 2)) / weights.sum().clamp(min=1)
    between = ((targets - of_place).square() * weights).sum()
    total = ((targets - of_channel).square() * weights).sum()
    return float(between / total.clamp(min=torch.finfo(torch.float64).tiny))


def rank_me(embeddings: Tensor) -> float:
    """RankMe of embeddings (number, channels): how many directions they use, smoothly counted, 1 to channels.

    The exponential of the entropy of the singular values (Garrido et al., "RankMe", arXiv 2210.02885).
    """
    embeddings = embeddings.double()
    singular = torch.linalg.eigvalsh(embeddings.T @ embeddings).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(share).sum().exp())


@torch.no_grad()
def watch_targets(model: EcgJepaForPreTraining, batch: dict[str, Tensor], time_mask: Tensor) -> dict[str, float]:
    """What a few records tell of a model, in evaluation mode.

    Returns:
        `content_share` of the targets; `target_std`, their standard deviation between records at the same lead and
        time, averaged over channels (they are normalised, so 1 is the most); `student_rank_me` and `teacher_rank_me`
        of the patches' embeddings; `student_teacher_distance`, the size of their difference over the teacher's size.
    """
    was_training = model.training
    targets = model.eval()(**batch, time_mask=time_mask).targets
    student, teacher = (encoder(**batch).last_hidden_state.float() for encoder in (model.encoder, model.teacher))
    model.train(was_training)
    there = batch["lead_mask"][:, :, None] & batch["attention_mask"][:, None, :]
    valid = there[..., time_mask.to(there.device)]
    student, teacher = student[there.flatten(1)], teacher[there.flatten(1)]
    return {
        "content_share": content_share(targets, valid),
        "target_std": between_std(targets, valid),
        "student_rank_me": rank_me(student),
        "teacher_rank_me": rank_me(teacher),
        "student_teacher_distance": float((student - teacher).norm() / teacher.norm()),
    }


def between_std(targets: Tensor, valid: Tensor) -> float:
    """Standard deviation between records at the same lead and time, averaged over channels; shapes as above."""
    targets, weights = targets.double(), valid[..., None].double()
    of_place = (targets * weights).sum(0) / weights.sum(0).clamp(min=1)
    variance = ((targets - of_place).square() * weights).sum((0, 1, 2)) / weights.sum().clamp(min=1)
    return float(variance.sqrt().mean())


# Linear probe ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclasses.dataclass(frozen=True)
class HeartRateProbe:
    """How well heart rate can be read, linearly, off frozen embeddings of held-out synthetic records.

    Attributes:
        pretrained_mae, random_mae: mean absolute error in beats per minute, of the encoder as trained and with the
            random weights it started from.
        pretrained_r2, random_r2: coefficient of determination.
        gain: `random_mae` - `pretrained_mae`, both over the same resampled records; above 0 pretraining helps.
    """

    pretrained_mae: Estimate
    pretrained_r2: Estimate
    random_mae: Estimate
    random_r2: Estimate
    gain: Estimate

    @property
    def beats_random(self) -> bool:
        return self.gain.low > 0


@torch.inference_mode()
def embed(
    model: EcgJepaModel, rows: Sequence[dict], collator: EcgJepaDataCollator, batch_size: int = 64
) -> dict[str, np.ndarray]:
    """Embeddings of rows as the extractor gives them, complete ones: pooled over all patches ("mean", (rows, channels))
    and over the patches of each lead ("lead", (rows, leads * channels)); float64."""
    was_training, device = model.training, model.device
    model.eval()
    pooled: dict[str, list[torch.Tensor]] = {"mean": [], "lead": []}
    for batch in DataLoader(rows, batch_size=batch_size, collate_fn=collator):
        tokens = model(**{name: part.to(device) for name, part in batch.items()}).last_hidden_state
        by_lead = tokens.unflatten(1, (len(model.config.leads), -1)).mean(2)
        pooled["mean"].append(by_lead.mean(1))
        pooled["lead"].append(by_lead.flatten(1))
    model.train(was_training)
    return {name: torch.cat(parts).double().cpu().numpy() for name, parts in pooled.items()}


def ridge_predictions(embeddings: np.ndarray, fit_values: np.ndarray) -> np.ndarray:
    """Values of the rows after the first `len(fit_values)`, which are fitted: ridge regression on standardised inputs,
    its penalty chosen by leave-one-out among the fitted rows."""
    fitted = len(fit_values)
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=RIDGE_PENALTIES)).fit(embeddings[:fitted], fit_values)
    return model.predict(embeddings[fitted:])


def probe_heart_rate(
    pretrained: EcgJepaModel,
    random: EcgJepaModel,
    rows: Sequence[dict],
    heart_rates: np.ndarray,
    collator: EcgJepaDataCollator,
    seed: int,
) -> dict[str, HeartRateProbe]:
    """Fit on the first half of the rows, test on the second, with both encoders: a probe for each pooling of `embed`,
    so that none is chosen by its result."""
    of_pretrained, of_random = embed(pretrained, rows, collator), embed(random, rows, collator)
    return {name: _probe(of_pretrained[name], of_random[name], heart_rates, seed) for name in of_pretrained}


def _probe(pretrained: np.ndarray, random: np.ndarray, heart_rates: np.ndarray, seed: int) -> HeartRateProbe:
    fit_values, truth = np.split(heart_rates, [len(heart_rates) // 2])
    of_pretrained, of_random = ridge_predictions(pretrained, fit_values), ridge_predictions(random, fit_values)
    return HeartRateProbe(
        pretrained_mae=bootstrap(mean_absolute_error, truth, of_pretrained, seed=seed),
        pretrained_r2=bootstrap(r_squared, truth, of_pretrained, seed=seed),
        random_mae=bootstrap(mean_absolute_error, truth, of_random, seed=seed),
        random_r2=bootstrap(r_squared, truth, of_random, seed=seed),
        gain=bootstrap(_gain, truth, of_pretrained, of_random, seed=seed),
    )


def mean_absolute_error(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return np.abs(truth - prediction).mean(-1)


def r_squared(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Coefficient of determination over the last axis."""
    spread = np.square(truth - truth.mean(-1, keepdims=True)).mean(-1)
    return 1 - np.square(truth - prediction).mean(-1) / spread


def _gain(truth: np.ndarray, of_pretrained: np.ndarray, of_random: np.ndarray) -> np.ndarray:
    return mean_absolute_error(truth, of_random) - mean_absolute_error(truth, of_pretrained)


def bootstrap(
    statistic: Callable[..., np.ndarray], *columns: Sequence[float], seed: int, resamples: int = 2000
) -> Estimate:
    """`statistic` of the columns (records,) with its 95% percentile interval; records are resampled as a whole, so
    what is compared within a record stays paired."""
    columns = [np.asarray(column) for column in columns]
    drawn = np.random.default_rng(seed).integers(len(columns[0]), size=(resamples, len(columns[0])))
    low, high = np.quantile(statistic(*(column[drawn] for column in columns)), [0.025, 0.975])
    return Estimate(float(statistic(*columns)), float(low), float(high))
