"""Distillation follows the reverse KL to the teacher at each token of the policy's own completions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from reckoner.algorithms import distill
from reckoner.engine.cost import forward_flops
from reckoner.errors import InputError
from reckoner.training.rollouts import score

from .invariants import Code, Scene
from .resuming import check_resumes_exactly

RECKONER = Code("reckoner")


@pytest.mark.parametrize("adapter", [[], ["peft.method=lora"]], ids=["full", "lora"])
def test_updates_bring_the_policy_nearer_whatever_the_size_of_a_pass(adapter, tiny):
    changes = []
    for max_tokens in (40, 10_000):
        scene = Scene(RECKONER, tiny, "rollout.num_mini_batches=1", *adapter)
        teacher = Scene(RECKONER, tiny).policy
        torch.manual_seed(2)
        with torch.no_grad():
            for p in teacher.model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        rollout, before = scene.draw(), scene.weights()
        scene.max_tokens = max_tokens
        judged = score(scene.policy, teacher.model, rollout, range(16), 1.0, 1000)
        sums = distill.update(scene.training(), rollout, judged, 1e-2, 1)
        assert sums["updates"] == 1 and sums["tokens"] == rollout.mask.sum() and sums["clipped"] == 0
        kl = (rollout.logprobs - judged)[rollout.mask].mean().item()
        assert sums["policy_loss"] == pytest.approx(kl, rel=1e-3), "on-policy the loss is the KL"
        after = scene.weights()
        changes.append(torch.cat([(after[name] - before[name]).flatten() for name in before]))
        again = distill.update(scene.training(), rollout, judged, 0.0, 1)
        assert again["policy_loss"] < sums["policy_loss"]
    assert_close(changes[0], changes[1], atol=1e-6, rtol=1e-3)


def test_a_killed_run_ends_as_one_that_was_not(rl_config, teacher_folder, tmp_path):
    rl_config.distill.teacher = str(teacher_folder)
    summary, lines = check_resumes_exactly(distill.train, rl_config, tmp_path)
    assert summary["method"] == "distill"
    assert all(line["updates"] == 2 for line in lines if "reward" in line)
    inputs = json.loads((tmp_path / "whole" / "inputs.json").read_text())
    assert any(name.startswith("teacher ") for name in inputs)


def test_what_the_teacher_reads_is_counted(rl_config, teacher_folder, tiny_model, tmp_path):
    """A step costs generation, the teacher's reading and its updates; a second pass adds only updates."""
    rl_config.distill.teacher, rl_config.rollout.max_steps = str(teacher_folder), 1
    spent = []
    for passes in (1, 2):
        rl_config.run.output_dir, rl_config.rollout.num_iterations = str(tmp_path / str(passes)), passes
        spent.append(distill.train(rl_config)["training"])
    lines = [json.loads(line) for line in (tmp_path / "1" / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in lines if "length" in line)
    drawn = round(step["completions"] * step["length"])
    once = forward_flops(AutoModelForCausalLM.from_pretrained(tiny_model), spent[0]["tokens"], drawn)
    assert 2 * spent[0]["flops"] - spent[1]["flops"] == pytest.approx(2 * once), (
        "teacher and policy are alike"
    )


def test_no_reward_is_needed(rl_config, teacher_folder):
    rl_config.distill.teacher, rl_config.rollout.patience = str(teacher_folder), 2
    nothing = SimpleNamespace(total=0.0, parts={"correct": 0.0})
    summary = distill.train(rl_config, reward_fn=lambda *_: nothing)
    assert summary["training"]["steps"] == 4, "it goes on where all earn 0"


def test_a_teacher_that_cannot_judge_is_refused(rl_config, tiny):
    with pytest.raises(InputError, match="distill.teacher is empty"):
        distill.train(rl_config)
    rl_config.distill.teacher = str(tiny)
    with pytest.raises(InputError, match=r"has another vocabulary than .*: \d+ of its \d+ tokens"):
        distill.train(rl_config)
    assert not Path(rl_config.run.output_dir).exists()
