"""Embeddings drawn as points of a plane, coloured by label: by UMAP or t-SNE, of cosine distances."""

import collections
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataset_scripts.outputs import whole_file

from ..errors_ecg_jepa import EcgJepaConfigError, EcgJepaOutputError
from .embedding_files import read_embeddings
from .embedding_labels import Labels, labels_of

# Matplotlib takes half a second to import, and only drawing needs it.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {"umap": "UMAP", "tsne": "t-SNE"}

#: Okabe and Ito's palette, to be told apart by all eyes.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_GREY = "#c8c8c8"
_PANELS = 9
_DPI = 130


@dataclasses.dataclass(frozen=True)
class PlotSummary:
    """What was drawn: so many of all rows, by a method, and the rows of each label, the most frequent first."""

    output: Path
    drawn: int
    rows: int
    method: str
    labels: dict[str, int]
    unknown: int

    def in_words(self) -> list[str]:
        """Lines for a person."""
        lines = [f"{self.drawn:,} of {self.rows:,} embeddings drawn by {self.method}: {self.output}"]
        if self.unknown == self.drawn:
            return [*lines, "no labels are known; --labels names a column or a CSV table to colour by"]
        lines += [f"{count:8,} x {label}" for label, count in self.labels.items()]
        return [*lines, f"{self.unknown:8,} x nothing known"] if self.unknown else lines


def plot_embeddings(
    place: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    method: str = "umap",
    labels: str | None = None,
    neighbors: int = 30,
    points: int = 10_000,
    seed: int = 0,
) -> PlotSummary:
    """Write a picture of embeddings, each a point; those that are alike lie together.

    Rows with one label at most are coloured in one panel; where some have several, each label has a panel of its own.

    Args:
        place: what `ecg-jepa embed` wrote.
        output: a .png file, replaced if it is there.
        method: "umap" or "tsne".
        labels: as of `embedding_labels.labels_of`.
        neighbors: by how many neighbours a point is placed: UMAP's n_neighbors, t-SNE's perplexity.
        points: rows drawn at most; of more, so many are drawn by lot.
        seed: of the lot and the method.

    Raises:
        EcgJepaError: not a picture's name, no embeddings, no labels, a method that is unknown or not installed, or too
            few rows for so many neighbours.
    """
    if Path(output).suffix.lower() != ".png":
        raise EcgJepaOutputError(f"--output {output} must end in .png: it is a picture.")
    if method not in METHODS:
        raise EcgJepaConfigError(f"--method {method!r} is unknown; there are {' and '.join(METHODS)}.")
    embeddings = read_embeddings(place)
    all_labels = labels_of(embeddings, labels)
    rows = len(embeddings.vectors)
    chosen = np.arange(rows)
    if rows > points:
        chosen = np.sort(np.random.default_rng(seed).choice(rows, points, replace=False))
    plane = project(embeddings.vectors[chosen], method, neighbors, seed)
    drawn = [None if all_labels is None else all_labels[row] for row in chosen]
    counts = collections.Counter(label for each in drawn for label in each or ())
    title = f"{len(chosen):,}{f' of {rows:,}' if rows > len(chosen) else ''} embeddings, {METHODS[method]}"
    figure = draw(plane, drawn, f"{title} ({neighbors} neighbours, cosine, seed {seed})")
    with whole_file(output) as unfinished:
        figure.savefig(unfinished, dpi=_DPI, format="png")
    unknown = sum(each is None for each in drawn)
    return PlotSummary(Path(output), len(chosen), rows, METHODS[method], dict(counts.most_common()), unknown)


