"""Sharpened or expanded: unbiased curves, their crossing, what few samples cannot tell, and a study's."""

import json

import numpy as np
import pytest

from reckoner.analysis.difficulty import by_difficulty, difficulty_table
from reckoner.analysis.figures import draw
from reckoner.analysis.findings import find
from reckoner.analysis.reach import _crossing, reach, reach_sentences, reach_table
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.report import sections
from reckoner.analysis.statistics import mcnemar
from reckoner.analysis.study_records import read_study
from reckoner.cli import main
from reckoner.errors import InputError
from reckoner.runs.records import Completion, Grade, Problem, write_jsonl


def graded(counts: list[int], samples: int, formal: bool = True) -> list[Grade]:
    """Problem i has counts[i] right of `samples`; wrong answers all differ."""
    return [
        Grade(
            f"p{i}",
            s,
            s < right and formal,
            s < right,
            None,
            "7" if s < right else f"{100 + s}",
            "correct" if s < right and formal else "wrong",
            1,
        )
        for i, right in enumerate(counts)
        for s in range(samples)
    ]


def drawn(name: str, counts: list[int], samples: int, formal: bool = True) -> CompletionSet:
    return CompletionSet(name, {(g.problem_id, g.sample): g for g in graded(counts, samples, formal)})


def pair(start: list[int], end: list[int], samples: int, k: int = 0):
    return reach([drawn("start", start, samples)], [drawn("end", end, samples)], k)


def test_a_sharpened_policy_is_called_so():
    """Start: every problem 4 of 16. End: half of the problems always, half never."""
    found = pair([4] * 60, [16, 0] * 30, 16)
    assert [one.k for one in found.start.points] == [1, 2, 4, 8, 16]
    assert [one.passed for one in found.end.points] == [0.5] * 5
    assert found.start.points[0].passed == 0.25 and found.start.points[-1].passed == 1.0
    assert found.start.points[1].passed == pytest.approx(1 - (12 * 11) / (16 * 15))
    assert found.start.bounds[0] == pytest.approx((0.25, 0.25))
    gain = [one.estimate for one in found.gains]
    assert gain[0] == pytest.approx(0.25) and gain[-1] == -0.5
    assert (found.gains[-1].fixed, found.gains[-1].broken) == (0, 30)
    assert found.gains[-1].p == pytest.approx(mcnemar(0, 30)), "at all samples a problem is reached or not"
    # pass@2 of the start is 0.45 and pass@4 is 1 - C(12,4)/C(16,4) = 0.728: the gain +0.05 falls to -0.228
    assert found.crossing == pytest.approx(2 * 2 ** (0.05 / 0.2780), rel=1e-3)
    low, high = found.crossing_bounds
    assert 1.2 < low < found.crossing < high < 4
    assert len(found.lost) == 30 and found.gained == ()
    assert reach_sentences([found])[0].startswith(
        "This run of end sharpened: better at k = 1 than start, and"
    )
    assert reach_table(found).rows[0].cells["maj@k after"].text == "50.0 %"


def test_an_expanded_policy_never_crosses():
    found = pair([2, 0] * 40, [4, 2] * 40, 8, k=8)
    assert found.crossing is None and found.crossing_bounds == (None, None)
    assert len(found.gained) == 40 and found.lost == ()
    assert reach_sentences([found]) == [
        "This run of end expanded: it solves more problems in 8 tries than start; the curves do not cross "
        "up to k = 8. Of 80 problems 40 are newly reachable in 8 samples and 0 are lost; some of both is "
        "chance.",
    ]


def test_one_that_lost_problems_without_a_gain_is_narrowed():
    found = pair([4] * 60, [8, 0] * 30, 8)
    assert found.gains[0].estimate == 0
    assert reach_sentences([found])[0].startswith(
        "This run of end narrowed: it solves fewer problems in 8 tries"
    )


def test_equal_policies_cannot_be_told_apart():
    generator = np.random.default_rng(0)
    chances = generator.uniform(0, 1, 50)
    counts = [generator.binomial(8, chances).tolist() for _ in range(2)]
    found = pair(*counts, 8)
    assert "cannot be told at this n" in reach_sentences([found])[0]
    assert all(gain.low <= 0 <= gain.high for gain in found.gains)


