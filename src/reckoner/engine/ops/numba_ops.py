"""Operations of a decoder as loops for one core of a CPU, compiled by Numba; each goes through memory once.

`engine/backend.py` says where they are used; torch does the same elsewhere, and where Numba is missing.
Memory is fp32 or bfloat16, arithmetic is in fp32.

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

from reckoner.engine.ops.numba_jit import AVAILABLE, array, by_type, inline_jit, loop, single

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
    results = (array(part) for part in (mixed, sums, upstream, gradient))
    _attention_backward(array(heads), *sequences.arrays(), kv, *results)
    return gradient.to(heads.dtype)


def decoding_attention(
    heads: Tensor, keys: Tensor, values: Tensor, begins: Tensor, end: int, *prefix: Tensor
) -> Tensor:
    """Attention [n, query heads, d] as in `dispatch`; `prefix` are keys [kv, d, P] and values [kv, P, d]."""
    kv = keys.shape[1]
    mixed = heads.new_empty(len(heads), heads.shape[1] - 2 * kv, heads.shape[2])
    arrays = (array(part) for part in (heads, keys, values, *prefix, begins, mixed))
    _decoding_attention(*arrays, end)
    return mixed


@by_type
def widen(value):
    """The fp32 number of a bfloat16's bits, and an fp32 number itself."""
    if str(value) == "uint16":
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@by_type
def narrow(value, array):
    """What `array` holds of an fp32 number: it itself, or the bits of the nearest bfloat16, ties to even."""
    if str(array.dtype) == "uint16":
        return lambda value, array: np.uint16(_rounded(np.float32(value).view(np.uint32)) >> np.uint32(16))
    return lambda value, array: value


@inline_jit
def _rounded(bits: np.uint32) -> np.uint32:
    """The bits of an fp32 number, increased so that their upper half is that of the nearest bfloat16."""
    return np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))


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
