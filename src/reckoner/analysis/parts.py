"""What figures are made of: the numbers that go in, and rows, bars, intervals and smoothed lines to draw them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reckoner.analysis.canvas import INK, Mark, label
from reckoner.analysis.statistics import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 27
"""Points of height for one row of a figure with a row an arm."""


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


def smooth_line(axes: Axes, curve: Curve, scale: float = 1.0) -> float:
    """Draw a running mean over the raw values, faint behind; returns the height at which the line ends."""
    smooth = scale * running_mean(curve.y, smoothing(len(curve.y)))
    axes.plot(curve.x, scale * np.asarray(curve.y), color=curve.mark.colour, linewidth=0.7, alpha=0.28)
    axes.plot(curve.x, smooth, color=curve.mark.colour, linewidth=1.8)
    return float(smooth[-1])


def dev_line(axes: Axes, curve: Curve) -> float:
    """Draw accuracies in per cent with a band of 95 % Wilson intervals; returns the height at which the line ends."""
    bounds = 100 * np.array([wilson(round(y * curve.n), curve.n) for y in curve.y])
    values = 100 * np.asarray(curve.y)
    axes.fill_between(curve.x, bounds[:, 0], bounds[:, 1], color=curve.mark.colour, alpha=0.1, linewidth=0)
    axes.plot(curve.x, values, color=curve.mark.colour, marker=curve.mark.marker, markersize=5, linewidth=1.8)
    return float(values[-1])


def smoothing(points: int) -> int:
    """Logged steps in one running mean: a twentieth of the run, at least one."""
    return max(1, points // 20)


def running_mean(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values at each point, of fewer at the start; [n] -> [n]."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    ends = np.arange(1, len(total))
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def rows(axes: Axes, names: Sequence[str]) -> None:
    """An axis with one named row an arm, the first on top."""
    axes.set_yticks(range(len(names)), [label(name) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", pad=9)  # room for a mark at 0
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")


def interval(axes: Axes, value: float, row: float, low: float, high: float, mark: Mark) -> None:
    """A value with its interval, in one row; whole where it stands on the edge of the axes."""
    axes.plot([low, high], [row, row], color=mark.colour, linewidth=2.4, alpha=0.45)
    axes.plot(value, row, mark.marker, color=mark.colour, markersize=7, clip_on=False)


def bars(axes: Axes, levels: Sequence[Level], form: str) -> None:
    """A bar a row, each with its number, written by `form`."""
    rows(axes, [level.name for level in levels])
    axes.grid(False)
    for row, level in enumerate(levels):
        axes.barh(row, level.value, height=0.52, color=level.mark.colour, linewidth=0)
        axes.annotate(
            form.format(level.value),
            (level.value, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            size=10,
        )
    axes.set_xlim(0, 1.2 * (max(level.value for level in levels) or 1.0))
    axes.tick_params(axis="x", length=0, labelbottom=False)
