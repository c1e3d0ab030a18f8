"""Train a run or study again from its settings, and compare weights and completions with it bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from reckoner.algorithms import ALGORITHMS
from reckoner.config import Config, build_config
from reckoner.errors import InputError
from reckoner.runs.documents import Manifest, StudyRecord
from reckoner.runs.folder import Progress, read_config, silent
from reckoner.runs.integrity import MANIFEST, read_summary
from reckoner.runs.records import read_json
from reckoner.study.arms import ArmRun, plan_study
from reckoner.study.run import run_study
from reckoner.tasks.reward_plugin import refuse_unnamed


def check_rewards(folders: Sequence[Path], named: Sequence[str]) -> None:
    """Compare the reward functions of runs and studies with those that the user named.

    Raises `InputError` for a function that the user did not name, and for a name that nothing there pays by.
    """
    used = {}
    for folder in folders:
        config, arms = _plan(folder)
        used[folder] = {own.rollout.reward for own in (config, *(arm.config for arm in arms))}
    for folder, rewards in used.items():
        refuse_unnamed(rewards, named, Path(folder.name, "config.yaml"), "--reward ")
    if unused := sorted({*named}.difference(*used.values())):
        found = ", ".join(sorted(set().union(*used.values())))
        raise InputError(f"--reward {unused[0]}: nothing in the archive pays by it; it pays by {found}")


def _plan(folder: Path, output_dir: str = "") -> tuple[Config, list[ArmRun]]:
    """The settings of a run or study to be trained in `output_dir` and its arms, kept on this machine.

    Options of a cluster may start programs, trackers send, and data may be fetched.
    """
    config = build_config([(read_config(folder / "config.yaml"), {})])
    config.run.output_dir = output_dir
    config.study.engine, config.study.cluster = "local", {}
    arms = plan_study(config) if (folder / "study.json").is_file() else []
    for own in (config, *(arm.config for arm in arms)):
        own.run.report_to, own.data.local_files_only = [], True
    return config, arms


def retrain(folder: Path, into: Path, progress: Callable[[str], Progress] = lambda arm: silent) -> list[str]:
    """Train what `folder` holds again in `into`; returns the weights and completions that differ.

    Equal bytes need a CPU of the same kind, and the same versions and threads. Call `check_rewards` before.
    Raises `InputError` for a run that trained nothing.
    """
    config, arms = _plan(folder, str(into / folder.name))
    if not arms:
        return _retrain_run(folder, config, progress(folder.name))
    record = read_json(folder / "study.json", StudyRecord)
    done = [arm for arm in arms if (folder / arm.label / MANIFEST).is_file()]
    run_study(config, arms, done, record.get("command") or "", progress)
    return [fault for arm in done for fault in _different(folder / arm.label, into / folder.name / arm.label)]


def _retrain_run(folder: Path, config: Config, on_progress: Progress) -> list[str]:
    method = str(read_summary(folder).get("method"))
    if method not in ALGORITHMS:
        raise InputError(f"{folder.name}: trained nothing that could be trained again")
    ALGORITHMS[method].train(config, on_progress)
    return _different(folder, Path(config.run.output_dir))


def _different(old: Path, new: Path) -> list[str]:
    """Weights and completions whose sha256 in the two manifests differ, of those that both runs have."""
    before, after = (read_json(folder / MANIFEST, Manifest) for folder in (old, new))
    return [
        f"{old.name}/{name}: its bytes differ"
        for name, entry in before.items()
        if name.endswith((".safetensors", ".jsonl")) and name.startswith(("model/", "predictions/"))
        if name in after and after[name] != entry
    ]
