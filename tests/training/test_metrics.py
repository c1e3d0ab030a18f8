from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from reckoner.config import load_config
from reckoner.engine.batches import Example
from reckoner.errors import InputError, Stopped
from reckoner.training import metrics as monitor
from reckoner.training.loop import TrainState
from reckoner.training.metrics import Clock, Guard, NothingToLearn, Plan


def sampler_of(problems=100, limit=40):
    examples = [Example(str(i), (2,) * (10 + i % 5), (5, 1)) for i in range(problems)]
    return SimpleNamespace(material=SimpleNamespace(examples=examples), limit=limit)


def plan_of(*settings, **sizes):
    return Plan.of(load_config("", [], settings), sampler_of(**sizes))


def test_the_arithmetic_of_a_run():
    plan = plan_of(
        "rollout.num_prompts=8",
        "rollout.num_generations=4",
        "rollout.num_mini_batches=2",
        "train.per_device_train_batch_size=3",
    )
    assert (plan.completions, plan.batch, plan.per_epoch, plan.eval_every) == (32, 16, 13, 13)
    assert plan.max_tokens == 3 * (14 + 40) and plan.longest == 40
    assert [step for step in range(101) if plan.evaluates(step)] == [0, 13, 26, 39, 52, 65, 78, 91, 100]
    frequent = plan_of(
        "train.eval_steps=40", "run.save_steps=30", "rollout.max_steps=90", "rollout.num_prompts=10"
    )
    assert [step for step in range(1, 91) if frequent.saves(step)] == [30, 40, 60, 80, 90]


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            ["rollout.num_prompts=6", "rollout.num_generations=2", "rollout.num_mini_batches=5"],
            "num_mini_batches=5 does not divide 6 prompts x 2 generations = 12 completions. Use one of 1, 2, 3, 4, 6, 12",
        ),
        (["rollout.num_prompts=128"], "num_prompts=128, but there are 100 train problems"),
    ],
)
def test_numbers_that_do_not_divide(settings, message):
    with pytest.raises(InputError, match=message):
        plan_of(*settings)


def test_the_rate_is_the_schedules_and_patience_ends_a_run():
    config = load_config(
        "",
        [],
        [
            "train.lr_scheduler_type=linear",
            "train.warmup_ratio=0",
            "rollout.max_steps=10",
            "train.early_stopping_patience=2",
        ],
    )
    plan = Plan.of(config, sampler_of())
    assert [round(plan.rate(config, step, 1.0), 3) for step in (1, 6, 10)] == [1.0, 0.5, 0.1]
    lines = [
        {"step": step, "dev_strict": solved, "dev_loss": 1.0}
        for step, solved in ((0, 3), (2, 5), (4, 4), (6, 5))
    ]
    assert not plan.over(config, TrainState(step=4, evaluations=lines[:3]))
    assert plan.over(config, TrainState(step=6, evaluations=lines))
    assert plan.over(config, TrainState(step=10))


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
    """Ratios 1.5 and 0.5, gains of both signs: the clip holds 1.5 up and 0.5 down. Later updates leave the first ratio alone."""
    sums = Counter()
    change = torch.tensor([1.5, 1.5, 0.5, 0.5]).log()
    monitor.accumulate_stats(sums, change, torch.zeros(4), torch.tensor([1.0, -1, 1, -1]), 0.2, 0.28)
    sums["updates"] = 1
    monitor.accumulate_stats(sums, torch.full((4,), 9.0), torch.full((4,), 9.0), torch.ones(4), 0.2, 0.28)
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
    """4 completions of 2 prompts: each prompt is read once, 5 tokens are drawn; operations are those of 2 forward passes, and the update's."""
    head = torch.nn.Linear(4, 10, bias=False)
    model = SimpleNamespace(
        get_output_embeddings=lambda: head,
        get_input_embeddings=lambda: head,
        parameters=lambda: [head.weight, torch.nn.Parameter(torch.ones(7))],
    )
    plan, position, sums = (
        plan_of("rollout.num_generations=2", "rollout.num_prompts=2"),
        TrainState(),
        Counter(tokens=3, flops=1000),
    )
    plan.advance(position, EPISODES, sums, model, 1, Clock())
    assert (position.step, position.samples, position.tokens, position.supervised_tokens) == (1, 2, 9, 3)
    assert position.flops == 1000 + 2 * (2 * 7 * 9 + 2 * 40 * 5)


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
    return Guard(run, 0, 1.0)


STOPS = [
    (
        dict(reward=0.0, reward_max=0.0, zero_variance=1.0, truncated=0.97),
        "the reward is 0 for all 96 completions of 3 steps; 93 were cut at max_completion_length=16. Nothing can be learnt: raise it",
    ),
    (
        dict(reward=0.0, reward_max=0.0, zero_variance=1.0),
        "the reward is 0 for all 96 completions of 3 steps; nothing can be learnt. Start from a model",
    ),
    (
        dict(truncated=0.6),
        "57 of 96 completions of 3 steps were cut at max_completion_length=16: raise it, or lower the learning rate",
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
