"""Floating-point operations of training, by the usual count of two for each weight and token in a product."""

from __future__ import annotations

from torch import nn


def training_flops(model: nn.Module, tokens: int, supervised_tokens: int) -> float:
    """Operations of forward and backward over `tokens`, the LM head over `supervised_tokens` only; attention scores left out.

    A frozen weight costs 4 a token (forward, gradient of the input), a trained one 6 (its own gradient too). Kaplan 2020.
    """
    head = model.get_output_embeddings().weight
    embeddings = {id(head), id(model.get_input_embeddings().weight)}
    block = sum(p.numel() * (6 if p.requires_grad else 4) for p in model.parameters() if id(p) not in embeddings)
    return float(block * tokens + head.numel() * (6 if head.requires_grad else 4) * supervised_tokens)
