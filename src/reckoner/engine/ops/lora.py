"""LoRA beside frozen weights (Hu 2021): `x (W + B A)'` without the sum of the weights, for a GPU.

What A and B add takes few operations, but as products of their own each reads or writes a whole activation again. Here it
comes out of a product that reads or writes that activation anyway; what this saves is in benchmarks/NOTES.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reckoner.engine.ops import triton_ops as fused
from reckoner.engine.ops.autograd import GatedActivation

LINE = 128
"""Bytes to whose multiples rows are lengthened: a product is a few percent slower where the rows of an operand begin between two."""

Adapted = tuple[Tensor, Tensor, Tensor]
"""A weight [N, K], A [r, K] and B [N, r], scaled."""


def low_rank(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """`x (W + B A)' + bias` of x [..., K], weight [N, K], A [r, K] and B [N, r].

    No pass over a result or an input that is wide: where the result is wider than the input, the product by W carries A's and B's part.
    """
    rows = _LowRank.apply(x.flatten(0, -2), weight, a, b)
    rows = rows if bias is None else rows + bias
    return rows if x.ndim == 2 else rows.unflatten(0, x.shape[:-1])


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        inner = x @ a.T
        ctx.save_for_backward(x, inner, weight, a, b)
        if weight.shape[0] > weight.shape[1]:
            return _beside(x, inner) @ _beside(weight, b).T
        return (x @ weight.T).addmm_(inner, b.T)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, weight, a, b = ctx.saved_tensors
        for_inner = upstream @ b
        if weight.shape[0] > weight.shape[1]:
            for_x = (upstream @ weight).addmm_(for_inner, a)
        else:
            for_x = _beside(upstream, for_inner) @ torch.cat((weight, a))
        for_weight = upstream.T @ x if ctx.needs_input_grad[1] else None
        return for_x, for_weight, for_inner.T @ x, upstream.T @ inner


def fits(x: Tensor, gate: Adapted, up: Adapted, down: Adapted) -> bool:
    """Whether `gated_low_rank` computes an MLP of these: in 16 bits on a GPU, weights frozen, one rank that is not too large."""
    ranks, frozen = (
        {len(a) for _, a, _ in (gate, up, down)},
        not any(weight.requires_grad for weight, _, _ in (gate, up, down)),
    )
    return (
        x.is_cuda
        and x.dtype.itemsize == 2
        and fused.AVAILABLE
        and frozen
        and len(ranks) == 1
        and max(ranks) <= fused.MAX_RANK
    )


def gated_low_rank(x: Tensor, opening: GatedActivation, gate: Adapted, up: Adapted, down: Adapted) -> Tensor:
    """`(f(x G') * (x U')) D'` (Shazeer 2020) of x [..., H] by weights with LoRA, G and U [I, H] and D [H, I], where `fits`.

    The products with [M, I] that are r wide are made while the gate is computed. f(x G') * (x U') is not kept for the gradient.
    """
    rows = _GatedLowRank.apply(x.flatten(0, -2), opening, *gate, *up, *down)
    return rows.view(x.shape)


class _GatedLowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, opening: GatedActivation, *weights: Tensor) -> Tensor:
        gate, gate_a, gate_b, up, up_a, up_b, down, down_a, down_b = weights
        inner = x @ torch.cat((gate_a, up_a)).T
        wide = _beside(x, inner)
        gate_out = wide @ _beside(gate, gate_b, torch.zeros_like(up_b)).T
        up_out = wide @ _beside(up, torch.zeros_like(gate_b), up_b).T
        value, last = fused.gated_act_lora_forward(
            gate_out, up_out, opening.linear, opening.cubic, down_a.contiguous()
        )
        ctx.save_for_backward(x, inner, gate_out, up_out, last, *weights)
        ctx.opening = opening
        return (value @ down.T).addmm_(last, down_b.T)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, gate_out, up_out, last, gate, gate_a, gate_b, up, up_a, up_b, down, down_a, down_b = (
            ctx.saved_tensors
        )
        rank, opening = len(gate_a), ctx.opening
        for_last = upstream @ down_b
        for_value = _beside(upstream, for_last) @ torch.cat((down, down_a))
        thin = (*(part.contiguous() for part in inner.split(rank, 1)), for_last)
        for_gate_out, for_up_out, sums = fused.gated_act_lora_backward(
            gate_out, up_out, for_value, opening.linear, opening.cubic, thin
        )
        for_inner = torch.cat((for_gate_out @ gate_b, for_up_out @ up_b), 1)
        for_x = (for_gate_out @ gate).addmm_(for_up_out, up).addmm_(for_inner, torch.cat((gate_a, up_a)))
        for_gate_a, for_up_a = (for_inner.T @ x).split(rank)
        for_gate_b, for_up_b, for_down_a = sums
        return (
            for_x,
            None,
            None,
            for_gate_a,
            for_gate_b.T,
            None,
            for_up_a,
            for_up_b.T,
            None,
            for_down_a,
            upstream.T @ last,
        )


def _beside(*parts: Tensor) -> Tensor:
    """Matrices [M, ...] side by side, in rows that begin at multiples of `LINE` bytes."""
    width = sum(part.shape[1] for part in parts)
    missing = -width % (LINE // parts[0].element_size())
    return torch.cat((*parts, parts[0].new_empty(len(parts[0]), missing)), 1)[:, :width]
