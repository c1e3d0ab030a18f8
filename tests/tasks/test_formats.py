"""Strict reading: each fault named by row, all of a kind in one line; what a row becomes."""

import pytest

from reckoner.errors import InputError
from reckoner.machine import bounded
from reckoner.tasks import formats
from reckoner.tasks.answers.number import grade_text
from reckoner.tasks.answers.reading import END_TOKENS, STOP_STRINGS
from reckoner.tasks.formats import RowFormat, read_rows, refuse_stops

GOOD = {"question": "How many is 2 and 3?", "answer": "2+3 = <<2+3=5>>5\n#### 5"}


def read(*rows, split="train", **form):
    numbered = [(f"line {number}", row) for number, row in enumerate(rows, 1)]
    return read_rows(numbered, RowFormat(**form), "my.jsonl", split=split, variant="main", source="mine")


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
    assert all(line.startswith("my.jsonl line 2: ") for line in message.split("\n"))
    assert says in message.split("\n")[0]


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


def test_train_may_hold_several_solutions_of_one_question():
    rows = [{**GOOD, "answer": f"{steps}\n#### 5"} for steps in ("2+3=5", "3+2=5", "1+4=5")]
    ids = [problem.id for problem in read(*rows).values()]
    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]
    assert [problem.id for problem in read(*({**row, "id": 7} for row in rows)).values()] == [
        "7",
        "7-2",
        "7-3",
    ]
    assert "line 2: the same question as line 1. Keep one; also line 3" in fault(*rows, split="test")
    assert "line 2: the same question as line 1 with gold 6, not 5" in fault(
        rows[0], {**GOOD, "answer": "2+4\n#### 6"}
    )


def test_all_faults_of_a_file_are_named_at_once():
    lines = fault(
        InputError("not JSON (Expecting value)"),
        {"x": 1},
        {"question": 1, "answer": "x"},
        {**GOOD, "answer": "#### x"},
        GOOD,
        GOOD,
    ).split("\n")
    assert [line.split(": ")[:2] for line in lines] == [
        ["my.jsonl line 1", "not JSON (Expecting value)"],
        ["my.jsonl line 2", 'no field "question" (fields'],
        ["my.jsonl line 2", 'no field "answer" (fields'],
        ["my.jsonl line 3", 'field "question" holds int, not text'],
        [
            "my.jsonl line 3",
            "no #### before the gold. Mark it so, or say where it stands with data.gold_field or "
            "data.gold_pattern",
        ],
        ["my.jsonl line 4", "gold 'x' is not a number and nothing more, as 1,450 or -10 or 0.5 or 3/4 is"],
        ["my.jsonl line 6", "the same question as line 5. Keep one"],
    ]


@pytest.mark.parametrize(
    "gold", ["3 hours 20 minutes", "4 remainder 3", "12 and a half", "2\u00bd", "2:30", "30 to 40", "1'250"]
)
def test_a_gold_that_is_not_one_number_is_refused_with_its_line(gold):
    assert f"my.jsonl line 2: gold {gold!r} is not a number and nothing more" in fault(
        GOOD, {"question": "q", "answer": f"x\n#### {gold}"}
    )


@pytest.mark.parametrize(("value", "gold"), [(1450, "1450"), (0.5, "0.5"), ("1,450", "1,450")])
def test_a_gold_of_its_own_field(value, gold):
    problem = read({"question": "q", "answer": "Because.", "target": value}, gold_field="target")["line 1"]
    assert (problem.gold, problem.solution) == (gold, f"Because.\n#### {gold}")
    assert 'field "target" holds bool' in fault(
        {"question": "q", "answer": "x", "target": True}, gold_field="target"
    )
    assert 'no field "target"' in fault(GOOD, gold_field="target")


GERMAN = [
    {
        "question": f"Wie viel sind 1.500,5 und {i}?",
        "answer": f"1.500,5+{i}=<<1.500,5+{i}=1.50{i},5>>1.50{i},5\n#### {gold}",
    }
    for i, gold in enumerate(["1.500,5", "1.501,5", "1.502,5", "12", "13.000"])
]


def test_with_a_decimal_comma_points_and_commas_change_places_everywhere():
    first, *_, last = read(*GERMAN, decimal="comma").values()
    assert (first.gold, last.gold) == ("1,500.5", "13,000")
    assert first.question == "Wie viel sind 1,500.5 und 0?"
    assert first.solution == "1,500.5+0=<<1,500.5+0=1,500.5>>1,500.5\n#### 1,500.5"
    assert grade_text(last.solution, last.gold).strict


def test_golds_that_look_like_a_decimal_comma_need_a_word():
    assert (
        "my.jsonl: 4 of 5 golds look like 1.500,5, with a comma for decimals. Set data.decimal=comma, or data"
        in fault(*GERMAN)
    )
    thousands = [{"question": f"q{i}", "answer": f"#### {i + 1}.000"} for i in range(5)]
    assert "5 of 5 golds look like 1.000" in fault(*thousands)
    assert read(*thousands, decimal="point")["line 1"].gold == "1.000"
    assert len(read(*thousands[:2], *({"question": f"p{i}", "answer": "#### 0.125"} for i in range(3)))) == 5


def test_training_solutions_that_the_stop_strings_cut_are_refused():
    bad = {"question": "q", "answer": "We split it.\nQ: What is known?\nA: 3*4=12 pens.\n#### 12"}
    problems = list(read(GOOD, bad, {**bad, "question": "p"}).values())
    with pytest.raises(
        InputError, match=r"2 training solutions .*\(problem train-\w+: 'Q: What is known\?'\)"
    ):
        refuse_stops(problems, STOP_STRINGS)
    refuse_stops(problems, END_TOKENS)
    refuse_stops(problems[:1], STOP_STRINGS)


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


def test_a_pattern_that_never_ends_is_one_line(monkeypatch):
    monkeypatch.setattr(formats, "bounded", lambda together: bounded(0.2, together=together))
    row = {"question": "q?", "answer": "a" * 60}
    with pytest.raises(InputError, match=r"data.gold_pattern=\(a\+\)\+b: it takes more than 0.2 s"):
        read(row, gold_pattern="(a+)+b")
