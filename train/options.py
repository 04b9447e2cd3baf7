"""Options as one flat dataclass, filled from a YAML recipe and then from the command line; those of pretraining."""

import argparse
import dataclasses
import difflib
import functools
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaConfigError

TRACKERS = ("none", "tensorboard", "trackio", "wandb")
PRECISIONS = ("no", "bf16", "fp16")

#: The name, beside those of corpora, of any folder that `ecg-jepa prepare` wrote.
PREPARED = "prepared"


@dataclasses.dataclass(frozen=True)
class CorpusChoice:
    """One corpus of a run: `NAME`, `NAME:FOLDER` or `NAME:FOLDER:WEIGHT` on the command line, or there too the keys of
    a recipe: `{name: NAME, OPTION: VALUE}`.

    Args:
        name: of a corpus, "challenge2021/georgia" for one of several configurations; or "prepared".
        data_dir: folder of a copy that is there already; None downloads it.
        weight: how often a record is drawn beside a record of weight 1.
        held_out: also its validation and test parts.
        options: of the corpus's builder; in a recipe all other keys.

    Raises:
        EcgJepaConfigError: a weight that is not above 0.
    """

    name: str
    data_dir: str | None = None
    weight: float = 1.0
    held_out: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        require(0 < self.weight < 1e6, "weight", self.weight, f"of {self.name} must be above 0 and below 1e6")

    @classmethod
    def read(cls, value: Any) -> "CorpusChoice":
        """
        Raises:
            TypeError, ValueError, YAMLError: a value that is neither such a word nor such a mapping.
        """
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = yaml.safe_load(value)
        elif isinstance(value, str):
            name, _, rest = value.partition(":")
            folder, _, weight = rest.rpartition(":")
            if not re.fullmatch(r"[0-9.]+", weight) or not folder:
                folder, weight = rest, "1"
            value = {"name": name, "data_dir": folder or None, "weight": float(weight)}
        if not isinstance(value, Mapping) or not value.get("name") or not all(isinstance(key, str) for key in value):
            raise TypeError(f"{value!r} names no corpus")
        named = [field.name for field in dataclasses.fields(cls) if field.name != "options"]
        given = {key: _as_kind(value[key], _CORPUS_TYPES[key]) for key in named if key in value}
        return cls(**given, options={key: item for key, item in value.items() if key not in named})

    @property
    def title(self) -> str:
        return self.name if self.data_dir is None else f"{self.name}:{self.data_dir}"


_CORPUS_TYPES = get_type_hints(CorpusChoice)


