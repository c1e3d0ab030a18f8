"""What a run will take, without weights: parameters, steps, tokens, operations, memory, time and cost.

Parameters and steps are exact; tokens and operations are exact for the lengths that are given. Memory is
added up by part. Time is counted operations over a rate, in operations a second: either measured on a few
real steps here (`measure`), or stored (presets/rates.json, written by benchmarks/plan_accuracy.py). What is
assumed is listed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import ceil
from statistics import fmean
from typing import Any

import torch
from torch import nn

from reckoner.algorithms import ALGORITHMS
from reckoner.config import Config, PeftConfig
from reckoner.devices import Device, device, share_of_cores
from reckoner.engine.backend import modules_reason
from reckoner.engine.batches import CPU_PASS_STATES
from reckoner.engine.cost import forward_flops, kept_numbers, training_flops
from reckoner.engine.distributed import replica_count
from reckoner.engine.logprobs import CHUNK_ELEMENTS
from reckoner.engine.ops.onednn_ops import PRIMITIVE_CACHE_SIZE, ROW_MULTIPLE
from reckoner.engine.optim import OPTIMIZERS
from reckoner.errors import InputError
from reckoner.evaluation.limits import ASKED
from reckoner.models.adapters import add_lora
from reckoner.models.families import Shape, meta_model, model_config
from reckoner.runs.documents import SEARCHED
from reckoner.sizes import INSTRUCTION, LONGEST, Sizes, no_train_problems
from reckoner.study.arms import ArmRun, choose, plan_study
from reckoner.study.search import SHOTS, completions
from reckoner.tasks.gsm8k import EXEMPLARS
from reckoner.training.schedule import Schedule

NF4_BYTES = 0.55  # of a weight in 4 bits with its scales
LIBRARIES = {"cpu": 610_000_000, "cuda": 1_000_000_000}  # bytes of all before a model; of a GPU's context
PREPARED = 1_000_000  # bytes that oneDNN keeps of each product that it has prepared
REPLICA = 60_000_000  # bytes that a forked process has written to since, so that nobody shares them
SLACK = 1.2  # allocated over counted activations: temporaries of the backward pass and holes of the allocator
EVALUATION = frozenset({"search", "limit", "dev", "test", "samples"})  # phases that are no training


@dataclass(frozen=True)
class Memory:
    """Peak bytes of a process with its forks: the last two in generation, the five before in an update."""

    libraries: int = 0
    products: int = 0  # that oneDNN has prepared
    weights: int = 0
    adapter: int = 0
    optimizer: int = 0
    reference: int = 0
    critic: int = 0  # its weights, gradients and moments
    gradients: int = 0
    copies: int = 0  # weights cast or packed for the pass
    activations: int = 0
    logits: int = 0
    replicas: int = 0  # what the processes need that it forks on a CPU, one a core
    packed: int = 0  # the generator's copy of the weights
    keys: int = 0  # and its keys and values

    @property
    def total(self) -> int:
        """What lasts, and the larger of the two phases."""
        sizes = list(asdict(self).values())
        return sum(sizes[:7]) + max(sum(sizes[7:12]), sum(sizes[12:]))

    def to_dict(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class Plan:
    """The arithmetic of one run.

    Tokens are real ones, without padding; `phases` in seconds; `cost` in the rate's unit.
    """

    name: str
    model: str
    method: str
    parameters: int
    trainable: int
    adapter: int  # parameters that an adapter adds
    problems: int
    batch: str
    steps: int
    updates: int
    epochs: float
    tokens: int
    supervised_tokens: int
    flops: float
    training_flops: float  # of these, what training takes: the budget of a control
    memory: Memory
    available: int  # bytes of a device
    phases: dict[str, float]
    gpus: int
    cost: float | None
    precision: str
    assumptions: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Training alone, without what is evaluated on the way."""
        return sum(v for phase, v in self.phases.items() if phase not in EVALUATION)

    @property
    def total_seconds(self) -> float:
        return sum(self.phases.values())

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        seconds = {"seconds": self.seconds, "total_seconds": self.total_seconds}
        return {**asdict(self), "memory": self.memory.to_dict(), **seconds}


