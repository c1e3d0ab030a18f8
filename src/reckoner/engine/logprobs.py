"""Log-probability, entropy and cross-entropy of completion tokens.

Only hidden states that predict a completion token go through the LM head, and where rows x vocabulary is
large they go in chunks, so `[B, T, V]` never exists and `[N, V]` never as a whole. Log-softmax is in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reckoner.engine.batches import Batch
from reckoner.engine.hidden_states import completion_states as completion_states
from reckoner.engine.hidden_states import states_inside
from reckoner.engine.ops import torch_ops
from reckoner.engine.ops.dispatch import fill_rows, linear, product, weight_gradient
from reckoner.models.families import has_plain_head
from reckoner.models.sharding import with_weights

CHUNK_ELEMENTS = {"cpu": 2**26, "cuda": 2**28}
"""Logits held at once: 256 MiB in fp32, and 1 GiB on a GPU, where small products waste it."""
LOSS_ROWS = {torch.float32: 256, torch.bfloat16: 1024}
"""Rows of logits whose gradient a CPU computes at once; in fp32 a small vocabulary's stay in the cache."""


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Values for each of the `N` completion tokens of a batch, fp32, at the temperature asked for."""

    logprobs: Tensor  # [N], nats
    entropy: Tensor | None  # [N], nats
    top1: Tensor  # [N], bool: no token was more likely than the target


@dataclass(frozen=True, slots=True)
class Head:
    """Turns features `[n, H]` into fp32 logits `[n, V]`; without a weight the features are the logits."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    softcap: float | None = None
    temperature: float = 1.0

    def __call__(self, features: Tensor) -> Tensor:
        logits = features
        if self.weight is not None:
            logits = linear(fill_rows(features), self.weight, self.bias)[: len(features)]
        logits = logits.float()
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits if self.temperature == 1 else logits / self.temperature


def completion_logprobs(
    model: nn.Module,
    batch: Batch,
    temperature: float = 1.0,
    with_entropy: bool = False,
    states: Tensor | None = None,
) -> TokenStats:
    """Log-probs of the completion tokens of `batch` under `softmax(logits / temperature)`, differentiable.

    Chunks of a large vocabulary are recomputed in the backward pass, so memory stays at one chunk of logits.
    `temperature` must be above 0. `states` [N, H], where they are known already, are
    `completion_states(model, batch)`.
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature}: log-probs need a temperature above 0")

    def compute() -> tuple[Tensor, Tensor | None, Tensor]:
        return _scores(*_features(model, batch, temperature, states), batch.targets, with_entropy)

    return TokenStats(*with_weights(model, compute))


def _scores(
    features: Tensor, head: Head, targets: Tensor, with_entropy: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Log-probs, entropy and first choice of each row, chunk after chunk where all logits would be large."""
    rows = _rows(features, head)
    if len(features) <= rows:
        return _score(head, features, targets, with_entropy)
    scores = (
        checkpoint(_score, head, *chunk, with_entropy, use_reentrant=False)
        for chunk in zip(features.split(rows), targets.split(rows), strict=True)
    )
    logprobs, entropy, top1 = zip(*scores, strict=True)
    return torch.cat(logprobs), torch.cat(entropy) if with_entropy else None, torch.cat(top1)


def cross_entropy(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The sum of `-log p` over the `N` completion tokens, differentiable, and the number of first choices.

    Neither is divided by a count: the caller divides once by the tokens of the whole optimizer step. Chunk
    after chunk of rows gets its gradient in the forward pass (3 products with the head, where to compute it
    again would be a fourth).
    """
    return with_weights(model, lambda: _cross_entropy(model, batch))


def _cross_entropy(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    features, head = _features(model, batch, 1.0, None)
    if head.weight is None:
        return _loss(head, features, batch.targets)
    rows = _rows(features, head)
    if not torch.is_grad_enabled():
        chunks = zip(features.split(rows), batch.targets.split(rows), strict=True)
        losses, hits = zip(*(_loss(head, *chunk) for chunk in chunks), strict=True)
        return torch.stack(losses).sum(), torch.stack(hits).sum()
    features = features.to(head.weight.dtype)
    rows = rows if features.is_cuda else min(rows, LOSS_ROWS.get(features.dtype, rows))
    return _ChunkedLoss.apply(features, head.weight, head.bias, head.softcap, batch.targets, rows)


def _features(
    model: nn.Module, batch: Batch, temperature: float, states: Tensor | None
) -> tuple[Tensor, Head]:
    """The inputs of the head, and the head of `model` at `temperature`."""
    if not has_plain_head(model):
        ids, mask, positions = batch.input_ids, batch.attention_mask, batch.position_ids
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        return logits[batch.rows, batch.cols], Head(temperature=temperature)
    head = model.get_output_embeddings()
    states = states_inside(model, batch) if states is None else states
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return states, Head(_compute_copy(head.weight), _compute_copy(head.bias), softcap, temperature)


def _compute_copy(tensor: Tensor | None) -> Tensor | None:
    """The tensor in autocast's dtype, converted once instead of once a chunk."""
    if tensor is None or not torch.is_autocast_enabled(tensor.device.type):
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))


def _rows(features: Tensor, head: Head) -> int:
    """Rows of a chunk: as many as the limit allows, at least one."""
    if head.weight is None:
        return max(1, len(features))
    return max(1, CHUNK_ELEMENTS["cuda" if features.is_cuda else "cpu"] // head.weight.shape[0])


def _score(
    head: Head, features: Tensor, targets: Tensor, with_entropy: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    logits = head(features)
    if not with_entropy:
        return -F.cross_entropy(logits, targets, reduction="none"), None, _first_choice(logits, targets)
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(-1, targets[:, None])[:, 0], entropy, _first_choice(logits, targets)


def _loss(head: Head, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = head(features)
    return F.cross_entropy(logits, targets, reduction="sum"), _first_choice(logits, targets).sum()


@torch.no_grad()
def _first_choice(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether no logit is above the target's; by `amax`, because CPU `argmax` is slow."""
    return logits.gather(-1, targets[:, None])[:, 0] >= logits.amax(-1)


class _ChunkedLoss(torch.autograd.Function):
    """`_loss` over chunks of rows, whose gradients are made in the forward pass and kept for the backward.

    They are written out, because autograd's would read and write a chunk of logits twice as often.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        targets: Tensor,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[:3]
        for_features = torch.empty_like(features) if wanted[0] else None
        for_weight = None
        for_bias = torch.zeros_like(bias) if wanted[2] else None
        losses, hits, at = [], [], 0
        for chunk, chunk_targets in zip(features.split(rows), targets.split(rows), strict=True):
            count, whole = len(chunk), fill_rows(chunk)
            logits = linear(whole, weight, bias)[:count]
            loss, right, slopes = torch_ops.cross_entropy(logits, chunk_targets, softcap)
            slopes = fill_rows(slopes)
            losses.append(loss)
            hits.append(right)
            if for_features is not None:
                for_features[at : at + count] = product(slopes, weight.T)[:count]
            if wanted[1]:
                for_weight = weight_gradient(slopes, whole, for_weight)
            if for_bias is not None:
                for_bias += slopes.sum(0)
            at += count
        ctx.save_for_backward(for_features, for_weight, for_bias)
        total_hits = torch.stack(hits).sum()
        ctx.mark_non_differentiable(total_hits)
        return torch.stack(losses).sum(), total_hits

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if grad is None else grad * upstream for grad in ctx.saved_tensors)
        return *gradients, None, None, None
