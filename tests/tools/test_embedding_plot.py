"""A map of embeddings keeps neighbours together, is the same for a seed, and is coloured by what is known."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread
from sklearn.manifold import trustworthiness
from typer.testing import CliRunner

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaInputError, EcgJepaOutputError, EcgJepaRecordError
from modeling_ecg_jepa.tools.cli import app
from modeling_ecg_jepa.tools.embed import embed_to_parquet
from modeling_ecg_jepa.tools.embedding_files import read_embeddings
from modeling_ecg_jepa.tools.embedding_labels import labels_of
from modeling_ecg_jepa.tools.embedding_plot import draw, plot_embeddings, project

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def embeddings(prepared_corpus, random_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("embeddings") / "e.parquet"
    embed_to_parquet([prepared_corpus], random_model, path, device="cpu")
    return path


@pytest.fixture(scope="module")
def unlabelled(labelled_records, random_model, tmp_path_factory) -> Path:
    """The same records out of WFDB files, of which no label is known."""
    path = tmp_path_factory.mktemp("embeddings") / "wfdb.parquet"
    embed_to_parquet([labelled_records], random_model, path, device="cpu")
    return path


def groups(count: int = 20) -> np.ndarray:
    """Three groups of directions in 16 dimensions, with lengths that say nothing."""
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.normal(size=(3, 16)), count, axis=0)
    return ((centers + 0.1 * rng.normal(size=centers.shape)) * rng.uniform(0.5, 5, (3 * count, 1))).astype(np.float32)


# Projecting ----------------------------------------------------------------------------------------------------------


def assert_groups_stay_apart(vectors: np.ndarray, plane: np.ndarray) -> None:
    assert trustworthiness(vectors, plane, n_neighbors=5, metric="cosine") > 0.8
    centers = plane.reshape(3, -1, 2).mean(axis=1)
    nearest = np.linalg.norm(plane[:, None] - centers, axis=2).argmin(axis=1)
    assert (nearest == np.repeat(range(3), len(plane) // 3)).all()


def test_tsne_keeps_neighbours_by_direction_and_follows_its_seed():
    plane = project(groups(), "tsne", 10, seed=0)
    assert_groups_stay_apart(groups(), plane)
    assert np.array_equal(plane, project(groups(), "tsne", 10, seed=0))


def test_umap_keeps_neighbours_by_direction_and_follows_its_seed(tmp_path):
    # Interpreted, which of so few points takes less than compiling.
    script = (
        "import sys, numpy as np\n"
        "from modeling_ecg_jepa.tools.embedding_plot import project\n"
        "vectors = np.load(sys.argv[1])\n"
        "np.save(sys.argv[2], [project(vectors, 'umap', 4, seed=3) for _ in range(2)])\n"
    )
    np.save(tmp_path / "vectors.npy", groups(5))
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "vectors.npy", tmp_path / "plane.npy"],
        cwd=ROOT,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        check=True,
        timeout=300,
    )
    one, again = np.load(tmp_path / "plane.npy")
    assert_groups_stay_apart(groups(5), one)
    assert np.array_equal(one, again)


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_too_few_points_for_so_many_neighbours_are_refused_with_a_number_that_fits(method):
    with pytest.raises(EcgJepaConfigError, match=r"60 embeddings are too few for 60 neighbours.*Pass --neighbors 19"):
        project(groups(), method, 60, seed=0)


# Labels --------------------------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_corpus_unless_another_column_is_named(embeddings):
    read = read_embeddings(embeddings)
    names = read.rows["record"].to_pylist()
    expected = {f"r{seed:02}": ("AF",) * (seed % 2 == 0) + ("MI",) * (seed % 3 == 0) for seed in range(15)}
    assert labels_of(read, None) == [expected[name] for name in names]
    assert labels_of(read, "sampling_rate") == [("100",)] * 15
    assert {each for (each,) in labels_of(read, "split")} <= {"train", "validation", "test"}


def test_a_table_of_ones_or_of_words_names_labels(unlabelled, labelled_records, tmp_path):
    read = read_embeddings(unlabelled)
    assert labels_of(read, None) is None
    ones = tmp_path / "ones.csv"
    ones.write_text("record,AF,MI\nr00,1,0\nr01,1.0,1\nr02,,0\n")
    assert labels_of(read, str(ones)) == [("AF",), ("AF", "MI"), (), *[None] * 12]
    words = tmp_path / "words.csv"
    words.write_text("record,diagnosis\nr00,AF; MI\nr01,\nr02,MI\nr02,AF\n")
    assert labels_of(read, str(words)) == [("AF", "MI"), (), ("MI", "AF"), *[None] * 12]


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        ("record,AF,MI\nr00,2,0\n", EcgJepaConfigError, r"line 2: AF is '2', neither 0 nor 1"),
        ("record\nr00\n", EcgJepaConfigError, r"beside 'record' it has no column"),
        ("name,AF\nr00,1\n", EcgJepaRecordError, r"has no column 'record'"),
        (
            "record,label\nx1,AF\n",
            EcgJepaInputError,
            r"none of its records \(x1 \.\.\.\) is one of the embeddings' \(r00",
        ),
    ],
)
def test_a_table_that_says_nothing_is_refused(unlabelled, tmp_path, table, kind, message):
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(kind, match=message):
        labels_of(read_embeddings(unlabelled), str(tmp_path / "t.csv"))


def test_a_column_that_is_absent_or_empty_is_refused(unlabelled):
    with pytest.raises(EcgJepaConfigError, match=r"--labels sex: .* has no such column; it has record, window"):
        labels_of(read_embeddings(unlabelled), "sex")
    with pytest.raises(EcgJepaInputError, match=r"--labels labels: it is empty in every row"):
        labels_of(read_embeddings(unlabelled), "labels")


# Drawing -------------------------------------------------------------------------------------------------------------


def colors_of(axes) -> list[str]:
    return [to_hex(color) for points in axes.collections for color in points.get_facecolors()]


def test_single_labels_share_a_panel_each_in_a_colour_of_its_own():
    plane = np.random.default_rng(0).normal(size=(6, 2))
    figure = draw(plane, [("AF",), ("MI",), ("AF",), (), None, ("AF",)], "six")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["no label (2)", "AF (3)", "MI (1)"]
    drawn = axes.collections[-1]
    assert {tuple(point) for point in drawn.get_offsets().tolist()} == {tuple(point) for point in plane.tolist()}
    color_at = {
        tuple(point): to_hex(color)
        for point, color in zip(drawn.get_offsets().tolist(), drawn.get_facecolors(), strict=True)
    }
    colors = [color_at[tuple(point)] for point in plane.tolist()]
    assert colors[0] == colors[2] == colors[5] != colors[1] and colors[3] == colors[4] not in (colors[0], colors[1])


def test_more_labels_than_colours_leave_the_rarest_as_others():
    labels = [(f"c{place}",) for place in range(12) for _ in range(12 - place)]
    (axes,) = draw(np.zeros((len(labels), 2)), labels, "many").axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["4 others (10)", *(f"c{place} ({12 - place})" for place in range(8))]


def test_several_labels_get_a_panel_each_the_most_frequent_first():
    figure = draw(np.zeros((4, 2)), [("AF", "MI"), ("MI",), (), ("MI", "LBBB")], "four")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["MI (3)", "AF (1)", "LBBB (1)"]
    assert [[len(points.get_offsets()) for points in axes.collections] for axes in shown] == [[1, 3], [3, 1], [3, 1]]


def test_without_labels_there_is_one_colour_and_no_legend():
    (axes,) = draw(np.zeros((5, 2)), [None] * 5, "five").axes
    assert axes.get_legend() is None and len(set(colors_of(axes))) == 1


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_picture_and_counts_the_labels(embeddings, tmp_path):
    words = ["plot-embeddings", embeddings, "--method", "tsne", "--neighbors", 5, "--output", tmp_path / "map.png"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        f"15 of 15 embeddings drawn by t-SNE: {tmp_path / 'map.png'}",
        "       8 x AF",
        "       5 x MI",
    ]
    picture = imread(tmp_path / "map.png")
    assert picture.shape[0] > 300 and picture.std() > 0.01


def test_of_many_rows_some_are_drawn_by_lot(embeddings, tmp_path):
    summary = plot_embeddings(embeddings, tmp_path / "map.png", method="tsne", neighbors=3, points=10, labels="split")
    assert (summary.drawn, summary.rows, sum(summary.labels.values())) == (10, 15, 10)


def test_unknown_labels_are_said(unlabelled, tmp_path):
    summary = plot_embeddings(unlabelled, tmp_path / "map.png", method="tsne", neighbors=3)
    assert summary.in_words()[1:] == ["no labels are known; --labels names a column or a CSV table to colour by"]


def test_a_name_of_no_picture_and_an_unknown_method_are_refused(embeddings, tmp_path):
    with pytest.raises(EcgJepaOutputError, match="must end in .png"):
        plot_embeddings(embeddings, tmp_path / "map.pdf")
    with pytest.raises(EcgJepaConfigError, match="--method 'pca' is unknown; there are umap and tsne"):
        plot_embeddings(embeddings, tmp_path / "map.png", method="pca")
    assert list(tmp_path.iterdir()) == []
