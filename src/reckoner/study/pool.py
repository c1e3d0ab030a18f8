"""Arms side by side on this machine: processes that each run one arm after another, on cores or a GPU.

On a small model two threads of torch wait for each other much of the time; two processes of one thread do
not (benchmarks/NOTES.md). A worker (`study.worker`) ends with its study: killed when that stops, and by
itself when the pipe from it closes, at which moment the disk is whole as after any kill. This module imports
no torch where there is no GPU, so that a command can start workers before it does.
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from reckoner.errors import SILENCE, lost, silent
from reckoner.runs.folder import Progress
from reckoner.study.arms import ArmRun
from reckoner.study.worker import order, settle, write_line

WORKER = (sys.executable, "-P", "-m", "reckoner.study.worker")
"""-P: a file of the current folder is no module of ours."""

DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Devices of the system's GPU drivers: NVIDIA, AMD, and either under Windows. Without one there is no GPU."""

Worker = subprocess.Popen[str]


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
        self._working: dict[Worker, tuple[ArmRun, Progress]] = {}
        self._listeners: dict[Worker, threading.Thread] = {}
        self._messages: queue.Queue[tuple[Worker, bytes | None]] = queue.Queue()
        self._gpus: dict[Worker, Gpu | None] = {}
        for index, cores in enumerate(shares):
            self._spawn(cores, gpus[index % len(gpus)] if gpus else None)
        self._idle = list(self._gpus)

    @property
    def at_work(self) -> Sequence[ArmRun]:
        return [arm for arm, _ in self._working.values()]

    def room(self, arm: ArmRun) -> bool:
        return self._fitting(arm) is not None

    def _fitting(self, arm: ArmRun) -> Worker | None:
        """A worker that is free: on a GPU without work, else on one with memory for this arm too."""
        for worker in sorted(self._idle, key=lambda worker: len(self._beside(worker))):
            gpu, others = self._gpus[worker], self._beside(worker)
            if not gpu or not others:
                return worker
            needed = [self._memory(one) for one in (arm, *others)]
            if None not in needed and sum(filter(None, needed)) <= gpu.memory:
                return worker
        return None

    def _beside(self, worker: Worker) -> list[ArmRun]:
        """Arms at work on the GPU of a worker."""
        gpu = self._gpus[worker]
        return [arm for other, (arm, _) in self._working.items() if gpu and self._gpus[other] == gpu]

    def start(self, arm: ArmRun, on_progress: Progress) -> None:
        """Give `arm` to a worker, for which there must be room."""
        worker = self._fitting(arm)
        assert worker, "an arm is started where there is room"
        self._idle.remove(worker)
        self._working[worker] = arm, on_progress
        with suppress(BrokenPipeError):  # it is gone, as `wait` will say
            write_line(worker.stdin, order(arm))

    def wait(self) -> ArmRun:
        """Pass progress on until an arm has ended, and return that arm.

        Raises `Stopped` where its worker was killed or hangs, and what `settle` raises.
        """
        while True:
            worker, line = self._messages.get()
            if line is None:
                raise silent("the study", worker.pid, SILENCE)
            if not line:
                raise lost("the study", worker.wait(), "study.jobs=1")
            arm, on_progress = self._working[worker]
            if settle(arm, on_progress, json.loads(line)):
                del self._working[worker]
                self._idle.append(worker)
                return arm

    def close(self) -> None:
        """End every worker at once; what it was doing goes on from its last checkpoint another time."""
        for worker, listener in self._listeners.items():
            worker.kill()
            worker.wait()
            listener.join()
            for pipe in filter(None, (worker.stdin, worker.stdout)):
                with suppress(BrokenPipeError):  # what a dead worker was still to be told
                    pipe.close()

    def _spawn(self, cores: Sequence[int], gpu: Gpu | None) -> None:
        # A session of its own: the study handles Ctrl-C.
        worker = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
            start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu.name} if gpu else None,
        )
        with suppress(BrokenPipeError):
            write_line(worker.stdin, list(cores))
        self._gpus[worker] = gpu
        self._listeners[worker] = threading.Thread(target=self._listen, args=(worker,), daemon=True)
        self._listeners[worker].start()

    def _listen(self, worker: Worker) -> None:
        """Pass on each line but signs of life; empty once the worker is gone, None where it is silent."""
        assert worker.stdout, "a pipe that was asked for"
        pipe, rest = worker.stdout.fileno(), b""
        while select.select([pipe], [], [], SILENCE)[0]:
            if not (read := os.read(pipe, 2**16)):
                self._messages.put((worker, b""))
                return
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                if line != b"null":
                    self._messages.put((worker, line))
        self._messages.put((worker, None))
