"""The one place for terminal output: tables, progress, and model text made inert.

Results go to stdout, progress and errors to stderr, so that `reckon VERB --json > FILE` holds only JSON. On a
terminal headers are bold and progress moves; piped, everything is plain lines without control codes.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

OnProgress = Callable[[str, int, int, str], None]
"""`on_progress(phase, done, total, note)`: what lower layers call; they never see this module."""

SOON = 3.0
"""Seconds after which a verb that is over at once for most inputs shows how far it is."""

STEP = ("generate", "score", "update", "dev")
"""Phases that come and go while a run trains."""

ARMS = "arms"
"""The phase of the line that counts the arms of a study."""

_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # C0 and C1 without tab and line feed: ESC, CSI, OSC, BEL, CR
    # bidirectional marks, invisible signs, line separators
    "|[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
    "|[\ud800-\udfff]"  # lone surrogates, which no terminal can take
)


def escape(text: str, newlines: bool = True) -> str:
    r"""Model text that cannot move the cursor, reorder a line or crash an encoder: `ESC` is shown as `\x1b`.

    `newlines=False` shows line feeds and tabs too, so that the text stays on one line.
    """
    safe = _UNSAFE.sub(lambda match: _visible(ord(match[0])), text)
    return safe if newlines else safe.replace("\n", "\\n").replace("\t", "\\t")


def _visible(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def print_json(value: Any) -> None:
    """One JSON document on stdout, ASCII only; NaN and infinity are refused."""
    print(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


class Printable(Protocol):
    """A table that prints itself, as those of the analysis do."""

    def print(self, file: TextIO | None = None) -> None: ...


def show(
    value: Any,
    as_json: bool,
    tables: Iterable[Printable | tuple[Sequence[str], Sequence[Sequence[Any]]]] = (),
    lines: Iterable[str] = (),
    file: TextIO | None = None,
) -> None:
    """The result of a verb: `value` as one JSON document, or else tables and lines, blank lines between."""
    if as_json:
        print_json(value)
        return
    blank = ""
    for one in tables:
        print(end=blank, file=file)
        table(*one, file=file) if isinstance(one, tuple) else one.print(file)
        blank = "\n"
    for line in lines:
        print(end=blank, file=file)
        prose(line, file)
        blank = ""


def prose(text: str, file: TextIO | None = None) -> None:
    """Print text, made inert; on a terminal its lines break between words."""
    import textwrap

    out = file or sys.stdout
    width = shutil.get_terminal_size().columns if out.isatty() else 0
    for line in escape(text).split("\n"):
        kept = _kept_together(line)
        fitted = textwrap.fill(kept, width, break_long_words=False, break_on_hyphens=False) if width else kept
        fitted = fitted.replace(TIED, " ")
        print(fitted, file=out)


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Any]],
    title: str = "",
    file: TextIO | None = None,
    first: Sequence[str] = (),
) -> None:
    """Print rows under headers; cells are text or numbers, None is empty, long cells wrap.

    A column whose cells all begin like a number stands to the right. Cells are escaped, never read as markup.
    Words stay whole, and so do short brackets and percentages; a name of more than `LONG` characters wraps
    behind its slashes and hyphens. A table of at most three rows that is too wide
    is turned; of another one, columns are left out, down to two, and named under it: those not in `first`
    before a cell wraps, the others after.
    """
    out = file or sys.stdout
    window = shutil.get_terminal_size().columns if out.isatty() else 10_000
    cells = [
        ["" if cell is None else _kept_together(escape(str(cell), newlines=False)) for cell in row]
        for row in rows
    ]
    columns = [[header, *column] for header, *column in zip(headers, *cells, strict=True)]
    shown, widths = _fit(columns, window, first)
    if len(shown) < len(columns) and 0 < len(rows) <= TURNED and len(columns) > 3:
        turned = [list(row) for row in zip(*columns, strict=True)]
        fitting = _fit(turned, window)
        columns, (shown, widths) = (
            (turned, fitting) if len(fitting[0]) == len(turned) else (columns, (shown, widths))
        )
    if title:
        prose(title, out)
    right = [any(column) and all(map(_NUMERIC, filter(None, column))) for _, *column in columns]
    bold = ("\x1b[1m", "\x1b[0m") if out.isatty() and os.environ.get("TERM") != "dumb" else ("", "")
    for number, row in enumerate(zip(*columns, strict=True)):
        before, after = ("", "") if number else bold
        wrapped = [_wrapped(row[index], width) for index, width in zip(shown, widths, strict=True)]
        for line in itertools.zip_longest(*wrapped, fillvalue=""):
            padded = []
            for index, width, text in zip(shown, widths, line, strict=True):
                pad = " " * (width - _cell_width(text))
                padded.append(pad + text if right[index] else text + pad)
            out.write(f"{before}{'  '.join(padded).rstrip().replace(TIED, ' ')}{after}\n")
    if left_out := [header for index, (header, *_) in enumerate(columns) if index not in shown]:
        prose(f"left out, for want of width: {', '.join(left_out)}. --json has everything", out)


TIED = "\ue000"
"""Stands for a space at which no line ends, until the text is written."""


def _kept_together(text: str) -> str:
    """The text with its percentages and its brackets of at most 16 characters in one piece."""
    tied = re.sub(r"(?<=\d) (?=%)", TIED, text)
    return re.sub(r"\([^()]{1,14}\)", lambda bracket: bracket[0].replace(" ", TIED), tied)


_NUMERIC = re.compile(r"[-+<]?[\d.]").match


def _cell_width(text: str) -> int:
    """The columns of a terminal that a text takes."""
    if text.replace(TIED, " ").isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


LONG = 24
"""Characters from which a name without spaces may end a line behind a slash or hyphen."""


def _pieces(text: str) -> list[tuple[str, str]]:
    """What stays whole in a cell, each with what stands before it on one line: words, and parts of long
    names as `study/full-main/seed-0`.
    """
    found = []
    for word in text.split():
        parts = re.findall(r"[^/-]*[/-]+|[^/-]+", word) if len(word) > LONG else [word]
        found += [(part, "" if index else " ") for index, part in enumerate(parts)]
    return found


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a cell, broken between words."""
    if _cell_width(text) <= width:
        return [text]
    lines = [""]
    for piece, space in _pieces(text):
        longer = f"{lines[-1]}{space}{piece}".lstrip()
        if lines[-1] and _cell_width(longer) > width:
            lines.append(piece)
        else:
            lines[-1] = longer
    return lines


