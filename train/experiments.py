"""The experiments of `python -m train.ablate`, as data: what each asks, what the field found, and its variants."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import Tensor, nn

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaForPreTraining
from modeling_ecg_jepa.cropa import ALL_ATTENTION_FUNCTIONS
from modeling_ecg_jepa.modeling_ecg_jepa import (
    EcgJepaForPreTrainingOutput,
    select_times,
    split_times,
    valid_patches,
)

from .starting import initial_model

#: What synthetic records show: a diagnosis each, in equal shares, beside its rhythm.
DIAGNOSES = (
    "sinus_rhythm",
    "sinus_bradycardia",
    "sinus_tachycardia",
    "atrial_fibrillation",
    "atrial_flutter",
    "atrial_premature_beats",
    "ventricular_premature_beats",
    "first_degree_av_block",
    "right_bundle_branch_block",
    "left_ventricular_hypertrophy",
)


@dataclass(frozen=True)
class Variant:
    """One arm of an experiment: what it changes of the run that all share.

    Attributes:
        name: in tables.
        options: of `train.pretrain`, in place of the run's.
        against: the variants that it is compared with, by name.
        trained: False for the weights that a run starts from: what any representation must beat.
        make_model: (configuration, seed) -> student, teacher and predictor.
        corpus: options of the synthetic corpus, in place of the run's.
        share: of the records that pretraining sees; probes are fitted and tested on the same ones throughout.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    trained: bool = True
    make_model: Callable[[EcgJepaConfig, int], EcgJepaForPreTraining] = initial_model
    corpus: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0


@dataclass(frozen=True)
class Experiment:
    """A question and the variants that answer it.

    Attributes:
        question, finding: what it asks, and what has been published about it.
        equal: the budget that all variants have in common, "steps" or "time".
        views: what a probe is given -> the leads that are left of each record; None for all.
    """

    question: str
    finding: str
    variants: Sequence[Variant]
    equal: str = "steps"
    views: Mapping[str, Sequence[str] | None] = field(default_factory=lambda: {"all leads": None})
    seeds: tuple[int, ...] = (0, 1, 2)


RANDOM_WEIGHTS = "random weights"


# Several masks for one pass of the teacher ----------------------------------------------------------------------------

NUM_MASKS = Experiment(
    question="Do several masks for one pass of the teacher learn more in the same time?",
    finding="data2vec 2.0 (arXiv 2212.07525) predicts several masked versions of a sample from one pass of the "
    "teacher, one of its three reasons for needing a fraction of the time; I-JEPA (2301.08243) predicts four blocks a "
    "pass; ECG-JEPA uses one mask.",
    equal="time",
    seeds=(0, 1, 2, 3, 4),
    variants=[
        Variant(RANDOM_WEIGHTS, trained=False),
        Variant("1 mask", {"num_masks": 1}, against=(RANDOM_WEIGHTS,)),
        Variant("2 masks", {"num_masks": 2}, against=("1 mask",)),
        Variant("4 masks", {"num_masks": 4}, against=("1 mask",)),
    ],
)


# Attention ------------------------------------------------------------------------------------------------------------


def full_attention(
    qkv: Tensor, valid: Tensor | None, grid: tuple[int, int], scaling: float
) -> tuple[Tensor, Tensor | None]:
    """Every token attends to every other; arguments and result as those of the implementations in cropa.py."""
    mask = None if valid is None else valid.flatten(1)[:, None, None, :]
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling).transpose(1, 2), None


def model_of_full_attention(config: EcgJepaConfig, seed: int) -> EcgJepaForPreTraining:
    """The model that `initial_model` makes, its weights too, whose layers attend to everything."""
    model = initial_model(copy.deepcopy(config), seed)
    ALL_ATTENTION_FUNCTIONS["full"] = full_attention
    model.config._attn_implementation = "full"
    return model


ATTENTION = Experiment(
    question="Does cross-pattern attention, within a lead and within a time, learn more than full attention?",
    finding="ECG-JEPA (arXiv 2410.08559) introduces CroPA as what lets the model find how patches belong together; "
    "other ECG transformers attend to everything.",
    variants=[
        Variant("random weights, CroPA", trained=False),
        Variant("random weights, full", trained=False, make_model=model_of_full_attention),
        Variant("CroPA", against=("random weights, CroPA",)),
        Variant("full", against=("random weights, full", "CroPA"), make_model=model_of_full_attention),
    ],
)


# The levers against collapse onto positions ---------------------------------------------------------------------------


def levers(patches: float, positions: float, centred: bool) -> dict[str, Any]:
    return {"patch_initializer_range": patches, "position_scale": positions, "target_centering": centred}


