"""Rows of a file of any shape: JSONL, JSON, CSV, TSV, Parquet or XML, in UTF-8 or UTF-16.

A row that cannot be read is an `InputError` in its place, so that all faults of a file are named at once.
"""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reckoner.errors import InputError, require
from reckoner.runs.records import json_object, json_value, raw_lines
from reckoner.runs.safe_paths import input_file, regular_file

Rows = Iterable[tuple[str, Mapping[str, Any] | InputError]]
"""The name of a row in messages, and the row or why it cannot be read: `("line 812", {"question": ...})`."""

CELL = 10_000_000
"""Characters of the largest cell of a table; csv's own limit is 131,072."""


def read_table(path: Path, columns: str = "", records: str = "") -> Rows:
    """The rows of a file, by the end of its name; what has no known one is JSONL.

    `columns` names the columns of a table without a header line. `records` is the path to the list of records
    in a document. Raises `InputError` for a file that cannot be read at all.
    """
    match path.suffix.lower():
        case ".csv" | ".tsv" | ".tab":
            return _delimited(path, columns)
        case ".parquet":
            return _parquet(path)
        case ".json":
            return _document(path, records)
        case ".xml":
            return _numbered(path, _elements(path, records))
    return _lines(path)


def pick(row: Any, path: str) -> Any:
    """The value at a path as `question.stem`, `choices.0` or, in a conversation, `messages.user`.

    A name leads into an object; into a list lead a number, or the role of one of its messages. Raises
    `KeyError` where the path ends.
    """
    if isinstance(row, Mapping) and path in row:
        return row[path]
    key, dot, rest = path.partition(".")
    if isinstance(row, Mapping) and key in row and dot:
        return pick(row[key], rest)
    if isinstance(row, list):
        if key.isdecimal() and int(key) < len(row):
            return pick(row[int(key)], rest) if dot else row[int(key)]
        turns = [turn for turn in row if isinstance(turn, Mapping) and _role(turn) == key]
        if len(turns) > 1:
            raise InputError(f"{len(turns)} messages of {key}; one question and one answer make a problem")
        if turns:
            return text_of(turns[0].get("content", turns[0].get("value")))
    raise KeyError(path)


def text_of(content: Any) -> Any:
    """The content of a message: the text of its parts, `[{"type": "text", "text": ...}]`, joined; all else as
    it is. Raises `InputError` for a part whose text is none."""
    if not isinstance(content, list) or not content or not all(isinstance(one, dict) for one in content):
        return content
    texts = [one.get("text", "") for one in content if one.get("type") == "text"]
    if odd := [text for text in texts if not isinstance(text, str)]:
        raise InputError(f"a part of a message is {type(odd[0]).__name__}, not text")
    return "".join(texts)


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("role", turn.get("from"))


def _text(path: Path) -> str:
    """A whole file as text: UTF-16 with its mark, or UTF-8 with or without."""
    try:
        with input_file(path) as file:
            raw = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    wide = raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    if not wide:
        _refuse_unmarked(path, raw)
    try:
        return raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} line {line}: is not {'UTF-16' if wide else 'UTF-8'} text. Save it as UTF-8"
        ) from error


def _is_wide(path: Path) -> bool:
    try:
        with input_file(path) as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    wide = start.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    if not wide:
        _refuse_unmarked(path, start)
    return wide


def _refuse_unmarked(path: Path, raw: bytes) -> None:
    if b"\0" in raw[:4]:
        raise InputError(f"{path}: looks like UTF-16 without a mark at its start. Save it as UTF-8")


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | InputError]]:
    """Each line of a JSONL file, or why it cannot be read."""
    numbered = enumerate(_text(path).encode().split(b"\n"), 1) if _is_wide(path) else raw_lines(path)
    for number, raw in numbered:
        try:
            if raw.strip():
                yield f"line {number}", json_object(raw)
        except InputError as error:
            yield f"line {number}", error


def _delimited(path: Path, columns: str) -> Iterator[tuple[str, Mapping[str, Any] | InputError]]:
    """A table whose cells stand between tabs in .tsv, else between what its first line holds most of."""
    text = _text(path)
    first = text.partition("\n")[0]
    csv.field_size_limit(CELL)
    lines = io.StringIO(text, newline="")
    if path.suffix.lower() != ".csv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(lines, delimiter=max(",;\t|", key=first.count), strict=True)
    names = [name.strip() for name in columns.split(",")] if columns else None
    start = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield f"line {start}", InputError(f"is no row of a table ({error})")
            return
        if cells is None:
            return
        place, start = f"line {start}", reader.line_num + 1
        if not any(cells):
            continue
        if names is None:
            names = [cell.strip() for cell in cells]
            if len(set(names)) < len(names):
                raise InputError(f"{path}: two columns have the same name ({', '.join(names)})")
        elif len(cells) != len(names):
            yield place, InputError(f"{len(cells)} cells, not {len(names)} ({', '.join(names)[:80]})")
        else:
            yield place, dict(zip(names, cells, strict=True))


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    require("pyarrow", "a Parquet file")
    import pyarrow
    from pyarrow import parquet

    try:
        with regular_file(path) as file:
            rows = parquet.read_table(file).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as Parquet ({reason})") from error
    return ((f"row {number}", row) for number, row in enumerate(rows))


def _document(path: Path, records: str) -> Rows:
    """The list of records of a JSON document; a document of several lines of objects is JSONL."""
    text = _text(path)
    try:
        value = json_value(text)
    except InputError as error:
        if text.lstrip().startswith("{") and "Extra data" in str(error):
            return _lines(path)
        raise InputError(f"{path}: {error}") from error
    return _numbered(path, _records(path, value, records))


def _records(path: Path, value: Any, records: str) -> list[Any]:
    if records:
        try:
            value = pick(value, records)
        except KeyError as error:
            raise InputError(f"{path}: holds nothing at task.records={records}") from error
    elif isinstance(value, dict):
        lists = [key for key, inner in value.items() if isinstance(inner, list)]
        if len(lists) != 1:
            held = ", ".join(map(str, value)) or "nothing"
            raise InputError(
                f"{path}: is one object ({held[:200]}), not a list of rows. Name the list with task.records"
            )
        value = value[lists[0]]
    if not isinstance(value, list):
        raise InputError(f"{path}: task.records={records} is {type(value).__name__}, not a list of rows")
    return value


def _elements(path: Path, records: str) -> list[Any]:
    """The elements at a path of an XML document as rows of their attributes and children."""
    from xml.etree import ElementTree

    text = _text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: declares a document type, which no file of problems needs")
    if not records:
        raise InputError(f"{path}: say where the problems stand, as task.records=ProblemSet.Problem")
    try:
        root = ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not XML ({error})") from error
    found = [root]
    for name in records.split("."):
        found = [child for one in found for child in one if name in (child.tag, child.tag.rpartition("}")[2])]
    if not found:
        raise InputError(f"{path}: holds nothing at task.records={records}")
    return [{**one.attrib, **{child.tag: child.text or "" for child in one}} for one in found]


def _numbered(path: Path, values: list[Any]) -> Rows:
    for number, value in enumerate(values, 1):
        fits = isinstance(value, dict)
        yield (
            f"row {number}",
            value if fits else InputError(f"expected an object, found {type(value).__name__}"),
        )
