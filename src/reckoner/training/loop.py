"""What a training run does besides its equations: load, resume, save, evaluate on dev, keep the best, finish.

    training = Training.begin(run, on_progress)
    for step in training.steps():            # evaluates dev before, between and after the steps
        ...                                  # gradients of the algorithm
        training.apply_step("policy", rate, loss)
        training.end_step(metrics)           # logs, and saves where a checkpoint is due
    return training.finish("sft")

Everything that decides how a run continues is in its checkpoints. So a killed run continues exactly at its
last one.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

import torch
from safetensors import SafetensorError

from reckoner import ranks
from reckoner.config import Config
from reckoner.engine.batches import Example, collate, micro_batches
from reckoner.engine.cost import training_flops
from reckoner.engine.logprobs import cross_entropy
from reckoner.engine.optim import (
    NonFinite,
    ScheduleFreeAdamW,
    apply_step,
    averaged,
    check_weights,
    make_optimizer,
    total_norm,
)
from reckoner.errors import InputError
from reckoner.evaluation.evaluate import describe_prompt, encode, make_prompt
from reckoner.evaluation.limits import token_limit
from reckoner.evaluation.sample import answers, greedy, note_backend
from reckoner.evaluation.session import describe_run, load_problems
from reckoner.machine import keep_freed_memory, peak_memory_bytes
from reckoner.models.policy import Policy, fingerprint, load_policy
from reckoner.models.sharding import level
from reckoner.models.sources import TOKENIZER
from reckoner.runs import checkpoints
from reckoner.runs.folder import Progress, Run, stream_seed
from reckoner.runs.integrity import NOTHING
from reckoner.runs.records import Problem, count_grades, write_json
from reckoner.runs.safe_paths import publish, writing
from reckoner.tasks import gsm8k
from reckoner.tasks.formats import refuse_stops
from reckoner.tasks.prompts import Prompt, audit_labels
from reckoner.tasks.reward_plugin import digest as reward_digest
from reckoner.training.schedule import Schedule

__all__ = ["Policy", "Schedule", "TrainState", "Training", "TrainingData", "load", "prepare", "resume"]

LAST = 50
"""`loss_final` is the mean loss of this many last logged steps, or of the last tenth of a shorter log."""

Optimizers = Mapping[str, tuple[torch.nn.Module, torch.optim.Optimizer]]
"""What a checkpoint holds: name -> (module whose trainable weights are saved, its optimizer)."""


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and is watched on. `problems` and `examples` are the same items in one order."""

    prompt: Prompt
    problems: Sequence[Problem]
    examples: Sequence[Example]
    dev_examples: Sequence[Example]
    dev_problems: Sequence[Problem]
    max_new_tokens: int


