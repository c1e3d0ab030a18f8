"""Ten slides of a study from its records: one HTML file, for a screen, a phone or a PDF of 16:9."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from reckoner.analysis import figures
from reckoner.analysis.canvas import Picture
from reckoner.analysis.findings import Findings, Result, find
from reckoner.analysis.page import render_page, write_text
from reckoner.analysis.report import basics
from reckoner.analysis.study_records import read_study
from reckoner.errors import InputError
from reckoner.runs.safe_paths import refuse_links

EXAMPLES = 2
"""Worked examples on the slide of errors."""
FIGURES = {
    *(figures.accuracy, figures.dev_accuracy, figures.training_loss),
    *(figures.accuracy_by_cost, figures.kinds),
}
"""The figures that slides show; no other is drawn."""


def _method(findings: Findings, result: Result) -> str:
    """What an arm is beyond its title, as `SFT, 3 seeds`, or `prompt, the best on dev`."""
    arm, start = result.arm, findings.start(result)
    name = arm.method if len(arm.method) > 4 else arm.method.upper()
    origin = f"from {start.title}" if arm.after and start else ""
    facts = [
        " ".join(one for one in (name, origin) if one and one.lower() not in arm.title.lower()),
        "the best on dev" if result is findings.baseline else "",
        f"{result.seeds} seeds" if result.seeds > 1 else "",
    ]
    return ", ".join(filter(None, facts))


def _drawn(findings: Findings, chosen: Collection[figures.Draw]) -> dict[str, Picture]:
    """These figures, by name."""
    return {one.name: one for several in figures.draw(findings, chosen).values() for one in several}


def build_slides(folder: Path) -> Path:
    """Write slides.html into a study folder and return its path.

    Raises `InputError` where the folder is no study or fewer than two arms have a result, `Stopped` where
    it cannot be written.
    """
    refuse_links(folder)
    findings = find(read_study(folder))
    if (have := len(findings.results)) < 2:
        ended = all(arm.state == "done" for arm in findings.study.arms)
        remedy = "`reckon card RUN` describes one run" if ended else "Run the study to its end first"
        raise InputError(
            f"{folder}: {have} {'arm has' if have == 1 else 'arms have'} a test result, and slides compare "
            f"two or more. {remedy}"
        )
    drawn = _drawn(findings, FIGURES)
    if "training-loss" not in drawn:  # what the policies did stands in its place
        drawn |= _drawn(findings, {figures.policy})
    facts = basics(findings) | {"figures": drawn}
    facts["examples"] = facts["samples"][:EXAMPLES]
    facts["shown"] = [findings.best[0], findings.baseline or findings.results[0]]
    facts["n"] = findings.n
    facts["methods"] = [(result.title, _method(findings, result)) for result in findings.results]
    facts["costs"] = [(row.title, row.cells) for row in facts["arms"].rows if "time" in row.cells]
    path = folder / "slides.html"
    write_text(path, render_page("slides.html.j2", findings.marks, {}, facts, "slides"))
    return path
