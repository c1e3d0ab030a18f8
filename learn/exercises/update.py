"""Exercise 7: the update loop.

Why: the gradient of an optimizer step is that of one mean over all of its tokens. Memory forces it into
passes; then the passes must add up to the same gradient. A mean of means does not; neither does a gradient
left over from before.

    for each mini-batch of rows:   N = its tokens
        for each pass of `pass_size` rows:   backward of   1/N sum of the losses at its tokens
        one step of the optimizer
"""

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
    """Change the weights that `optimizer` holds, by one step for each mini-batch.

    `logprobs_of(rows)` [b, T]: log pi_theta of those completions, which gradients flow through. `old`,
    `advantages` and `actions` (bool) are [B, T]. A mini-batch is a tensor of row numbers; the same row may
    come in several. `epsilon` is the clip on both sides. The gradients that are there at the beginning belong
    to nobody.

    Steps: as above, with the loss of exercise 4.
    """
    raise NotImplementedError("hints: learn/HINTS.md, update")
