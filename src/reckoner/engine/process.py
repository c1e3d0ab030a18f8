"""A process of ours beside this one: it takes orders on its stdin and answers on its stdout, in JSON lines.

`null` is a sign of life: a process that hangs is told from one that works long. A process ends when the side
that started it is gone. No torch is imported here, so that a process can first be told where it may run.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Any

from reckoner.errors import SILENCE, lost, silent

BEAT = 10.0
"""Seconds between two signs of life."""

Process = subprocess.Popen[str]
Send = Callable[[Any], None]

_speaking = threading.Lock()


def command(module: str) -> tuple[str, ...]:
    """What starts a process that runs `module`; by -P a file of the current folder is no module of ours."""
    return sys.executable, "-P", "-m", module


def start(command: Sequence[str], environment: dict[str, str] | None = None) -> Process:
    """The process, in a session of its own: the side that starts it handles Ctrl-C."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="ascii",
        start_new_session=True,
        env=environment,
    )


def tell(process: Process, order: Any) -> None:
    """Give an order. `answers` says it where the process is gone."""
    assert process.stdin, "a pipe that was asked for"
    with suppress(BrokenPipeError):
        write_line(process.stdin, order)


def answers(process: Process, whose: str, remedy: str) -> Iterator[Any]:
    """What a process answers, without signs of life.

    Raises `Stopped` where it was killed, possibly for want of memory, against which `remedy` is advised, or
    gives no sign of life; `RuntimeError` where it ended by a bug.
    """
    assert process.stdout, "a pipe that was asked for"
    pipe, rest = process.stdout.fileno(), b""
    while select.select([pipe], [], [], SILENCE)[0]:
        if not (read := os.read(pipe, 2**16)):
            raise lost(whose, process.wait(), remedy)
        *lines, rest = (rest + read).split(b"\n")
        yield from (json.loads(line) for line in lines if line != b"null")
    raise silent(whose, process.pid, SILENCE)


def end(process: Process) -> None:
    """Kill a process and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def close_pipes(process: Process) -> None:
    """For a process that has ended and whose answers nobody reads any more."""
    for pipe in filter(None, (process.stdin, process.stdout)):
        with suppress(BrokenPipeError):  # what it was still to be told
            pipe.close()


@contextmanager
def taking_orders() -> Iterator[tuple[Callable[[], Any], Send]]:
    """Inside such a process: what waits for the next order, and what answers.

    What libraries print goes to stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    said = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    send = partial(write_line, said)
    with alive(send):
        yield orders.get, send


def write_line(file: IO[str], value: Any) -> None:
    """Write a value as a line of JSON at once; threads do not mix theirs."""
    with _speaking:
        file.write(json.dumps(value) + "\n")
        file.flush()


@contextmanager
def alive(send: Send) -> Iterator[None]:
    """Give signs of life meanwhile."""
    over = threading.Event()

    def live() -> None:
        while not over.wait(BEAT):
            send(None)

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
