from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from reckoner.algorithms import grpo
from reckoner.config import load_config
from reckoner.engine.logprobs import completion_logprobs
from reckoner.engine.optim import NonFinite
from reckoner.errors import InputError, Stopped
from reckoner.runs.folder import silent
from reckoner.training.rollouts import Reference

from .invariants import Code, Scene, coin
from .resuming import check_resumes_exactly

RECKONER = Code("reckoner")
groups = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=9)


@given(groups)
def test_advantages_equal_the_sums_written_out(rewards):
    n, mean = len(rewards), sum(rewards) / len(rewards)
    tensor = torch.tensor([rewards])
    if len(set(rewards)) == 1:
        for kind in ("mean", "std", "rloo"):
            assert grpo.group_advantages(tensor, kind).tolist() == [[0.0] * n]
        return
    std = (sum((r - mean) ** 2 for r in rewards) / (n - 1)) ** 0.5
    expected = {
        "mean": [r - mean for r in rewards],
        "std": [(r - mean) / std for r in rewards],
        "rloo": [r - (sum(rewards) - r) / (n - 1) for r in rewards],
    }
    for kind, values in expected.items():
        assert_close(grpo.group_advantages(tensor, kind), torch.tensor([values]), atol=1e-5, rtol=1e-5)


def test_token_weights_by_hand():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    assert_close(grpo.token_weights(mask, "dr_grpo", 4, 10), mask / 40)
    assert_close(grpo.token_weights(mask, "grpo", 4, 10), torch.tensor([[1, 1, 1, 1], [2, 2, 0, 0]]) / 16)
    assert_close(grpo.token_weights(mask, "dapo", 4, 10), mask / 6)
    nothing = torch.zeros(1, 3).bool()
    for kind in ("dr_grpo", "grpo", "dapo"):
        assert grpo.token_weights(nothing, kind, 1, 3).tolist() == [[0, 0, 0]]


def test_which_groups_teach(tiny):
    for kind, rows in (("reinforce++_baseline", range(4)), ("mean", range(4)), ("reinforce++", range(16))):
        scene = Scene(RECKONER, tiny, f"grpo.advantage={kind}")
        rollout = scene.draw()
        rewards = torch.tensor([1.0, 0, 0, 1, *[0.0] * 12])
        rollout = dataclasses.replace(rollout, rewards=rewards)
        assert grpo.estimate(rollout, rollout.logprobs, scene.config).rows == list(rows), kind


def test_on_policy_all_objectives_have_one_gradient(tiny):
    """Where the ratios are 1 and completions weigh the same, they differ in name only."""
    changes = {}
    for objective in ("clip", "gspo", "cispo"):
        scene = Scene(
            RECKONER, tiny, f"grpo.objective={objective}", "grpo.loss_type=grpo", "rollout.num_mini_batches=1"
        )
        before, rollout = scene.weights(), scene.draw()
        sums = scene.update("grpo", rollout, 1.0)
        assert sums["clipped"] == 0 and sums["log_ratio_max"] < 1e-3
        changes[objective] = torch.cat([(p - before[name]).flatten() for name, p in scene.weights().items()])
    assert changes["clip"].norm() > 1e-3
    for objective in ("gspo", "cispo"):
        assert_close(changes[objective], changes["clip"], atol=1e-6, rtol=1e-3)


def test_each_objective_reports_what_it_clips():
    """Log-ratios 0.5, 0.5 of one completion and -0.5 of another; bounds 0.8 and 1.28."""
    old, rows = torch.zeros(3), torch.tensor([0, 0, 1])
    logprobs = torch.tensor([0.5, -0.1, -0.5])
    for objective, advantages, clipped in (
        ("clip", [1.0, 1, 1], 1),
        ("clip", [-1.0, -1, -1], 1),
        ("gspo", [1.0, 1, 1], 0),
        ("gspo", [-1.0, -1, -1], 1),
        ("cispo", [-1.0, -1, -1], 1),
    ):
        config, sums = load_config("", [], [f"grpo.objective={objective}"]).grpo, Counter()
        grpo.token_losses(logprobs, old, torch.tensor(advantages), rows, sums, config)
        assert (sums["clipped"], sums["tokens"]) == (clipped, 3), (objective, advantages)


