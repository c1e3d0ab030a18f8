"""Files of any shape: what is read, with its right value, and what is refused, with its line."""

import json
import re

import pytest

from reckoner.config import load_config
from reckoner.errors import InputError
from reckoner.tasks import gsm8k
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.shapes import guess_settings
from reckoner.tasks.tables import pick, read_table


def rows_of(path, **how):
    return [row for _, row in read_table(path, **how)]


def guessed(path, *settings):
    """The problems of a file by the guess of its columns, as `reckon data stats FILE` reads it."""
    keep = guess_settings([row for row in rows_of(path) if not isinstance(row, InputError)])
    config = load_config("", [], [f"data.path={path}", *(f"{k}={v}" for k, v in keep.items()), *settings])
    return gsm8k.every(**config.problem_source())


QA = [{"question": "How many are 2 and 3?", "answer": "2+3=5\n#### 5"}]
TABLE = 'question,answer,gold\n"How many, really?",Because.,"1,450"\n"Two\nlines",So.,-3\n'


def test_csv_tsv_json_jsonl_and_parquet_hold_the_same_rows(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [{"question": "How many, really?", "gold": "5"}, {"question": "And now?", "gold": "-6"}]
    files = {
        "a.csv": 'question,gold\n"How many, really?",5\nAnd now?,-6\n',
        "semicolons.csv": "question;gold\r\nHow many, really?;5\r\nAnd now?;-6\r\n",
        "a.tsv": "question\tgold\nHow many, really?\t5\nAnd now?\t-6\n",
        "a.json": json.dumps(rows),
        "nested.json": json.dumps({"data": rows, "version": 1}),
        "lines.json": "".join(json.dumps(row) + "\n" for row in rows),
        "a.jsonl": "".join(json.dumps(row) + "\r\n" for row in rows),
        "a.xml": "<Set><P gold='5'><question>How many, really?</question></P>"
        "<P gold='-6'><question>And now?</question></P></Set>",
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
        how = {"records": "P"} if name.endswith("xml") else {}
        assert rows_of(tmp_path / name, **how) == rows, name
        for encoding in ("utf-8-sig", "utf-16"):
            (tmp_path / name).write_bytes(text.encode(encoding))
            assert rows_of(tmp_path / name, **how) == rows, (name, encoding)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == rows


def test_a_table_without_a_header_has_named_columns(tmp_path):
    (tmp_path / "a.tsv").write_text('He said "hi\t5\n\nAnd "now"?\t6\n')
    assert rows_of(tmp_path / "a.tsv", columns="question, gold") == [
        {"question": 'He said "hi', "gold": "5"},
        {"question": 'And "now"?', "gold": "6"},
    ]


def test_cells_with_line_ends_and_the_lines_of_rows(tmp_path):
    (tmp_path / "a.csv").write_text(TABLE)
    assert [place for place, _ in read_table(tmp_path / "a.csv")] == ["line 2", "line 3"]
    (tmp_path / "a.csv").write_text(TABLE + "only one\n")
    place, fault = list(read_table(tmp_path / "a.csv"))[-1]
    assert (place, str(fault)) == ("line 5", "1 cells, not 3 (question, answer, gold)")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "q,q\n1,2\n", "two columns have the same name"),
        ("a.json", '{"a": 1}', "is one object (a), not a list of rows. Name the list with task.records"),
        ("a.json", '{"a": [], "b": []}', "is one object (a, b), not a list of rows"),
        ("a.json", "[1,", "not JSON"),
        ("a.json", "[1]", "row 1: expected an object, found int"),
        ("a.json", "[" * 100_000, "not JSON (maximum recursion depth"),
        ("a.json", '[{"question": "a", "question": "b"}]', "not JSON (a key stands twice in one object)"),
        ("a.json", '[{"question": ' + "9" * 5_000 + "}]", "not JSON (Exceeds the limit"),
        ("a.xml", "<a/>", "say where the problems stand, as task.records="),
        ("a.xml", "<!DOCTYPE a><a/>", "declares a document type"),
        ("a.parquet", "no", "cannot be read as Parquet"),
        ("a.csv", "question,answer\n\xff,1\n", "line 2: is not UTF-8 text"),
        ("absent.csv", None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        gsm8k.load("test", test_path=str(tmp_path / name))
    assert name in str(caught.value) and says in str(caught.value)


@pytest.mark.parametrize("records", ["[", ".p", "p[@x='", "p:q", "{http", "..", "p.p", "p[0]", "/", "P"])
def test_a_path_that_leads_to_nothing_in_xml(tmp_path, records):
    (tmp_path / "a.xml").write_text("<r><p><question>q</question></p></r>")
    with pytest.raises(InputError, match=re.escape(f"a.xml: holds nothing at task.records={records}")):
        read_table(tmp_path / "a.xml", records=records)


def test_elements_of_a_namespace_are_found_by_their_names(tmp_path):
    (tmp_path / "a.xml").write_text("<r xmlns='http://a.b/c'><s><p gold='3'/></s><s><p gold='4'/></s></r>")
    assert rows_of(tmp_path / "a.xml", records="s.p") == [{"gold": "3"}, {"gold": "4"}]


def test_parquet_whose_text_is_no_text(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"question": ["How many plums?"]}),
        tmp_path / "a.parquet",
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole.replace(b"plums", b"pl\xffms"))
    with pytest.raises(InputError, match=r"a.parquet: cannot be read as Parquet \('utf-8' codec"):
        read_table(tmp_path / "a.parquet")


