"""The judge as Python objects, shown by a notebook: what `import reckoner as rk` offers.

rk.compare("a.jsonl", "b/", baseline="a")      # what `reckon compare` prints
rk.load_run("runs/full-main").grades           # a DataFrame, one row a completion
rk.figures("runs/nano")                        # the pictures of a study's report, each with its data
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reckoner.analysis import tables
from reckoner.analysis.canvas import Picture
from reckoner.analysis.compare import Comparison
from reckoner.analysis.pairs import compare_both_ways, pair_sentence
from reckoner.analysis.readers import CompletionSet, read_completion_set, read_completion_sets
from reckoner.errors import InputError, missing

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class LoadedRun:
    """The completions, grades and problems of one run or file."""

    completions: CompletionSet

    @cached_property
    def grades(self) -> DataFrame:
        """One row a completion: its verdict and, where known, question, gold and text. Needs pandas."""
        held = self.completions
        rows = []
        for key, grade in held.grades.items():
            row = asdict(grade)
            if problem := held.problems.get(key[0]):
                row |= {"question": problem.question, "gold": problem.gold, "category": problem.category}
            if completion := held.completions.get(key):
                row |= {"text": completion.text, "tokens": completion.token_count}
            rows.append(row)
        return _frame(rows)

    def __repr__(self) -> str:
        held = self.completions
        right = sum(grade.strict for grade in held.grades.values())
        return f"{held.name}: {right:,} of {len(held.grades):,} completions right, graded by {held.grader}"


@dataclass(frozen=True)
class Compared:
    """A comparison that a notebook shows as `reckon compare` prints it; `result` holds every number."""

    result: Comparison

    @property
    def arms(self) -> DataFrame:
        """One row an arm. Needs pandas."""
        return _frame([asdict(arm) for arm in self.result.arms])

    @property
    def pairs(self) -> DataFrame:
        """One row a pair: difference with interval, fixed, broken, p. Needs pandas."""
        rows = [asdict(pair) for pair in self.result.pairs]
        return _frame([{**row, **row.pop("difference")} for row in rows])

    @property
    def sentences(self) -> list[str]:
        """What can be said of each pair, and what a reader should know of the inputs."""
        lines = [*map(pair_sentence, self.result.pairs), *self.result.notes]
        return [f"{line.rstrip('.')}." for line in lines]

    def __repr__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_html_(self) -> str:
        shown = tables.comparison_tables(self.result)
        said = "".join(f"<p>{escape(line)}</p>" for line in self.sentences)
        return "".join(_html(table) for table in shown) + said


def load_run(
    path: str | Path, gold: str | Path | None = None, split: str = "", decimal: str = "auto"
) -> LoadedRun:
    """One run folder, or a file or folder of any tool, read as `reckon compare` reads it.

    Raises `InputError` where it cannot be read.
    """
    return LoadedRun(read_completion_set(Path(path), Path(gold) if gold else None, split, decimal))


def compare(
    *paths: str | Path,
    pairs: Sequence[tuple[str, str]] = (),
    baseline: str = "",
    intersect: bool = False,
    gold: str | Path | None = None,
    split: str = "",
    decimal: str = "auto",
) -> Compared:
    """Paired tests between runs, files or folders of any tool; the arguments are those of the verb.

    Raises `InputError` where the inputs cannot be compared.
    """
    sets = read_completion_sets([Path(path) for path in paths], Path(gold) if gold else None, split, decimal)
    return Compared(compare_both_ways(sets, pairs, baseline, intersect))


def figures(study: str | Path) -> list[Picture]:
    """The pictures of a study's report; a notebook shows each, and `data` holds its values.

    Raises `InputError` for a folder without a study.
    """
    from reckoner.analysis.figures import draw
    from reckoner.analysis.findings import find
    from reckoner.analysis.study_records import read_study

    return [picture for drawn in draw(find(read_study(Path(study)))).values() for picture in drawn]


def _html(table: tables.Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (table.heading, *table.columns))
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.texts()]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _frame(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    try:
        from pandas import DataFrame
    except ModuleNotFoundError as error:
        raise InputError(missing("pandas", "a DataFrame")) from error
    return DataFrame(rows)
