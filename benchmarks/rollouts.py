"""Generation: our native engine against `model.generate` of transformers, at several batch sizes each.

Both get the same prompts, sorted by length, the same stop tokens and the same limit; tokens are counted up to
the stop token, so a row that idles until its batch ends counts for nothing. Ours also keeps every
log-probability; `generate` is spared that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from benchmarks.measure import Arm, timed
from transformers import GenerationConfig

from reckoner import nano
from reckoner.engine.generate import Sampling, generate
from reckoner.models.policy import Policy
from reckoner.tasks.prompts import Prompt


def test_prompts(policy: Policy, count: int) -> list[list[int]]:
    """Zero-shot prompts of the first `count` test problems."""
    return [
        policy.encode_prompt(Prompt().render(problem.question))
        for problem in nano.problems("test", "main")[:count]
    ]


def ours(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sampling, batch: int) -> Arm:
    """The native engine; work is tokens."""

    def run() -> float:
        results = generate(policy, prompts, sampling, batch, "native")
        return sum(len(sample.ids) for row in results for sample in row)

    return timed(run)


def peer(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sampling, batch: int) -> Arm:
    """`model.generate` in batches of neighbours in length; work is tokens up to and with each row's stop
    token."""
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=sampling.temperature > 0,
        temperature=sampling.temperature or None,
        top_k=0 if sampling.temperature else None,
        eos_token_id=list(sampling.stop_ids),
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    rows = sorted((list(prompt) for prompt in prompts for _ in range(sampling.num_samples)), key=len)
    stop = torch.tensor(sampling.stop_ids, device=policy.device)

    def run() -> float:
        return sum(_generate(rows[at : at + batch]) for at in range(0, len(rows), batch))

    def _generate(group: list[list[int]]) -> int:
        width = max(map(len, group))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in group], device=policy.device)
        mask = torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for row in group], device=policy.device
        )
        out = policy.model.generate(ids, attention_mask=mask, generation_config=config)[:, width:]
        ended = torch.isin(out, stop)
        return int((ended.cumsum(1) - ended.long() == 0).sum())

    return timed(run)
