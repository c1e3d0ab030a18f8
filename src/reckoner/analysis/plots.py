"""The drawings behind the figures. Numbers go in, and a `Picture` whose title says the finding comes out.

Each must be called inside `canvas.drawing()`. Accuracies are fractions here and per cent on the axes; every accuracy is
drawn with its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reckoner.analysis.canvas import (
    INK,
    MUTED,
    PAPER,
    RULE,
    SHADES,
    Mark,
    Picture,
    end_labels,
    finish,
    label,
    panels,
)
from reckoner.analysis.parts import (
    ROW,
    Count,
    Curve,
    Level,
    bars,
    dev_line,
    interval,
    rows,
    smooth_line,
    smoothing,
)
from reckoner.analysis.statistics import Difference, holm, wilson
from reckoner.analysis.wording import percent, sentence
from reckoner.console import clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENOUGH = 30
"""Problems from which a group may stand in a title."""

BETTER, WORSE = "#0072b2", "#d55e00"
VERDICTS = dict(zip(("correct", "wrong", "no #### number", "truncated"), SHADES, strict=True))
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "columnspacing": 1.2, "borderpad": 0}
SIGNALS = {
    "kl_reference": ("KL from the start (nats a token)", 1),
    "entropy": ("entropy (nats a token)", 1),
    "length": ("length (tokens a completion)", 1),
    "format_rate": ("right format (% of completions)", 100),
}
"""Logged names that show whether a policy degenerates, each with its panel's title and what turns values into its unit."""


def accuracy(counts: Sequence[Count], reference: Count | None, title: str) -> Picture:
    """Strict accuracy on test, one row an arm, with Wilson intervals; a line marks the baseline."""
    figure, (axes,) = panels(title, [ROW * len(counts) + 46])
    rows(axes, [count.name for count in counts])
    if reference is not None:
        axes.axvline(100 * reference.share, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    for row, count in enumerate(counts):
        low, high = wilson(count.k, count.n)
        interval(axes, 100 * count.share, row, 100 * low, 100 * high, count.mark)
        text = f"{100 * count.share:.1f}"
        place: dict[str, Any] = {
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
            "annotation_clip": False,
        }
        axes.annotate(text, (1, row), (30, 0), ha="right", va="center", size=10, color=INK, **place)
    highest = max((wilson(count.k, count.n)[1] for count in counts), default=1.0)
    axes.set_xlim(0, min(100, 100 * highest * 1.04))
    axes.set_xlabel("test problems solved (%)")
    note = "Strict grading. Bars are 95 % Wilson intervals" + (
        "; the dotted line is the best prompt, its format forgiven." if reference else "."
    )
    return finish(figure, "accuracy", title, note)


def differences(names: Sequence[str], gaps: Mapping[tuple[int, int], Difference]) -> Picture:
    """Matrix of paired differences, row minus column in points; coloured are those that Holm's correction over all of them leaves."""
    from matplotlib.patches import Rectangle

    apart = {pair for pair, p in zip(gaps, holm([gap.p for gap in gaps.values()]), strict=True) if p < 0.05}
    title = f"{len(apart)} of {len(gaps)} pairs of arms differ by more than chance"
    size = len(names)
    figure, (axes,) = panels(title, [max(130, 36 * size + 40)])
    axes.grid(False)
    largest = max((abs(gap.estimate) for gap in gaps.values()), default=0.0) or 1.0
    for (row, column), gap in gaps.items():
        clear = (row, column) in apart
        strength = 0.16 + 0.5 * abs(gap.estimate) / largest
        face = (BETTER if gap.estimate > 0 else WORSE) if clear else "none"
        box = ((column - 0.47, row - 0.47), 0.94, 0.94)
        alpha, edge = (strength, "none") if clear else (1.0, RULE)
        axes.add_patch(Rectangle(*box, facecolor=face, alpha=alpha, edgecolor=edge, linewidth=0.8))
        text = f"{100 * gap.estimate:+.1f}".replace("-", "\u2212")
        weight = "bold" if clear else "normal"
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            size=min(9, 72 / size),
            color=INK if clear else MUTED,
            weight=weight,
        )
    axes.set_xlim(-0.5, size - 1.5)
    axes.set_ylim(size - 0.5, 0.5)
    axes.set_yticks(range(1, size), [f"{label(names[i], 26)}  {i + 1}" for i in range(1, size)], color=INK)
    axes.set_xticks(range(size - 1), [str(i + 1) for i in range(size - 1)], color=INK)
    axes.set_xlabel(f"minus arm number (1 is {label(names[0], 28)})" if names else "")
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    return finish(
        figure,
        "differences",
        title,
        "Row minus column, in points. Coloured: exact paired test, p below 0.05 after Holm's correction over all pairs here.",
    )


