"""How every picture looks and how it becomes bytes: SVG for light and dark pages, PNG, and inline SVG.

No pyplot and no global state: settings are matplotlib's defaults plus `STYLE`, in force only inside
`drawing`. The same input gives the same bytes on any machine with the same matplotlib. Colours are Okabe
and Ito's (2008) and two of Tol's (2021), ordered by contrast. An arm keeps its colour and marker in every
figure. Text stays text, so a page sets it in its own font.
"""

from __future__ import annotations

import io
import re
import textwrap
import unicodedata
import warnings
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reckoner.analysis.statistics import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1c2128", "#68717d", "#d8dce2", "#ffffff"
SHADES = ("#39424e", "#98a1ad", "#c9ced6", "#e4e7eb")
DARK = {
    INK: "#e8eaed",
    MUTED: "#a0a8b3",
    RULE: "#333a44",
    PAPER: "#15181d",
    "#0072b2": "#3f9fda",
    "#882255": "#d8739f",
    "#332288": "#8f86e8",
    "#7a828e": "#98a1ac",
}
DARK |= dict(zip(SHADES, ("#e1e4e8", "#838d9a", "#545d69", "#323942"), strict=True))
"""What each colour becomes where the reader's page is dark; those not named serve both."""

HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#882255", "#332288", "#e69f00", "#56b4e9")
PROMPT_HUE = "#7a828e"
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
    "svg.fonttype": "none",
    "svg.hashsalt": "reckoner",
    "figure.dpi": 72,
    "savefig.dpi": 216,
}
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "columnspacing": 1.2, "borderpad": 0}
MARGIN: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
DOTTED: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (2, 3))}
LINE_HEIGHT = 17
TITLE_COLUMNS = 58


@dataclass(frozen=True, slots=True)
class Mark:
    """How one arm is drawn everywhere."""

    colour: str
    marker: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished figure: a file name, the finding as its title, one line on how to read it, and its bytes."""

    name: str
    title: str
    note: str
    svg: str
    png: bytes


def marks(trained: Sequence[bool]) -> list[Mark]:
    """One mark an arm, in the order of the study: a hue for what was trained, grey for prompts."""
    result, seen, shapes = [], {True: 0, False: 0}, list(MARKS)
    for kind in trained:
        turn, seen[kind] = seen[kind], seen[kind] + 1
        colour = HUES[turn % len(HUES)] if kind else PROMPT_HUE
        result.append(Mark(colour, shapes[turn % len(shapes)]))
    return result


def label(text: str, length: int = 24) -> str:
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

    band = _band(title)
    total = band + sum(heights)
    figure = Figure(figsize=(WIDTH / 72, total / 72), facecolor=PAPER)
    FigureCanvasAgg(figure)
    engine = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - band / total), w_pad=4 / 72, h_pad=4 / 72)
    figure.set_layout_engine(engine)
    figure.text(
        6 / WIDTH,
        1 - 5 / total,
        "\n".join(_lines(title)),
        va="top",
        weight="bold",
        size=11.5,
        linespacing=1.25,
        gid="title",
    )
    grid = figure.subplots(
        len(heights), 1, squeeze=False, sharex=sharex, gridspec_kw={"height_ratios": heights}
    )
    return figure, list(grid[:, 0])


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
    """Write each name with its mark in the right margin at the height of its end; none overlap."""
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height
    gap = (high - low) * 13 / max(height - 30, 60)
    ends = sorted(ends, key=lambda end: end[0])
    beside: dict[str, Any] = {
        "xycoords": axes.get_yaxis_transform(),
        "textcoords": "offset points",
        "annotation_clip": False,
    }
    for (_, name, mark), at in zip(ends, separate([end[0] for end in ends], gap), strict=True):
        axes.plot(
            1.03,
            at,
            mark.marker,
            color=mark.colour,
            markersize=5,
            transform=axes.get_yaxis_transform(),
            clip_on=False,
            scalex=False,
            scaley=False,
        )
        axes.annotate(label(name), (1.03, at), (7, 0), va="center", size=9.5, color=INK, **beside)


@dataclass(frozen=True, slots=True)
class Curve:
    """Values of one arm along x; `n` is the number of problems where they are accuracies, 0 elsewhere."""

    name: str
    mark: Mark
    x: Sequence[float]
    y: Sequence[float]
    n: int = 0


def smooth_line(axes: Axes, curve: Curve, scale: float = 1.0) -> float:
    """Draw a running mean over the raw values, faint behind; returns the height of its end."""
    smooth = scale * running_mean(curve.y, smoothing(len(curve.y)))
    axes.plot(curve.x, scale * np.asarray(curve.y), color=curve.mark.colour, linewidth=0.7, alpha=0.28)
    axes.plot(curve.x, smooth, color=curve.mark.colour, linewidth=1.8)
    return float(smooth[-1])


def dev_line(axes: Axes, curve: Curve) -> float:
    """Draw accuracies in per cent in a band of 95 % Wilson intervals; returns the height of its end."""
    bounds = 100 * np.array([wilson(round(y * curve.n), curve.n) for y in curve.y])
    values = 100 * np.asarray(curve.y)
    axes.fill_between(curve.x, bounds[:, 0], bounds[:, 1], color=curve.mark.colour, alpha=0.1, linewidth=0)
    axes.plot(curve.x, values, color=curve.mark.colour, marker=curve.mark.marker, markersize=5, linewidth=1.8)
    return float(values[-1])


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves in one panel of a figure; `line` draws one and returns the height of its end."""

    curves: Sequence[Curve]
    line: Callable[[Axes, Curve], float] = smooth_line
    title: str = ""
    unit: str = ""
    top: float | None = None
    from_zero: bool = True