@dataclasses.dataclass(frozen=True)
class PretrainOptions:
    """Everything that a run is told: type, section of `--help` and meaning of each option, and what holds where
    neither recipe nor command line says anything. An option of the model left at None takes the preset's value.

    Raises:
        EcgJepaConfigError: a value that describes no run.
    """

    #: How `--help` begins and ends.
    HELP: ClassVar[dict[str, str]] = {
        "prog": "accelerate launch -m train.pretrain",
        "description": "Pretrain ECG-JEPA (arXiv 2410.08559) and leave a folder that AutoModel loads.",
        "epilog": "Options may be spelt with dashes or underscores. Example: accelerate launch -m train.pretrain "
        "--config train/recipes/quickstart.yaml --data_dir RECORDS --output_dir runs/mine",
    }

    output_dir: Annotated[str, "run", "folder for the model, the log and the summary"] = "runs/pretrain"
    overwrite: Annotated[bool, "run", "replace the run that is in the output folder"] = False
    seed: Annotated[int, "run", "initial weights, order of records, masks, synthetic data: all follow from it"] = 0
    max_steps: Annotated[int, "run", "optimizer steps"] = 1000
    logging_steps: Annotated[int, "run", "steps from one log line to the next"] = 50
    checkpointing_steps: Annotated[int, "run", "steps from one checkpoint to the next; 0: none"] = 0
    checkpoints_to_keep: Annotated[int, "run", "the newest so many checkpoints stay"] = 2
    resume_from_checkpoint: Annotated[
        str | None, "run", "go on from this checkpoint-STEP folder, or with `latest` from the newest, if there is one"
    ] = None
    tracker: Annotated[
        list[str] | None, "run", "where the log also goes: none, tensorboard (in OUTPUT_DIR/logs), trackio, wandb"
    ] = None
    mixed_precision: Annotated[
        str | None, "run", "no, bf16 or fp16 (GPUs only); as `accelerate launch` says if not given"
    ] = None
    compile: Annotated[bool, "run", "torch.compile the layers: minutes slower to start, then a little faster"] = False
    cpu_threads: Annotated[int | None, "run", "on a CPU: threads a process; all cores, shared, if not given"] = None

    data_dir: Annotated[
        list[str] | None, "data", "folders searched for WFDB records, or the folder of --corpus; synthetic if not given"
    ] = None
    corpus: Annotated[
        list[CorpusChoice] | None,
        "data",
        "corpora, their training parts: NAME (in --data_dir, or downloaded), NAME:FOLDER, NAME:FOLDER:WEIGHT, where a "
        "record of weight 2 is drawn twice as often as others, or '{name: NAME, OPTION: VALUE}'; NAME is that of a "
        "corpus (ptb_xl, code15, challenge2021/georgia, ...) or `prepared` for a folder of ecg-jepa prepare",
    ] = None
    allow_held_out: Annotated[
        bool, "data", "also the corpora's validation and test parts, on which models are judged"
    ] = False
    num_records: Annotated[int, "data", "synthetic records to generate"] = 1000
    batch_size: Annotated[int, "data", "records a process and batch"] = 64
    num_workers: Annotated[
        int, "data", "processes that read or generate records ahead of training; 0: the training process itself"
    ] = 0
    memory_gb: Annotated[float, "data", "up to this size records are kept in memory, not read every epoch"] = 4.0

    preset: Annotated[str, "model", "sizes: tiny, small or base (the paper's)"] = "base"
    hidden_size: Annotated[int | None, "model", "channels of the encoder, instead of the preset's"] = None
    num_hidden_layers: Annotated[int | None, "model", "layers of the encoder"] = None
    num_attention_heads: Annotated[int | None, "model", "attention heads of the encoder"] = None
    predictor_hidden_size: Annotated[int | None, "model", "channels of the predictor"] = None
    predictor_num_hidden_layers: Annotated[int | None, "model", "layers of the predictor"] = None
    predictor_num_attention_heads: Annotated[int | None, "model", "attention heads of the predictor"] = None
    leads: Annotated[list[str] | None, "model", "leads of the grid; I, II, V1-V6 if not given"] = None
    modality: Annotated[
        str | None, "model", "what the leads are: ecg, or other, channels of any other signal, named as you like; ecg"
    ] = None
    sampling_rate: Annotated[int | None, "model", "samples a second of the grid; 250"] = None
    patch_size: Annotated[int | None, "model", "samples of a patch; 50"] = None
    num_patches: Annotated[int | None, "model", "patches a lead; 50"] = None
    drop_path_rate: Annotated[float | None, "model", "stochastic depth of the last block; 0.1"] = None
    mask_type: Annotated[str | None, "model", "how times are hidden: multi_block or random; multi_block"] = None
    mask_ratio: Annotated[list[float] | None, "model", "random masks: range of the hidden share; 0.6 0.7"] = None
    mask_num_blocks: Annotated[int | None, "model", "multi-block masks: number of blocks; 4"] = None
    mask_block_ratio: Annotated[list[float] | None, "model", "multi-block masks: a block's share; 0.175 0.225"] = None
    mask_last_patch: Annotated[bool | None, "model", "multi-block masks: may hide the last patch; true"] = None
    patch_initializer_range: Annotated[
        float | None,
        "model",
        "lever against collapse on small data: spread of the patch embedding's first weights; 0.02",
    ] = None
    position_scale: Annotated[float | None, "model", "lever: factor on the positions; 1"] = None
    target_centering: Annotated[
        bool | None, "model", "lever: predict what differs from the mean target at the same lead and time; false"
    ] = None

    learning_rate: Annotated[float, "optimisation", "AdamW's highest, at the end of the warm-up"] = 5.5e-5
    min_learning_rate: Annotated[float, "optimisation", "where the warm-up starts and the cosine ends"] = 1e-6
    warmup_steps: Annotated[int, "optimisation", "steps of linear warm-up"] = 0
    weight_decay: Annotated[float, "optimisation", "of weights; biases and norms are not decayed"] = 0.05
    momentum_start: Annotated[float, "optimisation", "share of the old teacher kept at the first update"] = 0.996
    momentum_end: Annotated[float, "optimisation", "the same at the last update; linear between"] = 1.0
    num_masks: Annotated[int, "optimisation", "masks predicted from one pass of the teacher; 1 is the paper"] = 1
    gradient_accumulation_steps: Annotated[int, "optimisation", "batches a step, where one would not fit"] = 1
    lead_dropping: Annotated[
        float, "optimisation", "probability that a lead of a record is hidden from student and teacher in a step"
    ] = 0.0

    min_content_share: Annotated[
        float, "watching", "floor of the content share; below it targets are positions, not ECGs, and the run says so"
    ] = 0.0
    probe_records: Annotated[
        int, "watching", "held-out synthetic records of the heart-rate probe, half to fit, half to test; 0: none"
    ] = 400
    probe_steps: Annotated[
        int, "watching", "steps from one probe of the student to the next while training; 0: only at the end"
    ] = 0
    probe_corpus: Annotated[
        CorpusChoice | None,
        "watching",
        "labelled corpus, as in --corpus, whose training part is probed every --probe_steps: macro AUROC on every "
        "fourth patient, logistic regression fitted to the others; the encoder learns nothing from it",
    ] = None

    def __post_init__(self):
        at_least = {"max_steps": 1, "logging_steps": 1, "num_records": 1, "batch_size": 1, "num_workers": 0, "seed": 0}
        at_least |= {"warmup_steps": 0, "weight_decay": 0, "memory_gb": 0, "gradient_accumulation_steps": 1}
        at_least |= {"min_learning_rate": 0, "momentum_start": 0, "momentum_end": 0, "probe_records": 0}
        at_least |= {"checkpointing_steps": 0, "checkpoints_to_keep": 1, "num_masks": 1, "probe_steps": 0}
        at_least |= {"lead_dropping": 0}
        for name, least in at_least.items():
            require(getattr(self, name) >= least, name, getattr(self, name), f"must be at least {least}")
        for name in ("momentum_start", "momentum_end", "min_content_share", "lead_dropping"):
            require(getattr(self, name) <= 1, name, getattr(self, name), "must be at most 1")
        lowest, threads, probe = self.min_learning_rate, self.cpu_threads, self.probe_records
        require(
            self.learning_rate >= lowest, "learning_rate", self.learning_rate, f"is below min_learning_rate={lowest}"
        )
        rule = f"must be below max_steps={self.max_steps}; a short first look needs --warmup_steps 0"
        require(self.warmup_steps < self.max_steps, "warmup_steps", self.warmup_steps, rule)
        require(threads is None or threads >= 1, "cpu_threads", threads, "must be at least 1")
        self.corpora()
        for name, known in (("tracker", TRACKERS), ("mixed_precision", PRECISIONS)):
            for value in _as_list(getattr(self, name)):
                require(value in known, name, value, f"is none of {', '.join(known)}")
        labelled = self.probe_corpus is None or self.probe_steps > 0
        title = self.probe_corpus and self.probe_corpus.title
        require(labelled, "probe_corpus", title, "is probed every --probe_steps steps; give those too")
        probed = self.probe_steps == 0 or self.probe_corpus is not None or probe > 0
        require(probed, "probe_steps", self.probe_steps, "need --probe_records or --probe_corpus to probe")
        require(probe == 0 or probe >= 20, "probe_records", probe, "must be 0, or at least 20: intervals need records")
        rule = "are synthetic ECGs, which say nothing of a model of another signal; give 0"
        require(probe == 0 or self.modality != "other", "probe_records", probe, rule)

    def corpora(self) -> list[CorpusChoice]:
        """The corpora of the run with the folder and the leave that stand beside them; none without `corpus`.

        Raises:
            EcgJepaConfigError: `data_dir` beside corpora that it cannot belong to.
        """
        choices = self.corpus or []
        if choices and self.data_dir:
            alone = len(choices) == len(self.data_dir) == 1 and choices[0].data_dir is None
            require(alone, "data_dir", self.data_dir, "is the folder of one corpus; give several as NAME:FOLDER")
            choices = [dataclasses.replace(choices[0], data_dir=self.data_dir[0])]
        return [dataclasses.replace(choice, held_out=choice.held_out or self.allow_held_out) for choice in choices]

    def model_config(self) -> EcgJepaConfig:
        """The preset with the model's options that were given.

        Raises:
            EcgJepaConfigError: values that describe no model.
        """
        meanings = _meanings(PretrainOptions)
        names = [name for name, (section, _) in meanings.items() if section == "model" and name != "preset"]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return EcgJepaConfig.from_preset(self.preset, **given)


