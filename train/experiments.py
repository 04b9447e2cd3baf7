"""The experiments of `python -m train.ablate`, as data: what each asks, what the field found, and its variants."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaForPreTraining

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
    variants=[
        Variant(RANDOM_WEIGHTS, trained=False),
        Variant("1 mask", {"num_masks": 1}, against=(RANDOM_WEIGHTS,)),
        Variant("2 masks", {"num_masks": 2}, against=("1 mask",)),
        Variant("4 masks", {"num_masks": 4}, against=("1 mask",)),
    ],
)

EXPERIMENTS = {"num_masks": NUM_MASKS}
