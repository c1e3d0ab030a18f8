"""Rejection sampling, DPO and distillation from the command line, killed by the system, with full weights and
with LoRA.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from reckoner.runs.records import read_json

SETTINGS = [
    *("data.max_train_samples=12", "data.dev_size=4", "prompt.chat_template=off", "eval.dev_samples=1"),
    *("rollout.num_prompts=2", "rollout.num_generations=4", "rollout.max_steps=2", "rollout.kl_samples=4"),
    *("rollout.reward=coin", "rollout.patience=0", "train.learning_rate=1e-3", "train.eval_steps=9"),
    *("train.lr_scheduler_type=constant", "run.save_steps=1", "run.threads=1"),
]
"""A random model is never right, so that a coin pays."""


def outcome(folder: Path) -> tuple[dict[str, bytes], list[dict]]:
    """The model, what was drawn, and the metrics without their clock."""
    kept = [*(folder / "model").glob("*.safetensors"), *(folder / "rollouts").iterdir()]
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    timeless = [{key: value for key, value in line.items() if "seconds" not in key} for line in lines]
    return {path.name: path.read_bytes() for path in kept}, timeless


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("method", ["rejection", "dpo", "distill"])
def test_a_killed_command_ends_as_one_that_was_not(method, adapter, tiny_model, tmp_path, start_reckon):
    words = [method, *SETTINGS, f"model.model_name_or_path={tiny_model}", f"peft.method={adapter}"]
    if method == "distill":
        teacher = shutil.copytree(tiny_model, tmp_path / "teacher") / "model.safetensors"
        save_file({name: 1.1 * t for name, t in load_file(teacher).items()}, teacher, {"format": "pt"})
        words.append(f"distill.teacher={teacher.parent}")
    whole = start_reckon(*words, "run.output_dir=whole").wait()
    killed = start_reckon(*words, "run.output_dir=killed")
    killed.wait((tmp_path / "killed" / "checkpoints" / "step-000001").is_dir)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait().returncode == -signal.SIGKILL
    again = start_reckon(*words, "run.output_dir=killed").wait()
    assert (whole.returncode, again.returncode) == (0, 0), again.stderr
    found = outcome(tmp_path / "whole")
    assert found == outcome(tmp_path / "killed")
    files, lines = found
    assert ("adapter_model.safetensors" in files) == (adapter == "lora") != ("model.safetensors" in files)
    assert sum(line.get("updates", 0) for line in lines) >= 2
    training = read_json(tmp_path / "killed" / "summary.json")["training"]
    assert (training["trainable_parameters"] < training["parameters"]) == (adapter == "lora")
