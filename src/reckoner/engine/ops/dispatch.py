"""Each operation of a decoder under one name, with its gradient.

`engine/backend.py` says which implementation computes it: `numba_ops`, `onednn_ops`, `triton_ops` or
`torch_ops`. A training step of a small model waits for memory as much as for its products: autograd's graph
reads and writes whole activations at each of many small operations. What each gradient written here saves is
measured in benchmarks/NOTES.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reckoner.engine import backend
from reckoner.engine.ops import numba_attention, numba_ops, onednn_ops, torch_ops, triton_ops
from reckoner.engine.ops.numba_attention import Sequences
from reckoner.engine.ops.torch_ops import Prefix

MLP_ROWS = 512
"""Rows of an MLP in fp32 computed at once: enough for its products, few enough that their results stay in the
cache. In bfloat16 all rows are, so that one product in fp32 adds up the gradient of a weight.
"""


def _elementwise(x: Tensor) -> ModuleType:
    """The module whose operations between products compute with `x`."""
    if backend.use_triton(x):
        return triton_ops
    return numba_ops if backend.use_numba(x) else torch_ops


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight' + bias` for x [..., K], weight [N, K] and bias [N], differentiable."""
    if not backend.use_onednn(x, weight):
        return F.linear(x, weight, bias)
    trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    out = _Linear.apply(x, weight) if trains else product(x, weight)
    return out if bias is None else out + bias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight = None, None
        if ctx.needs_input_grad[0]:
            for_x = product(above, weight.T)
        if ctx.needs_input_grad[1]:
            for_weight = weight_gradient(above.flatten(0, -2), x.flatten(0, -2))
        return for_x, for_weight


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x weight'` [..., N] of x [..., K] and weight [N, K], which may be a transposed view; no gradient."""
    return onednn_ops.linear(x, weight) if backend.use_onednn(x, weight) else F.linear(x, weight)


