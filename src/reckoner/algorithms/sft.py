"""Supervised fine-tuning: maximise the likelihood of the reference solutions given their questions.

    L(theta) = - 1/N  sum over problems x, sum over tokens t of  log pi_theta(y_t | x, y_<t)

x are the prompt's tokens, y the solution's with its stop token, N the number of y tokens in the whole
optimizer step. The sum is divided once, by N, so neither gradient accumulation nor the size of a
micro-batch changes the gradient. Prompt tokens carry no loss. LoRA (Hu 2021) is a property of the policy:
this file does not know of it.

Order, learning rate and dropout are functions of (seed, step), so a run continues from any checkpoint
without replay. Left out on purpose: packing (batches of like length waste little) and low-precision weights
(masters stay fp32).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from reckoner.config import Config
from reckoner.engine.batches import Example, collate, epoch_batches, forward_passes
from reckoner.engine.distributed import WHOLE, Replicas, Share
from reckoner.engine.logprobs import cross_entropy
from reckoner.runs.folder import Progress, Run, silent, stream_seed
from reckoner.training.loop import Policy, Schedule, Training


def train(config: Config, on_progress: Progress = silent) -> dict[str, Any]:
    """Train the policy of `config`, or continue a killed run; returns the run's summary (docs/metrics.md)."""
    with Run.open(config) as run:
        if summary := run.finished("sft"):
            return summary
        training = Training.begin(run, on_progress)
        policy, schedule, seed = training.policy, training.schedule, config.run.seed
        size = config.train.per_device_train_batch_size

        def examples_of(step: int) -> list[Example]:
            return step_examples(training.data.examples, schedule, seed, step)

        def replica(share: Share, step: int) -> tuple[float, float]:
            """What a forked process computes: the gradient of its share of a step."""
            dropout_seed = stream_seed(seed, "dropout", step)
            return accumulate_gradient(policy, examples_of(step), size, dropout_seed, share)

        with Replicas(replica, policy.model) as replicas:
            for step in training.steps(between=replicas.resting):
                started, examples = time.perf_counter(), examples_of(step)
                dropout_seed = stream_seed(seed, "dropout", step)
                rate = schedule.learning_rate(config.train, step, config.train.learning_rate)
                with training.stopping(step, examples):
                    share = replicas.begin(step)
                    own = accumulate_gradient(policy, examples, size, dropout_seed, share)
                    loss, token_accuracy = map(sum, zip(*replicas.collect(own), strict=True))
                    norm = training.apply_step("policy", rate, loss)
                training.count_step(examples, time.perf_counter() - started)
                metrics = {
                    "epoch": step / schedule.per_epoch,
                    "loss": loss,
                    "token_accuracy": token_accuracy,
                    "learning_rate": rate,
                    "grad_norm": norm,
                }
                training.end_step(metrics, f"loss {loss:.3f}")
        return training.finish("sft")


def accumulate_gradient(
    policy: Policy,
    examples: Sequence[Example],
    micro: int,
    dropout_seed: int | None = None,
    share: Share = WHOLE,
) -> tuple[float, float]:
    """Add the gradient of a step's loss, in micro-batches of `micro` sequences; returns loss and accuracy.

    Only those of its `share` of the examples. The gradients, losses and accuracies of all shares add up to
    the step's. With a `dropout_seed` the dropout of each share is a function of it alone.
    """
    if dropout_seed is not None:
        torch.manual_seed(dropout_seed + share.index)
    supervised = sum(len(example.completion_ids) for example in examples)
    loss, hits, mine = 0.0, 0, list(share.of(examples))
    for chunk in forward_passes(mine, micro, policy.model, share.count):
        batch = collate(chunk, policy.tokenizer.pad_token_id, policy.device)
        with policy.autocast():
            negative_log_likelihood, correct = cross_entropy(policy.model, batch)
        (negative_log_likelihood / supervised).backward()
        loss += negative_log_likelihood.item()
        hits += int(correct)
    return loss / supervised, hits / supervised


epoch_order = lru_cache(maxsize=2)(epoch_batches)


def step_examples(examples: Sequence[Example], schedule: Schedule, seed: int, step: int) -> list[Example]:
    """The examples of one step, counted from 1: a pure function, with each problem once an epoch."""
    epoch, index = divmod(step - 1, schedule.per_epoch)
    return [examples[i] for i in epoch_order(tuple(map(len, examples)), schedule.batch, seed, epoch)[index]]
