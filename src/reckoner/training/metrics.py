"""What an RL run reports: a line of metrics for each step, and the reason where it cannot continue.

docs/metrics.md defines every name.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reckoner import ranks
from reckoner.engine.batches import Batch
from reckoner.engine.cost import forward_flops, training_flops
from reckoner.errors import Stopped
from reckoner.machine import say_once
from reckoner.runs.folder import Progress, Run, silent
from reckoner.training.loop import TrainState
from reckoner.training.rollouts import Episode

KL_LIMIT = 10.0
"""Nats a token from the policy that training began with; a working run stays below 1."""

FLAG_STEPS, RISING, FLAT = 20, 3.0, 1.0
"""Steps from which a reward is compared with the exact match, and t-values of the slopes of the two: a reward
above the first while exact match is below the second is being hacked, or pays for form alone."""


class Sums(dict[str, float]):
    """What the passes of a step add up to, by name; 0 where nothing was added."""

    def __missing__(self, name: str) -> float:
        return 0

    def over_ranks(self) -> Sums:
        """The sums over the forward passes of all ranks. Maxima and what each rank counts are not added."""
        alike, parts = ("updates", "value_updates", "grad_norm", "learning_rate", "pairs"), ranks.gather(self)
        total = Sums({name: self[name] for name in alike if name in self})
        for name in {name: None for part in parts for name in part if name not in alike}:
            values = [part.get(name, 0) for part in parts]
            total[name] = max(values) if name == "log_ratio_max" else sum(values)
        return total


class NothingToLearn(Stopped):
    """Going on with an RL run would teach the policy nothing, or has ruined it. The message says why."""


class Clock:
    """Seconds by phase of one step."""

    def __init__(self, on_progress: Progress = silent) -> None:
        self.on_progress = on_progress
        self.seconds: dict[str, float] = {}
        self.started = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        self.on_progress(name, 0, 0, "")
        yield
        key = f"seconds_{name}"
        self.seconds[key] = round(self.seconds.get(key, 0.0) + time.perf_counter() - began, 4)

    @property
    def total(self) -> float:
        return time.perf_counter() - self.started


def count_step(
    state: TrainState,
    episodes: Sequence[Episode],
    generations: int,
    sums: Sums,
    model: nn.Module,
    scorings: int,
    seconds: float,
) -> None:
    """Count one step: problems, tokens drawn with their prompts, tokens in the loss, operations and seconds.

    `scorings` is how many forward passes, besides generation, went over all that was drawn before updates.
    """
    tokens, drawn = count_tokens(episodes, generations)
    state.step += 1
    state.samples += len(episodes) // generations
    state.tokens += tokens
    state.supervised_tokens += int(sums["tokens"])
    state.flops += sums["flops"] + (1 + scorings) * forward_flops(model, tokens, drawn)
    state.seconds += seconds


def count_tokens(episodes: Sequence[Episode], generations: int) -> tuple[int, int]:
    """Tokens drawn with the prompt of each group once, and the drawn ones alone."""
    drawn = sum(len(e.logprobs) for e in episodes)
    return drawn + sum(len(e.example.prompt_ids) for e in episodes[::generations]), drawn


def describe(episodes: Sequence[Episode], generations: int) -> dict[str, Any]:
    """What a step's completions were like, groups left out or not."""
    count = len(episodes)
    rewards = [e.reward for e in episodes]
    groups = [rewards[at : at + generations] for at in range(0, count, generations)]

    def share(marks: Sequence[bool]) -> float:
        return sum(marks) / len(marks)

    parts = {f"reward_{name}": sum(e.parts[name] for e in episodes) / count for name in episodes[0].parts}
    return {
        "completions": count,
        "reward": sum(rewards) / count,
        "reward_min": min(rewards),
        "reward_max": max(rewards),
        **(parts if len(parts) > 1 else {}),
        "exact_match": share([e.grade.strict for e in episodes]),
        "flexible_match": share([e.grade.flexible for e in episodes]),
        "format_rate": share([e.grade.markers == 1 and e.grade.strict_value is not None for e in episodes]),
        "length": sum(len(e.logprobs) for e in episodes) / count,
        "truncated": share([e.completion.finish == "length" for e in episodes]),
        "zero_variance": share([min(group) == max(group) for group in groups]) if generations > 1 else None,
        "entropy": -sum(map(sum, (e.logprobs for e in episodes)))
        / max(1, sum(len(e.logprobs) for e in episodes)),
    }


def count_flops(sums: Sums, model: nn.Module, batch: Batch) -> None:
    """Add the operations of one forward and backward pass to the step's sums."""
    flops = training_flops(model, int(batch.attention_mask.sum()), len(batch.targets))
    sums["flops"] += flops


def count_reading(sums: Sums, model: nn.Module, episodes: Sequence[Episode], generations: int) -> None:
    """Add the operations of `model` reading the completions once, with the prompt of each group once."""
    flops = forward_flops(model, *count_tokens(episodes, generations))
    sums["flops"] += flops


