"""`reckon pack` and `reckon replay`: every number of a report comes again from the completions."""

import json
import re
import shutil

import pytest

from reckoner.analysis.readers import read_completion_set
from reckoner.analysis.replay import replay
from reckoner.analysis.report import build_report
from reckoner.cli import main
from reckoner.runs.records import count_grades, write_jsonl


@pytest.fixture
def study(study_path, tmp_path):
    """The fixture study with the grades and counts that its completions give, and its report."""
    folder = tmp_path / "study"
    shutil.copytree(study_path, folder)
    for path in folder.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        for one in summary["evaluations"]:
            fresh = read_completion_set(path.parent / one["predictions"]).grades
            write_jsonl(path.parent / one["grades"], fresh.values())
            one |= count_grades(fresh.values())
        path.write_text(json.dumps(summary))
    build_report(folder)
    return folder


def test_a_packed_study_gives_its_numbers_again(study, tmp_path, capsys):
    assert main(["pack", str(study), "--output", str(tmp_path / "c.zip")]) == 0
    assert re.search(r"c\.zip: \d+ files", capsys.readouterr().out)
    assert main(["replay", str(tmp_path / "c.zip"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[-1]["name"] == "study: report" and all(one["numbers"] and not one["faults"] for one in found)


def test_numbers_that_the_completions_do_not_give_are_named(study):
    path = next(path for path in study.glob("*/summary.json"))
    summary = json.loads(path.read_text())
    right = summary["evaluations"][0]["strict"]
    summary["evaluations"][0]["strict"] = right + 1
    path.write_text(json.dumps(summary))
    faults = [fault for one in replay(study) for fault in one.faults]
    assert any(f"strict is {right}, the summary has {right + 1}" in fault for fault in faults)


def test_a_report_with_another_number_is_named(study):
    table = study / "table.csv"
    head, first, *rest = table.read_text().splitlines()
    cells = first.split(",")
    column = head.split(",").index("accuracy")
    right, cells[column] = cells[column], "0.987"
    table.write_text("\n".join([head, ",".join(cells), *rest]) + "\n")
    assert replay(study)[-1].faults[0] == f"table.csv, {cells[0]}, accuracy: '0.987' is {right!r}"


def test_a_table_of_another_version_is_compared_by_the_columns_of_both(study):
    table = study / "table.csv"
    head, *rest = table.read_text().splitlines()
    table.write_text("\n".join([f"{head},former", *(f"{line},1" for line in rest)]) + "\n")
    assert replay(study)[-1].faults == ()


def test_a_grade_that_was_edited_is_named(study):
    path = sorted(study.glob("*/grades/*.jsonl"))[0]
    lines = path.read_text().splitlines()
    grade = json.loads(lines[0])
    lines[0] = json.dumps({**grade, "flexible_value": "123456"})
    path.write_text("\n".join(lines) + "\n")
    faults = [fault for one in replay(study) for fault in one.faults]
    assert f"1 grades differ, the first is {grade['problem_id']} sample 0" in faults[0]
