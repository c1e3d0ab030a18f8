"""One hand-made completion of each kind, the order of the rules, and text that wants to do harm."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckoner.analysis import mistakes
from reckoner.analysis.mistakes import KINDS, diagnose, repeated_end
from reckoner.runs.records import Completion, Problem
from reckoner.tasks.answers.grading import grade

PENS = Problem(
    "p-1",
    "Ann buys 3 packs with 12 pens each. She gives 6 pens to Ben and shares the rest equally between "
    "5 friends. How many pens does each get?",
    "Ann has 3*12=<<3*12=36>>36 pens.\nShe keeps 36-6=<<36-6=30>>30 pens.\nEach gets "
    "30/5=<<30/5=6>>6 pens.\n#### 6",
    "6",
    "main",
    "hand",
)
HOURS = Problem(
    "p-2",
    "Tom walks for 45 minutes on each of 4 days. How many hours does he walk?",
    "He walks 45*4=<<45*4=180>>180 minutes.\nThat is 180/60=<<180/60=3>>3 hours.\n#### 3",
    "3",
    "main",
    "hand",
)
TYPO = Problem(
    "p-3",
    "Sue has 320 dollars and spends 20. What is left?",
    "So she has 32 - 20 = 300 dollars left.\n#### 300",
    "300",
    "main",
    "hand",
)


def sort(text, problem=PENS, finish="stop"):
    completion = Completion(problem.id, 0, "", text, 7, finish, 0.0, "")
    found = diagnose(problem, completion, grade(completion, problem))
    return (found.kind, found.detail, found.step) if found else None


@pytest.mark.parametrize(
    ("text", "kind", "detail", "step"),
    [
        ("Ann has 3*12=<<3*12=36>>36 pe", "no_answer", "there is no #### marker", None),
        ("#### about six", "no_answer", "no well-formed number follows the marker", None),
        (
            "Each gets 30/5=6 pens. The answer is 6.",
            "format",
            "the last number is right, there is no #### marker",
            None,
        ),
        (
            "#### so it is 6",
            "format",
            "the last number is right, no well-formed number follows the marker",
            None,
        ),
        ("Hm.\nQuestion: Bob has 4 cats.", "ran_on", "a new question begins before any answer", None),
        (
            "#### 6\nNext: 6+1=7\n#### 7",
            "ran_on",
            "the first marked answer was right, the text went on and ends with 7",
            None,
        ),
        ("<<3*12=35>>35\n<<35-5=30>>30\n<<30/6=5>>5\n#### 5", "arithmetic", "3*12 = 35, right is 36", 0),
        ("3 * 12 = 36\n36 - 6 = 28 pens\n#### 5", "arithmetic", "36 - 6 = 28, right is 30", 1),
        (
            "<<3*12=36>>36\n<<36-6=30>>30\n<<30/5=6>>6\n#### 30",
            "final_copy",
            "the last calculation is 30/5 = 6, the answer says 30",
            2,
        ),
        (
            "<<3*12=36>>36\n<<36-6=30>>30\n<<30/5=6>>6\n<<6*2=12>>12\n#### 12",
            "extra_step",
            "30/5 = 6 is the right number, then comes 6*2 = 12",
            3,
        ),
        (
            "I take 12.\n#### 12",
            "copied_number",
            "12 stands in the question, and no calculation yields it",
            None,
        ),
        (
            "<<3*12=36>>36\n<<36-6=30>>30\n#### 30",
            "missing_step",
            "stops at 36-6 = 30, which the reference has too and then has 30/5 = 6",
            1,
        ),
        (
            "<<3*12=36>>36\n#### 35",
            "missing_step",
            "stops at 3*12 = 36, which the reference has too and then has 36-6 = 30",
            0,
        ),
        ("<<25+5=30>>30\n#### 30", "invented_number", "25+5 = 30: nothing gives 25", 0),
        ("<<3*12=36>>36\n<<36-17=19>>19\n#### 19", "invented_number", "36-17 = 19: nothing gives 17", 1),
        (
            "<<3*12=36>>36\n<<36+6=42>>42\n#### 42",
            "wrong_operation",
            "36+6 = 42, the reference has 36-6 = 30",
            1,
        ),
        (
            "<<3*12=36>>36\n<<36-5=31>>31\n#### 31",
            "wrong_number",
            "36-5 = 31, the reference has 36-6 = 30",
            1,
        ),
        ("<<3+12+5=20>>20\n#### 20", "other_plan", "3+12+5 = 20, the reference has 3*12 = 36", 0),
        ("Magic.\n#### 77", "no_steps", "no calculation can be read", None),
    ],
)
def test_each_kind(text, kind, detail, step):
    assert sort(text) == (kind, detail, step)


def test_the_right_answer_has_no_kind():
    assert sort(PENS.solution) is None
    assert sort("<<1+1=3>>3\n#### 6") is None


def test_a_conversion_forgotten():
    assert sort("<<45*4=180>>180\n#### 180", HOURS) == (
        "unit",
        "the answer is the right number times 60",
        None,
    )
    assert sort("#### 0.05", HOURS)[0] == "unit"
    assert sort("#### 75", HOURS)[0] == "no_steps"


def test_a_reference_that_is_false_itself():
    assert sort("<<320-21=299>>299\n#### 299", TYPO)[:2] == (
        "gold_suspicious",
        "the reference says 32 - 20 = 300",
    )
    lost = Problem("p", "How many?", "It is 4.\n#### 5", "5", "main", "")
    assert sort("#### 4", lost)[:2] == ("gold_suspicious", "5 appears nowhere in the reference solution")
    for told in ("It is five.\n#### 5", "So $0.05.\n#### 5", "2+3=<<2+3=5>>5\n#### 5"):
        assert sort("#### 4", Problem("p", "How many?", told, "5", "main", ""))[0] == "no_steps"


def test_truncation_comes_first():
    assert sort("<<1+1=3>>3 and so", finish="length") == ("truncated", "cut at the limit of 7 tokens", None)
    assert sort("It is 0." + "27" * 40)[:2] == ("truncated", "repeats '27' until the end")
    assert sort("I do not know. " * 6)[0] == "truncated"


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("x" * 40, "x"),
        ("so " * 20, "so"),
        ("He has 3 pens.\n" * 5, "He has 3 pens."),
        ("abc" * 13, ""),
        ("one two three four five six seven eight nine ten eleven", ""),
        ("", ""),
    ],
)
def test_repeated_end(text, phrase):
    found = repeated_end(text)
    assert found.strip() == phrase or phrase and found.strip() in phrase * 2


@given(st.text("abc", min_size=1, max_size=6), st.text("ab cd", max_size=30), st.integers(4, 30))
def test_whatever_is_repeated_often_enough_is_found(unit, before, times):
    assert repeated_end(before + unit * max(times, 40 // len(unit) + 1))


def test_percentages_fractions_and_words_are_given_numbers():
    problem = Problem(
        "p",
        "A third of 90 cups, 20% of them red, in three boxes of 1/4 litre. A dozen fell.",
        "<<90/3=30>>30\n<<30*.2=6>>6\n#### 6",
        "6",
        "main",
        "",
    )
    for expression in ("90*0.8", "90*1/3", "90*.25", "90-12", "90*3", "90*.01"):
        assert (
            sort(f"<<{expression}={eval_plain(expression)}>>1\n#### 1000", problem)[0] != "invented_number"
        ), expression
    assert sort("<<90*17=1530>>1530\n#### 1530", problem)[0] == "invented_number"


def eval_plain(expression):
    from reckoner.tasks.arithmetic import evaluate, format_number

    return format_number(evaluate(expression))


def test_a_new_kind_is_one_function(monkeypatch):
    """Registered, it is tried after the others before it, under the name of its function."""
    monkeypatch.setattr(mistakes, "KINDS", {name: KINDS[name] for name in ("truncated", "format")})

    @mistakes.kind("mine", "Whatever is left.")
    def mine(case):
        return f"the answer is {case.answer_text}", None

    assert list(mistakes.KINDS) == ["truncated", "format", "mine"] and mistakes.KINDS["mine"].title == "mine"
    assert sort("Magic.\n#### 77") == ("mine", "the answer is 77", None)
    assert sort("Each gets 30/5=6 pens. The answer is 6.")[0] == "format"


def test_every_kind_has_a_finder_and_a_definition():
    assert len(KINDS) == 16 and set(KINDS) == {kind.name for kind in KINDS.values()}
    assert all(kind.find.__name__ == name for name, kind in KINDS.items())
    assert all(kind.title and kind.definition.endswith(".") for kind in KINDS.values())


HOSTILE = [
    "", "\0", "\x1b[31mred\x1b[0m", "\x1b]8;;http://x\x07link\x1b]8;;\x07", "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "@SUM(1)", "\ud800", "\u202e666", "9" * 5000, "#### " + "9" * 5000, "<<" + "9" * 5000 + "*2=3>>",
    "<<1/0=5>>\n#### 5",
    "<<9**9**9=1>>", "{{7*7}}", "{0.__class__}", "%s%s%n", "####" * 500, "<<" * 3000, "(" * 3000,
    "1+" * 3000, "= " * 3000, "\u2028", "٣ + ٤ = ٧",
]  # fmt: skip


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize(
    "wrap", ["{}", "3*12=36 {}", "{}\n#### 5", "<<3*12=37>>{}\n#### 1e9999999", "Question: {}"]
)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_gets_a_kind(text, wrap, finish):
    found = sort(wrap.replace("{}", text), finish=finish)
    assert found is None or found[0] in KINDS


def test_hostile_questions_and_references_are_only_read():
    for text in HOSTILE:
        problem = Problem("p", text, f"{text}\n#### 5", "5", "main", "")
        assert sort("<<3*12=36>>36\n#### 36", problem)[0] in KINDS


@given(st.text(max_size=200))
def test_any_text_gets_a_kind(text):
    found = sort(text)
    assert found is None or found[0] in KINDS


@pytest.mark.parametrize("unit", ["12 + 5 = 17. ", "#### 3\n", "ab", "<<1+1=3>>", "Question "])
def test_time_is_linear_in_the_text(unit):
    began = time.process_time()
    sort((unit * 50_000)[:50_000] + "\n#### 5")
    assert time.process_time() - began < 4
