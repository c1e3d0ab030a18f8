"""The interpreter: each operation by a value worked out by hand, and what a template may get wrong."""

from collections import Counter
from contextlib import suppress
from fractions import Fraction
from itertools import count

import pytest

from reckoner import nano
from reckoner.errors import InputError
from reckoner.nano.generator import Attempt, Unsound, attempt, evaluate, numbers_in, tell
from reckoner.nano.world import Fault, Template, World

FORMS = ["How many are there?"]


def world(data, category="ages"):
    """The real words with one template, `t`."""
    template = Template("mine.yaml", category, {"category": category, "forms": FORMS} | data)
    return World(nano.WORLD.groups, nano.WORLD.tables, {"t": template}, ())


def ran(block, seed="x", least=2):
    done = Attempt(nano.WORLD, seed)
    done.run(block, least)
    return done


def values(block, seed="x"):
    return ran(block, seed).values


def seen(block, *names, tries=300):
    """How often the names take which values."""
    found = (values(block, f"{i}") for i in range(tries))
    return Counter(tuple(value[name] for name in names) for value in found)


def told(data, seed="x"):
    return tell(world(data), "t", seed)


@pytest.mark.parametrize(
    ("calculation", "value"),
    [
        ("4*3", 12),
        ("100-60-5", 35),
        ("7+2*3", 13),
        ("360*25/100", 90),
        ("7/2", Fraction(7, 2)),
        ("7/2*2", 7),
        ("5-9", -4),
        ("-4+9", 5),
        ("-4-3", -7),
        ("17//5", 3),
        ("17%5", 2),
        ("min(8, 5)+max(2, 3)", 8),
        ("3 > 2", True),
        ("3 == 2", False),
        ("(2+3)*4", 20),
    ],
)
def test_calculations_are_exact(calculation, value):
    assert evaluate(calculation) == value


@pytest.mark.parametrize(
    "calculation",
    [
        "2**3",
        "2*",
        "",
        "1.5+2",
        "'a'",
        "__import__('os')",
        "abs(3)",
        "1 < 2 < 3",
        "[1]",
        "min(1, 2, 3)",
        "not 1",
        "2 if 1 else 3",
    ],
)
def test_what_is_no_calculation_is_refused(calculation):
    with pytest.raises(Fault, match="cannot be computed"):
        evaluate(calculation)


def test_a_division_by_zero_is_unsound():
    for calculation in ("3/0", "7*4/0"):
        with pytest.raises(Unsound):
            evaluate(calculation)


def test_a_range_gives_every_number_of_it_and_no_other():
    assert set(seen({"draw": {"n": "3..6"}}, "n")) == {(3,), (4,), (5,), (6,)}
    assert set(seen({"draw": {"n": "10..30 step 10"}}, "n")) == {(10,), (20,), (30,)}
    bounds = seen({"draw": {"n": "2..3", "m": "n..min(n*2, 5) step n-1"}}, "n", "m")
    assert set(bounds) == {(2, 2), (2, 3), (2, 4), (3, 3), (3, 5)}


def test_an_option_gives_its_values_to_the_names():
    assert set(seen({"draw": {"n": [5, -1]}}, "n")) == {(5,), (-1,)}
    pairs = {"draw": {"k": "2..2", "word, sign": [["{k} more", "+"], ["less", "-"]]}}
    assert set(seen(pairs, "word", "sign")) == {("2 more", "+"), ("less", "-")}
    weighted = seen({"draw": {"word": ["down", "down", "up"]}}, "word")
    assert 160 < weighted[("down",)] < 240


def test_words_of_a_group_come_with_their_forms_and_never_twice():
    found = values({"draw": {"a, b": "person", "item": "fruit"}})
    assert found["a"] != found["b"] and {found["a.he"], found["a.He"]} in ({"she", "She"}, {"he", "He"})
    everybody = ", ".join(f"p{i}" for i in range(32))
    names = values({"draw": {everybody: "person"}})
    assert {names[f"p{i}"] for i in range(32)} == set(nano.PEOPLE)
    birds = ["ducks", "hens", "turkeys", "chickens"]
    pairs = {(x, y) for x in birds for y in birds if x != y}
    assert set(seen({"draw": {"x, y": "bird"}}, "x", "y")) == pairs
    assert (found["item"], found["item.a"]) in {(word[""], word[".a"]) for word in nano.WORLD.groups["fruit"]}