def test_claims_are_corrected_over_all_arms():
    """Six problems gained and none lost: p = 2 / 64, below 0.05 alone and not as one of two."""
    found = pair([0] * 20, [1] * 6 + [0] * 14, 2)
    assert found.gains[-1].p == pytest.approx(2 / 64)
    assert "expanded" in reach_sentences([found])[0]
    both_sets = reach_sentences([found, found])
    assert len(both_sets) == 2 and not any("expanded" in line for line in both_sets)


def test_learning_the_format_is_no_reach():
    start = drawn("start", [2, 0, 1, 2], 2, formal=False)
    found = reach([start], [drawn("end", [2, 0, 1, 2], 2)])
    assert [gain.estimate for gain in found.gains] == [0, 0] and found.gained == found.lost == ()


def test_seeds_are_averaged_and_from_three_on_speak_of_the_method():
    starts = [drawn(f"start@{seed}", [1] * 30 + [0] * 30, 2) for seed in range(3)]
    ends = [drawn(f"end@{seed}", [2] * (30 + seed) + [0] * (30 - seed), 2) for seed in range(3)]
    found = reach(starts, ends)
    # of the end 30, 31 and 32 of 60 are always solved; of the start 30 are solved half the time
    assert found.end.points[0].passed == pytest.approx(31 / 60)
    assert found.start.points[0].passed == pytest.approx(0.25)
    assert found.gains[0].estimate == pytest.approx(31 / 60 - 0.25) and found.gains[0].seeds == 3
    assert found.gained == ("p30", "p31") and found.runs == 3
    said = reach_sentences([found])
    assert said[0].startswith("Whether end@0 solves more or fewer") and "this run" not in said[0]
    assert "2 are reached by more of the runs in 2 samples and 0 by fewer" in said[0]


def test_a_gain_is_parted_by_how_often_the_start_solves_a_problem():
    """Of 4 samples the first and third sort, the second and fourth measure; the right ones come first."""
    found = pair([0, 0, 1, 2, 3, 4], [0, 2, 2, 2, 4, 4], 4)
    shown = [(band.name, band.n, band.before, band.after, band.gain.estimate) for band in found.bands]
    assert shown == [
        ("never", 2, 0, 0.25, 0.25),
        ("up to half of the time", 2, 0.25, 0.5, 0.25),
        ("always", 2, 0.75, 1, 0.25),
    ]
    assert [band.part for band in found.bands] == pytest.approx([1 / 12] * 3)
    table = difficulty_table("end", found.bands)
    assert table.rows[0].cells["part of the whole gain"].text == "+8.3"


def test_problems_that_looked_hard_by_chance_show_no_gain():
    """Every problem is solved half of the time before and after. Sorted by the samples that are measured,
    those that were never solved in 4 would gain 50 points.
    """
    generator = np.random.default_rng(0)
    start, end = (generator.random((1, 4000, 8)) < 0.5 for _ in range(2))
    bands = by_difficulty(start, end, True)
    assert [band.n for band in bands] == pytest.approx([250, 2500, 1000, 250], abs=60)
    assert all(band.gain.low < 0 < band.gain.high and abs(band.gain.estimate) < 0.06 for band in bands)
    assert sum(band.part for band in bands) == pytest.approx(end.mean() - start[:, :, 1::2].mean())


def test_the_crossing_is_between_two_k():
    assert _crossing([1, 2, 4], np.array([0.1, 0.1, -0.1])) == pytest.approx(2 * 2**0.5)
    assert _crossing([1, 2], np.array([-0.1, 0.3])) == 1.0
    assert _crossing([1, 2], np.array([0.0, 0.0])) is None


