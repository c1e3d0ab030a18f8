"""Damaged documents of a model folder, seeded: each is taken, or refused in one line. `fuzz.py 10000` tries
more of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .fuzz import answer, fuzz, model_documents


@pytest.mark.filterwarnings("ignore")
def test_damaged_documents_of_a_model_are_taken_or_refused_in_one_line(tiny_model, tmp_path):
    ends = {}
    for path in model_documents(Path(shutil.copytree(tiny_model, tmp_path / "model"))):
        ends[path.name] = fuzz(path, lambda folder=path.parent: answer(folder), 20)
    assert len(ends) == 7
    for name, counts in ends.items():
        assert counts["taken"] + counts["refused"] == 20 and counts["refused"] >= 2, (name, counts)
