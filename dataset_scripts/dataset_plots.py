"""The plots of a dataset card: prevalence of the labels, who the patients are, how long the records are, one ECG."""

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

from .dataset_statistics import SplitStatistics
from .ecg_paper import Layout, ecg_figure
from .records import EcgRecord
from .signals import MISSING

# Matplotlib takes half a second to import, and only drawing needs it.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
#: Beside one another also for eyes that see red and green alike; Okabe and Ito's palette.
_SPLIT_COLORS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
_SEX_COLORS = {"female": "#CC79A7", "male": "#56B4E9", None: "#999999"}
#: Labels drawn: the most frequent ones. The card's table has all.
_MOST_LABELS = 40


def draw_plots(folder: Path, splits: Mapping[str, SplitStatistics], shard: Path) -> dict[str, str]:
    """Draw what can be drawn of a corpus; a plot without data is left out.

    Args:
        folder: is made.
        splits: of all splits.
        shard: the Parquet file whose first record is drawn.

    Returns:
        file name -> what it shows, in the order of the card.
    """
    folder.mkdir()
    plots = {
        "labels.png": (_draw_labels, "Share of the records of each split in which a label holds"),
        "patients.png": (_draw_ages, "Age and sex, all splits"),
        "lengths.png": (_draw_lengths, "Length of the records, all splits"),
    }
    captions = {}
    for name, (draw, caption) in plots.items():
        figure = draw(splits)
        if figure is not None:
            figure.savefig(folder / name, dpi=_DPI)
            captions[name] = caption
    record = first_record(shard)
    # The layout of the clinic has places for 12 leads; with fewer a row a lead leaves nothing blank.
    layout: Layout = "3x4" if set(STANDARD_12_LEADS) <= set(record.lead_names) else "12x1"
    ecg_figure(record, layout=layout, title=f"Record {record.record_id}").savefig(folder / "ecg.png", dpi=_DPI)
    return {**captions, "ecg.png": f"The first record, {record.record_id}"}


def first_record(shard: Path) -> EcgRecord:
    """The first row of a Parquet file, in millivolts."""
    row = pq.ParquetFile(shard).read_row_group(0).slice(0, 1).to_pylist()[0]
    counts = np.array(row["signal"], np.int16).reshape(len(row["lead_names"]), -1)
    return EcgRecord(
        signal=np.where(counts == MISSING, np.float32(np.nan), counts * np.float32(row["signal_scale"])),
        sampling_rate=row["sampling_rate"],
        lead_names=tuple(row["lead_names"]),
        record_id=row["record_id"],
        age=row["age"],
        sex=row["sex"],
    )


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _draw_labels(splits: Mapping[str, SplitStatistics]) -> "Figure | None":
    total = sum((statistics.labels for statistics in splits.values()), start=collections.Counter())
    names = [name for name, _ in total.most_common(_MOST_LABELS)]
    if not names:
        return None
    bar = 0.8 / len(splits)
    figure, axes = _figure(7.5, 1.1 + 0.16 * len(splits) * max(len(names), 3))
    for place, (split, statistics) in enumerate(splits.items()):
        shares = [100 * statistics.labels[name] / statistics.records for name in names]
        axes.barh(
            np.arange(len(names)) + (place - (len(splits) - 1) / 2) * bar,
            shares,
            height=bar,
            color=_SPLIT_COLORS[split],
            label=f"{split} ({statistics.records:,} records)",
        )
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("records in which it holds, %")
    axes.set_title(f"{len(names)} of {len(total)} labels, the most frequent" if len(total) > len(names) else "Labels")
    axes.legend(frameon=False, loc="lower right")
    return figure


def _draw_ages(splits: Mapping[str, SplitStatistics]) -> "Figure | None":
    people = [
        (age, sex)
        for statistics in splits.values()
        for age, sex in zip(statistics.ages, statistics.sexes, strict=True)
        if age is not None
    ]
    if not people:
        return None
    # PTB-XL writes 300 for ages over 89, which would squeeze all others: the last bar holds those from 100 on.
    ages = {sex: [min(age, 102.0) for age, its in people if its == sex] for sex in _SEX_COLORS}
    drawn = {sex: values for sex, values in ages.items() if values}
    figure, axes = _figure(7.5, 3.4)
    axes.hist(
        list(drawn.values()),
        bins=list(range(0, 106, 5)),
        stacked=True,
        color=[_SEX_COLORS[sex] for sex in drawn],
        label=[f"{sex or 'sex unknown'} ({len(values):,})" for sex, values in drawn.items()],
    )
    axes.set_xlabel("age in years (the last bar: 100 and more)")
    axes.set_ylabel("records")
    unknown = sum(statistics.records for statistics in splits.values()) - len(people)
    axes.set_title("Age and sex" + (f"; {unknown:,} records of unknown age are not shown" if unknown else ""))
    axes.legend(frameon=False)
    return figure


def _draw_lengths(splits: Mapping[str, SplitStatistics]) -> "Figure | None":
    seconds = np.concatenate([statistics.seconds for statistics in splits.values()])
    if np.ptp(seconds) < 1e-6:  # nothing to see
        return None
    figure, axes = _figure(7.5, 3.0)
    axes.hist(seconds, bins=40, color=_SPLIT_COLORS["train"])
    axes.set_yscale("log")
    axes.set_xlabel("length in seconds")
    axes.set_ylabel("records")
    axes.set_title(f"Length: {seconds.min():.4g} to {seconds.max():.4g} s, median {np.median(seconds):.4g} s")
    return figure
