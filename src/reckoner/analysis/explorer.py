"""Every problem with the answers of every arm or run, to search, filter and read.

The page holds each text once and draws only what is looked at. Offsets of wrong calculations count UTF-16
units, as JavaScript does. Where all texts together would make the page too large, long ones are cut at
one length, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reckoner.analysis.canvas import marks
from reckoner.analysis.changes import Diff, diff
from reckoner.analysis.compare import Comparison
from reckoner.analysis.findings import Findings
from reckoner.analysis.mistakes import KINDS, Diagnosis, diagnoses, profile, slips
from reckoner.analysis.page import render_page, write_text
from reckoner.analysis.pairs import pair_sentence
from reckoner.analysis.readers import VERDICTS, CompletionSet, Key
from reckoner.analysis.sentences import diff_sentence, parting_sentence, profile_sentence
from reckoner.analysis.tables import arm_table, kind_table, pair_table, sampling_table
from reckoner.analysis.wording import both
from reckoner.runs.records import Problem
from reckoner.runs.safe_paths import check_output

BUDGET = 50_000_000
"""Characters of model text that a page may hold, before they are packed."""

CUTS = (8000, 4000, 2000, 1200, 800, 500, 300, 150)
ORDER = list(KINDS)
Diagnoses = Mapping[Key, Diagnosis | None]


def write_page(path: Path, sources: Sequence[CompletionSet], compared: Comparison | None = None) -> None:
    """Write the page of one or two runs, or with `compared` the report of several.

    Raises `InputError` as `profile` and `diff` do, `Stopped` where it cannot be written.
    """
    check_output(path)
    write_text(path, render_comparison(sources, compared) if compared else render(sources))


def render(sources: Sequence[CompletionSet]) -> str:
    """The page of one or two runs as text."""
    known = [diagnoses(source) for source in sources]
    profiles = [profile(*pair) for pair in zip(sources, known, strict=True)]
    change = diff(*sources) if len(sources) == 2 else None
    tables = []
    for one in profiles:
        glossary = tuple((kind.title, kind.definition) for kind in one.kinds)
        title, shown = f"Kinds of error: {one.name}", ("count", "share of errors", "95 % interval")
        tables.append(replace(kind_table(one), title=title, names=shown, glossary=glossary))
    facts = {
        "over": "Error analysis",
        "title": " and ".join(source.name for source in sources),
        "sentences": [diff_sentence(change) if change else profile_sentence(profiles[0])],
        "tables": tables,
    }
    data = run_contents(sources, known, change)
    return render_page("errors.html.j2", marks([True] * len(sources)), data, facts)


def render_comparison(sources: Sequence[CompletionSet], compared: Comparison) -> str:
    """The report of runs and files that are no study: who is better, and every answer.

    Kinds of mistakes are named where there are reference solutions.
    """
    for one in sources:
        one.need_completions()
    known = [diagnoses(one) if one.has_texts else dict.fromkeys(one.grades) for one in sources]
    shown = {
        "Accuracy": arm_table(compared),
        "Samples": sampling_table(compared),
        "Differences": pair_table(compared.pairs),
    }
    facts = {
        "over": "Comparison",
        "title": both([source.name for source in sources]),
        "sentences": [line.rstrip(".") for line in (*map(pair_sentence, compared.pairs), *compared.notes)],
        "tables": [replace(table, title=title) for title, table in shown.items() if table.rows],
    }
    data = contents([source.name for source in sources], range(len(sources)), sources, known)
    return render_page("errors.html.j2", marks([True] * len(sources)), data, facts)


def run_contents(
    sources: Sequence[CompletionSet], known: Sequence[Diagnoses], change: Diff | None
) -> dict[str, Any]:
    """The explorer's data of one or two runs; of two, the right answer says where the other one differs."""
    data = contents([source.name for source in sources], range(len(sources)), sources, known)
    if change is None:
        return data
    data["kinds"].append("first difference")
    problems = {problem[0]: problem for problem in data["problems"]}
    for side, changes in ((1, change.fixed), (0, change.broken)):
        for one in changes:
            parting = parting_sentence(change, one)[:400]
            problems[one.problem_id][-1][side][-2:] = [len(data["kinds"]) - 1, parting]
    return data


def study_contents(findings: Findings) -> dict[str, Any]:
    """The explorer's data of all arms of a study."""
    return contents(
        [result.title for result in findings.results],
        [findings.study.arms.index(result.arm) for result in findings.results],
        [result.source for result in findings.results],
        findings.diagnoses,
    )


def contents(
    titles: Sequence[str], looks: Sequence[int], sources: Sequence[CompletionSet], known: Sequence[Diagnoses]
) -> dict[str, Any]:
    """Arms, kinds of mistakes and problems, in the shape that templates/report.js reads.

    `looks` are the indices of the arms' marks, `known` the `diagnoses` of the sources.
    A problem is [id, question, gold, solution, category, steps, unseen, answers]; an answer is null or
    [verdict, value, text, characters left out, [[start, end, right value], ...], kind, detail].
    """
    cut = longest_text([c.text for source in sources for c in source.completions.values()])
    graded = list(zip(sources, known, strict=True))
    problems: dict[str, Problem] = {}
    for source in sources:
        problems = {problem.id: problem for problem in source.problems.values()} | problems
    return {
        "arms": list(titles),
        "marks": list(looks),
        "kinds": [kind.title for kind in KINDS.values()],
        "problems": [
            [
                *(p.id, p.question, p.gold, p.solution, p.category, p.steps, int(p.unseen)),
                [_answer(source, known, (p.id, 0), cut) for source, known in graded],
            ]
            for p in problems.values()
        ],
    }


def longest_text(texts: Sequence[str]) -> int:
    """The largest cut at which all texts together stay within `BUDGET`."""
    fitting = (cut for cut in CUTS if sum(min(len(text), cut) for text in texts) <= BUDGET)
    return next(fitting, CUTS[-1])


def _answer(source: CompletionSet, known: Diagnoses, key: Key, cut: int) -> list[Any] | None:
    """The first sample of one arm."""
    if key not in source.grades:
        return None
    grade, completion, diagnosis = source.grades[key], source.completions[key], known[key]
    kind, detail = (ORDER.index(diagnosis.kind), diagnosis.detail[:200]) if diagnosis else (-1, "")
    text = completion.text[:cut]
    value = grade.strict_value[:60] if grade.strict_value else None
    left = len(completion.text) - len(text)
    return [VERDICTS.index(grade.verdict), value, text, left, marked_slips(text), kind, detail]


def marked_slips(text: str) -> list[list[Any]]:
    """[start, end, right value] of each false calculation, offsets in UTF-16 units."""
    return [[_utf16(text, start), _utf16(text, end), right[:60]] for start, end, right in slips(text)]


def _utf16(text: str, offset: int) -> int:
    return offset + sum(character > "\uffff" for character in text[:offset])
