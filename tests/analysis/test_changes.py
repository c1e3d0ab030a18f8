"""What one run fixed and broke, and where two texts part."""

import json
from dataclasses import replace

import pytest

from reckoner.analysis.changes import Parting, diff, first_difference, page_data
from reckoner.analysis.readers import read_completion_set
from reckoner.errors import InputError


def test_fixed_and_broken(study_path):
    shot, full = read_completion_set(study_path / "1shot"), read_completion_set(study_path / "full-main")
    found = diff(shot, full)
    assert (found.a, found.b, found.n) == ("1shot", "full-main", 60)
    assert [change.problem_id for change in found.broken] == ["p-00", "p-01"]
    assert [change.problem_id for change in found.fixed] == [f"p-{i:02d}" for i in range(6, 36)]
    assert (found.both_right, found.both_wrong) == (4, 24)
    first = found.fixed[0]
    assert first.a.kind == "arithmetic" and first.b.kind == "" and first.b.verdict == "correct"
    assert first.a.text[first.a.slips[0].start :].startswith("<<") and first.b.slips == ()
    assert first.parting.place == 1 and first.parting.a != first.parting.b
    back = diff(full, shot)
    assert [change.problem_id for change in back.fixed] == ["p-00", "p-01"]


def test_page_data_is_plain_json(study_path):
    sources = [read_completion_set(study_path / name) for name in ("1shot", "full-main")]
    data = json.loads(json.dumps(page_data(diff(*sources)), allow_nan=False))
    assert data["n"] == 60 and len(data["fixed"]) == 30
    assert data["kinds"]["arithmetic"]["title"] == "arithmetic slip"
    assert data["fixed"][0]["a"]["slips"][0].keys() == {"start", "end", "right"}


def test_runs_on_other_problems_are_refused(study_path):
    a = read_completion_set(study_path / "1shot")
    with pytest.raises(InputError, match="same problems"):
        diff(a, replace(a, name="b", grades={("p-00", 0): a.grades["p-00", 0]}))
    with pytest.raises(InputError, match=r"the graders differ \(1shot: reckoner-2, b: official\)"):
        diff(a, replace(a, name="b", grader="official"))
    other = {**a.problems, "p-00": replace(a.problems["p-00"], gold="999")}
    flipped = {**a.grades, ("p-00", 0): replace(a.grades["p-00", 0], strict=False)}
    with pytest.raises(InputError, match="item 'p-00' has different gold answers .*b: 999"):
        diff(a, replace(a, name="b", problems=other, grades=flipped))


@pytest.mark.parametrize(
    ("a", "b", "parting"),
    [
        ("<<1+1=2>>2\n<<2+1=3>>3", "1+1 = 2\n<<2*2=4>>4", Parting("calculation", 2, "2+1 = 3", "2*2 = 4")),
        ("<<1+1=2>>2", "<<2+0=2>>2\n<<2*2=4>>4", Parting("calculation", 2, "", "2*2 = 4")),
        ("<<1+1=2>>2", "<<1+1=3>>3", Parting("calculation", 1, "1+1 = 2", "1+1 = 3")),
        ("<<1+1=2>>2\n#### 2", "<<1+1=2>>2\n#### 3", None),
        ("first\nsecond", "first\nother", Parting("line", 2, "second", "other")),
        ("first", "first\nmore", Parting("line", 2, "", "more")),
        ("<<x+1=y>>", "<<x+2=y>>", Parting("calculation", 1, "x+1 = y", "x+2 = y")),
        ("same", "same ", None),
    ],
)
def test_where_two_texts_part(a, b, parting):
    assert first_difference(a, b) == parting
