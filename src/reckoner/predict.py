"""Questions in, completions out: a run answers as it was trained to be asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from reckoner.config import Config, PeftConfig
from reckoner.documents import DataFacts
from reckoner.engine.generate import generate
from reckoner.evaluate import ask, make_prompt, sampling_of
from reckoner.faults import InputError
from reckoner.models.policy import load_policy
from reckoner.records import dumps, read_json, read_json_lines
from reckoner.runs import Progress, silent, writing

DEFAULT_MAX_NEW_TOKENS = 512
"""For a model that is no run of ours and so has no record of how long its solutions are."""


class Answerer:
    """A loaded model with its prompt and decoding."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.policy = load_policy(config.model, PeftConfig(), train=False)
        self.prompt = make_prompt(config, self.policy)
        trained = read_json(Path(config.model.model_name_or_path) / "data.json", DataFacts, missing={})
        known = trained.get("lengths", {}).get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
        self.sampling = sampling_of(config, self.policy, self.prompt, config.eval.max_new_tokens or known)

    def answer(self, questions: Sequence[str], first: int = 0) -> list[dict[str, Any]]:
        """The first sample for each question: completion, tokens, finish. `first` numbers the questions for the random draws."""
        prompts = [ask(self.policy, self.prompt, question) for question in questions]
        keys = range(first, first + len(questions))
        samples = generate(
            self.policy,
            prompts,
            self.sampling,
            self.config.eval.batch_size,
            self.config.eval.engine,
            keys=keys,
        )
        return [
            {"completion": self.policy.decode(s.ids), "tokens": len(s.ids), "finish": s.finish}
            for s, *_ in samples
        ]


def predict_file(
    config: Config,
    source: str,
    output: str,
    question_field: str,
    output_field: str,
    on_progress: Progress = silent,
) -> int:
    """Answer every line of `source` (JSONL, '-' for stdin) and write it with its completion to `output`; returns the count.

    Works through the file in pieces, so memory does not grow with it.
    """
    if output != "-" and Path(output).exists():
        raise InputError(f"{output} exists already. Give another --output, or delete it")
    answerer, count = Answerer(config), 0
    target = nullcontext(sys.stdout) if output == "-" else open(output, "w", encoding="ascii", newline="\n")
    with writing(Path(output)), target as file:
        for rows in _pieces(source, question_field, 4 * config.eval.batch_size):
            answers = answerer.answer([row[question_field] for row in rows], count)
            for row, answer in zip(rows, answers, strict=True):
                file.write(
                    dumps(
                        {
                            **row,
                            output_field: answer["completion"],
                            "tokens": answer["tokens"],
                            "finish": answer["finish"],
                        }
                    )
                    + "\n"
                )
            count += len(rows)
            on_progress("predict", count, 0, "")
    return count


def _pieces(source: str, field: str, size: int) -> Iterator[list[dict[str, Any]]]:
    """The lines of a file, checked, in lists of at most `size`."""
    rows: list[dict[str, Any]] = []
    for number, row in read_json_lines(source):
        if not isinstance(row.get(field), str):
            raise InputError(
                f"{source} line {number}: no text field {field!r} (fields: {', '.join(row)}). Name it with --question-field"
            )
        rows.append(row)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows
