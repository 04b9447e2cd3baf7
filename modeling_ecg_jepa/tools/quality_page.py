"""The overview that `ecg-jepa quality` writes: distributions, counts, and the worst records on ECG paper."""

import base64
import html
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from dataset_scripts.ecg_paper import DISCLAIMER, MM_AN_INCH, Layout, Mark, draw_ecg, ecg_figure, paper_size
from dataset_scripts.outputs import whole_file
from dataset_scripts.records import EcgRecord, read_record

from ..errors_ecg_jepa import EcgJepaOutputError
from ..preparation_ecg_jepa import longest_gap
from ..quality_ecg_jepa import EINTHOVEN_THRESHOLD, SPIKE_MILLIVOLTS
from .quality import (
    FINDING_KINDS,
    LEVELS,
    QualitySurvey,
    RecordQuality,
    findings_of,
    highest_records,
    lead_sets,
    levels,
    rates_and_lengths,
    worst_records,
)

#: Records drawn of each kind of finding, and rows of the longest table.
_EXAMPLES = 2
_MOST_ROWS = 500

_SECONDS = 10.0
_BARS, _LINE, _TEXT = "#3f6ea8", "#c0392b", "#16181d"

#: Width of all figures in inches: ECG paper for 10 s.
_WIDTH = 270.0 / MM_AN_INCH
_HISTOGRAMS_HEIGHT = 5.2


@dataclass(frozen=True)
class Drawing:
    """A record to draw with what is to be seen in it: options as of `draw_ecg`."""

    record: EcgRecord
    heading: str
    options: dict[str, Any]


def check_output(output: str | os.PathLike) -> None:
    """Refuse a name that says no kind of overview, before hours of reading.

    Raises:
        EcgJepaOutputError: it ends neither in .html nor in .png.
    """
    if Path(output).suffix.lower() not in (".html", ".htm", ".png"):
        raise EcgJepaOutputError(f"{output} must end in .html for a page or in .png for a picture.")


def write_overview(survey: QualitySurvey, output: str | os.PathLike) -> None:
    """Write the overview: a page in one file, or a picture if the name ends in .png; replaced if it is there.

    Raises:
        EcgJepaOutputError: the name ends otherwise, or the place cannot be written to.
    """
    check_output(output)
    with whole_file(output) as unfinished:
        if Path(output).suffix.lower() == ".png":
            unfinished.write_bytes(_png(picture(survey)))
        else:
            unfinished.write_text(page(survey), encoding="utf-8")


# What is drawn --------------------------------------------------------------------------------------------------------


def drawings(survey: QualitySurvey, most: int = _EXAMPLES) -> Iterator[Drawing]:
    """The worst records of each kind of finding, and the noisiest and the most wandering; each record is read anew."""
    for key, kind in FINDING_KINDS.items():
        if key == "remark":  # about the file, nothing to see
            continue
        for quality in worst_records(survey, key, most):
            record = read_record(quality.header)
            yield Drawing(record, f"{quality.header.stem}: {kind.text(quality)}", _options(key, record, quality))
    for column in ("noise_mv", "wander_mv"):
        for quality in highest_records(survey, column, 1):
            heading = (
                f"{quality.header.stem}: the most {LEVELS[column].split(',')[0]}, {quality.columns[column]:.3f} mV"
            )
            yield Drawing(read_record(quality.header), heading, {"seconds": _SECONDS})


def _options(key: str, record: EcgRecord, quality: RecordQuality) -> dict[str, Any]:
    """How a record is drawn so that its finding is in sight."""
    marks = _MARKS[key](record, quality)
    first = min((mark.start for mark in marks if mark.start is not None), default=0.0)
    start = 0.0 if first < _SECONDS else first - _SECONDS / 2
    if key in ("missing", "gaps"):
        return {"start": start, "seconds": _SECONDS, "marks": marks}
    leads = dict.fromkeys([*(mark.lead for mark in marks[:4]), *({"II"} & set(record.lead_names))])
    layout: Layout = "12x1"
    in_order = [lead for lead in record.lead_names if lead in leads]
    return {"layout": layout, "leads": in_order, "start": start, "seconds": _SECONDS, "marks": marks}


def _missing_marks(record: EcgRecord, quality: RecordQuality) -> list[Mark]:
    return [Mark(lead) for lead in quality.columns["missing_leads"]]


def _limb_marks(record: EcgRecord, quality: RecordQuality) -> list[Mark]:
    limb = [lead for lead in ("I", "II", "III", "aVR", "aVL", "aVF") if lead in record.lead_names]
    error = quality.columns["limb_error"]
    text = "" if error is None else f"II = I + III is off by {error:.0%}"
    return [Mark(lead, text=text if lead == "III" else "") for lead in limb]


def _spike_marks(record: EcgRecord, quality: RecordQuality) -> list[Mark]:
    marks = []
    for lead in quality.columns["spike_leads"]:
        row = record.signal[record.lead_names.index(lead)]
        place = int(np.nanargmax(np.abs(row)))
        time = place / record.sampling_rate
        marks.append(Mark(lead, time - 0.05, time + 0.05, f"{row[place]:.2f} mV"))
    return marks


