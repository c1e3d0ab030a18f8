"""What `reckon data stats FILE` makes of golds and columns: the right value, or a question to the user."""

import json

import pytest

from reckoner.config import load_config
from reckoner.errors import InputError
from reckoner.tasks import gsm8k
from reckoner.tasks.answers import span
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.gold_patterns import NAMED, plain_number
from reckoner.tasks.shapes import guess_settings
from reckoner.tasks.tables import read_table


def guessed(folder, rows, *given):
    """The problems of rows by the guess of their columns, as `reckon data stats FILE` reads them."""
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    typed = dict(one.split("=", 1) for one in given)
    keep = guess_settings([row for _, row in read_table(path)], typed) | typed
    config = load_config("", [], [f"data.path={path}", *(f"{name}={value}" for name, value in keep.items())])
    return gsm8k.every(**config.problem_source())


def with_golds(golds, name="answer"):
    return [{"question": f"How many? {n}", name: gold} for n, gold in enumerate(golds)]


NUMBERS = {
    "-$3": "-3",
    "\u22123 km": "-3",
    "+3 m": "+3",
    "-€ 1,450": "-1,450",
    "€ -3": "-3",
    "1 1/2 cups": "3/2",
    "-1 1/2": "-3/2",
    "12 000 km": "12000",
    "3 months": "3",
    "3 in.": "3",
    "3 km/h": "3",
    "20 °C": "20",
    "3 m²": "3",
    "3 个": "3",
    "300 kg": "300",
}
OTHERS = [
    "3 million",
    "55 Million",
    "3-million",
    "$3 million",
    "3 and a half",
    "3 hours and half",
    "3k",
    "3 K",
]
OTHERS += ["3²", "3½", "3 ½", "3 dozen", "3π", "3x", "3xy", "3!", "3 quarters", "3 hundredths", "3万", "3 bn"]
OTHERS += [
    "3 or 4",
    "3 or so",
    "3 to four",
    "3 x 4",
    "3+y",
    "3a+b",
    "3 hours 20 minutes",
    "3:30",
    "3-8",
    "3√2",
    "1st",
]


@pytest.mark.parametrize("gold", NUMBERS)
def test_a_number_with_a_currency_or_unit_keeps_its_value_and_sign(tmp_path, gold):
    (problem,) = guessed(tmp_path, with_golds([gold]))
    assert (problem.gold, problem.kind) == (NUMBERS[gold], "number")
    assert Answer(f"#### {gold}", problem.gold).grade.strict or gold == "12 000 km"


@pytest.mark.parametrize("gold", OTHERS)
def test_what_changes_the_value_is_no_unit(tmp_path, gold):
    assert NAMED["number-and-unit"].search(gold) is None
    (problem,) = guessed(tmp_path, with_golds([gold]))
    assert (problem.gold, problem.kind) == (gold, "span")


def test_one_gold_among_units_that_is_no_number_with_a_unit_is_named(tmp_path):
    with pytest.raises(InputError, match=r"line 5: data.gold_pattern finds no gold .*'3 million'"):
        guessed(
            tmp_path,
            with_golds([*(f"{n} km" for n in range(4)), "3 million", *(f"{n} m" for n in range(20))]),
        )


@pytest.mark.parametrize(
    ("solution", "pattern", "gold"),
    [
        ("So the answer is -$5.", "answer-is", "-5"),
        ("The answer is \u22125 apples.", "answer-is", "-5"),
        ("The answer is: \\$1,450.50", "answer-is", "1,450.50"),
        ("The answer is 1 1/2.", "answer-is", "3/2"),
        ("It is \\boxed{-\\$5}.", "boxed", "-5"),
    ],
)
def test_the_gold_of_a_solution_keeps_its_sign(tmp_path, solution, pattern, gold):
    row = {"question": "How many?", "solution": solution}
    assert guess_settings([row])["data.gold_pattern"] == pattern
    assert guessed(tmp_path, [row])[0].gold == gold


