"""The drawings behind the figures. Numbers go in, and a `Picture` whose title says the finding comes out.

Each must be called inside `canvas.drawing()`. Accuracies are fractions here and per cent on the axes. Every
accuracy is drawn with its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from reckoner.analysis.canvas import (
    INK,
    MUTED,
    PAPER,
    ROW,
    RULE,
    SHADES,
    Count,
    Curve,
    Level,
    Mark,
    Picture,
    bars,
    dev_line,
    end_labels,
    finish,
    interval,
    label,
    panels,
    rows,
    smooth_line,
    smoothing,
)
from reckoner.analysis.statistics import Difference, holm
from reckoner.analysis.wording import percent, points, sentence
from reckoner.console import clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENOUGH = 30
"""Problems from which a group may stand in a title."""

BETTER, WORSE = "#0072b2", "#d55e00"
VERDICTS = dict(zip(("correct", "wrong", "no ####", "truncated"), SHADES, strict=True))
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "columnspacing": 1.2, "borderpad": 0}
SIGNALS = {
    "kl_reference": ("KL from the start (nats a token)", 1),
    "entropy": ("entropy (nats a token)", 1),
    "length": ("length (tokens a completion)", 1),
    "format_rate": ("right format (% of completions)", 100),
}
"""Logged names that show whether a policy degenerates: title of the panel, and factor to its unit."""
RL_STEPS = "steps of generate, reward and update"


@dataclass(frozen=True, slots=True)
class _Panel:
    """Curves in one panel of a figure; `line` draws one and returns the height of its end."""

    curves: Sequence[Curve]
    line: Callable[[Axes, Curve], float] = smooth_line
    title: str = ""
    unit: str = ""
    top: float | None = None
    from_zero: bool = True


def _lines(name: str, title: str, shown: Sequence[_Panel], height: float, unit: str, note: str) -> Picture:
    """Panels of curves over the same steps (`unit`), each curve with its name at its end."""
    figure, grid = panels(title, [height] * len(shown))
    for axes, panel in zip(grid, shown, strict=True):
        ends = [(panel.line(axes, curve), curve.name, curve.mark) for curve in panel.curves]
        axes.set_title(panel.title, color=INK)
        axes.set_ylabel(panel.unit)
        if panel.from_zero:
            axes.set_ylim(0, panel.top)
        end_labels(axes, ends)
    grid[-1].locator_params(axis="x", integer=True)
    grid[-1].set_xlabel(unit)
    return finish(figure, name, title, note)


def accuracy(counts: Sequence[Count], reference: Count | None, title: str) -> Picture:
    """Strict accuracy on test, one row an arm, with Wilson intervals; a line marks the baseline."""
    figure, (axes,) = panels(title, [ROW * len(counts) + 46])
    rows(axes, [count.name for count in counts])
    if reference is not None:
        axes.axvline(100 * reference.share, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    margin: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    for row, count in enumerate(counts):
        interval(axes, row, count.share, count.bounds, count.mark)
        style: dict[str, Any] = {"ha": "right", "va": "center", "size": 10, "color": INK}
        axes.annotate(f"{100 * count.share:.1f}", (1, row), (30, 0), annotation_clip=False, **style, **margin)
    highest = max((count.bounds[1] for count in counts), default=1.0)
    axes.set_xlim(0, min(100, 100 * highest * 1.04))
    axes.set_xlabel("test problems solved (%)")
    line = "; the dotted line is the best prompt, its format forgiven" if reference else ""
    return finish(figure, "accuracy", title, f"Strict grading. Bars are 95 % Wilson intervals{line}.")


def differences(names: Sequence[str], gaps: Mapping[tuple[int, int], Difference]) -> Picture:
    """Matrix of paired differences, row minus column in points; what Holm's correction leaves is coloured."""
    from matplotlib.patches import Rectangle

    apart = {pair for pair, p in zip(gaps, holm([gap.p for gap in gaps.values()]), strict=True) if p < 0.05}
    title = f"{len(apart)} of {len(gaps)} pairs of arms differ by more than chance"
    size = len(names)
    figure, (axes,) = panels(title, [max(130, 36 * size + 40)])
    axes.grid(False)
    largest = max((abs(gap.estimate) for gap in gaps.values()), default=0.0) or 1.0
    for (row, column), gap in gaps.items():
        face: dict[str, Any] = {"facecolor": "none", "edgecolor": RULE}
        font: dict[str, Any] = {"color": MUTED, "weight": "normal"}
        if (row, column) in apart:
            strength = 0.16 + 0.5 * abs(gap.estimate) / largest
            hue = BETTER if gap.estimate > 0 else WORSE
            face = {"facecolor": hue, "edgecolor": "none", "alpha": strength}
            font = {"color": INK, "weight": "bold"}
        axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, linewidth=0.8, **face))
        text = points(gap.estimate).replace("-", "\u2212")
        axes.text(column, row, text, ha="center", va="center", size=min(9, 72 / size), **font)
    axes.set_xlim(-0.5, size - 1.5)
    axes.set_ylim(size - 0.5, 0.5)
    axes.set_yticks(range(1, size), [f"{label(names[i], 26)}  {i + 1}" for i in range(1, size)], color=INK)
    axes.set_xticks(range(size - 1), [str(i + 1) for i in range(size - 1)], color=INK)
    axes.set_xlabel(f"minus arm number (1 is {label(names[0], 28)})" if names else "")
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    note = (
        "Row minus column, in points, by strict grading. Coloured: exact paired test, p below 0.05 "
        "after Holm's correction over all pairs here."
    )
    return finish(figure, "differences", title, note)


