"""Every kind of answer under every format: what is right, what is not, and what is no answer at all."""

import importlib.util
import re
import signal
import sys
import threading
import time

import pytest

from reckoner.config.schema import ANSWER_FORMATS, ANSWER_KINDS
from reckoner.errors import InputError, Stopped
from reckoner.runs.records import Completion, Grade, Problem, count_grades, dumps
from reckoner.tasks.answers import choice, expression, span
from reckoner.tasks.answers.grading import KINDS, MIXED, Answer, grade, kind_for, version_of
from reckoner.tasks.answers.marking import FORMATS, as_marked, mark

OPTIONS = ("12 cm", "14 cm", "A car", "None of these")


def say(text, kind, gold, choices=(), answer_format="####"):
    return Answer(text, gold, "stop", kind, tuple(choices), answer_format).grade


def test_settings_and_graders_name_the_same_kinds_and_formats():
    assert (*KINDS, MIXED) == (*ANSWER_KINDS[:3], ANSWER_KINDS[4], ANSWER_KINDS[3])
    assert FORMATS == ANSWER_FORMATS


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### B", "B"),
        ("#### (B)", "B"),
        ("#### b", "B"),
        ("####\n**B**", "B"),
        ("#### B) 14 cm", "B"),
        ("#### B. 14 cm.", "B"),
        ("#### Option B", "B"),
        ("#### 14 cm", "B"),
        ("#### $\\text{B}$", "B"),
        ("#### A car", "C"),
        ("#### None of these", "D"),
        ("#### A or B", None),
        ("#### A, B", None),
        ("#### A truck", None),
        ("#### B) 12 cm", None),
        ("#### E", None),
        ("#### 14", None),
        ("B", None),
        ("#### (b)", "B"),
        ("#### b) 14 cm", "B"),
        ("#### (B) because 2*7=14.", "B"),
        ("#### B because A is wrong", "B"),
        ("#### **B** because 12 cm is wrong", "B"),
        ("#### B, since it is 14 cm.", "B"),
        ("#### B. I hope this helps!", "B"),
        ("#### B (14 cm)", "B"),
        ("#### B - 14 cm", "B"),
        ("#### A, because it fits", "A"),
        ("#### \uff08\uff22\uff09", "B"),
        ("#### \uff22", "B"),
        ("#### \u24b7", "B"),
        ("#### \\(B\\)", "B"),
        ("#### (A) (B)", None),
        ("#### (A) or (B)", None),
        ("#### a) or b)", None),
        ("#### B/C", None),
        ("#### B. C.", None),
        ("#### B (12 cm)", None),
        ("#### (B) 12 cm", None),
        ("#### A car, I think", None),
        ("#### B. coli", None),
        ("#### B minor", None),
    ],
)
def test_a_choice_is_read_strictly(text, value):
    assert choice.read(text, OPTIONS).strict == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It is 14, so the answer is B.", "B"),
        ("The answer is (B) 14 cm", "B"),
        ("Answer: B", "B"),
        ("(A) is too small. So it is (B)", "B"),
        ("Therefore, (B) is right, not (A).", None),
        ("The answer is either (A) or (B)", None),
        ("The answer is (b).", "B"),
        ("The answer is B. I hope this helps!", "B"),
        ("The correct option is B.", "B"),
        ("Which option is it? It is (B).", "B"),
        ("12 is too small.\n14 cm", "B"),
        ("A car is fast", None),
        ("#### A or B\nI choose (B)", "B"),
    ],
)
def test_a_choice_is_read_flexibly(text, value):
    assert choice.read(text, OPTIONS).flexible == value


def test_a_gold_that_is_no_option_is_refused():
    for gold in ("E", "AB", "", "b"):
        with pytest.raises(InputError, match="is not the letter of one of 4 options"):
            say("#### B", "choice", gold, OPTIONS)
    with pytest.raises(InputError, match="chooses among 0 options. Give them as a list"):
        say("#### B", "choice", "B", ())


@pytest.mark.parametrize(
    ("said", "gold", "exact", "f1"),
    [
        (("Denver Broncos",), ("the Denver Broncos",), 1, 1.0),
        (("denver-broncos",), ("Denver Broncos",), 1, 1.0),
        (("Broncos",), ("Denver Broncos",), 0, 0.67),
        (("4",), ("4.0",), 1, 1.0),
        (("1,000",), ("1000",), 1, 1.0),
        (("4 yards",), ("4",), 0, 0.67),
        (("5 yards",), ("4 yards",), 0, 0.0),
        (("a", "b"), ("b", "a"), 1, 1.0),
        (("b",), ("b", "c"), 0, 0.5),
        (("b", "c"), ("c d", "b"), 0, 0.83),
        (("b", "b"), ("b",), 0, 0.5),
    ],
)
def test_drop_scores_worked_by_hand(said, gold, exact, f1):
    """(c, c d): precision 1, recall 1/2, F1 2/3; with (b, b): (2/3 + 1) / 2 = 0.83."""
    assert span.score(said, gold) == (exact, f1)


