"""Linear maps and their gradients: by oneDNN in fp32 on an x86 CPU, by whatever torch chooses elsewhere.

torch gives fp32 products to MKL, which on processors of other makers than its own does without AVX-512; oneDNN, which is in
the same build of torch, computes the same sums in the same precision in half the time there (benchmarks/NOTES.md).
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ONEDNN_MIN_ROWS = 16
"""Rows below which oneDNN's start, 10 us a call, costs more than it saves."""

ROW_MULTIPLE = 64
"""Passes whose rows are a multiple of this meet the same shapes again: oneDNN prepares each new one for half a millisecond, and keeps 1.2 MB of it."""

PRIMITIVE_CACHE_SIZE = 512
"""Prepared shapes that are kept, 0.6 GB at most. With half as many SFT on two cores loses a twentieth of its speed; torch and oneDNN keep twice as many."""

# Both are read at the first product; each alone keeps what the other forgets.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PRIMITIVE_CACHE_SIZE))
os.environ.setdefault("LRU_CACHE_CAPACITY", str(PRIMITIVE_CACHE_SIZE))

_onednn = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)
_x86 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight' + bias` for x [..., K], weight [N, K] and bias [N], differentiable."""
    if not takes(x, weight):
        return F.linear(x, weight, bias)
    trained = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    out = _Linear.apply(x, weight) if trained else product(x, weight)
    return out if bias is None else out + bias


def filled(x: Tensor) -> Tensor:
    """x [M, K] and rows of zeros up to a full `ROW_MULTIPLE`, where oneDNN would prepare for M rows."""
    return rows_to_multiple(x, ROW_MULTIPLE) if takes(x, x) else x


def rows_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """x [M, ...] and zeros up to a multiple of rows, or x itself where it has one."""
    spare = -len(x) % multiple
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, spare)) if spare else x


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x weight'` [..., N] of x [..., K] and weight [N, K], which may be a transposed view; no gradient."""
    return _onednn(x, weight, None, "none", [], "") if takes(x, weight) else F.linear(x, weight)


def gated_product(x: Tensor, gate: Tensor, up: Tensor, function: tuple[str, str]) -> Tensor:
    """`f(x G') * (x U')` of x [M, K] and G, U [N, K], f by oneDNN's name for it; no gradient, and nothing but products touches memory.

    Only where `fuses(x, gate)`.
    """
    return _onednn.binary(x, _onednn(x, gate, None, function[0], [], function[1]), up, None, "mul")


def fuses(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes products of these and what follows them in one."""
    return not torch.is_grad_enabled() and takes(x, weight)


def weight_gradient(above: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
    """`above' x` [N, K] of above [M, N] and x [M, K], added to `total`, which may be overwritten.

    Of the two the narrower is copied to its transpose, which oneDNN wants.
    """
    if not takes(x, above):
        return above.T @ x if total is None else total.addmm_(above.T, x)
    if x.shape[1] <= above.shape[1]:
        return _plus(None if total is None else total.T, x.T.contiguous(), above.T).T
    return _plus(total, above.T.contiguous(), x.T)


def _plus(total: Tensor | None, x: Tensor, weight: Tensor) -> Tensor:
    """`total + x weight'`, by oneDNN without a pass over memory for the sum."""
    if total is not None and takes(x, weight):
        return _onednn.binary(x, total, weight, None, "add")
    return product(x, weight) if total is None else total + product(x, weight)


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product."""
    right = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    return right and _x86 and _onednn is not None and x.numel() >= ONEDNN_MIN_ROWS * x.shape[-1] > 0


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x = product(above, weight.T) if ctx.needs_input_grad[0] else None
        return for_x, weight_gradient(above.flatten(0, -2), x.flatten(0, -2)) if ctx.needs_input_grad[
            1
        ] else None
