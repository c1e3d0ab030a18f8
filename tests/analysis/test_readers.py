"""Reading runs, completions and grades, ours and other people's, and refusing what is neither."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from reckoner.analysis import lines
from reckoner.analysis.grade import grade_file
from reckoner.analysis.readers import read_completion_set, read_completion_sets, read_problems
from reckoner.cli import main
from reckoner.errors import InputError
from reckoner.runs.records import Problem


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_another_trainers_completions_with_gold_in_the_line(tmp_path):
    path = write(
        tmp_path / "theirs.jsonl",
        {"id": 7, "completion": "3+4 = 7\n#### 7", "gold": "7", "score": 0.3},
        {"id": 8, "completion": "no idea", "gold": "1,000"},
    )
    source = read_completion_set(path)
    assert source.name == "theirs" and source.grader == "reckoner-2" and source.split == ""
    assert [(key, grade.verdict) for key, grade in source.grades.items()] == [
        (("7", 0), "correct"),
        (("8", 0), "no_answer"),
    ]


def test_gold_from_a_file(tmp_path):
    gold = write(
        tmp_path / "gold.jsonl",
        {"id": "a", "question": "?", "answer": "x\n#### 5"},
        {"id": "b", "gold": "6", "category": "money", "steps": 2},
    )
    path = write(
        tmp_path / "p.jsonl", {"id": "a", "text": "#### 5", "finish": "length"}, {"id": "b", "text": "#### 5"}
    )
    source = read_completion_set(path, gold)
    assert [grade.strict for grade in source.grades.values()] == [True, False]
    assert source.problems["b"].category == "money" and source.problems["a"].gold == "5"


def test_graded_lines_keep_their_grades(tmp_path):
    path = write(
        tmp_path / "g.jsonl",
        {
            "id": "a",
            "strict": True,
            "flexible": True,
            "verdict": "correct",
            "markers": 1,
            "grader": "official",
        },
        {
            "id": "a",
            "sample": 1,
            "strict": False,
            "flexible": True,
            "verdict": "no_answer",
            "grader": "official",
        },
        {"id": "b", "strict": False, "grader": "official"},
    )
    source = read_completion_set(path)
    assert source.grader == "official"
    assert [(g.strict, g.flexible, g.verdict) for g in source.grades.values()] == [
        (True, True, "correct"),
        (False, True, "no_answer"),
        (False, False, "wrong"),
    ]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "holds no lines"),
        ([{"id": "a", "x": 1}], "line 1: no field 'completion' or 'text'"),
        ([{"text": "#### 5", "gold": "5"}], "line 1: no field 'problem_id' or 'custom_id' or 'id'"),
        ([{"id": True, "text": "", "gold": "5"}], "the id is bool"),
        ([{"id": "a", "text": "", "gold": "5", "sample": "x"}], "sample is 'x'"),
        ([{"id": "a", "text": ""}], "--gold FILE"),
        ([{"id": "a", "text": "", "gold": True}], "line 1: gold is bool, not a number"),
        ([{"id": "a", "text": 7, "gold": "5"}], "int, not text"),
        ([{"id": "a", "text": "", "gold": "5", "finish": 7}], "ended with 7"),
        ([{"id": "a", "text": "", "gold": "5", "finish": {"length": 7}}], "ended with {'length': 7}"),
        ([{"id": "a", "text": "", "gold": "none"}], "not a number"),
        ([{"id": "a", "text": "", "gold": "5"}] * 2, "line 2: item 'a' sample 0 is there twice"),
        ([{"id": "a", "strict": 1, "flexible": 1}], "true or false"),
        ([{"id": "a", "strict": True, "verdict": "fine"}], "verdict is 'fine'"),
        (
            [{"id": "a", "strict": True, "grader": "x"}, {"id": "b", "strict": True, "grader": "y"}],
            "graded by x and y",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, lines, said):
    with pytest.raises(InputError, match=said):
        read_completion_set(write(tmp_path / "f.jsonl", *lines))


@pytest.mark.parametrize(
    "lines", [[{"id": "a"}], [{"question": "?", "gold": "5"}], [{"id": "a", "gold": "5"}] * 2]
)
def test_problem_files_are_checked(tmp_path, lines):
    with pytest.raises(InputError, match="gold.jsonl line"):
        read_problems(write(tmp_path / "gold.jsonl", *lines))


def test_a_missing_item_and_a_missing_file_are_named(tmp_path):
    gold = write(tmp_path / "gold.jsonl", {"id": "a", "gold": "5"})
    with pytest.raises(InputError, match="has no item 'b'"):
        read_completion_set(write(tmp_path / "p.jsonl", {"id": "b", "text": "#### 5", "gold": "5"}), gold)
    with pytest.raises(InputError, match="cannot be read"):
        read_completion_set(tmp_path / "absent.jsonl")


def test_a_run_folder_with_several_evaluations(study_path, tmp_path):
    assert read_completion_set(study_path / "1shot").split == "test"
    with pytest.raises(InputError, match="0 evaluations fit split train"):
        read_completion_set(study_path / "1shot", split="train")
    folder = tmp_path / "run"
    shutil.copytree(study_path / "1shot", folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["evaluations"].append({**summary["evaluations"][-1], "prompt": "again"})
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="2 evaluations fit split test .*predictions/test-1shot.jsonl"):
        read_completion_set(folder)


def test_grades_that_do_not_belong_to_the_predictions_are_refused(study_path, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(study_path / "1shot", folder)
    grades = folder / "grades" / "test-1shot.jsonl"
    grades.write_text("".join(grades.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="do not hold the same items.*p-59"):
        read_completion_set(folder)


def test_equal_names_become_paths(tmp_path):
    for part in ("x", "y"):
        (tmp_path / part).mkdir()
        write(tmp_path / part / "p.jsonl", {"id": "a", "text": "#### 5", "gold": "5"})
    paths = [tmp_path / "x" / "p.jsonl", tmp_path / "y" / "p.jsonl"]
    assert [source.name for source in read_completion_sets(paths)] == [str(path) for path in paths]


def nested(text, reason, count=1):
    """The same completion as vLLM, an OpenAI server, an OpenAI batch and lm-eval write it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return [
        {"outputs": [{"text": text, "finish_reason": reason}] * count},
        {"choices": [choice] * count},
        {"choices": [{"text": text, "finish_reason": reason}] * count},
        {"custom_id": "a", "id": "batch-7", "response": {"body": {"choices": [choice] * count}}},
        {"resps": [[text] * count], "finish_reason": reason},
    ]


