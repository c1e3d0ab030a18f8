"""The figures of a study. A figure is one function that says in which section of the report it stands.

It takes `Findings` and returns a `Picture` whose title says the finding, or None where its data are missing:
no figure is drawn empty. `canvas.dots` and `canvas.curves_picture` draw the two common forms. Accuracies are
fractions here and per cent on the axes, each with its 95 % interval. Rows are sorted by effect.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from reckoner.analysis.canvas import (
    ABOVE,
    BANDS,
    DOTTED,
    PAPER,
    ROW,
    SHADES,
    Curve,
    Dot,
    Panel,
    Picture,
    curves_picture,
    dots,
    drawing,
    end_labels,
    finish,
    label,
    panels,
    rows,
    smoothing,
)
from reckoner.analysis.findings import Findings, Result
from reckoner.analysis.generalisation import suite_findings
from reckoner.analysis.pairs import tested_as
from reckoner.analysis.sentences import declared_only
from reckoner.analysis.wording import IN_TRAIN, NOT_IN_TRAIN, count, percent, sentence
from reckoner.console import clock

Draw = Callable[[Findings], Picture | None]
STEPS = "calculations in the reference"
"""The grouping of `mistakes` that the figure of difficulty shows."""
ENOUGH = 30
"""Problems from which a group may stand in a title."""
LINES = 8
"""Arms at most in a figure that draws a line for each."""
SIGNALS = {
    "reward": ("mean reward of the completions drawn", 1),
    "kl_reference": ("KL from the start (nats a token)", 1),
    "entropy": ("entropy (nats a token)", 1),
    "length": ("length (tokens a completion)", 1),
}
"""Logged names that show whether a policy learns or degenerates: title of the panel, factor to its unit."""
SECTIONS: dict[str, list[Draw]] = {
    name: [] for name in ("accuracy", "generalisation", "learning", "reinforcement", "cost", "errors")
}
"""The sections of the report and their figures, in order."""


def figure(section: str) -> Callable[[Draw], Draw]:
    """Register a figure in a section of the report; an unknown section is a `KeyError`."""

    def register(draw_one: Draw) -> Draw:
        SECTIONS[section].append(draw_one)
        return draw_one

    return register


def draw(findings: Findings, chosen: Collection[Draw] = ()) -> dict[str, list[Picture]]:
    """The figures of a study by section, in the order of the report: all, or the chosen ones."""
    with drawing():
        return {
            section: [
                picture
                for one in figures
                if (one in chosen or not chosen) and (picture := one(findings)) is not None
            ]
            for section, figures in SECTIONS.items()
        }


def followed(results: Sequence[Result]) -> list[Result]:
    """The arms that a figure with a line for each draws, at most `LINES`: no control before another arm, and
    of each the ones that solve most.
    """
    best = sorted(results, key=lambda one: (bool(one.arm.control_of), -one.solved))[:LINES]
    chosen = {one.arm.name for one in best}
    return [one for one in results if one.arm.name in chosen]


def _left_out(results: Sequence[Result]) -> str:
    """How many arms `followed` leaves out, as a sentence behind a note."""
    left = len(results) - len(followed(results))
    return f" {left} {'arm stands' if left == 1 else 'arms stand'} in the tables alone." if left else ""


def ranked(findings: Findings) -> list[Result]:
    """The results, the one that solved most first."""
    return sorted(findings.results, key=lambda result: -result.solved)


@figure("accuracy")
def accuracy(findings: Findings) -> Picture | None:
    """Strict accuracy of each arm on test, filled, with the format forgiven, hollow; most first."""
    if not findings.results:
        return None
    base, tested, n = findings.baseline, findings.tested, f"{findings.n:,} test problems"
    better = sum(pair.verdict == "better" for pair in tested)
    trained = f"trained {tested_as(tested)}"
    among = declared_only(findings)
    title = f"{better} of {len(tested)} {trained}s{among} do better than the best prompt on {n}"
    if not better:
        title = (
            f"No {trained}{among} does better than the best prompt on {n}" if tested else f"Accuracy on {n}"
        )
    shown = [
        Dot(
            *(one.title, one.mark, one.score.accuracy, (one.score.low, one.score.high), one.score.flexible),
            end=one.solved,
        )
        for one in ranked(findings)
    ]
    line = " Dotted: the best prompt, its format forgiven." if base else ""
    note = (
        f"Filled: strict grading with its 95 % interval. Hollow: the format forgiven.{line} Sorted by the "
        "number at the end: strict, of a prompt the better."
    )
    return dots(
        "accuracy", title, shown, "test problems solved (%)", note, line=base.solved if base else None
    )


@figure("accuracy")
def effects(findings: Findings) -> Picture | None:
    """The declared comparisons, the largest difference first."""
    if not findings.pairs:
        return None
    looks = {result.arm.name: result.mark for result in findings.results}
    pairs = sorted(findings.pairs, key=lambda pair: -pair.difference.estimate)
    clear = sum(pair.verdict != "unresolved" for pair in pairs)
    title = f"{clear} of {len(pairs)} declared comparisons show a difference"
    base = findings.baseline.arm.name if findings.baseline else ""
    shown = [
        Dot(
            f"{findings.title(pair.a)} − {'best prompt' if pair.b == base else findings.title(pair.b)}",
            looks[pair.a],
            pair.difference.estimate,
            (pair.difference.low, pair.difference.high),
            open=pair.verdict == "unresolved",
        )
        for pair in pairs
    ]
    note = (
        "First minus second on the same problems, with 95 % intervals. Filled: a difference, Holm's p below "
        "0.05. Hollow: not told apart. The best prompt stands with its format forgiven."
    )
    columns = ("difference", "low", "high", "")
    return dots("effects", title, shown, "difference (points)", note, 0.0, columns, longest=36)


@figure("accuracy")
def unseen(findings: Findings) -> Picture | None:
    """Accuracy on problems from unseen templates, filled, and from seen ones, hollow."""
    parts = [(one, one.parts("template", one.reading)) for one in ranked(findings)]
    if not parts or not parts[0][1].keys() >= {IN_TRAIN, NOT_IN_TRAIN}:
        return None
    parts.sort(key=lambda one: -one[1][NOT_IN_TRAIN].share)
    old, new = parts[0][1][IN_TRAIN], parts[0][1][NOT_IN_TRAIN]
    shown = [
        Dot(one.title, one.mark, found[NOT_IN_TRAIN].share, found[NOT_IN_TRAIN].bounds, found[IN_TRAIN].share)
        for one, found in parts
    ]
    best = shown[0]
    title = sentence(f"{label(best.name)} solves {percent(best.value)} on new templates")
    title += f", {percent(best.hollow or 0.0)} on those seen in training"
    note = f"Filled: {new.n:,} problems of new templates. Hollow: {old.n:,} of templates seen in training."
    columns = ("new templates", "low", "high", "seen templates")
    return dots("unseen", title, shown, "test problems solved (%)", note, columns=columns)


@figure("learning")
def training_loss(findings: Findings) -> Picture | None:
    """Loss of every run that logs one, smoothed over its raw values, in a panel for each kind of solution."""
    losses, logged = defaultdict(list), []
    for result, _ in findings.trained:
        if len(result.run.series("loss")[1]) > 1 and not result.run.series("reward")[1]:
            logged.append(result)
    for result in followed(logged):
        losses[result.run.variant].append(Curve(result.title, result.mark, *result.run.series("loss")))
    if not losses:
        return None
    curves = [curve for group in losses.values() for curve in group]
    risen = [curve.name for curve in curves if np.mean(curve.y[-10:]) >= curve.y[0]]
    title = "Training loss falls in every run"
    if risen:
        title = f"Training loss did not fall in {label(', '.join(risen), 60)}"
    shown = [
        Panel(group, f"{label(variant)} solutions", "nats a token", top=_ceiling(group))
        for variant, group in losses.items()
    ]
    window = max(smoothing(len(curve.y)) for curve in curves)
    note = (
        f"Cross-entropy of supervised tokens, running mean of {window} logged steps over the raw values. "
        f"Panels have different targets and are not to be compared.{_first_seed(findings)}{_left_out(logged)}"
    )
    return curves_picture("training-loss", title, shown, 178, "optimizer steps", note)


def _first_seed(findings: Findings, what: str = "Curves") -> str:
    """Which runs are drawn where an arm has several."""
    return f" {what} are of the first seed." if findings.study.seeds > 1 else ""


def _ceiling(curves: Sequence[Curve]) -> float:
    """A top for the loss axis that the first few steps do not stretch: 1.15 times the 98th percentile."""
    values = np.concatenate([np.asarray(curve.y, dtype=float) for curve in curves])
    return max(1.15 * float(np.quantile(values, 0.98)), 1e-3)


@figure("learning")
def dev_accuracy(findings: Findings) -> Picture | None:
    """Dev accuracy of every trained run against its seconds, behind those of what it starts from."""
    found = [(result, curve) for result, _ in findings.trained if (curve := _dev_curve(findings, result))]
    evaluated, by_arm = [result for result, _ in found], {one.arm.name: curve for one, curve in found}
    curves = [by_arm[result.arm.name] for result in followed(evaluated)]
    if not curves:
        return None
    best = max(curves, key=lambda curve: curve.y[-1])
    sizes = ", ".join(f"{n:,}" for n in sorted({curve.n for curve in curves}))
    title = sentence(f"{label(best.name)} rises from {percent(best.y[0])} to {percent(best.y[-1])} of dev")
    drawn = "bands are" if len(curves) <= BANDS else "bars at the ends are"
    note = (
        f"Greedy, strict, n = {sizes} dev problems; {drawn} 95 % Wilson intervals. A run begins where "
        f"what it starts from ended. Test is never read here.{_first_seed(findings)}{_left_out(evaluated)}"
    )
    shown = [Panel(curves, unit="dev problems solved (%)")]
    return curves_picture("dev-accuracy", title, shown, 240, "seconds of training", note)


def _dev_curve(findings: Findings, result: Result) -> Curve | None:
    """Dev accuracy of one run; the number of dev problems is the same in each of its evaluations."""
    x, solved = result.run.series("dev_strict", "seconds")
    _, sizes = result.run.series("dev_n")
    if not x or len(solved) != len(sizes) or not all(sizes):
        return None
    start = findings.start(result)
    begin = findings.spent(start) if start else 0.0
    shares = [k / n for k, n in zip(solved, sizes, strict=True)]
    return Curve(result.title, result.mark, [begin + seconds for seconds in x], shares, int(sizes[-1]))


@figure("reinforcement")
def policy(findings: Findings) -> Picture | None:
    """Reward, KL from the start, entropy and length of the completions in training, a panel each.

    Controls, whose rewards pay for something else, are left out.
    """
    learned = [
        result
        for result, _ in findings.trained
        if result.run.series("reward")[1] and not result.arm.control_of
    ]
    shown, rewards = [], []
    for name, (title, scale) in SIGNALS.items():
        series = [(result, *result.run.series(name)) for result in followed(learned)]
        curves = [Curve(result.title, result.mark, x, y) for result, x, y in series if len(x) > 1]
        shown += [Panel(curves, title, scale=scale, from_zero=name != "reward")] if curves else []
        rewards += curves if name == "reward" else []
    if not rewards:
        return None
    most = max(rewards, key=lambda curve: np.mean(curve.y[-5:]) - np.mean(curve.y[:5]))
    title = sentence(f"{label(most.name)}: reward from {most.y[0]:.2f} to {most.y[-1]:.2f}")
    note = (
        "Running means over the raw values, which are faint. KL by the k3 estimate. Entropy near zero, or a "
        f"length that runs away, says that the policy degenerates.{_first_seed(findings)}{_left_out(learned)}"
    )
    return curves_picture("policy", title, shown, 128, "steps of generate, reward and update", note)


@figure("reinforcement")
def reach(findings: Findings) -> Picture | None:
    """pass@k of each arm of reinforcement learning and of its start, a panel each; maj@k is dotted."""
    found = findings.reaches
    if not found:
        return None
    most = max(found, key=lambda one: abs(one.gains[-1].estimate))
    ends = (most.end.points[0], most.end.points[-1], most.start.points[0], most.start.points[-1])
    one, many, start_one, start_many = (percent(point.passed) for point in ends)
    title = f"{label(most.end.name)} solves {one} in one try and {many} in {ends[1].k}"
    looks = {result.title: result.mark for result in findings.results}
    title = sentence(f"{title}, its start {start_one} and {start_many}")
    figure, grid = panels(title, [190] * len(found))
    data: list[list[object]] = [["arm", "policy", "k", "pass@k", "low", "high", "maj@k"]]
    for axes, each in zip(grid, found, strict=True):
        heights = []
        for curve in (each.start, each.end):
            ks, mark = [point.k for point in curve.points], looks[curve.name]
            passed = [100 * point.passed for point in curve.points]
            low, high = 100 * np.array(curve.bounds).T
            axes.fill_between(ks, low, high, color=mark.colour, alpha=0.12, linewidth=0)
            axes.plot(ks, passed, color=mark.colour, marker=mark.marker, markersize=5, linewidth=1.8)
            voted = [100 * point.voted for point in curve.points]
            axes.plot(ks, voted, color=mark.colour, linewidth=1.2, linestyle=(0, (1, 2)))
            heights.append((passed[-1], curve.name, mark))
            data += [
                [each.end.name, curve.name, point.k, point.passed, *bounds, point.voted]
                for point, bounds in zip(curve.points, curve.bounds, strict=True)
            ]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.set_ylabel("dev problems solved (%)")
        end_labels(axes, heights)
    grid[-1].set_xlabel("tries (k)")
    note = (
        f"pass@k with its 95 % band, and dotted maj@k, of {found[0].samples} samples for each of "
        f"{found[0].n:,} dev problems, read flexibly."
    )
    return finish(figure, "reach", title, note, data)


@figure("cost")
def accuracy_by_cost(findings: Findings) -> Picture | None:
    """Accuracy on test against seconds of training; the best prompt, which trains nothing, is a line."""
    paid = [result for result, training in findings.trained if training.seconds > 0]
    if not (timed := followed(paid)):
        return None
    top = max(timed, key=lambda result: result.score.accuracy)
    reached = f"reaches {percent(top.score.accuracy)} after {clock(findings.spent(top))} of training"
    title = sentence(f"{label(top.title)} {reached}")
    figure, (axes,) = panels(title, [250])
    if findings.baseline is not None:
        axes.axhline(100 * findings.baseline.solved, **DOTTED)
    data: list[list[object]] = [["arm", "seconds", "accuracy", "low", "high"]]
    for result in timed:
        x, score, mark = findings.spent(result), result.score, result.mark
        axes.plot([x, x], [100 * score.low, 100 * score.high], color=mark.colour, linewidth=1.6, alpha=0.55)
        axes.plot(x, 100 * score.accuracy, mark.marker, color=mark.colour, markersize=8)
        data.append([result.title, x, score.accuracy, score.low, score.high])
    axes.set_xlim(0, 1.06 * max(map(findings.spent, timed)))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("test problems solved (%)")
    axes.set_xlabel("seconds of training, what an arm starts from included")
    end_labels(axes, [(100 * result.score.accuracy, result.title, result.mark) for result in timed])
    line = " Dotted: the best prompt, its format forgiven." if findings.baseline else ""
    note = f"Bars are 95 % intervals.{line}{_first_seed(findings, 'Seconds')}{_left_out(paid)}"
    return finish(figure, "accuracy-seconds", title, note, data)


@figure("errors")
def kinds(findings: Findings) -> Picture | None:
    """What became of every test answer: right, a false calculation, another mistake, no answer or cut."""
    order = ranked(findings)
    if not order:
        return None
    counted = []
    for result in order:
        found, n = findings.mistakes(result), len(result.source.grades) / result.seeds
        unread = sum(found.get(name, 0) for name in ("truncated", "ran_on", "format", "no_answer"))
        false, wrong = found.get("arithmetic", 0), sum(found.values())
        counted.append([n - wrong, false, wrong - false - unread, unread])
    names = ("right", "slip", "other mistake", "no answer or cut")
    shares = np.array([np.array(counts) / max(1, sum(counts)) for counts in counted])
    _, slips, others, _ = map(percent, shares[0])
    lost = f"loses {slips} of the problems to slips of arithmetic, {others} to other mistakes"
    title = sentence(f"{label(order[0].title)} {lost}")
    figure, (axes,) = panels(title, [ROW * len(order) + 66])
    rows(axes, [result.title for result in order])
    left = np.zeros(len(order))
    for name, width, shade in zip(names, 100 * shares.T, SHADES, strict=True):
        style: dict[str, Any] = {"color": shade, "edgecolor": PAPER, "linewidth": 0.8, "height": 0.62}
        axes.barh(range(len(order)), width, left=left, label=name, **style)
        left += width
    axes.set_xlim(0, 100)
    axes.grid(False)
    axes.set_xlabel("share of the test answers (%)")
    axes.legend(ncols=4, **ABOVE)
    note = "Strict grading. A slip is a written calculation that is false. The report defines the kinds."
    data: list[list[object]] = [["arm", *names]]
    data += [[one.title, *counts] for one, counts in zip(order, counted, strict=True)]
    return finish(figure, "kinds", title, note, data)


@figure("errors")
def accuracy_by_steps(findings: Findings) -> Picture | None:
    """Test accuracy by the calculations in the reference, of the best trained arms and the best prompt."""
    chosen = followed([one for one in ranked(findings) if one.run.training])
    chosen += [findings.baseline] if findings.baseline else []
    solved = []
    for result in chosen:
        counted = result.parts(STEPS)
        solved += [(result, counted)] if len(counted) > 1 else []
    if not solved:
        return None
    labels = list(dict.fromkeys(name for _, parts in solved for name in parts))
    best, parts = max(solved, key=lambda one: sum(part.right for part in one[1].values()))
    large = {name: part for name, part in parts.items() if part.n >= ENOUGH}
    (few, first), *_, (many, last) = (large if len(large) > 1 else parts).items()
    ends = f"{percent(first.share)} of problems with {few} calculations, {percent(last.share)}"
    title = sentence(f"{label(best.title)} solves {ends} with {many}")
    figure, (axes,) = panels(title, [240])
    heights, data = [], [["arm", STEPS, "right", "problems"]]
    for turn, (result, parts) in enumerate(solved):
        x = np.array([labels.index(name) for name in parts]) + 0.07 * (turn - (len(solved) - 1) / 2)
        values = [100 * part.share for part in parts.values()]
        low, high = 100 * np.array([part.bounds for part in parts.values()]).T
        mark = result.mark
        axes.vlines(x, low, high, color=mark.colour, linewidth=1.4, alpha=0.45)
        axes.plot(x, values, color=mark.colour, marker=mark.marker, markersize=5, linewidth=1.6)
        heights.append((values[-1], result.title, mark))
        data += [[result.title, name, count(part.right), str(part.n)] for name, part in parts.items()]
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(labels)), [label(name.replace(" or more", "+"), 12) for name in labels])
    axes.set_ylabel("test problems solved (%)")
    axes.set_xlabel("calculations in the reference solution")
    end_labels(axes, heights)
    note = "Trained arms and the best prompt, by strict grading. Bars are 95 % intervals."
    return finish(figure, "accuracy-steps", title, note, data)


@figure("generalisation")
def suites(findings: Findings) -> Picture | None:
    """Each trained arm minus the best prompt on every further set."""
    tested = [
        (f"{one.name}: {result.title}", result.mark, pair)
        for one in suite_findings(findings)
        for pair in sorted(one.pairs.values(), key=lambda pair: -pair.difference.estimate)
        if (result := next(r for r in one.on.results if r.arm.name == pair.a)).arm.method != "prompt"
    ]
    if not tested:
        return None
    shown = [
        Dot(
            name,
            mark,
            pair.difference.estimate,
            (pair.difference.low, pair.difference.high),
            open=pair.verdict == "unresolved",
        )
        for name, mark, pair in tested
    ]
    clear = sum(pair.verdict == "better" for *_, pair in tested)
    title = f"{clear} of {len(shown)} differences on other sets are above zero"
    note = (
        "Arm minus the best prompt on the same problems, with 95 % intervals, each set opened once. Filled: "
        "a difference, Holm's p over all sets below 0.05 and zero outside its interval over templates. "
        "Hollow: not told apart."
    )
    columns = ("difference", "low", "high", "")
    return dots("suites", title, shown, "difference (points)", note, 0.0, columns, longest=36)
