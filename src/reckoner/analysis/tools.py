"""What other tools write: the rows of their files, and where completion, problem and gold stand in a row.

A row is known by its fields, whatever its file is called: lm-evaluation-harness (`--log_samples`), inspect,
lighteval (details), TRL (`log_completions`), verl, OpenAI's requests and batches, vLLM, a conversation, or a
table with one column that can be the completion. To read one more tool, add a function to `LINE_FORMATS`.
"""

from __future__ import annotations

import hashlib
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reckoner.errors import InputError
from reckoner.runs.records import json_object, raw_lines
from reckoner.runs.safe_paths import regular_file
from reckoner.tasks.tables import read_table, text_of

Row = Mapping[str, Any]
LineFormat = Callable[[Row], Row | None]
"""Recognises a row by its content: the fields that it holds under our names (`completion`, and `finish`,
`problem_id`, `sample`, `gold`, `question` or `solution` where they stand elsewhere), or None for a row of
another tool. `tool` is its name. A `sample` of None is numbered by the reader. Rows whose `view` is not that
of the first say the same again and are left out."""

COMPLETION_PATHS = (
    "completion",
    "text",
    "outputs.0.text",  # vLLM
    "choices.0.message.content",  # OpenAI and servers that follow it
    "choices.0.text",
    "response.body.choices.0.message.content",  # OpenAI's batches
    "response.body.choices.0.text",
    "resps.0.0",  # lm-eval
)
"""Where a completion may stand in a line; a dot leads into an object or a list."""

COLUMNS = ("response", "output", "prediction", "generation", "generated_text", "model_output")
"""Further names of a completion, each only where no other of them is there too."""

GOLDS = (
    "gold",
    "ground_truth",
    "target",
    "reference",
    "expected_answer",
    "correct_answer",
    "final_answer",
    "answer",
)
"""Names of a gold answer, after the first each only where no other of them is there too."""

FINISH_PATHS = (
    "finish",
    "finish_reason",
    "finishReason",  # Google
    "stop_reason",
    "done_reason",  # Ollama
    "stop_type",  # llama.cpp
    "details.finish_reason",  # TGI
    "meta_info.finish_reason",  # SGLang
    "incomplete_details",  # OpenAI's responses
)
"""Where the reason may stand for which a completion ended."""

_FINISH_KEYS = {path.partition(".")[0] for path in FINISH_PATHS}

ONE_EVALUATION = ("**/samples_*.jsonl", "**/*.eval", "**/details_*.parquet", "*.json")
STEPS = (
    "completions_*.parquet",
    "completions/completions_*.parquet",
    "*.jsonl",
    "*.parquet",
    "*.csv",
    "*.tsv",
)
"""What a folder of another tool may hold: a file for each evaluation, or files that belong together.

Of JSON only the logs of inspect are taken."""

LARGEST_SAMPLE = 100_000_000
"""Bytes of one sample of an inspect log, unpacked."""


def follow(row: Row, path: str) -> tuple[Any, list[Row]] | None:
    """The value at a dotted path and the objects around it, innermost first; None where the path ends."""
    if path in row:
        return row[path], [row]
    head, dot, _ = path.partition(".")
    if not dot or head not in row:  # nearly all that is asked: a grade asks for 20 paths a line
        return None
    value: Any = row
    around: list[Row] = []
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            around.insert(0, value)
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and len(value) > int(key):
            value = _only(value) if path in COMPLETION_PATHS else value[int(key)]
        else:
            return None
    return value, around


def completion_at(path: str) -> LineFormat:
    """The format whose completion stands at a dotted `path`; why it ended stands beside or above it."""

    def recognise(row: Row) -> Row | None:
        if (at_path := follow(row, path)) is None:
            return None
        text, around = at_path
        return {"completion": text, "finish": why_ended(around)}

    return recognise


def why_ended(holders: Sequence[Row]) -> Any:
    """The first reason that one of these objects gives for the end of its completion; without one "stop"."""
    told = (holder for holder in holders if holder.keys() & _FINISH_KEYS)
    found = (follow(holder, path) for holder in told for path in FINISH_PATHS)
    return next((at_path[0] for at_path in found if at_path and at_path[0] is not None), "stop")


