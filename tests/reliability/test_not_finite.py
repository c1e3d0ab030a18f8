"""Eighty faults that make a number infinite or NaN, in four kinds of training: none of them reaches a
checkpoint.

A hook spoils the n-th forward pass that has a gradient (its output, the gradient that comes back, or the
weights used), or the reward is NaN. The run must stop with `NonFinite`, and every checkpoint must be that
of the undisturbed run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from reckoner.algorithms import grpo, ppo, sft
from reckoner.config import Config, PeftConfig
from reckoner.engine import backend
from reckoner.engine.optim import NonFinite
from reckoner.runs import checkpoints
from reckoner.runs.folder import Progress

METHODS = ("sft", "lora", "ppo", "grpo")
POINTS = 20


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    """Faults are put into modules, which the packed pass of a CPU does not call."""
    monkeypatch.setattr(backend, "modules_reason", lambda model, **how: "asked")


def coin(answer: Any, *_: object) -> SimpleNamespace:
    total = float(len(answer.text) % 2)
    return SimpleNamespace(total=total, parts={"correct": total})


def train(method: str, config: Config, reward_fn: Any = coin) -> None:
    config.run.save_steps, config.run.save_total_limit = 1, 99
    if method in ("sft", "lora"):
        peft = PeftConfig(method="lora", lora_r=4, lora_alpha=8) if method == "lora" else PeftConfig()
        sft.train(replace(config, peft=peft))
    else:
        {"ppo": ppo, "grpo": grpo}[method].train(config, reward_fn=reward_fn)


@contextmanager
def spoiled(kind: str, at: int) -> Iterator[list[int]]:
    """Spoil the forward pass of a linear layer number `at` among those with a gradient; yields the count of
    them.
    """
    passes = [0]

    def hook(module: torch.nn.Module, _: object, output: Any) -> Any:
        if not (isinstance(module, torch.nn.Linear) and torch.is_tensor(output) and output.requires_grad):
            return None
        passes[0] += 1
        if passes[0] - 1 != at:
            return None
        if kind == "loss":
            return output * math.nan
        if kind == "gradient":
            output.register_hook(lambda gradient: gradient * math.inf)
        if kind == "weight":
            module.weight.data[0, 0] = -math.inf
        return None

    handle = register_module_forward_hook(hook)
    try:
        yield passes
    finally:
        handle.remove()


def saved(folder: Path) -> dict[str, dict[str, Any]]:
    """The tensors' files of every checkpoint, by size and sha256."""
    found = {}
    for manifest in (folder / "checkpoints").glob("step-*/MANIFEST.json"):
        assert checkpoints.fault(manifest.parent) == ""
        files = json.loads(manifest.read_text())
        found[manifest.parent.name] = {
            name: entry for name, entry in files.items() if name.endswith(".safetensors")
        }
    return found


@pytest.fixture(scope="module")
def whole() -> dict[str, tuple[int, dict[str, Any]]]:
    """What undisturbed runs leave, and how many passes there are to spoil, by method; filled by the tests."""
    return {}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "point",
    [pytest.param(n, marks=[pytest.mark.slow] if n not in (1, 10, 19) else []) for n in range(POINTS)],
)
def test_no_fault_reaches_a_checkpoint(method, point, whole, rl_config, tmp_path):
    config = replace(rl_config, train=replace(rl_config.train, gradient_accumulation_steps=2))
    config.run.output_dir = str(tmp_path / "run")
    config.data.max_train_samples, config.rollout.max_steps = 24, 2
    if method not in whole:
        with spoiled("nothing", -1) as passes:
            train(
                method, replace(config, run=replace(config.run, output_dir=str(tmp_path / "whole" / "run")))
            )
        whole[method] = passes[0], saved(tmp_path / "whole" / "run")
    count, good = whole[method]
    kind = ("loss", "gradient", "weight", "reward" if method in ("ppo", "grpo") else "loss")[point % 4]
    completions = 2 * 4 * 4
    paid = 0

    def reward_fn(answer: Any, *_: object) -> SimpleNamespace:
        nonlocal paid
        paid += 1
        bad = kind == "reward" and paid == 1 + point * (completions - 1) // POINTS
        return SimpleNamespace(total=math.nan if bad else coin(answer).total, parts={"correct": 0.0})

    with spoiled(kind, point * (count - 1) // POINTS), pytest.raises(NonFinite) as stopped:
        train(method, config, reward_fn)
    left = saved(tmp_path / "run")
    assert left.items() <= good.items() and not (tmp_path / "run" / "model").exists()
    note = tmp_path / "run" / "nonfinite.json"
    if kind == "reward":
        assert "the reward of problem nano-train-" in str(stopped.value)
    elif note.exists():
        told = json.loads(note.read_text())
        assert told["problems"] and told["gradient_norms"] and told["step"] == 1 + int(max(left)[5:])
    else:
        assert "dev loss" in str(stopped.value) or "is not saved" in str(stopped.value)


def test_a_stopped_run_goes_on_to_the_same_end(rl_config, tmp_path):
    config = replace(rl_config, run=replace(rl_config.run, output_dir=str(tmp_path / "a" / "run")))
    train("sft", config)
    again = replace(config, run=replace(config.run, output_dir=str(tmp_path / "b" / "run")))
    with (
        spoiled("gradient", 100),
        pytest.raises(
            NonFinite,
            match=r"step \d: the gradient norm is .*nonfinite.json; the checkpoints are from before",
        ),
    ):
        train("sft", again)
    train("sft", again)
    assert saved(tmp_path / "a" / "run") == saved(tmp_path / "b" / "run")


def test_weights_ruined_between_steps_are_never_saved(rl_config, tmp_path):
    """An evaluation and a save follow the ruin before any loss can show it."""
    config = replace(rl_config, run=replace(rl_config.run, output_dir=str(tmp_path / "run")))
    seen: list[torch.nn.Module] = []
    handle = register_module_forward_hook(
        lambda module, *_: seen.append(module) if isinstance(module, torch.nn.Linear) and not seen else None
    )

    def ruin(phase: str, done: int, total: int, note: str) -> None:
        if (phase, done) == ("train", 3):
            seen[0].weight.data[0, 0] = math.nan

    progress: Progress = ruin
    config.run.save_steps, config.train.eval_steps = 0, 3
    with pytest.raises(NonFinite, match="holds values that are not finite: step 3 is not saved"):
        sft.train(config, progress)
    handle.remove()
    assert sorted(saved(tmp_path / "run")) == ["step-000000"]
