"""From what people have to what the weights expect: the one extractor of pretraining, fine-tuning and use."""

import collections
import difflib
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import FEATURE_EXTRACTOR_NAME, logging

from .configuration_ecg_jepa import EcgJepaConfig, canonical_config_leads
from .errors_ecg_jepa import EcgJepaCheckpointError, EcgJepaConfigError, EcgJepaInputError, EcgJepaOutputError
from .hub_ecg_jepa import EXTRACTOR_AUTO_MAP, save_code
from .input_ecg_jepa import EcgInput, read_inputs
from .leads_ecg_jepa import ECG_JEPA_LEADS, Modality
from .preparation_ecg_jepa import (
    NativePieces,
    Piece,
    check_amplitudes,
    check_usable,
    cut_findings,
    pick_leads,
    piece_findings,
    stack_pieces,
)
from .quality_ecg_jepa import EcgFinding
from .resampling_ecg_jepa import bandpass, resample
from .units_ecg_jepa import canonical_unit

logger = logging.get_logger(__name__)

# Samples computed in one call: 4 MB in double precision, which stays in the cache.
_SAMPLES_TOGETHER = 500_000

# What transformers stores in preprocessor_config.json beside our options.
_TRANSFORMERS_KEYWORDS = frozenset({"auto_map", "feature_extractor_type", "processor_class"})


