"""How many tokens a model may write: long enough for its solutions, and the same for all arms of a study."""

from __future__ import annotations

from collections.abc import Sequence

from reckoner.config import Config
from reckoner.models.chat import Encoder
from reckoner.runs.records import Problem
from reckoner.tasks.prompts import Prompt

PERCENTILE = 0.995
"""Share of the train solutions that fit into max_new_tokens when it is not given (PROTOCOL line 8)."""

ENCODED_AT_ONCE = 1024
"""Texts that the tokenizer gets together: enough for all cores, few enough to keep their encodings small."""


def solution_lengths(policy: Encoder, prompt: Prompt, problems: Sequence[Problem]) -> list[int]:
    """Tokens of each reference solution as the model would have to write it, its stop token included.

    What a template writes around an answer is counted once, on the first problem.
    """
    lengths: list[int] = []
    for at in range(0, len(problems), ENCODED_AT_ONCE):
        texts = [prompt.answer(problem.solution) for problem in problems[at : at + ENCODED_AT_ONCE]]
        lengths += map(len, policy.tokenizer(texts, add_special_tokens=False)["input_ids"])
    around = 1
    if problems:
        question, answer = prompt.render(problems[0].question), prompt.answer(problems[0].solution)
        if pair := policy.align(question, answer, **prompt.chat_template_kwargs):
            around = len(pair[1]) - lengths[0]
    return [length + around for length in lengths]


def token_limit(config: Config, lengths: Sequence[int]) -> int:
    """`eval.max_new_tokens`, or the 99.5th percentile of the train solutions' `lengths` in tokens."""
    return (
        config.eval.max_new_tokens or sorted(lengths)[min(len(lengths) - 1, int(PERCENTILE * len(lengths)))]
    )


def limit_warning(config: Config, lengths: Sequence[int]) -> str:
    """What a given `eval.max_new_tokens` cuts; empty where none is given or 99.5 % of the solutions fit."""
    limit = config.eval.max_new_tokens
    if not limit or sum(length > limit for length in lengths) <= (1 - PERCENTILE) * len(lengths):
        return ""
    return (
        f"eval.max_new_tokens={limit} cuts right answers: {sum(length > limit for length in lengths):,} of "
        f"{len(lengths):,} train solutions are longer (longest {max(lengths)} tokens). 0 chooses the limit"
    )
