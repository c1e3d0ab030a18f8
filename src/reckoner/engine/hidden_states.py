"""Hidden states that predict completion tokens: most of what training costs.

The packed pass runs packed weights with a gradient: few products, every token once (no padding, and no second
copy of a prompt for its second completion), and the last layer's MLP for completion positions only. `_plain`
asks the model itself. `engine/backend.py` says which one computes.
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
from reckoner.engine.ops import dispatch, torch_ops
from reckoner.engine.ops.numba_attention import Sequences
from reckoner.engine.ops.onednn_ops import ROW_MULTIPLE
from reckoner.engine.packed import SDPA_BACKENDS, KVCache, Layer, NativeModel
from reckoner.models.sharding import with_weights


def completion_states(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden states [N, H] after the final norm, where they predict the completion tokens of `batch`."""
    return with_weights(model, lambda: states_inside(model, batch))


def states_inside(model: nn.Module, batch: Batch) -> Tensor:
    """`completion_states` for a caller inside `with_weights`."""
    if batch.side == "left" or backend.modules_reason(model):
        return _plain(model, batch)
    embedding = model.get_input_embeddings().weight
    kind, dtype = embedding.device.type, embedding.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False), sdpa_kernel(SDPA_BACKENDS):
        # In bfloat16 the sum of a weight and its LoRA would round small updates away.
        folds = kind == "cpu" and dtype == torch.float32
        native = NativeModel(model, dtype, batch.input_ids.shape[1], folds)
        packed = PackedBatch(batch, len(native.weights.layers) - 1, native.weights.kv_heads)
        return native.hidden(packed.ids, packed.positions, packed)[: len(batch.rows)]


def _plain(model: nn.Module, batch: Batch) -> Tensor:
    inputs = {"input_ids": batch.input_ids}
    if batch.side == "left":
        inputs |= {"attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    # With padding on the right no real token follows it, so causal attention never sees it: no mask, and fast
    # kernels apply.
    return model.get_decoder()(**inputs, use_cache=False).last_hidden_state[batch.rows, batch.cols]


class PackedBatch(KVCache):
    """The `KVCache` of a pass without a past, over every token once: no padding, no prompt twice.

    Only attention may see padded rows; a prompt that several rows share is then copied to each of them.
    """

    def __init__(self, batch: Batch, last: int, kv: int) -> None:
        self.batch, self.last, self.kv = batch, last, kv
        # The first token fills the rows up, at least once. Its result is never read, so its gradient is zero,
        # which positions of padding and of copies then take as theirs.
        count = len(batch.unique_positions)
        self.filled = F.pad(batch.unique_positions, (0, ROW_MULTIPLE - count % ROW_MULTIPLE))
        self.sources = torch.full_like(batch.packed_index, count)
        self.sources[batch.unique_positions] = batch.packed_index[batch.unique_positions]
        self.ids, self.positions = (
            ids.flatten()[self.filled][None] for ids in (batch.input_ids, batch.position_ids)
        )
        self.rows, self.cols = (
            F.pad(index, (0, -len(index) % ROW_MULTIPLE)) for index in (batch.rows, batch.cols)
        )
        self.masks: dict[int | None, Tensor] = {}

    @cached_property
    def sequences(self) -> tuple[Sequences, Sequences]:
        """Which positions attend: every token once; in the last layer those from the first wanted one."""
        shape, ends = self.batch.input_ids.shape, self.batch.attention_mask.sum(1)
        tokens = self.batch.packed_index.view(shape)
        shared = torch.bincount(self.batch.shared_prefix_positions // shape[1], minlength=shape[0])
        wanted = torch.maximum(shared, ends - self.batch.lengths - 1)
        return Sequences(tokens, shared, ends), Sequences(tokens, wanted, ends)

    def attend(self, index: int, layer: Layer, heads: Tensor) -> Tensor:
        """Causal attention (see `KVCache`); in the last layer for wanted positions only, [N', ...]."""
        batch, window, softcap = self.batch, layer.window, layer.softcap
        if backend.use_packed_attention(heads[0], window, softcap):
            mixed = dispatch.attention(heads[0], self.sequences[index == self.last], self.kv)[None]
            return self.pick(mixed) if index == self.last else mixed
        rows = _ToRows.apply(
            heads[0], batch.packed_index, batch.unique_positions, batch.shared_prefix_positions
        ).unflatten(0, batch.input_ids.shape)
        queries, keys, values = rows.split((rows.shape[2] - 2 * self.kv, self.kv, self.kv), dim=2)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        if window is None and softcap is None:
            mixed = F.scaled_dot_product_attention(
                queries.transpose(1, 2), keys, values, is_causal=True, scale=1.0, enable_gqa=True
            )
            mixed = mixed.transpose(1, 2).flatten(2)
        else:
            if window not in self.masks:
                self.masks[window] = torch_ops.causal_mask(rows.shape[1], window, queries)[None]
            mixed = torch_ops.attention(queries, keys, values, self.masks[window], None, softcap)
        if index == self.last:
            return mixed[self.rows, self.cols]
        return _FromRows.apply(mixed.flatten(0, 1), self.filled, self.sources)[None]

    def pick(self, x: Tensor) -> Tensor:
        """The positions of x [1, M, ...] that predict completion tokens, as [N', ...]: N, and fillers."""
        positions = self.rows * self.batch.input_ids.shape[1] + self.cols
        return x[0].index_select(0, self.batch.packed_index[positions])


class _ToRows(torch.autograd.Function):
    """Tokens [M, ...] to positions of padded rows [B * T, ...]; a token gets the gradients of its copies.

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


class _FromRows(torch.autograd.Function):
    """Positions [B * T, ...] to tokens [M, ...]; without a token a position takes the last one's gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, filled: Tensor, sources: Tensor) -> Tensor:
        ctx.save_for_backward(sources)
        return rows.index_select(0, filled)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return upstream.index_select(0, ctx.saved_tensors[0]), None, None
