"""One of several options: `C`, `(C)`, `C. 12 cm`, "option C", or the text of the option itself.

The letter counts in capitals, or in small letters where it stands alone. A letter with a text behind it is an
answer only where that is the text of its option: "A car" names no option. Two letters are no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reckoner.errors import InputError
from reckoner.tasks.answers.reading import Reading, last_line, read_slots

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WRAPPING = " \t\r*_`$.,;:!\"'"
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|boxed)\{([^{}]*+)\}")
_LETTER = re.compile(r"(?:(?i:option|choice)[ \t]++)?+(?:[(\[]([A-Z])[)\]]|([A-Z])(?![^\W_]|['’]))[).:\s]*+")
_INSIDE = re.compile(r"[(\[]([A-Z])[)\]]")


def check(gold: str, choices: Sequence[str]) -> None:
    """Raises `InputError` where `gold` is not the letter of one of the `choices`."""
    if len(choices) < 2 or gold not in LETTERS[: len(choices)] or len(gold) != 1:
        raise InputError(f"gold {gold[:80]!r} is not the letter of one of {len(choices)} options")


def read(text: str | None, choices: Sequence[str]) -> Reading:
    """The letter that a completion names; in a text without a marked answer the last letter in brackets,
    or its last line."""
    letters = LETTERS[: len(choices)]
    texts = [_plain(choice) for choice in choices]

    def parse(slot: str) -> str | None:
        bare = _TEXT.sub(r"\1", slot).strip(_WRAPPING)
        if len(bare) == 1 and bare.upper() in letters:
            return bare.upper()
        match = _LETTER.match(bare)
        letter = str(match[1] or match[2]) if match else ""
        if match and letter in letters:
            rest = _plain(bare[match.end() :])
            if not rest or rest == texts[letters.index(letter)]:
                return letter
        same = [at for at, own in enumerate(texts) if own and own == _plain(bare)]
        return letters[same[0]] if len(same) == 1 else None

    def guess(whole: str) -> str | None:
        inside = [letter for letter in _INSIDE.findall(whole) if letter in letters]
        return inside[-1] if inside else parse(last_line(whole))

    return read_slots(text, parse, guess)


def _plain(text: str) -> str:
    """Text to compare: small letters, single spaces, no sign around it."""
    return " ".join(text.strip(_WRAPPING + "()[]").casefold().split())
