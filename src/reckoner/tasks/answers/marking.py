r"""How a prompt asks for the answer to be marked: `#### X`, `\boxed{X}`, "The answer is X.", or not at all.

All kinds of answers read `####`. A completion under another format is first written in that form, so that
one reader serves every format, and a reference solution is written in the format of its prompt.
"""

from __future__ import annotations

import re

from reckoner.errors import InputError

MARKER = "####"
FORMATS = (MARKER, "boxed", "answer-is", "last")
_TOKEN = re.compile(r"\\(?:boxed|fbox) ?\{|\\?[{}]")
_PHRASE = re.compile(r"(?i:\b(?:the[ \t]++)?+(?:final[ \t]++)?+answer(?:[ \t]++is\b|[ \t]*+:)[ \t:]*+)")


def check_format(name: str) -> None:
    """Raise `InputError` for a format that is not known."""
    if name not in FORMATS:
        raise InputError(f"{name[:40]!r} is no way to mark an answer; {', '.join(FORMATS)} are")


def as_marked(text: str, answer_format: str) -> str:
    """`text` with its answers behind `####` where the prompt asked for another format; linear in its length.

    A `####` in such a text marks nothing. Under the format `last` nothing is marked.
    """
    if answer_format == MARKER:
        return text
    text = text.replace(MARKER, "")
    if answer_format == "boxed":
        parts, at = [], 0
        for start, inner, end in _boxes(text):
            parts += [text[at:start], f"\n{MARKER} {text[inner:end]}\n"]
            at = end + 1
        return "".join([*parts, text[at:]])
    return _PHRASE.sub(f"\n{MARKER} ", text) if answer_format == "answer-is" else text


def _boxes(text: str) -> list[tuple[int, int, int]]:
    r"""Start, start of the content and end of the content of each outermost closed `\boxed{...}`."""
    waiting: list[tuple[int, int, bool]] = []
    boxes: list[tuple[int, int, int]] = []
    for token in _TOKEN.finditer(text):
        if token[0] == "}" and waiting:
            start, inner, boxed = waiting.pop()
            if boxed:
                while boxes and boxes[-1][0] > start:
                    boxes.pop()
                boxes.append((start, inner, token.start()))
        elif token[0].endswith("{") and token[0] != r"\{":
            waiting.append((token.start(), token.end(), token[0].startswith(("\\boxed", "\\fbox"))))
    return boxes


def mark(solution: str, answer_format: str) -> str:
    r"""A reference solution that ends in `#### X`, with its answer in the format of its prompt.

    A solution that holds a box already keeps it.
    """
    if answer_format == MARKER or MARKER not in solution:
        return solution
    body, _, gold = solution.rpartition(MARKER)
    body, gold = body.rstrip(), gold.strip()
    if answer_format == "boxed" and _boxes(body):
        return body
    ending = {"boxed": f"\\boxed{{{gold}}}", "answer-is": f"The answer is {gold}."}.get(answer_format, gold)
    return f"{body}\n{ending}".lstrip()
