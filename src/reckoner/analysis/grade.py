"""Grade any file of completions line by line, in constant memory: the same lines come out with verdicts.

A line keeps its fields and gains those of `ADDED` and `grader`. The gold answer stands in the line, or in a
file of problems, by id. `tools.LINE_FORMATS` says whose files can be read.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO

from reckoner.analysis.intervals import wilson
from reckoner.analysis.lines import DECIMAL, Fields, Line, completion_lines
from reckoner.analysis.tools import Questions
from reckoner.analysis.wording import percent, span
from reckoner.errors import InputError
from reckoner.runs.records import Grade, Problem
from reckoner.runs.safe_paths import check_output, replacing
from reckoner.tasks.answers.grading import Answer, version_of
from reckoner.tasks.answers.other_graders import GRADERS
from reckoner.tasks.answers.reading import Reading
from reckoner.tasks.decimals import GoldStyle

OURS = ("strict", "flexible")
ADDED = ("strict", "flexible", "strict_value", "flexible_value", "verdict", "markers")
"""The fields of a `Grade` that are written into its line."""


MOST_FAULTS = 20
"""Lines that cannot be graded and are told; with so many a file is of another kind."""


@dataclass
class GradeCounts:
    """Counts over the graded lines; `skipped` are the lines that could not be read.

    `disagreements` counts outputs whose first and last marker have different values. `patterns` counts the
    lines by which of the graders in `names` took them for right.
    """

    names: tuple[str, ...] = OURS
    n: int = 0
    skipped: int = 0
    no_answer: int = 0
    truncated: int = 0
    multi_marker: int = 0
    disagreements: int = 0
    cuts: int = 0
    patterns: Counter[tuple[bool, ...]] = field(default_factory=Counter)
    graders: set[str] = field(default_factory=set)
    style: GoldStyle = field(default_factory=GoldStyle)

    def add(self, reading: Reading, grade: Grade, others: Sequence[bool] = ()) -> None:
        """Count one line."""
        self.n += 1
        self.no_answer += grade.verdict == "no_answer"
        self.truncated += grade.verdict == "truncated"
        self.multi_marker += grade.markers > 1
        self.disagreements += reading.first is not reading.strict and reading.first != reading.strict
        self.cuts += reading.cut
        self.patterns[(grade.strict, grade.flexible, *others)] += 1

    def right(self, name: str, but_not: str = "") -> int:
        """How many lines the grader `name` took for right, and `but_not`, where given, did not."""
        by_names = ((dict(zip(self.names, seen, strict=True)), n) for seen, n in self.patterns.items())
        return sum(n for seen, n in by_names if seen[name] and not (but_not and seen[but_not]))

    @property
    def strict(self) -> int:
        """Lines right by the strict reading: the headline."""
        return self.right("strict")

    @property
    def flexible(self) -> int:
        """Lines right by the flexible reading."""
        return self.right("flexible")

    def disagree(self, a: str, b: str) -> int:
        """On how many lines two graders disagree."""
        return self.right(a, b) + self.right(b, a)

    def rates(self) -> dict[str, int]:
        """Every count that has a rate, the graders' first, under the name it is printed with."""
        counts = {name: self.right(name) for name in self.names}
        return counts | {
            "no answer": self.no_answer,
            "truncated": self.truncated,
            "several markers": self.multi_marker,
            "first and last marker differ": self.disagreements,
            "cut at a stop string": self.cuts,
        }


def grade_file(
    source: Path | str,
    output: Path | str | None = None,
    fields: Fields = Fields(),
    problems: Mapping[str, Problem] | None = None,
    graders: Sequence[str] = (),
    skip_bad: bool = False,
    on_progress: Callable[[str, int, int, str], None] = lambda *_: None,
) -> GradeCounts:
    """Grade the lines of `source` into `output` and return the counts.

    "-" is stdin or stdout, and an output of None writes nothing. `problems` by id have the golds and replace
    the field. `graders` names graders of other tools, whose verdicts are added under `graders`. Lines that
    cannot be graded raise one `InputError` with their numbers, or are counted and left out with `skip_bad`.
    The output file appears whole or not at all.
    """
    total = _lines(source)
    if unknown := [name for name in graders if name not in GRADERS]:
        raise InputError(f"no grader {unknown[0]!r}. Choose among {', '.join(GRADERS)}, all")
    tally = GradeCounts((*OURS, *graders))
    questions = Questions({name: problem.question for name, problem in (problems or {}).items()})
    faults: dict[str, list[str]] = {}
    with _writing(output) as write:
        for place, line in completion_lines(source, fields):
            if (done := tally.n + tally.skipped) % 1000 == 0:
                on_progress("grade", done, total, "")
            try:
                graded = _graded(line, problems, questions, tally)
            except InputError as error:
                tally.skipped += 1
                if not skip_bad:
                    faults.setdefault(str(error), []).append(place)
                    if tally.skipped == MOST_FAULTS:
                        break
                continue
            if write and not faults:
                write.write(graded)
        if faults:
            raise InputError(_told(source, faults, tally.skipped))
        if not tally.n:
            raise InputError(f"{source}: no line to grade ({tally.skipped} skipped)")
        tally.style.check(str(source), DECIMAL)
    return tally