@dataclass
class TrainState:
    """Where a run is: its step, its cost so far, and its dev evaluations, which decide what is kept.

    All of it is in each checkpoint, so that no file that is easily edited decides anything.

    `start` is the fingerprint of the weights before step 1.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    evaluations: list[Any] = field(default_factory=list)
    start: Mapping[str, str] = field(default_factory=dict)

    @property
    def costs(self) -> dict[str, Any]:
        names = ("step", "samples", "tokens", "supervised_tokens", "flops")
        return {**{name: getattr(self, name) for name in names}, "seconds": round(self.seconds, 3)}

    @property
    def evaluated(self) -> bool:
        return any(line["step"] == self.step for line in self.evaluations)

    @property
    def best_step(self) -> int:
        """The step with the most dev problems solved; of equals the one with the lowest dev loss."""
        return checkpoints.best_step(self.evaluations)

    def stale(self) -> int:
        """Evaluations since the best one."""
        return sum(line["step"] > self.best_step for line in self.evaluations)


def prepare(run: Run, policy: Policy, pins: Mapping[str, str]) -> TrainingData:
    """Load, lint, encode and audit; data.json and prompt.json are written before anything trains.

    `pins` are the sha256 of further inputs of the run by their names.
    """
    keep_freed_memory()
    config = run.config
    prompt = make_prompt(config, policy)
    problems, dev_problems = load_problems(config, "train"), load_problems(config, "dev")
    refuse_stops(problems, prompt.stop_strings)
    length, bos = config.train.max_length, policy.tokenizer.bos_token_id
    examples, dropped = audit_labels(
        encode(policy, prompt, problems), policy.stop_ids, length, bos_id=bos, drop=config.train.drop_long
    )
    watched = dev_problems[: config.eval.dev_samples or None]
    dev_examples, _ = audit_labels(
        encode(policy, prompt, watched), policy.stop_ids, length, bos_id=bos, drop=True
    )
    if not examples or not dev_examples:
        raise InputError(
            f"no {'dev' if examples else 'train'} problem is as short as train.max_length={length}. Raise it"
        )
    lengths = sorted(map(len, examples))
    refuse_unfit(policy, lengths[0], lengths[-1])
    limit = token_limit(config, [len(e.completion_ids) for e in examples])
    files = gsm8k.files(**config.problem_source())
    digests = gsm8k.digests(**config.problem_source())
    reward = reward_digest(config.rollout.reward)
    run.pin({**digests, **policy.base.pins, "prompt": prompt.digest, **reward, **pins})
    write_json(
        run.folder / "data.json",
        {
            "source": config.data.source,
            "variant": config.data.variant,
            "files": files,
            "sizes": {"train": len(examples), "dev": len(dev_problems)},
            "supervised_tokens": sum(len(e.completion_ids) for e in examples),
            "dropped": dropped,
            "lengths": {
                "min": lengths[0],
                "median": lengths[len(lengths) // 2],
                "max": lengths[-1],
                "max_length": config.train.max_length,
                "max_new_tokens": limit,
            },
        },
    )
    write_json(run.folder / "prompt.json", describe_prompt(prompt, policy, problems[0]))
    kept = {e.id for e in examples}
    return TrainingData(
        prompt=prompt,
        problems=[p for p in problems if p.id in kept],
        examples=examples,
        dev_examples=dev_examples,
        dev_problems=watched,
        max_new_tokens=limit,
    )


def refuse_unfit(policy: Policy, shortest: int, longest: int) -> None:
    """Raises `InputError` where the model's context is too small for the `longest` problem."""
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", longest)
    if shortest > context:
        raise InputError(
            f"the shortest problem has {shortest} tokens and {policy.name} reads {context}. "
            "Lower prompt.shots, or take another model"
        )
    if longest > context:
        raise InputError(
            f"the longest problem has {longest} tokens and {policy.name} reads {context}. "
            f"Set train.max_length={context} train.drop_long=true"
        )


def resume(run: Run, optimizers: Optimizers, on_progress: Progress) -> TrainState:
    """Restore the newest verified checkpoint, if there is one, and cut the metrics to what it knew of them.

    The modules come with the weights that the run began with. All ranks get what rank 0 has read.
    """
    state = TrainState(start=fingerprint(optimizers["policy"][0]))
    found: list[checkpoints.Checkpoint] = []  # on rank 0
    saved = ranks.from_first(lambda: _newest(run, found, on_progress))
    if not saved:
        return state

    def tensors(group: str) -> Iterator[tuple[str, torch.Tensor]]:
        return ranks.each_from_first(found[0].tensors(group) if found else ())

    for name, (module, optimizer) in optimizers.items():
        checkpoints.restore_weights(module, tensors(name))
        checkpoints.restore_optimizer(module, optimizer, tensors(f"{name}-optimizer"))
        if isinstance(optimizer, ScheduleFreeAdamW):
            optimizer.back()  # checkpoints hold the averaged weights
    for name in (*state.costs, "evaluations"):
        setattr(state, name, saved[name])
    return state


def _newest(run: Run, found: list[checkpoints.Checkpoint], on_progress: Progress) -> dict[str, Any] | None:
    """The state of the newest checkpoint, which is added to `found`; None where there is none."""
    folder = run.folder / "checkpoints"
    checkpoints.tidy(folder)
    newest = checkpoints.newest(folder, lambda message: on_progress("resume", 0, 0, message))
    run.rewind(newest.state["metrics"] if newest else NOTHING)
    found += [newest] if newest else []
    return {**newest.state} if newest else None