@pytest.mark.parametrize("form", range(5))
def test_completions_of_other_tools_are_found_by_their_place(tmp_path, form):
    for reason, verdict in (
        ("stop", "no_answer"),
        ("length", "truncated"),
        ("MAX_TOKENS", "truncated"),
        (None, "no_answer"),
    ):
        line = {"id": "a", "gold": 5} | nested("2+3=5", reason)[form]
        source = read_completion_set(write(tmp_path / "f.jsonl", line))
        (key, grade), text = next(iter(source.grades.items())), source.completions["a", 0].text
        assert (key, grade.verdict, grade.flexible, text) == (("a", 0), verdict, True, "2+3=5")
    with pytest.raises(InputError, match="line 1: 2 completions in one line"):
        read_completion_set(
            write(tmp_path / "f.jsonl", {"id": "a", "gold": 5} | nested("#### 5", "stop", 2)[form])
        )


ENDED = {
    "Google's enumeration": lambda cut: {"finish_reason": f"FinishReason.{'MAX_TOKENS' if cut else 'STOP'}"},
    "Google's JSON": lambda cut: {"finishReason": "MAX_TOKENS" if cut else "STOP"},
    "inspect and Mistral": lambda cut: {"stop_reason": "model_length" if cut else "stop"},
    "Ollama": lambda cut: {"done_reason": "length" if cut else "stop"},
    "TGI": lambda cut: {"details": {"finish_reason": "length" if cut else "eos_token", "seed": 1}},
    "llama.cpp": lambda cut: {"stop_type": "limit" if cut else "eos"},
    "OpenAI's responses": lambda cut: {
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None
    },
    "SGLang": lambda cut: {"meta_info": {"finish_reason": {"type": "length", "length": 64} if cut else None}},
    "an object": lambda cut: {"finish_reason": {"type": "length" if cut else "stop"}},
    "a list": lambda cut: {"finish_reason": ["length" if cut else "stop"]},
    "vLLM": lambda cut: {"finish_reason": "length" if cut else "stop", "stop_reason": None},
}
"""What tools write beside a completion that its length cut, and beside one that ended."""


@pytest.mark.parametrize("tool", ENDED)
@pytest.mark.parametrize(
    "said", [{"completion": "2+3"}, {"messages": [{"role": "assistant", "content": "2+3"}]}]
)
def test_a_completion_that_its_length_cut_is_truncated_whatever_the_tool_calls_that(tmp_path, tool, said):
    lines = [{"id": str(cut), "gold": "5", **said, **ENDED[tool](cut)} for cut in (False, True)]
    held = read_completion_set(write(tmp_path / "f.jsonl", *lines))
    assert [grade.verdict for grade in held.grades.values()] == ["no_answer", "truncated"]


