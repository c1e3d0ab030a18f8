"""The forward pass of a decoder on packed weights, with keys and values kept wherever the caller wants them.

It saves work against the module's own forward: q, k and v are one product, gate and up are one product, RoPE
is one complex product, and the last layer computes only the positions that are wanted. Products are in the
dtype of the weights. The sum of the layers is always in fp32, as under autocast.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from reckoner.engine.ops.dispatch import rope
from reckoner.engine.ops.onednn_ops import ONEDNN_MIN_ROWS, ROW_MULTIPLE
from reckoner.engine.ops.torch_ops import rows_to_multiple
from reckoner.engine.packed.weights import Layer, pack

SDPA_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention on a GPU, without cuDNN's, which takes a tenth of a second to prepare for each new shape."""
DECODE_ROW_MULTIPLE, DECODE_MAX_ROWS = 16, 512
"""Up to `DECODE_MAX_ROWS` rows, as in a decoding step, rows are filled up to a multiple of
`DECODE_ROW_MULTIPLE`.

A multiple of 64 would cost such a step a tenth more.
"""
MASK_ALIGNMENT = 16
"""A GPU's attention reads a mask whose rows begin at multiples of this many numbers."""


class KVCache(Protocol):
    """Where a forward pass keeps keys and values."""

    def attend(self, index: int, layer: Layer, heads: Tensor) -> Tensor:
        """Attention of the queries in `heads` [n, T, query heads + 2 kv heads, d], as [n, T, query heads *
        d].

        The new keys and values, which follow the queries, are kept. The last layer attends from the positions
        of `pick` only.
        """

    def pick(self, x: Tensor) -> Tensor:
        """The wanted positions of x [n, T, H]."""


class NativeModel:
    """A packed copy of a supported model's weights in one dtype, and its forward pass."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, positions: int, fold: bool = True) -> None:
        """Pack a model that is not `unsupported`, for up to `positions` tokens; `fold` as in `pack`."""
        self.weights = pack(model, dtype, fold)
        self.dtype, self.positions, self.device = dtype, positions, self.weights.embedding.device
        self.rope_cos_sin = {
            kind: _rope_table(*frequencies, positions)
            for kind, frequencies in self.weights.frequencies.items()
        }

    def hidden(self, ids: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Hidden states [..., H] of `ids` [n, T] at `positions` [n, T], of those that `cache` picks."""
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
            mixed = cache.attend(index, layer, heads).flatten(0, -2)
            if layer is weights.layers[-1]:
                x = cache.pick(x[: ids.numel()].unflatten(0, shape))
                count, x = len(x), self._filled(x)
            mixed = layer.out(self._filled(mixed))
            mixed = layer.after_attention(mixed) if layer.after_attention else mixed
            x, normed = layer.mlp_norm.add(x, mixed)
            mixed = layer.mlp(normed)
            x, normed = following.add(x, layer.after_mlp(mixed) if layer.after_mlp else mixed)
        return normed[:count]

    def _heads(self, layer: Layer, normed: Tensor, rope_cos_sin: Tensor) -> Tensor:
        """Queries and keys with RoPE, and values, of a layer: [M, query heads + 2 kv heads, head size]."""
        size, kv = self.weights.head_size, self.weights.kv_heads
        sizes = self.weights.query_heads, kv, kv
        qkv = layer.qkv(normed)
        if layer.query_norm:
            queries, keys, values = qkv.unflatten(-1, (-1, size)).split(sizes, dim=1)
            normed_heads = layer.query_norm(queries), layer.key_norm(keys), values
            qkv = torch.cat([each.flatten(1) for each in normed_heads], -1)
        return rope(qkv, rope_cos_sin, sum(sizes[:2]), size).view(len(normed), -1, size)

    def _filled(self, x: Tensor) -> Tensor:
        """x [M, ...] and zeros up to a number of rows that a CPU meets again (see `ROW_MULTIPLE`)."""
        if x.device.type != "cpu" or len(x) < ONEDNN_MIN_ROWS:
            return x
        return rows_to_multiple(x, DECODE_ROW_MULTIPLE if len(x) <= DECODE_MAX_ROWS else ROW_MULTIPLE)

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits [n, V] of hidden states [n, H]."""
        cap = self.weights.logit_softcap
        logits = self.weights.head(self._filled(hidden))[: len(hidden)].float()
        return cap * torch.tanh(logits / cap) if cap else logits


def _rope_table(frequencies: Tensor, factor: float, positions: int) -> Tensor:
    """The complex rotations [positions, head size / 2]."""
    angles = torch.arange(positions, device=frequencies.device)[:, None] * frequencies.float()
    return torch.polar(torch.full_like(angles, factor), angles)