def verdicts(names: Sequence[str], shares: Sequence[Mapping[str, float]]) -> Picture:
    """What became of every test answer: correct, wrong, no number after ####, truncated."""
    lost = [share["no ####"] + share["truncated"] for share in shares]
    worst = int(np.argmax(lost))
    title = "Nearly every answer of every arm follows the format"
    if lost[worst] > 0.05:
        share = percent(lost[worst])
        title = sentence(f"{label(names[worst])}: {share} of the answers lack a #### number or were cut off")
    figure, (axes,) = panels(title, [ROW * len(names) + 66])
    rows(axes, names)
    left = np.zeros(len(names))
    for kind, shade in VERDICTS.items():
        width = np.array([100 * share[kind] for share in shares])
        style: dict[str, Any] = {"color": shade, "edgecolor": PAPER, "linewidth": 0.8, "height": 0.62}
        axes.barh(range(len(names)), width, left=left, label=kind, **style)
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


def accuracy_by_steps(curves: Sequence[Mapping[str, Count]]) -> Picture:
    """Test accuracy by the calculations in the reference ("1", ..., "8 or more"), with Wilson intervals."""
    labels = list(dict.fromkeys(name for counts in curves for name in counts))
    best = max(curves, key=lambda counts: sum(count.k for count in counts.values()))
    large = {name: count for name, count in best.items() if count.n >= ENOUGH}
    (few, first), *_, (many, last) = (large if len(large) > 1 else best).items()
    shares = f"{percent(first.share)} of problems with {few} calculations, {percent(last.share)} with {many}"
    title = sentence(f"{label(first.name)} solves {shares}")
    figure, (axes,) = panels(title, [240])
    ends = []
    for turn, counts in enumerate(curves):
        x = np.array([labels.index(name) for name in counts]) + 0.07 * (turn - (len(curves) - 1) / 2)
        values = [100 * count.share for count in counts.values()]
        low, high = 100 * np.array([count.bounds for count in counts.values()]).T
        one = next(iter(counts.values()))
        axes.vlines(x, low, high, color=one.mark.colour, linewidth=1.4, alpha=0.45)
        axes.plot(x, values, color=one.mark.colour, marker=one.mark.marker, markersize=5, linewidth=1.6)
        ends.append((values[-1], one.name, one.mark))
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(labels)), [label(name.replace(" or more", "+"), 12) for name in labels])
    axes.set_ylabel("test problems solved (%)")
    axes.set_xlabel("calculations in the reference solution")
    end_labels(axes, ends)
    note = "Trained arms and the best prompt, by strict grading. Bars are 95 % Wilson intervals."
    return finish(figure, "accuracy-steps", title, note)


def training_loss(by_variant: Mapping[str, Sequence[Curve]]) -> Picture:
    """Training loss of every run against optimizer steps, smoothed over its raw values, a panel a variant."""
    curves = [curve for group in by_variant.values() for curve in group]
    risen = [curve.name for curve in curves if len(curve.y) > 1 and np.mean(curve.y[-10:]) >= curve.y[0]]
    title = "Training loss falls in every run"
    if risen:
        title = f"Training loss did not fall in {label(', '.join(risen), 60)}"
    shown = [
        _Panel(group, title=f"{label(variant)} solutions", unit="nats a token", top=_ceiling(group))
        for variant, group in by_variant.items()
    ]
    window = max((smoothing(len(curve.y)) for curve in curves), default=1)
    note = (
        f"Cross-entropy of supervised tokens, running mean of {window} logged steps over the raw values. "
        "Panels have different targets and are not to be compared."
    )
    return _lines("training-loss", title, shown, 178, "optimizer steps", note)


