"""One arm of a study, from its start to its evaluation on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reckoner.algorithms import ALGORITHMS
from reckoner.config import PeftConfig
from reckoner.engine.optim import NonFinite
from reckoner.errors import InputError
from reckoner.evaluation.evaluate import evaluate
from reckoner.evaluation.sample import note_backend
from reckoner.evaluation.session import finished_evaluation, suite_config, suite_label
from reckoner.models.policy import load_policy
from reckoner.runs.folder import Progress, Run
from reckoner.runs.records import logged_numbers, read_json_lines
from reckoner.study.arms import ArmRun, samples_split
from reckoner.tracking import reporting
from reckoner.training.metrics import NothingToLearn

PROMPTING_SPLITS, TRAINED_SPLITS = ("dev", "test"), ("test",)
"""Prompts are compared on dev and all shown on test; a trained arm was watched on dev while it trained."""


class Pruned(Exception):
    """A trial that is worse than those of earlier rounds; it ends here."""


def run_arm(arm: ArmRun, on_progress: Progress) -> None:
    """Train if the arm trains, evaluate what is not evaluated, and set its state.

    `eval.max_new_tokens` must be the limit of the whole study. A trial of a search trains alone.
    """
    try:
        if arm.bars is not None:
            arm.state = _try(arm, arm.bars, on_progress)
            return
        if arm.method != "prompt":
            with reporting(Path(arm.config.run.output_dir), arm.config.run.report_to):
                ALGORITHMS[arm.method].train(arm.config, on_progress)
        _evaluate(arm, on_progress)
        arm.state = "done"
    except InputError as error:
        arm.state, arm.reason = "refused", str(error)
    except (NonFinite, NothingToLearn) as error:
        arm.state, arm.reason = "failed", str(error)


def _try(arm: ArmRun, bars: Sequence[float], on_progress: Progress) -> str:
    """Train a trial; returns "done", or "pruned" where it fell below the bars."""
    folder = Path(arm.config.run.output_dir)

    def prune() -> None:
        scores = dev_scores(folder)
        if any(max(scores[: at + 1]) < bar for at, (bar, _) in enumerate(zip(bars, scores, strict=False))):
            raise Pruned

    def watch(phase: str, done: int, total: int, note: str = "") -> None:
        on_progress(phase, done, total, note)
        if phase == "dev" and note:  # a note comes once, when an evaluation of dev is logged
            prune()

    try:
        prune()
        ALGORITHMS[arm.method].train(arm.config, watch)
    except Pruned:
        return "pruned"
    return "done"


def dev_scores(folder: Path) -> list[float]:
    """The share of dev solved at each evaluation of a run so far."""
    path = folder / "metrics.jsonl"
    lines = (logged_numbers(line, str(path)) for _, line in read_json_lines(path)) if path.is_file() else ()
    return [line["dev_strict"] / line["dev_n"] for line in lines if "dev_n" in line]


def _evaluate(arm: ArmRun, on_progress: Progress) -> None:
    config, study = arm.config, arm.config.study
    with Run.open(config) as run:
        splits = PROMPTING_SPLITS if arm.method == "prompt" else TRAINED_SPLITS
        missing = [split for split in splits if finished_evaluation(run, split) is None]
        others = [suite_config(config, name) for name in (*study.suites, *study.forgetting)]
        others = [one for one in others if finished_evaluation(run, suite_label(one.data.suite)) is None]
        samples = samples_split(study)
        drawn = not samples or finished_evaluation(run, samples) is not None
        if not missing and not others and drawn:
            return
        model, limit = config.model, config.eval.max_new_tokens
        if arm.method != "prompt":
            model = replace(model, model_name_or_path=str(run.folder))
        policy = load_policy(model, PeftConfig(), train=False)
        note_backend(run, policy, on_progress, trains=False)
        if arm.method == "prompt":
            run.pin(policy.base.pins)
        for split in missing:
            evaluate(run, policy, split, on_progress, limit)
        for other in others:
            evaluate(run, policy, "test", on_progress, limit, other)
        if not drawn:
            temperature = config.eval.temperature or 1.0
            plain = replace(config.eval, temperature=temperature, select="none", refine="")
            sampled = replace(config, eval=replace(plain, num_samples=study.pass_k))
            evaluate(run, policy, "dev", on_progress, limit, sampled, samples, study.pass_k_problems)
