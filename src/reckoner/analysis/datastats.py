"""What a data set is like, and what the simplest guesses score on it: the floors that any method must beat.

GSM8K's test questions end with their own answer 30 times in 1,319: `floors(test, "4")["last number of the question"]`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from reckoner.runs.records import Problem
from reckoner.tasks.answers.number import gold_number, grade_text
from reckoner.tasks.arithmetic import check_steps, evaluate, format_number, numbers

FLOORS: dict[str, Callable[[list[Fraction]], Fraction]] = {
    "first number of the question": lambda found: found[0],
    "last number of the question": lambda found: found[-1],
    "sum of the question's numbers": lambda found: sum(found, Fraction(0)),
    "product of the question's numbers": lambda found: math.prod(found, start=Fraction(1)),
}


SIZES = ("below 10", "10 to 99", "100 to 999", "1,000 and more")
MOST_STEPS = 8
"""Problems with this many steps or more are counted together."""


def most_frequent_gold(problems: Sequence[Problem]) -> str:
    """The gold value that occurs most often (of equals the smallest): the best constant answer, to be taken from train."""
    counts = Counter(gold_number(problem.gold) for problem in problems)
    return format_number(min(counts, key=lambda value: (-counts[value], value)))


def describe(
    problems: Sequence[Problem], constant: str, measures: Mapping[str, Callable[[str], int]]
) -> dict[str, Any]:
    """Counts and lengths of `problems` (at least one), ready for JSON; `floors` counts what each trivial answer solves.

    `measures` are the units of length by name, such as `{"characters": len}`. `annotations` are the `<<expr=value>>`: how
    many, in how many solutions there is none, which solutions hold a wrong one. `ungraded` lists the gold solutions that
    the grader does not accept; there must be none, or no model could be right on them.
    """
    golds = [gold_number(problem.gold) for problem in problems]
    texts = {"question": [p.question for p in problems], "solution": [p.solution for p in problems]}
    return {
        "problems": len(problems),
        "steps": spread([problem.steps for problem in problems]),
        "lengths": {
            f"{part} {unit}": spread([measure(text) for text in found])
            for unit, measure in measures.items()
            for part, found in texts.items()
        },
        "golds": {
            "smallest": format_number(min(golds)),
            "largest": format_number(max(golds)),
            "negative": sum(gold < 0 for gold in golds),
            "zero": sum(gold == 0 for gold in golds),
            "not_whole": sum(gold.denominator != 1 for gold in golds),
            "with_comma": sum("," in problem.gold for problem in problems),
            "constant": constant,
        },
        "distributions": _distributions(problems, golds),
        "annotations": _annotations(problems, golds),
        "ungraded": [
            problem.id for problem in problems if not grade_text(problem.solution, problem.gold).strict
        ],
        "floors": floors(problems, constant),
        "categories": dict(
            Counter(problem.category for problem in problems if problem.category).most_common()
        ),
        "unseen_templates": sum(problem.unseen for problem in problems),
    }


def spread(values: Sequence[int]) -> dict[str, float]:
    """Least, mean, median, 99th percentile (nearest rank) and greatest of at least one value."""
    ordered = sorted(values)
    rank = {
        name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in (("median", 0.5), ("p99", 0.99))
    }
    return {"min": ordered[0], "mean": sum(ordered) / len(ordered), **rank, "max": ordered[-1]}


def floors(problems: Sequence[Problem], constant: str) -> dict[str, int]:
    """How many problems each trivial answer solves; the last line asks whether any number of the question is the gold."""
    golds = [gold_number(problem.gold) for problem in problems]
    found = [numbers(problem.question) for problem in problems]
    pairs = list(zip(golds, found, strict=True))
    solved = {"most frequent gold": sum(gold == gold_number(constant) for gold in golds)}
    for name, answer in FLOORS.items():
        solved[name] = sum(bool(given) and answer(given) == gold for gold, given in pairs)
    return {**solved, "some number of the question": sum(gold in given for gold, given in pairs)}


def table_rows(described: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    """`describe` of several sets as rows of text, a column a set."""
    sets = list(described.values())
    rows = [["problems", *(f"{d['problems']:,}" for d in sets)]]
    rows.append(
        [
            "steps: mean, range",
            *(f"{d['steps']['mean']:.2f}, {d['steps']['min']}-{d['steps']['max']}" for d in sets),
        ]
    )
    for name in sets[0]["lengths"]:
        found = [d["lengths"][name] for d in sets]
        rows.append(
            [f"{name}: median, p99, max", *(f"{s['median']:,} {s['p99']:,} {s['max']:,}" for s in found)]
        )
    rows.append(["gold range", *(f"{d['golds']['smallest']} to {d['golds']['largest']}" for d in sets)])
    for name in ("negative", "zero", "not_whole", "with_comma"):
        rows.append([f"golds {name.replace('_', ' ')}", *(f"{d['golds'][name]:,}" for d in sets)])
    rows.append(["annotations", *(f"{d['annotations']['total']:,}" for d in sets)])
    rows.append(["solutions with a wrong one", *(f"{len(d['annotations']['wrong']):,}" for d in sets)])
    rows.append(["solutions without any", *(f"{d['annotations']['solutions_without']:,}" for d in sets)])
    rows.append(
        ["last annotation is the gold", *(_percent(d["annotations"]["last_is_gold"], d) for d in sets)]
    )
    rows.append(["golds graded correct", *(_percent(d["problems"] - len(d["ungraded"]), d) for d in sets)])
    rows.append(["most frequent gold", *(d["golds"]["constant"] for d in sets)])
    rows += [
        [f"floor: {name}", *(_percent(d["floors"][name], d) for d in sets)] for name in sets[0]["floors"]
    ]
    for name, labels in sets[0]["distributions"].items():
        counts = {label: [d["distributions"][name][label] for d in sets] for label in labels}
        rows += [
            [f"{name}: {label}", *map(_percent, found, sets)] for label, found in counts.items() if any(found)
        ]
    kinds = dict.fromkeys(kind for d in sets for kind in d["categories"])
    rows += [
        [
            f"category: {kind}",
            *(_percent(d["categories"].get(kind, 0), d) if d["categories"] else "-" for d in sets),
        ]
        for kind in kinds
    ]
    if any(d["unseen_templates"] for d in sets):
        rows.append(["from templates not in train", *(_percent(d["unseen_templates"], d) for d in sets)])
    return rows


def _percent(count: int, described: Mapping[str, Any]) -> str:
    return f"{100 * count / described['problems']:.1f} %"


def _distributions(problems: Sequence[Problem], golds: Sequence[Fraction]) -> dict[str, dict[str, int]]:
    """Problems by number of steps and by size of the gold; every label is there, in order."""
    steps = Counter(min(problem.steps, MOST_STEPS) for problem in problems)
    sizes = Counter(sum(abs(gold) >= bound for bound in (10, 100, 1000)) for gold in golds)
    return {
        "steps": {f"{n} or more" if n == MOST_STEPS else str(n): steps[n] for n in range(MOST_STEPS + 1)},
        "answer": {label: sizes[i] for i, label in enumerate(SIZES)},
    }


def _annotations(problems: Sequence[Problem], golds: Sequence[Fraction]) -> dict[str, Any]:
    steps = [[step for step in check_steps(problem.solution) if step.annotated] for problem in problems]
    return {
        "total": sum(map(len, steps)),
        "solutions_without": sum(not found for found in steps),
        "last_is_gold": sum(
            bool(found) and evaluate(found[-1].written) == gold
            for found, gold in zip(steps, golds, strict=True)
        ),
        "wrong": [
            problem.id
            for problem, found in zip(problems, steps, strict=True)
            if any(step.slip for step in found)
        ],
    }