def test_spans_are_aligned_at_best_and_not_in_order():
    assert span._best_alignment([[0.9, 0.8], [0.8, 0.1]]) == pytest.approx(1.6)
    assert span._best_alignment([[0.1, 0.2, 0.9], [0.3, 0.1, 0.8]]) == pytest.approx(1.2)
    assert span._best_alignment([[0.1, 0.3], [0.2, 0.1], [0.9, 0.8]]) == pytest.approx(1.2)


def test_the_best_of_several_right_answers_counts_and_f1_is_kept():
    answer = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": ["Schilens"]}
    more = {
        "number": ["", "3"],
        "date": [answer["date"], answer["date"]],
        "spans": [["Chaz Schilens", "Russell"], []],
    }
    gold = span.encode_gold(answer, more)
    assert gold == '[["Schilens"], ["Chaz Schilens", "Russell"], ["3"]]'
    assert [
        say(f"#### {text}", "span", gold).strict for text in ("Schilens", "russell; Chaz Schilens", "3")
    ] == [True] * 3
    partly = say("#### Chaz Schilens", "span", gold)
    assert (partly.strict, partly.f1) == (False, 0.67)
    assert say("It was Schilens.", "span", "Schilens").verdict == "no_answer"
    assert count_grades([partly, say("#### 3", "span", gold)])["f1"] == 1.67
    day = {"number": "", "date": {"day": "3", "month": "May", "year": ""}, "spans": []}
    assert span.encode_gold(day) == "3 May"


@pytest.mark.parametrize("gold", ["[[1], 3]", "[[" * 50_000, "[[x", "[[1]] 3"])
def test_a_gold_that_only_begins_like_several_answers_is_one_text(gold):
    assert span.gold_spans(gold) == [(gold,)]


needs_math = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="needs the extra math (math-verify)"
)


UNION = r"(-\infty,1) \cup (3,\infty)"


