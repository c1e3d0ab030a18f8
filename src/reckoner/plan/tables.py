"""A plan in words and tables, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reckoner.plan.run import Plan

Table = tuple[list[str], list[list[str]]]
GIB = 2**30


def run_rows(plan: Plan) -> list[list[str]]:
    """Label and value of each line of one printed plan."""
    parts = ", ".join(
        f"{name} {size(value)}" for name, value in plan.memory.to_dict().items() if value and name != "total"
    )
    phases = ", ".join(f"{phase} {duration(value)}" for phase, value in plan.phases.items())
    rows = [
        ["model", plan.model],
        ["method", plan.method],
        ["parameters", f"{plan.parameters:,}"],
        ["trainable parameters", f"{plan.trainable:,} ({100 * plan.trainable_share:.4g} %)"],
        ["precision", plan.precision],
        ["problems", f"{plan.problems:,}"],
        ["a step", plan.batch],
        ["steps", f"{plan.steps:,} ({plan.epochs:.3g} epochs, {plan.updates:,} optimizer updates)"],
        ["tokens", f"about {plan.tokens:,}, of which {plan.supervised_tokens:,} supervised"],
        ["operations", f"{plan.flops:.3g}, evaluation included"],
        ["memory", f"about {size(plan.memory.total)}: {parts}"],
        ["time", f"about {duration(plan.total_seconds)}: {phases}"],
    ]
    if plan.cost is not None:
        rows.append(["cost", f"about {plan.cost:,.2f}"])
    return [*rows, *(["assumed", line] for line in plan.assumptions)]


def arm_table(plans: Sequence[Plan]) -> Table:
    """One line an arm: what trains, the arithmetic of its batches, memory, time, and cost where a rate was given."""
    priced = any(plan.cost is not None for plan in plans)
    headers = [
        "arm",
        "method",
        "trainable",
        "a step",
        "steps",
        "epochs",
        "memory",
        "time",
        *(["cost"] if priced else []),
    ]
    rows = []
    for plan in plans:
        trains = (
            [f"{plan.trainable:,}", plan.batch, f"{plan.steps:,}", f"{plan.epochs:.3g}"]
            if plan.steps
            else [""] * 4
        )
        cost = [f"{plan.cost:,.2f}"] if priced else []
        rows.append(
            [plan.name, plan.method, *trains, size(plan.memory.total), duration(plan.total_seconds), *cost]
        )
    return headers, rows


def memory_table(plans: Sequence[Plan]) -> Table:
    """The parts of each arm's peak; parts that no arm has are left out."""
    return _parts(plans, lambda plan: plan.memory.to_dict(), size, "memory of")


def time_table(plans: Sequence[Plan]) -> Table:
    """The phases of each arm."""
    return _parts(plans, lambda plan: {**plan.phases, "total": plan.total_seconds}, duration, "time of")


def gpu_table(by_count: dict[int, Sequence[Plan]]) -> Table:
    """Memory of each GPU and time of each arm, for several numbers of GPUs."""
    headers = ["on GPUs", *map(str, by_count)]
    columns = [
        [f"{size(plan.memory.total)}, {duration(plan.total_seconds)}" for plan in plans]
        for plans in by_count.values()
    ]
    names = [plan.name for plan in next(iter(by_count.values()))]
    return headers, [[name, *cells] for name, *cells in zip(names, *columns, strict=True)]


def too_large(plans: Sequence[Plan]) -> str:
    """A line that names the arms that do not fit, and what makes them smaller; empty where all fit."""
    wrong = [
        f"{plan.name} ({size(plan.memory.total)} of {size(plan.available)})"
        for plan in plans
        if plan.memory.total > plan.available
    ]
    if not wrong:
        return ""
    ways = "a smaller train.per_device_train_batch_size, model.gradient_checkpointing=true, train.optim=adamw_8bit, peft.method=lora, ppo.critic=head"
    return f"does not fit: {', '.join(wrong)}. What makes it smaller: {ways}"


def assumptions(plans: Sequence[Plan]) -> list[str]:
    """Every assumption of the plans once, in order."""
    return list(dict.fromkeys(line for plan in plans for line in plan.assumptions))


def _parts(
    plans: Sequence[Plan], parts: Callable[[Plan], dict[str, float]], show: Callable[[float], str], title: str
) -> Table:
    values = {plan.name: parts(plan) for plan in plans}
    names = [
        name
        for name in dict.fromkeys(n for found in values.values() for n in found)
        if any(found.get(name) for found in values.values())
    ]
    names = [*(name for name in names if name != "total"), "total"]
    return [title, *names], [
        [arm, *(show(found[name]) if found.get(name) else "" for name in names)]
        for arm, found in values.items()
    ]


def size(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
