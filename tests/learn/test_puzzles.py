"""Each planted fault is found by its probe, and the healthy file passes all of them."""

from __future__ import annotations

import re
import sys

import pytest

from .conftest import LEARN, load

NUMBERS = range(1, 11)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_fault_is_found(faults, tmp_path, number):
    fault = faults.FAULTS[number - 1]
    path = tmp_path / f"puzzle_{number:02}.py"
    path.write_text(faults.planted(fault))
    with pytest.raises(AssertionError, match=r"\w"):
        faults.PROBES[fault.probe](load(path))


def test_a_mended_file_passes(check, capsys, tmp_path):
    (tmp_path / "puzzle_03.py").write_text((LEARN / "tinier_zero.py").read_text())
    assert check.check_puzzle(3, tmp_path)
    assert capsys.readouterr().out == "puzzle  3   mended      10 probes pass\n"


def test_a_file_that_is_not_mended_is_told_why(check, faults, capsys, tmp_path):
    assert not check.check_puzzle(6, tmp_path)
    assert "not begun   python learn/puzzles/faults.py 6" in capsys.readouterr().out
    (tmp_path / "puzzle_06.py").write_text(faults.planted(faults.FAULTS[5]))
    assert not check.check_puzzle(6, tmp_path)
    assert "not yet" in capsys.readouterr().out


def test_puzzles_are_written_once(faults, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(faults, "LEARN", tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "tinier_zero.py").write_text((LEARN / "tinier_zero.py").read_text())
    monkeypatch.setattr(sys, "argv", ["faults.py", "2"])
    assert faults.main() == 0
    assert (tmp_path / "work" / "puzzle_02.py").read_text() == faults.planted(faults.FAULTS[1])
    assert "check.py --puzzles 2" in capsys.readouterr().out
    assert faults.main() == 2
    monkeypatch.setattr(sys, "argv", ["faults.py", "2", "--again"])
    assert faults.main() == 0


@pytest.mark.parametrize("page", ["README.md", "ANSWERS.md"])
def test_every_puzzle_has_a_symptom_and_an_answer(page):
    text = (LEARN / "puzzles" / page).read_text()
    assert re.findall(r"^## Puzzle (\d+)$", text, re.MULTILINE) == [str(n) for n in NUMBERS]


def test_every_puzzle_is_drawn_beside_the_healthy_run(monkeypatch):
    """Puzzle 5 has arguments of its own, under which the healthy file begins with a reward of 0.137."""
    monkeypatch.syspath_prepend(LEARN / "puzzles")
    symptoms = load(LEARN / "puzzles" / "symptoms.py")
    page = (LEARN / "puzzles" / "README.md").read_text()
    for number in NUMBERS:
        assert symptoms.picture(number) in page
        assert (LEARN / "pictures" / f"puzzle_{number:02d}.svg").is_file()
    (first, healthy), *_ = found = symptoms.pairs(page)
    assert len(found) == 10 and healthy["dev"][:2] == [(0, 0.015), (5, 0.335)]
    assert first["log_ratio"][0] == (1, 13.1) and healthy["log_ratio"][0] == (1, 2.86e-06)
    assert found[1][1] == healthy != found[4][1] and found[4][1]["reward"][0] == (1, 0.137)