def verdicts(names: Sequence[str], shares: Sequence[Mapping[str, float]]) -> Picture:
    """What became of every test answer: correct, wrong, no number after ####, truncated."""
    lost = [share["no #### number"] + share["truncated"] for share in shares]
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
        axes.barh(
            range(len(names)),
            width,
            left=left,
            height=0.62,
            color=shade,
            label=kind,
            edgecolor=PAPER,
            linewidth=0.8,
        )
        left += width
    axes.set_xlim(0, 100)
    axes.grid(False)
    axes.set_xlabel("share of the test answers (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, handlelength=1, **LEGEND)
    return finish(
        figure,
        "verdicts",
        title,
        "No #### number: the format is not followed; the answer may still end in the right number. "
        "Truncated: cut at the longest allowed answer.",
    )


def accuracy_by_steps(curves: Sequence[Mapping[str, Count]]) -> Picture:
    """Test accuracy by the number of calculations in the reference solution ("1", ..., "8 or more"), with Wilson intervals."""
    labels = list(dict.fromkeys(name for counts in curves for name in counts))
    best = max(curves, key=lambda counts: sum(count.k for count in counts.values()))
    large = {name: count for name, count in best.items() if count.n >= ENOUGH}
    (few, first), *_, (many, last) = (large if len(large) > 1 else best).items()
    shares = f"{percent(first.share)} of problems with {few} calculations, {percent(last.share)} with {many}"
    title = sentence(f"{label(first.name)} solves {shares}")
    figure, (axes,) = panels(title, [240])
    ends = []
    for turn, counts in enumerate(curves):
        places = np.array([labels.index(name) for name in counts]) + 0.07 * (turn - (len(curves) - 1) / 2)
        values = [100 * count.share for count in counts.values()]
        bounds = 100 * np.array([wilson(count.k, count.n) for count in counts.values()])
        one = next(iter(counts.values()))
        axes.vlines(places, bounds[:, 0], bounds[:, 1], color=one.mark.colour, linewidth=1.4, alpha=0.45)
        axes.plot(places, values, color=one.mark.colour, marker=one.mark.marker, markersize=5, linewidth=1.6)
        ends.append((values[-1], one.name, one.mark))
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(labels)), [label(name.replace(" or more", "+"), 12) for name in labels])
    axes.set_ylabel("test problems solved (%)")
    axes.set_xlabel("calculations in the reference solution")
    end_labels(axes, ends)
    return finish(
        figure, "accuracy-steps", title, "Trained arms and the best prompt. Bars are 95 % Wilson intervals."
    )


def training_loss(by_variant: Mapping[str, Sequence[Curve]]) -> Picture:
    """Training loss of every run against optimizer steps, smoothed over what is drawn faintly behind, a panel a variant."""
    curves = [curve for group in by_variant.values() for curve in group]
    risen = [curve.name for curve in curves if len(curve.y) > 1 and np.mean(curve.y[-10:]) >= curve.y[0]]
    title = (
        f"Training loss did not fall in {label(', '.join(risen), 60)}"
        if risen
        else "Training loss falls in every run"
    )
    figure, grid = panels(title, [178] * len(by_variant))
    window = max((smoothing(len(curve.y)) for curve in curves), default=1)
    for axes, (variant, group) in zip(grid, by_variant.items(), strict=True):
        ends = []
        for curve in group:
            ends.append((smooth_line(axes, curve), curve.name, curve.mark))
        axes.set_title(f"{label(variant)} solutions", color=INK)
        axes.set_ylim(0, _ceiling(group))
        axes.set_ylabel("nats a token")
        end_labels(axes, ends)
    grid[-1].set_xlabel("optimizer steps")
    note = f"Cross-entropy of supervised tokens, running mean of {window} logged steps over the raw values. "
    return finish(
        figure, "training-loss", title, note + "Panels have different targets and are not to be compared."
    )


