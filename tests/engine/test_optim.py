from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from reckoner.config import PeftConfig, TrainConfig, schema
from reckoner.engine import optim
from reckoner.engine.optim import NonFinite, apply_step, make_optimizer
from reckoner.errors import InputError, Stopped
from reckoner.models.adapters import add_lora
from reckoner.runs import checkpoints

from .conftest import build


def layer():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_one_adamw_step_by_hand():
    """The first step moves by `lr * sign(gradient)`, and decay shrinks the matrix by `1 - lr * decay` but not
    the bias."""
    model = layer()
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = make_optimizer(model.named_parameters(), "adamw", weight_decay=0.5)
    model.weight.grad = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]])
    model.bias.grad = torch.tensor([12.0, 0.0])
    norm = apply_step(optimizer, model.parameters(), 0.1, max_grad_norm=0)
    assert norm == pytest.approx(13.0)
    assert torch.allclose(
        model.weight, weight * 0.95 - 0.1 * torch.tensor([[1.0, -1, 0], [0, 0, 0]]), atol=1e-6
    )
    assert torch.allclose(model.bias, bias - 0.1 * torch.tensor([1.0, 0]), atol=1e-6)
    assert model.weight.grad is None


def test_clipping_scales_to_the_norm_and_reports_the_one_before():
    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = model.weight.detach().clone()
    model.weight.grad, model.bias.grad = torch.full((2, 3), 2.0), torch.zeros(2)
    norm = apply_step(optimizer, model.parameters(), 1.0, max_grad_norm=0.5)
    assert norm == pytest.approx(2 * math.sqrt(6))
    assert float((model.weight.detach() - before).norm()) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    model = layer()
    optimizer = make_optimizer(model.named_parameters())
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.weight.grad[0, 0] = bad
    with pytest.raises(NonFinite, match="not applied") as caught:
        apply_step(optimizer, model.parameters(), 0.1, 1.0)
    assert isinstance(caught.value, Stopped)
    assert (
        all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        and not optimizer.state
    )


def test_frozen_parameters_stay_out_and_bad_names_are_refused():
    model = layer()
    model.weight.requires_grad_(False)
    groups = make_optimizer(model.named_parameters(), weight_decay=0.1).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.0)]
    with pytest.raises(InputError, match="choose adamw"):
        make_optimizer(model.named_parameters(), "adam")
    model.bias.requires_grad_(False)
    with pytest.raises(InputError, match="frozen"):
        make_optimizer(model.named_parameters())


def test_bfloat16_weights_whose_updates_would_be_rounded_away_are_refused():
    with pytest.raises(
        InputError,
        match="model.train_dtype=bfloat16 with train.optim=adamw would round most updates away; set "
        "train.optim=adamw_8bit",
    ):
        make_optimizer(layer().to(torch.bfloat16).named_parameters())


def test_what_trains_beside_an_adapter_of_a_bfloat16_model_is_fp32():
    model = add_lora(build("qwen2").to(torch.bfloat16), PeftConfig(method="lora", lora_bias="all"), "base")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any(name.endswith(".bias") for name in trained) and {p.dtype for p in trained.values()} == {
        torch.float32
    }
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert make_optimizer(model.named_parameters())


def test_rounding_to_bfloat16_goes_to_a_neighbour_and_is_right_on_average(monkeypatch):
    """A quarter of the way from 1 to its neighbour 1 + 2^-7: three of four stay at 1; so below zero; exact
    numbers stay."""
    monkeypatch.setattr(optim, "ROUNDED_AT_ONCE", 999)
    draws = torch.Generator().manual_seed(0)
    for sign in (1, -1):
        out = torch.empty(100_000, dtype=torch.bfloat16)
        optim.round_stochastically(torch.full((100_000,), sign * (1 + 2**-9)), out, draws)
        assert set(out.tolist()) == {sign * 1.0, sign * (1 + 2**-7)}
        assert (out == sign).float().mean().item() == pytest.approx(0.75, abs=0.01)
    exact = torch.randn(5000).bfloat16()
    optim.round_stochastically(exact.float(), out := torch.empty_like(exact), draws)
    assert torch.equal(out, exact)


class Descent(torch.optim.Optimizer):
    """Gradient descent with the inside of bitsandbytes' optimizers: `step` calls `update_step` for each
    weight, and counts."""

    def __init__(self, groups, lr, betas):
        super().__init__(groups, {"lr": lr})

    def step(self):
        for gindex, group in enumerate(self.param_groups):
            for pindex, p in enumerate(group["params"]):
                self.state[p]["step"] = self.state[p].get("step", 0) + 1
                self.update_step(group, p, gindex, pindex)

    def update_step(self, group, p, gindex, pindex):
        assert p.dtype == p.grad.dtype == torch.float32
        p.data -= group["lr"] * p.grad


