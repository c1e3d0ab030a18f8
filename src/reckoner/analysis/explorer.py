"""Every problem with the answers of every arm or run, to search, filter and read.

The page holds each text once, however many arms and seeds wrote it. It draws only what is looked at.
Offsets of wrong calculations count UTF-16 units, as JavaScript does. Where all texts together would make the
page too large, long ones are cut at one length, and say so.
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
            *_, answers, ((*shown,),) = problems[one.problem_id]
            answers[shown[side]][-2:] = [len(data["kinds"]) - 1, parting]
    return data


def study_contents(findings: Findings) -> dict[str, Any]:
    """The explorer's data of all arms of a study, under every seed."""
    return contents(
        [result.title for result in findings.results],
        [findings.study.arms.index(result.arm) for result in findings.results],
        [result.source for result in findings.results],
        findings.diagnoses,
        [result.first_samples for result in findings.results],
    )


def contents(
    titles: Sequence[str],
    looks: Sequence[int],
    sources: Sequence[CompletionSet],
    known: Sequence[Diagnoses],
    runs: Sequence[Mapping[int, int]] = (),
) -> dict[str, Any]:
    """Arms, seeds, kinds of mistakes and problems, in the shape that templates/report.js reads.

    `looks` are the indices of the arms' marks, `known` the `diagnoses` of the sources. `runs` has for each
    arm the sample that its run of each seed wrote first; an arm of one run stands under every seed.
    A problem is [id, question, gold, solution, category, steps, unseen, answers, rows]. Its answers are
    [verdict, value, text, characters left out, [[start, end, right value], ...], kind, detail], each once.
    There is a row for each seed, with the index of each arm's answer, -1 for none.
    """
    cut = longest_text(list({c.text for source in sources for c in source.completions.values()}))
    runs = runs or [{0: 0}] * len(sources)
    seeds = list(dict.fromkeys(seed for each in runs if len(each) > 1 for seed in each)) or [0]
    columns = [
        [each.get(seed) for seed in seeds] if len(each) > 1 else [*each.values()] * len(seeds)
        for each in runs
    ]
    graded = list(zip(sources, known, columns, strict=True))
    problems: dict[str, Problem] = {}
    for source in sources:
        problems = {problem.id: problem for problem in source.problems.values()} | problems
    return {
        "arms": list(titles),
        "marks": list(looks),
        "seeds": seeds,
        "kinds": [kind.title for kind in KINDS.values()],
        "problems": [
            [
                *(p.id, p.question, p.gold, p.solution, p.category, p.steps, int(p.unseen)),
                *_answers(p.id, graded, len(seeds), cut),
            ]
            for p in problems.values()
        ],
    }


def _answers(
    problem: str,
    graded: Sequence[tuple[CompletionSet, Diagnoses, Sequence[int | None]]],
    seeds: int,
    cut: int,
) -> tuple[list[list[Any]], list[list[int]]]:
    """The answers to one problem, each once, and for each seed their index by arm."""
    answers: list[list[Any]] = []
    index: dict[tuple[Any, ...], int] = {}
    rows: list[list[int]] = [[] for _ in range(seeds)]
    for source, known, samples in graded:
        for row, sample in zip(rows, samples, strict=True):
            key = (problem, -1 if sample is None else sample)
            if key not in source.grades:
                row.append(-1)
                continue
            facts = _answer(source, known, key, cut)
            row.append(index.setdefault(facts, len(answers)))
            if row[-1] == len(answers):
                answers.append([*facts[:4], marked_slips(facts[2]), *facts[4:]])
    return answers, rows


def longest_text(texts: Sequence[str]) -> int:
    """The largest cut at which all texts together stay within `BUDGET`."""
    fitting = (cut for cut in CUTS if sum(min(len(text), cut) for text in texts) <= BUDGET)
    return next(fitting, CUTS[-1])


def _answer(source: CompletionSet, known: Diagnoses, key: Key, cut: int) -> tuple[Any, ...]:
    """Verdict, value, text, characters left out, kind and detail of one completion."""
    grade, completion, diagnosis = source.grades[key], source.completions[key], known[key]
    kind, detail = (ORDER.index(diagnosis.kind), diagnosis.detail[:200]) if diagnosis else (-1, "")
    text = completion.text[:cut]
    value = grade.strict_value[:60] if grade.strict_value else None
    return VERDICTS.index(grade.verdict), value, text, len(completion.text) - len(text), kind, detail


def marked_slips(text: str) -> list[list[Any]]:
    """[start, end, right value] of each false calculation, offsets in UTF-16 units."""
    return [[_utf16(text, start), _utf16(text, end), right[:60]] for start, end, right in slips(text)]


def _utf16(text: str, offset: int) -> int:
    return offset + sum(character > "\uffff" for character in text[:offset])
