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


def test_a_changed_header_of_the_table_does_not_hide_a_changed_report(study):
    table, report = study / "table.csv", study / "report.md"
    table.write_text(table.read_text().replace("accuracy", "precision", 1))
    text = report.read_text()
    number = next(line for line in text.splitlines() if "solves" in line)
    report.write_text(text.replace(number, "99.9 % " + number))
    found = replay(study)[-1]
    assert any(fault.startswith("report.md line") and "'99.9 %" in fault for fault in found.faults)
    assert found.unchecked[-1] == "columns of table.csv that only one version has: accuracy, precision"


@pytest.mark.parametrize("name", ["report.html", "figures"])
def test_a_number_that_was_changed_in_the_page_or_in_the_data_of_a_figure_is_named(study, name):
    path = study / name if name == "report.html" else next(iter(sorted((study / name).glob("*.csv"))))
    text = path.read_text()
    at = text.index("56.7 %") if name == "report.html" else text.rindex("1")
    path.write_text(f"{text[:at]}9{text[at + 1 :]}")
    (fault,) = replay(study)[-1].faults
    assert fault.startswith(f"{path.relative_to(study)} line ")


def test_what_is_not_compared_is_said(study):
    assert replay(study)[-1].unchecked == ("pictures, the packed data of report.html, and slides",)
    page = study / "report.html"
    page.write_text(re.sub(r'content="reckoner [^"]*"', 'content="reckoner 0.0.1"', page.read_text()))
    (study / "report.md").write_text("another wording\n")
    found = replay(study)[-1]
    assert found.faults == () and "written by reckoner 0.0.1, and this is " in found.unchecked[1]
    assert found.unchecked[1].startswith("report.md, report.html, figures/")


def test_a_grade_that_was_edited_is_named(study):
    path = sorted(study.glob("*/grades/*.jsonl"))[0]
    lines = path.read_text().splitlines()
    grade = json.loads(lines[0])
    lines[0] = json.dumps({**grade, "flexible_value": "123456"})
    path.write_text("\n".join(lines) + "\n")
    faults = [fault for one in replay(study) for fault in one.faults]
    assert f"1 grades differ, the first is {grade['problem_id']} sample 0" in faults[0]
