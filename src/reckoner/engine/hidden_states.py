"""Hidden states that predict completion tokens: what log-probs and values are made of, and most of what training costs.

Two ways to the same numbers. One runs the packed weights of `packing` with a gradient: few products, every token once (no
padding, no prompt a second time for its second completion), and the last layer's MLP for completion positions only. It is
for models that `packing` knows, on a CPU in fp32 and on a GPU. `_plain` asks the model itself.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from reckoner.engine import backend
from reckoner.engine.batches import Batch
from reckoner.engine.ops import numba_ops as compiled
from reckoner.engine.ops.numba_attention import Sequences, attention
from reckoner.engine.ops.onednn import ROW_MULTIPLE
from reckoner.engine.packed.forward import KERNELS, NativeModel, attend, causal_mask
from reckoner.engine.packed.weights import Layer


def completion_states(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden states [N, H] after the final norm, at the positions that predict the completion tokens of `batch`."""
    if batch.side == "left" or backend.modules_reason(model):
        return _plain(model, batch)
    return _packed(model, batch)


def _packed(model: nn.Module, batch: Batch) -> Tensor:
    embedding = model.get_input_embeddings().weight
    kind, dtype = embedding.device.type, embedding.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False), sdpa_kernel(KERNELS):
        native = NativeModel(model, dtype, batch.input_ids.shape[1], fold=kind == "cpu")
        tokens = PackedBatch(batch, len(native.weights.layers) - 1, native.weights.kv_heads)
        return native.hidden(tokens.ids, tokens.positions, tokens)[: len(batch.rows)]


def _plain(model: nn.Module, batch: Batch) -> Tensor:
    decoder = model.get_decoder()
    if batch.side == "right":
        # No real token follows padding, so causal attention never sees it: no mask, and the fast kernels apply.
        states = decoder(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    else:
        states = decoder(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
    return states[batch.rows, batch.cols]


class PackedBatch:
    """The memory of a pass without a past (see `native.Memory`), over every token once: no padding, and no second copy of a prompt.

    Attention alone sees rows; a prompt that several of them begin with is spread to each. Completion positions go on after it.
    """

    def __init__(self, batch: Batch, last: int, kv: int) -> None:
        self.batch, self.last, self.kv = batch, last, kv
        # Filled with the first token again, once at least. Nobody reads what becomes of it, so its gradient is zero, and it
        # lends that to the places of padding and of copies.
        count = len(batch.unique_positions)
        self.filled = F.pad(batch.unique_positions, (0, ROW_MULTIPLE - count % ROW_MULTIPLE))
        self.sources = torch.full_like(batch.packed_index, count)
        self.sources[batch.unique_positions] = batch.packed_index[batch.unique_positions]
        self.ids, self.positions = (
            ids.flatten()[self.filled][None] for ids in (batch.input_ids, batch.position_ids)
        )
        self.rows, self.cols = (
            F.pad(places, (0, -len(places) % ROW_MULTIPLE)) for places in (batch.rows, batch.cols)
        )
        self.masks: dict[int | None, Tensor] = {}

    @cached_property
    def sequences(self) -> tuple[Sequences, Sequences]:
        """What attends to what: every token once, and in the last layer only from where the first completion token is predicted."""
        shape, ends = self.batch.input_ids.shape, self.batch.attention_mask.sum(1)
        tokens, unique_positions = (
            self.batch.packed_index.view(shape),
            torch.bincount(self.batch.shared_prefix_positions // shape[1], minlength=shape[0]),
        )
        wanted = torch.maximum(unique_positions, ends - self.batch.lengths - 1)
        return Sequences(tokens, unique_positions, ends), Sequences(tokens, wanted, ends)

    def attend(self, index: int, layer: Layer, heads: Tensor) -> Tensor:
        """Causal attention of `heads` (see `native.Memory`); of the last layer for the wanted positions alone, [N', query heads * d]."""
        shape, plain = self.batch.input_ids.shape, layer.window is None and layer.softcap is None
        if plain and compiled.takes(heads[0]):
            mixed = attention(heads[0], self.sequences[index == self.last], self.kv)[None]
            return self.pick(mixed) if index == self.last else mixed
        rows = _Spread.apply(
            heads[0], self.batch.packed_index, self.batch.unique_positions, self.batch.shared_prefix_positions
        ).unflatten(0, shape)
        queries, keys, values = rows.split((rows.shape[2] - 2 * self.kv, self.kv, self.kv), dim=2)
        if plain:
            parts = (part.transpose(1, 2) for part in (queries, keys, values))
            mixed = (
                F.scaled_dot_product_attention(*parts, is_causal=True, scale=1.0, enable_gqa=True)
                .transpose(1, 2)
                .flatten(2)
            )
        else:
            if layer.window not in self.masks:
                self.masks[layer.window] = causal_mask(shape[1], layer.window, queries)[None]
            mixed = attend(
                queries,
                keys.transpose(1, 2),
                values.transpose(1, 2),
                self.masks[layer.window],
                None,
                layer.softcap,
            )
        if index == self.last:
            return mixed[self.rows, self.cols]
        return _Gather.apply(mixed.flatten(0, 1), self.filled, self.sources)[None]

    def pick(self, x: Tensor) -> Tensor:
        """The positions of [1, M, ...] that predict completion tokens, as [N', ...]: N, and the first one again up to a full `ROW_MULTIPLE`."""
        return x[0].index_select(
            0, self.batch.packed_index[self.rows * self.batch.input_ids.shape[1] + self.cols]
        )


class _Spread(torch.autograd.Function):
    """Tokens [M, ...] to the places of padded rows [B * T, ...]; back come the gradients of their own places and of the copies.

    Autograd's own backward of `index_select` adds row after row, also where nothing is copied.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        packed_index: Tensor,
        unique_positions: Tensor,
        shared_prefix_positions: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(packed_index, unique_positions, shared_prefix_positions)
        ctx.shape = tokens.shape
        return tokens.index_select(0, packed_index)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        packed_index, unique_positions, shared_prefix_positions = ctx.saved_tensors
        gradient = upstream.new_empty(ctx.shape)
        torch.index_select(upstream, 0, unique_positions, out=gradient[: len(unique_positions)])
        gradient[len(unique_positions) :] = 0
        if len(shared_prefix_positions):
            gradient.index_add_(
                0, packed_index[shared_prefix_positions], upstream.index_select(0, shared_prefix_positions)
            )
        return gradient, None, None, None


class _Gather(torch.autograd.Function):
    """Places [B * T, ...] to tokens [M, ...]; back come gradients by the token that each place was, the last one for none."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, filled: Tensor, sources: Tensor) -> Tensor:
        ctx.save_for_backward(sources)
        return rows.index_select(0, filled)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return upstream.index_select(0, ctx.saved_tensors[0]), None, None
