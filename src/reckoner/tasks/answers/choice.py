"""One of several options: `C`, `(C)`, `(c)`, `C. 12 cm`, "option C", or the text of the option itself.

The letter counts in capitals, or in small letters where it stands alone or in brackets. Prose behind it is
ignored where a bracket, a sign or a word as "because" shows that the letter was meant: "A car" names no
option. The text of another option behind it, or two letters, as in "(A) or (B)", are no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reckoner.errors import InputError
from reckoner.tasks.answers.reading import Reading, last_line, read_slots

VERSION = "choice-2"
"""Stored with every result; any change of a verdict needs a new version."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOOKALIKES = str.maketrans("（）［］【】．，：；", "()[][].,:;")
for _first, _last in (0xFF21, "Z"), (0xFF41, "z"), (0x24B6, "Z"), (0x24D0, "z"):  # full-width and circled
    _LOOKALIKES |= {_first + n: ord(_last) - 25 + n for n in range(26)}
_WRAPPING = " \t\r*_`$.,;:!\"'"
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|boxed)\{([^{}]*+)\}")
_DRESS = re.compile(r"\*\*|__|\\[()\[\]]")
_IN_BRACKETS, _BARE = r"[(\[]?([A-Za-z])[)\]]", r"([A-Z])(?![^\W_]|['’])"
_LETTER = re.compile(rf"(?:(?i:option|choice)[ \t]++)?+(?:{_IN_BRACKETS}|{_BARE})([).:\s]*+)")
_HEDGE = re.compile(rf"[\s,;/&|+]*+(?:(?i:and|or|to)\b)?+\s*+(?:{_IN_BRACKETS}|{_BARE})")
"""A second letter right behind the first."""
_PROSE = re.compile(r"[,;:)]|\.\s++(?![a-z])|\s*+(?:[(–—-]|(?:because|since|is|which|due to)\b)")
"""What may stand between a letter without brackets and prose."""
_INSIDE = re.compile(r"[(\[]([A-Z])[)\]]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n")
_OPTION_IS = re.compile(r"(?i:\b(?:option|choice)[ \t]++(?:is|would be|must be)\b[ \t:]*+)([^\n]++)")


def check(gold: str, choices: Sequence[str]) -> None:
    """Raises `InputError` where `gold` is not the letter of one of two or more `choices`."""
    if len(choices) < 2:
        raise InputError(
            f"gold {gold[:80]!r} chooses among {len(choices)} options. Give them as a list of texts in "
            "`choices`, or name their field with task.choices_field"
        )
    if gold not in LETTERS[: len(choices)] or len(gold) != 1:
        raise InputError(f"gold {gold[:80]!r} is not the letter of one of {len(choices)} options")


def read(text: str | None, choices: Sequence[str]) -> Reading:
    """The letter that a completion names; in a text without a marked answer the letter in brackets of the
    last sentence with one, or that of its last line."""
    letters = LETTERS[: len(choices)]
    texts = [_plain(choice) for choice in choices]

    def parse(slot: str) -> str | None:
        bare = _DRESS.sub("", _TEXT.sub(r"\1", slot)).translate(_LOOKALIKES).strip(_WRAPPING)
        if len(bare) == 1 and bare.upper() in letters:
            return bare.upper()
        match = _LETTER.match(bare)
        letter = str(match[1] or match[2]).upper() if match else ""
        if match and letter in letters:
            rest = _plain(bare[match.end() :])
            if not rest or rest == texts[letters.index(letter)]:
                return letter
        same = [at for at, own in enumerate(texts) if own and own == _plain(bare)]
        if same:
            return letters[same[0]] if len(same) == 1 else None
        return letter if match and letter in letters and _is_meant(bare, match, texts) else None

    def guess(whole: str) -> str | None:
        whole = whole.translate(_LOOKALIKES)
        options = _OPTION_IS.findall(whole)
        if options and (letter := parse(options[-1].strip())):
            return letter
        for sentence in reversed(_SENTENCE.split(whole)):
            if inside := {letter for letter in _INSIDE.findall(sentence) if letter in letters}:
                return inside.pop() if len(inside) == 1 else None
        return parse(last_line(whole))

    return read_slots(text, parse, guess)


def _is_meant(bare: str, match: re.Match[str], texts: Sequence[str]) -> bool:
    """Is the letter in front of prose the answer, rather than a word, one of two, or that of another text?"""
    start = match.start(3)
    rest = _plain(bare[match.end() :])
    others = [own for own in texts if len(own) > 1 and (rest.startswith(own) or _plain(bare).startswith(own))]
    if others or len(rest) == 1 or _HEDGE.match(bare, start):
        return False
    return bool(match[1]) or _PROSE.match(bare, start) is not None


def _plain(text: str) -> str:
    """Text to compare: small letters, single spaces, no sign around it."""
    return " ".join(text.translate(_LOOKALIKES).strip(_WRAPPING + "()[]").casefold().split())
