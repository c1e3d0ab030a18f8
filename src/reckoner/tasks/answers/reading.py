"""What a completion says, and the verdict on it: shared by all kinds of answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from reckoner.runs.records import Finish, Grade, Verdict

END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "</s>", "<eos>", "<end_of_turn>")
NEW_PROBLEM = ("\nQuestion:", "\nQ:", "\nProblem:")
STOP_STRINGS = (*END_TOKENS, *NEW_PROBLEM)
"""Where an answer ends (R1; see `answer_end`). Generation from plain prompts stops at the first of them."""

LIMIT_REASONS = frozenset(
    "length limit max_tokens max_length max_new_tokens max_output_tokens max_completion_tokens model_length "
    "context_length token_limit token_limit_reached model_context_window_exceeded error_limit".split()
)
"""What tools write, in small letters, where a limit on tokens ended a completion."""

_END_TOKEN = re.compile("|".join(map(re.escape, END_TOKENS)))
_NEW_PROBLEM = re.compile("|".join(stop.replace("\n", r"\n[ \t]*+") for stop in NEW_PROBLEM))
_SLOT = re.compile(r"#{4,}+[ \t]*+(?:\r?\n[ \t]*+)?+([^\n]*+)")
_PHRASE = re.compile(r"(?i:\banswer(?:[ \t]++(?:is|would be|must be)\b|[ \t]*+[:=])[ \t:]*+)([^\n]++)")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a completion says. `first` is the strict value had the first marker counted.

    The values are those of the kind of answer: exact numbers, letters, texts. `cut` tells that text after a
    stop string was left out (R1), `markers` how many runs of `####` remained.
    """

    strict: Hashable | None
    flexible: Hashable | None
    first: Hashable | None
    markers: int
    cut: bool


NOTHING = Reading(None, None, None, 0, False)


def answer_end(text: str, marked: re.Pattern[str] = _SLOT) -> int:
    """Where the answer in `text` ends (R1): at an end token, or at a new problem after a marked answer.

    A text without a marked answer ends where the first new problem begins. Before a marked answer, such a
    line restates the task and ends nothing.
    """
    token = _END_TOKEN.search(text)
    end = token.start() if token else len(text)
    at = text.find("####", 0, end)
    found = marked.search(text, at, end) if at >= 0 else None
    new = _NEW_PROBLEM.search(text, found.end() if found else 0, end)
    return new.start() if new else end


def finish_of(reason: Any) -> Finish | None:
    """How a completion ended by what a tool writes of it; None where that is no word.

    The word may be that of an enumeration (`FinishReason.MAX_TOKENS`), or stand alone in a list or as the
    `type` or `reason` of an object.
    """
    if isinstance(reason, list) and len(reason) == 1:
        return finish_of(reason[0])
    if isinstance(reason, Mapping):
        return finish_of(reason.get("type") or reason.get("reason"))
    if not isinstance(reason, str):
        return None
    word = reason.rpartition(".")[2].lower().removeprefix("finish_reason_")
    return "length" if word in LIMIT_REASONS else "stop"


def read_slots(
    text: str | None, parse: Callable[[str], Hashable | None], guess: Callable[[str], Hashable | None]
) -> Reading:
    """Read the line behind each `####` by `parse`, and the text without such an answer by `guess`.

    The flexible value is the strict one, or what `parse` makes of the last "answer is ...", or the guess.
    """
    if not isinstance(text, str):
        return NOTHING
    end = answer_end(text)
    cut, text = end < len(text), text[:end]
    slots = [slot[1].strip() for slot in _SLOT.finditer(text)]
    values = [parse(slot) for slot in (slots[:1] + slots[-1:])]
    flexible = values[-1] if values else None
    if flexible is None and (phrases := _PHRASE.findall(text)):
        flexible = parse(phrases[-1].strip())
    if flexible is None:
        flexible = guess(text)
    return Reading(values[-1] if values else None, flexible, values[0] if values else None, len(slots), cut)


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return text.rstrip().rpartition("\n")[2].strip()


def verdict_on(reading: Reading, right: Callable[[Hashable], bool], finish: Finish = "stop") -> Grade:
    """The verdict on a reading, in a `Grade` without a problem's name."""
    strict = reading.strict is not None and right(reading.strict)
    same = reading.flexible == reading.strict
    flexible = strict if same else reading.flexible is not None and right(reading.flexible)
    verdict: Verdict = "wrong"
    if strict:
        verdict = "correct"
    elif finish == "length":
        verdict = "truncated"
    elif reading.strict is None:
        verdict = "no_answer"
    said, guessed = (None if v is None else str(v) for v in (reading.strict, reading.flexible))
    return Grade("", 0, strict, flexible, said, guessed, verdict, reading.markers)
