"""The embedded problems: GSM8K's form, a small vocabulary, and no download.

Every problem is a function of a seed on any machine. `problems` gives the fixed sets, train 7,473 and test 1,319, with
no question in common; a fifth of the test comes from `UNSEEN_TEMPLATES`, which train never uses. `stream` gives any
number of further problems and skips every question of the fixed sets (`reserved_hashes`), so that a model may be
pretrained on them and still be tested honestly.

One example, `main` (`socratic` puts `How many pens does she buy? ** ` before the line):
`She buys 4*3=<<4*3=12>>12 pens.` / `#### 12`.

As GSM8K's, the solutions of train have many hands. Some do the first step in their head: of the solutions of several
steps 44 in 100 begin with the second, by chance, in some templates more often than in others (in GSM8K's train about
one in eight uses a number that stands neither in its question nor in an earlier calculation). A small model cannot do
that, imitates it all the same, and can be cured of it by a reward for the answer alone. The solutions of test, which
only the error analysis reads, are whole.

Measured on train: 3.1 steps, 26 words a question, 14 words a `main` and 33 a `socratic` solution; half of the results
are below 43 and 3 % above 999; 23 % of the questions write small numbers as words, 10 % have a sentence whose number
is not needed. Over all 8,792 problems no answer is a copy of a number in its question (GSM8K train: 5.5 %, commas
ignored). Answers are exact integers, negative only in the category `below zero` (3 % of train).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

from reckoner.faults import InputError
from reckoner.records import Problem
from reckoner.tasks.templates import REGISTRY, Draw, Story, Template

SIZES = {"train": 7_473, "test": 1_319}
UNSEEN_TEST = 264
VARIANTS = ("main", "socratic")
UNSEEN_TEMPLATES = (
    "egg_cartons",
    "told_backwards",
    "animal_legs",
    "coupon_and_fee",
    "lawns_for_bike",
    "two_percentages",
    "sacks_of_grams",
    "area_minus_pond",
    "study_plan",
    "part_of_the_rest",
    "gifts_then_split",
    "rest_of_book",
    "three_ages",
    "two_riders",
    "quiz_points",
)
TEMPLATES = tuple(REGISTRY)
SEEN_TEMPLATES = tuple(name for name in TEMPLATES if name not in UNSEEN_TEMPLATES)
CATEGORIES = tuple(dict.fromkeys(entry.category for entry in REGISTRY.values()))
LATE = 0.44
"""Share of the train solutions of several steps that leave the first one unwritten; of one template between 0.5 and 1.5 times this share."""
_EDITION = "nano-1"


@lru_cache(maxsize=65_536)
def question_hash(question: str) -> str:
    """The sha256, in hex, of a question's lower-cased words joined by single spaces."""
    return hashlib.sha256(" ".join(question.lower().split()).encode()).hexdigest()


@cache
def reserved_hashes() -> frozenset[str]:
    """The hashes of all train and test questions. No problem of `stream` has one of them."""
    return frozenset(question_hash(story.question) for told in _sets().values() for _, story in told)


def problems(split: str, variant: str) -> list[Problem]:
    """All problems of `train` or `test`, with `main` or `socratic` solutions; the ids do not depend on the variant.

    Raises `InputError` for an unknown split or variant.
    """
    if split not in SIZES:
        raise InputError(f"nano has no split {split!r}; it has train and test")
    _check_variant(variant)
    return [
        _problem(f"nano-{split}-{i:05d}", entry, story, variant, split == "train")
        for i, (entry, story) in enumerate(_sets()[split])
    ]


def stream(
    n: int,
    seed: int,
    variant: str,
    category: str | None = None,
    templates: Sequence[str] | None = None,
    late: bool = False,
) -> Iterator[Problem]:
    """`n` further problems that are in neither fixed set. In a long stream a question may come twice (1.3 % of 50,000).

    `category` keeps one category, `templates` names the allowed templates (by default all but the unseen ones), `late`
    leaves first steps unwritten as in train.
    Raises `InputError`, before the first problem, for an impossible `n`, a seed that is no integer, an unknown
    variant, category or template, or a choice that leaves no template.
    """
    if type(n) is not int or n < 1:
        raise InputError(f"the number of problems must be a positive integer, not {n!r}")
    if type(seed) is not int:
        raise InputError(f"the seed must be an integer, not {seed!r}")
    _check_variant(variant)
    if category is not None and category not in CATEGORIES:
        raise InputError(f"unknown category {category!r}; the categories are {', '.join(CATEGORIES)}")
    names = SEEN_TEMPLATES if templates is None else tuple(templates)
    if unknown := [name for name in names if name not in REGISTRY]:
        raise InputError(f"unknown template {unknown[0]!r}; see reckoner.tasks.nano.TEMPLATES")
    chosen = [REGISTRY[name] for name in names if category in (None, REGISTRY[name].category)]
    if not chosen:
        raise InputError("no template is left by this choice of category and templates")
    return _stream(n, seed, variant, chosen, late)


def _stream(n: int, seed: int, variant: str, chosen: list[Template], late: bool) -> Iterator[Problem]:
    reserved, made = reserved_hashes(), 0
    for entry, story in _stories(f"stream/{seed}", chosen):
        if question_hash(story.question) not in reserved:
            yield _problem(f"nano-{seed}-{made:06d}", entry, story, variant, late)
            made += 1
            if made == n:
                return


def _stories(name: str, chosen: Sequence[Template]) -> Iterator[tuple[Template, Story]]:
    """Stories without end, each from a template drawn with equal chance."""
    count = 0
    while True:
        seed = f"{_EDITION}/{name}/{count}"
        entry = Draw(seed).pick(*chosen)
        yield entry, entry.tell(seed)
        count += 1


@cache
def _sets() -> dict[str, list[tuple[Template, Story]]]:
    """The two fixed sets; test is drawn first, train avoids it, and the order of test mixes seen and unseen."""
    seen = [REGISTRY[name] for name in SEEN_TEMPLATES]
    unseen = [REGISTRY[name] for name in UNSEEN_TEMPLATES]
    taken: set[str] = set()
    new = _fresh("test/unseen", unseen, UNSEEN_TEST, taken)
    known = _fresh("test/seen", seen, SIZES["test"] - UNSEEN_TEST, taken)
    test = sorted(new + known, key=lambda told: question_hash(told[1].question))
    return {"train": _fresh("train", seen, SIZES["train"], taken), "test": test}


def _fresh(name: str, chosen: Sequence[Template], n: int, taken: set[str]) -> list[tuple[Template, Story]]:
    """The first `n` stories whose questions are not in `taken`, which grows by theirs."""
    found: list[tuple[Template, Story]] = []
    for entry, story in _stories(name, chosen):
        key = question_hash(story.question)
        if key not in taken:
            taken.add(key)
            found.append((entry, story))
            if len(found) == n:
                break
    return found


def _begins_late(template: str, story: Story) -> bool:
    """Whether the first step of this story is left to the reader; the same for both variants."""
    return len(story.steps) > 1 and _uniform(f"late/{story.question}") < LATE * (
        0.5 + _uniform(f"late/{template}")
    )


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def _problem(name: str, entry: Template, story: Story, variant: str, late: bool) -> Problem:
    return Problem(
        id=name,
        question=story.question,
        solution=story.solution(variant, first=int(late and _begins_late(entry.id, story))),
        gold=str(story.answer),
        variant=variant,
        source="nano",
        category=entry.category,
        steps=len(story.steps),
        template=entry.id,
        unseen=entry.id in UNSEEN_TEMPLATES,
    )


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        raise InputError(f"nano has no variant {variant!r}; it has main and socratic")
