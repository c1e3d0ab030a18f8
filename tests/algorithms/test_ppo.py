from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from reckoner.algorithms import ppo
from reckoner.config import load_config
from reckoner.models.critic import Critic
from reckoner.training.rollouts import iter_microbatches, score

from .invariants import Code, Scene
from .resuming import check_resumes_exactly

RECKONER = Code("reckoner")
numbers = st.floats(-2, 2, width=16)
episodes = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=7)


def padded(rows, fill=99.0):
    """Rows of (reward, value) as [B, T] tensors; what is outside the mask is rubbish on purpose."""
    width = max(map(len, rows))
    whole = [row + [(fill, fill)] * (width - len(row)) for row in rows]
    mask = torch.tensor([[t < len(row) for t in range(width)] for row in rows])
    rewards, values = (torch.tensor([[pair[i] for pair in row] for row in whole]) for i in (0, 1))
    return rewards, values, mask


@given(st.lists(episodes, min_size=1, max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_its_definition(rows, gamma, lam):
    """A_t = sum over l of (gamma lam)^l delta_t+l, written out for each row and token."""
    rewards, values, mask = padded(rows)
    found = ppo.gae(rewards, values, mask, gamma, lam)
    for i, row in enumerate(rows):
        after = [value for _, value in row[1:]] + [0.0]
        delta = [r + gamma * v_next - v for (r, v), v_next in zip(row, after, strict=True)]
        for t in range(found.shape[1]):
            expected = (
                sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(row))) if t < len(row) else 0.0
            )
            assert found[i, t].item() == pytest.approx(expected, abs=1e-4)


@given(episodes, st.floats(0, 1))
def test_lambda_one_is_reward_to_go_minus_value(row, gamma):
    rewards, values, mask = padded([row])
    found = ppo.gae(rewards, values, mask, gamma, 1.0)[0]
    for t, (_, value) in enumerate(row):
        to_go = sum(gamma ** (k - t) * row[k][0] for k in range(t, len(row)))
        assert found[t].item() == pytest.approx(to_go - value, abs=1e-4)


def test_the_reward_comes_with_the_last_token():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    rewards = ppo.token_rewards(torch.tensor([1.0, 0.5, 1.0]), mask)
    assert rewards.tolist() == [[0, 0, 1], [0.5, 0, 0], [0, 0, 0]]
    charged = ppo.token_rewards(torch.tensor([1.0, 0.5, 1.0]), mask, torch.full((3, 3), 0.25))
    assert charged.tolist() == [[-0.25, -0.25, 0.75], [0.25, 0, 0], [0, 0, 0]]


def test_whitening_looks_at_the_mask_only():
    advantages, mask = (
        torch.tensor([[1.0, 3.0, 500.0], [5.0, 7.0, -9.0]]),
        torch.tensor([[1, 1, 0], [1, 1, 0]]).bool(),
    )
    white = ppo.whiten(advantages, mask)
    assert_close(white, torch.tensor([[-3.0, -1, 0], [1, 3, 0]]) / 5**0.5)
    assert ppo.whiten(torch.full((2, 3), 0.1), mask).tolist() == [[0] * 3] * 2
    assert ppo.whiten(advantages, torch.zeros(2, 3).bool()).tolist() == [[0] * 3] * 2


def test_value_loss_by_hand():
    """Old value 1, clip 0.5, return 3: at 2 the clipped value 1.5 is the worse one and has no gradient; at
    1.2 both agree.
    """
    old, returns = torch.ones(2), torch.full((2,), 3.0)
    values = torch.tensor([2.0, 1.2], requires_grad=True)
    losses = ppo.value_loss(values, old, returns, 0.5)
    assert_close(losses, torch.tensor([1.125, 1.62]))
    losses.sum().backward()
    assert_close(values.grad, torch.tensor([0.0, -1.8]))
    assert_close(ppo.value_loss(values, old, returns, 0.0), torch.tensor([0.5, 1.62]))


def test_explained_variance():
    returns = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert ppo.explained_variance(returns, returns) == 1
    assert ppo.explained_variance(torch.full((4,), 0.3), returns) == pytest.approx(0, abs=1e-6)
    assert ppo.explained_variance(1 - returns, returns) == pytest.approx(-3)
    assert ppo.explained_variance(returns, torch.ones(4)) is None


def test_a_new_critic_says_nothing_and_reads_detached_states(tiny):
    scene = Scene(RECKONER, tiny)
    rollout = scene.draw()
    trunk = Scene(RECKONER, tiny).policy.model
    for critic in (Critic(32), Critic(32, trunk)):
        training = scene.training(critic=critic)
        assert torch.equal(ppo.score_values(training, rollout), torch.zeros_like(rollout.logprobs))
        torch.nn.init.ones_(critic.head.weight)
        (batch, _), *_ = iter_microbatches(scene.policy, rollout, range(16), 10_000)
        ppo.values_of(training, batch, ppo.shared_states(training, batch)).square().sum().backward()
        assert critic.head.weight.grad.abs().sum() > 0
        assert all(p.grad is None for p in scene.policy.model.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.parameters())


