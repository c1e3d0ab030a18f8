"""Exercise 2: generalised advantage estimation (Schulman 2015).

Why: one reward at the end, a hundred tokens before it: which of them earned it? The critic's errors along the
way tell.

    delta_t = r_t + gamma V_t+1 - V_t          the surprise at token t; V = 0 after the last token
    A_t     = delta_t + gamma lam A_t+1        the surprises from t on, later ones counting less

lam = 0 believes the critic (A = delta), lam = 1 believes the rewards alone (A = all rewards to come - V_t).
"""

from __future__ import annotations

from torch import Tensor


def gae(rewards: Tensor, values: Tensor, actions: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t [B, T], 0 outside `actions`.

    `rewards`, `values` [B, T]: r_t and V_t. `actions` [B, T] bool: where a token is; rows end at different
    columns, and what `values` holds behind the end is rubbish.

    Steps: from the last column to the first; delta with the value after it, which is 0 behind the end of a
    row; A from delta and the A after it, which is 0 there too.
    """
    raise NotImplementedError("hints: learn/HINTS.md, gae")
