"""Weights divided over the processes of torchrun by FSDP2 (Zhao 2023): one group of tensors for each layer.

A rank holds an equal part of every tensor, of its gradient and of its optimizer state. A layer is gathered
while it computes. What no layer holds (embedding, last norm, LM head) is gathered inside `with_weights`.
Gradients are sums over ranks, as `ranks.add_gradients` gives them without sharding. Every rank must make as
many passes as the others: `level` adds empty ones. FSDP is imported where it is used: that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from reckoner import ranks
from reckoner.config import PeftConfig
from reckoner.errors import InputError

Result = TypeVar("Result")


def check(peft: PeftConfig) -> None:
    """Raises `InputError` where weights cannot be divided."""
    if ranks.size() == 1:
        raise InputError(
            "run.shard=true divides weights over processes: start them with "
            "torchrun --nproc-per-node N -m reckoner ..., or set run.shard=false"
        )
    if peft.method == "qlora" or peft.variant == "pissa":
        wrong = "peft.method=qlora" if peft.method == "qlora" else "peft.variant=pissa"
        raise InputError(f"run.shard=true does not go with {wrong}: use peft.method=lora, or run.shard=false")


def shard(network: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Divide all weights of `network`, which compute in `dtype` on `device`; they may still be elsewhere."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    mixed = any(parameter.dtype != dtype for parameter in network.parameters())
    for module in [*filter(_is_layer, network.modules()), network]:
        divide(module, device, dtype if mixed else None)
    network.with_weights = lambda compute: compute()
    register_fsdp_forward_method(network, "with_weights")


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, GradientCheckpointingLayer)


def divide(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Divide the weights of `module` that are not divided yet, as one group that computes in `dtype`.

    Its gradients are added up over ranks, in float32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    precision = MixedPrecisionPolicy(dtype, dtype and torch.float32, cast_forward_inputs=False)
    mesh = ranks.mesh(device.type)
    group: Any = fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    group.set_gradient_divide_factor(1.0)
    group.set_force_sum_reduction_for_comms(True)


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of `model` are divided over ranks."""
    return hasattr(model, "with_weights")


def with_weights(model: Any, compute: Callable[[], Result]) -> Result:
    """`compute()`, which reads weights that no layer of `model` holds. It may return tensors, or a tuple."""
    result: Result = model.with_weights(compute) if is_sharded(model) else compute()
    return result


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, every rank holds all weights of `model`, in the dtype of the computation."""
    groups: list[Any] = [*filter(_is_layer, model.modules()), model] if is_sharded(model) else []
    for group in groups:
        group.set_reshard_after_forward(False, recurse=False)
        group.unshard()
    try:
        yield
    finally:
        for group in groups:
            group.set_reshard_after_forward(True, recurse=False)
            group.reshard()


def level(model: nn.Module, passes: list[Any]) -> list[Any]:
    """The `passes` of this rank over a sharded model, and an empty one for each that another has more."""
    most = max(ranks.gather(len(passes))) if is_sharded(model) else 0
    return passes + [[]] * (most - len(passes))