COMMA = [
    {"id": "a", "completion": "#### 1", "gold": "1.000"},
    {"id": "b", "completion": "#### 1000", "gold": "1.000"},
    {"id": "c", "completion": "2.500,5+1=2.501,5\n#### 2.501,5", "gold": "2.501,5"},
]


@pytest.mark.parametrize("verb", ["grade", "compare", "mistakes", "passk"])
@pytest.mark.parametrize("apart", [False, True])
def test_golds_that_look_like_a_decimal_comma_need_a_word(tmp_path, verb, apart, capsys):
    """Whether they stand in the lines or in a file of their own; our own files have a point."""
    thousands = COMMA[:2]
    path = write(tmp_path / "f.jsonl", *thousands)
    gold = write(tmp_path / "gold.jsonl", *({"id": line["id"], "gold": line["gold"]} for line in thousands))
    inputs = [str(path)] * (1 if verb == "grade" else 2) + (["--gold", str(gold)] if apart else [])
    assert main([verb, *inputs]) == 2
    told = f"{gold if apart else path}: 2 of 2 golds look like 1.000, with a comma for decimals. "
    remedy = "Set --decimal=comma, or --decimal=point if 1.000 is 1"
    assert capsys.readouterr().err == f"reckon: {told}{remedy}\n"
    assert main([verb, *inputs, "--decimal", "komma"]) == 2
    assert "--decimal komma is no sign; auto, point, comma are" in capsys.readouterr().err


def test_a_decimal_comma_is_read_where_it_is_named(tmp_path, capsys):
    path = write(tmp_path / "f.jsonl", *COMMA)
    gold = write(tmp_path / "gold.jsonl", *({"id": one["id"], "gold": one["gold"]} for one in COMMA))
    for more in ([], ["--gold", str(gold)]):
        assert main(["grade", str(path), "--decimal=comma", "--output", "-", *more]) == 0
        graded = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["strict"] for line in graded] == [False, True, True]
        assert [line["strict_value"] for line in graded] == ["1", "1000", "5003/2"]
        assert [line["completion"] for line in graded] == [line["completion"] for line in COMMA]
    by_point = write(tmp_path / "g.jsonl", *COMMA[:2])
    assert [grade.strict for grade in read_completion_set(by_point, decimal="point").grades.values()] == [
        True,
        False,
    ]
    assert [one.strict for one in read_completion_set(path, decimal="comma").grades.values()] == [
        False,
        True,
        True,
    ]
    assert main(["grade", str(path)]) == 2
    assert "gold '2.501,5' is not a number and nothing more" in (said := capsys.readouterr().err)
    assert "Set --decimal=comma if a comma stands before decimals" in said


def test_a_few_golds_that_look_like_a_decimal_comma_are_told_and_read_with_a_point(tmp_path, caplog):
    others = [{"id": n, "completion": "#### 18", "gold": "18"} for n in range(3)]
    path = write(tmp_path / "f.jsonl", *others, {**COMMA[0], "gold": "1.250"})
    assert main(["grade", str(path)]) == 0
    assert "1 of 4 golds look like 1.250, and are read with a point" in caplog.text
    caplog.clear()
    path = write(tmp_path / "g.jsonl", *others, COMMA[0], {**COMMA[0], "id": 9, "gold": "2.5"})
    assert main(["grade", str(path)]) == 0 and "look like" not in caplog.text


def test_predictions_of_a_run_have_a_point_whatever_is_said_of_other_files(tmp_path):
    run = tmp_path / "run"
    for folder in ("problems", "predictions"):
        (run / folder).mkdir(parents=True)
    write(run / "problems" / "test.jsonl", *({"id": n, "gold": "1.250"} for n in range(2)))
    lines = ({"id": n, "completion": "#### 1.250"} for n in range(2))
    path = write(run / "predictions" / "test-0shot.jsonl", *lines)
    for decimal in ("auto", "comma"):
        grades = read_completion_set(path, decimal=decimal).grades.values()
        assert [one.strict_value for one in grades] == ["5/4", "5/4"] and all(one.strict for one in grades)


def test_one_reader_serves_grade_compare_and_errors(tmp_path):
    """A line with both names, with both ids and with a number for gold is one thing to all of them."""
    line = {"id": "x", "problem_id": "a", "completion": "#### 5", "text": "#### 6", "gold": 5}
    path = write(tmp_path / "f.jsonl", line)
    gold = write(tmp_path / "gold.jsonl", {"id": "a", "gold": 5})
    for given in (None, gold):
        source = read_completion_set(path, given)
        assert source.grades["a", 0].strict and source.problems["a"].gold == "5"
    assert (
        grade_file(path).strict
        == grade_file(path, problems={"a": Problem("a", "", "", "5", "", "")}).strict
        == 1
    )


