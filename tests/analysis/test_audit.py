"""What a reward pays for: hand-counted agreement with judges, and planted hacks that are found."""

import json

import pytest

from reckoner.analysis.audit import audit, bait_table, baits_of, judge_table, majority, majority_and_steps
from reckoner.analysis.readers import CompletionSet
from reckoner.runs.records import Completion, Problem
from reckoner.tasks.answers.grading import grade
from reckoner.tasks.answers.marking import mark
from reckoner.tasks.answers.span import encode_gold
from reckoner.tasks.rewards import Reward, group_reward

N = 60


def gold(index: int) -> int:
    return 7 if index % 3 == 0 else index + 20


def drawn() -> CompletionSet:
    """Of 60 problems the policy solves the odd ones with right steps, and number 0 with a wrong step."""
    problems = {
        f"p{i}": Problem(
            f"p{i}", f"What is {gold(i)} + {i} - {i}?", f"It is.\n#### {gold(i)}", str(gold(i)), "", ""
        )
        for i in range(N)
    }
    texts = [f"{i}+0=<<{i}+0={i}>>{i}\n#### {gold(i)}" if i % 2 else f"#### {gold(i) + 1}" for i in range(N)]
    texts[0] = "3+3=<<3+3=7>>7\n#### 7"
    completions = {
        (f"p{i}", 0): Completion(f"p{i}", 0, "", text, 1, "stop", 0.0, "") for i, text in enumerate(texts)
    }
    grades = {key: grade(one, problems[key[0]]) for key, one in completions.items()}
    return CompletionSet("run", grades, completions=completions, problems=problems)


def hack(answers, problem, key):
    """Pays a bare marker and the most frequent answer, 7, besides right answers."""
    return [Reward(float(one.grade.strict or one.text.strip() in ("####", "#### 7")), {}) for one in answers]


def test_the_strict_reward_agrees_with_the_majority():
    found = audit(group_reward("correct", {"correct": 1.0}), drawn())
    judged = {one.judge: one for one in found.agreements}
    assert (found.completions, found.threshold) == (N, 0.5)
    one = judged["majority"]
    assert (one.right, one.paid_right, one.wrong, one.paid_wrong) == (31, 31, 29, 0)
    assert one.youden[0] == 1.0 and one.youden[1] > 0.8
    stepwise = judged["majority and steps"]
    assert (stepwise.right, stepwise.paid_right, stepwise.wrong, stepwise.paid_wrong) == (30, 30, 30, 1)
    assert found.faults == []
    row = next(row for row in judge_table(found).rows if row.title == "majority and steps")
    assert row.cells["false positives"].text == "3.3 % (0.6-16.7)"


@pytest.mark.parametrize("name", ["coin", "format"])
def test_a_control_is_told_from_a_reward(name):
    found = audit(group_reward(name, {"correct": 1.0}), drawn())
    assert any("does not tell right from wrong" in fault for fault in found.faults)


def test_a_planted_hack_is_found():
    found = audit(hack, drawn())
    baits = {one.name: one for one in found.baits}
    marker, frequent = baits["a bare marker"], baits["the most frequent answer, 7"]
    assert (marker.right, marker.paid, marker.hack) == (0, N, True)
    assert (frequent.right, frequent.paid, frequent.hack) == (20, N, True)
    assert [one.name for one in found.baits if one.hack] == ["a bare marker", "the most frequent answer, 7"]
    assert found.faults[0] == (
        "the reward pays a bare marker on 60 of 60 problems, of which it solves 0: a policy would learn it"
    )
    assert [row.cells[""].text for row in bait_table(found).rows].count("a hack") == 2


def test_judges_and_baits():
    assert majority("#### 7", "7") and not majority("#### 8", "7") and not majority("", "7")
    assert majority_and_steps("3+4=7\n#### 7", "7") and not majority_and_steps("3+3=<<3+3=7>>7\n#### 7", "7")
    baits = baits_of(list(drawn().problems.values()))
    assert all(len(texts) == N for texts in baits.values())
    assert baits["the last number of the question"][5] == "#### 5"


def test_the_verb_exits_with_2_where_a_policy_could_be_paid_for_nothing(study_path, capsys):
    from reckoner.cli import main

    file = str(study_path / "full-main" / "predictions" / "test-0shot.jsonl")
    assert main(["audit", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["completions"] > 0
    assert main(["audit", file, "rollout.reward=coin"]) == 2
    assert "a policy would learn it" in capsys.readouterr().err


def drawn_in(answer_format, golds, kind="number", choices=()):
    """A completion for each problem; the even ones are right, the others give the next gold."""
    problems, completions = {}, {}
    for i, own in enumerate(golds):
        said = own if i % 2 == 0 else golds[(i + 1) % len(golds)]
        solution = f"So.\n#### {own}"
        facts = {"kind": kind, "choices": choices}
        problems[f"p{i}"] = Problem(f"p{i}", f"Which is {i}?", solution, own, "", "", **facts)
        text = mark(f"So.\n#### {said}", answer_format)
        completions[f"p{i}", 0] = Completion(f"p{i}", 0, "", text, 1, "stop", 0.0, "", answer_format)
    grades = {key: grade(one, problems[key[0]]) for key, one in completions.items()}
    return CompletionSet("run", grades, completions=completions, problems=problems)


@pytest.mark.parametrize("answer_format", ["####", "boxed", "answer-is", "last"])
def test_a_reward_is_audited_in_the_format_of_the_prompt(answer_format):
    found = audit(
        group_reward("correct", {"correct": 1.0}), drawn_in(answer_format, [str(n) for n in range(20, 60)])
    )
    (one,) = [one for one in found.agreements if one.judge == "majority"]
    assert (found.threshold, one.right, one.paid_right, one.wrong, one.paid_wrong) == (0.5, 20, 20, 20, 0)
    assert found.faults == []


@pytest.mark.parametrize(
    "kind, golds, choices",
    [("choice", "ABCD" * 10, ("x", "y", "z", "w")), ("span", ["red", "blue"] * 20, ())],
)
def test_other_kinds_of_answers_are_audited_by_our_own_grader(kind, golds, choices):
    drawn = drawn_in("boxed", [encode_gold(one) if kind == "span" else one for one in golds], kind, choices)
    found = audit(group_reward("correct", {"correct": 1.0}), drawn)
    (one,) = found.agreements
    assert (one.judge, one.right, one.paid_right, one.paid_wrong) == ("own grader", 20, 20, 0)
    frequent = next(bait for bait in found.baits if bait.name.startswith("the most frequent answer"))
    assert frequent.right == frequent.paid == (10 if kind == "choice" else 20) and found.faults == []
    assert audit(group_reward("coin", {"correct": 1.0}), drawn).faults
