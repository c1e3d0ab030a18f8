"""Rewards that stand where correctness does: the controls, and functions of the user."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from reckoner.errors import InputError
from reckoner.runs.records import Problem
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.prompts import Prompt
from reckoner.tasks.reward_plugin import PluginReward, digest
from reckoner.tasks.rewards import check_weights, group_reward

PLAIN = {"correct": 1.0}
PROBLEMS = [Problem(f"p{n}", f"How many? {n}", f"So {n}.\n#### {n}", str(n), "main", "t") for n in range(40)]
GROUP = [Answer(text, "5") for text in ("#### 7", "#### 5", "#### 7.0", "no idea", "#### 5")]


def paid(name, weights=PLAIN, answers=GROUP, key="0"):
    return [one.total for one in group_reward(name, weights)(answers, PROBLEMS[5], key)]


def test_each_source_by_hand():
    assert paid("correct") == [0, 1, 0, 0, 1]
    assert paid("format") == [1, 1, 1, 0, 1]
    assert paid("majority") == [1, 0, 1, 0, 0], "2 votes each: the answer drawn first counts"
    assert paid("majority", answers=GROUP[3:4]) == [0]
    assert paid("majority", answers=GROUP[1:]) == [1, 0, 0, 1]


def test_the_coin_is_fair_and_depends_on_its_key_alone():
    values = [paid("coin", key=str(n)) for n in range(400)]
    assert values == [paid("coin", answers=GROUP[::-1], key=str(n)) for n in range(400)]
    assert set(sum(values, [])) == {0, 1} and abs(sum(map(sum, values)) / 2000 - 0.5) < 0.04


def test_optional_parts_are_added_to_any_source():
    weights = check_weights({"correct": 2.0, "format": 0.5})
    assert paid("coin", weights) == [
        2 * c + 0.5 * f for c, f in zip(paid("coin"), paid("format"), strict=True)
    ]
    (first, *_) = group_reward("majority", weights)(GROUP, PROBLEMS[5], "0")
    assert first.parts == {"majority": 1.0, "format": 1.0}


GOOD = """
def short(text, problem, grade):
    brief = 1 / (1 + len(text))
    return 0.9 * grade.strict + 0.1 * brief, {"brief": brief}

def plain(text, problem, grade):
    return grade.strict

def length(text, problem, grade):
    return len(text)

def boxes(text, problem, grade):
    return text.count("boxed")

def raises(text, problem, grade):
    return {}["seven"]

def nan(text, problem, grade):
    return float("nan")

def words(text, problem, grade):
    return "good"

def slow(text, problem, grade):
    while True: pass

def changes(text, problem, grade):
    return grade.strict, {problem.id: 1.0}

def named(text, problem, grade):
    return 0.9 * grade.strict, {"named": 0.1 * len(text)}

def leaves(text, problem, grade):
    raise SystemExit(0)

def speaks(text, problem, grade):
    raise ValueError("first\\nsecond")

def digit(text, problem, grade):
    return "1"

def forges(text, problem, grade):
    object.__setattr__(problem, "gold", "999")
    object.__setattr__(grade, "strict", False)
    return 1.0 * ("####" in text and len(text) < 99 and text.split()[-1] in problem.question)

