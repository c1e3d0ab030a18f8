"""Parts of a decoder with a backward pass of their own, most of them for a CPU in fp32.

A training step of a small model waits for memory as much as for its products: autograd's graph reads and writes whole
activations at each of its many small operations. What each part saves is measured in benchmarks/NOTES.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reckoner.engine.ops import numba_ops as compiled
from reckoner.engine.ops import triton_ops as fused
from reckoner.engine.ops.onednn import fuses, gated_product, product, weight_gradient

ROWS = 512
"""Rows of an MLP computed at once: enough for its products, few enough that their results stay in the cache."""


def rms_norm(x: Tensor, factor: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * factor` over the last dimension, in fp32 (Zhang & Sennrich 2019)."""
    if x.device.type != "cpu":
        return F.rms_norm(x, factor.shape, factor, eps)
    rows = x.flatten(0, -2)
    if torch.is_grad_enabled():
        return _RMSNorm.apply(rows, factor, eps).view(x.shape)
    if compiled.takes(rows):
        return compiled.norm_forward(rows, factor, eps)[0].view(x.shape)
    return (x * _inverse(x, eps)).mul_(factor)


def add_norm(
    x: Tensor, more: Tensor, factor: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`x + more` of [M, H] in fp32, and `rms_norm` of it in `dtype`: in training on a GPU one pass each way instead of three and four."""
    if x.is_cuda and fused.AVAILABLE and torch.is_grad_enabled():
        return _AddNorm.apply(x, more, factor, eps, dtype)
    total = x + more
    return total, rms_norm(total, factor, eps).to(dtype)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, more: Tensor, factor: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        total, normed = fused.add_norm(x.contiguous(), more.contiguous(), factor, eps, dtype)
        ctx.save_for_backward(total, factor)
        ctx.eps, ctx.dtype = eps, more.dtype
        return total, normed

    @staticmethod
    def backward(ctx: Any, for_total: Tensor, for_normed: Tensor) -> tuple[Tensor | None, ...]:
        total, factor = ctx.saved_tensors
        slopes = fused.add_norm_backward(
            total,
            factor,
            ctx.eps,
            for_total.contiguous(),
            for_normed.contiguous(),
            ctx.dtype,
            ctx.needs_input_grad[2],
        )
        return *slopes, None, None


def _inverse(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps), one for each row."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    """One pass over the activations each way where loops are compiled; elsewhere three forward and six backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, eps: float) -> Tensor:
        ctx.compiled = compiled.takes(x)
        if ctx.compiled:
            out, inverse = compiled.norm_forward(x, factor, eps)
            ctx.save_for_backward(x, inverse, factor)
            return out
        inverse = _inverse(x, eps)
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, factor)
        return normed * factor

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, inverse, factor = ctx.saved_tensors
        if ctx.compiled:
            return *compiled.norm_backward(rows, factor, inverse, upstream.contiguous()), None
        products = upstream * rows
        along = (products @ factor).unsqueeze(-1)
        grad = (upstream * factor).addcmul_(rows, along, value=-1 / rows.shape[-1]).mul_(inverse)
        return grad, products.sum(0) if ctx.needs_input_grad[1] else None, None


