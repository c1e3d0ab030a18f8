"""A study folder, read into frozen records: what ran, what it scored, what it cost, what it logged.

Everything that the report prints comes from here or from `compare`. Reading computes no number. Files that a
finished run must have are required by name and field; an arm that never ran has no run and keeps its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reckoner.console import escape
from reckoner.errors import InputError
from reckoner.runs import documents
from reckoner.runs.integrity import (
    MANIFEST,
    check_finished,
    read_summary,
    read_tune_record,
    require_finished,
)
from reckoner.runs.records import fit, logged_numbers, read_json, read_json_lines
from reckoner.runs.safe_paths import refuse_links, resolve_within

BEST_PROMPT = "best-prompt"
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class RunRecord:
    """A finished run folder. The documents are what the run wrote, for the setup section of the report.

    `weights` are the files of weights that it left, each with its sha256; none where nothing was trained.
    """

    name: str
    folder: Path
    variant: str
    grader: str
    evaluations: tuple[documents.Evaluation, ...]
    training: documents.Training | None
    metrics: tuple[Mapping[str, Any], ...]
    config: str
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    prompt: Mapping[str, Any]
    noise: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

    def evaluation(self, split: str) -> documents.Evaluation | None:
        """The last evaluation on `split`, or None."""
        return next((one for one in reversed(self.evaluations) if one.split == split), None)

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


def read_run(folder: Path) -> RunRecord:
    """Read one evaluated run folder; raises `InputError` where it has not finished or does not fit.

    A link in the folder is refused, since its target does not belong to the run. A run that trained nothing
    is a prompt, and its summary says only what was evaluated.
    """
    refuse_links(folder)
    path = folder / "summary.json"
    if (folder / "study.json").is_file() and not path.exists():
        runs = (
            ", ".join(sorted(summary.parent.name for summary in folder.glob("*/summary.json"))) or "none yet"
        )
        raise InputError(
            f"{folder}: is a study, whose comparisons `reckon report {folder}` prints. "
            f"Or name its runs ({runs})"
        )
    require_finished(folder)
    summary = read_summary(folder)
    evaluations = tuple(fit(value, documents.Evaluation, str(path)) for value in summary["evaluations"])
    files = [file for one in evaluations for file in (one.problems, one.predictions, one.grades)]
    for file in files:
        resolve_within(folder, file, path)
    for one in evaluations:
        if one.n < max(one.strict, one.flexible, 1):
            right = max(one.strict, one.flexible)
            raise InputError(
                f"{path}: {right:,} right of {one.n:,} on {one.split} is impossible. Evaluate the run again"
            )
    if (folder / MANIFEST).is_file():
        named = ("config.yaml", "environment.json", "data.json", "prompt.json", "noise.json")
        check_finished(folder, "metrics.jsonl", *named, *files)
    training, config = summary.get("training"), folder / "config.yaml"
    return RunRecord(
        name=_run_name(folder, summary.get("name") or folder.name),
        folder=folder,
        variant=summary.get("variant") or "",
        grader=summary.get("grader") or next((one.grader for one in evaluations), ""),
        evaluations=evaluations,
        training=None if training is None else fit(training, documents.Training, str(path)),
        metrics=_metrics(folder / "metrics.jsonl"),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        environment=read_json(folder / "environment.json", documents.Environment, EMPTY),
        data=read_json(folder / "data.json", documents.DataFacts, EMPTY),
        prompt=read_json(folder / "prompt.json", documents.ShownPrompt, EMPTY),
        noise=read_json(folder / "noise.json", documents.Noise, EMPTY),
        weights={
            name: one["sha256"]
            for name, one in read_json(folder / MANIFEST, documents.Manifest, EMPTY).items()
            if name.startswith("model/") and name.endswith(".safetensors")
        },
    )


def _run_name(folder: Path, name: str) -> str:
    """The name of a run; one of several seeds is called after its arm too, as `grpo/seed-1`."""
    return f"{folder.absolute().parent.name}/{name}" if re.fullmatch(r"seed-\d+", name) else name


def _metrics(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The numbers in the lines of metrics.jsonl; a prompting run has none."""
    if not path.is_file():
        return ()
    return tuple(logged_numbers(line, f"{path} line {number}") for number, line in read_json_lines(path))


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """One arm of a study with its finished runs by seed, none unless its state is "done".

    `seeds` is how many runs it was to have. `control_of` names the arm that it is a control of. `trials` is
    how often its learning rate was tried on dev before.
    """

    name: str
    title: str
    method: str
    rewarded: bool
    state: str
    reason: str
    after: tuple[str, ...]
    runs: Mapping[int, RunRecord]
    seeds: int = 1
    control_of: str = ""
    trials: int = 0

    @property
    def run(self) -> RunRecord | None:
        """The run of the first seed, or None."""
        return next(iter(self.runs.values()), None)

    @property
    def untrained(self) -> bool:
        """Whether it asks the base model; a trained one can be asked in another way too."""
        return self.method == "prompt" and not self.after


