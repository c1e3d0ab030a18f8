"""A file of the user's own: what its columns seem to be, and the settings that read it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from reckoner.errors import InputError

if TYPE_CHECKING:
    from reckoner.config import Config

Grid = tuple[list[str], list[list[str]]]


def show_file(
    file: str, settings: list[str], config_of: Callable[[list[str]], Config], as_json: bool
) -> None:
    """What the columns of a file of one's own seem to be, three problems, and the settings to keep."""
    from reckoner import console
    from reckoner.analysis.datastats import describe, most_frequent_gold, table_rows
    from reckoner.tasks import gsm8k

    keep = [*_guess(file, settings), *settings]
    problems = gsm8k.every(**config_of(keep).problem_source())
    facts = {"all": describe(problems, most_frequent_gold(problems), {"characters": len})}
    rows = [[p.question[:200], p.solution[-120:], f"{p.gold} ({p.kind})"] for p in problems[:3]]
    tables: list[Grid] = [(["question", "end of the solution", "gold"], rows)]
    tables.append((["", "all"], table_rows(facts)))
    line = console.escape(f"settings to keep: {shlex.join(keep)}", newlines=False)
    console.show({"settings": keep, "sets": facts}, as_json, tables, [line])


def _guess(file: str, settings: Sequence[str]) -> list[str]:
    """The settings that read a file: `data.path`, and what its columns seem to be unless the user says it."""
    from reckoner.tasks.shapes import guess_settings
    from reckoner.tasks.tables import read_table

    given = dict(text.partition("=")[::2] for text in settings)
    table = read_table(Path(file), given.get("task.columns", ""), given.get("task.records", ""))
    rows = [row for _, row in islice(table, 400) if not isinstance(row, InputError)]
    if not rows:
        raise InputError(f"{file}: holds no row that can be read")
    named = {"data.question_field", "data.solution_field", "data.gold_field", "data.gold_pattern"}
    guessed = (
        {} if "data.suite" in given or {*given} >= named - {"data.gold_pattern"} else guess_settings(rows)
    )
    own = {"data.path": file} | {name: value for name, value in guessed.items() if name not in given}
    return [f"{name}={value}" for name, value in own.items()]
