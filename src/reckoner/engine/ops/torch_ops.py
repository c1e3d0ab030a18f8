"""Operations of a decoder in plain torch: on every device, and the reference for the faster implementations.

None of these functions has a gradient of its own; `dispatch` adds that, with the `..._backward` functions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Prefix = tuple[Tensor, Tensor] | None
"""Keys and values [kv heads, P, head size] of one layer that every row sees before its own."""


def rms_norm(x: Tensor, factor: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """`x / sqrt(mean(x^2) + eps) * factor` of x [M, H], in `dtype`.

    For the gradient, also that without factor, and scales.
    """
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    scale = mean_square.add_(eps).rsqrt_()
    normed = x * scale
    return (normed * factor).to(dtype), normed, scale


def rms_norm_backward(
    normed: Tensor, scale: Tensor, factor: Tensor, upstream: Tensor, factor_learns: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of x [M, H] and, if `factor_learns`, of factor [H] for that of `rms_norm`'s result."""
    products = upstream * normed
    along = (products @ factor).unsqueeze(-1)
    for_x = (upstream * factor).addcmul_(normed, along, value=-1 / normed.shape[-1]).mul_(scale)
    return for_x, products.sum(0) if factor_learns else None


def gated_act(gate_up: Tensor, linear: float, cubic: float) -> Tensor:
    """`f(g) * u` [M, I] of `gate_up` [M, 2 I], g beside u, with f(g) = g sigmoid(linear g + cubic g^3)."""
    gate, up = gate_up.chunk(2, -1)
    return _sigmoid(gate, linear, cubic).mul_(gate).mul_(up)


def gated_act_backward(
    gate_up: Tensor, upstream: Tensor, linear: float, cubic: float
) -> tuple[Tensor, Tensor]:
    """The gradient [M, 2 I] of `gate_up` for that of `gated_act`'s result [M, I], and that result again."""
    (gate, up), gradient = gate_up.chunk(2, -1), torch.empty_like(gate_up)
    sigmoid = _sigmoid(gate, linear, cubic)
    value = sigmoid * gate
    # f'(g) = s + f(g) (1 - s) (linear + 3 cubic g^2)
    inner = gate.square().mul_(3 * cubic).add_(linear).mul_(value)
    slope = inner.addcmul_(inner, sigmoid, value=-1).add_(sigmoid)
    for_gate, for_up = gradient.chunk(2, -1)
    torch.mul(slope.mul_(up), upstream, out=for_gate)
    torch.mul(upstream, value, out=for_up)
    return gradient, value.mul_(up)


def _sigmoid(gate: Tensor, linear: float, cubic: float) -> Tensor:
    if not cubic:
        return gate.sigmoid()
    return gate.square().mul_(cubic).add_(linear).mul_(gate).sigmoid_()


def rope(x: Tensor, rope_cos_sin: Tensor, heads: int, out: Tensor) -> None:
    """Write x [M, heads or more, d] to `out` or itself, with RoPE by complex `rope_cos_sin` [M, d / 2]."""
    if out is not x:
        out.copy_(x)
    head = out[:, :heads]
    pairs = torch.view_as_complex(head.float().unflatten(-1, (-1, 2))).mul_(rope_cos_sin[:, None])
    if out.dtype != torch.float32:
        head.copy_(torch.view_as_real(pairs).flatten(-2))


def cross_entropy(logits: Tensor, targets: Tensor, softcap: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of `logits` [n, V] before the soft-cap: summed loss in fp32, first choices, and gradient [n, V]."""
    capped = softcap * torch.tanh(logits.float() / softcap) if softcap else logits
    top, right = capped.amax(-1, keepdim=True), capped.gather(-1, targets[:, None])
    slopes = capped.softmax(-1, dtype=torch.float32)
    # The largest probability is at least 1 / V, so its logarithm is finite; that of the target's may not be.
    total = (top.float() - slopes.amax(-1, keepdim=True).log() - right.float()).sum()
    slopes.scatter_add_(-1, targets[:, None], slopes.new_full((len(targets), 1), -1.0))
    if softcap:
        slopes *= 1 - (capped / softcap).square_()
    return total, (right >= top).sum(), slopes.to(logits.dtype)


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, prefix: Prefix, softcap: float | None
) -> Tensor:
    """Attention of scaled queries [n, T, heads, d] over [n, kv, L, d], masked [n, T, L]: [n, T, heads * d].

    The heads that share a key head are rows of one product: on a CPU faster than SDPA with `enable_gqa` (0.5
    against 1.3 ms a layer at n=256, L=128, one thread), and it allows soft-capping and a prefix that all rows
    share.
    """
    rows, width, heads, size = queries.shape
    kv, length = keys.shape[1:3]
    group = heads // kv
    queries = queries.unflatten(2, (kv, group)).permute(0, 2, 3, 1, 4).reshape(rows * kv, group * width, size)
    scores = torch.bmm(queries, keys.flatten(0, 1).transpose(1, 2))
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores.view(rows, kv * group, width, length).add_(mask.unsqueeze(1))
    if prefix:
        before = torch.einsum("nkqd,kpd->nkqp", queries.unflatten(0, (rows, kv)), prefix[0]).flatten(0, 1)
        scores = torch.cat((softcap * torch.tanh(before / softcap) if softcap else before, scores), -1)
    weights = scores.float().softmax(-1).to(values.dtype)
    mixed = torch.bmm(weights[..., -length:], values.flatten(0, 1))
    if prefix:
        before = weights[..., :-length].unflatten(0, (rows, kv))
        mixed += torch.einsum("nkqp,kpd->nkqd", before, prefix[1]).flatten(0, 1)
    return mixed.view(rows, kv, group, width, size).permute(0, 3, 1, 2, 4).reshape(rows, width, heads * size)


def causal_mask(width: int, window: int | None, like: Tensor) -> Tensor:
    """Added to scores [T, T]: 0 where a position sees another, within `window` if there is one, else -inf."""
    columns = torch.arange(width, device=like.device)
    distance = columns[:, None] - columns
    hidden = (distance < 0) | (distance >= (window or width))
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)


def rows_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """x [M, ...] and zeros up to a multiple of rows, or x itself where it has one."""
    missing = -len(x) % multiple
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, missing)) if missing else x
