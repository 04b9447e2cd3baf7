"""What an ablation says: results.json from the cells, and from it alone the table and the plot."""

import dataclasses
import itertools
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import transformers
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import modeling_ecg_jepa
from dataset_scripts.dataset_card import markdown_table
from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import EcgJepaOutputError

from .metrics import Resamples, auroc, estimate, macro_values, resample_patients

#: Raised whenever a field of these files changes its meaning.
SCHEMA_VERSION = 1

#: What an ablation leaves in its folder.
PLAN, RECORDS, CELLS, RESULTS, TABLE, PLOT = "plan.json records.json cells results.json table.md plot.png".split()

#: Measure -> its name, the sign by which more of it is better, and decimals.
MEASURES = {"auroc": ("macro AUROC", 1, 3), "heart_rate": ("error of heart rate in bpm", -1, 2)}


def read_json(file: Path) -> dict[str, Any]:
    """
    Raises:
        EcgJepaOutputError: there is no such file, or it is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EcgJepaOutputError(f"Cannot read {file} ({error}). Remove it if it is there, and run again.") from error


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """
    Raises:
        EcgJepaOutputError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as unfinished:
        unfinished.write_text(json.dumps(content) + "\n", encoding="utf-8")


def cell_file(folder: Path, variant: str, seed: int) -> Path:
    name = re.sub(r"[^\w.+]+", "-", variant)
    return folder / CELLS / f"{name}-seed{seed}.json"


def write_report(folder: Path, told: Mapping[str, Any]) -> None:
    """Write results.json, table.md and plot.png of a folder whose cells are whole.

    Args:
        told: question, finding, command and seeds.
    """
    results = make_results(folder, told)
    write_json(folder / RESULTS, results)
    with whole_file(folder / TABLE) as unfinished:
        unfinished.write_text(f"{describe(results)}\n\n{_HOW_TO_READ}\n", encoding="utf-8")
    with whole_file(folder / PLOT) as unfinished, matplotlib.rc_context({"font.size": 9}):
        draw(results).savefig(unfinished, format="png", dpi=120)


def tables(folders: Sequence[Path]) -> str:
    """The tables of several folders as one page of Markdown."""
    return "\n\n".join([_HEAD, _HOW_TO_READ, *(describe(read_json(folder / RESULTS)) for folder in folders)])


# Numbers --------------------------------------------------------------------------------------------------------------