def foreign(text, problem, grade):
    import numpy
    return numpy.float32(grade.strict)

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that holds the functions of GOOD."""
    name = f"rewards_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    (tmp_path / f"{name}.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_function_pays_and_names_parts(module):
    plugin = PluginReward(f"{module}:short", PLAIN, 10)
    plugin.check(PROBLEMS, Prompt())
    (one,) = plugin([Answer("#### 5", "5")], PROBLEMS[5], "")
    assert one.total == pytest.approx(0.9 + 0.1 / 7)
    assert one.parts == {"short": one.total, "brief": 1 / 7}
    (other,) = PluginReward(f"{module}:plain", check_weights({"format": 0.5}), 10)(GROUP[:1], PROBLEMS[5], "")
    assert (other.total, other.parts) == (0.5, {"plain": 0.0, "format": 1.0})


def test_a_function_cannot_change_what_the_run_grades_by(module):
    problem, answer = PROBLEMS[5], Answer("#### 5", "5")
    (one,) = PluginReward(f"{module}:forges", PLAIN, 10)([answer], problem, "")
    assert one.total == 1 and problem.gold == "5" and answer.grade.strict


def test_numbers_of_other_packages_are_numbers(module):
    import_numpy = PluginReward(f"{module}:foreign", PLAIN, 10)
    assert [one.total for one in import_numpy(GROUP[:2], PROBLEMS[5], "")] == [0, 1]


@pytest.mark.parametrize("answer_format", ["boxed", "answer-is"])
def test_golds_are_checked_in_the_format_that_the_policy_will_write(module, answer_format):
    PluginReward(f"{module}:plain", PLAIN, 10).check(PROBLEMS, Prompt(answer_format=answer_format))
    with pytest.raises(InputError, match="boxes pays a hundred answers"):
        PluginReward(f"{module}:boxes", PLAIN, 10).check(PROBLEMS, Prompt(answer_format="boxed"))


REFUSED = {
    "length": r"pays the question 1[12](\.\d)? on average|pays a hundred answers",
    "raises": r"raised KeyError on problem p0: 'seven'",
    "nan": r"gave nan on problem p0: it must give a finite number",
    "words": r"gave 'good' on problem p0: it must give a finite number",
    "digit": r"gave '1' on problem p0: it must give a finite number",
    "named": r"on problem p0: .* none of them named named",
    "leaves": r"raised SystemExit on problem p0: 0",
    "speaks": r"raised ValueError on problem p0: first second",
    "slow": r"it takes more than 0\.05 s on problem p0\. Make it faster, or raise rollout.reward_timeout",
    "changes": r"names other parts on problem p1 than before",
    "number": r"has no function number",
    "absent": r"has no function absent",
}


@pytest.mark.parametrize("function", REFUSED)
def test_a_reward_that_cannot_be_trusted_is_one_line(function, module):
    with pytest.raises(InputError, match=REFUSED[function]) as refused:
        PluginReward(f"{module}:{function}", PLAIN, 0.05).check(PROBLEMS, Prompt())
    assert "\n" not in str(refused.value)


def test_names_that_lead_nowhere(module):
    for name, message in {
        "coins": "is neither correct, coin, format, majority nor package.module:function",
        "no_such_module:f": "Python finds no module no_such_module",
        "no.such.module:f": "Python finds no module no.such.module",
    }.items():
        with pytest.raises(InputError, match=message):
            digest(name)


def test_a_run_pays_by_the_function_and_pins_its_file(module, rl_config, tmp_path):
    """The source is an input: a run whose reward has changed does not go on."""
    from reckoner.algorithms import grpo

    from ..algorithms.resuming import Killed, kill_after

    rl_config.rollout.reward, rl_config.run.save_steps = f"{module}:short", 1
    with pytest.raises(Killed):
        grpo.train(rl_config, kill_after(2))
    run = Path(rl_config.run.output_dir)
    file = tmp_path / f"{module}.py"
    inputs = json.loads((run / "inputs.json").read_text())
    assert inputs[f"reward {module}:short"] == hashlib.sha256(file.read_bytes()).hexdigest()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["step"] == 1]
    assert line["reward"] == pytest.approx(line["reward_short"]) and 0 < line["reward_brief"] < 1
    file.write_text(GOOD.replace("0.9", "0.8"))
    with pytest.raises(InputError, match=f"the reward {module}:short is not what it was"):
        grpo.train(rl_config)


def test_a_refused_reward_leaves_no_folder(module, rl_config):
    from reckoner.algorithms import grpo

    rl_config.rollout.reward = f"{module}:nan"
    with pytest.raises(InputError, match="gave nan"):
        grpo.train(rl_config)
    assert not Path(rl_config.run.output_dir).exists()