LEVERS = Experiment(
    question="Which levers keep a small run from learning positions only: louder patches, quieter positions, centred "
    "targets?",
    finding="nothing on ECG-JEPA, whose paper has no levers and far more records. JEPAs are known to learn what is "
    "easiest to predict rather than what matters (Sobal et al., arXiv 2211.10831); here that is the positions.",
    variants=[
        Variant("random weights, the paper's", levers(0.02, 1.0, False), trained=False),
        Variant("random weights, patches x20", levers(0.4, 1.0, False), trained=False),
        Variant("random weights, patches x20, positions x0.2", levers(0.4, 0.2, False), trained=False),
        Variant("the paper's", levers(0.02, 1.0, False), against=("random weights, the paper's",)),
        Variant("centred", levers(0.02, 1.0, True), against=("the paper's",)),
        Variant("patches x20", levers(0.4, 1.0, False), against=("random weights, patches x20", "the paper's")),
        Variant("patches x20, centred", levers(0.4, 1.0, True), against=("the paper's",)),
        Variant(
            "patches x20, positions x0.2",
            levers(0.4, 0.2, False),
            against=("random weights, patches x20, positions x0.2", "the paper's"),
        ),
        Variant(
            "all three",
            levers(0.4, 0.2, True),
            against=("random weights, patches x20, positions x0.2", "the paper's", "patches x20, positions x0.2"),
        ),
    ],
)


# Masks ----------------------------------------------------------------------------------------------------------------


def random_masks(low: float, high: float) -> dict[str, Any]:
    return {"mask_type": "random", "mask_ratio": [low, high]}


def block_masks(blocks: int, low: float, high: float, last_patch: bool = True) -> dict[str, Any]:
    return {
        "mask_type": "multi_block",
        "mask_num_blocks": blocks,
        "mask_block_ratio": [low, high],
        "mask_last_patch": last_patch,
    }


MASKING = Experiment(
    question="How much is best hidden, at single times or in blocks, and does it matter that the authors' sampler "
    "never hides the last patch?",
    finding="ECG-JEPA's linear probes on PTB-XL reach AUC 0.912 with blocks and 0.907 with random masks; on images "
    "I-JEPA (arXiv 2301.08243) found blocks far ahead of random masks. The sampler's fault has not been measured.",
    variants=[
        Variant(RANDOM_WEIGHTS, trained=False),
        Variant("random 0.6-0.7 (paper)", random_masks(0.6, 0.7), against=(RANDOM_WEIGHTS,)),
        *(
            Variant(f"random {share}", random_masks(share, share), against=("random 0.6-0.7 (paper)",))
            for share in (0.5, 0.6, 0.7, 0.8)
        ),
        Variant("4 blocks of 0.2 (paper)", block_masks(4, 0.175, 0.225), against=("random 0.6-0.7 (paper)",)),
        Variant("1 block of 0.6", block_masks(1, 0.55, 0.65), against=("4 blocks of 0.2 (paper)",)),
        Variant("2 blocks of 0.36", block_masks(2, 0.33, 0.39), against=("4 blocks of 0.2 (paper)",)),
        Variant("8 blocks of 0.1", block_masks(8, 0.08, 0.12), against=("4 blocks of 0.2 (paper)",)),
        Variant(
            "4 blocks, never the last patch (authors)",
            block_masks(4, 0.175, 0.225, last_patch=False),
            against=("4 blocks of 0.2 (paper)",),
        ),
    ],
)


# Leads that are not there ---------------------------------------------------------------------------------------------

LEAD_DROPPING = Experiment(
    question="What do leads hidden in training cost where all are there, and what do they bring where one or two are?",
    finding="Oh et al. (arXiv 2203.06889) hide random leads in pretraining and find their model robust to any set of "
    "leads. ECG-JEPA hides none, and reports AUC 0.849 on PTB-XL with lead II alone, 0.879 with II and V1.",
    views={"all leads": None, "II and V1": ("II", "V1"), "II": ("II",)},
    variants=[
        Variant(RANDOM_WEIGHTS, trained=False),
        Variant("none dropped", against=(RANDOM_WEIGHTS,)),
        Variant("0.25 dropped", {"lead_dropping": 0.25}, against=("none dropped",)),
        Variant("0.5 dropped", {"lead_dropping": 0.5}, against=("none dropped",)),
    ],
)


# Seeds and records ----------------------------------------------------------------------------------------------------

SEEDS = Experiment(
    question="How far apart are runs that differ in nothing but the seed of weights, masks and order?",
    finding="Such spread can be as large as the gains that are published (Bouthillier et al., arXiv 2103.03098).",
    seeds=tuple(range(8)),
    variants=[Variant(RANDOM_WEIGHTS, trained=False), Variant("pretrained", against=(RANDOM_WEIGHTS,))],
)

