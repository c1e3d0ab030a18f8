"""Attention as loops for one core of a CPU, compiled by Numba: in fp32, memory in fp32 or bfloat16.

In training it is causal, over a flat list of tokens without padding. Sequences with a common beginning share
its tokens, which are computed once: such a sequence attends from its own tokens only, and the gradients of
shared keys and values are sums over all sequences that see them. The scores of a block of queries stay in the
cache. The backward pass makes them again from their logarithmic sums (Dao 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reckoner.engine.ops.numba_jit import array, exp, inline_jit, loop, narrow, single, widen

BLOCK = 16
"""Positions in one block of queries: with the heads that share a key head, 64 rows in the embedded model."""

LANES = 16
"""fp32 numbers of the widest vector register, and of a line of the cache."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """`B` sequences over `M` tokens: position `p` of sequence `b` holds token `tokens[b, p]`.

    It attends to the positions up to itself if `begins[b] <= p < ends[b]`.
    """

    tokens: Tensor  # [B, T]
    begins: Tensor  # [B]
    ends: Tensor  # [B]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three tensors as the loops take them."""
        return array(self.tokens), array(self.begins), array(self.ends)


def attention(heads: Tensor, sequences: Sequences, kv: int) -> tuple[Tensor, Tensor]:
    """Attention of the scaled queries in `heads` [M, query heads + 2 kv, d], as [M, query heads, d].

    Zero for a token that attends nowhere. Also the logarithmic sums of scores [M, query heads], for the
    gradient.
    """
    count, queries, size = len(heads), heads.shape[1] - 2 * kv, heads.shape[2]
    mixed, sums = heads.new_zeros(count, queries, size), torch.empty(count, queries)
    _attention(array(heads), *sequences.arrays(), kv, array(mixed), array(sums))
    return mixed, sums


def attention_backward(
    heads: Tensor, sequences: Sequences, kv: int, mixed: Tensor, sums: Tensor, upstream: Tensor
) -> Tensor:
    """The gradient of `heads` for `upstream` [M, query heads, d], that of `attention`'s first result."""
    gradient = torch.zeros_like(heads, dtype=torch.float32)
    results = (array(tensor) for tensor in (mixed, sums, upstream, gradient))
    _attention_backward(array(heads), *sequences.arrays(), kv, *results)
    return gradient.to(heads.dtype)


def decoding_attention(
    heads: Tensor, keys: Tensor, values: Tensor, begins: Tensor, end: int, *prefix: Tensor
) -> Tensor:
    """Attention [n, query heads, d] as in `dispatch`; `prefix` are keys [kv, d, P] and values [kv, P, d]."""
    kv = keys.shape[1]
    mixed = heads.new_empty(len(heads), heads.shape[1] - 2 * kv, heads.shape[2])
    arrays = (array(tensor) for tensor in (heads, keys, values, *prefix, begins, mixed))
    _decoding_attention(*arrays, end)
    return mixed


@loop
def _attention(heads, tokens, begins, ends, kv, mixed, sums):
    longest, size, queries = tokens.shape[1], heads.shape[2], mixed.shape[1]
    group = queries // kv
    rows = BLOCK * group
    keys, values = _matrix(longest, size), _matrix(longest, size)
    query_rows, mixed_rows = _matrix(rows, size), _matrix(rows, size)
    transposed_keys, weights = _matrix(size, longest), _matrix(rows, longest)
    for sequence in range(len(tokens)):
        index, end = tokens[sequence], ends[sequence]
        for head in range(kv):
            _gather(heads, index, 0, end, queries + head, 1, keys)
            _gather(heads, index, 0, end, queries + kv + head, 1, values)
            _transpose(keys, end, transposed_keys)
            for begin in range(begins[sequence], end, BLOCK):
                stop = min(begin + BLOCK, end)
                rows = (stop - begin) * group
                _gather(heads, index, begin, stop, head * group, group, query_rows)
                _product(weights, query_rows, transposed_keys, rows, size, stop)
                for row in range(rows):
                    position = begin + row // group
                    sums[index[position], head * group + row % group] = _softmax(
                        weights[row], position + 1, stop
                    )
                _product(mixed_rows, weights, values, rows, stop, size)
                _scatter(mixed_rows, index, begin, stop, head * group, group, mixed)


