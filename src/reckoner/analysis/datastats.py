"""What a data set is like, and what the simplest guesses score on it: the floors that any method must beat.

Of GSM8K's 1,319 test questions 30 end with their own answer, as `floors` counts it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from reckoner.analysis.wording import ANSWER_SIZES, answer_size
from reckoner.runs.records import Problem
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.answers.number import gold_number
from reckoner.tasks.arithmetic import check_steps, evaluate, format_number, numbers
from reckoner.tasks.categories import with_category

FLOORS: dict[str, Callable[[list[Fraction]], Fraction]] = {
    "first number of the question": lambda given: given[0],
    "last number of the question": lambda given: given[-1],
    "sum of the question's numbers": lambda given: sum(given, Fraction(0)),
    "product of the question's numbers": lambda given: math.prod(given, start=Fraction(1)),
}
"""What each trivial answer makes of the numbers of a question."""

UNSEEN = "from templates not in train"
MOST_STEPS = 8
"""Problems with this many steps or more are counted together."""


def most_frequent_gold(problems: Sequence[Problem]) -> str:
    """The most frequent gold value, the smallest of equals: the best constant answer. Take it from train."""
    if any(problem.kind != "number" for problem in problems):
        texts = Counter(problem.gold for problem in problems)
        return min(texts, key=lambda gold: (-texts[gold], gold))
    counts = Counter(gold_number(problem.gold) for problem in problems)
    return format_number(min(counts, key=lambda value: (-counts[value], value)))


def describe(
    problems: Sequence[Problem], constant: str, measures: Mapping[str, Callable[[str], int]]
) -> dict[str, Any]:
    """Counts and lengths of `problems` (at least one), ready for JSON.

    `measures` are the units of length by name, such as `{"characters": len}`. `annotations` counts the
    `<<expr=value>>` and the solutions without any, and lists those with a wrong one. `ungraded` lists the
    gold solutions that the grader does not accept: no model could be right on them, so there must be none.
    What is said of golds and floors is about the problems whose answer is a number.
    """
    numeric = [problem for problem in problems if problem.kind == "number"]
    golds = [gold_number(problem.gold) for problem in numeric]
    texts = {"question": [p.question for p in problems], "solution": [p.solution for p in problems]}
    return {
        "problems": len(problems),
        "steps": five_numbers([problem.steps for problem in problems]),
        "lengths": {
            f"{name} {unit}": five_numbers([measure(text) for text in written])
            for unit, measure in measures.items()
            for name, written in texts.items()
        },
        "golds": {
            "numbers": len(golds),
            "smallest": format_number(min(golds)) if golds else "",
            "largest": format_number(max(golds)) if golds else "",
            "negative": sum(gold < 0 for gold in golds),
            "zero": sum(gold == 0 for gold in golds),
            "not_whole": sum(gold.denominator != 1 for gold in golds),
            "with_comma": sum("," in problem.gold for problem in numeric),
            "constant": constant,
        },
        "distributions": _distributions(problems, golds),
        "annotations": _annotations(problems),
        "ungraded": [p.id for p in problems if not _accepts(p)],
        "floors": floors(problems, constant),
        "categories": dict(
            Counter(filter(None, (with_category(p).category for p in problems))).most_common()
        ),
        "unseen_templates": sum(problem.unseen for problem in problems),
    }


def _accepts(problem: Problem) -> bool:
    return Answer(problem.solution, problem.gold, kind=problem.kind, choices=problem.choices).grade.strict


def five_numbers(values: Sequence[int]) -> dict[str, float]:
    """Least, mean, median, 99th percentile (nearest rank) and greatest of at least one value."""
    ordered, mean = sorted(values), sum(values) / len(values)
    median, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99))
    return {"min": ordered[0], "mean": mean, "median": median, "p99": p99, "max": ordered[-1]}


def floors(problems: Sequence[Problem], constant: str) -> dict[str, int]:
    """How many problems each trivial answer solves; the last counts golds that stand in the question."""
    numeric = [problem for problem in problems if problem.kind == "number"]
    pairs = [(gold_number(problem.gold), numbers(problem.question)) for problem in numeric]
    plain = (format_number(gold_number(p.gold)) if p.kind == "number" else p.gold for p in problems)
    solved = {"most frequent gold": sum(gold == constant for gold in plain)}
    for name, answer in FLOORS.items():
        solved[name] = sum(bool(given) and answer(given) == gold for gold, given in pairs)
    return {**solved, "some number of the question": sum(gold in given for gold, given in pairs)}


def table_rows(described: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    """`describe` of several sets as rows of text, a column a set."""
    sets = list(described.values())
    kinds = dict.fromkeys(f"category: {kind}" for one in sets for kind in one["categories"])
    columns = [_column(one, kinds) for one in sets]
    possible = sets[0]["distributions"].items()
    empty = {
        f"{name}: {label}"
        for name, counts in possible
        for label in counts
        if not any(one["distributions"][name][label] for one in sets)
    }
    if not any(one["unseen_templates"] for one in sets):
        empty.add(UNSEEN)
    return [[label, *(column[label] for column in columns)] for label in columns[0] if label not in empty]


def _column(one: Mapping[str, Any], kinds: Iterable[str]) -> dict[str, str]:
    """The cells of one set by the labels of their rows."""

    def share(count: int) -> str:
        return f"{100 * count / one['problems']:.1f} %"

    golds, annotations, categories = one["golds"], one["annotations"], one["categories"]
    counted = {
        f"{name}: {label}": share(count)
        for name, counts in one["distributions"].items()
        for label, count in counts.items()
    }
    return {
        "problems": f"{one['problems']:,}",
        "steps: mean, range": "{mean:.2f}, {min}-{max}".format(**one["steps"]),
        **{
            f"{name}: median, p99, max": "{median:,} {p99:,} {max:,}".format(**values)
            for name, values in one["lengths"].items()
        },
        "gold range": f"{golds['smallest']} to {golds['largest']}" if golds["numbers"] else "-",
        "golds that are numbers": share(golds["numbers"]),
        "golds negative": f"{golds['negative']:,}",
        "golds zero": f"{golds['zero']:,}",
        "golds not whole": f"{golds['not_whole']:,}",
        "golds with comma": f"{golds['with_comma']:,}",
        "annotations": f"{annotations['total']:,}",
        "solutions with a wrong one": f"{len(annotations['wrong']):,}",
        "solutions without any": f"{annotations['solutions_without']:,}",
        "last annotation is the gold": share(annotations["last_is_gold"]),
        "golds graded correct": share(one["problems"] - len(one["ungraded"])),
        "most frequent gold": golds["constant"],
        **{f"floor: {name}": share(count) for name, count in one["floors"].items()},
        **counted,
        **{
            kind: share(categories.get(kind.removeprefix("category: "), 0)) if categories else "-"
            for kind in kinds
        },
        UNSEEN: share(one["unseen_templates"]),
    }


def _distributions(problems: Sequence[Problem], golds: Sequence[Fraction]) -> dict[str, dict[str, int]]:
    """Problems by number of steps and by size of the gold; every label is there, in order."""
    steps = Counter(min(problem.steps, MOST_STEPS) for problem in problems)
    sizes = Counter(map(answer_size, golds))
    return {
        "steps": {f"{n} or more" if n == MOST_STEPS else str(n): steps[n] for n in range(MOST_STEPS + 1)},
        "answer": {label: sizes[i] for i, label in enumerate(ANSWER_SIZES)},
    }


def _annotations(problems: Sequence[Problem]) -> dict[str, Any]:
    golds = [gold_number(problem.gold) if problem.kind == "number" else None for problem in problems]
    steps = [[step for step in check_steps(problem.solution) if step.annotated] for problem in problems]
    last = [evaluate(own[-1].written) if own else None for own in steps]
    return {
        "total": sum(map(len, steps)),
        "solutions_without": steps.count([]),
        "last_is_gold": sum(
            value is not None and value == gold for value, gold in zip(last, golds, strict=True)
        ),
        "wrong": [p.id for p, own in zip(problems, steps, strict=True) if any(step.slip for step in own)],
    }
