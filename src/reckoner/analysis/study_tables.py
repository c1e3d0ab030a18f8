"""The tables of a study: what every arm scored and cost, what was compared, and where the mistakes are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, combinations

import yaml

from reckoner.analysis.controls import splits
from reckoner.analysis.findings import (
    Findings,
    Part,
    Result,
    final_loss,
    format_rate,
    frontier,
    length,
    lost,
    paired_grids,
    phases,
)
from reckoner.analysis.mistakes import KINDS
from reckoner.analysis.page import asset
from reckoner.analysis.reach import crossing, outcomes
from reckoner.analysis.seeds import seed_difference
from reckoner.analysis.sentences import ALPHA, heading
from reckoner.analysis.statistics import holm
from reckoner.analysis.tables import (
    EMPTY,
    Cell,
    Row,
    Table,
    by_seed,
    gap,
    number,
    outcome,
    pair_table,
    scores,
    share,
    turned,
)
from reckoner.analysis.wording import (
    NOT_IN_TRAIN,
    amount,
    both,
    count,
    of_runs,
    p_value,
    percent,
    points,
    span,
)
from reckoner.console import clock
from reckoner.runs.documents import Training

SUMMARY = "right,accuracy,95 % interval,flexible,vs best prompt,Holm p,verdict,time,tokens".split(",")
NOTES = yaml.safe_load(asset("notes.yaml"))
NUMBERS = (
    "state correct n accuracy low high flexible format_penalty no_answer truncated "
    "difference difference_low difference_high p p_holm verdict seconds tokens peak_memory_bytes seeds std"
)
"""The columns of table.csv behind the arm; readers of that file rely on them."""
COLUMNS = 12
"""Arms at most that stand side by side as columns of a page."""


def arms(findings: Findings) -> Table:
    """Every arm of the study, also those without a result."""
    rows = []
    for index, arm in enumerate(findings.study.arms):
        result, cells = findings.of(arm), {}
        if result is not None:
            cells = scores(result.score)
            right, penalty = cells.pop("right"), cells.pop("format penalty")
            cells.pop("truncated")  # stands below the answers without a number
            cells["no answer"] = replace(cells["no answer"], detail=cells["accuracy"].detail)
            cells["accuracy"] = replace(cells["accuracy"], detail=right.text)
            flexible = f"[{100 * result.score.flexible:.1f}]"
            cells["flexible"] = Cell(flexible, result.score.flexible, penalty.text)
            if seeds := _each_seed(findings, result):
                std = seeds["sd of seeds"]
                below = std.text if std.value is None else f"sd {std.text}"
                cells["each seed"] = replace(seeds["each seed"], detail=below)
            if result.pair is not None:
                verdict = outcome(result.pair)["verdict"]
                cells["vs best prompt"] = gap(result.pair.difference)
                cells["verdict"] = replace(verdict, detail=f"p {p_value(result.pair.p_holm)}")
            cells |= _spent(result.run.training)
        rows.append(Row(arm.title, cells, index, _tag(findings, result), lost(findings, arm)))
    return Table("All arms", "arm", tuple(rows), NOTES["arms"].format(pairs=len(findings.pairs)))


def _counted(accuracy: Cell, right: Cell) -> Cell:
    """An accuracy with the count below it, and what was cut."""
    return replace(accuracy, detail=", ".join(filter(None, (right.text, accuracy.detail))))


def _tag(findings: Findings, result: Result | None) -> str:
    return "best prompt" if result is not None and result is findings.baseline else ""


def _spent(training: Training | None) -> dict[str, Cell]:
    if training is None:
        return {}
    memory = training.peak_memory_bytes
    return {
        "time": Cell(clock(training.seconds), training.seconds),
        "tokens": Cell(amount(training.tokens), training.tokens),
        "memory": Cell(f"{memory / 1e9:.2f} GB", memory) if memory else EMPTY,
    }


def summary(findings: Findings) -> Table:
    """What `reckon study` and `reckon report` print at the end."""
    rows = []
    for arm in findings.study.arms:
        result = findings.of(arm)
        cells = {"verdict": Cell(arm.state)}
        if result is not None:
            cells = scores(result.score) | _spent(result.run.training) | _each_seed(findings, result)
            if result.pair is not None:
                cells |= {"vs best prompt": gap(result.pair.difference), **outcome(result.pair)}
        rows.append(Row(arm.title, cells, tag=_tag(findings, result)))
    names = SUMMARY if findings.study.seeds == 1 else [*SUMMARY[:3], "each seed", *SUMMARY[3:]]
    first = ("accuracy", "vs best prompt", "verdict", "flexible", "Holm p", "time")
    return Table(heading(findings), "arm", tuple(rows), names=tuple(names), first=first)


def _each_seed(findings: Findings, result: Result) -> dict[str, Cell]:
    """The values of the seeds of an arm, where the study has several."""
    return by_seed(result.score) if findings.study.seeds > 1 and result.arm.seeds > 1 else {}


def numbers(findings: Findings) -> Table:
    """The table of arms with full digits, for table.csv."""
    rows = []
    for arm in findings.study.arms:
        result = findings.of(arm)
        state = Cell(lost(findings, arm) or "done")
        values: dict[str, float] = {}
        cells = {"state": state}
        if result is not None:
            score, pair, training = result.score, result.pair, result.run.training
            values |= {name: getattr(score, name) for name in NUMBERS.split()[1:10]}
            if pair:
                tested = pair.difference
                values |= {"difference": tested.estimate, "difference_low": tested.low}
                values |= {"difference_high": tested.high, "p": tested.p, "p_holm": pair.p_holm}
                cells["verdict"] = Cell(pair.verdict)
            if training:
                values |= {name: getattr(training, name) for name in NUMBERS.split()[-5:-2]}
            values |= {"seeds": result.seeds} | ({} if score.std is None else {"std": score.std})
        rows.append(Row(arm.title, {name: Cell("", value) for name, value in values.items()} | cells))
    return Table("", "arm", tuple(rows), names=tuple(NUMBERS.split()))


def pairs(findings: Findings) -> Table:
    """The declared comparisons."""
    titles = {arm.name: arm.title for arm in findings.study.arms}
    return replace(pair_table(findings.pairs, titles), title="Declared comparisons", note=NOTES["pairs"])


def matrix(findings: Findings) -> Table:
    """Differences of all pairs, row minus column in points, with fixed and broken problems; most first."""
    order = sorted(findings.results, key=lambda result: -result.solved)
    items = sorted(set.intersection(*(set(one.source.shares()) for one in order))) if len(order) > 1 else []
    found = {
        (a, b): seed_difference(*paired_grids(order[a], order[b], items))
        for a, b in combinations(range(len(order)), 2)
    }
    apart = dict(zip(found, holm([one.p for one in found.values()]), strict=True))
    rows = [
        Row(
            f"{a + 1} {order[a].title}",
            {
                str(b + 1): Cell(
                    points(found[a, b].estimate),
                    found[a, b].estimate,
                    f"{found[a, b].fixed:,.0f}/{found[a, b].broken:,.0f}",
                    heat=_heat(abs(found[a, b].estimate)) * (apart[a, b] < 0.05),
                )
                for b in range(a + 1, len(order))
            },
            findings.study.arms.index(order[a].arm),
        )
        for a in range(len(order) - 1 if items else 0)
    ]
    columns = tuple(str(b + 1) for b in range(1, len(order)))
    last = f" Column {len(order)} is {order[-1].title}." if rows else ""
    return Table("All pairs", "arm", tuple(rows), NOTES["matrix"] + last, names=columns)


def inference(findings: Findings) -> Table:
    """Accuracy beside what an answer costs; no rows where all are asked alike, for one completion."""
    rows, tests = [], [result.evaluation for result in findings.results]
    ways = {(one.prompt_hash, one.decoding) for one in tests}
    several = len(ways) > 1 or any(one.samples > 1 or one.fixed is not None for one in tests)
    for result in findings.results if several else ():
        one, shown = result.evaluation, result.run.prompt.get("token_ids")
        cells = {
            "accuracy": scores(result.score)["accuracy"],
            "tokens a problem": number(one.tokens / len(result.source.problems), ".1f"),
            "tokens of the prompt": number(shown and len(shown)),
            "decoding": Cell(one.decoding),
            "fixed": number(one.fixed),
            "broken": number(one.broken),
        }
        rows.append(_row(findings, result, cells))
    return Table("Accuracy and the tokens it costs", "arm", tuple(rows), NOTES["inference"])


def losses(findings: Findings) -> Table:
    """First and final losses of every run that logged them."""
    rows = []
    for result, training in findings.trained:
        final = final_loss(result.run)
        cells = {
            "solutions": Cell(result.run.variant),
            "train, first step": number(training.loss_first, ".4f"),
            "train, final": number(final[0], ".4f", f"mean of last {final[1]}") if final else EMPTY,
            "dev, step 0": number(training.dev_loss_first, ".4f"),
            "dev, kept model": number(training.dev_loss_final, ".4f"),
            "learning rate": number(training.learning_rate, "g"),
            "kept step": number(training.best_step),
        }
        rows.append(_row(findings, result, cells))
    return Table("Losses", "arm", tuple(rows), NOTES["losses"])


def _row(findings: Findings, result: Result, cells: dict[str, Cell], tag: str = "") -> Row:
    return Row(result.title, cells, findings.study.arms.index(result.arm), tag)


def costs(findings: Findings) -> Table:
    """Training and evaluation of every arm, and dev at the smallest budget that all trained arms reached.

    Operations, time and cost are those with what the arm starts from; its own stand below.
    """
    rows, spent = [], {one.result.arm.name: one for one in frontier(findings)}
    for result in findings.results:
        training, evaluation, cells = result.run.training, result.evaluation, {}
        if training is not None and training.seconds > 0:
            rate = f"{training.samples / training.seconds:,.1f} samples"
            whole = findings.spent(result)
            own = f"{clock(training.seconds)} its own" if whole > training.seconds else ""
            cells = {
                "steps": number(training.steps, detail=f"{training.samples:,} samples"),
                "a second": number(training.tokens / training.seconds, ",.0f", rate),
                "trained weights": number(training.trainable_parameters, ",", f"of {training.parameters:,}"),
                "FLOPs": number(findings.operations(result) or training.flops, ".2g"),
                "time": Cell(clock(whole), whole, own),
            }
            if own and findings.operations(result):
                cells["FLOPs"] = replace(cells["FLOPs"], detail=f"{training.flops:.2g} its own")
            if price := findings.study.price_per_hour:
                cells["cost"] = number(price * whole / 3600, ",.2f")
            if (one := spent.get(result.arm.name)) and one.dev:
                right = one.dev[0] / one.dev[1]
                bounds = span(*one.interval) + of_runs(one.runs)
                cells["dev at the common budget"] = Cell(percent(right), right, bounds)
        rate = f"{evaluation.n / evaluation.seconds:,.1f} a second" if evaluation.seconds else ""
        cells["evaluation"] = Cell(clock(evaluation.seconds), evaluation.seconds, rate)
        rows.append(_row(findings, result, cells))
    return Table("Cost", "arm", tuple(rows), NOTES["costs"])


def phase_costs(findings: Findings) -> Table:
    """Where the time of reinforcement learning goes, generation apart from training."""
    rows = []
    for result, _ in findings.trained:
        spent = phases(result.run)
        if spent is not None:
            total, (generate, _, update) = sum(spent.seconds), spent.seconds
            cells = {
                "tokens generated a second": number(spent.generated / generate),
                "tokens learnt from a second": number(spent.trained / update),
            }
            for name, seconds in zip(("generate", "score", "update"), spent.seconds, strict=True):
                cells[name] = Cell(f"{100 * seconds / total:.0f} %", seconds / total, f"{seconds:,.1f} s")
            rows.append(_row(findings, result, cells))
    return Table("Time of reinforcement learning", "arm", tuple(rows), NOTES["phase_costs"])


def gained(findings: Findings) -> Table:
    """Every arm of reinforcement learning below the arm it starts from."""
    rows: list[Row] = []
    for gain in findings.gains:
        if gain.start.title not in [row.title for row in rows]:
            rows.append(_row(findings, gain.start, _answers(gain.start), "start"))
        answered = _answers(gain.result)
        cells = {"accuracy": answered["accuracy"], "vs its start": gap(gain.strict)}
        if gain.pair is not None:
            verdict = outcome(gain.pair)["verdict"]
            cells["verdict"] = replace(verdict, detail=f"p {p_value(gain.pair.p_holm)}")
        cells |= {"fixed": number(gain.strict.fixed), "broken": number(gain.strict.broken)}
        cells["flexible, vs its start"] = gap(gain.flexible)
        if new := dict(gain.groups.get("template", ())).get(NOT_IN_TRAIN):
            cells["new templates, vs its start"] = gap(new)
        if gain.kinds:
            kind, (was, now) = max(gain.kinds.items(), key=lambda item: abs(item[1][1] - item[1][0]))
            changed = f"{count(was)} to {count(now)}"
            cells["mistake that changed most"] = Cell(KINDS[kind].title, now - was, changed)
        cells |= {name: answered[name] for name in ("format rate", "tokens an answer")}
        rows.append(_row(findings, gain.result, cells))
    return Table("Before and after reinforcement learning", "arm", tuple(rows), NOTES["gained"])


def _answers(result: Result) -> dict[str, Cell]:
    solved = scores(result.score)
    return {
        "accuracy": _counted(solved["accuracy"], solved["right"]),
        "format rate": share(format_rate(result.source)),
        "tokens an answer": number(length(result.source), ".1f"),
    }


def parted(findings: Findings) -> Table:
    """What each gain of reinforcement learning is made of, and what rewards without a gold gain."""
    rows = []
    for split in splits(findings):
        ending = f" ({split.gain.result.title})"
        cells = {"gain": gap(split.gain.strict)}
        for part in (*split.parts, *split.placebos):
            tone = "" if part.p_holm < ALPHA else "unclear"
            cells[part.title.removesuffix(ending)] = replace(gap(part.difference), tone=tone)
        rows.append(_row(findings, split.gain.result, cells))
    return Table("What the gain is made of", "arm", tuple(rows), NOTES["parted"])


def controls(findings: Findings) -> Table:
    """What each control of reinforcement learning spent, and the steps that it and its arm kept."""
    rows = []
    for split in splits(findings):
        arm = split.gain.result
        several = [one for one in findings.results if one is arm or one.arm.control_of == arm.arm.name]
        for result in several:
            ratio, ending = split.budgets.get(result.title, 0.0), split.endings.get(result.title)
            cells = {"operations": number(ratio or None, ".2f", f"of {arm.title}")}
            if result is arm:
                cells = {"operations": number(1.0, ".2f")}
            cells["kept step"] = Cell("the last")
            if ending:
                steps = both([f"{step:,}" for step in ending.kept])
                cells |= {
                    "kept step": Cell(steps, ending.kept[0], f"of {ending.steps:,}"),
                    "dev there": share(ending.dev_kept),
                    "dev at its last step": share(ending.dev_last),
                }
            rows.append(_row(findings, result, cells))
    return Table("Controls: what they spent and kept", "arm", tuple(rows), NOTES["controls"])


def reached(findings: Findings) -> Table:
    """What each reinforcement learning reaches in one try and in many, beside its start."""
    rows, several = [], findings.reaches
    for found, word in zip(several, outcomes(several), strict=True):
        (first, *_, last), before, many = found.end.points, found.start.points, found.end.points[-1].k
        at, interval = crossing(found)
        cells = {
            "pass@1": share(first.passed, f"start {percent(before[0].passed)}"),
            "gain in 1 try": gap(found.gains[0]),
            f"pass@{many}": share(last.passed, f"start {percent(before[-1].passed)}"),
            f"gain in {many} tries": gap(found.gains[-1]),
            "verdict": Cell(word or "not told apart", tone="" if word else "unclear"),
            "curves cross at": Cell(at, found.crossing, interval),
            "problems gained": number(len(found.gained)),
            "lost": number(len(found.lost)),
        }
        result = next(gain.result for gain in findings.gains if gain.result.title == found.end.name)
        rows.append(_row(findings, result, cells))
    of = f" {several[0].samples} samples of each of {several[0].n:,} dev problems." if several else ""
    return Table("What many tries reach", "arm", tuple(rows), NOTES["reached"] + of)


def grids(findings: Findings) -> list[Table]:
    """Mistakes by kind, and accuracy by every grouping that divides the problems.

    A column is an arm; a row is one where there are more than `COLUMNS` arms.
    """
    if not findings.profiles:
        return []
    found = [
        _mistakes(findings),
        *(_accuracy_by(findings, grouping) for grouping in findings.profiles[0].groups),
    ]
    if len(findings.results) <= COLUMNS:
        return found
    arms = [findings.study.arms.index(result.arm) for result in findings.results]
    return [turned(table, arms) for table in found]


def _by_arm(findings: Findings, cells: Iterable[Cell]) -> dict[str, Cell]:
    """One cell an arm under its title, to which its name is added where two arms have the same title."""
    titles = [result.title for result in findings.results]
    names = [r.title if titles.count(r.title) == 1 else f"{r.title} ({r.arm.name})" for r in findings.results]
    return dict(zip(names, cells, strict=True))


def _accuracy_by(findings: Findings, grouping: str) -> Table:
    columns = [result.parts(grouping) for result in findings.results]
    rows = [
        Row(
            label or "none",
            _by_arm(findings, (_solved(column.get(label)) for column in columns)),
            tag=f"n = {part.n:,}",
        )
        for label, part in columns[0].items()
    ]
    return Table(f"Accuracy by {grouping}", grouping, tuple(rows), NOTES["accuracy_by"])


def _solved(part: Part | None) -> Cell:
    if part is None:
        return EMPTY
    low, high = (100 * bound for bound in part.bounds)
    return Cell(f"{100 * part.share:.0f}", part.share, f"{low:.0f}-{high:.0f}", heat=_heat(part.share))


def _mistakes(findings: Findings) -> Table:
    """Counts of every kind of mistake in a run with their share of the arm's mistakes."""
    counted = [findings.mistakes(result) for result in findings.results]
    seen = [kind for kind in KINDS.values() if kind.name in set(chain.from_iterable(counted))]
    rows = []
    for kind in seen:
        cells = []
        for kinds in counted:
            here, part = kinds.get(kind.name, 0.0), kinds.get(kind.name, 0.0) / max(1e-9, sum(kinds.values()))
            cell = Cell(count(here), here, f"{100 * part:.0f} %", heat=_heat(part))
            cells.append(cell if here else Cell("", 0))
        rows.append(Row(kind.title, _by_arm(findings, cells)))
    glossary = tuple((kind.title, kind.definition) for kind in seen)
    return Table("Errors by kind", "kind", tuple(rows), NOTES["mistakes"], glossary)


def _heat(share: float) -> int:
    return min(5, int(6 * share))
