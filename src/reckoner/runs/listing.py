"""What lies in a folder of runs and studies, and how far each is; reading it changes nothing."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reckoner.errors import InputError
from reckoner.runs.documents import StudyRecord, runs_of
from reckoner.runs.integrity import read_summary
from reckoner.runs.records import json_object, logged_numbers, read_json
from reckoner.runs.safe_paths import regular_file, resolve_within


@dataclass(frozen=True, slots=True)
class Listed:
    """A run or a study: its folder, kind, state, score in words, and the seconds since it last wrote."""

    name: str
    kind: str
    state: str
    score: str
    age: float


def listing(root: Path) -> list[Listed]:
    """The runs and studies in a folder, each study before its arms; `InputError` without any."""
    if not root.is_dir():
        raise InputError(f"{root}: is no folder. Name the one that holds runs, as reckon ls runs")
    folders = [path.parent for path in sorted(root.glob("**/config.yaml")) if len(path.parts) < 12]
    found = [_listed(root, folder) for folder in folders]
    if not found:
        raise InputError(f"{root}: holds no run and no study. Name the folder that holds some")
    return found


def run_folders(study: Path, state: str = "") -> list[Path]:
    """The folder of each run of a study, or of those in one state; `InputError` for one that leads out."""
    path = study / "study.json"
    runs = [run for arm in read_json(path, StudyRecord)["arms"] for run in runs_of(arm)]
    return [resolve_within(study, run["folder"], path) for run in runs if state in ("", run["state"])]


def begun_runs(folder: Path) -> list[Path]:
    """The folder of each run of a study that has begun; a run is its only one."""
    if not (folder / "study.json").is_file():
        if not (folder / "config.yaml").is_file():
            raise InputError(f"{folder}: is no run and no study (no config.yaml). See: reckon ls")
        return [folder]
    return [run for run in run_folders(folder) if (run / "config.yaml").is_file()]


def group_and_name(run: Path) -> tuple[Path, str]:
    """The folder that groups a run, its study's where it has one, and its name there: `sft/seed-0`."""
    run = run.absolute()
    group = next((one for one in run.parents[:2] if (one / "study.json").is_file()), run.parent)
    return group, str(run.relative_to(group))


def state(folder: Path) -> str:
    """`finished`, `running` while a process holds the folder, or `stopped`."""
    if read_summary(folder).get("status") == "finished":
        return "finished"
    try:
        lock = os.open(folder / ".lock", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return "stopped"
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running"
    finally:
        os.close(lock)
    return "stopped"


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The numbers in the whole lines of metrics.jsonl, which another process may be writing.

    Raises `InputError` for a line that is damaged, and where the file is a link.
    """
    path = resolve_within(folder, "metrics.jsonl", folder)
    if not path.is_file():
        return []
    with regular_file(path) as file:
        text = file.read()
    try:
        lines = [json_object(line) for line in text[: text.rfind(b"\n") + 1].splitlines() if line]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return [logged_numbers(line, str(path)) for line in lines]


def score(folder: Path) -> str:
    """The last accuracy of a run: `test 57.1 %`, else on dev, empty before any."""
    entries = read_summary(folder).get("evaluations", [])
    for split in ("test", "dev"):
        if of_split := [entry for entry in entries if entry["split"] == split and entry["n"]]:
            return f"{split} {100 * of_split[-1]['strict'] / of_split[-1]['n']:.1f} %"
    lines = [line for line in metrics(folder) if "dev_n" in line]
    return f"dev {100 * (lines[-1]['dev_strict'] / lines[-1]['dev_n']):.1f} %" if lines else ""


def _listed(root: Path, folder: Path) -> Listed:
    newest = max(path.stat().st_mtime for path in (folder, *folder.glob("*.json*")))
    name = str(folder.relative_to(root)) if folder != root else folder.name
    age = max(0.0, time.time() - newest)
    if (folder / "study.json").is_file():
        arms = read_json(folder / "study.json", StudyRecord)["arms"]
        done = sum(arm["state"] == "done" for arm in arms)
        going = "running" if state(folder) == "running" else "finished" if done == len(arms) else "stopped"
        return Listed(name, f"study of {len(arms)} arms", f"{going}, {done} done", "", age)
    try:
        kind = str(read_summary(folder).get("method") or "run")
    except InputError:
        return Listed(name, "run", "changed, see reckon verify", "", age)
    return Listed(name, kind, state(folder), score(folder), age)
