"""What a training run will take, before it runs: parameters, steps, memory, time and cost, without weights or network.

Parameters and steps are exact. Memory, time and cost are estimates from stated assumptions, meant to tell a run that fits
from one that does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from reckoner.config import Config
from reckoner.faults import InputError
from reckoner.models.adapters import check_targets
from reckoner.models.dimensions import meta_model, model_config
from reckoner.models.policy import choose_precision

TRAIN_PROBLEMS = 7_473
EXEMPLARS = 8
"""Train problems of GSM8K and of the embedded set, and how many of them serve in prompts and are left out."""
TOKENS = {"nano": (125.0, 82.0), "gsm8k": (190.0, 125.0)}
"""Mean tokens of prompt + solution, and of the solution alone, where they are not given."""
SUSTAINED = {"cpu": 0.09e12, "cuda": 380e12}
"""Operations a second that training sustains: measured on 2 CPU cores; 38 % of the bf16 peak of an H100-class GPU."""
LOGIT_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Logits held at once in fp32 by reckoner.engine.logprobs."""
ADAM_BYTES = {"adamw": 8, "adamw_8bit": 2}
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Peak bytes of training by part."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    autocast: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Plan:
    """The arithmetic of one run. Tokens are real ones, without padding; `seconds` is training alone; `cost` has the unit of the rate."""

    model: str
    method: str
    parameters: int
    trainable: int
    samples: int
    batch: int
    steps_per_epoch: int
    steps: int
    warmup_steps: int
    tokens: int
    supervised_tokens: int
    flops: float
    memory: Memory
    seconds: float
    cost: float | None
    precision: str
    assumptions: tuple[str, ...]

    @property
    def trainable_share(self) -> float:
        """Trainable parameters as a share of all, those of the adapter included."""
        return self.trainable / (self.parameters + (self.memory.adapter > 0) * self.trainable)

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of each line of the printed plan."""
        memory = ", ".join(f"{name} {_size(value)}" for name, value in asdict(self.memory).items() if value)
        rows = [
            ("model", self.model),
            ("method", self.method),
            ("parameters", f"{self.parameters:,}"),
            ("trainable parameters", f"{self.trainable:,} ({100 * self.trainable_share:.4g} %)"),
            ("precision", self.precision),
            ("problems", f"{self.samples:,}"),
            ("batch", f"{self.batch:,} sequences a step"),
            ("steps", f"{self.steps:,} ({self.steps_per_epoch:,} an epoch, {self.warmup_steps:,} warm-up)"),
            ("tokens", f"about {self.tokens:,}, of which {self.supervised_tokens:,} supervised"),
            ("operations", f"{self.flops:.3g}"),
            ("memory", f"about {_size(self.memory.total)}: {memory}"),
            ("time", f"about {_duration(self.seconds)}"),
        ]
        if self.cost is not None:
            rows.append(("cost", f"about {self.cost:,.2f}"))
        return [*rows, *(("assumed", line) for line in self.assumptions)]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def plan(
    config: Config,
    samples: int | None = None,
    lengths: tuple[float, float] | None = None,
    rate_per_hour: float | None = None,
    operations_per_second: float | None = None,
) -> Plan:
    """Plan one training run of `config` on `samples` problems.

    `lengths` are the mean tokens of prompt + solution and of the solution, `rate_per_hour` the price of the device. What is
    not given is assumed and listed. Raises `InputError` for a model of unknown shape or unknown LoRA targets.
    """
    assumed: list[str] = []
    shape = model_config(config.model.model_name_or_path)
    network = meta_model(shape)
    precision = choose_precision(config.model, full=config.peft.method == "none")
    kind = precision.device.type
    samples = samples if samples is not None else _problems(config, assumed)
    batch = config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps
    per_epoch = math.ceil(samples / batch)
    steps = math.ceil(per_epoch * config.train.num_train_epochs)
    length, completion = lengths or _lengths(config, assumed)
    seen = samples * config.train.num_train_epochs
    parameters, trainable = _count(network.parameters()), _trainable(network, config)
    flops = _flops(network, config, seen * length, seen * completion)
    speed = operations_per_second or SUSTAINED[kind]
    assumed.append(f"{speed / 1e12:g} TFLOP/s sustained on this {kind}" + ("" if operations_per_second else ", a measured default"))
    return Plan(
        model=config.model.model_name_or_path,
        method=_method(config),
        parameters=parameters,
        trainable=trainable,
        samples=samples,
        batch=batch,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup_steps=math.ceil(steps * config.train.warmup_ratio),
        tokens=round(seen * length),
        supervised_tokens=round(seen * completion),
        flops=flops,
        memory=_memory(shape, config, parameters, trainable, precision.dtype, kind, length),
        seconds=flops / speed,
        cost=None if rate_per_hour is None else rate_per_hour * flops / speed / 3600,
        precision=precision.note,
        assumptions=tuple(assumed),
    )


def lora_parameters(network: nn.Module, rank: int, targets: Iterable[str]) -> int:
    """Parameters of A [r, in] and B [out, r] over every linear layer whose name ends in one of `targets`."""
    wanted = set(targets)
    layers = [m for name, m in network.named_modules() if name.rsplit(".", 1)[-1] in wanted and hasattr(m, "weight")]
    return sum(rank * sum(layer.weight.shape) for layer in layers)


def _trainable(network: nn.Module, config: Config) -> int:
    if config.peft.method == "none":
        return _count(network.parameters())
    targets = config.peft.lora_target_modules
    check_targets(network, targets)
    biases = {name: p.numel() for name, p in network.named_parameters() if name.endswith(".bias")}
    adapted = [size for name, size in biases.items() if name.split(".")[-2] in targets]
    extra = {"none": 0, "all": sum(biases.values()), "lora_only": sum(adapted)}[config.peft.lora_bias]
    return lora_parameters(network, config.peft.lora_r, targets) + extra


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _method(config: Config) -> str:
    peft = config.peft
    return "full weights" if peft.method == "none" else f"{peft.method} r={peft.lora_r} alpha={peft.lora_alpha}"


def _problems(config: Config, assumed: list[str]) -> int:
    size = config.data.dev_size
    dev = round(TRAIN_PROBLEMS * size) if size < 1 else int(size)
    samples = TRAIN_PROBLEMS - dev - EXEMPLARS
    if samples < 1:
        raise InputError(f"data.dev_size={size:g} leaves no train problem of {TRAIN_PROBLEMS:,}")
    assumed.append(f"{TRAIN_PROBLEMS:,} train problems less {dev:,} for dev and {EXEMPLARS} for prompts")
    return min(samples, config.data.max_train_samples or samples)


def _lengths(config: Config, assumed: list[str]) -> tuple[float, float]:
    length, completion = TOKENS[config.data.source]
    assumed.append(f"{length:g} tokens a problem, {completion:g} of them solution")
    return length, completion


def _flops(network: nn.Module, config: Config, tokens: float, supervised: float) -> float:
    """Two operations a weight and token forward, four backward (two where the weight is frozen), again two when recomputed."""
    head = network.get_output_embeddings().weight
    ends = {id(head), id(network.get_input_embeddings().weight)}
    block = _count(p for p in network.parameters() if id(p) not in ends)
    frozen = config.peft.method != "none"
    each = (4 if frozen else 6) + (2 if config.model.gradient_checkpointing else 0)
    adapter = 6 * _trainable(network, config) if frozen else 0
    return (each * block + adapter) * tokens + (4 if frozen else 6) * head.numel() * supervised


def _memory(shape: Any, config: Config, parameters: int, trainable: int, dtype: torch.dtype, kind: str, length: float) -> Memory:
    """Peak bytes. Activations count what autograd keeps of attention, norms and the gated MLP, a token and layer."""
    full, bytes_each = config.peft.method == "none", dtype.itemsize
    weight_bytes = {"none": 4, "lora": bytes_each, "qlora": 0.55}[config.peft.method]
    tokens = config.train.per_device_train_batch_size * length
    heads, head_dim = shape.num_attention_heads, getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    kept = 6 * shape.hidden_size + 3 * heads * head_dim + 2 * shape.num_key_value_heads * head_dim + 4 * shape.intermediate_size
    layer = bytes_each * kept + 8 * shape.hidden_size
    layers = shape.num_hidden_layers
    checkpointed = config.model.gradient_checkpointing
    per_token = bytes_each * shape.hidden_size * layers + layer if checkpointed else layer * layers
    logits = min(LOGIT_BYTES[kind], 4 * tokens * shape.vocab_size)
    return Memory(
        weights=round(parameters * weight_bytes),
        adapter=0 if full else trainable * 4,
        gradients=trainable * 4,
        optimizer=trainable * ADAM_BYTES[config.train.optim],
        autocast=parameters * bytes_each if full and bytes_each < 4 else 0,
        activations=round(tokens * per_token),
        logits=round(2 * logits),
    )


def _size(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