Options = TypeVar("Options")
"""A dataclass as `PretrainOptions`: every field annotated with its section and meaning, and `HELP`."""


@functools.cache
def _types(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _meanings(kind: type) -> dict[str, tuple[str, str]]:
    """Section and meaning of each option."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: get_args(hints[field.name])[1:] for field in dataclasses.fields(kind)}


def read_options(arguments: Sequence[str], kind: type[Options] = PretrainOptions) -> Options:
    """Options from a command line; `--config FILE.yaml` is read first, the other options override it.

    Raises:
        EcgJepaConfigError: an unknown option (the nearest known one is named), a wrong type, an unreadable recipe.
        SystemExit: after `--help`.
    """
    given, unknown = _parser(kind).parse_known_args([with_underscores(text) for text in arguments])
    if unknown:
        raise EcgJepaConfigError(f"There is no option {unknown[0]!r}.{_nearest(unknown[0], kind)}")
    values = vars(given)
    recipe = values.pop("config", None)
    return kind(**{**(read_recipe(recipe, kind) if recipe else {}), **values})


def read_recipe(path: str, kind: type = PretrainOptions) -> dict[str, Any]:
    """The options in a YAML file.

    Raises:
        EcgJepaConfigError: no such file, no mapping, an unknown key, a wrong type.
    """
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        there = ", ".join(sorted(file.name for file in Path(path).parent.glob("*.yaml"))) or "none"
        raise EcgJepaConfigError(f"Cannot read the recipe {path}: {error.strerror}. In its folder: {there}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EcgJepaConfigError(f"The recipe {path} is no YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise EcgJepaConfigError(f"The recipe {path} must be lines of `option: value`.")
    values, types_of = {}, _types(kind)
    for name, value in recipe.items():
        if name not in types_of:
            raise EcgJepaConfigError(f"{path}: there is no option {name!r}.{_nearest(str(name), kind)}")
        try:
            values[name] = _as_kind(value, types_of[name])
        except EcgJepaConfigError as error:
            raise EcgJepaConfigError(f"{path}: {name}: {error}") from error
        except (TypeError, ValueError, yaml.YAMLError) as error:
            raise EcgJepaConfigError(f"{path}: {name}: {value!r} is not {_in_words(types_of[name])}.") from error
    return values


# Values, of YAML and of the command line, checked against the types above ---------------------------------------------


def _as_kind(value: Any, kind: Any) -> Any:
    """`value` if it is of `kind`; YAML leaves 1e-3, a number without a dot, as text.

    Raises:
        TypeError, ValueError: it is of another kind.
    """
    if isinstance(kind, types.UnionType):
        return None if value is None else _as_kind(value, get_args(kind)[0])
    if get_origin(kind) is list:
        return [_as_kind(item, *get_args(kind)) for item in _as_list(value)]
    if kind is CorpusChoice:
        return CorpusChoice.read(value)
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _from_text(kind: Any) -> Any:
    """What makes a value of `kind` of a word on the command line."""

    def convert(text: str) -> Any:
        if kind is str:
            return text
        try:
            return _as_kind(text if kind is CorpusChoice else yaml.safe_load(text), kind)
        except EcgJepaConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except (TypeError, ValueError, yaml.YAMLError) as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not {_in_words(kind)}") from error

    return convert


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _in_words(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return f"{_in_words(get_args(kind)[0])} or null"
    if get_origin(kind) is list:
        words = {str: "a list of words", float: "a list of numbers", CorpusChoice: "a list of corpora"}
        return words[get_args(kind)[0]]
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", CorpusChoice: "a corpus"}
    return words[kind]


# The command line -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise EcgJepaConfigError(f"{message[0].upper()}{message[1:]}. --help explains every option.")


def _parser(kind: type) -> argparse.ArgumentParser:
    parser = _Parser(
        **kind.HELP,
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML recipe; its keys are the options below")
    meanings = _meanings(kind)
    sections = {section: parser.add_argument_group(section) for section, _ in meanings.values()}
    for field in dataclasses.fields(kind):
        section, meaning = meanings[field.name]
        default = "" if field.default is None else f" (default: {str(field.default).replace('False', 'false')})"
        help_text = (meaning + default).replace("%", "%%")  # argparse formats it: "95% intervals" would be a format
        sections[section].add_argument(f"--{field.name}", help=help_text, **_argument(_types(kind)[field.name]))
    return parser


def _argument(kind: Any) -> dict[str, Any]:
    kind = get_args(kind)[0] if isinstance(kind, types.UnionType) else kind
    if kind is bool:
        return {"type": _from_text(bool), "nargs": "?", "const": True, "metavar": "true|false"}
    if get_origin(kind) is list:
        item = get_args(kind)[0]
        several = {"action": "extend"} if item is CorpusChoice else {}
        return {"type": _from_text(item), "metavar": _metavar(item), "nargs": "+", **several}
    return {"type": _from_text(kind), "metavar": _metavar(kind)}


def _metavar(kind: Any) -> str:
    return "NAME[:FOLDER[:WEIGHT]]" if kind is CorpusChoice else "VALUE"


def with_underscores(text: str) -> str:
    """A word of the command line, its option spelt as ours are."""
    if not text.startswith("--"):
        return text
    name, equals, value = text[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _nearest(name: str, kind: type) -> str:
    name = name.lstrip("-").split("=")[0]
    near = difflib.get_close_matches(name, [*_types(kind), "config"], n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else " --help lists all options."


def require(holds: bool, name: str, value: Any, rule: str) -> None:
    """
    Raises:
        EcgJepaConfigError: the rule that an option's value has to obey does not hold.
    """
    if not holds:
        raise EcgJepaConfigError(f"{name}={value!r} {rule}.")
