"""A run of reinforcement learning: what PPO and GRPO share besides the rollout and the equations.

training = RolloutTraining.begin(run, on_progress, reward_fn, kl_coef)
for step in training.steps():
    with training.phase("generate"):
        rollout = ...
    ...
    training.end_rollout(rollout, advantages, sums, rate, metrics)
return training.finish("grpo")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from torch import Tensor, nn

from reckoner import ranks
from reckoner.config import Config, PeftConfig
from reckoner.errors import InputError
from reckoner.evaluation.sample import note_backend
from reckoner.models.critic import Critic
from reckoner.models.policy import Policy, load_policy
from reckoner.models.sharding import divide, level
from reckoner.runs.folder import Progress, Run
from reckoner.training.gate import Gate
from reckoner.training.loop import Training, load, make_optimizers, resume
from reckoner.training.metrics import (
    Clock,
    Guard,
    NothingToLearn,
    Sums,
    count_step,
    describe,
    mean,
    summarise,
)
from reckoner.training.pass_rates import choose_problems, map_flops
from reckoner.training.remote_teacher import RemoteTeacher
from reckoner.training.rollout_log import save_rollouts
from reckoner.training.rollouts import Reference, RewardFn, Rollout, Sampler, Teacher, without_dropout
from reckoner.training.schedule import Schedule

__all__ = ["Critic", "RolloutTraining"]


@dataclass
class RolloutTraining(Training):
    """A training run that learns from what it draws."""

    sampler: Sampler
    reference: Reference
    gate: Gate
    guard: Guard
    max_tokens: int  # of one forward pass, padding included
    valuer: Critic | None = None
    scorings: int = 0  # forward passes over a rollout before its updates, besides generation and measurements
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def begin(
        cls,
        run: Run,
        on_progress: Progress,
        reward_fn: RewardFn | None = None,
        kl_coef: float = 0.0,
        critic: str = "",
        least_generations: int = 1,
        pins: Mapping[str, str] = MappingProxyType({}),
        rewarded: bool = True,
    ) -> Self:
        """Load, or continue from the newest checkpoint. `critic` is "trunk", "head", or empty for none.

        `pins` are the sha256 of further inputs by name. Not `rewarded`, equal rewards stop nothing. Raises
        `InputError` for settings that cannot work, or with fewer than `least_generations`.
        """
        config = run.config
        if config.rollout.num_generations < least_generations:
            raise InputError(
                "rollout.num_generations=1: a completion alone has no group to be better than. "
                "Set it to 2 or more, or use ppo"
            )
        policy, data = load(run, pins)
        data = choose_problems(run, policy, data, on_progress)
        sampler = Sampler(run, policy, data, reward_fn)
        schedule = Schedule.of(config, len(data.examples), rollouts=True)
        schedule.check(len(data.examples))
        reference = Reference(policy, config, kl_coef)
        valuer = make_critic(config, policy, critic) if critic else None
        modules: dict[str, nn.Module] = {"policy": policy.model, **({"critic": valuer} if valuer else {})}
        optimizers = make_optimizers(config, **modules)
        without_dropout(policy.model)
        note_backend(run, policy, on_progress, sampler.served, trains=True, dropout=False)
        state = resume(run, optimizers, on_progress)
        state.flops = state.flops or map_flops(run, policy.model)  # once, at the first step
        training = cls(
            run,
            policy,
            data,
            schedule,
            optimizers,
            state,
            on_progress,
            sampler,
            reference,
            Gate(run),
            Guard(run, sampler.most, rewarded),
            max_tokens=config.train.per_device_train_batch_size * sampler.longest,
            valuer=valuer,
            scorings=bool(kl_coef) + bool(valuer),
        )
        on_progress("train", state.step, schedule.steps, training.banner())
        return training

    @property
    def critic(self) -> Critic:
        """The critic of a run that was begun with one."""
        assert self.valuer is not None
        return self.valuer

    @property
    def over(self) -> bool:
        """Also where every completion of the last steps earned all that can be earned."""
        return super().over or self.guard.solved

    def steps(self, between: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[int]:
        """As `Training.steps`; the modules compute without dropout, the clock of the step runs, and a process
        that samples has the weights.
        """
        for step in super().steps(between):
            for module, _ in self.optimizers.values():
                without_dropout(module)
            self.clock = Clock(self.on_progress)
            if self.sampler.served:
                with self.phase("generate"):
                    self.sampler.served.update(self.policy)
            yield step

    def share_of_rank(self, passes: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Those of the passes over the policy that this rank makes; empty ones as `level` has it."""
        return level(self.policy.model, list(ranks.share(passes)))

    def add_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, in its place."""
        return ranks.add(tensor)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """The seconds of what is done inside count as `seconds_NAME` of the step."""
        return self.clock.phase(name)

    def draw(self) -> Rollout:
        """All completions of the prompts of this step."""
        episodes = self.sampler.draw(self.state.samples, self.schedule.prompts, self.on_progress)
        return Rollout.of(episodes, self.policy.device)

    def measure(self, rollout: Rollout, step: int) -> tuple[dict[str, Any], Tensor]:
        """What is known of a rollout before its updates: three metrics, and log pi_ref [B, T].

        Raises `InputError` where the policy did not draw it.
        """
        measured = self.gate.check(self.policy, rollout, step, self.max_tokens)
        reference, scored = self.reference.logprobs(rollout, self.max_tokens)
        d = reference - rollout.logprobs
        return {**measured, "kl_reference": (d.exp() - d - 1)[scored]}, reference  # k3 (Schulman 2020)

    def end_rollout(
        self,
        rollout: Rollout,
        advantages: Tensor,
        sums: Sums,
        rate: float,
        metrics: Mapping[str, Any],
    ) -> None:
        """Count the step, keep its completions as text, log, save, and stop where nothing can be learned.

        `advantages` is [B] or [B, T]; `sums` are those of the updates. Tensors of `metrics` are averaged.
        """
        state, episodes, generations = self.state, rollout.episodes, self.schedule.generations
        rows = advantages[:, None] if advantages.dim() == 1 else advantages
        masks = rollout.mask if advantages.dim() == 2 else rollout.mask.new_ones(rows.shape)
        shown = [row[mask].tolist() for row, mask in zip(rows, masks, strict=True)]
        save_rollouts(self.run.folder, state.step + 1, episodes, shown)
        count_step(state, episodes, generations, sums, self.policy.model, self.scorings, self.clock.total)
        line = {
            **describe(episodes, generations),
            **{name: mean(value) if isinstance(value, Tensor) else value for name, value in metrics.items()},
            **summarise(sums),
            "learning_rate": rate,
            **self.clock.seconds,
        }
        line["flagged"] = int(self.guard.flags(line))
        self.end_step(line, f"reward {line['reward']:.3f}")
        if self.schedule.evaluates(state.step):
            self.save()  # the guard may stop the run
        self.guard.check({**state.costs, **line})

    def finish(self, method: str) -> dict[str, Any]:
        """As `Training.finish`. Raises `NothingToLearn` where no step had an update and the guard is on."""
        learned = any(line["updates"] for line in self.guard.history)
        if not learned and self.config.rollout.patience and not self.guard.solved:
            raise NothingToLearn(
                f"no completion could be learned from (steps: {self.state.step}), so the weights are those "
                "of the start. Start from a model that solves some problems, or raise rollout.num_prompts, "
                "num_generations or max_steps"
            )
        return super().finish(method)

    def banner(self) -> str:
        """One line for people, before step 1."""
        schedule, reference = self.schedule, self.reference
        passes = "1 pass" if schedule.iterations == 1 else f"{schedule.iterations} passes"
        modules = [module for module, _ in self.optimizers.values()]
        size = sum(
            p.numel() * (p.element_size() + (12 if p.requires_grad else 0))
            for module in [*modules, *([reference.copy] if reference.copy else [])]
            for p in module.parameters()
        )
        against = "the policy with adapters off" if reference.samples else "none"
        return (
            f"{schedule.prompts} prompts x {schedule.generations} = {schedule.completions} completions "
            f"a step, at most {self.sampler.limit} tokens each; "
            f"{schedule.updates} updates of {schedule.batch} in {passes}; "
            f"{schedule.steps} steps = {schedule.epochs:.2f} epochs; dev every {schedule.eval_every} steps; "
            f"temperature {self.config.rollout.temperature:g}, untruncated; "
            f"reference: {'a frozen copy' if reference.copy else against}; "
            f"{size / 1e6:,.0f} MB of weights, gradients and moments"
        )


def make_critic(config: Config, policy: Policy, kind: str) -> Critic:
    """A head of zeros, on a "trunk" of its own or on the policy's features ("head"), on the policy's device.

    A trunk starts from the weights of the policy and trains all of them, whatever adapter the policy has.
    """
    shard, trunk = config.run.shard, None
    if kind == "trunk":
        trunk = load_policy(config.model, PeftConfig(), train=True, shard=shard).model
    critic = Critic(policy.model.config.get_text_config().hidden_size, trunk).to(policy.device)
    if shard:
        divide(critic.head, policy.device)
    return critic


def make_teacher(config: Config) -> Teacher | RemoteTeacher:
    """The model `distill.teacher`: of the server `endpoint.url`, or one that runs here."""
    return RemoteTeacher(config) if config.endpoint.url else Teacher(config)