@pytest.mark.parametrize(
    "end, k, said",
    [
        (drawn("end", [1], 4), 0, "answer different problems"),
        (drawn("end", [1, 1], 8), 0, "have 4 and 8 samples a problem"),
        (drawn("end", [1, 1], 4), 5, "k=5 is larger than the 4 samples"),
    ],
)
def test_what_cannot_be_compared_is_refused(end, k, said):
    with pytest.raises(InputError, match=said):
        reach([drawn("start", [1, 2], 4)], [end], k)
    with pytest.raises(InputError, match="1 samples a problem"):
        pair([1, 0], [1, 0], 1)


def sampled(folder, counts, samples=4):
    """Give a run of a fixture samples of 20 problems, as `study.pass_k` draws them."""
    files = {
        name: f"{name}/samples-20x{samples}{end}.jsonl"
        for name, end in {"problems": "", "predictions": "-0shot", "grades": "-0shot"}.items()
    }
    grades = graded(counts, samples)
    write_jsonl(folder / files["grades"], grades)
    texts = [Completion(g.problem_id, g.sample, "h", "t", 1, "stop", 0.0, "") for g in grades]
    write_jsonl(folder / files["predictions"], texts)
    problems = [Problem(f"p{i}", "q", "#### 7", "7", "main", "fixture") for i in range(len(counts))]
    write_jsonl(folder / files["problems"], problems)
    summary = json.loads((folder / "summary.json").read_text())
    entry = {**summary["evaluations"][1], "split": f"samples-20x{samples}", "n": len(grades), **files}
    summary["evaluations"].append(entry)
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def asked(study_writer, tmp_path):
    """PPO and GRPO of the fixture with 4 samples of 20 problems: PPO solves more of them, GRPO the same."""
    folder = study_writer(tmp_path / "s", ("1shot", "full-main", "ppo", "grpo"))
    counts = {"full-main": [2] * 10 + [0] * 10, "ppo": [4] * 18 + [0] * 2, "grpo": [2] * 10 + [0] * 10}
    for arm, right in counts.items():
        sampled(folder / arm, right)
    path = folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pass_k": 4, "samples": "samples-20x4"}))
    return folder


def test_the_report_says_what_each_arm_of_reinforcement_learning_reaches(asked):
    found = find(read_study(asked))
    pictures = draw(found)
    section = next(one for one in sections(found, pictures) if one.id == "reinforcement")
    assert [table.title for table in section.tables][-1] == "What many tries reach" and not section.text
    ppo, grpo = (row.cells for row in section.tables[-1].rows)
    shown = ("pass@1", "gain in 1 try", "pass@4", "verdict", "problems gained", "lost", "curves cross at")
    assert [ppo[name].text for name in shown] == [
        *("90.0 %", "+65.0", "90.0 %", "expanded", "8", "0", "no crossing"),
    ]
    assert ppo["pass@1"].detail == "start 25.0 %" and grpo["verdict"].text == "not told apart"
    assert "Samples of PPO from full main, before and after" in [table.title for table in section.folded]
    picture = next(one for one in pictures["reinforcement"] if one.name == "reach")
    assert picture.title == (
        "PPO from full main solves 90.0 % in one try and 90.0 % in 4, its start 25.0 % and 50.0 %"
    )
    assert picture.data[1][:4] == ["PPO from full main", "full main", 1, 0.25] and len(picture.data) == 13


def test_a_study_without_samples_says_nothing_of_them(learned_path):
    found = find(read_study(learned_path))
    assert found.reaches == []
    assert "reach" not in [one.name for one in draw(found)["reinforcement"]]


def test_more_tries_than_samples_are_one_line(asked, capsys):
    path = asked / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pass_k": 8}))
    assert main(["report", str(asked)]) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith("k=8 is larger than the 4 samples a problem. Draw more, or lower it")
    )


def test_the_verb_reads_files(tmp_path, capsys):
    for name, right in (("start", 1), ("end", 3)):
        lines = [
            {"id": f"p{i}", "sample": s, "completion": f"#### {7 if s < right else 8 + s}", "gold": "7"}
            for i in range(6)
            for s in range(4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["passk", *(str(tmp_path / f"{name}.jsonl") for name in ("start", "end")), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["start"]["points"][0]["passed"] == 0.25 and found["end"]["points"][0]["passed"] == 0.75