TURNED = 3
"""Rows at most of a table that is turned where it is too wide."""


def _fit(
    columns: Sequence[Sequence[str]], width: int, first: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Which columns fit into `width` with whole words, and their widths; the widest shrink first."""
    names = [header for header, *_ in columns]
    chosen = [0, *(names.index(name, 1) for name in first if name in names[1:])]
    ranked = chosen + [index for index in range(len(columns)) if index not in chosen]
    least = [
        max((_cell_width(piece) for text in column for piece, _ in _pieces(text)), default=0)
        for column in columns
    ]
    whole = [max(map(_cell_width, column)) for column in columns]
    while len(ranked) > len(chosen) > 1 and sum(whole[index] + 2 for index in ranked) > width:
        ranked.pop()
    while len(ranked) > 2 and sum(least[index] + 2 for index in ranked) > width:
        ranked.pop()
    shown = sorted(ranked)
    widths, least = [whole[index] for index in shown], [least[index] for index in shown]
    while sum(widths) + 2 * len(shown) > width and widths != least:
        widest = max(range(len(shown)), key=lambda index: (widths[index] > least[index], widths[index]))
        widths[widest] -= 1
    return shown, widths


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A row of at most `width` bars for a series, each the mean of its stretch: `▁▂▄▅▇█`."""
    count = min(width, len(values))
    bounds = [len(values) * index // count for index in range(count + 1)] if count else []
    scale = max(map(abs, values), default=0.0) or 1.0  # no sum of a damaged run's values overflows
    means = [sum(value / scale for value in values[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (mean - low) / (high - low)) if high > low else 0] for mean in means)


def print_tokens(tokens: Sequence[tuple[str, int, bool]]) -> None:
    """Print `(text, id, supervised)` with ids; supervised tokens stand out by colour or in brackets."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    plain = console.color_system is None
    shown = Text(style="dim")
    for text, token, supervised in tokens:
        piece = escape(text, newlines=False).replace(" ", "·")
        shown.append("[" if plain and supervised else "")
        shown.append(piece, style="not dim bold green" if supervised else "not dim cyan")
        shown.append(f"/{token}{']' if plain and supervised else ''}")
        shown.append("\n" if text.endswith("\n") else " ")
    shown.rstrip()
    console.print(shown, soft_wrap=plain)


def print_shaded(parts: Sequence[tuple[str, float]], file: TextIO | None = None) -> None:
    """Print pieces of text, green above 0 and red below, the stronger the farther from 0."""
    from rich.console import Console
    from rich.text import Text

    largest = max((abs(value) for _, value in parts), default=0.0) or 1.0
    text = Text()
    for piece, value in parts:
        light = 235 - round(150 * min(1.0, abs(value) / largest))
        colour = f"rgb({light},235,{light})" if value > 0 else f"rgb(235,{light},{light})"
        text.append(escape(piece), style=f"black on {colour}" if value else "")
    Console(file=file or sys.stdout, highlight=False).print(text, soft_wrap=True)


@dataclass
class _Line:
    """One line of progress: how far its phase is, since when, and what a phase inside it is doing."""

    name: str
    since: float
    phase: str = ""
    began: float = 0.0
    base: int = 0
    done: int = 0
    total: int = 0
    note: str = ""
    inner: str = ""
    ended: float | None = None
    shown: float = float("-inf")

    def text(self, now: float) -> str:
        """`grpo  train  12/40  0.5/s  ETA 0:56  reward 0.41  dev 55.0 %  generate 96/512`, or `full main
        done in 1:10  57.1 %`.
        """
        if self.ended is not None:
            return f"{self.name}  done in {clock(self.ended - self.since)}  {self.note}".rstrip()
        seconds, moved = now - self.began, self.done - self.base
        if self.phase == ARMS:
            left = f"  ETA {clock(seconds / moved * (self.total - self.done))}" if moved else ""
            return f"{self.name}  {self.done} of {self.total} arms{left if self.done < self.total else ''}"
        speed = ""
        if moved > 0 and seconds > 0:
            rate = moved / seconds
            speed = f"  {rate:,.0f}/s" if rate >= 100 else f"  {rate:.3g}/s"
            speed += f"  ETA {clock((self.total - self.done) / rate)}" if self.total > self.done else ""
        share = f"{self.done:,}/{self.total:,}" if self.total else f"{self.done:,}" * bool(self.done)
        return "  ".join(filter(None, (self.name, self.phase, share + speed, self.note, self.inner)))


class Progress:
    """Progress of named things (the arms of a study, or one loop): a line each, and finished lines stay.

    `refresh` is called with a line after it changed.
    """

    def __init__(self, refresh: Callable[[_Line], None], now: Callable[[], float] = time.monotonic) -> None:
        self.lines: dict[str, _Line] = {}
        self._refresh, self._now = refresh, now

    def start(self, name: str, total: int, phase: str = "", done: int = 0, note: str = "") -> None:
        """Begin a phase of `name`: `total` units (0: unknown), `done` of them by an earlier process."""
        now = self._now()
        line = self.lines.setdefault(name, _Line(name, now))
        line.phase, line.began, line.base, line.done, line.total = phase, now, done, done, total
        line.note, line.inner, line.ended, line.shown = escape(note, newlines=False), "", None, float("-inf")
        self._refresh(line)

    def advance(self, name: str, n: int = 1, note: str = "") -> None:
        """Count `n` more units; a note replaces the one before."""
        line = self.lines[name]
        line.done, line.note, line.inner = line.done + n, escape(note, newlines=False) or line.note, ""
        self._refresh(line)

    def inside(self, name: str, phase: str, done: int, total: int, note: str = "") -> None:
        """Show what a phase inside the phase of `name` is doing; the line's own count and rate go on."""
        line = self.lines[name]
        line.inner = "" if done == total > 0 else f"{phase} {done:,}/{total:,}" if total else phase
        line.note = escape(note, newlines=False) or line.note
        self._refresh(line)

    def finish(self, name: str, note: str = "") -> None:
        """Close the line of `name`, which stays with its note and the time since its first start."""
        line = self.lines.setdefault(name, _Line(name, self._now()))
        line.ended, line.note = self._now(), escape(note, newlines=False) or line.note
        self._refresh(line)

    def of_arms(self, name: str, total: int) -> Callable[[str], OnProgress]:
        """A `callback` for each arm of a study, and one line that counts those that are done."""
        self.start(name, total, ARMS)

        def callback(arm: str) -> OnProgress:
            of_arm = self.callback(arm)

            def on_progress(phase: str, done: int, total: int, note: str = "") -> None:
                of_arm(phase, done, total, note)
                if phase == "done":
                    self.advance(name)

            return on_progress

        return callback

    def callback(self, name: str) -> OnProgress:
        """`on_progress(phase, done, total, note)` for a lower layer; a new phase restarts the rate.

        Those of `STEP` are shown inside "train", whose count and rate go on; what each noted last stays.
        "done" closes the line.
        """
        notes: dict[str, str] = {}

        def on_progress(phase: str, done: int, total: int, note: str = "") -> None:
            line = self.lines.get(name)
            if phase == "done":
                self.finish(name, note)
                return
            within = (
                line is not None
                and line.ended is None
                and line.phase == "train"
                and phase in STEP
                and line.done < line.total
            )
            begins = not within and (
                line is None or line.ended is not None or line.phase != phase or done < line.done
            )
            if begins:
                notes.clear()
            if note:
                notes[phase] = note
            said = "  ".join(notes.values())
            if within:
                self.inside(name, phase, done, total, said)
            elif begins:
                self.start(name, total, phase, done, said)
            else:
                self.lines[name].total = total
                self.advance(name, done - self.lines[name].done, said)

        return on_progress


@contextmanager
def progress(file: TextIO | None = None, after: float = 0.0) -> Iterator[Progress]:
    """Progress on stderr: live bars on a terminal; piped, a line at each start, end and 10 seconds.

    What is over within `after` seconds shows nothing.
    """
    out, began = file or sys.stderr, time.monotonic()

    def show(line: _Line) -> None:
        if time.monotonic() - began >= after:
            _print_line(line, out, time.monotonic())

    if not out.isatty():
        yield Progress(show)
        return
    from rich.console import Console
    from rich.live import Live

    bars = Progress(lambda line: None)
    with Live(
        get_renderable=lambda: _bars(bars) if time.monotonic() - began >= after else "",
        console=Console(file=out, highlight=False),
        refresh_per_second=4,
    ):
        yield bars


def _print_line(line: _Line, out: TextIO, now: float, every: float = 10.0) -> None:
    if line.ended is not None or line.done == line.total or now - line.shown >= every:
        line.shown = now
        print(line.text(now), file=out, flush=True)


def _bars(bars: Progress) -> Any:
    """The lines as rich text, cut to the window by rich: a bar while at work, a tick when done."""
    from rich.text import Text

    drawn = []
    for line in sorted(bars.lines.values(), key=lambda line: line.phase == ARMS):
        full = round(10 * min(line.done / line.total, 1.0)) if line.total else 0
        bar = (
            [("✓ ", "green")]
            if line.ended is not None
            else [("━" * full, "green"), ("━" * (10 - full) + " ", "dim")]
        )
        drawn.append(Text.assemble(*bar, line.text(time.monotonic())))
    return Text("\n", no_wrap=True, overflow="ellipsis").join(drawn)


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
