"""The tables of a report as cells: text for reading, a number for sorting, a second line, a tone.

The same cells become HTML, Markdown and CSV, so that no two of them can disagree.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from reckoner.analysis import wording
from reckoner.analysis.changes import format_rate, gains, length
from reckoner.analysis.compare import Pair
from reckoner.analysis.findings import Findings, Result, final_loss, lost, phases
from reckoner.analysis.mistakes import KINDS, Group, KindCount
from reckoner.analysis.statistics import Difference

TONES = {"better": "better", "worse": "worse", "unresolved": "unclear"}
FORMULA = re.compile(r"(?:^|(?<=[;\t,]))(?=[\s\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r])")
"""Where a formula may begin: at the start, and behind a sign that separates cells in some country, full-width too."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell. `value` sorts and goes to CSV; `heat` from 0 to 5 shades it."""

    text: str
    value: float | None = None
    detail: str = ""
    tone: str = ""
    heat: int = 0


EMPTY = Cell("")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table: the arm it belongs to (its place in the study, -1 for none), a title and cells.

    `tag` stands behind the title; `lost` replaces the cells of an arm without a result.
    """

    arm: int
    title: str
    cells: tuple[Cell, ...]
    tag: str = ""
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its column names, the first of which heads the titles, a note on how to read it and terms to look up."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    note: str = ""
    glossary: tuple[tuple[str, str], ...] = ()


def share(part: float, detail: str = "") -> Cell:
    return Cell(wording.percent(part), part, detail)


def arms(found: Findings) -> Table:
    """Every arm of the study, also those without a result."""
    columns = (
        "arm",
        "accuracy",
        "95 % interval",
        "flexible",
        "no answer",
        "truncated",
        "vs best prompt",
        "verdict",
        "time",
        "tokens",
        "memory",
    )
    lines = []
    for index, arm in enumerate(found.study.arms):
        result = found.of(arm)
        tag = "best prompt" if result and result is found.baseline else ""
        lines.append(Line(index, arm.title, _arm_cells(result) if result else (), tag, lost(found, arm)))
    note = (
        "Strict grading: the number after the last ####, exactly. Flexible, in brackets: the last number anywhere; below it the format penalty, "
        "flexible minus strict in points. Differences are paired, on the same problems, with 95 % intervals; p-values are exact McNemar's, adjusted by "
        f"Holm over the {len(found.pairs)} declared comparisons. Time, tokens and memory are of training."
    )
    return Table("All arms", columns, tuple(lines), note)


def _arm_cells(result: Result) -> tuple[Cell, ...]:
    score, training = result.score, result.run.training
    scores = (
        share(score.accuracy, f"{wording.count(score.correct)}/{score.n:,}"),
        Cell(wording.span(score.low, score.high), score.low),
        Cell(f"[{100 * score.flexible:.1f}]", score.flexible, wording.points(score.format_penalty)),
        share(score.no_answer),
        share(score.truncated),
    )
    if training is None:
        return (*scores, *_difference(result.pair), EMPTY, EMPTY, EMPTY)
    memory = (
        Cell(f"{training.peak_memory_bytes / 1e9:.2f} GB", training.peak_memory_bytes)
        if training.peak_memory_bytes
        else EMPTY
    )
    return (
        *scores,
        *_difference(result.pair),
        Cell(wording.clock(training.seconds), training.seconds),
        Cell(wording.amount(training.tokens), training.tokens),
        memory,
    )


def _difference(pair: Pair | None) -> tuple[Cell, ...]:
    return (_gap(pair.difference), _tested(pair)) if pair else (EMPTY, EMPTY)


def pairs(found: Findings) -> Table:
    """The declared comparisons."""
    columns = (
        "comparison",
        "difference",
        "verdict",
        "unadjusted p",
        "fixed",
        "broken",
        "problems needed",
        "smallest visible",
    )
    lines = []
    for pair in found.pairs:
        gap = pair.difference
        needs = Cell(f"about {wording.about(pair.needs)}", pair.needs) if pair.needs else EMPTY
        visible = (
            Cell(wording.points(pair.detectable).lstrip("+"), pair.detectable) if pair.detectable else EMPTY
        )
        counts = (
            Cell(wording.p_value(gap.p), gap.p),
            Cell(f"{gap.fixed:,}", gap.fixed),
            Cell(f"{gap.broken:,}", gap.broken),
        )
        lines.append(
            Line(
                -1,
                f"{found.title(pair.a)} against {found.title(pair.b)}",
                (*_difference(pair), *counts, needs, visible),
            )
        )
    note = (
        "Below each verdict its p-value after Holm's adjustment. Fixed: solved by the first and not by the second; broken: the reverse. Problems needed: at the difference seen, for 80 % power at the "
        "first Holm step. Smallest visible: the true difference, in points, that this many problems find with 80 % power."
    )
    return Table("Declared comparisons", columns, tuple(lines), note)


def losses(found: Findings) -> Table:
    """First and final losses of every run that logged them."""
    columns = (
        "arm",
        "solutions",
        "train, first step",
        "train, final",
        "dev, step 0",
        "dev, kept model",
        "learning rate",
        "kept step",
    )
    lines = []
    for result, training in found.trained:
        final = final_loss(result.run)
        last = Cell(f"{final[0]:.4f}", final[0], f"mean of last {final[1]}") if final else EMPTY
        rate, kept = (
            Cell(f"{training.learning_rate:g}", training.learning_rate),
            _number(training.best_step, ",.0f"),
        )
        ends = (
            _number(training.loss_first),
            last,
            _number(training.dev_loss_first),
            _number(training.dev_loss_final),
        )
        lines.append(
            Line(
                found.study.arms.index(result.arm),
                result.title,
                (Cell(result.run.variant), *ends, rate, kept),
            )
        )
    note = (
        "Nats a supervised token; step 0 is before any update. A loss is no accuracy, and losses of arms with different targets "
        "(main, socratic) say nothing about one another."
    )
    return Table("Losses", columns, tuple(lines), note)


def _number(value: float | None, form: str = ".4f") -> Cell:
    return EMPTY if value is None else Cell(format(value, form), value)


def costs(found: Findings) -> Table:
    """Training and evaluation of every arm."""
    columns = (
        "arm",
        "steps",
        "samples",
        "tokens a second",
        "samples a second",
        "trained weights",
        "FLOPs",
        "evaluation",
        "answers a second",
    )
    lines = []
    for result in found.results:
        training, evaluation = result.run.training, result.evaluation
        cells: tuple[Cell, ...] = (EMPTY,) * 6
        if training is not None and training.seconds > 0:
            weights = Cell(
                f"{training.trainable_parameters:,}",
                training.trainable_parameters,
                f"of {training.parameters:,}",
            )
            speed = (
                _number(training.tokens / training.seconds, ",.0f"),
                _number(training.samples / training.seconds, ",.1f"),
            )
            cells = (
                _number(training.steps, ",.0f"),
                _number(training.samples, ",.0f"),
                *speed,
                weights,
                _number(training.flops, ".2g"),
            )
        rate = _number(evaluation.n / evaluation.seconds, ",.1f") if evaluation.seconds else EMPTY
        lines.append(
            Line(
                found.study.arms.index(result.arm),
                result.title,
                (*cells, Cell(wording.clock(evaluation.seconds), evaluation.seconds), rate),
            )
        )
    return Table(
        "Cost",
        columns,
        tuple(lines),
        "Tokens are real ones, padding not counted. An arm that starts from another one shows its own cost only.",
    )


def phase_costs(found: Findings) -> Table:
    """Where the time of reinforcement learning goes, generation apart from training."""
    columns = (
        "arm",
        "tokens generated a second",
        "tokens learnt from a second",
        "generate",
        "score",
        "update",
    )
    lines = []
    for result, _ in found.trained:
        if spent := phases(result.run):
            total, (generate, _, update) = sum(spent.seconds), spent.seconds
            speeds = (_number(spent.generated / generate, ",.0f"), _number(spent.trained / update, ",.0f"))
            parts = tuple(
                Cell(f"{100 * part / total:.0f} %", part / total, f"{part:,.1f} s") for part in spent.seconds
            )
            lines.append(Line(found.study.arms.index(result.arm), result.title, (*speeds, *parts)))
    note = "Of the logged steps. Generated: tokens drawn over the seconds of drawing. Learnt from: tokens in the loss, each as often as it was used, over the seconds of updates. Score: log-probs of the reference, and values."
    return Table("Time of reinforcement learning", columns, tuple(lines), note)


def gained(found: Findings) -> Table:
    """Every arm of reinforcement learning below the arm it starts from: strict, flexible, format and length."""
    columns = (
        "arm",
        "accuracy",
        "vs its start",
        "verdict",
        "fixed",
        "broken",
        "flexible",
        "vs its start, flexible",
        "format rate",
        "tokens an answer",
    )
    lines: list[Line] = []
    for gain in gains(found):
        if gain.start.title not in [line.title for line in lines]:
            lines.append(_gain_line(found, gain.start, (EMPTY,) * 4, EMPTY, "start"))
        gap = (
            _gap(gain.strict),
            _tested(gain.pair),
            Cell(f"{gain.strict.fixed:,}", gain.strict.fixed),
            Cell(f"{gain.strict.broken:,}", gain.strict.broken),
        )
        lines.append(_gain_line(found, gain.result, gap, _gap(gain.flexible)))
    note = (
        "Paired differences in points, with 95 % intervals. Flexible grading takes the last number anywhere: what is gained there is not the format. "
        "Format rate: answers with one #### and a number behind it, right or wrong. Fixed and broken: problems, by strict grading."
    )
    return Table("Before and after reinforcement learning", columns, tuple(lines), note)


def _gain_line(
    found: Findings, result: Result, gap: tuple[Cell, ...], flexible_gap: Cell, tag: str = ""
) -> Line:
    score, source = result.score, result.source
    solved = share(score.accuracy, f"{wording.count(score.correct)}/{score.n:,}")
    cells = (
        solved,
        *gap,
        share(score.flexible),
        flexible_gap,
        share(format_rate(source)),
        _number(length(source), ".1f"),
    )
    return Line(found.study.arms.index(result.arm), result.title, cells, tag)


def _gap(difference: Difference) -> Cell:
    return Cell(
        wording.points(difference.estimate),
        difference.estimate,
        wording.span(difference.low, difference.high),
    )


def _tested(pair: Pair | None) -> Cell:
    return (
        Cell(wording.outcome(pair), pair.p_holm, f"p {wording.p_value(pair.p_holm)}", TONES[pair.verdict])
        if pair
        else EMPTY
    )


def grids(found: Findings) -> list[Table]:
    """Errors by kind, and accuracy by every grouping of `errors` that divides the problems; a column an arm."""
    if not found.profiles:
        return []
    return [_error_kinds(found), *(_accuracy_by(found, grouping) for grouping in found.profiles[0].groups)]


def _accuracy_by(found: Findings, grouping: str) -> Table:
    columns = [
        {group.label: group for group in profile.groups.get(grouping, ())} for profile in found.profiles
    ]
    lines = [
        Line(-1, value or "none", tuple(_solved(column.get(value)) for column in columns), f"n = {group.n:,}")
        for value, group in columns[0].items()
    ]
    return Table(
        f"Accuracy by {grouping}",
        (grouping, *(result.title for result in found.results)),
        tuple(lines),
        "Per cent solved, with 95 % Wilson intervals.",
    )


def _solved(group: Group | None) -> Cell:
    if group is None:
        return EMPTY
    right = 1 - group.wrong / group.n
    return Cell(
        f"{100 * right:.0f}",
        right,
        f"{100 * (1 - group.high):.0f}-{100 * (1 - group.low):.0f}",
        heat=_heat(right),
    )


def _error_kinds(found: Findings) -> Table:
    """Counts of every kind of error with their share of the arm's errors."""
    counted = [{kind.kind: kind for kind in profile.kinds} for profile in found.profiles]
    seen = [kind for kind in KINDS.values() if any(kind.name in kinds for kinds in counted)]
    lines = [
        Line(-1, kind.title, tuple(_kind_cell(kinds.get(kind.name)) for kinds in counted)) for kind in seen
    ]
    note = "Wrong answers by the first kind that fits, with their share of the arm's errors. Calculations are checked exactly; the kinds below the slips compare with the reference solution."
    return Table(
        "Errors by kind",
        ("kind", *(result.title for result in found.results)),
        tuple(lines),
        note,
        tuple((kind.title, kind.definition) for kind in seen),
    )


