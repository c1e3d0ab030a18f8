from collections import Counter
from contextlib import suppress
from itertools import count

import pytest

from reckoner.tasks.templates import REGISTRY, Draw, Template, numbers_in
from reckoner.tasks.templates.story import Unsound, listed, template
from reckoner.tasks.templates.words import ITEMS, PEOPLE, Item


def test_a_step_computes_and_annotates():
    d = Draw("x")
    assert d.step("How many pens?", "She buys [4*3] pens.") == 12
    assert d.step("How much?", "They cost $[12*5] in all.") == 60
    assert d.step("Left?", "$[100-60] is left.") == 40
    story = d.ask("How much is left of $100?")
    assert story.answer == 40
    assert story.solution("main") == (
        "She buys 4*3=<<4*3=12>>12 pens.\nThey cost 12*5=$<<12*5=60>>60 in all.\n100-60=$<<100-60=40>>40 is left.\n#### 40"
    )
    assert story.solution("socratic").splitlines()[0] == "How many pens? ** She buys 4*3=<<4*3=12>>12 pens."


def test_lists_read_as_a_sentence_does():
    assert listed(["one", "two"]) == "one and two" and listed(["one", "two", "three"]) == "one, two and three"


@pytest.mark.parametrize("expression", ["7/2", "3-3", "5-9", "2*", "1/0", "5-4"])
def test_results_that_do_not_fit_make_the_draw_unsound(expression):
    with pytest.raises(Unsound):
        Draw("x").step("?", f"[{expression}]")


@pytest.mark.parametrize("expression", ["5-5", "5-4", "4-5", "3-14"])
def test_a_negative_least_still_refuses_what_has_no_plural(expression):
    with pytest.raises(Unsound):
        Draw("x").step("?", f"It is [{expression}] degrees.", least=-10)


def test_least_admits_small_and_negative_results():
    d = Draw("x")
    assert d.step("?", "[5-4]", least=1) == 1 and d.step("?", "It is [5-9] degrees.", least=-10) == -4
    assert d.ask("?").solution("main").endswith("5-9=<<5-9=-4>>-4 degrees.\n#### -4")


def test_an_answer_that_the_question_contains_is_drawn_again():
    for question in ("He had 12 and 3.", "He had twelve.", "It was 12?"):
        d = Draw("x")
        d.step("?", "[4*3]")
        with pytest.raises(Unsound):
            d.ask(question)
    d = Draw("x")
    d.step("?", "[1200+300]")
    with pytest.raises(Unsound):
        d.ask("There are 1500 people.")


def test_long_numbers_get_commas_and_small_ones_sometimes_words():
    text = "5 hens, 12 cows and 13 pigs cost $7, or 1200 coins, or 8% of 3:15 p.m. at 4 p.m. 6 leave."
    seen = Counter(Draw(f"w{i}").ask(text).question for i in range(400))
    digits = "5 hens, 12 cows and 13 pigs cost $7, or 1,200 coins, or 8% of 3:15 p.m. at 4 p.m. 6 leave."
    words = (
        "Five hens, twelve cows and 13 pigs cost $7, or 1,200 coins, or 8% of 3:15 p.m. at 4 p.m. Six leave."
    )
    assert set(seen) == {digits, words} and 50 < seen[words] < 120


def test_numbers_in_reads_commas_and_words():
    assert numbers_in("Two of 1,450 people, $3.50, weighTen or ten") == [2, 1450, 3, 50, 10]


def test_draws_depend_on_the_seed_alone():
    d = Draw("seed")
    first = [d.below(1000) for _ in range(5)]
    again, other = Draw("seed"), Draw("seeds")
    assert [again.below(1000) for _ in range(5)] == first != [other.below(1000) for _ in range(5)]
    assert all(3 <= Draw(f"{i}").number(3, 9) <= 9 for i in range(200))
    assert {Draw(f"{i}").number(10, 30, 5) for i in range(200)} == {10, 15, 20, 25, 30}
    assert len({p.name for p in Draw("x").people(30)}) == 30
    assert len(set(Draw("x").items("fruit", 6))) == 6


def test_below_is_the_pinned_twister():
    d = Draw("pinned")
    assert [d.below(100) for _ in range(8)] == [46, 69, 11, 0, 62, 45, 17, 30]


def test_relation_pairs_words_with_arithmetic():
    for i in range(100):
        phrase, op = Draw(f"{i}").relation("pens")
        if op[0] in "+-":
            assert phrase == f"{op[1:]} {'more' if op[0] == '+' else 'fewer'} pens than"
        else:
            assert phrase in {
                "twice as many pens as",
                "half as many pens as",
                f"{op[1:]} times as many pens as",
            }


def test_aside_marks_a_distractor():
    for i in range(20):
        d = Draw(f"{i}")
        text = d.aside("Tom is 9.")
        d.step("?", "[2+3]")
        assert d.ask(f"How?{text}").distractor == bool(text) and text in {"", " Tom is 9."}


def test_vocabulary_is_small_and_regular():
    names = [person.name for person in PEOPLE]
    assert len(set(names)) == len(names) == 32 and not any(name.endswith("s") for name in names)
    nouns = [item for group in ITEMS.values() for item in group]
    assert len({item.one for item in nouns}) == len(nouns) < 60
    assert Item("apple", "apples").a == "an apple" and Item("pen", "pens").a == "a pen"
    assert str(ITEMS["fruit"][3]) == "peaches"


def test_a_name_is_registered_once():
    with pytest.raises(AssertionError, match="two templates are called two_jobs"):

        @template("wages")
        def two_jobs(d):
            return d.ask("?")


def test_a_template_that_never_fits_crashes():
    def never(d):
        d.require(False)
        return d.ask("?")

    with pytest.raises(AssertionError, match="never fits"):
        Template("never", "ages", never).tell("x")


def test_a_story_is_the_first_sound_attempt():
    entry = REGISTRY["above_the_mean"]
    for attempt in count():
        with suppress(Unsound):
            expected = entry.write(Draw(f"above_the_mean/s/{attempt}"))
            break
    assert attempt > 0 and entry.tell("s") == expected
