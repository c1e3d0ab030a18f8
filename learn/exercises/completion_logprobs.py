"""Exercise 1: shifts and masks.

Why: most bugs of reinforcement learning on text live here. The model's output at column w says what comes at
column w + 1; prompts are padded on the left and completions on the right; padding must not count, and the
stop token must.

    column        0      1      2      3      4      5
    row 0         pad    x_0    x_1  | y_0    y_1    stop         start = 3
    row 1         x_0    x_1    x_2  | y_0    stop   pad
"""

from __future__ import annotations

from torch import Tensor


def completion_logprobs(logits: Tensor, ids: Tensor, real: Tensor, start: int) -> Tensor:
    """log pi(y_t | x, y_<t) [B, T] of the completions, 0 at padding; T = W - start.

    `logits` [B, W, V]: the model's output at each column, before the softmax. `ids` [B, W]. `real` [B, W]
    bool: what is not padding, from lengths. `start`: the column of y_0 in every row.

    Steps: log-softmax; the columns that predict the columns from `start` on; in each, the entry of the token
    that came; zeros where there is padding.
    """
    raise NotImplementedError("hints: learn/HINTS.md, completion_logprobs")
