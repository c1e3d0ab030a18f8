"""Exercise 6, solved."""

from __future__ import annotations

from torch import Tensor


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """E[exp(d)] = sum pi_theta pi_ref / pi_theta = 1 under pi_theta: so k3 is k1 plus something that is zero
    on average."""
    d = reference - logprobs
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d.square() / 2
    return d.exp() - 1 - d
