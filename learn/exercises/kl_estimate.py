"""Exercise 6: three estimates of a Kullback-Leibler divergence.

Why: KL(pi_theta || pi_ref) is a sum over all words at every token. From the one word that was drawn it can be
estimated (Schulman 2020). With d = log pi_ref - log pi_theta:

    k1 = -d                 right on average, noisy, often negative
    k2 = d^2 / 2            never negative, a little wrong on average; its gradient is the right one
    k3 = exp(d) - 1 - d     never negative and right on average
"""

from __future__ import annotations

from torch import Tensor


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """The estimate [N] for each of N tokens that pi_theta drew; `estimator` is "k1", "k2" or "k3".

    `logprobs` [N]: log pi_theta, which gradients flow through. `reference` [N]: log pi_ref.

    Steps: d, in the direction above; then one line for each estimator.
    """
    raise NotImplementedError("hints: learn/HINTS.md, kl_estimate")