def our_fields(line):
    """A dummy tool's `{"item": {"name": ..., "wanted": ...}, "said": [...], "why": ...}`, under our names."""
    if "said" not in line:
        return None
    item = line["item"]
    return {
        "completion": "\n".join(line["said"]),
        "finish": line["why"],
        "problem_id": item["name"],
        "gold": item["wanted"],
    }


def test_a_format_that_is_added_is_read_by_grade_and_compare(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lines, "LINE_FORMATS", [our_fields, *lines.LINE_FORMATS])
    for name, answers in (("a", "#### 5"), ("b", "#### 6")):
        line = {
            "item": {"name": "x", "wanted": 5},
            "said": ["so", answers],
            "why": None,
            "id": 9,
            "text": "?",
        }
        write(
            tmp_path / f"{name}.jsonl",
            line,
            {**line, "item": {"name": "y", "wanted": 7}, "why": "length"},
        )
    assert main(["grade", str(tmp_path / "a.jsonl"), "--json"]) == 0
    rates = json.loads(capsys.readouterr().out)["rates"]
    assert (rates["strict"]["count"], rates["truncated"]["count"]) == (1, 1)
    assert main(["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert [(arm["name"], arm["correct"]) for arm in compared["arms"]] == [("a", 1), ("b", 0)]
    write(tmp_path / "gold.jsonl", *({"id": n, "question": "?", "solution": "#### 5"} for n in "xy"))
    assert main(["errors", str(tmp_path / "b.jsonl"), "--gold", str(tmp_path / "gold.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["wrong"] == 2


def test_problems_may_hold_lists_of_choices(tmp_path):
    """A list of choices in a line of problems or of grades is not a list of completions."""
    line = {"id": "a", "gold": "5", "choices": ["4", "5"], "strict": True}
    assert read_problems(write(tmp_path / "gold.jsonl", line))["a"].gold == "5"
    assert read_completion_set(write(tmp_path / "f.jsonl", line)).grades["a", 0].strict


def test_a_gold_that_is_not_one_number_is_named_by_its_line(tmp_path):
    with pytest.raises(InputError, match="f.jsonl line 2: gold '3 hours' is not a number and nothing more"):
        read_completion_set(
            write(
                tmp_path / "f.jsonl",
                *({"id": i, "text": "#### 3", "gold": g} for i, g in enumerate(["3", "3 hours"])),
            )
        )
    with pytest.raises(InputError, match="gold.jsonl line 1: gold '2:30' is not a number"):
        read_problems(write(tmp_path / "gold.jsonl", {"id": "a", "answer": "#### 2:30"}))


def test_the_encoding_of_a_file(tmp_path):
    text, path = '{"id": "a", "text": "#### 5", "gold": "5"}\n', tmp_path / "f.jsonl"
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_completion_set(path).grades["a", 0].strict
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(InputError, match="f.jsonl: is UTF-16 text. Save it as UTF-8: iconv"):
            read_completion_set(path)


def test_a_key_given_twice_is_refused_with_its_line(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text(
        '{"id": "a", "text": "#### 5", "gold": "5"}\n'
        '{"id": "b", "gold": "5", "text": "#### 5", "gold": "6"}\n'
    )
    with pytest.raises(InputError, match="f.jsonl line 2: not JSON .a key stands twice"):
        read_completion_set(path)


def test_a_stream_loses_no_line(monkeypatch):
    """The first line is read to tell grades from completions, and is then not lost."""
    lines = "".join(json.dumps({"id": i, "text": f"#### {i}", "gold": 2}) + "\n" for i in range(3))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert [grade.strict for grade in read_completion_set(Path("-")).grades.values()] == [False, False, True]


def test_a_study_in_place_of_a_run_says_what_to_do(study_path):
    with pytest.raises(InputError) as caught:
        read_completion_set(study_path)
    assert f"is a study, whose comparisons `reckon report {study_path}` prints" in str(caught.value)
    assert "full-main, full-socratic" in str(caught.value).rpartition("Or name its runs (")[2]


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "predictions"])
def test_a_link_inside_a_run_folder_is_refused(study_path, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(study_path / "full-main", folder)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{name} is a link to"):
        read_completion_set(folder)
    (tmp_path / "named").symlink_to(study_path / "full-main")
    assert len(read_completion_set(tmp_path / "named").grades) == 60