def affordable_epochs(config: Config, policy: Policy, examples: Sequence[Example]) -> float:
    """Epochs over the reference solutions that `train.max_tflops` pays for; 0 without such a budget."""
    supervised = sum(len(example.completion_ids) for example in examples)
    return 1e12 * config.train.max_tflops / training_flops(policy.model, sum(map(len, examples)), supervised)


def make_optimizers(config: Config, **modules: torch.nn.Module) -> Optimizers:
    """An optimizer for each of the named modules, with the settings of the section `train`."""
    train = config.train
    betas = (0.9, train.adam_beta2)
    return {
        name: (module, make_optimizer(module.named_parameters(), train.optim, train.weight_decay, betas))
        for name, module in modules.items()
    }


def load(run: Run, pins: Mapping[str, str] = MappingProxyType({})) -> tuple[Policy, TrainingData]:
    """The policy, its new adapter drawn from the seed, and its data. Peak memory counts from here."""
    peak_memory_bytes(reset=True)
    torch.manual_seed(stream_seed(run.config.run.seed, "adapter"))
    policy = load_policy(run.config.model, run.config.peft, train=True, shard=run.config.run.shard)
    return policy, prepare(run, policy, pins)


@dataclass
class Training:
    """One training run. `config` is the run's."""

    run: Run
    policy: Policy
    data: TrainingData
    schedule: Schedule
    optimizers: Optimizers
    state: TrainState
    on_progress: Progress
    moved: bool = field(default=False, init=False)
    """Whether `_check_rate` has seen in this sitting that the weights move."""

    @classmethod
    def begin(cls, run: Run, on_progress: Progress) -> Self:
        """Load, or continue from the newest checkpoint, a run that learns from reference solutions."""
        policy, data = load(run)
        epochs = affordable_epochs(run.config, policy, data.examples)
        schedule = Schedule.of(run.config, len(data.examples), rollouts=False, epochs=epochs)
        schedule.check(len(data.examples))
        optimizers = make_optimizers(run.config, policy=policy.model)
        note_backend(run, policy, on_progress, trains=True)
        state = resume(run, optimizers, on_progress)
        return cls(run, policy, data, schedule, optimizers, state, on_progress)

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def over(self) -> bool:
        """Whether the last step is done, the budget is spent, or dev has not risen for too long."""
        train, state = self.config.train, self.state
        stale = train.early_stopping_patience and state.stale() >= train.early_stopping_patience
        spent = self.schedule.draws and train.max_tflops and state.flops >= 1e12 * train.max_tflops
        return state.step == self.schedule.steps or bool(stale or spent)

    def steps(self, between: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[int]:
        """The steps that remain, counted from 1. Dev is evaluated where due, inside the context `between`."""
        while True:
            with between():
                due = self.over or self.schedule.evaluates(self.state.step)
                if due and not self.state.evaluated:
                    self.save()  # step 0 too: the start may remain the best
                    self.evaluate_dev()
            if self.over:
                return
            yield self.state.step + 1

    def apply_step(self, name: str, rate: float, loss: float) -> float:
        """Step the optimizer of module `name` with the gradients of all ranks.

        Returns their norm before clipping. Raises `NonFinite`.
        """
        module, optimizer = self.optimizers[name]
        ranks.add_gradients(module.parameters())
        return apply_step(optimizer, module.parameters(), rate, self.config.train.max_grad_norm, loss)

    def count_step(self, examples: Sequence[Example], seconds: float) -> None:
        """Count one optimizer step over `examples`, all of whose completion tokens were supervised."""
        state = self.state
        state.step += 1
        state.samples += len(examples)
        state.tokens += sum(map(len, examples))
        state.supervised_tokens += sum(len(example.completion_ids) for example in examples)
        state.flops = training_flops(self.policy.model, state.tokens, state.supervised_tokens)
        state.seconds += seconds

    def end_step(self, metrics: Mapping[str, Any], note: str) -> None:
        """Log the step that was just counted, and save a checkpoint, where they are due."""
        step = self.state.step
        self._check_rate()
        if step % self.config.run.logging_steps == 0 or step == self.schedule.steps:
            self.run.log(**self.state.costs, **metrics)
        if self.schedule.saves(step):
            self.save()
        self.on_progress("train", step, self.schedule.steps, note)

    def _check_rate(self) -> None:
        """Refuse a rate that rounds to nothing after the first step at its peak, not after the whole run.

        Trained bfloat16 weights are rounded at random: what is too small for one step moves them in many.
        """
        (model, optimizer), peak = self.optimizers["policy"], self.config.train.learning_rate
        full = self.state.step > self.schedule.warmup(self.config.train)
        rounds = all(p.dtype != torch.bfloat16 for p in model.parameters() if p.requires_grad)
        if full and rounds and optimizer.state and not self.moved:
            check_weights(model, optimizer, self.state.start, self.state.step, peak)
            self.moved = True

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the modules have the weights that are evaluated and saved."""
        return averaged(optimizer for _, optimizer in self.optimizers.values())

    def save(self) -> None:
        """Write a checkpoint; delete those neither new nor best. Raises `NonFinite` where it is useless."""
        with self.averaged():
            self._save()

    def _save(self) -> None:
        groups = {}
        for name, (module, optimizer) in self.optimizers.items():
            groups[name] = checkpoints.trainable(module)
            groups[f"{name}-optimizer"] = checkpoints.optimizer_tensors(module, optimizer)
        named = (item for tensors in groups.values() for item in tensors.items())
        ruined = next((key for key, tensor in named if not ranks.own_part(tensor).isfinite().all()), "")
        if ruined := max(ranks.gather(ruined)):
            raise NonFinite(f"{ruined} holds values that are not finite: step {self.state.step} is not saved")
        folder, state = self.run.folder / "checkpoints", self.state
        new = not ranks.from_first(lambda: checkpoints.is_saved(folder, state.step))
        if self.run.follows:
            checkpoints.give(groups if new else {})
            return
        if new:
            known = {**state.costs, "evaluations": state.evaluations, "metrics": self.run.flush()}
            checkpoints.save(folder, state.step, groups, known)
        best = {state.best_step} if state.evaluations else set()
        checkpoints.prune(folder, self.config.run.save_total_limit, best)

    @contextmanager
    def stopping(self, step: int, examples: Sequence[Example]) -> Iterator[None]:
        """Where a number of this step is not finite, write nonfinite.json (problems, norms) and stop.

        All ranks must come to that end: norms are of tensors that they may share.
        """
        try:
            yield
        except NonFinite as error:
            norms = {
                f"{name}/{key}": str(total_norm([parameter.grad]).item())
                for name, (module, _) in self.optimizers.items()
                for key, parameter in module.named_parameters()
                if parameter.grad is not None
            }
            path = self.run.folder / "nonfinite.json"
            problems = [example.id for example in examples]
            note = {"step": step, "reason": str(error), "problems": problems, "gradient_norms": norms}
            if not self.run.follows:
                write_json(path, note)
            line = f"step {step}: {error}. The batch is in {path}; the checkpoints are from before"
            raise NonFinite(line) from error

    def evaluate_dev(self) -> None:
        """Dev loss, token accuracy and greedy exact match at this step, as one line of metrics.jsonl."""
        policy, state = self.policy, self.state
        policy.model.eval()
        with self.averaged():
            loss, token_accuracy = self._dev_loss()
            answered = answers(
                policy,
                self.data.prompt,
                self.data.dev_problems,
                greedy(policy, self.data.prompt, self.data.max_new_tokens),
                self.config.eval,
                on_done=lambda count: self.on_progress("dev", count, len(self.data.dev_problems), ""),
            )
        counts = count_grades(one.grade for one in answered)
        line = {
            **state.costs,
            "dev_loss": loss,
            "dev_token_accuracy": token_accuracy,
            "dev_strict": counts["strict"],
            "dev_flexible": counts["flexible"],
            "dev_n": counts["n"],
        }
        self.run.log(**line)
        state.evaluations.append(line)
        note = f"dev {100 * counts['strict'] / counts['n']:.1f} %"
        self.on_progress("dev", counts["n"], counts["n"], note)
        policy.model.train()

    def _dev_loss(self) -> tuple[float, float]:
        """Mean negative log-likelihood of the dev solutions' tokens, and the share that is likeliest."""
        policy, examples = self.policy, self.data.dev_examples
        loss, hits, lengths = 0.0, 0, [len(example) for example in examples]
        count = sum(len(example.completion_ids) for example in examples)
        max_tokens = max(lengths) * self.config.train.per_device_train_batch_size
        with torch.no_grad(), policy.autocast():
            passes = ranks.share(list(micro_batches(range(len(examples)), lengths, max_tokens)))
            for indices in level(policy.model, list(passes)):
                batch = collate([examples[i] for i in indices], policy.tokenizer.pad_token_id, policy.device)
                negative_log_likelihood, correct = cross_entropy(policy.model, batch)
                loss, hits = loss + negative_log_likelihood.item(), hits + int(correct)
        loss, hits = map(sum, zip(*ranks.gather([loss, hits]), strict=True))
        if not math.isfinite(loss):
            raise NonFinite(
                f"the dev loss of step {self.state.step} is {loss}: the weights are ruined; "
                "the checkpoints are from before"
            )
        return loss / count, hits / count

    def finish(self, method: str) -> dict[str, Any]:
        """Keep the best weights as `model/`, loadable by transformers or peft alone, and write the summary.

        Raises `RuntimeError` where training changed what was frozen, `InputError` where it did not change
        what it trained.
        """
        check_weights(*self.optimizers["policy"], self.state.start, self.state.step)
        with self.averaged():
            return ranks.from_first(lambda: self._conclude(method))

    def _conclude(self, method: str) -> dict[str, Any]:
        run, policy, state, config = self.run, self.policy, self.state, self.config
        best = state.best_step
        if config.run.shard:  # rank 0 alone puts a model together
            policy = load_policy(replace(config.model, device="cpu"), config.peft, train=True)
        if best != state.step or config.run.shard:
            kept = checkpoints.at_step(run.folder / "checkpoints", best)
            checkpoints.restore_weights(policy.model, kept.tensors("policy"))
        _replace_folder(run, policy)
        losses = [line["loss"] for line in run.metrics() if "loss" in line]
        tail = losses[-min(LAST, max(1, len(losses) // 10)) :]
        first, last = state.evaluations[0], next(line for line in state.evaluations if line["step"] == best)
        summary = {
            **describe_run(run, method, config.peft.method),
            "training": {
                **state.costs,
                "steps": state.step,
                "epochs": round(state.samples / len(self.data.examples), 4),
                "peak_memory_bytes": peak_memory_bytes(),
                "parameters": policy.parameters_total,
                "trainable_parameters": policy.parameters_trainable,
                "loss_first": losses[0] if losses else None,
                "loss_final": sum(tail) / len(tail) if tail else None,
                "dev_loss_first": first["dev_loss"],
                "dev_loss_final": last["dev_loss"],
                "learning_rate": config.train.learning_rate,
                "best_step": best,
            },
        }
        run.conclude(summary)
        return summary


def _replace_folder(run: Run, policy: Policy) -> None:
    """Save `model/` under another name first, so that a kill leaves no half model."""
    final, temporary = run.folder / "model", run.folder / ".tmp-model"
    with writing(final):
        shutil.rmtree(temporary, ignore_errors=True)
        weights = sum(tensor.nbytes for tensor in checkpoints.trainable(policy.model).values())
        tokenizer = sum(
            path.stat().st_size for pattern in TOKENIZER for path in policy.base.folder.glob(pattern)
        )
        checkpoints.check_space(run.folder, weights + tokenizer)
        try:
            policy.save(temporary)
        except SafetensorError as error:
            raise OSError(None, str(error)) from error
        publish(temporary, final)
