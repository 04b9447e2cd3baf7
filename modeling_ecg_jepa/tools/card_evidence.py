"""What a card says of results: tables and sentences from the `probe.json` of `python -m train.linear_probe`, or the
`results.json` of `python -m train.benchmark`, which has tables of the same shape."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from dataset_scripts.corpus import About
from dataset_scripts.dataset_card import markdown_table
from dataset_scripts.loading import CORPORA, corpus_class

from ..errors_ecg_jepa import EcgJepaCheckpointError
from .card_training import changed, shown_command, without_paths

#: Of the files that are understood; `train.probe_cells` raises it when a field changes its meaning.
SCHEMA_VERSION = 1

MEASURES = {
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "macro average precision",
    "macro_f1": "macro F1 at 0.5",
    "macro_auroc_of_pooled_scores": "macro AUROC, all folds ranked together",
}

BETTER, UNCLEAR, WORSE = "clearly better", "no clear difference", "clearly worse"

#: Verdict -> how a sentence goes on, and what it means for a variant.
_WORDS = {BETTER: "than", UNCLEAR: "to", WORSE: "than"}
_OUTCOMES = {BETTER: "helped clearly", UNCLEAR: "no clear difference", WORSE: "hurt clearly"}

_SPLITS = {
    "cross_validate": "folds 1-8, cross-validated",
    "confirm": "fold 9",
    "final": "fold 10",
}

_NEEDED = "command commit versions seeds corpus records splits labels left_out exclusions leakage models tables".split()

_SUPERCLASSES = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "changes of ST and T",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}

#: Kinds of methods that start from the model's weights.
_OURS = ("pretrained", "fine-tuned")

#: How tables call the model that the card is of.
THIS = "this model"


def read_results(path: Path) -> dict[str, Any]:
    """A `probe.json`, or the `results.json` of a benchmark.

    Raises:
        EcgJepaCheckpointError: no such file, a damaged one, or one of another schema.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        version = results["schema_version"]
        if version == SCHEMA_VERSION:
            _check(results)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise EcgJepaCheckpointError(
            f"{path} is no whole probe.json or results.json of a benchmark ({what}). Make it again by python -m "
            "train.linear_probe or train.benchmark."
        ) from error
    if version != SCHEMA_VERSION:
        raise EcgJepaCheckpointError(
            f"{path} has schema_version {version!r}; this version of ecg-jepa reads {SCHEMA_VERSION}. Update the "
            "package, or probe the model again with it."
        )
    return results


def read_variants(path: Path) -> dict[str, Any]:
    """A `probe.json` of several models.

    Raises:
        EcgJepaCheckpointError: as `read_results`, or there is but one.
    """
    results = read_results(path)
    if len(results["models"]) < 2:
        raise EcgJepaCheckpointError(
            f"{path} holds one model, {results['models'][0]['name']}, so nothing is compared. Name several in one run "
            "of python -m train.linear_probe, or pass the file by --results."
        )
    return results


def _check(results: Mapping[str, Any]) -> None:
    """KeyError or TypeError where something is missing that a card is made of."""
    for name in _NEEDED:
        results[name]
    for model in results["models"]:
        model["sha256"], model["name"], model["pretraining"]
    for table in results["tables"]:
        table["evaluation"], table["fraction"], table["title"], table["tested_records"], table["resampled"]
        for method in table["methods"]:
            method["name"], method["kind"], len(method["runs"])
            _interval(method["measures"]["macro_auroc"])
        for each in table["differences"]:
            each["method"], each["minus"], each["kind"]
            _interval(each["measures"]["macro_auroc"])


def own_name(results: Mapping[str, Any], sha256: str, path: Path) -> str:
    """The name that a file gives the model with this hash.

    Raises:
        EcgJepaCheckpointError: it is about other weights.
    """
    for model in results["models"]:
        if model["sha256"] == sha256:
            return model["name"]
    others = ", ".join(f"{model['name']} {model['sha256'][:12]}" for model in results["models"])
    raise EcgJepaCheckpointError(
        f"{path} is about other weights ({others}) than those in the folder ({sha256[:12]}): its numbers are not this "
        "model's. Run its command again with this folder, or pass the results of these weights."
    )


# Tables of one file ---------------------------------------------------------------------------------------------------


