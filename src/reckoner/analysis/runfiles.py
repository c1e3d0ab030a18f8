"""What can be compared: a run folder, a file of completions or a file of grades, read into one shape.

A run folder keeps the grades it was given. A file of completions is graded here, so naming
`RUN/predictions/TEST.jsonl` instead of `RUN` grades it again. Other tools' files serve as well: a line needs an id and
either a completion (see `read_answer`) or `strict` and `flexible`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from reckoner.analysis.study_records import read_run
from reckoner.errors import InputError
from reckoner.runs.documents import Evaluation
from reckoner.runs.records import Completion, Finish, Grade, Problem, read_json_lines, read_records
from reckoner.tasks.answers.number import GRADER, extract_gold, gold_number, grade

Key = tuple[str, int]
"""Problem id and sample number."""

Lines = Iterable[tuple[int, dict[str, Any]]]
UNKNOWN = "unknown"
COMPLETION = (
    "completion",
    "text",
    "outputs.0.text",  # vLLM
    "choices.0.message.content",  # OpenAI and servers that follow it
    "choices.0.text",
    "response.body.choices.0.message.content",  # OpenAI's batches
    "response.body.choices.0.text",
    "resps.0.0",  # lm-eval
)
"""Where a completion may stand in a line, the first that is there counts; a dot leads into an object or a list."""

ID = ("problem_id", "custom_id", "id")
FINISH = ("finish", "finish_reason", "stop_reason")
CUT = frozenset(("length", "max_tokens", "max_length", "max_new_tokens"))
"""What tools call the end at a limit of tokens, in small letters."""

VERDICTS = ("correct", "wrong", "no_answer", "truncated")


@dataclass(frozen=True, slots=True)
class Fields:
    """The names of a line's fields; left empty, those of `COMPLETION` and `ID` are tried."""

    completion: str = ""
    gold: str = "gold"
    id: str = ""


