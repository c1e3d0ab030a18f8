"""How often the policy that a run starts from solves each train problem, and the problems chosen by it.

A problem that is always or never solved gives a group of equal rewards, which teaches nothing. The map is
drawn once, at the temperature of the rollouts, and stored as pass_rates.json in the run's folder.
`rollout.pass_rate_map` names that of another run, so that it is not drawn again. One of another policy or
prompt is refused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NotRequired, TypedDict

from torch import nn

from reckoner import ranks
from reckoner.config import Config
from reckoner.engine.cost import forward_flops
from reckoner.errors import InputError
from reckoner.evaluation.sample import answers, greedy
from reckoner.models.policy import Policy
from reckoner.runs.folder import Progress, Run, stream_seed
from reckoner.runs.records import read_json, write_json
from reckoner.tasks.answers.grading import grader_of
from reckoner.training.loop import TrainingData

NAME = "pass_rates.json"


class PassRates(TypedDict):
    """The map as stored. `passes` has for each problem how many of `samples` completions were right.

    `prompt_tokens` were read and `tokens` drawn for it; a map from before these were counted has none.
    """

    policy: dict[str, str]
    prompt_hash: str
    temperature: float
    samples: int
    grader: str
    passes: dict[str, int]
    prompt_tokens: NotRequired[int]
    tokens: NotRequired[int]


def choose_problems(run: Run, policy: Policy, data: TrainingData, on_progress: Progress) -> TrainingData:
    """`data` with the problems whose pass rate lies within `rollout.pass_rate`, easy ones first where wanted.

    Raises `InputError` for a map that is not of this policy, and where no problem is left.
    """
    rollout = run.config.rollout
    if not rollout.pass_rate and rollout.order == "shuffle":
        return data
    low, high = _bounds(run.config)
    rates = _pass_rates(run, policy, data, on_progress)
    of = [rates["passes"][problem.id] / rates["samples"] for problem in data.problems]
    chosen = [i for i, rate in enumerate(of) if low <= rate <= high]
    if not chosen:
        raise InputError(
            f"rollout.pass_rate=[{low:g}, {high:g}] leaves none of {len(of):,} train problems: the policy "
            f"solves {sum(rate == 0 for rate in of):,} never and {sum(rate == 1 for rate in of):,} always"
        )
    if rollout.order == "easy_first":
        chosen.sort(key=lambda i: -of[i])
    on_progress("pass_rates", len(chosen), len(of), f"{len(chosen):,} of {len(of):,} train problems are used")
    return replace(
        data, problems=[data.problems[i] for i in chosen], examples=[data.examples[i] for i in chosen]
    )


def map_flops(run: Run, model: nn.Module) -> float:
    """The operations that this run's own map took; 0 without one, and for one of another run."""
    path = run.folder / NAME
    if run.config.rollout.pass_rate_map or not path.is_file():
        return 0.0
    rates: PassRates = read_json(path, PassRates)
    drawn = rates.get("tokens", 0)
    return forward_flops(model, rates.get("prompt_tokens", 0) + drawn, drawn)


def _bounds(config: Config) -> tuple[float, float]:
    bounds = config.rollout.pass_rate or [0.0, 1.0]
    if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
        raise InputError(f"rollout.pass_rate={bounds} must be two numbers, as [0.1, 0.9]")
    return bounds[0], bounds[1]


def _pass_rates(run: Run, policy: Policy, data: TrainingData, on_progress: Progress) -> PassRates:
    """The map of this run: its own, or the one that the settings name, or a new one, which is stored."""
    own = run.folder / NAME
    rates: PassRates | None = ranks.from_first(lambda: _known(run, policy, data))
    if rates is None:
        rates = measure(run.config, policy, data, on_progress)
    if not own.is_file():
        write_json(own, rates)
    return rates


def _known(run: Run, policy: Policy, data: TrainingData) -> PassRates | None:
    """The map that the run holds or names, if any. Raises `InputError` for one that is not of this policy."""
    own, named = run.folder / NAME, run.config.rollout.pass_rate_map
    path = own if own.is_file() or not named else Path(named) / NAME if Path(named).is_dir() else Path(named)
    if not path.is_file():
        if path == own:
            return None
        raise InputError(f"rollout.pass_rate_map={named}: there is no map. Leave it empty to draw one")
    rates: PassRates = read_json(path, PassRates)
    known: dict[str, object] = {
        "policy": policy.base.pins,
        "prompt_hash": data.prompt.digest,
        "grader": grader_of(data.problems),
        "temperature": run.config.rollout.temperature,
    }
    if other := [name for name, value in known.items() if dict(rates)[name] != value]:
        raise InputError(
            f"{path}: this map of pass rates has another {other[0].replace('_', ' ')} than this run. "
            "Leave rollout.pass_rate_map empty to draw one"
        )
    if missing := [problem.id for problem in data.problems if problem.id not in rates["passes"]]:
        raise InputError(f"{path}: this map of pass rates lacks problem {missing[0]}")
    return rates


def measure(config: Config, policy: Policy, data: TrainingData, on_progress: Progress) -> PassRates:
    """Draw `rollout.pass_rate_samples` completions of each train problem, and count the right ones."""
    rollout, count = config.rollout, len(data.problems) * config.rollout.pass_rate_samples
    sampling = replace(
        greedy(policy, data.prompt, rollout.max_completion_length or data.max_new_tokens),
        temperature=rollout.temperature,
        num_samples=rollout.pass_rate_samples,
        seed=stream_seed(config.run.seed, "pass-rates"),
    )
    passes, tokens = dict.fromkeys((problem.id for problem in data.problems), 0), 0

    def on_done(finished: int) -> None:
        on_progress("pass_rates", finished, count, "")

    for one in answers(policy, data.prompt, data.problems, sampling, config.eval, on_done=on_done):
        passes[one.problem.id] += one.grade.strict
        tokens += one.completion.token_count
    return PassRates(
        policy=dict(policy.base.pins),
        prompt_hash=data.prompt.digest,
        temperature=rollout.temperature,
        samples=rollout.pass_rate_samples,
        grader=grader_of(data.problems),
        passes=passes,
        prompt_tokens=sum(len(example.prompt_ids) for example in data.examples),
        tokens=tokens,
    )
