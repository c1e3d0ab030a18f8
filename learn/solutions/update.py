"""Exercise 7, solved."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def update(
    optimizer: torch.optim.Optimizer,
    logprobs_of: Callable[[Tensor], Tensor],
    old: Tensor,
    advantages: Tensor,
    actions: Tensor,
    mini_batches: list[Tensor],
    pass_size: int,
    epsilon: float,
) -> None:
    """N belongs to the mini-batch and is known before the first pass; `old` stays what it was at the
    rollout."""
    for rows in mini_batches:
        optimizer.zero_grad()
        tokens = actions[rows].sum()
        for part in rows.split(pass_size):
            ratio = (logprobs_of(part) - old[part]).exp()
            clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
            losses = -torch.minimum(ratio * advantages[part], clipped * advantages[part])
            ((losses * actions[part]).sum() / tokens).backward()
        optimizer.step()
