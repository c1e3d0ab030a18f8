"""The rules R1 to R14 by hand-worked cases, the shared corpus, real labelled completions, an oracle, and
hostile text."""

from __future__ import annotations

import ast
import gc
import json
import random
import re
import time
from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reckoner.errors import InputError
from reckoner.runs.records import Completion, Problem, Verdict
from reckoner.tasks.answers.grading import grade
from reckoner.tasks.answers.number import extract_gold, gold_number, grade_text, read
from reckoner.tasks.answers.reading import STOP_STRINGS

ROOT = Path(__file__).parents[3]
SHARED = ROOT / ".." / "shared"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def lines(path: Path) -> list[dict]:
    if not path.exists():
        pytest.skip(f"no {path.name} beside the checkout")
    with open(path, encoding="utf8") as file:
        return [json.loads(line) for line in file]


def gsm8k(name: str) -> list[dict]:
    return lines(SHARED / "data" / "gsm8k" / f"{name}.jsonl")


def test_the_shared_corpus_agrees():
    fields = ("strict", "flexible", "strict_value", "flexible_value")
    cases = lines(SHARED / "cases" / "extraction.jsonl")
    wrong = [
        case["id"]
        for case in cases
        if any(getattr(grade_text(case["completion"], case["gold"]), f) != case[f] for f in fields)
    ]
    assert (len(cases), wrong) == (120, [])


def test_openai_s_own_labels_agree():
    solutions = zip(gsm8k("test"), gsm8k("example_model_solutions"), strict=True)
    rows = [
        (extract_gold(problem["answer"]), models[name]) for problem, models in solutions for name in MODELS
    ]
    agree = sum(
        grade_text(re.sub(r"(?:\A|\n)A:(?=[^\n]*\Z)", "\n####", row["solution"]), gold).strict
        == row["is_correct"]
        for gold, row in rows
    )
    assert (len(rows), agree) == (5_276, 5_276)


def test_every_gold_solution_is_right():
    answers = [row["answer"] for name in ("train", "test", "test_socratic") for row in gsm8k(name)]
    grades = [grade_text(answer, extract_gold(answer)) for answer in answers]
    assert (len(grades), sum(g.strict for g in grades), sum(g.flexible for g in grades)) == (
        10_111,
        10_111,
        10_111,
    )


@pytest.mark.parametrize("stop", STOP_STRINGS)
def test_r1_cut_at_a_stop_string(stop):
    reading = read(f"#### 42{stop} next #### 43")
    assert (reading.strict, reading.flexible, reading.markers, reading.cut) == (42, 42, 1, True)


def test_r1_only_at_the_start_of_a_line():
    assert read("#### 42 Question: 7").flexible == 7
    assert read("#### 42\n  Question: 7").flexible == 42
    assert not read("Q: what?\n#### 42").cut


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Let me restate it.\nProblem: find 2 * 3.\nSolution: 2 * 3 = 6\n#### 6", 6),
        ("Sub-questions.\nQ: pens in a box? 4.\nQ: boxes? 3.\nSo 4 * 3 = 12.\n#### 12", 12),
        ("\nQuestion: How many apples?\nAnswer: 2 + 3 = 5\n#### 5", 5),
        ("#### Step 1\nQ: pens? 4.\n#### 12", 12),
    ],
)
def test_r1_a_new_problem_before_any_marked_answer_restates_the_task(text, value):
    assert (read(text).strict, read(text).flexible, read(text).cut) == (value, value, False)


@pytest.mark.parametrize("answer", ["#### 5", "#### <<2+3=5>>5", "####\n$5"])
def test_r1_a_new_problem_behind_a_marked_answer_ends_it(answer):
    reading = read(f"Q: pens?\n2 + 3 = 5\n{answer}\nProblem: And 3 + 4?\n#### 7")
    assert (reading.strict, reading.flexible, reading.markers, reading.cut) == (5, 5, 1, True)


def test_r1_without_a_marked_answer_the_first_new_problem_ends_the_text():
    reading = read("The answer is 5.\nQ: And 3 + 4? The answer is 7.")
    assert (reading.strict, reading.flexible, reading.cut) == (None, 5, True)


def test_r1_an_end_token_always_ends_the_text():
    assert read("No.</s>#### 5") == read("No.</s>")


