"""The tables of a benchmark as Markdown and LaTeX, made from its `results.json` and nothing else."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dataset_scripts.dataset_card import markdown_table
from dataset_scripts.outputs import whole_file

from .measure_truth import MEASUREMENTS
from .probe_report import MEASURES, capitalised, describe_records, describe_table, interval
from .published import PUBLISHED_ERRORS

MARKDOWN, LATEX = "tables.md", "tables.tex"

_NOTE = """\
A method's numbers are means over its seeds; those with few labels are means over draws. Intervals (95%) tell what other
patients would have given, not other seeds or draws. Published numbers are of other weights, fitted on the full corpora
(the authors on folds 1-9): they say where the road leads, not that two rows can be subtracted."""

#: What LaTeX reads as commands.
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
}

Rows = list[list[str]]


class Shown(NamedTuple):
    """A table as it is shown, with what stands above it."""

    title: str
    text: str
    head: list[str]
    rows: Rows


def write_tables(results: Mapping[str, Any], folder: Path) -> None:
    """Write `tables.md` and `tables.tex`.

    Raises:
        EcgJepaOutputError: a file cannot be written.
    """
    shown = list(all_tables(results))
    parts = [*intro(results), *(part for each in shown for part in _as_markdown(each)), *failures(results)]
    with whole_file(folder / MARKDOWN) as unfinished:
        unfinished.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    with whole_file(folder / LATEX) as unfinished:
        unfinished.write_text("\n\n".join(map(as_latex, shown)) + "\n", encoding="utf-8")


def all_tables(results: Mapping[str, Any]) -> Iterator[Shown]:
    """In the order in which they are shown."""
    yield models(results)
    for table, beside in zip(results["tables"], results["published"], strict=True):
        title = capitalised(table["title"])
        yield Shown(title, describe_table(table), *_methods(table, beside))
        if table["differences"]:
            text = "Paired differences on the same resamples; above 0 is in the model's favour."
            yield Shown(f"Differences: {table['title']}", text, *_differences(table))
        yield Shown(f"AUROC of each class: {table['title']}", "", *_classes(table))
        if table["subgroups"]:
            yield Shown(f"By group: {table['title']}", *_subgroups(table))
    if results["measurements"]:
        yield from _measurements(results["measurements"])


def intro(results: Mapping[str, Any]) -> list[str]:
    """Above all tables: records, what was tested and what may have leaked."""
    check = results["leakage_check"]
    known = check["pretrained_on"]
    seen = "unknown" if known is None else ", ".join(known) or "no corpus named"
    searched = (
        f"Searched for: {check['searched']}. {check['recordings_searched']:,} recordings, {check['same_signal']:,} "
        f"pairs of one signal. Pretrained on: {seen}."
    )
    other = results["other_corpus"]
    parts = ["# Benchmark", f"**{results['tested']}**", describe_records(results), results["leakage"], searched]
    return [*parts, *([f"The other corpus: {describe_records(other)}"] if other else []), _NOTE]


def models(results: Mapping[str, Any]) -> Shown:
    rows = []
    for model in results["models"]:
        told = model["pretraining"] or {}
        sizes = f"{model['hidden_size']} x {model['num_hidden_layers']}"
        rows.append([model["name"], sizes, f"{model['parameters']:,}", str(told.get("steps", "unknown"))])
    return Shown("Models", "", ["model", "channels x layers", "parameters", "steps of pretraining"], rows)


def _measures(table: Mapping[str, Any]) -> list[str]:
    return [name for name in MEASURES if name in table["methods"][0]["measures"]]


def _methods(table: Mapping[str, Any], published: Sequence[Mapping[str, Any]]) -> tuple[list[str], Rows]:
    names = _measures(table)
    head = ["method", "seeds", *(MEASURES[name] for name in names)]
    rows = [
        [method["name"], str(len(method["runs"])), *(interval(method["measures"][name]) for name in names)]
        for method in table["methods"]
    ]
    for each in published:
        told = {"macro_auroc": each["auroc"], "macro_f1": each["f1"]}
        numbers = ["" if told.get(name) is None else f"{told[name]:.3f}" for name in names]
        rows.append([f"published: {each['method']}, {each['task']} ({each['source']})", "", *numbers])
    return head, rows


def _differences(table: Mapping[str, Any]) -> tuple[list[str], Rows]:
    names = _measures(table)
    rows = [
        [each["method"], each["minus"], *(interval(each["measures"][name], sign="+") for name in names)]
        for each in table["differences"]
    ]
    return ["method", "minus", *(MEASURES[name] for name in names)], rows


def _classes(table: Mapping[str, Any]) -> tuple[list[str], Rows]:
    prefix = "auroc of "
    names = [name for name in table["methods"][0]["measures"] if name.startswith(prefix)]
    rows = [[method["name"], *(interval(method["measures"][name]) for name in names)] for method in table["methods"]]
    return ["method", *(name.removeprefix(prefix) for name in names)], rows


def _subgroups(table: Mapping[str, Any]) -> tuple[str, list[str], Rows]:
    """Macro AUROC of each method in each group, and the classes that a group has not both outcomes of."""
    methods = [method["name"] for method in table["methods"]]
    rows = []
    for group in table["subgroups"]:
        of_method = {each["name"]: each["measures"].get("macro_auroc") for each in group["methods"]}
        numbers = [interval(of_method[name]) if of_method.get(name) else "undefined" for name in methods]
        undefined = ", ".join(
            f"{each['name']} ({each['positives']:,} of {each['positives'] + each['negatives']:,})"
            for each in group["undefined_classes"]
        )
        rows.append([group["by"], group["group"], f"{group['records']:,}", *numbers, undefined or "none"])
    text = "Macro AUROC over the classes with both outcomes in the group; the others are named, with their records."
    return text, ["by", "group", "records", *methods, "undefined classes"], rows


# Measurements ---------------------------------------------------------------------------------------------------------


def _measurements(measured: Mapping[str, Any]) -> Iterator[Shown]:
    corpus, truth = measured["corpus"]["name"], measured["truth"]["in_words"]
    rows = [row for table in measured["measurements"] for row in _errors(table)]
    text = f"Ridge regression on frozen embeddings, cross-validated by patient. Truth: {truth}."
    if measured["measurements"]:
        text += f" Intervals by resampling {measured['measurements'][0]['resampled']}."
    left = [f"{MEASUREMENTS[name].title}: {reason}" for name, reason in measured["not_evaluated"].items()]
    text += f" Not evaluated: {'; '.join(left)}." if left else ""
    head = ["measurement", "method", "mean absolute error", "correlation", "error less than"]
    yield Shown(f"Measurements on {corpus}", text, head, rows)
    if "delineation" in measured:
        window = 1000 * measured["delineation_settings"]["window_seconds"]
        text = f"A boundary is found within {window:.0f} ms; errors in ms of those found."
        head = ["method", "boundary", "marked", "sensitivity", "predictive value", "mean error", "SD of error"]
        yield Shown(f"Boundaries of waves on {corpus}", text, head, list(_boundaries(measured["delineation"])))


def _errors(table: Mapping[str, Any]) -> Iterator[list[str]]:
    digits, title = 3 if table["unit"] == "mV" else 1, f"{table['title']} ({table['unit']})"
    for method in table["methods"]:
        gains = [
            f"{each['beside']}: {interval(each['mae_less'], '+', digits)}"
            for each in table["differences"]
            if each["method"] == method["name"]
        ]
        correlation = method["measures"].get("correlation")
        yield [
            title,
            method["name"],
            interval(method["measures"]["mae"], digits=digits),
            interval(correlation, digits=2) if correlation else "",
            "; ".join(gains),
        ]
    if table["name"] in PUBLISHED_ERRORS:
        value, unit, source = PUBLISHED_ERRORS[table["name"]]
        yield [title, f"published: ECG-JEPA base, other records ({source})", f"{value:g} {unit}", "", ""]


def _boundaries(table: Mapping[str, Any]) -> Iterator[list[str]]:
    for method in table["methods"]:
        for point in method["points"]:
            shares = [_shown(point[name], 3) for name in ("sensitivity", "positive_predictive_value")]
            errors = [_shown(point[name], 1) for name in ("mean_error", "sd_error")]
            yield [method["name"], f"{point['wave']} {point['point']}", f"{point['marked']:,}", *shares, *errors]


def _shown(number: Mapping[str, float] | None, digits: int) -> str:
    return "" if number is None else interval(number, digits=digits)


# As text --------------------------------------------------------------------------------------------------------------


def failures(results: Mapping[str, Any]) -> list[str]:
    """What is missing above, and why; nothing where all is there."""
    failed = [cell for cell in results["cells"] if cell["status"] == "failed"]
    if not failed:
        return []
    rows = [[cell["table"], cell.get("method", "all"), str(cell.get("seed", "")), cell["message"]] for cell in failed]
    return [
        f"## Failed: {len(failed):,} of {len(results['cells']):,} cells",
        "What the tables lack. Where some seeds of a method failed, its number is the mean of the others.",
        markdown_table(
            [["table", "method", "seed", "why"], *[[each.replace("|", "/") for each in row] for row in rows]]
        ),
    ]


def _as_markdown(shown: Shown) -> Iterator[str]:
    yield f"## {shown.title}"
    if shown.text:
        yield shown.text
    yield markdown_table([shown.head, *shown.rows])


def as_latex(shown: Shown) -> str:
    """A table for `booktabs`."""
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (shown.head, *shown.rows)]
    caption = _escaped(f"{shown.title}. {shown.text}".strip())
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{'l' * len(shown.head)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _escaped(text: str) -> str:
    return re.sub(r"[\\&%_#${}]", lambda found: _SPECIAL[found.group()], text)
