"""The configuration of ECG-JEPA (arXiv 2410.08559): one flat set of numbers, validated when it is made."""

import dataclasses
import difflib
import functools
import math
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, logging

from .errors_ecg_jepa import EcgJepaConfigError, EcgJepaInputError
from .hub_ecg_jepa import auto_map, custom_pipelines, save_code
from .leads_ecg_jepa import ECG_JEPA_LEADS, Modality, canonical_leads

logger = logging.get_logger(__name__)

#: Sizes by name: `base` is the paper's model; `small` and `tiny` keep its shape for small data and CPUs.
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "predictor_hidden_size": 48,
        "predictor_num_hidden_layers": 2,
        "predictor_num_attention_heads": 2,
    },
    "small": {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "predictor_hidden_size": 192,
        "predictor_num_hidden_layers": 6,
        "predictor_num_attention_heads": 6,
    },
    "base": {},
}

# Keywords that are no fields but that transformers itself passes or stores (its __post_init__ and Auto classes).
_TRANSFORMERS_KEYWORDS = frozenset(
    "num_labels torch_dtype name_or_path output_attentions attn_implementation experts_implementation model_type "
    "auto_map custom_pipelines tie_last_hidden_states use_cache quantization_config _name_or_path _commit_hash "
    "_attn_implementation_internal _experts_implementation_internal _output_attentions".split()
)


# Whether this is the code of a checkpoint's folder, which transformers runs where it is trusted.
_IS_REMOTE_CODE = __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}.")


def _raise_as_config_error(method):
    """@strict reports with errors of its own; users catch ours (a ValueError), whatever found the fault."""

    @functools.wraps(method)
    def wrapped(*args, **kwargs):
        try:
            return method(*args, **kwargs)
        except StrictDataclassError as error:
            raise EcgJepaConfigError(str(error.__cause__ or error)) from error

    return wrapped


def _with_config_errors(cls):
    cls.__init__ = _raise_as_config_error(cls.__init__)
    cls.validate = _raise_as_config_error(cls.validate)
    return cls


