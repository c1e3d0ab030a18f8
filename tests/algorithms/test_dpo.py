"""DPO raises right completions over wrong ones, by the papers' losses, from the policy's own pairs."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from reckoner.algorithms import dpo
from reckoner.config import load_config
from reckoner.engine.batches import Example
from reckoner.errors import InputError, Stopped

from .invariants import Code, Scene
from .resuming import check_resumes_exactly

RECKONER = Code("reckoner")


def rollout_of(rewards, texts=None, truncated=()):
    texts = texts or [str(i) for i in range(len(rewards))]
    examples = [Example("p", (1,), tuple(text.encode())) for text in texts]
    cut = torch.tensor([i in truncated for i in range(len(rewards))])
    return SimpleNamespace(rewards=torch.tensor(rewards), examples=examples, truncated=cut)


def pairs_of(rollout, size, *settings):
    return dpo.make_pairs(rollout, load_config("", [], [f"rollout.num_generations={size}", *settings]))


def test_best_against_worst_while_they_differ():
    assert pairs_of(rollout_of([0.0, 1, 1, 0, 0]), 5) == [(1, 4), (2, 3)]
    assert pairs_of(rollout_of([0.0, 1, 1, 1, 1, 1]), 6) == [(1, 0)]
    assert pairs_of(rollout_of([0.2, 0.9, 0.5, 0.5]), 4) == [(1, 0)]
    assert pairs_of(rollout_of([1.0, 1, 0, 0]), 2) == [], "groups are never mixed"
    assert pairs_of(rollout_of([1.0, 0, 1, 0, 1, 0]), 6, "dpo.max_pairs=2") == [(0, 5), (2, 3)]


def test_no_pair_of_equal_tokens_or_masked_completions():
    assert pairs_of(rollout_of([1.0, 0.0], ["same", "same"]), 2) == []
    rollout = rollout_of([1.0, 0.0, 0.0, 0.0], truncated={3})
    assert pairs_of(rollout, 4) == [(0, 3)]
    assert pairs_of(rollout, 4, "rollout.mask_truncated_completions=true") == [(0, 2)]


def test_losses_by_hand():
    """h = 2 and beta = 0.5: log(1 + 1/e) and (2 - 1)^2."""
    margins = torch.tensor([2.0, 0.0])
    assert_close(dpo.preference_loss(margins, 0.5), torch.tensor([math.log1p(math.exp(-1)), math.log(2)]))
    assert_close(dpo.preference_loss(margins, 0.5, "ipo"), torch.tensor([1.0, 1.0]))


def test_margins_by_hand():
    """Completion 0 gained 1 + 2 over its reference in two tokens, completion 2 lost 1 in one."""
    logprobs, reference = torch.tensor([-1.0, -4.0, -1.0]), torch.tensor([-2.0, -3.0, -3.0])
    rows = torch.tensor([0, 2, 0])
    assert dpo.pair_margins(logprobs, reference, rows, [(0, 2)], False).tolist() == [4.0]
    assert dpo.pair_margins(logprobs, reference, rows, [(0, 2)], True).tolist() == [2.5]


@pytest.mark.parametrize(
    "settings", [[], ["dpo.loss=ipo"], ["dpo.length_normalized=true", "peft.method=lora"]]
)
def test_an_update_prefers_right_ones_whatever_the_size_of_a_pass(settings, tiny):
    """Both sizes of a pass take one step, which raises the mean margin from 0; frozen weights stay."""
    changes = []
    for size in (2, 16):
        scene = Scene(RECKONER, tiny, "rollout.num_mini_batches=1", *settings)
        scene.config.train.per_device_train_batch_size = size
        rollout, before = scene.draw(), scene.weights()
        pairs = dpo.make_pairs(rollout, scene.config)
        assert len(pairs) >= 3
        sums = dpo.update(scene.training(), rollout, pairs, rollout.logprobs, 1e-3, 1)
        assert sums["margin"] == pytest.approx(0, abs=1e-3), "on-policy the margin is 0 before the update"
        kind = scene.config.dpo
        start = math.log(2) if kind.loss == "dpo" else 1 / (2 * kind.beta) ** 2
        assert sums["loss"] == pytest.approx(start, rel=1e-3) and sums["updates"] == 1
        after = scene.weights()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed and ("peft.method=lora" not in settings or all("lora_" in name for name in changed))
        changes.append(torch.cat([(after[name] - before[name]).flatten() for name in before]))
        again = dpo.update(scene.training(), rollout, pairs, rollout.logprobs, 0.0, 1)
        assert again["margin"] > 0
    assert_close(changes[0], changes[1], atol=1e-6, rtol=1e-3)


def test_a_killed_run_ends_as_one_that_was_not(rl_config, tmp_path):
    summary, lines = check_resumes_exactly(dpo.train, rl_config, tmp_path)
    assert summary["method"] == "dpo"
    steps = [line for line in lines if "reward" in line]
    assert steps[0]["loss"] == pytest.approx(math.log(2), rel=0.2) and steps[0]["kl_reference"] < 1e-6
    for line in steps:
        assert line["pairs"] > 0 and 0 <= line["preferred"] <= 1 and line["kl_old"] is None


def test_what_cannot_work_is_refused(rl_config):
    rl_config.rollout = dataclasses.replace(rl_config.rollout, num_generations=1)
    with pytest.raises(InputError, match="a completion alone has no group to be better than"):
        dpo.train(rl_config)


def test_nothing_right_stops_with_the_reason(rl_config):
    rl_config.rollout.patience = 2
    nothing = SimpleNamespace(total=0.0, parts={"correct": 0.0})
    with pytest.raises(Stopped, match="the reward is 0 for all 32 completions of 2 steps"):
        dpo.train(rl_config, reward_fn=lambda *_: nothing)