STRICT = {
    # R2: look-alikes
    "#### ４２": 42,
    "＃＃＃＃ 42": 42,
    "#### \u22125": -5,
    "#### \u20115": -5,
    "#### 1\u20442": Fraction(1, 2),
    "####\u00a042": 42,
    "#### 4\u200b2\u202c": 42,
    "\ufeff#### 42": 42,
    "#### 15 m²": 15,
    "#### ٤٢": None,
    "#### ＄18": 18,
    "####\u202842": 42,
    # R3: annotations are removed first
    "#### <<6*7=42>>42": 42,
    "#### 42<<6*7=42>>": 42,
    "<<#### 5>>": None,
    "#### <<6*7=42": None,
    # R4: the marker
    "####42": 42,
    "########\t42": 42,
    "####\n42": 42,
    "####\r\n42": 42,
    "####\n\n42": None,
    "### 42": None,
    "# # # # 42": None,
    # R5: the last marker
    "#### 5\n#### 6": 6,
    "#### 5\n####": None,
    "#### 5\n#### six": None,
    # R6: between marker and number
    "#### $ 18": 18,
    "#### -$18": -18,
    "#### $-18": -18,
    "#### \\$18": 18,
    "#### ₹18": 18,
    "#### **42**": 42,
    "#### _42_": 42,
    "#### `42`": 42,
    "#### \\(42\\)": 42,
    "#### \\[42\\]": 42,
    "#### $\\boxed{\\text{42}}$": 42,
    "#### - 5": -5,
    "#### +5": 5,
    "#### --5": None,
    "#### +-5": None,
    "#### USD 18": None,
    "#### about 18": None,
    "#### = 18": None,
    "#### (18)": None,
    '#### "18"': None,
    "#### <b>18</b>": None,
    "#### ~18": None,
    # R7: well-formed numbers
    "#### 1,450": 1450,
    "#### 1,450,000.50": Fraction(2900001, 2),
    "#### 12,34,567": 1234567,
    "#### .5": Fraction(1, 2),
    "#### 0072.50": Fraction(145, 2),
    "#### 1.2e3": 1200,
    "#### 5E-1": Fraction(1, 2),
    "#### 1e30": 10**30,
    "#### 1e31": None,
    "#### 3/4": Fraction(3, 4),
    "#### 1,000/4": 250,
    "#### 5/0": None,
    "#### 1 1/2": Fraction(3, 2),
    "#### -1 1/2 cups": Fraction(-3, 2),
    "#### 1 1/0": None,
    "#### 5 million": 5 * 10**6,
    "#### 1.5 Hundred thousand": 150_000,
    "#### 5 thousandths": 5,
    "#### 5 dozen": 5,
    "#### 2:00 PM": 2,
    "#### 2:30": None,
    "#### 2:00:00": None,
    "#### 12\u00a0000": 12000,
    "#### 12\u2009000 pens": 12000,
    "#### 12\\,000": 12000,
    "#### 12{,}000": 12000,
    "#### 12 000": 12000,
    "#### $118 000.": 118000,
    "#### 12 000 pens": 12,
    "#### 12 0000": 12,
    # R8: malformed is no answer, never a prefix
    "#### 1,2": None,
    "#### 3,5": None,
    "#### 1.2.3": None,
    "#### 1.450.000": None,
    "#### 1234,567": None,
    "#### 1,234,56": None,
    "#### 1,2345": None,
    "#### 1{,}2": None,
    "#### 1e3.5": None,
    "#### 1.5/2": None,
    "#### 1/2/3": None,
    "#### 1/2.5": None,
    "#### 5...6": None,
    # R9: hedges and expressions
    "#### 5 or 6": None,
    "#### 5-6": None,
    "#### 5 - 6": None,
    "#### 5, 6": None,
    "#### 5; 6": None,
    "#### 5 to 6": None,
    "#### 5 and 6": None,
    "#### 5, or $6": None,
    "#### 5 (or 6)": None,
    "#### 5 + 3 = 8": None,
    "#### 5 = 5": None,
    "#### 2*3": None,
    "#### 2**3": None,
    "#### 2 ** 3": None,
    "#### 2^3": None,
    "#### 3 x 4": None,
    "#### 1.2 \\times 10^3": None,
    "#### 5 / 6": None,
    "#### 5 ± 1": None,
    "#### 5! = 120": None,
    "#### **5** or **6**": None,
    "#### 5% to 6%": None,
    "#### $5 - $6": None,
    "#### 18 + x": 18,
    "#### 5 or so": 5,
    "#### 5-year-olds": 5,
    "#### 3 30-minute episodes": 3,
    "#### 5 x": 5,
    # R10: what may follow
    "#### 460.": 460,
    "#### 5...": 5,
    "#### 5!": 5,
    "#### 5)": 5,
    "#### 25%": 25,
    "#### 25\\%": 25,
    "#### 5kg": 5,
    "#### 5th": 5,
    "#### 60/hour": 60,
    "#### 18$": 18,
    "#### 85¢": 85,
    "#### 42\x00": 42,
    "#### 42</b>": 42,
    "#### 5, so she has more": 5,
    "#### 4_2": 4,
    # R12: limits
    "#### " + "9" * 64: 10**64 - 1,
    "#### " + "9" * 65: None,
    "#### 5" + " hundred" * 9: 5 * 10**6,
    # R14: nothing to read
    "": None,
    "   ": None,
    "####": None,
    "#### .": None,
    "#### -": None,
    "#### inf": None,
    "#### nan": None,
    "#### 0x2A": None,
    "#### ½": None,
    "#### \\frac{1}{2}": None,
}


