"""A recording drawn on ECG paper: 25 mm/s and 10 mm/mV, in the layouts that people read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaInputError
from modeling_ecg_jepa.leads_ecg_jepa import KNOWN_LEADS, STANDARD_12_LEADS

from .records import EcgRecord

# Matplotlib takes half a second to import, and only drawing needs it.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Layout = Literal["3x4", "12x1"]

#: What stands under every drawing.
DISCLAIMER = "Research use only: not a medical device"

MM_A_SECOND = 25.0
MM_A_MILLIVOLT = 10.0
MM_AN_INCH = 25.4

#: A drawing of more would be over 1.5 m wide.
LONGEST_SECONDS = 60.0

_PAPER, _SMALL_SQUARES, _LARGE_SQUARES = "#fffdfb", "#f7dcd9", "#eeb0aa"
_INK, _MUTED, _MARK = "#16181d", "#8a6d6b", "#1f5fbf"

#: In mm: room for the calibration pulse, and for title and caption above the first row and below the last.
_LEFT, _RIGHT, _TOP, _BOTTOM = 15.0, 5.0, 15.0, 15.0
#: Above and below the baseline of a row, in mm: at least, for pulse and name, and at most, however high the waves.
_LEAST_ROOM = {"3x4": (15.0, 10.0), "12x1": (11.0, 5.0)}
_MOST_ROOM = {"3x4": 30.0, "12x1": 60.0}
_SPARE = 2.0


@dataclass(frozen=True)
class Mark:
    """A stretch of a lead, or with no times all that is drawn of it, to point out.

    Attributes:
        lead: canonical name.
        start, end: seconds from the start of the record.
        text: written at the stretch.
    """

    lead: str
    start: float | None = None
    end: float | None = None
    text: str = ""


@dataclass(frozen=True)
class _Strip:
    """A piece of one lead: seconds `start` to `end`, drawn from `left` on along the line `baseline`, in mm."""

    lead: str
    start: float
    end: float
    left: float
    baseline: float
    bottom: float
    top: float


def draw_ecg(
    axes: "Axes",
    record: EcgRecord,
    *,
    layout: Layout = "3x4",
    leads: Sequence[str] | None = None,
    start: float = 0.0,
    seconds: float = 10.0,
    title: str | None = None,
    marks: Sequence[Mark] = (),
) -> None:
    """Draw a record on ECG paper; a unit of the axes is a millimetre of paper.

    Every lead is drawn about its own median. Samples that are missing leave a gap; leads that the record lacks, or that
    are constant, are named and left blank.

    Args:
        axes: cleared and taken whole; its limits become the size of the paper.
        record: any leads at any rate.
        layout: "3x4" shows the standard 12 leads one after another in three rows and lead II below, as a printed ECG;
            "12x1" shows every lead of the record in a row of its own, all at the same times. Rows are as high as their
            waves need; past 3 mV ("3x4") or 6 mV ("12x1") off the baseline traces run into the next row.
        leads: in layout "12x1" only these.
        start, seconds: which part of the record.
        title: above the drawing; the record's id, age and sex by default.
        marks: stretches to point out.

    Raises:
        EcgJepaInputError: an unknown layout, or a part that holds no sample.
    """
    from matplotlib.collections import LineCollection

    strips, width, height = _arrange(record, layout, leads, start, seconds)
    axes.clear()
    _draw_paper(axes, width, height)
    traces = []
    for strip in strips:
        name: dict[str, Any] = {"color": _INK, "fontsize": 9, "fontweight": "bold", "va": "bottom", "zorder": 5}
        axes.text(strip.left + 1, strip.baseline + 6.5, strip.lead, **name)
        points = _trace(record, strip)
        if points is None:
            axes.text(strip.left + 10, strip.baseline + 6.5, "no signal", **name | {"color": _MARK, "fontsize": 8})
        else:
            traces.append(points)
    axes.add_collection(LineCollection(traces, colors=_INK, linewidths=0.75, joinstyle="round", zorder=3))
    axes.add_collection(LineCollection(_separators(strips), colors=_INK, linewidths=0.9, zorder=4))
    axes.add_collection(LineCollection(_pulses(strips), colors=_INK, linewidths=0.9, zorder=3))
    for mark in marks:
        _draw_mark(axes, mark, strips)
    _write_around(axes, record, strips, title, width, height)


def ecg_figure(
    record: EcgRecord,
    *,
    layout: Layout = "3x4",
    leads: Sequence[str] | None = None,
    start: float = 0.0,
    seconds: float = 10.0,
    title: str | None = None,
    marks: Sequence[Mark] = (),
) -> "Figure":
    """`draw_ecg` on a figure of the size of the paper, so that a print of it is to scale.

    It belongs to no window and no global state: save it with `figure.savefig("ecg.png", dpi=150)`, or as PDF or SVG.
    """
    from matplotlib.figure import Figure

    width, height = paper_size(record, layout=layout, leads=leads, start=start, seconds=seconds)
    figure = Figure(figsize=(width / MM_AN_INCH, height / MM_AN_INCH))
    axes = figure.add_axes((0, 0, 1, 1))
    draw_ecg(axes, record, layout=layout, leads=leads, start=start, seconds=seconds, title=title, marks=marks)
    return figure


def paper_size(
    record: EcgRecord,
    *,
    layout: Layout = "3x4",
    leads: Sequence[str] | None = None,
    start: float = 0.0,
    seconds: float = 10.0,
) -> tuple[float, float]:
    """Width and height in mm of the paper that `draw_ecg` needs with these options."""
    _, width, height = _arrange(record, layout, leads, start, seconds)
    return width, height


# Where things stand ---------------------------------------------------------------------------------------------------


def _arrange(
    record: EcgRecord, layout: Layout, leads: Sequence[str] | None, start: float, seconds: float
) -> tuple[list[_Strip], float, float]:
    """The strips, and width and height of the paper in mm, which are whole large squares."""
    _check_part(record, layout, start, seconds)
    rows = _printed_rows(record) if layout == "3x4" else [[lead] for lead in leads or _leads_in_order(record)]
    strips: list[_Strip] = []
    depth = _TOP  # of the row's upper edge below the paper's
    for row in rows:
        share = seconds / len(row)
        parts = [(lead, start + share * column, start + share * (column + 1)) for column, lead in enumerate(row)]
        above, below = _room(record, parts, layout)
        strips += [
            _Strip(
                lead, first, last, _LEFT + MM_A_SECOND * (first - start), -depth - above, -depth - above - below, -depth
            )
            for lead, first, last in parts
        ]
        depth += above + below
    height = _whole_squares(depth + _BOTTOM)
    strips = [
        replace(strip, baseline=height + strip.baseline, bottom=height + strip.bottom, top=height + strip.top)
        for strip in strips
    ]
    return strips, _whole_squares(_LEFT + MM_A_SECOND * seconds + _RIGHT), height


def _check_part(record: EcgRecord, layout: str, start: float, seconds: float) -> None:
    if layout not in _LEAST_ROOM:
        raise EcgJepaInputError(f"layout={layout!r} must be one of {', '.join(map(repr, _LEAST_ROOM))}.")
    length = record.signal.shape[1] / record.sampling_rate
    if not (0 <= start < length and 0 < seconds <= LONGEST_SECONDS):
        raise EcgJepaInputError(
            f"start={start!r} must lie inside the record, which lasts {length:.3f} s, and seconds={seconds!r} be more "
            f"than 0 and at most {LONGEST_SECONDS:g}."
        )


def _room(record: EcgRecord, parts: Sequence[tuple[str, float, float]], layout: Layout) -> tuple[float, float]:
    """Millimetres above and below the baseline of a row: whole large squares, so that baselines lie on lines."""
    heights = [MM_A_MILLIVOLT * shown for part in parts if (shown := _shown(record, *part)[1]) is not None]
    highest = max((float(np.fmax.reduce(height, initial=0.0)) for height in heights), default=0.0)
    lowest = min((float(np.fmin.reduce(height, initial=0.0)) for height in heights), default=0.0)
    (above, below), most = _LEAST_ROOM[layout], _MOST_ROOM[layout]
    room = max(above, highest + _SPARE), max(below, _SPARE - lowest)
    return _whole_squares(min(room[0], most)), _whole_squares(min(room[1], most))


def _printed_rows(record: EcgRecord) -> list[list[str]]:
    columns = [STANDARD_12_LEADS[place : place + 3] for place in range(0, 12, 3)]
    rhythm = next((lead for lead in ("II", *record.lead_names) if lead in record.lead_names), "II")
    return [*([column[row] for column in columns] for row in range(3)), [rhythm]]


def _leads_in_order(record: EcgRecord) -> list[str]:
    return sorted(record.lead_names, key=KNOWN_LEADS.index)


def _whole_squares(mm: float) -> float:
    return 5.0 * math.ceil(mm / 5.0 - 1e-6)


def _shown(record: EcgRecord, lead: str, start: float, end: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Times in seconds and millivolts about the lead's median of a part; None where there is nothing to see of it."""
    first, last = (math.ceil(time * record.sampling_rate - 1e-6) for time in (start, end))
    times = np.arange(first, min(last, record.signal.shape[1])) / record.sampling_rate
    if lead not in record.lead_names:
        return times, None
    row = record.signal[record.lead_names.index(lead)]
    if not np.fmin.reduce(row) < np.fmax.reduce(row):
        return times, None
    return times, row[first:last] - np.nanmedian(row)


