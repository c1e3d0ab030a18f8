"""What a plan assumes of the device: how fast it multiplies, moves bytes and takes orders.

The rates are sustained ones. Those of a CPU are for one core of a server with AVX-512 (fitted to what training and generation of 1 to 16
million weights took there, benchmarks/plan_accuracy.py). Those of a GPU are the maker's figures for dense
bf16 and memory, times what training is assumed to reach of them. `measure` replaces them by those of this machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from reckoner.config import Config
from reckoner.engine.products import product
from reckoner.faults import InputError
from reckoner.machine import allowed_cores

SHARE_MATMUL, SHARE_BANDWIDTH = 0.65, 0.8
"""What a GPU is assumed to sustain of the maker's figures for bf16 products and for memory."""
MOVING = {"cpu": 1.25, "cuda": 1.0}
"""How much faster training moves bytes than additions into new memory do, for whose pages a CPU asks the system each time (fitted)."""
ISSUING = 3.5
"""How many additions of 8 numbers an operation of training costs, with its modules and its gradient (fitted)."""
LARGE = 100_000_000
"""Parameters above which nobody trains on a CPU: without a GPU at hand such a model is planned for `DEFAULT_GPU`."""
DEFAULT_GPU = "h100"
NODE, BETWEEN_NODES = 8, 40e9
"""GPUs that share the fast link, and bytes a second for each of them beyond it (400 Gbit/s, 80 %)."""


@dataclass(frozen=True)
class Machine:
    """One device. `issue` is the seconds to start one operation of torch, `link` the bytes a second between devices.

    `slower` is how much longer a product takes by torch's own library, in the model's modules, than in the engine's passes.
    """

    name: str
    kind: str
    matmul: float
    bandwidth: float
    issue: float
    memory: int
    link: float = 0.0
    slower: float = 1.0

    def between(self, devices: int) -> float:
        """Bytes a second that each of `devices` sends while all send."""
        return self.link if devices <= NODE else min(self.link, BETWEEN_NODES)

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.matmul / 1e12:.3g} TFLOP/s in products, {self.bandwidth / 1e9:,.0f} GB/s elsewhere, "
            f"{self.issue * 1e6:.2g} \u00b5s an operation"
        )


def _gpu(name: str, teraflops: float, terabytes: float, gib: int, link: float) -> Machine:
    return Machine(
        name,
        "cuda",
        SHARE_MATMUL * teraflops * 1e12,
        SHARE_BANDWIDTH * terabytes * 1e12,
        6e-6,
        gib * 2**30,
        0.7 * link * 1e9,
    )


GPUS = {
    "h200": _gpu("H200", 989, 4.8, 131, 450),
    "h100": _gpu("H100 80 GB", 989, 3.35, 74, 450),
    "a100": _gpu("A100 80 GB", 312, 2.04, 74, 300),
    "l40s": _gpu("L40S", 362, 0.864, 44, 32),
    "rtx4090": _gpu("RTX 4090", 165, 1.01, 23, 32),
}


def cpu(threads: int) -> Machine:
    """`threads` cores like those that the constants were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        f"{threads} CPU cores" if threads > 1 else "1 CPU core",
        "cpu",
        230e9 * threads,
        9e9 * threads,
        3e-6,
        memory,
        slower=2.3,
    )


def choose_machine(config: Config, parameters: int, name: str = "") -> tuple[Machine, str]:
    """The device to plan for and why: the named one, this machine's, or the default GPU for a large model without one.

    Raises `InputError` for an unknown name.
    """
    threads = config.run.threads or allowed_cores()
    if name and name not in (*GPUS, "cpu"):
        raise InputError(f"--on {name}: not a device that a plan knows. Use cpu, {', '.join(GPUS)}")
    if name:
        return (cpu(threads) if name == "cpu" else GPUS[name]), "as asked"
    if torch.cuda.is_available() and config.model.device != "cpu":
        return _this_gpu(), "the GPU of this machine"
    if parameters > LARGE and config.model.device != "cpu":
        return GPUS[DEFAULT_GPU], "no GPU here; --on names another"
    return cpu(threads), "the cores of this machine; --measure times them"


def _this_gpu() -> Machine:
    """The GPU at hand: the known one whose name its own holds, else the default; its memory is its own."""
    properties = torch.cuda.get_device_properties(0)
    own = properties.name.lower().replace(" ", "")
    known = next((machine for key, machine in GPUS.items() if key in own), GPUS[DEFAULT_GPU])
    return replace(known, name=properties.name, memory=properties.total_memory)


def measure(machine: Machine, dtype: torch.dtype) -> Machine:
    """`machine` with the rates of the device at hand, measured in about a second.

    Products of 2,048 rows as wide as those of small models on a CPU and of large ones on a GPU; additions of tensors that
    leave the caches; and additions of 8 numbers.
    """
    rows, inner, outer = (2048, 256, 1024) if machine.kind == "cpu" else (8192, 2048, 8192)
    x, weight = (
        torch.randn(*size, dtype=dtype, device=machine.kind) for size in ((rows, inner), (outer, inner))
    )
    large, small = torch.randn(2**23, device=machine.kind), torch.randn(8, device=machine.kind)
    ours, own = (
        _seconds(lambda way=way: way(x, weight), 20, machine.kind)
        for way in (product, torch.nn.functional.linear)
    )
    return replace(
        machine,
        name=f"{machine.name}, measured",
        matmul=2 * rows * inner * outer / ours,
        slower=own / ours,
        bandwidth=MOVING[machine.kind]
        * 3
        * 4
        * large.numel()
        / _seconds(lambda: large + large, 5, machine.kind),
        issue=ISSUING * _seconds(lambda: small + small, 5000, machine.kind),
    )


def _seconds(run: Callable[[], object], repeat: int, kind: str, laps: int = 3) -> float:
    """Seconds of one `run`: the median lap of `repeat` runs."""
    times = []
    for _ in range(laps + 1):
        started = time.perf_counter()
        for _ in range(repeat):
            run()
        if kind == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / repeat)
    return sorted(times[1:])[laps // 2]
