"""The one reader of completions, grades and problems, in our files and in those of other tools (`tools`).

A run folder keeps the grades that it was given. A file of completions is graded here, so naming
`RUN/predictions/TEST.jsonl` instead of `RUN` grades it again. A line of another tool needs an id and either a
completion, which one of `LINE_FORMATS` finds, or `strict` and `flexible`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from reckoner.analysis.lines import DECIMAL, Fields, Line, as_gold, as_kind, completion_lines
from reckoner.analysis.tools import GOLDS, Questions, rows, tool_files
from reckoner.errors import InputError
from reckoner.machine import say_once
from reckoner.runs.records import Completion, Grade, Problem, Verdict, read_json_lines, read_records
from reckoner.tasks.answers.grading import grade, grader_of
from reckoner.tasks.categories import with_category
from reckoner.tasks.decimals import GoldStyle, with_points
from reckoner.tasks.tables import Rows

if TYPE_CHECKING:
    from reckoner.analysis.study_records import RunRecord

Key = tuple[str, int]
"""Problem id and sample number."""

UNKNOWN = "unknown"
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def read_problems(path: Path, decimal: str = "auto") -> dict[str, Problem]:
    """Problems by id, of JSONL, CSV, TSV or Parquet. A row has `id` and `gold` (or another of `GOLDS`), or a
    `solution` (or `answer`) that ends in `#### N`.

    `decimal` is the sign before decimals in them. Raises `InputError`, also where most golds leave it open.
    """
    problems: dict[str, Problem] = {}
    for place, values in rows(path):
        with _at(path, place):
            if isinstance(values, InputError):
                raise values
            line = Line(values)
            name, solution = line.problem_id, str(values.get("solution", values.get("answer", "")))
            kind, choices = as_kind(values)
            marked = "gold" not in values and "####" in solution
            if not marked and not values.keys() & set(GOLDS):
                raise InputError("no gold answer (gold, or a solution that ends in `#### N`)")
            gold = as_gold(solution if marked else line.gold, kind, choices, decimal)
            if not marked and not values.keys() & {"gold", "solution"}:
                solution = ""  # the column `answer` is the gold
            if name in problems:
                raise InputError(f"problem {name!r} is there twice")
            types = {"category": str, "steps": int, "template": str, "unseen": bool}  # a CSV has texts alone
            known: dict[str, Any] = {n: values[n] for n, t in types.items() if isinstance(values.get(n), t)}
            question, variant, origin = (str(values.get(n, "")) for n in ("question", "variant", "source"))
            known |= {"kind": kind, "choices": choices}
            texts = with_points(question, decimal), with_points(solution, decimal)
            problems[name] = with_category(Problem(name, *texts, gold, variant, origin, **known))
    check_golds(problems.values(), str(path), decimal)
    return problems


def check_golds(problems: Iterable[Problem], where: str, decimal: str) -> None:
    """Refuse golds of which most look as if decimals follow a comma, where nothing says what is right."""
    style = GoldStyle()
    for problem in problems:
        if problem.kind == "number" and decimal == "auto":
            style.add(problem.gold)
    style.check(where, DECIMAL)


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

    def need_completions(self) -> None:
        """Refuse a set that holds only grades."""
        if not self.completions:
            raise InputError(
                f"{self.name}: holds grades without completions. "
                "Give the run folder or the file of completions"
            )

    @property
    def has_texts(self) -> bool:
        """Whether every problem has its question and its reference solution."""
        return all(problem.question and problem.solution for problem in self.problems.values())

    def need_texts(self) -> None:
        """Refuse a set that holds only grades, or problems without questions or solutions."""
        self.need_completions()
        if not self.has_texts:
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


def sample_step(runs: Sequence[CompletionSet]) -> int:
    """How far apart `merged` numbers the samples of one run and of the next."""
    return 1 + max(sample for run in runs for _, sample in run.grades)


def merged(name: str, runs: Sequence[CompletionSet]) -> CompletionSet:
    """The runs of one arm as one set: the samples of each run are numbered after those of the run before."""
    if len(runs) == 1:
        return replace(runs[0], name=name)
    step = sample_step(runs)

    def numbered(field: str) -> dict[Key, Any]:
        return {
            (problem, sample + at * step): value
            for at, run in enumerate(runs)
            for (problem, sample), value in getattr(run, field).items()
        }

    return replace(runs[0], name=name, grades=numbered("grades"), completions=numbered("completions"))


def read_completion_sets(
    paths: Sequence[Path], gold: Path | None = None, split: str = "", decimal: str = "auto"
) -> list[CompletionSet]:
    """Read every path; those that would have the same name are called by their paths. Raises `InputError`.

    Where two tools give the same questions other ids, those of the first are taken, and a line says so.
    """
    sets = [read_completion_set(path, gold, split, decimal) for path in paths]
    sets = [sets[0], *(_with_ids_of(sets[0], one) for one in sets[1:])] if sets else []
    names = [one.name for one in sets]
    return [
        one if names.count(one.name) == 1 else replace(one, name=str(path))
        for one, path in zip(sets, paths, strict=True)
    ]


def read_completion_set(
    path: Path, gold: Path | None = None, split: str = "", decimal: str = "auto"
) -> CompletionSet:
    """Read one run folder or JSONL file.

    `gold` is a file of problems, needed where none lie beside the completions. `split` chooses among the
    evaluations of a run folder; by default the one on test, or the only one, is taken. `decimal` is the sign
    before decimals in files of others; our own have a point.
    """
    files = tool_files(path) if path.is_dir() and not (path / "summary.json").exists() else []
    if path.is_dir() and not files:
        from reckoner.analysis.study_records import read_run

        run = read_run(path)
        found, flops = evaluated_set(run, split), run.training.flops if run.training else None
        return replace(found, settings={**found.settings, "operations": flops}) if flops else found
    if files:
        return _read_completions(path, files, gold, decimal)
    lines = rows(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: holds no lines")
    lines = chain([first], lines)
    graded = not isinstance(first[1], InputError) and "strict" in first[1] and "resps" not in first[1]
    return _read_grades(path, lines) if graded else _read_completions(path, [path], gold, decimal, lines)


def _with_ids_of(first: CompletionSet, one: CompletionSet) -> CompletionSet:
    """The set with the ids of `first`, where they share no id but questions; else the set itself."""
    if first.problems.keys() & one.problems.keys() or not first.problems:
        return one
    known = Questions({name: problem.question for name, problem in first.problems.items()})
    ids = {name: known.find(problem.question) or name for name, problem in one.problems.items()}
    matched = [(name, other) for name, other in ids.items() if name != other]
    if not matched or len(set(ids.values())) < len(ids):
        return one
    grades = {(ids[name], n): replace(held, problem_id=ids[name]) for (name, n), held in one.grades.items()}
    completions = {
        (ids[name], n): replace(held, problem_id=ids[name]) for (name, n), held in one.completions.items()
    }
    problems = {ids[name]: replace(problem, id=ids[name]) for name, problem in one.problems.items()}
    (name, other), *_ = matched
    say_once(
        f"{one.name}: {len(matched):,} of {len(ids):,} items have questions of {first.name} under other ids "
        f"({name!r} is {other!r}) and are matched by them"
    )
    return replace(one, grades=grades, completions=completions, problems=problems)


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
    settings |= {"trained": True} if run.training else {}
    grader = run.grader or UNKNOWN
    return CompletionSet(run.name, grades, grader, chosen.split, completions, problems, settings)


def _read_grades(path: Path, lines: Rows) -> CompletionSet:
    grades: dict[Key, Grade] = {}
    graders = set()
    for place, values in lines:
        with _at(path, place):
            if isinstance(values, InputError):
                raise values
            key = Line(values).key
            graders.add(str(values.get("grader", UNKNOWN)))
            _add(grades, key, _as_grade(key, values))
    if len(graders) > 1:
        names = " and ".join(sorted(graders))
        raise InputError(f"{path}: graded by {names}. Grade the completions again, all by one grader")
    return CompletionSet(_name(path), grades, graders.pop())


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
    path: Path, files: Sequence[Path], gold: Path | None, decimal: str, begun: Rows | None = None
) -> CompletionSet:
    """Grade the completions of `files`; `begun` are the rows of the only one, where it is open already."""
    split, beside = _problems_beside(path)
    known = gold or beside
    fields = Fields(decimal="point" if beside else decimal)
    problems = read_problems(known, decimal if gold else "point") if known else {}
    questions = Questions({name: problem.question for name, problem in problems.items()})
    grades: dict[Key, Grade] = {}
    completions: dict[Key, Completion] = {}
    drawn: Counter[str] = Counter()
    for source, place, line in (
        (one, *pair) for one in files for pair in completion_lines(one, fields, drawn, begun)
    ):
        with _at(source, place):
            if isinstance(line, InputError):
                raise line
            (name, sample), (text, finish), values = line.key, line.answer, line.values
            if known:
                name = line.known_as(questions, problems, str(known))
            elif name not in problems:
                problems[name] = line.problem(name)
            run = str(values.get("run", ""))
            prompt = "" if "tool" in line.known else str(values.get("prompt_hash", ""))
            tokens = values.get("token_count", 0)
            completion = Completion(
                name, sample, prompt, text or "", tokens, finish, 0.0, run, line.answer_format
            )
            _add(completions, (name, sample), completion)
            grades[name, sample] = grade(completion, problems[name])
    if not grades:
        raise InputError(f"{path}: holds no completions")
    if not known:
        check_golds(problems.values(), str(path), decimal)
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
    if path.is_dir():
        return path.resolve().name
    return f"{folder.name}/{path.stem}" if (folder / "summary.json").is_file() else path.stem


def _add(records: dict[Key, Any], key: Key, record: Any) -> None:
    if key in records:
        raise InputError(
            f"item {key[0]!r} sample {key[1]} is there twice. Number several samples with `sample`"
        )
    records[key] = record


@contextmanager
def _at(path: Path, place: str) -> Iterator[None]:
    """Name the file and the line in what is refused inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path} {place}: {error}") from error