def test_a_head_costs_no_forward_pass_of_its_own_and_changes_no_gradient(tiny):
    """A trunk whose weights are the policy's says what a head on the policy says; only its own pass is
    charged besides.
    """
    charged, changes = [], []
    for own in (False, True):
        scene = Scene(RECKONER, tiny)
        critic = Critic(32, Scene(RECKONER, tiny).policy.model if own else None)
        torch.nn.init.ones_(critic.head.weight)
        before, rollout = scene.weights(), scene.draw()
        training = scene.training(critic=critic)
        values = ppo.score_values(training, rollout)
        batch = ppo.estimate(rollout, values, values, scene.config)
        charged.append(ppo.update(training, rollout, batch, (1.0, 0.0), 1)["flops"])
        changes.append([p - before[name] for name, p in scene.weights().items()])
    assert charged[1] == 2 * charged[0] > 0
    assert any(change.abs().sum() > 0 for change in changes[0])
    assert_close(changes[0], changes[1], rtol=0, atol=1e-6)


def test_only_the_critic_learns_while_it_warms_up(tiny):
    scene = Scene(RECKONER, tiny, "ppo.value_warmup_steps=3")
    before, critic = scene.weights(), Critic(32)
    rollout = scene.draw()
    training = scene.training(critic=critic)
    values = ppo.score_values(training, rollout)
    batch = ppo.estimate(rollout, values, values, scene.config)
    sums = ppo.update(training, rollout, batch, (1.0, 1e-3), 3)
    assert all(torch.equal(before[name], p) for name, p in scene.weights().items())
    assert critic.head.weight.abs().sum() > 0 and sums["updates"] == 0 and sums["value_updates"] == 2
    ppo.update(training, rollout, batch, (1.0, 1e-3), 4)
    assert any(not torch.equal(before[name], p) for name, p in scene.weights().items())


def test_the_kl_is_charged_once_in_the_reward_or_in_the_loss():
    config = load_config("", [], ["ppo.kl_coef=0.5", "ppo.whiten_advantages=false"])
    rollout = SimpleNamespace(
        rewards=torch.tensor([1.0]), logprobs=torch.tensor([[-1.0, -2.0]]), mask=torch.ones(1, 2).bool()
    )
    zeros, reference = torch.zeros(1, 2), torch.tensor([[-2.0, -2.5]])
    charged = ppo.estimate(rollout, zeros, reference, config)
    assert_close(charged.advantages, torch.tensor([[1 - 0.5 * 1.0 - 0.5 * 0.5, 1 - 0.5 * 0.5]]))
    config.ppo.kl_in = "loss"
    assert ppo.estimate(rollout, zeros, reference, config).advantages.tolist() == [[1, 1]]


@pytest.mark.parametrize("setting, quantity", [("ppo.entropy_coef=50", "entropy"), ("ppo.kl_coef=50", "kl")])
def test_the_bonus_and_the_kl_in_the_loss_point_the_right_way(setting, quantity, tiny):
    """One update raises the entropy, or lowers the likelihood of tokens that the reference likes less."""
    scene = Scene(
        RECKONER, tiny, setting, "ppo.kl_in=loss", "ppo.kl_estimator=k2", "rollout.num_mini_batches=1"
    )
    rollout, critic = scene.draw(), Critic(32)
    values = torch.zeros_like(rollout.logprobs)
    estimated = ppo.estimate(rollout, values, rollout.logprobs - 1, scene.config)
    (batch, _), *_ = iter_microbatches(scene.policy, rollout, range(16), 10_000)
    logprobs = RECKONER("engine.logprobs").completion_logprobs

    def measure():
        with torch.no_grad():
            return (
                getattr(
                    logprobs(scene.policy.model, batch, 1.0, True),
                    "entropy" if quantity == "entropy" else "logprobs",
                )
                .mean()
                .item()
            )

    before = measure()
    ppo.update(scene.training(critic=critic), rollout, estimated, (1e-4, 0.0), 1)
    assert measure() > before if quantity == "entropy" else measure() < before


def test_micro_batches_of_values_add_up(tiny):
    """The critic's gradient is a mean over the tokens of the optimizer step too."""
    changes = []
    for max_tokens in (10_000, 150):
        scene = Scene(RECKONER, tiny, "rollout.num_mini_batches=1", "ppo.value_warmup_steps=1")
        rollout, critic = scene.draw(), Critic(32)
        batch = ppo.estimate(rollout, torch.zeros_like(rollout.logprobs), rollout.logprobs, scene.config)
        scene.max_tokens = max_tokens
        ppo.update(scene.training(critic=critic), rollout, batch, (0.0, 1.0), 1)
        changes.append(critic.head.weight.detach().clone())
    assert changes[0].norm() > 1e-3
    assert_close(changes[0], changes[1], atol=1e-6, rtol=1e-5)


def test_reference_scores_equal_the_samplers_before_training(tiny):
    scene = Scene(RECKONER, tiny)
    rollout = scene.draw()
    assert (
        score(scene.policy, scene.policy.model, rollout, range(16), 1.0, 500) - rollout.logprobs
    ).abs().max() < 1e-4


@pytest.mark.parametrize("critic", ["trunk", "head"])
def test_a_killed_run_ends_as_one_that_was_not(critic, rl_config, tmp_path):
    rl_config.ppo.critic = critic
    rl_config.ppo.critic_learning_rate = 1e-2
    rl_config.ppo.value_warmup_steps = 1
    summary, lines = check_resumes_exactly(ppo.train, rl_config, tmp_path)
    assert summary["method"] == "ppo" and summary["training"]["samples"] == 16
    steps = [line for line in lines if "reward" in line]
    assert [line["updates"] for line in steps] == [0, 2, 2, 2]
    assert steps[0]["policy_loss"] is None and steps[0]["value"] == 0
    for line in steps[1:]:
        assert (
            line["log_ratio_max"] < 1e-3 and line["value_loss"] > 0 and line["explained_variance"] is not None
        )
