"""What a model costs: operations, two for each weight and token in a product, as is usual (Kaplan 2020), and
the activations that training keeps.
"""

from __future__ import annotations

from torch import nn

from reckoner.models.families import Shape
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


def kept_numbers(shape: Shape, length: float, packed: bool, dropout: bool, recomputed: bool) -> float:
    """Numbers that autograd keeps of a token, in rows of that `length`; the backward pass needs them all.

    The packed pass keeps of a layer what its norms divided and what came of it, the heads as attention saw
    them, what attention gave, and gate and up. The modules keep the inputs of norms and products, the heads,
    and four tensors as wide as the MLP; LoRA with `dropout` an input of its own for each projection;
    soft-capped attention its scores, five times. `recomputed`, one layer is kept at a time, and the input of
    each.
    """
    numbers: float = 4 * shape.hidden + 3 * shape.queries + 2 * shape.keys + 2 * shape.intermediate
    if not packed:
        numbers = 6 * shape.hidden + 5 * shape.queries + 4 * shape.intermediate
        inputs = 5 * shape.hidden + shape.queries + shape.intermediate  # of a layer's seven projections
        numbers += inputs * dropout
    if shape.materializes_attention_scores:
        numbers += 5 * shape.heads * length
    return numbers + shape.hidden * shape.layers if recomputed else numbers * shape.layers
