"""`reckon tune`: as many trials for each arm, on dev, resumable, and an edited record is refused."""

import json
import math
import sys
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest

from reckoner.algorithms import ALGORITHMS
from reckoner.config import ArmConfig
from reckoner.errors import InputError
from reckoner.study import tune as tuning

BEST = {"full": 3e-3, "lora": 1e-2}


@pytest.fixture
def study(tiny_config, tmp_path, monkeypatch):
    """Two arms whose made-up dev score is best at a rate of their own; `trained` lists what was tried."""
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    trained: list[tuple[str, float]] = []

    def train(config, on_progress):
        folder = tmp_path / config.run.output_dir
        arm = folder.parent.name
        rate = config.train.learning_rate
        trained.append((arm, rate))
        folder.mkdir(parents=True)
        away = abs(math.log(rate / BEST[arm]))
        for step in (1, 2, 3):
            with open(folder / "metrics.jsonl", "a") as file:
                solved = max(0, round(100 - 30 * away)) * step // 3
                file.write(json.dumps({"step": step, "dev_strict": solved, "dev_n": 100}) + "\n")
            on_progress("dev", 100, 100, f"dev {solved} %")
        return {}

    monkeypatch.setitem(sys.modules, "made_up_training", SimpleNamespace(train=train))
    monkeypatch.setitem(ALGORITHMS, "sft", replace(ALGORITHMS["sft"], module="made_up_training"))
    arms = {"zero": ArmConfig(), **{name: ArmConfig(method="sft") for name in BEST}}
    arms["full"].set = {"train": {"learning_rate": 1e-3}}
    arms["lora"].set = {"train": {"learning_rate": 1e-2}}
    config = replace(
        tiny_config,
        run=replace(tiny_config.run, output_dir=str(tmp_path / "s")),
        study=replace(tiny_config.study, arms=arms),
    )
    return config, trained


def test_each_arm_gets_as_many_trials_and_the_best_rate(study):
    config, trained = study
    record = tuning.tune(config, 6)
    assert {name: len(one["tried"]) for name, one in record["arms"].items()} == {"full": 6, "lora": 6}
    assert trained[0] == ("full", 1e-3) and ("lora", 1e-2) in trained
    own = {"full": 1e-3, "lora": 1e-2}
    assert all(own[name] / 10 <= rate <= own[name] * 10 for name, rate in trained)
    assert record["arms"]["lora"]["learning_rate"] == 1e-2 and record["arms"]["lora"]["dev"] == 1.0
    assert record["arms"]["full"]["dev"] >= 0.67
    assert tuning.apply_record(config, record) == {"full": 6, "lora": 6}
    assert config.study.arms["lora"].set["train"]["learning_rate"] == 1e-2
    before = list(trained)
    assert tuning.tune(config, 6) == record and trained == before


def test_a_search_goes_on_to_the_same_trials(study, tmp_path):
    config, trained = study
    tuning.tune(config, 2, ["full"])
    record = tuning.read_record(tmp_path / "s" / "tune")
    assert tuning.apply_record(deepcopy(config), record) == {"full": 2, "lora": 0}
    tuning.tune(config, 5, ["full"])
    once = [rate for _, rate in trained]
    trained.clear()
    other = replace(config, run=replace(config.run, output_dir=str(tmp_path / "t")))
    tuning.tune(other, 5, ["full"])
    assert len(once) == 5 and [rate for _, rate in trained] == pytest.approx(once)


def test_what_cannot_be_searched_is_refused(study, tmp_path):
    config, _ = study
    with pytest.raises(InputError, match="tune: zero trains nothing"):
        tuning.tune(config, 2, ["zero"])
    tuning.tune(config, 1, ["full"])
    path = tmp_path / "s" / "tune" / "record.json"
    path.write_text(path.read_text().replace('"dev": 0', '"dev": 1').replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match=r"record.json: was edited after the search"):
        tuning.tune(config, 1)
