"""What a plan knows of problems without reading them by a tokenizer: how many there are, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reckoner.config import Config
from reckoner.errors import InputError
from reckoner.tasks.gsm8k import EXEMPLARS, file_name, problem_counts

TOKENS = {
    ("nano", "main"): (135.3, 81.9),
    ("nano", "socratic"): (159.8, 106.4),
    ("gsm8k", "main"): (190.0, 125.0),
    ("gsm8k", "socratic"): (265.0, 200.0),
}
"""Mean tokens of prompt + solution, and of the solution; GSM8K's are estimated in Gemma's tokens."""
INSTRUCTION = 35
"""Tokens of the study's instruction."""
LONGEST = 1.9
"""The longest batch of an epoch over the mean, in tokens."""


@dataclass(frozen=True)
class Sizes:
    """Problems, and how long they are: mean tokens of prompt and completion, the limit of a generated one."""

    given: int  # train problems before any is left out
    train: int
    dev: int
    dev_watched: int
    test: int
    prompt: float
    completion: float
    limit: float

    @property
    def length(self) -> float:
        return self.prompt + self.completion

    @classmethod
    def of(cls, config: Config, samples: int | None, lengths: tuple[float, float] | None) -> Sizes:
        """Those of `config`; `samples` train problems and mean `lengths` (problem, solution) where known."""
        data, prompt = config.data, config.prompt
        given, test = problem_counts(**config.problem_source())
        dev = round(given * data.dev_size) if data.dev_size < 1 else int(data.dev_size)
        train = samples or min(given - dev - EXEMPLARS, data.max_train_samples or given)
        if train < 1:
            cut = f"data.dev_size={data.dev_size:g} leaves no train problem of {given:,}"
            raise InputError(no_train_problems(config) or cut)
        length, completion = lengths or TOKENS["gsm8k" if data.path else data.source, data.variant]
        return cls(
            given=given,
            train=train,
            dev=dev,
            dev_watched=min(dev, config.eval.dev_samples or dev),
            test=min(test, data.max_test_samples or test),
            prompt=length - completion + prompt.shots * length + INSTRUCTION * bool(prompt.instruction),
            completion=completion,
            limit=config.eval.max_new_tokens or LONGEST * completion,
        )


def no_train_problems(config: Config) -> str:
    """The line for a run whose data have no train problems, none of this variant included; else empty."""
    data = config.data
    if problem_counts(**config.problem_source())[0]:
        return ""
    where = data.path or f"data.suite={data.suite}"
    if Path(where).is_dir():
        missing = file_name("train", data.variant)
        return f"{where}: no {missing} in this folder, which data.variant={data.variant} needs"
    return f"{where} has no train problems"
