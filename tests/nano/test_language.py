"""What a careful reader would check, on many problems of each template."""

import re
from collections import Counter

import pytest

from reckoner import nano
from reckoner.nano.generator import tell

ODD = {
    "double space": r"  ",
    "space before a mark": r" [.,?]",
    "doubled mark": r"(?<!\.m)[.,?]{2}|\.m[.,?]{3}",
    "doubled word": r"\b([A-Za-z]+) \1\b",
    "one of many": r"(?<![-\d])\b1 (apple|pen|degree|day|hour|foot|mile|page|box|game)(s|es)\b|\b1 feet\b",
    "article": r"\b[Aa] ([aeio]|\$?(8|11|18|8\d)\b)|\b[Aa]n (?!hour)[^aeiou\W]",
    "glued sentences": r"[a-z][A-Z]|[a-z\d][?.][A-Za-z](?!\.)",
    "left over from a template": r"[\[\]{}_]|None",
    "lower-case start": r"^[a-z]|(?<!p\.m)(?<!a\.m)[.?] [a-z]",
    "money with a minus": r"\$-|-\$",
}
ENOUGH = 12


@pytest.fixture(scope="module")
def told():
    return {name: [tell(nano.WORLD, name, f"read/{i}") for i in range(ENOUGH)] for name in nano.TEMPLATES}


def sentences(story):
    return [story.question, *(text for step in story.steps for text in step)]


@pytest.mark.parametrize("fault", ODD)
def test_the_english_is_regular(told, fault):
    pattern = re.compile(ODD[fault])
    found = [
        text
        for stories in told.values()
        for story in stories
        for text in sentences(story)
        if pattern.search(text)
    ]
    assert not found, found[:3]


def test_every_sentence_ends(told):
    for stories in told.values():
        for story in stories:
            assert story.question[-1] in "?." and ("?" in story.question or "Find the " in story.question)
            assert all(ask.endswith("?") and say.endswith(".") for ask, say in story.steps)


def test_pronouns_agree_with_the_only_person(told):
    """In a story about one person only that person's pronouns may appear."""
    wrong = {"she": {"he", "his", "him"}, "he": {"she", "her"}}
    checked = 0
    for stories in told.values():
        for story in stories:
            text = " ".join(sentences(story))
            names = [p for p in nano.WORLD.groups["person"] if re.search(rf"\b{p['']}\b", text)]
            if len({p[".he"] for p in names}) == 1:
                checked += 1
                assert not wrong[names[0][".he"]] & set(re.findall(r"[a-z]+", text.lower())), text
    assert checked > 4_000


def test_there_are_enough_templates_categories_and_sentences(told):
    assert len(nano.TEMPLATES) == 1040 and len(nano.CATEGORIES) == 8 and len(nano.RELATIONS) == 105
    categories = Counter(map(nano.category_of, nano.TEMPLATES))
    assert min(categories.values()) >= 50 and max(categories.values()) <= 400
    assert all(len(set(kind["ask"])) == len(kind["ask"]) >= 1 for kind in nano.WORLD.kinds.values())
    for name, relation in nano.WORLD.relations.items():
        assert len(set(relation.get("say", relation.get("ask")))) >= 2, name


def test_a_part_of_the_problems_has_a_distractor(told):
    share = sum(story.distractor for stories in told.values() for story in stories) / (ENOUGH * len(told))
    assert 0.1 < share < 0.16


def test_solutions_use_only_arithmetic_of_the_range(told):
    """Products have a factor of one digit, 10, 11, 12, 25 or a round one; quotients a like divisor.

    Measured: 99 %.
    """
    hard = total = 0
    for stories in told.values():
        for story in stories:
            for expression in re.findall(r"<<([^=]+)=", story.solution("main")):
                total += 1
                a, *rest = (abs(int(n)) for n in re.findall(r"\d+", expression))
                small = [n <= 12 or n % 10 == 0 or n == 25 for n in (a, *rest)]
                hard += ("*" in expression and "/" not in expression and not any(small)) or (
                    "/" in expression and not small[-1]
                )
    assert hard / total < 0.01