@dataclass(frozen=True, slots=True)
class Study:
    """A study folder. `pairs` are the declared comparisons by arm name, with the name of the baseline.

    `search` says how many prompts were tried on dev, with how many completions; empty without a search.
    `samples` names the evaluations that drew `pass_k` samples a problem; empty where none did.
    """

    folder: Path
    name: str
    preset: str
    seed: int
    model: str
    command: str
    arms: tuple[ArmRecord, ...]
    pairs: tuple[tuple[str, str], ...]
    baseline: ArmRecord | None
    search: Mapping[str, Any] = field(default_factory=dict)
    price_per_hour: float = 0.0
    pass_k: int = 0
    samples: str = ""

    @property
    def seeds(self) -> int:
        """Runs of each trained arm, as declared."""
        return max((arm.seeds for arm in self.arms), default=1)

    @property
    def scored(self) -> tuple[ArmRecord, ...]:
        """Arms that were evaluated on test."""
        return tuple(
            arm for arm in self.arms if arm.run is not None and arm.run.evaluation("test") is not None
        )

    @property
    def trained(self) -> tuple[ArmRecord, ...]:
        """Arms that trained something."""
        return tuple(arm for arm in self.arms if arm.run is not None and arm.run.training is not None)

    def arm(self, name: str) -> ArmRecord:
        """The arm called `name`; raises `InputError` if the study has none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        names = ", ".join(arm.name for arm in self.arms)
        raise InputError(f"{self.folder}/study.json: no arm is called {name!r} (arms: {names})")


def declared_suites(folder: Path) -> documents.DeclaredSuites:
    """The further sets that a study declared before it ran; none where it has no suites.json."""
    none: documents.DeclaredSuites = {"suites": [], "forgetting": []}
    declared: documents.DeclaredSuites = read_json(folder / "suites.json", documents.DeclaredSuites, none)
    return declared


def read_study(folder: Path) -> Study:
    """Read `study.json` and every finished run that it names; raises `InputError` with file and field."""
    path = folder / "study.json"
    if not path.is_file():
        raise InputError(f"{folder}: has no study.json. Give the folder that `reckon study` wrote")
    document = read_json(path, documents.StudyRecord)
    tuned = read_tune_record(folder)
    arms = tuple(_arm(folder, path, value, tuned["arms"] if tuned else {}) for value in document["arms"])
    if len({arm.name for arm in arms}) < len(arms):
        raise InputError(f"{path}: two arms have the same name")
    facts = {name: document[name] for name in ("name", "preset", "seed", "model")}
    command, best = document.get("command") or "", best_prompt(arms)
    search = read_json(folder / "prompt_search.json", documents.PromptSearch, EMPTY)
    facts |= {name: document[name] for name in ("price_per_hour", "pass_k", "samples") if name in document}
    study = Study(folder, **facts, command=command, arms=arms, pairs=(), baseline=best, search=search)
    return replace(study, pairs=_pairs(study, document["pairs"]))


def _arm(
    folder: Path, path: Path, value: documents.StudyArm, tuned: Mapping[str, documents.Searched]
) -> ArmRecord:
    declared = documents.runs_of(value)
    runs = {
        one["seed"]: read_run(resolve_within(folder, one["folder"], path))
        for one in declared
        if one["state"] == "done"
    }
    metrics = next(
        (run.metrics for run in runs.values()), ()
    )  # a study.json from before it said what is rewarded
    return ArmRecord(
        name=value["name"],
        title=escape(value.get("title") or value["name"], newlines=False),
        method=value["method"],
        rewarded=value.get("rewarded", any("reward" in line for line in metrics)),
        state=value["state"],
        reason=value.get("reason") or "",
        after=tuple(value.get("after") or ()),
        runs=runs if value["state"] == "done" else {},
        seeds=len(declared),
        control_of=value.get("control_of") or "",
        trials=len(tuned[value["name"]]["tried"]) if value["name"] in tuned else 0,
    )


def best_prompt(arms: Sequence[ArmRecord]) -> ArmRecord | None:
    """The prompting arm of the base model with the highest accuracy on dev, or None.

    Accuracy is the better of strict and flexible. Of equals it is the one with more strict answers, then the
    first.
    """
    scored = [
        (arm, dev)
        for arm in arms
        if arm.untrained and arm.run is not None and (dev := arm.run.evaluation("dev")) and dev.n
    ]

    def score(pair: tuple[ArmRecord, documents.Evaluation]) -> tuple[float, float]:
        dev = pair[1]
        return max(dev.strict, dev.flexible) / dev.n, dev.strict / dev.n

    return max(scored, key=score)[0] if scored else None


def _pairs(study: Study, declared: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """The declared pairs with the baseline named, without those that have an arm without a result."""
    scored = {arm.name for arm in study.scored}
    base = study.baseline.name if study.baseline is not None else ""
    pairs: dict[tuple[str, str], None] = {}
    for pair in declared or [[arm.name, BEST_PROMPT] for arm in study.trained]:
        a, b = (base if name == BEST_PROMPT else study.arm(name).name for name in pair)
        if a != b and {a, b} <= scored:
            pairs[a, b] = None
    return tuple(pairs)