def plan_counts(
    config: Config,
    only: str = "",
    gpus: int = 1,
    on_refused: Callable[[str, str], None] = lambda name, why: None,
    **given: Any,
) -> dict[int, list[Plan]]:
    """For 1, 2, 4, ... and `gpus` devices, a plan of every arm of the study in `config`, or of `only` one.

    An arm that its study would refuse for want of train problems goes to `on_refused`, with the reason.
    `given` as in `plan`. A configuration without arms is one run of SFT. Raises `InputError` for an arm
    that there is not, and where none is left.
    """
    counts = sorted({2**power for power in range(gpus.bit_length()) if 2**power < gpus} | {gpus})
    if not config.study.arms:
        return {count: [plan(config, gpus=count, **given)] for count in counts}
    config.run.output_dir = config.run.output_dir or "runs/plan"
    arms = list({arm.name: arm for arm in reversed(plan_study(config))}.values())[::-1]  # one seed of each
    needed = choose(arms, [only] if only else [])
    for arm in needed:
        arm.config.model.model_name_or_path = config.model.model_name_or_path
    if not only:
        needed = _with_train_problems(needed, on_refused)
    plans = {n: _plan_arms(needed, config.study.prompt_search, gpus=n, **given) for n in counts}
    return {n: [one for one in found if only in ("", one.name)] for n, found in plans.items()}


def _with_train_problems(arms: list[ArmRun], on_refused: Callable[[str, str], None]) -> list[ArmRun]:
    reasons: dict[str, str] = {}
    for arm in arms:
        start = next((name for name in (arm.after, arm.spends_as) if name in reasons), "")
        why = f"it needs {start}, which is refused" if start else no_train_problems(arm.config)
        if why:
            reasons[arm.name] = why
            on_refused(arm.name, why)
    if len(reasons) == len(arms):
        raise InputError(reasons[arms[0].name])
    return [arm for arm in arms if arm.name not in reasons]


def _plan_arms(arms: list[ArmRun], searched: int, **given: Any) -> list[Plan]:
    """A plan of each arm; a control that spends as much as another arm has that arm's operations."""
    found: dict[str, Plan] = {}
    for arm in arms:
        if arm.spends_as:
            arm.config.train.max_tflops = found[arm.spends_as].training_flops / 1e12
        drawn = searched * (arm.name == SEARCHED)
        found[arm.name] = plan(arm.config, arm.method, name=arm.name, searched=drawn, **given)
    return list(found.values())


def plan(
    config: Config,
    method: str = "sft",
    name: str = "",
    on: str = "",
    gpus: int = 1,
    measured: Device | None = None,
    samples: int | None = None,
    lengths: tuple[float, float] | None = None,
    rate_per_hour: float | None = None,
    searched: int = 0,
) -> Plan:
    """Plan one run of `method` ("prompt" or an algorithm) with `config` on `gpus` devices of the kind `on`.

    Devices of a CPU are processes. `samples` are the train problems, `lengths` the mean tokens of prompt +
    solution and of the solution, `rate_per_hour` the price of one device, `searched` the prompts that are
    tried on dev first; `measured` replaces the stored device. Raises `InputError` for a model of unknown
    shape or unknown LoRA targets.
    """
    adapter = method != "prompt" and config.peft.method != "none"
    model, revision = config.model.model_name_or_path, config.model.revision
    network = _network(model, revision, json.dumps(asdict(config.peft)) if adapter else "")
    parameters = Shape.of(_network(model, revision)).parameters
    where, why = (measured, "measured") if measured else device(config, parameters, on)
    if gpus > 1 and where.kind == "cpu":
        where = share_of_cores(where, gpus, config)
    run = _Run(config, method, network, where, gpus, Sizes.of(config, samples, lengths), searched)
    phases = run.phases()
    trained = method != "prompt"
    return Plan(
        name=name or method,
        model=model,
        method=method + (f" {config.peft.method} r={config.peft.lora_r}" if adapter else ""),
        parameters=parameters,
        trainable=run.trainable,
        adapter=run.adapter,
        problems=run.sizes.train if trained else 0,
        batch=run.batch_arithmetic,
        steps=run.steps,
        updates=run.updates,
        epochs=run.epochs,
        tokens=round(run.tokens),
        supervised_tokens=round(run.supervised),
        flops=sum(run.flops.values()),
        training_flops=run.training_flops,
        memory=run.memory(),
        available=where.memory,
        phases=phases,
        gpus=gpus,
        cost=None if rate_per_hour is None else rate_per_hour * sum(phases.values()) / 3600 * gpus,
        precision=run.precision,
        assumptions=(*run.assumed(lengths, samples), f"{where.name}: {run.rates_in_words} ({why})"),
    )