@pytest.mark.parametrize(("text", "value"), STRICT.items())
def test_strict_value(text, value):
    assert read(text).strict == value


FLEXIBLE = {
    # a minus behind a bracketed calculation is a sign: an equation is no term
    "-18+4=((-18+4=-14))-14 degrees": -14,
    "1-11=[1-11=-10]-10 muffins": -10,
    "{1-2=-1}-1": -1,
    "[[1-2=$-1]]-$1": -1,
    "(1 - 2 = -1) -1": -1,
    # with brackets inside the equation, of whatever shape
    "3-5=(3-5=(-2))-2 degrees": -2,
    "3-5=[[3-5=[-2]]]-2": -2,
    "(3-5=(2-4)*1)-2": -2,
    "(3-5=\\boxed{-2})-2": -2,
    "(f(x=2)+3)-2": 2,
    "(x=2)*(3+4)-5": 5,
    "[3-5=(-2]-2": 2,
    "x=\\boxed{7}-2": 2,
    "(7)-6": 6,
    "2*(3+4)-5": 5,
    "x=(3+4)-5": 5,
    "\\frac{3}{4}-5": 5,
    "(x = 3 at first)" + " so" * 40 + ")-5": 5,
    "The answer is 42.": 42,
    "\\boxed{72}": 72,
    "**42**": 42,
    "_42_": 42,
    "是72。": 72,
    "CO2": None,
    "44 g of CO2": 44,
    "0x2A": 0,
    "v1.2 has 3": 3,
    "x_2": None,
    "7_000": 7,
    "-5": -5,
    "(-5)": -5,
    "= -5": -5,
    "-$5": -5,
    "$-5": -5,
    "5-6": 6,
    "x-6": 6,
    ")-6": 6,
    "50%-40%": 40,
    "- 5": 5,
    "2 - 7": 7,
    "5 -6": -6,
    "$5-$3": 3,
    "-.5": Fraction(-1, 2),
    "1/2": 2,
    "5:00": 0,
    "5 million": 5,
    "12 000": 0,
    "12\u00a0000": 12000,
    "12{,}000": 12000,
    "1.2e3": 1200,
    "1e31": None,
    "10^-3": -3,
    "25%": 25,
    "so is...5": 5,
    "1,450.": 1450,
    "4 and 1,2": 4,
    "4 and 1.2.3": 4,
    "4 then 1,000,00": 4,
    "4, " + "9" * 65: 4,
    "<<6*7=": 7,
    "": None,
    "none": None,
    "1,2": None,
    "7" + " word" * 40: 7,
    "5.": 5,
    "fig.5": 5,
}


@pytest.mark.parametrize(("text", "value"), FLEXIBLE.items())
def test_r13_flexible_value(text, value):
    assert read(text).flexible == value


def well_formed(token: str) -> Fraction | None:
    """Thousands groups and one decimal point by splitting instead of by pattern: an oracle for R7 and R8."""
    whole, point, decimals = token.partition(".")
    groups = whole.split(",")
    western = len(groups[0]) in (1, 2, 3) and all(len(group) == 3 for group in groups[1:])
    indian = (
        len(groups[0]) in (1, 2) and all(len(group) == 2 for group in groups[1:-1]) and len(groups[-1]) == 3
    )
    if not (
        len(groups) == 1
        and whole.isdigit()
        or len(groups) > 1
        and (western or indian)
        or not whole
        and decimals
    ):
        return None
    if point and not decimals.isdigit():
        return None
    return Fraction(int("".join(groups) + decimals), 10 ** len(decimals))


