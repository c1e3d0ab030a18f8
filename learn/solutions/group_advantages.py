"""Exercise 3, solved."""

from __future__ import annotations

from torch import Tensor


def group_advantages(rewards: Tensor) -> Tensor:
    """Equality is seen in the rewards themselves, before any arithmetic has rounded them."""
    equal = rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)
    return (rewards - rewards.mean(-1, keepdim=True)).masked_fill(equal, 0.0)
