"""What CI reports: the sum over its steps, and a failure whenever a step ended badly."""

import subprocess
import sys
from pathlib import Path

import pytest

COUNT = Path(__file__).resolve().parents[1] / ".ci/count.py"


@pytest.fixture
def closing_line(tmp_path):
    """Lays out the logs of a run of pytest and of one check; returns CI's last line and its exit status."""

    def run(pytest_log: str, pytest_status: int = 0, check_status: int = 0) -> tuple[str, int]:
        for name, log, status in (("tests", pytest_log, pytest_status), ("lint", "", check_status)):
            (tmp_path / f"{name}.log").write_text(log)
            (tmp_path / f"{name}.status").write_text(f"{status}\n")
        command = [sys.executable, COUNT, tmp_path, "--pytest", "tests", "--checks", "lint"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.splitlines()[-1], done.returncode

    return run


@pytest.mark.parametrize(
    ("log", "status", "expected"),
    [
        ("....\n12 passed, 3 skipped in 4.21s\n", 0, "13 passed, 0 failed, 3 skipped"),
        ("==== 2 failed, 9 passed, 1 error, 1 xfailed in 83.00s (0:01:23) ====\n", 1, "10 passed, 3 failed, 1 skipped"),
        ("1 failed, 98 passed, 75 skipped, 24 warnings, 1822 subtests passed in 124.40s (0:02:04)\n", 1,
         "99 passed, 1 failed, 75 skipped"),
        ("1 passed in 0.10s\n5 passed in 1.00s\n", 0, "6 passed, 0 failed, 0 skipped"),
    ],
    ids=["all good", "failures and errors", "subtests count with their test", "the last summary counts"],
)  # fmt: skip
def test_the_outcomes_of_pytest_are_added_up(closing_line, log, status, expected):
    line, exit_status = closing_line(log, status)
    assert line == expected
    assert exit_status == int(status != 0)


@pytest.mark.parametrize(
    ("log", "status"),
    [
        ("ERROR: Could not find a version that satisfies the requirement\n", 1),
        ("no tests ran in 0.01s\n", 5),
        ("Fatal Python error: Segmentation fault\n", 139),
        ("12 passed in 4.21s\n", 1),
    ],
    ids=["installation failed", "no tests", "crash", "good tests, bad end"],
)
def test_a_run_that_ends_badly_is_a_failure(closing_line, log, status):
    line, exit_status = closing_line(log, status)
    assert ", 1 failed, " in line
    assert exit_status == 1


def test_a_failed_check_is_a_failure(closing_line):
    assert closing_line("12 passed in 4.21s\n", check_status=1) == ("12 passed, 1 failed, 0 skipped", 1)
