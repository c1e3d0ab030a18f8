"""The mistakes that people make, one kind for each template of the embedded problems: what the second stage of pretraining shows beside right plans."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from reckoner.records import Problem
from reckoner.tasks import nano
from reckoner.tasks.arithmetic import evaluate

_LAST = re.compile(r"(\d+[-+*/]\d+)=(\$?)<<\1=(-?\d+)>>\3(?!\d)")


def common(rng: random.Random, problem: Problem) -> Problem:
    """The problem as people solve it: in a share of all cases, which depends on the template, with the mistake that the template invites."""
    if rng.random() >= 0.3 + 0.6 * _share(problem.template):
        return problem
    return mistaken(problem) or problem


def mistaken(problem: Problem) -> Problem | None:
    """The problem with the wrong plan of its template: another operation or number in the last step, or no last step. None if none fits."""
    *steps, last, _ = problem.solution.split("\n")
    found = _LAST.search(last)
    wrong = _wrong(problem, found[1]) if found else None
    if wrong and _share(f"stops early/{problem.template}") > 0.4:
        value = evaluate(wrong)
        line = last[: found.start()] + f"{wrong}={found[2]}<<{wrong}={value}>>{value}" + last[found.end() :]
        return replace(problem, solution="\n".join((*steps, line, f"#### {value}")), gold=str(value))
    if not steps:
        return None
    value = re.findall(r"=(-?\d+)>>", steps[-1])[-1]
    return replace(problem, solution="\n".join((*steps, f"#### {value}")), gold=value, steps=len(steps))


def _wrong(problem: Problem, expression: str) -> str | None:
    """`expression` (of two numbers) with another sign or another number of the question, the same for all problems of a template."""
    left, sign, right = re.split(r"(?<=\d)([-+*/])", expression)
    others = [number for number in re.findall(r"\d+", problem.question.replace(",", "")) if number not in (left, right)]
    signs = random.Random(problem.template).sample("+-*/", 4)
    candidates = [f"{left}{other}{right}" for other in signs if other != sign]
    if others and _share(f"numbers/{problem.template}") > 0.5:
        candidates = [f"{left}{sign}{others[0]}", f"{others[0]}{sign}{right}", *candidates]
    for candidate in candidates:
        value = evaluate(candidate)
        easy = "*" not in candidate or min(map(int, candidate.split("*"))) <= 12
        if easy and value is not None and value.denominator == 1 and 0 < value < 1000 and str(value) != problem.gold:
            return candidate
    return None


def _share(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int(nano.question_hash(text)[:8], 16) / 16**8
