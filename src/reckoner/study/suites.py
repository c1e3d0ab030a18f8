"""The further sets of a study: declared and checked before anything runs, opened once by every arm."""

from __future__ import annotations

from collections.abc import Sequence

from reckoner.config import Config
from reckoner.errors import InputError
from reckoner.evaluation.session import load_problems, suite_config, suite_label
from reckoner.machine import say_once
from reckoner.nano import question_hash
from reckoner.runs.folder import Run
from reckoner.runs.records import Problem, write_json
from reckoner.tasks.overlap import NGRAM, Known


def declare_suites(study: Run, trained: Sequence[Config]) -> None:
    """Read every set that the study names, and note the names in suites.json.

    Raises `InputError` where a set cannot be read, has the name of another, or holds test questions that one
    of the `trained` configurations learns: it would measure memory. Questions that are nearly those of train
    are told.
    """
    names = {kind: getattr(study.config.study, kind) for kind in ("suites", "forgetting")}
    if not any(names.values()):
        return
    train = {problem.question for config in trained for problem in _train(config)}
    learnt, known = {question_hash(question) for question in train}, Known.of(train)
    labels: list[str] = []
    for name in (name for several in names.values() for name in several):
        problems = load_problems(suite_config(study.config, name), "test")
        shared = sum(question_hash(problem.question) in learnt for problem in problems)
        if shared:
            raise InputError(
                f"study.suites: {shared:,} of {len(problems):,} questions of {name} stand in the train data. "
                "Leave the set out, or take them out of one"
            )
        found = known.overlap(problems)
        if near := len({*found.ngram, *found.masked}):
            say_once(
                f"study.suites: {near:,} of {len(problems):,} questions of {name} are nearly train questions "
                f"(at least half of their {NGRAM}-word sequences, or the same words with other numbers), so "
                "what is learnt of them may be memory"
            )
        if (label := suite_label(name)) in (*labels, "dev", "test"):
            raise InputError(f"study.suites: two sets are called {label}")
        labels.append(label)
    noted = {kind: [suite_label(name) for name in several] for kind, several in names.items()}
    write_json(study.folder / "suites.json", noted)


def _train(config: Config) -> Sequence[Problem]:
    try:
        return load_problems(config, "train")
    except InputError:
        return []  # the arm will be refused with this reason
