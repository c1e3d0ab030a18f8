r"""Exact numbers, the answers of GSM8K and its relatives.

Two readings of a completion, both exact rationals. *Strict* is the number after the last `####`, the form
that GSM8K teaches (Cobbe et al. 2021); *flexible* is the last well-formed number anywhere. What is malformed
or hedged is no answer. Rules R1 to R14 with their reasons and an example each: docs/grading.md. Time is
linear in the text, and any input gets a verdict.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from reckoner.errors import InputError
from reckoner.runs.records import Finish, Grade
from reckoner.tasks.answers.reading import NOTHING, Reading, answer_end, verdict_on
from reckoner.tasks.arithmetic import literal

GRADER = "reckoner-2"
"""Name and version, stored with every result; any change of a verdict needs a new version."""

MAX_TOKEN, MAX_EXPONENT = 64, 30
EQUATION_END = 100
"""Characters before a minus in which the equation of a bracket must show its `=`."""
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_NARROW = "\u00a0"  # stands for every no-break and thin space: the ones that group thousands
_LOOKALIKES = str.maketrans(
    "０１２３４５６７８９＃＋．，／％＄￥￡：（）"
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d" + "\u2044\u2215"
    "\u2006\u2007\u2008\u2009\u200a\u202f"
    "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u205f\u3000" + "\x85\u2028\u2029",
    "0123456789#+.,/%$¥£:()" + "-" * 10 + "//" + _NARROW * 6 + " " * 9 + "\n" * 3,
    "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\ufeff"
    "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069",
)  # fmt: skip
_ANNOTATION = re.compile(r"<<[^<>\n]*+>>")
_MARKER = re.compile("#{4,}+")

_SPACE = rf"[ \t{_NARROW}]"
_CURRENCY = r"\\?[$€£¥₹]"
_OPENING = rf"(?:{_SPACE}|{_CURRENCY}|[-+*_`{{]|\\[(\[]|\\(?:boxed|text)\{{)*+"
MARKED = re.compile(rf"(?<!#)#{{4,}}+(?:\s|{_ANNOTATION.pattern})*+{_OPENING}\.?[0-9]")
_WESTERN = rf"[0-9]{{1,3}}(?:(?:[,{_NARROW}]|\\,|\{{,\}})[0-9]{{3}}(?![0-9]))++"
_INDIAN = r"[0-9]{1,2}(?:,[0-9]{2}(?=,))++,[0-9]{3}(?![0-9])"
_NUMBER = (
    rf"(?:(?:{_WESTERN}|{_INDIAN}|[0-9]++)(?:\.[0-9]++)?+|(?<![.0-9A-Za-z])\.[0-9]++)(?:[eE][-+]?[0-9]++)?+"
)
_MORE = r"(?:(?:[.,]++|\\,|\{,\})?[0-9])"  # a digit that the number before could not take in: malformed (R8)
_GOLD = re.compile(rf"(?P<sign>[-+])?(?P<number>{_NUMBER})(?:/(?P<below>[0-9]++))?+")
_SPACED = r"[0-9]{1,3}(?: [0-9]{3})++(?:\.[0-9]++)?+"
_ALONE = rf"(?={_SPACE}*+[-.,;:!%*_`)}}\]\\$€£¥₹]*+\s*?(?:\n|\Z))"
_ANSWER = re.compile(
    rf"{_SPACE}*+(?:\r?\n{_SPACE}*+)?+(?P<open>{_OPENING})"
    rf"(?:(?P<spaced>{_SPACED}){_ALONE}"
    rf"|(?P<whole>[0-9]++){_SPACE}++(?P<part>[0-9]++/[0-9]++)(?!{_MORE}|/)"
    rf"|(?P<number>{_NUMBER})(?P<below>/[0-9]++)?+(?!{_MORE}))(?::00(?![0-9:]))?+"
    rf"(?P<scale>(?:(?:{_SPACE}|-)*+(?i:{'|'.join(SCALES)})(?i:s\b|\b)){{0,3}}+)"
)
_CLOSING = rf"(?:{_SPACE}|[%_`)}}\]$€£¥₹¢°!]|\\[)\]$%]|(?<=[0-9%])\*\*?(?! ?[0-9*])){{0,16}}+"
_SYMBOL = r"[,;/&|+\-~*^=<>≤≥≈≠±×÷·→]|:(?=[0-9])|[xX]|\\(?:times|cdot|div|pm|to)\b"
_WORD = r",?[ ]?\(?(?:or|and|to|plus|minus|times|vs\.?|versus|through)\b"
_HEDGE = re.compile(rf"{_CLOSING}(?:{_SYMBOL}|{_WORD})(?:{_SPACE}|[-+*_`({{\\=>/~$€£¥₹]){{0,8}}+\.?[0-9]")
_FLEXIBLE = re.compile(rf"({_NUMBER})((?:(?:[.,]|\\,|\{{,\}})?[0-9])*+)")
_SIGN = re.compile(rf"([-+])?(?:{_CURRENCY})?([-+])?\Z")
_BINARY = re.compile(r"[^\W_]|[)\]}%]")


def read(text: str | bytes | None) -> Reading:
    """Read any completion; bytes are taken as UTF-8, and what is no text at all says nothing.

    Never raises.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str):
        return NOTHING
    if not text.isascii():
        text = text.translate(_LOOKALIKES)
    end = answer_end(text, MARKED)
    cut, text = end < len(text), text[:end]
    bare = _ANNOTATION.sub("", text) if "<<" in text else text
    last = bare.rfind("####")
    if last < 0:
        return Reading(None, _last_number(text), None, 0, cut)
    strict = _answer(bare, last + 4)
    ends = [marker.end() for marker in _MARKER.finditer(bare)] if bare.find("####") < last else [last + 4]
    first = strict if len(ends) == 1 else _answer(bare, ends[0])
    return Reading(strict, _last_number(text), first, len(ends), cut)