def lm_eval(row: Row) -> Row | None:
    """A sample of `--log_samples`. With several filters a document stands there once for each.

    That of a task that `reckon export lm-eval` wrote says its kind of answer, options and format too.
    """
    if not isinstance(doc := row.get("doc"), dict) or "resps" not in row or "target" not in row:
        return None
    answered, exported = _only(row["resps"]), ("kind", "choices", "answer_format")
    asked = {name: doc[name] for name in exported} if doc.keys() >= set(exported) else {}
    return {
        "tool": "lm-eval",
        **asked,
        "completion": _only(answered) if isinstance(answered, list) else answered,
        "problem_id": str(doc.get("id", row.get("doc_id"))),
        "gold": row["target"],
        "question": doc.get("question", ""),
        "solution": doc.get("answer", doc.get("solution", "")),
        "view": row.get("filter", ""),
    }


def inspect_sample(row: Row) -> Row | None:
    """A sample of an inspect log; its epochs are samples of one problem."""
    if not isinstance(output := row.get("output"), dict) or not {"epoch", "target", "id"} <= row.keys():
        return None
    chosen = output.get("choices") or [{}]
    if not isinstance(chosen, list) or not isinstance(choice := chosen[0], dict):
        raise InputError("output.choices is no list of objects, as inspect writes it")
    if not isinstance(epoch := row["epoch"], int):
        raise InputError(f"epoch is {epoch!r:.40}; expected a whole number")
    target = row["target"]
    return {
        "tool": "inspect",
        "completion": _said(choice["message"]) if "message" in choice else output.get("completion"),
        "finish": choice.get("stop_reason", "stop"),
        "problem_id": str(row["id"]),
        "sample": epoch - 1,
        "gold": _only(target) if isinstance(target, list) else target,
        "question": _said(row.get("input", "")),
    }


def lighteval(row: Row) -> Row | None:
    """A row of lighteval's details; the gold is the choice that `gold_index` names."""
    doc, answered = row.get("doc"), row.get("model_response")
    if not isinstance(doc, dict) or not isinstance(answered, dict):
        return None
    index, choices = doc.get("gold_index", 0), doc.get("choices")
    index = _only(index) if isinstance(index, list) else index
    if not isinstance(choices, list) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise InputError(f"doc.choices has no gold: gold_index is {index!r:.40}")
    return {
        "tool": "lighteval",
        "completion": _only(answered.get("text") or [None]),
        "problem_id": str(doc.get("id")),
        "gold": str(choices[index]).strip(),
        "question": doc.get("query", ""),
    }


def trl(row: Row) -> Row | None:
    """A row of TRL's `log_completions`. It names no problem, so that the prompt stands for it."""
    if not {"step", "prompt", "completion", "advantage"} <= row.keys():
        return None
    return {"tool": "TRL", "completion": _said(row["completion"]), **_of_prompt(_said(row["prompt"]))}


def verl(row: Row) -> Row | None:
    """A line of verl's rollouts or validations."""
    if not {"input", "output", "gts", "score"} <= row.keys():
        return None
    return {"tool": "verl", "completion": row["output"], "gold": row["gts"], **_of_prompt(row["input"])}


def conversation(row: Row) -> Row | None:
    """Messages that end with the assistant's."""
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        return None
    asked = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
    known = {"completion": _said(turns[-1]), "question": _said(asked[-1]) if asked else ""}
    return known if turns[-1].get("role") == "assistant" else None


def one_column(row: Row) -> Row | None:
    """A table in which exactly one column has a name that completions go by."""
    held = [name for name in COLUMNS if name in row]
    if len(held) > 1:
        raise InputError(
            f"{' and '.join(map(repr, held))} could each be the completion. Name one with --completion-field "
            "of reckon grade"
        )
    return completion_at(held[0])(row) if held else None


LINE_FORMATS: list[LineFormat] = [
    lm_eval,
    inspect_sample,
    lighteval,
    trl,
    verl,
    *(completion_at(path) for path in COMPLETION_PATHS),
    conversation,
    one_column,
]
"""The first format that recognises a row reads it."""


