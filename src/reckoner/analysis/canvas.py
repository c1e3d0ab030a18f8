"""How every picture looks, and how it becomes bytes: an SVG that follows light and dark, a PNG, and its data.

No pyplot and no global state: settings are matplotlib's defaults plus `STYLE`, in force only inside
`drawing`. The same input gives the same bytes on any machine with the same matplotlib. An arm keeps its
colour and marker in every figure. Light colours are Okabe and Ito's (2008) and two of Tol's (2021).
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reckoner.analysis.intervals import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1c2128", "#606974", "#d8dce2", "#ffffff"
SHADES = ("#39424e", "#98a1ad", "#c9ced6", "#e4e7eb")
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#882255", "#332288", "#e69f00", "#56b4e9")
PROMPT_HUE = "#7a828e"
DARK = {INK: "#e8eaed", MUTED: "#a0a8b3", RULE: "#333a44", PAPER: "#15181d", PROMPT_HUE: "#98a1ac"}
DARK |= dict(zip(SHADES, ("#e1e4e8", "#838d9a", "#545d69", "#323942"), strict=True))
DARK |= {"#0072b2": "#2f86e0", "#882255": "#c2344f", "#332288": "#8f6ff0", "#56b4e9": "#86dff5"}
"""What each colour becomes where the reader's page is dark; those not named serve both."""

MARKS = {
    "o": "M0-4.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9z",
    "s": "M-4-4H4V4H-4z",
    "^": "M0-5L5 4H-5z",
    "D": "M0-5.5L5.5 0L0 5.5L-5.5 0z",
    "v": "M0 5L5-4H-5z",
    "P": "M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8z",
}
"""Matplotlib's markers, and the same as paths for the page's tables."""

WIDTH = 420
"""Points, or pixels at the natural size: a phone shows the figure whole, and its text stays readable."""
ROW = 27
"""Points of height for one row of a figure with a row an arm."""
FONTS = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    "legend.borderpad": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "reckoner",
    "figure.dpi": 72,
    "savefig.dpi": 216,
}
DOTTED: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (2, 3))}
ABOVE: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "handlelength": 1}
"""Where a legend stands."""
LINE_HEIGHT = 17
TITLE_COLUMNS = 58
BANDS = 4
"""Curves at most in a panel that shows their intervals as bands; more show them at their ends only."""
POINTS = 150
"""Points of one curve; a longer log is drawn and given at this many of its steps."""

