"""The embedded problems: GSM8K's form, a small vocabulary, and no download.

Every problem is a function of a seed on any machine. A problem is a chain of two to four relations (`has 3
times as many as`, `gives a third away`, `sells for $2 each`), and its template names the chain, such as
`has-times-gives_part`. `problems` gives the fixed sets, train 7,473 and test 1,319, with no question in
common; a fifth of the test comes from `UNSEEN_TEMPLATES`, chains that train never uses, though it uses each
of their relations. `stream` gives any number of further problems and skips every question of the fixed sets
(`reserved_hashes`), so that a model may be pretrained on them and still be tested honestly.

One example, `main` (`socratic` puts `How many pens are in the bags? ** ` before the line):
`There are 4*3=<<4*3=12>>12 pens in the bags.` / `#### 12`.

Solutions are whole. `omitted_first_steps`, 0 by default, is a dial for experiments: at 0.44, 44 in 100 of the
train solutions of several steps begin with the second step. Chance decides, and some templates omit it more
often than others. (About one in eight of GSM8K's train solutions uses a number that stands neither in its
question nor in an earlier calculation.)

Measured on train: 3.0 steps, 33 words a question, 17 words a `main` and 37 a `socratic` solution; half of the
results are below 70 and 3 % above 999; 16 % of the questions write small numbers as words, one in eight has a
sentence whose number is not needed. Over all 8,792 problems no answer is a copy of a number in its question
(GSM8K train: 5.5 %, commas ignored). Answers are exact integers, negative only in the category `below zero`
(2 % of train).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib.resources import files

from reckoner.errors import InputError
from reckoner.nano.generator import Attempt, Story, tell
from reckoner.nano.world import load
from reckoner.runs.records import Problem

SIZES = {"train": 7_473, "test": 1_319}
UNSEEN_TEST = 264
VARIANTS = ("main", "socratic")
WORLD = load(files("reckoner.nano"))
TEMPLATES = tuple(WORLD.templates)
UNSEEN_TEMPLATES = tuple(name for name in TEMPLATES if name in WORLD.unseen)
SEEN_TEMPLATES = tuple(name for name in TEMPLATES if name not in WORLD.unseen)
RELATIONS = tuple(WORLD.relations)
PEOPLE = tuple(person[""] for person in WORLD.groups["person"])


@lru_cache(maxsize=65_536)
def question_hash(question: str) -> str:
    """The sha256, in hex, of a question's lower-cased words joined by single spaces."""
    return hashlib.sha256(" ".join(question.lower().split()).encode()).hexdigest()


@cache
def reserved_hashes() -> frozenset[str]:
    """The hashes of all train and test questions. No problem of `stream` has one of them."""
    return frozenset(question_hash(story.question) for told in _sets().values() for _, story in told)


def category_of(template: str) -> str:
    """What the problems of a template are counted under: the file of its first relation, such as `money`."""
    file: str = WORLD.relations[WORLD.templates[template][0]]["file"]
    return file.removesuffix(".yaml").replace("_", " ")


CATEGORIES = tuple(dict.fromkeys(map(category_of, TEMPLATES)))


def problems(split: str, variant: str, omitted_first_steps: float = 0.0) -> list[Problem]:
    """All problems of `train` or `test`, with `main` or `socratic` solutions under the same ids.

    `omitted_first_steps` is the share of the train solutions of several steps that omit the first; in a
    template it is 0.5 to 1.5 times this. Raises `InputError` for an unknown split or variant.
    """
    if split not in SIZES:
        raise InputError(f"nano has no split {split!r}; it has train and test")
    _check_variant(variant)
    return [
        _problem(f"nano-{split}-{i:05d}", template, story, variant, omitted_first_steps * (split == "train"))
        for i, (template, story) in enumerate(_sets()[split])
    ]


