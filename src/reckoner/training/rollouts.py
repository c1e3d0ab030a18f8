"""What methods that learn from their own completions share: the prompts of a step, completions, rewards.

Prompts come from an endless stream, one shuffle of the train problems after another, and a run's position
in it follows from how many completions it has drawn. So every draw is a function of (seed, position in the
stream), every problem is visited before one repeats, and a killed run goes on with the prompt at which it
stopped.

Per-token quantities of a step are [B, T] tensors: B completions, group by group, T tokens of the longest,
with a mask from lengths. `iter_microbatches` cuts them into forward passes.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from reckoner import ranks
from reckoner.config import Config, ModelConfig, PeftConfig
from reckoner.engine.batches import Batch as Batch
from reckoner.engine.batches import Example, collate, micro_batches
from reckoner.engine.logprobs import completion_logprobs
from reckoner.engine.optim import NonFinite
from reckoner.engine.served import Served
from reckoner.errors import InputError
from reckoner.evaluation.sample import Answered, answers, greedy
from reckoner.models.adapters import adapters_off
from reckoner.models.policy import Policy, load_policy
from reckoner.models.sharding import level
from reckoner.runs.documents import ShownPrompt
from reckoner.runs.folder import Progress, Run, differences, read_config, stream_seed
from reckoner.runs.records import Completion, Grade, Problem, read_json
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.arithmetic import Step, check_steps, expressions
from reckoner.tasks.reward_plugin import PluginReward
from reckoner.tasks.rewards import SOURCES, GroupReward, Reward, check_weights, group_reward
from reckoner.training.loop import TrainingData

RewardFn = Callable[[Answer, Mapping[str, float]], Reward]
"""`reward_fn(answer, weights)`: what a completion earns, in the place of what `rollout.reward` names."""

TokenIndex = tuple[Tensor, Tensor]
"""Row and column in [B, T] of the N completion tokens of one forward pass."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One completion and what came of it. `logprobs` are those of the policy that drew it, pi_old."""

    problem: Problem
    example: Example
    completion: Completion
    grade: Grade
    reward: float
    parts: dict[str, float]
    logprobs: tuple[float, ...]

    @property
    def steps(self) -> list[Step]:
        """The calculations that the completion writes."""
        return check_steps(self.completion.text)

    @property
    def way(self) -> tuple[str, ...]:
        """The expressions that the completion computes; its words where it computes none."""
        return expressions(self.completion.text) or tuple(self.completion.text.split())


@dataclass(frozen=True)
class Rollout:
    """The completions of one step as tensors. The stop token is an action like any other: `mask` has it."""

    episodes: Sequence[Episode]
    rewards: Tensor  # [B]
    logprobs: Tensor  # [B, T], log pi_old of each token at the sampling temperature
    mask: Tensor  # [B, T] bool
    truncated: Tensor  # [B] bool, cut by the length limit

    @classmethod
    def of(cls, episodes: Sequence[Episode], device: torch.device | str = "cpu") -> Rollout:
        lengths = torch.tensor([len(e.logprobs) for e in episodes])
        mask = torch.arange(max(1, int(lengths.max()))) < lengths[:, None]
        logprobs = torch.zeros(mask.shape)
        logprobs[mask] = torch.tensor([value for e in episodes for value in e.logprobs])
        rewards = torch.tensor([e.reward for e in episodes], dtype=torch.float32)
        truncated = torch.tensor([e.completion.finish == "length" for e in episodes])
        tensors = (tensor.to(device) for tensor in (rewards, logprobs, mask, truncated))
        return cls(episodes, *tensors)

    @property
    def examples(self) -> list[Example]:
        """Prompt and completion of each episode as token ids."""
        return [episode.example for episode in self.episodes]

    def learnable(self, mask_truncated: bool) -> Tensor:
        """The tokens [B, T] that enter the loss: all, or none of a completion that was cut by its length."""
        return self.mask & ~self.truncated[:, None] if mask_truncated else self.mask


