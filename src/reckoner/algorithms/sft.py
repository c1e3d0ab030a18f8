"""Supervised fine-tuning: maximise the likelihood of the reference solutions given their questions.

    L(theta) = - 1/N  sum over problems x, sum over tokens t of  log pi_theta(y_t | x, y_<t)

x are the prompt's tokens, y the solution's with its stop token, N the number of y tokens in the whole optimizer step.
The sum is divided once, by N, so neither gradient accumulation nor the size of a micro-batch changes the gradient.
Prompt tokens carry no loss. LoRA (Hu 2021) is a property of the policy: this file does not know of it.

Order, learning rate and dropout are functions of (seed, step), so a run continues from any checkpoint without replay.
Left out on purpose: packing (batches of like length waste little) and low-precision weights (masters stay fp32).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from reckoner.config import Config
from reckoner.engine.batches import Example, collate, epoch_batches
from reckoner.engine.cost import training_flops
from reckoner.engine.distributed import WHOLE, Replicas, Share
from reckoner.engine.logprobs import cross_entropy
from reckoner.engine.optim import apply_step, learning_rate, make_optimizer
from reckoner.errors import InputError
from reckoner.machine import peak_memory_bytes
from reckoner.models.policy import Policy, load_policy
from reckoner.runs.folder import Progress, Run, silent, stream_seed
from reckoner.training.loop import evaluate_dev, finish, prepare, resume, save, stopping


@dataclass(frozen=True)
class Steps:
    """The arithmetic of a run: problems a step, steps an epoch, steps in all, steps between two dev evaluations and saves."""

    batch: int
    per_epoch: int
    total: int
    eval_every: int
    save_every: int

    @classmethod
    def of(cls, config: Config, problems: int) -> Steps:
        train = config.train
        batch = train.per_device_train_batch_size * train.gradient_accumulation_steps
        per_epoch = math.ceil(problems / batch)
        total = math.ceil(per_epoch * train.num_train_epochs)
        if not total:
            raise InputError("train.num_train_epochs=0 trains nothing: set it above 0, or use reckon eval")
        return cls(batch, per_epoch, total, train.eval_steps or per_epoch, config.run.save_steps)

    def evaluates(self, step: int) -> bool:
        return step == self.total or step % self.eval_every == 0


def train(config: Config, on_progress: Progress = silent) -> dict[str, Any]:
    """Train the policy of `config`, or go on where a killed run was; returns the run's summary (docs/metrics.md)."""
    with Run.open(config) as run:
        if summary := run.finished("sft"):
            return summary
        peak_memory_bytes(reset=True)
        torch.manual_seed(stream_seed(config.run.seed, "adapter"))
        policy = load_policy(config.model, config.peft, train=True)
        material = prepare(run, policy)
        steps = Steps.of(config, len(material.examples))
        optimizer = make_optimizer(
            policy.model.named_parameters(),
            config.train.optim,
            config.train.weight_decay,
            (0.9, config.train.adam_beta2),
        )
        optimizers = {"policy": (policy.model, optimizer)}
        position = resume(run, optimizers, on_progress)

        def gradient(share: Share, step: int) -> tuple[float, float]:
            """That of a share of one step's examples, with dropout of its own."""
            torch.manual_seed(stream_seed(config.run.seed, "dropout", step) + share.index)
            examples = step_examples(material.examples, steps, config.run.seed, step)
            return accumulate_gradient(policy, examples, config.train.per_device_train_batch_size, share)

        with Replicas(gradient, policy.model) as replicas:
            while True:
                if steps.evaluates(position.step) and not position.evaluated:
                    with replicas.resting():
                        save(run, optimizers, position)  # step 0 too: the start may remain the best
                        evaluate_dev(run, policy, material, position, on_progress)
                patience = config.train.early_stopping_patience
                if position.step == steps.total or (patience and position.stale() >= patience):
                    break

                started, step = time.perf_counter(), position.step + 1
                examples = step_examples(material.examples, steps, config.run.seed, step)
                rate = learning_rate(
                    step,
                    steps.total,
                    config.train.learning_rate,
                    config.train.lr_scheduler_type,
                    config.train.warmup_ratio,
                    config.train.min_lr_rate,
                )
                with stopping(run, optimizers, step, [example.id for example in examples]):
                    loss, token_accuracy = map(sum, zip(*replicas(step), strict=True))
                    norm = apply_step(
                        optimizer, policy.model.parameters(), rate, config.train.max_grad_norm, loss
                    )

                position.advance(examples, time.perf_counter() - started)
                position.flops = training_flops(policy.model, position.tokens, position.supervised_tokens)
                if step % config.run.logging_steps == 0 or step == steps.total:
                    run.log(
                        **position.costs,
                        epoch=step / steps.per_epoch,
                        loss=loss,
                        token_accuracy=token_accuracy,
                        learning_rate=rate,
                        grad_norm=norm,
                    )
                if steps.save_every and step % steps.save_every == 0:
                    save(run, optimizers, position)
                on_progress("train", step, steps.total, f"loss {loss:.3f}")

        return finish(run, policy, optimizers, position, "sft")


def accumulate_gradient(
    policy: Policy, examples: Sequence[Example], micro: int, share: Share = WHOLE
) -> tuple[float, float]:
    """Add the gradient of the step's loss, in micro-batches of `micro` sequences; returns the loss and the token accuracy.

    Of a `share` of the examples if there is more than one: gradients, losses and accuracies of all shares add up to the step's.
    """
    supervised = sum(len(example.completion_ids) for example in examples)
    loss, hits, mine = 0.0, 0, list(share.of(examples))
    for start in range(0, len(mine), micro):
        batch = collate(mine[start : start + micro], policy.tokenizer.pad_token_id, policy.device)
        with policy.autocast():
            negative_log_likelihood, correct = cross_entropy(policy.model, batch)
        (negative_log_likelihood / supervised).backward()
        loss += negative_log_likelihood.item()
        hits += int(correct)
    return loss / supervised, hits / supervised


epoch_order = lru_cache(maxsize=2)(epoch_batches)


def step_examples(examples: Sequence[Example], steps: Steps, seed: int, step: int) -> list[Example]:
    """The examples of one step, counted from 1: a pure function of its arguments, with each problem once an epoch."""
    epoch, index = divmod(step - 1, steps.per_epoch)
    return [examples[i] for i in epoch_order(tuple(map(len, examples)), steps.batch, seed, epoch)[index]]
