"""Train problems in other words: one model rewords the question, and a solver must still find its gold.

Either is a model that runs here or one on a server. Each answer is on the disk before the next is asked for,
so that the same command goes on after a kill.

Source: MetaMath's rephrased questions (Yu 2023), kept where the answer is the known one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from reckoner.config import Config, PeftConfig
from reckoner.evaluation.endpoint import Answered, EndpointClient, asking
from reckoner.evaluation.evaluate import make_prompt, sampling_of, settings_of
from reckoner.evaluation.predict import DEFAULT_MAX_NEW_TOKENS
from reckoner.evaluation.sample import answers
from reckoner.evaluation.server import Caller
from reckoner.evaluation.session import EvalSession
from reckoner.models.policy import Policy, load_policy
from reckoner.runs.folder import Progress, silent
from reckoner.runs.records import Completion, Problem, dumps, read_records
from reckoner.tasks.answers.grading import grade
from reckoner.tasks.arithmetic import numbers
from reckoner.tasks.overlap import Known, words

REQUEST = (
    "Write the following math problem in other words. Keep its meaning, all numbers in digits as they are, "
    "and what is asked for. Write the new problem alone, in one paragraph, without its solution."
)


@dataclass(frozen=True)
class _Model:
    """Who is asked: what identifies the answers, and how they come."""

    identity: Callable[[Sequence[Problem]], dict[str, Any]]
    ask: Callable[[Sequence[Problem]], Iterator[list[Answered]]]


def paraphrased(
    config: Config, solver: str, parents: Sequence[Problem], beside: Path, on_progress: Progress = silent
) -> tuple[list[Problem], Counter[str]]:
    """At most one paraphrase of each of `parents`, and how many were left out for which reason.

    The model of `config` rewords, and `solver` solves, by name; empty for the same one. With `endpoint.url`
    both are on that server. `beside` is the path next to which the answers are kept until `forget`. Raises
    `Stopped` where a server keeps failing, and `InputError` where it refuses or other settings began.
    """
    config = replace(config, eval=replace(config.eval, num_samples=1, select="none", refine=""))
    asked = replace(config.prompt, template="{question}\nIn other words:", instruction=REQUEST, shots=0)
    solving = replace(config, model=replace(config.model, model_name_or_path=solver)) if solver else config

    @cache
    def policy(name: str) -> Policy:
        return load_policy(replace(config.model, model_name_or_path=name), PeftConfig(), train=False)

    rewording, solved = _parts(beside)
    texts = _answers(rewording, _model(replace(config, prompt=asked), policy), parents, on_progress)
    made, left_out = reworded(parents, {name: one.text for name, one in texts.items()})
    found = _answers(solved, _model(solving, policy), made, on_progress)
    kept = [one for one in made if grade(found[one.id], one).flexible]
    left_out["a paraphrase that the solver does not solve"] = len(made) - len(kept)
    return kept, +left_out


def reworded(parents: Sequence[Problem], texts: dict[str, str]) -> tuple[list[Problem], Counter[str]]:
    """The parents in the words of `texts`, by id, that have the same numbers and are not nearly the same."""
    made, left_out = list[Problem](), Counter[str]()
    for parent in parents:
        text, known = texts[parent.id].strip(), Known.of([parent.question])
        new = replace(parent, id=f"{parent.id}~paraphrase-1", question=text)
        if Counter(numbers(text)) != Counter(numbers(parent.question)) or "\n" in text:
            left_out["a paraphrase with other numbers or lines"] += 1
        elif known.shares(words(text)) or sorted(words(text)) == sorted(words(parent.question)):
            left_out["a paraphrase that is nearly its parent"] += 1
        else:
            made.append(new)
    return made, left_out


def forget(beside: Path) -> None:
    """Remove the answers that were kept next to `beside`."""
    for path in _parts(beside):
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)


def _parts(beside: Path) -> tuple[Path, Path]:
    reworded, solved = (beside.with_name(f".{beside.name}.{name}.jsonl") for name in ("reworded", "solved"))
    return reworded, solved


def _model(config: Config, policy_of: Callable[[str], Policy]) -> _Model:
    if config.endpoint.url:
        caller = Caller(config.endpoint)
        asked = asking(config, caller)
        client = EndpointClient(asked, caller)
        return _Model(asked.identity, lambda some: client.answers([(one, 0) for one in some]))
    policy = policy_of(config.model.model_name_or_path)
    prompt = make_prompt(config, policy)
    sampling = sampling_of(config, policy, prompt, config.eval.max_new_tokens or DEFAULT_MAX_NEW_TOKENS)

    def ask(some: Sequence[Problem]) -> Iterator[list[Answered]]:
        size = 4 * config.eval.batch_size
        for at in range(0, len(some), size):
            piece = some[at : at + size]
            yield [(one.completion, {}) for one in answers(policy, prompt, piece, sampling, config.eval)]

    return _Model(lambda some: settings_of(policy, prompt, sampling, some), ask)


def _answers(
    path: Path, model: _Model, problems: Sequence[Problem], on_progress: Progress
) -> dict[str, Completion]:
    """The answer to each of `problems`, by id; those that are on the disk are not asked for again."""
    session = EvalSession.open(path, model.identity(problems))
    held = {one.problem_id: one for one in read_records(path, Completion)}
    wanted = [one for one in problems if one.id not in held]
    since = time.perf_counter()
    if wanted:
        session.go_on()
        for arrived in model.ask(wanted):
            now = time.perf_counter()
            text = "".join(f"{dumps(one)}\n" for one, _ in arrived)
            session.append(text, now - since, sum((Counter(usage) for _, usage in arrived), Counter()))
            held |= {one.problem_id: one for one, _ in arrived}
            since = now
            on_progress("paraphrase", len(held), len(problems), path.suffixes[-2].removeprefix("."))
    return held
