"""A study: arms with dependencies, each a run folder, run in order or side by side, and resumable.

An arm that cannot run (no data for it, a model that does not fit its prompt) is refused with its reason,
the arms that start from it too, and the rest goes on. What is finished is never done again: an arm is
finished when its run says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch

from reckoner.config import Config, ModelConfig, PeftConfig
from reckoner.errors import InputError, Stopped
from reckoner.evaluation.evaluate import make_prompt
from reckoner.evaluation.limits import dev_limit, limit_warning, solution_lengths, token_limit
from reckoner.evaluation.session import load_problems
from reckoner.models.policy import Policy, load_encoder, load_policy
from reckoner.runs.documents import SEARCHED
from reckoner.runs.folder import Progress, Run, silent
from reckoner.runs.integrity import read_summary
from reckoner.runs.records import write_json
from reckoner.study.arms import ArmRun, arm_records, declared_pairs, samples_split, tests
from reckoner.study.execute import run_arm
from reckoner.study.runner import Runner, runner
from reckoner.study.search import best_prompt
from reckoner.study.suites import declare_suites


def run_study(
    config: Config,
    arms: Sequence[ArmRun],
    chosen: Sequence[ArmRun],
    command: str,
    progress: Callable[[str], Progress] = lambda arm: silent,
    workers: Runner | None = None,
) -> Path:
    """Run every chosen arm that is not finished, keep study.json up to date, and return the study folder.

    `workers` run the arms; without them, what `study.engine` names does. Raises `InputError` when no arm
    of the study could run, with the reason of the first.
    """
    with Run.open(config) as study:
        for arm in arms:
            arm.state = "done" if tests(arm) else "waiting"
        declare_suites(study, [arm.config for arm in arms if arm.method != "prompt"])
        with nullcontext(workers) if workers else runner(config, chosen) as workers:
            for arm in arms:
                if arm.name == SEARCHED:
                    tried = config.study.prompt_search
                    arm.config.prompt = best_prompt(study.folder, arm.config, tried, progress(arm.label))
            limit = _same_token_limit(study, arms, workers.threads, progress)
            for arm in arms:
                arm.config.eval.max_new_tokens = limit
            _write_record(study, arms, command)
            for arm, on_progress in _run(chosen, arms, workers, progress):
                on_progress("done", 0, 0, _outcome(arm))
                _write_record(study, arms, command)
        if all(arm.state in ("refused", "failed") for arm in chosen):
            raise InputError(f"no arm of the study could run. {chosen[0].label}: {chosen[0].reason}")
        return study.folder


def _run(
    chosen: Sequence[ArmRun],
    arms: Sequence[ArmRun],
    workers: Runner,
    progress: Callable[[str], Progress],
) -> Iterator[tuple[ArmRun, Progress]]:
    """Start arms as what they need ends and there is room; yields each that ended, with its callback."""
    waiting = list(chosen)
    callbacks = {arm.label: progress(arm.label) for arm in chosen}
    if workers.count != 1:
        # The short ones last, with fewer exemplars the shorter: they fill what long ones leave at the end.
        waiting.sort(key=lambda arm: (arm.method == "prompt", -arm.config.prompt.shots))
    while waiting or workers.at_work:
        going = {arm.label for arm in (*waiting, *workers.at_work)}
        ready = (arm for arm in waiting if going.isdisjoint(arm.needs) and workers.room(arm))
        arm = next(ready, None)
        if arm is None:
            arm = workers.wait()
            yield arm, callbacks[arm.label]
            continue
        waiting.remove(arm)
        if arm.spends_as:
            arm.config.train.max_tflops = _measured(arms, arm)
        blocked = next((a for a in arms if a.label in arm.needs and a.state != "done"), None)
        if blocked:
            needs = "starts from" if blocked.name == arm.after else "spends as much as"
            arm.state, arm.reason = "refused", f"it {needs} {blocked.label}, which was {blocked.state}"
            yield arm, callbacks[arm.label]
        elif arm.state == "done":
            run_arm(arm, callbacks[arm.label])
            yield arm, callbacks[arm.label]
        else:
            workers.start(arm, callbacks[arm.label])


def _measured(arms: Sequence[ArmRun], control: ArmRun) -> float:
    """10^12 operations that the arm of a control took with the same seed; 0 where it has not finished."""
    of = next(arm for arm in arms if arm.name == control.spends_as and arm.seed == control.seed)
    training = read_summary(Path(of.config.run.output_dir)).get("training")
    return training["flops"] / 1e12 if training else 0.0


def shortfall(arms: Sequence[ArmRun]) -> InputError | Stopped | None:
    """What a finished study ends with: a line for each arm refused or failed; None where all are done.

    A refused arm wants another command (`InputError`), failed ones alone can be resumed (`Stopped`).
    """
    missing = [arm for arm in arms if arm.state in ("refused", "failed")]
    lines = (
        f"arm {arm.label} {'was ' * (arm.state == 'refused')}{arm.state}: {arm.reason}" for arm in missing
    )
    text = "\n".join(line.replace("\n", " ") for line in lines)
    if any(arm.state == "refused" for arm in missing):
        return InputError(text)
    return Stopped(text) if missing else None


def _outcome(arm: ArmRun) -> str:
    """How an arm ended, in a few words."""
    if arm.state != "done":
        return f"{arm.state}: {arm.reason}"
    return ", ".join(f"{100 * test['strict'] / test['n']:.1f} % of test" for test in tests(arm))


def _same_token_limit(
    study: Run, arms: Sequence[ArmRun], threads: int, progress: Callable[[str], Progress]
) -> int:
    """One max_new_tokens for all arms, the largest that one needs (PROTOCOL line 7), whichever of them run.

    For a trained arm it follows from its solutions. An arm that only prompts is asked dev problems before any
    test problem, on the `threads` that it will have, and its limit is noted in the folder of the study.
    Raises `InputError` for a given limit that cuts solutions.
    """
    encoder, needed = load_encoder(study.config.model), []
    for arm in {str(arm.config.problem_source()): arm for arm in arms}.values():
        try:
            problems = load_problems(arm.config, "train")
        except InputError:
            continue  # the arms of these data will be refused with this reason
        lengths = solution_lengths(encoder, make_prompt(arm.config, encoder), problems)
        if warning := limit_warning(arm.config, lengths):
            raise InputError(f"{warning}. A study compares its arms under a limit that all of them can keep")
        needed.append(token_limit(study.config, lengths))
    start = max(needed, default=0)
    if start and not study.config.eval.max_new_tokens:
        load, before = lru_cache(1)(_load), torch.get_num_threads()
        torch.set_num_threads(threads)
        for arm in (arm for arm in arms if arm.method == "prompt" and not arm.after):
            needed.append(_prompt_limit(study.folder, arm, load, start, progress(arm.label)))
        torch.set_num_threads(before)
        del load
        torch.cuda.empty_cache()  # the arms want this memory
    return max(needed, default=0)


def _load(model: str) -> Policy:
    return load_policy(ModelConfig(**json.loads(model)), PeftConfig(), train=False)


def _prompt_limit(
    folder: Path, arm: ArmRun, load: Callable[[str], Policy], start: int, on_progress: Progress
) -> int:
    """What the model of an arm needs for the arm's prompt; 0 where the arm will be refused."""
    config = arm.config

    def policy() -> Policy:
        return load(json.dumps(asdict(config.model)))

    try:
        dev, prompt = load_problems(config, "dev"), make_prompt(config, load_encoder(config.model))
        return dev_limit(folder, arm.name, policy, prompt, dev, start, config.eval, on_progress)
    except InputError:
        return 0


def _write_record(study: Run, arms: Sequence[ArmRun], command: str) -> None:
    config = study.config
    write_json(
        study.folder / "study.json",
        {
            "name": config.study.name or study.folder.name,
            "preset": config.preset,
            "seed": config.run.seed,
            "model": config.model.model_name_or_path,
            "command": command,
            "arms": arm_records(arms),
            "pairs": declared_pairs(config, arms),
            "price_per_hour": config.study.price_per_hour,
            "pass_k": config.study.pass_k,
            "samples": samples_split(config.study),
        },
    )
