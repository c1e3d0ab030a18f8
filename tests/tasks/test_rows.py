"""Strict reading: each fault named by row, all of a kind in one line; what a row becomes."""

import pytest

from reckoner.faults import InputError
from reckoner.tasks.grading import grade_text
from reckoner.tasks.rows import RowFormat, read_rows

GOOD = {"question": "How many is 2 and 3?", "answer": "2+3 = <<2+3=5>>5\n#### 5"}


def read(*rows, **form):
    numbered = [(f"line {number}", row) for number, row in enumerate(rows, 1)]
    return read_rows(numbered, RowFormat(**form), "my.jsonl", split="train", variant="main", source="mine")


def fault(*rows, **form):
    with pytest.raises(InputError) as caught:
        read(*rows, **form)
    return str(caught.value)


def test_a_row_becomes_a_problem():
    found = read(
        GOOD, {"question": "Two\u2028lines, ½ of 4’s?", "answer": "First.\n\nThen.\n#### 1,450", "id": 7}
    )
    first, second = found.values()
    assert list(found) == ["line 1", "line 2"]
    assert (first.gold, first.steps, first.variant, first.source, first.solution) == (
        "5",
        1,
        "main",
        "mine",
        GOOD["answer"],
    )
    assert first.id.startswith("train-") and len(first.id) == 18
    assert (second.id, second.gold, second.steps, second.question) == (
        "7",
        "1,450",
        2,
        "Two\u2028lines, ½ of 4’s?",
    )


def test_the_id_depends_on_the_question_only():
    other = {**GOOD, "answer": "What is 2 and 3? ** 2+3 = 5\n#### 5"}
    assert (
        read(GOOD)["line 1"].id
        == read(other)["line 1"].id
        != read({**GOOD, "question": "And 2 and 4?"})["line 1"].id
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"question": "q", "solution": "s"},
            'no field "answer" (fields: question, solution). Name it with data.solution_field=solution',
        ),
        (
            {"problem": "q", "answer": "#### 1"},
            'no field "question" (fields: problem, answer). Name it with data.question_field=problem',
        ),
        ({"a": "x", "b": "y"}, 'no field "question" (fields: a, b). Name it with data.question_field=NAME'),
        ({}, 'no field "question" (fields: none)'),
        ({"question": "q", "answer": 5}, 'field "answer" holds int, not text'),
        ({"question": None, "answer": "#### 5"}, 'field "question" holds NoneType, not text'),
        ({"question": " \n", "answer": "#### 5"}, 'field "question" is empty'),
        ({"question": "a \ud83d b", "answer": "#### 5"}, "half of a surrogate pair"),
        ({"question": "q", "answer": "It is 5."}, "no #### before the gold"),
        ({"question": "q", "answer": "#### five"}, "gold 'five' is not a number"),
        ({"question": "q", "answer": "####"}, "gold '' is not a number"),
    ],
)
def test_a_faulty_row_is_named(row, says):
    message = fault(GOOD, row)
    assert message.startswith("my.jsonl line 2: ") and says in message and "\n" not in message


def test_faults_of_a_kind_are_one_line_and_kinds_are_lines():
    bad = [{"question": f"q{i}", "answer": f"no gold {i}"} for i in range(9)]
    lines = fault(*bad, {"question": "x"}, GOOD).split("\n")
    assert lines[0].startswith("my.jsonl line 1: no ####")
    assert lines[0].endswith("; also line 2, line 3, line 4, line 5, line 6 and 3 more")
    assert lines[1].startswith('my.jsonl line 10: no field "answer"') and len(lines) == 2


def test_duplicates_are_refused_whatever_their_spacing_and_case():
    assert "line 2: the same question as line 1" in fault(
        GOOD, {**GOOD, "question": "how many  is 2\nand 3?"}
    )
    assert "line 2: the same id '7' as line 1" in fault(
        {**GOOD, "id": 7}, {"question": "q", "answer": "#### 1", "id": "7"}
    )


def test_no_rows():
    assert fault() == "my.jsonl: holds no problems"


def test_gold_pattern_takes_the_last_match_and_adds_the_marker_line():
    row = {"question": "q", "answer": "The answer is 4? No, the answer is 1,450.  "}
    problem = read(row, gold_pattern=r"answer is ([\d,]+)")["line 1"]
    assert (problem.gold, problem.solution, problem.steps) == (
        "1,450",
        f"{row['answer'].rstrip()}\n#### 1,450",
        1,
    )
    assert grade_text(problem.solution, problem.gold).verdict == "correct"
    assert read(GOOD, gold_pattern="#### (.+)")["line 1"].solution == GOOD["answer"]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "data.gold_pattern=( is not a regular expression"),
        ("answer is .+", "has no group"),
        ("answer is (.+)", "my.jsonl line 1: data.gold_pattern finds no gold in the solution"),
        ("(zzz)?", "data.gold_pattern finds no gold"),
        ("(3) =", "my.jsonl line 2: data.gold_pattern finds no gold"),
    ],
)
def test_gold_pattern_faults(pattern, says):
    assert says in fault(GOOD, {"question": "q", "answer": "It is\n#### x"}, gold_pattern=pattern)
