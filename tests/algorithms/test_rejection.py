"""Rejection sampling learns right, distinct solutions alone, by the loss of SFT."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from reckoner.algorithms import ALGORITHMS, rejection
from reckoner.config import load_config
from reckoner.engine.batches import collate
from reckoner.engine.logprobs import completion_logprobs
from reckoner.errors import Stopped
from reckoner.runs.folder import read_summary
from reckoner.runs.records import Completion, Grade, Problem
from reckoner.tasks.answers.grading import Answer
from reckoner.training.metrics import NothingToLearn
from reckoner.training.rollout_log import read_transcripts
from reckoner.training.rollouts import Episode

from .invariants import Code, Scene
from .resuming import check_resumes_exactly

RECKONER = Code("reckoner")
PROBLEM = Problem("p", "?", "#### 7", "7", "main", "test")


def episode(text: str, problem: Problem = PROBLEM, reward: float | None = None) -> Episode:
    answer = Answer(text, problem.gold)
    grade: Grade = dataclasses.replace(answer.grade, problem_id=problem.id)
    completion = Completion(problem.id, 0, "", text, 9, "stop", -1.0, "")
    earned = float(answer.grade.strict) if reward is None else reward
    return Episode(problem, Any, completion, grade, earned, {"correct": earned}, (-1.0,))


def chosen(texts: list[str], *settings: str, **how: Any) -> list[str]:
    episodes = [episode(text, **how) for text in texts]
    return [texts[i] for i in rejection.select(episodes, load_config("", [], settings))]


def test_right_solutions_are_kept_once_for_each_way_to_compute():
    bare, seven, spaced = "#### 7", "3+4=<<3+4=7>>7\n#### 7", "Now 3 + 4 = 7 pens.\n#### 7"
    turned, wrong = "4+3=<<4+3=7>>7\n#### 7", "3+4=<<3+4=8>>8\n#### 8"
    assert chosen([wrong, bare, seven, spaced, turned, bare]) == [bare, seven, turned]


def test_a_right_answer_by_a_wrong_calculation_is_left_out():
    lucky = "3+4=<<3+4=8>>8, so 7\n#### 7"
    assert chosen([lucky]) == []
    assert chosen([lucky], "rejection.check_steps=false") == [lucky]


def test_a_problem_gives_at_most_its_share():
    other = dataclasses.replace(PROBLEM, id="q")
    many = [episode(f"{n}+{7 - n}=<<{n}+{7 - n}=7>>7\n#### 7") for n in range(1, 7)]
    two = [episode("#### 7", other), episode("7 pens\n#### 7", other)]
    config = load_config("", [], ["rejection.max_per_problem=3"])
    assert rejection.select(many + two, config) == [0, 1, 2, 6, 7]


def test_the_reward_decides_where_it_is_another():
    texts = ["#### 1", "#### 2"]
    assert chosen(texts, reward=0.5) == []
    assert chosen(texts, "rejection.min_reward=0.5", reward=0.5) == texts


@pytest.mark.parametrize("adapter", [[], ["peft.method=lora"]], ids=["full", "lora"])
def test_the_gradient_is_that_of_sft_on_what_is_kept(adapter, tiny):
    """Whatever the size of a forward pass; by SGD at rate 1, so that the step is the gradient."""
    changes = []
    for max_tokens in (40, 10_000):
        scene = Scene(RECKONER, tiny, "rollout.num_mini_batches=1", *adapter)
        rollout, kept, before = scene.draw(), [1, 2, 7, 12], scene.weights()
        batch = collate([rollout.examples[i] for i in kept], 0)
        logprobs = completion_logprobs(scene.policy.model, batch).logprobs
        trained = {name: p for name, p in scene.policy.model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(-logprobs.mean(), list(trained.values()))
        scene.max_tokens = max_tokens
        scene.config.train.learning_rate, scene.config.train.lr_scheduler_type = 1.0, "constant"
        scene.config.train.warmup_ratio = 0.0
        sums = rejection.update(scene.training(), rollout, kept, 1)
        assert sums["tokens"] == len(logprobs) and sums["updates"] == 1
        assert sums["loss"] == pytest.approx(-logprobs.mean().item(), rel=1e-5)
        after = scene.weights()
        assert all(torch.equal(before[name], after[name]) for name in before.keys() - trained.keys())
        for name, gradient in zip(trained, gradients, strict=True):
            assert_close(before[name] - after[name], gradient, atol=1e-5, rtol=1e-4)
        changes.append(torch.cat([(before[name] - after[name]).flatten() for name in trained]))
    assert_close(changes[0], changes[1], atol=1e-6, rtol=1e-4)


def test_the_rate_follows_its_schedule_from_update_to_update(tiny):
    """One round of 4 x 2 updates, linear to 0 without warm-up: the last of 8 has an eighth of the peak."""
    settings = ["rollout.num_mini_batches=4", "rollout.num_iterations=2", "rollout.max_steps=1"]
    settings += ["train.lr_scheduler_type=linear", "train.warmup_ratio=0", "train.learning_rate=0.008"]
    scene = Scene(RECKONER, tiny, *settings)
    sums = rejection.update(scene.training(), scene.draw(), range(16), 1)
    assert sums["updates"] == 8 and sums["learning_rate"] == pytest.approx(0.001)


def test_nothing_kept_changes_nothing(tiny):
    scene = Scene(RECKONER, tiny)
    rollout, before = scene.draw(), scene.weights()
    assert rejection.update(scene.training(), rollout, [], 1)["updates"] == 0
    assert all(torch.equal(before[name], weight) for name, weight in scene.weights().items())


def test_a_killed_run_ends_as_one_that_was_not(rl_config, tmp_path):
    """What was kept stands beside each completion."""
    summary, lines = check_resumes_exactly(rejection.train, rl_config, tmp_path)
    assert summary["method"] == "rejection" and summary["training"]["loss_first"] > 0
    steps = [line for line in lines if "reward" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    for line in steps:
        assert 0 < line["kept_problems"] <= line["kept"] <= 16 and line["updates"] == 2
        assert line["kl_old"] is None and line["loss"] > 0
        transcripts = read_transcripts(tmp_path / "whole", line["step"])
        marked = [one.advantages[0] for one in transcripts]
        assert sum(marked) == line["kept"] and set(marked) <= {0.0, 1.0}
        assert all(one.reward == 1 for one, mark in zip(transcripts, marked, strict=True) if mark)


def test_samples_without_a_right_one_stop_with_the_reason(rl_config):
    rl_config.rollout.patience = 2
    nothing = SimpleNamespace(total=0.0, parts={"correct": 0.0})
    with pytest.raises(Stopped, match="the reward is 0 for all 32 completions of 2 steps"):
        rejection.train(rl_config, reward_fn=lambda *_: nothing)


@pytest.mark.parametrize("method", ["rejection", "dpo", "grpo"])
def test_a_short_run_that_learned_nothing_does_not_end_as_a_success(method, rl_config):
    """The random model solves nothing, and one step is too few for the guard."""
    rl_config.rollout.max_steps, rl_config.rollout.patience = 1, 5
    with pytest.raises(NothingToLearn, match=r"no completion could be learned from \(steps: 1\)"):
        ALGORITHMS[method].train(rl_config)
    run = Path(rl_config.run.output_dir)
    assert not (run / "model").exists() and read_summary(run).get("status") != "finished"
