"""Floating-point operations: two for each weight and token in a product, as is usual (Kaplan 2020)."""

from __future__ import annotations

from torch import nn

from reckoner.models.nf4 import count


def training_flops(model: nn.Module, tokens: float, supervised_tokens: float) -> float:
    """Operations of forward and backward over `tokens`, and of the LM head over `supervised_tokens` only.

    Attention scores are left out. A frozen weight costs 4 a token (forward, gradient of the input), a trained
    one 6.
    """
    return _flops(model, tokens, supervised_tokens, frozen=4, trained=6)


def forward_flops(model: nn.Module, tokens: float, head_tokens: float) -> float:
    """Operations of a forward pass, or of generating with a cache; of the LM head over `head_tokens` only."""
    return _flops(model, tokens, head_tokens, frozen=2, trained=2)


def _flops(model: nn.Module, tokens: float, head_tokens: float, frozen: int, trained: int) -> float:
    head = model.get_output_embeddings().weight
    embeddings = {id(head), id(model.get_input_embeddings().weight)}
    block = sum(
        count(p) * (trained if p.requires_grad else frozen)
        for p in model.parameters()
        if id(p) not in embeddings
    )
    return float(block * tokens + head.numel() * (trained if head.requires_grad else frozen) * head_tokens)
