"""The arms of a study: what they are, in which order they can run, which are compared. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from operator import ne
from pathlib import Path
from typing import Any

from reckoner.algorithms import ALGORITHMS
from reckoner.config import ArmConfig, Config, StudyConfig, build_config
from reckoner.config.load import nearest
from reckoner.errors import InputError
from reckoner.runs.folder import read_summary
from reckoner.runs.safe_paths import check_name

BEST_PROMPT = "best-prompt"
"""Stands in a pair for the prompting arm that solved most of dev."""


@dataclass
class Arm:
    """One arm with its configuration. `state`: waiting, done, or (with a reason) refused or failed."""

    name: str
    title: str
    method: str
    after: str
    config: Config
    state: str = "waiting"
    reason: str = ""

    @property
    def record(self) -> dict[str, Any]:
        after = [self.after] if self.after else []
        return {
            "name": self.name,
            "title": self.title,
            "method": self.method,
            "rewarded": self.method in ALGORITHMS and ALGORITHMS[self.method].rewarded,
            "folder": self.name,
            "after": after,
            "state": self.state,
            "reason": self.reason,
        }


def tests(arm: Arm) -> list[dict[str, Any]]:
    """The evaluations of this arm on test: none before it is finished."""
    summary = read_summary(Path(arm.config.run.output_dir))
    return [entry for entry in summary.get("evaluations", []) if entry["split"] == "test"]


def plan_study(config: Config) -> list[Arm]:
    """All arms in an order that respects their dependencies.

    Raises `InputError` for a study without arms, an unknown arm or a cycle.
    """
    arms = config.study.arms
    if not arms:
        raise InputError("the study has no arms: give --preset nano, or study.arms.NAME.method=... in a file")
    ordered: list[str] = []
    for name in arms:
        _visit(check_name(name), arms, ordered, ())
    root = Path(config.run.output_dir)
    return [_arm(config, root, name, arms[name]) for name in ordered]


def choose(arms: Sequence[Arm], only: Sequence[str]) -> list[Arm]:
    """The arms named in `only` and what they start from, in order; all of them when `only` is empty."""
    by_name = {arm.name: arm for arm in arms}
    wanted: set[str] = set()
    for name in only or by_name:
        _known(name, by_name, "--arm")
        while name:
            wanted.add(name)
            name = by_name[name].after
    return [arm for arm in arms if arm.name in wanted]


def declared_pairs(config: Config, arms: Sequence[Arm]) -> list[list[str]]:
    """The family of comparisons: `study.pairs`, or each trained arm with the best prompt, with its start, and
    with each that differs from it in one factor."""
    if config.study.pairs:
        pairs = [pair.split(":") for pair in config.study.pairs]
        for pair in pairs:
            if len(pair) != 2:
                raise InputError(f"study.pairs: {':'.join(pair)} is not 'a:b'")
            for name in pair:
                if name != BEST_PROMPT:
                    _known(name, {arm.name: arm for arm in arms}, "study.pairs")
        return pairs
    trained = [arm for arm in arms if arm.method != "prompt"]
    siblings = [
        [b.name, a.name] for a, b in combinations(trained, 2) if sum(map(ne, _factors(a), _factors(b))) == 1
    ]
    starts = [[arm.name, arm.after] for arm in trained if arm.after]
    return [[arm.name, BEST_PROMPT] for arm in trained] + starts + siblings


def _factors(arm: Arm) -> tuple[str, ...]:
    """Method, adapter, data variant and start of an arm."""
    return arm.method, arm.config.peft.method, arm.config.data.variant, arm.after


def _known(name: str, arms: dict[str, Any], where: str) -> None:
    if name not in arms:
        hint = nearest(name, arms.keys()) or f" (arms: {', '.join(arms)})"
        raise InputError(f"{where}: there is no arm {name}{hint}")


def _arm(config: Config, root: Path, name: str, arm: ArmConfig) -> Arm:
    """The study's configuration with the arm's own settings on top, in a folder of its own."""
    base = {**config.to_dict(), "study": asdict(StudyConfig())}
    own = build_config(
        [(base, {}), (arm.set, {key: f"study.arms.{name}.set" for key in _keys(arm.set)})], config.preset
    )
    own.run.output_dir = str(root / name)
    if arm.init:
        own.model.model_name_or_path = str(root / arm.init)
    return Arm(name, arm.title or name, arm.method, arm.init, own)


def _keys(layer: dict[str, Any], prefix: str = "") -> list[str]:
    return [prefix + key for key in layer] + [
        path
        for key, value in layer.items()
        if isinstance(value, dict)
        for path in _keys(value, f"{prefix}{key}.")
    ]


def shadowed(config: Config, overrides: Sequence[str]) -> None:
    """Refuse a command-line setting that every arm replaces by its own value, since it would do nothing."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        owners = [name for name, arm in config.study.arms.items() if key in _keys(arm.set)]
        if owners and not key.startswith("study."):
            raise InputError(
                f"{key} is set by the arms themselves ({', '.join(owners)}). "
                f"Write study.arms.{owners[0]}.set.{key}=..."
            )


def _visit(name: str, arms: dict[str, ArmConfig], ordered: list[str], path: tuple[str, ...]) -> None:
    """Depth-first: what an arm starts from stands before it."""
    if name in path:
        raise InputError(
            f"the arms start from one another in a circle: {' -> '.join([*path[path.index(name) :], name])}"
        )
    if name in ordered:
        return
    if init := arms[name].init:
        _known(init, arms, f"study.arms.{name}.init")
        _visit(init, arms, ordered, (*path, name))
    ordered.append(name)