@loop
def _attention_backward(heads, tokens, begins, ends, kv, mixed, sums, upstream, gradient):
    longest, size, queries = tokens.shape[1], heads.shape[2], mixed.shape[1]
    group = queries // kv
    rows = BLOCK * group
    keys, values = _matrix(longest, size), _matrix(longest, size)
    for_keys, for_values = _matrix(size, longest), _matrix(size, longest)
    query_rows, mixed_rows = _matrix(rows, size), _matrix(rows, size)
    above, for_query_rows = _matrix(rows, size), _matrix(rows, size)
    transposed_keys, transposed_values = _matrix(size, longest), _matrix(size, longest)
    weights, slopes = _matrix(rows, longest), _matrix(rows, longest)
    for sequence in range(len(tokens)):
        index, end = tokens[sequence], ends[sequence]
        for head in range(kv):
            _gather(heads, index, 0, end, queries + head, 1, keys)
            _gather(heads, index, 0, end, queries + kv + head, 1, values)
            _transpose(keys, end, transposed_keys)
            _transpose(values, end, transposed_values)
            _clear(for_keys, size, end)
            _clear(for_values, size, end)
            for begin in range(begins[sequence], end, BLOCK):
                stop = min(begin + BLOCK, end)
                rows = (stop - begin) * group
                _gather(heads, index, begin, stop, head * group, group, query_rows)
                _gather(mixed, index, begin, stop, head * group, group, mixed_rows)
                _gather(upstream, index, begin, stop, head * group, group, above)
                _product(weights, query_rows, transposed_keys, rows, size, stop)
                _product(slopes, above, transposed_values, rows, size, stop)
                for row in range(rows):
                    position = begin + row // group
                    total = sums[index[position], head * group + row % group]
                    along = _dot(above[row], mixed_rows[row], size)
                    _softmax_slopes(weights[row], slopes[row], position + 1, stop, total, along)
                _add_product(for_values, above.T, weights, size, rows, stop)
                _add_product(for_keys, query_rows.T, slopes, size, rows, stop)
                _product(for_query_rows, slopes, keys, rows, stop, size)
                _scatter(for_query_rows, index, begin, stop, head * group, group, gradient)
            for position in range(end):
                token = gradient[index[position]]
                _add_row(token[queries + head], single(1), for_keys[:, position], size)
                _add_row(token[queries + kv + head], single(1), for_values[:, position], size)


@loop
def _decoding_attention(heads, keys, values, prefix_keys, prefix_values, begins, mixed, end):
    kv, size, before = keys.shape[1], heads.shape[2], prefix_keys.shape[2]
    group = mixed.shape[1] // kv
    rows = (group + 3) // 4 * 4  # `_add_product` goes by four
    queries, mixed_rows, scores = _matrix(rows, size), _matrix(rows, size), _matrix(rows, before + end)
    _clear(queries, rows, size)
    for row in range(len(heads)):
        begin = begins[row]
        seen = before + end - begin
        for head in range(kv):
            for query in range(group):
                _copy(heads[row, head * group + query], queries[query], size)
            _clear(scores, rows, seen)
            _add_product(scores, queries, prefix_keys[head], rows, size, before)
            _add_product(scores, queries, keys[row, head], rows, size, end - begin, before, begin)
            for query in range(group):
                _softmax(scores[query], seen, seen)
            _product(mixed_rows, scores, prefix_values[head], rows, before, size)
            _add_product(mixed_rows, scores[:, before:], values[row, head, begin:], rows, end - begin, size)
            for query in range(group):
                _copy(mixed_rows[query], mixed[row, head * group + query], size)


