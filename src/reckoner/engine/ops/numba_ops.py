"""Operations of a decoder as loops for one core of a CPU, compiled by Numba; each goes through memory once.

`engine/backend.py` says where they are used; torch does the same elsewhere, and where Numba is missing.
Memory is fp32 or bfloat16, arithmetic is in fp32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reckoner.engine.ops.numba_jit import AVAILABLE, array, exp, loop, narrow, single, widen

__all__ = ["AVAILABLE"]


def gated_act(gate_up: Tensor, linear: float, cubic: float) -> Tensor:
    """`f(g) * u` [M, I] of `gate_up` [M, 2 I], g beside u, with f(g) = g sigmoid(linear g + cubic g^3)."""
    out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    _gated_act(array(gate_up), single(linear), single(cubic), array(out))
    return out


def gated_act_backward(
    gate_up: Tensor, upstream: Tensor, linear: float, cubic: float
) -> tuple[Tensor, Tensor]:
    """The gradient [M, 2 I] of `gate_up` for that of `gated_act`'s result [M, I], and that result again."""
    gradient, out = torch.empty_like(gate_up), torch.empty_like(upstream)
    arrays = array(gradient), array(out)
    _gated_act_backward(array(gate_up), array(upstream), single(linear), single(cubic), *arrays)
    return gradient, out


def rms_norm(x: Tensor, factor: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """`x / sqrt(mean(x^2) + eps) * factor` of fp32 x [M, H], in `dtype`.

    For the gradient, also x and the scale of each row [M].
    """
    out, scale = torch.empty_like(x, dtype=dtype), x.new_empty(len(x))
    _rms_norm(array(x), array(factor), single(eps), array(out), array(scale))
    return out, x, scale


def rms_norm_backward(
    x: Tensor, scale: Tensor, factor: Tensor, upstream: Tensor, factor_learns: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of x [M, H] and, if `factor_learns`, of factor [H] for that of `rms_norm`'s result."""
    for_x, for_factor = torch.empty_like(x), torch.zeros_like(factor)
    inputs = (array(tensor) for tensor in (x, factor, scale, upstream.contiguous()))
    _rms_norm_backward(*inputs, array(for_x), array(for_factor))
    return for_x, for_factor if factor_learns else None


def rope(x: Tensor, rope_cos_sin: Tensor, heads: int, out: Tensor) -> None:
    """Write x [M, heads or more, d] to `out` or itself, with RoPE by complex `rope_cos_sin` [M, d / 2]."""
    if out is not x:
        out.copy_(x)
    inverse = rope_cos_sin.is_conj()
    pairs = torch.view_as_real(rope_cos_sin.conj() if inverse else rope_cos_sin)
    _rope(array(out), array(pairs), heads, single(-1 if inverse else 1))


@loop
def _gated_act(gate_up, linear, cubic, out):
    width = out.shape[1]
    for row in range(len(out)):
        for i in range(width):
            g, u = widen(gate_up[row, i]), widen(gate_up[row, width + i])
            out[row, i] = narrow(g / (single(1) + exp(-g * (linear + cubic * g * g))) * u, out)


@loop
def _gated_act_backward(gate_up, upstream, linear, cubic, gradient, out):
    width = out.shape[1]
    for row in range(len(out)):
        for i in range(width):
            g, u = widen(gate_up[row, i]), widen(gate_up[row, width + i])
            above = widen(upstream[row, i])
            curved = cubic * g * g
            sigmoid = single(1) / (single(1) + exp(-g * (linear + curved)))
            value = g * sigmoid
            slope = sigmoid + value * (single(1) - sigmoid) * (linear + single(3) * curved)
            gradient[row, i] = narrow(above * u * slope, gradient)
            gradient[row, width + i] = narrow(above * value, gradient)
            out[row, i] = narrow(value * u, out)


@loop
def _rms_norm(x, factor, eps, out, inverse):
    width = x.shape[1]
    for row in range(len(x)):
        total = single(0)
        for i in range(width):
            total += x[row, i] * x[row, i]
        scale = single(1) / np.sqrt(total / single(width) + eps)
        inverse[row] = scale
        for i in range(width):
            out[row, i] = narrow(x[row, i] * scale * factor[i], out)


@loop
def _rms_norm_backward(x, factor, inverse, upstream, for_x, for_factor):
    width = x.shape[1]
    for row in range(len(x)):
        scale, along = inverse[row], single(0)
        for i in range(width):
            along += widen(upstream[row, i]) * factor[i] * x[row, i]
        along *= scale * scale / single(width)
        for i in range(width):
            above = widen(upstream[row, i])
            for_factor[i] += above * x[row, i] * scale
            for_x[row, i] = (above * factor[i] - x[row, i] * along) * scale


@loop
def _rope(x, rope_cos_sin, heads, sign):
    for row in range(len(x)):
        for head in range(heads):
            numbers, angles = x[row, head], rope_cos_sin[row]
            for i in range(len(angles)):
                a, b = widen(numbers[2 * i]), widen(numbers[2 * i + 1])
                cosine, sine = angles[i, 0], sign * angles[i, 1]
                numbers[2 * i] = narrow(a * cosine - b * sine, numbers)
                numbers[2 * i + 1] = narrow(a * sine + b * cosine, numbers)