def _trace(record: EcgRecord, strip: _Strip) -> np.ndarray | None:
    """(samples, 2) in mm; None where there is nothing to see of the lead."""
    times, millivolts = _shown(record, strip.lead, strip.start, strip.end)
    if millivolts is None:
        return None
    x = strip.left + MM_A_SECOND * (times - strip.start)
    return np.stack([x, strip.baseline + MM_A_MILLIVOLT * millivolts], axis=1)


# What is drawn --------------------------------------------------------------------------------------------------------


def _draw_paper(axes: "Axes", width: float, height: float) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    for step, color, line in ((1.0, _SMALL_SQUARES, 0.35), (5.0, _LARGE_SQUARES, 0.6)):
        across = [[(x, 0), (x, height)] for x in np.arange(0, width + 0.5, step)]
        along = [[(0, y), (width, y)] for y in np.arange(0, height + 0.5, step)]
        axes.add_collection(LineCollection(across + along, colors=color, linewidths=line, zorder=step / 10))
    axes.add_patch(Rectangle((0, 0), width, height, facecolor=_PAPER, zorder=0))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.set_axis_off()


def _pulses(strips: Sequence[_Strip]) -> list[list[tuple[float, float]]]:
    """1 mV for 0.2 s at the left of every row."""
    step, up = 5.0, MM_A_MILLIVOLT
    shape = [(-11.0, 0.0), (-9.5, 0.0), (-9.5, up), (-9.5 + step, up), (-9.5 + step, 0.0), (-3.0, 0.0)]
    return [[(_LEFT + x, strip.baseline + y) for x, y in shape] for strip in strips if strip.left == _LEFT]