def _saturation_marks(record: EcgRecord, quality: RecordQuality) -> list[Mark]:
    marks = []
    for lead in quality.columns["saturated_leads"]:
        row = record.signal[record.lead_names.index(lead)]
        runs = [(*longest_gap(row == extreme), extreme) for extreme in (np.nanmax(row), np.nanmin(row))]
        first, length, extreme = max(runs, key=lambda run: run[1])
        marks.append(
            _stretch(record, lead, first, length, f"{extreme:.2f} mV for {length / record.sampling_rate:.2f} s")
        )
    return marks


def _flat_marks(record: EcgRecord, quality: RecordQuality) -> list[Mark]:
    marks = []
    for lead in quality.columns["flat_leads"]:
        row = record.signal[record.lead_names.index(lead)]
        first, length = longest_gap(row[1:] == row[:-1])
        marks.append(_stretch(record, lead, first, length + 1, f"flat for {(length + 1) / record.sampling_rate:.2f} s"))
    return marks


def _gap_marks(record: EcgRecord, quality: RecordQuality) -> list[Mark]:
    marks = []
    for lead, missing in zip(record.lead_names, np.isnan(record.signal), strict=True):
        if missing.any():
            first, length = longest_gap(missing)
            marks.append(_stretch(record, lead, first, length, f"{length / record.sampling_rate:.2f} s missing"))
    return marks


def _stretch(record: EcgRecord, lead: str, first: int, length: int, text: str) -> Mark:
    return Mark(lead, first / record.sampling_rate, (first + length) / record.sampling_rate, text)


_MARKS: dict[str, Callable[[EcgRecord, RecordQuality], list[Mark]]] = {
    "missing": _missing_marks,
    "limb": _limb_marks,
    "spike": _spike_marks,
    "saturation": _saturation_marks,
    "flat": _flat_marks,
    "gaps": _gap_marks,
}


# Figures --------------------------------------------------------------------------------------------------------------


