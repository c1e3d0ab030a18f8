"""Against torch's own functions, with gradients checked by finite differences in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from reckoner.engine.ops import dispatch, numba_ops, torch_ops
from reckoner.engine.ops.dispatch import GELU_TANH, SILU, gated_act, gated_mlp, rms_norm

ACTIVATIONS = {"gelu": (GELU_TANH, lambda g: F.gelu(g, approximate="tanh")), "silu": (SILU, F.silu)}


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


def test_rms_norm_by_hand():
    """Mean square of (3, 4) is 12.5; 3 / sqrt(12.5) = 0.848528, times 2."""
    normed = rms_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([2.0, 1.0]), 0.0)
    assert torch.allclose(normed, torch.tensor([[1.697056, 1.131371]]))


def test_rms_norm_equals_torch_and_its_gradient_is_right():
    x, factor = random(2, 5, 7), random(7)
    assert torch.allclose(rms_norm(x, factor, 1e-3), F.rms_norm(x, (7,), factor, 1e-3))
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-3), (x, factor))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("rows", [4, 100])
def test_gated_mlp_equals_its_formula_and_its_gradient_is_right(monkeypatch, name, rows):
    monkeypatch.setattr(dispatch, "MLP_ROWS", rows)
    gate, activation = ACTIVATIONS[name]
    x, gate_up, down = random(2, 5, 3), random(8, 3), random(3, 4)
    g, u = F.linear(x, gate_up).chunk(2, -1)
    assert torch.allclose(gated_mlp(x, gate_up, down, gate), F.linear(activation(g) * u, down))
    assert torch.autograd.gradcheck(lambda *inputs: gated_mlp(*inputs, gate), (x, gate_up, down))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("rows", [4, 40, 600])
def test_without_a_gradient_it_is_the_same(name, rows):
    """Where oneDNN is there it fuses what follows a product, from 16 rows on; values from -30 to 30, and
    beyond where the sigmoid ends."""
    gate, activation = ACTIVATIONS[name]
    x, gate_up, down, factor = (
        torch.randn(rows, 1, 32) * 3,
        torch.randn(96, 32),
        torch.randn(32, 48),
        torch.randn(32),
    )
    x[0] *= 1e3
    g, u = F.linear(x, gate_up).chunk(2, -1)
    wanted = F.linear(activation(g) * u, down)
    with torch.no_grad():
        found, normed = gated_mlp(x, gate_up, down, gate), rms_norm(x, factor, 1e-6)
    assert (
        found.shape == x.shape
        and torch.allclose(found[1:], wanted[1:], rtol=1e-4, atol=1e-3)
        and torch.allclose(found[0], wanted[0], rtol=1e-4)
    )
    assert torch.allclose(normed, rms_norm(x, factor, 1e-6), rtol=1e-6)


def test_gated_mlp_with_frozen_weights_sends_the_gradient_on():
    x, gate_up, down = random(6, 3), random(8, 3).detach(), random(3, 4)
    gated_mlp(x, gate_up, down, SILU).sum().backward()
    assert gate_up.grad is None and x.grad.abs().min() > 0 and down.grad.abs().min() > 0


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("ops", [numba_ops, torch_ops])
def test_gates_hold_at_the_ends(name, ops):
    """Where the sigmoid is 0 or 1 in fp32, nothing is NaN and the function is 0 or the identity, whatever
    computes it."""
    if not getattr(ops, "AVAILABLE", True):
        pytest.skip("Numba is not installed")
    gate, _ = ACTIVATIONS[name]
    ends = torch.tensor([[-1e4, -200.0, 200.0, 1e4]])
    gate_up = torch.cat((ends, torch.ones(1, 4)), 1)
    gradient, value = ops.gated_act_backward(gate_up, torch.ones(1, 4), *gate.factors)
    assert torch.equal(value, ends.clamp(min=0)) and torch.equal(ops.gated_act(gate_up, *gate.factors), value)
    assert torch.equal(gradient, torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 200.0, 1e4]]))


@pytest.mark.parametrize("activation", [F.silu, lambda x: F.gelu(x, approximate="tanh"), torch.tanh])
def test_a_gate_of_any_activation_equals_its_formula_and_its_gradient_is_right(activation):
    torch.manual_seed(0)
    gate, up = (torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.equal(gated_act(gate, up, activation, None), activation(gate) * up)
    assert torch.autograd.gradcheck(lambda g, u: gated_act(g, u, activation, None), (gate, up))