@given(st.text("0123456789,.", min_size=1, max_size=14).filter(lambda token: token[-1] not in ",."))
@example("1,00,000")
@example("12,34,567.5")
@example("1,234,56")
@example(".5")
@example("..5")
def test_r8_equals_an_oracle(token):
    assert read(f"#### {token}").strict == well_formed(token)


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(["", "$", "**", "\\("]),
    st.sampled_from(["", ".", " pens", "%", "\n", "</s>"]),
)
def test_any_integer_reads_back(number, before, after):
    assert read(f"so\n#### {before}{number:,}{after}").strict == number
    assert read(f"so it is {number:,}{after}").flexible == number


def test_r11_no_tolerance():
    assert not grade_text("#### 71.9999999", "72").strict
    assert grade_text("#### 0.50", "1/2").strict
    assert not grade_text("#### 0.25", "25").strict


@pytest.mark.parametrize(
    ("text", "finish", "verdict"),
    [
        ("#### 7", "stop", "correct"),
        ("#### 7", "length", "correct"),
        ("#### 8", "stop", "wrong"),
        ("#### 8", "length", "truncated"),
        ("the answer is 7", "stop", "no_answer"),
        ("the answer is 7", "length", "truncated"),
        (None, "stop", "no_answer"),
    ],
)
def test_verdict(text, finish, verdict):
    assert grade_text(text, "7", finish).verdict == verdict


def test_no_answer_never_equals_anything():
    for text in (None, "", "####", "#### 5 or 6"):
        assert grade_text(text, "0").verdict == "no_answer"


def test_grade_names_the_completion():
    completion = Completion("test-7", 3, "9f", "#### 1,450.0\n#### 1450", 9, "stop", -0.5, "run")
    graded = grade(completion, Problem("test-7", "q", "s", "1,450", "", ""))
    assert (graded.problem_id, graded.sample, graded.strict_value, graded.flexible_value, graded.markers) == (
        "test-7",
        3,
        "1450",
        "1450",
        2,
    )


def test_first_and_last_marker():
    reading = read("#### 5\nWait.\n#### 6")
    assert (reading.first, reading.strict, reading.markers) == (5, 6, 2)
    assert read("#" * 4_000 + " 42").markers == 1


def test_bytes_and_things_that_are_no_text():
    assert read(b"#### 42").strict == 42
    assert read(b"\xff\xfe#### 42").strict == 42
    for thing in (None, 42, 4.2, [], {}, object()):
        assert read(thing) == read("")


@pytest.mark.parametrize(
    ("gold", "value"),
    [
        ("1,450", 1450),
        ("-10", -10),
        ("0.5", Fraction(1, 2)),
        ("12.0", 12),
        (" \u22123,000.50 ", Fraction(-6001, 2)),
        ("1.2e+10", 12 * 10**9),
        ("-3/4", Fraction(-3, 4)),
    ],
)
def test_gold_number(gold, value):
    assert gold_number(gold) == value


NO_GOLDS = [
    "",
    "None",
    "x",
    "5 or 6",
    "1,2",
    "3 hours 20 minutes",
    "5 dollars 50 cents",
    "12 and a half",
    "2\u00bd",
    "2:30",
    "2:00",
]
NO_GOLDS += [
    "7 (or 8 if counting the driver)",
    "4 remainder 3",
    "3 x 4",
    "30 to 40",
    "1'250",
    "18 + x",
    "9 (apples)",
    "$18",
    "25%",
]
NO_GOLDS += ["1 1/2", "1/0", "5 million", "1e31", "-", "--5", "12 000"]


@pytest.mark.parametrize("gold", NO_GOLDS)
def test_a_gold_that_is_not_one_number_is_refused(gold):
    """Read as a completion is, `3 hours 20 minutes` is 3, and `3 hours 50 minutes` is right."""
    with pytest.raises(InputError, match="is not a number and nothing more"):
        grade_text("#### 5", gold)


def test_extract_gold():
    assert extract_gold("3+4=7\n#### 7\n") == "7"
    assert extract_gold("#### 1\n#### 1,450 ") == "1,450"
    with pytest.raises(InputError, match="without ####"):
        extract_gold("The answer is 7")


