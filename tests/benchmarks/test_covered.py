"""The coverage of the rooms: its tests are there, and a room below the goal fails."""

import json

import pytest

pytest.importorskip("coverage")
from benchmarks import covered


def test_the_tests_of_each_room_are_there():
    assert all((covered.ROOT / test).exists() for tests in covered.ROOMS.values() for test in tests)
    assert "tests/runs" in covered.ROOMS["runs"]


@pytest.mark.parametrize(("reached", "code"), [(95, 0), (94, 1)])
def test_a_room_below_the_goal_fails(tmp_path, monkeypatch, capsys, reached, code):
    class Measured:
        def start(self):
            pass

        stop = start

        def json_report(self, outfile):
            keys = ("covered_lines", "num_statements", "covered_branches", "num_branches")
            full = dict(zip(keys, (100, 100, 0, 0), strict=True)) | {"percent_statements_covered": 100}
            rooms = {room: {"summary": full, "missing_lines": []} for room in covered.ROOMS}
            rooms["runs"] = {"summary": {**full, "covered_lines": reached}, "missing_lines": []}
            files = {f"src/reckoner/{room}/x.py": one for room, one in rooms.items()}
            covered.Path(outfile).write_text(json.dumps({"files": files}))

    monkeypatch.setattr(covered.coverage, "Coverage", lambda **_: Measured())
    monkeypatch.setattr(covered.pytest, "main", lambda _: 0)
    monkeypatch.setattr(covered, "RESULT", tmp_path / "coverage.json")
    assert covered.main() == code
    assert f"runs: {reached}.0 % of lines" in capsys.readouterr().out
