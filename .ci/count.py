"""Adds up the steps of a CI run and closes with `N passed, N failed, N skipped`; exits 1 when anything failed."""

import argparse
import re
import sys
from pathlib import Path

SUMMARY = re.compile(r"^=* ?(\d+ [a-z ]+(?:, \d+ [a-z ]+)*) in [\d.]+s.*$", re.MULTILINE)
COUNTED_AS = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "errors": "failed",
    "skipped": "skipped",
    "xfailed": "skipped",
}


def count_pytest(log: str, status: int) -> dict[str, int]:
    """The outcomes in pytest's closing line; a run that ended badly without naming a failure counts as one failed."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    closing_lines = SUMMARY.findall(log)
    for outcome in closing_lines[-1].split(", ") if closing_lines else []:
        number, name = outcome.split(" ", 1)
        if name in COUNTED_AS:
            counts[COUNTED_AS[name]] += int(number)
    if not closing_lines or (status != 0 and counts["failed"] == 0):
        counts["failed"] += 1
    return counts


def count_check(status: int) -> dict[str, int]:
    return {"passed": int(status == 0), "failed": int(status != 0), "skipped": 0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path, help="folder with NAME.log and NAME.status of each step")
    parser.add_argument("--pytest", nargs="*", default=[], help="steps that are runs of pytest")
    parser.add_argument("--checks", nargs="*", default=[], help="steps that pass or fail as a whole")
    arguments = parser.parse_args()
    total = {"passed": 0, "failed": 0, "skipped": 0}
    print()
    for name in [*arguments.pytest, *arguments.checks]:
        status = int((arguments.logs / f"{name}.status").read_text())
        log = (arguments.logs / f"{name}.log").read_text(errors="replace")
        counts = count_pytest(log, status) if name in arguments.pytest else count_check(status)
        print(f"{name:10}" + ", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
        total = {outcome: total[outcome] + counts[outcome] for outcome in total}
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped", flush=True)
    return int(total["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
