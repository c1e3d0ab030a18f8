"""Optimizers, and a step that refuses numbers not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reckoner import ranks
from reckoner.errors import InputError, Stopped
from reckoner.models.policy import fingerprint

ROUNDED_AT_ONCE = 2**24
"""Numbers rounded at once: random draws take memory for as many."""

Build = Callable[[list[dict[str, Any]], tuple[float, float]], torch.optim.Optimizer]
"""Makes an optimizer from groups of parameters and the betas of its moments. Each group has a `weight_decay`
and a `role`, which is "matrices", "vocabulary" (embedding and head) or "vectors".
"""


@dataclass(frozen=True, slots=True)
class OptimizerKind:
    """One row of `OPTIMIZERS`."""

    build: Build
    state_bytes: float  # that its state takes for each parameter
    trains_bfloat16: bool  # whether updates of bfloat16 weights are not rounded away
    shards: bool  # whether it steps a part of a tensor without the rest


OPTIMIZERS: dict[str, OptimizerKind] = {}
"""By name. `config.schema.OPTIMIZERS` holds the same names, because settings know no torch."""


def optimizer(
    name: str, state_bytes: float, trains_bfloat16: bool = False, shards: bool = False
) -> Callable[[Build], Build]:
    """Register the decorated function under `name`, a choice of `train.optim`."""

    def register(build: Build) -> Build:
        OPTIMIZERS[name] = OptimizerKind(build, state_bytes, trains_bfloat16, shards)
        return build

    return register


class NonFinite(Stopped):
    """A reward, loss, gradient or weight is NaN or infinite. The run ends; what it saved is from before."""


def make_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    name: str = "adamw",
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """The optimizer `name` over the parameters that train; decay on matrices, not on norms and biases.

    The learning rate is set by `apply_step`. Raises `InputError` when nothing trains, a package is missing,
    or bfloat16 weights would lose their updates.
    """
    named = [(path, parameter) for path, parameter in named_parameters if parameter.requires_grad]
    trained = [parameter for _, parameter in named]
    if not trained:
        raise InputError("no parameter trains: every weight is frozen")
    if name not in OPTIMIZERS:
        raise InputError(f"optim={name}: choose {' or '.join(OPTIMIZERS)}")
    kind = OPTIMIZERS[name]
    if not kind.trains_bfloat16 and any(parameter.dtype == torch.bfloat16 for parameter in trained):
        fitting = next(other for other, kind in OPTIMIZERS.items() if kind.trains_bfloat16)
        raise InputError(
            f"model.train_dtype=bfloat16 with train.optim={name} would round most updates away; "
            f"set train.optim={fitting}"
        )
    if not kind.shards and any(ranks.own_part(parameter) is not parameter for parameter in trained):
        raise InputError(f"run.shard=true does not go with train.optim={name}: set train.optim=adamw")
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "vocabulary": [], "vectors": []}
    for path, parameter in named:
        of_tokens = any(word in path for word in ("embed", "lm_head", "wte", "wpe"))
        groups["vectors" if parameter.ndim < 2 else "vocabulary" if of_tokens else "matrices"].append(
            parameter
        )
    decays = {"matrices": weight_decay, "vocabulary": weight_decay, "vectors": 0.0}
    return kind.build(
        [
            {"params": group, "weight_decay": decays[role], "role": role}
            for role, group in groups.items()
            if group
        ],
        betas,
    )


@optimizer("adamw", state_bytes=8, shards=True)
def adamw(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


@optimizer("muon", state_bytes=8)
def muon(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Muon (Jordan 2024) of torch for matrices, fused AdamW for embeddings, head, norms and biases.

    Updates of matrices are scaled to the size of AdamW's (Liu 2025, Moonlight), so that one rate serves both.
    A matrix has one moment and the others two: `state_bytes` is the most.
    """
    matrices = [group for group in groups if group["role"] == "matrices"]
    others = [group for group in groups if group["role"] != "matrices"]
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        parts.append(torch.optim.Muon(matrices, lr=0.0, adjust_lr_fn="match_rms_adamw"))
    if others:
        parts.append(torch.optim.AdamW(others, lr=0.0, betas=betas, fused=True))
    return _Together(parts)


