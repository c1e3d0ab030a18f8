"""What an untrained model knows of test: questions that it finishes, and problems with other numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reckoner.config import Config, EvalConfig, PeftConfig
from reckoner.evaluation.evaluate import make_prompt, settings_of
from reckoner.evaluation.limits import solution_lengths, token_limit
from reckoner.evaluation.sample import answers, greedy
from reckoner.evaluation.session import load_problems, opened_test
from reckoner.models.policy import Policy, load_policy
from reckoner.runs.ledger import new_seal, note_opening
from reckoner.runs.records import Problem
from reckoner.tasks.prompts import Prompt


def ask_untrained(
    config: Config, test: Sequence[Problem], originals: Sequence[Problem], renumbered: Sequence[Problem]
) -> tuple[list[bool], list[bool], list[bool]]:
    """Which `test` questions the model of `config` finishes, and which problems it solves, as they are and
    with other numbers. Counts as an opening of test.
    """
    policy, settings = load_policy(config.model, PeftConfig(), train=False), config.eval
    prompt = make_prompt(config, policy)
    limit = token_limit(config, solution_lengths(policy, prompt, load_problems(config, "train")))
    sampling = greedy(policy, prompt, limit)
    weights = settings_of(policy, prompt, sampling, test)["model"]
    note_opening(new_seal(opened_test(config)), Path("data stats"), "contamination", weights, len(test))
    before, after = (
        [one.grade.flexible for one in answers(policy, prompt, problems, sampling, settings)]
        for problems in (originals, renumbered)
    )
    return finishes(policy, test, settings), before, after


def finishes(policy: Policy, problems: Sequence[Problem], settings: EvalConfig) -> list[bool]:
    """Whether the model continues the first half of each question word for word to its end, greedily."""
    texts = [one.question.split() for one in problems]
    halves = [(words[: (len(words) + 1) // 2], words[(len(words) + 1) // 2 :]) for words in texts]
    begun = [replace(one, question=" ".join(first)) for one, (first, _) in zip(problems, halves, strict=True)]
    rests = [rest for _, rest in halves]
    longest = max(len(policy.tokenizer.encode(" ".join(rest), add_special_tokens=False)) for rest in rests)
    bare = Prompt("{question}")
    sampling = replace(greedy(policy, bare, longest + 8), stop_strings=())
    drawn = answers(policy, bare, begun, sampling, settings)
    return [
        bool(rest) and one.completion.text.split()[: len(rest)] == rest
        for one, rest in zip(drawn, rests, strict=True)
    ]
