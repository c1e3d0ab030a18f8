"""Gradients of one step by several forked processes: a core and a share of the work for each.

The operations of a small model are short, and threads of one process wait for each other after every one. A
forked process has all that its parent had at the fork. It computes its share on one thread without waiting.
Trained weights and gradients lie in memory that both processes see; benchmarks/NOTES.md says what that gains.

    def gradient(share: Share, rows: list[int]) -> float: ...  # adds to the gradients, returns any JSON

    with Replicas(gradient, policy.model) as replicas:
        losses = replicas(rows)  # gradients are added up; one result for each share

There is one share, computed in this process, where gradients would be large, or where forking is not safe
(another system than Linux, a GPU in use by torch, or processes of torchrun, each of which has its share).
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

from reckoner import ranks
from reckoner.errors import SILENCE, lost, out_of_memory, silent

Item = TypeVar("Item")

MAX_GRADIENTS = 2**29
"""Numbers in the gradients of all processes, at most: more would fill the memory."""

TENSOR_ALIGNMENT = 64
"""Bytes of a cache line: each tensor in shared memory begins at a multiple of them."""


@dataclass(frozen=True, slots=True)
class Share:
    """One of `count` equal shares of the work."""

    index: int = 0
    count: int = 1

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every `count`-th of `items`, so that shares of sorted items are alike."""
        return islice(items, self.index, None, self.count)


WHOLE = Share()


class Replicas:
    """`count - 1` forked processes and this one, each of which computes its share of `work` when called."""

    def __init__(self, work: Callable[..., Any], model: nn.Module) -> None:
        """`work(share, *arguments)` adds to gradients of `model`; arguments and result travel as JSON.

        The other processes see everything as it is now. Of later changes they see those of trained weights
        only.
        """
        self.work, self.threads = work, torch.get_num_threads()
        self.count = replica_count(model, self.threads) if ranks.size() == 1 else 1
        self.trained = [p for p in model.parameters() if p.requires_grad and self.count > 1]
        for parameter, shared in zip(self.trained, _shared(self.trained), strict=True):
            parameter.data = shared.copy_(parameter.data)
        self.gradients = [_shared(self.trained) for _ in range(1, self.count)]
        self.others: dict[int, Connection] = {}
        self.began = 0.0
        for index in range(1, self.count):
            self._fork(Share(index, self.count))

    def __enter__(self) -> Self:
        if self.count > 1:
            torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are doing."""
        torch.set_num_threads(self.threads)
        for process, pipe in self.others.items():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            pipe.close()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """All threads for this process; outside this block it has one: replicas need the others."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def begin(self, *what: Any) -> Share:
        """Start every other share of `work(share, *what)`; returns the share that the caller computes itself.

        `collect` with its result must follow. Raises `Stopped` where the process of a share was killed.
        """
        for process, pipe in list(self.others.items()):
            with self._watching(process):
                pipe.send_bytes(json.dumps(what).encode())
        self.began = time.monotonic()
        return Share(ranks.rank(), max(self.count, ranks.size()))

    def collect(self, own: Any) -> list[Any]:
        """The results of all shares in order, `own` first; gradients of the others are added to those that
        are there.

        Raises `Stopped` where the process of a share was killed, or takes much longer than this one did.
        """
        results = [own]
        patience = max(SILENCE, 10 * (time.monotonic() - self.began))
        for (process, pipe), gradients in zip(list(self.others.items()), self.gradients, strict=True):
            with self._watching(process):
                if not pipe.poll(patience):
                    raise silent("this run", process, patience)
                result, touched = json.loads(pipe.recv_bytes())
            results.append(result)
            for index in touched:
                parameter, gradient = self.trained[index], gradients[index]
                parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)
        return results if self.count > 1 else ranks.gather(own)

    def __call__(self, *what: Any) -> list[Any]:
        """What `work` returns for each share, in order: `begin`, this process's own share, `collect`."""
        return self.collect(self.work(self.begin(*what), *what))

    @contextmanager
    def _watching(self, process: int) -> Iterator[None]:
        """Raise `Stopped` that says how a process ended which no longer answers."""
        try:
            yield
        except (EOFError, ConnectionError):
            self.others.pop(process).close()
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            raise lost("this run", code, "run.threads=1") from None

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
                )  # as the system does out of memory, so that `lost` says so
            raise
        finally:
            traceback.print_exc()
            os._exit(1)

    def _serve(self, pipe: Connection, share: Share) -> None:
        """Compute this share whenever the parent asks."""
        torch.set_num_threads(1)
        touched: set[int] = set()
        for index, parameter in enumerate(self.trained):
            parameter.register_post_accumulate_grad_hook(lambda _, index=index: touched.add(index))
        while True:
            arguments = json.loads(pipe.recv_bytes())
            touched.clear()
            for parameter, gradient in zip(self.trained, self.gradients[share.index - 1], strict=True):
                parameter.grad = gradient.zero_()
            result = self.work(share, *arguments)
            pipe.send_bytes(json.dumps((result, sorted(touched))).encode())


def replica_count(model: nn.Module, threads: int) -> int:
    """A process for each of torch's `threads`, where there is room for its gradients and forking is safe."""
    gradients = threads * sum(p.numel() for p in model.parameters() if p.requires_grad)
    safe = sys.platform == "linux" and not torch.cuda.is_available()
    return threads if safe and gradients <= MAX_GRADIENTS else 1


def _shared(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors of the same shapes in memory that later forks share; anonymous, so no file system limits it."""
    ends = [0]
    for tensor in tensors:
        ends.append(ends[-1] + -(-tensor.nbytes // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT)
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