def weight_gradient(above: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
    """`above' x` [N, K] of above [M, N] and x [M, K], added to `total`, which may be overwritten.

    Sums of bfloat16 on a CPU are in fp32. The narrower of the two is copied to its transpose, which oneDNN
    wants.
    """
    if total is not None and x.dtype == torch.bfloat16 and not x.is_cuda:
        return total.float().add_(above.T @ x)
    if not backend.use_onednn(x, above):
        return above.T @ x if total is None else total.addmm_(above.T, x)
    if x.shape[1] <= above.shape[1]:
        return _add_product(None if total is None else total.T, x.T.contiguous(), above.T).T
    return _add_product(total, above.T.contiguous(), x.T)


def _add_product(total: Tensor | None, x: Tensor, weight: Tensor) -> Tensor:
    """`total + x weight'`."""
    if total is not None and backend.use_onednn(x, weight):
        return onednn_ops.add_linear(total, x, weight)
    return product(x, weight) if total is None else total + product(x, weight)


def fill_rows(x: Tensor) -> Tensor:
    """x [M, K] and rows of zeros up to a full `ROW_MULTIPLE`, where oneDNN would prepare for M rows."""
    return torch_ops.rows_to_multiple(x, onednn_ops.ROW_MULTIPLE) if backend.use_onednn(x, x) else x


def rms_norm(x: Tensor, factor: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * factor` over the last dimension, in `dtype` or that of x (Zhang 2019)."""
    dtype = dtype or x.dtype
    if x.device.type != "cpu":
        return F.rms_norm(x, factor.shape, factor, eps).to(dtype)
    rows = x.flatten(0, -2)
    if torch.is_grad_enabled():
        return _RMSNorm.apply(rows, factor, eps, dtype).view(x.shape)
    return _elementwise(rows).rms_norm(rows, factor, eps, dtype)[0].view(x.shape)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        ctx.ops = _elementwise(x)
        out, *kept = ctx.ops.rms_norm(x, factor, eps, dtype)
        ctx.save_for_backward(*kept, factor)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.ops.rms_norm_backward(*ctx.saved_tensors, upstream, ctx.needs_input_grad[1]), None, None


Adapted = tuple[Tensor, Tensor, Tensor]
"""A weight [N, K], A [r, K] and B [N, r], scaled."""


@dataclass(frozen=True, slots=True)
class GatedActivation:
    """`f(g) = g sigmoid(linear g + cubic g^3)`: SiLU, or GELU by tanh, whose own CPU kernel is slow."""

    factors: tuple[float, float]  # linear and cubic
    onednn: tuple[str, str]  # oneDNN's name for it


SILU = GatedActivation((1.0, 0.0), ("swish", ""))
# 0.5 (1 + tanh z) = sigmoid(2 z), z = sqrt(2 / pi) (g + 0.044715 g^3)
GELU_TANH = GatedActivation((2 * 0.7978845608028654, 2 * 0.7978845608028654 * 0.044715), ("gelu", "tanh"))


def gated_act(
    gate: Tensor, up: Tensor, activation: Callable[[Tensor], Tensor], known: GatedActivation | None
) -> Tensor:
    """`f(gate) * up` of two [..., I]. For the gradient they alone are kept: a third less than autograd would.

    `activation` is f. `known` is the same function where we have a name for it; a GPU then computes each way
    in one kernel.
    """
    rows = gate.flatten(0, -2), up.flatten(0, -2)
    known = known if backend.use_triton(gate) else None
    if known and not torch.is_grad_enabled():
        return triton_ops.gated_act(*rows, *known.factors).view(gate.shape)
    return _GatedAct.apply(*rows, activation, known).view(gate.shape)


class _GatedAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        activation: Callable[[Tensor], Tensor],
        known: GatedActivation | None,
    ) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation, ctx.known = activation, known
        return triton_ops.gated_act(gate, up, *known.factors) if known else activation(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gate, up = ctx.saved_tensors
        if ctx.known:
            upstream = upstream.contiguous()
            return *triton_ops.gated_act_backward(gate, up, upstream, *ctx.known.factors), None, None
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            value = ctx.activation(gate)
        return torch.autograd.grad(value, gate, upstream * up)[0], upstream * value.detach(), None, None


def gated_mlp(x: Tensor, gate_up: Tensor, down: Tensor, gate: GatedActivation) -> Tensor:
    """`(f(x G') * (x U')) D'` (Shazeer 2020) for x [..., H]; `gate_up` [2 I, H] is G over U; D [H, I]."""
    rows = x.flatten(0, -2)
    if torch.is_grad_enabled() or x.dtype != torch.float32 or not backend.use_onednn(rows, gate_up):
        return _GatedMLP.apply(rows, gate_up, down, gate).view(x.shape)
    first, second = gate_up.chunk(2)
    values = (onednn_ops.gated_act_linear(x, first, second, gate.onednn) for x in rows.split(MLP_ROWS))
    return torch.cat([product(value, down) for value in values]).view(x.shape)


class _GatedMLP(torch.autograd.Function):
    """One block of rows after another, so that each stays in the cache; only gate and up are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, gate: GatedActivation) -> Tensor:
        ctx.rows = MLP_ROWS if x.dtype == torch.float32 else len(x)
        inner = [product(block, gate_up) for block in x.split(ctx.rows)]
        ctx.save_for_backward(x, gate_up, down, *inner)
        ctx.gate = gate
        values = (_elementwise(block).gated_act(block, *gate.factors) for block in inner)
        return torch.cat([product(value, down) for value in values])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, down, *inner = ctx.saved_tensors
        for_x, for_gate_up, for_down = [], None, None
        for block, kept, above in zip(x.split(ctx.rows), inner, upstream.split(ctx.rows), strict=True):
            for_inner, value = _elementwise(kept).gated_act_backward(
                kept, product(above, down.T), *ctx.gate.factors
            )
            for_x.append(product(for_inner, gate_up.T))
            if ctx.needs_input_grad[1]:
                for_gate_up = weight_gradient(for_inner, block, for_gate_up)
            if ctx.needs_input_grad[2]:
                for_down = weight_gradient(above, value, for_down)
        return torch.cat(for_x), for_gate_up, for_down, None


def rope(x: Tensor, rope_cos_sin: Tensor, heads: int, size: int) -> Tensor:
    """RoPE (Su 2021) in fp32 of the first `heads` of x [M, heads or more of `size`], by complex
    `rope_cos_sin` [M, size / 2].

    The halves of a head are interleaved, which makes it one complex product. The result is written over x.
    """
    if torch.is_grad_enabled():
        return _Rope.apply(x, rope_cos_sin, heads, size)
    rows = x.unflatten(-1, (-1, size))
    _elementwise(rows).rope(rows, rope_cos_sin, heads, rows)
    return x


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rope_cos_sin: Tensor, heads: int, size: int) -> Tensor:
        ctx.save_for_backward(rope_cos_sin)
        ctx.layout = heads, size
        ctx.mark_dirty(x)
        rows = x.unflatten(-1, (-1, size))
        _elementwise(rows).rope(rows, rope_cos_sin, heads, rows)
        return x

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        heads, size = ctx.layout
        rows = upstream.contiguous().unflatten(-1, (-1, size))
        grad = torch.empty_like(rows)
        _elementwise(grad).rope(rows, ctx.saved_tensors[0].conj(), heads, grad)
        return grad.flatten(-2), None, None, None


def attention(heads: Tensor, sequences: Sequences, kv: int) -> Tensor:
    """Attention of packed sequences: `heads` [M, query heads + 2 kv, d] to [M, query heads * d].

    Zero for a token that attends nowhere. Only where `backend.use_numba(heads)`; `torch_ops.attention` takes
    padded rows.
    """
    return _Attention.apply(heads, sequences, kv)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, sequences: Sequences, kv: int) -> Tensor:
        mixed, sums = numba_attention.attention(heads, sequences, kv)
        ctx.sequences, ctx.kv = sequences, kv
        ctx.save_for_backward(heads, mixed, sums)
        return mixed.flatten(1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        heads, mixed, sums = ctx.saved_tensors
        above = upstream.contiguous().view_as(mixed)
        return (
            numba_attention.attention_backward(heads, ctx.sequences, ctx.kv, mixed, sums, above),
            None,
            None,
        )


def decoding_attention(
    heads: Tensor, keys: Tensor, values: Tensor, begins: Tensor, end: int, prefix: Prefix
) -> Tensor:
    """Attention of one token a row: `heads` [n, query heads + 2 kv, d] to [n, query heads * d].

    Row i sees `prefix` and the columns from `begins[i]` to `end` of keys [n, kv, d, C] and values
    [n, kv, C, d]. Only where `backend.use_decoding_loops`.
    """
    if prefix is None:
        prefix = keys.new_empty(*keys.shape[1:3], 0), keys.new_empty(keys.shape[1], 0, keys.shape[2])
    else:
        prefix = prefix[0].transpose(-1, -2).contiguous(), prefix[1].contiguous()
    return numba_attention.decoding_attention(heads, keys, values, begins, end, *prefix).flatten(1)


def lora_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """`x (W + B A)' + bias` of x [..., K], weight [N, K], A [r, K] and B [N, r] (Hu 2021), differentiable.

    What A and B add is written by the product itself, without another pass over the result.
    """
    rows = x.flatten(0, -2)
    rows = (rows @ weight.T).addmm_(rows @ a.T, b.T)
    rows = rows if bias is None else rows + bias
    return rows if x.ndim == 2 else rows.unflatten(0, x.shape[:-1])


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
        gate_inner, up_inner = inner.split(len(gate_a), 1)
        gate_out = (x @ gate.T).addmm_(gate_inner, gate_b.T)
        up_out = (x @ up.T).addmm_(up_inner, up_b.T)
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
        for_value = (upstream @ down).addmm_(for_last, down_a)
        thin = (*(half.contiguous() for half in inner.split(rank, 1)), for_last)
        linear, cubic = ctx.activation.factors
        for_gate_out, for_up_out, sums = triton_ops.gated_act_lora_backward(
            gate_out, up_out, for_value, linear, cubic, thin
        )
        for_inner = torch.cat((for_gate_out @ gate_b, for_up_out @ up_b), 1)
        for_x = (for_gate_out @ gate).addmm_(for_up_out, up).addmm_(for_inner, torch.cat((gate_a, up_a)))
        for_gate_a, for_up_a = (for_inner.T @ x).split(rank)
        for_gate_b, for_up_b, for_down_a = sums
        for_gate, for_up = (None, for_gate_a, for_gate_b.T), (None, for_up_a, for_up_b.T)
        return for_x, None, *for_gate, *for_up, None, for_down_a, upstream.T @ last