@lru_cache(maxsize=8)
def _network(name: str, revision: str, peft: str = "") -> nn.Module:
    """A model without storage, with the adapter of `peft` (JSON); made once for all arms that share it."""
    network = meta_model(model_config(name, revision))
    return add_lora(network, PeftConfig(**json.loads(peft)), name) if peft else network


class _Run:
    """One run on one device: its arithmetic, the operations of each phase, and its memory."""

    def __init__(
        self,
        config: Config,
        method: str,
        network: nn.Module,
        where: Device,
        gpus: int,
        sizes: Sizes,
        searched: int,
    ) -> None:
        self.config, self.method, self.network, self.device = config, method, network, where
        self.gpus, self.sizes, self.searched = gpus, sizes, searched
        self.trains, self.full = method != "prompt", config.peft.method == "none"
        self.base = _network(config.model.model_name_or_path, config.model.revision)
        self.shape = Shape.of(self.base)
        self.parameters = self.shape.parameters
        chosen = {"auto": "bfloat16" if where.kind == "cuda" else "float32"}
        self.dtype = getattr(torch, chosen.get(config.model.dtype, config.model.dtype))
        self.masters = getattr(torch, config.model.train_dtype)
        self.trainable = sum(p.numel() for p in network.parameters() if p.requires_grad) * self.trains
        self.adapter = sum(p.numel() for n, p in network.named_parameters() if "lora_" in n)
        self.draws = self.trains and ALGORITHMS[method].needs_rollouts
        self.section = getattr(config, ALGORITHMS[method].section, None) if self.trains else None
        self.trunk = getattr(self.section, "critic", "") == "trunk"
        self.charged = getattr(self.section, "kl_coef", 0.0)
        drops = self.trains and not self.draws  # reinforcement learning trains without dropout
        reason = modules_reason(network, training=drops, kind=where.kind)
        self.shares = gpus if config.run.shard and self.trains else 1  # over which weights are divided
        forks = gpus == 1 and where.kind == "cpu" and method == "sft"
        self.processes = replica_count(network, where.cores) if forks else gpus  # that divide an update
        self.packed = not (reason or config.model.gradient_checkpointing or self.shares > 1)
        self.work = "modules" if not self.packed else "train" if self.full else "lora"
        self._count_steps()
        self.flops = self._flops()
        self._keep_to_budget()

    @property
    def training_flops(self) -> float:
        """Operations of all phases but evaluation."""
        return sum(flops for phase, flops in self.flops.items() if phase not in EVALUATION)

    def _keep_to_budget(self) -> None:
        """End what draws with the step that reaches `train.max_tflops`, as the run will."""
        budget, mapped = 1e12 * self.config.train.max_tflops, self.flops.get("pass_rates", 0.0)
        if self.draws and 0 < budget < self.training_flops:
            steps = ceil((budget - mapped) * self.steps / (self.training_flops - mapped))
            self.config = replace(self.config, rollout=replace(self.config.rollout, max_steps=max(1, steps)))
            self._count_steps()
            self.flops = self._flops()

    def _count_steps(self) -> None:
        """Steps, optimizer updates, completions or problems in one of them, tokens."""
        train, sizes = self.config.train, self.sizes
        self.micro, self.steps, self.updates, self.batch = train.per_device_train_batch_size, 0, 0, 0
        self.epochs = self.tokens = self.supervised = 0.0
        self.batch_arithmetic = ""
        if not self.trains:
            return
        whole = training_flops(self.network, sizes.train * sizes.length, sizes.train * sizes.completion)
        paid = 0.0 if self.draws else 1e12 * train.max_tflops / whole
        self.schedule = schedule = Schedule.of(self.config, sizes.train, self.draws, paid)
        self.steps, self.batch, self.completions = schedule.steps, schedule.batch, schedule.completions
        self.updates = self.steps * schedule.updates * schedule.iterations
        if not self.draws:
            self.epochs = paid or train.num_train_epochs
            self.tokens = sizes.train * self.epochs * sizes.length
            self.supervised = sizes.train * self.epochs * sizes.completion
            self.batch_arithmetic = f"{self.micro} x {train.gradient_accumulation_steps} = {self.batch:,}"
            return
        self.epochs = schedule.epochs
        drawn = self.completions * sizes.completion
        self.tokens = self.steps * (schedule.prompts * sizes.prompt + drawn)
        self.supervised = self.steps * drawn * schedule.iterations
        passes = f" x {schedule.iterations}" if schedule.iterations > 1 else ""
        self.batch_arithmetic = (
            f"{schedule.prompts} x {schedule.generations} = {self.completions:,} drawn, "
            f"{schedule.updates}{passes} updates of {self.batch:,}"
        )

    def _flops(self) -> dict[str, float]:
        """Operations by phase."""
        sizes, rollout = self.sizes, self.config.rollout
        answers, study = {"test": self._evaluated(sizes.test)}, self.config.study
        if study.pass_k:
            asked = min(sizes.dev, study.pass_k_problems or sizes.dev)
            answers["samples"] = self._generated(asked, study.pass_k)
        if not self.trains:
            return {**self._asked_first(), "dev": self._evaluated(sizes.dev), **answers}
        each = self._generated(sizes.dev_watched) + self._scored(sizes.dev_watched)
        answers = {"dev": each * self.schedule.evaluations, **answers}
        if not self.draws:
            return {"update": training_flops(self.network, self.tokens, self.supervised), **answers}
        shared = rollout.num_generations / rollout.num_mini_batches if self.packed else 1.0
        prompts = self.completions / max(1.0, shared)
        tokens = prompts * sizes.prompt + self.completions * sizes.completion
        times = self.steps * rollout.num_iterations
        update = times * training_flops(self.network, tokens, self.completions * sizes.completion)
        score = self._scored(self.completions if self.charged else min(self.completions, rollout.kl_samples))
        if (teacher := getattr(self.section, "teacher", "")) and not self.config.endpoint.url:
            judge, read = _network(teacher, self.config.distill.revision), self.completions * sizes.completion
            score += forward_flops(judge, rollout.num_prompts * sizes.prompt + read, read)
        if hasattr(self.section, "critic"):
            score += forward_flops(self.network, self.completions * sizes.length, 0)
            critic = training_flops if self.trunk else forward_flops
            update += times * critic(self.base, self.completions * sizes.length, 0)
        generate = self._generated(rollout.num_prompts, rollout.num_generations)
        steps = {"generate": self.steps * generate, "score": self.steps * score, "update": update}
        if (rollout.pass_rate or rollout.order != "shuffle") and not rollout.pass_rate_map:
            steps["pass_rates"] = self._generated(sizes.train, rollout.pass_rate_samples)
        return {**steps, **answers}

    def _asked_first(self) -> dict[str, float]:
        """What dev is asked before an untrained model answers: for its prompt, and for the limit."""
        sizes, asked = self.sizes, {}
        if self.searched:
            drawn = completions(self.searched, sizes.dev) * sizes.completion
            shown = drawn / sizes.completion * (sizes.prompt + INSTRUCTION + fmean(SHOTS) * sizes.length)
            asked["search"] = forward_flops(self.network, shown + drawn, drawn)
        if not self.config.eval.max_new_tokens:
            asked["limit"] = self._generated(min(ASKED, sizes.dev))
        return asked

    def _evaluated(self, problems: float) -> float:
        """All samples, and the second pass of refinement, which reads the first answers."""
        how, sizes = self.config.eval, self.sizes
        again = problems * how.num_samples * bool(how.refine)
        read = forward_flops(self.network, again * sizes.completion, 0)
        return self._generated(problems, how.num_samples) + self._generated(again) + read

    def _generated(self, prompts: float, samples: float = 1) -> float:
        drawn = prompts * samples * self.sizes.completion
        return forward_flops(self.network, prompts * self.sizes.prompt + drawn, drawn)

    def _scored(self, completions: float) -> float:
        return forward_flops(
            self.network, completions * self.sizes.length, completions * self.sizes.completion
        )

    def phases(self) -> dict[str, float]:
        """Seconds by phase: those of training, dev, test, samples, and exchange between GPUs."""
        generate, update = (self.device.rate(work, self.parameters) for work in ("generate", self.work))
        devices = {"update": self.batch, "dev": self.sizes.dev, "test": self.sizes.test}
        seconds = {
            phase: flops
            / (generate if phase in ("generate", "pass_rates", *EVALUATION) else update)
            / min(self.gpus, max(1, devices.get(phase, self.gpus)))
            for phase, flops in self.flops.items()
        }
        if self.gpus > 1 and self.updates:
            seconds["exchange"] = self.updates * self._sent() / self.device.between(self.gpus)
        return seconds

    def _sent(self) -> float:
        """Bytes that each GPU sends in one update, in a ring.

        One sum of gradients; where weights are divided, in each pass the weights twice and half a sum.
        """
        others = (self.gpus - 1) / self.gpus
        if self.shares == 1:
            return 2 * self._gradient_bytes * others
        passes = ceil(self.batch / self.gpus / self.micro)
        return passes * (2 * self.dtype.itemsize * self.parameters + self._gradient_bytes) * others

    @property
    def _gradient_bytes(self) -> int:
        return (self.masters.itemsize if self.full else 4) * self.trainable

    @property
    def rates_in_words(self) -> str:
        words = {"lora": "train LoRA", "modules": "train in the model's own modules"}
        works = ("generate",) if not self.trains else (self.work, "generate")
        return ", ".join(
            f"{self.device.rate(work, self.parameters) / 1e12:.3g} TFLOP/s to {words.get(work, work)}"
            for work in works
        )

    @property
    def precision(self) -> str:
        mixed = self.trains and self.full and self.dtype != self.masters
        masters = f", {self.config.model.train_dtype} master weights" if mixed else ""
        return f"{self.device.kind}, {str(self.dtype).removeprefix('torch.')}{masters}"

    def assumed(self, lengths: tuple[float, float] | None, samples: int | None) -> list[str]:
        """What is assumed and not given, in words."""
        sizes, lines = self.sizes, []
        if not samples and not self.config.data.max_train_samples:
            left_out = f"{sizes.dev:,} for dev and {EXEMPLARS} for prompts"
            lines.append(f"{sizes.given:,} train problems less {left_out}")
        if not lengths:
            known = f"{sizes.prompt:g} tokens of prompt, {sizes.completion:g} of solution"
            lines.append(f"{self.config.data.variant}: {known}; generated solutions as long")
        if first := " and ".join(phase for phase in ("search", "limit") if phase in self.flops):
            lines.append(f"{first} on dev: answers as long as solutions; cut ones, asked again, take longer")
        if self.gpus > 1:
            whole, divided = "the gradients are summed once an update", "each pass gathers each layer twice"
            held = f"a share of the model; {divided}" if self.shares > 1 else f"the whole model, and {whole}"
            lines.append(
                f"data parallel under torchrun: each process holds {held}, not hidden behind computation"
            )
        return lines

    def memory(self) -> Memory:
        """Peak bytes on each device."""
        shape, item, config, sizes = self.shape, self.dtype.itemsize, self.config, self.sizes
        drawn = self.completions if self.draws else sizes.dev_watched if self.trains else sizes.test
        rows, cast = min(config.eval.batch_size, drawn) / self.gpus, self.trains and self.full
        cast = cast and self.dtype != self.masters
        sampled = config.rollout.max_completion_length if self.draws else 0
        limit, parameters = sampled or sizes.limit, self.parameters
        always = Memory(
            libraries=LIBRARIES[self.device.kind],
            weights=parameters * item,
            packed=(parameters if cast else shape.block) * item,
            keys=round(1.5 * rows * (LONGEST * sizes.prompt + limit) * 2 * shape.layers * shape.keys * item),
        )
        if not self.trains:
            return always
        onednn = self.packed and self.device.kind == "cpu"
        layer, ends, shares = shape.block / shape.layers, parameters - shape.block, self.shares
        copies = parameters * item if cast else 2 * shape.block * item * onednn
        if shares > 1:  # two layers and what no layer holds, the gradient of the largest, also in float32
            copies = item * (2 * layer + ends) + (item + 4) * max(layer, ends) * self.full
            always = replace(always, packed=(parameters + shape.block) * item)  # and gathered beside it
        moments, master = OPTIMIZERS[config.train.optim].state_bytes, self.masters.itemsize
        weight = {"none": master, "lora": item, "qlora": NF4_BYTES}[config.peft.method]
        tokens, length = self._peak_tokens(limit)
        copied = self.draws and self.full and (config.rollout.kl_samples or self.charged)
        dropout = bool(self.adapter and config.peft.lora_dropout)
        kept = kept_numbers(shape, length, self.packed, dropout, config.model.gradient_checkpointing)
        logits = min(
            CHUNK_ELEMENTS[self.device.kind], tokens * sizes.completion / sizes.length * shape.vocabulary
        )
        found = replace(
            always,
            products=round(PREPARED * min(PRIMITIVE_CACHE_SIZE, 3 * tokens / ROW_MULTIPLE)) if onednn else 0,
            weights=round(parameters * weight / shares),
            adapter=round(4 * self.adapter / shares),
            optimizer=round(self.trainable * moments / shares),
            reference=round(parameters * item / shares) if copied else 0,
            critic=round(parameters * (2 * master + moments) / shares) if self.trunk else 0,
            gradients=round(self._gradient_bytes / shares),
            copies=round(copies),
            activations=round(SLACK * item * tokens * kept),
            logits=round(3 * 4 * logits),
        )
        forked = REPLICA + found.products + sum(list(asdict(found).values())[7:11])
        return replace(found, replicas=(self.processes - self.gpus) * forked)

    def _peak_tokens(self, limit: float) -> tuple[float, float]:
        """Tokens of the largest forward pass with autograd, with padding, and the length of its rows."""
        sizes = self.sizes
        if not self.draws:
            length = min(LONGEST * sizes.length, self.config.train.max_length)
            tokens = min(self.micro, ceil(self.batch / self.processes)) * length
            if self.device.kind == "cpu":  # as `forward_passes` cuts them
                states = self.shape.hidden * self.shape.layers * self.processes  # of a token
                tokens = min(tokens, max(length, CPU_PASS_STATES / states))
            return tokens, length
        widest = LONGEST * sizes.prompt + limit
        return min(self.micro * widest, self.batch * sizes.length / self.gpus), widest
