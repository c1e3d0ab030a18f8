"""The pictures of the benchmarks: speed beside its goal, and what was found beside what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reckoner.analysis import canvas
from reckoner.analysis.canvas import ROW, rows

FIGURES = Path(__file__).parent.parent / "docs" / "figures"


@dataclass(frozen=True)
class Goal:
    """One comparison: our arm of a part against the fastest arm whose name begins with `peer`."""

    part: str
    title: str
    peer: str
    must: float
    stretch: float
    ours: str = "ours"


GOALS = (
    Goal("sft", "SFT, original recipe", "original", 2.5, 4),
    Goal("sft", "SFT, TRL at its best", "trl", 1.5, 2),
    Goal("sft", "SFT, TRL at its defaults", "trl defaults", 2.5, 4),
    Goal("rollouts", "rollouts, generate", "generate", 4, 8),
    Goal("evaluation", "greedy test, generate", "generate, batch 64", 4, 8),
    Goal("grpo", "GRPO step, TRL at best", "trl", 3, 5),
)


@dataclass(frozen=True)
class Line:
    """A comparison that was measured. `share` is the part of the machine's ceiling that our arm reaches,
    where it is known."""

    goal: Goal
    ours: float
    peer: float
    unit: str
    rival: str
    share: float | None

    @property
    def ratio(self) -> float:
        return self.ours / self.peer


def lines(stored: Mapping[str, Any]) -> list[Line]:
    """The comparisons for which `stored` (results/NAME.json) has both sides."""
    found = []
    for goal in GOALS:
        part = stored.get(goal.part, {})
        arms = part.get("arms", {})
        rivals = [name for name in arms if name.startswith(goal.peer)]
        if not rivals:
            continue
        rival = max(rivals, key=lambda name: arms[name]["rate"])
        ours, flops = arms[goal.ours], part.get("flops_per_token")
        share = (
            ours["rate"] * flops / (ceiling(stored, goal.part) * 1e9)
            if flops and "ceiling" in stored
            else None
        )
        found.append(Line(goal, ours["rate"], arms[rival]["rate"], ours["unit"], rival, share))
    return found


def ceiling(stored: Mapping[str, Any], part: str) -> float:
    """The best fp32 GFLOP/s at the shapes of a part: products of many rows in training, of 256 in
    decoding."""
    kind = "sft" if part == "sft" else "decoding"
    return max(rate["float32"] for name, rate in stored["ceiling"].items() if name.startswith(kind))


def table(stored: Mapping[str, Any]) -> str:
    """All comparisons and start-up times as Markdown."""
    head = ["on this machine", "ours", "peer", "", "ratio", "must", "stretch", "of the ceiling"]
    body = [
        [
            line.goal.title,
            f"{line.ours:,.0f}",
            f"{line.peer:,.0f}",
            line.unit,
            f"{line.ratio:.2f}x",
            f"{line.goal.must:g}x",
            f"{line.goal.stretch:g}x",
            f"{line.share:.0%}" if line.share is not None else "",
        ]
        for line in lines(stored)
    ]
    for name, found in stored.get("start-up", {}).items():
        if name.startswith("reckon"):
            body.append([f"start-up, {name}", f"{found['seconds']:.2f}", "", "s", "", "0.5 s", "0.25 s", ""])
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def goals_picture(stored: Mapping[str, Any], name: str) -> None:
    """docs/figures/bench-NAME.svg: our speed as a multiple of each peer's, with the goal as a line."""
    found = lines(stored)
    if not found:
        return
    reached = sum(line.ratio >= line.goal.must for line in found)
    title = f"Faster than every peer by the goal or more in {reached} of {len(found)} comparisons"
    with canvas.drawing():
        figure, (axes,) = canvas.panels(title, [ROW * len(found) + 46])
        rows(axes, [line.goal.title for line in found])
        for row, line in enumerate(found):
            axes.barh(row, line.ratio, height=0.5, color=canvas.SHADES[0], zorder=2)
            axes.plot(
                [line.goal.must] * 2, [row - 0.36, row + 0.36], color=canvas.INK, linewidth=1.6, zorder=3
            )
            axes.annotate(
                f"{line.ratio:.1f}x",
                (line.ratio, row),
                (-5, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                size=10,
                color=canvas.PAPER,
            )
        axes.axvline(1, color=canvas.MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.set_xlim(0, 1.12 * max(max(line.ratio, line.goal.must) for line in found))
        axes.set_xlabel("our speed / the peer's")
        save(
            canvas.finish(
                figure, f"bench-{name}", title, "Medians of laps in turn; the black line is the goal."
            )
        )


def scaling_picture(
    name: str, title: str, curves: Mapping[str, Sequence[tuple[float, float]]], axis: str, value: str
) -> None:
    """docs/figures/NAME.svg: measured costs against size, log-log; dotted, what growth in proportion from the
    largest would be."""
    marks = dict(zip(curves, ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=False))
    with canvas.drawing():
        figure, (axes,) = canvas.panels(title, [260])
        for label, points in curves.items():
            xs, ys = zip(*points, strict=True)
            axes.loglog(xs, ys, "o-", color=marks[label], label=label, markersize=4)
            axes.loglog(
                xs, [ys[-1] * x / xs[-1] for x in xs], color=marks[label], linewidth=1, linestyle=(0, (1, 2))
            )
        axes.set_xlabel(axis)
        axes.set_ylabel(value)
        axes.legend(frameon=False)
        save(canvas.finish(figure, name, title, "Dotted: in proportion."))


def calibration_picture(effects: Mapping[str, Mapping[str, Any]]) -> None:
    """docs/figures/calibration.svg: what was found in each world, in points, with intervals."""
    with canvas.drawing():
        title = "What the study finds where the truth is known"
        figure, (axes,) = canvas.panels(title, [ROW * len(effects) + 46])
        rows(axes, list(effects))
        for row, found in enumerate(effects.values()):
            axes.plot(found["interval"], [row, row], color=canvas.HUES[0], linewidth=2, zorder=2)
            axes.plot(found["points"], row, "o", color=canvas.HUES[0], markersize=6, zorder=3)
        axes.axvline(0, **canvas.DOTTED)
        axes.set_xlabel("points of accuracy, 95 % interval")
        save(canvas.finish(figure, "calibration", title, "Dotted: no difference."))


def save(picture: canvas.Picture) -> None:
    """Write a picture that follows the reader's light or dark."""
    (FIGURES / f"{picture.name}.svg").write_text(canvas.standalone(picture) + "\n")
