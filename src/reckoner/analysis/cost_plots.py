"""The figures of cost: speed, memory, and what accuracy takes in seconds. As in `plots`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reckoner.analysis.canvas import (
    MUTED,
    PAPER,
    SHADES,
    Picture,
    end_labels,
    finish,
    label,
    panels,
    sentence,
)
from reckoner.analysis.findings import PHASES, Phases
from reckoner.analysis.parts import ROW, Count, Level, bars, rows
from reckoner.analysis.statistics import wilson
from reckoner.analysis.wording import clock, percent


def throughput(tokens: Sequence[Level], samples: Sequence[Level]) -> Picture:
    """Training speed: real tokens and samples a second, two panels."""
    values = [level.value for level in tokens]
    speeds = dict.fromkeys(f"{value:,.0f}" for value in (min(values), max(values)))
    title = f"Training speed: {' to '.join(speeds)} tokens a second"
    figure, grid = panels(title, [ROW * len(tokens) + 56] * 2, sharex=False)
    for axes, levels, unit in zip(
        grid, (tokens, samples), ("tokens a second", "samples a second"), strict=True
    ):
        bars(axes, levels, "{:,.0f}" if unit[0] == "t" else "{:,.1f}")
        axes.set_xlabel(unit)
    return finish(
        figure,
        "throughput",
        title,
        "Real tokens, padding not counted, over the seconds spent training; evaluation is apart.",
    )


def phases(arms: Sequence[tuple[str, Phases]]) -> Picture:
    """Where the seconds of reinforcement learning go: generate, score, update, with the tokens of each a second."""
    shares = [
        (name, [seconds / sum(spent.seconds) for seconds in spent.seconds], spent) for name, spent in arms
    ]
    name, parts, spent = max(shares, key=lambda arm: sum(arm[2].seconds))
    title = sentence(
        f"{label(name)} spends {100 * parts[0]:.0f} % of its time on generating, {100 * parts[2]:.0f} % on updates"
    )
    figure, (axes,) = panels(title, [1.8 * ROW * len(arms) + 66])
    rows(axes, [name for name, _ in arms])
    axes.grid(False)
    left = np.zeros(len(arms))
    for place, (phase, shade) in enumerate(zip(PHASES, (SHADES[0], SHADES[2], SHADES[1]), strict=True)):
        width = np.array([100 * part[place] for _, part, _ in shares])
        axes.barh(
            range(len(arms)),
            width,
            left=left,
            height=0.44,
            color=shade,
            label=phase,
            edgecolor=PAPER,
            linewidth=0.8,
        )
        left += width
    for row, (_, spent) in enumerate(arms):
        text = f"generates {spent.generated / spent.seconds[0]:,.0f}, learns from {spent.trained / spent.seconds[2]:,.0f} tokens a second"
        axes.annotate(
            text, (0, row), (0, -21), textcoords="offset points", va="center", size=9.5, color=MUTED
        )
    axes.set_ylim(len(arms) - 0.35, -0.45)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the seconds of training (%)")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9.5,
        handlelength=1,
        columnspacing=1.2,
        borderpad=0,
    )
    note = "Generated: tokens drawn over the seconds spent drawing them. Learned from: tokens in the loss over the seconds of updates. Score: log-probs of the reference, and values."
    return finish(figure, "phases", title, note)


def memory(levels: Sequence[Level]) -> Picture:
    """Peak memory of each training run, in GB of 10^9 bytes."""
    least, most = min(levels, key=lambda x: x.value), max(levels, key=lambda x: x.value)
    title = f"Peak memory: {most.value / 1e9:.2f} GB at most"
    if least.value < most.value:
        title = f"Peak memory: {least.value / 1e9:.2f} GB ({label(least.name)}) to {most.value / 1e9:.2f} GB ({label(most.name)})"
    figure, (axes,) = panels(title, [ROW * len(levels) + 46])
    bars(axes, [Level(level.name, level.mark, level.value / 1e9) for level in levels], "{:.2f}")
    axes.set_xlabel("peak memory (GB)")
    return finish(
        figure,
        "memory",
        title,
        "Largest memory of the process, or of the device where there is one, while training.",
    )


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
