"""Train a run or study again from its settings, and compare weights and completions with it bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reckoner.algorithms import ALGORITHMS
from reckoner.config import Config, build_config
from reckoner.errors import InputError
from reckoner.runs.documents import Manifest, StudyRecord
from reckoner.runs.folder import Progress, read_config, read_summary, silent
from reckoner.runs.integrity import MANIFEST
from reckoner.runs.records import read_json
from reckoner.study.arms import plan_study
from reckoner.study.run import run_study


def retrain(folder: Path, into: Path, progress: Callable[[str], Progress] = lambda arm: silent) -> list[str]:
    """Train what `folder` holds again in `into`; returns the weights and completions that differ.

    Equal bytes need a CPU of the same kind, and the same versions and threads. Raises `InputError` for a run
    that trained nothing.
    """
    config = build_config([(read_config(folder / "config.yaml"), {})])
    config.run.output_dir = str(into / folder.name)
    if not (folder / "study.json").is_file():
        return _retrain_run(folder, config, progress(folder.name))
    record = read_json(folder / "study.json", StudyRecord)
    arms = plan_study(config)
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
