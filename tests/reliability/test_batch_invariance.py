"""Greedy text in fp32 depends on the prompt alone: not on the batch, the order, or the company of a row."""

from __future__ import annotations

import random

import pytest

from reckoner import nano
from reckoner.config import DataConfig, ModelConfig, PeftConfig
from reckoner.engine.generate import generate
from reckoner.evaluation.sample import greedy
from reckoner.models.policy import load_policy
from reckoner.tasks.prompts import Prompt

PROMPTS, TOKENS = 100, 12


@pytest.mark.slow
def test_a_hundred_prompts_in_four_batch_sizes_and_three_orders():
    policy = load_policy(ModelConfig(), PeftConfig(), train=False)
    problems = nano.problems("test", DataConfig().variant)[:PROMPTS]
    prompts = [policy.encode_prompt(Prompt().render(problem.question)) for problem in problems]
    assert len({len(prompt) for prompt in prompts}) > 20
    orders = [
        list(range(PROMPTS)),
        sorted(range(PROMPTS), key=lambda i: len(prompts[i])),
        random.Random(0).sample(range(PROMPTS), PROMPTS),
    ]
    outcomes = set()
    for order in orders:
        for size in (1, 2, 8, 32) if order is orders[0] else (2, 8, 32):  # alone, a prompt has no order
            samples = generate(
                policy, [prompts[i] for i in order], greedy(policy, Prompt(), TOKENS), batch_size=size
            )
            found = {i: sample.ids for i, (sample,) in zip(order, samples, strict=True)}
            outcomes.add(tuple(found[i] for i in range(PROMPTS)))
    assert len(outcomes) == 1
