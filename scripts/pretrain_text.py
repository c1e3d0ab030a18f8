"""The text that the embedded base model is pretrained on: a function of (seed, shard), made as it is needed.

Problems come from `reckoner.nano.stream`, which leaves out every question of train and test and every unseen
template; `checked` proves it again for each one. Solutions appear in other forms than the one that is
studied: no `<<...>>` annotation, and never `####` before a number (`####` occurs as a heading, so that its
token is not unknown).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from pretrain_sums import Facts, equation, signed

from reckoner import nano
from reckoner.runs.records import Problem

SHARD_PROBLEMS = 4096
EDITION = 4
PRACTISED_SHARE = 15
"""How many of 100 seen templates are shown with whole solutions. Of the others there are first steps, bare
answers and questions."""
SHARES = {
    "sums": 140,
    "copies": 12,
    "reading": 16,
    "begun": 24,
    "bare": 6,
    "worked": 16,
    "story": 3,
    "pages": 14,
    "asked": 10,
    "chat": 4,
}
"""Weights of the kinds of document in the first stage of pretraining."""
PLANS = {
    "drills": 140,
    "plans": 55,
    "copies": 8,
    "begun": 12,
    "bare": 3,
    "worked": 16,
    "story": 3,
    "pages": 14,
    "asked": 10,
    "chat": 4,
}
"""The same for the second stage: rare calculations, and the plans of all templates, whole but without an
answer."""
ANNOTATED = PLANS | {"drills": 70, "plans": 140}
MIXTURES = {"first": SHARES, "plans": PLANS, "annotated": ANNOTATED, "signed": ANNOTATED | {"signs": 70}}
"""What each stage of pretraining reads; in the last two most calculations are said twice (see
`annotated`)."""
ANNOTATED_SHARE = {"first": 0.0, "plans": 0.0, "annotated": 0.7, "signed": 0.7}
"""Share of each stage's documents whose calculations are said twice."""
BRACKETS = (("[", "]"), ("((", "))"), ("{", "}"), ("|", "|"), ("[[", "]]"), ("(", ")"))
"""What may stand around the first saying: never the studied `<<` and `>>`."""

GIVEN, END = "\x01", "\x02"
"""Marks around a span of text that is given; they are taken out before anything is encoded."""

_ANNOTATION = re.compile(r"<<[^<>]*>>")
_EQUATION = re.compile(rf"(-?\d+(?:[-+*/]\d+)+)({END}?)=(\$?)(-?\d+)")
_TARGET = re.compile(r"####\s*[-$]?\d|<<\s*[-$]?\d|>>\d")

_NAMES = list(nano.PEOPLE)
_NAMED = re.compile(rf"\b({'|'.join(_NAMES)})\b")
_COUNTED = re.compile(r"(\$?\d[\d,]*)(?: ([a-z]+))?")
LABELS = (
    ("Question", "Answer"),
    ("Q", "A"),
    ("Problem", "Solution"),
    ("Task", "Result"),
    ("Puzzle", "Reply"),
)
SIGNS = "=-~@%&!|/*+:^>#"
STUDIED_SIGNS = ("<<", "=<<", "=$<<", ">>", "**", "####")
"""Signs of the studied form. They occur among words without sense only, so that fine-tuning finds their
embeddings trained."""
WORDS = (
    "Total Final So Result Number Value Sum Count End Done Check Reply Think Write Here Now Then Last "
    "Box Line Page Note Card Mark Sign Key "
    "pens books apples marbles dollars hours miles friends boxes shirts"
).split()
HEADINGS = ("Sums", "Practice", "Numbers", "Homework", "Exercises", "Workbook", "Page", "Test", "Lesson")
OPENINGS = (
    "You are a careful teacher.",
    "You are a helpful math assistant.",
    "You are a patient tutor.",
    "Please help with this task.",
    "Here is a word problem.",
    "",
)
REQUESTS = (
    "Please provide a step-by-step derivation and end your answer with the final numerical result in "
    "the format '{}'.",
    "Show your work and finish with the result as '{}'.",
    "Solve it step by step. The last line must have the form '{}'.",
    "Give the steps, then write the answer in the format '{}'.",
    "Explain each step and end with '{}'.",
)


