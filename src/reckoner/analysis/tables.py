"""One table for everything that is shown in rows: terminal, HTML, Markdown and CSV print the same cells.

The builders below serve `reckon compare` and `reckon mistakes`; those of a study are in `study_tables`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, TextIO

from reckoner import console
from reckoner.analysis.wording import about, called, count, guard, inert, p_value, percent, points, size, span

if TYPE_CHECKING:
    from reckoner.analysis import compare
    from reckoner.analysis.changes import Change, Diff, Side
    from reckoner.analysis.mistakes import Profile
    from reckoner.analysis.statistics import Difference

CUT_SHOWN = 0.02
"""Share of the answers cut by the token limit, and not right, above which a table says so."""

TONES = {"better": "better", "worse": "worse", "unresolved": "unclear"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: text, a number to sort by and for CSV, a second line, a tone, and a shade from 0 to 5."""

    text: str
    value: float | None = None
    detail: str = ""
    tone: str = ""
    heat: int = 0


EMPTY = Cell("")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its title and its cells by column. `arm` is the index of an arm in its study, -1 for none.

    `tag` stands behind the title; `lost` says why an arm has no cells.
    """

    title: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    arm: int = -1
    tag: str = ""
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the name of its first column, which holds the titles, its rows, a note and terms to look up.

    The other columns are those of the rows, in the order of the fullest row, or those declared in `names`.
    Those of `first` are the last to be left out of a narrow terminal.
    """

    title: str
    heading: str
    rows: tuple[Row, ...]
    note: str = ""
    glossary: tuple[tuple[str, str], ...] = ()
    names: tuple[str, ...] = ()
    first: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns without the first."""
        fullest = sorted(self.rows, key=lambda row: -len(row.cells))
        seen = dict.fromkeys(name for row in fullest for name in row.cells)
        return self.names or tuple(seen) or ("",)

    def cells(self, row: Row) -> list[Cell]:
        """The cells of one row under `columns`, empty where it has none."""
        return [row.cells.get(name, EMPTY) for name in self.columns]

    def numeric(self, name: str) -> bool:
        """Whether a column stands to the right: some cell of it has a value."""
        return any(row.cells.get(name, EMPTY).value is not None for row in self.rows)

    @property
    def shaded(self) -> bool:
        """Whether shades of its cells are what the table shows, so that its rows keep their order."""
        return any(cell.heat for row in self.rows for cell in row.cells.values())

    def _pieces(self, row: Row) -> list[tuple[str, str]]:
        """Text and second line of every cell of a row, its title first; a lost arm has its reason alone."""
        cells = self.cells(row) if not row.lost else [Cell(row.lost), *[EMPTY] * (len(self.columns) - 1)]
        return [(row.title, row.tag), *((cell.text, cell.detail) for cell in cells)]

    def texts(self) -> list[list[str]]:
        """Rows of plain text; a tag or a second line follows in brackets."""
        pieces = map(self._pieces, self.rows)
        return [[f"{text} ({more})" if more else text for text, more in row] for row in pieces]

    def print(self, file: TextIO | None = None) -> None:
        """Print the table to a terminal or a file, under its title if it has one."""
        console.table([self.heading, *self.columns], self.texts(), self.title, file, self.first)

    def markdown(self) -> str:
        """The table in Markdown, with its note below."""
        rules = [" --: " if self.numeric(name) else " :-- " for name in self.columns]
        lines = [f"| {' | '.join(map(inert, (self.heading, *self.columns)))} |", f"| :-- |{'|'.join(rules)}|"]
        for row in self.rows:
            cells = (inert(text) + (f" ({inert(more)})" if more else "") for text, more in self._pieces(row))
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", inert(self.note)])

    def csv(self) -> str:
        """The table as CSV: numbers as numbers, text made harmless to spreadsheets."""
        values = (
            [row.title, *(cell.text if cell.value is None else cell.value for cell in self.cells(row))]
            for row in self.rows
        )
        return csv_text([[self.heading, *self.columns], *values])


def turned(table: Table, arms: Sequence[int]) -> Table:
    """The table with its columns as rows, which are of these `arms`, and its rows as columns."""
    names = [f"{row.title}, {row.tag}" if row.tag else row.title for row in table.rows]
    rows = tuple(
        Row(name, {one: row.cells.get(name, EMPTY) for one, row in zip(names, table.rows, strict=True)}, arm)
        for name, arm in zip(table.columns, arms, strict=True)
    )
    return Table(table.title, "arm", rows, table.note, table.glossary, tuple(names))


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV: numbers as numbers, text made harmless to spreadsheets."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([guard(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return out.getvalue()


def share(value: float, detail: str = "") -> Cell:
    """A share in per cent."""
    return Cell(percent(value), value, detail)


def number(value: float | None, form: str = ",.0f", detail: str = "") -> Cell:
    """A number written by a format, or an empty cell."""
    return EMPTY if value is None else Cell(format(value, form), value, detail)


def interval(low: float, high: float) -> Cell:
    """An interval of shares, sorted by its lower end."""
    return Cell(span(low, high), low)


def gap(difference: Difference | compare.CountPair) -> Cell:
    """A difference in points, its interval below it."""
    interval = span(difference.low, difference.high)
    return Cell(points(difference.estimate), difference.estimate, interval)


def cut_note(truncated: float) -> str:
    """What stands beside an accuracy where the token limit cut more answers than can be passed over."""
    return f"{percent(truncated)} cut" if truncated > CUT_SHOWN else ""


def scores(arm: compare.ArmScore) -> dict[str, Cell]:
    """What one arm scored, by column."""
    return {
        "right": Cell(f"{count(arm.correct)}/{arm.n:,}", arm.correct),
        "accuracy": share(arm.accuracy, cut_note(arm.truncated)),
        "95 % interval": interval(arm.low, arm.high),
        "flexible": share(arm.flexible),
        "format penalty": Cell(points(arm.format_penalty), arm.format_penalty),
        "no answer": share(arm.no_answer),
        "truncated": share(arm.truncated),
    }


def outcome(pair: compare.Pair | compare.CountPair) -> dict[str, Cell]:
    """What the test of one pair says, by column."""
    return {
        "Holm p": Cell(p_value(pair.p_holm), pair.p_holm),
        "verdict": Cell(called(pair.verdict), pair.p_holm, tone=TONES[pair.verdict]),
    }


def plan(pair: compare.Pair | compare.CountPair) -> dict[str, Cell]:
    """How many items would resolve a pair, and what these items can show, by column."""
    seeds = getattr(pair, "needs_seeds", None)
    needs = Cell(f"{seeds} seeds", seeds) if seeds else EMPTY
    return {
        "n to resolve": Cell(f"about {about(pair.needs)}", pair.needs) if pair.needs else needs,
        "smallest visible": Cell(size(pair.detectable), pair.detectable) if pair.detectable else EMPTY,
    }


def comparison_tables(comparison: compare.Comparison) -> list[Table]:
    """All tables of a comparison that have rows: its arms, their samples, its pairs."""
    all_of_it = arm_table(comparison), sampling_table(comparison), pair_table(comparison.pairs)
    return [table for table in all_of_it if table.rows]


def arm_table(comparison: compare.Comparison) -> Table:
    """One row an arm; columns for the seeds where an arm has several."""
    rows = []
    for arm in comparison.arms:
        cells = scores(arm)
        if any(len(other.seeds) > 1 for other in comparison.arms):
            cells |= by_seed(arm)
        rows.append(Row(arm.name, cells))
    return Table("", "arm", tuple(rows), first=("accuracy", "95 % interval", "right", "flexible"))


def by_seed(arm: compare.ArmScore) -> dict[str, Cell]:
    """The accuracy of each seed in per cent, and their standard deviation."""
    seeds = (f"{100 * seed.correct / seed.completions:.1f}" for seed in arm.seeds)
    std = Cell("one seed" if arm.std is None else f"{100 * arm.std:.1f}", arm.std)
    return {"each seed": Cell(" ".join(seeds)), "sd of seeds": std}


def sampling_table(comparison: compare.Comparison) -> Table:
    """pass@k and maj@k of the arms with several samples an item; no rows without one.

    At k = 1, which is the accuracy, stand its standard errors in points.
    """
    rows = []
    for arm in comparison.arms:
        for one in arm.sampling:
            cells = {"k": number(one.k), "pass@k": share(one.passed), "maj@k": share(one.voted)}
            if one.k == 1 and arm.errors:
                names = ("error of the problems", "error of the samples")
                cells |= {
                    name: Cell(size(error), error) for name, error in zip(names, arm.errors, strict=True)
                }
            rows.append(Row(arm.name, cells))
    return Table("", "arm", tuple(rows))


def pair_table(pairs: Sequence[compare.Pair], titles: Mapping[str, str] | None = None) -> Table:
    """One row a pair, paired tests; a second interval where problems share templates."""
    rows, titles = [], titles or {}
    for pair in pairs:
        tested = pair.difference
        cells = {"difference": gap(tested)}
        if pair.over_templates:
            cells["over templates"] = interval(*pair.over_templates)
        cells |= {"fixed": number(tested.fixed), "broken": number(tested.broken)}
        cells["p"] = Cell(p_value(tested.p), tested.p)
        title = f"{titles.get(pair.a, pair.a)} against {titles.get(pair.b, pair.b)}"
        rows.append(Row(title, {**cells, **outcome(pair), **plan(pair)}))
    return Table("", "pair", tuple(rows), first=("difference", "verdict", "Holm p", "n to resolve"))


def count_tables(comparison: compare.CountComparison) -> tuple[Table, Table]:
    """The claims and their pairs, unpaired tests."""
    claims, pairs = [], []
    for claim in comparison.claims:
        right = Cell(f"{claim.k:,}/{claim.n:,}", claim.k)
        scored = {"accuracy": share(claim.k / claim.n), "95 % interval": interval(claim.low, claim.high)}
        claims.append(Row(claim.name, {"right": right, **scored}))
    for pair in comparison.pairs:
        cells = {"difference": gap(pair), "Fisher p": Cell(p_value(pair.fisher), pair.fisher)}
        if pair.barnard is not None:
            cells["Barnard p"] = Cell(p_value(pair.barnard), pair.barnard)
        pairs.append(Row(f"{pair.a} against {pair.b}", {**cells, **outcome(pair), **plan(pair)}))
    return Table("", "claim", tuple(claims)), Table("", "pair", tuple(pairs))


def kind_table(profile: Profile) -> Table:
    """Kinds of mistakes, the most frequent first."""
    rows = [
        Row(
            kind.title,
            {
                "count": number(kind.count),
                "share of errors": share(kind.share),
                "95 % interval": interval(kind.low, kind.high),
                "definition": Cell(kind.definition),
            },
        )
        for kind in profile.kinds
    ]
    return Table("", "kind", tuple(rows))


def group_table(profile: Profile, grouping: str) -> Table:
    """The groups of one grouping, each with its two most frequent kinds."""
    from reckoner.analysis.mistakes import KINDS

    rows = []
    for group in profile.groups[grouping]:
        kinds = list(group.kinds.items())[:2]
        cells = {
            "wrong": Cell(f"{group.wrong:,}/{group.n:,}", group.wrong),
            "share": share(group.wrong / group.n),
            "95 % interval": interval(group.low, group.high),
            "mostly": Cell(", ".join(f"{KINDS[kind].title} {k:,}" for kind, k in kinds)),
        }
        rows.append(Row(group.label, cells))
    return Table("", grouping, tuple(rows))


def side_table(diff: Diff, change: Change) -> Table:
    """Both texts of one problem side by side, line by line."""
    texts = (side.text.split("\n") for side in (change.a, change.b))
    other = f"{diff.b}: {_grade(change.b)}"
    rows = [Row(a, {other: Cell(b)}) for a, b in zip_longest(*texts, fillvalue="")]
    return Table("", f"{diff.a}: {_grade(change.a)}", tuple(rows))


def _grade(side: Side) -> str:
    from reckoner.analysis.mistakes import KINDS

    if side.kind:
        return f"{KINDS[side.kind].title}, {side.detail}"
    return "right" if side.verdict == "correct" else side.verdict.replace("_", " ")
