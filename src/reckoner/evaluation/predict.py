"""Questions in, completions out: a run answers as it was trained to be asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from reckoner.config import Config, PeftConfig
from reckoner.engine import backend
from reckoner.errors import InputError
from reckoner.evaluation.evaluate import make_prompt, sampling_of, settings_of
from reckoner.evaluation.sample import answers
from reckoner.evaluation.session import EvalSession
from reckoner.models.policy import load_policy
from reckoner.runs.documents import DataFacts
from reckoner.runs.folder import Progress, silent
from reckoner.runs.records import Problem, dumps, read_json, read_json_lines
from reckoner.runs.safe_paths import check_output, writing

DEFAULT_MAX_NEW_TOKENS = 512
"""For a model that is no run of ours and so has no record of how long its solutions are."""


class Answerer:
    """A loaded model with its prompt and decoding. `backend` says in one line what computes."""

    def __init__(self, config: Config) -> None:
        if config.eval.select != "none" or config.eval.refine:
            raise InputError(
                "eval.select and eval.refine are for `reckon eval` and studies; this verb gives the first "
                "sample. Set eval.select=none eval.refine="
            )
        self.config = config
        self.policy = load_policy(config.model, PeftConfig(), train=False)
        self.backend = str(backend.choose(self.policy, config.eval.engine, trains=False))
        self.prompt = make_prompt(config, self.policy)
        trained = read_json(Path(config.model.model_name_or_path) / "data.json", DataFacts, missing={})
        known = trained.get("lengths", {}).get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
        self.sampling = sampling_of(config, self.policy, self.prompt, config.eval.max_new_tokens or known)

    def answer(self, questions: Sequence[str], first: int = 0) -> list[dict[str, Any]]:
        """The first sample for each question. `first` numbers the questions for the random draws."""
        problems = [Problem("", question, "", "", "", "") for question in questions]
        keys = range(first, first + len(questions))
        answered = answers(self.policy, self.prompt, problems, self.sampling, self.config.eval, keys=keys)
        written = (one.completion for one in answered if one.completion.sample == 0)
        return [{"completion": c.text, "tokens": c.token_count, "finish": c.finish} for c in written]

    def lines(self, rows: Sequence[dict[str, Any]], first: int, question: str, output: str) -> str:
        """The rows with their answers, as JSONL; `question` and `output` name the fields."""
        answers = self.answer([row[question] for row in rows], first)
        full = (
            {**row, output: answer.pop("completion"), **answer}
            for row, answer in zip(rows, answers, strict=True)
        )
        return "".join(f"{dumps(row)}\n" for row in full)


def predict_file(
    config: Config,
    source: str,
    output: str,
    question_field: str,
    output_field: str,
    on_progress: Progress = silent,
) -> int:
    """Answer every line of `source` (JSONL, '-' for stdin), write it with its completion, and count them.

    Works through the file in pieces, so memory does not grow with it. Until all are answered the lines
    stand in a hidden file beside `output`, and the same command goes on after those that are there.
    """
    path, size, count = Path(output), 4 * config.eval.batch_size, 0
    if output != "-":
        if path.exists():
            raise InputError(f"{output} exists already. Give another --output, or delete it")
        check_output(path)
    pieces = _pieces(source, question_field, size)
    first = [rows for rows in (next(pieces, None),) if rows]  # its faults come before the model is loaded
    answerer = Answerer(config)
    on_progress("backend", 0, 0, answerer.backend)
    if output == "-":
        for rows in chain(first, pieces):
            sys.stdout.write(answerer.lines(rows, count, question_field, output_field))
            count += len(rows)
            on_progress("predict", count, 0, "")
        return count
    names = {"question_field": question_field, "output_field": output_field}
    settings = settings_of(answerer.policy, answerer.prompt, answerer.sampling, ()) | names | {"piece": size}
    session = EvalSession.open(path.with_name(f".{path.name}.part"), settings)
    session.go_on()
    with open(session.path, "rb") as file:
        lines = sum(1 for _ in file)
    added = (output_field, "tokens", "finish")
    held = islice((line for _, line in read_json_lines(session.path)), lines)
    for rows in chain(first, pieces):
        known = list(islice(held, len(rows)))
        asked = [{name: value for name, value in line.items() if name not in added} for line in known]
        if known and asked != [{name: row[name] for name in row if name not in added} for row in rows]:
            raise InputError(
                f"{session.path}: answers other questions than {source}. Delete it to begin again"
            )
        if not known:
            session.append(answerer.lines(rows, count, question_field, output_field), 0.0)
        count += len(rows)
        on_progress("predict", count, 0, "")
    with writing(path):
        os.replace(session.path, path)
        session.path.with_suffix(".json").unlink()
    return count


def _pieces(source: str, field: str, size: int) -> Iterator[list[dict[str, Any]]]:
    """The lines of a file, checked, in lists of at most `size`."""
    rows: list[dict[str, Any]] = []
    for number, row in read_json_lines(source):
        if not isinstance(row.get(field), str):
            raise InputError(
                f"{source} line {number}: no text field {field!r} (fields: {', '.join(row)}). "
                "Name it with --question-field"
            )
        try:
            dumps(row), row[field].encode()
        except ValueError as error:
            raise InputError(
                f"{source} line {number}: cannot be written as it was read ({error}). Correct it"
            ) from error
        rows.append(row)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows
