"""The course's notebook is made of its pages, and its last chapter has the figures of the stored study."""

from __future__ import annotations

import json
import re
from pathlib import Path

import course_notebook

from reckoner.analysis.intervals import wilson

from .conftest import LEARN

STORED = LEARN.parent / "benchmarks" / "results" / "study-smollm2-part.json"


def test_the_notebook_is_what_the_pages_give():
    text = course_notebook.NOTEBOOK.read_text(encoding="utf-8")
    assert course_notebook.notebook() == text, "run `python scripts/course_notebook.py`"
    cells = json.loads(text)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code[0] == "%cd .." and code[1].startswith("!python learn/tinier_zero.py --method grpo")
    for line in "\n".join(code[1:]).splitlines():
        assert Path(LEARN.parent / line.split()[1]).is_file(), line


def test_every_section_has_five_questions_with_answers():
    questions = (LEARN / "QUESTIONS.md").read_text(encoding="utf-8").split("\n## ")[1:]
    sections = re.findall(r"^## (\d\. \w+)", (LEARN / "README.md").read_text(), re.MULTILINE)
    titles = [part.splitlines()[0] for part in questions]
    assert titles == [*sections, "6. A real model"] and len(sections) == 5
    for part in questions:
        asked = re.findall(
            r"^(\d)\. .*\? <details><summary>Answer</summary>.+</details>$", part, re.MULTILINE
        )
        assert asked == list("12345"), part.splitlines()[0]


def test_the_last_chapter_has_the_figures_of_the_stored_study():
    text = (LEARN / "SMOLLM2.md").read_text(encoding="utf-8")
    runs = json.loads(STORED.read_text())["runs"]
    rows = {"full-main": "full SFT on 4,800 solutions", "grpo": "GRPO from it"}
    for name, title in rows.items():
        done, cells = runs[name]["training"], []
        for one in runs[name]["evaluations"]:
            low, high = wilson(one["strict"], one["n"])
            share = 100 * one["strict"] / one["n"]
            cells.append(f"{one['strict']}, {share:.1f} % ({100 * low:.1f}-{100 * high:.1f})")
        minutes = f"{done['seconds'] / 60:.0f} minutes"
        assert f"| {' | '.join([title, *cells, str(done['steps']), minutes])} |" in text
    full, rewarded = (runs[name]["training"] for name in rows)
    assert f"from {full['dev_loss_first']:.3f} to {full['dev_loss_final']:.3f}" in text
    assert f"{full['parameters']:,} weights" in text and full["samples"] == 4800
    assert rewarded["best_step"] == 0 and f"{rewarded['learning_rate']:g}" in "1.5e-05"
    cut = runs["full-main"]["evaluations"][0]
    assert (
        f"{cut['truncated']} of {cut['n']:,} greedy answers, {100 * cut['truncated'] / cut['n']:.1f} %"
        in text
    )
    assert f"{cut['max_new_tokens']} tokens" in text