class EcgJepaFeatureExtractor(FeatureExtractionMixin):
    r"""
    Turns ECG records of any rate, lead set, unit and length into the (lead, time) grid that ECG-JEPA expects.

    Args:
        leads (`Sequence[str]`, defaults to I, II, V1-V6): the model's leads, in its order.
        sampling_rate (`int`, defaults to 250): the model's samples a second.
        patch_size (`int`, defaults to 50): samples of a patch.
        num_patches (`int`, defaults to 50): patches of a full record (10 s).
        unit (`str`, defaults to `"mV"`): unit of the signals given, `"mV"`, `"uV"` or `"V"`; the output is in mV.
        derive_leads (`bool`, defaults to `True`): compute limb leads that are missing but follow from two others.
        truncation (`str`, *optional*, defaults to `"start"`): which part of a record longer than `num_patches` is used:
            `"start"` (as the authors), `"center"`, `"random"`, or `None` for all of it.
        window_seconds (`float`, *optional*): cut records into windows of this length (whole patches) instead. All
            windows are whole, except that a record shorter than one is a padded window.
        stride_seconds (`float`, *optional*): from one window's start to the next's; `window_seconds` if not given.
        padding (`str`, defaults to `"max_length"`): shorter records are padded with zeros to `num_patches` (or to the
            window), or with `"longest"` only to the longest of the batch.
        nan_policy (`str`, defaults to `"error"`): what happens to values that are NaN or infinite; `"interpolate"`
            fills gaps of up to 0.2 s linearly.
        bandpass (`tuple[float, float]`, *optional*): edges in Hz of a zero-phase Butterworth band-pass of order 5 after
            resampling; the authors' fine-tuning uses (0.67, 40.0).
        modality (`str`, defaults to `"ecg"`): what the model sees. With `"other"`, any other signal of several channels
            (EEG, EMG, ...), `leads` are channels by exactly these names, every record names its rows, and nothing is
            derived, nor refused for its size. What is no voltage is passed as it is, `unit` left out.

    Raises:
        EcgJepaConfigError: an unknown option or a value that an option cannot have.

    ```python
    >>> import numpy as np
    >>> from modeling_ecg_jepa import EcgJepaFeatureExtractor
    >>> signal = np.random.default_rng(0).normal(size=(2, 5000))
    >>> inputs = EcgJepaFeatureExtractor()(signal, sampling_rate=500, leads=["II", "V1"], return_tensors="pt")
    >>> inputs["input_values"].shape, inputs["lead_mask"].sum().item()
    (torch.Size([1, 8, 2500]), 2)
    ```
    """

    model_input_names = ["input_values", "lead_mask", "attention_mask"]

    def __init__(
        self,
        leads: Sequence[str] = ECG_JEPA_LEADS,
        sampling_rate: int = 250,
        patch_size: int = 50,
        num_patches: int = 50,
        unit: str = "mV",
        derive_leads: bool = True,
        truncation: str | None = "start",
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        padding: str = "max_length",
        nan_policy: str = "error",
        bandpass: Sequence[float] | None = None,
        modality: Modality = "ecg",
        **kwargs,
    ):
        self._refuse_unknown(kwargs)
        super().__init__()
        self.sampling_rate = _positive_integer("sampling_rate", sampling_rate)
        self.patch_size = _positive_integer("patch_size", patch_size)
        self.num_patches = _positive_integer("num_patches", num_patches)
        self.modality = _one_of("modality", modality, get_args(Modality))
        self.leads, self.unit = _config_leads(leads, self.modality), _config_unit(unit)
        self.derive_leads = _one_of("derive_leads", derive_leads, (True, False))
        self.truncation = _one_of("truncation", truncation, ("start", "center", "random", None))
        self.padding = _one_of("padding", padding, ("max_length", "longest"))
        self.nan_policy = _one_of("nan_policy", nan_policy, ("error", "interpolate"))
        self.window_seconds, self.stride_seconds = self._checked_windows(window_seconds, stride_seconds)
        self.bandpass = self._checked_band(bandpass)

    @classmethod
    def from_config(cls, config: EcgJepaConfig, **options) -> "EcgJepaFeatureExtractor":
        """The extractor that fits a model: its leads, rate and grid from the config, `options` for the rest."""
        names = ("leads", "modality", "sampling_rate", "patch_size", "num_patches")
        return cls(**{name: getattr(config, name) for name in names}, **options)

    def __call__(
        self,
        signal: Any,
        sampling_rate: float | Sequence[float] | None = None,
        leads: Sequence[str] | Sequence[Sequence[str] | None] | None = None,
        unit: str | Sequence[str] | None = None,
        *,
        return_tensors: str | None = "pt",
        return_findings: bool = False,
        generator: torch.Generator | None = None,
        **options,
    ) -> BatchFeature:
        """
        Args:
            signal (`np.ndarray`, `torch.Tensor` or a list of them): one record (leads, samples), a batch
                (batch, leads, samples), or a list of records of any lengths.
            sampling_rate (`float` or one a record): samples a second of the records as given. Required.
            leads (`list[str]` or one a record, *optional*): names of the rows; may be left out for the standard 12.
            unit (`str` or one a record, *optional*): unit of the values; the extractor's own (mV) if not given.
            return_tensors (`str`, defaults to `"pt"`): torch tensors, or numpy arrays with `"np"`.
            return_findings (`bool`): also return `findings`, a list of `EcgFinding`.
            generator (`torch.Generator`, *optional*): draws the crops of `truncation="random"`; else torch's own.
            options: any option of the extractor, for this call.

        Returns:
            `BatchFeature`: `input_values` (rows, leads, samples) float32 in mV, `lead_mask` (rows, leads) bool,
            `attention_mask` (rows, patches) bool, a row for each record. With windows a row for each window, and
            `window_to_record` (rows,) int64 and `window_start_seconds` (rows,) float64.

        Raises:
            EcgJepaInputError: the signal, or what is said about it, does not fit the input contract.
            EcgJepaConfigError: an unknown option or value.
        """
        if options:
            extractor = type(self)(**{**vars(self), **options})
            return extractor(
                signal,
                sampling_rate,
                leads,
                unit,
                return_tensors=return_tensors,
                return_findings=return_findings,
                generator=generator,
            )
        as_tensors = _one_of("return_tensors", return_tensors, ("pt", "np", None)) != "np"
        unit = self.unit if unit is None else unit
        records = read_inputs(signal, sampling_rate, leads, unit, self.leads, self.modality)
        pieces = [piece for record in records for piece in self._cut(record, generator)]
        data, findings = self._extract(pieces, return_findings)
        if self.window_seconds is not None:
            data["window_to_record"] = np.array([piece.record.index for piece in pieces])
            data["window_start_seconds"] = np.array([piece.start / piece.record.sampling_rate for piece in pieces])
        if as_tensors:
            data = {name: torch.from_numpy(array) for name, array in data.items()}
        if return_findings:
            data["findings"] = findings
        return BatchFeature(data)

    # From records to pieces ------------------------------------------------------------------------------------------

    def spans(
        self, samples: int, sampling_rate: float, generator: torch.Generator | None = None
    ) -> list[tuple[int, int]]:
        """Which parts of a record of this length and rate are used, (start, samples) each: its crop, or its windows."""
        if self.window_seconds is not None and self.stride_seconds is not None:
            length = _samples(self.window_seconds, sampling_rate)
            stride = self.stride_seconds * sampling_rate
            starts = [
                round(place * stride) for place in range(1 + max(0, math.floor((samples - length) / stride + 1e-9)))
            ]
        else:
            length = samples if self.truncation is None else _samples(self._grid_seconds, sampling_rate)
            starts = [self._crop_start(samples - length, generator)]
        length = min(length, samples)
        return [(min(start, samples - length), length) for start in starts]

    def _cut(self, record: EcgInput, generator: torch.Generator | None) -> list[Piece]:
        """Where a record is used, at its own rate: so that what lies elsewhere has no influence."""
        rate, patch_seconds = record.sampling_rate, self.patch_size / self.sampling_rate
        if record.modality == "other" and rate * patch_seconds < 0.99:
            raise EcgJepaInputError(
                f"{record.where}sampling_rate={rate:g} gives less than a sample a patch of {patch_seconds:g} s: it is "
                "counted in samples a second, not in kHz and not as the time between samples."
            )
        pieces = [Piece(record, *span) for span in self.spans(record.signal.shape[1], rate, generator)]
        if self._patches(pieces[0].length, rate) == 0:
            raise EcgJepaInputError(
                f"{record.where}{pieces[0].length} samples at {rate:g} Hz hold no whole patch of {patch_seconds:g} s; "
                "a longer record is needed."
            )
        return pieces

    def _crop_start(self, spare: int, generator: torch.Generator | None) -> int:
        if spare <= 0 or self.truncation == "start":
            return 0
        if self.truncation == "center":
            return spare // 2
        return int(torch.randint(spare + 1, (), generator=generator))

    @property
    def _grid_seconds(self) -> float:
        return self.num_patches * self.patch_size / self.sampling_rate

    def _patches(self, length: int, rate: float) -> int:
        return round(length * self.sampling_rate / rate) // self.patch_size

    # From pieces to arrays -------------------------------------------------------------------------------------------

    def _extract(self, pieces: Sequence[Piece], with_findings: bool) -> tuple[dict[str, Any], list[EcgFinding]]:
        """The three arrays, and findings if wanted. Pieces of one length, rate and lead set are computed together."""
        patches = np.array([self._patches(piece.length, piece.record.sampling_rate) for piece in pieces])
        grid = max(patches.max(), self._least_patches())
        input_values = np.zeros((len(pieces), len(self.leads), grid * self.patch_size), dtype=np.float32)
        lead_mask = np.zeros((len(pieces), len(self.leads)), dtype=bool)
        findings = cut_findings(pieces) if with_findings else []
        for rows in _alike(pieces):
            group = [pieces[row] for row in rows]
            native = stack_pieces(group, self.leads, self.nan_policy)
            values, lead_mask[rows] = self._on_grid(group, native)
            input_values[rows, :, : values.shape[-1]] = values
            if with_findings:
                for place, row in enumerate(rows):
                    findings += piece_findings(pieces[row], row, native, place, self.leads, lead_mask[row])
        attention_mask = np.arange(grid) < patches[:, None]
        return {"input_values": input_values, "lead_mask": lead_mask, "attention_mask": attention_mask}, findings

    def _least_patches(self) -> int:
        if self.padding == "longest":
            return 0
        if self.window_seconds is None:
            return self.num_patches
        return round(self.window_seconds * self.sampling_rate / self.patch_size)

    def _on_grid(self, group: Sequence[Piece], native: NativePieces) -> tuple[np.ndarray, np.ndarray]:
        """The group's (pieces, leads, samples) at the model's rate in whole patches, and its (pieces, leads) mask."""
        values, lead_mask = pick_leads(native, self.leads, self.derive_leads and self.modality == "ecg")
        check_usable(group, lead_mask, self.leads)
        values = resample(values, round(group[0].length * self.sampling_rate / group[0].record.sampling_rate))
        check_amplitudes(group, values, lead_mask)
        if self.bandpass is not None:
            values = bandpass(values, self.bandpass, self.sampling_rate)
        return values[..., : values.shape[-1] // self.patch_size * self.patch_size], lead_mask

    # Options and files -----------------------------------------------------------------------------------------------

    @classmethod
    def _options(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "kwargs")]

    def _refuse_unknown(self, kwargs: Mapping[str, Any]) -> None:
        for keyword in kwargs:
            if keyword in _TRANSFORMERS_KEYWORDS:
                continue
            near = difflib.get_close_matches(keyword, self._options(), n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else f" It has {', '.join(self._options())}."
            raise EcgJepaConfigError(f"EcgJepaFeatureExtractor has no option {keyword!r}.{hint}")

    def _checked_windows(self, window: float | None, stride: float | None) -> tuple[float | None, float | None]:
        if window is None:
            if stride is not None:
                raise EcgJepaConfigError(f"stride_seconds={stride!r} needs window_seconds as well.")
            return None, None
        patches = _positive("window_seconds", window) * self.sampling_rate / self.patch_size
        if patches < 0.5 or abs(patches - round(patches)) > 1e-6:
            patch = self.patch_size / self.sampling_rate
            near = max(1, round(patches)) * patch
            raise EcgJepaConfigError(
                f"window_seconds={window!r} is no whole number of patches of {patch:g} s; {near:g} would be."
            )
        stride = window if stride is None else _positive("stride_seconds", stride)
        if stride * self.sampling_rate < 1:
            raise EcgJepaConfigError(f"stride_seconds={stride!r} is less than a sample at {self.sampling_rate} Hz.")
        return window, stride

    def _checked_band(self, band: Sequence[float] | None) -> tuple[float, float] | None:
        if band is None:
            return None
        nyquist = self.sampling_rate / 2
        edges = [_positive("bandpass", edge) for edge in band] if isinstance(band, (list, tuple)) else []
        if len(edges) != 2 or not edges[0] < edges[1] < nyquist:
            raise EcgJepaConfigError(
                f"bandpass={band!r} must be two frequencies (low, high) in Hz with 0 < low < high < {nyquist:g}; "
                "the authors' are (0.67, 40.0)."
            )
        return edges[0], edges[1]

    def to_dict(self) -> dict[str, Any]:
        """The options and what the Auto classes need: the content of preprocessor_config.json."""
        return {**super().to_dict(), "auto_map": dict(EXTRACTOR_AUTO_MAP)}

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Write the options as JSON; the file is replaced whole or, if that fails, left as it was.

        Raises:
            EcgJepaOutputError: the file cannot be written.
        """
        path = Path(json_file_path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(unfinished, "w", encoding="utf-8") as file:
                file.write(self.to_json_string())
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise EcgJepaOutputError(f"Cannot write {path}: {error}. Choose a place that you may write to.") from error

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As in transformers, with the code beside it, so that the folder is self-contained.

        Raises:
            EcgJepaOutputError: the folder cannot be made or written to.
        """
        save_code(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def get_feature_extractor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As in transformers.

        Raises:
            EcgJepaCheckpointError: a folder without preprocessor_config.json, or with a damaged one.
        """
        try:
            return super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError as error:
            folder = Path(pretrained_model_name_or_path)
            if not folder.is_dir():
                raise  # a name on the Hub: transformers says what is wrong
            state = "is no valid JSON" if (folder / FEATURE_EXTRACTOR_NAME).is_file() else "is missing"
            raise EcgJepaCheckpointError(
                f"{folder}: {FEATURE_EXTRACTOR_NAME} {state}, so nothing says which input the weights expect. "
                "If the folder holds an ECG-JEPA model, write it anew: EcgJepaFeatureExtractor.from_config("
                f"EcgJepaConfig.from_pretrained({str(folder)!r})).save_pretrained({str(folder)!r})."
            ) from error

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs):
        """As in transformers; an option of a newer version, unknown to this one, is dropped with a warning."""
        options = cls._options()
        unknown = sorted(set(feature_extractor_dict) - {*options, *_TRANSFORMERS_KEYWORDS})
        if unknown:
            logger.warning(
                f"{FEATURE_EXTRACTOR_NAME} has options that this version of ecg-jepa does not know and ignores: "
                f"{', '.join(unknown)}. They may come from a newer version; update the package to honour them."
            )
        known = {name: value for name, value in feature_extractor_dict.items() if name not in unknown}
        known.update({name: kwargs.pop(name) for name in options if name in kwargs})
        return super().from_dict(known, **kwargs)


def _alike(pieces: Sequence[Piece]) -> list[list[int]]:
    """Rows of pieces to compute together: of one lead set, rate and length, a cacheful at a time, records undivided."""
    groups: dict[tuple, list[list[int]]] = collections.defaultdict(list)
    for row, piece in enumerate(pieces):
        batches = groups[piece.record.leads, piece.record.sampling_rate, piece.length]
        samples = len(batches[-1]) * piece.length * len(piece.record.leads) if batches else 0
        if not batches or (samples >= _SAMPLES_TOGETHER and pieces[batches[-1][-1]].record is not piece.record):
            batches.append([])
        batches[-1].append(row)
    return [batch for batches in groups.values() for batch in batches]


def _samples(seconds: float, rate: float) -> int:
    """Samples that hold `seconds` whole; a rate like 499.9999 from a header still gives 5,000 for 10 s."""
    return math.ceil(seconds * rate - 1e-2)


def _one_of(name: str, value: Any, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if isinstance(value, type(choice)) and value == choice:
            return choice
    raise EcgJepaConfigError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}.")


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)) or not 0 < value < 1e9:
        raise EcgJepaConfigError(f"{name}={value!r} must be a positive number, below 1e9.")
    return float(value)


def _positive_integer(name: str, value: Any) -> int:
    if not _positive(name, value).is_integer():
        raise EcgJepaConfigError(f"{name}={value!r} must be a positive whole number.")
    return int(value)


def _config_leads(leads: Sequence[str], modality: Modality) -> list[str]:
    if not isinstance(leads, (list, tuple, np.ndarray)) or len(leads) == 0:
        raise EcgJepaConfigError(f"leads={leads!r} must be a list of at least one lead name.")
    return canonical_config_leads(leads, modality)


def _config_unit(unit: str) -> str:
    try:
        return canonical_unit(unit)
    except EcgJepaInputError as error:
        raise EcgJepaConfigError(f"unit={unit!r}: {error}") from error


__all__ = ["EcgJepaFeatureExtractor"]