def test_steps_too_small_for_bfloat16_count_on_average(monkeypatch):
    """40 steps of 2^-12 below 1, where neighbours are 2^-8 apart: each weight is one of them, their mean is
    right, and a second run draws alike."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", SimpleNamespace(AdamW8bit=Descent))

    def run():
        weights = nn.Parameter(torch.ones(100, 200, dtype=torch.bfloat16))
        optimizer = make_optimizer([("weights", weights)], "adamw_8bit")
        for _ in range(40):
            weights.grad = torch.ones_like(weights)
            apply_step(optimizer, [weights], 2**-12)
        assert weights.dtype == torch.bfloat16 and weights.grad is None
        return weights.detach()

    found = run()
    assert torch.equal(found, run())
    assert len(found.unique()) > 2 and ((1 - found.double()) % 2**-8 == 0).all()
    assert found.double().mean().item() == pytest.approx(1 - 40 * 2**-12, abs=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_8bit_without_bitsandbytes_says_what_to_install():
    with pytest.raises(InputError, match="pip install bitsandbytes"):
        make_optimizer(layer().named_parameters(), "adamw_8bit")


def test_an_optimizer_is_one_function_and_one_name(monkeypatch):
    """A dummy goes from its setting through `make_optimizer` to a step."""
    monkeypatch.setattr(optim, "OPTIMIZERS", dict(optim.OPTIMIZERS))

    @optim.optimizer("sgd", state_bytes=0)
    def sgd(groups, betas):
        return torch.optim.SGD(groups, lr=0.0)

    (setting,) = (field for field in dataclasses.fields(TrainConfig) if field.name == "optim")
    assert setting.metadata["choices"] == schema.OPTIMIZERS
    model = layer()
    before = model.weight.detach().clone()
    optimizer = make_optimizer(model.named_parameters(), "sgd")
    model.weight.sum().backward()
    apply_step(optimizer, model.parameters(), 0.5)
    assert torch.allclose(model.weight, before - 0.5)


def test_the_choices_of_the_setting_are_the_registered_optimizers():
    assert schema.OPTIMIZERS == tuple(optim.OPTIMIZERS)


def small_model():
    """An embedding, a matrix with its bias, and a norm, with gradients that do not change."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, module in (
        ("embed", nn.Embedding(5, 4)),
        ("inner", nn.Linear(4, 6)),
        ("norm", nn.LayerNorm(6)),
    ):
        model.add_module(name, module)
    for number, p in enumerate(model.parameters()):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(number))
    return model


def steps_with(model, optimizer, count):
    gradients = [p.grad.clone() for p in model.parameters()]
    for _ in range(count):
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        apply_step(optimizer, model.parameters(), 0.01)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    """Against both optimizers of torch, each over its own parameters."""
    model, other = small_model(), small_model()
    steps_with(model, make_optimizer(model.named_parameters(), "muon", 0.1, (0.9, 0.95)), 3)
    gradients = [p.grad for p in other.parameters()]
    rest = [*other.embed.parameters(), other.inner.bias, *other.norm.parameters()]
    parts = [
        torch.optim.Muon([other.inner.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest[:1], lr=0.01, weight_decay=0.1, betas=(0.9, 0.95)),
        torch.optim.AdamW(rest[1:], lr=0.01, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    for _ in range(3):
        for p, gradient in zip(other.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        for part in parts:
            part.step()
    for (name, found), wanted in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5, msg=name)


def test_schedule_free_by_hand():
    """With a constant gradient g / sqrt(v) is 1. Rates 0.1, 0.1, 0.2: z = 0.9, 0.8, 0.6 and c = 1, 1/2, 2/3,
    so x = 0.9, 0.85, 0.85/3 + 0.4 and y = 0.1 z + 0.9 x.
    """
    (weight,) = model = [nn.Parameter(torch.tensor([1.0]))]
    optimizer = make_optimizer([("w", weight)], "schedule_free_adamw")
    for rate, z, x in ((0.1, 0.9, 0.9), (0.1, 0.8, 0.85), (0.2, 0.6, 0.85 / 3 + 0.4)):
        weight.grad = torch.tensor([5.0])
        apply_step(optimizer, model, rate)
        assert weight.item() == pytest.approx(0.1 * z + 0.9 * x)
        trained = weight.detach().clone()
        with optim.averaged([optimizer]):
            assert weight.item() == pytest.approx(x)
        assert torch.equal(weight, trained), "training goes on from the same bits"


def test_schedule_free_decays_the_weights_that_draw():
    """A gradient of 0 and decay 0.5 at rate 0.2, twice: z = 0.9 z, then z - 0.1 y, and c = 1, then 1/2."""
    weight = nn.Parameter(torch.ones(1, 1))
    optimizer = make_optimizer([("w", weight)], "schedule_free_adamw", 0.5)
    for z, x in ((0.9, 0.9), (0.81, 0.855)):
        weight.grad = torch.zeros(1, 1)
        apply_step(optimizer, [weight], 0.2)
        assert weight.item() == pytest.approx(0.1 * z + 0.9 * x)


@pytest.mark.parametrize(
    "name, kept_names",
    [
        ("muon", {"inner.weight/momentum_buffer", "embed.weight/exp_avg_sq", "norm.bias/step"}),
        ("schedule_free_adamw", {"inner.weight/offset", "embed.weight/exp_avg_sq", "norm.bias/step"}),
    ],
)
def test_an_optimizer_goes_on_from_a_checkpoint(name, kept_names):
    kept = small_model()
    first = make_optimizer(kept.named_parameters(), name)
    steps_with(kept, first, 1)
    tensors = checkpoints.optimizer_tensors(kept, first)
    assert set(tensors) >= kept_names
    again = small_model()
    again.load_state_dict(kept.state_dict())
    second = make_optimizer(again.named_parameters(), name)
    checkpoints.restore_optimizer(again, second, [(name, t.clone()) for name, t in tensors.items()])
    for model, optimizer in ((kept, first), (again, second)):
        for number, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(9 + number))
        steps_with(model, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), again.parameters(), strict=True))
