"""The calibration of the base model: figures by hand on five completions, and targets at their bounds."""

import importlib
import sys
from pathlib import Path

import pytest

from reckoner.analysis.readers import CompletionSet
from reckoner.runs.records import Completion, Problem
from reckoner.tasks.answers.grading import grade

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
base = importlib.import_module("base_model")


def source(*told):
    """One problem and completion for each (template, gold, text)."""
    problems = {
        str(i): Problem(
            str(i), "Q 3 4 5?", f"3*4=<<3*4=12>>12\n#### {gold}", gold, "main", "nano", template=template
        )
        for i, (template, gold, _) in enumerate(told)
    }
    completions = {
        (str(i), 0): Completion(str(i), 0, "h", text, 9, "stop", -1.0, "r")
        for i, (_, _, text) in enumerate(told)
    }
    grades = {key: grade(completion, problems[key[0]]) for key, completion in completions.items()}
    return CompletionSet("r", grades, completions=completions, problems=problems)


FIVE = source(
    ("two_jobs", "12", "3*4=<<3*4=12>>12\n#### 12"),
    ("two_jobs", "12", "3*4=<<3*4=13>>13\n#### 13"),
    ("egg_cartons", "12", "3+4=<<3+4=7>>7\n7+5=<<7+5=12>>12\n#### 12"),
    ("egg_cartons", "12", "3+4=<<3+4=7>>7\n#### 7"),
    ("egg_cartons", "12", "3*4=<<3*4=13>>13\n#### 12"),
)


def test_figures_by_hand():
    assert base.scores(FIVE) == {"n": 5, "strict": 3, "flexible": 3}
    assert base.calculations(FIVE) == {"n*n": (1, 3), "n+n": (3, 3)}
    assert base.expected(FIVE) == (1, 3), "3*4 is the reference's; 3+4 is not"
    found = base.errors(FIVE)
    assert (found["wrong"], found["with_slip"]) == (2, 1), "the slip of the fifth did not cost its answer"
    assert (
        base.by_template(FIVE)["not in train"] == (2, 3)
        and sum(n for _, n in base.by_template(FIVE).values()) == 5
    )


def test_the_range_of_the_calculations_is_that_of_train():
    """Train multiplies digits and adds them. None of it divides 7 by 2 or multiplies four digits by four."""
    told = [
        "3*4=<<3*4=12>>12",
        "3*4=<<3*4=13>>13",
        "7/2=<<7/2=3.5>>3.5",
        "1234*1234=<<1234*1234=7>>7",
        "x=<<x=3>>3",
    ]
    found = source(*(("egg_cartons", "12", f"{line}\n#### 12") for line in told))
    steps = [base.check_steps(line)[0] for line in told[:4]]
    assert [base.pattern(step) for step in steps] == ["9*9=99", "9*9=99", "9/9=9/9", "9999*9999=9999999"]
    assert base.in_range(found) == (1, 2)
    assert sum(n for _, n in base.calculations(found).values()) == 4


def arms(full, lora, passed, right, slips, prompt):
    counts = {"calculations": {"n*n": (right, 1000)}, "calculations_in_range": (right, 1000)}
    one = {
        "n": 100,
        "strict": full,
        "flexible": full,
        "pass_at": {"8": passed},
        **counts,
        "errors": {"wrong": 30, "with_slip": slips},
    }
    return {"0shot": {"n": 100, "strict": prompt, "flexible": 50}}, {
        "full-main": [one],
        "lora-main": [{"n": 100, "strict": lora}],
    }


@pytest.mark.parametrize(
    ("values", "unmet"),
    [
        ((45, 40, 0.60, 980, 10, 3), set()),
        ((70, 70, 0.85, 1000, 0, 15), set()),
        ((44, 44, 0.58, 979, 11, 2), {*base.TARGETS} - {"full SFT above LoRA"}),
        ((71, 65, 0.9, 990, 3, 16), {"best prompt, strict", "full SFT on main", "full SFT above LoRA"}),
    ],
)
def test_targets_at_their_bounds(values, unmet):
    found = base.targets(*arms(*values))
    assert {one["name"] for one in found if not one["met"]} == unmet and [
        one["name"] for one in found
    ] == list(base.TARGETS)


def test_stages_of_pretraining_are_counted_back_to_the_first():
    recipes = importlib.import_module("base_recipes")
    first = {"done": {"seconds": 60.0, "tokens": 100}, "before": None}
    third = {
        "done": {"seconds": 20.0, "tokens": 7},
        "before": {"done": {"seconds": 30.0, "tokens": 20}, "before": first},
    }
    assert [done["tokens"] for done in recipes.stages_of(third)] == [7, 20, 100]
    assert [done["seconds"] for done in recipes.stages_of(first)] == [60.0]