def dev_accuracy(curves: Sequence[Curve]) -> Picture:
    """Greedy exact match on dev during training, with Wilson intervals, against optimizer steps."""
    title = "Dev accuracy goes from {} to {} in training".format(
        *(_range([curve.y[at] for curve in curves]) for at in (0, -1))
    )
    sizes = ", ".join(f"{n:,}" for n in sorted({curve.n for curve in curves}))
    note = (
        f"Greedy, strict, n = {sizes} dev problems; bands are 95 % Wilson intervals. Test is never read here."
    )
    panel = _Panel(curves, dev_line, unit="dev problems solved (%)")
    return _lines("dev-accuracy", title, [panel], 240, "optimizer steps", note)


def accuracy_by_cost(counts: Sequence[Count], seconds: Sequence[float], reference: Count | None) -> Picture:
    """Test accuracy against seconds of training; the best prompt, which trains nothing, is a line."""
    top = max(range(len(counts)), key=lambda i: counts[i].share)
    reached = f"reaches {percent(counts[top].share)} after {clock(seconds[top])} of training"
    title = sentence(f"{label(counts[top].name)} {reached}")
    figure, (axes,) = panels(title, [250])
    if reference is not None:
        height = 100 * reference.share
        margin: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.axhline(height, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate("best prompt, format forgiven", (0, height), (4, 4), color=MUTED, size=9.5, **margin)
    ends = []
    for count, x in zip(counts, seconds, strict=True):
        low, high = count.bounds
        axes.plot([x, x], [100 * low, 100 * high], color=count.mark.colour, linewidth=1.6, alpha=0.55)
        axes.plot(x, 100 * count.share, count.mark.marker, color=count.mark.colour, markersize=8)
        ends.append((100 * count.share, count.name, count.mark))
    axes.set_xlim(0, 1.06 * max(seconds))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("test problems solved (%)")
    axes.set_xlabel("seconds of training, what an arm starts from included")
    end_labels(axes, ends)
    note = "Bars are 95 % Wilson intervals. Time includes that of the arm it starts from."
    return finish(figure, "accuracy-seconds", title, note)


def cost(tokens: Sequence[Level], memory: Sequence[Level]) -> Picture:
    """Training speed in real tokens a second, and peak memory in GB of 10^9 bytes, two panels."""
    speeds = dict.fromkeys(f"{pick(level.value for level in tokens):,.0f}" for pick in (min, max))
    title = f"Training speed: {' to '.join(speeds)} tokens a second"
    shown = [(tokens, "{:,.0f}", "tokens a second")]
    if memory:
        least, most = (pick(memory, key=lambda level: level.value) for pick in (min, max))
        title += f"; peak memory: {least.value / 1e9:.2f} GB ({label(least.name)})"
        if least.value < most.value:
            title += f" to {most.value / 1e9:.2f} GB ({label(most.name)})"
        gigabytes = [Level(level.name, level.mark, level.value / 1e9) for level in memory]
        shown.append((gigabytes, "{:.2f}", "peak memory (GB)"))
    figure, grid = panels(title, [ROW * len(tokens) + 56] * len(shown), sharex=False)
    for axes, (levels, form, unit) in zip(grid, shown, strict=True):
        bars(axes, levels, form)
        axes.set_xlabel(unit)
    note = (
        "Real tokens, padding not counted, over the seconds spent training; evaluation is apart. "
        "Memory is that of the process, or of the device where there is one."
    )
    return finish(figure, "cost", title, note)


def reward(rewards: Sequence[Curve], dev: Sequence[Curve]) -> Picture:
    """Mean reward of the completions that train, above greedy exact match on dev, against steps."""
    best = max(dev or rewards, key=lambda curve: max(curve.y))
    drawn = next(curve for curve in rewards if curve.name == best.name)
    title = f"{label(best.name)}: reward from {drawn.y[0]:.2f} to {drawn.y[-1]:.2f}"
    shown = [_Panel(rewards, title="mean reward of the completions drawn", from_zero=False)]
    if dev:
        title += f", dev accuracy from {percent(best.y[0])} to {percent(best.y[-1])}"
        shown.append(_Panel(dev, dev_line, "dev problems solved, greedy (%)", from_zero=False))
    note = (
        "Reward: running mean over the raw values, faint; 1 is a right answer where no other part is "
        "declared. Bands: 95 % Wilson intervals."
    )
    return _lines("reward", sentence(title), shown, 165, RL_STEPS, note)


def health(signals: Mapping[str, Sequence[Curve]]) -> Picture:
    """KL from the starting policy, entropy, length and format, a panel each; keys are those of `SIGNALS`."""
    drift = signals.get("kl_reference", ())
    title = "Entropy and length of the completions in training"
    if drift:
        far = max(drift, key=lambda curve: curve.y[-1])
        title = sentence(f"{label(far.name)} ends {far.y[-1]:.3f} nats a token from where it began")
        title += ", farther than the others" if len(drift) > 1 else ""
    shown = [
        _Panel(curves, partial(smooth_line, scale=SIGNALS[name][1]), SIGNALS[name][0])
        for name, curves in signals.items()
    ]
    note = (
        "KL by the k3 estimate. Entropy near zero, or a length or format that runs away, says that "
        "the policy degenerates."
    )
    return _lines("policy-health", title, shown, 128, RL_STEPS, note)


Arms = Sequence[tuple[str, Mark]]
"""Names and marks of the arms of a figure."""
Dot = tuple[float, tuple[float, float], Mark]
"""A share with its interval and the mark of its arm."""


def _grouped(
    title: str, names: Sequence[str], arms: Arms, dots: Sequence[Sequence[Dot]]
) -> tuple[Figure, Axes]:
    """Rows with one dot an arm, one above another, and a legend; returns the figure and its axes."""
    figure, (axes,) = panels(title, [(11 * len(arms) + 14) * len(names) + 70])
    rows(axes, names)
    for row, several in enumerate(dots):
        for turn, (share, bounds, mark) in enumerate(several):
            height = row + (turn - (len(several) - 1) / 2) * 0.68 / len(several)
            interval(axes, height, share, bounds, mark)
    for name, mark in arms:
        axes.plot([], [], mark.marker, color=mark.colour, markersize=7, label=label(name))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.2, **LEGEND)
    return figure, axes