def test_paths_lead_into_objects_lists_and_conversations():
    row = {
        "q": {"stem": "How?"},
        "a.b": 1,
        "m": [{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "5"}],
    }
    assert [pick(row, p) for p in ("q.stem", "a.b", "m.user", "m.gpt", "m.0.role")] == [
        "How?",
        1,
        "Hi",
        "5",
        "user",
    ]
    for missing in ("x", "q.x", "m.system", "m.7"):
        with pytest.raises(KeyError):
            pick(row, missing)


TALK = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "It is\n#### 5"}]
SHAPES = {
    "question and answer": (QA[0], "How many are 2 and 3?", "5", "2+3=5\n#### 5"),
    "gold in its own column": (
        {"Question": "2+3?", "Solution": "Add.", "Target": 5},
        *("2+3?", "5", "Add.\n#### 5"),
    ),
    "no solutions": ({"problem": "2+3?", "answer": "5"}, "2+3?", "5", "#### 5"),
    "Alpaca": (
        {"instruction": "Add.", "input": "2, 3", "output": "The answer is 5."},
        *("Add.\n\n2, 3", "5", "The answer is 5.\n#### 5"),
    ),
    "Alpaca without input": (
        {"instruction": "2+3?", "input": "", "output": "#### 5"},
        *("2+3?", "5", "#### 5"),
    ),
    "messages": ({"messages": TALK}, "2+3?", "5", "It is\n#### 5"),
    "messages with a system message": (
        {"messages": [{"role": "system", "content": "Be brief."}, *TALK]},
        *("Be brief.\n\n2+3?", "5", "It is\n#### 5"),
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "\\boxed{5}"}]},
        *("2+3?", "5", "\\boxed{5}\n#### 5"),
    ),
    "options": (
        {"question": "2+3?", "options": ["4", "5"], "answer": "B", "rationale": "Add."},
        *("2+3?\n(A) 4\n(B) 5", "B", "Add.\n#### B"),
    ),
    "options of the Hub": (
        {"question": "2+3?", "choices": {"label": ["1", "2"], "text": ["4", "5"]}, "answerKey": "2"},
        *("2+3?\n(A) 4\n(B) 5", "B", "#### B"),
    ),
    "a number of the option": (
        {"question": "2+3?", "choices": ["4", "5"], "answer": 1},
        *("2+3?\n(A) 4\n(B) 5", "B", "#### B"),
    ),
    "LaTeX": ({"problem": "Half?", "answer": "\\frac{1}{2}"}, "Half?", "\\frac{1}{2}", "#### \\frac{1}{2}"),
    "words": ({"question": "Who?", "answer": "Sara"}, "Who?", "Sara", "#### Sara"),
    "decimal comma": ({"question": "Wie viel?", "answer": "2,5"}, "Wie viel?", "2.5", "#### 2.5"),
    "unicode minus and digits": (
        {"question": "How many?", "gold": "\u2212\u0663"},
        "How many?",
        "\u22123",
        "#### \u22123",
    ),
    "a fraction": ({"question": "How many?", "gold": "3/4"}, "How many?", "3/4", "#### 3/4"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_recognised_and_read(tmp_path, name):
    row, question, gold, solution = SHAPES[name]
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (problem,) = guessed(tmp_path / "a.json")
    assert (problem.question, problem.gold, problem.solution) == (question, gold, solution)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"question": "q", "target": 5, "gold": 6},
            "which column is the gold answer? (target or gold) Say it",
        ),
        (
            {"question": "q", "answer": "It is so and so, really.", "response": "And it is otherwise, too."},
            "solution?",
        ),
        (
            {"x": "q", "answer": "5"},
            "which column is the question? (x or answer) Say it with data.question_field",
        ),
        (
            {"question": "q", "answer": "It is five, as everyone can see."},
            "no solution says where its answer is",
        ),
        ({"question": "q"}, "which column is the gold answer?"),
    ],
)
def test_what_is_not_clear_is_asked(row, says):
    with pytest.raises(InputError) as caught:
        guess_settings([row])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "golds, numbers",
    [
        (["12 apples", "1 apple", "1,450 apples and pears"], ["12", "1", "1,450"]),
        (["15 %", "2.5%", "-3 %"], ["15", "2.5", "-3"]),
        (["$5", "$ 1,000", "€3/4"], ["5", "1,000", "3/4"]),
        (["50 km/h", "3 m²", "7"], ["50", "3", "7"]),
        (["1.000,5 €", "3,5 €", "2,25 €"], ["1,000.5", "3.5", "2.25"]),
    ],
)
def test_golds_that_are_a_number_and_a_unit_are_read_as_numbers(tmp_path, golds, numbers):
    rows = [{"question": f"How many? {n}", "target": gold} for n, gold in enumerate(golds)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = guessed(path)
    assert [(one.gold, one.kind) for one in problems] == [(number, "number") for number in numbers]
    assert all(Answer(f"#### {one.gold}", one.gold, kind=one.kind).grade.strict for one in problems)


@pytest.mark.parametrize("golds", [["1st", "2nd", "3rd"], ["12 May 1990", "3:30 pm"], ["blue", "12 apples"]])
def test_other_texts_that_begin_with_a_number_stay_texts(tmp_path, golds):
    rows = [{"question": f"Which? {n}", "target": gold} for n, gold in enumerate(golds)]
    assert guess_settings(rows)["task.answer_kind"] == "number-or-span"


@pytest.mark.parametrize("gold", ["12 apples", "$5", "15 %", "half"])
def test_a_gold_with_a_unit_is_refused_with_its_line_until_a_pattern_says_what_counts(tmp_path, gold):
    (tmp_path / "a.csv").write_text(f"question,gold\nHow many?,5\nAnd now?,{gold}\n")
    how = ["data.question_field=question", "data.solution_field=", "data.gold_field=gold"]

    def load(*more):
        config = load_config("", [], [f"data.test_path={tmp_path / 'a.csv'}", *how, *more])
        return [problem.gold for problem in gsm8k.load("test", **config.problem_source())]

    with pytest.raises(InputError, match=r"a.csv line 3: gold '.*' is not a number"):
        load()
    if gold != "half":
        assert load(r"data.gold_pattern=(\d+)")[1] in ("12", "5", "15")


def test_all_faults_of_a_table_of_mixed_tools_are_named_at_once(tmp_path):
    rows = [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(30)]
    rows[7], rows[9], rows[11] = {"messages": TALK}, {"question": "q", "answer": "#### x"}, {"question": "r"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    with pytest.raises(InputError) as caught:
        guessed(tmp_path / "a.jsonl")
    assert [line.split(": ")[0].rpartition("/")[2] for line in str(caught.value).split("\n")] == [
        "a.jsonl line 8",
        "a.jsonl line 8",
        "a.jsonl line 10",
        "a.jsonl line 31",
    ]
    assert "; also line 12" in str(caught.value)


def test_the_command_shows_three_rows_and_the_settings_to_keep(tmp_path, monkeypatch, capsys):
    from reckoner.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("Problem,Answer\n" + "".join(f"What is {i}?,{i}\n" for i in range(12)))
    assert main(["data", "stats", "a.csv"]) == 0
    out = capsys.readouterr().out
    keep = "data.path=a.csv data.question_field=Problem data.solution_field= data.gold_field=Answer"
    assert f"settings to keep: {keep}" in out and "What is 2?" in out and "What is 3?" not in out
    assert main(["data", "stats", *keep.split(), "data.dev_size=2"]) == 0
    assert main(["data", "stats", "a.csv", "data.gold_field=Problem"]) == 2
    assert main(["data", "suites"]) == 0
    assert "gsm-symbolic/p2" in capsys.readouterr().out


def test_a_known_set_of_test_problems_alone_can_be_looked_at(tmp_path, capsys):
    from reckoner.cli import main

    rows = [{"input": f"What is {n} and 1?", "target": n + 1.0, "code": "x"} for n in range(12)]
    (tmp_path / "hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = f"data.test_path={tmp_path / 'hard.jsonl'}"
    assert main(["data", "stats", "data.suite=gsm-hard", named, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["sets"]) == ["test"] and found["sets"]["test"]["problems"] == 12


def test_one_broken_row_among_many_is_named_by_the_command(tmp_path, capsys):
    from reckoner.cli import main

    rows = [f"What is {n} and 1?,{n + 1}" for n in range(5_000)]
    rows[4_321] = "What is it?,4 or 5"
    (tmp_path / "a.csv").write_text("\n".join(["question,answer", *rows]))
    assert main(["data", "stats", str(tmp_path / "a.csv")]) == 2
    assert "a.csv line 4323: gold '4 or 5' is not a number" in capsys.readouterr().err
