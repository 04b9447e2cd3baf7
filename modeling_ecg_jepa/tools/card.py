"""The card of a model: `README.md` beside its weights, every figure of it from a JSON that a command wrote.

Read `write_model_card` first. What it says of results is in card_evidence.py, of pretraining in card_training.py; the
sentences are in card_template.md.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dataset_scripts.corpus import About
from dataset_scripts.dataset_card import markdown_table
from dataset_scripts.outputs import whole_file

from .. import __version__
from ..configuration_ecg_jepa import EcgJepaConfig
from ..errors_ecg_jepa import EcgJepaCheckpointError, EcgJepaInputError
from . import card_evidence, card_training
from .card_evidence import Table
from .checkpoint import EXTRACTOR_CONFIG, checkpoint_folder, encoder_sha256, load_encoder, read_json
from .info import describe
from .verify import VERIFICATION

CARD = "README.md"

#: By which a card is known that may be written anew without asking.
MARK = "<!-- Made by `ecg-jepa card`; make it again rather than edit it. -->"

_TEMPLATE = Path(__file__).with_name("card_template.md")

#: A number of a sentence, also as in 1,234 or .5 or 3x; those of names (V1, PTB-2) and of versions (2.13.0) are none.
_NUMBER = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)[+-]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?!\d|\.\d)%?",
)
_LIST_MARK, _ADDRESS = re.compile(r"^\s*\d+[.)]\s"), re.compile(r"https?://\S+")

#: Parts of the JSONs whose many numbers are no results: among them any figure would be found.
_NO_RESULTS = {"cells", "runs", "records_left_out"}


@dataclass(frozen=True)
class Evidence:
    """A file of results, its tables cut down to the card's model, and its plot where that is shared too."""

    results: dict[str, Any]
    tables: list[Table]
    plot: str