Values = Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Mark:
    """How one arm is drawn everywhere."""

    colour: str
    marker: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished figure: a file name, the finding as its title, one line on how to read it, and its bytes.

    `data` are the values that it shows, rows under the names in the first one.
    """

    name: str
    title: str
    note: str
    svg: str
    png: bytes
    data: Values = ()

    def _repr_png_(self) -> bytes:
        """Shown by a notebook."""
        return self.png


def marks(trained: Sequence[bool]) -> list[Mark]:
    """One mark an arm, in the order of the study: a hue for what was trained, grey for prompts."""
    result, seen, shapes = [], {True: 0, False: 0}, list(MARKS)
    for kind in trained:
        turn, seen[kind] = seen[kind], seen[kind] + 1
        colour = HUES[turn % len(HUES)] if kind else PROMPT_HUE
        result.append(Mark(colour, shapes[turn % len(shapes)]))
    return result


def label(text: str, length: int = 60) -> str:
    """Text for a figure: one line, nothing that is invisible or no legal XML, cut to `length` characters."""
    kept = "".join(
        " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    flat = " ".join(kept.split())
    return flat if len(flat) <= length else flat[: length - 1].rstrip() + "…"


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib with our settings, whatever the user's are; a glyph that the font lacks gives no warning."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]  # its keys are words that mypy would list
        yield


def _lines(title: str) -> list[str]:
    return textwrap.wrap(label(title, 240), TITLE_COLUMNS) or [""]


def _band(title: str) -> int:
    return LINE_HEIGHT * len(_lines(title)) + 6


def panels(title: str, heights: Sequence[float], sharex: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with a title and panels of the given heights (points) below one another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    band, total = _band(title), _band(title) + sum(heights)
    figure = Figure(figsize=(WIDTH / 72, total / 72), facecolor=PAPER)
    FigureCanvasAgg(figure)
    engine = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - band / total), w_pad=4 / 72, h_pad=4 / 72)
    figure.set_layout_engine(engine)
    heading: dict[str, Any] = {"va": "top", "weight": "bold", "size": 11.5, "linespacing": 1.25}
    figure.text(6 / WIDTH, 1 - 5 / total, "\n".join(_lines(title)), **heading)
    ratios = {"height_ratios": heights}
    grid = figure.subplots(len(heights), 1, squeeze=False, sharex=sharex, gridspec_kw=ratios)
    return figure, list(grid[:, 0])


def rows(axes: Axes, names: Sequence[str], longest: int = 24) -> None:
    """An axis with one named row an arm, the first on top; a name takes two lines of `longest` characters."""
    wrapped = (textwrap.wrap(label(name, 100), longest, max_lines=2, placeholder="…") for name in names)
    axes.set_yticks(range(len(names)), ["\n".join(lines) for lines in wrapped], color=INK, linespacing=1)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", pad=9)  # room for a mark at 0
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")


@dataclass(frozen=True, slots=True)
class Dot:
    """One value of a row, a share with its interval; the hollow form is a second reading of the same.

    An open one is drawn hollow itself. At the end of the row stands `end`, or the value without one.
    """

    name: str
    mark: Mark
    value: float
    bounds: tuple[float, float]
    hollow: float | None = None
    open: bool = False
    end: float | None = None


def dots(
    name: str,
    title: str,
    shown: Sequence[Dot],
    unit: str,
    note: str,
    line: float | None = None,
    columns: Sequence[str] = ("accuracy", "low", "high", "flexible"),
    longest: int = 24,
) -> Picture:
    """A row for each value with its interval, in per cent or points, the value written at its end.

    `line` is dotted; values beside one at 0 are differences, with signs. `columns` name the data. Names have
    at most two lines of `longest` characters.
    """
    figure, (axes,) = panels(title, [ROW * len(shown) + 46])
    rows(axes, [dot.name for dot in shown], longest)
    if line is not None:
        axes.axvline(100 * line, zorder=1, **DOTTED)
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    signed = line == 0
    for row, dot in enumerate(shown):
        low, high = (100 * bound for bound in dot.bounds)
        style: dict[str, Any] = {"color": dot.mark.colour, "markersize": 7, "clip_on": False}
        axes.plot([low, high], [row, row], color=dot.mark.colour, linewidth=2.4, alpha=0.45)
        if dot.hollow is not None:
            axes.plot(100 * dot.hollow, row, dot.mark.marker, fillstyle="none", **style)
        axes.plot(100 * dot.value, row, dot.mark.marker, fillstyle="none" if dot.open else "full", **style)
        end = dot.value if dot.end is None else dot.end
        text = format(100 * end, "+.1f" if signed else ".1f").replace("-", "\u2212")
        axes.annotate(text, (1, row), (34, 0), ha="right", va="center", size=10, **beside)
    if not signed:
        most = max(max(dot.bounds[1], dot.hollow or 0) for dot in shown)
        axes.set_xlim(0, min(100, 104 * most) or 1)
    axes.set_xlabel(unit)
    values = [[d.name, d.value, *d.bounds, "" if d.hollow is None else d.hollow] for d in shown]
    return finish(figure, name, title, note, [["", *columns], *values])


def separate(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights at least `gap` apart for rising `wanted` ones; those that touch stand around their mean."""
    clusters: list[list[float]] = []
    for value in wanted:
        clusters.append([value])
        while len(clusters) > 1 and _edge(clusters[-1], gap, -1) - _edge(clusters[-2], gap, 1) < gap:
            last = clusters.pop()
            clusters[-1] += last
    return [_edge(cluster, gap, -1) + gap * turn for cluster in clusters for turn in range(len(cluster))]


def _edge(cluster: Sequence[float], gap: float, side: int) -> float:
    """The outermost height of a cluster: -1 its lowest, 1 its highest."""
    return sum(cluster) / len(cluster) + side * gap * (len(cluster) - 1) / 2


def end_labels(axes: Axes, ends: Sequence[tuple[float, str, Mark]]) -> None:
    """Write each name with its mark in the right margin at the height of its end, in two lines or, where
    these do not fit, in one; none overlap.
    """
    low, high = axes.get_ylim()
    room = max(axes.get_window_extent().height - 30, 60)
    gap = (high - low) * 13 / room
    ends = sorted(ends, key=lambda end: end[0])
    two, one = (
        [textwrap.wrap(label(name, 100), 24, max_lines=most, placeholder="…") or [""] for _, name, _ in ends]
        for most in (2, 1)
    )
    names = two if 13 * sum(map(len, two)) <= room else one
    slots = [end[0] for end, lines in zip(ends, names, strict=True) for _ in lines]
    placed = iter(separate(slots, gap))
    across = axes.get_yaxis_transform()
    still: dict[str, Any] = {"transform": across, "clip_on": False, "scalex": False, "scaley": False}
    beside: dict[str, Any] = {"xycoords": across, "textcoords": "offset points", "annotation_clip": False}
    for (_, _, mark), lines in zip(ends, names, strict=True):
        at = sum(next(placed) for _ in lines) / len(lines)
        axes.plot(1.03, at, mark.marker, color=mark.colour, markersize=5, **still)
        axes.annotate("\n".join(lines), (1.03, at), (7, 0), va="center", size=9.5, linespacing=1, **beside)


