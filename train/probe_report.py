"""Tables and a plot of a probe, made from its `probe.json` and nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataset_scripts.outputs import whole_file

_COLOURS = {"pretrained": "tab:blue", "random": "tab:gray", "statistics": "tab:orange", "supervised": "tab:green"}


def write_tables(results: Mapping[str, Any], file: Path) -> None:
    """Write the tables as Markdown.

    Raises:
        EcgJepaOutputError: the file cannot be written.
    """
    with whole_file(file) as unfinished:
        unfinished.write_text("\n\n".join(_sections(results)) + "\n", encoding="utf-8")


def _sections(results: Mapping[str, Any]) -> list[str]:
    folds = ", ".join(f"{fold}: {count:,}" for fold, count in results["splits"]["records_by_fold"].items())
    classes = ", ".join(f"{label['name']} {label['records']:,}" for label in results["labels"])
    head = (
        f"{results['records']:,} records of {results['corpus']['name']} (by fold {folds}); labels: {classes}. "
        f"{results['probe']['model'].capitalize()}, penalty chosen {results['probe']['chosen']}. {results['leakage']}"
    )
    sections = ["# Linear probe", head]
    for table in results["tables"]:
        sections += [f"## {table['title']}", _describe_table(table), _methods(table)]
        sections += ["Differences on the same resamples; an interval above 0 is in the model's favour:"]
        sections += [_differences(table), "Macro AUROC of each class:", _classes(table)]
    return sections


def _describe_table(table: Mapping[str, Any]) -> str:
    text = f"{table['tested_records']:,} records tested, 95% intervals by resampling {table['resampled']}."
    undefined = [
        f"{each['name']} ({each['positives']:,} with, {each['negatives']:,} without)"
        for each in table["undefined_classes"]
    ]
    return f"{text} Without both outcomes, left out of the means: {', '.join(undefined)}." if undefined else text


def _methods(table: Mapping[str, Any]) -> str:
    names = _macro_measures(table)
    rows = [
        [method["name"], str(len(method["runs"])), *(_interval(method["measures"].get(name)) for name in names)]
        for method in table["methods"]
    ]
    return _markdown(["method", "seeds", *(_IN_WORDS[name] for name in names)], rows)


_IN_WORDS = {
    "macro_auroc": "macro AUROC",
    "mean_over_folds": "macro AUROC, mean over folds",
    "macro_average_precision": "macro average precision",
}


def _macro_measures(table: Mapping[str, Any]) -> list[str]:
    return [name for name in _IN_WORDS if name in table["methods"][0]["measures"]]


def _differences(table: Mapping[str, Any]) -> str:
    names = _macro_measures(table)
    rows = [
        [each["method"], each["minus"], *(_interval(each["measures"].get(name), sign="+") for name in names)]
        for each in table["differences"]
    ]
    return _markdown(["method", "minus", *(_IN_WORDS[name] for name in names)], rows)


def _classes(table: Mapping[str, Any]) -> str:
    names = [name for name in table["methods"][0]["measures"] if name.startswith("auroc of ")]
    rows = [
        [method["name"], *(_interval(method["measures"].get(name)) for name in names)] for method in table["methods"]
    ]
    return _markdown(["method", *(name.removeprefix("auroc of ") for name in names)], rows)


def _interval(number: Mapping[str, float] | None, sign: str = "") -> str:
    return (
        ""
        if number is None
        else f"{number['value']:{sign}.3f} ({number['low']:{sign}.3f} to {number['high']:{sign}.3f})"
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# The plot -------------------------------------------------------------------------------------------------------------


def save_plot(results: Mapping[str, Any], file: Path) -> None:
    """Draw the macro AUROC of every method with its interval, a panel a table.

    Raises:
        EcgJepaOutputError: the file cannot be written.
    """
    tables = results["tables"]
    methods = max(len(table["methods"]) for table in tables)
    figure = Figure(figsize=(5 + 4 * len(tables), 1.2 + 0.32 * methods), layout="constrained")
    for axes, table in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables, strict=True):
        _draw(axes, table)
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)


def _draw(axes: Axes, table: Mapping[str, Any]) -> None:
    for row, method in enumerate(table["methods"]):
        number, colour = method["measures"]["macro_auroc"], _COLOURS[method["kind"]]
        axes.plot([number["low"], number["high"]], [row, row], color=colour, linewidth=2)
        axes.plot(number["value"], row, "o", color=colour)
        axes.annotate(f"{number['value']:.3f}", (number["value"], row), (0, 5), textcoords="offset points", fontsize=7)
    axes.set_yticks(range(len(table["methods"])), [method["name"] for method in table["methods"]], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(table["title"], fontsize=10)
    axes.set_xlabel("macro AUROC, 95% interval")
    axes.grid(axis="x", alpha=0.3)