@pytest.mark.parametrize(
    "answer", ["5 million", "3 and a half", "3½", "5 or 6", "3-5", "3*5", "3 hours 20 minutes", "5x"]
)
def test_a_phrase_whose_number_is_not_the_answer_is_asked(answer):
    with pytest.raises(InputError, match="no solution says where its answer is"):
        guess_settings([{"question": "How many?", "solution": f"We think. The answer is {answer}."}])


def test_latex_in_a_box_is_an_expression(tmp_path):
    row = {"problem": "Half of a third?", "solution": "It is \\boxed{\\frac{1}{\\sqrt{36}}}."}
    (problem,) = guessed(tmp_path, [row])
    assert (problem.gold, problem.kind) == ("\\frac{1}{\\sqrt{36}}", "expression")


def test_a_comma_for_decimals_is_guessed_only_from_a_comma(tmp_path):
    with pytest.raises(InputError, match=r"3 of 3 golds look like 1.001.*Set data.decimal=comma, or"):
        guessed(tmp_path, with_golds(["1.001", "1.003", "2.005"]))
    golds = [one.gold for one in guessed(tmp_path, with_golds(["1.001,5", "1\u202f003,50", "-2,5"]))]
    assert [plain_number(gold).replace(",", "") for gold in golds] == ["1001.5", "1003.50", "-2.5"]
    assert guessed(tmp_path, with_golds(["1.001"]), "data.decimal=point")[0].gold == "1.001"


@pytest.mark.parametrize("other", ["target", "label", "correct", "output"])
def test_two_columns_of_different_numbers_are_named(tmp_path, other):
    rows = [{"question": f"q{n}", "answer": n, other: n + 1} for n in range(5)]
    with pytest.raises(InputError, match=rf"gold answer\? \((answer or {other}|{other} or answer)\)"):
        guess_settings(rows)
    assert guessed(tmp_path, rows, "data.gold_field=answer")[1].gold == "1"


def test_a_column_that_repeats_the_gold_is_no_solution(tmp_path):
    rows = [{"question": f"q{n}", "answer": str(n), "target": n, "label": "easy"} for n in range(5)]
    assert guessed(tmp_path, rows)[3].solution == "#### 3"


USER = [{"role": "user", "content": "2+3?"}]
PARTS = [{"type": "text", "text": "2+"}, {"type": "text", "text": "3?"}]
TALKS = {
    "messages with a gold column": ({"messages": USER, "ground_truth": "5"}, "#### 5"),
    "verl": ({"prompt": USER, "reward_model": {"style": "rule", "ground_truth": "5"}}, "#### 5"),
    "content in parts": ({"messages": [{"role": "user", "content": PARTS}], "answer": 5}, "#### 5"),
    "a solution and a gold column": (
        {"messages": [*USER, {"role": "assistant", "content": "Five."}], "answer": "5"},
        "Five.\n#### 5",
    ),
    "prompt and completion": (
        {"prompt": USER, "completion": [{"role": "assistant", "content": "#### 5"}]},
        "#### 5",
    ),
}


@pytest.mark.parametrize("name", TALKS)
def test_conversations(tmp_path, name):
    (problem,) = guessed(tmp_path, [TALKS[name][0]])
    assert (problem.question, problem.gold, problem.solution) == ("2+3?", "5", TALKS[name][1])


def test_several_turns_are_named_as_the_reason(tmp_path):
    turns = [*USER, {"role": "assistant", "content": "#### 5"}]
    with pytest.raises(InputError, match="line 1: .*2 messages of user; one question and one answer"):
        guessed(tmp_path, [{"messages": turns + turns}])


