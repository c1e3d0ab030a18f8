"""Operations of a decoder between its products, as one Triton kernel each for a GPU.

Triton comes with every CUDA build of torch for Linux. Where it is missing, `AVAILABLE` is false and torch
does the same.
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
ROPE_ROWS = 4
"""Rows of a head to which a program applies RoPE: 16 bytes a thread."""
ROWS, FORWARD, BACKWARD, SHARES = 32, 128, 64, 8
"""Tiles of a gated activation with LoRA, and programs that share a product's sum: the fastest of 16."""
MAX_RANK = 64
"""The largest rank of LoRA: above it the sums of a product leave the registers."""


def gated_act(gate: Tensor, up: Tensor, linear: float, cubic: float) -> Tensor:
    """`f(gate) * up` of two [M, I] of equal strides, in fp32; f(g) = g sigmoid(linear g + cubic g^3)."""
    rows, width = gate.shape
    out = gate.new_empty(rows, width)
    _gated_act_kernel[rows, triton.cdiv(width, BLOCK)](
        gate, up, out, gate.stride(0), width, linear, cubic, BLOCK
    )
    return out


def gated_act_backward(
    gate: Tensor, up: Tensor, upstream: Tensor, linear: float, cubic: float
) -> tuple[Tensor, Tensor]:
    """The gradients of `gate` and `up` for that [M, I] of `gated_act`'s result."""
    rows, width = upstream.shape
    for_gate, for_up = torch.empty_like(upstream), torch.empty_like(upstream)
    _gated_act_backward_kernel[rows, triton.cdiv(width, BLOCK)](
        gate, up, upstream, for_gate, for_up, gate.stride(0), width, linear, cubic, BLOCK
    )
    return for_gate, for_up


def gated_act_lora(gate: Tensor, up: Tensor, linear: float, cubic: float, a: Tensor) -> tuple[Tensor, Tensor]:
    """`gated_act`'s h [M, I], and `h a'` [M, r] of a [r, I] without reading h again, r at most `MAX_RANK`."""
    (rows, width), rank = gate.shape, len(a)
    out, sums = gate.new_empty(rows, width), gate.new_empty(SHARES, rows, rank, dtype=torch.float32)
    grid = triton.cdiv(rows, ROWS), SHARES
    _gated_act_lora_kernel[grid](
        gate, up, a, out, sums, rows, width, linear, cubic, rank, SHARES, _power(rank), ROWS, FORWARD
    )
    return out, sums.sum(0).to(gate.dtype)


