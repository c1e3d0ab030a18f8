"""A reward of one's own: `rollout.reward=package.module:function`.

    def function(text: str, problem: Problem, grade: Grade) -> float | tuple[float, dict[str, float]]

`text` is the completion, `grade` its verdict. The dict names parts that are logged as `reward_NAME`. Before
anything trains, the function pays reference solutions and nonsense: a reward that pays both alike is refused.
It gets copies, so that nothing it does to them changes what the run grades by.
Each call has a time limit, and the sha256 of the module's file is an input of the run, like the data. A name
that only a run's own files hold is not imported: `refuse_unnamed`.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from reckoner.errors import InputError, one_line
from reckoner.machine import OverLimit, bounded
from reckoner.runs.integrity import sha256
from reckoner.runs.records import Problem
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.answers.marking import mark
from reckoner.tasks.prompts import Prompt
from reckoner.tasks.rewards import SOURCES, Reward, combine

CHECKED = 32
"""Reference solutions that a reward pays before anything trains; it pays as much nonsense."""


def digest(name: str) -> dict[str, str]:
    """The sha256 of the plug-in's file by its name in inputs.json; nothing for the rewards of `SOURCES`."""
    return {} if name in SOURCES else {f"reward {name}": sha256(_file(name))}


def refuse_unnamed(rewards: Collection[str], typed: Collection[str], file: Path, option: str) -> None:
    """Raise `InputError` for plug-ins that the settings in `file` name and the user did not type.

    `option` is what the user types before a name, such as `rollout.reward=`.
    """
    for name in sorted({*rewards} - {*SOURCES, *typed}):
        instead = f", but you named {', '.join(sorted(typed))}" if typed else ""
        raise InputError(
            f"{file} pays by the Python function {name}{instead}. A module that only a file names could run "
            f"anybody's code, so that it is not loaded. If you trust it, add {option}{name}"
        )


def _file(name: str) -> Path:
    """The file of a plug-in; of a dotted name, the packages above it are loaded to find it.

    Raises `InputError` where there is none.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError(f"rollout.reward={name} is neither {', '.join(SOURCES)} nor package.module:function")
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin or not Path(found.origin).is_file():
        raise InputError(
            f"rollout.reward={name}: Python finds no module {module}. Install it, or put its folder in "
            "PYTHONPATH"
        )
    return Path(found.origin)


class PluginReward:
    """What a plug-in pays, with the optional parts of `weights`. A `GroupReward` (see tasks/rewards.py)."""

    def __init__(self, name: str, weights: Mapping[str, float], seconds: float) -> None:
        """Raises `InputError` where there is no such function."""
        self.name, self.weights, self.seconds = f"rollout.reward={name}", weights, seconds
        _file(name)
        module, _, function = name.partition(":")
        self.label = function
        self.names: list[str] = []
        self.function: Any = getattr(self._guarded("", importlib.import_module, module), function, None)
        if not callable(self.function):
            raise InputError(f"{self.name}: {module} has no function {function}")

    def __call__(self, answers: Sequence[Answer], problem: Problem, key: str) -> list[Reward]:
        """Raises `InputError` for a reward that fails, takes too long, or is no finite number."""
        return [combine(self._parts(answer, problem), answer, self.weights) for answer in answers]

    def check(self, problems: Sequence[Problem], prompt: Prompt) -> None:
        """Pay reference solutions as `prompt` teaches them, and nonsense in their place.

        Raises `InputError` where it pays alike.
        """
        chosen = problems[:: max(1, len(problems) // CHECKED)][:CHECKED]

        def mean(texts: Sequence[str]) -> float:
            pairs = zip(texts, chosen, strict=True)
            earned = [
                self([Answer.to(one, text, prompt.answer_format)], one, "")[0].total for text, one in pairs
            ]
            return sum(earned) / len(earned)

        solutions = [prompt.answer(problem.solution) for problem in chosen]
        gold = mean(solutions)
        spam = "\n".join(mark(f"#### {n}", prompt.answer_format) for n in range(100))
        for nonsense, texts in {
            "silence": [""] * len(chosen),
            "the question": [problem.question for problem in chosen],
            "a hundred answers": [spam] * len(chosen),
            "the solution of another problem": [*solutions[1:], solutions[0]],
        }.items():
            if (paid := mean(texts)) >= gold:
                raise InputError(
                    f"{self.name} pays {nonsense} {paid:.3g} on average and reference solutions {gold:.3g}: "
                    "a policy would learn nonsense. Mend the reward"
                )

    def _parts(self, answer: Answer, problem: Problem) -> dict[str, float]:
        """The reward by the function's name, and the parts that the function names."""
        given = (answer.text, copy.copy(problem), copy.copy(answer.grade))
        earned = self._guarded(f" on problem {problem.id}", self.function, *given)
        value, named = earned if isinstance(earned, tuple) and len(earned) == 2 else (earned, {})
        parts = {self.label: value, **named} if isinstance(named, dict) and self.label not in named else {}
        numbers = [isinstance(part, Real) and math.isfinite(part) for part in parts.values()]
        if not numbers or not all(numbers):
            raise InputError(
                f"{self.name} gave {repr(earned)[:60]} on problem {problem.id}: it must give a finite "
                f"number, or that and a dict of named numbers, none of them named {self.label}"
            )
        if self.names and self.names != [*parts]:
            raise InputError(
                f"{self.name} names other parts on problem {problem.id} than before: {', '.join(named)}"
            )
        self.names = [*parts]
        return {name: float(part) for name, part in parts.items()}

    def _guarded(self, where: str, function: Callable[..., Any], *given: Any) -> Any:
        """Call foreign code within limits of time and memory; whatever it raises is an `InputError`."""
        with _Foreign(f"{self.name}%s{where}"), bounded(self.seconds):
            return function(*given)


class _Foreign:
    """Around calls of the user's code, which may raise anything: an `InputError` of one line."""

    def __init__(self, line: str) -> None:
        """`line` has a `%s` for what happened."""
        self.line = line

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OverLimit):
            told = self.line % f": {error}"
            raise InputError(f"{told}. Make it faster, or raise rollout.reward_timeout") from error
        if isinstance(error, (Exception, SystemExit)):
            raise InputError(f"{self.line % f' raised {type(error).__name__}'}: {one_line(error)}") from error
