"""The text that the embedded base model is pretrained on: a function of (seed, shard), made as it is needed.

Problems come from `reckoner.nano.stream`, which leaves out every question of train and test and every unseen
template; `checked` proves it again for each one. Solutions appear in other forms than the one that is
studied: no `<<...>>` annotation, and never `####` before a number (`####` occurs as a heading, so that its
token is not unknown).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from pretrain_sums import Facts, equation, signed

from reckoner import nano
from reckoner.runs.records import Problem

SHARD_PROBLEMS = 4096
EDITION = 5
TAUGHT = frozenset(
    """
    is_old older times_as_old in_years
    it_is falls rises colder_at
    has_line rolls_of ties_feet cuts_feet into_pieces
    saved works_hours earns spends mows richer_by richer_times saves_up
    buys also_buys fee shares_bill
    has has_boxes two_places finds loses gives_part more times packs sells
    reads_daily reads_on reads_more minutes_a_page works_long breaks
    drives walks_daily goes_on times_as_far miles_left
    """.split()
)
"""The relations that appear in worked problems. The others are left for fine-tuning to teach: the model has
only read them."""
SHARES = {
    "sums": 100, "copies": 8, "reading": 10, "notes": 40, "worked": 80, "pages": 15, "asked": 25, "chat": 10,
}  # fmt: skip
"""Weights of the kinds of document."""
ANNOTATED_SHARE = 0.5
"""Share of the documents that say a calculation twice, `13*8=[13*8=104]104`, as the studied form does."""
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


def taught() -> list[str]:
    """The templates that consist of taught relations alone, without the unseen ones."""
    return [name for name in nano.SEEN_TEMPLATES if TAUGHT.issuperset(nano.WORLD.templates[name])]


def documents(seed: int, shard: int) -> Iterator[Document]:
    """The documents of one shard, as many as its problems last; the same on any machine."""
    rng = random.Random(f"pretraining/{EDITION}/{seed}/{shard}")
    number = seed * 1_000_003 + shard
    solved = [checked(p) for p in nano.stream(SHARD_PROBLEMS, number, "socratic", templates=taught())]
    others = [checked(p) for p in nano.stream(SHARD_PROBLEMS // 2, number, "socratic")]
    facts = Facts.of(others)
    while min(len(solved), len(others)) > 8:
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        marked = WRITERS[kind](rng, others if kind in ("copies", "reading") else solved, facts)
        if kind != "copies" and rng.random() < ANNOTATED_SHARE:
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


def _page(rng: random.Random, make: Callable[[], str]) -> str:
    """Calculations in one style, each from `make`."""
    style, between = rng.randrange(16), rng.choice(("\n", "\n", ", ", " "))
    lines = [_spell(rng, make(), style) for _ in range(rng.randint(6, 24))]
    heading = f"{'#' * rng.randint(1, 4)} {rng.choice(HEADINGS)}\n" if rng.random() < 0.3 else ""
    return heading + between.join(lines)


def _sums(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    """A page of calculations: as they come, with rare forms often, or with results of every sign."""
    match rng.randrange(4):
        case 0:
            return _page(rng, lambda: signed(rng))
        case 1:
            return _page(rng, lambda: equation(rng, facts, evenly=False))
        case _:
            return _page(rng, lambda: equation(rng, facts, evenly=True))


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

    def write(self, problem: Problem) -> str:
        """The steps without the final answer."""
        lines = []
        for number, line in enumerate(problem.solution.split("\n")[:-1], 1):
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


def _notes(rng: random.Random, pool: list[Problem], facts: Facts) -> str:
    """A problem whose steps stand behind the sentences that they follow from."""
    while True:
        problem = pool.pop()
        path = [nano.WORLD.relations[name] for name in problem.template.split("-")]
        *said, ask = re.split(r"(?<=[.?]) (?=[A-Z\d])", problem.question)
        if (
            len(said) == sum("say" in relation for relation in path)
            and len(set(_NAMED.findall(said[0]))) == 1
        ):
            break
    lines = iter(Manner(rng.random() < 0.3, False, "", "\n").write(problem).split("\n"))
    told = [[_given(said.pop(0)) if "say" in relation else _given(ask)] for relation in path]
    for sentence, relation in zip(told, path, strict=True):
        sentence += itertools.islice(lines, len(relation.get("steps", ())))
    return rng.choice(("\n", " ")).join(itertools.chain.from_iterable(told))


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
    "copies": _copies,
    "reading": _reading,
    "notes": _notes,
    "worked": _worked,
    "pages": _pages,
    "asked": _asked,
    "chat": _chat,
}