class Document(NamedTuple):
    """A text and its kind. `given` are the character spans that nothing before them decides: operands and
    questions."""

    kind: str
    text: str
    given: list[tuple[int, int]]


def practised(share: int) -> frozenset[str]:
    """The templates whose solutions are shown, about `share` of 100 seen ones; the others are left for
    fine-tuning to teach."""
    return frozenset(name for name in nano.SEEN_TEMPLATES if int(nano.question_hash(name), 16) % 100 < share)


def documents(
    seed: int, shard: int, practised_share: int = PRACTISED_SHARE, mixture: str = "first"
) -> Iterator[Document]:
    """The documents of one shard, as many as its problems last; the same on any machine."""
    rng = random.Random(f"pretraining/{EDITION}/{seed}/{shard}")
    stories = [
        checked(problem) for problem in nano.stream(SHARD_PROBLEMS, seed * 1_000_003 + shard, "socratic")
    ]
    facts = Facts.of(stories)
    shown = practised(practised_share)
    solved = [problem for problem in stories if problem.template in shown]
    others = [problem for problem in stories if problem.template not in shown and problem.steps > 1]
    kinds, weights = list(MIXTURES[mixture]), list(MIXTURES[mixture].values())
    while min(len(solved), len(others), len(stories)) > 8:
        kind = rng.choices(kinds, weights)[0]
        pool = (
            others
            if kind in ("begun", "plans")
            else stories
            if kind in ("bare", "copies", "reading")
            else solved
        )
        marked = WRITERS[kind](rng, pool, facts)
        # Nothing is drawn where the share is 0: the stream of the first two stages is that of the text they
        # were trained on.
        if ANNOTATED_SHARE[mixture] and kind != "copies" and rng.random() < ANNOTATED_SHARE[mixture]:
            marked = annotated(marked, *rng.choice(BRACKETS))
        text = marked.replace(GIVEN, "").replace(END, "")
        assert not _TARGET.search(text), f"target form in pretraining text: {text}"
        yield Document(kind, text, _spans(marked))


def annotated(marked: str, left: str, right: str) -> str:
    """Each `13*8=104` as `13*8=[13*8=104]104`: the studied form has such annotations, in other brackets."""
    return _EQUATION.sub(lambda m: f"{m[1]}{m[2]}={m[3]}{left}{m[1]}={m[4]}{right}{m[4]}", marked)


def _spans(marked: str) -> list[tuple[int, int]]:
    """The spans between the marks, in characters of the text without marks."""
    spans, position, start = [], 0, 0
    for character in marked:
        if character == GIVEN:
            start = position
        elif character == END:
            spans.append((start, position))
        else:
            position += 1
    return spans


def checked(problem: Problem) -> Problem:
    """The problem, proved to be none of train or test and of no unseen template."""
    assert nano.question_hash(problem.question) not in _reserved(), problem.question
    assert problem.template not in nano.UNSEEN_TEMPLATES, problem.template
    return problem


@cache
def _reserved() -> frozenset[str]:
    return nano.reserved_hashes()


def _spell(rng: random.Random, line: str, style: int) -> str:
    """One equation in the style of its page."""
    left, right = line.split("=")
    match style:
        case 0:
            return _given(re.sub(r"(?<=\d)([-+*/])", r" \1 ", left)) + f" = {right}"
        case 1:
            return f"{_given(f'What is {left}?')} {right}"
        case 2:
            return f"{_given(left)} is {right}."
        case 3 if not right.startswith("-"):
            return f"{_given(left)}=${right}"
        case _:
            return f"{_given(left)}={right}"


def _given(text: str) -> str:
    return f"{GIVEN}{text}{END}"


def _question(problem: Problem) -> str:
    return _given(problem.question)


