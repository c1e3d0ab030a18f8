"""Devices that a plan knows, and how fast they compute: rates stored with the package, or measured here.

presets/rates.json is written by benchmarks/plan_accuracy.py from what was measured, and says what is
derived; a GPU that was not measured gets another's rates, times the ratio of the makers' figures for dense
bf16 products.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import Any

import torch

from reckoner.config import Config
from reckoner.engine import backend
from reckoner.engine.cost import forward_flops, training_flops
from reckoner.errors import InputError
from reckoner.machine import allowed_cores

LARGE, DEFAULT_GPU = 200_000_000, "h100"
"""A model above so many parameters is planned for this GPU where there is none: the preset smollm2, made for
two CPU cores, has 135 million."""
FAR = 4
"""Times smaller than the smallest measured model from which on a GPU's rates are said to be too high."""
NODE, BETWEEN_NODES = 8, 40e9
"""GPUs that share the fast link, and bytes a second of each beyond it (400 Gbit/s, 80 %)."""


@dataclass(frozen=True)
class Device:
    """A device. `rates`: (parameters, operations a second) of "train", "lora", "modules" and "generate"."""

    name: str
    kind: str
    memory: int  # bytes
    rates: Mapping[str, Sequence[tuple[float, float]]]
    link: float = 0.0  # bytes a second between devices, or processes of a CPU
    cores: int = 1  # of a CPU, which the rates are of

    def rate(self, work: str, parameters: int) -> float:
        """Operations a second for a model of this size, interpolated between the logarithms of sizes."""
        points = sorted(self.rates.get(work) or self.rates["train"])
        if parameters <= points[0][0]:
            return points[0][1]
        for (small, low), (large, high) in zip(points, points[1:], strict=False):
            if parameters <= large:
                share = math.log(parameters / small) / math.log(large / small)
                return low * (high / low) ** share
        return points[-1][1]

    def between(self, devices: int) -> float:
        """Bytes a second that each of `devices` sends while all send."""
        return self.link if devices <= NODE else min(self.link, BETWEEN_NODES)


HERE = "here"
"""As the name of a device: that of this machine."""


@lru_cache(maxsize=1)
def stored_devices() -> dict[str, dict[str, Any]]:
    """What is known of each device by its name, as in presets/rates.json."""
    return json.loads(resources.files("reckoner.presets").joinpath("rates.json").read_bytes())


def device(config: Config, parameters: int, name: str = "") -> tuple[Device, str]:
    """The device to plan for and why: the named one, this machine's, or for a large model the default GPU.

    `HERE` is this machine whatever the model. Raises `InputError` for an unknown name.
    """
    known = stored_devices()
    if name and name not in {HERE, *known}:
        raise InputError(f"--on {name}: not a device that a plan knows. Use {HERE}, {', '.join(known)}")
    if name not in ("", HERE):
        return _noted(_device(name, config), "as asked", config, parameters)
    if torch.cuda.is_available() and config.model.device != "cpu":
        own = torch.cuda.get_device_properties(0)
        alike = next((key for key in known if key in own.name.lower().replace(" ", "")), DEFAULT_GPU)
        here = replace(_device(alike, config), name=own.name, memory=own.total_memory)
        return _noted(here, "the GPU of this machine", config, parameters)
    if name != HERE and parameters > LARGE and config.model.device != "cpu":
        return _device(DEFAULT_GPU, config), "no GPU here; --on names another"
    why = "the cores of this machine; --measure times them"
    return _noted(_device("cpu", config), why, config, parameters)


def _noted(where: Device, why: str, config: Config, parameters: int) -> tuple[Device, str]:
    """The device, and why with what the precision or the size of the model makes of its rates."""
    smallest = min(size for size, _ in where.rates["train"])
    note = ""
    if where.kind == "cpu":
        note = backend.precision_note(config.model.dtype, parameters)
    elif parameters * FAR < smallest:
        note = f"measured on {smallest / 1e9:.2g} billion parameters: a small model is many times slower"
    return where, "; ".join(filter(None, (why, note)))


