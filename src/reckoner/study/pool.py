"""Arms side by side: processes that each run one arm after another, on cores of their own.

On a small model two threads of torch wait for each other much of the time; two processes of one thread do
not (benchmarks/NOTES.md). A worker is `python -m reckoner.study.pool`: JSON lines in (what to run), JSON
lines out (progress, and how it ended). It ends with its study: killed when that stops, and by itself when
the pipe from it closes, at which moment the disk is whole as after any kill. This module imports no torch,
so that a command can start them before it does.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from typing import IO, Any, TextIO

from reckoner.config import build_config
from reckoner.errors import SILENCE, Stopped, lost, out_of_memory, silent
from reckoner.machine import allowed_cores
from reckoner.runs.folder import Progress
from reckoner.study.arms import ArmRun, tests

WORKER = (sys.executable, "-P", "-m", "reckoner.study.pool")
"""-P: a file of the current folder is no module of ours."""

BEAT = 10.0
"""Seconds between two signs of life of a worker: any line, `null` where it has nothing to say."""

Worker = subprocess.Popen[str]

_speaking = threading.Lock()


class InProcessRunner:
    """Runs arms in this process, one at a time."""

    def __init__(self) -> None:
        self._ended: list[ArmRun] = []

    @property
    def free(self) -> bool:
        return not self._ended

    @property
    def at_work(self) -> Sequence[ArmRun]:
        return self._ended

    def start(self, arm: ArmRun, on_progress: Progress) -> None:
        from reckoner.study.execute import run_arm

        run_arm(arm, on_progress)
        self._ended.append(arm)

    def wait(self) -> ArmRun:
        """The arm that has ended."""
        return self._ended.pop()


class WorkerPool:
    """Runs an arm on each share of the cores. Its processes import torch while the study prepares."""

    def __init__(self, shares: Sequence[Sequence[int]], command: Sequence[str] = WORKER) -> None:
        self._command = command
        self._working: dict[Worker, tuple[ArmRun, Progress]] = {}
        self._listeners: dict[Worker, threading.Thread] = {}
        self._messages: queue.Queue[tuple[Worker, bytes | None]] = queue.Queue()
        self._idle = [self._spawn(cores) for cores in shares]

    @property
    def free(self) -> bool:
        return bool(self._idle)

    @property
    def at_work(self) -> Sequence[ArmRun]:
        return [arm for arm, _ in self._working.values()]

    def start(self, arm: ArmRun, on_progress: Progress) -> None:
        """Give `arm` to a worker that is free."""
        worker = self._idle.pop()
        self._working[worker] = arm, on_progress
        with suppress(BrokenPipeError):  # it is gone, as `wait` will say
            _send(worker.stdin, {**asdict(arm), "config": arm.config.to_dict()})

    def wait(self) -> ArmRun:
        """Pass progress on until an arm has ended, and return that arm.

        Raises `Stopped` where its worker had to stop, was killed or hangs, and the `MemoryError` or
        `OSError` that ended its arm.
        """
        while True:
            worker, line = self._messages.get()
            if line is None:
                raise silent("the study", worker.pid, SILENCE)
            if not line:
                raise lost("the study", worker.wait(), "study.jobs=1")
            arm, on_progress = self._working[worker]
            message = json.loads(line)
            if "progress" in message:
                on_progress(*message["progress"])
                continue
            if "stopped" in message:
                raise Stopped(message["stopped"])
            if "memory" in message:
                raise MemoryError(message["memory"])
            if "system" in message:
                error = OSError(*message["system"])
                error.add_note(f"In a process of the study:\n{message['where']}")
                raise error
            del self._working[worker]
            self._idle.append(worker)
            arm.state, arm.reason = message["state"], message["reason"]
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

    def _spawn(self, cores: Sequence[int]) -> Worker:
        # A session of its own: the study handles Ctrl-C.
        worker = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
            start_new_session=True,
        )
        with suppress(BrokenPipeError):
            _send(worker.stdin, list(cores))
        self._listeners[worker] = threading.Thread(target=self._listen, args=(worker,), daemon=True)
        self._listeners[worker].start()
        return worker

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


@contextmanager
def worker_pool(jobs: int, chosen: Sequence[ArmRun]) -> Iterator[InProcessRunner | WorkerPool]:
    """What runs the `chosen` arms that are not finished, `jobs` at once (0: one a core)."""
    if (count := side_by_side(jobs, sum(not tests(arm) for arm in chosen))) == 1:
        yield InProcessRunner()
        return
    cores = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(allowed_cores()))
    )
    with closing(WorkerPool([cores[index::count] for index in range(count)])) as workers:
        yield workers


def side_by_side(jobs: int, arms: int) -> int:
    """How many arms run at once."""
    return max(1, min(jobs or allowed_cores(), allowed_cores(), arms))


def _send(file: IO[str] | None, value: Any) -> None:
    assert file, "a pipe that was asked for"
    with _speaking:
        file.write(json.dumps(value) + "\n")
        file.flush()


def _orders(source: TextIO) -> queue.Queue[Any]:
    """The values of JSON lines as they come; when the other side is gone this process ends."""
    orders: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        for line in source:
            orders.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return orders


def _live(answers: TextIO) -> None:
    """Give a sign of life now and then; this too ends with the other side."""
    while True:
        _send(answers, None)
        time.sleep(BEAT)


def main() -> None:
    """Run arms as they come on stdin, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_live, args=(answers,), daemon=True).start()
    gc.disable()  # collections would walk what these imports make again and again: a tenth of their time
    import torch

    from reckoner.study.execute import run_arm

    gc.freeze()
    gc.enable()
    orders = _orders(sys.stdin)
    cores = orders.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    while True:
        order = orders.get()
        config = build_config([(order.pop("config"), {})])
        arm = ArmRun(**order, config=config)
        torch.set_num_threads(config.run.threads or len(cores))
        try:
            run_arm(arm, lambda *what: _send(answers, {"progress": what}))
        except Stopped as stop:
            _send(answers, {"stopped": str(stop)})
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            _send(answers, {"memory": str(error)})
        except OSError as error:
            _send(
                answers,
                {"system": [error.errno, error.strerror, error.filename], "where": traceback.format_exc()},
            )
        else:
            _send(answers, {"state": arm.state, "reason": arm.reason})


if __name__ == "__main__":
    main()