def _kind_cell(kind: KindCount | None) -> Cell:
    return (
        Cell("", 0)
        if kind is None
        else Cell(f"{kind.count:,}", kind.count, f"{100 * kind.share:.0f} %", heat=_heat(kind.share))
    )


def _heat(share: float) -> int:
    return min(5, int(6 * share))


def to_csv(found: Findings) -> str:
    """The table of arms: numbers as numbers, text made harmless to spreadsheets."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [
        "arm",
        "state",
        "correct",
        "n",
        "accuracy",
        "low",
        "high",
        "flexible",
        "format_penalty",
        "no_answer",
        "truncated",
    ]
    names += [
        "difference",
        "difference_low",
        "difference_high",
        "p",
        "p_holm",
        "verdict",
        "seconds",
        "tokens",
        "peak_memory_bytes",
    ]
    writer.writerow(names)
    for arm in found.study.arms:
        result = found.of(arm)
        writer.writerow(
            [
                guard(arm.title),
                guard(lost(found, arm) or "done"),
                *(_csv_numbers(result) if result else [""] * 18),
            ]
        )
    return out.getvalue()


def _csv_numbers(result: Result) -> list[float | str]:
    score, pair, training = result.score, result.pair, result.run.training
    numbers: list[float | str] = [
        score.correct,
        score.n,
        score.accuracy,
        score.low,
        score.high,
        score.flexible,
        score.format_penalty,
    ]
    numbers += [score.no_answer, score.truncated]
    if pair:
        gap = pair.difference
        numbers += [gap.estimate, gap.low, gap.high, gap.p, pair.p_holm, pair.verdict]
    else:
        numbers += [""] * 6
    return numbers + (
        [training.seconds, training.tokens, training.peak_memory_bytes] if training else [""] * 3
    )


def guard(text: str) -> str:
    """Text that no spreadsheet takes for a formula, on one line."""
    return FORMULA.sub("'", text).replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\0")
