"""Foreign text made harmless: nothing of it is markup in HTML or Markdown, or a formula in CSV."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"(?:^|(?<=[;\t,]))(?=[\s\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r])")
"""Where a formula may begin: at the start, or behind a sign that separates cells in some country."""


def typeset(text: str) -> str:
    """Numbers with a true minus sign, a dash inside an interval, and no line break before their unit."""
    dashed = re.sub(r"(?:(?<![\w.])|(?<=\de))-(?=\d)", "\u2212", re.sub(r"(?<=\d)-(?=\d)", "\u2013", text))
    return re.sub(r"(?<=\d) (?=%)|(?<=\bn) (?== \d)|(?<=\bn =) (?=\d)", "\u00a0", dashed)


def visible(text: str) -> str:
    """Text in which control characters and half surrogates can be seen and do nothing."""
    unsafe = r"[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
    return re.sub(unsafe, lambda match: f"\\x{ord(match[0]):02x}", text)


def inert(text: object) -> str:
    """Text for one line of Markdown: nothing is markup, begins a list or rule, links or calls a user."""
    flat = " ".join(visible(str(text)).split())
    escaped = re.sub(r"([\\`*_{}\[\]<>()#|~&!$])", r"\\\1", flat)
    escaped = escaped.replace("://", ":\\//").replace("@", "@\u2060")
    return re.sub(r"^(\d{0,9})(?=[.+=-](?:[\s=-]|$))", r"\1\\", escaped)


def fenced(text: object) -> str:
    """A fenced block of Markdown that the text cannot end."""
    shown = visible(str(text))
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"


def guard(text: str) -> str:
    """Text for CSV that no spreadsheet takes for a formula, on one line."""
    return _FORMULA.sub("'", text).replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\0")
