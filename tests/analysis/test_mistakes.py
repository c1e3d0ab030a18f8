"""The profile of a run on a study worked out by hand."""

import pytest

from reckoner.analysis.intervals import wilson
from reckoner.analysis.mistakes import GROUPINGS, profile, step_count
from reckoner.analysis.readers import CompletionSet, read_completion_set
from reckoner.errors import InputError
from reckoner.runs.records import Completion, Grade, Problem


def test_profile_of_a_run(study_path):
    found = profile(read_completion_set(study_path / "full-main"))
    # right on p-02 to p-35; of the rest p-x8 is cut, p-x9 says nothing, the others slip in their first step
    assert (found.name, found.n, found.wrong) == ("full-main", 60, 26)
    assert {kind.kind: kind.count for kind in found.kinds} == {
        "arithmetic": 19,
        "truncated": 3,
        "no_answer": 3,
        "format": 1,
    }
    assert [kind.count for kind in found.kinds] == sorted((kind.count for kind in found.kinds), reverse=True)
    for kind in found.kinds:
        assert (kind.low, kind.high) == wilson(kind.count, 26) and kind.share == kind.count / 26
        assert len(kind.examples) == min(3, kind.count)
    for groups in found.groups.values():
        assert sum(group.n for group in groups) == 60 and sum(group.wrong for group in groups) == 26
        assert all(sum(group.kinds.values()) == group.wrong for group in groups)
    assert [group.label for group in found.groups["category"]] == ["buying", "sharing", "time"]
    assert [(group.label, group.n) for group in found.groups["template"]] == [
        ("in train", 48),
        ("not in train", 12),
    ]
    assert [group.label for group in found.groups["calculations in the reference"]] == ["2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("grouping", "question", "gold", "steps", "label"),
    [
        ("size of the answer", "", "-9.5", 0, "below 10"),
        ("size of the answer", "", "10", 0, "10 to 99"),
        ("size of the answer", "", "1,450", 0, "1,000 and more"),
        ("length of the question", "word " * 30, "1", 0, "1 to 30 words"),
        ("length of the question", "word " * 31, "1", 0, "31 to 45 words"),
        ("length of the question", "word " * 90, "1", 0, "61 words and more"),
        ("calculations in the reference", "", "1", 11, "8 or more"),
        ("calculations in the reference", "", "1", 0, "2"),
    ],
)
def test_groups(grouping, question, gold, steps, label):
    problem = Problem("p", question, "<<1+1=2>>2\n2 - 1 = 1\n#### 1", gold, "main", "", steps=steps)
    assert GROUPINGS[grouping](problem)[1] == label


def test_steps_are_declared_or_read():
    assert step_count(Problem("p", "", "<<1+1=2>>2", "2", "", "", steps=5)) == 5
    assert step_count(Problem("p", "", "<<1+1=2>>2", "2", "", "")) == 1


def source(solution: str = "x\n#### 5", **kept) -> CompletionSet:
    grade = Grade("q", 0, False, False, "4", "4", "wrong", 1)
    problems = {"q": Problem("q", "How many?", solution, "5", "main", "")}
    return CompletionSet(
        "s",
        {("q", 0): grade},
        **{
            "completions": {("q", 0): Completion("q", 0, "", "#### 4", 1, "stop", 0.0, "")},
            "problems": problems,
            **kept,
        },
    )


def test_what_is_needed_is_named():
    assert profile(source()).wrong == 1
    with pytest.raises(InputError, match="grades without completions"):
        profile(source(completions={}))
    with pytest.raises(InputError, match="--gold FILE"):
        profile(source(solution=""))


def test_examples_are_short_and_of_different_problems():
    problems = {f"q{i}": Problem(f"q{i}", "How?" + "!" * i, "x\n#### 5", "5", "main", "") for i in range(5)}
    keys = [(name, sample) for name in problems for sample in range(2)]
    completions = {key: Completion(*key, "", "#### 77" + " " * key[1], 1, "stop", 0.0, "") for key in keys}
    grades = {key: Grade(*key, False, False, "77", "77", "wrong", 1) for key in keys}
    (kind,) = profile(CompletionSet("s", grades, completions=completions, problems=problems)).kinds
    assert kind.count == 10
    assert [example.problem_id for example in kind.examples] == ["q0", "q1", "q2"]


def test_a_right_answer_with_a_slip_is_lucky():
    lucky = Completion("q", 0, "", "1+1=3\n#### 5", 1, "stop", 0.0, "")
    grade = Grade("q", 0, True, True, "5", "5", "correct", 1)
    found = profile(source(completions={("q", 0): lucky}))
    assert (found.slips, found.lucky, found.wrong) == (1, 0, 1)
    found = profile(
        CompletionSet("s", {("q", 0): grade}, completions={("q", 0): lucky}, problems=source().problems)
    )
    assert (found.slips, found.lucky, found.wrong, found.kinds) == (1, 1, 0, ())
