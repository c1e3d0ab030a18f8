r"""Mathematical expressions: fractions, roots, intervals, sets, matrices and text in LaTeX, by `math-verify`.

Two expressions are equal where math-verify (Hugging Face) says so. It computes with SymPy, which can take
minutes or gigabytes, so it runs in a process of its own with a limit on both: what takes longer is not
equal. The process is started when it is needed, and again after each that was ended.
"""

from __future__ import annotations

import atexit
import json
import re
import select
import subprocess
import sys
from functools import lru_cache
from importlib import metadata

from reckoner.errors import require
from reckoner.tasks.answers.marking import as_marked
from reckoner.tasks.answers.reading import Reading, last_line, read_slots

SECONDS, MEMORY, LONGEST = 10.0, 2 * 2**30, 1_000
"""Limits of one comparison: seconds, bytes, and characters of an answer."""

_MATHS = re.compile(r"\$([^$\n]++)\$")


def version() -> str:
    """The version of math-verify. Raises `InputError` where it is not installed."""
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
    """Are two expressions equal? False where that cannot be told within the limits."""
    return said == gold or _WORKER.ask(said, gold)


class _Worker:
    """The process that compares; it reads a JSON list a line and answers with a word a line."""

    process: subprocess.Popen[bytes] | None = None

    def ask(self, said: str, gold: str) -> bool:
        version()
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, "-m", "reckoner.tasks.answers.expression"]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            atexit.register(self.process.kill)
            self._answer(60.0)  # imports take seconds
        assert self.process.stdin
        self.process.stdin.write(json.dumps([said, gold]).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer(SECONDS) == b"equal\n"

    def _answer(self, seconds: float) -> bytes:
        assert self.process and self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.process.kill()
            self.process.wait()
        return line


_WORKER = _Worker()


def _serve() -> None:
    import logging
    import resource

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print("ready", flush=True)
    for line in sys.stdin:
        gold, said = (
            parse(f"${text}$", parsing_timeout=None, fallback_mode="first_match")
            for text in reversed(json.loads(line))
        )
        same = bool(gold and said) and verify(gold, said, timeout_seconds=None)
        print("equal" if same else "different", flush=True)


if __name__ == "__main__":
    _serve()