def test_the_reference_of_pissa_is_the_start_and_not_the_weights_below(tiny):
    scene = Scene(RECKONER, tiny, "peft.method=lora", "peft.variant=pissa", "peft.lora_r=2")
    rollout = scene.draw()
    reference = Reference(scene.policy, scene.config, 1.0)
    with torch.no_grad():
        for p in scene.policy.model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    logprobs, scored = reference.logprobs(rollout, 1000)
    assert scored.sum() == rollout.mask.sum()
    assert_close(logprobs, rollout.logprobs, atol=1e-4, rtol=0)


def test_kl_estimators_on_a_known_distribution():
    """Exact expectations over four tokens: k1 and k3 are unbiased, k3 is never negative, and k2 has the
    gradient of the KL.
    """
    logits, reference = (
        torch.tensor([0.3, -1.0, 0.8, 0.1], requires_grad=True),
        torch.tensor([0.1, 0.5, -0.4, 0.0]).log_softmax(-1),
    )
    logp = logits.log_softmax(-1)
    kl = (logp.exp() * (logp - reference)).sum()
    (gradient,) = torch.autograd.grad(kl, logits, retain_graph=True)
    weights = logp.exp().detach()
    for name in ("k1", "k3"):
        assert_close((weights * grpo.kl_estimate(logp, reference, name)).sum(), kl)
    assert (grpo.kl_estimate(logp, reference, "k3") >= 0).all() and (
        grpo.kl_estimate(logp, reference, "k1") < 0
    ).any()

    def mean_gradient(name):
        return torch.autograd.grad(
            (weights * grpo.kl_estimate(logp, reference, name)).sum(), logits, retain_graph=True
        )[0]

    assert_close(mean_gradient("k2"), gradient)
    assert_close(mean_gradient("k1"), torch.zeros(4), atol=1e-6, rtol=0)


def test_gradient_equals_numeric_differences_on_a_model(tiny):
    """Off-policy, so that some tokens are clipped and some not, with a KL in the loss."""
    scene = Scene(RECKONER, tiny)
    rollout = scene.draw()
    torch.manual_seed(1)
    old = rollout.logprobs + 0.3 * torch.randn(rollout.logprobs.shape)
    advantages = grpo.group_advantages(rollout.rewards.view(-1, 4)).flatten()
    (batch, place), *_ = RECKONER("training.rollouts").iter_microbatches(
        scene.policy, rollout, range(16), 10_000
    )
    parameters = list(scene.policy.model.parameters())

    def loss():
        logprobs = completion_logprobs(scene.policy.model, batch).logprobs
        surrogate = grpo.policy_loss(logprobs, old[place], advantages[place[0]], 0.2, 0.28)
        return (surrogate + 0.1 * grpo.kl_estimate(logprobs, rollout.logprobs[place] - 0.2, "k2")).sum()

    ratios = (rollout.logprobs - old)[place].exp()
    assert (ratios > 1.28).any() and (ratios < 0.8).any()
    gradients = torch.autograd.grad(loss(), parameters)
    direction = [torch.randn_like(p) * p.std() for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * 1e-4)
            ends.append(loss().item())
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=-sign * 1e-4)
    assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(slope, rel=0.02)


def test_dull_groups_are_replaced_while_refills_last():
    drawn = []

    def draw(first, count, on_progress):
        drawn.append((first, count))
        rewards = [(at % 3 == 0, 0) for at in range(first, first + count)]  # every third group teaches
        return [
            SimpleNamespace(reward=float(value), place=first + i)
            for i, pair in enumerate(rewards)
            for value in pair
        ]

    def informative(refills, advantage="mean"):
        settings = ["rollout.num_prompts=4", "rollout.num_generations=2", f"grpo.max_refills={refills}"]
        settings.append(f"grpo.advantage={advantage}")
        return grpo.draw_informative(SimpleNamespace(draw=draw), load_config("", [], settings), 0, silent)

    assert len(informative(0)) == 8
    assert drawn == [(0, 4)]
    drawn.clear()
    episodes = informative(2)
    assert drawn == [(0, 4), (4, 2), (6, 2)]
    assert [e.place for e in episodes[::2]] == list(range(8))
    drawn.clear()
    informative(9)
    assert drawn[-1] == (9, 1), "the fourth that teaches is group 9"
    drawn.clear()
    informative(9, "reinforce++")
    assert drawn == [(0, 4)], "equal rewards of a group teach where the batch is the baseline"


