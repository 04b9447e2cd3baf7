"""Tables and a plot of a linear probe, made from its `probe.json` and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataset_scripts.dataset_card import markdown_table
from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa.tools.card_evidence import left_out_in_words

#: The measures of a table's first columns, as `probe.json` and as the table calls them.
MEASURES = {
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "macro average precision",
    "macro_f1": "macro F1 at 0.5",
    "macro_auroc_of_pooled_scores": "macro AUROC, all folds ranked together",
}

_NOTE = """\
A method's numbers are means over its seeds. Intervals tell what other patients would have given, not other draws of the
fitted records or other seeds. In cross-validation a record is compared with those of its own fold, which the same
fitted model scored; ranking all folds together compares scores of several models, which differ most with few labels."""

KINDS = {
    "pretrained": ("tab:blue", "pretrained"),
    "random": ("tab:gray", "random weights"),
    "statistics": ("tab:orange", "statistics"),
    "supervised": ("tab:green", "supervised network"),
    "fine-tuned": ("tab:purple", "fine-tuned"),
}
EACH_SEED = "each seed"


# Tables ---------------------------------------------------------------------------------------------------------------


def write_tables(results: Mapping[str, Any], file: Path) -> None:
    """Write the tables as Markdown.

    Raises:
        EcgJepaOutputError: the file cannot be written.
    """
    sections = ["# Linear probe", describe_records(results), results["leakage"], _models(results), _NOTE]
    for table in results["tables"]:
        sections += [f"## {capitalised(table['title'])}", describe_table(table), _methods(table)]
        if table["differences"]:
            sections += ["Differences on the same resamples; above 0 is in the model's favour:", _differences(table)]
        sections += ["AUROC of each class:", _classes(table)]
    with whole_file(file) as unfinished:
        unfinished.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def describe_records(results: Mapping[str, Any]) -> str:
    folds = ", ".join(f"{fold}: {count:,}" for fold, count in results["splits"]["records_by_fold"].items())
    classes = ", ".join(f"{label['name']} {label['records']:,}" for label in results["labels"])
    text = f"{results['records']:,} records of {results['corpus']['name']}, by fold {folds}. Labels: {classes}."
    return text + left_out_in_words(results)


def _models(results: Mapping[str, Any]) -> str:
    rows = []
    for model in results["models"]:
        told = model["pretraining"] or {}
        corpora = ", ".join(corpus["name"] for corpus in told.get("corpus") or [])
        seen = corpora or ("unknown" if not told else "no corpus named")
        seen += " with its held-out parts" if told.get("allow_held_out") else ""
        sizes = f"{model['hidden_size']} x {model['num_hidden_layers']}"
        rows.append([model["name"], sizes, f"{model['parameters']:,}", str(told.get("steps", "unknown")), seen])
    return markdown_table([["model", "channels x layers", "parameters", "steps", "pretrained on"], *rows])


def describe_table(table: Mapping[str, Any]) -> str:
    text = f"{table['tested_records']:,} records tested; 95% intervals by resampling {table['resampled']}."
    undefined = [
        f"{each['name']} ({each['positives']:,} with, {each['negatives']:,} without)"
        for each in table["undefined_classes"]
    ]
    return f"{text} Without both outcomes, so left out of the means: {', '.join(undefined)}." if undefined else text


def _methods(table: Mapping[str, Any]) -> str:
    names = _measures(table)
    rows = [
        [method["name"], str(len(method["runs"])), *(interval(method["measures"][name]) for name in names)]
        for method in table["methods"]
    ]
    return markdown_table([["method", "seeds", *(MEASURES[name] for name in names)], *rows])


def _differences(table: Mapping[str, Any]) -> str:
    names = _measures(table)
    rows = [
        [each["method"], each["minus"], *(interval(each["measures"][name], sign="+") for name in names)]
        for each in table["differences"]
    ]
    return markdown_table([["method", "minus", *(MEASURES[name] for name in names)], *rows])


def _classes(table: Mapping[str, Any]) -> str:
    prefix = "auroc of "
    names = [name for name in table["methods"][0]["measures"] if name.startswith(prefix)]
    rows = [[method["name"], *(interval(method["measures"][name]) for name in names)] for method in table["methods"]]
    return markdown_table([["method", *(name.removeprefix(prefix) for name in names)], *rows])


def _measures(table: Mapping[str, Any]) -> list[str]:
    return [name for name in MEASURES if name in table["methods"][0]["measures"]]


def interval(number: Mapping[str, float], sign: str = "", digits: int = 3) -> str:
    value, low, high = (f"{number[name]:{sign}.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


# The plot -------------------------------------------------------------------------------------------------------------


def save_plot(results: Mapping[str, Any], file: Path) -> None:
    """Draw the macro AUROC of every method with its interval, a panel a table, two beside each other.

    Raises:
        EcgJepaOutputError: the file cannot be written.
    """
    tables = results["tables"]
    methods = max(len(table["methods"]) for table in tables)
    columns, rows = min(2, len(tables)), -(-len(tables) // 2)
    figure = Figure(figsize=(3 + 4.5 * columns, 0.6 + (1.2 + 0.36 * methods) * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, table in zip(panels, tables, strict=False):
        _draw(axes, table)
    for axes in panels[len(tables) :]:
        axes.remove()
    names = [method["name"] for method in tables[0]["methods"]]
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.8)
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in (*(label for _, label in KINDS.values()), EACH_SEED) if label in handles]
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=5,
        fontsize=9,
        columnspacing=1.2,
        frameon=False,
    )
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)


def _draw(axes: Axes, table: Mapping[str, Any]) -> None:
    for row, method in enumerate(table["methods"]):
        number = method["measures"]["macro_auroc"]
        colour, label = KINDS[method["kind"]]
        axes.plot([number["low"], number["high"]], [row, row], color=colour, linewidth=2.5)
        axes.plot(number["value"], row, "o", color=colour, label=label)
        of_seeds = [run["macro_auroc"] for run in method["runs"]]
        if len(of_seeds) > 1:
            axes.plot(of_seeds, [row] * len(of_seeds), "|", color="black", markersize=9, label=EACH_SEED)
        axes.annotate(
            f"{number['value']:.3f}", (number["value"], row), (0, 6), textcoords="offset points", ha="center", size=8
        )
    axes.set_title(capitalised(table["title"]).replace(", ", "\n"), fontsize=10)
    axes.set_xlabel("macro AUROC, 95% interval over patients")
    axes.grid(axis="x", alpha=0.3)
