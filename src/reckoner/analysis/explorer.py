"""The data behind the report's explorer: every test problem with the answer of every arm, as JSON that is safe inside HTML.

The page holds each text once and draws only what is looked at. Offsets of wrong calculations count UTF-16 units, as
JavaScript does. Where all texts together would make the page too large, long ones are cut at one length, and say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reckoner.analysis.findings import Findings
from reckoner.analysis.mistakes import KINDS, Diagnosis, diagnoses
from reckoner.analysis.readers import VERDICTS, CompletionSet, Key
from reckoner.runs.records import Problem
from reckoner.tasks.arithmetic import check_steps, format_number

BUDGET = 8_000_000
"""Characters of model text, escaped, that a page may hold: it then stays under 12 MB with figures and questions."""

CUTS = (8000, 4000, 2000, 1200, 800, 500, 300, 150)
PLACES = {name: place for place, name in enumerate(KINDS)}
Diagnoses = Mapping[Key, Diagnosis | None]


def payload(found: Findings) -> dict[str, Any]:
    """The answers of all arms of a study; see `contents`."""
    places = [found.study.arms.index(result.arm) for result in found.results]
    return contents(
        [result.title for result in found.results],
        places,
        [result.source for result in found.results],
        found.diagnoses,
    )


def contents(
    titles: Sequence[str],
    places: Sequence[int],
    sources: Sequence[CompletionSet],
    known: Sequence[Diagnoses] = (),
) -> dict[str, Any]:
    """Arms, kinds of error and problems, in the shape that templates/report.js reads; `places` choose the arms' looks.

    `known` are the `diagnoses` of the sources, where somebody has them already.

    A problem is [id, question, gold, solution, category, steps, unseen, answers]; an answer is null or
    [verdict, value, text, characters left out, [[start, end, right value], ...], kind, detail].
    """
    cut = longest_text([c.text for source in sources for c in source.completions.values()])
    graded = list(zip(sources, known or map(diagnoses, sources), strict=True))
    return {
        "arms": list(titles),
        "marks": list(places),
        "kinds": [kind.title for kind in KINDS.values()],
        "problems": [_problem(problem, graded, cut) for problem in _problems(sources)],
    }


def longest_text(texts: Sequence[str]) -> int:
    """The largest cut at which all texts together stay within `BUDGET`."""
    sizes = [(len(text), escaped_size(text)) for text in texts]
    for cut in CUTS:
        if sum(size if length <= cut else size * cut // length for length, size in sizes) <= BUDGET:
            return cut
    return CUTS[-1]


def escaped_size(text: str) -> int:
    """Length of a text in `embed`'s JSON, nearly: six characters for each one that is escaped."""
    return (
        len(text)
        + 5 * (sum(map(text.count, "<>&")) + len(text) - len(text.encode("ascii", "ignore")))
        + sum(map(text.count, '\n"\\'))
    )


def _problems(sources: Iterable[CompletionSet]) -> list[Problem]:
    """Every problem that some arm answered, in the order of the first arm."""
    found: dict[str, Problem] = {}
    for source in sources:
        for problem in source.problems.values():
            found.setdefault(problem.id, problem)
    return list(found.values())


def _problem(problem: Problem, graded: Sequence[tuple[CompletionSet, Diagnoses]], cut: int) -> list[Any]:
    answers = [_answer(source, known, (problem.id, 0), cut) for source, known in graded]
    return [
        problem.id,
        problem.question,
        problem.gold,
        problem.solution,
        problem.category,
        problem.steps,
        int(problem.unseen),
        answers,
    ]


def _answer(source: CompletionSet, known: Diagnoses, key: Key, cut: int) -> list[Any] | None:
    """The first sample of one arm."""
    if key not in source.grades:
        return None
    grade, completion, diagnosis = source.grades[key], source.completions[key], known[key]
    kind, detail = (PLACES[diagnosis.kind], diagnosis.detail[:200]) if diagnosis else (-1, "")
    text = completion.text[:cut]
    value = grade.strict_value[:60] if grade.strict_value else None
    return [
        VERDICTS.index(grade.verdict),
        value,
        text,
        len(completion.text) - len(text),
        slips(text),
        kind,
        detail,
    ]


def slips(text: str) -> list[list[Any]]:
    """[start, end, right value] of each wrong calculation, offsets in UTF-16 units."""
    wrong = [(step.start, step.end, step.value) for step in check_steps(text) if step.slip]
    return [
        [_utf16(text, start), _utf16(text, end), format_number(value)[:60]]
        for start, end, value in wrong
        if value is not None
    ]


def _utf16(text: str, offset: int) -> int:
    return offset + sum(character > "\uffff" for character in text[:offset])


def embed(value: Any) -> str:
    """JSON for a script element: pure ASCII, and no character that could end the element or begin markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
