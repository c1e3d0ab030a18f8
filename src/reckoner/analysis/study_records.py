"""A study folder, read into frozen records: what ran, what it scored, what it cost, what it logged.

Everything that the report prints comes from here or from `compare`; no number is computed while reading. Files that a
finished run must have are required by name and field; an arm that never ran has no run and keeps its reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reckoner.errors import InputError
from reckoner.runs.documents import (
    DataFacts,
    Environment,
    Evaluation,
    ShownPrompt,
    StudyArm,
    StudyRecord,
    Summary,
    Training,
)
from reckoner.runs.integrity import MANIFEST, check_finished
from reckoner.runs.records import fit, read_json, read_json_lines
from reckoner.runs.safe_paths import inside, refuse_links

BEST_PROMPT = "best-prompt"
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Run:
    """A finished run folder. The documents are what the run wrote, unchanged, for the report's setup section."""

    name: str
    folder: Path
    method: str
    peft: str
    variant: str
    init: str | None
    seed: int
    grader: str
    evaluations: tuple[Evaluation, ...]
    training: Training | None
    metrics: tuple[Mapping[str, Any], ...]
    config: str
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    prompt: Mapping[str, Any]

    def evaluation(self, split: str) -> Evaluation | None:
        """The last evaluation on `split`, or None."""
        return next((found for found in reversed(self.evaluations) if found.split == split), None)

    def series(self, name: str, by: str = "step") -> tuple[list[float], list[float]]:
        """The logged values of `name` against `by` ("step", "seconds", "tokens"), in the order of the log.

        A line without `by` (dev lines carry no clock) takes the last value seen before it, 0 at the start.
        """
        x, y, last = [], [], 0.0
        for line in self.metrics:
            last = line.get(by, last)
            if name in line:
                x.append(float(last))
                y.append(float(line[name]))
        return x, y


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a study; `run` is None unless its state is "done"."""

    name: str
    title: str
    method: str
    state: str
    reason: str
    after: tuple[str, ...]
    run: Run | None


@dataclass(frozen=True, slots=True)
class Study:
    """A study folder. `pairs` are the declared comparisons, by arm name, the baseline's placeholder resolved."""

    folder: Path
    name: str
    preset: str
    seed: int
    model: str
    command: str
    arms: tuple[Arm, ...]
    pairs: tuple[tuple[str, str], ...]
    baseline: Arm | None

    @property
    def scored(self) -> tuple[Arm, ...]:
        """Arms that were evaluated on test."""
        return tuple(
            arm for arm in self.arms if arm.run is not None and arm.run.evaluation("test") is not None
        )

    @property
    def trained(self) -> tuple[Arm, ...]:
        """Arms that trained something."""
        return tuple(arm for arm in self.arms if arm.run is not None and arm.run.training is not None)

    def arm(self, name: str) -> Arm:
        """The arm called `name`; raises `InputError` if the study has none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise InputError(
            f"{self.folder}/study.json: no arm is called {name!r} (arms: {', '.join(a.name for a in self.arms)})"
        )


def read_study(folder: Path) -> Study:
    """Read `study.json` and every finished run it names; raises `InputError` with file and field where they do not fit."""
    path = folder / "study.json"
    if not path.is_file():
        raise InputError(f"{folder}: has no study.json. Give the folder that `reckon study` wrote")
    document = read_json(path, StudyRecord)
    arms = tuple(_arm(folder, path, value) for value in document["arms"])
    if len({arm.name for arm in arms}) < len(arms):
        raise InputError(f"{path}: two arms have the same name")
    best = best_prompt(arms)
    said = {name: document[name] for name in ("name", "preset", "seed", "model")}
    study = Study(folder, **said, command=document.get("command") or "", arms=arms, pairs=(), baseline=best)
    return _with_pairs(study, document["pairs"])


def best_prompt(arms: Sequence[Arm]) -> Arm | None:
    """The prompting arm with the highest strict accuracy on dev, the first of equals; None where none was scored on dev."""
    scored = [
        (arm, arm.run.evaluation("dev")) for arm in arms if arm.run is not None and arm.method == "prompt"
    ]
    dev = [(arm, found) for arm, found in scored if found is not None and found.n]
    return max(dev, key=lambda pair: pair[1].strict / pair[1].n)[0] if dev else None


def _with_pairs(study: Study, declared: Sequence[Sequence[str]]) -> Study:
    """Name the baseline in the pairs and leave out those with an arm that has no result."""
    known = {arm.name for arm in study.scored}
    base = study.baseline.name if study.baseline is not None else ""
    pairs = []
    for pair in declared or [[arm.name, BEST_PROMPT] for arm in study.trained]:
        a, b = (base if name == BEST_PROMPT else study.arm(name).name for name in pair)
        if a != b and {a, b} <= known and (a, b) not in pairs:
            pairs.append((a, b))
    return replace(study, pairs=tuple(pairs))


def _arm(folder: Path, path: Path, value: StudyArm) -> Arm:
    name, done = value["name"], value["state"] == "done"
    return Arm(
        name=name,
        title=value.get("title") or name,
        method=value["method"],
        state=value["state"],
        reason=value.get("reason") or "",
        after=tuple(value.get("after") or ()),
        run=read_run(inside(folder, value["folder"], path)) if done else None,
    )


def read_run(folder: Path) -> Run:
    """Read one run folder that was evaluated; raises `InputError` where summary.json is missing or does not fit.

    A link in the folder is refused, since what it leads to is no part of the run. A run that trained nothing says
    only what was evaluated, and is a prompt.
    """
    refuse_links(folder)
    path = folder / "summary.json"
    if (folder / "study.json").is_file() and not path.exists():
        runs = ", ".join(sorted(found.parent.name for found in folder.glob("*/summary.json"))) or "none yet"
        raise InputError(
            f"{folder}: is a study, whose comparisons `reckon report {folder}` prints. Or name its runs ({runs})"
        )
    refuse_links(folder)
    summary = read_json(path, Summary)
    evaluations = [fit(value, Evaluation, str(path)) for value in summary["evaluations"]]
    parts = [part for one in evaluations for part in (one.problems, one.predictions, one.grades)]
    for part in parts:
        inside(folder, part, path)
    if (folder / MANIFEST).is_file():
        check_finished(folder, "metrics.jsonl", "config.yaml", "environment.json", "data.json", *parts)
    training = summary.get("training")
    return Run(
        name=summary.get("name") or folder.name,
        folder=folder,
        method=summary.get("method") or "prompt",
        peft=summary.get("peft") or "none",
        variant=summary.get("variant") or "",
        init=summary.get("init") or None,
        seed=summary.get("seed") or 0,
        grader=summary.get("grader") or next((found.grader for found in evaluations), ""),
        evaluations=tuple(evaluations),
        training=None if training is None else fit(training, Training, str(path)),
        metrics=_metrics(folder / "metrics.jsonl"),
        config=_text(folder / "config.yaml"),
        environment=read_json(folder / "environment.json", Environment, NOTHING),
        data=read_json(folder / "data.json", DataFacts, NOTHING),
        prompt=read_json(folder / "prompt.json", ShownPrompt, NOTHING),
    )


def _metrics(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The lines of metrics.jsonl without the values that are no finite numbers; a prompting run has none."""
    if not path.is_file():
        return ()
    lines = (line for _, line in read_json_lines(path))
    return tuple({name: value for name, value in line.items() if _finite(value)} for line in lines)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
