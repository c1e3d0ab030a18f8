"""Equal search: the same number of trials for every trained arm of a study, on dev only, before the study.

Searched is the learning rate, over a factor of `SPAN` below and above the arm's own, which is the first
trial. Optuna proposes the others (TPE, seeded by run.seed, the arm and the trial) and prunes a trial whose
dev score is below the median of the earlier ones at the same evaluation. Trials lie in `tune/ARM/trial-N` of
the study, the search in `tune/search.db` (SQLite), the result in `tune/record.json`. The same command goes on
after a kill, and commands with other arms may run side by side. An arm's trials start from the best trial of
the arm that it starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reckoner.algorithms import ALGORITHMS
from reckoner.config import Config
from reckoner.engine.optim import NonFinite
from reckoner.errors import InputError, require
from reckoner.runs.documents import Searched, TuneRecord
from reckoner.runs.folder import Progress, silent, stream_seed
from reckoner.runs.integrity import read_tune_record, tune_digest
from reckoner.runs.records import read_json_lines, write_json
from reckoner.study.arms import ArmRun, plan_study
from reckoner.training.metrics import NothingToLearn

SPAN = 10.0


class Pruned(Exception):
    """A trial that is worse than the others so far; it ends here."""


def tune(
    config: Config,
    trials: int,
    only: Sequence[str] = (),
    progress: Callable[[str], Progress] = lambda arm: silent,
) -> TuneRecord:
    """Search every trained arm, or those of `only`, with `trials` trials; returns the record of all.

    Raises `InputError` without Optuna, for an arm that is not there or does not train, for one whose start is
    not searched yet, for an arm that was searched with other settings, and for a record that was edited.
    """
    require("optuna", "tune")
    one_seed = replace(config, study=replace(config.study, seeds=1, controls=False))
    trained = [arm for arm in plan_study(one_seed) if arm.method in ALGORITHMS]
    names = [arm.name for arm in trained]
    if odd := [name for name in only if name not in names] or ["study.arms"] * (not trained):
        raise InputError(f"tune: {odd[0]} trains nothing. Arms that do: {', '.join(names) or 'none'}")
    folder = Path(config.run.output_dir)
    root = folder / "tune"
    root.mkdir(parents=True, exist_ok=True)
    record = read_tune_record(folder) or TuneRecord(seed=config.run.seed, span=SPAN, arms={}, digest="")
    for arm in trained:
        if arm.name in record["arms"]:
            _refuse_others(arm, root, record["arms"][arm.name].get("settings"))
    for arm in (arm for arm in trained if not only or arm.name in only):
        if arm.after and arm.after not in record["arms"]:
            raise InputError(
                f"tune: {arm.name} starts from {arm.after}, which is not searched. Search it first"
            )
        best = record["arms"][arm.after]["best"] if arm.after else ""
        start = str(root / arm.after / best) if arm.after else ""
        found = _search(arm, start, root, trials, config.run.seed, progress(f"tune {arm.name}"))
        record = read_tune_record(folder) or record  # another command may have searched another arm meanwhile
        record["arms"][arm.name] = found
        record["digest"] = tune_digest(record)
        write_json(root / "record.json", record)
    return record


def _settings(arm: ArmRun) -> str:
    """The digest of an arm's settings without its rate, and with the name of its start for that folder."""
    own = arm.config
    model = replace(own.model, model_name_or_path=arm.after or own.model.model_name_or_path)
    return replace(own, model=model, train=replace(own.train, learning_rate=1.0)).digest()


def _refuse_others(arm: ArmRun, root: Path, known: str | None) -> None:
    if known != _settings(arm):
        raise InputError(
            f"{root}: {arm.name} was searched with other settings (its learning rate aside). Put them back, "
            "or use another run.output_dir"
        )


def apply_record(config: Config, record: TuneRecord) -> dict[str, int]:
    """Give each arm its best rate; returns the trials of every trained arm.

    Raises `InputError` for an arm that the study no longer has.
    """
    if gone := [name for name in record["arms"] if name not in config.study.arms]:
        raise InputError(
            f"tune/record.json has a rate for {gone[0]}, which is no arm of this study. Search again in "
            "another run.output_dir"
        )
    for name, found in record["arms"].items():
        own = config.study.arms[name]
        own.set = {**own.set, "train": {**own.set.get("train", {}), "learning_rate": found["learning_rate"]}}
    return {
        name: len(record["arms"][name]["tried"]) if name in record["arms"] else 0
        for name, arm in config.study.arms.items()
        if arm.method in ALGORITHMS
    }


def _search(arm: ArmRun, start: str, root: Path, trials: int, seed: int, on_progress: Progress) -> Searched:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = arm.config.train.learning_rate
    study = optuna.create_study(
        storage=f"sqlite:///{root / 'search.db'}",
        study_name=arm.name,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
    )
    if not study.trials:
        study.set_user_attr("settings", _settings(arm))
    _refuse_others(arm, root, study.user_attrs.get("settings"))
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    for trial in study.trials:
        if not trial.state.is_finished():
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # a killed command left it
    space = {"learning_rate": optuna.distributions.FloatDistribution(own / SPAN, own * SPAN, log=True)}
    while (done := sum(trial.state in ended for trial in study.trials)) < trials:
        on_progress("trials", done, trials, "")
        study.sampler = optuna.samplers.TPESampler(seed=stream_seed(seed, f"tune {arm.name}", done) % 2**32)
        if not done:
            study.enqueue_trial({"learning_rate": own})
        trial = study.ask(space)
        folder = root / arm.name / f"trial-{trial.number}"
        try:
            study.tell(trial, _train(arm, start, folder, trial))
        except Pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    finished = [trial for trial in study.trials if trial.state in ended]
    tried: list[dict[str, Any]] = [
        {"learning_rate": one.params["learning_rate"], "dev": one.value, "pruned": one.state == ended[1]}
        for one in finished
    ]
    best = study.best_trial
    on_progress("done", trials, trials, f"rate {best.params['learning_rate']:.3g}, dev {best.value:.3f}")
    return {
        "settings": _settings(arm),
        "learning_rate": best.params["learning_rate"],
        "dev": float(best.value or 0.0),
        "best": f"trial-{best.number}",
        "tried": tried,
    }


def _train(arm: ArmRun, start: str, folder: Path, trial: Any) -> float:
    """Train one trial; returns its best share of dev solved, 0 where nothing could be learnt."""
    own = arm.config
    model = replace(own.model, model_name_or_path=start) if start else own.model
    config = replace(
        own,
        model=model,
        run=replace(own.run, output_dir=str(folder)),
        train=replace(own.train, learning_rate=trial.params["learning_rate"]),
    )
    seen = 0

    def watch(phase: str, done: int, total: int, note: str) -> None:
        nonlocal seen
        if phase != "dev" or not note:  # a note comes once, when an evaluation of dev is logged
            return
        scores = _dev_scores(folder)
        for step, score in enumerate(scores[seen:], seen):
            trial.report(score, step)
        if len(scores) > seen and trial.should_prune():
            raise Pruned
        seen = len(scores)

    try:
        ALGORITHMS[arm.method].train(config, watch)
    except (NonFinite, NothingToLearn):
        return 0.0
    return max(_dev_scores(folder), default=0.0)


def _dev_scores(folder: Path) -> list[float]:
    """The share of dev solved at each evaluation of a run so far."""
    path = folder / "metrics.jsonl"
    lines = (line for _, line in read_json_lines(path)) if path.is_file() else ()
    return [line["dev_strict"] / line["dev_n"] for line in lines if line.get("dev_n")]
