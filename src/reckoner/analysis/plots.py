"""One function per figure: what is known goes in, a `Picture` whose title says the finding comes out.

Each must be called inside `canvas.drawing()`. Accuracies are fractions here and per cent on the axes; every accuracy is
drawn with its 95 % interval. Losses of arms that learn different solutions (main, socratic) stand in different panels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    sentence,
)
from reckoner.analysis.findings import clock
from reckoner.analysis.statistics import Difference, wilson
from reckoner.analysis.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 27
ENOUGH = 30
"""Problems from which a group may stand in a title."""

BETTER, WORSE = "#0072b2", "#d55e00"
VERDICTS = dict(zip(("correct", "wrong", "no answer", "truncated"), SHADES, strict=True))


@dataclass(frozen=True, slots=True)
class Count:
    """k of n right for the arm called `name`."""

    name: str
    mark: Mark
    k: int
    n: int

    @property
    def share(self) -> float:
        return self.k / self.n if self.n else 0.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Values of one arm along x; `n` turns values into accuracies with intervals (0: no interval is drawn)."""

    name: str
    mark: Mark
    x: Sequence[float]
    y: Sequence[float]
    n: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """One number of one arm, with the number it began from where there is one."""

    name: str
    mark: Mark
    value: float
    start: float | None = None


