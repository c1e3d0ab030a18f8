"""Causal attention of a training pass on one core of a CPU, compiled by Numba: over a flat list of tokens, without padding.

Sequences that begin alike share the tokens of their beginning, which are computed once: such a sequence attends from its own
tokens only, and the gradients of shared keys and values are sums over all that see them. The scores of a block of queries stay
in the cache, and are made again for the gradient from their logarithmic sums (Dao 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reckoner.engine.ops.numba_ops import array, exp, inline_jit, loop, single

BLOCK = 16
"""Positions whose queries, of all heads that share a key head, are one block: 64 rows of scores in the embedded model."""

LANES = 16
"""fp32 numbers of the widest vector register, and of a line of the cache."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """`B` sequences over `M` tokens: place `p` of sequence `b` has token `tokens[b, p]`, and attends if `begins[b] <= p < ends[b]`."""

    tokens: Tensor  # [B, T]
    begins: Tensor  # [B]
    ends: Tensor  # [B]


def attention(heads: Tensor, sequences: Sequences, kv: int) -> Tensor:
    """Attention of the queries in `heads` [M, query heads + 2 kv, d] (see `native.Memory`), scaled already, as [M, query heads * d].

    Zero for a token that attends nowhere. Only where `compiled.takes(heads)`.
    """
    return _Attention.apply(heads, sequences, kv)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, sequences: Sequences, kv: int) -> Tensor:
        count, queries, size = len(heads), heads.shape[1] - 2 * kv, heads.shape[2]
        mixed, sums = heads.new_zeros(count, queries, size), heads.new_empty(count, queries)
        ctx.layout = [array(part) for part in (sequences.tokens, sequences.begins, sequences.ends)]
        _forward(array(heads), *ctx.layout, kv, array(mixed), array(sums))
        ctx.kv = kv
        ctx.save_for_backward(heads, mixed, sums)
        return mixed.flatten(1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        heads, mixed, sums = ctx.saved_tensors
        gradient = torch.zeros_like(heads)
        above = upstream.contiguous().view_as(mixed)
        _backward(array(heads), *ctx.layout, ctx.kv, array(mixed), array(sums), array(above), array(gradient))
        return gradient, None, None


@loop
def _forward(heads, tokens, begins, ends, kv, mixed, sums):
    longest, size, queries = tokens.shape[1], heads.shape[2], mixed.shape[1]
    group = queries // kv
    rows = BLOCK * group
    keys, values, asked, answer = (
        _matrix(longest, size),
        _matrix(longest, size),
        _matrix(rows, size),
        _matrix(rows, size),
    )
    transposed_keys, weights = _matrix(size, longest), _matrix(rows, longest)
    for sequence in range(len(tokens)):
        own, end = tokens[sequence], ends[sequence]
        for head in range(kv):
            _collect(heads, own, 0, end, queries + head, 1, keys)
            _collect(heads, own, 0, end, queries + kv + head, 1, values)
            _transpose(keys, end, transposed_keys)
            for begin in range(begins[sequence], end, BLOCK):
                stop = min(begin + BLOCK, end)
                rows = (stop - begin) * group
                _collect(heads, own, begin, stop, head * group, group, asked)
                _product(weights, asked, transposed_keys, rows, size, stop)
                for row in range(rows):
                    place = begin + row // group
                    sums[own[place], head * group + row % group] = _softmax(weights[row], place + 1, stop)
                _product(answer, weights, values, rows, stop, size)
                _spread(answer, own, begin, stop, head * group, group, mixed)


@loop
def _backward(heads, tokens, begins, ends, kv, mixed, sums, upstream, gradient):
    longest, size, queries = tokens.shape[1], heads.shape[2], mixed.shape[1]
    group = queries // kv
    rows = BLOCK * group
    keys, values, for_keys, for_values = (
        _matrix(longest, size),
        _matrix(longest, size),
        _matrix(size, longest),
        _matrix(size, longest),
    )
    asked, answer, above, for_asked = (
        _matrix(rows, size),
        _matrix(rows, size),
        _matrix(rows, size),
        _matrix(rows, size),
    )
    transposed_keys, transposed_values = _matrix(size, longest), _matrix(size, longest)
    weights, slopes = _matrix(rows, longest), _matrix(rows, longest)
    for sequence in range(len(tokens)):
        own, end = tokens[sequence], ends[sequence]
        for head in range(kv):
            _collect(heads, own, 0, end, queries + head, 1, keys)
            _collect(heads, own, 0, end, queries + kv + head, 1, values)
            _transpose(keys, end, transposed_keys)
            _transpose(values, end, transposed_values)
            _clear(for_keys, size, end)
            _clear(for_values, size, end)
            for begin in range(begins[sequence], end, BLOCK):
                stop = min(begin + BLOCK, end)
                rows = (stop - begin) * group
                _collect(heads, own, begin, stop, head * group, group, asked)
                _collect(mixed, own, begin, stop, head * group, group, answer)
                _collect(upstream, own, begin, stop, head * group, group, above)
                _product(weights, asked, transposed_keys, rows, size, stop)
                _product(slopes, above, transposed_values, rows, size, stop)
                for row in range(rows):
                    place = begin + row // group
                    total = sums[own[place], head * group + row % group]
                    _softmax_slopes(
                        weights[row], slopes[row], place + 1, stop, total, _dot(above[row], answer[row], size)
                    )
                _add_product(for_values, above.T, weights, size, rows, stop)
                _add_product(for_keys, asked.T, slopes, size, rows, stop)
                _product(for_asked, slopes, keys, rows, stop, size)
                _spread(for_asked, own, begin, stop, head * group, group, gradient)
            for place in range(end):
                _add_row(gradient[own[place], queries + head], single(1), for_keys[:, place], size)
                _add_row(gradient[own[place], queries + kv + head], single(1), for_values[:, place], size)


@inline_jit
def _softmax(scores, seen, width):
    """Weights in the place of the first `seen` scores, zero after them up to `width`; the logarithm of the sum of e^scores."""
    top, total = _largest(scores, seen), single(0)
    for i in range(seen):
        scores[i] = exp(scores[i] - top)
        total += scores[i]
    scale = single(1) / total
    for i in range(seen):
        scores[i] *= scale
    _fill(scores, seen, width)
    return top + np.log(total)


@inline_jit
def _softmax_slopes(scores, slopes, seen, width, total, along):
    """Weights in the place of scores, and the gradient of scores in the place of that of weights, whose mean by weight is `along`."""
    for i in range(seen):
        scores[i] = exp(scores[i] - total)
        slopes[i] = scores[i] * (slopes[i] - along)
    _fill(scores, seen, width)
    _fill(slopes, seen, width)


@inline_jit
def _largest(scores, count):
    top = scores[0]
    for i in range(count):
        top = max(top, scores[i])
    return top


@inline_jit
def _matrix(rows, columns):
    """Memory for [rows, columns or a few more], whose rows begin where a vector register's width begins: loads of others take twice as long."""
    columns = (columns + LANES - 1) // LANES * LANES
    memory = np.empty(rows * columns + LANES, np.float32)
    skipped = -(memory.ctypes.data // 4) % LANES
    return memory[skipped : skipped + rows * columns].reshape(rows, columns)


@inline_jit
def _clear(matrix, rows, columns):
    for row in range(rows):
        _fill(matrix[row], 0, columns)


@inline_jit
def _fill(row, begin, end):
    for i in range(begin, end):
        row[i] = single(0)


@inline_jit
def _transpose(matrix, rows, transposed):
    for row in range(rows):
        for i in range(len(transposed)):
            transposed[i, row] = matrix[row, i]


@inline_jit
def _copy(row, target, columns):
    for i in range(columns):
        target[i] = row[i]


@inline_jit
def _dot(a, b, columns):
    total = single(0)
    for i in range(columns):
        total += a[i] * b[i]
    return total


@inline_jit
def _collect(source, tokens, begin, stop, first, count, rows):
    """Heads `first` to `first + count` of the tokens at `begin` to `stop`, row by row."""
    for place in range(begin, stop):
        for head in range(count):
            _copy(source[tokens[place], first + head], rows[(place - begin) * count + head], source.shape[2])


@inline_jit
def _spread(rows, tokens, begin, stop, first, count, target):
    """The way back of `_collect`."""
    for place in range(begin, stop):
        for head in range(count):
            _copy(rows[(place - begin) * count + head], target[tokens[place], first + head], target.shape[2])


@inline_jit
def _product(result, left, right, rows, inner, columns):
    """`left right`, of the first `rows`, `inner` and `columns`."""
    _clear(result, rows, columns)
    _add_product(result, left, right, rows, inner, columns)


@inline_jit
def _add_product(total, left, right, rows, inner, columns):
    """Add `left right`, of the first `rows`, `inner` and `columns`. Four rows by four: a vector that is loaded is used four times."""
    for row in range(0, rows // 4 * 4, 4):
        a, b, c, d = total[row], total[row + 1], total[row + 2], total[row + 3]
        for k in range(0, inner // 4 * 4, 4):
            p, q, r, s = right[k], right[k + 1], right[k + 2], right[k + 3]
            aw, ax, ay, az = left[row, k], left[row, k + 1], left[row, k + 2], left[row, k + 3]
            bw, bx, by, bz = (
                left[row + 1, k],
                left[row + 1, k + 1],
                left[row + 1, k + 2],
                left[row + 1, k + 3],
            )
            cw, cx, cy, cz = (
                left[row + 2, k],
                left[row + 2, k + 1],
                left[row + 2, k + 2],
                left[row + 2, k + 3],
            )
            dw, dx, dy, dz = (
                left[row + 3, k],
                left[row + 3, k + 1],
                left[row + 3, k + 2],
                left[row + 3, k + 3],
            )
            for i in range(columns):
                w, x, y, z = p[i], q[i], r[i], s[i]
                a[i] += aw * w + ax * x + ay * y + az * z
                b[i] += bw * w + bx * x + by * y + bz * z
                c[i] += cw * w + cx * x + cy * y + cz * z
                d[i] += dw * w + dx * x + dy * y + dz * z
        for k in range(inner // 4 * 4, inner):
            for each in range(row, row + 4):
                _add_row(total[each], left[each, k], right[k], columns)
    for row in range(rows // 4 * 4, rows):
        for k in range(inner):
            _add_row(total[row], left[row, k], right[k], columns)


@inline_jit
def _add_row(total, factor, row, columns):
    for i in range(columns):
        total[i] += factor * row[i]
