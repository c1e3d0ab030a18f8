"""Elementwise parts of a decoder as one Triton kernel each, for a GPU: it waits for memory there, and each value moves once.

Triton comes with every CUDA build of torch for Linux; where it is missing, `AVAILABLE` is false and plain torch does the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

BLOCK = 1024
"""Numbers of one program: 8 a thread, 16 bytes of bfloat16."""


def gate_forward(both: Tensor, linear: float, cubic: float) -> Tensor:
    """`f(g) * u` [M, I] of g and u side by side [M, 2 I], where f(g) = g sigmoid(linear g + cubic g^3); in fp32, then rounded."""
    rows, width = both.shape[0], both.shape[1] // 2
    out = both.new_empty(rows, width)
    _gate_forward[rows, triton.cdiv(width, BLOCK)](both, out, width, linear, cubic, BLOCK)
    return out


def gate_backward(both: Tensor, upstream: Tensor, linear: float, cubic: float) -> Tensor:
    """The gradient [M, 2 I] of `both` for that [M, I] of `gate_forward`'s result."""
    rows, width = upstream.shape
    out = torch.empty_like(both)
    _gate_backward[rows, triton.cdiv(width, BLOCK)](both, upstream, out, width, linear, cubic, BLOCK)
    return out


def turn(x: Tensor, turns: Tensor) -> None:
    """Multiply, in place, the pairs of x [M, heads, d] by complex `turns` [M, d / 2]; the heads of a row lie side by side."""
    rows, heads, size = x.shape
    sign = -1.0 if turns.is_conj() else 1.0
    plain = torch.view_as_real(turns.conj() if turns.is_conj() else turns)
    _turn[rows, heads](x, plain, x.stride(0), size, sign, triton.next_power_of_2(size // 2))


if AVAILABLE:

    @triton.jit
    def _gate_forward(both, out, width, linear, cubic, BLOCK: tl.constexpr):
        row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < width
        gate = tl.load(both + row * 2 * width + columns, inside).to(tl.float32)
        up = tl.load(both + row * 2 * width + width + columns, inside).to(tl.float32)
        value = gate * tl.sigmoid(gate * (linear + cubic * gate * gate))
        tl.store(out + row * width + columns, (value * up).to(out.dtype.element_ty), inside)

    @triton.jit
    def _gate_backward(both, upstream, out, width, linear, cubic, BLOCK: tl.constexpr):
        row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < width
        gate = tl.load(both + row * 2 * width + columns, inside).to(tl.float32)
        up = tl.load(both + row * 2 * width + width + columns, inside).to(tl.float32)
        above = tl.load(upstream + row * width + columns, inside).to(tl.float32)
        opening = tl.sigmoid(gate * (linear + cubic * gate * gate))
        value = gate * opening
        slope = opening + value * (1 - opening) * (linear + 3 * cubic * gate * gate)
        tl.store(out + row * 2 * width + columns, (above * up * slope).to(out.dtype.element_ty), inside)
        tl.store(out + row * 2 * width + width + columns, (above * value).to(out.dtype.element_ty), inside)

    @triton.jit
    def _turn(x, turns, stride, size, sign, BLOCK: tl.constexpr):
        row, head, pairs = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BLOCK)
        inside = pairs < size // 2
        real, imaginary = x + row * stride + head * size + 2 * pairs, x + row * stride + head * size + 2 * pairs + 1
        a, b = tl.load(real, inside).to(tl.float32), tl.load(imaginary, inside).to(tl.float32)
        cosine = tl.load(turns + row * size + 2 * pairs, inside)
        sine = sign * tl.load(turns + row * size + 2 * pairs + 1, inside)
        tl.store(real, (a * cosine - b * sine).to(x.dtype.element_ty), inside)
        tl.store(imaginary, (a * sine + b * cosine).to(x.dtype.element_ty), inside)
