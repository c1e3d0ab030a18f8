"""Supervised fine-tuning of the same examples, at the same batch, by four trainers: ours, TRL twice, and the
original study's recipe.

Each arm trains once over all examples of a task; its lap counts real tokens (no padding) a second, without
set-up and saving.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.measure import Arm, Lap, bf16_pays, timed

from reckoner import nano
from reckoner.algorithms.sft import accumulate_gradient
from reckoner.config import ModelConfig, PeftConfig
from reckoner.engine.batches import Example, epoch_batches
from reckoner.engine.distributed import Replicas, Share
from reckoner.engine.optim import apply_step, make_optimizer
from reckoner.evaluation.evaluate import encode
from reckoner.machine import keep_freed_memory
from reckoner.models.policy import load_policy, quiet
from reckoner.models.sources import resolve
from reckoner.tasks.prompts import Prompt

BATCH = 16
"""Sequences in one optimizer step, as in the original study (8 x 2)."""
RATE = 1e-3

COMMON = {
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 1,
    "per_device_train_batch_size": BATCH,
    "optim": "adamw_torch_fused",
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 0,
}
LEAN = {"gradient_checkpointing": False, "logging_steps": 1000, "dataloader_num_workers": 0}

TRL = {
    "trl defaults": {"bf16": True},
    "trl fp32 grouped": {**LEAN, "bf16": False, "train_sampling_strategy": "group_by_length"},
    "trl bf16 grouped": {**LEAN, "bf16": True, "train_sampling_strategy": "group_by_length"},
    "trl fp32 packed": {
        **LEAN,
        "bf16": False,
        "packing": True,
        "max_length": 1024,
        "per_device_train_batch_size": 2,
    },
    "trl bf16 packed": {
        **LEAN,
        "bf16": True,
        "packing": True,
        "max_length": 1024,
        "per_device_train_batch_size": 2,
    },
}
"""TRL's SFTTrainer at its defaults, and at all settings of performance.md that can be best on a CPU. Two
packed rows hold 16 examples."""

ORIGINAL = {
    "per_device_train_batch_size": BATCH // 2,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "bf16": True,
    "logging_steps": 1,
}
"""The original study's Trainer: batches of 8 x 2 in random order, padded to a multiple of 8, all activations
computed twice."""


@dataclass(frozen=True)
class Task:
    """What all arms train on: examples of the embedded problems, and the folder of the model they start
    from."""

    examples: Sequence[Example]
    folder: Path

    @classmethod
    def of(cls, model: str, count: int) -> Task:
        policy = load_policy(ModelConfig(model_name_or_path=model), PeftConfig(), train=False)
        return cls(
            encode(policy, Prompt(), nano.problems("train", "main")[:count]), resolve(model, "").folder
        )

    @property
    def tokens(self) -> int:
        return sum(map(len, self.examples))

    @property
    def supervised(self) -> int:
        return sum(len(example.completion_ids) for example in self.examples)

    def rows(self) -> Any:
        """The examples as a data set of tokens and labels."""
        from datasets import Dataset

        ids = [[*e.prompt_ids, *e.completion_ids] for e in self.examples]
        labels = [[-100] * len(e.prompt_ids) + list(e.completion_ids) for e in self.examples]
        return Dataset.from_dict({"input_ids": ids, "labels": labels})


def ours(task: Task, peft: str = "none", batch: int = BATCH, dtype: str = "auto") -> Arm:
    """Our step, as `algorithms.sft.train` takes it."""

    keep_freed_memory()

    def lap() -> Lap:
        policy = load_policy(
            ModelConfig(model_name_or_path=str(task.folder), dtype=dtype),
            PeftConfig(method=peft, lora_dropout=0.0),
            train=True,
        )
        order = epoch_batches([len(example) for example in task.examples], batch, seed=0, epoch=0)
        return timed(lambda: _steps(policy, task, order, []))()

    return lap


def our_losses(task: Task) -> list[float]:
    """The loss of each step over the examples in the order they stand."""
    policy = load_policy(ModelConfig(model_name_or_path=str(task.folder)), PeftConfig(), train=True)
    order = [list(range(at, at + BATCH)) for at in range(0, len(task.examples), BATCH)]
    losses: list[float] = []
    _steps(policy, task, order, losses)
    return losses


def _steps(policy: Any, task: Task, order: list[list[int]], losses: list[float]) -> float:
    optimizer = make_optimizer(policy.model.named_parameters())

    def gradient(share: Share, indices: list[int]) -> tuple[float, float]:
        return accumulate_gradient(policy, [task.examples[i] for i in indices], len(indices), share=share)

    with Replicas(gradient, policy.model) as replicas:
        for indices in order:
            losses.append(sum(loss for loss, _ in replicas(indices)))
            apply_step(optimizer, policy.model.parameters(), RATE, 1.0)
    return task.tokens


def precise(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with bf16 where they ask for it and this machine gains by it."""
    return {**settings, "bf16": bool(settings.get("bf16")) and bf16_pays()}


