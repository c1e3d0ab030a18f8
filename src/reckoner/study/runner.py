"""What runs the arms of a study, by `study.engine`: this process, workers beside it, or a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from typing import Protocol

from reckoner.config import Config
from reckoner.machine import allowed_cores, say_once
from reckoner.runs.folder import Progress
from reckoner.study.arms import ArmRun, tests
from reckoner.study.cluster import Cluster, ClusterRunner, Memory, Ray, Slurm
from reckoner.study.pool import WorkerPool, gpus


class Runner(Protocol):
    """Runs arms, as many at once as there is room for."""

    count: int
    """How many arms run at once; 0 where a cluster decides."""

    threads: int
    """CPU threads of an arm whose settings say nothing."""

    @property
    def at_work(self) -> Sequence[ArmRun]:
        """The arms that have started and not ended."""

    def room(self, arm: ArmRun) -> bool:
        """Whether `arm` may start now."""

    def start(self, arm: ArmRun, on_progress: Progress) -> None: ...

    def wait(self) -> ArmRun:
        """Pass progress on until an arm has ended, and return it. Raises what ended its worker."""

    def close(self) -> None:
        """End what is at work; it goes on from its last checkpoint another time."""


class InProcessRunner:
    """Runs arms in this process, one at a time."""

    count = 1

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._ended: list[ArmRun] = []

    @property
    def at_work(self) -> Sequence[ArmRun]:
        return self._ended

    def room(self, arm: ArmRun) -> bool:
        return not self._ended

    def start(self, arm: ArmRun, on_progress: Progress) -> None:
        from reckoner.study.execute import run_arm

        run_arm(arm, on_progress)
        self._ended.append(arm)

    def wait(self) -> ArmRun:
        return self._ended.pop()

    def close(self) -> None:
        pass


def local(config: Config, chosen: Sequence[ArmRun]) -> Runner:
    """This machine: `study.jobs` arms at once (0: one a core, or one a GPU where the model may use one)."""
    found, most = gpus() if config.model.device != "cpu" else [], allowed_cores()
    waiting = sum(not tests(arm) for arm in chosen)
    count = max(1, min(config.study.jobs or len(found) or most, most, waiting))
    threads = config.run.threads or most // count
    if count == 1:
        return InProcessRunner(threads)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(most))
    shares = [cores[index::count] for index in range(count)]
    return WorkerPool(shares, gpus=found, memory=lambda arm: device_memory(config, arm), threads=threads)


def device_memory(config: Config, arm: ArmRun, on: str = "") -> int | None:
    """Peak bytes that the plan counts for an arm of the study of `config` on its device (see `plan.plan`).

    None for a model whose shape is not known here, which one line says.
    """
    from reckoner.models.families import UnknownShape
    from reckoner.plan import plan

    base = config.model.model_name_or_path if arm.after else arm.config.model.model_name_or_path
    model = replace(arm.config.model, model_name_or_path=base)
    try:
        return plan(replace(arm.config, model=model), arm.method, on=on).memory.total
    except UnknownShape as error:
        say_once(f"no estimate of time and memory: {error}")
        return None


def on(cluster: Callable[[Config, Memory], Cluster]) -> Callable[[Config, Sequence[ArmRun]], Runner]:
    """A cluster, which queues arms by itself."""

    def start(config: Config, chosen: Sequence[ArmRun]) -> Runner:
        return ClusterRunner(cluster(config, lambda arm: device_memory(config, arm, "cpu")), config, chosen)

    return start


ENGINES: dict[str, Callable[[Config, Sequence[ArmRun]], Runner]] = {
    "local": local,
    "ray": on(Ray),
    "slurm": on(Slurm),
}
"""By name. `config.schema.ENGINES` holds the same names, because settings import no study."""


def runner(config: Config, chosen: Sequence[ArmRun]) -> AbstractContextManager[Runner]:
    """What runs the `chosen` arms that are not finished; it is closed at the end."""
    return closing(ENGINES[config.study.engine](config, chosen))