FRAGMENTS = [
    "####",
    " ",
    "\n",
    "5",
    "42",
    "1,000",
    ".",
    "-",
    "$",
    "<<1+1=2>>",
    "apples ",
    "of ",
    "=",
    "\u00a0",
    "\ud800",
    "\0",
    "½",
    "million",
    " hundred",
    "or",
    "x",
    "1e9",
    "1e-99",
]
FRAGMENTS += [
    "{,}",
    "\\,",
    "\\boxed{",
    "}",
    "%",
    "</s>",
    "\nQuestion:",
    "٣",
    "９",
    "\u200b",
    ":00",
    "/",
    "1/2",
    "9" * 70,
    "(",
    "**",
    "_",
    "é",
    "是",
    "\x1b[0m",
    "&lt;",
    "'",
    '"',
    "\\",
]


def fuzz(count: int, seed: int) -> set[str]:
    """The verdicts on as many random texts and bytes."""
    draw, verdicts = random.Random(seed), set()
    for _ in range(count // 2):
        verdicts.add(grade_text("".join(draw.choices(FRAGMENTS, k=draw.randint(0, 20))), "42").verdict)
        verdicts.add(grade_text(draw.randbytes(draw.randint(0, 60)), "42").verdict)
    return verdicts


def test_r14_random_strings():
    assert fuzz(50_000, seed=0) <= set(get_args(Verdict))


@pytest.mark.slow
def test_r14_many_random_strings():
    """The million of docs/grading.md is that of `benchmarks/grading.py`."""
    assert fuzz(200_000, seed=1) <= set(get_args(Verdict))


@given(st.text())
def test_r14_any_text(text):
    for written in (text, f"#### {text}"):
        assert grade_text(written, "42").verdict in get_args(Verdict)


def test_the_examples_of_the_documentation():
    rows = re.findall(
        r'^\| R\d+ .*\| `(".*")` \| (\S+) \| (\S+) \|$', (ROOT / "docs" / "grading.md").read_text(), re.M
    )
    assert len(rows) >= 27
    for text, strict, flexible in rows:
        reading = read(json.loads(text))
        assert [str(reading.strict).lower(), str(reading.flexible).lower()] == [strict, flexible], text


def seconds(text: str) -> float:
    """Processor time to grade `text`, without searches for garbage, which grow with all that tests hold."""
    gc.disable()
    start = time.process_time()
    grade_text(text, "5")
    spent = time.process_time() - start
    gc.enable()
    return spent


@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "#",
        "#### ",
        "<<",
        "<<1=1>>",
        "1,234,",
        "1\u00a0111",
        "1,11",
        "- ",
        "$",
        "\\boxed{",
        "1e5",
        "(",
        "\nQ",
        "<|",
        "1 000 ",
        "CO2 ",
        "-1",
        "\u200b",
        " hundred",
    ],
)
@pytest.mark.parametrize("before", ["", "#### ", "#### 1"])
def test_r12_linear_time(unit, before):
    """16 times the text takes about 16 times as long (256 times, if quadratic), on a busy machine as on an
    idle one."""
    short, long = (before + (unit * size)[:size] for size in (12_500, 200_000))
    assert any(seconds(long) < 64 * seconds(short) for _ in range(5))


def test_2000_characters_take_less_than_a_millisecond():
    draw = random.Random(2)
    texts = ["".join(draw.choices(FRAGMENTS, k=600))[:2_000] for _ in range(300)]
    assert all(any(seconds(text) < 1e-3 for _ in range(5)) for text in texts)


def patterns(path: Path) -> list[str]:
    """The text of every pattern that a module gives to `re`; interpolated parts are left out."""
    calls = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and node.args
    ]
    first = [
        call.args[0]
        for call in calls
        if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "re"
    ]
    return [node.value for node in first if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_numbers_are_read_in_one_place():
    """A reward that reads answers in its own way trains what evaluation does not measure."""
    allowed = {"number.py", "other_graders.py", "arithmetic.py", "reading.py"}
    allowed |= {"renumber.py", "augment.py"}  # they write other numbers into questions
    allowed |= {"server.py", "claims.py"}  # seconds to wait, published percentages
    allowed |= {"decimals.py"}  # it asks which sign stands before decimals, and reads no number
    elsewhere = [
        (path.name, pattern)
        for path in (ROOT / "src").rglob("*.py")
        if path.name not in allowed
        for pattern in patterns(path)
        if re.search(pattern, "The answer is") is None
        if any(
            re.search(r"\d\d", found[0]) for found in re.finditer(pattern, "The answer is 1,234.5\n#### -72")
        )
    ]
    assert elsewhere == []
