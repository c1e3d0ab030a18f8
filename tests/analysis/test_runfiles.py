"""Reading runs, completions and grades, ours and other people's, and refusing what is neither."""

import json
import shutil

import pytest

from reckoner.analysis.runfiles import read_problems, read_source, read_sources
from reckoner.faults import InputError


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_another_trainers_completions_with_gold_in_the_line(tmp_path):
    path = write(
        tmp_path / "theirs.jsonl",
        {"id": 7, "completion": "3+4 = 7\n#### 7", "gold": "7", "score": 0.3},
        {"id": 8, "completion": "no idea", "gold": "1,000"},
    )
    source = read_source(path)
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
    source = read_source(path, gold)
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
    source = read_source(path)
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
        ([{"id": "a", "x": 1}], "neither a grade"),
        ([{"text": "#### 5", "gold": "5"}], "line 1: no problem_id or id"),
        ([{"id": True, "text": "", "gold": "5"}], "no problem_id"),
        ([{"id": "a", "text": "", "gold": "5", "sample": "x"}], "sample is 'x'"),
        ([{"id": "a", "text": ""}], "--gold FILE"),
        ([{"id": "a", "text": "", "gold": 5}], "--gold FILE"),
        ([{"id": "a", "text": None, "gold": "5"}], "NoneType, not text"),
        ([{"id": "a", "text": "", "gold": "5", "finish": "eos"}], "finish is 'eos'"),
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
        read_source(write(tmp_path / "f.jsonl", *lines))


@pytest.mark.parametrize(
    "lines", [[{"id": "a"}], [{"question": "?", "gold": "5"}], [{"id": "a", "gold": "5"}] * 2]
)
def test_problem_files_are_checked(tmp_path, lines):
    with pytest.raises(InputError, match="gold.jsonl line"):
        read_problems(write(tmp_path / "gold.jsonl", *lines))


def test_a_missing_item_and_a_missing_file_are_named(tmp_path):
    gold = write(tmp_path / "gold.jsonl", {"id": "a", "gold": "5"})
    with pytest.raises(InputError, match="has no item 'b'"):
        read_source(write(tmp_path / "p.jsonl", {"id": "b", "text": "#### 5", "gold": "5"}), gold)
    with pytest.raises(InputError, match="cannot be read"):
        read_source(tmp_path / "absent.jsonl")


def test_a_run_folder_with_several_evaluations(study_path, tmp_path):
    assert read_source(study_path / "1shot").split == "test"
    with pytest.raises(InputError, match="0 evaluations fit split train"):
        read_source(study_path / "1shot", split="train")
    folder = tmp_path / "run"
    shutil.copytree(study_path / "1shot", folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["evaluations"].append({**summary["evaluations"][-1], "prompt": "again"})
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="2 evaluations fit split test .*predictions/test-1shot.jsonl"):
        read_source(folder)


def test_grades_that_do_not_belong_to_the_predictions_are_refused(study_path, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(study_path / "1shot", folder)
    grades = folder / "grades" / "test-1shot.jsonl"
    grades.write_text("".join(grades.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="do not hold the same items.*p-59"):
        read_source(folder)


def test_equal_names_become_paths(tmp_path):
    for part in ("x", "y"):
        (tmp_path / part).mkdir()
        write(tmp_path / part / "p.jsonl", {"id": "a", "text": "#### 5", "gold": "5"})
    paths = [tmp_path / "x" / "p.jsonl", tmp_path / "y" / "p.jsonl"]
    assert [source.name for source in read_sources(paths)] == [str(path) for path in paths]