class Table:
    """A table of a file, cut down to one model and the baselines that it is compared with.

    Attributes:
        title, tested_records, undefined_classes: as in the file.
        methods: the model's first, under the name `THIS`.
        differences: of the model and its baselines.
    """

    def __init__(self, table: Mapping[str, Any], name: str):
        self.evaluation, self.fraction, self.title = table["evaluation"], table["fraction"], _capital(table["title"])
        self.leads = table.get("leads")
        self.tested_records, self.resampled = table["tested_records"], table["resampled"]
        self.undefined_classes = table.get("undefined_classes", [])
        ours = [each for each in table["differences"] if _is_of(each["method"], name) and each["kind"] not in _OURS]
        self.differences = [
            each | {"method": _renamed(each["method"], name), "minus": _plain(each["minus"])} for each in ours
        ]
        rivals = {each["minus"] for each in ours}
        own = [method for method in table["methods"] if _is_of(method["name"], name) and method["kind"] in _OURS]
        others = [method for method in table["methods"] if method["name"] in rivals]
        self.own = [method | {"name": _renamed(method["name"], name)} for method in own]
        self.methods = self.own + [method | {"name": _plain(method["name"])} for method in others]
        self.subgroups = [
            group | {"methods": [each | {"name": _renamed(each["name"], name)} for each in group["methods"]]}
            for group in table.get("subgroups", [])
        ]

    @property
    def measures(self) -> list[str]:
        return [name for name in MEASURES if name in self.methods[0]["measures"]]

    def methods_table(self) -> str:
        head = ["method", "seeds", *(MEASURES[name] for name in self.measures)]
        rows = [
            [method["name"], len(method["runs"]), *(_interval(method["measures"][name]) for name in self.measures)]
            for method in self.methods
        ]
        return markdown_table([head, *rows])

    def differences_table(self) -> str:
        head = [THIS, "minus", *(MEASURES[name] for name in self.measures), "by macro AUROC"]
        rows = [
            [
                _variant(each["method"]),
                each["minus"],
                *(_interval(each["measures"][name], "+") for name in self.measures),
                _verdict(each),
            ]
            for each in self.differences
        ]
        return markdown_table([head, *rows])

    def classes_table(self) -> str:
        prefix = "auroc of "
        names = [name for name in self.methods[0]["measures"] if name.startswith(prefix)]
        rows = [[method["name"], *(_interval(method["measures"][name]) for name in names)] for method in self.methods]
        return markdown_table([["method", *(name.removeprefix(prefix) for name in names)], *rows])

    def subgroups_table(self) -> str:
        """Macro AUROC of the model in each group, over the classes that have both outcomes there."""
        names = [method["name"] for method in self.own]
        rows = []
        for group in self.subgroups:
            of_method = {each["name"]: each["measures"].get("macro_auroc") for each in group["methods"]}
            numbers = [_interval(of_method[name]) if of_method.get(name) else "undefined" for name in names]
            undefined = ", ".join(f"{each['name']} ({each['positives']:,})" for each in group["undefined_classes"])
            rows.append([group["by"], group["group"], f"{group['records']:,}", *numbers, undefined or "none"])
        return markdown_table([["by", "group", "records", *names, "classes left out (records with)"], *rows])

    def in_short(self) -> str:
        """One line: the model's numbers, and what it is clearly better and worse than."""
        numbers = ", ".join(
            f"{_variant(each['name'])} {_interval(each['measures']['macro_auroc'])}" for each in self.own
        )
        return f"**{self.title}**: macro AUROC {numbers}. {_capital(self._verdicts())}."

    def _verdicts(self) -> str:
        by_rival: dict[str, dict[str, str]] = {}
        for each in self.differences:
            rival = each["minus"].removesuffix(f", {_variant(each['method'])}")
            rival = f"the {rival}" if each["kind"] == "supervised" else rival
            by_rival.setdefault(rival, {})[_variant(each["method"])] = _verdict(each)
        parts = []
        for verdict, than in _WORDS.items():
            agreed = [rival for rival, of_rival in by_rival.items() if set(of_rival.values()) == {verdict}]
            parts += [f"{verdict} {than} {' and '.join(agreed)}"] if agreed else []
        for rival, of_rival in by_rival.items():
            if len(set(of_rival.values())) > 1:
                parts += [
                    f"with {variant} {verdict} {_WORDS[verdict]} {rival}" for variant, verdict in of_rival.items()
                ]
        return "; ".join(parts) or "compared with no baseline"

    def what_it_can_show(self) -> str:
        """What the widths of the intervals say."""
        text = (
            f"With {self.tested_records:,} records tested, intervals of the model's macro AUROC reach "
            f"{_half_widths(self.own)} to either side: a figure from other patients that is no further off is no "
            "evidence of a better or a worse model."
        )
        if self.differences:
            text += (
                f" Differences on the same patients are told more sharply, to {_half_widths(self.differences)}: "
                "smaller ones can be neither shown nor excluded here."
            )
        return text

    @property
    def tested(self) -> str:
        """Which records, and what the intervals are over."""
        text = f"{self.tested_records:,} records tested; 95% intervals by resampling {self.resampled}."
        return text + self._undefined_in_words()

    def _undefined_in_words(self) -> str:
        each = [
            f"{one['name']} ({one['positives']:,} with, {one['negatives']:,} without)" for one in self.undefined_classes
        ]
        return f" Left out of the means, since not both outcomes occur: {', '.join(each)}." if each else ""