@dataclass(frozen=True, slots=True)
class GatedActivation:
    """`f(g) = g sigmoid(linear g + cubic g^3)`: SiLU, or GELU by its tanh, whose CPU kernel takes six times the sigmoid's time."""

    linear: float
    cubic: float
    fused: tuple[str, str]
    """What oneDNN calls it."""

    def forward(self, gate_up: Tensor) -> Tensor:
        """`f(g) u` [M, I] of g and u side by side in `gate_up` [M, 2 I]."""
        if compiled.takes(gate_up):
            return compiled.gated_act_forward(gate_up, self.linear, self.cubic)
        gate, up = gate_up.chunk(2, -1)
        return self._opening(gate).mul_(gate).mul_(up)

    def backward(self, gate_up: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient [M, 2 I] of `gate_up` for that [M, I] of `f(g) u`, which comes once more beside it."""
        if compiled.takes(gate_up):
            return compiled.gated_act_backward(gate_up, upstream, self.linear, self.cubic)
        (gate, up), gradient = gate_up.chunk(2, -1), torch.empty_like(gate_up)
        opening = self._opening(gate)
        value = opening * gate
        inner = gate.square().mul_(3 * self.cubic).add_(self.linear).mul_(value)
        slope = inner.addcmul_(inner, opening, value=-1).add_(
            opening
        )  # f'(g) = s + f(g) (1 - s) (linear + 3 cubic g^2)
        for_gate, for_up = gradient.chunk(2, -1)
        torch.mul(slope.mul_(up), upstream, out=for_gate)
        torch.mul(upstream, value, out=for_up)
        return gradient, value.mul_(up)

    def _opening(self, gate: Tensor) -> Tensor:
        """The sigmoid."""
        if not self.cubic:
            return gate.sigmoid()
        return gate.square().mul_(self.cubic).add_(self.linear).mul_(gate).sigmoid_()


SILU = GatedActivation(1.0, 0.0, ("swish", ""))
GELU_TANH = GatedActivation(
    2 * 0.7978845608028654, 2 * 0.7978845608028654 * 0.044715, ("gelu", "tanh")
)  # 0.5 (1 + tanh z) = sigmoid(2 z)


def gated_mlp(x: Tensor, gate_up: Tensor, down: Tensor, gate: GatedActivation) -> Tensor:
    """`(f(x G') * (x U')) D'` (Shazeer 2020) for x [..., H], G and U stacked as `gate_up` [2 I, H], and `down` [H, I]."""
    rows = x.flatten(0, -2)
    if not fuses(rows, gate_up):
        return _GatedMLP.apply(rows, gate_up, down, gate).view(x.shape)
    gate_out, up = gate_up.chunk(2)
    parts = [product(gated_product(part, gate_out, up, gate.fused), down) for part in rows.split(ROWS)]
    return torch.cat(parts).view(x.shape)


def gated(
    gate: Tensor, up: Tensor, activation: Callable[[Tensor], Tensor], known: GatedActivation | None
) -> Tensor:
    """`f(gate) * up` of two [..., I]. For the gradient they alone are kept: a third less than autograd would.

    `activation` is f, and `known` the same where it is one that we know; a GPU then computes each way in one kernel.
    """
    rows, known = (
        (gate.flatten(0, -2), up.flatten(0, -2)),
        known if gate.is_cuda and fused.AVAILABLE else None,
    )
    if known and not torch.is_grad_enabled():
        return fused.gated_act_forward(*rows, known.linear, known.cubic).view(gate.shape)
    return _Gated.apply(*rows, activation, known).view(gate.shape)


class _Gated(torch.autograd.Function):
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
        return (
            fused.gated_act_forward(gate, up, known.linear, known.cubic)
            if known
            else activation(gate).mul_(up)
        )

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gate, up = ctx.saved_tensors
        if ctx.known:
            return (
                *fused.gated_act_backward(gate, up, upstream.contiguous(), ctx.known.linear, ctx.known.cubic),
                None,
                None,
            )
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            value = ctx.activation(gate)
        return torch.autograd.grad(value, gate, upstream * up)[0], upstream * value.detach(), None, None


def apply_rope(x: Tensor, rope_cos_sin: Tensor, heads: int, size: int) -> Tensor:
    """RoPE (Su 2021) in fp32 of the first `heads` of x [M, heads or more of `size`] by complex `turns` [M, size / 2].

    The halves of a head are interleaved, which makes it one complex product. It is written over x, and over no copy of it.
    """
    if torch.is_grad_enabled():
        return _ApplyRope.apply(x, rope_cos_sin, heads, size)
    rows = x.unflatten(-1, (-1, size))
    _rope(rows, rope_cos_sin, heads, rows)
    return x


class _ApplyRope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rope_cos_sin: Tensor, heads: int, size: int) -> Tensor:
        ctx.save_for_backward(rope_cos_sin)
        ctx.layout = heads, size
        ctx.mark_dirty(x)
        rows = x.unflatten(-1, (-1, size))
        _rope(rows, rope_cos_sin, heads, rows)
        return x

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        heads, size = ctx.layout
        rows = upstream.contiguous().unflatten(-1, (-1, size))
        grad = torch.empty_like(rows)
        _rope(rows, ctx.saved_tensors[0].conj(), heads, grad)
        return grad.flatten(-2), None, None, None


def _rope(x: Tensor, rope_cos_sin: Tensor, heads: int, out: Tensor) -> None:
    """Write x [M, heads or more, d] to `out`, or change x itself: pairs of its first `heads` times complex `turns` [M, d / 2]."""
    if x.is_cuda and fused.AVAILABLE:
        fused.rope(x, rope_cos_sin, heads, out)
        return
    if out is not x:
        out.copy_(x)
    if compiled.takes(out):
        compiled.rope(out, rope_cos_sin, heads)
        return
    head = out[:, :heads]
    pairs = torch.view_as_complex(head.float().unflatten(-1, (-1, 2))).mul_(rope_cos_sin[:, None])
    if out.dtype != torch.float32:
        head.copy_(torch.view_as_real(pairs).flatten(-2))


class _GatedMLP(torch.autograd.Function):
    """Block after block of rows, all operations of a block while it is in the cache; gate and up are kept, the rest made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, gate: GatedActivation) -> Tensor:
        inner = [product(part, gate_up) for part in x.split(ROWS)]
        ctx.save_for_backward(x, gate_up, down, *inner)
        ctx.gate = gate
        return torch.cat([product(gate.forward(part), down) for part in inner])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, down, *inner = ctx.saved_tensors
        for_x, for_gate_up, for_down = [], None, None
        for part, kept, above in zip(x.split(ROWS), inner, upstream.split(ROWS), strict=True):
            for_inner, value = ctx.gate.backward(kept, product(above, down.T))
            for_x.append(product(for_inner, gate_up.T))
            if ctx.needs_input_grad[1]:
                for_gate_up = weight_gradient(for_inner, part, for_gate_up)
            if ctx.needs_input_grad[2]:
                for_down = weight_gradient(above, value, for_down)
        return torch.cat(for_x), for_gate_up, for_down, None