@inline_jit
def _softmax(scores, seen, width):
    """Replace the first `seen` scores by their softmax, and those after them up to `width` by zero.

    Returns the logarithm of the sum of e^scores.
    """
    top, total = scores[0], single(0)
    for i in range(seen):
        top = max(top, scores[i])
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
    """Replace scores by their softmax, and the gradient of the softmax in `slopes` by that of the scores.

    `total` is the logarithm of the sum of e^scores; `along` is the mean of `slopes` weighted by the softmax.
    """
    for i in range(seen):
        scores[i] = exp(scores[i] - total)
        slopes[i] = scores[i] * (slopes[i] - along)
    _fill(scores, seen, width)
    _fill(slopes, seen, width)


@inline_jit
def _matrix(rows, columns):
    """Memory for [rows, columns or a few more] whose rows begin at a multiple of a vector register's width.

    Loads that cross such a boundary take twice as long.
    """
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
        target[i] = narrow(widen(row[i]), target)


@inline_jit
def _dot(a, b, columns):
    total = single(0)
    for i in range(columns):
        total += a[i] * b[i]
    return total


@inline_jit
def _gather(source, tokens, begin, stop, first, count, rows):
    """Copy heads `first` to `first + count` of the tokens at positions `begin` to `stop` to `rows`."""
    for position in range(begin, stop):
        for head in range(count):
            _copy(
                source[tokens[position], first + head],
                rows[(position - begin) * count + head],
                source.shape[2],
            )


@inline_jit
def _scatter(rows, tokens, begin, stop, first, count, target):
    """The inverse of `_gather`."""
    for position in range(begin, stop):
        for head in range(count):
            _copy(
                rows[(position - begin) * count + head],
                target[tokens[position], first + head],
                target.shape[2],
            )


@inline_jit
def _product(result, left, right, rows, inner, columns):
    """Write `left right` of the first `rows`, `inner` and `columns` to `result`."""
    _clear(result, rows, columns)
    _add_product(result, left, right, rows, inner, columns)


@inline_jit
def _add_product(total, left, right, rows, inner, columns, at=0, first=0):
    """Add `left right` of the first `rows`, `inner` and `columns` to `total`.

    The columns of `total` are counted from `at`, those of `right` from `first`. It goes by four rows and four
    columns at once, so that each loaded vector is used four times.
    """
    for row in range(0, rows // 4 * 4, 4):
        a, b, c, d = total[row, at:], total[row + 1, at:], total[row + 2, at:], total[row + 3, at:]
        block = left[row:]
        for k in range(0, inner // 4 * 4, 4):
            p, q, r, s = right[k, first:], right[k + 1, first:], right[k + 2, first:], right[k + 3, first:]
            aw, ax, ay, az = block[0, k], block[0, k + 1], block[0, k + 2], block[0, k + 3]
            bw, bx, by, bz = block[1, k], block[1, k + 1], block[1, k + 2], block[1, k + 3]
            cw, cx, cy, cz = block[2, k], block[2, k + 1], block[2, k + 2], block[2, k + 3]
            dw, dx, dy, dz = block[3, k], block[3, k + 1], block[3, k + 2], block[3, k + 3]
            for i in range(columns):
                w, x, y, z = widen(p[i]), widen(q[i]), widen(r[i]), widen(s[i])
                a[i] += aw * w + ax * x + ay * y + az * z
                b[i] += bw * w + bx * x + by * y + bz * z
                c[i] += cw * w + cx * x + cy * y + cz * z
                d[i] += dw * w + dx * x + dy * y + dz * z
        for k in range(inner // 4 * 4, inner):
            for each in range(row, row + 4):
                _add_row(total[each, at:], left[each, k], right[k, first:], columns)
    for row in range(rows // 4 * 4, rows):
        for k in range(inner):
            _add_row(total[row, at:], left[row, k], right[k, first:], columns)


@inline_jit
def _add_row(total, factor, row, columns):
    for i in range(columns):
        total[i] += factor * widen(row[i])
