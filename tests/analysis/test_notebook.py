"""The Python API, and the notebook of the documentation, whose cells run one after another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import reckoner as rk
from reckoner.errors import InputError

NOTEBOOKS = Path(__file__).parent.parent.parent / "docs" / "notebooks"


def run_notebook(name: str, cells: int, **added: str) -> dict:
    """What the names of a notebook hold at its end; `added` is run behind its cells, by their id."""
    path = NOTEBOOKS / name
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(code) == cells
    space: dict = {}
    for cell in code:
        text = "".join(cell["source"]) + "\n" + added.get(cell["id"], "")
        exec(compile(text, str(path), "exec"), space)
    return space


def test_the_notebook_of_two_models_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = run_notebook("judge_two_models.ipynb", 5)
    result = space["compared"].result
    assert [(arm.name, arm.correct, arm.n) for arm in result.arms] == [("a", 45, 60), ("b", 30, 60)]
    (pair,) = result.pairs
    assert (pair.difference.estimate, pair.verdict) == (0.25, "better")
    assert list(space["right"]) == [0, 1]


ASKED = "Provide a step-by-step derivation and end your answer with the final result as '#### <number>'."
TINY = (
    "data.max_train_samples=32",
    *(f"study.arms.{arm}.set.prompt.instruction={ASKED}" for arm in ("full", "grpo")),
    "study.arms.full.set.train.learning_rate=1e-6",  # GRPO needs a start that solves a problem at times
    "data.max_test_samples=12",
    "data.dev_size=4",
    "study.arms.grpo.set.rollout.max_steps=1",
    "study.arms.grpo.set.rollout.num_prompts=16",
    "study.arms.grpo.set.rollout.num_generations=4",
    "study.jobs=1",
    "run.threads=1",
)


@pytest.mark.slow  # trains three arms
def test_the_notebook_of_a_study_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = run_notebook("study_in_ten_minutes.ipynb", 6, settings=f"settings += {list(TINY)}")
    result = space["compared"].result
    assert [(arm.name, arm.n) for arm in result.arms] == [(n, 12) for n in ("prompt", "full", "lora", "grpo")]
    assert [(pair.a, pair.b) for pair in result.pairs] == [
        ("full", "prompt"),
        ("lora", "full"),
        ("grpo", "full"),
    ]
    assert space["solved"]["size"].sum() == 12 and not space["wrong"].strict


def test_what_a_notebook_shows_of_a_comparison(tmp_path):
    for name, answer in (("a", "4"), ("b<c", "5")):
        line = {"id": 1, "completion": f"#### {answer}", "gold": "4"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line))
    compared = rk.compare(tmp_path / "a.jsonl", tmp_path / "b<c.jsonl")
    shown = compared._repr_html_()
    rows = [row.count("<td>") + row.count("<th ") for row in shown.split("<tr>")[1:]]
    assert shown.count("<thead>") == 2 and compared.sentences[0].endswith(" would resolve it.")
    assert len(rows) == 2 + 1 + 1 + 1 and len(set(rows[:3])) == len(set(rows[3:])) == 1
    assert "b&lt;c" in shown and "b<c" not in shown
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
