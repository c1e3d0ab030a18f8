"""A study: arms with dependencies, each a run folder, run in order and resumable; then one report.

An arm that cannot run (no data for it, a model that does not fit its prompt) is refused with its reason, the arms that
start from it too, and the rest goes on. What is finished is never done again: an arm is finished when its run says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reckoner.arms import Arm, declared_pairs
from reckoner.config import Config, ModelConfig, PeftConfig
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
from reckoner.monitor import NothingToLearn
from reckoner.runs import Progress, Run, read_json, silent, write_json

PROMPTING_SPLITS, TRAINED_SPLITS = ("dev", "test"), ("test",)
"""Prompts are compared on dev and all shown on test; a trained arm was watched on dev while it trained."""


def run_study(
    config: Config,
    arms: Sequence[Arm],
    chosen: Sequence[Arm],
    command: str,
    progress: Callable[[str], Progress] = lambda arm: silent,
) -> Path:
    """Run every chosen arm that is not finished, keep study.json up to date for all, and return the study folder.

    Raises `InputError` when no arm of the study could run, with the reason of the first.
    """
    with Run.open(config) as study:
        limit = _same_token_limit(config, arms)
        for arm in arms:
            arm.config.eval.max_new_tokens = limit
            arm.state = "done" if _finished(arm) else "waiting"
        _write_record(study, arms, command)
        for arm in chosen:
            on_progress = progress(arm.name)
            blocked = next((a for a in arms if a.name == arm.after and a.state != "done"), None)
            if blocked:
                arm.state, arm.reason = "refused", f"it starts from {blocked.name}, which was {blocked.state}"
            else:
                _run_arm(arm, on_progress)
            on_progress("done", 0, 0, _outcome(arm))
            _write_record(study, arms, command)
        if all(arm.state in ("refused", "failed") for arm in chosen):
            raise InputError(f"no arm of the study could run. {chosen[0].name}: {chosen[0].reason}")
        return study.folder


def _tests(arm: Arm) -> list[dict[str, Any]]:
    """The evaluations of this arm on test."""
    summary = read_json(Path(arm.config.run.output_dir) / "summary.json", missing={})
    return [entry for entry in summary.get("evaluations", []) if entry["split"] == "test"]


def _finished(arm: Arm) -> bool:
    """Whether an earlier sitting has evaluated this arm on test."""
    return bool(_tests(arm))


def _outcome(arm: Arm) -> str:
    """How an arm ended, in a few words."""
    if arm.state != "done":
        return f"{arm.state}: {arm.reason}"
    return ", ".join(f"{100 * test['strict'] / test['n']:.1f} % of test" for test in _tests(arm))


def _run_arm(arm: Arm, on_progress: Progress) -> None:
    """Train if the arm trains, evaluate what is not evaluated, and set its state."""
    try:
        if arm.method != "prompt":
            trainer(arm.method)(arm.config, on_progress)
        _evaluate_arm(arm, on_progress)
        arm.state = "done"
    except InputError as error:
        arm.state, arm.reason = "refused", str(error)
    except (NonFinite, NothingToLearn) as error:
        arm.state, arm.reason = "failed", str(error)


def trainer(method: str) -> Callable[[Config, Progress], dict[str, Any]]:
    """The training function of "sft", "ppo" or "grpo"."""
    from reckoner.algorithms import grpo, ppo, sft

    return {"sft": sft, "ppo": ppo, "grpo": grpo}[method].train


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