SCALE = Experiment(
    question="Do more records teach more in the same number of steps?",
    finding="ECG-JEPA is trained on about 180,000 records; what fewer or more would give is not published.",
    variants=[
        Variant(RANDOM_WEIGHTS, trained=False),
        Variant("1/64 of the records", share=1 / 64, against=(RANDOM_WEIGHTS,)),
        Variant("1/8 of the records", share=1 / 8, against=("1/64 of the records",)),
        Variant("all records", against=("1/8 of the records", "1/64 of the records")),
    ],
)


# The objective --------------------------------------------------------------------------------------------------------


class RawReconstruction(EcgJepaForPreTraining):
    """The same student and predictor, which predicts the samples of hidden patches instead of the teacher's view."""

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        self.predictor.projection = nn.Linear(config.predictor_hidden_size, config.patch_size)
        self._init_weights(self.predictor.projection)

    def forward(
        self,
        input_values: Tensor,
        time_mask: Tensor | Sequence[Tensor],
        attention_mask: Tensor | None = None,
        lead_mask: Tensor | None = None,
        num_hidden: Sequence[Tensor] | None = None,
    ) -> EcgJepaForPreTrainingOutput:
        """As in `EcgJepaForPreTraining`; the loss is the mean squared error in mV^2."""
        given = {"attention_mask": attention_mask, "lead_mask": lead_mask}
        masks = [time_mask] if isinstance(time_mask, Tensor) else [torch.as_tensor(mask) for mask in time_mask]
        counts = num_hidden or [None] * len(masks)
        outputs = [
            self.reconstruct(input_values, mask, count, **given) for mask, count in zip(masks, counts, strict=True)
        ]
        if isinstance(time_mask, Tensor):
            return outputs[0]
        return EcgJepaForPreTrainingOutput(loss=torch.stack([output.loss for output in outputs]).mean())

    def reconstruct(
        self,
        input_values: Tensor,
        time_mask: Tensor,
        num_hidden: Tensor | None,
        attention_mask: Tensor | None,
        lead_mask: Tensor | None,
    ) -> EcgJepaForPreTrainingOutput:
        """With one mask: samples (batch, leads, hidden times, patch_size) in mV, predicted and as they are."""
        patches = input_values.unflatten(2, (-1, self.config.patch_size))
        batch, num_leads, num_times, _ = patches.shape
        visible, hidden = split_times(time_mask, batch, num_times, input_values.device)
        encoded = self.encoder(
            input_values, visible_times=visible, attention_mask=attention_mask, lead_mask=lead_mask
        ).last_hidden_state
        valid = valid_patches(attention_mask, lead_mask, batch, num_leads, num_times)
        predictions = self.predictor(encoded.unflatten(1, (num_leads, -1)), visible, hidden, valid)
        targets = select_times(patches, hidden)
        errors = (predictions.float() - targets).square().mean(-1)
        weights = torch.ones_like(errors) if valid is None else select_times(valid, hidden)
        loss = (errors * weights).sum() / (weights.sum() if num_hidden is None else num_hidden)
        return EcgJepaForPreTrainingOutput(loss=loss, predictions=predictions, targets=targets, time_mask=time_mask)


def model_of_raw_reconstruction(config: EcgJepaConfig, seed: int) -> EcgJepaForPreTraining:
    """Student and predictor with the weights that `initial_model` gives them, but for the last layer."""
    set_seed(seed)
    return RawReconstruction(config)


def at_ratio(snr_db: float) -> list[Variant]:
    """Latent prediction and raw reconstruction of records with so much noise, and random weights."""
    corpus, random = {"snr_db": snr_db}, f"{snr_db:g} dB, {RANDOM_WEIGHTS}"
    latent, raw = f"{snr_db:g} dB, latent", f"{snr_db:g} dB, raw"
    return [
        Variant(random, corpus=corpus, trained=False),
        Variant(raw, corpus=corpus, make_model=model_of_raw_reconstruction, against=(random,)),
        Variant(latent, corpus=corpus, against=(random, raw)),
    ]


OBJECTIVE = Experiment(
    question="Is it better to predict the teacher's view of what is hidden than its samples, the more so the noisier "
    "the ECGs?",
    finding="ECG-JEPA argues that latent prediction leaves out the noise. For linear models Van Assel et al. (arXiv "
    "2505.12477) prove that it is preferable where irrelevant features are large, and reconstruction where they are "
    "small.",
    variants=[*at_ratio(20), *at_ratio(5), *at_ratio(-10)],
)


EXPERIMENTS = {
    "num_masks": NUM_MASKS,
    "attention": ATTENTION,
    "levers": LEVERS,
    "masking": MASKING,
    "lead_dropping": LEAD_DROPPING,
    "seeds": SEEDS,
    "scale": SCALE,
    "objective": OBJECTIVE,
}
