"""A run that was killed ends as one that was not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .invariants import coin

TIMED = ("seconds", "seconds_generate", "seconds_score", "seconds_update")


class Killed(BaseException):
    """What a process that dies does: no handler sees it."""


def kill_after(step: int) -> Callable[..., None]:
    def on_progress(phase: str, done: int, total: int, note: str) -> None:
        if phase == "train" and done == step:
            raise Killed

    return on_progress


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def check_resumes_exactly(
    train: Callable[..., dict[str, Any]], config: Any, tmp_path: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Kill a run of 4 steps after steps 1 and 3; weights, metrics and rollouts must not show it."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    config.run.save_steps = 1
    config.run.output_dir = str(whole)
    summary = train(config, reward_fn=coin)
    config.run.output_dir = str(killed)
    for step in (1, 3):
        with pytest.raises(Killed):
            train(config, kill_after(step), reward_fn=coin)
    again = train(config, reward_fn=coin)
    assert metrics(whole) == metrics(killed)
    expected, found = (load_file(folder / "model" / "model.safetensors") for folder in (whole, killed))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    for step in range(1, 5):
        name = f"rollouts/step-{step:06d}.jsonl"
        assert (whole / name).read_text() == (killed / name).read_text()
    for key in ("steps", "samples", "tokens", "supervised_tokens", "flops", "best_step"):
        assert again["training"][key] == summary["training"][key], key
    return summary, metrics(whole)
