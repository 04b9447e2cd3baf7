"""ECG-JEPA (arXiv 2410.08559) in PyTorch, read top-down as data flows: patches, positions, layers, encoder, predictor,
and the models around them. Shapes: B records, L leads, T patches a lead (V visible, M hidden), P samples a patch, D
channels; tokens are lead-major, token n = lead * T + time."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_ecg_jepa import EcgJepaConfig
from .cropa import ATTENTION_IMPLEMENTATIONS, CrossPatternAttention
from .errors_ecg_jepa import EcgJepaCheckpointError, EcgJepaConfigError, EcgJepaInputError
from .leads_ecg_jepa import canonical_leads
from .masking_ecg_jepa import sample_time_mask

#: Inference on a CPU takes a large batch through a layer this many tokens at a time, and activates this many in place.
TOKENS_A_CHUNK = 1600
ROWS_A_SLICE = 200

#: What `torch.compile` may make of a layer before it gives up: with and without gradients, masks, mixed precision, ...
GRAPHS_OF_A_LAYER = 32

#: Share of the old value in the running mean of the targets, an optimizer step (`target_centering`).
TARGET_MEAN_MOMENTUM = 0.95


# ----------------------------------------------------------------------------------------------------------------------
# Patches and positions


class EcgJepaPatchEmbedding(nn.Linear):
    """The linear layer from the samples of a patch to its channels; a class of its own for its own initialisation."""


class ResidualOutput(nn.Linear):
    """The last linear layer of a residual branch, whose initial weights shrink with its layer's depth (from 1)."""

    def __init__(self, in_features: int, out_features: int, depth: int):
        super().__init__(in_features, out_features)
        self.depth = depth


