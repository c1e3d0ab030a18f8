"""The process that runs arms for a study: beside it on this machine, or on a node of a cluster.

It gets orders (an arm with its configuration) and answers in JSON lines: progress, how the arm ended, and
`null` as a sign of life. This module imports no torch, so that a process can be told first where it may run.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

from reckoner.config import build_config
from reckoner.engine.process import Send, alive, taking_orders, write_line
from reckoner.errors import InputError, Stopped, out_of_memory
from reckoner.machine import DECISIVE, code_digest, versions
from reckoner.models.sources import resolve
from reckoner.runs.folder import Progress, lock_folder
from reckoner.study.arms import ArmRun
from reckoner.tasks import gsm8k

PATIENCE = 300.0
"""Seconds that a task waits for a run folder: a file server keeps the lock of a lost node for a while."""


def order(arm: ArmRun) -> dict[str, Any]:
    """An arm as JSON values."""
    return {**asdict(arm), "config": arm.config.to_dict()}


def settle(arm: ArmRun, on_progress: Progress, answer: dict[str, Any]) -> bool:
    """Act on an answer: pass progress on, or note how the arm ended, which is True.

    Raises `Stopped` where its worker had to stop, `InputError` where its node has other inputs, and the
    `MemoryError`, `OSError` or bug that ended the arm.
    """
    if "progress" in answer:
        on_progress(*answer["progress"])
        return False
    if "stopped" in answer:
        raise Stopped(answer["stopped"])
    if "memory" in answer:
        raise MemoryError(answer["memory"])
    if "input" in answer:
        raise InputError(answer["input"])
    if "bug" in answer:
        raise RuntimeError(f"a process of the study ended with:\n{answer['bug']}")
    if "system" in answer:
        error = OSError(*answer["system"])
        error.add_note(f"In a process of the study:\n{answer['where']}")
        raise error
    arm.state, arm.reason = answer["state"], answer["reason"]
    return True


def work(order: dict[str, Any], threads: int, send: Send) -> None:
    """Run the arm of an order on so many threads, unless its settings say otherwise; answers go to `send`."""
    import torch

    from reckoner.study.execute import run_arm

    config = build_config([(order.pop("config"), {})])
    arm = ArmRun(**order, config=config)
    torch.set_num_threads(config.run.threads or threads)
    try:
        run_arm(arm, lambda *what: send({"progress": what}))
    except Stopped as stop:
        send({"stopped": str(stop)})
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        send({"memory": str(error)})
    except OSError as error:
        system = [error.errno, error.strerror, error.filename]
        send({"system": system, "where": traceback.format_exc()})
    else:
        send({"state": arm.state, "reason": arm.reason})


def inputs(arm: ArmRun) -> dict[str, str]:
    """What decides an arm's results where it runs: versions, and sha256 of code, data files and base model.

    Raises `InputError` where they are not there.
    """
    model = arm.config.model
    base = {} if arm.after else _pins(model.model_name_or_path, model.revision)
    data = gsm8k.digests(**arm.config.problem_source())
    return {**versions(DECISIVE), "source code of reckoner": code_digest(), **data, **base}


@cache
def _pins(name: str, revision: str) -> dict[str, str]:
    return resolve(name, revision).pins


def work_there(message: str, answers: str) -> str:
    """Run an arm on a node of a cluster; returns why it cannot begin, or nothing.

    `message` is JSON: the `order`, the `inputs` that it must find, the current folder of the command, and the
    threads. What is to be said is appended to the file `answers`.
    """
    what, path, node = json.loads(message), Path(answers), platform.node()
    if not path.is_file() or not Path(what["folder"]).is_dir():
        return f"{node} does not see {path.parent} or {what['folder']}, which every node must share"
    os.chdir(what["folder"])
    _drop_torn_line(path)
    with open(path, "a", encoding="ascii") as file, _confess(partial(write_line, file)) as send, alive(send):
        arm = ArmRun(**{**what["order"], "config": build_config([(what["order"]["config"], {})])})
        try:
            here = inputs(arm)
        except InputError as error:
            send({"input": f"node {node}: {error}"})
            return ""
        if other := [name for name, value in what["inputs"].items() if here.get(name) != value]:
            send({"input": f"node {node} has another {other[0]} than this command. Put the same there"})
            return ""
        with suppress(InputError):  # `Run.open` says it again
            os.close(lock_folder(Path(arm.config.run.output_dir), PATIENCE))
        work(what["order"], what["threads"], send)
    return ""


def _drop_torn_line(path: Path) -> None:
    """A job that was killed and queued again goes on with its file."""
    with open(path, "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


@contextmanager
def _confess(send: Send) -> Iterator[Send]:
    """Send the traceback of a bug: neither Ray nor Slurm brings it to the command as it stands."""
    try:
        yield send
    finally:
        kind = sys.exc_info()[0]
        # submitit ends a job by these where its time is over or it has to make room
        if kind and not issubclass(kind, SystemExit) and kind.__name__ != "UncompletedJobError":
            send({"bug": traceback.format_exc()})


def main() -> None:
    """Run arms as they come on stdin, until it closes."""
    with taking_orders() as (order, send):
        _serve(order, send)


def _serve(order: Callable[[], Any], send: Send) -> None:
    gc.disable()  # collections would walk what these imports make again and again: a tenth of their time
    import reckoner.study.execute  # noqa: F401

    gc.freeze()
    gc.enable()
    cores = order()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    while True:
        work(order(), len(cores), send)


if __name__ == "__main__":
    main()
