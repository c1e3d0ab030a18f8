"""One computation by several processes, forked where it stands: a core and a share of the work for each.

The operations of a small model are short, and threads of one process wait for each other at the end of every one. A forked
process has all that its parent has at that moment and computes its share on one thread without waiting; trained weights lie
in memory that both see, and gradients come back through such memory (benchmarks/NOTES.md says what that gains).

    def gradient(share: Share, rows: list[int]) -> float: ...      # adds to the gradients, returns what it likes

    with Replicas(gradient, policy.model) as replicas:
        losses = replicas(rows)                                    # gradients are added up, one result for each share

With one thread, for a large model, or where forking is not safe (another system than Linux, a GPU in use by torch), there is
one share, computed here.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from reckoner.errors import SILENCE, lost, out_of_memory, silent

Item = TypeVar("Item")

LARGEST = 2**25
"""Parameters above which threads have enough to do in each operation, and a gradient for each core would fill the memory."""

ALIGNED = 64
"""Bytes, of a cache line: where each tensor in shared memory begins."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of the work is meant: one of `count`."""

    index: int = 0
    count: int = 1

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every `count`-th of `items`, so that shares of sorted items are alike."""
        return islice(items, self.index, None, self.count)


WHOLE = Share()


class Replicas:
    """`count - 1` forked processes and this one, each of which computes its share of `work` when called."""

    def __init__(self, work: Callable[..., Any], model: nn.Module) -> None:
        """`work(share, *what)` adds to the gradients of `model` and returns something; that and `what` go through a pipe as JSON.

        All else that `work` sees is as it is now: later changes, but those of trained weights, stay in this process.
        """
        self.work, self.threads = work, torch.get_num_threads()
        self.count = self.threads if _pays(model) else 1
        self.trained = (
            [parameter for parameter in model.parameters() if parameter.requires_grad]
            if self.count > 1
            else []
        )
        for parameter, shared in zip(self.trained, _shared(self.trained), strict=True):
            parameter.data = shared.copy_(parameter.data)
        self.gradients = [_shared(self.trained) for _ in range(1, self.count)]
        self.others: dict[int, Connection] = {}
        for index in range(1, self.count):
            self._fork(Share(index, self.count))

    def __enter__(self) -> Self:
        if self.count > 1:
            torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are at."""
        torch.set_num_threads(self.threads)
        for process, pipe in self.others.items():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            pipe.close()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """All threads for this process. Outside it has one: others would wait actively between operations, on the cores of the replicas."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def __call__(self, *what: Any) -> list[Any]:
        """What `work` returns for each share, in order; gradients of all shares are added to those that are there.

        Raises `Stopped` where the process of a share was killed, or takes much longer than this one did.
        """
        if self.count == 1:
            return [self.work(WHOLE, *what)]
        others = list(self.others.items())
        for process, pipe in others:
            with self._watching(process):
                pipe.send_bytes(json.dumps(what).encode())
        began = time.monotonic()
        results = [self.work(Share(0, self.count), *what)]
        patience = max(SILENCE, 10 * (time.monotonic() - began))
        for (process, pipe), gradients in zip(others, self.gradients, strict=True):
            with self._watching(process):
                if not pipe.poll(patience):
                    raise silent("this run", process, patience)
                result, touched = json.loads(pipe.recv_bytes())
            results.append(result)
            for index in touched:
                parameter, gradient = self.trained[index], gradients[index]
                parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)
        return results

    @contextmanager
    def _watching(self, process: int) -> Iterator[None]:
        """Say what became of a process that no longer takes or gives messages."""
        try:
            yield
        except (EOFError, ConnectionError):
            self.others.pop(process).close()
            raise lost(
                "this run", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), "run.threads=1"
            ) from None

    def _fork(self, share: Share) -> None:
        here, there = Pipe()
        parent, process = os.getpid(), os.fork()
        if process:
            there.close()
            self.others[process] = here
            return
        try:
            _die_with(parent)
            for pipe in (here, *self.others.values()):
                pipe.close()
            self._serve(there, share)
        except (MemoryError, RuntimeError) as error:
            if out_of_memory(error):
                os.kill(
                    os.getpid(), signal.SIGKILL
                )  # as the system does for want of memory: `lost` has the words
            raise
        finally:
            traceback.print_exc()
            os._exit(1)

    def _serve(self, pipe: Connection, share: Share) -> None:
        """Compute this share whenever the parent asks."""
        torch.set_num_threads(1)
        gradients = self.gradients[share.index - 1]
        while True:
            what = json.loads(pipe.recv_bytes())
            for parameter in self.trained:
                parameter.grad = None
            result = self.work(share, *what)
            touched = [index for index, parameter in enumerate(self.trained) if parameter.grad is not None]
            for index in touched:
                gradients[index].copy_(self.trained[index].grad)
            pipe.send_bytes(json.dumps((result, touched)).encode())


def _pays(model: nn.Module) -> bool:
    """Whether a process for each thread of torch is worth it, and safe."""
    small = sum(parameter.numel() for parameter in model.parameters()) <= LARGEST
    return small and sys.platform == "linux" and not torch.cuda.is_available()


def _shared(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors of the same form in memory that later forks share; anonymous, so that no limit of a file system applies."""
    ends = [0]
    for tensor in tensors:
        ends.append(ends[-1] + -(-tensor.nbytes // ALIGNED) * ALIGNED)
    memory = mmap.mmap(-1, max(1, ends[-1]))
    return [
        torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(tensor.shape)
        for tensor, start in zip(tensors, ends, strict=False)
    ]


def _die_with(parent: int) -> None:
    """End this process when its parent ends, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
