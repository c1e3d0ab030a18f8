"""Curves in other people's trackers. metrics.jsonl stays the truth; a tracker is sent what stands in it.

`reckon track RUN --to NAME` sends a run, whenever. `run.report_to=NAME` starts that command beside a run,
as its own process, so that a tracker that hangs or fails cannot touch the training. The lines sent are
counted in `.tracking/` of the run folder, each before it goes out: whatever ends the sending, the next one
goes on in the same curves, and no line is sent twice. Keys come from the environment alone. A tracker is one
function: it opens a run and returns what logs a step and what ends it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reckoner import ranks
from reckoner.errors import InputError, Stopped
from reckoner.runs.documents import StudyRecord
from reckoner.runs.folder import read_config
from reckoner.runs.listing import begun_runs, group_and_name, metrics
from reckoner.runs.records import read_json, write_json

PROJECT = "reckoner"
STATE = ".tracking"
PATIENCE = 60
"""Seconds that a finished command waits for its trackers."""

Log = Callable[[dict[str, float], int], None]
Opened = tuple[Log, Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Tracked:
    """A run as a tracker knows it: its name, the study that groups it, a lasting id, and its settings."""

    folder: Path
    name: str
    group: str
    id: str
    config: dict[str, Any]


def _wandb(run: Tracked) -> Opened:
    """Offline unless a key or WANDB_MODE is in the environment; `wandb sync` sends it later."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, save_code=False)
    named = {"project": PROJECT, "name": run.name, "group": run.group, "id": run.id, "config": run.config}
    opened = wandb.init(**named, dir=str(run.folder / STATE), mode=mode, resume="allow", settings=quiet)
    return lambda values, step: opened.log(values, step=step), opened.finish


def _tensorboard(run: Tracked) -> Opened:
    """Event files below `.tracking/tensorboard` of the run: `tensorboard --logdir runs`."""
    from tensorboard.summary import Writer

    writer = Writer(str(run.folder / STATE / "tensorboard"))

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log, writer.close


def _mlflow(run: Tracked) -> Opened:
    """At MLFLOW_TRACKING_URI, by default a file store in ./mlruns."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"file:{Path('mlruns').absolute()}")
    experiment = client.get_experiment_by_name(PROJECT)
    number = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
    known = client.search_runs([number], f"tags.reckoner_id = '{run.id}'")
    tags = {"reckoner_id": run.id, "mlflow.runName": run.name, "group": run.group}
    opened = known[0] if known else client.create_run(number, tags=tags)

    def log(values: dict[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        measured = [Metric(name, value, now, step) for name, value in values.items()]
        client.log_batch(opened.info.run_id, measured)

    return log, lambda: client.set_terminated(opened.info.run_id)


def _trackio(run: Tracked) -> Opened:
    """A local database, at TRACKIO_DIR where that is set."""
    import trackio

    name = f"{run.name}-{run.id[:6]}"  # it knows a run by its name alone
    trackio.init(PROJECT, name, run.group, config=run.config, resume="allow", embed=False)
    return lambda values, step: trackio.log(values, step=step), trackio.finish


TRACKERS: dict[str, Callable[[Tracked], Opened]] = dict(
    wandb=_wandb, tensorboard=_tensorboard, mlflow=_mlflow, trackio=_trackio
)


ERRORS = {
    "wandb": ("wandb.errors", "Error"),
    "mlflow": ("mlflow.exceptions", "MlflowException"),
    "trackio": ("sqlite3", "Error"),
}
"""Module and name of the error that each library derives its own from."""
REFUSED = {"UsageError", "AuthenticationError", "UnsupportedModelRegistryStoreURIException"}
"""Those of them that the same command meets again: no key, a wrong one, an address of no known kind."""


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turn what the library of a tracker refuses into `InputError`, and what fails into `Stopped`."""
    module, base = ERRORS.get(name, ("builtins", "OSError"))
    try:
        yield
    except getattr(importlib.import_module(module), base) as error:
        line = f"{name}: {' '.join(str(error).split())[:300]}"
        if type(error).__name__ in REFUSED:
            raise InputError(line) from error
        raise Stopped(f"{line}. The same command sends what is missing") from error


def check(names: Sequence[str]) -> None:
    """Raises `InputError` for a tracker that nobody knows or that is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"run.report_to: {name} is no tracker. Choose from {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{name} is not installed. Run: pip install 'reckonlab[tracking]'")


def track(folder: Path, name: str, until_closed: bool = False) -> int:
    """Send what a tracker does not have yet of a run, or of each arm of a study; returns the lines sent.

    `until_closed` goes on until standard input is closed, by a training process that starts or ends.
    """
    check([name])
    if until_closed:
        while not (folder / "config.yaml").is_file() and not _closed():
            pass
    runs = [run for run in begun_runs(folder) if until_closed or (run / "metrics.jsonl").is_file()]
    return sum(_send(run, name, until_closed) for run in runs)


def _send(folder: Path, name: str, until_closed: bool) -> int:
    path, (around, called) = folder / STATE / f"{name}.json", group_and_name(folder)
    study = around / "study.json"
    group = read_json(study, StudyRecord)["name"] if study.is_file() else around.name
    path.parent.mkdir(exist_ok=True)
    state = {"lines": 0, "id": uuid.uuid4().hex[:16]} | read_json(path, dict[str, Any], missing={})
    begun, ended = int(state["lines"]), False
    settings = read_config(folder / "config.yaml")
    write_json(path, state)  # before the tracker knows the id: a second run must never be opened
    with _one_line(name):
        log, finish = TRACKERS[name](Tracked(folder, called, group, str(state["id"]), settings))
        while not ended:
            ended = not until_closed or _closed()
            for line in metrics(folder)[int(state["lines"]) :]:
                with _counted(path, state):
                    values = {key: float(one) for key, one in line.items() if isinstance(one, int | float)}
                    log(values, int(values.pop("step", 0)))
        finish()
    return int(state["lines"]) - begun


@contextmanager
def _counted(path: Path, state: dict[str, Any]) -> Iterator[None]:
    """Count a line before it goes out, and take it back where the tracker raises instead of taking it."""
    sent = int(state["lines"])
    state["lines"] = sent + 1
    write_json(path, state)
    try:
        yield
        sent += 1
    finally:
        if sent < int(state["lines"]):
            state["lines"] = sent
            write_json(path, state)


def _closed() -> bool:
    """Whether standard input has been closed, after a second at most."""
    return bool(select.select([sys.stdin], [], [], 1.0)[0])


@contextmanager
def reporting(folder: Path, names: str | Sequence[str]) -> Iterator[None]:
    """Follow a run with a tracker or several while the block trains it; `InputError` for an unusable one.

    What goes wrong in a tracker is one line on stderr, and the run goes on.
    """
    names = [names] if isinstance(names, str) else names
    check(names)
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
    }
    command = [sys.executable, "-m", "reckoner", "track", str(folder), "--until-closed", "--to"]
    children = [
        (name, subprocess.Popen([*command, name], text=True, start_new_session=True, **pipes))
        for name in (names if ranks.rank() == 0 else ())
    ]
    try:
        yield
    finally:
        for name, child in children:
            try:
                fault = child.communicate(timeout=PATIENCE)[1].strip().split("\n")[-1]
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                fault = f"did not end within {PATIENCE} seconds"
            if child.returncode and (folder / "metrics.jsonl").is_file():
                again = f"metrics.jsonl has everything. Later: reckon track {folder} --to {name}"
                print(f"{name}: {fault or 'failed'}; {again}", file=sys.stderr)
