"""The authors' checkpoints (https://github.com/sehunfromdaegu/ECG_JEPA) made ours, and ours made theirs.

Theirs is a pickle, `{"encoder": state_dict, "epoch": n}`; it is read as data only, never as code. Their names beside
ours: the table `_NAMES`. Their stored positions have no counterpart: ours are computed, and theirs must equal them.
"""

import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dataset_scripts.outputs import whole_file, whole_folder

from ..configuration_ecg_jepa import EcgJepaConfig
from ..errors_ecg_jepa import EcgJepaCheckpointError, EcgJepaConfigError
from ..feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from ..leads_ecg_jepa import ECG_JEPA_LEADS, STANDARD_12_LEADS
from ..modeling_ecg_jepa import EcgJepaModel, grid_positions
from .checkpoint import checkpoint_folder, file_sha256, load_encoder, read_json
from .verify import write_verification

CONVERSION = "conversion.json"
SCHEMA_VERSION = 1

#: Largest difference between the authors' stored positions and ours; float32 rounding leaves 1e-7.
POSITION_TOLERANCE = 1e-5

# Parts of names, theirs and ours.
_NAMES = {
    "encoder": (
        ("W_P.", "patch_embedding."),
        ("encoder_blocks.blocks.", "layers."),
        (".attn.", ".attention."),
    ),
    "predictor": (
        ("predictor_embed.", "embedding."),
        ("predictor_blocks.blocks.", "layers."),
        ("predictor_norm.", "norm."),
        ("predictor_proj.", "projection."),
        (".attn.", ".attention."),
    ),
}

# What the authors' encoder is made of; a checkpoint with something else cannot be written for their code.
_OF_THE_AUTHORS = {"pooling": "mean", "hidden_act": "gelu", "layer_norm_eps": 1e-5, "mlp_ratio": 4}

# What torch.load raises on a file that is none of its own, or that is damaged.
_LOAD_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Conversion:
    """What was converted: both files with their SHA-256, the sizes, and the epoch that the authors' file names."""

    source: Path
    source_sha256: str
    result: Path
    result_sha256: str
    config: EcgJepaConfig
    epoch: int | None


def to_our_name(authors_name: str) -> str:
    """The name in `EcgJepaModel` or in `EcgJepaForPreTraining.predictor` of a parameter of the authors' encoder or
    predictor: `W_P.weight` -> `patch_embedding.weight`; `predictor_norm.bias` -> `norm.bias`."""
    for theirs, ours in (*_NAMES["encoder"], *_NAMES["predictor"]):
        authors_name = authors_name.replace(theirs, ours)
    return authors_name


def to_authors_name(our_name: str, part: Literal["encoder", "predictor"] = "encoder") -> str:
    """The authors' name of a parameter of `EcgJepaModel` or, with `part="predictor"`, of the predictor."""
    for theirs, ours in _NAMES[part]:
        our_name = our_name.replace(ours, theirs)
    return our_name


# Theirs to ours -------------------------------------------------------------------------------------------------------


