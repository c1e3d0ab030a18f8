"""The graders of other tools: the verdicts of the shared corpus, and each known peculiarity by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reckoner.tasks.answers.number import extract_gold, grade_text
from reckoner.tasks.answers.other_graders import GRADERS

SHARED = Path(__file__).parents[3] / ".." / "shared"
CORPUS_NAMES = dict(
    zip(GRADERS, ["official", "lm_strict", "lm_flex", "verl_strict", "verl_flex", "seed_hw12"], strict=True)
)


def lines(*parts: str) -> list[dict]:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {path.name} beside the checkout")
    with open(path, encoding="utf8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("name", GRADERS)
def test_the_shared_corpus_agrees(name):
    cases = lines("cases", "extraction.jsonl")
    wrong = [
        case["id"]
        for case in cases
        if GRADERS[name](case["completion"], case["gold"]) != case["others"][CORPUS_NAMES[name]]
    ]
    assert (len(cases), wrong) == (120, [])


@pytest.mark.parametrize(
    ("completion", "gold", "right"),
    [
        # the letters are the graders that say right, in the order of GRADERS
        ("#### 5", "5", "os f v F S"),
        ("####5", "5", "f F S"),
        ("#### 5.", "5", "s f S"),
        ("#### $5", "5", "f F S"),
        ("#### 5.00", "5", "S"),
        ("#### 5\n#### 6", "5", "o s S"),
        ("#### 5\n#### 6", "6", "f v F"),
        ("#### 70,000", "70000", "o s f v S"),
        ("#### 5\n" + "because. " * 40, "5", "o s f S"),
        ("It is 5 now.", "5", "f F"),
        ("It is 5 now", "5", "f F S"),
        ("#### -5", "5", "S"),
        ("#### -5", "-5", "o s f v F"),
        ("#### 5-6", "5", "o s v S"),
        ("", "5", ""),
        (".", "5", ""),
        ("#### 1.2.3", "1.2", ""),
    ],
)
def test_peculiarities(completion, gold, right):
    letters = dict(zip("osfvFS", GRADERS, strict=True))
    expected = {letters[letter] for letter in right.replace(" ", "")}
    assert {name for name, grader in GRADERS.items() if grader(completion, gold)} == expected


def test_where_they_part_on_real_completions():
    """On 5,276 completions of OpenAI's models the labels are known; the original study's scorer is wrong
    ten times.
    """
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    pairs = zip(
        lines("data", "gsm8k", "test.jsonl"),
        lines("data", "gsm8k", "example_model_solutions.jsonl"),
        strict=True,
    )
    wrong = dict.fromkeys(GRADERS, 0)
    for problem, solutions in pairs:
        gold = extract_gold(problem["answer"])
        for model in models:
            text = re.sub(r"(?:\A|\n)A: (?=[^\n]*\Z)", "\n#### ", solutions[model]["solution"])
            for name, grader in GRADERS.items():
                wrong[name] += grader(text, gold) != solutions[model]["is_correct"]
            assert grade_text(text, gold).strict == solutions[model]["is_correct"]
    assert wrong == {
        "official": 0,
        "lm-eval-strict": 0,
        "lm-eval-flexible": 0,
        "verl-strict": 0,
        "verl-flexible": 2,
        "original-study": 10,
    }


@pytest.mark.parametrize(
    "text",
    [
        "9" * 5_000,
        "#### " + "9" * 5_000,
        "\ud800\0",
        "#### 1e9",
        "." * 5_000,
        "#" * 5_000,
        "####" + " " * 5_000,
        "\u0664",
    ],
)
@pytest.mark.parametrize("name", GRADERS)
def test_hostile_text_is_wrong_and_nothing_else(name, text):
    assert GRADERS[name](text, "42") is False


@pytest.mark.parametrize("name", GRADERS)
def test_a_gold_that_is_no_number_never_matches_silence(name):
    assert GRADERS[name]("I cannot say", "None") is False