def gated_act_lora_backward(
    gate: Tensor,
    up: Tensor,
    upstream: Tensor,
    linear: float,
    cubic: float,
    thin: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """`gated_act_backward`'s two, and the products `thin[0]' for_gate`, `thin[1]' for_up` and `thin[2]' h` as
    [3, r, I], of `thin` [M, r] each.
    """
    (rows, width), rank = gate.shape, thin[0].shape[1]
    for_gate, for_up = torch.empty_like(upstream), torch.empty_like(upstream)
    sums = gate.new_empty(SHARES, 3, rank, width, dtype=torch.float32)
    grid, sizes = (triton.cdiv(width, BACKWARD), SHARES), (SHARES, _power(rank), ROWS, BACKWARD)
    tensors, numbers = (gate, up, upstream, for_gate, for_up, *thin, sums), (rows, width, linear, cubic, rank)
    _gated_act_lora_backward_kernel[grid](*tensors, *numbers, *sizes, num_warps=8, num_stages=1)
    return for_gate, for_up, sums.sum(0).to(gate.dtype)


def _power(rank: int) -> int:
    """The power of two with which a product of this rank is computed."""
    return max(16, triton.next_power_of_2(rank))


def rope(x: Tensor, rope_cos_sin: Tensor, heads: int, out: Tensor) -> None:
    """Write x [M, H, d] to `out`, laid out alike or x itself, its first `heads` with their pairs multiplied
    by complex `rope_cos_sin` [M, d / 2].
    """
    (rows, all_heads, size), sign = x.shape, -1.0 if rope_cos_sin.is_conj() else 1.0
    plain = torch.view_as_real(rope_cos_sin.conj() if rope_cos_sin.is_conj() else rope_cos_sin)
    grid = triton.cdiv(rows, ROPE_ROWS), heads if out is x else all_heads
    _rope_kernel[grid](
        x, plain, out, rows, x.stride(0), size, heads, sign, ROPE_ROWS, triton.next_power_of_2(size // 2)
    )


if AVAILABLE:

    @triton.jit
    def _sigmoid(g, linear, cubic):
        return tl.sigmoid(g * (linear + cubic * g * g))

    @triton.jit
    def _gradients(g, u, above, linear, cubic):
        sigmoid = _sigmoid(g, linear, cubic)
        value = g * sigmoid
        slope = sigmoid + value * (1 - sigmoid) * (linear + 3 * cubic * g * g)
        return value * u, above * u * slope, above * value

    @triton.jit
    def _gated_act_kernel(gate, up, out, stride, width, linear, cubic, BLOCK: tl.constexpr):
        row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < width
        g = tl.load(gate + row * stride + columns, inside).to(tl.float32)
        u = tl.load(up + row * stride + columns, inside).to(tl.float32)
        tl.store(
            out + row * width + columns, (g * _sigmoid(g, linear, cubic) * u).to(out.dtype.element_ty), inside
        )

    @triton.jit
    def _gated_act_backward_kernel(
        gate, up, upstream, for_gate, for_up, stride, width, linear, cubic, BLOCK: tl.constexpr
    ):
        row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < width
        g = tl.load(gate + row * stride + columns, inside).to(tl.float32)
        u = tl.load(up + row * stride + columns, inside).to(tl.float32)
        above = tl.load(upstream + row * width + columns, inside).to(tl.float32)
        _, for_g, for_u = _gradients(g, u, above, linear, cubic)
        tl.store(for_gate + row * width + columns, for_g.to(for_gate.dtype.element_ty), inside)
        tl.store(for_up + row * width + columns, for_u.to(for_up.dtype.element_ty), inside)

    @triton.jit
    def _gated_act_lora_kernel(
        gate, up, a, out, sums, rows, width, linear, cubic, rank,
        SHARES: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        # A program: some rows, a share of the columns.
        first, share = tl.program_id(0) * ROWS, tl.program_id(1)
        ranks, m = tl.arange(0, R), tl.arange(0, ROWS)
        begin, row_inside = first.to(tl.int64) * width, first + m < rows
        span = tl.cdiv(tl.cdiv(width, COLUMNS), SHARES) * COLUMNS
        total = tl.zeros((ROWS, R), tl.float32)
        for start in range(share * span, min(width, (share + 1) * span), COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            inside = row_inside[:, None] & (columns < width)[None, :]
            offsets = m[:, None] * width + columns[None, :]
            g = tl.load(gate + begin + offsets, inside, 0).to(tl.float32)
            u = tl.load(up + begin + offsets, inside, 0).to(tl.float32)
            a_inside = (columns < width)[:, None] & (ranks < rank)[None, :]
            factor = tl.load(a + ranks[None, :] * width + columns[:, None], a_inside, 0)
            h = (g * _sigmoid(g, linear, cubic) * u).to(out.dtype.element_ty)
            tl.store(out + begin + offsets, h, inside)
            total = tl.dot(h, factor, total)
        sums += (share.to(tl.int64) * rows + first) * rank
        tl.store(
            sums + m[:, None] * rank + ranks[None, :], total, row_inside[:, None] & (ranks < rank)[None, :]
        )

    @triton.jit
    def _gated_act_lora_backward_kernel(
        gate, up, upstream, for_gate, for_up, thin_g, thin_u, thin_h, sums, rows, width, linear, cubic, rank,
        SHARES: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        # A program: some columns, a share of the rows.
        columns, share = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(1)
        ranks, m = tl.arange(0, R), tl.arange(0, ROWS)
        span = tl.cdiv(tl.cdiv(rows, ROWS), SHARES) * ROWS
        with_g = tl.zeros((R, COLUMNS), tl.float32)
        with_u = tl.zeros((R, COLUMNS), tl.float32)
        with_h = tl.zeros((R, COLUMNS), tl.float32)
        offsets, thin_offsets = m[:, None] * width + columns[None, :], m[None, :] * rank + ranks[:, None]
        for start in range(share * span, min(rows, (share + 1) * span), ROWS):
            row_inside, begin, row = start + m < rows, tl.cast(start, tl.int64) * width, start * rank
            inside = row_inside[:, None] & (columns < width)[None, :]
            thin_inside = row_inside[None, :] & (ranks < rank)[:, None]
            g = tl.load(gate + begin + offsets, inside, 0).to(tl.float32)
            u = tl.load(up + begin + offsets, inside, 0).to(tl.float32)
            above = tl.load(upstream + begin + offsets, inside, 0).to(tl.float32)
            h, for_g, for_u = _gradients(g, u, above, linear, cubic)
            kind = for_gate.dtype.element_ty
            h, for_g, for_u = h.to(kind), for_g.to(kind), for_u.to(kind)
            tl.store(for_gate + begin + offsets, for_g, inside)
            tl.store(for_up + begin + offsets, for_u, inside)
            with_g = tl.dot(tl.load(thin_g + row + thin_offsets, thin_inside, 0), for_g, with_g)
            with_u = tl.dot(tl.load(thin_u + row + thin_offsets, thin_inside, 0), for_u, with_u)
            with_h = tl.dot(tl.load(thin_h + row + thin_offsets, thin_inside, 0), h, with_h)
        sums += share * 3 * rank * width
        sum_inside = (ranks < rank)[:, None] & (columns < width)[None, :]
        sum_offsets = ranks[:, None] * width + columns[None, :]
        tl.store(sums + sum_offsets, with_g, sum_inside)
        tl.store(sums + rank * width + sum_offsets, with_u, sum_inside)
        tl.store(sums + 2 * rank * width + sum_offsets, with_h, sum_inside)

    @triton.jit
    def _rope_kernel(
        x, rope_cos_sin, out, rows, stride, size, heads, sign, ROWS: tl.constexpr, PAIRS: tl.constexpr
    ):
        row, head = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None], tl.program_id(1)
        numbers = tl.arange(0, 2 * PAIRS)[None, :]
        inside, offsets = (row < rows) & (numbers < size), row * stride + head * size + numbers
        a, b = tl.split(tl.reshape(tl.load(x + offsets, inside, 0).to(tl.float32), (ROWS, PAIRS, 2)))
        angles = tl.load(rope_cos_sin + row * size + numbers, inside & (head < heads), 0)
        cosine, sine = tl.split(tl.reshape(angles, (ROWS, PAIRS, 2)))
        cosine, sine = tl.where(head < heads, cosine, 1.0), sine * sign
        both = tl.reshape(tl.join(a * cosine - b * sine, a * sine + b * cosine), (ROWS, 2 * PAIRS))
        tl.store(out + offsets, both.to(out.dtype.element_ty), inside)