def _told(source: Path | str, faults: Mapping[str, Sequence[str]], count: int) -> str:
    """A line for each fault, with the places that have it."""
    lines = [
        f"{source} {first}: {fault}{'; also ' if others else ''}{', '.join(others)}"
        for fault, (first, *others) in faults.items()
    ]
    more = f"; these are the first {MOST_FAULTS}" if count == MOST_FAULTS else ""
    return "\n".join(lines) + f". Leave such lines out with --skip-bad{more}"


def _lines(source: Path | str) -> int:
    """Lines of a JSONL file, which are counted far faster than they are graded; 0 (unknown) for all else."""
    path = Path(source)
    if path.suffix != ".jsonl" or not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**14), b""))


def rate_table(tally: GradeCounts) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: each rate with its Wilson 95 % interval, and how other graders differ from strict."""
    headers = ["", "lines", "share", "95 % interval"]
    rows = [
        [name, f"{count:,}/{tally.n:,}", percent(count / tally.n), span(*wilson(count, tally.n))]
        for name, count in tally.rates().items()
    ]
    if tally.names == OURS:
        return headers, rows
    for row in rows:
        compared = row[0] in tally.names and row[0] != "strict"
        row += [
            f"{tally.right(*pair):,}" if compared else "" for pair in ((row[0], "strict"), ("strict", row[0]))
        ]
    return [*headers, "right, strict wrong", "wrong, strict right"], rows


def disagreement_table(tally: GradeCounts) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: on how many lines each two graders disagree."""
    rows = [[a, *(f"{tally.disagree(a, b):,}" if a != b else "" for b in tally.names)] for a in tally.names]
    return ["lines that differ", *tally.names], rows


def document(tally: GradeCounts) -> dict[str, Any]:
    """The same as JSON: counts with share and interval, and the disagreements by pair."""
    rates = {}
    for name, count in tally.rates().items():
        low, high = wilson(count, tally.n)
        rates[name] = {"count": count, "share": count / tally.n, "low": low, "high": high}
    pairs = [
        {"a": a, "b": b, "only_a": tally.right(a, b), "only_b": tally.right(b, a)}
        for a, b in combinations(tally.names, 2)
    ]
    return {
        "grader": "+".join(sorted(tally.graders)),
        "n": tally.n,
        "skipped": tally.skipped,
        "rates": rates,
        "disagreements": pairs,
    }


def _graded(
    line: Line | InputError,
    problems: Mapping[str, Problem] | None,
    questions: Questions,
    tally: GradeCounts,
) -> bytes:
    """One line with its verdicts added, as bytes; counted in `tally` when nothing is wrong with it."""
    if isinstance(line, InputError):
        raise line
    text, finish = line.answer
    if problems is None:
        problem = line.problem("")
        if line.fields.decimal == "auto" and problem.kind == "number":
            tally.style.add(problem.gold)
    else:
        problem = problems[line.known_as(questions, problems, "the gold file")]
    own = problem.gold, finish, problem.kind, problem.choices, line.answer_format
    answer = Answer(text or "", *own)
    reading, grade, version = answer.reading, answer.grade, version_of(problem.kind)
    values = {**line.values, **{name: getattr(grade, name) for name in ADDED}, "grader": version}
    if grade.f1 is not None:
        values["f1"] = grade.f1
    tally.graders.add(version)
    verdicts = {name: GRADERS[name](text or "", problem.gold) for name in tally.names[len(OURS) :]}
    if verdicts:
        values["graders"] = verdicts
    try:
        encoded = _ENCODER.encode(values)
    except ValueError as error:
        raise InputError(f"holds a number that JSON cannot write ({error})") from error
    tally.add(reading, grade, tuple(verdicts.values()))
    return encoded.encode("ascii") + b"\n"


_ENCODER = json.JSONEncoder(allow_nan=False)


@contextmanager
def _writing(output: Path | str | None) -> Iterator[BinaryIO | None]:
    """The file for graded lines, which takes its name when all went well; stdout for "-"; or None."""
    if output is None or output == "-":
        yield None if output is None else sys.stdout.buffer
        return
    check_output(Path(output))
    with replacing(Path(output)) as file:
        yield file
