"""What a card says of the pretraining, from `training_state.json` and the log: data, settings, and the command."""

import collections
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset_scripts.corpus import About
from dataset_scripts.dataset_card import markdown_table
from dataset_scripts.loading import corpus_class

from ..configuration_ecg_jepa import EcgJepaConfig
from ..errors_ecg_jepa import EcgJepaCheckpointError
from .checkpoint import read_json
from .info import TRAINING_STATE

LOG, CURVES = "train_log.jsonl", "curves.png"

#: The name of a corpus that is any folder of `ecg-jepa prepare`.
PREPARED = "prepared"

#: Options of a run that decide neither data nor weights.
BOOKKEEPING = frozenset(
    "output_dir overwrite logging_steps checkpointing_steps checkpoints_to_keep resume_from_checkpoint tracker "
    "cpu_threads num_workers memory_gb min_content_share probe_records probe_steps probe_corpus".split()
)

#: Of a corpus: what is not shown, for it is spread out or is but a place.
_UNTOLD = ("options", "data_dir")

LEVERS = {
    "patch_initializer_range": "spread of the patch embedding's first weights: larger, and the targets say what the "
    "signal is, not only where it is",
    "position_scale": "factor on the positions that are added before every layer",
    "target_centering": "only what differs from the mean target at the same lead and time is predicted",
}

_PATH = re.compile(r"(?<![\w./~<-])~?/(?:[^\s:,;'\"{}()\[\]=/]+/)*([^\s:,;'\"{}()\[\]=/]+)/?")


def without_paths(text: str) -> str:
    """Absolute paths cut to their last part: they name the machine, and are of use on no other."""
    return _PATH.sub(lambda found: found[1], text)


def shown_command(command: str) -> str:
    """A recorded command with its absolute paths cut to their last part."""
    words = shlex.split(command)
    return shlex.join(_last(word) if word.startswith(("/", "~")) else without_paths(word) for word in words)


def read_pretraining(folder: Path) -> dict[str, Any] | None:
    """`training_state.json` with the first line of the log as "log"; None where the folder comes from no run.

    Raises:
        EcgJepaCheckpointError: a file is damaged.
    """
    if not (folder / TRAINING_STATE).is_file():
        return None
    state = read_json(folder / TRAINING_STATE)
    absent = [name for name in ("steps", "records", "seconds", "options", "content_share") if name not in state]
    if absent:
        raise EcgJepaCheckpointError(
            f"{folder / TRAINING_STATE} lacks {', '.join(absent)}; it is damaged or of another version. Copy it again."
        )
    return state | {"log": _head_of_log(folder / LOG)}


