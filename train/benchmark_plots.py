"""The plots of a benchmark, made from its `results.json` and nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataset_scripts.outputs import whole_file

from .measure_report import save_plot as save_measurements
from .probe_report import KINDS, capitalised, save_plot

ALL_LABELS, FEW_LABELS, FEW_LEADS, OTHER, GROUPS, MEASUREMENTS = PLOTS = (
    *("all_labels.png", "few_labels.png", "few_leads.png", "other_corpus.png", "subgroups.png", "measurements.png"),
)

_LABEL = "macro AUROC, 95% interval over patients"


def save_plots(results: Mapping[str, Any], folder: Path) -> None:
    """Draw whatever there are results of; a plot of an earlier run, of which there are none now, goes.

    Raises:
        EcgJepaOutputError: a file cannot be written.
    """
    for name in PLOTS:
        (folder / name).unlink(missing_ok=True)
    tables = results["tables"]
    whole = [table for table in tables if table["fraction"] == 1 and table["evaluation"] != "transfer"]
    alone = [table for table in whole if not table["leads"]]
    shares = [table for table in tables if not table["leads"] and table["evaluation"] != "transfer"]
    few_leads = [table for table in whole if table["leads"]]
    if alone:
        save_plot({"tables": alone}, folder / ALL_LABELS)
    if len(shares) > 1:
        _save(_few_labels(shares), folder / FEW_LABELS)
    if few_leads:
        _save(_few_leads([*few_leads, *alone]), folder / FEW_LEADS)
    if others := [table for table in tables if table["evaluation"] == "transfer"]:
        save_plot({"tables": others}, folder / OTHER)
    if alone and alone[0]["subgroups"]:
        _save(_subgroups(alone[0]), folder / GROUPS)
    if results["measurements"] and results["measurements"]["measurements"]:
        save_measurements(results["measurements"], folder / MEASUREMENTS)


def _save(figure: Figure, file: Path) -> None:
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)


def _few_labels(tables: Sequence[Mapping[str, Any]]) -> Figure:
    """A line a method over the shares of the labels."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    tables = sorted(tables, key=lambda table: table["fraction"])
    names = list(dict.fromkeys(method["name"] for table in tables for method in table["methods"]))
    for place, name in enumerate(names):
        points = [
            (table["fraction"], method) for table in tables for method in table["methods"] if method["name"] == name
        ]
        across = [fraction * 1.03 ** (place - len(names) / 2) for fraction, _ in points]
        _intervals(axes, across, [method for _, method in points], name, place)
    axes.set_xscale("log")
    fractions = [table["fraction"] for table in tables]
    axes.set_xticks(fractions, [f"{fraction:.0%}" for fraction in fractions])
    axes.minorticks_off()
    axes.set_xlabel("share of the labelled patients")
    return _finished(figure, axes)


def _few_leads(tables: Sequence[Mapping[str, Any]]) -> Figure:
    """A group of points a choice of leads."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(method["name"] for table in tables for method in table["methods"]))
    shown = {method["name"] for method in tables[0]["methods"]}
    for place, name in enumerate(name for name in names if name in shown):
        points = [(where, method) for where, table in enumerate(tables) for method in table["methods"]]
        points = [(where, method) for where, method in points if method["name"] == name]
        across = [where + 0.09 * (place - len(shown) / 2) for where, _ in points]
        _intervals(axes, across, [method for _, method in points], name, place, line="")
    labels = [" + ".join(table["leads"]) if table["leads"] else "all leads" for table in tables]
    axes.set_xticks(range(len(tables)), labels)
    axes.set_xlim(-0.6, len(tables) - 0.4)
    return _finished(figure, axes)


def _subgroups(table: Mapping[str, Any]) -> Figure:
    """A panel a way to divide the records: the pretrained model's first method in each group, and the best baseline's
    beside it."""
    ways = list(dict.fromkeys(group["by"] for group in table["subgroups"]))
    most = max(sum(group["by"] == way for group in table["subgroups"]) for way in ways)
    figure = Figure(figsize=(1 + 5 * len(ways), 1.8 + 0.55 * most), layout="constrained")
    for axes, way in zip(figure.subplots(1, len(ways), squeeze=False)[0], ways, strict=True):
        groups = [group for group in table["subgroups"] if group["by"] == way]
        for place, name in enumerate(_two_shown(table)):
            found = [
                (row + 0.2 * place, method)
                for row, group in enumerate(groups)
                for method in group["methods"]
                if method["name"] == name and "macro_auroc" in method["measures"]
            ]
            for row, method in found:
                number = method["measures"]["macro_auroc"]
                colour = KINDS[method["kind"]][0]
                axes.plot([number["low"], number["high"]], [row, row], color=colour, linewidth=2)
                axes.plot(number["value"], row, "o", color=colour, label=name if row < 1 else None)
        axes.set_yticks(range(len(groups)), [f"{group['group']} ({group['records']:,})" for group in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_title(f"by {way} (records)", fontsize=10)
        axes.set_xlabel(_LABEL, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _two_shown(table: Mapping[str, Any]) -> list[str]:
    def best(kinds: Sequence[str]) -> list[str]:
        methods = [method for method in table["methods"] if method["kind"] in kinds]
        return [max(methods, key=lambda method: method["measures"]["macro_auroc"]["value"])["name"]] if methods else []

    return best(("pretrained",)) + best(("random", "statistics", "supervised"))


def _intervals(
    axes: Axes, across: Sequence[float], methods: Sequence[Mapping[str, Any]], name: str, place: int, line: str = "-"
) -> None:
    """Points with intervals; of a colour the kind, of a marker the method."""
    numbers = [method["measures"]["macro_auroc"] for method in methods]
    values = [number["value"] for number in numbers]
    reach = [
        [number["value"] - number["low"] for number in numbers],
        [each["high"] - each["value"] for each in numbers],
    ]
    colour = KINDS[methods[0]["kind"]][0]
    marker = "os^Dv*P"[place % 7]
    reach = [[max(0.0, each) for each in side] for side in reach]
    axes.errorbar(across, values, reach, fmt=marker + line, color=colour, capsize=3, markersize=5, label=name)


def _finished(figure: Figure, axes: Axes) -> Figure:
    axes.set_ylabel(capitalised(_LABEL))
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure
