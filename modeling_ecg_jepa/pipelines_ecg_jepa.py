"""Pipelines: from a record, as a file, an array or a row of a dataset, to labels, a vector or measurements.

`pipeline("ecg-classification", model=...)`, `"ecg-embedding"` and `"ecg-measurement"` take the same inputs and options,
those of `EcgPipeline`. Research use: what they put out is no diagnosis.
"""

import abc
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.pipelines.base import ChunkPipeline

from .collator_ecg_jepa import EcgJepaDataCollator, signal_of_row
from .errors_ecg_jepa import EcgJepaCheckpointError, EcgJepaConfigError, EcgJepaError, EcgJepaInputError
from .feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from .input_ecg_jepa import EcgInput, read_inputs

#: What an input may be; errors show it.
ACCEPTED_INPUTS = (
    'a path to a record; {"array": (leads, samples), "sampling_rate": 500, "leads": ["I", "II", ...], "unit": "mV"}; '
    "or a row of a dataset with signal, signal_scale, lead_names and sampling_rate"
)

#: The probability from which on a label holds where the checkpoint has no thresholds.
DEFAULT_THRESHOLD = 0.5

# Of each option, the step that it belongs to: preparing windows, computing, or putting results together.
_STEPS = {"window_seconds": 0, "stride_seconds": 0, "return_attention": 1, "aggregation": 2, "on_error": 2}

# What `transformers.pipeline` reads for itself and hands on.
_TRANSFORMERS_OPTIONS = {"local_files_only"}


@dataclasses.dataclass
class EcgWindow:
    """A piece of a record on its way through the pipeline.

    Args:
        record (`int`): the place of its record among the inputs.
        start_s, end_s (`float`): where it lies in the record, in seconds.
        inputs (`dict`): what the extractor makes of it, without the batch dimension; dropped once computed.
        values (`np.ndarray`): (n,) what the model says: probabilities, channels or measurements.
        attention (`np.ndarray`, *optional*): (layers, heads, leads, patches), see `received_attention`.
        error (`Exception`, *optional*): why it, or its whole record, cannot be used.
    """

    record: int
    start_s: float = 0.0
    end_s: float = 0.0
    inputs: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    values: np.ndarray | None = None
    attention: np.ndarray | None = None
    error: Exception | None = None