def _separators(strips: Sequence[_Strip]) -> list[list[tuple[float, float]]]:
    """Short lines where in a row one lead ends and the next begins."""
    return [
        [(strip.left, strip.baseline + y), (strip.left, strip.baseline + y + 2.5)]
        for strip in strips
        if strip.left > _LEFT
        for y in (-4.5, 2.0)
    ]


def _draw_mark(axes: "Axes", mark: Mark, strips: Sequence[_Strip]) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import FancyBboxPatch

    for strip in (strip for strip in strips if strip.lead == mark.lead):
        start = max(strip.start, strip.start if mark.start is None else mark.start)
        end = min(strip.end, strip.end if mark.end is None else mark.end)
        if start > end:
            continue
        middle, half = (start + end) / 2, max((end - start) / 2, 0.04)  # 2 mm wide at least
        left, right = (strip.left + MM_A_SECOND * (middle + side * half - strip.start) for side in (-1, 1))
        axes.add_patch(
            FancyBboxPatch(
                (left, strip.bottom + 0.5),
                right - left,
                strip.top - strip.bottom - 1.0,
                boxstyle="round,pad=0,rounding_size=1",
                facecolor=to_rgba(_MARK, 0.10),
                edgecolor=to_rgba(_MARK, 0.8),
                linewidth=0.8,
                zorder=2,
            )
        )
        if right < 0.7 * axes.get_xlim()[1]:
            x, side = right + 1, "left"
        else:  # in a stretch that is wide enough, else before it
            x, side = (right - 1 if right - left > 40 else left - 1), "right"
        text: dict[str, Any] = {
            "color": _MARK,
            "fontsize": 8,
            "va": "top",
            "ha": side,
            "zorder": 5,
            "parse_math": False,
        }
        axes.text(x, strip.top - 1.5, mark.text, **text)


def _write_around(
    axes: "Axes", record: EcgRecord, strips: Sequence[_Strip], title: str | None, width: float, height: float
) -> None:
    if title is None:
        age = None if record.age is None else f"{record.age:g} years"
        title = ", ".join(filter(None, (record.record_id, age, record.sex)))
    first, last = strips[0].start, max(strip.end for strip in strips)
    caption = f"25 mm/s   10 mm/mV   {record.sampling_rate:g} Hz   {first:g} to {last:g} s"
    unseen = [lead for lead in _leads_in_order(record) if lead not in {strip.lead for strip in strips}]
    if unseen:
        caption += f"   not shown: {', '.join(unseen)}"
    backing = {"facecolor": _PAPER, "alpha": 0.85, "edgecolor": "none", "pad": 1.5}
    over_traces: dict[str, Any] = {"bbox": backing, "zorder": 6}
    axes.text(5, height - 5, title, fontsize=11, fontweight="bold", color=_INK, va="top", parse_math=False)
    axes.text(5, 5, caption, fontsize=8, color=_INK, **over_traces)
    axes.text(width - 5, 5, DISCLAIMER, fontsize=8, color=_MUTED, ha="right", **over_traces)


__all__ = ["DISCLAIMER", "Layout", "Mark", "draw_ecg", "ecg_figure", "paper_size"]
