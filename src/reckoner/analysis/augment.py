"""Further train problems made of those there are: other numbers, reverse questions, sampled solutions.

Each new problem is verified: its calculations are right, and the last one gives its gold. Its id is that of
its parent and a kind, as `train-0a1b2c~renumber-1`. By that id `gsm8k.load` uses it for training alone, and
leaves it out where its parent is a dev problem or an exemplar.

Sources: other numbers as in GSM-Symbolic (2410.05229); reverse questions as in MetaMath (Yu 2023, FOBAR),
here with a solution that undoes the steps; sampled solutions as in RFT (Yuan 2023).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from reckoner.analysis.renumber import LeftOut, certain_numbers, other_numbers
from reckoner.errors import InputError
from reckoner.runs.records import Problem
from reckoner.tasks.answers.number import gold_number, grade_text
from reckoner.tasks.arithmetic import Step, check_steps, evaluate, expressions, format_number, literal
from reckoner.tasks.gsm8k import RELATIVE, question_hash

KINDS = ("renumber", "reverse", "sample", "paraphrase")
"""The last is made by `evaluation.paraphrase`, which asks a model."""

_NUMERAL = re.compile(r"(?<![\w.,])\d{1,6}(?![\w%]|[.,]\d)")
_TWO = re.compile(r"\s*([\d.,]+)\s*([-+*/])\s*([\d.,]+)\s*")
_INVERSE = {  # r = a o b solved for a, and for b
    "+": ("{r}-{o}", "{r}-{o}"),
    "-": ("{r}+{o}", "{o}-{r}"),
    "*": ("{r}/{o}", "{r}/{o}"),
    "/": ("{r}*{o}", "{o}/{r}"),
}


def verified(problem: Problem) -> bool:
    """Whether a problem has annotated calculations, all of them right, the last of which gives its gold."""
    steps = [step for step in check_steps(problem.solution) if step.annotated]
    right = bool(steps) and all(step.right for step in check_steps(problem.solution))
    ends = right and steps[-1].value == gold_number(problem.gold)
    return ends and grade_text(problem.solution, problem.gold).strict


def relative(parent: Problem, kind: str, number: int, question: str, solution: str, gold: str) -> Problem:
    """A problem made of `parent`."""
    name = f"{parent.id}~{kind}-{number}"
    return replace(parent, id=name, question=question, solution=solution, gold=gold)


def renumbered(parent: Problem, number: int, seed: int) -> Problem:
    """`parent` with other numbers in question, steps and gold. Raises `LeftOut` where that is not sure."""
    new = other_numbers(parent, seed + number)
    made = relative(parent, "renumber", number, new.question, new.solution, new.gold)
    if not verified(made):
        raise LeftOut("new steps that the grader does not accept")
    return made


def reversed_question(parent: Problem, number: int = 1) -> Problem | None:
    """`parent` with its answer told and one number of the question asked for; None where it is not unique.

    The number must stand for one quantity alone and be used by one step, each result by one later step, and
    each step compute from two numbers. Then the steps are undone from the last to the first.
    """
    try:
        certain = certain_numbers(parent)
    except LeftOut:
        return None
    steps = [step for step in check_steps(parent.solution) if step.annotated]
    for unknown in [match[0] for match in _NUMERAL.finditer(parent.question)]:
        if literal(unknown) not in certain or (lines := _undo(steps, unknown)) is None:
            continue
        question = _with_x(parent.question, unknown)
        question += f" If the answer to this question is {parent.gold}, what is the value of x?"
        solution = "\n".join([*lines, f"#### {unknown}"])
        made = relative(parent, "reverse", number, question, solution, unknown)
        if verified(made):
            return made
    return None


def _with_x(question: str, unknown: str) -> str:
    """The question with x in place of the number `unknown`."""
    return _NUMERAL.sub(lambda match: "x" if match[0] == unknown else match[0], question)


def _undo(steps: Sequence[Step], unknown: str) -> list[str] | None:
    """Lines that compute `unknown` from the last result, after the steps that do not need it."""
    value, path, known = literal(unknown), [], []
    hidden = {value}  # the unknown and what follows from it
    for step in steps:
        match = _TWO.fullmatch(step.expression)
        sides = [literal(match[1]), literal(match[3])] if match else []
        used = [side for side in sides if side in hidden]
        if used == [value] and match and step.value is not None:
            path.append((sides.index(value), match[2], sides[1 - sides.index(value)], step.value))
            value = step.value
            hidden.add(value)
        elif used or not match:
            return None
        else:
            known.append(f"{step.expression}=<<{step.expression}={step.written}>>{step.written}")
    if not path or value != steps[-1].value or len(hidden) <= len(path):
        return None
    for side, operation, other, result in reversed(path):
        form = _INVERSE[operation][side]
        expression = form.format(r=format_number(result), o=format_number(other))
        before = evaluate(expression)
        if before is None:
            return None
        known.append(f"{expression}=<<{expression}={format_number(before)}>>{format_number(before)}")
    return known


def sampled(parents: Sequence[Problem], texts: Iterable[tuple[str, str]], most: int) -> Iterator[Problem]:
    """Right solutions that a model wrote, at most `most` of a question, each with other calculations.

    `texts` are pairs of problem id and completion; those of problems that are not in `parents` are left out.
    """
    first: dict[str, Problem] = {}
    seen: dict[str, set[tuple[str, ...]]] = {}
    for parent in parents:
        first.setdefault(parent.question, parent)
        seen.setdefault(parent.question, set()).add(expressions(parent.solution))
    by_id, counts = {parent.id: first[parent.question] for parent in parents}, Counter[str]()
    for name, text in texts:
        if (one := by_id.get(name)) is None or counts[one.id] == most:
            continue
        made = relative(one, "sample", counts[one.id] + 1, one.question, text.strip(), one.gold)
        calculations = expressions(text)
        if calculations not in seen[one.question] and verified(made):
            seen[one.question].add(calculations)
            counts[one.id] += 1
            yield made


def augment(
    parents: Sequence[Problem],
    kinds: Sequence[str],
    times: int,
    seed: int,
    taken: set[str],
    texts: Iterable[tuple[str, str]] = (),
) -> tuple[list[Problem], Counter[str]]:
    """All that can be made of `parents` by `kinds`; no new question has a hash that is in `taken`.

    With it comes how many parents were not renumbered for which reason. `times` is how many renumbered
    problems or sampled solutions one question gives at most. Raises `InputError` for an unknown kind, answers
    that are no numbers, and parents that were made themselves.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"--kind {unknown[0]}: choose {', '.join(KINDS)}")
    if other := [one for one in parents if one.kind != "number"]:
        raise InputError(f"problem {other[0].id}: its answer is a {other[0].kind}; only numbers are verified")
    if again := [one for one in parents if RELATIVE.search(one.id)]:
        raise InputError(
            f"problem {again[0].id} was made of another one. Augment the data that it was made from, with "
            "every --kind in one command"
        )
    questions = {one.question: one for one in reversed(parents)}
    distinct = [one for one in parents if questions[one.question] is one]
    made: list[Problem | None] = []
    left_out = Counter[str]()
    for parent in distinct if "renumber" in kinds else ():
        try:
            made += [renumbered(parent, n, seed) for n in range(1, times + 1)]
        except LeftOut as why:
            left_out[str(why)] += 1
    if "reverse" in kinds:
        made += [reversed_question(parent) for parent in distinct]
    new = unseen((one for one in made if one is not None), taken)
    return [*new, *(sampled(parents, texts, times) if "sample" in kinds else ())], left_out


