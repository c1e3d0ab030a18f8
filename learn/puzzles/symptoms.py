"""Run the healthy file and every puzzle, and write learn/puzzles/README.md with what they print.

python learn/puzzles/symptoms.py            # a minute on one core
"""

from __future__ import annotations

import subprocess
import sys

from faults import FAULTS, LEARN, RUN, planted

HEAD = """# Ten puzzles: why does the reward not rise?

`python learn/puzzles/faults.py N` writes `learn/work/puzzle_NN.py`, a copy of \
[`tinier_zero.py`](../tinier_zero.py) with one fault in it,
and prints how to run it: seconds, on a [toy policy](../toy.py) that begins with bad habits. Find the \
fault, mend it, and ask
`python learn/check.py --puzzles N`. Each fault was in somebody's published trainer. `diff` would find it \
as well, and teach less.
The answers are in [ANSWERS.md](ANSWERS.md). `python learn/puzzles/symptoms.py` wrote this page from real \
runs.

The healthy file, for comparison (`reward`: the step's completions, temperature 1; `dev`: 200 questions, \
greedy). The toy has only 100
questions to train on, and a part of what it gains is learnt by heart: read the reward, and of dev only how \
it begins.
"""
SYMPTOMS = (
    "The first update of the run, before anything has moved, and already the ratio is not 1.",
    "Here too the ratio is not 1, though each completion alone would be scored right.",
    "Nothing has been trained at step 0. Compare it with step 0 of the healthy file.",
    "The reward looks bearable, and the ratio is not 1. Which token of a completion is it?",
    "Sampled a little colder than usual, which should do no harm.",
    "There is a ceiling. Sort the wrong answers by their gold answer.",
    "The run is content with itself. A colleague who grades the same completions is not.",
    "It begins like the healthy run. Watch `grad_norm`.",
    "Nothing is wrong with the sampler, the scorer or the reward. It just does not learn.",
    "A smaller rate and more steps, with which the healthy file does learn.",
)


def printed(source: str, arguments: str) -> str:
    """What a trainer prints where it knows the dev accuracy, and of step 1, as a block of Markdown."""
    path = LEARN / "work" / "symptom.py"
    path.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, path, *arguments.split()],
        cwd=LEARN.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    path.unlink()
    lines = [
        line.rpartition("  seconds")[0]
        for line in done.stdout.splitlines()
        if "dev" in line or line.startswith("step 1 ")
    ]
    return "```\n" + "\n".join(lines) + "\n```\n"


def main() -> None:
    healthy = (LEARN / "tinier_zero.py").read_text(encoding="utf-8")
    page = [HEAD, printed(healthy, RUN)]
    for number, (fault, symptom) in enumerate(zip(FAULTS, SYMPTOMS, strict=True), 1):
        page += [f"## Puzzle {number}", symptom, "", printed(planted(fault), fault.arguments)]
        if fault.arguments != RUN:
            page += ["The healthy file with the same arguments:", "", printed(healthy, fault.arguments)]
    (LEARN / "puzzles" / "README.md").write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
