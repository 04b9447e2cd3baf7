"""The curves of a run as one picture: `python -m train.curves RUN_FOLDER [FILE.png]` draws them again."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataset_scripts.outputs import whole_file

from .checkpoints import read_log
from .failures import LEAST_CONTENT_SHARE, failure

CURVES = "curves.png"

#: Title of a panel -> (key of a log line, its name in the legend), and whether the axis is logarithmic.
_PANELS: dict[str, tuple[list[tuple[str, str]], bool]] = {
    "loss (says little alone)": ([("loss", "smooth L1")], False),
    "content share: below the floor it learns positions": ([("content_share", "of the targets")], False),
    "spread of the targets between records": ([("target_std", "standard deviation")], False),
    "directions in use (RankMe)": ([("student_rank_me", "student"), ("teacher_rank_me", "teacher")], False),
    "student from teacher": ([("student_teacher_distance", "relative distance")], False),
    "gradient norm": ([("gradient_norm", "before the step")], True),
    "learning rate": ([("learning_rate", "AdamW")], False),
    "momentum of the teacher": ([("momentum", "share of itself kept")], False),
    "speed": ([("records_per_second", "records a second")], False),
    "waiting for data": ([("waiting_for_data", "share of the time")], False),
    "online probe: error of heart rate, bpm": (
        [("probe_bpm_mean", "mean of all patches"), ("probe_bpm_lead", "mean a lead")],
        False,
    ),
    "online probe: macro AUROC of labels": (
        [("probe_auroc_mean", "mean of all patches"), ("probe_auroc_lead", "mean a lead")],
        False,
    ),
}


def draw_curves(lines: Sequence[Mapping[str, Any]], title: str, floor: float = 0.0) -> Figure:
    """A figure with a panel a measure, over the steps.

    Args:
        floor: of the content share, drawn as a line where it is above 0.
    """
    panels = {name: panel for name, panel in _PANELS.items() if any(panel[0][0][0] in line for line in lines)}
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(14, 3.2 * rows), layout="constrained")
    words = failures_of(lines)
    figure.suptitle("\n".join([title, *words]), color="tab:red" if words else "black")
    all_axes = list(figure.subplots(rows, 3, squeeze=False).flat)
    for axes, (name, (curves, logarithmic)) in zip(all_axes, panels.items(), strict=False):
        _draw_panel(axes, name, curves, lines, logarithmic)
        if curves[0][0] == "content_share":
            _draw_floor(axes, lines, floor or LEAST_CONTENT_SHARE)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    return figure


def failures_of(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each kind of failure that the lines show, by its name, and since which step."""
    since: dict[str, int] = {}
    for count, line in enumerate(lines, start=1):
        if "student_rank_me" in line and (said := failure(lines[:count])):
            since.setdefault(said.split(":")[0], line["step"])
    return [f"{kind}, seen since step {step:,}" for kind, step in since.items()]


def _draw_floor(axes: Axes, lines: Sequence[Mapping[str, Any]], floor: float) -> None:
    """The content share between 0 and 1, or over its decades where it is near 0."""
    if min(line["content_share"] for line in lines) < 0.05:
        axes.set_yscale("log")
        axes.set_ylim(1e-4, 1)
    else:
        axes.set_ylim(0, 1)
    axes.axhline(floor, color="tab:red", linestyle="--", label=f"floor {floor:g}")
    axes.legend(fontsize=8)


def _draw_panel(
    axes: Axes, name: str, curves: list[tuple[str, str]], lines: Sequence[Mapping[str, Any]], logarithmic: bool
) -> None:
    for key, label in curves:
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 50 else None)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    if logarithmic:
        axes.set_yscale("log")


def save_curves(folder: Path, file: Path | None = None) -> Path:
    """Draw the log of a run into `curves.png` of its folder, or another file.

    Raises:
        EcgJepaCheckpointError: no log there.
        EcgJepaOutputError: the picture cannot be written.
    """
    header, lines = read_log(folder)
    options = header["options"]
    title = f"{folder.name}: {header['records']:,} records, {options['preset']}, seed {options['seed']}"
    target = file or folder / CURVES
    with whole_file(target) as unfinished, matplotlib.rc_context({"font.size": 9}):
        draw_curves(lines, title, options["min_content_share"]).savefig(unfinished, format="png", dpi=110)
    return target


if __name__ == "__main__":
    print(save_curves(*map(Path, sys.argv[1:3])))
