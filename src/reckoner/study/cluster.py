"""Arms on the nodes of a cluster, each a task of Ray or a job of Slurm; all nodes share the study's folder.

A task is `worker.work_there`, a plain function of strings, so that no object of ours is pickled. It answers
in a file on the shared folder. Where its worker or node is lost, another task goes on from its run folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reckoner.config import Config
from reckoner.errors import SILENCE, InputError, Stopped, require
from reckoner.runs.folder import Progress
from reckoner.study.arms import ArmRun
from reckoner.study.worker import inputs, order, settle, work_there

POLL = 1.0
"""Seconds between two looks at the answers."""

LOSSES = 10
"""How often the worker of an arm may be lost in one command: some arms may end every worker."""

Memory = Callable[[ArmRun], int | None]
"""Peak bytes of an arm on a CPU, by the plan; None where it knows nothing of the model."""


class Cluster(Protocol):
    """What runs `work_there` somewhere."""

    def submit(self, arm: ArmRun, message: str, answers: str) -> Any:
        """A task that runs it; `name` keeps it for another command."""

    def over(self, task: Any) -> str | None:
        """None while a task waits or runs, then its reason as far as it is known."""

    def cancel(self, task: Any) -> None: ...

    def name(self, task: Any) -> str: ...

    def find(self, name: str) -> Any:
        """The task of that name that an earlier command left; None where tasks end with their command."""


@dataclass
class _Task:
    arm: ArmRun
    on_progress: Progress
    answers: Path
    handle: Any
    read: int = 0  # bytes of its answers
    heard: float = 0.0  # when it last said something; 0 before it runs
    losses: int = 0
    again: float = 0.0  # when it may be submitted again, where that failed


class ClusterRunner:
    """Runs the `chosen` arms on a cluster: `jobs` at once, or as many as it has room for (0)."""

    count = 0

    def __init__(self, cluster: Cluster, config: Config, chosen: Sequence[ArmRun]) -> None:
        self.threads = config.run.threads or 1
        self._cluster, self._jobs = cluster, config.study.jobs
        self._folder = _beside(config, "tasks")
        self._tasks: list[_Task] = []
        self._refused: list[ArmRun] = []
        self._names = {arm.label.rpartition("/")[0] or arm.label for arm in chosen}  # of folders of answers

    @property
    def at_work(self) -> Sequence[ArmRun]:
        return [*self._refused, *(task.arm for task in self._tasks)]

    def room(self, arm: ArmRun) -> bool:
        return not self._jobs or len(self._tasks) < self._jobs

    def start(self, arm: ArmRun, on_progress: Progress) -> None:
        """Submit `arm`, or go on with the task of it that an earlier command left at work."""
        on_progress("queued", 0, 0, "")
        for name in (self._folder / arm.label).glob("*.task"):
            task = self._cluster.find(name.read_text())
            if task is not None and self._cluster.over(task) is None:
                self._tasks.append(_Task(arm, on_progress, name.with_suffix(".jsonl"), task))
                return
        try:
            self._tasks.append(self._submit(arm, on_progress))
        except InputError as error:
            arm.state, arm.reason = "refused", str(error)
            self._refused.append(arm)

    def wait(self) -> ArmRun:
        if self._refused:
            return self._refused.pop()
        while True:
            for task in self._tasks:
                why = self._cluster.over(task.handle)  # first: what it said last is there once it is over
                for answer in _answers(task):
                    if settle(task.arm, task.on_progress, answer):
                        self._tasks.remove(task)
                        return task.arm
                if why is None and task.heard and time.monotonic() - task.heard > SILENCE:
                    self._cluster.cancel(task.handle)
                    why = f"it gave no sign of life for {SILENCE:g} s"
                if why is not None and time.monotonic() >= task.again:
                    self._go_on(task, why)
            time.sleep(POLL)

    def close(self) -> None:
        """Cancel what is at work. What has ended leaves no answers; another command may have some here."""
        for task in self._tasks:
            self._cluster.cancel(task.handle)
        if not self._tasks:
            for name in self._names:
                shutil.rmtree(self._folder / name, ignore_errors=True)
                with suppress(OSError):  # not empty, or gone
                    for above in Path(name).parents:
                        (self._folder / above).rmdir()

    def _submit(self, arm: ArmRun, on_progress: Progress, losses: int = 0) -> _Task:
        """Raises `InputError` where the data or the model of the arm are not there."""
        message = {"order": order(arm), "inputs": inputs(arm), "folder": os.getcwd(), "threads": self.threads}
        folder = self._folder / arm.label
        folder.mkdir(parents=True, exist_ok=True)
        answers = folder / f"{time.time_ns()}.jsonl"
        answers.touch()  # here, because a file server may hide for a while what another node has made
        handle = self._cluster.submit(arm, json.dumps(message), str(answers))
        answers.with_suffix(".task").write_text(self._cluster.name(handle))
        return _Task(arm, on_progress, answers, handle, losses=losses)

    def _go_on(self, task: _Task, why: str) -> None:
        """Submit the arm of a task that is lost again. Raises `Stopped` where that happens too often.

        What cannot be submitted counts as lost once more, and waits twice as long each time.
        """
        why = " ".join(why.split())
        if task.losses == LOSSES:
            raise Stopped(f"arm {task.arm.label} was lost {LOSSES} times, the last time because {why}")
        try:
            again = self._submit(task.arm, task.on_progress, task.losses + 1)
        except InputError as error:
            task.losses += 1
            task.again = time.monotonic() + POLL * 2**task.losses
            task.on_progress("lost", 0, 0, f"its worker was lost ({why}); not yet submitted again: {error}")
            if task.losses == LOSSES:
                raise Stopped(
                    f"arm {task.arm.label} was lost and cannot be submitted again: {error}"
                ) from error
            return
        task.on_progress("lost", 0, 0, f"its worker was lost ({why}); it goes on elsewhere")
        self._tasks[self._tasks.index(task)] = again


def _beside(config: Config, kind: str) -> Path:
    """A hidden folder beside that of the study, which holds runs and no links."""
    study = Path(config.run.output_dir).absolute()
    return study.with_name(f".{study.name}.{kind}")


def _answers(task: _Task) -> list[dict[str, Any]]:
    """What a task has said since the last look, without signs of life and what is not written to its end."""
    with open(task.answers, "rb") as file:
        file.seek(task.read)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    task.read += len(whole)
    if whole:
        task.heard = time.monotonic()
    return [answer for line in whole.splitlines() if (answer := json.loads(line)) is not None]


class Ray:
    """Tasks of Ray. `study.cluster` holds what `ray.init` takes, by default the address "auto".

    Each takes a GPU where the cluster has any, else the CPU memory that the plan counts.
    """

    def __init__(self, config: Config, memory: Memory) -> None:
        require("ray", "study.engine=ray")
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        on_term, options = signal.getsignal(signal.SIGTERM), {"address": "auto", **config.study.cluster}
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            # a search of rates before the study has been here
            ray.init(**{"include_dashboard": False, "ignore_reinit_error": True, **quiet, **options})
        except ConnectionError as error:
            where = "here" if options["address"] == "auto" else f"at {options['address']}"
            remedy = "Start one with `ray start --head`, or say in study.cluster.address where one is"
            raise InputError(f"study.engine=ray: there is no Ray cluster {where}. {remedy}") from error
        except (ValueError, RuntimeError) as error:
            raise InputError(f"study.engine=ray: {' '.join(str(error).split())[:300]}") from error
        signal.signal(signal.SIGTERM, on_term)  # ours: Ray's would end this command with code 1
        self._ray, self._memory, self._threads = ray, memory, config.run.threads or 1
        self._gpu = "GPU" in ray.cluster_resources() and config.model.device != "cpu"
        self._work = ray.remote(work_there)

    def submit(self, arm: ArmRun, message: str, answers: str) -> Any:
        wants: dict[str, int] = {"CPU": self._threads}
        if self._gpu:
            wants["GPU"] = 1
        elif memory := self._memory(arm):
            wants["memory"] = memory
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= count for kind, count in wants.items()) for node in nodes):
            needs = ", ".join(f"{kind} {count:,}" for kind, count in wants.items())
            raise InputError(f"no node of the Ray cluster has what {arm.label} needs: {needs}")
        options = {"num_cpus": wants["CPU"], "num_gpus": wants.get("GPU"), "memory": wants.get("memory")}
        return self._work.options(max_retries=0, **options).remote(message, answers)

    def over(self, task: Any) -> str | None:
        if not self._ray.wait([task], timeout=0)[0]:
            return None
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:  # as where a node has no package of ours
            return str(error).strip().rpartition("\n")[2]
        except self._ray.exceptions.RayError as error:
            return str(error).partition(".")[0]

    def cancel(self, task: Any) -> None:
        self._ray.cancel(task, force=True)

    def name(self, task: Any) -> str:
        return ""

    def find(self, name: str) -> Any:
        return None  # Ray ends the tasks of a command with it


class Slurm:
    """Jobs of Slurm through submitit. `study.cluster` holds what its executor takes, as `slurm_partition`.

    `study.cluster.cluster=local` tries it on this machine without Slurm.
    """

    def __init__(self, config: Config, memory: Memory) -> None:
        require("submitit", "study.engine=slurm")
        import submitit
        from submitit.core.plugins import get_executors
        from submitit.core.utils import FailedJobError

        options = {"timeout_min": 240, "cpus_per_task": config.run.threads or 1, **config.study.cluster}
        where = options.pop("cluster", "slurm")
        self._logs = _beside(config, "slurm") / "%j"
        self._memory = memory if options.keys().isdisjoint({"mem_gb", "gpus_per_node", "slurm_mem"}) else None
        try:
            self._executor = submitit.AutoExecutor(self._logs, cluster=where)
            self._executor.update_parameters(**options)
        except (RuntimeError, ValueError, NameError, AssertionError) as error:
            raise InputError(f"study.engine=slurm: {' '.join(str(error).split())[:300]}") from error
        self._job, self._failed = get_executors()[where].job_class, FailedJobError

    def submit(self, arm: ArmRun, message: str, answers: str) -> Any:
        if self._memory and (memory := self._memory(arm)):
            self._executor.update_parameters(mem_gb=-(-memory // 10**9))
        try:
            return self._executor.submit(work_there, message, answers)
        except self._failed as error:  # what sbatch says
            raise InputError(f"study.engine=slurm: {' '.join(str(error).split())[-300:]}") from error

    def over(self, task: Any) -> str | None:
        return f"job {task.job_id} is {task.state}" if task.done() else None

    def cancel(self, task: Any) -> None:
        task.cancel(check=False)

    def name(self, task: Any) -> str:
        return task.job_id

    def find(self, name: str) -> Any:
        return self._job(self._logs, name)
