"""The figures of reinforcement learning: is the reward what dev says, and does the policy stay healthy? As in `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reckoner.analysis.canvas import INK, Picture, end_labels, finish, label, panels, sentence
from reckoner.analysis.plots import Curve, running_mean, smoothing
from reckoner.analysis.statistics import wilson
from reckoner.analysis.wording import percent

SIGNALS = {"kl_reference": "KL from the start (nats a token)", "entropy": "entropy (nats a token)", "length": "tokens a completion"}
"""Logged names that show whether a policy degenerates, with the labels of their axes."""


def exact_match(sampled: Sequence[Curve], dev: Sequence[Curve]) -> Picture:
    """Exact match of the completions that train (sampled, a line) and of greedy answers on dev (points with intervals)."""
    shown = "; ".join(f"{label(c.name)} from {percent(c.y[0])} to {percent(c.y[-1])}" for c in dev or sampled)
    title = sentence(f"{'On dev, ' if dev else 'Sampled, '}{shown}")
    figure, (axes,) = panels(title, [240])
    ends = []
    for curve in sampled:
        smooth = 100 * running_mean(curve.y, smoothing(len(curve.y)))
        axes.plot(curve.x, 100 * np.asarray(curve.y), color=curve.mark.colour, linewidth=0.7, alpha=0.28)
        axes.plot(curve.x, smooth, color=curve.mark.colour, linewidth=1.6)
        ends.append((float(smooth[-1]), curve.name, curve.mark))
    for curve in dev:
        bounds = 100 * np.array([wilson(round(y * curve.n), curve.n) for y in curve.y])
        axes.vlines(curve.x, bounds[:, 0], bounds[:, 1], color=curve.mark.colour, linewidth=1.4, alpha=0.5)
        axes.plot(curve.x, 100 * np.asarray(curve.y), curve.mark.marker, color=curve.mark.colour, markersize=6)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("solved (%)")
    axes.set_xlabel("steps of generate, reward and update")
    end_labels(axes, ends)
    note = "Lines: completions drawn in training, smoothed. Points: greedy answers on dev, with 95 % Wilson intervals."
    return finish(figure, "exact-match", title, note)


def health(signals: Mapping[str, Sequence[Curve]]) -> Picture:
    """KL from the starting policy, entropy and length of completions, a panel each; keys are those of `SIGNALS`."""
    largest = max((curve for curve in signals.get("kl_reference", ())), key=lambda curve: curve.y[-1], default=None)
    title = "Entropy and length of the completions in training"
    if largest is not None:
        title = sentence(f"{label(largest.name)} ends {largest.y[-1]:.3f} nats a token from where it began")
    figure, grid = panels(title, [150] * len(signals))
    for axes, (name, curves) in zip(grid, signals.items(), strict=True):
        ends = []
        for curve in curves:
            smooth = running_mean(curve.y, smoothing(len(curve.y)))
            axes.plot(curve.x, smooth, color=curve.mark.colour, linewidth=1.6)
            ends.append((float(smooth[-1]), curve.name, curve.mark))
        axes.set_title(SIGNALS[name], color=INK)
        axes.set_ylim(bottom=0)
        end_labels(axes, ends)
    grid[-1].set_xlabel("steps of generate, reward and update")
    note = "KL by the k3 estimate. Entropy near zero or a length that runs away says that the policy degenerates."
    return finish(figure, "policy-health", title, note)