@torch.no_grad()
def accumulate_stats(
    sums: Sums, change: Tensor, ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> None:
    """Add a forward pass of an update to the step's sums: tokens, KL to pi_old (k3), clipped tokens.

    `change` [N] is log pi_theta - log pi_old of each token, `ratio` [N] the log of what is clipped.
    """
    kl = change.exp() - 1 - change
    clipped = ((ratio > math.log1p(epsilon_high)) & (advantages > 0)) | (
        (ratio.exp() < 1 - epsilon) & (advantages < 0)
    )
    values = torch.stack([kl.sum(), clipped.sum(), change.abs().max() if len(change) else kl.sum()]).tolist()
    sums["tokens"] += len(change)
    sums["kl_old"] += values[0]
    sums["clipped"] += values[1]
    if not sums["updates"]:
        sums["log_ratio_max"] = max(sums["log_ratio_max"], values[2])


def mean(values: Tensor) -> float | None:
    """The mean of N values; None of none."""
    return values.mean().item() if len(values) else None


def summarise(sums: Sums) -> dict[str, Any]:
    """The metrics of a step's updates from their sums; None where nothing was updated or measured."""
    tokens, updates = sums["tokens"], sums["updates"]
    compared = tokens if "kl_old" in sums else 0  # tokens whose ratio to pi_old was taken
    return {
        "policy_loss": sums["policy_loss"] / updates if compared else None,
        "kl_old": sums["kl_old"] / compared if compared else None,
        "clip_share": sums["clipped"] / compared if compared else None,
        "log_ratio_max": sums["log_ratio_max"] if compared else None,
        "grad_norm": sums["grad_norm"] / updates if updates else None,
        "updates": updates,
        "trained_tokens": tokens,
    }


def slope_t(values: Sequence[float]) -> float:
    """The slope of values over their index, in its standard errors; infinite on a perfect line that moves."""
    n, middle = len(values), (len(values) - 1) / 2
    average, spread = sum(values) / n, sum((i - middle) ** 2 for i in range(n))
    slope = sum((i - middle) * value for i, value in enumerate(values)) / spread
    left = sum((value - average - slope * (i - middle)) ** 2 for i, value in enumerate(values))
    if left <= 1e-18 * n:
        return math.copysign(math.inf, slope) if abs(slope) > 1e-9 else 0.0
    return slope / math.sqrt(left / (n - 2) / spread)


def reward_flag(lines: Sequence[dict[str, Any]]) -> str:
    """What to say where the reward of the steps so far rises and exact match does not; '' otherwise."""
    if len(lines) < FLAG_STEPS:
        return ""
    reward, verdict = (slope_t([line[name] for line in lines]) for name in ("reward", "exact_match"))
    if reward < RISING or verdict >= FLAT:
        return ""
    return (
        f"the reward rises (slope {reward:.1f} standard errors over {len(lines)} steps) while exact match "
        f"does not ({verdict:.1f}): it pays for something else. See reckon rollouts and reckon audit"
    )


class Guard:
    """Watches the last `rollout.patience` steps, and stops a run from which nothing more can be learnt.

    Where the reward rises and exact match does not it says so once, and the run goes on.
    """

    def __init__(self, run: Run, most: float, rewarded: bool = True) -> None:
        """`most` is the highest reward there is; not `rewarded`, rewards decide nothing.

        Reads the metrics of the steps so far.

        The last of them is checked again, so that a run killed there is decided as if it had not been.
        """
        self.config, self.most, self.rewarded = run.config, most, rewarded
        past = [line for line in ranks.from_first(run.metrics) if "reward" in line]
        self.lines: deque[dict[str, Any]] = deque(past[:-1], maxlen=self.config.rollout.patience)
        self.history, self.flag = list(past[:-1]), ""
        for line in past[-1:]:
            self.check(line)

    @property
    def solved(self) -> bool:
        """Every completion of the last steps earned all there is."""
        return self.rewarded and self._full and all(line["reward_min"] >= self.most for line in self.lines)

    @property
    def _full(self) -> bool:
        return 0 < self.config.rollout.patience == len(self.lines)

    def flags(self, line: dict[str, Any]) -> bool:
        """Whether the reward has risen up to this step while exact match has not."""
        return bool(reward_flag([*self.history, line]))

    def check(self, line: dict[str, Any]) -> None:
        """Take in the metrics of one step; raises `NothingToLearn` with the reason and the remedy."""
        self.lines.append(line)
        self.history.append(line)
        if not self.flag and (flag := reward_flag(self.history)):
            self.flag = flag
            say_once(flag)
        if self._full and not self.solved and (reason := self._reason()):
            raise NothingToLearn(f"{reason}. The best checkpoint so far is kept")

    def _reason(self) -> str:
        lines, count, rollout = self.lines, len(self.lines), self.config.rollout
        last, limit = lines[-1], rollout.max_completion_length or "eval.max_new_tokens"
        cut = sum(round(line["truncated"] * line["completions"]) for line in lines)
        total = sum(line["completions"] for line in lines)
        equal = all(line["reward_min"] == line["reward_max"] == last["reward_max"] for line in lines)
        if self.rewarded and equal:
            text = f"the reward is {last['reward']:g} for all {total:,} completions of {count} steps"
            if cut > total / 2:
                return (
                    f"{text}; {cut:,} were cut at max_completion_length={limit}. Nothing can be learnt: "
                    "raise it"
                )
            return (
                f"{text}; nothing can be learnt. Start from a model that solves some problems (more "
                "SFT), or lower the learning rate"
            )
        if all(line["truncated"] > 0.5 for line in lines):
            return (
                f"{cut:,} of {total:,} completions of {count} steps were cut at "
                f"max_completion_length={limit}: raise it, or lower the learning rate"
            )
        if self.rewarded and all(line["zero_variance"] == 1 for line in lines):
            return (
                f"all {rollout.num_generations} completions of every prompt earned the same for {count} "
                "steps: raise rollout.temperature or num_generations"
            )
        if all((line["kl_reference"] or 0.0) > KL_LIMIT for line in lines):
            return (
                f"the policy is {last['kl_reference']:.1f} nats a token from where it began ({count} "
                f"steps above {KL_LIMIT:g}): lower the learning rate"
            )
        return ""
