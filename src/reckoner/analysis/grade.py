"""Grade any file of completions, line by line in constant memory: JSONL in, the same lines with verdicts out.

A line keeps its fields and gains `strict`, `flexible`, `strict_value`, `flexible_value`, `verdict`, `markers` and
`grader`. The gold answer stands in the line or in a file of problems, found by id. Files of other tools serve, and so
do our own predictions.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO

from reckoner.analysis.readers import Fields, Line
from reckoner.analysis.statistics import wilson
from reckoner.errors import InputError
from reckoner.runs.records import Grade, json_object, raw_lines
from reckoner.runs.safe_paths import check_output, replacing
from reckoner.tasks.answers.number import GRADER, Reading, judge, read
from reckoner.tasks.answers.other_graders import GRADERS

OURS = ("strict", "flexible")
Table = tuple[list[str], list[list[str]]]
"""Headers and rows, for `console.table`."""


@dataclass
class GradeCounts:
    """Counts over the graded lines; `skipped` are the lines that could not be read.

    `disagreements` counts outputs whose first and last marker have different values. `patterns` counts, for each line,
    which of `names` took it for right.
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
        mine, theirs = self.names.index(name), self.names.index(but_not) if but_not else None
        return sum(
            count
            for seen, count in self.patterns.items()
            if seen[mine] and (theirs is None or not seen[theirs])
        )

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
    *,
    fields: Fields | None = None,
    golds: Mapping[str, str] | None = None,
    graders: Sequence[str] = (),
    skip_bad: bool = False,
) -> GradeCounts:
    """Grade the lines of `source` into `output` ("-" is stdin and stdout; None writes nothing) and return the counts.

    `golds` maps ids to gold strings and then replaces the field. `graders` names compatibility graders whose verdicts
    are added under `graders`. A line that cannot be graded raises `InputError` with its number, or is counted and left
    out with `skip_bad`. The output file appears whole or not at all.
    """
    if unknown := [name for name in graders if name not in GRADERS]:
        raise InputError(f"no grader {unknown[0]!r}. Choose among {', '.join(GRADERS)}, all")
    tally = GradeCounts((*OURS, *graders))
    functions = {name: GRADERS[name] for name in graders}
    with _writing(output) as write:
        for number, raw in raw_lines(source):
            try:
                line = _graded(raw, fields or Fields(), golds, functions, tally)
            except InputError as error:
                if not skip_bad:
                    raise InputError(
                        f"{source} line {number}: {error}. Leave such lines out with --skip-bad"
                    ) from error
                tally.skipped += 1
                continue
            if write:
                write.write(line)
        if not tally.n:
            raise InputError(f"{source}: no line to grade ({tally.skipped} skipped)")
    return tally


def rate_table(tally: GradeCounts) -> Table:
    """Each rate with its Wilson 95 % interval; for several graders also what each calls right and strict does not, and the reverse."""
    several = len(tally.names) > len(OURS)
    rows = []
    for name, count in tally.rates().items():
        low, high = wilson(count, tally.n)
        row = [
            name,
            f"{count:,}/{tally.n:,}",
            f"{count / tally.n:.1%}".replace("%", " %"),
            f"{100 * low:.1f}-{100 * high:.1f}",
        ]
        if several:
            compared = name in tally.names and name != "strict"
            row += (
                [f"{tally.right(name, 'strict'):,}", f"{tally.right('strict', name):,}"]
                if compared
                else ["", ""]
            )
        rows.append(row)
    return ["", "lines", "share", "95 % interval"] + [
        "right, strict wrong",
        "wrong, strict right",
    ] * several, rows


def disagreement_table(tally: GradeCounts) -> Table:
    """On how many lines each two graders disagree."""
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
    return {"grader": GRADER, "n": tally.n, "skipped": tally.skipped, "rates": rates, "disagreements": pairs}


def _graded(
    raw: bytes,
    fields: Fields,
    golds: Mapping[str, str] | None,
    graders: Mapping[str, Any],
    tally: GradeCounts,
) -> bytes:
    """One line with its verdicts added, as bytes; counted in `tally` when nothing is wrong with it."""
    values = json_object(raw)
    line = Line.of_completion(values, fields)
    text, finish = line.answer
    if golds is None:
        gold = line.gold
    elif (name := line.problem_id) in golds:
        gold = golds[name]
    else:
        raise InputError(f"the gold file has no problem {name[:80]!r}")
    reading = read(text)
    grade = judge(reading, gold, finish)
    for name in ("strict", "flexible", "strict_value", "flexible_value", "verdict", "markers"):
        values[name] = getattr(grade, name)
    values["grader"] = GRADER
    verdicts = {name: grader(text or "", gold) for name, grader in graders.items()}
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
    """The place for graded lines; a file is written beside its name and takes the name when all went well, a pipe is not."""
    if output is None or output == "-":
        yield None if output is None else sys.stdout.buffer
        return
    check_output(Path(output))
    with replacing(Path(output)) as file:
        yield file
