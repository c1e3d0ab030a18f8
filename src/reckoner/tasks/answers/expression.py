r"""Mathematical expressions: fractions, roots, intervals, sets, matrices and text in LaTeX, by `math-verify`.

Two expressions are equal where math-verify (Hugging Face) says so. It computes with SymPy, which can take
minutes or gigabytes, so it runs in a process of its own with a limit on both: what takes more is not equal.
Time is that of the processor, so that a busy machine decides nothing. The process is started when it is
needed, and again after each that was ended.
"""

from __future__ import annotations

import atexit
import json
import re
import select
import signal
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache

from reckoner.errors import SILENCE, lost, require, silent
from reckoner.tasks.answers.marking import as_marked
from reckoner.tasks.answers.reading import Reading, last_line, read_slots

SECONDS, MEMORY, LONGEST = 10.0, 2 * 2**30, 1_000
"""Limits of one comparison: seconds of the processor, bytes, and characters of an answer."""

COMMAND = [sys.executable, "-m", "reckoner.tasks.answers.expression"]

RULES = 4
"""Version of what is done here to the texts before math-verify reads them; any change of a verdict counts."""

_MATHS = re.compile(r"\$([^$\n]++)\$")
_CONSTANT = r"(?>[-+0-9./{}()^\s]|\\(?:[dt]?frac|sqrt|pi|infty)(?![A-Za-z]))++"
_ORDER = r"(?:[<>]=?+|[≤≥]|\\[lg](?:t|e|eq|eqslant)(?![A-Za-z]))"
_RANGE = re.compile(
    rf"(?:\\\()?(?:({_CONSTANT})({_ORDER}))?\s*([A-Za-z])\s*(?:({_ORDER})({_CONSTANT}))?(?:\\\))?"
)
_OR = re.compile(r"\s*(?:\bor\b|\\text\s?\{\s*or\s*\}|\\(?:lor|vee|cup)(?![A-Za-z]))\s*")
_THIN_SPACE = re.compile(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))")


def version() -> str:
    """The version of math-verify. Raises `InputError` where it is not installed."""
    from importlib import metadata

    require("math_verify", "the grader of expressions")
    return metadata.version("math-verify")


def read(text: str | None) -> Reading:
    r"""The text behind the marker; without one the last `\boxed{...}`, the last formula, or the last line."""

    def guess(whole: str) -> str | None:
        boxed = as_marked(whole, "boxed")
        if "####" in boxed:
            return _bare(boxed.rpartition("#### ")[2].partition("\n")[0])
        formulas = _MATHS.findall(whole)
        return _bare(formulas[-1] if formulas else last_line(whole))

    return read_slots(text, _bare, guess)


def _bare(slot: str) -> str | None:
    return slot[:LONGEST].strip().strip("$").rstrip(".").strip() or None


@lru_cache(maxsize=65_536)
def equal(said: str, gold: str) -> bool:
    r"""Are two expressions equal? False where that cannot be told within the limits.

    A thin space groups thousands (`1\,000`), as in numbers; math-verify does not know it. `1<x\le 2` is the
    interval `(1,2]`, but `x^2<4` is not `(-2,2)`: to say the problem again solves nothing. `x<1 or x>3` is
    the union of two intervals.
    Raises `Stopped` or `RuntimeError` where the process that compares died of something else, twice.
    """
    said, gold = (_union(_THIN_SPACE.sub("", text)) for text in (said, gold))
    return said == gold or _WORKER.ask(said, gold)


def _union(text: str) -> str:
    """Ranges of one variable joined by "or", as a union of intervals; any other text as it is."""
    parts = _OR.split(text)
    ranges = [found for part in parts if (found := _RANGE.fullmatch(part))]
    if not 2 <= len(parts) == len(ranges) or len({found[3] for found in ranges}) > 1:
        return text
    intervals = [_interval(*found.groups()) for found in ranges]
    return r" \cup ".join(intervals) if all(intervals) else text


def _interval(before: str | None, first: str | None, _: str, second: str | None, behind: str | None) -> str:
    """`1 < x <= 2` as `(1,2]`; empty where no side is bounded, or one twice."""
    sides: dict[bool, tuple[str, bool]] = {}
    for bound, order, stands_before in ((before, first, True), (behind, second, False)):
        if bound and order:
            less, closed = order.lstrip("\\")[0] in "<≤l", order not in ("<", ">", r"\lt", r"\gt")
            if (is_low := less == stands_before) in sides:
                return ""
            sides[is_low] = bound.strip(), closed
    low, high = sides.get(True, (r"-\infty", False)), sides.get(False, (r"\infty", False))
    return f"{'(['[low[1]]}{low[0]},{high[0]}{')]'[high[1]]}" if sides else ""


class _Worker:
    """The process that compares; it reads a JSON list a line and answers with a word a line."""

    process: subprocess.Popen[bytes] | None = None

    def ask(self, said: str, gold: str) -> bool:
        version()
        line = json.dumps([said, gold, bool(_RANGE.fullmatch(said)), SECONDS]).encode() + b"\n"
        try:
            return self._ask(line, said, gold)
        except RuntimeError:  # a process that was killed says nothing about the texts
            return self._ask(line, said, gold)

    def _ask(self, line: bytes, said: str, gold: str) -> bool:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(COMMAND, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            atexit.register(self.process.kill)
        process = self.process
        assert process.stdin and process.stdout
        with suppress(BrokenPipeError):
            process.stdin.write(line)
        ready, _, _ = select.select([process.stdout], [], [], SILENCE)
        if answer := process.stdout.readline() if ready else b"":
            return answer == b"equal\n"
        if not ready:
            process.kill()
        if (code := process.wait()) == -signal.SIGPROF:
            return False
        whose = f"the grader, asked whether {said[:200]!r} equals {gold[:200]!r},"
        raise lost(whose, code, "fewer processes at a time") if ready else silent(whose, process.pid, SILENCE)


_WORKER = _Worker()


def _serve() -> None:
    import logging
    import resource

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        said, gold, ranges, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends this process, whatever it computes
        try:
            right, left = (
                parse(f"${text}$", parsing_timeout=None, fallback_mode="first_match") for text in (gold, said)
            )
            same = bool(right and left) and verify(
                right, left, allow_set_relation_comp=ranges, timeout_seconds=None
            )
        except MemoryError:
            same = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print("equal" if same else "different", flush=True)


if __name__ == "__main__":
    _serve()
