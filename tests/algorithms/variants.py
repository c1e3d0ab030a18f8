"""What must hold for the further methods and the variants of GRPO, each by numbers that are worked by hand.

As in `invariants.py`, a check takes the package to look at, which may be a copy with a fault planted in it.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.testing import assert_close

from .invariants import Code, Scene, problems_of


def distinct_right_solutions_are_learned(code: Code, model: Path) -> None:
    """Rejection sampling: no wrong answer, none by a wrong calculation, and no calculation twice."""
    problem, Answer = problems_of(code, ["7"])[0], code("tasks.answers.grading").Answer

    def episode(text: str) -> Any:
        grade = Answer(text, "7").grade
        record = code("runs.records").Completion("p0", 0, "", text, 9, "stop", -1.0, "")
        earned = float(grade.strict)
        return code("training.rollouts").Episode(problem, None, record, grade, earned, {}, (-1.0,))

    seven, copied = "3+4=<<3+4=7>>7\n#### 7", "So 3 + 4 = 7 pens.\n#### 7"
    wrong, lucky, turned = "#### 8", "2+5=<<2+5=8>>8\n#### 7", "4+3=<<4+3=7>>7\n#### 7"
    drawn = [episode(text) for text in (wrong, seven, copied, lucky, turned, seven)]
    config = code("config").load_config("", [], [])
    assert code("algorithms.rejection").select(drawn, config) == [1, 4]


def the_better_rises_over_the_start(code: Code, model: Path) -> None:
    """DPO: where each token of the better gained 0.25 over the start, the margins are a quarter of its
    tokens, and an update raises them.
    """
    dpo, scene = code("algorithms.dpo"), Scene(code, model, "rollout.num_mini_batches=1")
    losses = dpo.preference_loss(torch.tensor([2.0, 0.0]), 0.5)
    assert_close(losses, torch.tensor([math.log1p(math.exp(-1)), math.log(2)]))
    rollout = scene.draw()
    pairs, lengths = dpo.make_pairs(rollout, scene.config), rollout.mask.sum(-1)
    assert len(pairs) >= 3 and all(rollout.rewards[best] > rollout.rewards[worst] for best, worst in pairs)
    known = sum(0.25 * int(lengths[best]) for best, _ in pairs)
    start = rollout.logprobs - 0.25 * rollout.rewards[:, None]
    sums = [dpo.update(scene.training(), rollout, pairs, start, 1e-3, 1) for _ in range(2)]
    assert abs(sums[0]["margin"] - known) < 1e-3 and sums[1]["margin"] > sums[0]["margin"]


def the_reverse_kl_falls(code: Code, model: Path) -> None:
    """Distillation: over all tokens the gradient is that of KL(policy || teacher), and at each it is
    - rho A, on the policy that drew and off it.
    """
    loss = code("algorithms.distill").distillation_loss
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], requires_grad=True)
    teacher = torch.tensor([0.1, 0.5, -0.4, 0.0]).log_softmax(-1)
    logp = logits.log_softmax(-1)
    (wanted,) = torch.autograd.grad((logp.exp() * (logp - teacher)).sum(), logits, retain_graph=True)
    drawn = (logp.exp().detach() * loss(logp, logp.detach(), teacher)).sum()
    assert_close(torch.autograd.grad(drawn, logits)[0], wanted)
    now, old, judged = torch.tensor([-1.0], requires_grad=True), torch.tensor([-2.0]), torch.tensor([-0.5])
    assert_close(torch.autograd.grad(loss(now, old, judged).sum(), now)[0], torch.tensor([-math.e * 1.5]))


def losses_of(code: Code, objective: str, change: list[float], advantages: list[float]) -> tuple[Any, Any]:
    """Losses and gradients of tokens with log-prob -2; the second token is a completion of its own."""
    grpo = code("algorithms.grpo")
    config = code("config").load_config("", [], [f"grpo.objective={objective}"]).grpo
    rows = torch.tensor([0, 1, *[0] * (len(change) - 2)])
    logprobs = torch.full((len(change),), -2.0, requires_grad=True)
    old = -2 - torch.tensor(change)
    losses = grpo.token_losses(logprobs, old, torch.tensor(advantages), rows, Counter(), config)
    return losses, torch.autograd.grad(losses.sum(), logprobs)[0]


def a_completion_has_one_ratio(code: Code, model: Path) -> None:
    """GSPO: log-ratios 0.2, 0.4 and 0 have the mean 0.2; exp(-0.6) is below the clip at 0.8."""
    losses, gradient = losses_of(code, "gspo", [0.2, -0.6, 0.4, 0.0], [1.0, -1.0, 1.0, 1.0])
    ratio = math.exp(0.2)
    assert_close(losses, torch.tensor([-ratio, 0.8, -ratio, -ratio]))
    assert_close(gradient, torch.tensor([-ratio, 0.0, -ratio, -ratio]))


def no_token_drops_out(code: Code, model: Path) -> None:
    """CISPO: the gradient is - min(rho, 1.28) A at ratios of 2 and 1/2, whatever the sign of A."""
    two = math.log(2)
    _, gradient = losses_of(code, "cispo", [two, two, -two, -two], [3.0, -1.0, 3.0, -1.0])
    assert_close(gradient, torch.tensor([-1.28 * 3, 1.28, -1.5, 0.5]))


def the_std_is_that_of_the_batch(code: Code, model: Path) -> None:
    """REINFORCE++: rewards (1, 0) and (0, 0) have mean 1/4 and std 1/2. Less the means of their groups
    they are 1/2, -1/2, 0 and 0, of std sqrt(1/6). Equal rewards teach nothing.
    """
    group, rewards = code("algorithms.grpo").group_advantages, torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert_close(group(rewards, "reinforce++"), torch.tensor([[1.5, -0.5], [-0.5, -0.5]]))
    assert_close(group(rewards, "reinforce++_baseline"), torch.tensor([[1.5**0.5, -(1.5**0.5)], [0, 0]]))
    assert group(torch.full((3, 2), 0.1), "reinforce++").tolist() == [[0, 0]] * 3


def the_last_tokens_cost(code: Code, model: Path) -> None:
    """Soft overlong penalty: nothing up to token 6 of 10, then a quarter a token, taken off the reward."""
    penalty = code("training.rollouts").overlong_penalty
    assert [penalty(length, 10, 4) for length in (1, 6, 7, 8, 10)] == [0, 0, 0.25, 0.5, 1]
    assert penalty(10, 10, 0) == 0
    scene = Scene(code, model, "rollout.overlong_tokens=5")
    scene.draw()
    assert any(0 < len(one.logprobs) < 5 for one in scene.episodes)
    for one in scene.episodes:
        assert one.reward == one.parts["correct"] - max(0, len(one.logprobs) - 5) / 5


CHECKS = {
    check.__name__: check
    for check in (
        distinct_right_solutions_are_learned,
        the_better_rises_over_the_start,
        the_reverse_kl_falls,
        a_completion_has_one_ratio,
        no_token_drops_out,
        the_std_is_that_of_the_batch,
        the_last_tokens_cost,
    )
}
