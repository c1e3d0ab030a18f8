"""Exercise 4: the clipped policy loss.

Why: a rollout is costly, so several updates are made on it. After the first one the policy is no longer the
one that drew the tokens, and the ratio rho corrects for that. The clip takes away what could be gained by
going too far from it.

    loss = - min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A),   rho = pi_theta(y) / pi_old(y)
"""

from __future__ import annotations

from torch import Tensor


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> Tensor:
    """The loss [N] of N tokens.

    `logprobs` [N]: log pi_theta, which gradients flow through. `old` [N]: log pi_old. `advantages` [N].

    Steps: the ratio from the two logarithms; the ratio clipped; the smaller of the two products; its
    negative.
    """
    raise NotImplementedError("hints: learn/HINTS.md, policy_loss")
