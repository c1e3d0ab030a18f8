from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from reckoner.config import load_config
from reckoner.engine.batches import Example
from reckoner.errors import Stopped
from reckoner.training import metrics as monitor
from reckoner.training.loop import TrainState
from reckoner.training.metrics import Guard, NothingToLearn


def episode(reward, strict=False, markers=1, logprobs=(-1.0, -3.0), finish="stop", prompt=(2, 5), number=0):
    return SimpleNamespace(
        reward=reward,
        parts={"correct": float(strict), "format": 0.5},
        grade=SimpleNamespace(
            strict=strict, flexible=True, markers=markers, strict_value="7" if markers else None
        ),
        logprobs=logprobs,
        completion=SimpleNamespace(finish=finish),
        example=Example("p", prompt, (5,) * len(logprobs)),
        problem=SimpleNamespace(id=number),
    )


EPISODES = [
    episode(1.0, True),
    episode(0.0, finish="length"),
    episode(0.0, markers=0, logprobs=()),
    episode(0.0, markers=2, logprobs=(-2.0,)),
]


def test_a_steps_completions_in_numbers():
    line = monitor.describe(EPISODES, 2)
    assert line == {
        "completions": 4,
        "reward": 0.25,
        "reward_min": 0.0,
        "reward_max": 1.0,
        "reward_correct": 0.25,
        "reward_format": 0.5,
        "exact_match": 0.25,
        "flexible_match": 1.0,
        "format_rate": 0.5,
        "length": 1.25,
        "truncated": 0.25,
        "zero_variance": 0.5,
        "entropy": 2.0,
    }
    assert monitor.describe(EPISODES, 1)["zero_variance"] is None


def test_sums_over_the_passes_of_a_step():
    """Ratios 1.5 and 0.5, gains of both signs: the clip holds 1.5 up and 0.5 down.

    Later updates leave the first ratio alone.
    """
    sums = Counter()
    change = torch.tensor([1.5, 1.5, 0.5, 0.5]).log()
    monitor.accumulate_stats(sums, change, change, torch.tensor([1.0, -1, 1, -1]), 0.2, 0.28)
    sums["updates"] = 1
    monitor.accumulate_stats(sums, torch.zeros(4), torch.zeros(4), torch.ones(4), 0.2, 0.28)
    sums["grad_norm"], sums["policy_loss"] = 3.0, -0.5
    line = monitor.summarise(sums)
    k3 = (0.5 - torch.tensor(1.5).log().item()) * 2 + (-0.5 - torch.tensor(0.5).log().item()) * 2
    assert line["kl_old"] == pytest.approx(k3 / 8) and line["clip_share"] == 2 / 8
    assert line["log_ratio_max"] == pytest.approx(torch.tensor(2.0).log().item())
    assert (line["trained_tokens"], line["updates"], line["grad_norm"], line["policy_loss"]) == (
        8,
        1,
        3.0,
        -0.5,
    )
    assert monitor.summarise(Counter())["log_ratio_max"] is None


def test_what_a_step_costs():
    """4 completions of 2 prompts: each prompt is read once, 5 tokens are drawn; operations are those of 2
    forward passes, and the update's.
    """
    head = torch.nn.Linear(4, 10, bias=False)
    model = SimpleNamespace(
        get_output_embeddings=lambda: head,
        get_input_embeddings=lambda: head,
        parameters=lambda: [head.weight, torch.nn.Parameter(torch.ones(7))],
    )
    state, sums = TrainState(), Counter(tokens=3, flops=1000)
    monitor.count_step(state, EPISODES, 2, sums, model, 1, 0.5)
    assert (state.step, state.samples, state.tokens, state.supervised_tokens) == (1, 2, 9, 3)
    assert state.seconds == 0.5
    assert state.flops == 1000 + 2 * (2 * 7 * 9 + 2 * 40 * 5)


def line(step, **changes):
    usual = {
        "step": step,
        "completions": 32,
        "reward": 0.4,
        "reward_min": 0.0,
        "reward_max": 1.0,
        "truncated": 0.0,
    }
    return {**usual, "zero_variance": 0.5, "kl_reference": 0.1, "sampler_gap": 1e-6, **changes}


def guard_of(past=(), *settings):
    config = load_config("", [], ["rollout.patience=3", *settings])
    run = SimpleNamespace(config=config, metrics=lambda: list(past))
    return Guard(run, 1.0)


STOPS = [
    (
        dict(reward=0.0, reward_max=0.0, zero_variance=1.0, truncated=0.97),
        "the reward is 0 for all 96 completions of 3 steps; 93 were cut at max_completion_length=16. "
        "Nothing can be learnt: raise it",
    ),
    (
        dict(reward=0.0, reward_max=0.0, zero_variance=1.0),
        "the reward is 0 for all 96 completions of 3 steps; nothing can be learnt. Start from a model",
    ),
    (
        dict(truncated=0.6),
        "57 of 96 completions of 3 steps were cut at max_completion_length=16: "
        "raise it, or lower the learning rate",
    ),
    (
        dict(zero_variance=1.0),
        "all 8 completions of every prompt earned the same for 3 steps: raise rollout.temperature",
    ),
    (
        dict(kl_reference=11.0),
        r"the policy is 11.0 nats a token from where it began \(3 steps above 10\): lower the learning rate",
    ),
]


@pytest.mark.parametrize("change, message", STOPS, ids=["cut", "zero", "long", "same", "far"])
def test_the_guard_says_why(change, message):
    guard = guard_of((), "rollout.max_completion_length=16")
    guard.check(line(1, **change))
    guard.check(line(2, **change))
    with pytest.raises(NothingToLearn, match=message) as caught:
        guard.check(line(3, **change))
    assert isinstance(caught.value, Stopped) and str(caught.value).endswith(
        "The best checkpoint so far is kept"
    )


@pytest.mark.parametrize("change", [change for change, _ in STOPS])
def test_one_good_step_is_enough_to_go_on(change):
    guard = guard_of()
    for step in range(1, 12):
        guard.check(line(step, **change) if step % 3 else line(step))


def test_the_guard_remembers_the_steps_before_a_kill():
    bad = dict(reward=0.0, reward_max=0.0)
    guard = guard_of([line(1, **bad), {"step": 1, "dev_strict": 3}, line(2, **bad)])
    with pytest.raises(NothingToLearn):
        guard.check(line(3, **bad))


def test_without_patience_nothing_stops_and_all_earned_is_the_end():
    silent = guard_of((), "rollout.patience=0")
    for step in range(9):
        silent.check(line(step, reward=0.0, reward_max=0.0))
    assert not silent.solved
    guard = guard_of()
    for step in range(3):
        assert not guard.solved
        guard.check(line(step, reward=1.0, reward_min=1.0, zero_variance=1.0))
    assert guard.solved
