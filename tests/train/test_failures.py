"""The words for what goes wrong, from log lines, and their silence while all goes well."""

import pytest

from train.failures import failure

START = {
    "step": 0,
    "content_share": 0.6,
    "target_std": 0.7,
    "student_rank_me": 30.0,
    "teacher_rank_me": 30.0,
    "student_teacher_distance": 0.0,
}
LATER = START | {
    "step": 100,
    "loss": 0.3,
    "learning_rate": 1e-3,
    "momentum": 0.996,
    "student_teacher_distance": 0.2,
}


def test_a_healthy_run_is_not_disturbed():
    assert failure([]) is None
    assert failure([START]) is None
    assert failure([START | {"content_share": 0.0005}]) is None  # the paper's settings begin so, and may climb
    assert failure([START, LATER]) is None


@pytest.mark.parametrize(
    "sign, words",
    [
        ({"content_share": 0.0005}, "only 0.0005 of the targets' variance lies between records"),
        ({"teacher_rank_me": 3.0}, "the teacher's patches use 3.0 directions, at the start 30.0"),
        ({"student_rank_me": 3.0}, "the student's patches use 3.0 directions, at the start 30.0"),
        ({"momentum": 0.5, "student_teacher_distance": 1e-4}, "Raise --momentum_start, 0.5000 now"),
    ],
)
def test_each_failure_has_its_words_and_names_a_remedy(sign, words):
    said = failure([START, LATER | sign])
    assert words in said
    assert "--" in said


def test_a_teacher_that_stands_still_at_the_end_does_not_follow_too_fast():
    at_the_end = {"momentum": 1.0, "student_teacher_distance": 1e-4, "learning_rate": 1e-6}
    assert failure([START, LATER, LATER | at_the_end]) is None
    slow = {"momentum": 0.9, "student_teacher_distance": 1e-4, "learning_rate": 1e-6}
    assert failure([START, LATER, LATER | slow]) is None