@dataclass(frozen=True)
class Source:
    """The grades of one run on one split, with whatever else was found: completions, problems, settings.

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
        return frozenset(
            completion.prompt_hash for completion in self.completions.values() if completion.prompt_hash
        )

    def shares(self, reading: Literal["strict", "flexible"] = "strict") -> dict[str, float]:
        """The share of right answers to each problem, by one of the two readings: 0 or 1 where each was asked once."""
        right: dict[str, list[bool]] = defaultdict(list)
        for (item, _), graded in self.grades.items():
            right[item].append(getattr(graded, reading))
        return {item: sum(marks) / len(marks) for item, marks in right.items()}


def read_sources(paths: Sequence[Path], gold: Path | None = None, split: str = "") -> list[Source]:
    """Read every path; where two would have the same name, each is called by its path. Raises `InputError`."""
    sources = [read_source(path, gold, split) for path in paths]
    names = [source.name for source in sources]
    return [
        source if names.count(source.name) == 1 else replace(source, name=str(path))
        for source, path in zip(sources, paths, strict=True)
    ]


def read_source(path: Path, gold: Path | None = None, split: str = "") -> Source:
    """Read one run folder or JSONL file. `gold` is a file of problems, needed where none lie beside the completions.

    `split` chooses among the evaluations of a run folder; else its evaluation on test, or its only one, is taken.
    """
    if path.is_dir():
        return _read_folder(path, split)
    lines = read_json_lines(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: holds no lines")
    lines = chain([first], lines)
    return _read_grades(path, lines) if "strict" in first[1] else _read_completions(path, lines, gold)


def _read_folder(folder: Path, split: str) -> Source:
    run = read_run(folder)
    chosen = _choose(folder, run.evaluations, split)
    grades = {(g.problem_id, g.sample): g for g in read_records(folder / chosen.grades, Grade)}
    completions = {(c.problem_id, c.sample): c for c in read_records(folder / chosen.predictions, Completion)}
    problems = {p.id: p for p in read_records(folder / chosen.problems, Problem)}
    if odd := {i for i, _ in grades.keys() ^ completions.keys()} | ({i for i, _ in grades} - problems.keys()):
        raise InputError(
            f"{folder}: grades, predictions and problems do not hold the same items (first: {min(odd)}). Evaluate it again"
        )
    settings = {"max_new_tokens": chosen.max_new_tokens, "decoding": chosen.decoding}
    return Source(run.name, grades, run.grader, chosen.split, completions, problems, settings)


def _choose(folder: Path, evaluations: Sequence[Evaluation], split: str) -> Evaluation:
    wanted = split or ("test" if any(found.split == "test" for found in evaluations) else "")
    fitting = [found for found in evaluations if not wanted or found.split == wanted]
    if len(fitting) == 1:
        return fitting[0]
    held = ", ".join(found.predictions for found in evaluations) or "none"
    raise InputError(
        f"{folder}: {len(fitting)} evaluations fit{f' split {wanted}' if wanted else ''} (it holds: {held}). Name one of these files"
    )


def _name(path: Path) -> str:
    folder = path.resolve().parent.parent
    return f"{folder.name}/{path.stem}" if (folder / "summary.json").is_file() else path.stem


def identity(line: Mapping[str, Any], name: str = "") -> str:
    """The id of the problem that a line is about. Raises `InputError` where there is none."""
    value = _field(
        line,
        (name,) if name else ID,
        "--id-field of reckon grade. Items are matched by it, never by their order",
    )[0]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InputError(f"the id is {type(value).__name__}, not text or a whole number")
    return str(value)


def read_answer(line: Mapping[str, Any], name: str = "") -> tuple[str | None, Finish]:
    """The completion of a line and how it ended, which stands beside or above it. Raises `InputError`."""
    text, around = _field(line, (name,) if name else COMPLETION, "--completion-field of reckon grade")
    if text is not None and not isinstance(text, str):
        raise InputError(f"the completion is {type(text).__name__}, not text")
    end = next((holder[key] for holder in around for key in FINISH if holder.get(key) is not None), "stop")
    if not isinstance(end, str):
        raise InputError(f"the completion ended with {end!r}; expected a word such as stop or length")
    return text, "length" if end.lower() in CUT else "stop"


def gold_of(value: Any) -> str:
    """A gold answer given as number, as text or as reference solution with `####`. Raises `InputError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"gold is {type(value).__name__}, not a number")
    gold = extract_gold(value) if isinstance(value, str) and "####" in value else str(value)
    gold_number(gold)
    return gold


def gold_in(line: Mapping[str, Any], name: str = "gold") -> str:
    """The gold answer that stands in a line. Raises `InputError`."""
    return gold_of(
        _field(
            line, (name,), "--gold-field of reckon grade, or give the gold answers by id with --gold FILE"
        )[0]
    )


def _field(line: Mapping[str, Any], names: Sequence[str], option: str) -> tuple[Any, list[Mapping[str, Any]]]:
    """The first field that is there, and the objects around it, the innermost first. Raises `InputError`."""
    for name in names:
        if name in line:
            return line[name], [line]
        value: Any = line
        around: list[Mapping[str, Any]] = []
        for key in name.split("."):
            if isinstance(value, dict) and key in value:
                around.insert(0, value)
                value = value[key]
            elif isinstance(value, list) and key.isdecimal() and len(value) > int(key):
                if len(value) > 1 and name in COMPLETION:
                    raise InputError(
                        f"{len(value)} completions in one line. Write each into a line of its own"
                    )
                value = value[int(key)]
            else:
                break
        else:
            return value, around
    plain = " or ".join(repr(name) for name in names if "." not in name or len(names) == 1)
    raise InputError(f"no field {plain} (fields: {', '.join(sorted(line)) or 'none'}). Name it with {option}")


def _key(line: Mapping[str, Any]) -> Key:
    sample = line.get("sample", 0)
    if not isinstance(sample, int):
        raise InputError(f"sample is {sample!r}; expected a whole number")
    return identity(line), sample


def _add(found: dict[Key, Any], key: Key, value: Any) -> None:
    if key in found:
        raise InputError(
            f"item {key[0]!r} sample {key[1]} is there twice. Number several samples with `sample`"
        )
    found[key] = value


def _read_grades(path: Path, lines: Lines) -> Source:
    grades: dict[Key, Grade] = {}
    graders = set()
    for number, line in lines:
        with _at(path, number):
            key = _key(line)
            graders.add(line.get("grader", UNKNOWN))
            _add(grades, key, _grade_of(key, line))
    if len(graders) > 1:
        raise InputError(
            f"{path}: graded by {' and '.join(sorted(map(str, graders)))}. Grade the completions again, all by one grader"
        )
    return Source(_name(path), grades, str(graders.pop()))


def _grade_of(key: Key, line: Mapping[str, Any]) -> Grade:
    strict, flexible = line.get("strict"), line.get("flexible", line.get("strict"))
    if not isinstance(strict, bool) or not isinstance(flexible, bool):
        raise InputError(f"strict and flexible are true or false, not {strict!r} and {flexible!r}")
    verdict = line.get("verdict", "correct" if strict else "wrong")
    if verdict not in VERDICTS:
        raise InputError(f"verdict is {verdict!r}; expected one of {', '.join(VERDICTS)}")
    values = line.get("strict_value"), line.get("flexible_value")
    return Grade(*key, strict, flexible, *values, verdict, line.get("markers", 0))


def _read_completions(path: Path, lines: Lines, gold: Path | None) -> Source:
    split, beside = _problems_beside(path)
    source = gold or beside
    problems = read_problems(source) if source else {}
    grades: dict[Key, Grade] = {}
    completions: dict[Key, Completion] = {}
    for number, line in lines:
        with _at(path, number):
            completion = _completion_of(line)
            key = completion.problem_id, completion.sample
            if key[0] not in problems:
                if source:
                    raise InputError(
                        f"{source} has no item {key[0]!r}. Name a file of problems with --gold FILE"
                    )
                question, solution = (str(line.get(name, "")) for name in ("question", "solution"))
                problems[key[0]] = Problem(key[0], question, solution, gold_in(line), "", "")
            _add(completions, key, completion)
            grades[key] = grade(completion, problems[key[0]].gold)
    return Source(_name(path), grades, GRADER, "" if gold else split, completions, problems)


def _completion_of(line: Mapping[str, Any]) -> Completion:
    (name, sample), (text, finish) = _key(line), read_answer(line)
    prompt, run = (str(line.get(field, "")) for field in ("prompt_hash", "run"))
    return Completion(name, sample, prompt, text or "", line.get("token_count", 0), finish, 0.0, run)


@contextmanager
def _at(path: Path, number: int) -> Iterator[None]:
    """Name the file and the line in what is refused inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path} line {number}: {error}") from error


def _problems_beside(path: Path) -> tuple[str, Path | None]:
    """`RUN/problems/SPLIT.jsonl` for `RUN/predictions/SPLIT-PROMPT.jsonl`, with the split's name."""
    folder = path.resolve().parent.parent / "problems"
    fitting = [
        found
        for found in folder.glob("*.jsonl")
        if path.name == found.name or path.name.startswith(f"{found.stem}-")
    ]
    best = max(fitting, key=lambda found: len(found.stem), default=None)
    return (best.stem, best) if best else ("", None)


def read_problems(path: Path) -> dict[str, Problem]:
    """Problems by id from JSONL lines with `id` and `gold`, or with `solution` (or `answer`) that ends in `#### N`."""
    problems: dict[str, Problem] = {}
    for number, line in read_json_lines(path):
        with _at(path, number):
            name, solution = identity(line), str(line.get("solution", line.get("answer", "")))
            if "gold" not in line and "####" not in solution:
                raise InputError("no gold answer (gold, or a solution that ends in `#### N`)")
            gold = gold_of(line.get("gold", solution))
            if name in problems:
                raise InputError(f"problem {name!r} is there twice")
            known = {key: line[key] for key in ("category", "steps", "template", "unseen") if key in line}
            question, variant, origin = (
                str(line.get(field, "")) for field in ("question", "variant", "source")
            )
            problems[name] = Problem(name, question, solution, gold, variant, origin, **known)
    return problems