def accuracy(counts: Sequence[Count], reference: Count | None, title: str) -> Picture:
    """Strict accuracy on test, one row an arm, with Wilson intervals; a line marks the baseline."""
    figure, (axes,) = panels(title, [ROW * len(counts) + 46])
    _rows(axes, [count.name for count in counts])
    if reference is not None:
        axes.axvline(100 * reference.share, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    for row, count in enumerate(counts):
        low, high = wilson(count.k, count.n)
        _interval(axes, 100 * count.share, row, 100 * low, 100 * high, count.mark)
        text = f"{100 * count.share:.1f}"
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(text, (1, row), (30, 0), ha="right", va="center", size=10, color=INK, **place)
    highest = max((wilson(count.k, count.n)[1] for count in counts), default=1.0)
    axes.set_xlim(0, min(100, 100 * highest * 1.04))
    axes.set_xlabel("test problems solved (%)")
    note = "Strict grading. Bars are 95 % Wilson intervals" + ("; the dotted line is the best prompt." if reference else ".")
    return finish(figure, "accuracy", title, note)


def differences(names: Sequence[str], gaps: Mapping[tuple[int, int], Difference]) -> Picture:
    """Matrix of paired differences, row minus column in points; only pairs whose interval leaves zero out are coloured."""
    apart = sum(gap.low > 0 or gap.high < 0 for gap in gaps.values())
    title = f"{apart} of {len(gaps)} pairs of arms differ by more than chance"
    size = len(names)
    figure, (axes,) = panels(title, [max(130, 36 * size + 40)])
    axes.grid(False)
    largest = max((abs(gap.estimate) for gap in gaps.values()), default=0.0) or 1.0
    for (row, column), gap in gaps.items():
        clear = gap.low > 0 or gap.high < 0
        strength = 0.16 + 0.5 * abs(gap.estimate) / largest
        face = (BETTER if gap.estimate > 0 else WORSE) if clear else "none"
        box = ((column - 0.47, row - 0.47), 0.94, 0.94)
        axes.add_patch(_box(*box, face, strength if clear else 1.0, "none" if clear else RULE))
        text = f"{100 * gap.estimate:+.1f}".replace("-", "\u2212")
        weight = "bold" if clear else "normal"
        axes.text(column, row, text, ha="center", va="center", size=9, color=INK if clear else MUTED, weight=weight)
    axes.set_xlim(-0.5, size - 1.5)
    axes.set_ylim(size - 0.5, 0.5)
    axes.set_yticks(range(1, size), [f"{label(names[i], 26)}  {i + 1}" for i in range(1, size)], color=INK)
    axes.set_xticks(range(size - 1), [str(i + 1) for i in range(size - 1)], color=INK)
    axes.set_xlabel(f"minus arm number (1 is {label(names[0], 28)})" if names else "")
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    return finish(figure, "differences", title, "Row minus column, in points. Coloured: the 95 % interval of the paired difference leaves zero out.")


def training_loss(by_variant: Mapping[str, Sequence[Curve]]) -> Picture:
    """Training loss of every run against optimizer steps, smoothed over what is drawn faintly behind, a panel a variant."""
    curves = [curve for group in by_variant.values() for curve in group]
    risen = [curve.name for curve in curves if len(curve.y) > 1 and np.mean(curve.y[-10:]) >= curve.y[0]]
    title = f"Training loss did not fall in {label(', '.join(risen), 60)}" if risen else "Training loss falls in every run"
    figure, grid = panels(title, [178] * len(by_variant))
    window = max((smoothing(len(curve.y)) for curve in curves), default=1)
    for axes, (variant, group) in zip(grid, by_variant.items(), strict=True):
        ends = []
        for curve in group:
            smooth = running_mean(curve.y, smoothing(len(curve.y)))
            axes.plot(curve.x, curve.y, color=curve.mark.colour, linewidth=0.7, alpha=0.28)
            axes.plot(curve.x, smooth, color=curve.mark.colour, linewidth=1.8)
            ends.append((float(smooth[-1]), curve.name, curve.mark))
        axes.set_title(f"{label(variant)} solutions", color=INK)
        axes.set_ylim(0, _ceiling(group))
        axes.set_ylabel("nats a token")
        end_labels(axes, ends)
    grid[-1].set_xlabel("optimizer steps")
    note = f"Cross-entropy of supervised tokens, running mean of {window} logged steps over the raw values. "
    return finish(figure, "training-loss", title, note + "Panels have different targets and are not to be compared.")


def final_loss(by_variant: Mapping[str, Sequence[Level]], last: int) -> Picture:
    """Where each run's training loss began (hollow) and ended (filled, mean of the last N logged steps)."""
    best = [(variant, min(group, key=lambda level: level.value)) for variant, group in by_variant.items()]
    title = "Lowest final training loss: " + "; ".join(f"on {label(variant)}, {label(level.name)} ({level.value:.3f})" for variant, level in best)
    figure, grid = panels(title, [ROW * len(group) + 58 for group in by_variant.values()])
    for axes, (variant, group) in zip(grid, by_variant.items(), strict=True):
        _rows(axes, [level.name for level in group])
        for row, level in enumerate(group):
            if level.start is not None:
                axes.plot([level.value, level.start], [row, row], color=level.mark.colour, linewidth=1.2, alpha=0.5)
                axes.plot(level.start, row, level.mark.marker, color=level.mark.colour, markerfacecolor=PAPER, markersize=6)
            axes.plot(level.value, row, level.mark.marker, color=level.mark.colour, markersize=7)
            axes.annotate(f"{level.value:.3f}", (level.value, row), (0, 7), textcoords="offset points", ha="center", size=9.5)
        axes.set_title(f"{label(variant)} solutions", color=INK)
        axes.set_ylim(len(group) - 0.4, -0.75)
        axes.set_xlim(left=0)
    grid[-1].set_xlabel("training loss (nats a token)")
    note = f"Hollow: first step. Filled: mean of the last {last} logged steps. Panels have different targets and are not to be compared."
    return finish(figure, "final-loss", title, note)


def dev_accuracy(curves: Sequence[Curve], by: str) -> Picture:
    """Greedy exact match on dev during training, with Wilson intervals, against "step" or "seconds"."""
    first, last = [curve.y[0] for curve in curves], [curve.y[-1] for curve in curves]
    title = f"Dev accuracy goes from {_range(first)} to {_range(last)}" + (" in training" if by == "step" else f" within {clock(max(curve.x[-1] for curve in curves))}")
    figure, (axes,) = panels(title, [240])
    ends = []
    for curve in curves:
        bounds = 100 * np.array([wilson(round(y * curve.n), curve.n) for y in curve.y])
        values = 100 * np.asarray(curve.y)
        axes.fill_between(curve.x, bounds[:, 0], bounds[:, 1], color=curve.mark.colour, alpha=0.1, linewidth=0)
        axes.plot(curve.x, values, color=curve.mark.colour, marker=curve.mark.marker, markersize=5, linewidth=1.8)
        ends.append((float(values[-1]), curve.name, curve.mark))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("dev problems solved (%)")
    axes.set_xlabel("optimizer steps" if by == "step" else "seconds of training")
    end_labels(axes, ends)
    sizes = sorted({curve.n for curve in curves})
    note = f"Greedy, strict, n = {', '.join(f'{n:,}' for n in sizes)} dev problems; bands are 95 % Wilson intervals. Test is never read here."
    return finish(figure, f"dev-accuracy-{'steps' if by == 'step' else 'seconds'}", title, note)


def throughput(tokens: Sequence[Level], samples: Sequence[Level]) -> Picture:
    """Training speed: real tokens and samples a second, two panels."""
    values = [level.value for level in tokens]
    speeds = dict.fromkeys(f"{value:,.0f}" for value in (min(values), max(values)))
    title = f"Training speed: {' to '.join(speeds)} tokens a second"
    figure, grid = panels(title, [ROW * len(tokens) + 56] * 2, sharex=False)
    for axes, levels, unit in zip(grid, (tokens, samples), ("tokens a second", "samples a second"), strict=True):
        _bars(axes, levels, "{:,.0f}" if unit[0] == "t" else "{:,.1f}")
        axes.set_xlabel(unit)
    return finish(figure, "throughput", title, "Real tokens, padding not counted, over the seconds spent training; evaluation is apart.")


def memory(levels: Sequence[Level]) -> Picture:
    """Peak memory of each training run, in GB of 10^9 bytes."""
    least, most = min(levels, key=lambda x: x.value), max(levels, key=lambda x: x.value)
    title = f"Peak memory: {most.value / 1e9:.2f} GB at most"
    if least.value < most.value:
        title = f"Peak memory: {least.value / 1e9:.2f} GB ({label(least.name)}) to {most.value / 1e9:.2f} GB ({label(most.name)})"
    figure, (axes,) = panels(title, [ROW * len(levels) + 46])
    _bars(axes, [Level(level.name, level.mark, level.value / 1e9) for level in levels], "{:.2f}")
    axes.set_xlabel("peak memory (GB)")
    return finish(figure, "memory", title, "Largest memory of the process, or of the device where there is one, while training.")


def accuracy_by_cost(counts: Sequence[Count], seconds: Sequence[float], reference: Count | None) -> Picture:
    """Test accuracy against seconds of training; the best prompt, which trains nothing, is a line."""
    top = max(range(len(counts)), key=lambda i: counts[i].share)
    title = sentence(f"{label(counts[top].name)} reaches {percent(counts[top].share)} after {clock(seconds[top])} of training")
    figure, (axes,) = panels(title, [250])
    if reference is not None:
        axes.axhline(100 * reference.share, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate("best prompt", (0, 100 * reference.share), (4, 4), xycoords=("axes fraction", "data"), textcoords="offset points", color=MUTED, size=9.5)
    ends = []
    for count, x in zip(counts, seconds, strict=True):
        low, high = wilson(count.k, count.n)
        axes.plot([x, x], [100 * low, 100 * high], color=count.mark.colour, linewidth=1.6, alpha=0.55)
        axes.plot(x, 100 * count.share, count.mark.marker, color=count.mark.colour, markersize=8)
        ends.append((100 * count.share, count.name, count.mark))
    axes.set_xlim(0, 1.06 * max(seconds))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("test problems solved (%)")
    axes.set_xlabel("seconds of training")
    end_labels(axes, ends)
    return finish(figure, "accuracy-seconds", title, "Bars are 95 % Wilson intervals. An arm that starts from another one shows its own time only.")


def verdicts(names: Sequence[str], shares: Sequence[Mapping[str, float]]) -> Picture:
    """What became of every test answer: correct, wrong, no answer, truncated."""
    lost = [share["no answer"] + share["truncated"] for share in shares]
    worst = int(np.argmax(lost))
    title = "Nearly every answer of every arm ends in a number"
    if lost[worst] > 0.05:
        title = sentence(f"{label(names[worst])}: {percent(lost[worst])} of the answers give no number or were cut off")
    figure, (axes,) = panels(title, [ROW * len(names) + 66])
    _rows(axes, names)
    left = np.zeros(len(names))
    for kind, shade in VERDICTS.items():
        width = np.array([100 * share[kind] for share in shares])
        axes.barh(range(len(names)), width, left=left, height=0.62, color=shade, label=kind, edgecolor=PAPER, linewidth=0.8)
        left += width
    axes.set_xlim(0, 100)
    axes.grid(False)
    axes.set_xlabel("share of the test answers (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=9.5, handlelength=1, columnspacing=1.2, borderpad=0)
    return finish(figure, "verdicts", title, "Truncated: cut at the longest allowed answer. No answer: no number after ####.")


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
    return finish(figure, "accuracy-steps", title, "Trained arms and the best prompt. Bars are 95 % Wilson intervals.")


def smoothing(points: int) -> int:
    """Logged steps in one running mean: a twentieth of the run, at least one."""
    return max(1, points // 20)


def running_mean(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values at each point, of fewer at the start; [n] -> [n]."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    ends = np.arange(1, len(total))
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [label(name) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")


def _interval(axes: Axes, value: float, row: int, low: float, high: float, mark: Mark) -> None:
    axes.plot([low, high], [row, row], color=mark.colour, linewidth=2.4, alpha=0.45)
    axes.plot(value, row, mark.marker, color=mark.colour, markersize=7)


def _bars(axes: Axes, levels: Sequence[Level], form: str) -> None:
    _rows(axes, [level.name for level in levels])
    axes.grid(False)
    for row, level in enumerate(levels):
        axes.barh(row, level.value, height=0.52, color=level.mark.colour, linewidth=0)
        axes.annotate(form.format(level.value), (level.value, row), (5, 0), textcoords="offset points", va="center", size=10)
    axes.set_xlim(0, 1.2 * (max(level.value for level in levels) or 1.0))
    axes.tick_params(axis="x", length=0, labelbottom=False)


def _box(corner: tuple[float, float], width: float, height: float, face: str, alpha: float, edge: str):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, facecolor=face, alpha=alpha, edgecolor=edge, linewidth=0.8)


def _ceiling(curves: Sequence[Curve]) -> float:
    """A top for the loss axis that the first few steps do not stretch: 1.15 times the 98th percentile."""
    values = np.concatenate([np.asarray(curve.y, dtype=float) for curve in curves])
    return max(1.15 * float(np.quantile(values, 0.98)), 1e-3)


def _range(shares: Sequence[float]) -> str:
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{high:.1f}\u00a0%" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}\u2013{high:.1f}\u00a0%"

