"""What is trained in fine-tuning, and how: head, adapters, optimizer, and a Trainer that stops at a loss that is not
finite."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments, set_seed

from modeling_ecg_jepa import (
    EcgJepaConfig,
    EcgJepaConfigError,
    EcgJepaError,
    EcgJepaForMultiLabelClassification,
    EcgJepaForRegression,
)
from modeling_ecg_jepa.tools.checkpoint import CONFIG, read_json

from .data import as_it_is
from .finetune_data import TRAIN, FinetuneDataset, FinetuneRecords, class_weights
from .finetune_options import PROBLEMS, FinetuneOptions
from .metrics import measures_of_values, summarise
from .probe_methods import Encoder
from .schedules import parameter_groups

#: AdamW's, and the records a step that `base_learning_rate` is for, of the authors' recipe.
BETAS, BASE_BATCH = (0.9, 0.95), 256

METRIC = Path(__file__).parent / "evaluate_ecg"

Classifier = EcgJepaForMultiLabelClassification | EcgJepaForRegression

#: The layers that low-rank adapters are put beside: every linear layer of the encoder's blocks.
_ADAPTED = r".*layers\.\d+\.(attention\.(qkv|proj)|mlp\.(fc1|fc2))"

#: So many records are named in a message.
_MOST_NAMED = 8


# The model ------------------------------------------------------------------------------------------------------------


def build_model(options: FinetuneOptions, encoder: Encoder, records: FinetuneRecords) -> Classifier:
    """The pretrained encoder under a head for the targets: a new one, or the checkpoint's if it is for the same names.

    Raises:
        EcgJepaConfigError: the checkpoint has a head for other names, or peft is not installed.
    """
    kind = EcgJepaForRegression if options.problem == "regression" else EcgJepaForMultiLabelClassification
    kept = keeps_head(options, encoder, records, kind)
    config = head_config(options, encoder, records, kept)
    set_seed(options.seed)
    model = kind(config)
    model.encoder.load_state_dict(encoder.model.state_dict(), strict=False)  # a new pooling stays as it was drawn
    if kept:
        head = kind.from_pretrained(encoder.folder)
        name = _head_name(model)
        getattr(model, name).load_state_dict(getattr(head, name).state_dict())
    if options.freeze_encoder:
        model.encoder.requires_grad_(False)
        if model.encoder.pooler is not None:
            model.encoder.pooler.requires_grad_(True)
    return with_adapters(model, options.lora) if options.lora else model


def _head_name(model: nn.Module) -> str:
    return "regressor" if isinstance(model, EcgJepaForRegression) else "classifier"


def keeps_head(options: FinetuneOptions, encoder: Encoder, records: FinetuneRecords, kind: type) -> bool:
    """Whether the checkpoint has a head for these names; one without any head has not.

    Raises:
        EcgJepaConfigError: it has one for other names, or another order of them, and no new one is asked for.
    """
    architectures = read_json(encoder.folder / CONFIG).get("architectures") or []
    heads = {EcgJepaForMultiLabelClassification.__name__, EcgJepaForRegression.__name__}
    if options.new_head or not heads & set(architectures):
        return False
    theirs, ours = list(encoder.model.config.id2label.values()), records.targets.names
    if theirs == ours and kind.__name__ in architectures:
        return True
    only = [
        f"only the {whose} has {', '.join(names[:_MOST_NAMED])} ({len(names)} such)"
        for whose, names in (
            ("checkpoint", [name for name in theirs if name not in ours]),
            ("corpus", [name for name in ours if name not in theirs]),
        )
        if names
    ]
    raise EcgJepaConfigError(
        f"{encoder.name} has a head for {len(theirs)} labels, {records.windows.corpus} has {len(ours)}: "
        f"{'; '.join(only) or 'they differ in order or kind'}. Pass --new_head to start with a new head, or use "
        "the labels of the checkpoint."
    )


def head_config(
    options: FinetuneOptions, encoder: Encoder, records: FinetuneRecords, kept: bool = False
) -> EcgJepaConfig:
    """The checkpoint's configuration with the names of what is predicted, and what the options change."""
    targets = records.targets
    names = dict(enumerate(targets.names))
    changes: dict[str, Any] = {"id2label": names, "label2id": {name: place for place, name in names.items()}}
    changes |= {"problem_type": PROBLEMS[options.problem], "pos_weight": None, "thresholds": None}
    if options.problem == "regression":
        changes["regression_targets"] = encoder.model.config.regression_targets if kept else _scales(records)
    elif options.class_weights and options.problem == "multi_label":
        changes["pos_weight"] = class_weights(records).tolist()
    if options.pooling is not None:
        changes["pooling"] = options.pooling
    if options.drop_path_rate is not None:
        changes["drop_path_rate"] = options.drop_path_rate
    if options.freeze_encoder:
        changes["drop_path_rate"] = 0.0  # what is not trained is not made to vary
    return EcgJepaConfig.from_pretrained(encoder.folder, **changes)


