"""Files that lm-eval 0.4.13, inspect 0.3.285, lighteval 0.13, TRL 1.16 and verl wrote of the embedded model.

`tests/data/tools` holds the first rows of each; docs/other-tools.md says how they are made.
"""

import json
import shutil
from pathlib import Path

import pytest

from reckoner.analysis.grade import grade_file
from reckoner.analysis.lines import completion_lines
from reckoner.analysis.readers import read_completion_set, read_completion_sets, read_problems
from reckoner.analysis.tools import Questions, tool_files
from reckoner.cli import main
from reckoner.errors import InputError

DATA = Path(__file__).parent.parent / "data" / "tools"
LM_EVAL, VERL = DATA / "samples_lm_eval.jsonl", DATA / "verl.jsonl"
TRL, LIGHTEVAL = DATA / "completions_00001.parquet", DATA / "details_lighteval.parquet"
PROBLEMS = DATA / "problems.jsonl"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_document_of_lm_eval_counts_once_whatever_its_filters():
    lines = rows(LM_EVAL)
    assert len(lines) == 12 and {line["filter"] for line in lines} == {"strict-match", "flexible-extract"}
    held = read_completion_set(LM_EVAL)
    assert [name for name, _ in held.grades] == [f"nano-test-{n:05d}" for n in range(6)]
    theirs = [line["exact_match"] for line in lines if line["filter"] == "flexible-extract"]
    assert [grade.flexible for grade in held.grades.values()] == [bool(score) for score in theirs]
    assert held.problems["nano-test-00000"].question.startswith("Each of 6 hens")
    assert grade_file(LM_EVAL).n == 6 and held.prompts == frozenset()


def test_an_exported_task_that_lm_eval_ran_counts_as_we_do():
    """Of one trained model; 6 of these prompts ask for "The answer is", which it does not write."""
    lines = rows(DATA / "samples_exported_task.jsonl")
    held = read_completion_set(DATA / "samples_exported_task.jsonl")
    theirs = {line["doc"]["id"]: (line["strict"], line["flexible"]) for line in lines}
    assert {name: (grade.strict, grade.flexible) for (name, _), grade in held.grades.items()} == theirs
    strict, flexible = (sum(one) for one in zip(*theirs.values(), strict=True))
    assert (len(theirs), strict, flexible) == (11, 3, 6)


def test_a_choice_of_an_exported_task_is_graded_as_one(tmp_path):
    line = rows(DATA / "samples_exported_task.jsonl")[0]
    line["doc"] |= {"kind": "choice", "choices": ["7", "8"], "gold": "B"}
    (tmp_path / "a.jsonl").write_text(json.dumps({**line, "target": "B", "resps": [["#### (B) 8"]]}) + "\n")
    assert grade_file(tmp_path / "a.jsonl").strict == 1


def test_an_inspect_log_as_json_and_as_archive(tmp_path, monkeypatch):
    held = read_completion_set(DATA / "inspect.json")
    samples = json.loads((DATA / "inspect.json").read_text())["samples"]
    assert [(name, sample) for name, sample in held.grades] == [(one["id"], 0) for one in samples]
    assert [one.text for one in held.completions.values()] == [one["output"]["completion"] for one in samples]
    assert held.problems["nano-test-00001"].gold == "26"
    broken = tmp_path / "broken.eval"
    broken.write_bytes(b"PK\x03\x04 nothing more")
    pytest.importorskip("backports.zstd")
    assert read_completion_set(DATA / "inspect.eval").grades == held.grades
    with pytest.raises(InputError, match=r"broken.eval: is no whole inspect log"):
        read_completion_set(broken)


def test_lightevals_details_and_their_gold():
    held = read_completion_set(LIGHTEVAL)
    assert len(held.grades) == 12 and held.problems["15"].gold == "9"
    assert held.problems["15"].question.startswith("Question: Clara has a job")


def test_completions_of_trl_are_found_by_their_prompts_and_numbered():
    held = read_completion_set(TRL, gold=PROBLEMS)
    assert sorted({sample for _, sample in held.grades}) == [0, 1, 2, 3]
    assert len({name for name, _ in held.grades}) == 2 and len(held.grades) == 8
    assert (
        sum(grade.flexible for grade in held.grades.values())
        == grade_file(TRL, problems=held.problems).flexible
        == 4
    )
    with pytest.raises(InputError, match="row 0: no field 'gold' .*--gold FILE"):
        read_completion_set(TRL)


