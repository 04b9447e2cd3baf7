"""Tables and Bland-Altman plots of measurements, made from `results.json` and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataset_scripts.dataset_card import markdown_table
from dataset_scripts.outputs import whole_file

from .measure_scores import differences
from .probe_report import capitalised, interval

_NOTE = """\
Ridge regression on frozen embeddings, cross-validated by patient, its penalty chosen inside the fitted part. Intervals
tell what other patients would have given, not other folds. Limits of agreement: bias -+ 1.96 standard deviations of
the differences (prediction - truth). Random weights have the same sizes and levers; their numbers are means over seeds.
The mean of the other folds knows nothing of a record. A ridge regression that explains little draws its predictions to
the mean: then the differences fall with the measurement, as the plots show."""

_LUDB_UNIT = """\
LUDB's files hold no calibration: its counts are read as 1000 per mV, which fits by amplitude but is documented nowhere.
So mV and the T amplitude rest on that; times and the axis do not."""

_DELINEATION_NOTE = """\
One linear layer from the features of a patch and its two neighbours ({layers}) to P, QRS, T or none for each of the
patch's samples; cross-validated by patient. Only the marked span of each lead counts: LUDB's first and last beats
are not marked. A boundary is found if one of its wave and kind lies within {window:.0f} ms of it, one to one; errors in
ms are those of the found ones, above 0 where they are late. A patch is {patch:.0f} ms long and no feature is finer
than a patch, so a linear layer must tell the sample from the patch's own channels: that limits the timing errors, and a
decoder with finer steps may find what is missed here."""

_COLOURS = {"pretrained": "tab:blue", "random": "tab:gray"}


# Tables ---------------------------------------------------------------------------------------------------------------


def write_tables(results: Mapping[str, Any], file: Path) -> None:
    """Write everything as Markdown.

    Raises:
        EcgJepaOutputError: the file cannot be written.
    """
    sections = ["# Measurements", _describe_records(results), _describe_truth(results), _models(results), _NOTE]
    if results["corpus"]["name"] == "ludb":
        sections.append(_LUDB_UNIT)
    for table in results["measurements"]:
        sections += [f"## {capitalised(table['title'])} ({table['unit']})", _describe(table, results), _methods(table)]
        sections += ["Mean absolute error less than that of others, on the same resamples:", _gains(table)]
    if "delineation" in results:
        sections += ["## Boundaries of waves", _delineation_note(results), *_delineation(results["delineation"])]
    if "saved" in results:
        sections += ["## Saved model", _saved(results["saved"])]
    with whole_file(file) as unfinished:
        unfinished.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _describe_records(results: Mapping[str, Any]) -> str:
    folds = len(results["splits"]["records_by_fold"])
    text = f"{results['records']:,} records of {results['corpus']['name']} in {folds} folds."
    if results["left_out"]:
        text += f" Left out: {', '.join(f'{reason} {count:,}' for reason, count in results['left_out'].items())}."
    if results["duplicates"]:
        pairs = ", ".join(f"{pair['record']} (is {pair['same_signal_as']})" for pair in results["duplicates"])
        text += f" Left out as the same signal: {pairs}."
    for name, reason in results["not_evaluated"].items():
        text += f" Not evaluated: {name}, {reason}."
    return text


def _describe_truth(results: Mapping[str, Any]) -> str:
    truth = results["truth"]
    text = f"Truth: {truth['in_words']}."
    if truth["source"] != "synthesis":
        text += f" {truth['baseline']}"
    if truth["delineator_beside_marks"]:
        apart = ", ".join(
            f"{name} {beside['mae']:.3g} (bias {beside['bias']:+.3g}, {beside['records']} records)"
            for name, beside in truth["delineator_beside_marks"].items()
        )
        text += f" The delineator's mean absolute distance from the cardiologists' marks: {apart}."
    return text


def _models(results: Mapping[str, Any]) -> str:
    lines = []
    for model in results["models"]:
        told = model["pretraining"] or {}
        seen = [corpus["name"] for corpus in told.get("corpus") or []]
        text = f"{model['name']}: {model['hidden_size']} x {model['num_hidden_layers']}, pretrained on "
        text += f"{', '.join(seen) or 'what its folder does not tell'}."
        if results["corpus"]["name"] in seen:
            text += (
                f" It has seen records of {results['corpus']['name']}, without the truth, so its numbers flatter it."
            )
        lines.append(text)
    return " ".join(lines)


def _describe(table: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    spread = f"{len(table['records']):,} records; 95% intervals by resampling {table['resampled']}."
    rule = "" if results["truth"]["source"] == "synthesis" else f" Truth: {table['rule']}."
    undefined = results["exclusions"][table["name"]]
    missing = "; ".join(f"{reason} ({len(ids):,})" for reason, ids in undefined.items())
    return f"{spread}{rule}" + (f" Without: {missing}." if missing else "")


def _methods(table: Mapping[str, Any]) -> str:
    digits = _digits(table)
    rows = []
    for method in table["methods"]:
        measures = method["measures"]
        limits = [measures[name]["value"] for name in ("lower_limit", "upper_limit")]
        rows.append(
            [
                method["name"],
                _interval(measures["mae"], digits),
                _interval(measures.get("correlation"), 2),
                _interval(measures["bias"], digits, "+"),
                f"{limits[0]:+.{digits}f} to {limits[1]:+.{digits}f}",
            ]
        )
    return markdown_table([["method", "mean absolute error", "correlation", "bias", "limits of agreement"], *rows])


def _gains(table: Mapping[str, Any]) -> str:
    rows = [
        [each["method"], each["beside"], _interval(each["mae_less"], _digits(table), "+")]
        for each in table["differences"]
    ]
    return markdown_table([["method", "beside", "less by"], *rows])


def _digits(table: Mapping[str, Any]) -> int:
    return 3 if table["unit"] == "mV" else 1


def _delineation_note(results: Mapping[str, Any]) -> str:
    patch = 1000 * results["grid"]["patch_size"] / results["grid"]["sampling_rate"]
    table, window = results["delineation"], 1000 * results["delineation_settings"]["window_seconds"]
    text = _DELINEATION_NOTE.format(window=window, patch=patch, layers=results["delineation_settings"]["layers"])
    return f"{text}\n\nLeads {', '.join(table['leads'])}; 95% intervals by resampling {table['resampled']}."


def _delineation(table: Mapping[str, Any]) -> list[str]:
    rows, head = [], ["method", "boundary", "marked", "sensitivity %", "positive predictive value %", "mean", "SD"]
    for method in table["methods"]:
        for point in method["points"]:
            shares = [_percent(point[name]) for name in ("sensitivity", "positive_predictive_value")]
            errors = [_interval(point["mean_error"], 1, "+"), _interval(point["sd_error"], 1)]
            rows.append([method["name"], f"{point['wave']} {point['point']}", f"{point['marked']:,}", *shares, *errors])
    gains = [
        [
            each["method"],
            each["beside"],
            f"{each['wave']} {each['point']}",
            _percent(each["sensitivity_more"], "+"),
            _percent(each["positive_predictive_value_more"], "+"),
            _interval(each["sd_error_less"], 1, "+"),
        ]
        for each in table["differences"]
    ]
    names = ["method", "beside", "boundary", "sensitivity more", "predictive value more", "SD less"]
    return [
        markdown_table([head, *rows]),
        "On the same resamples, in points of per cent and ms:",
        markdown_table([names, *gains]),
    ]


def _saved(saved: Mapping[str, Any]) -> str:
    targets = ", ".join(f"{target['name']} ({target['unit']})" for target in saved["targets"])
    return (
        f"`{saved['folder']}`, an EcgJepaForRegression of {saved['model']} fitted to all records, mean over all "
        f"patches: {targets}. The axis is atan2(axis_sine, axis_cosine). After loading it differs from the regression "
        f"by at most {saved['largest_difference_after_loading']:.1e} standard deviations of a target."
    )


def _percent(number: Mapping[str, float] | None, sign: str = "") -> str:
    return _interval(number and {name: 100 * value for name, value in number.items()}, 1, sign)


def _interval(number: Mapping[str, float] | None, digits: int, sign: str = "") -> str:
    return "-" if number is None else interval(number, sign, digits)


# The plot -------------------------------------------------------------------------------------------------------------


def save_plot(results: Mapping[str, Any], file: Path) -> None:
    """Draw a Bland-Altman plot a measurement: the first model with its last pooling, and random weights behind it.

    Raises:
        EcgJepaOutputError: the file cannot be written.
    """
    tables = results["measurements"]
    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.9 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, table in zip(panels, tables, strict=False):
        _draw(axes, table)
    for axes in panels[len(tables) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)


def _draw(axes: Axes, table: Mapping[str, Any]) -> None:
    truth = np.array(table["truth"])
    pretrained = [method for method in table["methods"] if method["kind"] == "pretrained"]
    shown = next(method for method in reversed(pretrained) if method["model"] == pretrained[0]["model"])
    random = [m for m in table["methods"] if m["kind"] == "random" and m["pool"] == shown["pool"]]
    for method in [*random[:1], shown]:
        predictions = np.array(method["predictions"])
        apart = differences(predictions, truth, table["circular"])
        # Degrees have no middle that is not arbitrary, so the truth stands in its place.
        across = truth if table["circular"] else (predictions + truth) / 2
        size, alpha = (16, 0.75) if method is shown else (10, 0.45)
        axes.scatter(
            across, apart, s=size, alpha=alpha, linewidths=0, color=_COLOURS[method["kind"]], label=method["name"]
        )
    measures = shown["measures"]
    axes.axhline(measures["bias"]["value"], color="tab:blue", linewidth=1.2, label="bias")
    for place, name in enumerate(("lower_limit", "upper_limit")):
        label = None if place else "95% limits of agreement"
        axes.axhline(measures[name]["value"], color="tab:blue", linewidth=1.0, linestyle="--", label=label)
    error = _interval(measures["mae"], _digits(table))
    axes.set_title(f"{capitalised(table['title'])}: error {error} {table['unit']}", fontsize=9.5)
    middle = "truth" if table["circular"] else "mean of prediction and truth"
    axes.set_xlabel(f"{middle} ({table['unit']})", fontsize=9)
    axes.set_ylabel(f"prediction - truth ({table['unit']})", fontsize=9)
    axes.grid(alpha=0.25)
