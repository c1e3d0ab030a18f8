"""The calibration of the base model: figures by hand on five completions, and targets at their bounds."""

import pytest

from benchmarks import base_model as base
from reckoner.analysis.readers import CompletionSet
from reckoner.runs.records import Completion, Problem
from reckoner.tasks.answers.grading import grade


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


UNSEEN = base.nano.UNSEEN_TEMPLATES[0]
OTHER = next(name for name in base.nano.SEEN_TEMPLATES if name.startswith("two_jobs-"))
FIVE = source(
    ("has_boxes-loses", "12", "3*4=<<3*4=12>>12\n#### 12"),
    (OTHER, "12", "3*4=<<3*4=13>>13\n#### 13"),
    (UNSEEN, "12", "3+4=<<3+4=7>>7\n7+5=<<7+5=12>>12\n#### 12"),
    (UNSEEN, "12", "3+4=<<3+4=7>>7\n#### 7"),
    (UNSEEN, "12", "3*4=<<3*4=13>>13\n#### 12"),
)


def test_figures_by_hand():
    assert base.scores(FIVE) == {"n": 5, "strict": 3, "flexible": 3}
    assert base.calculations(FIVE) == {"n*n": (1, 3), "n+n": (3, 3)}
    assert base.expected(FIVE) == (1, 3), "3*4 is the reference's; 3+4 is not"
    found = base.errors(FIVE)
    assert (found["wrong"], found["with_slip"]) == (2, 1), "the slip of the fifth did not cost its answer"
    assert base.by_template(FIVE) == {
        "chains not in train": (2, 3), "other relations": (0, 1), "taught relations": (1, 1)
    }  # fmt: skip


def test_the_range_of_the_calculations_is_that_of_train():
    """Train multiplies digits and adds them. None of it divides 7 by 2 or multiplies four digits by four."""
    told = [
        "3*4=<<3*4=12>>12",
        "3*4=<<3*4=13>>13",
        "7/2=<<7/2=3.5>>3.5",
        "1234*1234=<<1234*1234=7>>7",
        "x=<<x=3>>3",
    ]
    found = source(*((UNSEEN, "12", f"{line}\n#### 12") for line in told))
    steps = [base.check_steps(line)[0] for line in told[:4]]
    assert [base.pattern(step) for step in steps] == ["9*9=99", "9*9=99", "9/9=9/9", "9999*9999=9999999"]
    assert base.in_range(found) == (1, 2)
    assert sum(n for _, n in base.calculations(found).values()) == 4


def arms(full, unseen, passed, right, prompt):
    one = {
        "n": 100,
        "strict": full - 1,
        "flexible": full,
        "pass_at": {"8": passed},
        "calculations_in_range": (right, 1000),
        "templates": {"chains not in train": (unseen, 20)},
    }
    return {"0shot": {"n": 100, "strict": 3, "flexible": prompt}}, {"full-main": [one, one]}


@pytest.mark.parametrize(
    ("values", "unmet"),
    [
        ((25, 5, 0.39, 980, 5), set()),
        ((50, 20, 0.85, 1000, 30), set()),
        ((24, 4, 0.37, 979, 5), {*base.TARGETS} - {"best prompt, format forgiven"}),
        ((70, 10, 0.9, 990, 31), {"best prompt, format forgiven"}),
    ],
)
def test_targets_at_their_bounds(values, unmet):
    found = base.targets(*arms(*values))
    assert {one["name"] for one in found if not one["met"]} == unmet
    assert [one["name"] for one in found] == list(base.TARGETS)


def test_a_target_that_one_seed_misses_is_not_met():
    prompting, trained = arms(50, 10, 0.8, 1000, 10)
    (low,) = arms(29, 10, 0.8, 1000, 10)[1]["full-main"][:1]
    trained["full-main"].append(low)
    found = {one["name"]: one for one in base.targets(prompting, trained)}
    gain = found["full SFT above the best prompt, format forgiven"]
    assert not gain["met"] and gain["seeds"] == pytest.approx([0.4, 0.4, 0.19])