def stream(
    n: int,
    seed: int,
    variant: str,
    category: str | None = None,
    templates: Sequence[str] | None = None,
) -> Iterator[Problem]:
    """`n` further problems, in neither fixed set.

    In a long stream a question may come twice (1 of 20,000).

    `category` keeps one category, `templates` names the allowed templates (by default all but the unseen
    ones). Raises `InputError`, before the first problem, for an impossible `n`, a seed that is no integer,
    an unknown variant, category or template, or a choice that leaves no template.
    """
    if type(n) is not int or n < 1:
        raise InputError(f"the number of problems must be a positive integer, not {n!r}")
    if type(seed) is not int:
        raise InputError(f"the seed must be an integer, not {seed!r}")
    _check_variant(variant)
    if category is not None and category not in CATEGORIES:
        raise InputError(f"unknown category {category!r}; the categories are {', '.join(CATEGORIES)}")
    names = SEEN_TEMPLATES if templates is None else tuple(templates)
    if unknown := [name for name in names if name not in TEMPLATES]:
        raise InputError(f"unknown template {unknown[0]!r}; see reckoner.nano.TEMPLATES")
    chosen = [name for name in names if category in (None, category_of(name))]
    if not chosen:
        raise InputError("no template is left by this choice of category and templates")
    stories = _stories(f"stream/{seed}", chosen)
    new = (told for told in stories if question_hash(told[1].question) not in reserved_hashes())
    return (
        _problem(f"nano-{seed}-{i:06d}", template, story, variant)
        for i, (template, story) in enumerate(itertools.islice(new, n))
    )


def _stories(name: str, chosen: Sequence[str]) -> Iterator[tuple[str, Story]]:
    """Stories without end, each with its template; its number of relations is drawn before it."""
    lengths: dict[int, list[str]] = {}
    for template in chosen:
        lengths.setdefault(len(WORLD.templates[template]), []).append(template)
    for count in itertools.count():
        seed = f"nano-2/{name}/{count}"
        draw = Attempt(WORLD, seed)
        template = draw.pick(draw.pick(list(lengths.values())))
        yield template, tell(WORLD, template, seed)


@cache
def _sets() -> dict[str, list[tuple[str, Story]]]:
    """The two fixed sets; test is drawn first and mixes seen and unseen, and train avoids it."""
    taken: set[str] = set()
    new = _fresh("test/unseen", UNSEEN_TEMPLATES, UNSEEN_TEST, taken)
    known = _fresh("test/seen", SEEN_TEMPLATES, SIZES["test"] - UNSEEN_TEST, taken)
    test = sorted(new + known, key=lambda told: question_hash(told[1].question))
    return {"train": _fresh("train", SEEN_TEMPLATES, SIZES["train"], taken), "test": test}


def _fresh(name: str, chosen: Sequence[str], n: int, taken: set[str]) -> list[tuple[str, Story]]:
    """The first `n` stories whose questions are not in `taken`, which grows by theirs."""
    stories, found = _stories(name, chosen), list[tuple[str, Story]]()
    while len(found) < n:
        template, story = next(stories)
        if (key := question_hash(story.question)) not in taken:
            taken.add(key)
            found.append((template, story))
    return found


def _omits_first_step(template: str, story: Story, share: float) -> bool:
    """Whether this story's solution omits its first step at this share; the same for both variants."""
    rate = share * (0.5 + _uniform(f"late/{template}"))
    return len(story.steps) > 1 and _uniform(f"late/{story.question}") < rate


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def _problem(name: str, template: str, story: Story, variant: str, omitted: float = 0.0) -> Problem:
    return Problem(
        id=name,
        question=story.question,
        solution=story.solution(variant, first=int(_omits_first_step(template, story, omitted))),
        gold=str(story.answer),
        variant=variant,
        source="nano",
        category=category_of(template),
        steps=len(story.steps),
        template=template,
        unseen=template in WORLD.unseen,
    )


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        raise InputError(f"nano has no variant {variant!r}; it has main and socratic")