def _head_of_log(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as lines:
        try:
            head = json.loads(next(lines, "{}"))
        except ValueError as error:
            raise EcgJepaCheckpointError(f"{path} is damaged ({error}) in its first line. Copy it again.") from error
    return head if "options" in head else {}


# Data -----------------------------------------------------------------------------------------------------------------


def corpora_of(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The corpora of a run as its options name them; the generated one where they name nothing."""
    named = [dict(choice) for choice in options.get("corpus") or []]
    if not named and not options.get("data_dir"):
        return [{"name": "synthetic", "options": {"records": options.get("num_records")}}]
    return named


def about_corpora(options: Mapping[str, Any]) -> dict[str, About]:
    """What is known of the corpora that have a name; nothing of folders of a user's own."""
    names = [choice["name"].partition("/")[0] for choice in corpora_of(options)]
    return {name: corpus_class(name).ABOUT for name in names if name not in (PREPARED, "wfdb_folder")}


def data_table(state: Mapping[str, Any]) -> str:
    options = state["options"]
    rows = [["corpus", "which part", "licence"], *map(_corpus_row, corpora_of(options))]
    if not options.get("corpus"):
        folders = [f"WFDB records of the folder {_last(folder)}" for folder in options.get("data_dir") or []]
        rows += [[folder, "every record", "not told"] for folder in folders]
    return markdown_table(rows)


def _corpus_row(choice: Mapping[str, Any]) -> list[str]:
    options = {name: value for name, value in (choice.get("options") or {}).items() if value is not None}
    told = ", ".join(f"{name} {_shown(value)}" for name, value in options.items())
    part = "all parts, the held-out ones too" if choice.get("held_out") else "training part"
    if choice["name"] == "ptb_xl" and not choice.get("held_out"):
        part += " (folds 9 and 10 unseen)"
    if choice["name"] == "synthetic":
        part = "generated, not recorded from anyone"
    if choice.get("weight", 1) != 1:
        part += f", each record drawn {choice['weight']:g} times as often as one of weight 1"
    part += f"; {told}" if told else ""
    if choice["name"] in (PREPARED, "wfdb_folder"):
        return [f"{choice['name']}: {_last(choice.get('data_dir') or '')}", part, "see the card of that folder"]
    about = corpus_class(choice["name"].partition("/")[0]).ABOUT
    title = f"[{about.title}]({about.homepage})" + (f", {choice['name']}" if "/" in choice["name"] else "")
    return [title, part, about.license]


def records_in_words(state: Mapping[str, Any]) -> str:
    """How many records, and how many were left out for what."""
    text = f"{state['records']:,} records, without their labels."
    reasons = collections.Counter(record["reason"] for record in state.get("records_left_out") or [])
    if reasons:
        text += " Left out: " + ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()) + "."
    if state["options"].get("allow_held_out") or any(choice.get("held_out") for choice in corpora_of(state["options"])):
        text += " **Records on which models are judged were among them: results on those prove nothing.**"
    return text


# Settings -------------------------------------------------------------------------------------------------------------


def settings_table(state: Mapping[str, Any], config: EcgJepaConfig) -> str:
    return markdown_table([["setting", "value"], *_settings(state, config)])


def _settings(state: Mapping[str, Any], config: EcgJepaConfig) -> Iterator[list[str]]:
    options, log = state["options"], state["log"]
    batch = options["batch_size"] * options.get("gradient_accumulation_steps", 1) * log.get("processes", 1)
    passes = state["steps"] * batch / state["records"]
    yield ["steps", f"{state['steps']:,} of {batch:,} records: {passes:.1f} passes over the data; seed {state['seed']}"]
    yield ["masks", f"{_masks(config)}; {options.get('num_masks', 1)} for each pass of the teacher"]
    rates = f"{options['learning_rate']:g} after {options['warmup_steps']:,} steps of warm-up"
    rates += f", cosine to {options['min_learning_rate']:g}"
    yield ["AdamW", f"learning rate {rates}; weight decay {options['weight_decay']:g}"]
    yield ["teacher", f"moving average, momentum {options['momentum_start']:g} to {options['momentum_end']:g}"]
    yield ["stochastic depth", f"{config.drop_path_rate:g}, in the student alone"]
    if options.get("lead_dropping"):
        yield ["lead dropping", f"{options['lead_dropping']:g} of the leads hidden from student and teacher"]
    yield ["content share", _content_share(state["content_share"])]
    loss = state["loss"]
    told = f"{loss['first_logged']:.3f} at first, {loss['last_logged']:.3f} at last"
    yield ["loss", f"{told}; it says little about what was learned"]
    for pool, probe in (state.get("heart_rate_probe") or {}).items():
        ours, random = (_error(probe[name]) for name in ("pretrained_mae", "random_mae"))
        yield [f"heart rate of synthetic records, {pool} pool", f"mean error {ours} bpm; random weights {random} bpm"]
    part = " since it was last resumed" if options.get("resume_from_checkpoint") else ""
    yield ["wall time", f"{state['seconds'] / 3600:.2f} hours{part}{_machine(log)}"]


def _content_share(share: Mapping[str, Any]) -> str:
    text = (
        f"{share['at_start']:.3f} at the start, {share['at_end']:.3f} at the end: the part of the targets that differs "
        "between records"
    )
    return text if share["held"] else f"{text}; **fell below the floor of {share['floor']:g}: a collapse**"


def _error(number: Mapping[str, float]) -> str:
    return f"{number['value']:.2f} ({number['low']:.2f} to {number['high']:.2f})"


def _machine(log: Mapping[str, Any]) -> str:
    if not log:
        return ""
    number, precision = log["processes"], log["mixed_precision"]
    text = f" on {log['device']}, {number} process{'es' if number > 1 else ''}"
    return text if precision == "no" else f"{text}, in {precision}"


def _masks(config: EcgJepaConfig) -> str:
    if config.mask_type == "random":
        low, high = config.mask_ratio
        return f"random, {low:g} to {high:g} of the times hidden"
    low, high = config.mask_block_ratio
    end = "may reach" if config.mask_last_patch else "never reach"
    return f"{config.mask_num_blocks} blocks of {low:g} to {high:g} of the times, which {end} the last patch"


def levers_table(config: EcgJepaConfig) -> str:
    paper = EcgJepaConfig()
    rows = [["lever", "here", "paper", "what it does"]]
    for name, does in LEVERS.items():
        rows.append([f"`{name}`", *(_shown(getattr(each, name)) for each in (config, paper)), does])
    return markdown_table(rows)


# The command ----------------------------------------------------------------------------------------------------------


def pretraining_command(options: Mapping[str, Any]) -> str:
    """The command that gives these options again, an option a line; folders by their last part."""
    lines = ["accelerate launch -m train.pretrain"]
    for name, value in options.items():
        if value is not None and name not in BOOKKEEPING and not (name == "num_records" and _has_records(options)):
            lines.append(shlex.join([f"--{name}", *_words(value)]))
    return " \\\n    ".join(lines)


def _has_records(options: Mapping[str, Any]) -> bool:
    return bool(options.get("corpus") or options.get("data_dir"))


def _words(value: Any) -> list[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [word for item in value for word in _words(item)]
    if isinstance(value, Mapping):  # a corpus, as a mapping of YAML, of which JSON is a part
        flat = {name: item for name, item in value.items() if name != "options"} | dict(value.get("options") or {})
        kept = {name: _last(item) if name == "data_dir" else item for name, item in flat.items()}
        dull = {"data_dir": None, "weight": 1.0, "held_out": False}
        return [json.dumps({name: item for name, item in kept.items() if dull.get(name, ...) != item})]
    return [str(value).lower() if isinstance(value, bool) else without_paths(str(value))]


# Differences ----------------------------------------------------------------------------------------------------------


def changed(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What another run was told than the first, options of both as a probe of their models tells them."""
    if not first or not other:
        return "not told"
    names = [name for name in {**first, **other} if name not in BOOKKEEPING]
    told = [(name, _comparable(other.get(name)), _comparable(first.get(name))) for name in names]
    differing = [f"`{name}` {_shown(new)} (first: {_shown(old)})" for name, new, old in told if new != old]
    return ", ".join(differing) or "nothing"


def _comparable(value: Any) -> Any:
    """A value by which two runs differ or not: folders count by their name."""
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    if isinstance(value, dict):
        return {name: _comparable(item) for name, item in value.items()}
    return without_paths(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "default", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return " + ".join(map(_shown, value))
    if isinstance(value, dict):
        told = {name: item for name, item in {**value, **(value.get("options") or {})}.items() if name not in _UNTOLD}
        kept = {name: item for name, item in told.items() if item not in (None, False, 1.0)}
        return " ".join(str(item) if name == "name" else f"{name} {_shown(item)}" for name, item in kept.items())
    return f"{value:g}" if isinstance(value, float) else without_paths(str(value))


def _last(path: Any) -> Any:
    return os.path.basename(os.path.normpath(path)) if isinstance(path, str) and path else path


__all__ = [
    "BOOKKEEPING",
    "CURVES",
    "LOG",
    "about_corpora",
    "changed",
    "corpora_of",
    "data_table",
    "levers_table",
    "pretraining_command",
    "read_pretraining",
    "records_in_words",
    "settings_table",
    "shown_command",
    "without_paths",
]