def rows(path: Path | str) -> Iterator[tuple[str, Row | InputError]]:
    """Each row of a file with its place, or why it cannot be read; "-" is JSONL on stdin.

    JSONL is read in constant memory. Raises `InputError` for a file that cannot be read at all.
    """
    head = _head(Path(path)) if str(path) != "-" else b""
    if head.startswith(b"PK\x03\x04"):
        yield from _inspect_archive(Path(path))
    elif Path(path).suffix.lower() in (".csv", ".tsv", ".parquet") or _is_inspect(head):
        yield from read_table(Path(path), records="samples" if _is_inspect(head) else "")
    else:
        for number, raw in raw_lines(path):
            yield f"line {number}", _row(raw)


def _row(raw: bytes) -> Row | InputError:
    try:
        return json_object(raw)
    except InputError as error:
        return error


def tool_files(folder: Path) -> list[Path]:
    """The files of completions in a folder of another tool; none where it is not such a folder.

    Raises `InputError` where it holds several evaluations.
    """
    for pattern in ONE_EVALUATION:
        found = sorted(folder.glob(pattern))
        if found := [file for file in found if file.suffix != ".json" or _is_inspect(_head(file))]:
            if len(found) > 1:
                names = ", ".join(str(file.relative_to(folder)) for file in found)
                raise InputError(f"{folder}: holds {len(found)} evaluations ({names}). Name one of the files")
            return found
    return next((found for pattern in STEPS if (found := sorted(folder.glob(pattern)))), [])


class Questions:
    """Problems by their questions, for tools that name them otherwise or not at all."""

    def __init__(self, questions: Mapping[str, str]) -> None:
        self.ids = {" ".join(text.split()): name for name, text in questions.items() if text.strip()}
        self.found: dict[str, str] = {}

    def find(self, prompt: str) -> str:
        """The id of the question that `prompt` is or holds, or of the only one that holds it; else empty.

        A prompt may show other questions first, so that the last one in it counts.
        """
        if prompt not in self.found:
            text = " ".join(prompt.split())
            inside = [(text.rfind(known), name) for known, name in self.ids.items() if known in text]
            around = [name for known, name in self.ids.items() if text and text in known]
            self.found[prompt] = max(inside)[1] if inside else around[0] if len(around) == 1 else ""
        return self.found[prompt]


def _only(values: Any) -> Any:
    """The one value of a list; raises `InputError` where there are several completions or none."""
    if not isinstance(values, Iterable) or isinstance(values, str | Mapping):
        return values
    if len(held := list(values)) != 1:
        raise InputError(f"{len(held)} completions in one line. Write each into a line of its own")
    return held[0]


def _said(value: Any) -> Any:
    """The text of a message, of the last of several, or of the parts of one."""
    if _are_objects(value) and "role" in value[-1]:
        value = value[-1]
    if isinstance(value, dict):
        value = value.get("content")
    return text_of(value)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _of_prompt(prompt: Any) -> Row:
    digest = hashlib.sha256(str(prompt).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return {"problem_id": f"prompt-{digest}", "question": str(prompt), "sample": None}


def _head(path: Path) -> bytes:
    try:
        with regular_file(path) as file:
            return file.read(4096)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _is_inspect(head: bytes) -> bool:
    """Whether a JSON document begins as an inspect log does."""
    start = head.lstrip()
    return start.startswith(b"{") and b'"version"' in start[:40] and b'"eval"' in start


def _inspect_archive(path: Path) -> Iterator[tuple[str, Row | InputError]]:
    """The samples of an inspect log (`.eval`): a zip archive of JSON, compressed with Zstandard."""
    if sys.version_info >= (3, 14):
        import zipfile

        from compression.zstd import ZstdError
    else:
        from backports.zstd import ZstdError, zipfile
    damage = (zipfile.BadZipFile, ZstdError, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError)
    try:
        with regular_file(path) as file, zipfile.ZipFile(file) as archive:
            held = [info for info in archive.infolist() if info.filename.startswith("samples/")]
            if not held:
                raise InputError(f"{path}: is no inspect log (an archive without samples/)")
            for info in held:
                if info.file_size > LARGEST_SAMPLE:
                    raise InputError(f"{path}: {info.filename} has {info.file_size:,} bytes")
                yield info.filename, _row(archive.read(info))
    except (*damage, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no whole inspect log ({error})") from error
