"""Equal search: the same number of trials for every trained arm of a study, on dev only, before the study.

Searched is the learning rate, over a factor of `SPAN` below and above the arm's own, which is the first
trial. Optuna proposes the others (TPE, seeded by run.seed, the arm and the trial). The trials of a round do
not depend on one another: whatever `study.engine` names may run them at once, with the same results. A trial
ends early where its best dev score is below the median of the earlier rounds at the same evaluation. Trials
lie in `tune/ARM/trial-N` of the study, what came of them in `tune/ARM/search.json`, the result in
`tune/record.json`. The same command goes on after a kill, and commands with other arms may run side by side.
An arm's trials start from the best trial of the arm that it starts from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from reckoner.algorithms import ALGORITHMS
from reckoner.config import Config
from reckoner.errors import InputError, require
from reckoner.runs.documents import Search, Searched, Trial, TuneRecord
from reckoner.runs.folder import Progress, lock_folder, silent, stream_seed
from reckoner.runs.integrity import read_tune_record, tune_digest
from reckoner.runs.records import read_json, write_json
from reckoner.study.arms import ArmRun, plan_study
from reckoner.study.execute import dev_scores
from reckoner.study.runner import Runner, runner

SPAN = 10.0

ROUND = 4
"""Trials of an arm that may run at once: each depends on earlier rounds alone."""


def tune(
    config: Config,
    trials: int,
    only: Sequence[str] = (),
    progress: Callable[[str], Progress] = lambda arm: silent,
) -> TuneRecord:
    """Search every trained arm, or those of `only`, with `trials` trials; returns the record of all.

    What `study.engine` names runs the trials, `study.jobs` at once. Raises `InputError` without Optuna, for
    an arm that is not there or does not train, for one whose start is not searched yet, for an arm that was
    searched with other settings or cannot run, and for a record that was edited.
    """
    require("optuna", "tune")
    one_seed = replace(config, study=replace(config.study, seeds=1, controls=False))
    trained = [arm for arm in plan_study(one_seed) if arm.method in ALGORITHMS]
    names = [arm.name for arm in trained]
    if odd := [name for name in only if name not in names] or ["study.arms"] * (not trained):
        raise InputError(f"tune: {odd[0]} trains nothing. Arms that do: {', '.join(names) or 'none'}")
    folder = Path(config.run.output_dir)
    record = read_tune_record(folder) or TuneRecord(seed=config.run.seed, span=SPAN, arms={}, digest="")
    for arm in trained:
        if arm.name in record["arms"]:
            _refuse_others(arm, folder / "tune", record["arms"][arm.name].get("settings"))
    chosen = [arm for arm in trained if not only or arm.name in only]
    known = {*record["arms"], *(arm.name for arm in chosen)}
    for arm in chosen:
        if arm.after and arm.after not in known:
            raise InputError(
                f"tune: {arm.name} starts from {arm.after}, which is not searched. Search it first"
            )
    searches = [
        _Search(arm, folder / "tune", trials, config.run.seed, progress(f"tune {arm.name}"))
        for arm in chosen
        if arm.name not in record["arms"] or len(record["arms"][arm.name]["tried"]) < trials
    ]
    with ExitStack() as locks:
        for search in searches:
            locks.callback(os.close, lock_folder(search.folder))
            search.read()
        return _run(config, searches, record, names) if searches else record


def _run(config: Config, searches: Sequence[_Search], record: TuneRecord, names: Sequence[str]) -> TuneRecord:
    """Run the trials of all searches as there is room, and note each search that is over in the record."""
    folder, left = Path(config.run.output_dir), list(searches)
    first = [search.trial(number) for search in left for number in range(min(ROUND, search.trials))]
    with runner(config, first) as workers:
        while left:
            for search in [search for search in left if search.over]:
                left.remove(search)
                record = read_tune_record(folder) or record  # another command may have searched another arm
                found = {**record["arms"], search.arm.name: search.found()}
                record["arms"] = {name: found[name] for name in names if name in found}
                record["digest"] = tune_digest(record)
                write_json(folder / "tune" / "record.json", record)
            waiting = {search.arm.name for search in left}
            for search in left:
                if search.arm.after not in waiting:
                    search.start(workers, record)
            if workers.at_work:
                ended = workers.wait()
                next(search for search in left if ended.label in search.at_work).end(ended)
    return record


@dataclass
class _Search:
    """The search of one arm: what came of its trials, by number, and those that are at work, by label."""

    arm: ArmRun
    root: Path
    trials: int
    seed: int
    on_progress: Progress
    ended: dict[int, Trial] = field(default_factory=dict)
    at_work: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.root / self.arm.name

    @property
    def over(self) -> bool:
        return not self.at_work and all(number in self.ended for number in range(self.trials))

    def read(self) -> None:
        """Know what an earlier command tried. Raises `InputError` where that had other settings."""
        path = self.folder / "search.json"
        if path.is_file():
            known: Search = read_json(path, Search)
            _refuse_others(self.arm, self.root, known["settings"])
            self.ended = {trial["number"]: trial for trial in known["trials"]}

    def start(self, workers: Runner, record: TuneRecord) -> None:
        """Start the trials for which there is room, of a round whose earlier ones have all ended."""
        self.on_progress("trials", len(self.ended), self.trials, "")
        for number in range(self.trials):
            if number in self.ended or number in self.at_work.values():
                continue
            if any(before not in self.ended for before in range(number - number % ROUND)):
                return
            best = record["arms"][self.arm.after]["best"] if self.arm.after else ""
            trial = self.trial(number, str(self.root / self.arm.after / best) if best else "")
            if not workers.room(trial):
                return
            self.at_work[trial.label] = number
            workers.start(trial, self._pass_on)

    def _pass_on(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Of a trial only what was lost is said: it is one step of the search."""
        if phase == "lost":
            self.on_progress(phase, done, total, note)

    def end(self, trial: ArmRun) -> None:
        """Note what came of a trial. Raises `InputError` for one that cannot run."""
        if trial.state == "refused":
            raise InputError(f"tune: {trial.reason}")
        number, scores = self.at_work.pop(trial.label), dev_scores(Path(trial.config.run.output_dir))
        worth = {"done": max(scores, default=0.0), "pruned": scores[-1] if scores else 0.0, "failed": 0.0}
        self.ended[number] = Trial(
            number=number,
            learning_rate=trial.config.train.learning_rate,
            dev=worth[trial.state],
            pruned=trial.state == "pruned",
            scores=scores,
        )
        known = [self.ended[number] for number in sorted(self.ended)]
        write_json(self.folder / "search.json", Search(settings=_settings(self.arm), trials=known))
        self.on_progress("trials", len(self.ended), self.trials, "")

    def trial(self, number: int, start: str = "") -> ArmRun:
        """The run of a trial, which trains the model folder `start` where the arm starts from another."""
        own, name = self.arm.config, f"trial-{number}"
        earlier = [self.ended[n] for n in range(number - number % ROUND) if n in self.ended]
        config = replace(
            own,
            model=replace(own.model, model_name_or_path=start or own.model.model_name_or_path),
            run=replace(own.run, output_dir=str(self.folder / name)),
            train=replace(own.train, learning_rate=self._rate(number, earlier)),
        )
        return replace(self.arm, name=f"tune/{self.arm.name}/{name}", config=config, bars=_bars(earlier))

    def _rate(self, number: int, earlier: Sequence[Trial]) -> float:
        """The arm's own rate for the first trial, then what Optuna proposes after the `earlier` ones."""
        import optuna

        own = self.arm.config.train.learning_rate
        if not number:
            return own
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        rates = optuna.distributions.FloatDistribution(own / SPAN, own * SPAN, log=True)
        draw = stream_seed(self.seed, f"tune {self.arm.name}", number) % 2**32
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=draw))
        for trial in earlier:
            if rates.low <= trial["learning_rate"] <= rates.high:  # the arm may have got another rate since
                study.add_trial(
                    optuna.trial.create_trial(
                        params={"learning_rate": trial["learning_rate"]},
                        distributions={"learning_rate": rates},
                        value=trial["dev"],
                    )
                )
        rate: float = study.ask({"learning_rate": rates}).params["learning_rate"]
        return rate

    def found(self) -> Searched:
        """What the search found; of equal trials the first."""
        trials = [self.ended[number] for number in sorted(self.ended)]
        best = max((trial for trial in trials if not trial["pruned"]), key=lambda trial: trial["dev"])
        found = f"rate {best['learning_rate']:.3g}, dev {best['dev']:.3f}"
        self.on_progress("done", self.trials, self.trials, found)
        return {
            "settings": _settings(self.arm),
            "learning_rate": best["learning_rate"],
            "dev": best["dev"],
            "best": f"trial-{best['number']}",
            "tried": [
                {"learning_rate": trial["learning_rate"], "dev": trial["dev"], "pruned": trial["pruned"]}
                for trial in trials
            ],
        }


def _bars(earlier: Sequence[Trial]) -> list[float]:
    """The median score of `earlier` trials at each evaluation, without those that ended early."""
    logs = [trial["scores"] for trial in earlier if not trial["pruned"]]
    return [median(log[at] for log in logs if len(log) > at) for at in range(max(map(len, logs), default=0))]


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