@pytest.mark.parametrize(
    "names", ["ABCD", "abcd", ("option_a", "option_b", "option_c"), ("opa", "opb", "opc")]
)
def test_options_in_columns_of_their_own(tmp_path, names):
    row = {"question": "2+3?", **dict(zip(names, ("4", "5", "6", "7"), strict=False)), "answer": "B"}
    (problem,) = guessed(tmp_path, [row])
    assert problem.question.startswith("2+3?\n(A) 4\n(B) 5\n(C) 6") and len(problem.choices) == len(names)
    assert (problem.gold, problem.kind) == ("B", "choice")


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (["A) 2.5", "B) 3.5"], ("2.5", "3.5")),
        (["(a) x", "(b) y"], ("x", "y")),
        (["1. one", "2. two"], ("one", "two")),
        (["1) one", "2) two"], ("one", "two")),
        (["1.5", "2.5"], ("1.5", "2.5")),
        (["1:2", "2:3"], ("1:2", "2:3")),
        (["1 : 2", "2 : 3"], ("1 : 2", "2 : 3")),
        (["C: drive", "D: drive"], ("C: drive", "D: drive")),
    ],
)
def test_a_label_in_front_of_an_option_is_no_part_of_a_number(tmp_path, options, texts):
    (problem,) = guessed(tmp_path, [{"question": "q", "choices": options, "answer": "B"}])
    assert (problem.choices, problem.gold) == (texts, "B")


def test_a_label_counts_before_an_index(tmp_path):
    row = {"question": "q", "choices": {"label": ["1", "2", "3"], "text": ["a", "b", "c"]}, "answer": 2}
    assert guessed(tmp_path, [row])[0].gold == "B"


@pytest.mark.parametrize(
    "choices", [{"label": ["A"], "text": ["x", "y"]}, [{"text": "x"}, {"label": "B", "text": "y"}]]
)
def test_options_without_their_label_are_named(tmp_path, choices):
    with pytest.raises(InputError, match='line 1: field "choices" holds an option without label or text'):
        guessed(tmp_path, [{"question": "q", "choices": choices, "answer": "A"}])


DROP = ("data.gold_field=answer", "data.solution_field=", "task.answer_kind=span")


def test_columns_that_the_user_named_are_not_guessed(tmp_path):
    rows = [{"question": f"q{n}", "answer": {"number": "", "date": {}, "spans": ["x"]}} for n in range(4)]
    assert [one.gold for one in guessed(tmp_path, rows, *DROP)] == ["x"] * 4
    rows[2]["answer"] = {"number": "", "date": {}, "spans": []}
    rows[3]["answer"] = {"number": ["1", "2"], "date": [], "spans": []}
    with pytest.raises(InputError) as caught:
        guessed(tmp_path, rows, *DROP)
    assert 'line 3: field "answer": there is no gold answer' in str(caught.value)
    assert 'line 4: field "answer": its lists of number, date and spans differ in length' in str(caught.value)


@pytest.mark.parametrize(
    ("gold", "encoded"),
    [
        ({"number": None, "date": {}, "spans": ["a"]}, "a"),
        ({"number": None, "date": None, "spans": ["a", "b"]}, '[["a", "b"]]'),
        ({"number": "", "date": {"day": "1", "year": "1990"}, "spans": None}, "1 1990"),
        ({"number": 0, "date": {"day": None}, "spans": []}, "0"),
        ({"number": ["", "3"], "date": [{}, None], "spans": [["x"], []]}, '[["x"], ["3"]]'),
    ],
)
def test_answers_of_drop_with_fields_left_out(gold, encoded):
    assert span.encode_gold(gold) == encoded


@pytest.mark.parametrize(
    "gold", [{"number": {}, "date": 1, "spans": 2}, {"number": ["1"], "date": {}, "spans": []}, {}]
)
def test_what_is_no_answer_of_drop_is_refused(gold):
    with pytest.raises(InputError, match="DROP's number, date and spans"):
        span.encode_gold(gold)


def test_faults_of_different_types_are_told_apart(tmp_path):
    rows = [{"question": f"q{n}", "answer": gold} for n, gold in enumerate([1, None, True, *range(30)])]
    with pytest.raises(InputError, match="line 2: .*holds NoneType.*\n.*line 3: .*holds bool"):
        guessed(tmp_path, rows)


def test_a_table_without_a_header_and_utf_16_without_a_mark_say_so(tmp_path):
    with pytest.raises(InputError, match="set task.columns=question,answer"):
        guess_settings([{"Tom has 2 apples and buys 3.": "x", "5": "6"}])
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes("question,answer\n".encode("utf-16-le"))
        with pytest.raises(InputError, match=f"{name}: looks like UTF-16 without a mark"):
            list(read_table(tmp_path / name))