def test_let_computes_and_text_writes():
    block = {
        "draw": {"n": "4..4", "who": "person"},
        "let": {"m": "n * 3", "half": "m / 2"},
        "text": {"ask": "{m} and {half}, {n + 1}, {N}", "more": "[{ask}]"},
    }
    assert values(block)["more"] == "[12 and 6, 5, 4]"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("{k|times} as many", "twice as many"),
        ("{n|times} as many", "3 times as many"),
        ("{n|Part} of {k|part}", "A third of half"),
        ("3:{m|minutes} or 4:{m + 10|minutes}", "3:05 or 4:15"),
        ("{k|foot is|feet are} and {k - 1|foot is|feet are}", "feet are and foot is"),
        ("{What}: {what}, 5% of it", "A walk: a walk, 5% of it"),
    ],
)
def test_words_that_go_with_a_number_and_capitals(text, written):
    draw = {"k": [2], "n": [3], "m": [5], "what": ["a walk"]}
    assert values({"draw": draw, "text": {"out": text}})["out"] == written


def test_require_draws_again():
    story = told(
        {"draw": {"n": "2..99"}, "require": ["n > 97"], "steps": {"x": "How many? ** There are [{n}*2]."}}
    )
    assert story.answer in (196, 198)


def test_either_takes_each_case_and_whether_decides():
    cases = {"either": [{"text": {"out": "first"}}, {"text": {"out": "second"}}]}
    found = seen(cases, "out")
    assert set(found) == {("first",), ("second",)} and 110 < found[("first",)] < 190
    decided = {"draw": {"n": "1..2"}, "whether": "n == 2"} | cases
    assert set(seen(decided, "n", "out")) == {(1, "first"), (2, "second")}


def test_a_step_computes_and_annotates():
    steps = {
        "pens": "How many pens? ** She buys [{n}*3] pens.",
        "cost": "How much? ** They cost $[{pens}*5] in all.",
        "rest": "How much is left? ** $[100-{cost}] is left.",
    }
    story = told({"draw": {"n": [4]}, "steps": steps, "forms": ["How much is left of $100?"]})
    assert story.answer == 40
    assert story.solution("main") == (
        "She buys 4*3=<<4*3=12>>12 pens.\nThey cost 12*5=$<<12*5=60>>60 in "
        "all.\n100-60=$<<100-60=40>>40 is left.\n#### 40"
    )
    assert story.solution("socratic").splitlines()[0] == "How many pens? ** She buys 4*3=<<4*3=12>>12 pens."
    assert story.solution("main", first=2) == "100-60=$<<100-60=40>>40 is left.\n#### 40"


@pytest.mark.parametrize("expression", ["7/2", "3-3", "5-9", "1/0", "5-4", "99999+1"])
def test_results_that_do_not_fit_make_the_draw_unsound(expression):
    with pytest.raises(Unsound):
        ran({"steps": {"x": f"What? ** It is [{expression}]."}})


@pytest.mark.parametrize("expression", ["5-5", "5-4", "4-5", "3-14"])
def test_a_negative_least_still_refuses_what_has_no_plural(expression):
    with pytest.raises(Unsound):
        ran({"steps": {"x": f"What? ** It is [{expression}] degrees."}}, least=-10)


def test_least_admits_small_and_negative_results():
    assert ran({"steps": {"x": "What? ** It is [5-4]."}}, least=1).answer == 1
    story = told({"least": -10, "steps": {"x": "What? ** It is [5-9] degrees."}})
    assert story.solution("main") == "It is 5-9=<<5-9=-4>>-4 degrees.\n#### -4"


def asked(question, seed="x", answer="4*3"):
    data = {"category": "ages", "steps": {"x": f"What? ** It is [{answer}]."}, "forms": [question]}
    return attempt(nano.WORLD, data, seed)


def test_an_answer_that_the_question_contains_is_drawn_again():
    for question in ("He had 12 and 3.", "He had twelve.", "It was 12?"):
        with pytest.raises(Unsound):
            asked(question)
    with pytest.raises(Unsound):
        asked("There are 1500 people.", answer="1200+300")
    assert asked("He had 4 and 3.").answer == 12


def test_long_numbers_get_commas_and_small_ones_sometimes_words():
    text = "5 hens, 12 cows and 13 pigs cost $7, or 1200 coins, or 8% of 3:15 p.m. at 4 p.m. 6 leave."
    found = Counter(asked(text, f"w{i}", "900+1").question for i in range(400))
    digits = "5 hens, 12 cows and 13 pigs cost $7, or 1,200 coins, or 8% of 3:15 p.m. at 4 p.m. 6 leave."
    words = (
        "Five hens, twelve cows and 13 pigs cost $7, or 1,200 coins, or 8% of 3:15 p.m. at 4 p.m. Six leave."
    )
    assert set(found) == {digits, words} and 50 < found[words] < 120


