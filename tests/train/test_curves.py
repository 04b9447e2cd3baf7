"""The picture of a run: a panel a measure, and errors where there is nothing to draw."""

import json

import matplotlib.image
import pytest

from modeling_ecg_jepa import EcgJepaCheckpointError
from train.checkpoints import read_log
from train.curves import draw_curves, save_curves

HEADER = {"schema_version": 1, "records": 1000, "options": {"preset": "tiny", "seed": 3, "min_content_share": 0.3}}
LINES = [
    {"step": 0, "content_share": 0.6},
    {"step": 10, "content_share": 0.5, "loss": 0.4, "learning_rate": 1e-3},
    {"step": 20, "content_share": 0.4, "loss": 0.3, "learning_rate": 5e-4},
]


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


def test_there_is_a_panel_for_each_measure_that_was_logged():
    drawn = panels(draw_curves(LINES, "a run", floor=0.3))
    assert [title.split(" ")[0] for title in drawn] == ["loss", "content", "learning"]
    loss, content, _ = drawn.values()
    assert loss.lines[0].get_xydata().tolist() == [[10, 0.4], [20, 0.3]]
    assert content.lines[0].get_xydata().tolist() == [[0, 0.6], [10, 0.5], [20, 0.4]]
    assert content.lines[1].get_ydata() == [0.3, 0.3]
    assert content.get_ylim() == (0, 1)


def test_a_collapse_stands_in_the_title_and_its_share_can_be_read():
    measures = {
        "teacher_rank_me": 20.0,
        "student_rank_me": 20.0,
        "student_teacher_distance": 0.1,
        "learning_rate": 1e-3,
    }
    collapsing = [line | measures | {"content_share": 0.5 * 0.01**place} for place, line in enumerate(LINES)]
    figure = draw_curves(collapsing, "a run")
    assert figure.get_suptitle() == "a run\nCollapse onto positions, seen since step 10"
    content = panels(figure)["content share: below the floor it learns positions"]
    assert content.get_yscale() == "log"
    assert draw_curves(LINES, "a run").get_suptitle() == "a run"


def test_the_picture_is_a_png_in_the_folder_of_the_run(tmp_path):
    (tmp_path / "train_log.jsonl").write_text("\n".join(map(json.dumps, [HEADER, *LINES])))
    assert read_log(tmp_path) == (HEADER, LINES)
    picture = save_curves(tmp_path)
    assert picture == tmp_path / "curves.png"
    height, width, _ = matplotlib.image.imread(picture).shape
    assert width > 1000 and height > 300


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(EcgJepaCheckpointError, match=r"train_log\.jsonl.*Name a run's output folder"):
        save_curves(tmp_path)
