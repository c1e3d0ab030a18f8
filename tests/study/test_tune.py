"""`reckon tune`: as many trials for each arm, on dev, resumable, and an edited record is refused."""

import json
import math
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from reckoner.algorithms import ALGORITHMS
from reckoner.cli import main
from reckoner.config import ArmConfig
from reckoner.errors import InputError
from reckoner.runs.folder import Run
from reckoner.runs.integrity import read_tune_record
from reckoner.study import cluster, runner, worker
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
        folder.mkdir(parents=True, exist_ok=True)
        away = abs(math.log(rate / BEST.get(arm, rate)))
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


class Inline:
    """A cluster that loses each task once, does the last one first, and notes how many are at work."""

    def __init__(self):
        self.waiting, self.lost, self.most = [], set(), 0

    def submit(self, arm, message, answers):
        self.waiting.append((arm.label, message, answers))
        self.most = max(self.most, len(self.waiting))
        return self.waiting[-1]

    def over(self, task):
        if task[0] not in self.lost:
            self.lost.add(task[0])
            self.waiting.remove(task)
            return "node 7 is gone"
        if task is self.waiting[-1]:
            worker.work_there(*task[1:])
            self.waiting.pop()
            return ""
        return None

    def name(self, task):
        return ""


def test_trials_are_tasks_of_the_studys_engine_with_the_results_of_one_process(study, tmp_path, monkeypatch):
    config, trained = study
    config.run.threads, config.study.jobs = 1, 0
    monkeypatch.setitem(runner.ENGINES, "local", lambda *_: runner.InProcessRunner(1))
    record = tuning.tune(config, 6)
    alone = sorted(trained)
    trained.clear()
    there = replace(config, run=replace(config.run, output_dir=str(tmp_path / "there")))
    monkeypatch.setattr(cluster, "POLL", 0.0)
    for module in (cluster, worker):
        monkeypatch.setattr(module, "inputs", lambda arm: {})  # `test_cluster` compares them
    nodes, said = Inline(), []
    monkeypatch.setitem(runner.ENGINES, "local", lambda *what: cluster.ClusterRunner(nodes, *what))

    def progress(name):
        return lambda *what: said.append((name, *what))

    assert tuning.tune(there, 6, progress=progress) == record
    assert sorted(trained) == alone and nodes.most == 8, "four trials of both arms at once"
    lost = ("tune lora", "lost", 0, 0, "its worker was lost (node 7 is gone); it goes on elsewhere")
    assert said.count(lost) == 6 and not (tmp_path / ".there.tasks").exists()


def test_a_trial_that_fell_below_the_others_is_recorded_as_pruned(study, tmp_path):
    """A pruned trial has logged fewer than its three evaluations, and keeps the score of its last one."""
    config, _ = study
    tried = tuning.tune(config, 6, ["full"])["arms"]["full"]["tried"]
    logs = [tmp_path / "s" / "tune" / "full" / f"trial-{at}" / "metrics.jsonl" for at in range(6)]
    ended_early = [len(log.read_text().splitlines()) < 3 for log in logs]
    assert [one["pruned"] for one in tried] == ended_early
    assert any(ended_early) and not any(ended_early[:2]), "the first two set the median"


def test_a_search_belongs_to_its_settings(study):
    """Of the arm itself, of its seed, and of one that is only half searched; the rate is what is searched."""
    config, trained = study
    tuning.tune(config, 2, ["full"])
    longer, seeded = deepcopy(config), deepcopy(config)
    longer.study.arms["full"].set["train"]["num_train_epochs"] = 2
    seeded.run.seed = 1
    for other in (longer, seeded):
        with pytest.raises(InputError, match="tune: full was searched with other settings"):
            tuning.tune(other, 2, ["lora"])
    record = Path(config.run.output_dir) / "tune" / "record.json"
    record.unlink()  # as where the search was killed before it ended
    with pytest.raises(InputError, match="tune: full was searched with other settings"):
        tuning.tune(longer, 2, ["full"])
    config.study.arms["full"].set["train"]["learning_rate"] = 2e-3
    assert len(tuning.tune(config, 2, ["full"])["arms"]["full"]["tried"]) == len(trained) == 2


def test_a_study_searches_the_chosen_arms_after_it_has_said_what_will_run(study, tmp_path, capsys):
    config, trained = study
    path = tmp_path / "study.yaml"
    path.write_text(config.to_yaml())
    command = ["study", "--config", str(path), "--arm", "lora", "study.tune=2", "study.name=small"]
    assert main(command) != 0, "the made-up training leaves no model"
    assert {name for name, _ in trained} == {"lora", "s"} and trained[2][0] == "s"
    assert list(read_tune_record(tmp_path / "s")["arms"]) == ["lora"]
    said = capsys.readouterr().err
    assert 0 <= said.find("study small: 1 arms") < said.find("searched unequally")


def test_the_folder_of_another_study_is_refused_before_any_trial(study, tmp_path, capsys):
    config, trained = study
    (tmp_path / "study.yaml").write_text(config.to_yaml())
    command = ["study", "--config", str(tmp_path / "study.yaml"), "study.tune=2"]
    Run.open(config).close()
    assert main([*command, "run.seed=5"]) == 2
    assert "was started with" in capsys.readouterr().err and not trained


def test_a_search_goes_on_to_the_same_trials(study, tmp_path):
    config, trained = study
    tuning.tune(config, 2, ["full"])
    record = read_tune_record(tmp_path / "s")
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