def worth_trying(named: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The named settings without those that differ from others in bf16 alone, where that is no gain."""
    return {name: settings for name, settings in named.items() if bf16_pays() or "bf16" not in name}


def trl_arm(task: Task, settings: dict[str, Any]) -> Callable[[], tuple[Lap, list[float]]]:
    """TRL's SFTTrainer with `settings`."""

    def make(model: Any, tokenizer: Any, folder: str, watch: Any) -> Any:
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(output_dir=folder, **precise({**COMMON, **settings}))
        return SFTTrainer(
            model, arguments, train_dataset=task.rows(), processing_class=tokenizer, callbacks=[watch]
        )

    return lambda: _train(task, make)


def original_arm(task: Task, settings: dict[str, Any]) -> Callable[[], tuple[Lap, list[float]]]:
    """The Trainer of transformers with the original study's settings, changed by `settings`."""

    def make(model: Any, tokenizer: Any, folder: str, watch: Any) -> Any:
        from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

        arguments = TrainingArguments(output_dir=folder, **precise({**COMMON, **ORIGINAL, **settings}))
        collator = DataCollatorForSeq2Seq(
            tokenizer, model, padding=True, label_pad_token_id=-100, pad_to_multiple_of=8
        )
        return Trainer(
            model,
            arguments,
            data_collator=collator,
            train_dataset=task.rows(),
            processing_class=tokenizer,
            callbacks=[watch],
        )

    return lambda: _train(task, make)


def _train(task: Task, make: Callable[..., Any]) -> tuple[Lap, list[float]]:
    """Load the model, train once over the task; the time of the loop alone, and the logged losses."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with calm(), tempfile.TemporaryDirectory() as folder:
        model = AutoModelForCausalLM.from_pretrained(task.folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(task.folder)
        watch = stopwatch()
        trainer = make(model, tokenizer, folder, watch)
        run_silently(trainer)
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return Lap(task.tokens, watch.seconds), losses


def run_silently(trainer: Any) -> None:
    """Train without a line a step on the terminal, which would cost the peer time."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()


@contextmanager
def calm() -> Iterator[None]:
    """No chatter of transformers and datasets inside, and no warnings of theirs about their own next
    versions."""
    import datasets

    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        datasets.disable_progress_bars()
        yield


def stopwatch() -> Any:
    """A callback of transformers' Trainer with the `seconds` between the beginning and the end of
    training."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.began

    return Stopwatch()


def check_losses(task: Task, steps: int = 20, tolerance: float = 1e-3) -> dict[str, float]:
    """The largest difference between our first losses and each peer's, all in fp32 and the same order.

    Raises `SystemExit` above `tolerance`: times of different computations must not be compared.
    """
    short = Task(task.examples[: steps * BATCH], task.folder)
    wanted = our_losses(short)
    same = {"train_sampling_strategy": "sequential", "bf16": False, "logging_steps": 1}
    found = {"trl": trl_arm(short, same)()[1], "original": original_arm(short, same)()[1]}
    gaps = {
        name: max(abs(a - b) for a, b in zip(wanted, losses, strict=True)) for name, losses in found.items()
    }
    print(
        f"first {len(wanted)} losses, {wanted[0]:.4f} to {wanted[-1]:.4f}: largest difference "
        + ", ".join(f"{n} {g:.1e}" for n, g in gaps.items())
    )
    if not max(gaps.values()) <= tolerance:
        raise SystemExit(f"losses differ by more than {tolerance}: {gaps}")
    return gaps
