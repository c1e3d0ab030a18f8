"""What can be compared: a run folder, a file of completions or a file of grades, read into one shape.

A run folder keeps the grades it was given. A file of completions is graded here, so naming
`RUN/predictions/TEST.jsonl` instead of `RUN` grades it again. Other trainers' files serve as well: a line needs `id` (or
`problem_id`) and either `completion` (or `text`) or `strict` and `flexible`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reckoner.analysis.study_records import read_run
from reckoner.documents import Evaluation
from reckoner.faults import InputError
from reckoner.records import Completion, Grade, Problem, read_json_lines, read_records
from reckoner.tasks.grading import GRADER, extract_gold, grade

Key = tuple[str, int]
"""Problem id and sample number."""

UNKNOWN = "unknown"
VERDICTS = ("correct", "wrong", "no_answer", "truncated")


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
    first = next((line for _, line in read_json_lines(path)), None)
    if first is None:
        raise InputError(f"{path}: holds no lines")
    if "strict" in first:
        return _read_grades(path)
    if "text" in first or "completion" in first:
        return _read_completions(path, gold)
    raise InputError(
        f"{path} line 1: neither a grade (strict, flexible) nor a completion (text or completion); fields: {', '.join(sorted(first))}"
    )


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


def _identity(where: str, line: Mapping[str, Any]) -> Key:
    name = line.get("problem_id", line.get("id"))
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise InputError(f"{where}: no problem_id or id. Items are matched by it, never by their order")
    sample = line.get("sample", 0)
    if not isinstance(sample, int):
        raise InputError(f"{where}: sample is {sample!r}; expected a whole number")
    return str(name), sample


def _add(found: dict[Key, Any], key: Key, value: Any, where: str) -> None:
    if key in found:
        raise InputError(
            f"{where}: item {key[0]!r} sample {key[1]} is there twice. Number several samples with `sample`"
        )
    found[key] = value


def _read_grades(path: Path) -> Source:
    grades: dict[Key, Grade] = {}
    graders = set()
    for number, line in read_json_lines(path):
        where = f"{path} line {number}"
        key = _identity(where, line)
        graders.add(line.get("grader", UNKNOWN))
        _add(grades, key, _grade_of(key, line, where), where)
    if len(graders) > 1:
        raise InputError(
            f"{path}: graded by {' and '.join(sorted(map(str, graders)))}. Grade the completions again, all by one grader"
        )
    return Source(_name(path), grades, str(graders.pop()))


def _grade_of(key: Key, line: Mapping[str, Any], where: str) -> Grade:
    strict, flexible = line.get("strict"), line.get("flexible", line.get("strict"))
    if not isinstance(strict, bool) or not isinstance(flexible, bool):
        raise InputError(f"{where}: strict and flexible are true or false, not {strict!r} and {flexible!r}")
    verdict = line.get("verdict", "correct" if strict else "wrong")
    if verdict not in VERDICTS:
        raise InputError(f"{where}: verdict is {verdict!r}; expected one of {', '.join(VERDICTS)}")
    return Grade(
        *key,
        strict,
        flexible,
        line.get("strict_value"),
        line.get("flexible_value"),
        verdict,
        line.get("markers", 0),
    )


def _read_completions(path: Path, gold: Path | None) -> Source:
    split, beside = _problems_beside(path)
    source = gold or beside
    problems = read_problems(source) if source else {}
    grades: dict[Key, Grade] = {}
    completions: dict[Key, Completion] = {}
    for number, line in read_json_lines(path):
        where = f"{path} line {number}"
        completion = _completion_of(line, where)
        key = completion.problem_id, completion.sample
        if key[0] not in problems:
            if source or not isinstance(line.get("gold"), str):
                place = f"{source} has no item {key[0]!r}" if source else "no gold answer here"
                raise InputError(f"{where}: {place}. Name a file of problems with --gold FILE")
            problems[key[0]] = Problem(
                key[0], str(line.get("question", "")), str(line.get("solution", "")), line["gold"], "", ""
            )
        _add(completions, key, completion, where)
        grades[key] = grade(completion, problems[key[0]].gold)
    return Source(_name(path), grades, GRADER, "" if gold else split, completions, problems)


def _completion_of(line: Mapping[str, Any], where: str) -> Completion:
    key = _identity(where, line)
    text, finish = line.get("text", line.get("completion")), line.get("finish", "stop")
    if not isinstance(text, str):
        raise InputError(f"{where}: the completion is {type(text).__name__}, not text")
    if finish not in ("stop", "length"):
        raise InputError(f"{where}: finish is {finish!r}; expected stop or length")
    return Completion(
        *key,
        str(line.get("prompt_hash", "")),
        text,
        line.get("token_count", 0),
        finish,
        0.0,
        str(line.get("run", "")),
    )


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
        where = f"{path} line {number}"
        name, _ = _identity(where, line)
        solution = str(line.get("solution", line.get("answer", "")))
        gold = line.get("gold", extract_gold(solution) if "####" in solution else None)
        if not isinstance(gold, str):
            raise InputError(f"{where}: no gold answer (gold, or a solution that ends in `#### N`)")
        if name in problems:
            raise InputError(f"{where}: problem {name!r} is there twice")
        known = {key: line[key] for key in ("category", "steps", "template", "unseen") if key in line}
        problems[name] = Problem(
            name,
            str(line.get("question", "")),
            solution,
            gold,
            str(line.get("variant", "")),
            str(line.get("source", "")),
            **known,
        )
    return problems