@dataclass(frozen=True, slots=True)
class Curve:
    """Values of one arm along x; `n` is the number of problems where they are accuracies, 0 elsewhere."""

    name: str
    mark: Mark
    x: Sequence[float]
    y: Sequence[float]
    n: int = 0


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over one axis: its title, its unit, and the factor from the values to this unit."""

    curves: Sequence[Curve]
    title: str = ""
    unit: str = ""
    scale: float = 1.0
    top: float | None = None
    from_zero: bool = True


def curves_picture(
    name: str, title: str, shown: Sequence[Panel], height: float, along: str, note: str
) -> Picture:
    """Panels of curves over the same axis (`along`), each curve with its name at its end."""
    figure, grid = panels(title, [height] * len(shown))
    data: list[list[object]] = [["panel", "arm", along, "value"]]
    for axes, panel in zip(grid, shown, strict=True):
        band = len(panel.curves) <= BANDS
        ends = [(_line(axes, curve, panel.scale, band), curve.name, curve.mark) for curve in panel.curves]
        axes.set_title(panel.title, color=INK)
        axes.set_ylabel(panel.unit)
        if panel.from_zero:
            axes.set_ylim(0, panel.top)
        end_labels(axes, ends)
        for curve in panel.curves:
            kept = thinned(len(curve.y))
            data += [[panel.title or panel.unit, curve.name, curve.x[i], curve.y[i]] for i in kept]
    grid[-1].set_xlabel(along)
    return finish(figure, name, title, note, data)


def _line(axes: Axes, curve: Curve, scale: float, band: bool) -> float:
    """Draw accuracies with Wilson intervals, other values as a running mean over the raw ones.

    Returns the height of its end.
    """
    colour = curve.mark.colour
    if curve.n:
        bounds = 100 * np.array([wilson(round(y * curve.n), curve.n) for y in curve.y])
        if band:
            axes.fill_between(curve.x, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.1, linewidth=0)
        else:
            axes.vlines(curve.x[-1], *bounds[-1], color=colour, linewidth=1.4, alpha=0.45)
        values = 100 * np.asarray(curve.y)
        axes.plot(curve.x, values, color=colour, marker=curve.mark.marker, markersize=5, linewidth=1.8)
        return float(values[-1])
    smooth = scale * running_mean(curve.y, smoothing(len(curve.y)))
    kept = thinned(len(smooth))
    x, raw = np.asarray(curve.x, dtype=float)[kept], scale * np.asarray(curve.y, dtype=float)[kept]
    axes.plot(x, raw, color=colour, linewidth=0.7, alpha=0.28)
    axes.plot(x, smooth[kept], color=colour, linewidth=1.8)
    return float(smooth[-1])


def thinned(length: int) -> NDArray[np.int64]:
    """At most `POINTS` indices spread over a sequence, its first and last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, POINTS)).round().astype(np.int64))


def smoothing(points: int) -> int:
    """Logged steps in one running mean: a twentieth of the run, at least one."""
    return max(1, points // 20)


def running_mean(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values at each point, of fewer at the start; [n] -> [n]."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    ends = np.arange(1, len(total))
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def finish(figure: Figure, name: str, title: str, note: str, data: Values = ()) -> Picture:
    """Render both forms, laid out once: `savefig` would draw each once more for that."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    svg, png, title = io.StringIO(), io.BytesIO(), label(title, 240)
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        figure.set_layout_engine("none")
    figure.dpi = STYLE["savefig.dpi"]
    unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(svg, metadata=unsaid)  # type: ignore[no-untyped-call]
    figure.dpi = STYLE["savefig.dpi"]
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return Picture(name, title, note, _themed(svg.getvalue()), png.getvalue(), data)


def _themed(svg: str) -> str:
    """Matplotlib's SVG in the reader's font, light or dark, with no more digits than can be seen."""
    body = re.sub(
        r"(\d\.\d\d)\d+", r"\1", svg[svg.index("<svg") :].replace("font-family: 'DejaVu Sans'; ", "")
    )
    rules = (
        f'[style*="{part}: {light}"]{{{part}:{dark} !important}}'
        for light, dark in DARK.items()
        for part in ("fill", "stroke")
        if f"{part}: {light}" in body
    )
    dark = f"@media (prefers-color-scheme:dark){{{''.join(rules)}}}"
    return body.replace(" <defs>", f" <style>text{{font-family:{FONTS}}}{dark}</style>\n <defs>", 1)


def standalone(picture: Picture) -> str:
    """The SVG as a file, with its title and as wide as its drawing."""
    width = f'<svg width="{WIDTH * 1.5:g}" '
    return '<?xml version="1.0" encoding="utf-8"?>\n' + re.sub(
        r'<svg (.*?)width="[\d.]+pt" height="[\d.]+pt"', rf"{width}\1", picture.svg, count=1, flags=re.DOTALL
    )


def address(picture: Picture) -> str:
    """The SVG for a page that prints the title itself, as a data address: an image can run nothing."""
    band = _band(picture.title)

    def without_title(box: re.Match[str]) -> str:
        return f'viewBox="0 {band} {box[1]} {float(box[2]) - band:g}"'

    svg = re.sub(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', without_title, picture.svg, count=1)
    svg = re.sub(r'height="[\d.]+pt"', "", svg, count=1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8", "ignore")).decode()