def unseen(made: Iterable[Problem], taken: set[str]) -> list[Problem]:
    """Those whose question has a hash that is neither in `taken` nor that of an earlier one."""
    hashes, new = set(taken), list[Problem]()
    for one in made:
        if (key := question_hash(one.question)) not in hashes:
            hashes.add(key)
            new.append(one)
    return new


def count_kinds(made: Iterable[Problem]) -> Counter[str]:
    """How many problems were made by each kind."""
    return Counter(one.id.rpartition("~")[2].partition("-")[0] for one in made)


def rows_of(problems: Iterable[Problem]) -> Iterator[dict[str, Any]]:
    """Problems as rows of a data file; the row of a problem that was made names its parent too."""
    for one in problems:
        row = {"id": one.id, "question": one.question, "answer": one.solution}
        parent, *made = RELATIVE.split(one.id)
        more = {"category": one.category, "template": one.template, "unseen": one.unseen}
        more["parent"] = parent if made else ""
        yield row | {name: value for name, value in more.items() if value}


def reading_settings(folder: str, dev_size: int) -> list[str]:
    """The settings that read a folder of `rows_of`, whatever the user's other settings say of the source.

    All rows are used: the parents were chosen already. The texts have a point before decimals.
    """
    values = {
        "data.path": folder,
        "data.test_path": "",
        "data.dev_size": dev_size,
        "data.max_train_samples": 0,
        "data.question_field": "question",
        "data.solution_field": "answer",
        "data.gold_field": "",
        "data.gold_pattern": "",
        "data.decimal": "point",
        "task.answer_kind": "number",
        "task.choices_field": "",
        "task.more_golds_field": "",
        "task.category_field": "category",
        "task.template_field": "template",
        "task.columns": "",
        "task.records": "",
    }
    return [f"{name}={value}" for name, value in values.items()]