def test_the_steps_of_a_folder_are_read_on(tmp_path):
    for step in ("1", "2"):
        shutil.copy(VERL, tmp_path / f"{step}.jsonl")
    held = read_completion_set(tmp_path)
    assert held.name == tmp_path.name and len(held.grades) == 24
    assert sorted({sample for _, sample in held.grades}) == [0, 1, 2, 3]


def test_verls_scores_are_ours():
    held = read_completion_set(VERL)
    assert [grade.strict for grade in held.grades.values()] == [row["score"] == 1 for row in rows(VERL)]


def test_two_tools_on_the_same_problems_are_compared(capsys, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, file in zip(folders, (LM_EVAL, DATA / "inspect.json"), strict=True):
        folder.mkdir()
        shutil.copy(file, folder)
    (folders[1] / "logs.json").write_text('{"version": 1}')  # no log
    assert tool_files(folders[0]) == [folders[0] / "samples_lm_eval.jsonl"]
    assert tool_files(folders[1]) == [folders[1] / "inspect.json"]
    assert main(["compare", *map(str, folders)]) == 0
    said = capsys.readouterr().out
    assert "a and b cannot be told apart at this n" in said and "6 shared items" in said


def test_other_ids_of_the_same_questions_are_matched_and_that_is_said(tmp_path, caplog):
    lines = rows(LM_EVAL)
    for line in lines:
        line["doc"] = {**line["doc"], "id": f"x{line['doc_id']}"}
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    one, other = read_completion_sets([LM_EVAL, renamed])
    assert list(other.grades) == list(one.grades)
    assert "renamed: 6 of 6 items have questions of samples_lm_eval under other ids" in caplog.text


def test_questions_within_prompts():
    known = Questions({"a": "What is 2+2?", "b": "What is  3+3?", "c": ""})
    assert known.find("Q: What is 2+2?\nA: 4\n\nQ: What is 3+3?\nA:") == "b"
    assert known.find("What is 3+3?") == "b" and known.find("3+3") == "b"
    assert known.find("What is") == "" and known.find("") == "" and known.find("Why?") == ""


def test_tables_and_conversations(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text('id,response,gold\n1,"It is\n#### 4",4\n2,no,5\n')
    assert [grade.strict for grade in read_completion_set(table).grades.values()] == [True, False]
    chat = {"id": 1, "gold": "4", "messages": [{"role": "user", "content": "2+2?"}]}
    chat["messages"].append({"role": "assistant", "content": [{"type": "text", "text": "#### 4"}]})
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps(chat))
    held = read_completion_set(file)
    assert held.grades["1", 0].strict and held.problems["1"].question == "2+2?"


def test_two_columns_that_could_be_the_completion(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,response,prediction,gold\n1,#### 4,5,4\n")
    with pytest.raises(InputError, match="'response' and 'prediction' could each be the completion"):
        read_completion_set(table)
    assert main(["grade", str(table), "--completion-field", "response"]) == 0


def test_a_file_of_two_tools_and_a_folder_of_two_evaluations(tmp_path):
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(LM_EVAL.read_text() + VERL.read_text())
    with pytest.raises(InputError, match="line 13: is of verl, the rows before are of lm-eval"):
        read_completion_set(mixed)
    for name in ("samples_a.jsonl", "samples_b.jsonl"):
        shutil.copy(LM_EVAL, tmp_path / name)
    with pytest.raises(InputError, match=r"holds 2 evaluations \(samples_a.jsonl, samples_b.jsonl\)"):
        read_completion_set(tmp_path)


def test_one_broken_line_among_many_is_named_and_nothing_is_written(tmp_path):
    file, out = tmp_path / "many.jsonl", tmp_path / "out.jsonl"
    good = json.dumps({"id": 1, "completion": "#### 4", "gold": "4"})
    file.write_text("\n".join([good] * 2000 + ["{"] + [good] * 10))
    assert main(["grade", str(file), "--output", str(out)]) == 2
    assert not out.exists()
    assert isinstance(list(completion_lines(file))[2000][1], InputError)


INSPECT = {"output": {"choices": [{"message": {"content": "#### 3"}}]}, "epoch": 1, "target": "3", "id": "a"}
LIGHT = {"doc": {"id": "1", "choices": ["3"]}, "model_response": {"text": ["#### 3"]}}
SAID = {"gold": "3", "id": 1}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (INSPECT | {"epoch": "1"}, "epoch is '1'; expected a whole number"),
        (INSPECT | {"output": {"choices": {"a": 1}}}, "output.choices is no list of objects"),
        (INSPECT | {"output": {"choices": ["x"]}}, "output.choices is no list of objects"),
        (INSPECT | {"output": {"choices": [{"message": 3}]}}, "the completion is int, not text"),
        (LIGHT | {"doc": {"id": "1"}}, "doc.choices has no gold: gold_index is 0"),
        (LIGHT | {"doc": {"id": "1", "choices": []}}, "doc.choices has no gold: gold_index is 0"),
        (LIGHT | {"doc": LIGHT["doc"] | {"gold_index": "x"}}, "doc.choices has no gold: gold_index is 'x'"),
        (LIGHT | {"doc": LIGHT["doc"] | {"gold_index": [-1]}}, "doc.choices has no gold: gold_index is -1"),
        (
            SAID | {"messages": [{"role": "assistant", "content": [{"type": "text", "text": 3}]}]},
            "a part of a message is int, not text",
        ),
        (
            {"step": 1, "advantage": 0, "gold": "3", "completion": "#### 3"}
            | {"prompt": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
            "a part of a message is NoneType, not text",
        ),
    ],
)
def test_a_row_that_no_tool_writes_is_named(tmp_path, capsys, row, says):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    for words in (["grade", str(file)], ["compare", str(file), str(VERL)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "rows.jsonl line 1: " in error and says in error and error.count("\n") == 1


def test_rows_of_a_tool_that_are_in_order_stay_so(tmp_path):
    for number, row in enumerate((INSPECT, LIGHT)):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
        assert read_completion_set(tmp_path / f"{number}.jsonl").shares() == {row.get("id", "1"): 1.0}


def test_a_graders_name_of_another_kind_is_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "a", "strict": true, "grader": ["x"]}\n')
    assert read_completion_set(tmp_path / "a.jsonl").grader == "['x']"


def test_every_damage_to_an_archive_of_inspect_is_named(tmp_path):
    zipfile = pytest.importorskip("backports.zstd.zipfile")
    whole, broken = tmp_path / "whole.eval", tmp_path / "broken.eval"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_ZSTANDARD) as archive:
        archive.writestr("samples/a.json", json.dumps(INSPECT))
    content, refused = whole.read_bytes(), 0
    for at in range(4, len(content)):
        broken.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            read_completion_set(broken)
        except InputError as error:
            refused += "broken.eval" in str(error)
    assert refused > len(content) / 2


def test_a_sample_of_many_thousand_levels_is_named(tmp_path):
    zipfile = pytest.importorskip("backports.zstd.zipfile")
    with zipfile.ZipFile(tmp_path / "deep.eval", "w") as archive:
        archive.writestr("samples/a.json", "[" * 100_000)
    with pytest.raises(InputError, match=r"deep.eval samples/a.json: not JSON \(maximum recursion"):
        read_completion_set(tmp_path / "deep.eval")


@pytest.mark.parametrize("name", ["gold", "answer", "target", "ground_truth", "reference"])
def test_a_csv_is_compared_by_the_column_that_can_only_be_the_gold(tmp_path, name, capsys):
    head, texts = f"id,question,{name},response", {"a": ("#### 2", "It is 4"), "b": ("#### 2", "#### 4")}
    for file, (first, second) in texts.items():
        (tmp_path / f"{file}.csv").write_text(f"{head}\n1,1+1?,2,{first}\n2,2+2?,4,{second}\n")
    (tmp_path / "gold.csv").write_text(f"id,question,{name}\n1,1+1?,2\n2,2+2?,4\n")
    files = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    for more in ([], ["--gold", str(tmp_path / "gold.csv")]):
        assert main(["compare", *files, "--json", *more]) == 0
        assert [arm["correct"] for arm in json.loads(capsys.readouterr().out)["arms"]] == [1, 2]
    assert read_problems(tmp_path / "gold.csv")["1"].solution == ""
    both = (tmp_path / "a.csv").read_text().replace("question", "final_answer")
    (tmp_path / "a.csv").write_text(both)
    if name != "gold":
        assert main(["compare", *files]) == 2
        assert "no field 'gold' (fields: " in capsys.readouterr().err
