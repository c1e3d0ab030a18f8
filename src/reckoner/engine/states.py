"""Hidden states that predict completion tokens: what log-probs and values are made of, and most of what training costs.

Two ways to the same numbers. `_native` runs the packed weights of `packing` with a gradient: q, k and v in one product, gate
and up in one, LoRA folded into the weight it changes, and the last layer's MLP for completion positions only. `_plain` asks
the model itself. The first is for a CPU in fp32, where it was measured, and for models that `packing` knows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reckoner.engine.batches import Batch
from reckoner.engine.native import NativeModel, attend, causal_mask
from reckoner.engine.packing import Layer, unsupported


def completion_states(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden states [N, H] after the final norm, at the positions that predict the completion tokens of `batch`."""
    if batch.side == "right" and not _needs_modules(model):
        places = batch.rows * batch.input_ids.shape[1] + batch.cols
        native = NativeModel(model, torch.float32, batch.input_ids.shape[1])
        return native.hidden(batch.input_ids, batch.position_ids, _Rows(places, len(native.weights.layers) - 1))
    return _plain(model, batch)


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


def _needs_modules(model: nn.Module) -> bool:
    """Whether only the model's own forward pass will do: a GPU, low precision, dropout, recomputation, an unknown architecture."""
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return True
    busy = (module for module in model.modules() if module.training)
    return any(_random(module) or getattr(module, "gradient_checkpointing", False) for module in busy) or bool(unsupported(model))


def _random(module: nn.Module) -> bool:
    return bool(getattr(module, "p", 0) if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0))


class _Rows:
    """The memory of a pass without a past (see `native.Memory`): each row attends to itself, completion positions go on."""

    def __init__(self, places: Tensor, last: int) -> None:
        """`places` index the flattened [B, T] positions wanted after layer `last`."""
        self.places, self.last = places, last
        self.masks: dict[int | None, Tensor] = {}

    def attend(self, index: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Causal attention of [B, T, heads, d], as [B, T, heads * d]; for the wanted positions alone, [N, heads * d], if last."""
        if layer.window is None and layer.softcap is None:
            heads = (part.transpose(1, 2) for part in (queries, keys, values))
            mixed = F.scaled_dot_product_attention(*heads, is_causal=True, scale=1.0, enable_gqa=True).transpose(1, 2).flatten(2)
        else:
            if layer.window not in self.masks:
                self.masks[layer.window] = causal_mask(queries.shape[1], layer.window, queries)[None]
            mixed = attend(queries, keys.transpose(1, 2), values.transpose(1, 2), self.masks[layer.window], None, layer.softcap)
        return self.pick(mixed) if index == self.last else mixed

    def pick(self, x: Tensor) -> Tensor:
        """The wanted positions of [B, T, ...], as [N, ...]."""
        return x.flatten(0, 1).index_select(0, self.places)