def sincos(places: Tensor, channels: int) -> Tensor:
    """Sines, then cosines, of places (...,) at channels / 2 wavelengths, 2 pi to 20,000 pi: (..., channels) float64."""
    precise = torch.float32 if places.device.type == "mps" else torch.float64  # MPS has no float64
    exponent = torch.arange(channels // 2, device=places.device, dtype=precise) / (channels // 2)
    angle = places[..., None].to(precise) * 10000.0**-exponent
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def grid_positions(times: Tensor, leads: Tensor, channels: int) -> Tensor:
    """Positions of a (lead, time) grid: half the channels for the time, half for the lead.

    Args:
        times: (T,) or (B, T) time indices.
        leads: (L,) places in the full list of leads.

    Returns:
        (L * T, channels) or (B, L * T, channels), float64.
    """
    time_half = sincos(times, channels // 2)[..., None, :, :]
    lead_half = sincos(leads, channels // 2)[:, None, :]
    shape = (*times.shape[:-1], len(leads), times.shape[-1], channels // 2)
    return torch.cat([time_half.expand(shape), lead_half.expand(shape)], dim=-1).flatten(-3, -2)


def select_times(grid: Tensor, times: Tensor) -> Tensor:
    """The columns `times`, (V,) for all records or (B, V) one row each, of a grid (B, L, T, ...): (B, L, V, ...)."""
    if times.dim() == 1:
        return grid.index_select(2, times)
    index = times.view(len(times), 1, -1, *[1] * (grid.dim() - 3))
    return grid.take_along_dim(index, dim=2)


def send(few: Tensor, device: torch.device) -> Tensor:
    """A few numbers on `device`. CUDA takes up to 64 KB without waiting for the work in its queue, if told not to."""
    return few.to(device, non_blocking=device.type != "cpu")  # what comes to the CPU is read at once


# ----------------------------------------------------------------------------------------------------------------------
# One layer, the same in encoder and predictor


def draw_branch_scales(rate: float, num_layers: int, like: Tensor) -> Sequence[Tensor | None]:
    """Stochastic depth: what to multiply the two branches of each layer with, drawn for each row of `like` (B, N, D).

    0 with a probability that rises linearly from 0 in the first layer to `rate` in the last; otherwise above 1, so that
    the mean is 1. Drawn for all layers at once, outside of them: so they differ in nothing but their weights, and share
    one compiled graph.

    Returns:
        A (2, B, 1, 1) tensor a layer; None a layer if the rate is 0.
    """
    if rate == 0:
        return [None] * num_layers
    kept = 1 - torch.linspace(0, rate, num_layers, device=like.device).view(-1, 1, 1, 1, 1)
    return (kept.expand(-1, 2, len(like), 1, 1).bernoulli() / kept).to(like.dtype).unbind(0)


def add_branch(hidden_states: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    return hidden_states + branch if scale is None else hidden_states.addcmul(branch, scale)


class EcgJepaMLP(nn.Module):
    def __init__(self, config: EcgJepaConfig, hidden_size: int, depth: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, config.mlp_ratio * hidden_size)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = ResidualOutput(config.mlp_ratio * hidden_size, hidden_size, depth)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(hidden_states)))


class EcgJepaAttention(CrossPatternAttention):
    """Cross-pattern attention as a layer of depth `depth`."""

    def __init__(self, config: EcgJepaConfig, hidden_size: int, num_heads: int, depth: int):
        super().__init__(config, hidden_size, num_heads)
        self.proj = ResidualOutput(hidden_size, hidden_size, depth)


class EcgJepaLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block that adds the positions to its input."""

    def __init__(self, config: EcgJepaConfig, hidden_size: int, num_heads: int, index: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = EcgJepaAttention(config, hidden_size, num_heads, depth=index + 1)
        self.norm2 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = EcgJepaMLP(config, hidden_size, depth=index + 1)

    def forward(
        self,
        hidden_states: Tensor,
        positions: Tensor,
        grid: tuple[int, int],
        valid: Tensor | None = None,
        branch_scales: Tensor | None = None,
        first_wanted: int = 0,
    ) -> Tensor:
        """hidden_states (B, N, D), positions (N, D) or (B, N, D), valid (B, *grid) or None, branch_scales (2, B, 1, 1)
        or None -> the tokens from `first_wanted` on, (B, N - first_wanted, D); what nobody wants is not computed
        beyond the attention."""
        hidden_states = hidden_states + positions
        if branch_scales is not None or not self._works_in_place(hidden_states):
            first, second = (None, None) if branch_scales is None else branch_scales.unbind(0)
            hidden_states = add_branch(hidden_states, self.attention(self.norm1(hidden_states), grid, valid)[0], first)
            hidden_states = hidden_states[:, first_wanted:]
            return add_branch(hidden_states, self.mlp(self.norm2(hidden_states)), second)
        records = max(1, TOKENS_A_CHUNK // hidden_states.shape[1])
        for start in range(0, len(hidden_states), records):
            part = slice(start, start + records)
            self._add_branches(hidden_states[part], grid, None if valid is None else valid[part])
        return hidden_states[:, first_wanted:]

    def _works_in_place(self, hidden_states: Tensor) -> bool:
        """Inference on a CPU takes a large batch a few records at a time and in place: what does not stay in the cache
        is allocated, handed back to the system, and paged in again by every layer, which costs as much as attention."""
        return (
            hidden_states.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and self.attention.config._attn_implementation != "eager"  # whose weights are returned whole
        )

    def _add_branches(self, hidden_states: Tensor, grid: tuple[int, int], valid: Tensor | None) -> None:
        hidden_states += self.attention(self.norm1(hidden_states), grid, valid)[0]
        expanded = self.mlp.fc1(self.norm2(hidden_states))
        for rows in expanded.flatten(0, 1).split(ROWS_A_SLICE):
            rows.copy_(self.mlp.act(rows))
        hidden_states += self.mlp.fc2(expanded)


# ----------------------------------------------------------------------------------------------------------------------
# What all models share: initialisation, attention choice, safe loading, self-contained saving


class EcgJepaPreTrainedModel(PreTrainedModel):
    config: EcgJepaConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    input_modalities = "time"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over a batch: the Trainer has to divide them by accumulated batches
    _no_split_modules = ["EcgJepaLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": EcgJepaLayer,
        "attentions": OutputRecorder(CrossPatternAttention, index=1),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, EcgJepaPatchEmbedding):
            std = self.config.patch_initializer_range
        elif isinstance(module, ResidualOutput):
            std = std / (2 * module.depth) ** 0.5
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, EcgJepaLearnedPooling):
            init.trunc_normal_(module.query, std=std)
        elif isinstance(module, EcgJepaPredictor):
            init.trunc_normal_(module.mask_token, std=std)
        elif isinstance(module, EcgJepaForPreTraining):
            module._init_own()
        elif isinstance(module, (EcgJepaForMultiLabelClassification, EcgJepaForRegression)):
            for name, values in module.constants(self.config).items():
                init.copy_(getattr(module, name), values)

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """`cropa` unless asked otherwise; resolved here: transformers' own registry is global to a process."""
        requested = "cropa" if requested_attention is None else requested_attention
        if requested not in ATTENTION_IMPLEMENTATIONS:
            raise EcgJepaConfigError(
                f'Specified `attn_implementation="{requested}"` is not supported: {requested!r} is not one of '
                f"{', '.join(ATTENTION_IMPLEMENTATIONS)}."
            )
        return requested

    def compile_layers(self, **options) -> None:
        """Compile every layer in place by `torch.compile` with `options`; names, state and files stay as they are.

        Layer by layer and not as a whole: all layers share a handful of graphs, made in the first step. These serve any
        number of visible times, so that no later mask compiles anything.
        """
        for module in self.modules():
            if isinstance(module, EcgJepaLayer):
                module.compile(recompile_limit=GRAPHS_OF_A_LAYER, **options)

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.get_submodule("patch_embedding")

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.patch_embedding = value

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As in transformers, from safetensors only.

        Raises:
            EcgJepaCheckpointError: a damaged file, a folder with pickled weights only, or `use_safetensors=False`.
        """
        place = os.fspath(pretrained_model_name_or_path) if pretrained_model_name_or_path is not None else None
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise EcgJepaCheckpointError(
                f"use_safetensors={kwargs['use_safetensors']!r}: pickled weights can run code and are never loaded. "
                "Use a checkpoint with model.safetensors; `ecg-jepa convert` makes one of the authors' files."
            )
        _refuse_pickled_weights(place)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except SafetensorError as error:
            raise EcgJepaCheckpointError(
                f"The safetensors file of {place!r} is damaged ({error}); it may be an interrupted download. "
                "Delete it and fetch or copy it again."
            ) from error

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As in transformers; the folder then holds the code and an extractor's configuration as well.

        Raises:
            EcgJepaOutputError: the folder cannot be written to.
        """
        from .feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
        from .hub_ecg_jepa import save_code

        save_code(save_directory)
        if not (Path(save_directory) / "preprocessor_config.json").exists():
            EcgJepaFeatureExtractor.from_config(self.config).save_pretrained(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        for weights in Path(save_directory).glob("*.safetensors"):
            # safetensors makes files that only their owner can read, whatever the umask.
            shutil.copymode(Path(save_directory) / "config.json", weights)


def _refuse_pickled_weights(folder: str | None) -> None:
    if folder is None or not os.path.isdir(folder) or list(Path(folder).rglob("*.safetensors")):
        return
    pickled = sorted(path.name for path in Path(folder).iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    if pickled:
        raise EcgJepaCheckpointError(
            f"The folder {folder!r} has no model.safetensors but {', '.join(pickled)}: pickled weights can run code "
            "and are never loaded. `ecg-jepa convert` turns the authors' checkpoint into safetensors."
        )


# ----------------------------------------------------------------------------------------------------------------------
# The encoder


class EcgJepaLearnedPooling(nn.Module):
    """One learned query attends to all valid tokens of a record."""

    def __init__(self, config: EcgJepaConfig):
        super().__init__()
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.key_value = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """tokens (B, N, D), valid (B, N) -> (B, D)."""
        query = self.query.expand(len(tokens), -1, -1).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
        key, value = self.key_value(tokens).unflatten(-1, (2, -1, self.head_size)).permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if valid is None else valid[:, None, None, :]
        pooled = F.scaled_dot_product_attention(query.to(key.dtype), key, value, attn_mask=mask)
        return self.proj(pooled.transpose(1, 2).flatten(1))


def mean_pool(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the valid tokens: (B, N, D), (B, N) -> (B, D)."""
    if valid is None:
        return tokens.mean(1)
    weights = valid.to(tokens.dtype)
    return (weights[:, None] @ tokens)[:, 0] / weights.sum(1, keepdim=True).clamp(min=1)


class EcgJepaModel(EcgJepaPreTrainedModel):
    """The encoder: ECG in millivolts -> one vector a patch and one a record.

    ```python
    >>> import torch
    >>> from modeling_ecg_jepa import EcgJepaConfig, EcgJepaModel
    >>> model = EcgJepaModel(EcgJepaConfig.from_preset("tiny")).eval()
    >>> model(torch.zeros(1, 8, 2500)).pooler_output.shape
    torch.Size([1, 96])
    ```
    """

    base_model_prefix = "encoder"

    def __init__(self, config: EcgJepaConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.patch_embedding = EcgJepaPatchEmbedding(config.patch_size, config.hidden_size)
        self.layers = nn.ModuleList(
            EcgJepaLayer(config, config.hidden_size, config.num_attention_heads, index)
            for index in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        learned_pooling = add_pooling_layer and config.pooling == "attention"
        self.pooler = EcgJepaLearnedPooling(config) if learned_pooling else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        lead_mask: Tensor | None = None,
        leads: Sequence[str] | Tensor | None = None,
        visible_times: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_values (`(B, L, samples)` float): millivolts at `config.sampling_rate`, whole patches.
            attention_mask (`(B, T)` bool, *optional*): False where a patch is padding.
            lead_mask (`(B, L)` bool, *optional*): False where a lead is missing.
            leads (`list[str]` or `(L,)` long, *optional*): which leads the rows are, names or places in
                `config.leads`, the same for the batch; all of them in order by default.
            visible_times (`(V,)` or `(B, V)` long, *optional*): encode only these patches of each lead.

        Returns:
            `last_hidden_state` (B, L * T, D), lead-major, and `pooler_output` (B, D). Missing leads and padded times
            are never attended to and never enter the pooled vector. `output_attentions=True` needs
            `attn_implementation="eager"`.

        Raises:
            EcgJepaInputError: shapes or leads that do not fit the configuration.
        """
        if kwargs.get("output_attentions") and self.config._attn_implementation != "eager":
            raise EcgJepaInputError(
                f"attn_implementation={self.config._attn_implementation!r} has no attention weights to return. "
                "Call model.set_attn_implementation('eager') first."
            )
        patches = self._patches(input_values, leads)
        batch, num_leads, num_times, _ = patches.shape
        places = lead_places(self.config, leads, patches.device)
        valid = valid_patches(attention_mask, lead_mask, batch, num_leads, num_times)
        times = torch.arange(num_times, device=patches.device)
        if visible_times is not None:
            times = visible_times
            patches = select_times(patches, times)
            valid = None if valid is None else select_times(valid, times)

        dtype = self.patch_embedding.weight.dtype
        # Also under autocast the residual stream keeps the weights' precision: half of it would round away what differs
        # between records beside the far larger positions.
        hidden_states = self.patch_embedding(patches.to(dtype)).flatten(1, 2).to(dtype)
        positions = grid_positions(times, places, self.config.hidden_size) * self.config.position_scale
        positions = positions.to(dtype)
        rate = self.config.drop_path_rate if self.training else 0.0
        for layer, scales in zip(self.layers, draw_branch_scales(rate, len(self.layers), hidden_states), strict=True):
            hidden_states = layer(hidden_states, positions, tuple(patches.shape[1:3]), valid, scales)
        hidden_states = self.norm(hidden_states)
        pooled = self._pool(hidden_states, valid)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def _patches(self, input_values: Tensor, leads: Sequence[str] | Tensor | None) -> Tensor:
        """(B, L, samples) -> (B, L, T, P)."""
        expected = len(self.config.leads) if leads is None else len(leads)
        size = self.config.patch_size
        if input_values.dim() != 3 or input_values.shape[1] != expected or input_values.shape[2] % size:
            raise EcgJepaInputError(
                f"input_values has the shape {tuple(input_values.shape)}; expected (batch, {expected} leads, a "
                f"multiple of {size} samples) at {self.config.sampling_rate} Hz in mV. EcgJepaFeatureExtractor makes "
                f"it; for fewer leads than {', '.join(self.config.leads)} pass leads=[...]."
            )
        if input_values.shape[2] == 0:
            raise EcgJepaInputError(f"input_values is empty; a record needs at least one patch of {size} samples.")
        return input_values.unflatten(2, (-1, size))

    def _pool(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        valid = None if valid is None else valid.flatten(1)
        return mean_pool(tokens, valid) if self.pooler is None else self.pooler(tokens, valid)


def lead_places(config: EcgJepaConfig, leads: Sequence[str] | Tensor | None, device: torch.device) -> Tensor:
    """Places of the given rows in `config.leads`: (L,) long.

    Raises:
        EcgJepaInputError: a lead that the configuration does not have.
    """
    if leads is None:
        return torch.arange(len(config.leads), device=device)
    if isinstance(leads, Tensor):
        if leads.device.type == "cpu" and not torch.compiler.is_compiling():  # looking at a GPU's would wait for it
            _check_places(leads, config)
        return send(leads, device)
    names = canonical_leads(leads, config.modality)
    absent = [name for name in names if name not in config.leads]
    if absent:
        raise EcgJepaInputError(f"This model has no lead {', '.join(absent)}; it has {', '.join(config.leads)}.")
    return send(torch.tensor([config.leads.index(name) for name in names]), device)


def _check_places(places: Tensor, config: EcgJepaConfig) -> None:
    given = places.tolist()
    if places.dtype != torch.long or places.dim() != 1 or not set(given) <= set(range(len(config.leads))):
        raise EcgJepaInputError(
            f"leads={given} ({places.dtype}) are no places in this model's leads; expected a torch.long vector of "
            f"0 to {len(config.leads) - 1}, or names out of {', '.join(config.leads)}."
        )


def valid_patches(
    attention_mask: Tensor | None, lead_mask: Tensor | None, batch: int, num_leads: int, num_times: int
) -> Tensor | None:
    """Both masks as one, (B, L, T) boolean, or None where every patch is valid.

    Raises:
        EcgJepaInputError: a mask of the wrong shape.
    """
    for name, mask, size in (("attention_mask", attention_mask, num_times), ("lead_mask", lead_mask, num_leads)):
        if mask is not None and tuple(mask.shape) != (batch, size):
            raise EcgJepaInputError(f"{name} has the shape {tuple(mask.shape)}; expected ({batch}, {size}).")
    present = attention_mask if attention_mask is not None else lead_mask
    if present is None:
        return None
    valid = torch.ones(batch, num_leads, num_times, dtype=torch.bool, device=present.device)
    if attention_mask is not None:
        valid = valid & attention_mask.bool()[:, None, :]
    if lead_mask is not None:
        valid = valid & lead_mask.bool()[:, :, None]
    # Full masks cost time and change nothing. Only a CPU can look without waiting; a compiled graph must not branch.
    if valid.device.type == "cpu" and not torch.compiler.is_compiling() and bool(valid.all()):
        return None
    return valid


# ----------------------------------------------------------------------------------------------------------------------
# Pretraining


class EcgJepaPredictor(nn.Module):
    """Guesses the teacher's output at hidden times from the student's at visible ones, each lead a sequence of its own.

    All leads share lead 0's position, so the predictor does not know which lead it completes: by construction.
    """

    def __init__(self, config: EcgJepaConfig):
        super().__init__()
        size = config.predictor_hidden_size
        self.config = config
        self.embedding = nn.Linear(config.hidden_size, size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size))
        self.layers = nn.ModuleList(
            EcgJepaLayer(config, size, config.predictor_num_attention_heads, index)
            for index in range(config.predictor_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(size, config.hidden_size)

    def forward(self, context: Tensor, visible: Tensor, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """
        Args:
            context: (B, L, V, D), the student's output.
            visible, hidden: (V,) and (M,) time indices, or (B, V) and (B, M).
            valid: (B, L, T) boolean or None.

        Returns:
            (B, L, M, D), the predictions.
        """
        batch, num_leads, num_visible, _ = context.shape
        times = torch.cat([visible, hidden], dim=-1)
        seen = self.embedding(context).flatten(0, 1).to(self.embedding.weight.dtype)
        tokens = torch.cat([seen, self.mask_token.to(seen.dtype).expand(len(seen), hidden.shape[-1], -1)], dim=1)
        positions = grid_positions(times, times.new_zeros(1), tokens.shape[-1]) * self.config.position_scale
        if positions.dim() == 3:
            positions = positions.repeat_interleave(num_leads, dim=0)
        if valid is not None:
            valid = select_times(valid, times).flatten(0, 1)[:, None]  # (B * L, 1, V + M): a grid of one lead each
        positions = positions.to(tokens.dtype)
        rate = self.config.drop_path_rate if self.training else 0.0
        for layer, scales in zip(self.layers, draw_branch_scales(rate, len(self.layers), tokens), strict=True):
            first_wanted = num_visible if layer is self.layers[-1] else 0
            tokens = layer(tokens, positions, (1, times.shape[-1]), valid, scales, first_wanted)
        predictions = self.projection(self.norm(tokens))
        return predictions.unflatten(0, (batch, num_leads))


@dataclass
class EcgJepaForPreTrainingOutput(ModelOutput):
    """
    loss (scalar): smooth L1 between predictions and targets, over hidden patches that are neither missing nor padding.
    predictions (`(B, L, M, D)`): at the M hidden times, in time order.
    targets (`(B, L, M, D)`): the teacher's normalised output there.
    time_mask (`(T,)` or `(B, T)` bool): True = hidden.
    context (`(B, L, V, D)`): the student's output at the visible times.
    Of several masks (see `EcgJepaForPreTraining.forward`) all but the loss are tuples, one entry a mask.
    """

    loss: Tensor | None = None
    predictions: Tensor | tuple[Tensor, ...] | None = None
    targets: Tensor | tuple[Tensor, ...] | None = None
    time_mask: Tensor | tuple[Tensor, ...] | None = None
    context: Tensor | tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class EcgJepaForPreTraining(EcgJepaPreTrainedModel):
    """Student (`encoder`), teacher (its moving average), predictor; call `update_teacher` after each optimizer step."""

    is_initialized: Tensor
    target_mean: Tensor

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        self.encoder = EcgJepaModel(config, add_pooling_layer=False)
        self.teacher = EcgJepaModel(config, add_pooling_layer=False)
        self.predictor = EcgJepaPredictor(config)
        # transformers initialises only modules with a tensor of their own that no checkpoint holds; this is ours, so
        # that a teacher missing from a checkpoint starts as its student.
        self.register_buffer("is_initialized", torch.ones(()), persistent=False)
        if config.target_centering:
            grid = (len(config.leads), config.num_patches, config.hidden_size)
            self.register_buffer("target_mean", torch.zeros(grid))
        # Sum and count of the targets since the last update. No buffers: DDP overwrites those with the first process's.
        self._seen_targets: list[tuple[Tensor, Tensor]] = []
        self.post_init()
        self.teacher.eval()

    @torch.no_grad()
    def _init_own(self) -> None:
        init.ones_(self.is_initialized)
        if self.config.target_centering:
            init.zeros_(self.target_mean)
        for teacher, student in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            init.copy_(teacher, student)
        self.teacher.requires_grad_(False)  # parameters made anew while loading ask for gradients

    def train(self, mode: bool = True):
        """Training mode for student and predictor; the teacher stays in evaluation mode, without stochastic depth."""
        super().train(mode)
        self.teacher.eval()
        return self

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        time_mask: Tensor | Sequence[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        lead_mask: Tensor | None = None,
        leads: Sequence[str] | Tensor | None = None,
        generator: torch.Generator | None = None,
        num_hidden: Sequence[Tensor] | None = None,
        **kwargs,
    ) -> EcgJepaForPreTrainingOutput:
        r"""
        Args:
            input_values, attention_mask, lead_mask, leads: as in `EcgJepaModel`.
            time_mask (`(T,)` or `(B, T)` bool, *optional*): True = hidden; shared by the batch, or one a record with
                equal counts. Best on the CPU, where counting does not wait for a GPU. Drawn as the configuration says
                when not given. A list of masks, also as arrays, is predicted one after the other from a single pass of
                the teacher: the loss is their mean, and of all else the output holds a tuple, one a mask.
            generator (`torch.Generator`, *optional*): what masks are drawn from.
            num_hidden (scalar tensors, one a mask, *optional*): what to divide the sum of the hidden patches' losses
                by, instead of their number (`count_hidden`). Where a batch is a part of a larger one, the mean of the
                parts' numbers makes the mean of their losses, and of their gradients, that of the larger batch.

        Raises:
            EcgJepaInputError: a mask that hides everything or nothing, or unequal counts.
        """
        batch, num_leads, samples = input_values.shape
        num_times = samples // self.config.patch_size
        if time_mask is None:
            time_mask = sample_time_mask(self.config, num_times, generator)
        masks = [time_mask] if isinstance(time_mask, Tensor) else [torch.as_tensor(mask) for mask in time_mask]
        times = [split_times(mask, batch, num_times, input_values.device) for mask in masks]
        valid = valid_patches(attention_mask, lead_mask, batch, num_leads, num_times)
        inputs = {"attention_mask": attention_mask, "lead_mask": lead_mask, "leads": leads}

        with torch.no_grad():
            everything = self.teacher(input_values, **inputs).last_hidden_state.unflatten(1, (num_leads, -1)).float()
            if self.config.target_centering:
                everything = self._centred(everything, leads, valid)
        outputs = []
        counts: Sequence[Tensor | None] = num_hidden or [None] * len(masks)
        for mask, (visible, hidden), count in zip(masks, times, counts, strict=True):
            encoded = self.encoder(input_values, visible_times=visible, **inputs, **kwargs)
            context = encoded.last_hidden_state.unflatten(1, (num_leads, -1))
            predictions = self.predictor(context, visible, hidden, valid)
            targets = select_times(everything, hidden)
            targets = F.layer_norm(targets, targets.shape[-1:], eps=self.config.layer_norm_eps)
            loss = prediction_loss(predictions, targets, None if valid is None else select_times(valid, hidden), count)
            outputs.append((loss, predictions, targets, mask, context, encoded.hidden_states, encoded.attentions))
        if isinstance(time_mask, Tensor):
            return EcgJepaForPreTrainingOutput(*outputs[0])
        losses, *others = zip(*outputs, strict=True)
        return EcgJepaForPreTrainingOutput(torch.stack(losses).mean(), *others)

    def _centred(self, everything: Tensor, leads, valid: Tensor | None) -> Tensor:
        num_times, most = everything.shape[2], self.config.num_patches
        if num_times > most:
            raise EcgJepaInputError(
                f"target_centering keeps a mean for num_patches={most} patches; this batch has {num_times}. "
                "Crop the records or configure more patches."
            )
        places = lead_places(self.config, leads, everything.device)
        if self.training:
            weights = torch.ones_like(everything[..., :1]) if valid is None else valid[..., None].float()
            total, count = torch.zeros_like(self.target_mean), torch.zeros_like(self.target_mean[..., :1])
            total[places, :num_times] = (everything * weights).sum(0)
            count[places, :num_times] = weights.sum(0)
            self._seen_targets.append((total, count))
        return everything - self.target_mean[places, :num_times]

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher: teacher = momentum * teacher + (1 - momentum) * student. Call once an optimizer step.

        With `target_centering` the targets' running mean moves too, by the mean over all records since the last call
        and over all processes.
        """
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.encoder.parameters())
        torch._foreach_lerp_(teacher, student, 1 - momentum)
        if self._seen_targets:
            total, count = (torch.stack(parts).sum(0) for parts in zip(*self._seen_targets, strict=True))
            self._seen_targets.clear()
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(total)
                torch.distributed.all_reduce(count)
            known = (count > 0) & total.isfinite()  # a record that is not finite must not stay in the mean
            mean = torch.where(known, total / count.clamp(min=1), self.target_mean)
            self.target_mean.lerp_(mean, 1 - TARGET_MEAN_MOMENTUM)


def split_times(time_mask: Tensor, batch: int, num_times: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of visible and hidden times, in time order, on `device`: (V,) and (M,), or (B, V) and (B, M) for a mask
    a record. A mask on the CPU is counted and sent to a GPU without waiting for what that is at.

    Raises:
        EcgJepaInputError: another shape or type, everything or nothing hidden, or counts that differ between records.
    """
    if time_mask.dtype != torch.bool or tuple(time_mask.shape) not in {(num_times,), (batch, num_times)}:
        raise EcgJepaInputError(
            f"time_mask is {time_mask.dtype} of shape {tuple(time_mask.shape)}; expected torch.bool of shape "
            f"({num_times},) or ({batch}, {num_times}), True = hidden."
        )
    counts = time_mask.sum(-1).unique().tolist()
    if len(counts) != 1 or not 0 < counts[0] < num_times:
        raise EcgJepaInputError(
            f"time_mask hides {counts} of {num_times} patches; every record must hide the same number, at least one "
            "and not all."
        )
    order = time_mask.to(torch.uint8).argsort(dim=-1, stable=True)
    order = send(order, device)
    return order[..., : num_times - counts[0]], order[..., num_times - counts[0] :]


def prediction_loss(predictions: Tensor, targets: Tensor, valid: Tensor | None, count: Tensor | None = None) -> Tensor:
    """Smooth L1 (beta 1), mean over channels, hidden times, leads and records; over valid patches (B, L, M) only.

    `count` is what the patches' sum is divided by; their number if not given.
    """
    if count is None:
        if valid is None:
            return F.smooth_l1_loss(predictions.float(), targets)
        count = valid.sum().clamp(min=1)
    losses = F.smooth_l1_loss(predictions.float(), targets, reduction="none").mean(-1)
    return (losses if valid is None else losses * valid).sum() / count


def count_hidden(time_mask: Tensor, attention_mask: Tensor, lead_mask: Tensor) -> Tensor:
    """How many patches (lead, time) of a batch a mask (T,) hides, missing leads and padding left out: a scalar.

    Args:
        attention_mask, lead_mask: (B, T) and (B, L) boolean, on the device where the count is wanted.
    """
    hidden = time_mask.to(attention_mask.device, non_blocking=True)
    return ((attention_mask & hidden).sum(1) * lead_mask.sum(1)).sum()


# ----------------------------------------------------------------------------------------------------------------------
# Heads


class EcgJepaForMultiLabelClassification(EcgJepaPreTrainedModel):
    """A linear classifier on the pooled embedding: several labels at once by default, one when
    `config.problem_type == "single_label_classification"`."""

    pos_weight: Tensor

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        if config.problem_type not in (None, "multi_label_classification", "single_label_classification"):
            raise EcgJepaConfigError(
                f"problem_type={config.problem_type!r} is no classification; use multi_label_classification, "
                "single_label_classification, or EcgJepaForRegression."
            )
        self.num_labels = len(config.id2label or ())
        self.encoder = EcgJepaModel(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        for name, values in self.constants(config).items():
            self.register_buffer(name, values, persistent=False)
        self.post_init()

    @staticmethod
    def constants(config: EcgJepaConfig) -> dict[str, Tensor]:
        """What the loss takes from the configuration, as buffers."""
        return {"pos_weight": torch.tensor(config.pos_weight or [1.0] * len(config.id2label or ()))}

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        lead_mask: Tensor | None = None,
        leads: Sequence[str] | Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        r"""
        Args:
            input_values, attention_mask, lead_mask, leads: as in `EcgJepaModel`.
            labels (*optional*): (B, num_labels) of 0 and 1, or (B,) class indices for a single label.

        Returns:
            `logits` (B, num_labels), before the sigmoid (or softmax), and `loss` where labels are given.
        """
        encoded = self.encoder(input_values, attention_mask, lead_mask, leads, **kwargs)
        logits = self.classifier(encoded.pooler_output)
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type == "single_label_classification":
            return F.cross_entropy(logits, labels)
        if labels.shape != logits.shape:
            raise EcgJepaInputError(
                f"labels has the shape {tuple(labels.shape)}; multi-label classification needs {tuple(logits.shape)}, "
                "0 or 1 a label (for class indices pass problem_type='single_label_classification' to from_pretrained)."
            )
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), pos_weight=self.pos_weight)


class EcgJepaForRegression(EcgJepaPreTrainedModel):
    """Named measurements in physical units (`config.regression_targets`), linear in the pooled embedding."""

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        if not config.regression_targets:
            raise EcgJepaConfigError(
                "EcgJepaForRegression needs config.regression_targets, a list of {name, unit, mean, scale}."
            )
        self.encoder = EcgJepaModel(config)
        self.regressor = nn.Linear(config.hidden_size, len(config.regression_targets))
        for name, values in self.constants(config).items():
            self.register_buffer(name, values, persistent=False)
        self.post_init()

    @staticmethod
    def constants(config: EcgJepaConfig) -> dict[str, Tensor]:
        """Mean and scale of the targets in physical units, as buffers."""
        targets = config.regression_targets or []
        return {f"target_{key}": torch.tensor([float(target[key]) for target in targets]) for key in ("mean", "scale")}

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        lead_mask: Tensor | None = None,
        leads: Sequence[str] | Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        r"""
        Args:
            input_values, attention_mask, lead_mask, leads: as in `EcgJepaModel`.
            labels (`(B, targets)`, *optional*): in the targets' units; NaN where a measurement is missing.

        Returns:
            `logits` (B, targets): the measurements in their units. `loss`: mean squared error in units of the scales.
        """
        encoded = self.encoder(input_values, attention_mask, lead_mask, leads, **kwargs)
        standardised = self.regressor(encoded.pooler_output).float()
        loss = None
        if labels is not None:
            known = ~labels.isnan()
            errors = standardised - (labels.float() - self.target_mean) / self.target_scale
            loss = errors.where(known, 0).square().sum() / known.sum().clamp(min=1)
        return SequenceClassifierOutput(
            loss=loss,
            logits=standardised * self.target_scale + self.target_mean,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


__all__ = [
    "EcgJepaForMultiLabelClassification",
    "EcgJepaForPreTraining",
    "EcgJepaForPreTrainingOutput",
    "EcgJepaForRegression",
    "EcgJepaModel",
    "EcgJepaPreTrainedModel",
]