def grade_text(text: str | bytes | None, gold: str, finish: Finish = "stop") -> Grade:
    """Grade bare text; `finish` is "length" where generation was cut by its token limit.

    Raises `InputError` where `gold` is no number.
    """
    wanted = gold_number(gold)
    return verdict_on(read(text), lambda value: value == wanted, finish)


@lru_cache(maxsize=65_536)
def gold_number(gold: str) -> Fraction:
    """The exact value of a gold string: a number and nothing more ("1,450", "-10", "0.5", "3/4").

    A unit, currency or per cent sign leaves open which number is meant, and is in none of the usual data
    sets. Raises `InputError` for anything else.
    """
    match = _GOLD.fullmatch(gold.translate(_LOOKALIKES).strip())
    value = (
        _ratio(match["number"], match["below"])
        if match and match["below"]
        else match and _decimal(match["number"])
    )
    if match is None or value is None:
        raise InputError(
            f"gold {gold[:80]!r} is not a number and nothing more, as 1,450 or -10 or 0.5 or 3/4 is"
        )
    return -value if match["sign"] == "-" else value


def western_digits(text: str) -> str:
    """`text` with the decimal digits of every script as 0 to 9."""
    return "".join(str(unicodedata.decimal(character, character)) for character in text)


def extract_gold(solution: str) -> str:
    """The string after the last `####` of a reference solution.

    Raises `InputError` where there is no marker.
    """
    _, marker, gold = solution.rpartition("####")
    if not marker:
        raise InputError(f"solution without ####: {solution[-80:]!r}")
    return gold.strip()


def _answer(text: str, start: int) -> Fraction | None:
    """The answer that begins at `start`, right behind a marker (R4 to R12)."""
    match = _ANSWER.match(text, start)
    if match is None or _HEDGE.match(text, match.end()):
        return None
    signs = [character for character in match["open"] if character in "+-"]
    value = _value(match)
    if value is None or len(signs) > 1:
        return None
    if match["scale"]:
        for word in re.findall("[a-z]+", match["scale"].lower()):
            value *= SCALES[word.removesuffix("s")]
    return -value if "-" in signs else value


def _value(match: re.Match[str]) -> Fraction | None:
    """The unsigned number of an `_ANSWER`: a decimal, `a/b` or `a b/c`."""
    if match["whole"]:
        whole, part = _decimal(match["whole"]), _ratio(*match["part"].split("/"))
        return None if whole is None or part is None else whole + part
    number, below = match["number"], match["below"]
    if below:
        return _ratio(number, below[1:])
    return _decimal(number or match["spaced"])


def _ratio(above: str, below: str) -> Fraction | None:
    left, right = _decimal(above), _decimal(below)
    return left / right if left is not None and right and left.denominator == 1 else None


@lru_cache(maxsize=65_536)
def _decimal(token: str) -> Fraction | None:
    """The value of a well-formed number; None over the limits of R12. Remembered: numbers recur."""
    if len(token) > MAX_TOKEN:
        return None
    if token.isdigit():
        return Fraction(int(token))
    plain = re.sub(r"[^0-9.eE+-]", "", token)
    exponent = plain.lower().partition("e")[2]
    return None if exponent and abs(int(exponent)) > MAX_EXPONENT else literal(plain)


def _last_number(text: str) -> Fraction | None:
    """The last well-formed number of a text (R13).

    No number holds a plain space, so its last words are tried first.
    """
    tails = [text.rfind(" ", 0, max(0, len(text) - size)) + 1 for size in (20, 80)]
    for start in dict.fromkeys((*tails, 0)):
        for match in reversed(list(_FLEXIBLE.finditer(text, start))):
            value = None if match[2] or _glued(text, match.start()) else _decimal(match[1])
            if value is not None:
                return -value if _negative(text, match.start()) else value
    return None


def _negative(text: str, start: int) -> bool:
    """Does a minus belong to the number at `start`? Between two terms it does not.

    A bracket that ends in an equation, as in `3-5=[3-5=-2]-2`, is a calculation and no term.
    """
    sign = _SIGN.search(text, max(0, start - 4), start)
    assert sign, "its parts may be empty"
    at = sign.start()
    before = text[max(0, at - EQUATION_END) : at]
    binary = at and _BINARY.match(text, at - 1) and not _ends_in_equation(before)
    return (sign[1] == "-" and not binary) != (sign[2] == "-")


def _ends_in_equation(text: str) -> bool:
    """Do the last brackets of a text close behind an equation, as in `(3-5=(-2))`, and not within a term?"""
    trailing = len(text.rstrip(")]}"))
    open_at: list[int] = []  # where the brackets close that begin before the character looked at
    for at in range(len(text) - 1, -1, -1):
        if text[at] in ")]}":
            open_at.append(at)
        elif text[at] == "\n" or not open_at:
            return False
        elif text[at] == "=":
            return open_at[-1] >= trailing
        elif text[at] in "([{":
            open_at.pop()
    return False


def _glued(text: str, start: int) -> bool:
    """Is the number at `start` the tail of a word: CO2, x_2, 0x2A?

    Scripts written without spaces have no such words.
    """
    before = text[start - 1] if start else " "
    if before == "_":
        return start > 1 and text[start - 2].isalnum()
    return before.isalpha() and before < "\u0530"