def test_truncated_completions_can_be_left_out_of_the_loss(tiny):
    scene = Scene(RECKONER, tiny, "rollout.mask_truncated_completions=true", "rollout.num_mini_batches=1")
    rollout = scene.draw()
    assert 0 < rollout.truncated.sum() < 16
    sums = scene.update("grpo", rollout)
    groups_that_teach = (rollout.rewards.view(-1, 4).std(-1) > 0).repeat_interleave(4)
    assert sums["tokens"] == rollout.mask[groups_that_teach & ~rollout.truncated].sum()


def test_the_kl_pulls_back_to_the_reference(tiny):
    """With a large coefficient one update lowers the KL to a policy that liked the drawn tokens less."""
    for estimator in ("k2", "k3"):
        scene = Scene(
            RECKONER, tiny, "grpo.kl_coef=100", f"grpo.kl_estimator={estimator}", "rollout.num_mini_batches=1"
        )
        rollout = scene.draw()
        batch = grpo.estimate(rollout, rollout.logprobs - 1, scene.config)
        grpo.update(scene.training(), rollout, batch, 1e-4, 1)
        after = RECKONER("training.rollouts").score(
            scene.policy, scene.policy.model, rollout, batch.rows, 1.0, 1000
        )[batch.rows]
        assert after.sum() < rollout.logprobs[batch.rows].sum()


def test_a_killed_run_ends_as_one_that_was_not(rl_config, tmp_path):
    rl_config.run.save_steps = 1
    summary, lines = check_resumes_exactly(grpo.train, rl_config, tmp_path)
    assert summary["method"] == "grpo" and summary["training"]["samples"] == 16
    steps = [line for line in lines if "reward" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "dev_strict" in line] == [0, 2, 4]
    for line in steps:
        assert 0 <= line["reward"] <= 1 and line["completions"] == 16 and line["log_ratio_max"] < 1e-3
        assert line["updates"] == 2 and line["kl_reference"] >= 0 and line["entropy"] > 0
    assert steps[0]["kl_reference"] < 1e-6 < steps[-1]["kl_reference"]


def test_the_start_stays_the_best_where_nothing_is_won(rl_config):
    """The random model solves no dev problem, and its dev loss is lowest before training."""
    rl_config.train.learning_rate = 0.5
    summary = grpo.train(rl_config, reward_fn=coin)
    assert summary["training"]["best_step"] == 0


REFUSED = [
    (
        {"num_generations": 1},
        "a completion alone has no group to be better than. Set it to 2 or more, or use ppo",
    ),
    (
        {"num_mini_batches": 3},
        "does not divide 4 prompts x 4 generations = 16 completions. Use one of 1, 2, 4, 8, 16",
    ),
    ({"num_prompts": 400}, "rollout.num_prompts=400, but there are 48 train problems"),
    (
        {"max_completion_length": 1},
        r"rollout.max_completion_length=1 cuts every right answer: .* to 0, which",
    ),
    ({"max_completion_length": 0}, r"eval.max_new_tokens=2 cuts every right answer: .* Set it to 0, which"),
]


@pytest.mark.parametrize("change, message", REFUSED, ids=[str(change) for change, _ in REFUSED])
def test_numbers_that_cannot_work_are_refused(change, message, rl_config):
    rl_config.rollout = dataclasses.replace(rl_config.rollout, **change)
    rl_config.eval.max_new_tokens = 2 * ("max_completion_length" in change)
    with pytest.raises(InputError, match=message):
        grpo.train(rl_config)


def test_a_reward_that_is_not_finite_stops(rl_config):
    bad = SimpleNamespace(total=float("nan"), parts={"correct": 0.0})
    with pytest.raises(NonFinite, match="the reward of problem nano-.* is nan"):
        grpo.train(rl_config, reward_fn=lambda *_: bad)


def test_a_reward_that_is_always_zero_stops_with_its_reason(rl_config):
    rl_config.rollout = dataclasses.replace(rl_config.rollout, patience=2)
    nothing = SimpleNamespace(total=0.0, parts={"correct": 0.0})
    with pytest.raises(
        Stopped, match="the reward is 0 for all 32 completions of 2 steps.*The best checkpoint so far is kept"
    ):
        grpo.train(rl_config, reward_fn=lambda *_: nothing)
