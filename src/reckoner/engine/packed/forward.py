"""The forward pass of a decoder on packed weights, with keys and values kept wherever the caller wants them.

What is saved against the module's own forward: q, k and v are one product, gate and up are one product, RoPE is one
complex product, and the last layer works for the last position of a prompt only. Products are in the dtype of the weights;
what layers add up to is in fp32 whatever that is, here as under autocast.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from reckoner.engine.ops.autograd import apply_rope
from reckoner.engine.ops.onednn import ONEDNN_MIN_ROWS, ROW_MULTIPLE, rows_to_multiple
from reckoner.engine.packed.weights import Layer, pack

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention on a GPU. cuDNN's, which torch would take, is prepared anew, a tenth of a second long, for every shape it meets."""
DECODE_ROW_MULTIPLE, DECODE_MAX_ROWS = 16, 512
"""Up to `DECODE_MAX_ROWS` rows, as a decoding step has, passes are filled up to a multiple of `DECODE_ROW_MULTIPLE`: 64 would be a tenth more of it."""
ALIGNED = 16
"""A GPU's attention reads a mask whose rows begin at multiples of this many numbers."""

Prefix = tuple[Tensor, Tensor] | None
"""Keys and values [kv heads, P, head size] of one layer that every row sees before its own."""


class KVCache(Protocol):
    """Where a forward pass keeps keys and values."""

    def attend(self, index: int, layer: Layer, heads: Tensor) -> Tensor:
        """Attention of the queries in `heads` [n, T, query heads + 2 kv heads, d], as [n, T, query heads * d].

        The new keys and values, which follow the queries, are kept. In the last layer only of the positions that `pick` picks.
        """

    def pick(self, x: Tensor) -> Tensor:
        """Of [n, T, H], the positions whose hidden states are wanted."""


class NativeModel:
    """A packed copy of a supported model's weights in one dtype, and its forward pass."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, positions: int, fold: bool = True) -> None:
        """Pack `model` for sequences of up to `positions` tokens; `fold` as in `pack`. `unsupported(model)` must be empty."""
        self.weights = pack(model, dtype, fold)
        self.dtype, self.positions, self.device = dtype, positions, self.weights.embedding.device
        self.rope_cos_sin = {
            kind: _rope_table(*found, positions) for kind, found in self.weights.frequencies.items()
        }

    def hidden(self, ids: Tensor, positions: Tensor, memory: KVCache) -> Tensor:
        """Hidden states of `ids` [n, T] at `positions` [n, T], those that `memory` picks; it keeps keys and values."""
        weights, shape = self.weights, ids.shape
        x = F.embedding(self._filled(ids.flatten()), weights.embedding).float()
        if weights.embedding_scale != 1:
            x = x * weights.embedding_scale
        positions = self._filled(positions.flatten())
        rope_cos_sin = {kind: table[positions] for kind, table in self.rope_cos_sin.items()}
        norms = [*(layer.attention_norm for layer in weights.layers[1:]), weights.norm]
        normed = weights.layers[0].attention_norm(x)
        for index, (layer, following) in enumerate(zip(weights.layers, norms, strict=True)):
            heads = self._heads(layer, normed, rope_cos_sin[layer.kind])[: ids.numel()].unflatten(0, shape)
            mixed = memory.attend(index, layer, heads).flatten(0, -2)
            if layer is weights.layers[-1]:
                x = memory.pick(x[: ids.numel()].unflatten(0, shape))
                count, x = len(x), self._filled(x)
            mixed = layer.out(self._filled(mixed))
            x, normed = layer.mlp_norm.of_sum(
                x, layer.after_attention(mixed) if layer.after_attention else mixed
            )
            mixed = layer.mlp(normed)
            x, normed = following.of_sum(x, layer.after_mlp(mixed) if layer.after_mlp else mixed)
        return normed[:count]

    def _heads(self, layer: Layer, normed: Tensor, rope_cos_sin: Tensor) -> Tensor:
        """Queries, keys (both turned) and values of a layer, side by side: [M, query heads + 2 kv heads, head size]."""
        size, sizes = (
            self.weights.head_size,
            (self.weights.query_heads, self.weights.kv_heads, self.weights.kv_heads),
        )
        qkv = layer.qkv(normed)
        if layer.query_norm:
            queries, keys, values = qkv.unflatten(-1, (-1, size)).split(sizes, dim=1)
            qkv = torch.cat(
                [part.flatten(1) for part in (layer.query_norm(queries), layer.key_norm(keys), values)], -1
            )
        return apply_rope(qkv, rope_cos_sin, sum(sizes[:2]), size).view(len(normed), -1, size)

    def _filled(self, x: Tensor) -> Tensor:
        """x [M, ...] and zeros up to a number of rows that a CPU meets again, for the reason given at `products.ROW_MULTIPLE`."""
        return (
            rows_to_multiple(x, DECODE_ROW_MULTIPLE if len(x) <= DECODE_MAX_ROWS else ROW_MULTIPLE)
            if x.device.type == "cpu" and len(x) >= ONEDNN_MIN_ROWS
            else x
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits [n, V] of hidden states [n, H]."""
        logits, cap = (
            self.weights.head(self._filled(hidden))[: len(hidden)].float(),
            self.weights.logit_softcap,
        )
        return cap * torch.tanh(logits / cap) if cap else logits


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    prefix: Prefix,
    softcap: float | None,
) -> Tensor:
    """Attention of [n, T, heads, d] over [n, kv, L, d] with mask [n, T, L], as [n, T, heads * d].

    The heads that share a key head are rows of one product: on CPU faster than SDPA with `enable_gqa` (0.5 against
    1.3 ms a layer at n=256, L=128, one thread), and it allows soft-capping and a prefix that all rows share.
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


def _rope_table(frequencies: Tensor, factor: float, positions: int) -> Tensor:
    """The complex rotations [positions, head size / 2]."""
    angles = torch.arange(positions, device=frequencies.device)[:, None] * frequencies.float()
    return torch.polar(torch.full_like(angles, factor), angles)


def causal_mask(width: int, window: int | None, like: Tensor) -> Tensor:
    """What is added to scores [T, T]: 0 where a position sees another, within `window` if there is one, else -inf."""
    columns = torch.arange(width, device=like.device)
    distance = columns[:, None] - columns
    hidden = (distance < 0) | (distance >= (window or width))
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