def _device(name: str, config: Config) -> Device:
    """A stored device; rates of a CPU are for one core, unmeasured GPUs are scaled by the makers' figures."""
    known = stored_devices()
    stored, like = known[name], known[known[name].get("like", name)]
    threads = config.run.threads or allowed_cores()
    scale = threads if name == "cpu" else stored.get("tflops", 1.0) / like.get("tflops", 1.0)
    measured, slower = like["rates"], {}
    if name == "cpu" and config.model.dtype == "bfloat16":
        native = backend.has_bfloat16()
        measured, slower = (like["bfloat16"], {}) if native else (measured, like["widened"])
    rates = {
        work: [(size, scale * rate / slower.get(work, 1.0)) for size, rate in points]
        for work, points in measured.items()
    }
    if name == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device(_cores_in_words(threads), "cpu", memory, rates, 1e9 * known["cpu"]["link"], threads)
    return Device(stored["name"], "cuda", stored["gib"] * 2**30, rates, stored["link"] * 1e9)


def _cores_in_words(count: int) -> str:
    return f"{count} CPU core{'s' if count > 1 else ''}"


def share_of_cores(machine: Device, processes: int, config: Config) -> Device:
    """What each of so many processes of torchrun has of a CPU: `run.threads` cores, or an equal share."""
    there = allowed_cores()
    threads = config.run.threads or max(1, there // processes)
    scale = min(threads, there / processes) / machine.cores
    rates = {w: [(size, scale * rate) for size, rate in points] for w, points in machine.rates.items()}
    name = f"{_cores_in_words(threads)} for each of {processes} processes"
    return replace(machine, name=name, memory=machine.memory // processes, rates=rates, cores=threads)


def measure(config: Config, on: str = "", steps: int = 3, drawn: int = 32) -> Device:
    """The device of `config` with rates measured here on `steps` steps of training and a batch of generation.

    Loads the model and its data. Raises `InputError` for a device that is not here.
    """
    from reckoner.algorithms import sft
    from reckoner.engine.generate import generate
    from reckoner.evaluation.evaluate import encode, make_prompt
    from reckoner.evaluation.sample import greedy
    from reckoner.evaluation.session import load_problems
    from reckoner.models.policy import load_policy

    where, _ = device(config, 0, on)
    if where.kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--measure: there is no {where.name} here to time. Leave it out, or use --on cpu")
    cores = (config.run.threads or allowed_cores()) if where.kind == "cpu" else 1
    torch.set_num_threads(1)  # runs on several cores have a process for each
    policy = load_policy(config.model, config.peft, train=True)
    parameters = sum(p.numel() for n, p in policy.model.named_parameters() if "lora_" not in n)
    size = config.train.per_device_train_batch_size
    prompt = make_prompt(config, policy)
    examples = encode(policy, prompt, load_problems(config, "train")[: size * (steps + 1)])
    batches = [examples[at : at + size] for at in range(0, len(examples), size)]
    rates = []
    for batch in batches:
        count = training_flops(policy.model, sum(map(len, batch)), sum(len(e.completion_ids) for e in batch))
        began = time.perf_counter()
        sft.accumulate_gradient(policy, batch, size)  # reads the loss, so that a GPU has ended
        rates.append(cores * count / (time.perf_counter() - began))
    prompts = [list(e.prompt_ids) for e in examples[: config.eval.batch_size]]
    limit = greedy(policy, prompt, drawn)
    generate(policy, prompts, limit, len(prompts))  # compiles and allocates
    began = time.perf_counter()
    samples = generate(policy, prompts, limit, len(prompts))
    tokens = sum(len(sample.ids) for (sample,) in samples)
    count = forward_flops(policy.model, sum(map(len, prompts)) + tokens, tokens)
    generated = cores * count / (time.perf_counter() - began)
    trained = [(float(parameters), statistics.median(rates[1:] or rates))]
    measured = {
        "train": trained,
        "lora": trained,
        "modules": trained,
        "generate": [(float(parameters), generated)],
    }
    return replace(where, name=f"{where.name}, measured", rates=measured)