def prompt_indices(problems: int, seed: int, first: int, count: int) -> list[int]:
    """Which problems stand at `first`, `first + 1`, ... of the endless stream of prompts."""
    positions = (divmod(at, problems) for at in range(first, first + count))
    return [_shuffled(problems, seed, epoch)[index] for epoch, index in positions]


@lru_cache(maxsize=4)
def _shuffled(problems: int, seed: int, epoch: int) -> list[int]:
    return random.Random(stream_seed(seed, "prompts", epoch)).sample(range(problems), problems)


def mini_batches(
    rows: Sequence[int], count: int, seed: int, step: int, iteration: int = 0
) -> list[list[int]]:
    """Shuffle `rows` and cut them into at most `count` parts whose sizes differ by one at most."""
    shuffled = random.Random(stream_seed(seed, f"mini-batches/{iteration}", step)).sample(
        list(rows), len(rows)
    )
    return [chosen for i in range(count) if (chosen := shuffled[i::count])]


def iter_microbatches(
    policy: Policy, rollout: Rollout, rows: Sequence[int], max_tokens: int, shared: bool = True
) -> Iterator[tuple[Batch, TokenIndex]]:
    """The forward passes over `rows`, each with the index of its tokens: this rank's share of them, or all.

    `rollout.logprobs[index]` is [N]. Completions of one prompt count as long as the longest, so that they
    share a pass and its one prompt.
    """
    longest: dict[tuple[int, ...], int] = {}
    for example in (rollout.examples[i] for i in rows):
        longest[example.prompt_ids] = max(len(example), longest.get(example.prompt_ids, 0))
    lengths = [longest.get(example.prompt_ids, 0) for example in rollout.examples]
    if shared and ranks.size() > 1:  # a pass for each rank at least
        max_tokens = min(max_tokens, -(-sum(lengths[i] for i in rows) // ranks.size()))
    passes = list(micro_batches(sorted(rows), lengths, max_tokens))
    for chosen in level(policy.model, list(ranks.share(passes))) if shared else passes or [[]]:
        batch = collate([rollout.examples[i] for i in chosen], policy.tokenizer.pad_token_id, policy.device)
        indices = torch.tensor(chosen, device=rollout.mask.device, dtype=torch.int64)
        within, column = rollout.mask[indices].nonzero(as_tuple=True)
        yield batch, (indices[within], column)


@torch.no_grad()
def score(
    policy: Policy,
    model: nn.Module,
    rollout: Rollout,
    rows: Sequence[int],
    temperature: float,
    max_tokens: int,
) -> Tensor:
    """Log-probs [B, T] of the completions under `model`, 0 outside `rows`."""
    scored = torch.zeros_like(rollout.logprobs)
    for batch, index in iter_microbatches(policy, rollout, rows, max_tokens):
        with policy.autocast():
            scored[index] = completion_logprobs(model, batch, temperature).logprobs
    return ranks.add(scored)


def without_dropout(model: nn.Module) -> None:
    """Score with the distribution that was sampled. Layers that recompute stay in training mode."""
    model.eval()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = module.gradient_checkpointing


class Reference:
    """The policy before the first step: the same model with adapters off, or a frozen copy without any.

    The KL to it is measured on `kl_samples` completions of a step, or on all where it has a `coefficient`.
    """

    def __init__(self, policy: Policy, config: Config, coefficient: float) -> None:
        self.policy, self.temperature = policy, config.rollout.temperature
        self.samples = math.inf if coefficient else config.rollout.kl_samples
        self.copy: nn.Module | None = None
        # With adapters off the model is its start, but for weights of the base that train or were changed.
        peft = config.peft
        inside = peft.method != "none" and peft.variant != "pissa" and peft.lora_bias == "none"
        if self.samples and not inside:
            self.copy = self._start(config).requires_grad_(False).eval()

    def _start(self, config: Config) -> nn.Module:
        """What the policy begins with, in the dtype of the computation."""
        if not config.run.shard:
            return copy.deepcopy(self.policy.model).to(self.policy.dtype)
        kind = str(self.policy.dtype).removeprefix("torch.")
        start = load_policy(replace(config.model, train_dtype=kind), PeftConfig(), train=True, shard=True)
        return start.model

    def logprobs(self, rollout: Rollout, max_tokens: int) -> tuple[Tensor, Tensor]:
        """log pi_ref [B, T], and which of its tokens were scored [B, T] bool."""
        count = len(rollout.examples)
        rows = range(0, count, max(1, int(count // self.samples))) if self.samples else range(0)
        if self.copy is not None or not rows:
            scored = score(self.policy, self.copy, rollout, rows, self.temperature, max_tokens)
        else:
            with adapters_off(self.policy):
                scored = score(self.policy, self.policy.model, rollout, rows, self.temperature, max_tokens)
        chosen = torch.zeros(count, dtype=torch.bool, device=rollout.mask.device)
        chosen[list(rows)] = True
        return scored, rollout.mask & chosen[:, None]


class Teacher:
    """The model `distill.teacher`, which judges the completions of a policy with the same vocabulary.

    `pins` are the sha256 of its files. Raises `InputError` where there is none.
    """

    def __init__(self, config: Config) -> None:
        name, revision = config.distill.teacher, config.distill.revision
        if not name:
            raise InputError(
                "distill.teacher is empty: name a run, a folder or a model with the same vocabulary"
            )
        settings = ModelConfig(name, revision, config.model.dtype, device=config.model.device)
        self.policy = load_policy(settings, PeftConfig(), train=False)
        self.temperature = config.rollout.temperature
        self.pins = {f"teacher {name}": digest for name, digest in self.policy.base.pins.items()}

    def check_vocabulary(self, policy: Policy) -> None:
        """Raises `InputError` where a token of one model is another token of the other."""
        own, other = policy.tokenizer.get_vocab(), self.policy.tokenizer.get_vocab()
        if own != other:
            differing = sum(own.get(token) != index for token, index in other.items())
            raise InputError(
                f"distill.teacher={self.policy.name} has another vocabulary than {policy.name}: "
                f"{differing:,} of its {len(other):,} tokens. Its log-probs would be of other texts"
            )

    def logprobs(self, policy: Policy, rollout: Rollout, max_tokens: int) -> Tensor:
        """log pi_T [B, T] of the completions of `policy`."""
        every = range(len(rollout.episodes))
        return score(policy, self.policy.model, rollout, every, self.temperature, max_tokens)


def overlong_penalty(length: int, limit: int, last: int) -> float:
    """What is taken off a reward: over the `last` tokens before the limit it rises from 0 to 1 (DAPO)."""
    return max(0.0, (length - (limit - last)) / last) if last else 0.0


def make_reward(config: Config, data: TrainingData, reward_fn: RewardFn | None) -> GroupReward:
    """What `rollout.reward` pays, or `reward_fn`; a plug-in is checked on the problems of `data`."""
    weights, name = check_weights(config.rollout.reward_weights), config.rollout.reward
    if reward_fn:
        return lambda answers, problem, key: [reward_fn(answer, weights) for answer in answers]
    if name in SOURCES:
        return group_reward(name, weights)
    plugin = PluginReward(name, weights, config.rollout.reward_timeout)
    plugin.check(data.problems, data.prompt)
    return plugin


class Sampler:
    """Draws the episodes of a run: the policy completes prompts of the stream, and the reward pays."""

    def __init__(
        self, run: Run, policy: Policy, data: TrainingData, reward_fn: RewardFn | None = None
    ) -> None:
        config = run.config
        check_start(config, policy)
        self.run, self.policy, self.data = run, policy, data
        self.reward = make_reward(config, data, reward_fn)
        known = config.rollout.reward in SOURCES
        self.most = sum(check_weights(config.rollout.reward_weights).values()) if known else math.inf
        self.limit = config.rollout.max_completion_length or data.max_new_tokens
        shortest = min(len(example.completion_ids) for example in data.examples)
        if self.limit < shortest:
            own = config.rollout.max_completion_length
            name = "rollout.max_completion_length" if own else "eval.max_new_tokens"
            raise InputError(
                f"{name}={self.limit} cuts every right answer: the train solutions have {shortest} tokens or "
                "more. Set it to 0, which holds 99.5 % of them"
            )
        self.sampling = replace(
            greedy(policy, data.prompt, self.limit),
            temperature=config.rollout.temperature,
            num_samples=config.rollout.num_generations,
            seed=stream_seed(config.run.seed, "rollout"),
        )
        self.longest = self.limit + max(len(example.prompt_ids) for example in data.examples)
        self.served: Served | None = None
        if config.rollout.engine != "own":
            self.served = Served(config, policy, run.folder, self.longest)
            run.ending.callback(self.served.close)

    def draw(self, first: int, count: int, on_progress: Progress) -> list[Episode]:
        """All completions of the `count` prompts from place `first` of the stream, group by group."""
        config, data = self.run.config, self.data
        if config.rollout.order == "shuffle":
            indices = prompt_indices(len(data.examples), config.run.seed, first, count)
        else:  # as `choose_problems` has sorted them
            indices = [place % len(data.examples) for place in range(first, first + count)]
        total = count * self.sampling.num_samples
        answered = answers(
            self.policy,
            data.prompt,
            [data.problems[i] for i in indices],
            self.sampling,
            config.eval,
            keys=range(first, first + count),
            on_done=lambda finished: on_progress("generate", finished, total, ""),
            served=self.served,
        )
        groups = [
            answered[at : at + self.sampling.num_samples] for at in range(0, total, self.sampling.num_samples)
        ]
        # What a reward pays may depend on chance or the clock: ranks that differed in it would part.
        paid = ranks.from_first(
            lambda: [self._pay(group, place) for place, group in enumerate(groups, first)]
        )
        return [e for group, sums in zip(groups, paid, strict=True) for e in self._episodes(group, sums)]

    def _pay(self, group: Sequence[Answered], place: int) -> list[tuple[float, dict[str, float]]]:
        """The reward and its parts of each completion of the prompt at `place` of the stream."""
        key = f"{stream_seed(self.run.config.run.seed, 'reward')}/{place}"
        paid = self.reward([one.answer for one in group], group[0].problem, key)
        return [(float(earned.total), earned.parts) for earned in paid]

    def _episodes(
        self, group: Sequence[Answered], paid: Sequence[tuple[float, dict[str, float]]]
    ) -> list[Episode]:
        """The completions of one prompt, with what each is paid.

        Raises `NonFinite` for a reward or log-prob that is not finite.
        """
        problem, rollout = group[0].problem, self.run.config.rollout
        episodes = []
        for answered, (earned, parts) in zip(group, paid, strict=True):
            completion, tokens = answered.completion, answered.tokens
            penalty = rollout.missing_eos_penalty if completion.finish == "length" else 0.0
            penalty += overlong_penalty(len(tokens.ids), self.limit, rollout.overlong_tokens)
            for name, value in (("reward", earned), ("log-prob", completion.logprob)):
                if not math.isfinite(value):
                    raise NonFinite(
                        f"the {name} of problem {problem.id} is {value}, not a finite number: "
                        f"{completion.text[-80:]!r}"
                    )
            episodes.append(
                Episode(
                    problem=problem,
                    example=Example(problem.id, tuple(answered.prompt_ids), tokens.ids),
                    completion=completion,
                    grade=answered.grade,
                    reward=earned - penalty,
                    parts=parts,
                    logprobs=tokens.logprobs,
                )
            )
        return episodes


def check_start(config: Config, policy: Policy) -> None:
    """Raises `InputError` where prompt or tokenizer differ from those of the run it starts from."""
    start = Path(config.model.model_name_or_path)
    if not (start / "config.yaml").is_file():
        return
    saved = read_config(start / "config.yaml")
    if changed := differences(saved["prompt"], config.to_dict()["prompt"], "prompt."):
        raise InputError(f"{start} was trained with {changed[0]}. Use the same prompt settings")
    shown = read_json(start / "prompt.json", ShownPrompt)
    if policy.tokenizer.decode(shown["token_ids"]) != shown["rendered"]:
        raise InputError(
            f"{start}/model has another tokenizer than {start} was trained with "
            "(its prompt.json reads otherwise). Train it again"
        )
