"""Token ids to batches: padding, positions and completion masks, from lengths and never from token values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Literal

import torch
from torch import Tensor, nn

from reckoner.models.sharding import level

Side = Literal["left", "right"]

CPU_PASS_STATES = 2**25
"""Hidden states, in numbers of all layers, of passes at once on a CPU: 1 GB of activations in bfloat16."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the tokens to learn or score after it, including the stop token."""

    id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """`B` padded sequences of width `T` with `N` completion tokens, numbered row by row.

    Completion token `n` is `targets[n]`, and the hidden state at `(rows[n], cols[n])` predicts it. Of the `B
    * T` positions, `M` hold a token that must be computed. With padding on the right, `C` hold a prompt's
    token that an earlier row holds too.
    """

    input_ids: Tensor  # [B, T]
    attention_mask: Tensor  # [B, T], 1 for a token and 0 for padding
    position_ids: Tensor  # [B, T], from 0 at the first token of each sequence
    rows: Tensor  # [N]
    cols: Tensor  # [N]
    targets: Tensor  # [N]
    lengths: Tensor  # [B], completion tokens of each row
    unique_positions: Tensor  # [M], positions of tokens to compute, ascending
    shared_prefix_positions: Tensor  # [C], positions of tokens that an earlier row computes
    packed_index: Tensor  # [B * T], index in `unique_positions` of each token; any for padding
    side: Side = "right"  # where the padding is


def collate(
    examples: Sequence[Example], pad_id: int, device: torch.device | str = "cpu", side: Side = "right"
) -> Batch:
    """Pad `examples` to one `Batch` on `device`.

    Masks come from lengths, so `pad_id` may equal any token, eos included. No examples are a batch of one
    token, which is masked. Raises `ValueError` for an empty prompt: its first completion token would have no
    position to be predicted from.
    """
    if not examples:
        nothing = collate([Example("", (pad_id,), ())], pad_id, device, side)
        return replace(nothing, attention_mask=torch.zeros_like(nothing.attention_mask))
    if not all(example.prompt_ids for example in examples):
        raise ValueError("an example with an empty prompt has nothing to predict its first token from")
    prompts = torch.tensor([len(example.prompt_ids) for example in examples])
    lengths = torch.tensor([len(example.completion_ids) for example in examples])
    flat = torch.tensor(list(chain.from_iterable((*e.prompt_ids, *e.completion_ids) for e in examples)))
    totals = prompts + lengths
    seen: dict[tuple[int, ...], int] = {}
    origin = torch.tensor([seen.setdefault(example.prompt_ids, row) for row, example in enumerate(examples)])
    width = int(totals.max())
    starts = width - totals if side == "left" else torch.zeros_like(totals)

    offsets = torch.arange(width) - starts[:, None]
    mask = (offsets >= 0) & (offsets < totals[:, None])
    input_ids = torch.full(mask.shape, pad_id).masked_scatter_(mask, flat)

    rows = torch.repeat_interleave(lengths)
    within = torch.arange(len(rows)) - (lengths.cumsum(0) - lengths)[rows]
    cols = (starts + prompts)[rows] + within - 1
    repeats = (origin != torch.arange(len(origin)))[:, None] & (side == "right")
    shared = mask & (offsets < prompts[:, None]) & repeats
    unique = mask & ~shared
    packed_index = unique.flatten().cumsum(0).view_as(unique) - 1
    packed_index = torch.where(shared, packed_index[origin], packed_index).flatten()

    def send(tensor: Tensor) -> Tensor:
        """Copy to `device`; for CUDA pinned and asynchronous, so that it overlaps with computation."""
        return tensor.pin_memory().to(device, non_blocking=True) if cuda else tensor.to(device)

    cuda = torch.device(device).type == "cuda"
    return Batch(
        input_ids=send(input_ids),
        attention_mask=send(mask.long()),
        position_ids=send(offsets.clamp(min=0)),
        rows=send(rows),
        cols=send(cols),
        targets=send(input_ids[rows, cols + 1]),
        lengths=send(lengths),
        unique_positions=send(unique.flatten().nonzero()[:, 0]),
        shared_prefix_positions=send(shared.flatten().nonzero()[:, 0]),
        packed_index=send(packed_index),
        side=side,
    )


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, pool: int = 32
) -> list[list[int]]:
    """Indices of one epoch in batches of `batch_size`; every index once, the last partial batch kept.

    The order is a pure function of the arguments. Every `pool` batches of the shuffled data are sorted by
    length before they are cut, so that a batch pads little; then the batches are shuffled.
    """
    order = sorted(range(len(lengths)), key=lambda i: _draw(seed, epoch, i))
    span = pool * batch_size
    pools = (sorted(order[at : at + span], key=lengths.__getitem__) for at in range(0, len(order), span))
    batches = [each[at : at + batch_size] for each in pools for at in range(0, len(each), batch_size)]
    return sorted(batches, key=lambda batch: _draw(seed, epoch, batch[0], "batch"))


def _draw(*key: object) -> bytes:
    """Eight random bytes that depend on `key` alone, not on a generator's state or a library's version."""
    return hashlib.blake2b(repr(key).encode(), digest_size=8).digest()


def forward_passes(
    examples: Sequence[Example], size: int, model: nn.Module, at_once: int = 1
) -> list[Sequence[Example]]:
    """`examples` in their order, `size` in a pass of `model`, or as many as memory allows on a CPU.

    There `at_once` passes run side by side, and 1,000 tokens of a large model keep the products busy. A rank
    that shares the weights with others gets as many passes as they, its last ones empty.
    """
    passes: list[Sequence[Example]] = []
    config = model.config.get_text_config()
    limit = CPU_PASS_STATES // (config.hidden_size * config.num_hidden_layers * at_once)
    cuts = model.get_input_embeddings().weight.device.type == "cpu"
    for start in range(0, len(examples), size):
        rest = examples[start : start + size]
        while rest:
            totals = accumulate(map(len, rest))
            count = sum(total <= limit for total in totals) if cuts else len(rest)
            passes.append(rest[: max(1, count)])
            rest = rest[max(1, count) :]
    return level(model, passes)


def micro_batches(indices: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut one optimizer step into forward batches of at most `max_tokens` tokens, padding included.

    Sequences of similar length share a pass. The longest come first, so that memory peaks at once. A sequence
    longer than the limit gets a pass of its own. `lengths` is indexed by the members of `indices`.
    """
    batches: list[list[int]] = []
    for index in sorted(indices, key=lengths.__getitem__, reverse=True):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