class EcgPipeline(ChunkPipeline):
    """
    What the three pipelines share. Call one with a record, a list of records, or any iterable, of which it then
    computes one after the other as they are asked for. A record is

    - a path to a WFDB record (reading files needs the package ecg-jepa installed; all else works without);
    - a dictionary with `array` (leads, samples), `sampling_rate`, `leads` (names; the standard twelve may come without)
      and `unit` (mV if not given);
    - a row of a dataset as the corpora have it: `signal` (int16, flat), `signal_scale`, `lead_names`, `sampling_rate`.

    Options, for all calls where they are given to `pipeline(...)`, or for one call:

    - `window_seconds`, `stride_seconds`: look at every such window of a record. Without them at what the checkpoint's
      extractor takes of it, which is the first 10 s unless the checkpoint says otherwise.
    - `aggregation`: how a record's result is made of its windows': `"mean"` (the default) or `"max"`, and for labels
      `"any"`: the highest score, and a label holds that holds in any window.
    - `return_attention`: with each window `attention`, see `received_attention`. Slower: it needs the dense weights.
    - `on_error`: `"raise"` (the default), or `"skip"`: the result of a record that cannot be used is
      `{"error": the exception}`, and the others go on.
    - `batch_size`: windows a forward pass, across records. `num_workers` is not used.

    A record's result is a dictionary: what its class says, and `windows`, a list with the same of every window and its
    `start_s` and `end_s`. A window that cannot be used (its electrodes off, say) has an `error` there and does not
    count.

    Raises:
        EcgJepaInputError: an input that is no such record, or does not fit the input contract.
        EcgJepaRecordError: a path where no readable record is.
        EcgJepaCheckpointError: a model without the head that the task needs.
        EcgJepaConfigError: an unknown option or value.
    """

    # What `transformers.pipeline` fetches beside the model; its base class knows None alone.
    _load_feature_extractor: Any = True
    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_processor: Any = False
    feature_extractor: Any

    #: The model's attribute that the task needs, and what to say where there is none.
    head: ClassVar[str | None] = None
    remedy: ClassVar[str] = ""
    aggregations: ClassVar[tuple[str, ...]] = ("mean", "max")

    def __init__(self, model: PreTrainedModel, feature_extractor: EcgJepaFeatureExtractor | None = None, **kwargs):
        if feature_extractor is None:
            raise EcgJepaConfigError("feature_extractor=None: pass the extractor that was saved beside the model.")
        self._check_head(model)
        _check_fit(model, feature_extractor)
        super().__init__(model=model, feature_extractor=cast(Any, feature_extractor), **kwargs)
        self.model.eval()

    def _check_head(self, model: PreTrainedModel) -> None:
        """Refuse another class, and a head that transformers put on a checkpoint without one."""
        if self.head is None:
            return
        made_of = model.config.architectures or [type(model).__name__]
        head = getattr(model, self.head, None)
        # The biases of a head are zero until it is trained; a saved head is in the architectures.
        untrained = head is not None and type(model).__name__ not in made_of and not head.bias.any()
        if head is None or untrained:
            place = model.config.name_or_path or "The model"
            raise EcgJepaCheckpointError(f"{place} is made of {', '.join(made_of)}: {self.remedy}")

    def _sanitize_parameters(self, **options) -> tuple[dict, dict, dict]:
        steps: tuple[dict, dict, dict] = ({}, {}, {})
        for name, value in options.items():
            if name in _STEPS:
                steps[_STEPS[name]][name] = value
            elif name not in _TRANSFORMERS_OPTIONS:
                raise EcgJepaConfigError(f"The pipeline has no option {name!r}; it has {', '.join(_STEPS)}.")
        for name, choices in (("aggregation", self.aggregations), ("on_error", ("raise", "skip"))):
            if name in options and options[name] not in choices:
                raise EcgJepaConfigError(
                    f"{name}={options[name]!r} must be one of {', '.join(map(repr, choices))} here."
                )
        return steps

    def __call__(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """One result for one record, a list for a list, an iterator for any other iterable. Options: see the class."""
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        if isinstance(inputs, Iterable) and not isinstance(inputs, (list, str, Mapping, np.ndarray, Tensor)):
            inputs = (one for one in inputs)  # transformers streams generators and takes a Dataset for a single input
        return super().__call__(inputs, *args, **options)

    # Records, windows, batches of windows, records ------------------------------------------------------------------

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[dict[str, Any]]:
        """The results, one record after the other. Ours, since transformers' cannot pad or mask records."""
        extractor = self._cutting_extractor(**preprocess_params)
        windows = (
            window
            for place, one in enumerate(inputs)
            for window in self.preprocess(one, place=place, extractor=extractor)
        )
        computed = (
            window for batch in _batches(windows, batch_size) for window in self._compute(batch, forward_params)
        )
        for _, record in itertools.groupby(computed, key=lambda window: window.record):
            yield self.postprocess(list(record), **postprocess_params)

    def _cutting_extractor(
        self, window_seconds: float | None = None, stride_seconds: float | None = None
    ) -> EcgJepaFeatureExtractor:
        extractor = self.feature_extractor
        cut: dict[str, Any] = (
            {} if extractor.truncation != "random" else {"truncation": "start"}
        )  # the same result for the same record
        if window_seconds is not None or stride_seconds is not None:
            cut |= {"window_seconds": window_seconds, "stride_seconds": stride_seconds}
        return cast(EcgJepaFeatureExtractor, type(extractor).from_dict(extractor.to_dict() | cut))

    # The three steps under the names and signatures that transformers gives them.

    def preprocess(self, input_: Any, **parameters: Any) -> Any:
        return self._windows_of(input_, **parameters)

    def _forward(self, input_tensors: Any, **parameters: Any) -> Any:
        return self._look_at(input_tensors, **parameters)

    def postprocess(self, model_outputs: Any, **parameters: Any) -> Any:
        return self._result_of(model_outputs, **parameters)

    def _windows_of(self, input_: Any, place: int, extractor: EcgJepaFeatureExtractor) -> Iterator[EcgWindow]:
        """The windows of an input, one by one: a recording of a day is never in memory twice."""
        try:
            record = _read_input(input_, extractor)
            spans = extractor.spans(record.signal.shape[1], record.sampling_rate)
        except (EcgJepaError, OSError) as error:
            yield EcgWindow(place, error=_with_name(error, input_, place))
            return
        for start, length in spans:
            end = start + length
            window = EcgWindow(place, start / record.sampling_rate, end / record.sampling_rate)
            try:
                features = extractor(record.signal[:, start:end], record.sampling_rate, record.leads, record.unit)
                window.inputs = {name: features[name][0] for name in extractor.model_input_names}
            except EcgJepaInputError as error:
                window.error = _with_name(error, input_, place)
            yield window

    def _compute(self, batch: Sequence[EcgWindow], forward_params: Mapping[str, Any]) -> Sequence[EcgWindow]:
        """The windows of a batch with their values."""
        usable = [window for window in batch if window.error is None]
        if not usable:
            return batch
        inputs = EcgJepaDataCollator(self.feature_extractor)([window.inputs for window in usable])
        outputs = {name: tensor.numpy() for name, tensor in self.forward(inputs, **forward_params).items()}
        for row, window in enumerate(usable):
            window.values, window.inputs = outputs["values"][row], {}
            window.attention = outputs["attention"][row] if "attention" in outputs else None
        return batch

    def _look_at(self, inputs: dict[str, Tensor], return_attention: bool = False) -> dict[str, Tensor]:
        if not return_attention:
            return {"values": self._values(self._network(**inputs))}
        with _eager_attention(self.model):
            outputs = self._network(**inputs, output_attentions=True)
        attention = received_attention(outputs.attentions, inputs["lead_mask"], inputs["attention_mask"])
        return {"values": self._values(outputs), "attention": attention}

    def _result_of(
        self, windows: Sequence[EcgWindow], aggregation: str = "mean", on_error: str = "raise"
    ) -> dict[str, Any]:
        """The result of a record with these windows."""
        values = [window.values for window in windows if window.values is not None]
        if not values:
            error = windows[0].error
            assert error is not None  # what has no values says why
            if on_error == "raise":
                raise error
            return {"error": error}
        return self._result(np.stack(values), aggregation) | {"windows": [self._of_window(each) for each in windows]}

    def _of_window(self, window: EcgWindow) -> dict[str, Any]:
        place = {"start_s": window.start_s, "end_s": window.end_s}
        if window.values is None:
            return place | {"error": str(window.error)}
        attention = {} if window.attention is None else {"attention": window.attention}
        return place | self._result(window.values[None], "mean") | attention

    # What a task says of it -----------------------------------------------------------------------------------------

    @property
    def _network(self) -> torch.nn.Module:
        return self.model

    @abc.abstractmethod
    def _values(self, outputs: Any) -> Tensor:
        """(windows, n) float32 of what the model returned."""

    @abc.abstractmethod
    def _result(self, values: np.ndarray, aggregation: str) -> dict[str, Any]:
        """What is said of (windows, n) values of one record."""


class EcgClassificationPipeline(EcgPipeline):
    """
    `labels`: a dictionary a label, the most likely first: `label`, `score` (its probability), `holds`, and with several
    labels at once `threshold`, from which on it holds: the checkpoint's, chosen on validation records, or 0.5.
    """

    head = "classifier"
    remedy = (
        "it has no trained classifier. Fine-tune it on labels first; for vectors use ecg-embedding, for the "
        "measurements of a regression checkpoint ecg-measurement."
    )
    aggregations = ("mean", "max", "any")

    @property
    def _is_single_label(self) -> bool:
        return self.model.config.problem_type == "single_label_classification"

    @property
    def thresholds(self) -> list[float]:
        """The probability of each label from which on it holds."""
        config: Any = self.model.config
        return config.thresholds or [DEFAULT_THRESHOLD] * config.num_labels

    def _values(self, outputs: Any) -> Tensor:
        logits = outputs.logits.float()
        return logits.softmax(-1) if self._is_single_label else logits.sigmoid()

    def _result(self, values: np.ndarray, aggregation: str) -> dict[str, Any]:
        scores = _aggregate(values, aggregation)
        holds = self._holds(values if aggregation == "any" else scores[None])
        names = cast(dict[int, str], self.model.config.id2label)
        labels = []
        for place in np.argsort(-scores, kind="stable").tolist():
            label = {"label": names[place], "score": float(scores[place]), "holds": bool(holds[:, place].any())}
            labels.append(label if self._is_single_label else label | {"threshold": self.thresholds[place]})
        return {"labels": labels}

    def _holds(self, scores: np.ndarray) -> np.ndarray:
        """(rows, labels) bool: at or above the threshold; of labels that exclude each other the most likely."""
        if self._is_single_label:
            return np.arange(scores.shape[1]) == scores.argmax(1)[:, None]
        return scores >= np.array(self.thresholds)


class EcgEmbeddingPipeline(EcgPipeline):
    """`embedding`: (hidden_size,) float32, what the encoder of any checkpoint makes of the record."""

    @property
    def _network(self) -> torch.nn.Module:
        return self.model.base_model

    def _values(self, outputs: Any) -> Tensor:
        return outputs.pooler_output.float()

    def _result(self, values: np.ndarray, aggregation: str) -> dict[str, Any]:
        return {"embedding": _aggregate(values, aggregation)}


class EcgMeasurementPipeline(EcgPipeline):
    """`measurements`: a dictionary a target of an `EcgJepaForRegression`: `name`, `value`, `unit`."""

    head = "regressor"
    remedy = (
        "it measures nothing. Use an EcgJepaForRegression here, and for others ecg-classification or ecg-embedding."
    )

    def _values(self, outputs: Any) -> Tensor:
        return outputs.logits.float()

    def _result(self, values: np.ndarray, aggregation: str) -> dict[str, Any]:
        measured = zip(self.model.config.regression_targets, _aggregate(values, aggregation).tolist(), strict=True)
        return {
            "measurements": [
                {"name": target["name"], "value": value, "unit": target["unit"]} for target, value in measured
            ]
        }


#: Task -> its pipeline and the Auto class that loads its model.
PIPELINES = {
    "ecg-classification": (EcgClassificationPipeline, AutoModelForSequenceClassification),
    "ecg-embedding": (EcgEmbeddingPipeline, AutoModel),
    "ecg-measurement": (EcgMeasurementPipeline, AutoModelForSequenceClassification),
}


def received_attention(attentions: Sequence[Tensor], lead_mask: Tensor, attention_mask: Tensor) -> Tensor:
    """Where cross-pattern attention looks: the share of all attention that each patch of the grid receives.

    Args:
        attentions: of every layer the weights (B, heads, L * T, L * T), as `attn_implementation="eager"` gives them.
        lead_mask, attention_mask: (B, L) and (B, T) bool; what is missing asks for nothing and receives nothing.

    Returns:
        (B, layers, heads, L, T) float32, with a sum of 1 over the grid.
    """
    valid = lead_mask[:, :, None] & attention_mask[:, None, :]
    asking = valid.flatten(1).float()
    asking = asking / asking.sum(1, keepdim=True)
    maps = [torch.einsum("bhqk,bq->bhk", weights.float(), asking) for weights in attentions]
    return torch.stack(maps, dim=1).unflatten(-1, valid.shape[1:])


def _aggregate(values: np.ndarray, aggregation: str) -> np.ndarray:
    """(windows, n) -> (n,)."""
    return values.mean(0) if aggregation == "mean" else values.max(0)


def _batches(windows: Iterable[EcgWindow], size: int) -> Iterator[list[EcgWindow]]:
    windows = iter(windows)
    return iter(lambda: list(itertools.islice(windows, size)), [])


@contextmanager
def _eager_attention(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _check_fit(model: PreTrainedModel, extractor: EcgJepaFeatureExtractor) -> None:
    for name in ("leads", "sampling_rate", "patch_size"):
        takes, makes = getattr(model.config, name), getattr(extractor, name)
        if takes != makes:
            raise EcgJepaConfigError(
                f"The extractor has {name}={makes!r}, the model {takes!r}: use the one that was saved beside the model."
            )


# Inputs ---------------------------------------------------------------------------------------------------------------


def _read_input(input_: Any, extractor: EcgJepaFeatureExtractor) -> EcgInput:
    """The record that an input stands for."""
    if isinstance(input_, (str, os.PathLike)):
        input_ = _read_file(input_)
    if not isinstance(input_, Mapping):
        raise EcgJepaInputError(f"{type(input_).__name__} is no record. An input is {ACCEPTED_INPUTS}.")
    if "array" in input_:
        names = ("array", "sampling_rate", "leads", "unit")
        array, rate, leads, unit = (input_.get(name) for name in names)
        unknown = sorted(str(name) for name in input_ if name not in names)
        if unknown:
            raise EcgJepaInputError(
                f"{', '.join(unknown)}: an input with an array has no such key. It is {ACCEPTED_INPUTS}."
            )
    elif "signal" in input_:
        array, rate, unit = signal_of_row(input_), input_["sampling_rate"], "mV"
        leads = list(input_["lead_names"])
    else:
        raise EcgJepaInputError(
            f"A dictionary with {', '.join(map(str, input_))} has neither array nor signal. An input is "
            f"{ACCEPTED_INPUTS}."
        )
    unit = extractor.unit if unit is None else unit
    records = read_inputs(array, rate, leads, unit, extractor.leads, extractor.modality)
    if len(records) != 1:
        raise EcgJepaInputError(f"{len(records)} records in one input; pass a list with an input for each.")
    return dataclasses.replace(records[0], where="")


def _read_file(path: str | os.PathLike) -> dict[str, Any]:
    try:
        from dataset_scripts.records import read_record
    except ImportError as error:
        raise EcgJepaInputError(
            f"Reading a file needs the package ecg-jepa with its readers (pip install ecg-jepa), and {error.name} is "
            f"not installed here. Read it yourself, and pass {ACCEPTED_INPUTS.partition('; ')[2]}."
        ) from error
    record = read_record(path)
    return {"array": record.signal, "sampling_rate": record.sampling_rate, "leads": record.lead_names, "unit": "mV"}


def _with_name(error: Exception, input_: Any, place: int) -> Exception:
    """The error, saying of which input; a reader's own says it already."""
    if not isinstance(error, EcgJepaInputError):
        return error
    name = f"Input {place}"
    if isinstance(input_, (str, os.PathLike)):
        name = os.fspath(input_)
    elif isinstance(input_, Mapping) and input_.get("record_id") is not None:
        name = f"Record {input_['record_id']}"
    named = EcgJepaInputError(f"{name}: {error}")
    named.__cause__ = error
    return named


__all__ = [
    "PIPELINES",
    "EcgClassificationPipeline",
    "EcgEmbeddingPipeline",
    "EcgMeasurementPipeline",
    "EcgPipeline",
    "received_attention",
]
