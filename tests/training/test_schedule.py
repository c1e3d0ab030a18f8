"""The numbers of steps that a configuration implies, for SFT and for RL."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_linear_schedule_with_warmup

from reckoner.config import TrainConfig, load_config
from reckoner.errors import InputError
from reckoner.training.loop import Training, TrainState
from reckoner.training.schedule import Schedule


def schedule_of(*settings, problems=100, rollouts=True):
    schedule = Schedule.of(load_config("", [], settings), problems, rollouts)
    schedule.check(problems)
    return schedule


def test_the_arithmetic_of_reinforcement_learning():
    schedule = schedule_of("rollout.num_prompts=8", "rollout.num_generations=4", "rollout.num_mini_batches=2")
    assert (schedule.completions, schedule.batch, schedule.per_epoch, schedule.eval_every) == (32, 16, 13, 13)
    assert [step for step in range(101) if schedule.evaluates(step)] == [0, 13, 26, 39, 52, 65, 78, 91, 100]
    assert schedule.evaluations == 9
    frequent = schedule_of(
        "train.eval_steps=40", "run.save_steps=30", "rollout.max_steps=90", "rollout.num_prompts=10"
    )
    assert [step for step in range(1, 91) if frequent.saves(step)] == [30, 60, 90]
    assert [step for step in range(91) if frequent.evaluates(step)] == [0, 40, 80, 90]
    assert frequent.evaluations == 4


def test_the_arithmetic_of_sft():
    settings = ["train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2"]
    schedule = schedule_of(*settings, "train.num_train_epochs=2.5", rollouts=False)
    assert (schedule.prompts, schedule.batch, schedule.per_epoch, schedule.steps) == (8, 8, 13, 33)
    assert [step for step in range(34) if schedule.evaluates(step)] == [0, 13, 26, 33]
    assert not any(map(schedule.saves, range(1, 34)))
    assert schedule_of(*settings, problems=3, rollouts=False).per_epoch == 1
    with pytest.raises(InputError, match="train.num_train_epochs=0 trains nothing"):
        schedule_of("train.num_train_epochs=0", rollouts=False)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            ["rollout.num_prompts=6", "rollout.num_generations=2", "rollout.num_mini_batches=5"],
            "num_mini_batches=5 does not divide 6 prompts x 2 generations = 12 completions. "
            "Use one of 1, 2, 3, 4, 6, 12",
        ),
        (["rollout.num_prompts=128"], "num_prompts=128, but there are 100 train problems"),
    ],
)
def test_numbers_that_do_not_divide(settings, message):
    with pytest.raises(InputError, match=message):
        schedule_of(*settings)


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
    schedule = Schedule.of(config, 100, rollouts=True)
    assert [round(schedule.learning_rate(config.train, step, 1.0), 3) for step in (1, 6, 10)] == [
        1.0,
        0.5,
        0.1,
    ]
    lines = [
        {"step": step, "dev_strict": solved, "dev_loss": 1.0}
        for step, solved in ((0, 3), (2, 5), (4, 4), (6, 5))
    ]

    def over(state):
        run = SimpleNamespace(config=config)
        return Training(run, None, None, schedule, {}, state, None).over

    assert not over(TrainState(step=4, evaluations=lines[:3]))
    assert over(TrainState(step=6, evaluations=lines))
    assert over(TrainState(step=10))


def learning_rate(step, steps, peak, kind="constant", warmup_ratio=0.0, min_lr_rate=0.0):
    train = TrainConfig(lr_scheduler_type=kind, warmup_ratio=warmup_ratio, min_lr_rate=min_lr_rate)
    schedule = Schedule(1, 1, 1, 1, steps, per_epoch=1, eval_every=1, save_every=0)
    return schedule.learning_rate(train, step, peak)


def test_schedules_by_hand():
    rates = [learning_rate(step, 8, 1.0, "constant", warmup_ratio=0.25) for step in range(1, 9)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])
    assert [learning_rate(step, 4, 2.0, "linear") for step in range(1, 5)] == [2.0, 1.5, 1.0, 0.5]
    cosine = [learning_rate(step, 4, 1.0, "cosine_with_min_lr", min_lr_rate=0.1) for step in range(1, 5)]
    half = math.sqrt(0.5)
    assert cosine == pytest.approx([1, 0.1 + 0.45 * (1 + half), 0.55, 0.1 + 0.45 * (1 - half)])


def test_schedules_equal_transformers_after_the_warm_up():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)
    linear = get_linear_schedule_with_warmup(optimizer, 4, 40).lr_lambdas[0]
    cosine = get_cosine_with_min_lr_schedule_with_warmup(optimizer, 4, 40, min_lr_rate=0.1).lr_lambdas[0]
    for step in range(5, 41):
        assert learning_rate(step, 40, 3.0, "linear", 0.1) == pytest.approx(3 * linear(step - 1))
        assert learning_rate(step, 40, 3.0, "cosine_with_min_lr", 0.1, 0.1) == pytest.approx(
            3 * cosine(step - 1)
        )


def test_all_warm_up_and_wrong_arguments():
    assert [learning_rate(s, 2, 3.0, warmup_ratio=1.0) for s in (1, 2)] == [1.0, 2.0]
    with pytest.raises(ValueError, match="step 0"):
        learning_rate(0, 10, 1.0)
    with pytest.raises(InputError, match="cosine_with_min_lr"):
        learning_rate(1, 10, 1.0, "cosin")
