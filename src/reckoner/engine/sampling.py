"""From logits to a token: draws that depend on nothing but their key, and when a completion ends.

A uniform number is a hash of (seed, prompt, sample, step). The token is the inverse of the cumulative
distribution at that number. So a draw does not depend on batch size, on the order of the prompts, or on the
engine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reckoner.runs.records import Finish


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. `temperature=0` is greedy; `top_k=0` and `top_p=1` leave the distribution whole."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    num_samples: int = 1
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    calculator: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion. `ids` ends with the stop token if one was drawn, and before a stop string.

    `logprobs` are of `softmax(logits / temperature)` over the whole vocabulary, before top-k and top-p;
    greedy decoding reports those at temperature 1.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


def stream_key(seed: int, prompt: int, sample: int) -> int:
    """The key of one completion's random numbers, a signed 64-bit integer."""
    digest = hashlib.blake2b(f"{seed}/{prompt}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def uniforms(keys: Tensor, steps: Tensor) -> Tensor:
    """Uniform float64 numbers in [0, 1) for broadcast int64 keys and steps (SplitMix64, Steele 2014)."""
    mixed = keys + (steps + 1) * -0x61C8864680B583EB
    mixed = (mixed ^ _shift(mixed, 30)) * -0x40A7B892E31B1A47
    mixed = (mixed ^ _shift(mixed, 27)) * -0x6B2FB644ECCEEE15
    return _shift(mixed ^ _shift(mixed, 31), 12).double() * 2.0**-52


def _shift(values: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token for each row of fp32 `logits` [B, V] and its log-prob: `([B] int64, [B] fp32)`.

    `uniform` [B] is not read when greedy. Ties of greedy decoding go to the lowest token id.
    """
    if sampling.temperature == 0:
        probabilities = logits.softmax(-1)
        tokens = _first_maximum(logits)
    else:
        probabilities = (logits if sampling.temperature == 1 else logits / sampling.temperature).softmax(-1)
        tokens = _invert(_truncate(probabilities, sampling.top_k, sampling.top_p), uniform)
    return tokens, probabilities.gather(-1, tokens[:, None])[:, 0].log()


def _blocks(values: Tensor, fill: float) -> Tensor:
    """The vocabulary as about sqrt(V) blocks [B, blocks, width]: a search then touches two short rows."""
    width = 1 << (values.shape[-1].bit_length() // 2)
    if missing := -values.shape[-1] % width:
        values = F.pad(values, (0, missing), value=fill)
    return values.unflatten(-1, (-1, width))


def _first_maximum(logits: Tensor) -> Tensor:
    """`argmax` by `amax`: its own CPU kernel is 10 times slower than this."""
    blocks = _blocks(logits, -torch.inf)
    block = blocks.amax(-1).argmax(-1)
    inside = blocks[torch.arange(len(block), device=block.device), block]
    return block * blocks.shape[-1] + inside.argmax(-1)


def _truncate(probabilities: Tensor, top_k: int, top_p: float) -> Tensor:
    """Zero all but the `top_k` most likely tokens, then all but the smallest set of mass `top_p`."""
    if 0 < top_k < probabilities.shape[-1]:
        least = probabilities.topk(top_k).values[:, -1:]
        probabilities = probabilities * (probabilities >= least)
    if top_p < 1:
        ordered = probabilities.sort(-1, descending=True).values
        before = ordered.cumsum(-1) - ordered
        kept = before < top_p * ordered.sum(-1, keepdim=True)
        least = ordered.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
        probabilities = probabilities * (probabilities >= least)
    return probabilities


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative sum of `weights` [B, V] passes `uniform` of its total."""
    blocks = _blocks(weights, 0.0)
    sums = blocks.sum(-1, dtype=torch.float64)
    edges = sums.cumsum(-1)
    target = uniform[:, None] * edges[:, -1:]
    block = torch.searchsorted(edges, target, right=True)
    inside = blocks[torch.arange(len(block), device=block.device), block[:, 0]].double().cumsum(-1)
    # Rounding might put it at the block's end; below it, the chosen token always has a weight above 0.
    rest = target - (edges - sums).gather(-1, block)
    rest = rest.clamp(min=0).minimum(inside[:, -1:] * (1 - 2.0**-52))
    return (block * blocks.shape[-1] + torch.searchsorted(inside, rest, right=True))[:, 0]


class Stops:
    """Decides where a completion ends: at a stop id, before a stop string, or at its token limit.

    Decoding is slow, so rows pass two filters first. A token that can complete a stop string was drawn. And
    the raw spellings of the row contain the string's printable ASCII, which every kind of vocabulary spells
    literally.
    """

    def __init__(
        self, sampling: Sampling, tokenizer: Any, decode: Callable[[Sequence[int]], str], device: torch.device
    ) -> None:
        self.ids = torch.tensor(sorted(sampling.stop_ids), device=device, dtype=torch.long)
        self.stop_ids = frozenset(sampling.stop_ids)
        self.strings = sampling.stop_strings
        self.decode = decode
        if self.strings:
            self.spellings = spellings_of(tokenizer)
            self.cores = {max(re.findall("[!-~]+", string) or [""], key=len) for string in self.strings}
            last = {string[-1] for string in self.strings}
            anything = any(not "!" <= character <= "~" for character in last)
            self.enders = torch.tensor(
                [anything or not last.isdisjoint(spelling) for spelling in self.spellings], device=device
            )

    def may_have_stopped(self, tokens: Tensor) -> Tensor:
        """Rows [B] of `tokens` [B, k] that hold a stop id, or a token that can complete a stop string."""
        stops = torch.isin(tokens, self.ids)
        if self.strings:
            stops |= self.enders[tokens.clamp(max=len(self.spellings) - 1)]
        return stops.any(-1)

    def finished(self, tokens: Sequence[int], logprobs: Sequence[float], limit: int) -> Sample | None:
        """The completion that `tokens` holds, cut at its end; None while it goes on."""
        count = next((i + 1 for i, token in enumerate(tokens[:limit]) if token in self.stop_ids), None)
        ids = tuple(tokens[: count or limit])
        if self.strings and (before := self._before_string(ids)) is not None:
            return Sample(ids[:before], tuple(logprobs[:before]), "stop")
        if count is None and len(tokens) < limit:
            return None
        return Sample(ids, tuple(logprobs[: len(ids)]), "length" if count is None else "stop")

    def _before_string(self, ids: tuple[int, ...]) -> int | None:
        """The number of tokens that spell the text before the first stop string; None without one."""
        raw = "".join(self.spellings[token] for token in ids if token < len(self.spellings))
        if not any(core in raw for core in self.cores):
            return None
        text = self.decode(ids)
        hits = [at for string in self.strings if (at := text.find(string)) >= 0]
        if not hits:
            return None
        return next(count for count in range(len(ids) + 1) if len(self.decode(ids[:count])) >= min(hits))


def spellings_of(tokenizer: Any) -> list[str]:
    """The raw spelling of each token, with bytes such as `<0x3A>` as their character."""
    spellings = (spelling or "" for spelling in tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    byte = re.compile(r"<0x([0-9A-Fa-f]{2})>")
    return [
        chr(int(match[1], 16)) if (match := byte.fullmatch(spelling)) else spelling for spelling in spellings
    ]
