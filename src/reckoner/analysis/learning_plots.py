"""The figures of supervised training: losses, and accuracy on dev. As in `plots`.

Losses of arms that learn different solutions (main, socratic) stand in different panels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reckoner.analysis.canvas import INK, PAPER, Picture, end_labels, finish, label, panels, sentence
from reckoner.analysis.parts import ROW, Curve, Level, dev_line, rows, smooth_line, smoothing
from reckoner.analysis.wording import clock, percent


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


def final_loss(by_variant: Mapping[str, Sequence[Level]], last: int) -> Picture:
    """Where each run's training loss began (hollow) and ended (filled, mean of the last N logged steps)."""
    best = [(variant, min(group, key=lambda level: level.value)) for variant, group in by_variant.items()]
    title = "Lowest final training loss: " + "; ".join(
        f"on {label(variant)}, {label(level.name)} ({level.value:.3f})" for variant, level in best
    )
    figure, grid = panels(title, [ROW * len(group) + 58 for group in by_variant.values()])
    for axes, (variant, group) in zip(grid, by_variant.items(), strict=True):
        rows(axes, [level.name for level in group])
        for row, level in enumerate(group):
            if level.start is not None:
                axes.plot(
                    [level.value, level.start], [row, row], color=level.mark.colour, linewidth=1.2, alpha=0.5
                )
                axes.plot(
                    level.start,
                    row,
                    level.mark.marker,
                    color=level.mark.colour,
                    markerfacecolor=PAPER,
                    markersize=6,
                )
            axes.plot(level.value, row, level.mark.marker, color=level.mark.colour, markersize=7)
            axes.annotate(
                f"{level.value:.3f}",
                (level.value, row),
                (0, 7),
                textcoords="offset points",
                ha="center",
                size=9.5,
            )
        axes.set_title(f"{label(variant)} solutions", color=INK)
        axes.set_ylim(len(group) - 0.4, -0.75)
    # Once for all panels, which share the axis: a limit set for one is kept when the next is drawn.
    grid[-1].set_xlim(left=0)
    grid[-1].set_xlabel("training loss (nats a token)")
    note = f"Hollow: first step. Filled: mean of the last {last} logged steps. Panels have different targets and are not to be compared."
    return finish(figure, "final-loss", title, note)


def dev_accuracy(curves: Sequence[Curve], by: str) -> Picture:
    """Greedy exact match on dev during training, with Wilson intervals, against "step" or "seconds".

    Seconds are those of all training that led there.
    """
    if by == "step":
        title = f"Dev accuracy goes from {_range([curve.y[0] for curve in curves])} to {_range([curve.y[-1] for curve in curves])} in training"
    else:
        top = max(curves, key=lambda curve: max(curve.y))
        title = sentence(
            f"{label(top.name)} reaches the most on dev, {percent(max(top.y))}, after {clock(top.x[int(np.argmax(top.y))])} of training"
        )
    figure, (axes,) = panels(title, [240])
    ends = [(dev_line(axes, curve), curve.name, curve.mark) for curve in curves]
    axes.set_ylim(bottom=0)
    axes.set_ylabel("dev problems solved (%)")
    axes.set_xlabel(
        "optimizer steps" if by == "step" else "seconds of training, what an arm starts from included"
    )
    end_labels(axes, ends)
    sizes = sorted({curve.n for curve in curves})
    note = f"Greedy, strict, n = {', '.join(f'{n:,}' for n in sizes)} dev problems; bands are 95 % Wilson intervals. Test is never read here."
    return finish(figure, f"dev-accuracy-{'steps' if by == 'step' else 'seconds'}", title, note)


def _ceiling(curves: Sequence[Curve]) -> float:
    """A top for the loss axis that the first few steps do not stretch: 1.15 times the 98th percentile."""
    values = np.concatenate([np.asarray(curve.y, dtype=float) for curve in curves])
    return max(1.15 * float(np.quantile(values, 0.98)), 1e-3)


def _range(shares: Sequence[float]) -> str:
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{high:.1f}\u00a0%" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}\u2013{high:.1f}\u00a0%"
