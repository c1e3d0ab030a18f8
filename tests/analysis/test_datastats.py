"""Statistics of a data set: hand-worked on three problems, and equal to what was published about GSM8K."""

from dataclasses import replace
from pathlib import Path

import pytest

from reckoner.analysis.datastats import describe, five_numbers, floors, most_frequent_gold, table_rows
from reckoner.runs.records import Problem
from reckoner.tasks import gsm8k

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "gsm8k"


def problem(name, question, solution, gold, steps=1, category=""):
    return Problem(name, question, solution, gold, "main", "mine", category, steps)


THREE = [
    problem("a", "Of 3 pens and 4 pens?", "3+4 = <<3+4=7>>7\n#### 7", "7", 1, "sums"),
    problem(
        "b", "Twice 7, of 21 and 3?", "7*2 = <<7*2=15>>15\nSo 1,450.\n#### 1,450", "1,450", 2, "products"
    ),
    problem("c", "No digits", "It is zero below.\n#### -7", "-7", 1, "sums"),
]


def test_describe_counts_what_is_there():
    found = describe(THREE, "7", {"characters": len, "words": lambda text: len(text.split())})
    assert found["problems"] == 3
    assert found["steps"] == {"min": 1, "mean": 4 / 3, "median": 1, "p99": 2, "max": 2}
    assert found["lengths"]["question words"] == {"min": 2, "mean": 14 / 3, "median": 6, "p99": 6, "max": 6}
    assert found["golds"] == {
        "numbers": 3,
        "smallest": "-7",
        "largest": "1450",
        "negative": 1,
        "zero": 0,
        "not_whole": 0,
        "with_comma": 1,
        "constant": "7",
    }
    assert found["annotations"] == {"total": 2, "solutions_without": 1, "last_is_gold": 1, "wrong": ["b"]}
    assert (
        found["ungraded"] == []
        and found["categories"] == {"sums": 2, "products": 1}
        and found["unseen_templates"] == 0
    )
    steps, answers = found["distributions"]["steps"], found["distributions"]["answer"]
    assert {label: n for label, n in steps.items() if n} == {"1": 2, "2": 1} and list(steps)[
        -1
    ] == "8 or more"
    assert answers == {"below 10": 2, "10 to 99": 0, "100 to 999": 0, "1,000 and more": 1}


def test_floors_by_hand():
    problems = [
        *THREE,
        problem("d", "From 12 take 5: 60?", "#### 12", "12"),
        problem("e", "2 by 6.", "#### 12", "12"),
    ]
    assert floors(problems, "12") == {
        "most frequent gold": 2,
        "first number of the question": 1,
        "last number of the question": 0,
        "sum of the question's numbers": 1,
        "product of the question's numbers": 1,
        "some number of the question": 1,
    }


def test_the_most_frequent_gold_counts_values_not_spellings():
    golds = ["1,450", "1450.0", "7", "7", "1450"]
    assert most_frequent_gold([problem(str(i), "q", "s", gold) for i, gold in enumerate(golds)]) == "1450"
    assert most_frequent_gold([problem("a", "q", "s", "9"), problem("b", "q", "s", "-2")]) == "-2"


@pytest.mark.parametrize(("n", "median", "p99"), [(1, 1, 1), (2, 1, 2), (100, 50, 99), (101, 51, 100)])
def test_percentiles_are_nearest_rank(n, median, p99):
    found = five_numbers(range(n, 0, -1))
    assert (found["min"], found["median"], found["p99"], found["max"]) == (1, median, p99, n)


def test_a_gold_that_the_grader_refuses_is_listed():
    assert describe([problem("x", "q 1", "It is 5.", "5")], "5", {})["ungraded"] == ["x"]


def test_table_rows_have_a_cell_for_each_set():
    one, two = describe(THREE, "7", {"characters": len}), describe(THREE[:1], "7", {"characters": len})
    rows = {row[0]: row[1:] for row in table_rows({"train": one, "test": two})}
    assert rows["problems"] == ["3", "1"] and rows["steps: mean, range"] == ["1.33, 1-2", "1.00, 1-1"]
    assert (
        rows["steps: 2"] == ["33.3 %", "0.0 %"]
        and rows["answer: below 10"] == ["66.7 %", "100.0 %"]
        and "steps: 3" not in rows
    )
    assert rows["category: products"] == ["33.3 %", "0.0 %"] and rows["floor: most frequent gold"] == [
        "33.3 %",
        "100.0 %",
    ]


def test_sets_without_categories_get_a_dash_and_unseen_templates_a_row():
    long = [replace(THREE[0], category="", steps=n, unseen=n > 8) for n in (7, 8, 12)]
    rows = {
        row[0]: row[1:]
        for row in table_rows({"mine": describe(THREE, "7", {}), "other": describe(long, "7", {})})
    }
    assert rows["category: sums"] == ["66.7 %", "-"] and rows["from templates not in train"] == [
        "0.0 %",
        "33.3 %",
    ]
    assert rows["steps: 8 or more"] == ["0.0 %", "66.7 %"]


def test_the_real_files_have_the_published_statistics():
    """reliability.md 1.5, measured by other code: sizes, golds, annotations, lengths and floors."""
    if not REAL.is_dir():
        pytest.skip("the GSM8K files are not beside the checkout (shared/data/gsm8k)")
    real = {"source": "gsm8k", "path": str(REAL), "dev_size": 0}
    test = describe(gsm8k.load("test", **real), "5", {"characters": len})
    train = describe(gsm8k.load("train", **real) + gsm8k.exemplars(**real), "5", {"characters": len})
    assert (train["annotations"]["total"], train["annotations"]["solutions_without"]) == (23_716, 95)
    assert (test["annotations"]["total"], test["annotations"]["solutions_without"]) == (4_282, 18)
    assert (
        train["annotations"]["wrong"]
        == test["annotations"]["wrong"]
        == train["ungraded"]
        == test["ungraded"]
        == []
    )
    assert (train["golds"]["negative"], train["golds"]["with_comma"], train["golds"]["zero"]) == (3, 79, 1)
    assert (train["golds"]["smallest"], train["golds"]["largest"]) == ("-47", "192000000")
    solution, question = train["lengths"]["solution characters"], test["lengths"]["question characters"]
    assert (solution["median"], solution["p99"], solution["max"]) == (257, 749, 1_228)
    assert (question["median"], question["p99"], question["max"]) == (222, 539, 848)
    assert round(train["steps"]["mean"], 2) == 3.58 and train["steps"]["max"] == 9
    floor = test["floors"]
    assert (
        floor["most frequent gold"],
        floor["last number of the question"],
        floor["some number of the question"],
    ) == (40, 30, 84)
