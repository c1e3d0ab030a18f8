"""The one reader of completions, grades and problems, in our files and in those of other tools.

A run folder keeps the grades that it was given. A file of completions is graded here, so naming
`RUN/predictions/TEST.jsonl` instead of `RUN` grades it again. A line of another tool needs an id and either a
completion, which one of `LINE_FORMATS` finds, or `strict` and `flexible`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from reckoner.analysis.study_records import RunRecord, read_run
from reckoner.errors import InputError
from reckoner.runs.records import (
    Completion,
    Finish,
    Grade,
    Problem,
    Verdict,
    json_object,
    raw_lines,
    read_json_lines,
    read_records,
)
from reckoner.tasks.answers.grading import grade, grader_of, kind_of
from reckoner.tasks.answers.number import extract_gold
from reckoner.tasks.answers.span import encode_gold
from reckoner.tasks.categories import with_category

Key = tuple[str, int]
"""Problem id and sample number."""

LineFormat = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""Recognises a line by its content: the fields that it holds under our names (`completion`, and `finish`,
`problem_id`, `sample` or `gold` where they stand elsewhere), or None for a line of another tool."""

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

ID_FIELDS = ("problem_id", "custom_id", "id")
FINISH_FIELDS = ("finish", "finish_reason", "stop_reason")
LIMIT_REASONS = frozenset(("length", "max_tokens", "max_length", "max_new_tokens"))
"""What tools write, in small letters, where the token limit ended a completion."""

UNKNOWN = "unknown"
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def _follow(line: Mapping[str, Any], path: str) -> tuple[Any, list[Mapping[str, Any]]] | None:
    """The value at a dotted path and the objects around it, innermost first; None where the path ends."""
    if path in line:
        return line[path], [line]
    value: Any = line
    around: list[Mapping[str, Any]] = []
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            around.insert(0, value)
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and len(value) > int(key):
            if len(value) > 1 and path in COMPLETION_PATHS:
                raise InputError(f"{len(value)} completions in one line. Write each into a line of its own")
            value = value[int(key)]
        else:
            return None
    return value, around


