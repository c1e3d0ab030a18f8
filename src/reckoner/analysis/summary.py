"""What `reckon study` and `reckon report` print at the end, and the same for a program."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reckoner.analysis import wording
from reckoner.analysis.findings import Findings
from reckoner.analysis.study_records import ArmRecord
from reckoner.analysis.verdict import limits, verdict


@dataclass(frozen=True, slots=True)
class Summary:
    """One line, a table, and lines in words."""

    heading: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]


HEADERS = (
    "arm",
    "right",
    "accuracy",
    "95 % interval",
    "flexible",
    "vs best prompt",
    "Holm p",
    "verdict",
    "time",
    "tokens",
)


def summary_table(found: Findings) -> Summary:
    """The rows and words for the end of `reckon study`."""
    rows = tuple(_row(found, arm) for arm in found.study.arms)
    return Summary(
        heading(found),
        HEADERS,
        rows,
        (*verdict(found), *limits(found), f"report: {found.study.folder / 'report.html'}"),
    )


def _row(found: Findings, arm: ArmRecord) -> tuple[str, ...]:
    result = found.of(arm)
    if result is None:
        return (arm.title, *[""] * 6, arm.state, "", "")
    score, pair, training = result.score, result.pair, result.run.training
    counted = (
        f"{wording.count(score.correct)}/{score.n:,}",
        wording.percent(score.accuracy),
        wording.span(score.low, score.high),
    )
    gap = (
        f"{wording.points(pair.difference.estimate)} ({wording.span(pair.difference.low, pair.difference.high)})"
        if pair
        else ""
    )
    tested = (gap, wording.p_value(pair.p_holm), wording.outcome(pair)) if pair else ("", "", "")
    trained = (wording.clock(training.seconds), wording.amount(training.tokens)) if training else ("", "")
    title = f"{arm.title} (best prompt)" if result is found.baseline else arm.title
    return (title, *counted, wording.percent(score.flexible), *tested, *trained)


def heading(found: Findings) -> str:
    """Data, decoding, grading, seed and reads in one line."""
    parts = [found.study.name]
    if found.results:
        reads = sorted({result.evaluation.reads for result in found.results})
        times = "once" if reads == [1] else f"{' or '.join(map(str, reads))} times"
        decoding = ", ".join(sorted({result.evaluation.decoding for result in found.results}))
        parts += [
            f"test {found.n:,}",
            decoding,
            "strict grading",
            f"seed {found.study.seed}",
            f"test opened {times} by each arm",
        ]
    return " \u00b7 ".join(parts)


def document(found: Findings) -> dict[str, Any]:
    """Every arm with its state, the whole comparison, and the sentences."""
    return {
        "study": found.study.name,
        "seed": found.study.seed,
        "baseline": found.study.baseline.name if found.study.baseline else None,
        "arms": [
            {"name": arm.name, "title": arm.title, "state": arm.state, "reason": arm.reason}
            for arm in found.study.arms
        ],
        "comparison": asdict(found.comparison) if found.comparison else None,
        "verdict": verdict(found),
        "limits": limits(found),
        "report": str(found.study.folder / "report.html"),
    }
