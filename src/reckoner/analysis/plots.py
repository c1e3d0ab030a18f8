"""The figures of results. One function per figure: what is known goes in, a `Picture` whose title says the finding comes out.

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
    Picture,
    end_labels,
    finish,
    label,
    panels,
    sentence,
)
from reckoner.analysis.parts import ROW, Count, interval, rows
from reckoner.analysis.statistics import Difference, holm, wilson
from reckoner.analysis.wording import percent

if TYPE_CHECKING:
    from matplotlib.patches import Rectangle

ENOUGH = 30
"""Problems from which a group may stand in a title."""

BETTER, WORSE = "#0072b2", "#d55e00"
VERDICTS = dict(zip(("correct", "wrong", "no answer", "truncated"), SHADES, strict=True))


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
        "; the dotted line is the best prompt." if reference else "."
    )
    return finish(figure, "accuracy", title, note)


def differences(names: Sequence[str], gaps: Mapping[tuple[int, int], Difference]) -> Picture:
    """Matrix of paired differences, row minus column in points; coloured are those that Holm's correction over all of them leaves."""
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
        axes.add_patch(_box(*box, face, strength if clear else 1.0, "none" if clear else RULE))
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
    """What became of every test answer: correct, wrong, no answer, truncated."""
    lost = [share["no answer"] + share["truncated"] for share in shares]
    worst = int(np.argmax(lost))
    title = "Nearly every answer of every arm ends in a number"
    if lost[worst] > 0.05:
        title = sentence(
            f"{label(names[worst])}: {percent(lost[worst])} of the answers give no number or were cut off"
        )
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
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=9.5,
        handlelength=1,
        columnspacing=1.2,
        borderpad=0,
    )
    return finish(
        figure,
        "verdicts",
        title,
        "Truncated: cut at the longest allowed answer. No answer: no number after ####.",
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


def _box(
    corner: tuple[float, float], width: float, height: float, face: str, alpha: float, edge: str
) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, facecolor=face, alpha=alpha, edgecolor=edge, linewidth=0.8)
