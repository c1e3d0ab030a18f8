"""LoRA beside frozen weights (Hu 2021), on a GPU: `x (W + B A)'` without the sum of the weights.

What A and B add takes few operations, but as separate products each reads or writes a whole activation again.
Here it is part of a product that reads or writes that activation anyway. What this saves is in
benchmarks/NOTES.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reckoner.engine.ops import triton_ops
from reckoner.engine.ops.dispatch import GatedActivation

ROW_BYTES = 128
"""Bytes to whose multiples rows are lengthened: products of other rows are a few percent slower."""

Adapted = tuple[Tensor, Tensor, Tensor]
"""A weight [N, K], A [r, K] and B [N, r], scaled."""


def lora_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """`x (W + B A)' + bias` of x [..., K], weight [N, K], A [r, K] and B [N, r], with its gradient.

    No pass over a wide result or input is added: where the result is wider than the input, the product by W
    carries the share of A and B.
    """
    rows = _LoraLinear.apply(x.flatten(0, -2), weight, a, b)
    rows = rows if bias is None else rows + bias
    return rows if x.ndim == 2 else rows.unflatten(0, x.shape[:-1])


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        inner = x @ a.T
        ctx.save_for_backward(x, inner, weight, a, b)
        if weight.shape[0] > weight.shape[1]:
            return _side_by_side(x, inner) @ _side_by_side(weight, b).T
        return (x @ weight.T).addmm_(inner, b.T)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, weight, a, b = ctx.saved_tensors
        for_inner = upstream @ b
        if weight.shape[0] > weight.shape[1]:
            for_x = (upstream @ weight).addmm_(for_inner, a)
        else:
            for_x = _side_by_side(upstream, for_inner) @ torch.cat((weight, a))
        for_weight = upstream.T @ x if ctx.needs_input_grad[1] else None
        return for_x, for_weight, for_inner.T @ x, upstream.T @ inner


def lora_gated_mlp(
    x: Tensor, activation: GatedActivation, gate: Adapted, up: Adapted, down: Adapted
) -> Tensor:
    """`(f(x G') * (x U')) D'` (Shazeer 2020) of x [..., H] by weights with LoRA, G and U [I, H] and D [H, I].

    Only where `backend.use_lora_kernels`. Products of [M, I] with A or B are made while the activation is
    computed; f(x G') * (x U') is not kept for the gradient.
    """
    rows = _LoraGatedMLP.apply(x.flatten(0, -2), activation, *gate, *up, *down)
    return rows.view(x.shape)


class _LoraGatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: GatedActivation, *weights: Tensor) -> Tensor:
        gate, gate_a, gate_b, up, up_a, up_b, down, down_a, down_b = weights
        inner = x @ torch.cat((gate_a, up_a)).T
        wide = _side_by_side(x, inner)
        gate_out = wide @ _side_by_side(gate, gate_b, torch.zeros_like(up_b)).T
        up_out = wide @ _side_by_side(up, torch.zeros_like(gate_b), up_b).T
        value, last = triton_ops.gated_act_lora(gate_out, up_out, *activation.factors, down_a.contiguous())
        ctx.save_for_backward(x, inner, gate_out, up_out, last, *weights)
        ctx.activation = activation
        return (value @ down.T).addmm_(last, down_b.T)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, gate_out, up_out, last, *weights = ctx.saved_tensors
        gate, gate_a, gate_b, up, up_a, up_b, down, down_a, down_b = weights
        rank = len(gate_a)
        for_last = upstream @ down_b
        for_value = _side_by_side(upstream, for_last) @ torch.cat((down, down_a))
        thin = (*(half.contiguous() for half in inner.split(rank, 1)), for_last)
        for_gate_out, for_up_out, sums = triton_ops.gated_act_lora_backward(
            gate_out, up_out, for_value, *ctx.activation.factors, thin
        )
        for_inner = torch.cat((for_gate_out @ gate_b, for_up_out @ up_b), 1)
        for_x = (for_gate_out @ gate).addmm_(for_up_out, up).addmm_(for_inner, torch.cat((gate_a, up_a)))
        for_gate_a, for_up_a = (for_inner.T @ x).split(rank)
        for_gate_b, for_up_b, for_down_a = sums
        for_gate, for_up = (None, for_gate_a, for_gate_b.T), (None, for_up_a, for_up_b.T)
        return for_x, None, *for_gate, *for_up, None, for_down_a, upstream.T @ last


def _side_by_side(*matrices: Tensor) -> Tensor:
    """Matrices [M, ...] side by side, in rows that begin at multiples of `ROW_BYTES`."""
    width, first = sum(matrix.shape[1] for matrix in matrices), matrices[0]
    missing = -width % (ROW_BYTES // first.element_size())
    return torch.cat((*matrices, first.new_empty(len(first), missing)), 1)[:, :width]
