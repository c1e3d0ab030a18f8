"""The one place for terminal output: tables, progress, and model text made inert.

Results go to stdout, progress and errors to stderr, so that `reckon VERB --json > FILE` holds only JSON. On a terminal
rich draws; piped, everything is plain lines without control codes.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

OnProgress = Callable[[str, int, int, str], None]
"""`on_progress(phase, done, total, note)`: what lower layers call; they never see this module."""

_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # C0 and C1 without tab and line feed: ESC, CSI, OSC, BEL, carriage return
    "|[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"  # bidi, invisible, line separators
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


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "", file: TextIO | None = None) -> None:
    """Print rows under headers; cells are text or numbers, None is empty, and long cells fold in a narrow terminal.

    A column whose cells all begin like a number stands to the right. Cells are escaped, never read as markup.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = file or sys.stdout
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    cells = [["" if cell is None else escape(str(cell), newlines=False) for cell in row] for row in rows]
    for header, column in zip(headers, zip(*cells, strict=True) if cells else [()] * len(headers), strict=True):
        numeric = any(column) and all(re.match(r"[-+<]?[\d.]", cell) for cell in column if cell)
        drawn.add_column(Text(header), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*map(Text, row))
    console = Console(file=out, highlight=False, width=None if out.isatty() else 10_000)
    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    with console.capture() as capture:
        console.print(drawn)
    out.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


@dataclass
class _Line:
    """One line of progress: where it is in its phase, and since when."""

    name: str
    total: int
    phase: str
    began: float
    done: int = 0
    note: str = ""
    over: bool = False
    shown: float = field(default=float("-inf"))

    def text(self, now: float) -> str:
        seconds = now - self.began
        head = f"{self.name}  {self.phase}".strip()
        if self.over:
            return f"{head}  done in {clock(seconds)}  {self.note}".rstrip()
        rate = self.done / seconds if seconds > 0 else 0.0
        left = f"  {rate:.3g}/s  ETA {clock((self.total - self.done) / rate)}" if rate and self.total else ""
        share = f"{self.done}/{self.total}" if self.total else str(self.done)
        return f"{head}  {share}{left}  {self.note}".rstrip()


class Progress:
    """Progress of named things (the arms of a study, or one loop); one line each, also when several run in turn.

    `refresh` is called after every change with the line that changed.
    """

    def __init__(self, refresh: Callable[[_Line], None], now: Callable[[], float] = time.monotonic) -> None:
        self.lines: dict[str, _Line] = {}
        self._refresh, self._now = refresh, now

    def start(self, name: str, total: int, phase: str = "") -> None:
        """Begin a phase of `name` with `total` units (0: unknown); its clock starts now."""
        self.lines[name] = _Line(name, total, phase, self._now())
        self._refresh(self.lines[name])

    def advance(self, name: str, n: int = 1, note: str = "") -> None:
        """Count `n` more units; a note replaces the one before."""
        line = self.lines[name]
        line.done, line.note = line.done + n, escape(note, newlines=False) or line.note
        self._refresh(line)

    def finish(self, name: str, note: str = "") -> None:
        """Close the line of `name`, which stays with its note."""
        line = self.lines[name]
        line.over, line.note = True, escape(note, newlines=False) or line.note
        self._refresh(line)

    def callback(self, name: str) -> OnProgress:
        """`on_progress(phase, done, total, note)` for a lower layer; a new phase starts the line of `name` again."""

        def on_progress(phase: str, done: int, total: int, note: str = "") -> None:
            line = self.lines.get(name)
            if line is None or line.phase != phase or line.over:
                self.start(name, total, phase)
            self.lines[name].total = total
            self.advance(name, done - self.lines[name].done, note)

        return on_progress


@contextmanager
def progress(file: TextIO | None = None) -> Iterator[Progress]:
    """Progress on stderr: live bars on a terminal; else a plain line at each start and end, and every 10 seconds between."""
    out = file or sys.stderr
    if not out.isatty():
        yield Progress(lambda line: _print_line(line, out))
        return
    from rich.console import Console
    from rich.live import Live

    bars = Progress(lambda line: None)
    console = Console(file=out, highlight=False)
    with Live(get_renderable=lambda: _bars(bars, console.width), console=console, refresh_per_second=4):
        yield bars


def _print_line(line: _Line, out: TextIO, every: float = 10.0) -> None:
    now = time.monotonic()
    if line.over or now - line.shown >= every:
        line.shown = now
        print(line.text(now), file=out, flush=True)


def _bars(bars: Progress, width: int) -> Any:
    """The lines as rich text, each cut to the window, with a bar where there is room."""
    from rich.text import Text

    drawn = Text(no_wrap=True, overflow="ellipsis")
    for line in list(bars.lines.values()):
        share = line.done / line.total if line.total else 0.0
        full = round(10 * min(share, 1.0))
        drawn.append("✓ " if line.over else "━" * full, style="green")
        drawn.append("" if line.over else "━" * (10 - full) + " ", style="dim")
        drawn.append(line.text(time.monotonic()) + "\n")
    return drawn


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