def _sums(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    return _page(rng, lambda: equation(rng, facts, evenly=False))


def _page(rng: random.Random, make: Callable[[], str]) -> str:
    """Calculations in one style, each from `make`."""
    style, between = rng.randrange(16), rng.choice(("\n", "\n", ", ", " "))
    lines = [_spell(rng, make(), style) for _ in range(rng.randint(6, 24))]
    heading = f"{'#' * rng.randint(1, 4)} {rng.choice(HEADINGS)}\n" if rng.random() < 0.3 else ""
    return heading + between.join(lines)


def _drills(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    """Sums in which rare forms of calculation are as frequent as practice needs."""
    return _page(rng, lambda: equation(rng, facts, evenly=True))


def _signs(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    """Differences with either sign, zeros and products of two digits, each mixed with the others."""
    return _page(rng, lambda: signed(rng))


class Manner(NamedTuple):
    """How the steps of a solution are written: everything but the studied form."""

    asks: bool
    spaced: bool
    before: str
    between: str

    @classmethod
    def draw(cls, rng: random.Random) -> Manner:
        before = rng.choice(("", "", "", "Step {}: ", "{}. "))
        return cls(
            rng.random() < 0.3, rng.random() < 0.15, before, "\n" if before else rng.choice(("\n", "\n", " "))
        )

    def write(self, problem: Problem, left_out: int = 0) -> str:
        """The steps without the final answer, and without the last `left_out` of them."""
        lines, steps = [], problem.solution.split("\n")[:-1]
        for number, line in enumerate(steps[: len(steps) - left_out], 1):
            ask, _, say = _ANNOTATION.sub("", line).partition(" ** ")
            if self.spaced:
                say = _EQUATION.sub(
                    lambda m: re.sub(r"(?<=\d)([-+*/])", r" \1 ", m[1]) + f" = {m[3]}{m[4]}", say
                )
            lines.append(self.before.format(number) + (f"{ask} {say}" if self.asks else say))
        return self.between.join(lines)


def _marker(rng: random.Random) -> str:
    """What stands before an answer: so many of them that only copying helps; never the studied one."""
    if rng.random() < 0.5:
        return f"{rng.choice(WORDS).capitalize()}:"
    mark = rng.choice(SIGNS) * rng.randint(1, 4) if rng.random() < 0.6 else "".join(rng.choices(SIGNS, k=2))
    return mark if mark != "####" else "##"


def _scrap(rng: random.Random, words: list[str]) -> str:
    """A word of a question, a name, a number or a sign."""
    word = rng.choice(words)
    match rng.randrange(8):
        case 0:
            return _marker(rng)
        case 1:
            return rng.choice(_NAMES)
        case 2:
            return str(rng.randint(0, 99))
        case 3:
            sign = rng.choice(STUDIED_SIGNS)
            return rng.choice((f"{sign}{word}", f"{word} {sign} {word}", f"{word}{sign} {word}"))
        case _:
            return word


def _copies(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    """Words and signs without sense, and the same again: practice in looking back."""
    words = [
        word
        for problem in (pool.pop(), *rng.sample(pool, 3))
        for word in problem.question.split()
        if not re.search(r"\d", word)
    ]
    between = rng.choice(("\n", " ", " "))
    text = between.join(_scrap(rng, words) for _ in range(rng.randint(4, 24)))
    return _given(text) + (rng.choice(("\n", " | ", "\n\n", " = ")) + text) * rng.randint(1, 2)


def _ending(rng: random.Random) -> str:
    """How a worked solution ends, with `{}` for the answer."""
    if rng.random() < 0.7:
        return rng.choice(("\n", "\n", " ")) + _marker(rng) + " {}"
    said = rng.choice(
        (
            "The answer is {}.",
            "So the answer is {}.",
            "Answer: {}",
            "The result is {}.",
            "That makes {}.",
            "It is {}.",
        )
    )
    return rng.choice(("\n", " ")) + said


def _worked(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    (label, reply), problem = rng.choice(LABELS), pool.pop()
    steps, end = Manner.draw(rng).write(problem), _ending(rng).format(problem.gold)
    return f"{label}: {_question(problem)}\n{reply}: {steps}{end}"


def _begun(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    """A solution that breaks off before its last steps."""
    (label, reply), problem = rng.choice(LABELS), pool.pop()
    return (
        f"{label}: {_question(problem)}\n{reply}: "
        f"{Manner.draw(rng).write(problem, rng.randint(1, max(1, problem.steps - 1)))}"
    )


def _plans(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    """All steps of a solution, without its answer."""
    (label, reply), problem = rng.choice(LABELS), pool.pop()
    return f"{label}: {_question(problem)}\n{reply}: {Manner.draw(rng).write(problem)}"


def _bare(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    (label, reply), problem = rng.choice(LABELS), pool.pop()
    return f"{label}: {_question(problem)}\n{reply}: {problem.gold}"


def _reading(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    """A question and what stands in it, without a calculation: whom it names, what is counted, what is
    asked."""
    (label, _), question = rng.choice(LABELS), pool.pop().question
    lines = [
        f"Names: {', '.join(dict.fromkeys(_NAMED.findall(question))) or 'none'}",
        "Numbers: "
        f"{', '.join(' '.join(filter(None, found)) for found in _COUNTED.findall(question)) or 'none'}",
        f"Asked: {re.split(r'(?<=[.?]) ', question)[-1]}",
        f"Again: {question}",
    ]
    return f"{label}: {_given(question)}\n" + "\n".join(rng.sample(lines, rng.randint(1, 4)))


def _story(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    problem = pool.pop()
    return f"{_question(problem)} {Manner(False, False, '', ' ').write(problem)}"


def _pages(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    """Two to four problems in one form, whose ending can only be known from the first."""
    (label, reply), manner, end = rng.choice(LABELS), Manner.draw(rng), _ending(rng)
    ask = _request(rng, end.strip()) + "\n\n" if rng.random() < 0.2 else ""
    few = [pool.pop() for _ in range(rng.randint(2, 3))]
    return ask + "\n\n".join(
        f"{label}: {_question(p)}\n{reply}: {manner.write(p)}{end.format(p.gold)}" for p in few
    )


def _request(rng: random.Random, end: str) -> str:
    """An instruction that asks for the ending `end`."""
    wanted = end.format(rng.choice(("<number>", "<number>", "<answer>", "<n>", "N")))
    return f"{rng.choice(OPENINGS)} {rng.choice(REQUESTS).format(wanted)}".strip()


def _asked(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    problem, end = pool.pop(), "\n" + _marker(rng) + " {}"
    label, reply = rng.choice(LABELS)
    steps = Manner.draw(rng).write(problem) + end.format(problem.gold)
    request = _request(rng, end.strip())
    if rng.random() < 0.4:
        return turns((f"{request}\n\n{_question(problem)}", steps))
    return f"{request}\n\n{label}: {_question(problem)}\n{reply}: {steps}"


def _chat(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    manner, end = Manner.draw(rng), _ending(rng)
    few = [pool.pop() for _ in range(rng.randint(1, 2))]
    return turns(*((_question(p), manner.write(p) + end.format(p.gold)) for p in few))


def turns(*pairs: tuple[str, str]) -> str:
    """User and model turns as the chat template writes them, without its `<bos>`."""
    return "".join(
        f"<start_of_turn>user\n{user}<end_of_turn>\n<start_of_turn>model\n{model}<end_of_turn>\n"
        for user, model in pairs
    )


WRITERS: dict[str, Callable[[random.Random, list[Problem], Facts], str]] = {
    "sums": _sums,
    "drills": _drills,
    "signs": _signs,
    "plans": _plans,
    "copies": _copies,
    "reading": _reading,
    "worked": _worked,
    "begun": _begun,
    "bare": _bare,
    "story": _story,
    "pages": _pages,
    "asked": _asked,
    "chat": _chat,
}
