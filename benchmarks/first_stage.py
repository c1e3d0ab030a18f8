"""The first stage of pretraining read problems of an older edition: none of them is a problem of train or
test today.

    python benchmarks/first_stage.py  minutes; needs the history of this repository

The code of that commit draws its problems again, every one of the shards that 12.8 million tokens can have
reached, and the hashes of their questions are compared with those of today's train and test. The outcome is
in results/first-stage.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from reckoner import nano
from reckoner.runs.folder import environment

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "benchmarks" / "results" / "first-stage.json"
DRAW = """
import sys
sys.path.insert(0, "scripts")
from pretrain_text import SHARD_PROBLEMS
from reckoner.tasks import nano
for shard in range(int(sys.argv[1])):
    for problem in nano.stream(SHARD_PROBLEMS, shard, "socratic"):
        print(problem.question.replace("\\n", " "))
"""
"""What the older code is asked for: the questions of seed 0, shard after shard, as its `documents` draws
them."""


def main() -> None:
    """Draw, compare, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default="501319c", help="the code that the first stage was trained with")
    parser.add_argument(
        "--shards", type=int, default=58, help="more than the 36 to 42 that hold 12.8 million tokens"
    )
    given = parser.parse_args()
    drawn = {nano.question_hash(question) for question in questions(given.commit, given.shards)}
    common = sorted(drawn & nano.reserved_hashes())
    result = {
        "command": " ".join(["python", *sys.argv]),
        "commit": given.commit,
        "shards": given.shards,
        "questions": len(drawn),
        "in_train_or_test": common,
    }
    OUTPUT.write_text(json.dumps(result | {"environment": environment()}, indent=1) + "\n")
    print(f"{len(drawn):,} questions of the first stage, {len(common)} of them in train or test")
    if common:
        raise SystemExit(1)


def questions(commit: str, shards: int) -> list[str]:
    """Every question of the first `shards` shards, drawn by the code of `commit`."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
        try:
            drawing = subprocess.run(
                [sys.executable, "-c", DRAW, str(shards)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": "src"},
                check=True,
                capture_output=True,
                text=True,
            )
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)
    return drawing.stdout.splitlines()


if __name__ == "__main__":
    main()
