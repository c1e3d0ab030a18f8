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
LONG_BLOCK = 8192
"""Numbers that the program of a row of logits takes at once."""


def gate_forward(gate: Tensor, up: Tensor, linear: float, cubic: float) -> Tensor:
    """`f(gate) * up` of two [M, I] whose rows lie equally far apart, f(g) = g sigmoid(linear g + cubic g^3); in fp32, then rounded."""
    rows, width = gate.shape
    out = gate.new_empty(rows, width)
    _gate_forward[rows, triton.cdiv(width, BLOCK)](gate, up, out, gate.stride(0), width, linear, cubic, BLOCK)
    return out


def gate_backward(gate: Tensor, up: Tensor, upstream: Tensor, linear: float, cubic: float) -> tuple[Tensor, Tensor]:
    """The gradients of `gate` and `up` for that [M, I] of `gate_forward`'s result."""
    rows, width = upstream.shape
    for_gate, for_up = torch.empty_like(upstream), torch.empty_like(upstream)
    _gate_backward[rows, triton.cdiv(width, BLOCK)](gate, up, upstream, for_gate, for_up, gate.stride(0), width, linear, cubic, BLOCK)
    return for_gate, for_up


def turn(x: Tensor, turns: Tensor) -> None:
    """Multiply, in place, the pairs of x [M, heads, d] by complex `turns` [M, d / 2]; the heads of a row lie side by side."""
    rows, heads, size = x.shape
    sign = -1.0 if turns.is_conj() else 1.0
    plain = torch.view_as_real(turns.conj() if turns.is_conj() else turns)
    _turn[rows, heads](x, plain, x.stride(0), size, sign, triton.next_power_of_2(size // 2))


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of `logits` [n, V]: losses [n] in fp32, and whether no token was more likely [n]; `logits` become `softmax - 1[target]`."""
    rows, width = logits.shape
    losses, hits = logits.new_empty(rows, dtype=torch.float32), logits.new_empty(rows, dtype=torch.bool)
    _cross_entropy[rows,](logits, targets, losses, hits, width, LONG_BLOCK, num_warps=16)
    return losses, hits


if AVAILABLE:

    @triton.jit
    def _gate_forward(gate, up, out, stride, width, linear, cubic, BLOCK: tl.constexpr):
        row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < width
        g = tl.load(gate + row * stride + columns, inside).to(tl.float32)
        u = tl.load(up + row * stride + columns, inside).to(tl.float32)
        value = g * tl.sigmoid(g * (linear + cubic * g * g))
        tl.store(out + row * width + columns, (value * u).to(out.dtype.element_ty), inside)

    @triton.jit
    def _gate_backward(gate, up, upstream, for_gate, for_up, stride, width, linear, cubic, BLOCK: tl.constexpr):
        row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < width
        g = tl.load(gate + row * stride + columns, inside).to(tl.float32)
        u = tl.load(up + row * stride + columns, inside).to(tl.float32)
        above = tl.load(upstream + row * width + columns, inside).to(tl.float32)
        opening = tl.sigmoid(g * (linear + cubic * g * g))
        value = g * opening
        slope = opening + value * (1 - opening) * (linear + 3 * cubic * g * g)
        tl.store(for_gate + row * width + columns, (above * u * slope).to(for_gate.dtype.element_ty), inside)
        tl.store(for_up + row * width + columns, (above * value).to(for_up.dtype.element_ty), inside)

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

    @triton.jit
    def _cross_entropy(logits, targets, losses, hits, width: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        logits += row * width
        target = tl.load(targets + row)
        right = tl.load(logits + target).to(tl.float32)
        top, total = tl.full((), -float("inf"), tl.float32), tl.full((), 0.0, tl.float32)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            values = tl.load(logits + columns, columns < width, -float("inf")).to(tl.float32)
            above = tl.maximum(top, tl.max(values))
            total = total * tl.exp(top - above) + tl.sum(tl.exp(values - above))
            top = above
        tl.store(losses + row, tl.log(total) + top - right)
        tl.store(hits + row, right >= top)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            values = tl.load(logits + columns, columns < width, -float("inf")).to(tl.float32)
            slopes = tl.exp(values - top) / total - tl.where(columns == target, 1.0, 0.0)
            tl.store(logits + columns, slopes.to(logits.dtype.element_ty), columns < width)