def _scales(records: FinetuneRecords) -> list[dict[str, Any]]:
    """Mean and standard deviation of each measurement in the training part."""
    values = records.values_of(TRAIN).astype(np.float64)
    means, scales = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    return [
        {"name": name, "unit": unit, "mean": float(mean), "scale": float(scale) if scale > 0 else 1.0}
        for name, unit, mean, scale in zip(records.targets.names, records.targets.units, means, scales, strict=True)
    ]


def with_adapters(model: Classifier, rank: int) -> nn.Module:
    """The model with low-rank adapters (Hu et al., arXiv 2106.09685) to train in place of the encoder's blocks; head
    and learned pooling are trained whole.

    Raises:
        EcgJepaConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise EcgJepaConfigError('lora needs peft, which is not installed: pip install "ecg-jepa[lora]".') from error
    whole = [_head_name(model), *(["pooler"] if model.encoder.pooler is not None else [])]
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_ADAPTED, modules_to_save=whole)
    )


# The optimizer --------------------------------------------------------------------------------------------------------


def layer_groups(model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float) -> list[dict]:
    """Groups for the optimizer: in the head, the pooling and the last norm the learning rate, in each layer below
    `layer_decay` times that of the layer above, in the patch embedding once more; weight decay as in pretraining.

    Parameters without gradient are in no group.
    """
    depth_of = {parameter: _depth(name) for name, parameter in model.named_parameters()}
    top = 1 + max((depth for depth in depth_of.values() if depth is not None), default=0)
    groups: dict[tuple[int, float], list[nn.Parameter]] = {}
    for group in parameter_groups(model, weight_decay):
        for parameter in group["params"]:
            depth = depth_of[parameter]
            groups.setdefault((top if depth is None else depth, group["weight_decay"]), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr": learning_rate * layer_decay ** (top - depth)}
        for (depth, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _depth(name: str) -> int | None:
    """0 for the patch embedding, 1 for the first layer, ...; None for what stands above the layers."""
    if "patch_embedding." in name:
        return 0
    found = re.search(r"\blayers\.(\d+)\.", name)
    return int(found[1]) + 1 if found else None


# The Trainer ----------------------------------------------------------------------------------------------------------


class EcgTrainer(Trainer):
    """The Trainer with layer-wise learning rates, chosen leads, weights of single labels, and an eye on the loss.

    Args:
        options: of the run.
        records: by the places in a batch's `record`.
        weights: (classes,) of a single label; None for all alike.
    """

    def __init__(self, *args, options: FinetuneOptions, records: FinetuneRecords, weights: Tensor | None, **kwargs):
        super().__init__(*args, **kwargs)
        self.options, self.records, self.weights = options, records, weights

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """AdamW with the groups of `layer_groups`."""
        if self.optimizer is None:
            groups = layer_groups(
                self.model if model is None else model,
                self.args.learning_rate,
                self.options.weight_decay,
                self.options.layer_decay,
            )
            self.optimizer = AdamW(groups, lr=self.args.learning_rate, betas=BETAS)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        Raises:
            EcgJepaError: the loss of a training batch is not finite; with its step and records.
        """
        places = inputs.pop("record")
        outputs = model(**inputs, leads=self.options.lead_names())
        loss = outputs.loss
        if self.weights is not None:
            loss = F.cross_entropy(outputs.logits.float(), inputs["labels"], self.weights.to(outputs.logits.device))
        if model.training and not bool(loss.isfinite()):
            raise EcgJepaError(self._blame(float(loss), places.tolist()))
        return (loss, outputs) if return_outputs else loss

    def _blame(self, loss: float, places: Sequence[int]) -> str:
        named = ", ".join(self.records.ids[place] for place in places[:_MOST_NAMED])
        more = f" and {len(places) - _MOST_NAMED} more" if len(places) > _MOST_NAMED else ""
        return (
            f"The loss is {loss} at step {self.state.global_step + 1}, of the records {named}{more}. Their signals "
            "were checked, so training diverges: start another run with a lower --base_learning_rate or a longer "
            "--warmup_epochs; with --mixed_precision fp16 use bf16 or no. Or the checkpoint's weights are damaged: "
            "ecg-jepa verify tells."
        )


