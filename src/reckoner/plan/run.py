"""The plan of one run, and of every arm of a study: parameters, steps, memory, time and cost, without weights or network.

Parameters and steps are exact. Memory and time follow from counted work and the rates of a device (`machines`); what else
is assumed is listed with the plan. benchmarks/plan_accuracy.py compares plans with measured runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from reckoner.arms import choose, plan_study
from reckoner.config import Config
from reckoner.faults import InputError
from reckoner.models.dimensions import meta_model, model_config
from reckoner.plan.machines import Machine, choose_machine, measure
from reckoner.plan.memory import Memory
from reckoner.plan.phases import Run, Sizes, computed_in, count_parameters


@dataclass(frozen=True)
class Plan:
    """The arithmetic of one run. Tokens are real ones, without padding; `seconds` by phase; `cost` has the unit of the rate."""

    name: str
    model: str
    method: str
    parameters: int
    trainable: int
    adapter: int  # parameters that an adapter adds
    problems: int
    batch: str
    steps: int
    updates: int
    epochs: float
    tokens: int
    supervised_tokens: int
    flops: float
    memory: Memory
    available: int  # bytes of a device
    phases: dict[str, float]
    gpus: int
    cost: float | None
    precision: str
    assumptions: tuple[str, ...]

    @property
    def trainable_share(self) -> float:
        """Trainable parameters as a share of all, those of the adapter included."""
        return self.trainable / (self.parameters + self.adapter)

    @property
    def seconds(self) -> float:
        """Training alone, without what is evaluated on the way."""
        return sum(value for phase, value in self.phases.items() if phase not in ("dev", "test"))

    @property
    def total_seconds(self) -> float:
        return sum(self.phases.values())

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            **asdict(self),
            "memory": self.memory.to_dict(),
            "seconds": self.seconds,
            "total_seconds": self.total_seconds,
        }


def plan_counts(config: Config, only: str = "", gpus: int = 1, **given: Any) -> dict[int, list[Plan]]:
    """For 1, 2, 4, ... and `gpus` devices, a plan of every arm of the study in `config`, or of `only` one; `given` as in `plan`.

    A configuration without arms is one run of SFT. Raises `InputError` for an arm that there is not.
    """
    counts = sorted({2**power for power in range(gpus.bit_length()) if 2**power < gpus} | {gpus})
    if not config.study.arms:
        return {count: [plan(config, gpus=count, **given)] for count in counts}
    config.run.output_dir = config.run.output_dir or "runs/plan"
    arms = plan_study(config)
    wanted = [choose(arms, [only])[-1]] if only else arms
    for arm in wanted:
        arm.config.model.model_name_or_path = config.model.model_name_or_path
    return {
        count: [plan(arm.config, arm.method, name=arm.name, gpus=count, **given) for arm in wanted]
        for count in counts
    }


def plan(
    config: Config,
    method: str = "sft",
    name: str = "",
    on: str = "",
    gpus: int = 1,
    measured: Machine | None = None,
    samples: int | None = None,
    lengths: tuple[float, float] | None = None,
    rate_per_hour: float | None = None,
) -> Plan:
    """Plan one run of `method` ("prompt", "sft", "ppo" or "grpo") with `config` on `gpus` devices of the kind `on`.

    `samples` are the train problems, `lengths` the mean tokens of prompt + solution and of the solution, `rate_per_hour`
    the price of one device; `measured` replaces the assumed machine. What is not given is assumed and listed. Raises
    `InputError` for a model of unknown shape or unknown LoRA targets.
    """
    network = network_of(config.model.model_name_or_path)
    machine, why = (
        (measured, "measured")
        if measured
        else choose_machine(config, count_parameters(network.parameters()), on)
    )
    run = Run(config, method, network, machine, gpus, Sizes.of(config, samples, lengths))
    phases = run.phases()
    lines = [*run.assumed(lengths, samples), f"{machine} ({why})"]
    hours = sum(phases.values()) / 3600
    return Plan(
        name=name or method,
        model=config.model.model_name_or_path,
        method=run.label,
        parameters=run.shape.parameters,
        trainable=run.trainable,
        adapter=run.load.adapter,
        problems=run.sizes.train if method != "prompt" else 0,
        batch=run.batch_arithmetic(),
        steps=run.steps,
        updates=run.updates,
        epochs=run.epochs,
        tokens=round(run.tokens),
        supervised_tokens=round(run.supervised),
        flops=run.total.matmul,
        memory=run.memory(),
        available=machine.memory,
        phases=phases,
        gpus=gpus,
        cost=None if rate_per_hour is None else rate_per_hour * hours * gpus,
        precision=run.precision,
        assumptions=tuple(lines),
    )


def measured_machine(config: Config, on: str = "") -> Machine:
    """The machine that a plan of `config` assumes, with its rates measured here. Raises `InputError` for one that is not here."""
    machine, _ = choose_machine(
        config, count_parameters(network_of(config.model.model_name_or_path).parameters()), on
    )
    if machine.kind == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"--measure: there is no GPU here to time. Leave it out, or use --on cpu instead of {machine.name}"
        )
    torch.set_num_threads(config.run.threads or torch.get_num_threads())
    return measure(machine, computed_in(config, machine.kind))


@lru_cache(maxsize=2)
def network_of(name: str) -> nn.Module:
    """A model without storage, made once for all arms."""
    return meta_model(model_config(name))
