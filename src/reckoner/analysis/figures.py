"""The figures of a study. A figure is one function that says in which section of the report it stands.

It takes `Findings` and returns a `Picture` whose title says the finding, or None where its data are missing:
no figure is drawn empty. Accuracies are fractions here and per cent on the axes, each with its 95 % interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from reckoner.analysis.canvas import (
    DOTTED,
    HUES,
    INK,
    LEGEND,
    MARGIN,
    MUTED,
    PAPER,
    ROW,
    RULE,
    SHADES,
    Curve,
    Panel,
    Picture,
    curves_picture,
    dev_line,
    dot_rows,
    drawing,
    end_labels,
    finish,
    interval,
    label,
    panels,
    rows,
    smooth_line,
    smoothing,
)
from reckoner.analysis.findings import Findings, Gain, Result
from reckoner.analysis.mistakes import KINDS
from reckoner.analysis.statistics import holm, paired_difference, wilson
from reckoner.analysis.wording import percent, points, sentence
from reckoner.console import clock

Draw = Callable[[Findings], Picture | None]
STEPS = "calculations in the reference"
"""The grouping of `mistakes` that the figure of difficulty shows."""
ENOUGH = 30
"""Problems from which a group may stand in a title."""
SIGNALS = {
    "kl_reference": ("KL from the start (nats a token)", 1),
    "entropy": ("entropy (nats a token)", 1),
    "length": ("length (tokens a completion)", 1),
    "format_rate": ("right format (% of completions)", 100),
}
"""Logged names that show whether a policy degenerates: title of the panel, and factor to its unit."""
RL_STEPS = "steps of generate, reward and update"
SECTIONS: dict[str, list[Draw]] = {
    name: [] for name in ("accuracy", "learning", "reinforcement", "cost", "errors")
}
"""The sections of the report and their figures, in order."""


def figure(section: str) -> Callable[[Draw], Draw]:
    """Register a figure in a section of the report; an unknown section is a `KeyError`."""

    def register(draw_one: Draw) -> Draw:
        SECTIONS[section].append(draw_one)
        return draw_one

    return register


def draw(findings: Findings) -> dict[str, list[Picture]]:
    """All figures of a study by section, in the order of the report."""
    with drawing():
        return {
            section: [picture for one in figures if (picture := one(findings)) is not None]
            for section, figures in SECTIONS.items()
        }


@figure("accuracy")
def accuracy(findings: Findings) -> Picture | None:
    """Strict accuracy of each arm on test, one row an arm; a dotted line marks the best prompt."""
    results, base = findings.results, findings.baseline
    if not results:
        return None
    better, n = sum(pair.verdict == "better" for pair in findings.tested), f"{findings.n:,} test problems"
    title = f"{better} of {len(findings.tested)} trained arms do better than the best prompt on {n}"
    if not better:
        title = f"No trained arm does better than the best prompt on {n}"
    if not findings.tested:
        title = f"Accuracy on {n}"
    figure, (axes,) = panels(title, [ROW * len(results) + 46])
    rows(axes, [result.title for result in results])
    if base is not None:
        axes.axvline(100 * base.solved, zorder=1, **DOTTED)
    style: dict[str, Any] = {"ha": "right", "va": "center", "size": 10, "color": INK, **MARGIN}
    for row, result in enumerate(results):
        score = result.score
        interval(axes, row, score.accuracy, (score.low, score.high), result.mark)
        axes.annotate(f"{100 * score.accuracy:.1f}", (1, row), (30, 0), annotation_clip=False, **style)
    axes.set_xlim(0, min(100, 100 * max(result.score.high for result in results) * 1.04))
    axes.set_xlabel("test problems solved (%)")
    line = "; the dotted line is the best prompt, its format forgiven" if base else ""
    return finish(figure, "accuracy", title, f"Strict grading. Bars are 95 % Wilson intervals{line}.")


@figure("accuracy")
def differences(findings: Findings) -> Picture | None:
    """Matrix of paired differences, row minus column in points; what Holm's correction leaves is coloured.

    Its family is every pair, also undeclared ones; the verdict uses the declared tests.
    """
    from matplotlib.patches import Rectangle

    names = [result.title for result in findings.results]
    if len(names) < 2:
        return None
    shares = [result.source.shares() for result in findings.results]
    items = sorted(set.intersection(*map(set, shares)))
    scores = [[share[item] for item in items] for share in shares]
    size = len(names)
    gaps = {(b, a): paired_difference(scores[b], scores[a]) for a, b in combinations(range(size), 2)}
    apart = {pair for pair, p in zip(gaps, holm([gap.p for gap in gaps.values()]), strict=True) if p < 0.05}
    title = f"{len(apart)} of {len(gaps)} pairs of arms differ by more than chance"
    figure, (axes,) = panels(title, [max(130, 36 * size + 40)])
    axes.grid(False)
    largest = max(abs(gap.estimate) for gap in gaps.values()) or 1.0
    for (row, column), gap in gaps.items():
        face: dict[str, Any] = {"facecolor": "none", "edgecolor": RULE}
        font: dict[str, Any] = {"color": MUTED, "weight": "normal"}
        if (row, column) in apart:
            strength = 0.16 + 0.5 * abs(gap.estimate) / largest
            face = {
                "facecolor": HUES[0] if gap.estimate > 0 else HUES[1],
                "edgecolor": "none",
                "alpha": strength,
            }
            font = {"color": INK, "weight": "bold"}
        axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, linewidth=0.8, **face))
        text = points(gap.estimate).replace("-", "\u2212")
        axes.text(column, row, text, ha="center", va="center", size=min(9, 72 / size), **font)
    axes.set_xlim(-0.5, size - 1.5)
    axes.set_ylim(size - 0.5, 0.5)
    axes.set_yticks(range(1, size), [f"{label(names[i], 26)}  {i + 1}" for i in range(1, size)], color=INK)
    axes.set_xticks(range(size - 1), [str(i + 1) for i in range(size - 1)], color=INK)
    axes.set_xlabel(f"minus arm number (1 is {label(names[0], 28)})")
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    note = (
        "Row minus column, in points, by strict grading. Coloured: exact paired test, p below 0.05 "
        "after Holm's correction over all pairs here."
    )
    return finish(figure, "differences", title, note)


@figure("learning")
def training_loss(findings: Findings) -> Picture | None:
    """Loss of every run that logs one, smoothed over its raw values, in a panel for each kind of solution."""
    losses = defaultdict(list)
    for result, _ in findings.trained:
        steps, values = result.run.series("loss")
        if len(values) > 1:
            losses[result.run.variant].append(Curve(result.title, result.mark, steps, values))
    if not losses:
        return None
    curves = [curve for group in losses.values() for curve in group]
    risen = [curve.name for curve in curves if np.mean(curve.y[-10:]) >= curve.y[0]]
    title = "Training loss falls in every run"
    if risen:
        title = f"Training loss did not fall in {label(', '.join(risen), 60)}"
    shown = [
        Panel(group, title=f"{label(variant)} solutions", unit="nats a token", top=_ceiling(group))
        for variant, group in losses.items()
    ]
    window = max(smoothing(len(curve.y)) for curve in curves)
    note = (
        f"Cross-entropy of supervised tokens, running mean of {window} logged steps over the raw values. "
        "Panels have different targets and are not to be compared."
    )
    return curves_picture("training-loss", title, shown, 178, "optimizer steps", note)


def _ceiling(curves: Sequence[Curve]) -> float:
    """A top for the loss axis that the first few steps do not stretch: 1.15 times the 98th percentile."""
    values = np.concatenate([np.asarray(curve.y, dtype=float) for curve in curves])
    return max(1.15 * float(np.quantile(values, 0.98)), 1e-3)


@figure("learning")
def dev_accuracy(findings: Findings) -> Picture | None:
    """Dev accuracy of supervised runs; those of a reward stand beside the reward."""
    supervised = [result for result, _ in findings.trained if not result.arm.rewarded]
    curves = [curve for result in supervised if (curve := _dev_curve(result))]
    if not curves:
        return None
    first, last = (_range([curve.y[at] for curve in curves]) for at in (0, -1))
    sizes = ", ".join(f"{n:,}" for n in sorted({curve.n for curve in curves}))
    note = (
        f"Greedy, strict, n = {sizes} dev problems; bands are 95 % Wilson intervals. Test is never read here."
    )
    panel = Panel(curves, dev_line, unit="dev problems solved (%)")
    title = f"Dev accuracy goes from {first} to {last} in training"
    return curves_picture("dev-accuracy", title, [panel], 240, "optimizer steps", note)


def _range(shares: Sequence[float]) -> str:
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{high:.1f}\u00a0%" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}\u2013{high:.1f}\u00a0%"


def _dev_curve(result: Result) -> Curve | None:
    """Dev accuracy of one run; the number of dev problems is the same in each of its evaluations."""
    x, solved = result.run.series("dev_strict")
    _, sizes = result.run.series("dev_n")
    if not x or len(solved) != len(sizes) or not all(sizes):
        return None
    shares = [k / n for k, n in zip(solved, sizes, strict=True)]
    return Curve(result.title, result.mark, x, shares, int(sizes[-1]))


@figure("reinforcement")
def gain_groups(findings: Findings) -> Picture | None:
    """What the arms gained over their start, in points, by template and category, else by calculations."""
    gained = findings.gains
    if not gained:
        return None
    best = max(gained, key=lambda gain: gain.strict.estimate)
    wanted = [name for name in ("template", "category") if name in best.groups]
    wanted = wanted or [name for name in (STEPS,) if name in best.groups]
    names, dots = [], []
    for grouping in wanted:
        for group, gap in best.groups[grouping]:
            size = f" ({gap.n:,})"
            names.append(label(_group_label(grouping, group), 24 - len(size)) + size)
            gaps = (dict(gain.groups[grouping])[group] for gain in gained)
            dots.append([(gap.estimate, (gap.low, gap.high)) for gap in gaps])
    if not names:
        return None
    title = _groups_title(best, wanted[0])
    figure, axes = dot_rows(title, names, [(gain.result.title, gain.result.mark) for gain in gained], dots)
    axes.axvline(0, color=MUTED, linewidth=1, zorder=1)
    axes.set_xlabel("gain over the start (points)")
    note = (
        "Paired differences with 95 % intervals, number of problems in brackets. Many groups are "
        "shown: single intervals that leave zero out are hints, not findings."
    )
    return finish(figure, "gain-groups", title, note)


def _group_label(grouping: str, group: str) -> str:
    if grouping == "template":
        return {"in train": "seen templates", "not in train": "unseen templates"}[group]
    return f"{group} calculations" if grouping == STEPS else group or "none"


def _groups_title(best: Gain, grouping: str) -> str:
    """What the arm that gained most did in the groups that are large enough to stand in a title."""
    gaps = {group: gap for group, gap in best.groups[grouping] if gap.n >= ENOUGH}
    named = sorted(gaps, key=lambda group: -gaps[group].estimate)
    changes = " and ".join(
        f"{points(gaps[group].estimate)} on {_group_label(grouping, group)}"
        for group in (*named[:1], *named[1:][-1:])
    )
    gained = changes or points(best.strict.estimate)
    return sentence(f"{label(best.result.title)} gains {gained} (points)")


@figure("reinforcement")
def gain_kinds(findings: Findings) -> Picture | None:
    """Share of the test answers that are wrong in each way, for the starts and every arm from them."""
    gained = findings.gains
    best = max(gained, key=lambda gain: gain.strict.estimate, default=None)
    if best is None or not best.kinds:
        return None
    starts = list({gain.start.arm.name: gain for gain in gained}.values())
    arms = [gain.start for gain in starts] + [gain.result for gain in gained]
    dots = []
    for kind in best.kinds:
        counts = [gain.kinds.get(kind, (0, 0))[0] for gain in starts]
        counts += [gain.kinds.get(kind, (0, 0))[1] for gain in gained]
        sizes = [len(arm.source.grades) for arm in arms]
        dots.append([(k / n, wilson(k, n)) for k, n in zip(counts, sizes, strict=True)])
    kind, (before, after) = max(best.kinds.items(), key=lambda item: abs(item[1][1] - item[1][0]))
    changed = f"changes most in {KINDS[kind].title}: from {before:,} to {after:,} answers"
    title = sentence(f"{label(best.result.title)} {changed}")
    names = [KINDS[kind].title for kind in best.kinds]
    figure, axes = dot_rows(title, names, [(arm.title, arm.mark) for arm in arms], dots)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the test answers (%)")
    note = (
        "Wrong answers by the first kind of error that fits, with 95 % Wilson intervals. Kinds are "
        "defined under Errors."
    )
    return finish(figure, "gain-kinds", title, note)


@figure("reinforcement")
def reward(findings: Findings) -> Picture | None:
    """Mean reward of the completions that train, and below it greedy exact match on dev."""
    rewards = _curves(findings, "reward")
    if not rewards:
        return None
    dev = [curve for result in _rewarded(findings) if (curve := _dev_curve(result))]
    best = max(dev or rewards, key=lambda curve: max(curve.y))
    drawn = next(curve for curve in rewards if curve.name == best.name)
    title = f"{label(best.name)}: reward from {drawn.y[0]:.2f} to {drawn.y[-1]:.2f}"
    shown = [Panel(rewards, title="mean reward of the completions drawn", from_zero=False)]
    if dev:
        title += f", dev accuracy from {percent(best.y[0])} to {percent(best.y[-1])}"
        shown.append(Panel(dev, dev_line, "dev problems solved, greedy (%)", from_zero=False))
    note = (
        "Reward: running mean over the raw values, faint; 1 is a right answer where no other part is "
        "declared. Bands: 95 % Wilson intervals."
    )
    return curves_picture("reward", sentence(title), shown, 165, RL_STEPS, note)


@figure("reinforcement")
def policy_health(findings: Findings) -> Picture | None:
    """KL from the start, entropy, length and format of the completions in training, a panel each."""
    signals = {name: curves for name in SIGNALS if (curves := _curves(findings, name))}
    if not signals:
        return None
    drift = signals.get("kl_reference", ())
    title = "Entropy and length of the completions in training"
    if drift:
        far = max(drift, key=lambda curve: curve.y[-1])
        title = sentence(f"{label(far.name)} ends {far.y[-1]:.3f} nats a token from where it began")
        title += ", farther than the others" if len(drift) > 1 else ""
    shown = [
        Panel(curves, partial(smooth_line, scale=SIGNALS[name][1]), SIGNALS[name][0])
        for name, curves in signals.items()
    ]
    note = (
        "KL by the k3 estimate. Entropy near zero, or a length or format that runs away, says that "
        "the policy degenerates."
    )
    return curves_picture("policy-health", title, shown, 128, RL_STEPS, note)


def _rewarded(findings: Findings) -> list[Result]:
    return [result for result, _ in findings.trained if result.arm.rewarded]


def _curves(findings: Findings, name: str) -> list[Curve]:
    """A logged value of the arms that learned from a reward, against steps."""
    series = [(result, *result.run.series(name)) for result in _rewarded(findings)]
    return [Curve(result.title, result.mark, x, y) for result, x, y in series if len(x) > 1]


@figure("cost")
def accuracy_by_cost(findings: Findings) -> Picture | None:
    """Accuracy on test against seconds of training; the best prompt, which trains nothing, is a line."""
    timed = [result for result, training in findings.trained if training.seconds > 0]
    if not timed:
        return None
    top = max(timed, key=lambda result: result.score.accuracy)
    reached = f"reaches {percent(top.score.accuracy)} after {clock(findings.spent(top))} of training"
    title = sentence(f"{label(top.title)} {reached}")
    figure, (axes,) = panels(title, [250])
    if findings.baseline is not None:
        height = 100 * findings.baseline.solved
        axes.axhline(height, **DOTTED)
        axes.annotate("best prompt, format forgiven", (0, height), (4, 4), color=MUTED, size=9.5, **MARGIN)
    for result in timed:
        x, score, mark = findings.spent(result), result.score, result.mark
        axes.plot([x, x], [100 * score.low, 100 * score.high], color=mark.colour, linewidth=1.6, alpha=0.55)
        axes.plot(x, 100 * score.accuracy, mark.marker, color=mark.colour, markersize=8)
    axes.set_xlim(0, 1.06 * max(map(findings.spent, timed)))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("test problems solved (%)")
    axes.set_xlabel("seconds of training, what an arm starts from included")
    end_labels(axes, [(100 * result.score.accuracy, result.title, result.mark) for result in timed])
    note = "Bars are 95 % Wilson intervals. Time includes that of the arm it starts from."
    return finish(figure, "accuracy-seconds", title, note)


@figure("cost")
def cost(findings: Findings) -> Picture | None:
    """Speed of supervised training, whose tokens mean the same in each run, and its memory in 10^9 bytes."""
    timed = [
        (result, training)
        for result, training in findings.trained
        if training.seconds > 0 and not result.arm.rewarded
    ]
    if not timed:
        return None
    speeds = [training.tokens / training.seconds for _, training in timed]
    gigabytes = [training.peak_memory_bytes / 1e9 for _, training in timed]
    extremes = dict.fromkeys(f"{speed:,.0f}" for speed in (min(speeds), max(speeds)))
    title = f"Training speed: {' to '.join(extremes)} tokens a second"
    shown = [(speeds, "{:,.0f}", "tokens a second")]
    if all(gigabytes):
        least, most = min(gigabytes), max(gigabytes)
        named = [f"{size:.2f} GB ({label(timed[gigabytes.index(size)][0].title)})" for size in (least, most)]
        title += f"; peak memory: {' to '.join(dict.fromkeys(named))}"
        shown.append((gigabytes, "{:.2f}", "peak memory (GB)"))
    figure, grid = panels(title, [ROW * len(timed) + 56] * len(shown), sharex=False)
    for axes, (values, form, unit) in zip(grid, shown, strict=True):
        rows(axes, [result.title for result, _ in timed])
        axes.grid(False)
        for row, (value, (result, _)) in enumerate(zip(values, timed, strict=True)):
            axes.barh(row, value, height=0.52, color=result.mark.colour, linewidth=0)
            beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "size": 10}
            axes.annotate(form.format(value), (value, row), (5, 0), **beside)
        axes.set_xlim(0, 1.2 * (max(values) or 1.0))
        axes.tick_params(axis="x", length=0, labelbottom=False)
        axes.set_xlabel(unit)
    note = (
        "Real tokens, padding not counted, over the seconds spent training; evaluation is apart. "
        "Memory is that of the process, or of the device where there is one."
    )
    return finish(figure, "cost", title, note)


@figure("errors")
def verdicts(findings: Findings) -> Picture | None:
    """What became of every test answer: correct, wrong, no number after ####, truncated."""
    results, scores = findings.results, [result.score for result in findings.results]
    if not results:
        return None
    shares = {
        "correct": [s.accuracy for s in scores],
        "wrong": [1 - s.accuracy - s.no_answer - s.truncated for s in scores],
        "no ####": [s.no_answer for s in scores],
        "truncated": [s.truncated for s in scores],
    }
    worst = max(results, key=lambda result: result.score.no_answer + result.score.truncated)
    lost = worst.score.no_answer + worst.score.truncated
    title = "Nearly every answer of every arm follows the format"
    if lost > 0.05:
        lacking = f"{percent(lost)} of the answers lack a #### number or were cut off"
        title = sentence(f"{label(worst.title)}: {lacking}")
    figure, (axes,) = panels(title, [ROW * len(results) + 66])
    rows(axes, [result.title for result in results])
    left = np.zeros(len(results))
    for (kind, values), shade in zip(shares.items(), SHADES, strict=True):
        width = 100 * np.array(values)
        style: dict[str, Any] = {"color": shade, "edgecolor": PAPER, "linewidth": 0.8, "height": 0.62}
        axes.barh(range(len(results)), width, left=left, label=kind, **style)
        left += width
    axes.set_xlim(0, 100)
    axes.grid(False)
    axes.set_xlabel("share of the test answers (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, handlelength=1, **LEGEND)
    note = (
        "No ####: no number follows the marker, so the format is not followed; the last number may "
        "still be right. Truncated: cut at the longest allowed answer."
    )
    return finish(figure, "verdicts", title, note)


@figure("errors")
def accuracy_by_steps(findings: Findings) -> Picture | None:
    """Test accuracy by the calculations in the reference, of trained arms and the best prompt."""
    solved = [
        (result, {group.label: (group.n - group.wrong, group.n) for group in profile.groups[STEPS]})
        for result, profile in zip(findings.results, findings.profiles, strict=True)
        if STEPS in profile.groups and (result.run.training is not None or result is findings.baseline)
    ]
    if not solved:
        return None
    labels = list(dict.fromkeys(name for _, counts in solved for name in counts))
    best, counts = max(solved, key=lambda one: sum(k for k, _ in one[1].values()))
    large = {name: count for name, count in counts.items() if count[1] >= ENOUGH}
    (few, first), *_, (many, last) = (large if len(large) > 1 else counts).items()
    ends = f"{percent(first[0] / first[1])} of problems with {few} calculations, {percent(last[0] / last[1])}"
    title = sentence(f"{label(best.title)} solves {ends} with {many}")
    figure, (axes,) = panels(title, [240])
    heights = []
    for turn, (result, counts) in enumerate(solved):
        x = np.array([labels.index(name) for name in counts]) + 0.07 * (turn - (len(solved) - 1) / 2)
        values = [100 * (k / n) for k, n in counts.values()]
        low, high = 100 * np.array([wilson(*count) for count in counts.values()]).T
        mark = result.mark
        axes.vlines(x, low, high, color=mark.colour, linewidth=1.4, alpha=0.45)
        axes.plot(x, values, color=mark.colour, marker=mark.marker, markersize=5, linewidth=1.6)
        heights.append((values[-1], result.title, mark))
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(labels)), [label(name.replace(" or more", "+"), 12) for name in labels])
    axes.set_ylabel("test problems solved (%)")
    axes.set_xlabel("calculations in the reference solution")
    end_labels(axes, heights)
    note = "Trained arms and the best prompt, by strict grading. Bars are 95 % Wilson intervals."
    return finish(figure, "accuracy-steps", title, note)
