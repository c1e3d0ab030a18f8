"""The best prompt of the untrained model: a declared search on dev, by successive halving.

A trained model is compared with the best that can be asked of the untrained one. `study.prompt_search` draws
that many prompts from a declared space: template, instruction with its answer format, worked examples, chat
or plain, thinking on or off. Each answers the same few dev problems; the better half answers twice as many,
until one is left or dev is used up. A prompt counts by the better of strict and flexible grading, and test is
never read. `prompt_search.json` holds every prompt, every score and the completions that were spent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from reckoner.config import Config, PeftConfig, PromptConfig
from reckoner.errors import InputError
from reckoner.evaluation.evaluate import make_prompt
from reckoner.evaluation.limits import solution_lengths, token_limit
from reckoner.evaluation.sample import answers, greedy
from reckoner.evaluation.session import load_problems
from reckoner.models.policy import Policy, load_policy
from reckoner.runs.folder import Progress
from reckoner.runs.records import Problem, read_json, write_json

FIRST = 32
"""Dev problems of the first round."""

ROOM = 4
"""The limit of a completion in the search, in multiples of what the reference solutions need."""

STEPS = "Solve the problem step by step, and"
NO_STEPS = "Give only the final number in the form '#### <number>'."
INSTRUCTIONS = {
    f"{STEPS} end your answer with the final number in the form '#### <number>'.": "####",
    f"{STEPS} put the final number in \\boxed{{}}.": "boxed",
    f"{STEPS} end with 'The answer is <number>.'": "answer-is",
    NO_STEPS: "####",
}
"""Each with its `prompt.answer_format`: worked examples are written in it, and answers are read by it."""
TEMPLATES = ("Question: {question}\nAnswer:", "{question}\n\nSolution:")
SHOTS = (0, 1, 4, 8)


def candidates(base: PromptConfig, count: int, template: str, seed: int) -> list[PromptConfig]:
    """`count` prompts drawn from the space without repetition, the study's own prompt first.

    `template` is the tokenizer's chat template, empty where it has none. Worked examples show steps, so that
    none stand with the instruction to leave these out.
    """
    chats = [("off", text) for text in dict.fromkeys((base.template, *TEMPLATES))]
    chats += [("on", base.template)] if template and base.chat_template != "off" else []
    thinking = [{}, {"enable_thinking": False}] if "enable_thinking" in template else [{}]
    asked = [("", base.answer_format), *INSTRUCTIONS.items()]
    space = [
        replace(
            base,
            template=text,
            chat_template=chat,
            instruction=instruction,
            answer_format=answer_format,
            shots=shots,
            chat_template_kwargs={**base.chat_template_kwargs, **(switch if chat == "on" else {})},
        )
        for (chat, text), (instruction, answer_format), shots, switch in product(
            chats, asked, SHOTS, thinking
        )
        if not (shots and instruction == NO_STEPS) and (chat == "on" or not switch)
    ]
    random.Random(seed).shuffle(space)
    distinct = {str(asdict(one)): one for one in (base, *space)}
    return list(distinct.values())[:count]


def completions(count: int, dev: int) -> int:
    """Completions that the search takes of `count` prompts and `dev` problems, in all rounds."""
    spent, n = 0, min(FIRST, dev)
    while True:
        spent += count * n
        if count <= 1 or n == dev:
            return spent
        count, n = (count + 1) // 2, min(2 * n, dev)


def best_prompt(folder: Path, config: Config, count: int, on_progress: Progress) -> PromptConfig:
    """The prompt that the search finds for the model of `config`; read back once `folder` holds it."""
    path = folder / "prompt_search.json"
    record = read_json(path, missing={})
    if "winner" not in record:
        record = _search(config, count, on_progress)
        write_json(path, record)
    return PromptConfig(**record["winner"])


def _search(config: Config, count: int, on_progress: Progress) -> dict[str, Any]:
    policy, dev = load_policy(config.model, PeftConfig(), train=False), load_problems(config, "dev")
    template = str(policy.tokenizer.chat_template or "")
    left, n = candidates(config.prompt, count, template, config.run.seed), min(FIRST, len(dev))
    rounds: list[dict[str, Any]] = []
    while True:
        scored = []
        for at, prompt in enumerate(left):
            on_progress("search", at, len(left), f"{len(left)} prompts on {n} dev problems")
            scored.append((_solved(config, policy, prompt, dev[:n]), prompt))
        rounds.append({"n": n, "scores": [[solved, asdict(prompt)] for solved, prompt in scored]})
        scored.sort(key=lambda pair: -pair[0])  # stable: of equals the one drawn first
        if len(left) == 1 or n == len(dev):
            break
        left, n = [prompt for _, prompt in scored[: (len(left) + 1) // 2]], min(2 * n, len(dev))
    spent = sum(one["n"] * len(one["scores"]) for one in rounds)
    return {"prompts": count, "completions": spent, "rounds": rounds, "winner": asdict(scored[0][1])}


def _solved(config: Config, policy: Policy, prompt: PromptConfig, problems: Sequence[Problem]) -> int:
    """Dev problems that the better reading counts as solved; -1 for a prompt that this model cannot have."""
    try:
        shown = make_prompt(replace(config, prompt=prompt), policy)
        limit = ROOM * token_limit(config, solution_lengths(policy, shown, problems))
        answered = answers(policy, shown, problems, greedy(policy, shown, limit), config.eval)
    except InputError:
        return -1
    grades = [one.grade for one in answered]
    return max(sum(grade.strict for grade in grades), sum(grade.flexible for grade in grades))