def histograms(survey: QualitySurvey, figure: Figure, bottom: float = 0.11, top: float = 0.93) -> None:
    """Six panels between two heights of a figure, as shares of it: findings, four levels, rates with lengths."""
    grid = figure.add_gridspec(2, 3, bottom=bottom, top=top, left=0.02, right=0.985, wspace=0.12, hspace=0.45)
    panels = [figure.add_subplot(grid[place // 3, place % 3]) for place in range(6)]
    counts = [(kind.title, sum(map(kind.is_found, survey.records))) for kind in FINDING_KINDS.values()]
    _draw_counts(panels[0], "records with findings", counts)
    _draw_counts(panels[1], "rate and length", _with_rest(rates_and_lengths(survey), len(FINDING_KINDS)))
    for axes, column in zip(panels[2:], LEVELS, strict=True):
        _draw_levels(axes, LEVELS[column], levels(survey, column))
    _draw_limit(panels[4], SPIKE_MILLIVOLTS, "10 mV")
    _draw_limit(panels[5], EINTHOVEN_THRESHOLD, f"{EINTHOVEN_THRESHOLD:g}")


def _draw_counts(axes: Axes, title: str, counts: Sequence[tuple[str, int]]) -> None:
    places = range(len(counts))
    largest = max((count for _, count in counts), default=0) or 1
    axes.barh(places, [count for _, count in counts], height=0.3, color=_BARS)
    for place, (words, count) in enumerate(counts):
        axes.text(0, place - 0.19, words, fontsize=7.5, color=_TEXT, va="bottom", parse_math=False)
        axes.text(largest * 1.02, place, f"{count:,}", fontsize=7.5, color=_TEXT, va="center", fontweight="bold")
    axes.set(xlim=(0, largest * 1.15), ylim=(len(counts) - 0.6, -0.9), xticks=[], yticks=[])
    _plain(axes, title)
    axes.spines[:].set_visible(False)


def _draw_levels(axes: Axes, title: str, values: np.ndarray) -> None:
    _plain(axes, title)
    axes.set(yticks=[])
    axes.spines["left"].set_visible(False)
    shown = np.maximum(values, _SMALLEST_LEVEL)
    if not shown.size:
        axes.text(0.5, 0.5, "cannot be told", ha="center", color=_TEXT, transform=axes.transAxes)
        axes.set(xticks=[])
        return
    low, high = shown.min() / 1.1, shown.max() * 1.1
    axes.hist(shown, bins=np.geomspace(low, high, 31).tolist(), color=_BARS)
    axes.set(xscale="log", xlim=(low / 1.2, high * 1.2))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, axes.get_ylim()[1] * 1.2)
    middle = float(np.median(values))
    axes.text(0.01, 0.97, f"median {middle:.2g}", fontsize=8, va="top", transform=axes.transAxes)


#: Logarithmic axes begin here: limb leads that were computed from each other are exact.
_SMALLEST_LEVEL = 1e-5


def _draw_limit(axes: Axes, limit: float, text: str) -> None:
    if axes.get_xscale() != "log":
        return
    low, high = axes.get_xlim()
    axes.set_xlim(low, max(high, 1.5 * limit))
    axes.axvline(limit, color=_LINE, linewidth=1)
    axes.text(limit, axes.get_ylim()[1] * 0.97, f"{text} ", fontsize=8, color=_LINE, ha="right", va="top")


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9.5, fontweight="bold", loc="left", color=_TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_TEXT)


def _with_rest(counts: Sequence[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """The most frequent, with all others in one line."""
    if len(counts) <= most:
        return list(counts)
    rest = counts[most - 1 :]
    return [*counts[: most - 1], (f"{len(rest):,} others", sum(count for _, count in rest))]


def picture(survey: QualitySurvey) -> Figure:
    """The overview as one figure: the panels, and below them the worst record of each kind."""
    shown = list(drawings(survey, most=1))
    heights = [_paper_height(drawing) for drawing in shown]
    header = 0.8
    total = header + _HISTOGRAMS_HEIGHT + sum(heights)
    figure = Figure(figsize=(_WIDTH, total), facecolor="white")
    figure.text(0.02, 1 - 0.25 / total, _headline(survey), fontsize=13, fontweight="bold", color=_TEXT, va="top")
    figure.text(0.02, 1 - 0.52 / total, DISCLAIMER, fontsize=9, color=_LINE, va="top")
    panels = 1 - (header + _HISTOGRAMS_HEIGHT) / total
    share = _HISTOGRAMS_HEIGHT / total
    histograms(survey, figure, bottom=panels + 0.11 * share, top=panels + 0.93 * share)
    for drawing, height in zip(shown, heights, strict=True):
        panels -= height / total
        axes = figure.add_axes((0, panels, 1, height / total))
        draw_ecg(axes, drawing.record, title=drawing.heading, **drawing.options)
    return figure


def _paper_height(drawing: Drawing) -> float:
    options = {name: value for name, value in drawing.options.items() if name != "marks"}
    return paper_size(drawing.record, **options)[1] / MM_AN_INCH


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


# The page -------------------------------------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #16181d; background: #fff; max-width: 1180px; margin: 0 auto;
       padding: 24px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 18px; margin: 36px 0 10px; }
.note { color: #c0392b; margin: 4px 0 20px; }
img { width: 100%; border: 1px solid #e6e2df; border-radius: 6px; margin: 0 0 16px; display: block; }
.scroll { max-height: 480px; overflow: auto; border: 1px solid #e6e2df; border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { position: sticky; top: 0; background: #f6f4f2; text-align: left; }
th, td { padding: 5px 10px; border-bottom: 1px solid #eeebe8; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def page(survey: QualitySurvey) -> str:
    """The overview as an HTML page that needs no other file, and runs no script."""
    panels = Figure(figsize=(_WIDTH, _HISTOGRAMS_HEIGHT))
    histograms(survey, panels)
    found = [record for record in survey.records if findings_of(record)]
    parts = [
        f"<h1>{html.escape(_headline(survey))}</h1>",
        f'<p class="note">{DISCLAIMER}. Findings alter nothing; what they mean is for a person to judge.</p>',
        _image(panels, "distributions"),
        "<h2>The worst of each kind</h2>",
        *(_image(_figure_of(drawing), drawing.heading) for drawing in drawings(survey)),
        f"<h2>{len(found):,} records with findings</h2>",
        _table(("record", "findings", "noise, mV", "wander, mV", "peak, mV"), map(_finding_row, found), len(found)),
        "<h2>Leads</h2>",
        _table(("leads", "records"), lead_sets(survey), len(lead_sets(survey))),
        f"<h2>{len(survey.left_out):,} records left out</h2>",
    ]
    left_out = [(record.place, record.reason, record.message) for record in survey.left_out]
    if left_out:
        parts.append(_table(("record", "reason", "message"), left_out, len(left_out)))
    body = "\n".join(parts)
    title = "Quality of ECG records"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _headline(survey: QualitySurvey) -> str:
    hours = sum(record.seconds for record in survey.records) / 3600
    return f"Quality of {len(survey.records):,} ECG records ({hours:,.1f} h)"


def _figure_of(drawing: Drawing) -> Figure:
    return ecg_figure(drawing.record, title=drawing.heading, **drawing.options)


def _image(figure: Figure, text: str) -> str:
    content = base64.b64encode(_png(figure)).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{content}">'


def _finding_row(record: RecordQuality) -> tuple[str | float | None, ...]:
    measured = (record.columns[column] for column in ("noise_mv", "wander_mv", "peak_mv"))
    return str(record.header.with_suffix("")), "; ".join(findings_of(record)), *measured


def _table(names: Sequence[str], rows: Iterator[Sequence[Any]] | Sequence[Sequence[Any]], total: int) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = [f"<tr>{''.join(map(_cell, row))}</tr>" for row, _ in zip(rows, range(_MOST_ROWS), strict=False)]
    more = f"<p>... and {total - _MOST_ROWS:,} more.</p>" if total > _MOST_ROWS else ""
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n' + "\n".join(body) + f"\n</table></div>{more}"


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    number = "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
    return f'<td class="number">{number}</td>'


__all__ = ["check_output", "drawings", "histograms", "page", "picture", "write_overview"]