def changes(arms: Arms, groups: Sequence[tuple[str, Sequence[Difference]]], title: str) -> Picture:
    """Paired differences to the start, in points, for groups of problems (rows) and arms."""
    sizes = [f" ({gaps[0].n:,})" for _, gaps in groups]
    names = [label(name, 24 - len(size)) + size for (name, _), size in zip(groups, sizes, strict=True)]
    marks = [mark for _, mark in arms]
    dots = [
        [(gap.estimate, (gap.low, gap.high), mark) for gap, mark in zip(gaps, marks, strict=True)]
        for _, gaps in groups
    ]
    figure, axes = _grouped(title, names, arms, dots)
    axes.axvline(0, color=MUTED, linewidth=1, zorder=1)
    axes.set_xlabel("gain over the start (points)")
    note = (
        "Paired differences with 95 % intervals, number of problems in brackets. Many groups are "
        "shown: single intervals that leave zero out are hints, not findings."
    )
    return finish(figure, "gain-groups", title, note)


def kinds(rows_of: Sequence[tuple[str, Sequence[Count]]], title: str) -> Picture:
    """Share of the test answers that are wrong in each way (rows), for the start and every arm from it."""
    arms = [(count.name, count.mark) for count in rows_of[0][1]]
    dots = [[(count.share, count.bounds, count.mark) for count in counts] for _, counts in rows_of]
    figure, axes = _grouped(title, [name for name, _ in rows_of], arms, dots)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the test answers (%)")
    note = (
        "Wrong answers by the first kind of error that fits, with 95 % Wilson intervals. Kinds are "
        "defined under Errors."
    )
    return finish(figure, "gain-kinds", title, note)


def _ceiling(curves: Sequence[Curve]) -> float:
    """A top for the loss axis that the first few steps do not stretch: 1.15 times the 98th percentile."""
    values = np.concatenate([np.asarray(curve.y, dtype=float) for curve in curves])
    return max(1.15 * float(np.quantile(values, 0.98)), 1e-3)


def _range(shares: Sequence[float]) -> str:
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{high:.1f}\u00a0%" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}\u2013{high:.1f}\u00a0%"