def convert_from_authors(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    num_attention_heads: int = 16,
    leads: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Make a checkpoint folder of an authors' `.pth` file: safetensors, configurations, code, verification.

    Args:
        source: their file.
        folder: a new or empty folder; it comes into being whole or not at all.
        num_attention_heads: the file does not tell; the published base models have 16.
        leads: names of the leads; needed only where they are not the 8 or 12 standard ones.
        overwrite: replace an earlier conversion in `folder`.

    Raises:
        EcgJepaCheckpointError: the file is not, key for key, an encoder of the authors.
        EcgJepaConfigError: heads or leads that do not fit it.
        EcgJepaOutputError: the folder cannot be written or is taken.
    """
    source, folder = Path(source), Path(folder)
    state, epoch = read_authors_checkpoint(source)
    model = encoder_of_authors(state, num_attention_heads, leads)
    digest = file_sha256(source)
    origin = {"schema_version": SCHEMA_VERSION, "source": source.name, "source_sha256": digest, "epoch": epoch}
    with whole_folder(folder, overwrite) as unfinished:
        EcgJepaFeatureExtractor.from_config(model.config).save_pretrained(unfinished)
        model.save_pretrained(unfinished)
        (unfinished / CONVERSION).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        write_verification(unfinished)
    weights = folder / "model.safetensors"
    return Conversion(source, digest, weights, file_sha256(weights), model.config, epoch)


def read_authors_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Tensor], int | None]:
    """The encoder's tensors by the authors' names, and the epoch, of a `.pth` file; no code in it is ever run.

    Raises:
        EcgJepaCheckpointError: no such file, a damaged one, one that holds code, or one of another kind.
    """
    content = _load_without_code(Path(path))
    if not isinstance(content, dict) or not isinstance(content.get("encoder"), dict):
        raise EcgJepaCheckpointError(
            f'{path} is not of the authors\' form {{"encoder": state_dict, "epoch": n}}: it holds {_describe(content)}.'
        )
    extra = sorted(map(str, content.keys() - {"encoder", "epoch"}))
    if extra:
        raise EcgJepaCheckpointError(
            f"{path} holds {_some(extra)} beside the encoder and the epoch: a file of another kind."
        )
    epoch = content.get("epoch")
    return content["encoder"], epoch if isinstance(epoch, int) else None


def _load_without_code(path: Path) -> Any:
    if path.is_dir():
        raise EcgJepaCheckpointError(
            f"{path} is a folder; the authors' checkpoints are files. The way back, from our folder to their file, is "
            "--to-authors."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise EcgJepaCheckpointError(
                f"{path} is refused: it holds code ({code[1]}), which would run when it is loaded. Only tensors, "
                "numbers and texts are read, without exception."
            ) from error
        raise EcgJepaCheckpointError(f"{path} is no PyTorch checkpoint, or a damaged one.") from error
    except _LOAD_ERRORS as error:
        reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).split(". ")[0]
        raise EcgJepaCheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint ({reason}). If it was downloaded, fetch it again and "
            "compare its size and hash."
        ) from error


def encoder_of_authors(
    state: dict[str, Tensor], num_attention_heads: int = 16, leads: Sequence[str] | None = None
) -> EcgJepaModel:
    """Our model with the weights of the authors' encoder, sizes read off their shapes.

    Raises:
        EcgJepaCheckpointError: keys, shapes, types, values or positions that are not those of such an encoder.
        EcgJepaConfigError: heads or leads that do not fit.
    """
    _check_tensors(state)
    config = _config_of(state, num_attention_heads, leads)
    with torch.device("meta"):
        model = EcgJepaModel(config)
    expected = {to_authors_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _check_shapes(state, expected)
    ours = {to_our_name(name): state[name].clone() for name in expected}
    model.load_state_dict(ours, assign=True)
    return model.eval()


def _check_tensors(state: dict[str, Any]) -> None:
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise EcgJepaCheckpointError(f"{name!r} in the checkpoint is {_describe(tensor)}, not a tensor by name.")
        if tensor.layout != torch.strided or tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise EcgJepaCheckpointError(
                f"{name} in the checkpoint is a tensor of {tensor.dtype}, {tensor.layout}; the authors' files hold "
                "plain float32 tensors."
            )
        if not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise EcgJepaCheckpointError(
                f"{name} in the checkpoint has {count} values that are NaN or infinite: training went wrong, or the "
                "file is damaged."
            )


def _config_of(state: dict[str, Tensor], num_attention_heads: int, leads: Sequence[str] | None) -> EcgJepaConfig:
    hidden_size, patch_size = _shape(state, "W_P.weight", 2)
    mlp_size, _ = _shape(state, "encoder_blocks.blocks.0.mlp.fc1.weight", 2)
    num_leads, num_patches = _grid_of(state, hidden_size)
    return EcgJepaConfig(
        hidden_size=hidden_size,
        num_hidden_layers=len({name.split(".")[2] for name in state if name.startswith("encoder_blocks.blocks.")}),
        num_attention_heads=num_attention_heads,
        mlp_ratio=mlp_size // hidden_size,
        leads=list(_lead_names(num_leads, leads)),
        patch_size=patch_size,
        num_patches=num_patches,
    )


def _shape(state: dict[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise EcgJepaCheckpointError(
            f"The checkpoint has no {name}, so it is no encoder of the authors. It has {_some(state) or 'nothing'}."
        )
    shape = tuple(state[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise EcgJepaCheckpointError(f"{name} in the checkpoint has the shape {shape}, which is no weight's.")
    return shape


def _grid_of(state: dict[str, Tensor], hidden_size: int) -> tuple[int, int]:
    """Leads and patches of the grid, from the stored positions: the lead half stays the same for the first lead's rows.

    Raises:
        EcgJepaCheckpointError: the positions are not the sines and cosines that we compute.
    """
    tokens, channels = _shape(state, "pos_embed", 2)
    stored = state["pos_embed"].double()
    lead_half = stored[:, channels // 2 :]
    num_patches = int(((lead_half - lead_half[0]).abs() <= POSITION_TOLERANCE).all(1).sum())
    num_leads = tokens // num_patches
    if channels == hidden_size and hidden_size % 4 == 0 and num_leads * num_patches == tokens:
        ours = grid_positions(torch.arange(num_patches), torch.arange(num_leads), hidden_size)
        difference = float((stored - ours).abs().max())
        if difference <= POSITION_TOLERANCE:
            return num_leads, num_patches
        what = f"differ by up to {difference:.2g} from the sines and cosines of {num_leads} x {num_patches} places"
    else:
        what = f"of shape {(tokens, channels)} are not those of a (lead, time) grid with {hidden_size} channels"
    raise EcgJepaCheckpointError(
        f"The positions in the checkpoint (pos_embed) {what}. Ours are computed, so the weights would not do here what "
        "they did there."
    )


def _lead_names(num_leads: int, leads: Sequence[str] | None) -> Sequence[str]:
    if leads is not None:
        if len(leads) != num_leads:
            raise EcgJepaConfigError(
                f"The checkpoint has {num_leads} leads, --leads names {len(leads)}: {', '.join(leads)}."
            )
        return leads
    standard = {len(names): names for names in (ECG_JEPA_LEADS, STANDARD_12_LEADS)}
    if num_leads not in standard:
        raise EcgJepaConfigError(
            f"The checkpoint has {num_leads} leads; only 8 and 12 have standard names. Name them in the order of "
            "training, e.g. --leads I,II,V1."
        )
    return standard[num_leads]


def _check_shapes(state: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    names = {*expected, "pos_embed"}
    missing, extra = sorted(names - state.keys()), sorted(map(str, state.keys() - names))
    if missing or extra:
        faults = [f"{what} {_some(keys)}" for what, keys in (("lacks", missing), ("has no place for", extra)) if keys]
        raise EcgJepaCheckpointError(f"The checkpoint is not an encoder of the authors: it {' and it '.join(faults)}.")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise EcgJepaCheckpointError(
                f"{name} in the checkpoint has the shape {tuple(state[name].shape)}; the other sizes need {shape}."
            )


# Ours to theirs -------------------------------------------------------------------------------------------------------


def convert_to_authors(folder: str | os.PathLike, target: str | os.PathLike, overwrite: bool = False) -> Conversion:
    """Write the encoder of one of our checkpoints as the authors' scripts load it: `{"encoder": ..., "epoch": n}`.

    Of a pretraining checkpoint this is the student. The number of heads and the names of leads are not in such a file:
    their scripts are told them. `epoch` is that of the authors' file that the checkpoint was converted from, else 0.

    Raises:
        EcgJepaCheckpointError: no checkpoint that loads, or a model that their code cannot express.
        EcgJepaOutputError: the file cannot be written or exists.
    """
    folder, target = checkpoint_folder(folder), Path(target)
    model, _ = load_encoder(folder, dtype=torch.float32)
    for field, value in _OF_THE_AUTHORS.items():
        if getattr(model.config, field) != value:
            raise EcgJepaCheckpointError(
                f"{folder} has {field}={getattr(model.config, field)!r}; the authors' code has {value!r} and no other."
            )
    epoch = read_json(folder / CONVERSION).get("epoch") if (folder / CONVERSION).is_file() else None
    state = {"pos_embed": _positions(model.config)}
    state |= {to_authors_name(name): tensor for name, tensor in model.state_dict().items()}
    buffer = io.BytesIO()  # torch's own file writer reports a full disk as an error of its own
    torch.save({"encoder": state, "epoch": epoch or 0}, buffer)
    with whole_file(target, overwrite) as unfinished:
        unfinished.write_bytes(buffer.getbuffer())
    weights = folder / "model.safetensors"
    return Conversion(weights, file_sha256(weights), target, file_sha256(target), model.config, epoch or 0)


def _positions(config: EcgJepaConfig) -> Tensor:
    """(leads * patches, hidden) float32, as the authors' encoder stores and adds them."""
    grid = grid_positions(torch.arange(config.num_patches), torch.arange(len(config.leads)), config.hidden_size)
    return (grid * config.position_scale).float()


# Words for messages ---------------------------------------------------------------------------------------------------


def _describe(value: Any) -> str:
    return f"a dictionary of {_some(value) or 'nothing'}" if isinstance(value, dict) else f"a {type(value).__name__}"


def _some(names: Iterable[Any], most: int = 5) -> str:
    names = list(map(str, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


__all__ = [
    "Conversion",
    "convert_from_authors",
    "convert_to_authors",
    "encoder_of_authors",
    "read_authors_checkpoint",
    "to_authors_name",
    "to_our_name",
]
