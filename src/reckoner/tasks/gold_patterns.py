r"""Patterns with a name for `data.gold_pattern`: where a number stands in the golds and solutions of others.

`number-and-unit` is a gold that is one number, perhaps with a currency in front or a unit behind: `-$3`,
`3 km`, `1 1/2 cups`. `answer-is` is the number behind "answer is" in a solution, and `boxed` what stands in
`\boxed{}`. What changes the value is no unit: `3 million`, `3 and a half`, `3k`, `3x` and `3²` do not match.
"""

from __future__ import annotations

import re

from reckoner.tasks.answers.number import SCALES, western_digits

_SIGN = r"[-+\u2212]?"
_CURRENCY = r"\\?[$€£¥₹]"
_SPACE = r"[ \u00a0\u2009\u202f]"
_GROUPED = rf"\d{{1,3}}(?:{_SPACE}\d{{3}})+(?:[.,]\d+)?(?!\d)"
_NUMBER = rf"(?>{_SIGN}(?:{_CURRENCY})?\s?-?(?:\d+ \d+/\d+|{_GROUPED}|[\d.,/]*\d))"
_PLAIN = re.compile(rf"({_SIGN})(?:{_CURRENCY})?\s?(-?)(?:(\d+) (\d+)/(\d+)|({_GROUPED}|[\d.,/]*\d))")

_NUMERALS = r"\u00bc-\u00be\u2150-\u218f〇零一二两三四五六七八九十百千万萬億亿兆半"
_POWERS = r"\u00aa\u00b2\u00b3\u00b9\u00ba\u2070-\u209c"
_FIRST = "|".join((*SCALES, "milliard", "dozen", "gross", "lakh", "crore"))
_WORDS = (
    "st|nd|rd|th|er|ème|ième|and|or|to|plus|minus|remainder|squared|cubed|k|K|M|B|T|bn|mn|mio|mrd|mil|"
    "[b-ceijknopqruvwxyzπ]|[xyz]{2,3}"
)
_COUNTS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|half|"
    "halves|quarters?|thirds?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|"
    f"{'|'.join(SCALES)}|dozen"
)
_NO_UNIT = rf"\s*(?:-?(?i:{_FIRST})|(?:{_WORDS})(?![^\W\d_])|[{_NUMERALS}{_POWERS}])"
"""What begins so behind a number makes it another one, or is no unit."""
_UNIT = (
    rf"(?!{_NO_UNIT})(?!.*(?:\b(?i:{_COUNTS})\b|[{_NUMERALS}]))"
    rf"\s*(?:[^\W\d_]|[%‰°℃℉$€£¥₹¢′″'\"])[^\d,;+*=<>^|]*"
)
_ENDS = (
    rf"(?!{_NO_UNIT}|\s*[-–/]\s*[\d$(\\]|\s*[*+=<>×÷±√]\s*[\w$(\\]|\s*[\^!]"
    r"|\s*[^\W\d_]+,?\s(?:and\s)?\d+\s*[^\W\d_])"
)
_INSIDE = r"[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\}"

NAMED = {
    "number-and-unit": re.compile(rf"^\s*({_NUMBER})(?:{_UNIT})?\s*$"),
    "answer-is": re.compile(rf"[Aa]nswer is:?\s*({_NUMBER}){_ENDS}"),
    "boxed": re.compile(rf"\\boxed ?\{{((?:{_INSIDE})++)\}}"),
}
"""By the names that `data.gold_pattern` knows; group 1 is the gold, which `plain_number` writes plainly."""


def plain_number(text: str) -> str:
    """A number without currency and spaces, with `1 1/2` as `3/2`; any other text as it is."""
    match = _PLAIN.fullmatch(western_digits(text).strip())
    if match is None:
        return text
    sign, inner, whole, above, below, number = match.groups()
    if whole:
        number = f"{int(whole) * int(below) + int(above)}/{below}"
    return (sign + inner).replace("\u2212", "-") + re.sub(_SPACE, "", number)
