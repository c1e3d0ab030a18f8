"""A study: arms with dependencies, each a run folder, run in order and resumable; then one report.

An arm that cannot run (no data for it, a model that does not fit its prompt) is refused with its reason, the arms that
start from it too, and the rest goes on. What is finished is never done again: an arm is finished when its run says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reckoner.config import ArmConfig, Config, ModelConfig, PeftConfig, StudyConfig, build_config
from reckoner.engine.optim import NonFinite
from reckoner.evaluate import (
    evaluate,
    finished_evaluation,
    load_problems,
    make_prompt,
    solution_lengths,
    token_limit,
)
from reckoner.faults import InputError
from reckoner.models.policy import load_policy
from reckoner.runs import Progress, Run, check_name, silent, write_json

BEST_PROMPT = "best-prompt"
"""Stands in a pair for the prompting arm that solved most of dev."""

PROMPTING_SPLITS, TRAINED_SPLITS = ("dev", "test"), ("test",)
"""Prompts are compared on dev and all shown on test; a trained arm was watched on dev while it trained."""


@dataclass
class Arm:
    """One arm with its whole configuration. `state`: waiting, done, refused or failed, the last two with a reason."""

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
        return {"name": self.name, "title": self.title, "method": self.method, "folder": self.name, "after": after, "state": self.state, "reason": self.reason}


def plan_study(config: Config, only: Sequence[str] = ()) -> list[Arm]:
    """The arms in an order that respects their dependencies; `only` keeps those named and what they start from.

    Raises `InputError` for a study without arms, an unknown arm, a cycle, or a setting that an arm overrides.
    """
    arms = config.study.arms
    if not arms:
        raise InputError("the study has no arms: give --preset nano, or study.arms.NAME.method=... in a file")
    for name in only:
        _known(name, arms, "--arm")
    ordered: list[str] = []
    for name in only or arms:
        _visit(check_name(name), arms, ordered, ())
    root = Path(config.run.output_dir)
    return [_arm(config, root, name, arms[name]) for name in ordered]


def run_study(config: Config, arms: Sequence[Arm], command: str, progress: Callable[[str], Progress] = lambda arm: silent) -> Path:
    """Run every arm that is not finished, keep study.json up to date, and return the study folder."""
    with Run.open(config) as study:
        limit = _same_token_limit(config, arms)
        _write_record(study, arms, command)
        for arm in arms:
            arm.config.eval.max_new_tokens = limit
            blocked = next((a for a in arms if a.name == arm.after and a.state != "done"), None)
            if blocked:
                arm.state, arm.reason = "refused", f"it starts from {blocked.name}, which was {blocked.state}"
            else:
                _run_arm(arm, progress(arm.name))
            _write_record(study, arms, command)
        return study.folder


def _run_arm(arm: Arm, on_progress: Progress) -> None:
    """Train if the arm trains, evaluate what is not evaluated, and set its state."""
    try:
        if arm.method == "sft":
            from reckoner.algorithms import sft

            sft.train(arm.config, on_progress)
        _evaluate_arm(arm, on_progress)
        arm.state = "done"
    except InputError as error:
        arm.state, arm.reason = "refused", str(error)
    except NonFinite as error:
        arm.state, arm.reason = "failed", str(error)


def _evaluate_arm(arm: Arm, on_progress: Progress) -> None:
    with Run.open(arm.config) as run:
        splits = PROMPTING_SPLITS if arm.method == "prompt" else TRAINED_SPLITS
        missing = [split for split in splits if finished_evaluation(run, split) is None]
        if not missing:
            return
        trained = arm.method != "prompt"
        model = ModelConfig(**{**asdict(arm.config.model), "model_name_or_path": str(run.folder)}) if trained else arm.config.model
        policy = load_policy(model, PeftConfig(), train=False)
        for split in missing:
            evaluate(run, policy, split, on_progress)


def _same_token_limit(config: Config, arms: Sequence[Arm]) -> int:
    """One max_new_tokens for all arms: what the longest of their variants needs (PROTOCOL line 8)."""
    policy = load_policy(config.model, PeftConfig(), train=False)
    needed = []
    for variant in sorted({arm.config.data.variant for arm in arms}):
        arm = next(arm for arm in arms if arm.config.data.variant == variant)
        try:
            problems = load_problems(arm.config, "train")
        except InputError:
            continue  # the arms of this variant will be refused with this reason
        needed.append(token_limit(config, solution_lengths(policy, make_prompt(arm.config, policy), problems)))
    return max(needed, default=0)


def declared_pairs(config: Config, arms: Sequence[Arm]) -> list[list[str]]:
    """The family of comparisons: `study.pairs`, or each trained arm with the best prompt and each pair that differs in one factor."""
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
    siblings = [[b.name, a.name] for i, a in enumerate(trained) for b in trained[i + 1 :] if _factors(a, b) == 1]
    return [[arm.name, BEST_PROMPT] for arm in trained] + siblings


def _factors(a: Arm, b: Arm) -> int:
    """In how many of method, adapter, data variant and start two arms differ."""
    return sum(
        x != y
        for x, y in (
            (a.method, b.method),
            (a.config.peft.method, b.config.peft.method),
            (a.config.data.variant, b.config.data.variant),
            (a.after, b.after),
        )
    )


def _write_record(study: Run, arms: Sequence[Arm], command: str) -> None:
    config = study.config
    write_json(
        study.folder / "study.json",
        {
            "name": config.study.name or study.folder.name,
            "preset": config.preset,
            "seed": config.run.seed,
            "model": config.model.model_name_or_path,
            "command": command,
            "arms": [arm.record for arm in arms],
            "pairs": declared_pairs(config, arms),
        },
    )


def _visit(name: str, arms: dict[str, ArmConfig], ordered: list[str], path: tuple[str, ...]) -> None:
    """Depth-first: what an arm starts from stands before it."""
    if name in path:
        raise InputError(f"the arms start from one another in a circle: {' -> '.join([*path[path.index(name) :], name])}")
    if name in ordered:
        return
    if init := arms[name].init:
        _known(init, arms, f"study.arms.{name}.init")
        _visit(init, arms, ordered, (*path, name))
    ordered.append(name)


def _known(name: str, arms: dict[str, Any], where: str) -> None:
    if name not in arms:
        near = difflib.get_close_matches(name, arms, n=1)
        hint = f" (did you mean {near[0]}?)" if near else f" (arms: {', '.join(arms)})"
        raise InputError(f"{where}: there is no arm {name}{hint}")


def _arm(config: Config, root: Path, name: str, arm: ArmConfig) -> Arm:
    """The study's configuration with the arm's own settings on top, in a folder of its own."""
    base = {**config.to_dict(), "study": asdict(StudyConfig())}
    own = build_config([(base, {}), (arm.set, {key: f"study.arms.{name}.set" for key in _keys(arm.set)})], config.preset)
    own.run.output_dir = str(root / name)
    if arm.init:
        own.model.model_name_or_path = str(root / arm.init)
    return Arm(name, arm.title or name, arm.method, arm.init, own)


def _keys(layer: dict[str, Any], prefix: str = "") -> list[str]:
    return [prefix + key for key in layer] + [path for key, value in layer.items() if isinstance(value, dict) for path in _keys(value, f"{prefix}{key}.")]


def shadowed(config: Config, overrides: Sequence[str]) -> None:
    """Refuse a command-line setting that every arm replaces by its own value, since it would do nothing."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        owners = [name for name, arm in config.study.arms.items() if key in _keys(arm.set)]
        if owners and not key.startswith("study."):
            raise InputError(f"{key} is set by the arms themselves ({', '.join(owners)}). Write study.arms.{owners[0]}.set.{key}=...")
