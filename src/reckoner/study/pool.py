"""Arms side by side on this machine: processes that each run one arm after another, on cores or a GPU.

On a small model two threads of torch wait for each other much of the time; two processes of one thread do
not (benchmarks/NOTES.md). A worker (`study.worker`) ends with its study: killed when that stops, and by
itself when the pipe from it closes, at which moment the disk is whole as after any kill. This module imports
no torch where there is no GPU, so that a command can start workers before it does.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reckoner.engine.process import Process, answers, close_pipes, command, end, start, tell
from reckoner.runs.folder import Progress
from reckoner.study.arms import ArmRun
from reckoner.study.worker import order, settle

WORKER = command("reckoner.study.worker")

DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Devices of the system's GPU drivers: NVIDIA, AMD, and either under Windows. Without one there is no GPU."""


class Gpu(NamedTuple):
    """A GPU as CUDA_VISIBLE_DEVICES names it, and its bytes of memory."""

    name: str
    memory: int


def gpus() -> list[Gpu]:
    """The GPUs that this process may use."""
    if not any(Path(path).exists() for path in DRIVERS):
        return []
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = named.split(",")[:count] if named else [str(number) for number in range(count)]
    return [
        Gpu(name, torch.cuda.get_device_properties(number).total_memory) for number, name in enumerate(names)
    ]


class WorkerPool:
    """Runs an arm on each share of the cores. Its processes import torch while the study prepares.

    With GPUs each worker sees one of them. Arms share a GPU only where the `memory` of all of them, in bytes,
    is known and there.
    """

    def __init__(
        self,
        shares: Sequence[Sequence[int]],
        command: Sequence[str] = WORKER,
        gpus: Sequence[Gpu] = (),
        memory: Callable[[ArmRun], int | None] = lambda arm: 0,
        threads: int = 1,
    ) -> None:
        self.count, self.threads = len(shares), threads
        self._command, self._memory = command, memory
        self._working: dict[Process, tuple[ArmRun, Progress]] = {}
        self._listeners: dict[Process, threading.Thread] = {}
        self._messages: queue.Queue[tuple[Process, Any]] = queue.Queue()
        self._gpus: dict[Process, Gpu | None] = {}
        for index, cores in enumerate(shares):
            self._spawn(cores, gpus[index % len(gpus)] if gpus else None)
        self._idle = list(self._gpus)

    @property
    def at_work(self) -> Sequence[ArmRun]:
        return [arm for arm, _ in self._working.values()]

    def room(self, arm: ArmRun) -> bool:
        return self._fitting(arm) is not None

    def _fitting(self, arm: ArmRun) -> Process | None:
        """A worker that is free: on a GPU without work, else on one with memory for this arm too."""
        for worker in sorted(self._idle, key=lambda worker: len(self._beside(worker))):
            gpu, others = self._gpus[worker], self._beside(worker)
            if not gpu or not others:
                return worker
            needed = [self._memory(one) for one in (arm, *others)]
            if None not in needed and sum(filter(None, needed)) <= gpu.memory:
                return worker
        return None

    def _beside(self, worker: Process) -> list[ArmRun]:
        """Arms at work on the GPU of a worker."""
        gpu = self._gpus[worker]
        return [arm for other, (arm, _) in self._working.items() if gpu and self._gpus[other] == gpu]

    def start(self, arm: ArmRun, on_progress: Progress) -> None:
        """Give `arm` to a worker, for which there must be room."""
        worker = self._fitting(arm)
        assert worker, "an arm is started where there is room"
        self._idle.remove(worker)
        self._working[worker] = arm, on_progress
        tell(worker, order(arm))

    def wait(self) -> ArmRun:
        """Pass progress on until an arm has ended, and return that arm.

        Raises what `answers` and `settle` raise.
        """
        while True:
            worker, answer = self._messages.get()
            if isinstance(answer, RuntimeError):
                raise answer
            arm, on_progress = self._working[worker]
            if settle(arm, on_progress, answer):
                del self._working[worker]
                self._idle.append(worker)
                return arm

    def close(self) -> None:
        """End every worker at once; what it was doing goes on from its last checkpoint another time."""
        for worker, listener in self._listeners.items():
            end(worker)
            listener.join()
            close_pipes(worker)

    def _spawn(self, cores: Sequence[int], gpu: Gpu | None) -> None:
        worker = start(self._command, {**os.environ, "CUDA_VISIBLE_DEVICES": gpu.name} if gpu else None)
        tell(worker, list(cores))
        self._gpus[worker] = gpu
        self._listeners[worker] = threading.Thread(target=self._listen, args=(worker,), daemon=True)
        self._listeners[worker].start()

    def _listen(self, worker: Process) -> None:
        """Pass on each answer, and at the end what `wait` raises."""
        try:
            for answer in answers(worker, "the study", "study.jobs=1"):
                self._messages.put((worker, answer))
        except RuntimeError as error:
            self._messages.put((worker, error))