def curves_picture(
    name: str, title: str, shown: Sequence[Panel], height: float, unit: str, note: str
) -> Picture:
    """Panels of curves over the same steps (`unit`), each curve with its name at its end."""
    figure, grid = panels(title, [height] * len(shown))
    for axes, panel in zip(grid, shown, strict=True):
        ends = [(panel.line(axes, curve), curve.name, curve.mark) for curve in panel.curves]
        axes.set_title(panel.title, color=INK)
        axes.set_ylabel(panel.unit)
        if panel.from_zero:
            axes.set_ylim(0, panel.top)
        end_labels(axes, ends)
    grid[-1].locator_params(axis="x", integer=True)
    grid[-1].set_xlabel(unit)
    return finish(figure, name, title, note)


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


def interval(axes: Axes, row: float, share: float, bounds: tuple[float, float], mark: Mark) -> None:
    """A share with its interval, in per cent, in one row; whole where it stands on the edge of the axes."""
    low, high = (100 * bound for bound in bounds)
    axes.plot([low, high], [row, row], color=mark.colour, linewidth=2.4, alpha=0.45)
    axes.plot(100 * share, row, mark.marker, color=mark.colour, markersize=7, clip_on=False)


def dot_rows(
    title: str,
    names: Sequence[str],
    arms: Sequence[tuple[str, Mark]],
    dots: Sequence[Sequence[tuple[float, tuple[float, float]]]],
) -> tuple[Figure, Axes]:
    """Named rows with one dot an arm, a share with its interval, and a legend."""
    figure, (axes,) = panels(title, [(11 * len(arms) + 14) * len(names) + 70])
    rows(axes, names)
    for row, several in enumerate(dots):
        for turn, ((share, bounds), (_, mark)) in enumerate(zip(several, arms, strict=True)):
            height = row + (turn - (len(several) - 1) / 2) * 0.68 / len(several)
            interval(axes, height, share, bounds, mark)
    for name, mark in arms:
        axes.plot([], [], mark.marker, color=mark.colour, markersize=7, label=label(name))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.2, **LEGEND)
    return figure, axes


def finish(figure: Figure, name: str, title: str, note: str) -> Picture:
    """Render both forms, laid out once."""
    svg, png, title = io.StringIO(), io.BytesIO(), label(title, 240)
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.set_layout_engine("none")
    figure.dpi = STYLE["savefig.dpi"]
    # savefig would draw once more, to lay out again
    figure.canvas.print_png(png, metadata={"Software": None})  # type: ignore[attr-defined]
    return Picture(name, title, note, _clean(svg.getvalue(), title), png.getvalue())


SVG, XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}"
_INHERITED = {"font-style", "font-variant", "font-stretch", "font-family"}


def _clean(text: str, title: str) -> str:
    """Matplotlib's SVG with a title, and attributes in place of inline styles, which the policy forbids."""
    xml.register_namespace("", SVG)
    xml.register_namespace("xlink", XLINK.strip("{}"))
    root = xml.fromstring(text)
    for parent in root.iter():
        for child in [c for c in parent if c.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
        for name, value in _declarations(parent.attrib.pop("style", "")):
            parent.set(name, value)
    root.set("stroke-linejoin", "round")
    root.set(
        "font-family",
        "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    )
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    head = xml.Element(f"{{{SVG}}}title")
    head.text = title
    root.insert(0, head)
    return xml.tostring(root, encoding="unicode")


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    """The declarations of one style attribute; a `font` shorthand becomes weight and size."""
    for declaration in style.split(";"):
        name, colon, value = (piece.strip() for piece in declaration.partition(":"))
        if name == "font":
            size = re.search(r"([0-9.]+)px", value)
            yield "font-size", size[1] if size else "10"
            if weight := re.search(r"\b(bold|[1-9]00)\b", value):
                yield "font-weight", weight[1]
        elif colon and name not in _INHERITED:
            yield name, value


def dark_rules() -> str:
    """CSS that turns the colours of our figures into their dark forms; it goes into a media query."""
    return "".join(
        f'[fill="{light}"]{{fill:{dark}}}[stroke="{light}"]{{stroke:{dark}}}' for light, dark in DARK.items()
    )


def standalone(picture: Picture) -> str:
    """The SVG as a file: wide as its drawing, and following the reader's light or dark."""
    style = f"<style>@media (prefers-color-scheme:dark){{{dark_rules()}}}</style>"
    head, body = picture.svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head} width="{WIDTH * 1.5:g}">{style}{body}\n'


def inline(picture: Picture) -> str:
    """The SVG for a page that prints the title itself: no title or background, ids unique by its name."""
    root = xml.fromstring(picture.svg)
    for parent in root.iter():
        for child in [c for c in parent if c.get("id") in ("title", "patch_1") or c.tag == f"{{{SVG}}}title"]:
            parent.remove(child)
    used = set(re.findall(r"#([\w-]+)", picture.svg))
    for node in root.iter():
        for key, value in list(node.attrib.items()):
            if key == "id" and value not in used:
                del node.attrib[key]
            elif key in ("id", f"{XLINK}href") or value.startswith("url(#"):
                node.set(key, re.sub(r"^(url\()?(#?)", rf"\1\2{picture.name}-", value))
    left, top, width, height = (float(value) for value in root.get("viewBox", "").split())
    band = _band(picture.title)
    root.set("viewBox", f"{left:g} {top + band:g} {width:g} {height - band:g}")
    root.set("role", "img")
    root.set("aria-label", picture.title)
    return xml.tostring(root, encoding="unicode")
