"""What one run does in each phase on one machine: its arithmetic, its work in seconds, its memory in bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from reckoner.config import Config
from reckoner.engine.compiled import THREADS
from reckoner.engine.packing import unsupported
from reckoner.faults import InputError
from reckoner.machine import allowed_cores
from reckoner.models.adapters import check_targets
from reckoner.models.dimensions import Shape
from reckoner.plan.machines import Machine
from reckoner.plan.memory import (
    LIBRARIES,
    Memory,
    activation_bytes,
    kernel_bytes,
    key_bytes,
    logit_bytes,
)
from reckoner.plan.work import Load, Work, forward, generation, optimizer, training

TRAIN_PROBLEMS, TEST_PROBLEMS, EXEMPLARS = 7_473, 1_319, 8
"""Problems of GSM8K and of the embedded set, and how many of train serve in prompts and are left out."""
TOKENS = {
    ("nano", "main"): (122.0, 74.0),
    ("nano", "socratic"): (147.0, 99.0),
    ("gsm8k", "main"): (190.0, 125.0),
    ("gsm8k", "socratic"): (265.0, 200.0),
}
"""Mean tokens of prompt + solution, and of the solution alone: embedded ones counted, GSM8K's in Gemma's tokens estimated."""
INSTRUCTION = 35
"""Tokens of the study's instruction."""
LONGEST = 1.9
"""The longest batch of an epoch, its padding included, over the mean."""
ADAM_BYTES = {"adamw": 8, "adamw_8bit": 2}
NF4 = 0.55
"""Bytes of a weight in 4 bits with its scales."""


@dataclass(frozen=True)
class Sizes:
    """How many problems, and how long: mean tokens of a prompt, of a completion, and the limit of a generated one."""

    train: int
    dev: int
    dev_watched: int
    test: int
    prompt: float
    completion: float
    limit: float

    @property
    def length(self) -> float:
        return self.prompt + self.completion

    @classmethod
    def of(
        cls, config: Config, samples: int | None = None, lengths: tuple[float, float] | None = None
    ) -> Sizes:
        """Those of `config`, with `samples` train problems and mean `lengths` of problem and solution where they are known."""
        data = config.data
        dev = round(TRAIN_PROBLEMS * data.dev_size) if data.dev_size < 1 else int(data.dev_size)
        train = samples or min(TRAIN_PROBLEMS - dev - EXEMPLARS, data.max_train_samples or TRAIN_PROBLEMS)
        if train < 1:
            raise InputError(f"data.dev_size={data.dev_size:g} leaves no train problem of {TRAIN_PROBLEMS:,}")
        length, completion = lengths or TOKENS["gsm8k" if data.path else data.source, data.variant]
        return cls(
            train=train,
            dev=dev,
            dev_watched=min(dev, config.eval.dev_samples or dev),
            test=min(TEST_PROBLEMS, data.max_test_samples or TEST_PROBLEMS),
            prompt=length
            - completion
            + config.prompt.shots * length
            + (INSTRUCTION if config.prompt.instruction else 0),
            completion=completion,
            limit=config.eval.max_new_tokens or LONGEST * completion,
        )


