"""The records that cross a stage, and their JSONL form: one line a record, pure ASCII.

Each stage can be rerun alone because all it needs from the one before is a file of these.
A line ends at LF and nowhere else: GSM8K holds U+2028 inside strings, which `str.splitlines` would cut.
"""

from __future__ import annotations

import json
import math
import sys
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import msgspec

from reckoner.errors import InputError
from reckoner.runs.safe_paths import input_file, regular_file, replacing

Finish = Literal["stop", "length"]
Verdict = Literal["correct", "wrong", "no_answer", "truncated"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference solution.

    Example: `Problem("train-0", "Natalia sold clips to 48 ...?", "Natalia sold 48/2 = <<48/2=24>>24
    ...\\n#### 72", gold="72", variant="main", source="gsm8k")`. `gold` is the string after `####` as the data
    has it ("1,450", "-10"). `kind` is the kind of answer and `choices` are the texts of the options, of which
    `gold` is then the letter. `unseen` marks a test problem whose template never occurs in train (embedded
    problems, and rows that say so).
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
    kind: str = "number"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer. `logprob` is the sum over its tokens at the sampling temperature, in nats.

    Example: `Completion("test-7", 0, "9f2c...", "She has 3+4=<<3+4=7>>7 pens.\\n#### 7", 21, "stop", -0.8,
    "full-main")`. `answer_format` is how its prompt asked for the answer to be marked.
    """

    problem_id: str
    sample: int
    prompt_hash: str
    text: str
    token_count: int
    finish: Finish
    logprob: float
    run: str
    answer_format: str = "####"


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one completion; the values are the exact numbers read, as text, or None.

    Example: `Grade("test-7", 0, True, True, "7", "7", "correct", 1)`. `f1` is DROP's, for spans only.
    """

    problem_id: str
    sample: int
    strict: bool
    flexible: bool
    strict_value: str | None
    flexible_value: str | None
    verdict: Verdict
    markers: int
    f1: float | None = None


LATER = {"kind": "number", "choices": (), "answer_format": "####", "f1": None}
"""Fields that came after the first version, which files leave out where they hold their default: the same
problems and completions then keep their bytes and hashes."""


def count_grades(grades: Iterable[Grade]) -> dict[str, Any]:
    """Counts of graded completions: n, strict, flexible, no_answer, truncated, multi_marker.

    With spans among them also f1, the sum of their F1 rounded to two places.
    """
    counts: dict[str, Any] = dict.fromkeys(
        ("n", "strict", "flexible", "no_answer", "truncated", "multi_marker"), 0
    )
    for grade in grades:
        counts["n"] += 1
        counts["strict"] += grade.strict
        counts["flexible"] += grade.flexible
        counts["no_answer"] += grade.verdict == "no_answer"
        counts["truncated"] += grade.verdict == "truncated"
        counts["multi_marker"] += grade.markers > 1
        if grade.f1 is not None:
            counts["f1"] = round(counts.get("f1", 0.0) + grade.f1, 2)
    return counts


Kind = TypeVar("Kind")


def dumps(record: Any) -> str:
    """One ASCII line without its line feed, for a record or any JSON value. NaN and infinity are refused."""
    value = record
    if hasattr(record, "__dataclass_fields__"):
        value = {k: v for k, v in asdict(record).items() if k not in LATER or v != LATER[k]}
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def write_text(path: Path, text: str) -> None:
    """Replace `path` in one step: a reader sees the old file or the new one, also after a power cut."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by one readable JSON document, in one step."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The text of one JSON document, ASCII only; NaN and infinity are refused."""
    return json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write records to `path`, replacing it in one step, and return how many."""
    count = 0
    with replacing(path) as file:
        for record in records:
            file.write(f"{dumps(record)}\n".encode())
            count += 1
    return count


def read_json_lines(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number from 1, object)` for each non-empty line of a file or "-" (stdin).

    Raises `InputError` with the file and line for what `raw_lines` and `json_object` refuse.
    """
    for number, raw in raw_lines(path):
        try:
            value = json_object(raw)
        except InputError as error:
            raise InputError(f"{path} line {number}: {error}") from error
        yield number, value


def raw_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Yield `(line number from 1, bytes)` for each non-empty line of a file or "-" (stdin).

    Raises `InputError` for a file that cannot be read or is UTF-16.
    """
    try:
        with input_file(path) as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(BOM_UTF8)
                    if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in raw[:2]:
                        raise InputError(
                            f"{path}: is UTF-16 text. Save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path}"
                        )
                if raw.strip():
                    yield number, raw
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def json_value(raw: bytes | str) -> Any:
    """The value of a JSON text. Raises `InputError` for broken JSON and for a key given twice."""
    try:
        return _LINES.decode(raw if isinstance(raw, str) else raw.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})") from error


def json_object(raw: bytes) -> dict[str, Any]:
    """The object of one line. Raises `InputError` as `json_value` does, and for another kind of value."""
    value = json_value(raw)
    if not isinstance(value, dict):
        raise InputError(f"expected an object, found {type(value).__name__}")
    return value


def logged_numbers(line: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a line of metrics.jsonl that are numbers, and no more than a float holds.

    Raises `InputError` naming `where` unless what dev solved and the size of dev stand together.
    """
    numbers = {
        name: value
        for name, value in line.items()
        if isinstance(value, int | float) and abs(value) <= sys.float_info.max
    }
    if ("dev_strict" in numbers) != ("dev_n" in numbers) or numbers.get("dev_n", 1) < 1:
        raise InputError(f"{where}: of dev_strict and dev_n, both stand in a line as numbers or neither does")
    return numbers


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: where one stands twice, readers of JSON disagree about its value."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


def _whole(text: str) -> int:
    if abs(value := int(text)) >= 2**63:
        raise ValueError(f"{text[:20]}... has more than 64 bits")
    return value


_LINES = json.JSONDecoder(object_pairs_hook=unique_keys)
_DOCUMENTS = json.JSONDecoder(
    object_pairs_hook=unique_keys, parse_float=_finite, parse_int=_whole, parse_constant=_finite
)


def read_json(path: Path, kind: Any = dict[str, Any], missing: Any = None, any_number: bool = False) -> Any:
    """The JSON document of a file; `missing`, where that is given, stands for a file that is not there.

    Raises `InputError` naming the file, and the key, where it is no JSON, holds a key twice or a number that
    is not finite, or has another structure than `kind` (one of `reckoner.runs.documents`, or any type).
    Documents of a model may hold `any_number`: transformers writes 10^30 and Infinity for "no limit".
    """
    if not path.is_file() and missing is not None:
        return missing
    try:
        with regular_file(path) as file:
            value = (_LINES if any_number else _DOCUMENTS).decode(file.read().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    fit(value, kind, str(path))
    return value


def fit(value: Any, kind: type[Kind], where: str) -> Kind:
    """A JSON value as a `kind`, exactly: `1.5` and `true` are no `int`.

    Raises `InputError` naming `where` and the key.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, key = str(error).partition(" - at `$")
        location = f"{key.strip('.`')}: " if key else ""
        raise InputError(f"{where}: {location}{what[:1].lower()}{what[1:]}") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {error.object[:80]!r} is no text (half of a surrogate pair)") from error


def read_records(path: Path, kind: type[Kind]) -> Iterator[Kind]:
    """Yield the records of `kind`, a dataclass, in `path`; raises `InputError` naming line and field."""
    known = {field.name for field in fields(cast(Any, kind))}
    for number, value in read_json_lines(path):
        where = f"{path} line {number}"
        if unknown := sorted(value.keys() - known):
            raise InputError(f"{where}: {kind.__name__} has no field {', '.join(unknown)}")
        yield fit(value, kind, where)