def dev_accuracy(curves: Sequence[Curve]) -> Picture:
    """Greedy exact match on dev during training, with Wilson intervals, against optimizer steps."""
    ranges = (_range([curve.y[at] for curve in curves]) for at in (0, -1))
    title = "Dev accuracy goes from {} to {} in training".format(*ranges)
    figure, (axes,) = panels(title, [240])
    ends = [(dev_line(axes, curve), curve.name, curve.mark) for curve in curves]
    axes.set_ylim(bottom=0)
    axes.set_ylabel("dev problems solved (%)")
    axes.set_xlabel("optimizer steps")
    end_labels(axes, ends)
    sizes = ", ".join(f"{n:,}" for n in sorted({curve.n for curve in curves}))
    note = (
        f"Greedy, strict, n = {sizes} dev problems; bands are 95 % Wilson intervals. Test is never read here."
    )
    return finish(figure, "dev-accuracy", title, note)


def accuracy_by_cost(counts: Sequence[Count], seconds: Sequence[float], reference: Count | None) -> Picture:
    """Test accuracy against seconds of training; the best prompt, which trains nothing, is a line."""
    top = max(range(len(counts)), key=lambda i: counts[i].share)
    title = sentence(
        f"{label(counts[top].name)} reaches {percent(counts[top].share)} after {clock(seconds[top])} of training"
    )
    figure, (axes,) = panels(title, [250])
    if reference is not None:
        axes.axhline(100 * reference.share, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate(
            "best prompt",
            (0, 100 * reference.share),
            (4, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=MUTED,
            size=9.5,
        )
    ends = []
    for count, x in zip(counts, seconds, strict=True):
        low, high = wilson(count.k, count.n)
        axes.plot([x, x], [100 * low, 100 * high], color=count.mark.colour, linewidth=1.6, alpha=0.55)
        axes.plot(x, 100 * count.share, count.mark.marker, color=count.mark.colour, markersize=8)
        ends.append((100 * count.share, count.name, count.mark))
    axes.set_xlim(0, 1.06 * max(seconds))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("test problems solved (%)")
    axes.set_xlabel("seconds of training, what an arm starts from included")
    end_labels(axes, ends)
    return finish(
        figure,
        "accuracy-seconds",
        title,
        "Bars are 95 % Wilson intervals. Time includes that of the arm it starts from.",
    )


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
        "Real tokens, padding not counted, over the seconds spent training; evaluation is apart. Memory of the process, "
        "or of the device where there is one."
    )
    return finish(figure, "cost", title, note)


def reward(rewards: Sequence[Curve], dev: Sequence[Curve]) -> Picture:
    """Mean reward of the completions that train, above greedy exact match on dev, against steps."""
    best = max(dev or rewards, key=lambda curve: max(curve.y))
    drawn = next(curve for curve in rewards if curve.name == best.name)
    title = f"{label(best.name)}: reward from {drawn.y[0]:.2f} to {drawn.y[-1]:.2f}"
    title += f", dev accuracy from {percent(best.y[0])} to {percent(best.y[-1])}" if dev else ""
    figure, grid = panels(sentence(title), [165] * (1 + bool(dev)))
    ends = [(smooth_line(grid[0], curve), curve.name, curve.mark) for curve in rewards]
    grid[0].set_title("mean reward of the completions drawn", color=INK)
    end_labels(grid[0], ends)
    if dev:
        ends = [(dev_line(grid[1], curve), curve.name, curve.mark) for curve in dev]
        grid[1].set_title("dev problems solved, greedy (%)", color=INK)
        end_labels(grid[1], ends)
    grid[-1].locator_params(axis="x", integer=True)
    grid[-1].set_xlabel("steps of generate, reward and update")
    note = "Reward: running mean over the raw values, faint; 1 is a right answer where no other part is declared. Bands: 95 % Wilson intervals."
    return finish(figure, "reward", sentence(title), note)


def health(signals: Mapping[str, Sequence[Curve]]) -> Picture:
    """KL from the starting policy, entropy, length and format of completions, a panel each; keys are those of `SIGNALS`."""
    largest = max(
        (curve for curve in signals.get("kl_reference", ())), key=lambda curve: curve.y[-1], default=None
    )
    title = "Entropy and length of the completions in training"
    if largest is not None:
        title = sentence(f"{label(largest.name)} ends {largest.y[-1]:.3f} nats a token from where it began")
        title += ", farther than the others" if len(signals["kl_reference"]) > 1 else ""
    figure, grid = panels(title, [128] * len(signals))
    for axes, (name, curves) in zip(grid, signals.items(), strict=True):
        text, scale = SIGNALS[name]
        ends = [(smooth_line(axes, curve, scale), curve.name, curve.mark) for curve in curves]
        axes.set_title(text, color=INK)
        axes.set_ylim(bottom=0)
        end_labels(axes, ends)
    grid[-1].locator_params(axis="x", integer=True)
    grid[-1].set_xlabel("steps of generate, reward and update")
    note = "KL by the k3 estimate. Entropy near zero, or a length or format that runs away, says that the policy degenerates."
    return finish(figure, "policy-health", title, note)


def changes(
    arms: Sequence[tuple[str, Mark]], groups: Sequence[tuple[str, Sequence[Difference]]], title: str
) -> Picture:
    """Paired differences to the start, in points, for groups of problems (rows) and arms (one above another in a row)."""
    figure, (axes,) = panels(title, [(11 * len(arms) + 14) * len(groups) + 70])
    sizes = [f" ({gaps[0].n:,})" for _, gaps in groups]
    names = [label(name, 24 - len(size)) + size for (name, _), size in zip(groups, sizes, strict=True)]
    rows(axes, names)
    axes.axvline(0, color=MUTED, linewidth=1, zorder=1)
    for row, (_, gaps) in enumerate(groups):
        for (_, mark), gap, place in zip(arms, gaps, _places(row, len(arms)), strict=True):
            interval(axes, 100 * gap.estimate, place, 100 * gap.low, 100 * gap.high, mark)
    axes.set_xlabel("gain over the start (points)")
    _legend(axes, arms)
    note = "Paired differences with 95 % intervals, number of problems in brackets. Many groups are shown: single intervals that leave zero out are hints, not findings."
    return finish(figure, "gain-groups", title, note)


def kinds(rows_of: Sequence[tuple[str, Sequence[Count]]], title: str) -> Picture:
    """Share of the test answers that are wrong in each way (rows), for the start and every arm from it."""
    arms = [(count.name, count.mark) for count in rows_of[0][1]]
    figure, (axes,) = panels(title, [(11 * len(arms) + 14) * len(rows_of) + 70])
    rows(axes, [name for name, _ in rows_of])
    for row, (_, counts) in enumerate(rows_of):
        for count, place in zip(counts, _places(row, len(arms)), strict=True):
            low, high = wilson(count.k, count.n)
            interval(axes, 100 * count.share, place, 100 * low, 100 * high, count.mark)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the test answers (%)")
    _legend(axes, arms)
    return finish(
        figure,
        "gain-kinds",
        title,
        "Wrong answers by the first kind of error that fits, with 95 % Wilson intervals. Kinds are defined under Errors.",
    )


def _places(row: int, count: int) -> list[float]:
    """Heights of `count` arms around the middle of a row, the first on top."""
    return [row + (turn - (count - 1) / 2) * 0.68 / count for turn in range(count)]


def _legend(axes: Axes, arms: Sequence[tuple[str, Mark]]) -> None:
    for name, mark in arms:
        axes.plot([], [], mark.marker, color=mark.colour, markersize=7, label=label(name))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.2, **LEGEND)


def _ceiling(curves: Sequence[Curve]) -> float:
    """A top for the loss axis that the first few steps do not stretch: 1.15 times the 98th percentile."""
    values = np.concatenate([np.asarray(curve.y, dtype=float) for curve in curves])
    return max(1.15 * float(np.quantile(values, 0.98)), 1e-3)


def _range(shares: Sequence[float]) -> str:
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{high:.1f}\u00a0%" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}\u2013{high:.1f}\u00a0%"
