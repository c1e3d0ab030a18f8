"""The short form of `make torture`, and that what `docs/reliability.md` says of the long one is what was
stored.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / "benchmarks" / "torture.py"


def torture(tmp_path: Path, *options: str) -> dict:
    done = subprocess.run(
        [sys.executable, COMMAND, *options, "--out", tmp_path / "torture.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((tmp_path / "torture.json").read_text())["kinds"]


@pytest.mark.slow
def test_a_study_of_every_method_ends_as_if_nothing_had_happened(tmp_path):
    """Its arms are prompting, SFT, LoRA, PPO and GRPO, each with its evaluation."""
    found = torture(tmp_path, "--kills", "2", "--points", "4", "--only", "study")["study"]
    assert (found["kills"], found["points"], found["different"]) == (2, 4, [])


def test_a_run_that_ends_differently_is_found(tmp_path):
    """A torture that could not fail would prove nothing: here a finished run has one byte too many."""
    sys.path.insert(0, str(COMMAND.parent))
    try:
        import torture as module
    finally:
        sys.path.remove(str(COMMAND.parent))
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "seconds": 1.5}\n')
    expected = module.digest(run)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "seconds": 9.5}\n')
    assert module.difference(expected, run) == ""
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5, "seconds": 1.5}\n')
    assert module.difference(expected, run) == "metrics.jsonl"
    (run / "extra.json").write_text("{}")
    assert module.difference(expected, run).startswith("extra.json is left over")