class Run:
    """One run on one machine, and what it does in each phase."""

    def __init__(
        self, config: Config, method: str, network: nn.Module, machine: Machine, gpus: int, sizes: Sizes
    ) -> None:
        self.config, self.method, self.machine, self.gpus, self.sizes = config, method, machine, gpus, sizes
        self.shape, self.dtype = Shape.of(network), computed_in(config, machine.kind)
        self.masters = getattr(torch, config.model.train_dtype)
        self.trains, self.full = method != "prompt", config.peft.method == "none"
        self.trainable, adapter = trained_parameters(network, config) if self.trains else (0, 0)
        self.load = Load(
            self.shape,
            adapter,
            config.peft.lora_dropout > 0,
            config.model.gradient_checkpointing,
            self.dtype.itemsize,
        )
        dropout = self.load.dropout and method == "sft"  # reinforcement learning scores without dropout
        packs = (machine.kind == "cuda" or self.dtype == torch.float32) and not unsupported(network)
        packs = packs and not self.load.recompute and not (adapter and dropout)
        # Fine-tuning has a process with one thread for each core, so that loops serve it on many.
        looped = (
            packs
            and machine.kind == "cpu"
            and (method == "sft" or (config.run.threads or allowed_cores()) <= THREADS)
        )
        folded = packs and machine.kind == "cpu" and adapter > 0
        self.scored = replace(self.load, dropout=dropout, packed=packs, looped=looped, folded=folded)
        self.total = Work()
        self._arithmetic()

    def _arithmetic(self) -> None:
        """Steps, optimizer updates, sequences in one of them, tokens."""
        train, rollout, sizes = self.config.train, self.config.rollout, self.sizes
        self.micro = train.per_device_train_batch_size
        self.steps = self.updates = self.batch = 0
        self.epochs = self.tokens = self.supervised = 0.0
        if self.method == "sft":
            self.batch = self.micro * train.gradient_accumulation_steps
            self.per_epoch, self.epochs = math.ceil(sizes.train / self.batch), train.num_train_epochs
            self.steps = self.updates = math.ceil(self.per_epoch * self.epochs)
            self.tokens, self.supervised = (
                sizes.train * self.epochs * sizes.length,
                sizes.train * self.epochs * sizes.completion,
            )
        elif self.trains:
            self.completions = rollout.num_prompts * rollout.num_generations
            self.batch, self.steps = self.completions // rollout.num_mini_batches, rollout.max_steps
            self.updates = self.steps * rollout.num_mini_batches * rollout.num_iterations
            self.per_epoch = math.ceil(sizes.train / rollout.num_prompts)
            self.epochs = self.steps / self.per_epoch
            self.tokens = self.steps * (
                rollout.num_prompts * sizes.prompt + self.completions * sizes.completion
            )
            self.supervised = self.steps * self.completions * sizes.completion * rollout.num_iterations

    @property
    def label(self) -> str:
        peft = self.config.peft
        adapter = "" if self.full or not self.trains else f" {peft.method} r={peft.lora_r}"
        return f"{self.method}{adapter}"

    @property
    def precision(self) -> str:
        masters = (
            f", {self.config.model.train_dtype} master weights"
            if self.trains and self.full and self.dtype != self.masters
            else ""
        )
        return f"{self.machine.kind}, {str(self.dtype).removeprefix('torch.')}{masters}"

    def batch_arithmetic(self) -> str:
        """What one step takes, in words."""
        train, rollout = self.config.train, self.config.rollout
        if self.method == "sft":
            return f"{self.micro} x {train.gradient_accumulation_steps} = {self.batch:,}"
        if not self.trains:
            return ""
        passes = f" x {rollout.num_iterations}" if rollout.num_iterations > 1 else ""
        return f"{rollout.num_prompts} x {rollout.num_generations} = {self.completions:,} drawn, {rollout.num_mini_batches}{passes} updates of {self.batch:,}"

    def assumed(self, lengths: tuple[float, float] | None, samples: int | None) -> list[str]:
        """What is assumed and not given, in words."""
        sizes, lines = self.sizes, []
        if not samples and not self.config.data.max_train_samples:
            lines.append(
                f"{TRAIN_PROBLEMS:,} train problems less {sizes.dev:,} for dev and {EXEMPLARS} for prompts"
            )
        if not lengths:
            lines.append(
                f"{self.config.data.variant}: {sizes.prompt:g} tokens of prompt, {sizes.completion:g} of solution; generated solutions as long"
            )
        if self.gpus > 1:
            lines.append(
                "weights, moments and gradients sharded over the GPUs (FSDP2), traffic not hidden behind computation; this version itself trains on one"
            )
        return lines

    def phases(self) -> dict[str, float]:
        """Seconds by phase: generate, score, update, dev, test."""
        found = {
            phase: self._seconds(work, sequences, plain=phase == "update" and not self.scored.packed)
            for phase, work, sequences in self._work()
        }
        if self.gpus > 1 and self.updates:
            found["exchange"] = self.updates * self._exchanged() / self.machine.between(self.gpus)
        return found

    def _seconds(self, work: Work, sequences: float, plain: bool) -> float:
        """Seconds where `sequences` are computed at once, so that no more devices than these have work; `plain` in the model's own modules."""
        self.total += work
        share = min(self.gpus, max(1.0, sequences))
        longer = self.machine.slower if plain else 1.0
        return Work(work.matmul * longer / share, work.moved / share, work.issued / share).seconds(
            self.machine
        )

    def _work(self) -> list[tuple[str, Work, float]]:
        sizes, rows = self.sizes, self.config.eval.batch_size
        found = [
            ("test", generation(self.load, sizes.test, 1, sizes.prompt, sizes.completion, rows), sizes.test)
        ]
        if not self.trains:
            dev = generation(self.load, sizes.dev, 1, sizes.prompt, sizes.completion, rows)
            return [("dev", dev, sizes.dev), *found]
        each = forward(self.load, sizes.dev_watched, sizes.length, sizes.completion)
        each += generation(self.load, sizes.dev_watched, 1, sizes.prompt, sizes.completion, rows)
        every = self.config.train.eval_steps or self.per_epoch
        found = [("dev", each * (1 + math.ceil(self.steps / every)), sizes.dev_watched), *found]
        return [
            *(self._rollouts() if self.method != "sft" else []),
            ("update", self._updates(), self.batch),
            *found,
        ]

    def _rollouts(self) -> list[tuple[str, Work, float]]:
        """Generation, and the scores that an update needs: of the reference, and of the critic in ppo."""
        rollout, sizes = self.config.rollout, self.sizes
        drawn = generation(
            self.load,
            rollout.num_prompts,
            rollout.num_generations,
            sizes.prompt,
            sizes.completion,
            self.config.eval.batch_size,
        )
        scored = min(self.completions, self.completions if self._charged else rollout.kl_samples)
        scores = forward(self.load, scored, sizes.length, sizes.completion)
        if self.method == "ppo":
            scores += forward(self.load, self.completions, sizes.length, sizes.completion, logits=False)
        return [
            ("generate", drawn * self.steps, self.completions),
            ("score", scores * self.steps, self.completions),
        ]

    def _updates(self) -> Work:
        """All optimizer updates."""
        sizes, passes = self.sizes, max(1, self.batch // self.micro)
        sequences = sizes.train * self.epochs / self.updates if self.method == "sft" else self.batch
        rollout = self.config.rollout
        sharing = (
            max(1.0, rollout.num_generations / rollout.num_mini_batches)
            if self.method != "sft" and self.scored.packed
            else 1.0
        )
        work = training(self.scored, sequences, sizes.length, sizes.completion, sharing=sharing)
        trained = self.trainable
        if self.method == "ppo":
            full = replace(self.scored, adapter=0)
            critic = training if self._trunk else forward
            work += critic(full, sequences, sizes.length, sizes.completion, logits=False)
            trained += self.shape.parameters if self._trunk else 0
        work = Work(work.matmul, work.moved + self._cast() * passes, work.issued * passes)
        return (work + optimizer(trained)) * self.updates

    def _cast(self) -> int:
        """Bytes that autocast moves in a pass: masters read, copies written."""
        return (
            self.shape.parameters * (self.masters.itemsize + self.dtype.itemsize)
            if self.full and self.dtype != self.masters
            else 0
        )

    def _exchanged(self) -> float:
        """Bytes that each device sends and receives for one update: weights gathered twice, gradients reduced once."""
        passes = max(1, self.batch // (self.micro * self.gpus))
        gathered = 2 * passes * self.shape.parameters * self.dtype.itemsize
        return (
            (gathered + (self.masters.itemsize if self.full else 4) * self.trainable)
            * (self.gpus - 1)
            / self.gpus
        )

    @property
    def _trunk(self) -> bool:
        return self.method == "ppo" and self.config.ppo.critic == "trunk"

    @property
    def _charged(self) -> float:
        return {"ppo": self.config.ppo.kl_coef, "grpo": self.config.grpo.kl_coef}.get(self.method, 0.0)

    def memory(self) -> Memory:
        """Peak bytes on each device."""
        shape, item, config, sizes = self.shape, self.dtype.itemsize, self.config, self.sizes
        drawn = {"sft": sizes.dev_watched, "prompt": sizes.test}.get(self.method) or self.completions
        rows = min(config.eval.batch_size, drawn) / self.gpus
        packed = shape.block * item + (shape.parameters - shape.block) * item * (
            self.trains and self.full and self.dtype != self.masters
        )
        generator = {
            "packed": packed,
            "keys": key_bytes(shape, rows, LONGEST * sizes.prompt + self._limit(), item),
        }
        libraries, onednn = (
            LIBRARIES[self.machine.kind],
            self.machine.kind == "cpu" and self.dtype == torch.float32,
        )
        if not self.trains:
            return Memory(
                libraries=libraries,
                kernels=onednn * kernel_bytes(0, rows),
                weights=shape.parameters * item,
                **generator,
            )
        moments, shared = ADAM_BYTES[config.train.optim], self.gpus
        master = self.masters.itemsize
        weight = {"none": master, "lora": item, "qlora": NF4}[config.peft.method]
        tokens, length = self.peak_tokens()
        copies = 2 * shape.block * item if self.scored.packed and self.machine.kind == "cpu" else 0
        copied = self.method != "sft" and self.full and (config.rollout.kl_samples or self._charged)
        return Memory(
            libraries=libraries,
            kernels=onednn * kernel_bytes(tokens * self.scored.packed, rows),
            weights=round(shape.parameters * weight / shared),
            adapter=4 * self.load.adapter // shared,
            optimizer=self.trainable * moments // shared,
            reference=shape.parameters * item // shared if copied else 0,
            critic=shape.parameters * (2 * master + moments) // shared if self._trunk else 0,
            gradients=(master if self.full else 4) * self.trainable // shared,
            autocast=shape.parameters * item // shared if self._cast() else copies,
            activations=activation_bytes(self.scored, tokens, length),
            logits=logit_bytes(shape, tokens * sizes.completion / sizes.length, self.machine.kind),
            **generator,
        )

    def _limit(self) -> float:
        return (
            self.config.rollout.max_completion_length if self.method in ("ppo", "grpo") else 0
        ) or self.sizes.limit

    def peak_tokens(self) -> tuple[float, float]:
        """Tokens of the largest forward pass with autograd, padding included, and the length of its sequences."""
        sizes = self.sizes
        share = max(1.0, self.micro / self.gpus)
        if self.method == "sft":
            length = min(LONGEST * sizes.length, self.config.train.max_length)
            return share * length, length
        widest = LONGEST * sizes.prompt + self._limit()
        return min(share * widest, self.batch * sizes.length), widest


def lora_parameters(network: nn.Module, rank: int, targets: Iterable[str]) -> int:
    """Parameters of A [r, in] and B [out, r] over every linear layer whose name ends in one of `targets`."""
    wanted = set(targets)
    layers = [
        m for name, m in network.named_modules() if name.rsplit(".", 1)[-1] in wanted and hasattr(m, "weight")
    ]
    return sum(rank * sum(layer.weight.shape) for layer in layers)


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers they hold; tied ones are given once."""
    return sum(p.numel() for p in parameters)


def computed_in(config: Config, kind: str) -> torch.dtype:
    """The dtype of the computation on a "cpu" or "cuda"; auto is bfloat16 on a GPU."""
    automatic = "bfloat16" if kind == "cuda" else "float32"
    return getattr(torch, config.model.dtype if config.model.dtype != "auto" else automatic)


def trained_parameters(network: nn.Module, config: Config) -> tuple[int, int]:
    """Trainable parameters, and those among them that an adapter adds."""
    if config.peft.method == "none":
        return count_parameters(network.parameters()), 0
    targets = config.peft.lora_target_modules
    check_targets(network, targets)
    biases = {name: p.numel() for name, p in network.named_parameters() if name.endswith(".bias")}
    adapted = [size for name, size in biases.items() if name.split(".")[-2] in targets]
    added = lora_parameters(network, config.peft.lora_r, targets)
    return added + {"none": 0, "all": sum(biases.values()), "lora_only": sum(adapted)}[
        config.peft.lora_bias
    ], added