def make_results(folder: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """What results.json holds: a variant's value is the mean over its seeds; its interval, and that of a gain, comes
    from resampling the tested patients, the same draws for all; `of_seeds` tells how far the seeds lie apart."""
    plan, records = read_json(folder / PLAN), read_json(folder / RECORDS)
    resamples = resample_patients(records["patients"], seed=0)
    variants, gains, values = [], [], {}
    for variant in plan["variants"]:
        name = variant["name"]
        cells = [read_json(cell_file(folder, name, seed)) for seed in told["seeds"]]
        values[name] = [values_of(cell, records, resamples) for cell in cells]
        runs = [{key: value for key, value in cell.items() if key not in ("variant", "views")} for cell in cells]
        variants.append({**variant, "runs": runs, "values": _estimates(values[name])})
        for other in variant["against"]:
            paired = zip(values[name], values[other], strict=True)
            runs = [{key: MEASURES[key[1]][1] * (mine[key] - theirs[key]) for key in mine} for mine, theirs in paired]
            gains.append({"variant": name, "over": other, "values": _estimates(runs)})
    return {
        **plan,
        **told,
        "versions": {
            "ecg-jepa": modeling_ecg_jepa.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "records": {
            key: value for key, value in records.items() if key not in ("ids", "patients", "labels", "heart_rates")
        },
        "resampled": resamples.unit,
        "variants": variants,
        "gains": gains,
    }


def values_of(
    cell: Mapping[str, Any], records: Mapping[str, Any], resamples: Resamples
) -> dict[tuple[str, str], np.ndarray]:
    """(view, measure) -> its value over the tested records and over each resample of them, (1 + resamples,)."""
    labels, values = np.array(records["labels"], dtype=bool), {}
    for view, said in cell["views"].items():
        values[view, "auroc"] = macro_values(auroc, labels, np.array(said["scores"]), resamples)
        if records["heart_rates"] is not None:
            errors = np.abs(np.array(said["heart_rates"]) - np.array(records["heart_rates"]))
            values[view, "heart_rate"] = resamples.weights @ errors / resamples.weights.sum(1)
    return values


def _estimates(runs: Sequence[Mapping[tuple[str, str], np.ndarray]]) -> list[dict[str, Any]]:
    return [
        {
            "view": view,
            "measure": measure,
            **dataclasses.asdict(estimate(np.mean([run[view, measure] for run in runs], axis=0))),
            "of_seeds": [float(run[view, measure][0]) for run in runs],
        }
        for view, measure in runs[0]
    ]


# The table ------------------------------------------------------------------------------------------------------------

_HEAD = """\
# Ablations

The first experiments of the field on ECG-JEPA, each one command: `python -m train.ablate --help`. This page was made by
`python -m train.ablate tables` of what the commands left. Without options they train a very small model for a few
hundred steps on synthetic ECGs: what they show holds there, and a larger run may well say something else."""

_HOW_TO_READ = (
    "Values are means over seeds, with the 95% interval by resampling the tested patients or records and, after ±, the "
    "standard deviation over seeds. Gains are over another variant with the same seed and on the same records; above 0 "
    "is better. `better` and `worse` stand where the interval leaves out 0 and two or more seeds agree; of many "
    "comparisons without any effect a few get there too. Seconds are of training with its log, on a CPU those "
    "of the processor."
)


def describe(results: Mapping[str, Any]) -> str:
    """A section of Markdown: what was asked, how it was measured, what came out."""
    records, options = results["records"], results["options"]
    one_sided = ", ".join(records["classes_left_out"])
    classes = f"{len(records['classes'])} classes" + (f" (without {one_sided}: one outcome only)" if one_sided else "")
    setting = (
        f"{records['corpus']}: {records['trained_and_fitted']:,} records to pretrain and to fit linear probes of the "
        f"mean over all patches, {records['tested']:,} others tested, {classes}. {_seeds(results)}; batch "
        f"{options['batch_size']}, equal {results['equal']}. Resampled: {results['resampled']}."
    )
    parts = [f"## {results['experiment']}", results["question"], f"Published: {results['finding']}"]
    return "\n\n".join([*parts, f"`{results['command']}`", setting, _variants(results), "Gains:", _gains(results)])


def _seeds(results: Mapping[str, Any]) -> str:
    count = len(results["seeds"])
    return f"{count} seed{'s' if count > 1 else ''}"


def _variants(results: Mapping[str, Any]) -> str:
    facts = {"steps": ".0f", "seconds": ".0f", "loss": ".3f", "content_share": ".3f"}
    rows = []
    for variant in results["variants"]:
        runs = variant["runs"]
        means = [
            format(np.mean([run[key] for run in runs]), form) if key in runs[0] else "" for key, form in facts.items()
        ]
        rows += [[variant["name"], view, *means, *values] for view, values in _by_view(variant["values"])]
    return markdown_table(
        [["variant", "probe sees", *(key.replace("_", " ") for key in facts), *_measures(results)], *rows]
    )


def _gains(results: Mapping[str, Any]) -> str:
    rows = [
        [gain["variant"], gain["over"], view, *values]
        for gain in results["gains"]
        for view, values in _by_view(gain["values"], sign="+")
    ]
    return markdown_table([["variant", "over", "probe sees", *(f"{name}, gain" for name in _measures(results))], *rows])


def _measures(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(MEASURES[value["measure"]][0] for value in results["variants"][0]["values"]))


def _by_view(values: Sequence[Mapping[str, Any]], sign: str = "") -> Iterator[tuple[str, list[str]]]:
    for view in dict.fromkeys(value["view"] for value in values):
        yield view, [_in_words(value, sign) for value in values if value["view"] == view]


def _in_words(value: Mapping[str, Any], sign: str) -> str:
    digits = MEASURES[value["measure"]][2]
    middle, low, high = (f"{value[key]:{sign}.{digits}f}" for key in ("value", "low", "high"))
    spread = f" ± {np.std(value['of_seeds'], ddof=1):.{digits}f}" if len(value["of_seeds"]) > 1 else ""
    return f"{middle} ({low} to {high}){spread} {verdict(value) if sign else ''}".strip()


def verdict(gain: Mapping[str, Any]) -> str:
    """Whether a gain is one: its interval leaves out 0, and all seeds agree, which one alone cannot."""
    if len(gain["of_seeds"]) < 2:
        return ""
    if gain["low"] > 0 and min(gain["of_seeds"]) > 0:
        return "better"
    return "worse" if gain["high"] < 0 and max(gain["of_seeds"]) < 0 else ""


# The plot -------------------------------------------------------------------------------------------------------------


def draw(results: Mapping[str, Any]) -> Figure:
    """For each thing that probes see a row of panels with the variants and one with the gains, a panel a measure: the
    mean, its interval, and the seeds as small dots."""
    variants = [
        (one["name"], one["values"], "tab:blue" if one["trained"] else "tab:gray") for one in results["variants"]
    ]
    gains = [(f"{one['variant']}\nover {one['over']}", one["values"], "tab:green") for one in results["gains"]]
    panels = [(value["view"], value["measure"]) for value in variants[0][1]]
    views, measures = (list(dict.fromkeys(names)) for names in zip(*panels, strict=True))
    heights = [0.9 + 0.4 * len(entries) for _ in views for entries in (variants, gains)]
    figure = Figure(figsize=(3 + 5 * len(measures), 0.7 + sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), len(measures), squeeze=False, sharey="row", height_ratios=heights)
    for row, (view, entries) in enumerate(itertools.product(views, (variants, gains))):
        for column, measure in enumerate(measures):
            axes, (name, sign, _) = grid[row, column], MEASURES[measure]
            _draw_panel(axes, entries, view, measure)
            better = "more is better" if sign > 0 else "less is better"
            axes.set_title(f"{name}, {view} ({better})" if entries is variants else f"gain, {view} (above 0 is better)")
            if entries is gains:
                axes.axvline(0, color="black", linewidth=1)
    records = results["records"]
    figure.suptitle(
        f"{results['experiment']}: {records['corpus']}, {records['tested']:,} records tested, 95% intervals over them; "
        f"{_seeds(results)} (small dots)"
    )
    return figure


def _draw_panel(axes: Axes, entries: Sequence[tuple[str, Sequence, str]], view: str, measure: str) -> None:
    for row, (_, values, colour) in enumerate(entries):
        (value,) = [one for one in values if (one["view"], one["measure"]) == (view, measure)]
        axes.plot([value["low"], value["high"]], [row, row], color=colour, linewidth=2)
        axes.plot(value["value"], row, "o", color=colour)
        axes.plot(value["of_seeds"], [row + 0.25] * len(value["of_seeds"]), ".", color=colour, alpha=0.6, markersize=4)
    axes.set_yticks(range(len(entries)), [name for name, *_ in entries])
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.grid(alpha=0.3)
