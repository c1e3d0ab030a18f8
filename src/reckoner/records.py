"""The records that cross a stage, and their JSONL form: one line a record, pure ASCII.

Each stage can be rerun alone because all it needs from the one before is a file of these.
A line ends at LF and nowhere else: GSM8K holds U+2028 inside strings, which `str.splitlines` would cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from reckoner.faults import InputError
from reckoner.places import input_file

Finish = Literal["stop", "length"]
Verdict = Literal["correct", "wrong", "no_answer", "truncated"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference solution.

    Example: `Problem("train-0", "Natalia sold clips to 48 ...?", "Natalia sold 48/2 = <<48/2=24>>24 ...\\n#### 72",
    gold="72", variant="main", source="gsm8k")`. `gold` is the string after `####` as the data has it ("1,450", "-10").
    `unseen` marks a test problem whose template never occurs in train (embedded problems only).
    """

    id: str
    question: str
    solution: str
    gold: str
    variant: str
    source: str
    category: str = ""
    steps: int = 0
    template: str = ""
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer. `logprob` is the sum over its tokens at the sampling temperature, in nats.

    Example: `Completion("test-7", 0, "9f2c...", "She has 3+4=<<3+4=7>>7 pens.\\n#### 7", 21, "stop", -0.8, "full-main")`.
    """

    problem_id: str
    sample: int
    prompt_hash: str
    text: str
    token_count: int
    finish: Finish
    logprob: float
    run: str


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one completion; the values are the exact numbers read, as text, or None.

    Example: `Grade("test-7", 0, True, True, "7", "7", "correct", 1)`.
    """

    problem_id: str
    sample: int
    strict: bool
    flexible: bool
    strict_value: str | None
    flexible_value: str | None
    verdict: Verdict
    markers: int


Record = TypeVar("Record", Problem, Completion, Grade)


def dumps(record: Any) -> str:
    """One ASCII line without its line feed, for a record or any JSON value. NaN and infinity are refused."""
    value = asdict(record) if hasattr(record, "__dataclass_fields__") else record
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write records to `path`, replacing it, and return how many."""
    count = 0
    with open(path, "w", encoding="ascii", newline="\n") as file:
        for record in records:
            file.write(dumps(record) + "\n")
            count += 1
    return count


def read_json_lines(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number from 1, object)` for each non-empty line of a file or "-" (stdin), in constant memory.

    Raises `InputError` with the file and line for a missing file, text that is not UTF-8, broken JSON or a
    line that is not an object.
    """
    try:
        with input_file(path) as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, _object(raw, f"{path} line {number}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def read_records(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of `kind` in `path`; raises `InputError` naming line and field where one does not fit."""
    expected = _expected(kind)  # type: ignore[arg-type]  # mypy takes no dataclass for hashable
    for number, value in read_json_lines(path):
        where = f"{path} line {number}"
        if unknown := sorted(value.keys() - expected.keys()):
            raise InputError(f"{where}: {kind.__name__} has no field {', '.join(unknown)}")
        for name, content in value.items():
            types, choices = expected[name]
            if type(content) not in types or (choices and content not in choices):
                raise InputError(f"{where}: {kind.__name__} has {name}={content!r}")
        try:
            yield kind(**value)
        except TypeError as error:
            raise InputError(f"{where}: not a {kind.__name__} ({error})") from error


@cache
def _expected(kind: type[Record]) -> dict[str, tuple[frozenset[type], tuple[str, ...]]]:
    """The types that each field may have in JSON, and its words where it has a fixed set of them."""
    found = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        types = (str,) if choices else (float, int) if hint is float else get_args(hint) or (hint,)
        found[field.name] = frozenset(types), choices
    return found
