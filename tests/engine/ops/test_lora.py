"""LoRA beside its weights, against the sum of the weights, with gradients checked by finite differences in
float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from reckoner.engine.backend import use_lora_kernels
from reckoner.engine.ops import triton_ops
from reckoner.engine.ops.dispatch import GELU_TANH, SILU, lora_gated_mlp, lora_linear


def adapted(rows, columns, rank):
    return [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((rows, columns), (rank, columns), (rows, rank))
    ]


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
@pytest.mark.parametrize("bias", [False, True])
def test_low_rank_products_equal_the_summed_weight_and_their_gradients_are_right(shape, bias):
    torch.manual_seed(0)
    inputs = [
        torch.randn(3, 5, shape[1], dtype=torch.float64, requires_grad=True),
        torch.randn(shape[0], dtype=torch.float64, requires_grad=True),
    ]
    (x, added), (weight, a, b) = inputs, adapted(*shape, 2)
    found = lora_linear(x, weight, added if bias else None, a, b)
    assert torch.allclose(found, F.linear(x, weight + b @ a, added if bias else None))
    assert torch.autograd.gradcheck(
        lambda *t: lora_linear(t[0], t[2], t[1] if bias else None, *t[3:]), [x, added, weight, a, b]
    )


def forward_thin(gate, up, linear, cubic, a):
    value = gate * torch.sigmoid(linear * gate + cubic * gate**3) * up
    return value, value @ a.T


def backward_thin(gate, up, upstream, linear, cubic, thin):
    with torch.enable_grad():
        inputs = gate.detach().requires_grad_(), up.detach().requires_grad_()
        value = forward_thin(*inputs, linear, cubic, upstream[:0])[0]
    for_gate, for_up = torch.autograd.grad(value, inputs, upstream)
    return (
        for_gate,
        for_up,
        torch.stack(
            [part.T @ wide for part, wide in zip(thin, (for_gate, for_up, value.detach()), strict=True)]
        ),
    )


@pytest.mark.parametrize(
    ("gate", "activation"), [(GELU_TANH, lambda g: F.gelu(g, approximate="tanh")), (SILU, F.silu)]
)
def test_a_gated_mlp_equals_the_summed_weights_and_its_gradients_are_right(monkeypatch, gate, activation):
    """With what the GPU's kernels compute written as formulas."""
    monkeypatch.setattr(triton_ops, "gated_act_lora", forward_thin)
    monkeypatch.setattr(triton_ops, "gated_act_lora_backward", backward_thin)
    torch.manual_seed(1)
    x, parts = (
        torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True),
        [adapted(6, 4, 2), adapted(6, 4, 2), adapted(4, 6, 2)],
    )
    for weight, _, _ in parts:
        weight.requires_grad_(False)
    g, u, d = (weight + b @ a for weight, a, b in parts)
    assert torch.allclose(
        lora_gated_mlp(x, gate, *parts), F.linear(activation(F.linear(x, g)) * F.linear(x, u), d)
    )
    assert torch.autograd.gradcheck(
        lambda *t: lora_gated_mlp(t[0], gate, t[1:4], t[4:7], t[7:]),
        [x, *(t for part in parts for t in part)],
    )


def frozen(rank):
    return [[t.detach().bfloat16() for t in adapted(4, 4, rank)] for _ in range(3)]


def test_what_the_kernels_compute(monkeypatch):
    """16 bits on a GPU with Triton, three frozen weights, one rank of at most 64."""
    monkeypatch.setattr(triton_ops, "AVAILABLE", True)
    on_gpu, parts = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16), frozen(2)
    assert (
        use_lora_kernels(on_gpu, *parts)
        and use_lora_kernels(on_gpu, *frozen(triton_ops.MAX_RANK))
        and not use_lora_kernels(on_gpu, *frozen(triton_ops.MAX_RANK + 1))
    )
    assert not use_lora_kernels(torch.zeros(2, 4, dtype=torch.bfloat16), *parts), "a CPU"
    assert not use_lora_kernels(SimpleNamespace(is_cuda=True, dtype=torch.float32), *parts)
    assert not use_lora_kernels(on_gpu, *parts[:2], frozen(3)[0]), "two ranks"
    parts[1][0].requires_grad_()
    assert not use_lora_kernels(on_gpu, *parts), "a weight that learns"
    monkeypatch.setattr(triton_ops, "AVAILABLE", False)
    assert not use_lora_kernels(on_gpu, *frozen(2))
