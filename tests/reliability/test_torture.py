"""The short form of `make torture`, and that what `docs/reliability.md` says of the long one is what was
stored.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import torture
from reckoner.config import ModelConfig, PeftConfig
from reckoner.errors import InputError
from reckoner.models.policy import fingerprint, load_policy

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_study_of_every_method_ends_as_if_nothing_had_happened(tmp_path):
    """Its arms are prompting, SFT, LoRA, PPO and GRPO, each with its evaluation."""
    stored = tmp_path / "torture.json"
    assert torture.main(["--kills", "1", "--points", "3", "--only", "study", "--out", str(stored)]) == 0
    found = json.loads(stored.read_text())["kinds"]["study"]
    assert (found["kills"], found["points"], found["different"]) == (1, 3, [])


def test_a_run_that_ends_differently_is_found(tmp_path):
    """A torture that could not fail would prove nothing: here a finished run has one byte too many."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "seconds": 1.5}\n')
    expected = torture.digest(run)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "seconds": 9.5}\n')
    assert torture.difference(expected, run) == ""
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5, "seconds": 1.5}\n')
    assert torture.difference(expected, run) == "metrics.jsonl"
    (run / "extra.json").write_text("{}")
    assert torture.difference(expected, run).startswith("extra.json is left over")


def test_an_index_that_leaves_the_folder_is_refused_by_the_check_of_indices_alone(
    tiny_model, tmp_path, monkeypatch
):
    """Without that check the weights outside would be read as if they were the folder's."""
    folder = shutil.copytree(tiny_model, tmp_path / "run")
    whole = load_policy(ModelConfig(str(folder)), PeftConfig(), train=False)
    torture.escape(folder)
    with pytest.raises(
        InputError, match=r"/run/model.safetensors.index.json: .* is '../outside.safetensors'"
    ):
        load_policy(ModelConfig(str(folder)), PeftConfig(), train=False)
    monkeypatch.setattr("reckoner.models.sources._check_index", lambda *_: None)
    escaped = load_policy(ModelConfig(str(folder)), PeftConfig(), train=False)
    assert fingerprint(escaped.model) == fingerprint(whole.model)


def test_the_page_says_what_is_stored():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    stored = json.loads(torture.RESULT.read_text())
    kinds, attacks = stored["kinds"].values(), stored["attacks"].values()
    assert not any(kind["different"] for kind in kinds)
    kills, points = sum(kind["kills"] for kind in kinds), sum(kind["points"] for kind in kinds)
    (each,) = {kind["kills"] for kind in kinds}
    assert f"{each} random SIGKILLs each, {kills} of {kills} equal" in page
    assert f"{points} kills, {points} of {points} equal" in page
    assert {attack["code"] for attack in attacks} == {2}
    assert f"{len(attacks)} of {len(attacks)} refused by name" in page