class _Together(torch.optim.Optimizer):
    """Several optimizers as one: they share its groups and its state, which checkpoints hold."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: None = None) -> None:
        for part in self.parts:
            part.step()


@optimizer("adamw_8bit", state_bytes=2, trains_bfloat16=True)
def adamw_8bit(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW with 8-bit moments (Dettmers 2022) of bitsandbytes; bfloat16 weights are rounded at random.

    Raises `InputError` where bitsandbytes is missing.
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError("optim=adamw_8bit needs bitsandbytes: pip install bitsandbytes") from error

    class Rounding(AdamW8bit):
        """Steps of bfloat16 weights in fp32, then rounded so that small steps count on average."""

        def update_step(self, group: Any, p: nn.Parameter, gindex: int, pindex: int) -> None:
            if p.dtype != torch.bfloat16:
                super().update_step(group, p, gindex, pindex)
                return
            kept, grad = p.data, p.grad.float()
            p.grad = None
            p.data, p.grad = kept.float(), grad
            super().update_step(group, p, gindex, pindex)
            # A pure function of the step, so that a resumed run draws the same numbers.
            seed = (self.state[p]["step"] * 2 + gindex) * 2**20 + pindex
            draws = torch.Generator(p.device).manual_seed(seed)
            round_stochastically(p.data, kept, draws)
            p.grad = None
            p.data = kept

    return Rounding(groups, lr=0.0, betas=betas)


@optimizer("schedule_free_adamw", state_bytes=8, shards=True)
def schedule_free_adamw(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW with averaged weights in the place of a falling rate."""
    return ScheduleFreeAdamW(groups, betas)


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """Algorithm 1 of Defazio 2024, with x_1 = z_1 the weights that training begins with.

        y_t   = (1 - beta1) z_t + beta1 x_t                               draws, and g_t is its gradient
        z_t+1 = z_t - rate_t (g_t / (sqrt(v_t) + eps) + decay y_t)        v_t: bias corrected, as in AdamW
        x_t+1 = (1 - c_t) x_t + c_t z_t+1                                 is evaluated and saved
        c_t   = rate_t^2 / (rate_1^2 + ... + rate_t^2)

    The weights of the module are y and the state holds u = z - x, since x = y - (1 - beta1) u.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                if not (state := self.state[p]):
                    state |= {name: torch.zeros_like(p) for name in ("offset", "exp_avg_sq")}
                    state |= {
                        name: torch.zeros((), dtype=torch.float64) for name in ("step", "squared_rates")
                    }
                state["step"] += 1
                state["squared_rates"] += rate**2
                share = rate**2 / float(state["squared_rates"]) if rate else 0.0
                squares, u = state["exp_avg_sq"], state["offset"]
                squares.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                scale = (squares / (1 - beta2 ** float(state["step"]))).sqrt_().add_(1e-8)
                moved = u - rate * (p.grad / scale + group["weight_decay"] * p)  # z_t+1 - x_t
                p += share * moved + (1 - beta1) * ((1 - share) * moved - u)
                u.copy_((1 - share) * moved)

    @torch.no_grad()
    def average(self) -> None:
        """Put x in the place of the weights, which the state keeps until `back`."""
        for group in self.param_groups:
            for p in (p for p in group["params"] if p in self.state):
                self.state[p]["point"] = p.clone()
                p -= (1 - group["betas"][0]) * self.state[p]["offset"]

    @torch.no_grad()
    def back(self) -> None:
        """Undo `average`, to the bit; also where a checkpoint that was written in between is restored."""
        for p, state in self.state.items():
            p.copy_(state.pop("point"))


@contextmanager
def averaged(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[None]:
    """Inside, modules have the weights that are evaluated and saved, where those are not the trained ones."""
    own = [one for one in optimizers if isinstance(one, ScheduleFreeAdamW)]
    for one in own:
        one.average()
    try:
        yield
    finally:
        for one in own:
            one.back()


def round_stochastically(exact: torch.Tensor, out: torch.Tensor, draws: torch.Generator) -> None:
    """Write fp32 `exact` to bfloat16 `out`, up or down so that the mean is right (Zamirai 2020)."""
    for source, target in zip(
        exact.view(-1).split(ROUNDED_AT_ONCE), out.view(-1).split(ROUNDED_AT_ONCE), strict=True
    ):
        bits = source.view(torch.int32)
        noise = torch.randint(2**16, bits.shape, generator=draws, device=bits.device, dtype=torch.int32)
        target.copy_((bits + noise & -(2**16)).view(torch.float32))


def apply_step(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    max_grad_norm: float = 0.0,
    loss: float = 0.0,
) -> float:
    """Clip, step and clear the gradients; returns the L2 norm of the gradient before clipping.

    `max_grad_norm=0` never clips; `loss` is what the gradients are of, or a rank's share of it. Raises
    `NonFinite`, on all ranks alike, before anything is applied where the loss or the norm is not finite, and
    after it where a weight no longer is: the caller must not save then.
    """
    loss = sum(ranks.gather(loss))
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
    value = float(norm)
    for name, number in (("loss", loss), ("gradient norm", value)):
        if not math.isfinite(number):
            advice = "lower the learning rate or check the data"
            raise NonFinite(f"the {name} is {number}: the step was not applied; {advice}")
    if 0 < max_grad_norm < value:
        nn.utils.clip_grads_with_norm_(trained, max_grad_norm, norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    if not math.isfinite(float(total_norm([parameter.detach() for parameter in trained]))):
        step = f"a step at learning rate {learning_rate:g}"
        raise NonFinite(f"a weight is not finite after {step}; lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    return value


def total_norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The L2 norm of all tensors, of which ranks may hold parts: then of all alike."""
    parts = [ranks.own_part(tensor) for tensor in tensors]
    norm = nn.utils.get_total_norm(parts)
    if any(part is not tensor for part, tensor in zip(parts, tensors, strict=True)):
        norm = ranks.add(norm.double().square()).sqrt()
    return norm


def check_weights(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    start: Mapping[str, str],
    steps: int,
    rate: float = 0.0,
) -> None:
    """Frozen weights must be as in the fingerprint `start`, and those that got a gradient must not.

    With a `rate`, weights that a change of that size would reach may be as they were: a small gradient
    has not moved them yet. `steps` is for the message.
    """
    now = fingerprint(model)
    trained = {}  # what this rank holds of each: as it was, with a gradient, too large for a change of `rate`
    for name, parameter in model.named_parameters():
        still, own = now[name] == start[name], ranks.own_part(parameter.detach())
        if parameter.requires_grad:
            moments = (
                ranks.own_part(value)
                for value in optimizer.state.get(parameter, {}).values()
                if torch.is_tensor(value) and value.dim()
            )
            pulled = still and any(bool(moment.any()) for moment in moments)
            trained[name] = still, pulled, still and bool((own + rate == own).all())
        elif not still:
            raise RuntimeError(f"{name} is frozen and has changed")
    parts = ranks.gather(trained)
    for name in trained:
        parts_still, parts_pulled, parts_too_large = zip(*(part[name] for part in parts), strict=True)
        if all(parts_still) and any(parts_pulled) and all(parts_too_large):
            raise InputError(
                f"{name} has not changed after step {steps}: "
                "train.learning_rate is too small to reach the weights. Raise it"
            )