@_with_config_errors
@strict
class EcgJepaConfig(PreTrainedConfig):
    r"""
    Configuration of the ECG-JEPA models. `EcgJepaConfig()` is the base model of arXiv 2410.08559.

    Args:
        hidden_size (`int`, defaults to 768): channels of a patch in the encoder; divides by 4 and by the heads.
        num_hidden_layers (`int`, defaults to 12): blocks of the encoder.
        num_attention_heads (`int`, defaults to 16): heads of the encoder's cross-pattern attention.
        predictor_hidden_size (`int`, defaults to 384): channels of a patch in the predictor.
        predictor_num_hidden_layers (`int`, defaults to 6): blocks of the predictor.
        predictor_num_attention_heads (`int`, defaults to 12): heads of the predictor.
        mlp_ratio (`int`, defaults to 4): hidden size of each MLP over the size of its block.
        hidden_act (`str`, defaults to `"gelu"`): activation of the MLPs (exact GELU).
        layer_norm_eps (`float`, defaults to 1e-5): epsilon of every layer norm, that of the targets included.
        drop_path_rate (`float`, defaults to 0.1): stochastic depth of the last block, rising linearly from 0.
        initializer_range (`float`, defaults to 0.02): standard deviation of the truncated normal initialisation.
        leads (`list[str]`, defaults to I, II, V1-V6): the leads of the grid, canonical names, in this order.
        modality (`str`, defaults to `"ecg"`): what the leads are. `"other"` is any other signal of several channels
            (EEG, EMG, ...): `leads` are then its channels, named as you like, and no rule of ECGs is applied to them.
        sampling_rate (`int`, defaults to 250): samples a second that the weights expect.
        patch_size (`int`, defaults to 50): samples of a patch (0.2 s).
        num_patches (`int`, defaults to 50): patches a lead of a full record (10 s); other lengths work as well.
        mask_type (`str`, defaults to `"multi_block"`): how pretraining hides times, `"multi_block"` or `"random"`.
        mask_ratio (`tuple[float, float]`, defaults to (0.6, 0.7)): range of the hidden share of random masks.
        mask_num_blocks (`int`, defaults to 4): blocks of a multi-block mask; they may overlap.
        mask_block_ratio (`tuple[float, float]`, defaults to (0.175, 0.225)): a block's length over the record's.
        mask_last_patch (`bool`, defaults to `True`): whether a block may reach the last patch. The authors' sampler
            never hides it; `False` draws as theirs.
        patch_initializer_range (`float`, defaults to 0.02): standard deviation of the patch embedding's weights at the
            start. A lever against the collapse onto positions on small data; the paper has 0.02.
        position_scale (`float`, defaults to 1.0): factor on the positions of encoder and predictor. A lever; paper: 1.
        target_centering (`bool`, defaults to `False`): subtract the running mean of the teacher's output at each
            (lead, time) from the targets. A lever; the paper has none.
        pooling (`str`, defaults to `"mean"`): how a record's embedding is made of its patches: `"mean"` as the paper or
            `"attention"` (one learned query).
        pos_weight (`list[float]`, *optional*): for multi-label classification, the weight of each label's positives.
        thresholds (`list[float]`, *optional*): for multi-label classification, the probability of each label from which
            on it is said to hold, as chosen on validation.
        regression_targets (`list[dict]`, *optional*): for `EcgJepaForRegression`, a dictionary a target: `name`,
            `unit`, and `mean` and `scale` of the physical values in training, so that predictions come out in the unit.

    Raises:
        EcgJepaConfigError: a value that describes no model, or a keyword that is no field.

    ```python
    >>> from modeling_ecg_jepa import EcgJepaConfig
    >>> EcgJepaConfig().hidden_size
    768
    >>> EcgJepaConfig.from_preset("tiny", leads=["I", "II"]).hidden_size
    96
    ```
    """

    model_type: ClassVar[str] = "ecg_jepa"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "last_hidden_state",
        "pooler_output",
        "hidden_states",
        "attentions",
    ]

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    predictor_hidden_size: int = 384
    predictor_num_hidden_layers: int = 6
    predictor_num_attention_heads: int = 12
    mlp_ratio: int = 4
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    drop_path_rate: float | int = 0.1
    initializer_range: float = 0.02

    leads: list[str] | tuple[str, ...] = ECG_JEPA_LEADS
    modality: Modality = "ecg"
    sampling_rate: int = 250
    patch_size: int = 50
    num_patches: int = 50

    mask_type: Literal["multi_block", "random"] = "multi_block"
    mask_ratio: list[float] | tuple[float, float] = (0.6, 0.7)
    mask_num_blocks: int = 4
    mask_block_ratio: list[float] | tuple[float, float] = (0.175, 0.225)
    mask_last_patch: bool = True

    patch_initializer_range: float | int = 0.02
    position_scale: float | int = 1.0
    target_centering: bool = False

    pooling: Literal["mean", "attention"] = "mean"
    pos_weight: list[float] | None = None
    thresholds: list[float] | None = None
    regression_targets: list[dict[str, Any]] | None = None

    def __post_init__(self, **kwargs):
        self._refuse_unknown(kwargs)
        self.leads = canonical_config_leads(self.leads, self.modality)
        self.mask_ratio = list(self.mask_ratio)
        self.mask_block_ratio = list(self.mask_block_ratio)
        if self.regression_targets is not None and self.id2label is None:
            self.id2label = {place: target.get("name", "") for place, target in enumerate(self.regression_targets)}
        if self.id2label is not None and self.label2id is None:
            self.label2id = {label: int(place) for place, label in self.id2label.items()}
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "EcgJepaConfig":
        """The configuration `tiny`, `small` or `base` (the paper's), with any field overridden.

        Raises:
            EcgJepaConfigError: no preset of that name.
        """
        if name not in PRESETS:
            raise EcgJepaConfigError(f"Unknown preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers; a keyword unknown to this version (a newer version's) is dropped with a warning, and with
        `id2label` goes its `label2id`."""
        unknown = sorted(set(config_dict) - cls._known_keywords())
        if unknown:
            logger.warning(
                f"config.json has fields that this version of ecg-jepa does not know and ignores: {', '.join(unknown)}."
                " They may come from a newer version; update the package to honour them."
            )
        if kwargs.get("id2label") is not None:  # else the old names would stay beside the new ones
            kwargs.setdefault("label2id", {label: int(place) for place, label in kwargs["id2label"].items()})
        known = {key: value for key, value in config_dict.items() if key not in unknown}
        if not _IS_REMOTE_CODE:  # transformers would take a folder's pipelines, which have to be trusted, before ours
            known.pop("custom_pipelines", None)
        return super().from_dict(known, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As in transformers, with the code and all that is found in it by name, so that the folder is self-contained.

        Raises:
            EcgJepaOutputError: the folder cannot be written to.
        """
        self.auto_map = auto_map(self.architectures)
        self.custom_pipelines = custom_pipelines()
        save_code(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        if not _IS_REMOTE_CODE:
            del self.custom_pipelines

    @classmethod
    def _known_keywords(cls) -> set[str]:
        return {field.name for field in dataclasses.fields(cls)} | _TRANSFORMERS_KEYWORDS

    def _refuse_unknown(self, kwargs: dict[str, Any]) -> None:
        for keyword in kwargs:
            if keyword in _TRANSFORMERS_KEYWORDS:
                continue
            near = difflib.get_close_matches(keyword, self._known_keywords(), n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise EcgJepaConfigError(f"EcgJepaConfig has no field {keyword!r}.{hint}")

    def validate_architecture(self):
        """Cross-field checks; @strict calls this after construction and before saving."""
        super().validate_architecture()
        for prefix in ("", "predictor_"):
            self._validate_transformer(prefix)
        for name in ("mlp_ratio", "sampling_rate", "patch_size", "mask_num_blocks"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        _require(self.num_patches >= 2, "num_patches", self.num_patches, "must be at least 2: one seen, one hidden")
        _require(0 <= self.drop_path_rate < 1, "drop_path_rate", self.drop_path_rate, "must be in [0, 1)")
        for name in ("layer_norm_eps", "initializer_range", "patch_initializer_range", "position_scale"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value > 0, name, value, "must be a positive number")
        canonical = canonical_config_leads(self.leads, self.modality)
        _require(self.leads == canonical, "leads", self.leads, "must be canonical names")
        for name in ("pos_weight", "thresholds"):
            given = getattr(self, name)
            rule = f"must have one number a label, num_labels={self.num_labels}"
            _require(given is None or len(given) == self.num_labels, name, given, rule)
        self._validate_masks()
        self._validate_regression_targets()

    def _validate_transformer(self, prefix: str) -> None:
        hidden_size, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
        layers = getattr(self, f"{prefix}num_hidden_layers")
        _require(layers >= 1, f"{prefix}num_hidden_layers", layers, "must be at least 1")
        _require(heads >= 1, f"{prefix}num_attention_heads", heads, "must be at least 1")
        _require(
            hidden_size >= 4 and hidden_size % 4 == 0,
            f"{prefix}hidden_size",
            hidden_size,
            "must divide by 4 (sines and cosines of time and lead)",
        )
        _require(
            hidden_size % heads == 0,
            f"{prefix}hidden_size",
            hidden_size,
            f"must divide by {prefix}num_attention_heads={heads}",
        )

    def _validate_masks(self) -> None:
        for name in ("mask_ratio", "mask_block_ratio"):
            ratios = getattr(self, name)
            _require(
                len(ratios) == 2 and 0 < ratios[0] <= ratios[1] < 1,
                name,
                ratios,
                "must be two shares (low, high) with 0 < low <= high < 1",
            )
        if self.mask_type == "random":
            fewest, most = (math.floor(self.num_patches * ratio) for ratio in self.mask_ratio)
            name = "mask_ratio"
        else:
            fewest, longest = (math.floor(self.num_patches * ratio) for ratio in self.mask_block_ratio)
            most = self.mask_num_blocks * longest
            name = "mask_block_ratio"
        _require(fewest >= 1, name, getattr(self, name), f"hides no patch of num_patches={self.num_patches}")
        _require(
            most < self.num_patches,
            name,
            getattr(self, name),
            f"can hide all num_patches={self.num_patches} patches; at least one must stay visible",
        )

    def _validate_regression_targets(self) -> None:
        if self.regression_targets is None:
            return
        _require(len(self.regression_targets) > 0, "regression_targets", [], "must name at least one target")
        for target in self.regression_targets:
            missing = {"name", "unit", "mean", "scale"} ^ set(target)
            _require(not missing, "regression_targets", target, "must have exactly name, unit, mean and scale")
            mean, scale = target["mean"], target["scale"]
            _require(
                all(isinstance(number, (int, float)) and math.isfinite(number) for number in (mean, scale))
                and scale > 0,
                "regression_targets",
                target,
                "must have a finite mean and a positive scale",
            )


def canonical_config_leads(leads: Sequence[str], modality: Modality) -> list[str]:
    """The leads of a grid by the names that its models and extractors know.

    Raises:
        EcgJepaConfigError: none, an unknown name, or a lead named twice.
    """
    _require(len(leads) >= 1, "leads", leads, "must name at least one lead")
    try:
        return canonical_leads(leads, modality)
    except EcgJepaInputError as error:
        hint = " Channels of another signal than an ECG need modality='other'." if modality == "ecg" else ""
        raise EcgJepaConfigError(f"leads={list(leads)!r}: {error}{hint}") from error


def _require(holds: bool, name: str, value: Any, rule: str) -> None:
    if not holds:
        raise EcgJepaConfigError(f"{name}={value!r} {rule}.")


__all__ = ["PRESETS", "EcgJepaConfig", "canonical_config_leads"]
