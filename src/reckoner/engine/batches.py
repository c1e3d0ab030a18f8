"""Token ids to batches: padding, positions and completion masks, all from lengths and never from token values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the tokens to learn or score after it, the stop token among them."""

    id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """`B` padded sequences of width `T` with `N` completion tokens, numbered row by row.

    Completion token `n` is `targets[n]`, and the hidden state at `(rows[n], cols[n])` predicts it. Of the `B * T` places,
    `M` hold a token that must be computed, and `C` one of a prompt that an earlier row has too (with padding on the right).
    """

    input_ids: Tensor  # [B, T]
    attention_mask: Tensor  # [B, T], 1 for a token and 0 for padding
    position_ids: Tensor  # [B, T], from 0 at the first token of each sequence
    rows: Tensor  # [N]
    cols: Tensor  # [N]
    targets: Tensor  # [N]
    lengths: Tensor  # [B], completion tokens of each row
    unique_positions: Tensor  # [M], the places of tokens to compute, ascending
    shared_prefix_positions: Tensor  # [C], the places of tokens that an earlier row computes
    packed_index: Tensor  # [B * T], for each place the index in `own` of its token; padding has any
    side: Side = "right"  # where the padding is


def collate(
    examples: Sequence[Example], pad_id: int, device: torch.device | str = "cpu", side: Side = "right"
) -> Batch:
    """Pad `examples` to one `Batch` on `device`.

    Masks come from lengths, so `pad_id` may equal any token, eos included. Raises `ValueError` for an empty
    prompt: its first completion token would have no position to be predicted from.
    """
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
    shared_prefix_positions = (
        mask
        & (offsets < prompts[:, None])
        & (origin != torch.arange(len(origin)))[:, None]
        & (side == "right")
    )
    unique_positions = mask & ~shared_prefix_positions
    packed_index = unique_positions.flatten().cumsum(0).view_as(unique_positions) - 1
    packed_index = torch.where(shared_prefix_positions, packed_index[origin], packed_index).flatten()
    places = (part.flatten().nonzero()[:, 0] for part in (unique_positions, shared_prefix_positions))
    tensors = (
        input_ids,
        mask.long(),
        offsets.clamp(min=0),
        rows,
        cols,
        input_ids[rows, cols + 1],
        lengths,
        *places,
        packed_index,
    )
    return Batch(*(_send(tensor, device) for tensor in tensors), side=side)


def _send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy to `device`; pinned and asynchronous for CUDA, so that the next batch is copied while this one computes."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, pool: int = 32
) -> list[list[int]]:
    """Indices of one epoch in batches of `batch_size`; every index once, the last partial batch kept.

    The order is a pure function of the arguments. Each run of `pool` batches of the shuffled data is sorted by
    length before it is cut, so that a batch pads little, and then the batches are shuffled.
    """
    order = sorted(range(len(lengths)), key=lambda i: _draw(seed, epoch, i))
    span = pool * batch_size
    pools = (sorted(order[at : at + span], key=lengths.__getitem__) for at in range(0, len(order), span))
    batches = [run[at : at + batch_size] for run in pools for at in range(0, len(run), batch_size)]
    return sorted(batches, key=lambda batch: _draw(seed, epoch, batch[0], "batch"))


def _draw(*key: object) -> bytes:
    """Eight random bytes that depend on `key` alone: on no generator's state and no library's version."""
    return hashlib.blake2b(repr(key).encode(), digest_size=8).digest()


def micro_batches(indices: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut one optimizer step into forward passes of at most `max_tokens` tokens, padding included.

    Sequences of similar length share a pass, the longest come first (so memory peaks at once), and a sequence
    longer than the budget gets a pass of its own. `lengths` is indexed by the members of `indices`.
    """
    passes: list[list[int]] = []
    for index in sorted(indices, key=lengths.__getitem__, reverse=True):
        if passes and lengths[passes[-1][0]] * (len(passes[-1]) + 1) <= max_tokens:
            passes[-1].append(index)
        else:
            passes.append([index])
    return passes
