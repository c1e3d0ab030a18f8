"""The reward is the grader's verdict: gold earns 1, and no policy that ignores the question earns more than
a constant.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from reckoner.config import build_config, parse_override
from reckoner.errors import InputError
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.answers.number import extract_gold
from reckoner.tasks.rewards import PARTS, Reward, check_weights, reward

GSM8K = Path(__file__).parents[2] / ".." / "shared" / "data" / "gsm8k"


def problems(name: str) -> list[dict]:
    path = GSM8K / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no {name}.jsonl beside the checkout")
    with open(path, encoding="utf8") as file:
        return [json.loads(line) for line in file]


def test_every_gold_solution_earns_one():
    train = problems("train")
    assert (
        sum(reward(Answer(row["answer"], extract_gold(row["answer"]))).total for row in train)
        == len(train)
        == 7_473
    )


def policies():
    """Forty ways to answer without understanding; each takes a question and writes a completion."""
    for n in range(1, 11):
        yield f"list of {n + 1}", lambda q, n=n: "#### " + ", ".join(str(5 * k) for k in range(1, n + 2))
        yield f"{n} or more", lambda q, n=n: f"#### {n} or {n + 1}"
        yield f"{n} to", lambda q, n=n: f"#### {n}-{10 * n}"
    yield "every number, each marked", lambda q: "\n".join(f"#### {n}" for n in range(200))
    yield "every number", lambda q: " ".join(map(str, range(200)))
    yield "the question's numbers", lambda q: "#### " + " or ".join(re.findall(r"\d+", q))
    yield "the question", lambda q: q
    yield "the question, marked", lambda q: f"#### {q}"
    yield "empty", lambda q: ""
    yield "markers only", lambda q: "####\n" * 50
    yield "5,000 digits", lambda q: "#### " + "9" * 5_000
    yield "an expression", lambda q: "#### 2+3"
    yield "a refusal", lambda q: "#### I cannot say"


def test_no_adversarial_policy_beats_the_best_constant_answer():
    rows = problems("test")[:400]
    golds = [extract_gold(row["answer"]) for row in rows]
    (_, best), *_ = Counter(golds).most_common(1)
    earned = {
        name: sum(
            reward(Answer(policy(row["question"]), gold)).total for row, gold in zip(rows, golds, strict=True)
        )
        for name, policy in policies()
    }
    assert len(earned) == 40
    assert {name: total for name, total in earned.items() if total > best} == {}
    assert sum(total == 0 for total in earned.values()) >= 37


def test_parts_are_paid_as_declared():
    weights = check_weights({"format": 0.1, "arithmetic": 0.2})
    text = "3*4=<<3*4=12>>12\n12+1=<<12+1=14>>14\n#### 14"
    assert reward(Answer(text, "14"), weights) == Reward(
        pytest.approx(1.2), {"correct": 1.0, "format": 1.0, "arithmetic": 0.5}
    )
    assert reward(Answer(text, "13"), weights) == Reward(
        pytest.approx(0.2), {"correct": 0.0, "format": 1.0, "arithmetic": 0.5}
    )
    assert reward(Answer("it is 14", "14"), weights) == Reward(
        0.0, {"correct": 0.0, "format": 0.0, "arithmetic": 0.0}
    )
    assert reward(Answer("#### 1\n#### 14", "14"), weights).parts["format"] == 0.0


def test_the_default_is_right_or_wrong():
    assert reward(Answer("#### 14", "14")) == Reward(1.0, {"correct": 1.0})
    assert reward(Answer("#### 14 or 15", "14")) == Reward(0.0, {"correct": 0.0})
    assert reward(Answer("#### 14", "14", "length")).total == 1.0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"correct": -1.0}, "correct=-1.0 must be a finite number"),
        ({"format": float("nan")}, "format=nan"),
        ({"arithmetic": float("inf")}, "arithmetic=inf"),
        ({"format": 0.5, "arithmetic": 0.5}, "must stay below correct"),
        ({"correct": 0.0}, "must stay below correct"),
        ({"formt": 0.1}, "there is no such part. Choose correct, format, arithmetic"),
    ],
)
def test_weights_that_would_train_something_else_are_refused(weights, message):
    with pytest.raises(InputError, match=message):
        check_weights(weights)


def test_a_further_part_is_one_function(monkeypatch):
    """From the setting to what a completion earns; a part with weight 0 is not computed."""
    monkeypatch.setitem(PARTS, "brevity", lambda answer: 1 / len(answer.text.split()))
    config = build_config([parse_override("rollout.reward_weights.brevity=0.5")])
    weights = check_weights(config.rollout.reward_weights)
    assert reward(Answer("#### 14", "14"), weights) == Reward(1.25, {"correct": 1.0, "brevity": 0.5})
    monkeypatch.setitem(PARTS, "brevity", None)
    assert reward(Answer("#### 14", "14"), check_weights({"brevity": 0.0})).total == 1.0