def test_numbers_in_reads_commas_and_words():
    assert numbers_in("Two of 1,450 people, $3.50, weighTen or ten") == [2, 1450, 3, 50, 10]


def test_below_is_the_pinned_twister():
    done = Attempt(nano.WORLD, "pinned")
    assert [done.below(100) for _ in range(8)] == [46, 69, 11, 0, 62, 45, 17, 30]


def test_an_aside_marks_a_distractor_and_its_number_is_drawn_either_way():
    data = {"steps": {"x": "What? ** It is [2+3]."}, "forms": ["How?{aside}"]}
    both = data | {"aside": ["Tom is {7..9}.", "It is {20..22}."]}
    stories = [told(both, f"{i}") for i in range(300)]
    found = Counter(story.question for story in stories)
    asides = {f"How? Tom is {n}." for n in (7, 8, 9)} | {f"How? It is {n}." for n in (20, 21, 22)}
    in_digits = {
        question for question in found if not any(word in question for word in ("seven", "eight", "nine"))
    }
    assert in_digits == asides | {"How?"} and 110 < found["How?"] < 190
    assert all(story.distractor == (story.question != "How?") for story in stories)
    assert not told(data).distractor


def test_every_form_is_told():
    data = {"steps": {"x": "What? ** It is [2+3]."}, "forms": ["First?", "Second?"]}
    stories = [told(data, f"{i}") for i in range(50)]
    assert {(s.form, s.forms, s.question) for s in stories} == {(0, 2, "First?"), (1, 2, "Second?")}


def test_a_story_is_the_first_sound_attempt():
    data = nano.WORLD.templates["above_the_mean"].data
    for number in count():
        with suppress(Unsound):
            expected = attempt(nano.WORLD, data, f"above_the_mean/s/{number}")
            break
    assert number > 0 and tell(nano.WORLD, "above_the_mean", "s") == expected


STEP = {"x": "How many? ** There are [2+3]."}


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"steps": {"x": "How many? ** There are [{n}+3]."}}, "n has no value"),
        ({"steps": {"x": "How many? ** {who} has [2+3]."}}, "who has no value"),
        ({"steps": STEP, "forms": ["{pens}?"]}, "pens has no value"),
        ({"steps": STEP, "forms": ["{5 - n|foot|feet}?"]}, "n has no value"),
        ({"draw": {"who": "person"}, "steps": STEP, "forms": ["{who.a}?"]}, "who.a has no value"),
        ({"steps": STEP, "forms": ["{7|part}?"]}, "has no words for 7"),
        ({"steps": STEP, "forms": ["{7|parts}?"]}, "|parts has no value"),
        ({"let": {"n": "2 ** 3"}, "steps": STEP}, "'2 ** 3' cannot be computed"),
        ({"require": ["n >"], "steps": STEP}, "'n >' cannot be computed"),
        ({"draw": {"item": "furniture"}, "steps": STEP}, "'furniture' is neither a range nor a group of"),
        ({"draw": {"x, y, z, v, w": "bird"}, "steps": STEP}, "x, y, z, v, w: bird has too few words"),
        ({"steps": STEP, "forms": ["How {}?"]}, "'' cannot be computed"),
        ({"draw": {"n": "9..2"}, "steps": STEP}, "the range 9..2 is empty"),
        (
            {"draw": {"x, y": [["a", "b"], ["c"]]}, "steps": STEP},
            "does not hold one text or integer for each name",
        ),
        ({"draw": {"x": [False, True]}, "steps": STEP}, "does not hold one text or integer for each name"),
        ({"draw": {"x, y": ["a", "b"]}, "steps": STEP}, "does not hold one text or integer for each name"),
        ({"steps": {"x": "There are [2+3]."}}, "is not a step"),
        ({"steps": {"x": "How many? ** There are 5."}}, "is not a step"),
        ({"steps": {"x": "How many? ** There are [1+2] or [2+3]."}}, "is not a step"),
        ({}, "it has no steps"),
        ({"require": ["1 > 2"], "steps": STEP}, "no draw fits its own rules"),
    ],
)
def test_data_without_meaning_are_refused_with_file_and_template(data, fault):
    with pytest.raises(InputError) as refused:
        for i in range(20):
            told(data, f"{i}")
    assert str(refused.value).startswith("mine.yaml: template t: ") and fault in str(refused.value)
