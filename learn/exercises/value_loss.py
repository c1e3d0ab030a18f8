"""Exercise 5: the clipped value loss.

Why: PPO's critic says before each token what reward to expect. It learns by least squares. As with the
policy, a value that has moved further than `cliprange` from what it was at the rollout gets nothing for going
on.

    loss = 1/2 max( (V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2 )
"""

from __future__ import annotations

from torch import Tensor


def value_loss(values: Tensor, old: Tensor, returns: Tensor, cliprange: float) -> Tensor:
    """The loss [N] of N values.

    `values` [N]: V, which gradients flow through. `old` [N]: V at the rollout. `returns` [N]: R, what V
    should have been.

    Steps: V held within `cliprange` of V_old; both squared errors; half of the larger one.
    """
    raise NotImplementedError("hints: learn/HINTS.md, value_loss")
