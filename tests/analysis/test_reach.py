"""Sharpened or expanded: unbiased curves, the crossing, and what a few samples cannot tell."""

import json

import numpy as np
import pytest

from reckoner.analysis.reach import _crossing, reach, reach_sentences, reach_table
from reckoner.analysis.readers import CompletionSet
from reckoner.cli import main
from reckoner.errors import InputError
from reckoner.runs.records import Grade


def drawn(name: str, counts: list[int], samples: int) -> CompletionSet:
    """Problem i has counts[i] right of `samples`; wrong answers all differ."""
    grades = {
        (f"p{i}", s): Grade(
            f"p{i}", s, s < right, s < right, "7" if s < right else f"{100 + s}", None, "wrong", 1
        )
        for i, right in enumerate(counts)
        for s in range(samples)
    }
    return CompletionSet(name, grades)


def test_a_sharpened_policy_is_called_so():
    """Start: every problem 4 of 16. End: half of the problems always, half never."""
    found = reach(drawn("start", [4] * 60, 16), drawn("end", [16, 0] * 30, 16))
    assert [one.k for one in found.start.points] == [1, 2, 4, 8, 16]
    assert [one.passed for one in found.end.points] == [0.5] * 5
    assert found.start.points[0].passed == 0.25 and found.start.points[-1].passed == 1.0
    assert found.start.points[1].passed == pytest.approx(1 - (12 * 11) / (16 * 15))
    assert found.start.bounds[0] == (0.25, 0.25)
    gain = [one[0] for one in found.gains]
    assert gain[0] == 0.25 and gain[-1] == -0.5
    # pass@2 of the start is 0.45 and pass@4 is 1 - C(12,4)/C(16,4) = 0.728: the gain +0.05 falls to -0.228
    assert found.crossing == pytest.approx(2 * 2 ** (0.05 / 0.2780), rel=1e-3)
    low, high = found.crossing_bounds
    assert 1.2 < low < found.crossing < high < 4
    assert len(found.lost) == 30 and found.gained == ()
    assert reach_sentences(found)[0].startswith("end is sharpened: better at k = 1")
    assert reach_table(found).rows[0].cells["maj@k after"].text == "50.0 %"


def test_an_expanded_policy_never_crosses():
    found = reach(drawn("start", [2, 0] * 40, 8), drawn("end", [4, 2] * 40, 8), k=8)
    assert found.crossing is None and found.crossing_bounds == (None, None)
    assert len(found.gained) == 40 and found.lost == ()
    assert reach_sentences(found)[0].startswith(
        "end is expanded: it reaches more problems in 8 tries; no cross"
    )


def test_equal_policies_cannot_be_told_apart():
    generator = np.random.default_rng(0)
    chances = generator.uniform(0, 1, 50)
    sets = [drawn(name, generator.binomial(8, chances).tolist(), 8) for name in ("start", "end")]
    found = reach(*sets)
    assert "cannot be told at this n" in reach_sentences(found)[0]
    assert all(low <= 0 <= high for _, low, high in found.gains)


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
        reach(drawn("start", [1, 2], 4), end, k)
    with pytest.raises(InputError, match="1 samples a problem"):
        reach(drawn("a", [1, 0], 1), drawn("b", [1, 0], 1))


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