def completion_at(path: str) -> LineFormat:
    """The format whose completion stands at a dotted `path`; why it ended stands beside or above it."""

    def recognise(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if (at_path := _follow(line, path)) is None:
            return None
        text, around = at_path
        reasons = (holder[key] for holder in around for key in FINISH_FIELDS if holder.get(key) is not None)
        return {"completion": text, "finish": next(reasons, "stop")}

    return recognise


LINE_FORMATS: list[LineFormat] = [completion_at(path) for path in COMPLETION_PATHS]
"""The first format that recognises a line reads it. To read another tool, add a function here."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The names of a line's fields that the user gave; if empty, the formats and `ID_FIELDS` are tried.

    `kind` and `answer_format` are those of lines that do not say it.
    """

    completion: str = ""
    gold: str = "gold"
    id: str = ""
    kind: str = "number"
    answer_format: str = "####"


@dataclass(frozen=True)
class Line:
    """One line of any tool's JSONL file. A property raises `InputError` where the line does not hold it.

    `known` are the fields that its format found under our names; they come before the line's own.
    """

    values: Mapping[str, Any]
    known: Mapping[str, Any] = field(default_factory=dict)
    fields: Fields = Fields()

    @classmethod
    def of_completion(cls, values: Mapping[str, Any], fields: Fields = Fields()) -> Line:
        """A line that holds a completion, where the user or the first format that recognises it finds it."""
        path = fields.completion
        for form in [completion_at(path)] if path else LINE_FORMATS:
            if (known := form(values)) is not None:
                return cls(values, known, fields)
        raise _missing(
            values, (path,) if path else COMPLETION_PATHS[:2], "--completion-field of reckon grade"
        )

    @property
    def answer(self) -> tuple[str | None, Finish]:
        """The completion and how it ended."""
        text, finish = self.known["completion"], self.known.get("finish") or "stop"
        if text is not None and not isinstance(text, str):
            raise InputError(f"the completion is {type(text).__name__}, not text")
        if not isinstance(finish, str):
            raise InputError(f"the completion ended with {finish!r}; expected a word such as stop or length")
        return text, "length" if finish.lower() in LIMIT_REASONS else "stop"

    @property
    def problem_id(self) -> str:
        """The id of the problem that the line is about."""
        names = (self.fields.id,) if self.fields.id else ID_FIELDS
        option = "--id-field of reckon grade. Items are matched by it, never by their order"
        value = self._value(names, option)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise InputError(f"the id is {type(value).__name__}, not text or a whole number")
        return str(value)

    @property
    def key(self) -> Key:
        """Problem id and sample number, 0 where the line has none."""
        sample = {**self.values, **self.known}.get("sample", 0)
        if not isinstance(sample, int):
            raise InputError(f"sample is {sample!r}; expected a whole number")
        return self.problem_id, sample

    def problem(self, name: str) -> Problem:
        """What the line says of its problem: question, solution, kind of answer, options, and the gold.

        The gold is given as a number, as text, or as a reference solution with `####`.
        """
        option = "--gold-field of reckon grade, or give the gold answers by id with --gold FILE"
        question, solution = (str(self.values.get(key, "")) for key in ("question", "solution"))
        kind, choices = as_kind(self.values, self.fields.kind)
        gold = as_gold(self._value((self.fields.gold,), option), kind, choices)
        return Problem(name, question, solution, gold, "", "", kind=kind, choices=choices)

    @property
    def answer_format(self) -> str:
        """How the prompt of the completion asked for the answer to be marked."""
        return str(self.values.get("answer_format", self.fields.answer_format))

    def _value(self, names: Sequence[str], option: str) -> Any:
        for name in names:
            for holder in (self.known, self.values):
                if (at_name := _follow(holder, name)) is not None:
                    return at_name[0]
        raise _missing(self.values, names, option)


def _missing(values: Mapping[str, Any], names: Sequence[str], option: str) -> InputError:
    wanted, held = " or ".join(map(repr, names)), ", ".join(sorted(values)) or "none"
    return InputError(f"no field {wanted} (fields: {held}). Name it with {option}")


def completion_lines(path: Path | str, fields: Fields) -> Iterator[tuple[int, Line | InputError]]:
    """Each line of a file or "-" (stdin) with its number, in constant memory; or why it cannot be read."""
    for number, raw in raw_lines(path):
        try:
            yield number, Line.of_completion(json_object(raw), fields)
        except InputError as error:
            yield number, error


def as_gold(value: Any, kind: str = "number", choices: Sequence[str] = ()) -> str:
    """The gold answer in a number, a text or a solution with `####`; spans also in a list.

    Raises `InputError` where that is outside the kind of answer.
    """
    if kind == "span" and isinstance(value, list | dict):
        value = encode_gold(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"gold is {type(value).__name__}, not a {kind}")
    gold = extract_gold(value) if isinstance(value, str) and "####" in value else str(value)
    kind_of(kind).check(gold, choices)
    return gold


def as_kind(values: Mapping[str, Any], default: str = "number") -> tuple[str, tuple[str, ...]]:
    """The kind of answer and the options that a line names."""
    choices = values.get("choices", [])
    if not isinstance(choices, list):
        raise InputError(f"choices is {type(choices).__name__}, not a list of texts")
    return str(values.get("kind", default)), tuple(map(str, choices))


def read_problems(path: Path) -> dict[str, Problem]:
    """Problems by id. A line has `id` and `gold`, or a `solution` (or `answer`) that ends in `#### N`."""
    problems: dict[str, Problem] = {}
    for number, values in read_json_lines(path):
        with _at(path, number):
            name, solution = Line(values).problem_id, str(values.get("solution", values.get("answer", "")))
            if "gold" not in values and "####" not in solution:
                raise InputError("no gold answer (gold, or a solution that ends in `#### N`)")
            kind, choices = as_kind(values)
            gold = as_gold(values.get("gold", solution), kind, choices)
            if name in problems:
                raise InputError(f"problem {name!r} is there twice")
            names = ("category", "steps", "template", "unseen")
            known: dict[str, Any] = {name: values[name] for name in names if name in values}
            question, variant, origin = (str(values.get(n, "")) for n in ("question", "variant", "source"))
            known |= {"kind": kind, "choices": choices}
            problems[name] = with_category(Problem(name, question, solution, gold, variant, origin, **known))
    return problems


def read_questions(path: Path) -> list[str]:
    """The `question` of each line of a JSONL; raises `InputError` naming a line without one."""
    questions = []
    for number, values in read_json_lines(path):
        if not isinstance(question := values.get("question"), str):
            raise InputError(f"{path} line {number}: no question (a text in the field question)")
        questions.append(question)
    return questions


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One published accuracy: `k` of `n`, or `percent` as printed (a text keeps its last zero) of `n`.

    Rows of one `group` answer the same problems under the same rules, as their `source` claims. An `n` of
    None was not stated.
    """

    title: str
    n: int | None = None
    k: int | None = None
    percent: str | int | float | None = None
    group: str = ""
    source: str = ""
    note: str = ""


def read_published(path: Path) -> list[PublishedRow]:
    """The rows of a JSONL of published accuracies; raises `InputError` naming line and field."""
    return list(read_records(path, PublishedRow))


@dataclass(frozen=True)
class CompletionSet:
    """The grades of one run on one split, with its completions, problems and settings where they are known.

    `split` is empty and `grader` is "unknown" where the file does not say.
    """

    name: str
    grades: Mapping[Key, Grade]
    grader: str = UNKNOWN
    split: str = ""
    completions: Mapping[Key, Completion] = field(default_factory=dict)
    problems: Mapping[str, Problem] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompts(self) -> frozenset[str]:
        """Hashes of the prompts that the completions answer."""
        return frozenset(one.prompt_hash for one in self.completions.values() if one.prompt_hash)

    def need_texts(self) -> None:
        """Refuse a set that holds only grades, or problems without questions."""
        if not self.completions:
            raise InputError(
                f"{self.name}: holds grades without completions. "
                "Give the run folder or the file of completions"
            )
        if not all(problem.question and problem.solution for problem in self.problems.values()):
            raise InputError(
                f"{self.name}: errors need each problem's question and solution. "
                "Name a file that has them with --gold FILE"
            )

    def shares(self, reading: Literal["strict", "flexible"] = "strict") -> dict[str, float]:
        """The share of right samples of each problem, from 0 to 1, by one of the two readings."""
        right: dict[str, list[bool]] = defaultdict(list)
        for (problem_id, _), graded in self.grades.items():
            right[problem_id].append(getattr(graded, reading))
        return {problem_id: sum(marks) / len(marks) for problem_id, marks in right.items()}


def merged(name: str, runs: Sequence[CompletionSet]) -> CompletionSet:
    """The runs of one arm as one set: the samples of each run are numbered after those of the run before."""
    if len(runs) == 1:
        return replace(runs[0], name=name)
    step = 1 + max(sample for run in runs for _, sample in run.grades)

    def numbered(field: str) -> dict[Key, Any]:
        return {
            (problem, sample + at * step): value
            for at, run in enumerate(runs)
            for (problem, sample), value in getattr(run, field).items()
        }

    return replace(runs[0], name=name, grades=numbered("grades"), completions=numbered("completions"))


def read_completion_sets(
    paths: Sequence[Path], gold: Path | None = None, split: str = ""
) -> list[CompletionSet]:
    """Read every path; those that would have the same name are called by their paths. Raises `InputError`."""
    sets = [read_completion_set(path, gold, split) for path in paths]
    names = [one.name for one in sets]
    return [
        one if names.count(one.name) == 1 else replace(one, name=str(path))
        for one, path in zip(sets, paths, strict=True)
    ]


def read_completion_set(path: Path, gold: Path | None = None, split: str = "") -> CompletionSet:
    """Read one run folder or JSONL file.

    `gold` is a file of problems, needed where none lie beside the completions. `split` chooses among the
    evaluations of a run folder; by default the one on test, or the only one, is taken.
    """
    if path.is_dir():
        return evaluated_set(read_run(path), split)
    lines = read_json_lines(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: holds no lines")
    lines = chain([first], lines)
    return _read_grades(path, lines) if "strict" in first[1] else _read_completions(path, lines, gold)


def evaluated_set(run: RunRecord, split: str) -> CompletionSet:
    """The completions and stored grades of one evaluation; `split` as in `read_completion_set`."""
    folder = run.folder
    wanted = split or ("test" if run.evaluation("test") else "")
    fitting = [one for one in run.evaluations if not wanted or one.split == wanted]
    if len(fitting) != 1:
        held = ", ".join(one.predictions for one in run.evaluations) or "none"
        raise InputError(
            f"{folder}: {len(fitting)} evaluations fit{f' split {wanted}' if wanted else ''} "
            f"(it holds: {held}). Name one of these files"
        )
    chosen = fitting[0]
    grades = {(g.problem_id, g.sample): g for g in read_records(folder / chosen.grades, Grade)}
    completions = {(c.problem_id, c.sample): c for c in read_records(folder / chosen.predictions, Completion)}
    problems = {p.id: with_category(p) for p in read_records(folder / chosen.problems, Problem)}
    if odd := {i for i, _ in grades.keys() ^ completions.keys()} | ({i for i, _ in grades} - problems.keys()):
        raise InputError(
            f"{folder}: grades, predictions and problems do not hold the same items (first: {min(odd)}). "
            "Evaluate it again"
        )
    settings: dict[str, Any] = {"max_new_tokens": chosen.max_new_tokens, "decoding": chosen.decoding}
    settings |= {"noise": run.noise} if run.noise else {}
    grader = run.grader or UNKNOWN
    return CompletionSet(run.name, grades, grader, chosen.split, completions, problems, settings)


def _read_grades(path: Path, lines: Iterable[tuple[int, dict[str, Any]]]) -> CompletionSet:
    grades: dict[Key, Grade] = {}
    graders = set()
    for number, values in lines:
        with _at(path, number):
            key = Line(values).key
            graders.add(values.get("grader", UNKNOWN))
            _add(grades, key, _as_grade(key, values))
    if len(graders) > 1:
        names = " and ".join(sorted(map(str, graders)))
        raise InputError(f"{path}: graded by {names}. Grade the completions again, all by one grader")
    return CompletionSet(_name(path), grades, str(graders.pop()))


def _as_grade(key: Key, values: Mapping[str, Any]) -> Grade:
    strict, flexible = values.get("strict"), values.get("flexible", values.get("strict"))
    if not isinstance(strict, bool) or not isinstance(flexible, bool):
        raise InputError(f"strict and flexible are true or false, not {strict!r} and {flexible!r}")
    verdict = values.get("verdict", "correct" if strict else "wrong")
    if verdict not in VERDICTS:
        raise InputError(f"verdict is {verdict!r}; expected one of {', '.join(VERDICTS)}")
    readings = values.get("strict_value"), values.get("flexible_value")
    f1 = values.get("f1")
    return Grade(*key, strict, flexible, *readings, verdict, values.get("markers", 0), f1)


def _read_completions(
    path: Path, lines: Iterable[tuple[int, dict[str, Any]]], gold: Path | None
) -> CompletionSet:
    split, beside = _problems_beside(path)
    known = gold or beside
    problems = read_problems(known) if known else {}
    grades: dict[Key, Grade] = {}
    completions: dict[Key, Completion] = {}
    for number, values in lines:
        with _at(path, number):
            line = Line.of_completion(values)
            (name, sample), (text, finish) = key, _ = line.key, line.answer
            prompt, run = (str(values.get(field, "")) for field in ("prompt_hash", "run"))
            if name not in problems:
                if known:
                    raise InputError(
                        f"{known} has no item {name!r}. Name a file of problems with --gold FILE"
                    )
                problems[name] = line.problem(name)
            tokens = values.get("token_count", 0)
            completion = Completion(
                name, sample, prompt, text or "", tokens, finish, 0.0, run, line.answer_format
            )
            _add(completions, key, completion)
            grades[key] = grade(completion, problems[name])
    return CompletionSet(
        _name(path), grades, grader_of(problems.values()), "" if gold else split, completions, problems
    )


def _problems_beside(path: Path) -> tuple[str, Path | None]:
    """`RUN/problems/SPLIT.jsonl` for `RUN/predictions/SPLIT-PROMPT.jsonl`, with the split's name."""
    files = (path.resolve().parent.parent / "problems").glob("*.jsonl")
    fitting = [file for file in files if path.name == file.name or path.name.startswith(f"{file.stem}-")]
    longest = max(fitting, key=lambda file: len(file.stem), default=None)
    return (longest.stem, longest) if longest else ("", None)


def _name(path: Path) -> str:
    folder = path.resolve().parent.parent
    return f"{folder.name}/{path.stem}" if (folder / "summary.json").is_file() else path.stem


def _add(records: dict[Key, Any], key: Key, record: Any) -> None:
    if key in records:
        raise InputError(
            f"item {key[0]!r} sample {key[1]} is there twice. Number several samples with `sample`"
        )
    records[key] = record


@contextmanager
def _at(path: Path, number: int) -> Iterator[None]:
    """Name the file and the line in what is refused inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path} line {number}: {error}") from error
