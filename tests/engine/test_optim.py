from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from torch import nn
from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_linear_schedule_with_warmup

from reckoner.engine.optim import NonFinite, apply_step, learning_rate, make_optimizer
from reckoner.faults import InputError, Stopped


def test_schedules_by_hand():
    rates = [learning_rate(step, 8, 1.0, "constant", warmup_ratio=0.25) for step in range(1, 9)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])
    assert [learning_rate(step, 4, 2.0, "linear") for step in range(1, 5)] == [2.0, 1.5, 1.0, 0.5]
    cosine = [learning_rate(step, 4, 1.0, "cosine_with_min_lr", min_lr_rate=0.1) for step in range(1, 5)]
    half = math.sqrt(0.5)
    assert cosine == pytest.approx([1, 0.1 + 0.45 * (1 + half), 0.55, 0.1 + 0.45 * (1 - half)])


def test_schedules_equal_transformers_after_the_warm_up():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)
    linear = get_linear_schedule_with_warmup(optimizer, 4, 40).lr_lambdas[0]
    cosine = get_cosine_with_min_lr_schedule_with_warmup(optimizer, 4, 40, min_lr_rate=0.1).lr_lambdas[0]
    for step in range(5, 41):
        assert learning_rate(step, 40, 3.0, "linear", 0.1) == pytest.approx(3 * linear(step - 1))
        assert learning_rate(step, 40, 3.0, "cosine_with_min_lr", 0.1, 0.1) == pytest.approx(
            3 * cosine(step - 1)
        )


def test_all_warm_up_and_wrong_arguments():
    assert [learning_rate(s, 2, 3.0, warmup_ratio=1.0) for s in (1, 2)] == [1.0, 2.0]
    with pytest.raises(ValueError, match="step 0"):
        learning_rate(0, 10, 1.0)
    with pytest.raises(InputError, match="cosine_with_min_lr"):
        learning_rate(1, 10, 1.0, "cosin")


def layer():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_one_adamw_step_by_hand():
    """The first step moves by `lr * sign(gradient)`, and decay shrinks the matrix by `1 - lr * decay` but not the bias."""
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


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_8bit_without_bitsandbytes_says_what_to_install():
    with pytest.raises(InputError, match=r"reckoner\[gpu\]"):
        make_optimizer(layer().named_parameters(), "adamw_8bit")
