"""Calculator decoding (Cobbe 2021, GSM8K): where a row writes `<<48/2=`, the result is forced and not drawn.

Forced tokens are no draws of the policy. Their log-prob is 0, so that the log-prob of a completion is that of
what was drawn. Training never samples with a calculator, so they enter no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reckoner.engine.sampling import spellings_of

Calculate = Callable[[str], str]
"""What follows behind a text, as "24>>" behind "... <<48/2="; empty where nothing is forced."""


class Calculator:
    """Overrides draws, row by row; only rows that have just drawn a `=` are decoded."""

    def __init__(
        self,
        calculate: Calculate,
        tokenizer: Any,
        decode: Callable[[Sequence[int]], str],
        device: torch.device,
    ) -> None:
        self.calculate, self.tokenizer, self.decode = calculate, tokenizer, decode
        ends = [spelling.endswith("=") for spelling in spellings_of(tokenizer)]
        self.ends = torch.tensor(ends, device=device)
        self.waiting: dict[tuple[int, int], list[int]] = {}

    def force(
        self, names: Sequence[tuple[int, int]], before: Tensor, tokens: Tensor, logprobs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The tokens and log-probs [B] of one step after `before` [B, steps]; `names` tell the rows apart."""
        equals = self.ends[tokens.clamp(max=len(self.ends) - 1)].tolist()
        if not (self.waiting or any(equals)):
            return tokens, logprobs
        tokens, logprobs = tokens.clone(), logprobs.clone()
        for row, name in enumerate(names):
            if name in self.waiting:
                rest = self.waiting[name]
                tokens[row], logprobs[row] = rest.pop(0), 0.0
                if not rest:
                    del self.waiting[name]
            elif equals[row]:
                text = self.decode([*before[row].tolist(), int(tokens[row])])
                if forced := self.calculate(text):
                    self.waiting[name] = self._encode(forced)
        return tokens, logprobs

    def _encode(self, forced: str) -> list[int]:
        """The tokens of `forced` behind a `=`, where some tokenizers would begin a text with a space."""
        sign, whole = (self.tokenizer.encode(text, add_special_tokens=False) for text in ("=", f"={forced}"))
        begins = whole[: len(sign)] == sign
        return whole[len(sign) :] if begins else self.tokenizer.encode(forced, add_special_tokens=False)
