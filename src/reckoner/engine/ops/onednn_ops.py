"""Products in fp32 by oneDNN, on an x86 CPU.

torch gives fp32 products to MKL, which uses no AVX-512 on processors of other makers than its own. oneDNN is
in the same build of torch, and computes the same sums in the same precision in half the time there
(benchmarks/NOTES.md).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

ONEDNN_MIN_ROWS = 16
"""Rows below which oneDNN's start, 10 us a call, costs more than it saves."""

ROW_MULTIPLE = 64
"""Passes fill their rows up to a multiple of this, so that they meet the same shapes again. oneDNN prepares
each new shape for half a millisecond, and keeps 1.2 MB of it.
"""

REORDERED_ROWS = 64
"""Rows for which weights are laid out in decoding."""

PRIMITIVE_CACHE_SIZE = 512
"""Prepared shapes that are kept, 0.6 GB at most. With half as many, SFT on two cores loses a twentieth of its
speed; torch and oneDNN keep twice as many by default.
"""

# Both are read at the first product; each alone keeps what the other forgets. docs/reliability.md lists them.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PRIMITIVE_CACHE_SIZE))
os.environ.setdefault("LRU_CACHE_CAPACITY", str(PRIMITIVE_CACHE_SIZE))

_mkldnn: Any = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
_pointwise: Any = getattr(_mkldnn, "_linear_pointwise", None)
AVAILABLE = _pointwise is not None and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """`x weight'` [..., N] of x [..., K] and weight [N, K], which may be a transposed view."""
    return _pointwise(x, weight, None, "none", [], "")


def reorder(weight: Tensor) -> Tensor:
    """bfloat16 `weight` [N, K] in the layout in which oneDNN reads it for few rows.

    In another layout it is copied to this one at each call. Only `linear` takes such a weight.
    """
    return _mkldnn._reorder_linear_weight(weight, REORDERED_ROWS)


def add_linear(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`total + x weight'`, without a pass over memory for the sum."""
    return _pointwise.binary(x, total, weight, None, "add")


def gated_act_linear(x: Tensor, gate: Tensor, up: Tensor, function: tuple[str, str]) -> Tensor:
    """`f(x G') * (x U')` of x [M, K] and G, U [N, K], f by oneDNN's name; only products touch memory."""
    return _pointwise.binary(x, _pointwise(x, gate, None, function[0], [], function[1]), up, None, "mul")
