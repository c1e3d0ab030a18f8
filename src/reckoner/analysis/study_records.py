"""A study folder, read into frozen records: what ran, what it scored, what it cost, what it logged.

Everything that the report prints comes from here or from `compare`; no number is computed while reading. Files that a
finished run must have are required by name and field; an arm that never ran has no run and keeps its reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from reckoner.faults import InputError
from reckoner.places import inside
from reckoner.records import read_json_lines

BEST_PROMPT = "best-prompt"
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One pass of one prompt over one split. Counts are of completions; `reads` is how often the split was opened."""

    split: str
    prompt: str
    prompt_hash: str
    n: int
    strict: int
    flexible: int
    no_answer: int
    truncated: int
    multi_marker: int
    tokens: int
    seconds: float
    decoding: str
    max_new_tokens: int
    predictions: str
    grades: str
    problems: str
    grader: str = ""
    reads: int = 1


@dataclass(frozen=True, slots=True)
class Training:
    """What training took and gave. Losses are nats a supervised token; `loss_final` is a mean over the last steps."""

    steps: int
    samples: int
    tokens: int
    supervised_tokens: int
    seconds: float
    peak_memory_bytes: int
    parameters: int
    trainable_parameters: int
    learning_rate: float
    flops: float | None = None
    loss_first: float | None = None
    loss_final: float | None = None
    dev_loss_first: float | None = None
    dev_loss_final: float | None = None
    best_step: int | None = None


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
    document = read_json(path)
    arms = tuple(_arm(folder, path, value) for value in _need(document, "arms", list, path))
    if len({arm.name for arm in arms}) < len(arms):
        raise InputError(f"{path}: two arms have the same name")
    best = best_prompt(arms)
    study = Study(
        folder=folder,
        name=_need(document, "name", str, path),
        preset=_need(document, "preset", str, path),
        seed=_need(document, "seed", int, path),
        model=_need(document, "model", str, path),
        command=_need(document, "command", str, path, ""),
        arms=arms,
        pairs=(),
        baseline=best,
    )
    return _with_pairs(study, _need(document, "pairs", list, path))


def best_prompt(arms: Sequence[Arm]) -> Arm | None:
    """The prompting arm with the highest strict accuracy on dev, the first of equals; None where none was scored on dev."""
    scored = [
        (arm, arm.run.evaluation("dev")) for arm in arms if arm.run is not None and arm.method == "prompt"
    ]
    dev = [(arm, found) for arm, found in scored if found is not None and found.n]
    return max(dev, key=lambda pair: pair[1].strict / pair[1].n)[0] if dev else None


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object; raises `InputError` for a missing file, broken JSON or another kind of value."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def _with_pairs(study: Study, declared: list[Any]) -> Study:
    """Name the baseline in the pairs and leave out those with an arm that has no result."""
    known = {arm.name for arm in study.scored}
    base = study.baseline.name if study.baseline is not None else ""
    pairs = []
    for pair in declared or [[arm.name, BEST_PROMPT] for arm in study.trained]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError(f"{study.folder}/study.json: a pair is two arm names, not {pair!r}")
        a, b = (base if name == BEST_PROMPT else study.arm(name).name for name in pair)
        if a != b and {a, b} <= known and (a, b) not in pairs:
            pairs.append((a, b))
    return replace(study, pairs=tuple(pairs))


def _arm(folder: Path, path: Path, value: Any) -> Arm:
    if not isinstance(value, dict):
        raise InputError(f"{path}: an arm is an object, not {value!r}")
    name, state = _need(value, "name", str, path), _need(value, "state", str, path)
    return Arm(
        name=name,
        title=_need(value, "title", str, path, name) or name,
        method=_need(value, "method", str, path),
        state=state,
        reason=_need(value, "reason", str, path, ""),
        after=tuple(map(str, _need(value, "after", list, path, []))),
        run=read_run(inside(folder, _need(value, "folder", str, path), path)) if state == "done" else None,
    )


def read_run(folder: Path) -> Run:
    """Read one run folder that was evaluated; raises `InputError` where summary.json is missing or does not fit.

    A run that trained nothing says only what was evaluated, and is a prompt.
    """
    path = folder / "summary.json"
    summary = read_json(path)
    evaluations = [_record(Evaluation, value, path) for value in _need(summary, "evaluations", list, path)]
    for evaluation in evaluations:
        for part in (evaluation.problems, evaluation.predictions, evaluation.grades):
            inside(folder, part, path)
    training = summary.get("training")
    return Run(
        name=_need(summary, "name", str, path, folder.name),
        folder=folder,
        method=_need(summary, "method", str, path, "prompt"),
        peft=_need(summary, "peft", str, path, "none"),
        variant=_need(summary, "variant", str, path, ""),
        init=_need(summary, "init", str, path, "") or None,
        seed=_need(summary, "seed", int, path, 0),
        grader=_need(summary, "grader", str, path, "") or next((found.grader for found in evaluations), ""),
        evaluations=tuple(evaluations),
        training=None if training is None else _record(Training, training, path),
        metrics=_metrics(folder / "metrics.jsonl"),
        config=_text(folder / "config.yaml"),
        environment=_optional(folder / "environment.json"),
        data=_optional(folder / "data.json"),
        prompt=_optional(folder / "prompt.json"),
    )


Kind = TypeVar("Kind", Evaluation, Training)


def _record(kind: type[Kind], value: Any, path: Path) -> Kind:
    """Take the fields of `kind` from an object; what a newer version added is left alone, what is missing is named."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: {kind.__name__.lower()} is an object, not {value!r}")
    if lost := [f.name for f in fields(kind) if f.name not in value and f.default is MISSING]:
        raise InputError(f"{path}: {kind.__name__.lower()} has no {', '.join(lost)}")
    chosen = {f.name: value[f.name] for f in fields(kind) if f.name in value}
    for name, content in chosen.items():
        fits = (
            isinstance(content, str)
            if kind.__annotations__[name] == "str"
            else content is None or _finite(content)
        )
        if not fits:
            raise InputError(f"{path}: {kind.__name__.lower()} has {name}={content!r}")
    return kind(**chosen)


def _metrics(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The lines of metrics.jsonl without the values that are no finite numbers; a prompting run has none."""
    if not path.is_file():
        return ()
    lines = (line for _, line in read_json_lines(path))
    return tuple({name: value for name, value in line.items() if _finite(value)} for line in lines)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _need(value: Mapping[str, Any], name: str, kind: type, path: Path, missing: Any = None) -> Any:
    """A field of the right type; `missing` stands for one that is absent or null, where that is allowed."""
    found = missing if value.get(name) is None else value[name]
    if not isinstance(found, kind):
        said = "is missing" if name not in value else f"is {found!r}"
        raise InputError(f"{path}: {name} {said}; expected {kind.__name__}")
    return found


def _optional(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.is_file() else NOTHING


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