def training_arguments(options: FinetuneOptions) -> TrainingArguments:
    """The recipe in transformers' words.

    Raises:
        EcgJepaConfigError: fp16 without a GPU.
    """
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and options.mixed_precision == "fp16":
        raise EcgJepaConfigError("mixed_precision='fp16' on a CPU is 30 times slower than float32. Use bf16 or no.")
    regression = options.problem == "regression"
    arguments = TrainingArguments(
        output_dir=options.output_dir,
        seed=options.seed,
        data_seed=options.seed,
        num_train_epochs=options.num_train_epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        warmup_steps=options.warmup_epochs / options.num_train_epochs,
        lr_scheduler_type="cosine",
        max_grad_norm=0.0,
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=options.early_stopping_patience > 0,
        metric_for_best_model="macro_mean_absolute_error" if regression else "macro_auroc",
        greater_is_better=not regression,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        bf16=options.mixed_precision == "bf16",
        fp16=options.mixed_precision == "fp16",
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and int(os.environ.get("WORLD_SIZE", 1)) > 1 else None,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=options.num_workers,
        dataloader_pin_memory=not on_cpu,
    )
    step = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    return dataclasses.replace(arguments, learning_rate=options.base_learning_rate * step / BASE_BATCH)


def make_trainer(
    options: FinetuneOptions,
    arguments: TrainingArguments,
    model: nn.Module,
    records: FinetuneRecords,
    train: FinetuneDataset,
    validation: FinetuneDataset,
) -> EcgTrainer:
    """Ready to train; evaluated on validation after every epoch."""
    weighted = options.class_weights and options.problem == "single_label"
    patience = options.early_stopping_patience
    return EcgTrainer(
        model,
        arguments,
        options=options,
        records=records,
        weights=torch.tensor(class_weights(records), dtype=torch.float32) if weighted else None,
        data_collator=as_it_is,
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=metrics_of(options.problem),
        callbacks=[EarlyStoppingCallback(patience)] if patience else None,
    )


# Predictions ----------------------------------------------------------------------------------------------------------


def metrics_of(problem: str) -> Callable[[EvalPrediction], dict[str, float]]:
    """The Trainer's `compute_metrics`: for classes through `evaluate`, of the file beside this one, without network."""
    if problem == "regression":
        return lambda given: summarise(measures_of_values(given.label_ids, given.predictions))
    metric = evaluate.load(str(METRIC))

    def compute(given: EvalPrediction) -> dict[str, float]:
        labels = as_labels(given.label_ids, given.predictions.shape[1])
        scores = probabilities(given.predictions, problem)
        return metric.compute(predictions=scores, references=labels, one_label=problem == "single_label")

    return compute


def as_labels(given: np.ndarray, classes: int) -> np.ndarray:
    """(records, classes) integers of 0 and 1, of such or of class indices."""
    return (given[:, None] == np.arange(classes) if given.ndim == 1 else given > 0).astype(np.int8)


def probabilities(logits: np.ndarray, problem: str) -> np.ndarray:
    """(records, classes) float64."""
    logits = logits.astype(np.float64)
    return softmax(logits, axis=1) if problem == "single_label" else expit(logits)


def fit_temperature(logits: np.ndarray, labels: np.ndarray, problem: str) -> float:
    """What logits are divided by so that the probabilities of these records have the highest likelihood (Guo et al.,
    arXiv 1706.04599); their order stays. Between 1/20 and 20.

    Args:
        logits: (records, classes).
        labels: (records, classes) of 0 and 1.
    """
    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        if problem == "single_label":
            return -(labels * log_softmax(scaled, axis=1)).sum(1).mean()
        return -np.where(labels > 0, log_expit(scaled), log_expit(-scaled)).mean()

    return math.exp(minimize_scalar(loss, bounds=(-math.log(20), math.log(20)), method="bounded").x)


@torch.no_grad()
def apply_temperature(model: Classifier, temperature: float) -> None:
    """Make a classifier's own logits the calibrated ones: its last layer is divided by the temperature."""
    for parameter in model.classifier.parameters():
        parameter.div_(temperature)