@needs_math
def test_expressions_are_compared_by_value():
    cases = [
        (r"\frac{14}{3}", r"\dfrac{28}{6}", True),
        (r"\frac{14}{3}", "14/3", True),
        (r"1\,000\,000", "1000000", True),
        ("1500", r"1\,500", True),
        (r"1\,0000", "10000", False),
        (r"3\sqrt{13}", r"\sqrt{117}", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", True),
        ("1,-2", "-2, 1", True),
        ("6 - 5i", "-5i + 6", True),
        (r"\text{Evelyn}", r"\text{Evelyn}", True),
        ("[2,5)", "(2,5)", False),
        ("(1,2]", r"1<x\le 2", True),
        (r"\left( -\infty, \frac{3}{5} \right]", r"\frac35 \ge y", True),
        (r"x \in [-2,7]", r"-2\leq x\leq 7", True),
        ("(1,2]", "1<x<2", False),
        (UNION, r"x < 1 \text{ or } x > 3", True),
        (UNION, "3 < x or 1 > x", True),
        (UNION, r"x<1 \lor 3<x<\infty", True),
        (r"(-\infty,\frac12] \cup [3,4)", r"y \le \frac{1}{2} or 3 \leq y < 4", True),
        (UNION, r"x \le 1 \text{ or } x > 3", False),
        (UNION, "x < 1 or y > 3", False),
        (UNION, "x < 1 and x > 3", False),
        (UNION, "x < 1 or x > 2", False),
        (UNION, "1 < x > 3 or x > 3", False),
        (UNION, "x^2 - 4x > -3 or x > 3", False),
        (UNION, "x or x > 3", False),
        ("(-2,2)", "x^2<4", False),
        ("42", "43", False),
        ("p - q", "q - p", False),
    ]
    for gold, said, right in cases:
        completion = f"So it is $\\boxed{{{said}}}$."
        assert say(completion, "expression", gold, answer_format="boxed").strict is right, (gold, said)


@needs_math
def test_a_comparison_that_takes_too_long_is_not_equal_and_the_next_one_works(monkeypatch):
    assert expression.equal("1/2", "0.5")
    process = expression._WORKER.process
    monkeypatch.setattr(expression, "SECONDS", 0.001)
    assert not expression.equal(r"\int_0^1 x^2 \sin(x) dx", r"2\sin(1)+\cos(1)-2")
    monkeypatch.setattr(expression, "SECONDS", 10.0)
    assert process.poll() == -signal.SIGPROF
    assert expression.equal("2/4", "0.5") and expression._WORKER.process is not process
    assert re.fullmatch(r"math-verify-0[.0-9]+-4", version_of("expression"))


@needs_math
def test_a_process_that_dies_while_asked_is_asked_again():
    assert expression.equal("1/5", "0.2")
    process = expression._WORKER.process
    process.send_signal(signal.SIGSTOP)
    threading.Timer(0.5, process.kill).start()
    assert expression.equal("3/4", "0.75") and process.poll() == -signal.SIGKILL


@needs_math
def test_a_comparison_without_an_answer_names_its_texts_and_is_not_remembered(monkeypatch):
    monkeypatch.setattr(expression, "_WORKER", expression._Worker())
    for code, error, says in (
        ("os.kill(os.getpid(), 9)", Stopped, "was killed"),
        ("os._exit(3)", RuntimeError, "ended with code 3"),
        ("time.sleep(60)", Stopped, "no sign of life for 0.5 s"),
    ):
        monkeypatch.setattr(expression, "SILENCE", 0.5 if "sleep" in code else 60)
        dying = [sys.executable, "-c", f"import os, time; input(); {code}"]
        monkeypatch.setattr(expression, "COMMAND", dying)
        with pytest.raises(error, match=rf"asked whether '7/8' equals '0.875', .*{says}"):
            expression.equal("7/8", "0.875")
    monkeypatch.undo()
    assert expression.equal("7/8", "0.875")


def test_a_set_of_numbers_and_spans_has_the_kind_of_each_gold():
    assert [kind_for(gold, MIXED) for gold in ("1,450", "5/2", "None", "They are equal", "11; 12")] == [
        "number",
        "number",
        "span",
        "span",
        "span",
    ]
    assert version_of(MIXED) == "reckoner-2+span-1"
    with pytest.raises(InputError, match="'nmber' is no kind of answer; number, choice"):
        version_of("nmber")


@pytest.mark.parametrize(
    ("text", "answer_format", "strict", "flexible"),
    [
        ("3+4\n#### 7", "####", True, True),
        (r"So $\boxed{7}$.", "####", False, True),
        (r"So $\boxed{7}$. Not 8.", "boxed", True, False),
        (r"\boxed{6} no, \boxed{7}", "boxed", True, True),
        (r"\boxed{\text{about }7}", "boxed", False, True),
        (r"\boxed{7", "boxed", False, True),
        ("#### 7", "boxed", False, True),
        ("The answer is 7.", "answer-is", True, True),
        ("The final answer is: $7$ dollars.", "answer-is", True, True),
        ("It is 7.", "answer-is", False, True),
        ("It is 7.", "last", True, True),
        ("It is 7 of 9.", "last", False, False),
    ],
)
def test_the_format_of_the_prompt_decides_what_is_strict(text, answer_format, strict, flexible):
    verdict = say(text, "number", "7", answer_format=answer_format)
    assert (verdict.strict, verdict.flexible) == (strict, flexible)


def test_nested_and_several_boxes():
    assert as_marked(r"a \boxed{\frac{1}{2}} b \fbox{\boxed{3}}", "boxed") == (
        "a \n#### \\frac{1}{2}\n b \n#### \\boxed{3}\n"
    )
    assert as_marked(r"\boxed{\{1, 2\}}", "boxed").strip() == r"#### \{1, 2\}"


def test_a_reference_is_written_in_the_format_of_its_prompt():
    assert mark("3+4=7\n#### 7", "boxed") == "3+4=7\n\\boxed{7}"
    assert mark("3+4=7\n#### 7", "answer-is") == "3+4=7\nThe answer is 7."
    assert mark("#### 7", "last") == "7"
    assert mark("So $\\boxed{7}$.\n#### 7", "boxed") == "So $\\boxed{7}$."
    assert mark("So $\\boxed{7}$.\n#### 7", "####") == "So $\\boxed{7}$.\n#### 7"


def test_records_of_the_first_version_keep_their_bytes():
    problem = Problem("a", "q", "s", "1", "main", "x")
    assert "kind" not in dumps(problem) and "choices" not in dumps(problem)
    other = Problem("a", "q", "s", "B", "main", "x", kind="choice", choices=("1", "2"))
    assert '"kind": "choice", "choices": ["1", "2"]' in dumps(other)
    assert "f1" not in dumps(Grade("a", 0, True, True, "1", "1", "correct", 1))


def test_a_completion_is_graded_by_the_kind_of_its_problem_and_its_own_format():
    problem = Problem("a", "q", "s", "B", "main", "x", kind="choice", choices=OPTIONS)
    completion = Completion("a", 2, "", "The answer is (B).", 5, "stop", 0.0, "r", "answer-is")
    assert grade(completion, problem) == Grade("a", 2, True, True, "B", "B", "correct", 1)


@pytest.mark.parametrize("kind", ["choice", "span"])
@pytest.mark.parametrize(
    "unit", ["\\boxed{", "#### ", "the answer is ", "(A) ", "####\n", "{}", "a ", "\n", ";"]
)
def test_hostile_texts_take_linear_time(kind, unit):
    for answer_format in FORMATS:
        started = time.perf_counter()
        say(unit * (200_000 // len(unit)), kind, "B" if kind == "choice" else "x; y", OPTIONS, answer_format)
        assert time.perf_counter() - started < 2.0
