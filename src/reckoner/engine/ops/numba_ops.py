"""Operations of a decoder as loops for one core of a CPU, compiled by Numba; each goes through memory once.

`engine/backend.py` says where they are used; torch does the same elsewhere, and where Numba is missing.
Memory is fp32 or bfloat16, arithmetic is in fp32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reckoner.engine.ops.numba_jit import AVAILABLE, array, loop, single
from reckoner.engine.ops.numba_math import exp, narrow, widen

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
    inputs = (array(part) for part in (x, factor, scale, upstream.contiguous()))
    _rms_norm_backward(*inputs, array(for_x), array(for_factor))
    return for_x, for_factor if factor_learns else None


def add_norm(
    x: Tensor, more: Tensor, factor: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`x + more` of [M, H] in fp32, and the `rms_norm` of it in `dtype`."""
    total, normed = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    arrays = (array(part) for part in (x, more, factor, total, normed))
    _add_norm(*arrays, single(eps))
    return total, normed


def add_norm_backward(
    total: Tensor,
    factor: Tensor,
    eps: float,
    for_total: Tensor,
    for_normed: Tensor,
    dtype: torch.dtype,
    factor_learns: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of x, of `more` in `dtype`, and of factor, for those of both results of `add_norm`."""
    for_x, for_factor = torch.empty_like(total), torch.zeros_like(factor)
    for_more = torch.empty_like(total, dtype=dtype)
    inputs = (array(part) for part in (total, factor, for_total, for_normed))
    _add_norm_backward(*inputs, single(eps), array(for_x), array(for_more), array(for_factor))
    return for_x, for_more, for_factor if factor_learns else None


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of `logits` [n, V]: summed loss in fp32, first choices, and gradient, written over the logits."""
    top = logits.amax(-1).float()
    losses, hits = torch.empty_like(top), torch.empty_like(targets, dtype=torch.bool)
    _cross_entropy(*(array(part) for part in (logits, targets, top, losses, hits)))
    return losses.sum(), hits.sum(), logits


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
def _add_norm(x, more, factor, total, normed, eps):
    width = x.shape[1]
    for row in range(len(x)):
        squares = single(0)
        for i in range(width):
            value = x[row, i] + widen(more[row, i])
            total[row, i] = value
            squares += value * value
        scale = single(1) / np.sqrt(squares / single(width) + eps)
        for i in range(width):
            normed[row, i] = narrow(total[row, i] * scale * factor[i], normed)


@loop
def _add_norm_backward(total, factor, for_total, for_normed, eps, for_x, for_more, for_factor):
    width = total.shape[1]
    for row in range(len(total)):
        squares, along = single(0), single(0)
        for i in range(width):
            squares += total[row, i] * total[row, i]
            along += widen(for_normed[row, i]) * factor[i] * total[row, i]
        scale = single(1) / np.sqrt(squares / single(width) + eps)
        along *= scale * scale / single(width)
        for i in range(width):
            above = widen(for_normed[row, i])
            for_factor[i] += above * total[row, i] * scale
            slope = for_total[row, i] + (above * factor[i] - total[row, i] * along) * scale
            for_x[row, i] = slope
            for_more[row, i] = narrow(slope, for_more)


@loop
def _cross_entropy(logits, targets, top, losses, hits):
    width = logits.shape[1]
    for row in range(len(logits)):
        numbers, largest, target = logits[row], top[row], targets[row]
        total, right = single(0), widen(numbers[target])
        for i in range(width):
            total += exp(widen(numbers[i]) - largest)
        losses[row], hits[row] = np.log(total) + largest - right, right >= largest
        scale = single(1) / total
        for i in range(width):
            numbers[i] = narrow(exp(widen(numbers[i]) - largest) * scale, numbers)
        numbers[target] = narrow(exp(right - largest) * scale - single(1), numbers)


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
