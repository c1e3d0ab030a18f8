"""Operations of a decoder as loops for one core of a CPU, compiled by Numba; each goes through memory once.

`engine/backend.py` says where they are used; torch does the same elsewhere, and where Numba is missing.

Attention is causal, over a flat list of tokens without padding. Sequences with a common beginning share its
tokens, which are computed once: such a sequence attends from its own tokens only, and the gradients of shared
keys and values are sums over all sequences that see them. The scores of a block of queries stay in the cache.
The backward pass makes them again from their logarithmic sums (Dao 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reckoner.engine.ops.numba_jit import AVAILABLE, array, inline_jit, loop, single

__all__ = ["AVAILABLE", "Sequences"]

BLOCK = 16
"""Positions in one block of queries: with the heads that share a key head, 64 rows in the embedded model."""

LANES = 16
"""fp32 numbers of the widest vector register, and of a line of the cache."""

EXP_SERIES = tuple(single(1 / k) for k in (720, 120, 24, 6, 2, 1, 1))
"""Factors of the Taylor series of e^r below that of r^7."""


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


def rms_norm(x: Tensor, factor: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`x / sqrt(mean(x^2) + eps) * factor` of x [M, H]; for the gradient, x and the scale of each row [M]."""
    out, scale = torch.empty_like(x), x.new_empty(len(x))
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


def rope(x: Tensor, rope_cos_sin: Tensor, heads: int, out: Tensor) -> None:
    """Write x [M, heads or more, d] to `out` or itself, with RoPE by complex `rope_cos_sin` [M, d / 2]."""
    if out is not x:
        out.copy_(x)
    inverse = rope_cos_sin.is_conj()
    pairs = torch.view_as_real(rope_cos_sin.conj() if inverse else rope_cos_sin)
    _rope(array(out), array(pairs), heads, single(-1 if inverse else 1))


def attention(heads: Tensor, sequences: Sequences, kv: int) -> tuple[Tensor, Tensor]:
    """Attention of the scaled queries in `heads` [M, query heads + 2 kv, d], as [M, query heads, d].

    Zero for a token that attends nowhere. Also the logarithmic sums of scores [M, query heads], for the
    gradient.
    """
    count, queries, size = len(heads), heads.shape[1] - 2 * kv, heads.shape[2]
    mixed, sums = heads.new_zeros(count, queries, size), heads.new_empty(count, queries)
    _attention(array(heads), *sequences.arrays(), kv, array(mixed), array(sums))
    return mixed, sums


def attention_backward(
    heads: Tensor, sequences: Sequences, kv: int, mixed: Tensor, sums: Tensor, upstream: Tensor
) -> Tensor:
    """The gradient of `heads` for `upstream` [M, query heads, d], that of `attention`'s first result."""
    gradient = torch.zeros_like(heads)
    results = (array(part) for part in (mixed, sums, upstream, gradient))
    _attention_backward(array(heads), *sequences.arrays(), kv, *results)
    return gradient


@inline_jit
def exp(x: np.float32) -> np.float32:
    """e^x within a relative error of 6e-7 for x from -87 to 88, e^-87 below and infinity above; NaN for NaN.

    It is 2^n e^r. r is at most half of ln 2, so a Taylor series gives e^r; n goes into the exponent's bits.
    """
    x = single(-87) if x < single(-87) else x
    x = single(89) if x > single(89) else x
    n = np.floor(x * single(1 / np.log(2)) + single(0.5))
    r = x - n * single(np.log(2))
    series = single(1 / 5040)
    for term in EXP_SERIES:
        series = series * r + term
    return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@loop
def _gated_act(gate_up, linear, cubic, out):
    width = out.shape[1]
    for row in range(len(out)):
        for i in range(width):
            g = gate_up[row, i]
            out[row, i] = g / (single(1) + exp(-g * (linear + cubic * g * g))) * gate_up[row, width + i]


@loop
def _gated_act_backward(gate_up, upstream, linear, cubic, gradient, out):
    width = out.shape[1]
    for row in range(len(out)):
        for i in range(width):
            g, u, above = gate_up[row, i], gate_up[row, width + i], upstream[row, i]
            curved = cubic * g * g
            sigmoid = single(1) / (single(1) + exp(-g * (linear + curved)))
            value = g * sigmoid
            slope = sigmoid + value * (single(1) - sigmoid) * (linear + single(3) * curved)
            gradient[row, i] = above * u * slope
            gradient[row, width + i] = above * value
            out[row, i] = value * u


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
            out[row, i] = x[row, i] * scale * factor[i]


@loop
def _rms_norm_backward(x, factor, inverse, upstream, for_x, for_factor):
    width = x.shape[1]
    for row in range(len(x)):
        scale, along = inverse[row], single(0)
        for i in range(width):
            along += upstream[row, i] * factor[i] * x[row, i]
        along *= scale * scale / single(width)
        for i in range(width):
            for_factor[i] += upstream[row, i] * x[row, i] * scale
            for_x[row, i] = (upstream[row, i] * factor[i] - x[row, i] * along) * scale


@loop
def _rope(x, rope_cos_sin, heads, sign):
    for row in range(len(x)):
        for head in range(heads):
            numbers, angles = x[row, head], rope_cos_sin[row]
            for i in range(len(angles)):
                a, b, cosine, sine = numbers[2 * i], numbers[2 * i + 1], angles[i, 0], sign * angles[i, 1]
                numbers[2 * i] = a * cosine - b * sine
                numbers[2 * i + 1] = a * sine + b * cosine


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


@inline_jit
def _softmax(scores, seen, width):
    """Replace the first `seen` scores by their softmax, and those after them up to `width` by zero.

    Returns the logarithm of the sum of e^scores.
    """
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
    """Replace scores by their softmax, and the gradient of the softmax in `slopes` by that of the scores.

    `total` is the logarithm of the sum of e^scores; `along` is the mean of `slopes` weighted by the softmax.
    """
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
        target[i] = row[i]


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
def _add_product(total, left, right, rows, inner, columns):
    """Add `left right` of the first `rows`, `inner` and `columns` to `total`.

    It goes by four rows and four columns at once, so that each loaded vector is used four times.
    """
    for row in range(0, rows // 4 * 4, 4):
        a, b, c, d = total[row], total[row + 1], total[row + 2], total[row + 3]
        block = left[row:]
        for k in range(0, inner // 4 * 4, 4):
            p, q, r, s = right[k], right[k + 1], right[k + 2], right[k + 3]
            aw, ax, ay, az = block[0, k], block[0, k + 1], block[0, k + 2], block[0, k + 3]
            bw, bx, by, bz = block[1, k], block[1, k + 1], block[1, k + 2], block[1, k + 3]
            cw, cx, cy, cz = block[2, k], block[2, k + 1], block[2, k + 2], block[2, k + 3]
            dw, dx, dy, dz = block[3, k], block[3, k + 1], block[3, k + 2], block[3, k + 3]
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
