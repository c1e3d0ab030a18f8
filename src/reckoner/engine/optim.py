"""The optimizer, its schedule as a pure function of the step, and a step that refuses numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from reckoner.errors import InputError, Stopped

ROUNDED = 2**24
"""Numbers rounded at once: what random draws take of memory."""


class NonFinite(Stopped):
    """A reward, loss, gradient or weight is NaN or infinite. The run ends here, and what it has saved is from before."""


def make_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    name: str = "adamw",
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) over the parameters that train; decay on matrices, not on norms and biases.

    `name` is `adamw` (fused) or `adamw_8bit` (moments in 8 bits, Dettmers 2022, through bitsandbytes), which alone can
    train bfloat16 weights: it rounds them stochastically. The learning rate is set by `apply_step`. Raises `InputError`
    when nothing trains, bitsandbytes is missing, or bfloat16 weights would lose their updates.
    """
    trained = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    if not trained:
        raise InputError("no parameter trains: every weight is frozen")
    if name != "adamw_8bit" and any(parameter.dtype == torch.bfloat16 for parameter in trained):
        raise InputError(
            f"model.train_dtype=bfloat16 with train.optim={name} would round most updates away; set train.optim=adamw_8bit"
        )
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)
    if name == "adamw_8bit":
        return _adamw_8bit()(groups, lr=0.0, betas=betas)
    raise InputError(f"optim={name}: choose adamw or adamw_8bit")


def _adamw_8bit() -> type[torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError("optim=adamw_8bit needs bitsandbytes: pip install bitsandbytes") from error

    class Rounding(AdamW8bit):
        """Steps of bfloat16 weights in fp32, one tensor at a time, then rounded so that small steps count on average."""

        def update_step(self, group: Any, p: nn.Parameter, gindex: int, pindex: int) -> None:
            if p.dtype != torch.bfloat16:
                super().update_step(group, p, gindex, pindex)
                return
            kept, grad = p.data, p.grad.float()
            p.grad = None
            p.data, p.grad = kept.float(), grad
            super().update_step(group, p, gindex, pindex)
            # Of a restored run too, each step draws what it would have drawn.
            draws = torch.Generator(p.device).manual_seed(
                (self.state[p]["step"] * 2 + gindex) * 2**20 + pindex
            )
            round_stochastically(p.data, kept, draws)
            p.grad = None
            p.data = kept

    return Rounding


def round_stochastically(exact: torch.Tensor, out: torch.Tensor, draws: torch.Generator) -> None:
    """Write fp32 `exact` to bfloat16 `out`, up or down to a neighbour with the probability that makes the mean right (Zamirai 2020)."""
    for source, target in zip(exact.view(-1).split(ROUNDED), out.view(-1).split(ROUNDED), strict=True):
        bits = source.view(torch.int32)
        noise = torch.randint(2**16, bits.shape, generator=draws, device=bits.device, dtype=torch.int32)
        target.copy_((bits + noise & -(2**16)).view(torch.float32))


def learning_rate(
    step: int,
    total_steps: int,
    peak: float,
    schedule: str = "constant",
    warmup_ratio: float = 0.0,
    min_lr_rate: float = 0.0,
) -> float:
    """The rate of optimizer step `step`, counted from 1 to `total_steps`.

    Warm-up takes `ceil(warmup_ratio * total_steps)` steps in a straight line and wastes none at rate 0; the first
    step after it has the peak. Then `constant`, `linear` (towards 0), or `cosine_with_min_lr` (towards
    `min_lr_rate * peak`), equal to the schedules of transformers at the same number of steps.
    """
    if not 1 <= step <= total_steps:
        raise ValueError(f"step {step} is not in 1..{total_steps}")
    warmup = math.ceil(warmup_ratio * total_steps)
    if step <= warmup:
        return peak * step / (warmup + 1)
    progress = (step - 1 - warmup) / (total_steps - warmup)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak * (1 - progress)
    if schedule == "cosine_with_min_lr":
        return peak * (min_lr_rate + (1 - min_lr_rate) * 0.5 * (1 + math.cos(math.pi * progress)))
    raise InputError(f"lr_scheduler_type={schedule}: choose cosine_with_min_lr, linear or constant")


def apply_step(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    max_grad_norm: float = 0.0,
    loss: float = 0.0,
) -> float:
    """Clip, step and clear the gradients; returns the L2 norm of the gradient before clipping.

    `max_grad_norm=0` never clips; `loss` is what the gradients are of. Raises `NonFinite` before anything is applied
    where the loss or the norm is not finite, and after it where a weight no longer is: the caller must not save then.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in trained])
    value = float(norm)
    for name, number in (("loss", loss), ("gradient norm", value)):
        if not math.isfinite(number):
            raise NonFinite(
                f"the {name} is {number}: the step was not applied; lower the learning rate or check the data"
            )
    if 0 < max_grad_norm < value:
        nn.utils.clip_grads_with_norm_(trained, max_grad_norm, norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    if not math.isfinite(float(nn.utils.get_total_norm([parameter.detach() for parameter in trained]))):
        raise NonFinite(
            f"a weight is not finite after a step at learning rate {learning_rate:g}; lower the learning rate"
        )
    optimizer.zero_grad(set_to_none=True)
    return value
