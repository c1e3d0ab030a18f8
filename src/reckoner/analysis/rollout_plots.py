"""The figures of reinforcement learning: does dev follow the reward, does the policy stay healthy, and what did it change?

As in `plots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reckoner.analysis.canvas import INK, MUTED, Mark, Picture, end_labels, finish, label, panels, sentence
from reckoner.analysis.parts import Count, Curve, dev_line, interval, rows, smooth_line
from reckoner.analysis.statistics import Difference, wilson
from reckoner.analysis.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNALS = {
    "kl_reference": ("KL from the start (nats a token)", 1),
    "entropy": ("entropy (nats a token)", 1),
    "length": ("length (tokens a completion)", 1),
    "format_rate": ("right format (% of completions)", 100),
}
"""Logged names that show whether a policy degenerates, with the titles of their panels and what turns values into those units."""


def reward(rewards: Sequence[Curve], dev: Sequence[Curve], by: str) -> Picture:
    """Mean reward of the completions that train, above greedy exact match on dev, against "step" or "seconds"."""
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
    grid[-1].set_xlabel(
        "steps of generate, reward and update"
        if by == "step"
        else "seconds of training, without those of the start"
    )
    note = "Reward: running mean over the raw values, faint; 1 is a right answer where no other part is declared. Bands: 95 % Wilson intervals."
    return finish(figure, f"reward-{'steps' if by == 'step' else 'seconds'}", sentence(title), note)


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


def _places(row: int, count: int) -> list[float]:
    """Heights of `count` arms around the middle of a row, the first on top."""
    return [row + (turn - (count - 1) / 2) * 0.68 / count for turn in range(count)]


def _legend(axes: Axes, arms: Sequence[tuple[str, Mark]]) -> None:
    for name, mark in arms:
        axes.plot([], [], mark.marker, color=mark.colour, markersize=7, label=label(name))
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
        frameon=False,
        fontsize=9.5,
        handletextpad=0.2,
        columnspacing=1.2,
        borderpad=0,
    )


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