def write_model_card(
    model: str | os.PathLike,
    results: Sequence[Path] = (),
    *,
    compared: Sequence[Path] = (),
    notes: Path | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the card of a checkpoint's folder and return where it is.

    Args:
        results: `probe.json` files, or `results.json` of benchmarks, about these weights.
        compared: `probe.json` files of several variants, the first of which the others are compared with.
        notes: Markdown that is taken over; its numbers must stand in one of the JSONs.
        output: `README.md` in the folder if not given.
        overwrite: also replace a file that this command did not write.

    Raises:
        EcgJepaCheckpointError: no checkpoint; results that are damaged, of another schema or about other weights.
        EcgJepaInputError: notes with a number that stands in no JSON, or with a path of this machine.
        EcgJepaOutputError: the card cannot be written, or would replace a file of somebody else.
    """
    if not Path(model).is_dir():
        raise EcgJepaCheckpointError(f"{os.fspath(model)} is no folder; a card is written beside the weights it is of.")
    folder = checkpoint_folder(model)
    config, description = EcgJepaConfig.from_pretrained(folder), describe(folder)
    sha256 = encoder_sha256(*load_encoder(folder)) if results or compared else ""
    evidence = [_evidence(Path(file), sha256, folder) for file in results]
    variants = [card_evidence.read_variants(Path(file)) for file in compared]
    state = card_training.read_pretraining(folder)
    sources = [description, state, *(each.results for each in evidence), *variants]
    card = ModelCard.from_template(
        _header(folder, evidence, state, description),
        template_path=str(_TEMPLATE),
        mark=MARK,
        version=__version__,
        name=folder.resolve().name,
        config=config,
        description=description,
        verified=(folder / VERIFICATION).is_file(),
        notes=_checked_notes(notes, sources) if notes else None,
        **_model_parts(folder, config, description),
        **_result_parts(evidence, variants, sha256),
        **_training_parts(folder, config, state),
        limits=list(_limits(evidence, state)),
        corpora=_corpora(evidence, state),
    )
    path = output or folder / CARD
    ours = path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace")
    with whole_file(path, overwrite=overwrite or ours) as unfinished:
        unfinished.write_text(re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n", encoding="utf-8")
    return path


def _evidence(path: Path, sha256: str, folder: Path) -> Evidence:
    results = card_evidence.read_results(path)
    name = card_evidence.own_name(results, sha256, path)
    plot, folder = path.resolve().with_suffix(".png"), folder.resolve()
    shared = plot.is_file() and plot.is_relative_to(folder)
    line = f"![Macro AUROC with intervals]({plot.relative_to(folder).as_posix()})" if shared else ""
    return Evidence(results, [Table(table, name) for table in results["tables"]], line)


def _header(
    folder: Path, evidence: Sequence[Evidence], state: dict[str, Any] | None, description: dict[str, Any]
) -> ModelCardData:
    """The metadata that the Hub reads."""
    seen = card_training.about_corpora(state["options"]) if state else {}
    tested = [each.results["corpus"]["name"] for each in evidence if card_evidence.about_corpus(each.results)]
    results = [entry for each in evidence for entry in card_evidence.eval_results(each.results, each.tables)]
    converted = description["converted_from"] is not None
    licence = "other" if converted else "apache-2.0"
    tags = ["ecg", "electrocardiogram", "ecg-jepa", "jepa", "self-supervised", "time-series", "medical"]
    return ModelCardData(
        license=licence,
        license_name="not-stated" if converted else None,
        library_name="transformers",
        pipeline_tag=None if description["labels"] else "feature-extraction",
        tags=tags,
        datasets=[name.replace("_", "-") for name in dict.fromkeys([*seen, *tested]) if name != "synthetic"] or None,
        metrics=list(dict.fromkeys(entry.metric_type for entry in results)) or None,
        model_name=folder.resolve().name,
        eval_results=_distinct(results) or None,
    )


def _distinct(results: Iterable[EvalResult]) -> list[EvalResult]:
    """Each number once, where two files hold it."""
    return list({(each.unique_identifier, each.metric_name): each for each in results}.values())


# Parts of the template ------------------------------------------------------------------------------------------------


def _model_parts(folder: Path, config: EcgJepaConfig, description: dict[str, Any]) -> dict[str, Any]:
    given, sizes = description["input"], description["sizes"]
    stored = description["parameters"]["stored"]
    unit = read_json(folder / EXTRACTOR_CONFIG).get("unit", "mV")
    contract = [
        ["", ""],
        ["leads", f"{len(given['leads'])}: {', '.join(given['leads'])}; by name, in any order, any subset of them"],
        [
            "sampling rate",
            f"{given['sampling_rate']} Hz; the extractor resamples from any other that it is told",
        ],
        ["unit", f"{unit}, not normalised; other units are converted if you say which"],
        [
            "length",
            f"{given['seconds']:g} s ({given['num_patches']} patches of {given['patch_size']} samples); longer "
            "records are cut to their start or into windows, shorter ones padded and masked",
        ],
        ["missing leads, padding", "masks: never attended to, never in the mean"],
    ]
    seconds = given["patch_size"] / given["sampling_rate"]
    grid = f"{len(given['leads'])} leads x {given['num_patches']} patches of {seconds:g} s"
    architecture = [
        ["", ""],
        ["parameters", f"{description['parameters']['encoder']:,} in the encoder"],
        ["in the weight file", ", ".join(f"{part} {count:,}" for part, count in stored.items())],
        [
            "encoder",
            f"{sizes['num_hidden_layers']} layers of {sizes['hidden_size']} channels, "
            f"{sizes['num_attention_heads']} heads, MLP {sizes['mlp_ratio']}x, {sizes['pooling']} pooling",
        ],
        ["grid", grid],
        [
            "attention",
            f"cross-pattern: a patch attends to the {given['num_patches'] + len(given['leads']) - 1} patches "
            f"of its lead or its time, of {given['num_patches'] * len(given['leads'])}",
        ],
        [
            "predictor (pretraining only)",
            f"{config.predictor_num_hidden_layers} layers of "
            f"{config.predictor_hidden_size} channels, {config.predictor_num_attention_heads} heads",
        ],
    ]
    return {"contract": markdown_table(contract), "architecture": markdown_table(architecture)}


def _result_parts(evidence: Sequence[Evidence], variants: Sequence[dict[str, Any]], sha256: str) -> dict[str, Any]:
    in_short = [table.in_short() for each in evidence for table in each.tables]
    return {
        "in_short": in_short,
        "evidence": [
            {
                "records": card_evidence.records_in_words(each.results),
                "leakage": each.results["leakage"],
                "baselines": each.results.get("baselines", {}),
                "pools": each.results.get("pools", {}),
                "tables": each.tables,
                "plot": each.plot,
            }
            for each in evidence
        ],
        "provenances": [card_evidence.provenance(each.results) for each in evidence],
        "comparisons": [
            {"parts": card_evidence.decisions(each, sha256), "provenance": card_evidence.provenance(each)}
            for each in variants
        ],
        "lead_pool": any("lead pool" in line for line in in_short),
        "groups": list(
            dict.fromkeys(group["by"] for each in evidence for table in each.tables for group in table.subgroups)
        ),
    }


def _training_parts(folder: Path, config: EcgJepaConfig, state: dict[str, Any] | None) -> dict[str, Any]:
    if state is None:
        return {"state": None}
    versions, curves = state["log"].get("versions", {}), card_training.CURVES
    return {
        "state": state,
        "training_data": card_training.data_table(state),
        "training_records": card_training.records_in_words(state),
        "settings": card_training.settings_table(state, config),
        "levers": card_training.levers_table(config),
        "pretraining_command": card_training.pretraining_command(state["options"]),
        "training_versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "curves": f"![The measures along the run]({curves})" if (folder / curves).is_file() else "",
    }


def _corpora(evidence: Sequence[Evidence], state: dict[str, Any] | None) -> list[About]:
    """Every corpus that the card speaks of, to be cited."""
    seen = card_training.about_corpora(state["options"]).values() if state else []
    tested = [card_evidence.about_corpus(each.results) for each in evidence]
    return list(dict.fromkeys([*seen, *(about for about in tested if about)]))


def _limits(evidence: Sequence[Evidence], state: dict[str, Any] | None) -> Iterator[str]:
    """What follows from the data and results for where the model may fail."""
    seen = card_training.about_corpora(state["options"]) if state else {}
    for about in seen.values():
        yield f"It learned from all or part of {about.title}: {about.description.partition('. ')[0].rstrip('.')}."
    tested = {card_evidence.corpus_title(each.results): each.results for each in evidence}
    for title, results in tested.items():
        rarest = card_evidence.rarest_class(results)
        yield (
            f"What was tested are {len(results['labels'])} classes on {title} and nothing else; the rarest, "
            f"{rarest['name']}, has {rarest['records']:,} records. What else an ECG shows (rhythm, pacing, intervals, "
            "single diagnoses) may be read off much better or much worse."
        )
        if title in {about.title for about in seen.values()}:
            yield (
                f"Pretraining and test are both {title}: the same hospitals, devices and years. Expect less elsewhere, "
                "and measure it there."
            )


# Notes ----------------------------------------------------------------------------------------------------------------


def _checked_notes(path: Path, sources: Sequence[Any]) -> str:
    """The text of the notes.

    Raises:
        EcgJepaInputError: it cannot be read, or has a number that stands in no source, or an absolute path.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EcgJepaInputError(f"Cannot read the notes {path} ({error}).") from error
    known = {abs(number) for source in sources for number in _numbers(source)}
    for place, line in enumerate(text.splitlines(), start=1):
        line = _ADDRESS.sub("", line)
        if card_training.without_paths(line) != line:
            raise EcgJepaInputError(f"{path}, line {place}, names a path of this machine: {line.strip()}. Cut it.")
        for found in _NUMBER.findall(_LIST_MARK.sub("", line)):
            if not _stands_in(found, known):
                raise EcgJepaInputError(
                    f"{path}, line {place}: the number {found} stands in none of the JSONs. Every figure in a card "
                    "comes from a file that a command wrote: pass that by --results or --compared, or write in words "
                    "what was not measured (twelve leads)."
                )
    return text.strip()


def _numbers(source: Any) -> Iterator[float]:
    if isinstance(source, dict):
        for name, value in source.items():
            if name not in _NO_RESULTS:
                yield from _numbers(value)
    elif isinstance(source, (list, tuple)):
        for value in source:
            yield from _numbers(value)
    elif isinstance(source, (int, float)) and not isinstance(source, bool):
        yield source


def _stands_in(found: str, known: Iterable[float]) -> bool:
    """Whether a known number, rounded as this one is written, is this one; a share may be written in percent."""
    digits = found.strip("+-%").replace(",", "")
    mantissa, _, exponent = digits.lower().partition("e")
    step = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    scale = 100 if found.endswith("%") else 1
    return any(abs(number * scale - float(digits)) <= step / 2 * (1 + 1e-9) for number in known)


__all__ = ["CARD", "MARK", "write_model_card"]