def _half_widths(entries: Sequence[Mapping[str, Any]]) -> str:
    numbers = [each["measures"]["macro_auroc"] for each in entries]
    halves = [(number["high"] - number["low"]) / 2 for number in numbers]
    low, high = f"{min(halves):.3f}", f"{max(halves):.3f}"
    return low if low == high else f"{low} to {high}"


def _verdict(difference: Mapping[str, Any]) -> str:
    number = difference["measures"]["macro_auroc"]
    return BETTER if number["low"] > 0 else WORSE if number["high"] < 0 else UNCLEAR


def _is_of(method: str, name: str) -> bool:
    return method.startswith(f"{name}, ")


def _renamed(method: str, name: str) -> str:
    return THIS + method.removeprefix(name)


def _plain(baseline: str) -> str:
    """The name of a baseline without that of the model whose shape it has: "random weights, mean pool"."""
    head, comma, variant = baseline.partition(", ")
    return head.partition(" like ")[0] + comma + variant


def _variant(method: str) -> str:
    return method.removeprefix(f"{THIS}, ")


def _interval(number: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (f"{number[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# Records, provenance, metadata ----------------------------------------------------------------------------------------


def about_corpus(results: Mapping[str, Any]) -> About | None:
    """What is known of the tested corpus; None for a folder of a user's own."""
    name = results["corpus"]["name"].partition("/")[0]
    return corpus_class(name).ABOUT if name in CORPORA and name != "wfdb_folder" else None


def corpus_title(results: Mapping[str, Any]) -> str:
    about = about_corpus(results)
    return about.title if about else results["corpus"]["name"]


def records_in_words(results: Mapping[str, Any]) -> str:
    """Which records, classes, and what was left out."""
    folds = ", ".join(f"{fold}: {count:,}" for fold, count in results["splits"]["records_by_fold"].items())
    told = [f"{name} {value}" for name, value in results["corpus"].items() if name not in ("name", "data_dir")]
    text = (
        f"{results['records']:,} records of {corpus_title(results)}{' (' + ', '.join(told) + ')' if told else ''}, "
        f"{results['records_of_known_patients']:,} of them of patients known by an id. Records by fold: {folds}. "
        f"By class: {classes_in_words(results)}."
    )
    return text + left_out_in_words(results)


def left_out_in_words(results: Mapping[str, Any]) -> str:
    """Sentences that go on from others, each with a blank before it; "" where nothing was left out."""
    text = ""
    if results["left_out"]:
        text += f" Left out: {', '.join(f'{reason} {count:,}' for reason, count in results['left_out'].items())}."
    if results["exclusions"]:
        pairs = ", ".join(f"{pair['record']} (is {pair['same_signal_as']})" for pair in results["exclusions"])
        text += f" Left out as the same signal under another id: {pairs}."
    return text


def classes_in_words(results: Mapping[str, Any]) -> str:
    meanings = _SUPERCLASSES if results["corpus"].get("label_set") == "superdiagnostic" else {}
    told = {label["name"]: meanings.get(label["name"], "") for label in results["labels"]}
    names = {name: f"{name} ({meaning})" if meaning else name for name, meaning in told.items()}
    return ", ".join(f"{names[label['name']]} {label['records']:,}" for label in results["labels"])


def rarest_class(results: Mapping[str, Any]) -> Mapping[str, Any]:
    return min(results["labels"], key=lambda label: label["records"])


def provenance(results: Mapping[str, Any]) -> str:
    """Command, commit and versions, as a block of shell."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    seeds = ", ".join(map(str, results["seeds"]))
    commit = results["commit"] or "not told"
    return f"# commit {commit}; {versions}; seeds {seeds}\n{shown_command(results['command'])}"


def eval_results(results: Mapping[str, Any], tables: Sequence[Table]) -> Iterator[EvalResult]:
    """The model's own numbers on the file's corpus, as the Hub's metadata has them."""
    name = results["corpus"]["name"]
    for table in tables:
        if table.evaluation == "transfer":
            continue  # of another corpus
        labels = "" if table.fraction == 1 else f", {table.fraction:g} of the labels"
        labels += f", leads {', '.join(table.leads)}" if table.leads else ""
        for method in table.own:
            for measure, identifier in (("macro_auroc", "roc_auc"), ("macro_average_precision", "average_precision")):
                number = method["measures"][measure]
                tuned = method["kind"] == "fine-tuned"
                yield EvalResult(
                    task_type="feature-extraction",
                    task_name="fine-tuned" if tuned else "linear probe of the frozen encoder",
                    dataset_type=without_paths(name).replace("_", "-"),
                    dataset_name=corpus_title(results),
                    dataset_config=results["corpus"].get("label_set", "labels") + labels,
                    dataset_split=_SPLITS.get(table.evaluation, table.evaluation),
                    metric_type=identifier,
                    metric_name=f"{MEASURES[measure]}, {_variant(method['name'])}, 95% interval "
                    f"{number['low']:.3f} to {number['high']:.3f}",
                    metric_value=number["value"],
                )


# Decisions on the way -------------------------------------------------------------------------------------------------


def decisions(results: Mapping[str, Any], sha256: str) -> list[str]:
    """Paragraphs on variants that were probed together, each against the first."""
    first, *others = results["models"]
    shown = _short_names(results["models"])
    chosen = [shown[model["name"]] for model in results["models"] if model["sha256"] == sha256]
    options = {model["name"]: (model["pretraining"] or {}).get("options") or {} for model in results["models"]}
    variants = [["variant", "changed"], [f"{shown[first['name']]} (the first)", ""]]
    variants += [[shown[each["name"]], changed(options[first["name"]], options[each["name"]])] for each in others]
    parts = [markdown_table(variants)]
    parts += [f"The model of this card is `{chosen[0]}`."] if chosen else []
    for table in results["tables"]:
        rows = [row for model in others for row in _rows_of_variant(table, model["name"], shown)]
        rows.sort(key=lambda row: (list(_OUTCOMES).index(row[0]), -row[1]))
        head = ["outcome", "variant", "macro AUROC", "minus the first"]
        body = [[_OUTCOMES[verdict], *cells] for verdict, _, *cells in rows]
        firsts = ", ".join(
            f"{_interval(method['measures']['macro_auroc'])} ({method['name'].removeprefix(first['name'] + ', ')})"
            for method in table["methods"]
            if _is_of(method["name"], first["name"])
        )
        parts += [f"**{_capital(table['title'])}**, {table['tested_records']:,} records. The first: {firsts}."]
        parts += [markdown_table([head, *body]), _by_chance(len(rows))]
    return parts


def _rows_of_variant(table: Mapping[str, Any], name: str, shown: Mapping[str, str]) -> Iterator[list[Any]]:
    """Verdict, difference, and the cells of a line, for each way of pooling."""
    values = {method["name"]: method["measures"]["macro_auroc"] for method in table["methods"]}
    for each in table["differences"]:
        if each["kind"] == "pretrained" and _is_of(each["method"], name):
            number = each["measures"]["macro_auroc"]
            method = shown[name] + each["method"].removeprefix(name)
            yield [_verdict(each), number["value"], method, _interval(values[each["method"]]), _interval(number, "+")]


def _by_chance(comparisons: int) -> str:
    return (
        f"Each interval is for one comparison alone: of {comparisons} without any effect about "
        f"{0.05 * comparisons:.1f} would stand clear of zero by chance."
    )


def _short_names(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name -> as shown: folders, which stand for names where two end alike, below the one that they share."""
    names = [model["name"] for model in models]
    if len(names) > 1 and all(map(os.path.isabs, names)):
        return {name: os.path.relpath(name, os.path.commonpath(names)) for name in names}
    return {name: without_paths(name) for name in names}


__all__ = [
    "THIS",
    "Table",
    "about_corpus",
    "corpus_title",
    "decisions",
    "eval_results",
    "own_name",
    "provenance",
    "rarest_class",
    "read_results",
    "read_variants",
    "records_in_words",
]
