"""docs/metrics.md defines every name that a run logs, and none that no run logs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
NAMES = {
    name for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
}


def undefined(names: set[str]) -> set[str]:
    """Names without a definition; `reward_NAME` stands for the parts of a reward."""
    return {
        name
        for name in names
        if name not in NAMES and not (name.startswith("reward_") and "`reward_NAME`" in PAGE)
    }


@pytest.mark.parametrize("method", ["sft", "ppo", "grpo", "rejection", "dpo"])
def test_every_name_that_is_logged_is_defined(method, rl_config):
    from reckoner.algorithms import ALGORITHMS

    rl_config.rollout.max_steps, rl_config.rollout.reward_weights = 2, {"format": 0.1, "arithmetic": 0.1}
    rl_config.data.max_train_samples, rl_config.train.num_train_epochs = 16, 1
    summary = ALGORITHMS[method].train(rl_config)
    lines = [
        json.loads(line)
        for line in (Path(rl_config.run.output_dir) / "metrics.jsonl").read_text().splitlines()
    ]
    logged = set().union(*lines)
    assert not undefined(logged) and not undefined(set(summary["training"]))
    assert {"step", "seconds", "dev_strict", "grad_norm"} <= logged
    if method != "sft":
        assert {"reward", "reward_format", "seconds_generate", "kl_reference"} <= logged


def test_no_definition_is_of_a_name_that_nothing_writes():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "reckoner").rglob("*.py"))
    phases = {f"seconds_{phase}" for phase in ("generate", "score", "update")}
    assert {
        name
        for name in NAMES - phases - {"reward_NAME"}
        if f'"{name}"' not in source and f"{name}=" not in source and f"{name}:" not in source
    } == set()
    assert all(f'phase("{phase.removeprefix("seconds_")}")' in source for phase in phases)
