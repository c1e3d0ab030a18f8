"""How numbers and texts are written: the same in the terminal, the report and the documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from math import ceil, log10


def percent(share: float) -> str:
    """`39.0 %`"""
    return f"{100 * share:.1f} %"


def span(low: float, high: float) -> str:
    """An interval of shares in per cent: `36.4-41.7`; with signs and "to" where it reaches below zero."""
    if low < 0:
        return f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"{100 * low:.1f}-{100 * high:.1f}"


def points(difference: float) -> str:
    """A difference of two shares in percentage points: `+4.3`"""
    return f"{100 * difference:+.1f}"


def size(difference: float) -> str:
    """A difference in percentage points without a plus sign: `4.3`"""
    return points(difference).lstrip("+")


def percents(shares: Sequence[float]) -> str:
    """The range of shares in per cent, one where they are written alike: `35.0 % to 48.3 %`"""
    return " to ".join(dict.fromkeys((percent(min(shares)), percent(max(shares)))))


IN_TRAIN, NOT_IN_TRAIN = "in train", "not in train"
"""Problems by whether their template occurs in train."""
ANSWER_SIZES = ("below 10", "10 to 99", "100 to 999", "1,000 and more")


def answer_size(gold: Fraction) -> int:
    """The index in `ANSWER_SIZES` of an answer, whatever its sign."""
    return sum(abs(gold) >= bound for bound in (10, 100, 1000))


def called(verdict: str) -> str:
    """What the verdict on a pair is called."""
    return "not told apart" if verdict == "unresolved" else verdict


def p_value(p: float) -> str:
    """Two significant digits, never a bare zero: `0.56`, `0.032`, `0.0032`, `<0.001`."""
    return "<0.001" if p < 0.001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def about(n: int) -> str:
    """A planned number of items, rounded up to two digits: `9,100`."""
    step = 10 ** max(0, int(log10(n)) - 1)
    return f"{ceil(n / step) * step:,}"


def count(k: float) -> str:
    """Whole where it is whole: `515`, and `512.3` for an average over seeds."""
    return f"{k:,.1f}".removesuffix(".0")


def of_runs(runs: int) -> str:
    """Example: `, mean of 3 runs`; nothing for one."""
    return f", mean of {runs} runs" if runs > 1 else ""


def amount(count: float) -> str:
    """A number of tokens, to two digits: "1.8 M"."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f}"


EQUAL = 0.1
"""Budgets that differ by less than this share count as equal."""


def at_budget(ratio: float, before: str = "") -> str:
    """`at 2.1 times the operations` behind `before`; empty where they are equal, and for 0, unknown."""
    if not ratio or abs(ratio - 1) <= EQUAL:
        return ""
    return f"{before}at {ratio:.2g} times the operations"


def both(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def sentence(text: str) -> str:
    """The text with a capital first letter, for what begins with the name of an arm."""
    return text[:1].upper() + text[1:]


def visible(text: str) -> str:
    """Text in which controls, also those that reorder a line, and half surrogates are seen and do nothing."""
    unsafe = r"[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
    return re.sub(unsafe, lambda match: f"\\x{ord(match[0]):02x}", text)


def inert(text: object) -> str:
    """Text for one line of Markdown: nothing is markup, begins a list or rule, links or calls a user."""
    flat = " ".join(visible(str(text)).split())
    escaped = re.sub(r"([\\`*_{}\[\]<>()#|~&!$])", r"\\\1", flat)
    escaped = escaped.replace("://", ":\\//").replace("@", "@\u2060")
    return re.sub(r"^(\d{0,9})(?=[.+=-](?:[\s=-]|$))", r"\1\\", escaped)


_FORMULA = re.compile(r"(?:^|(?<=[;\t,]))(?=[\s\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r])")
"""Where a formula may begin: at the start, or behind a sign that separates cells in some country."""


def guard(text: str) -> str:
    """Text for CSV that no spreadsheet takes for a formula, on one line."""
    return _FORMULA.sub("'", text).replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\0")