def project(vectors: np.ndarray, method: str, neighbors: int, seed: int) -> np.ndarray:
    """(rows, hidden) as (rows, 2) points, the same for the same seed and versions.

    Raises:
        EcgJepaConfigError: too few rows for so many neighbours, or the method is not installed.
    """
    if len(vectors) <= neighbors:
        better = max(2, (len(vectors) - 1) // 3)
        raise EcgJepaConfigError(
            f"{len(vectors)} embeddings are too few for {neighbors} neighbours"
            f"{' (perplexity)' if method == 'tsne' else ''}. Pass --neighbors {better}, or embed more records."
        )
    return _by_umap(vectors, neighbors, seed) if method == "umap" else _by_tsne(vectors, neighbors, seed)


def _by_umap(vectors: np.ndarray, neighbors: int, seed: int) -> np.ndarray:
    try:
        from umap import UMAP
    except ImportError as error:
        raise EcgJepaConfigError('UMAP needs umap-learn: pip install "ecg-jepa[explore]"; or --method tsne.') from error
    # A seed means one thread.
    reducer = UMAP(n_neighbors=neighbors, metric="cosine", random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(vectors))


def _by_tsne(vectors: np.ndarray, neighbors: int, seed: int) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise EcgJepaConfigError('t-SNE needs scikit-learn: pip install "ecg-jepa[explore]".') from error
    reducer = TSNE(perplexity=neighbors, metric="cosine", init="pca", random_state=seed)
    return reducer.fit_transform(vectors)


# Drawing --------------------------------------------------------------------------------------------------------------


def draw(plane: np.ndarray, labels: Sequence[Labels], title: str) -> "Figure":
    """A figure of (rows, 2) points: one panel, or a panel a label where a row has several."""
    from matplotlib.figure import Figure

    counts = collections.Counter(label for each in labels for label in each or ())
    several = any(len(each or ()) > 1 for each in labels)
    names = [name for name, _ in counts.most_common(_PANELS if several else len(_COLORS))]
    columns = min(3, len(names)) if several else 1
    rows = -(-len(names) // columns) if several else 1
    size = (4.2 * columns, 4.0 * rows + 0.5) if several else (8.5, 6.5)
    figure = Figure(figsize=size, layout="constrained")
    rest = f"; {len(counts) - len(names)} rarer labels are not shown" if several and len(counts) > len(names) else ""
    figure.suptitle(title + rest, fontsize=11)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_xticks([])  # distances in the plane have no unit
        axes.set_yticks([])
        axes.spines[:].set_color(_GREY)
    if several:
        _draw_panels(panels, plane, labels, names)
    else:
        _draw_together(panels[0], plane, labels, names, len(counts))
    return figure


def _draw_panels(panels: Sequence["Axes"], plane: np.ndarray, labels: Sequence[Labels], names: Sequence[str]) -> None:
    for axes, name in zip(panels, names, strict=False):
        holds = np.array([name in (each or ()) for each in labels])
        _scatter(axes, plane[~holds], _GREY)
        _scatter(axes, plane[holds], _COLORS[0])
        axes.set_title(f"{name} ({holds.sum():,})", fontsize=10)
    for axes in panels[len(names) :]:
        axes.set_visible(False)


def _draw_together(axes: "Axes", plane: np.ndarray, labels: Sequence[Labels], names: Sequence[str], count: int) -> None:
    first = np.array([each[0] if each else "" for each in labels], dtype=object)
    unlabelled = first == ""
    others = ~unlabelled & ~np.isin(first, names)
    groups = [("no label" if count else "", unlabelled, "#e6e6e6" if count else _COLORS[0])]
    groups += [(f"{count - len(names)} others", others, "#999999")]
    groups += [(name, first == name, color) for name, color in zip(names, _COLORS, strict=False)]
    shuffled = np.random.default_rng(0).permutation(len(plane))  # no label always on top of the others
    colors = np.empty(len(plane), dtype=object)
    for name, holds, color in groups:
        colors[holds] = color
        if name and holds.any():
            axes.scatter([], [], color=color, label=f"{name} ({holds.sum():,})")
    _scatter(axes, plane[shuffled], list(colors[shuffled]))
    if count:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def _scatter(axes: "Axes", plane: np.ndarray, color: str | list[str]) -> None:
    size = float(np.clip(20_000 / max(len(plane), 1), 4, 30))
    axes.scatter(plane[:, 0], plane[:, 1], s=size, c=color, linewidths=0, alpha=0.8)


__all__ = ["METHODS", "PlotSummary", "draw", "plot_embeddings", "project"]
