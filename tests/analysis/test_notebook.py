"""The Python API, and the notebook of the documentation, whose cells run one after another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import reckoner as rk
from reckoner.errors import InputError

NOTEBOOK = Path(__file__).parent.parent.parent / "docs" / "notebooks" / "judge_two_models.ipynb"


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    cells = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert len(cells) == 5
    space: dict = {}
    for cell in cells:
        exec(compile("".join(cell), str(NOTEBOOK), "exec"), space)
    result = space["compared"].result
    assert [(arm.name, arm.correct, arm.n) for arm in result.arms] == [("a", 45, 60), ("b", 30, 60)]
    (pair,) = result.pairs
    assert (pair.difference.estimate, pair.verdict) == (0.25, "better")
    assert list(space["right"]) == [0, 1]


def test_what_a_notebook_shows_of_a_comparison(tmp_path):
    for name, answer in (("a", "4"), ("b<c", "5")):
        line = {"id": 1, "completion": f"#### {answer}", "gold": "4"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line))
    compared = rk.compare(tmp_path / "a.jsonl", tmp_path / "b<c.jsonl")
    shown = compared._repr_html_()
    assert shown.count("<tr>") == 2 + 1 + 1 + 1 and "b&lt;c" in shown and "b<c" not in shown
    assert repr(compared).startswith("a and b<c cannot be told apart at this n")
    assert list(compared.arms.name) == ["a", "b<c"] and compared.pairs.loc[0, "p_holm"] == 1
    assert repr(rk.load_run(tmp_path / "a.jsonl")).startswith("a: 1 of 1 completions right")


def test_grades_as_a_table(study_path):
    grades = rk.load_run(study_path / "1shot").grades
    assert {"problem_id", "sample", "strict", "flexible", "verdict", "gold", "question", "text"} <= set(
        grades
    )
    assert len(grades) == 60 and grades.strict.dtype == bool


def test_the_pictures_of_a_study_with_their_data(study_path):
    pictures = rk.figures(study_path)
    assert pictures[0]._repr_png_().startswith(b"\x89PNG") and pictures[0].data
    with pytest.raises(InputError):
        rk.figures(study_path / "1shot")


def test_the_package_starts_without_the_judge_and_is_typed():
    probe = (
        "import sys, reckoner as r; print('numpy' in sys.modules, bool(r.compare), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "False True True\n" and (Path(rk.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rk.nothing  # noqa: B018
