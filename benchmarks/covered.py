"""Measure which lines and branches of tasks, analysis and runs their own tests reach: `python -m
benchmarks.covered`.

Slow tests and commands in processes of their own are left out, so that the figures are a lower bound.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "coverage.json"
ROOMS = {
    "tasks": ("tests/tasks",),
    "analysis": ("tests/analysis", "tests/cli/test_compare_errors.py"),
    "runs": (
        "tests/runs",
        "tests/cli/test_browse.py",
        "tests/cli/test_publish.py",
        "tests/security/test_safe_paths.py",
        "tests/security/test_verify.py",
        "tests/reliability/test_resume.py",
    ),
}
"""The tests of each room, and of the verbs that are little else."""

GOAL = 95
"""Percent of lines: a room below it is a failure, a file below it is printed."""


def main() -> int:
    """Run the tests, print a line for each room and for each file below the goal, and store the figures.

    Returns 1 where a test fails or a room is below the goal.
    """
    measured = coverage.Coverage(branch=True, source_pkgs=["reckoner"], data_file=None)
    measured.start()
    tests = [test for room in ROOMS.values() for test in room]
    failed = pytest.main(
        ["-q", "-m", "not slow", "-p", "no:cacheprovider", *(str(ROOT / test) for test in tests)]
    )
    measured.stop()
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        measured.json_report(outfile=report.name)
        files = json.loads(Path(report.name).read_text())["files"]
    rooms = {
        room: figures([file["summary"] for name, file in files.items() if inside(name, room)])
        for room in ROOMS
    }
    for room, figure in rooms.items():
        print(f"{room}: {figure['lines']} % of lines, {figure['branches']} % of branches")
    low = {name: file for name, file in files.items() if any(inside(name, room) for room in ROOMS)}
    low = {name: file for name, file in low.items() if file["summary"]["percent_statements_covered"] < GOAL}
    for name, file in sorted(low.items()):
        print(
            f"  {name}: {file['summary']['percent_statements_covered']:.0f} %, not reached: "
            f"{file['missing_lines']}"
        )
    if not failed:
        stored = {"command": "python -m benchmarks.covered", "coverage": coverage.__version__, "rooms": rooms}
        RESULT.write_text(json.dumps(stored, indent=1) + "\n")
    return int(bool(failed or missed(rooms)))


def missed(rooms: dict[str, dict[str, float]]) -> list[str]:
    """The rooms that are below the goal."""
    return [room for room, figure in rooms.items() if figure["lines"] < GOAL]


def inside(name: str, room: str) -> bool:
    return f"/reckoner/{room}/" in f"/{name}" or f"/{name}".endswith(f"/reckoner/{room}.py")


def figures(summaries: list[dict[str, float]]) -> dict[str, float]:
    """Lines and branches of some files, reached and in all, and the shares in percent."""
    keys = ("covered_lines", "num_statements", "covered_branches", "num_branches")
    sums = {key: sum(int(summary[key]) for summary in summaries) for key in keys}
    return sums | {
        "lines": round(100 * sums["covered_lines"] / sums["num_statements"], 1),
        "branches": round(100 * sums["covered_branches"] / max(1, sums["num_branches"]), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
