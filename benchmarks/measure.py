"""How the benchmarks measure: arms in turn, medians, the ceiling of this machine's matrix products, and where
results are kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

Linear = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Lap:
    """One repetition of an arm: what it got done, and in how many seconds."""

    work: float
    seconds: float


Arm = Callable[[], Lap]


def timed(run: Callable[[], float]) -> Arm:
    """An arm that takes its time from the clock; `run` returns the work it did."""

    def lap() -> Lap:
        synchronize()
        started = time.perf_counter()
        work = run()
        synchronize()
        return Lap(work, time.perf_counter() - started)

    return lap


def apart(make: Callable[..., Callable[[], Any]], *arguments: Any) -> Callable[[], Any]:
    """What `make(*arguments)` returns, called in a process of its own, where it finds nothing that other arms
    left in memory.

    In one process our SFT, which forks, fell from 24,000 to 18,000 tokens/s in the course of TRL's laps.
    """
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_hold, initargs=(make, arguments))
    return lambda: pool.submit(_call).result()


_held: list[Callable[[], Any]] = []


def _hold(make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    _held.append(make(*arguments))


def _call() -> Any:
    return _held[0]()


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(arms: Mapping[str, Arm], repeat: int, unit: str, warm: int = 1) -> dict[str, dict[str, Any]]:
    """Run `arms` in turn, `warm` times unmeasured and `repeat` times measured; for each its rates (work a
    second) and their median.

    In turn, so that a disturbance of the machine hits all arms alike.
    """
    rates: dict[str, list[float]] = {name: [] for name in arms}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for lap in range(-warm, repeat):
        for name, arm in arms.items():
            done = arm()
            if lap >= 0:
                rates[name].append(done.work / done.seconds)
                seconds[name].append(done.seconds)
    table = {}
    for name in arms:
        table[name] = {
            "unit": unit,
            "rate": statistics.median(rates[name]),
            "rates": [round(rate, 3) for rate in rates[name]],
            "seconds": statistics.median(seconds[name]),
        }
        print(
            f"  {name:32} {table[name]['rate']:12,.1f} {unit}   {table[name]['seconds']:8.3f} s", flush=True
        )
    return table


def gemm_rate(
    rows: int,
    inner: int,
    outer: int,
    dtype: torch.dtype,
    device: str = "cpu",
    seconds: float = 0.3,
    linear: Linear = torch.nn.functional.linear,
) -> float:
    """The best rate of this machine, in FLOP/s, for [rows, inner] times [inner, outer] by `linear`; torch's
    own way is what peers use."""
    x, weight = (
        torch.randn(rows, inner, dtype=dtype, device=device),
        torch.randn(outer, inner, dtype=dtype, device=device),
    )
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        synchronize()
        started = time.perf_counter()
        for _ in range(8):
            linear(x, weight)
        synchronize()
        best = max(best, 8 * 2 * rows * inner * outer / (time.perf_counter() - started))
    return best


@cache
def bf16_pays() -> bool:
    """Whether products of the embedded model's shapes are faster in bf16 than in fp32. Where they are not, a
    peer whose setting is bf16 runs in fp32, which is faster for it (a processor without such instructions
    takes ten times as long)."""
    return gemm_rate(2048, 128, 1024, torch.bfloat16) > gemm_rate(2048, 128, 1024, torch.float32)


def machine() -> dict[str, Any]:
    """What a rate depends on besides the code."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": processor(),
        **gpu,
    }


def processor() -> str:
    """The processor's own name for itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def merge(name: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Add `parts` to results/NAME.json and return all it then holds; a part measured again replaces the old
    one."""
    path = RESULTS / f"{name}.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    stored |= parts
    path.write_text(json.dumps(stored, indent=1) + "\n")
    return stored
