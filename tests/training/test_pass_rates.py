"""Pass rates of the start policy are drawn once, stored, reused, and choose the problems."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from reckoner.config import PeftConfig, load_config
from reckoner.engine.cost import forward_flops
from reckoner.errors import InputError
from reckoner.evaluation import sample
from reckoner.models.policy import load_policy
from reckoner.runs.records import Problem
from reckoner.training import pass_rates

PROBLEMS = [Problem(f"p{n}", "?", "#### 7", "7", "main", "test") for n in range(5)]
PASSES = {"p0": 0, "p1": 1, "p2": 2, "p3": 4, "p4": 3}


class Asked(str):
    """An example of two prompt tokens that is called as its problem."""

    prompt_ids = (1, 2)


def scene(tmp_path, *settings):
    config = load_config("", [], ["rollout.pass_rate_samples=4", *settings])
    (tmp_path / "run").mkdir(exist_ok=True)
    data = pass_rates.TrainingData(
        SimpleNamespace(digest="d"), PROBLEMS, [Asked(problem.id) for problem in PROBLEMS], [], [], 10
    )
    policy = SimpleNamespace(base=SimpleNamespace(pins={"weights": "w"}))
    return SimpleNamespace(config=config, folder=tmp_path / "run"), policy, data


@pytest.fixture
def drawn(monkeypatch):
    """A policy that solves each problem as often as PASSES says; the list counts its draws."""
    calls = []

    def answers(policy, prompt, problems, sampling, *_, **__):
        calls.append((sampling.num_samples, sampling.temperature))
        return [
            SimpleNamespace(
                problem=problem,
                grade=SimpleNamespace(strict=n < PASSES[problem.id]),
                completion=SimpleNamespace(token_count=3),
            )
            for problem in problems
            for n in range(sampling.num_samples)
        ]

    monkeypatch.setattr(pass_rates, "answers", answers)
    monkeypatch.setattr(pass_rates, "greedy", lambda *_: sample.Sampling(10))
    return calls


def chosen(found):
    run, policy, data = found
    kept = pass_rates.choose_problems(run, policy, data, lambda *_: None)
    assert [problem.id for problem in kept.problems] == kept.examples
    return kept.examples


def test_problems_within_the_bounds_are_kept_and_the_map_is_drawn_once(drawn, tmp_path):
    found = scene(tmp_path, "rollout.pass_rate=[0.25, 0.75]", "rollout.temperature=0.7")
    assert chosen(found) == ["p1", "p2", "p4"]
    assert chosen(found) == ["p1", "p2", "p4"] and drawn == [(4, 0.7)]
    assert json.loads((tmp_path / "run" / "pass_rates.json").read_text())["passes"] == PASSES


def test_easy_problems_come_first(drawn, tmp_path):
    assert chosen(scene(tmp_path, "rollout.order=easy_first")) == ["p3", "p4", "p2", "p1", "p0"]


def test_without_either_nothing_is_drawn(drawn, tmp_path):
    assert len(chosen(scene(tmp_path))) == 5 and not drawn


def test_the_map_of_another_run_is_used_where_it_fits(drawn, tmp_path):
    chosen(scene(tmp_path, "rollout.pass_rate=[0.5, 1.0]"))
    other = tmp_path / "other"
    other.mkdir()
    named = ["rollout.pass_rate=[1, 1]", f"rollout.pass_rate_map={tmp_path / 'run'}"]
    found = scene(other, *named)
    assert chosen(found) == ["p3"] and len(drawn) == 1
    assert (other / "run" / "pass_rates.json").is_file(), "a run holds what it was made with"
    (other / "run" / "pass_rates.json").unlink()
    found[1].base.pins = {"weights": "another"}
    with pytest.raises(InputError, match="has another policy than this run"):
        chosen(found)
    hotter = scene(tmp_path / "other", *named, "rollout.temperature=1.5")
    with pytest.raises(InputError, match="has another temperature than this run"):
        chosen(hotter)
    run, policy, data = scene(other, *named)
    more = replace(data, problems=[*PROBLEMS, replace(PROBLEMS[0], id="p9")], examples=[*data.examples, "p9"])
    with pytest.raises(InputError, match="lacks problem p9"):
        pass_rates.choose_problems(run, policy, more, lambda *_: None)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("[0.6, 0.7]", r"leaves none of 5 train problems: the policy solves 1 never and 1 always"),
        ("[0.9, 0.1]", "must be two numbers, as"),
        ("[0.5]", "must be two numbers, as"),
    ],
)
def test_bounds_that_cannot_work_are_refused(setting, message, drawn, tmp_path):
    with pytest.raises(InputError, match=message):
        chosen(scene(tmp_path, f"rollout.pass_rate={setting}"))


def test_bounds_are_numbers():
    with pytest.raises(InputError, match=r"rollout.pass_rate=\['a'\] is not a list of numbers"):
        load_config("", [], ["rollout.pass_rate=[a]"])


def test_the_verb_counts_problems_by_how_often_they_were_solved(drawn, tmp_path, capsys):
    from reckoner.cli import main

    chosen(scene(tmp_path, "rollout.order=easy_first"))
    assert main(["data", "pass-rates", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("5 train problems, 4 completions each at 1" in line for line in lines)
    assert any("2 of 4" in line and "15 to 85 %" in line for line in lines)


def test_a_run_on_a_map_of_its_own(rl_config):
    """The random model solves nothing, so that the bounds keep what is never solved."""
    from reckoner.algorithms import grpo

    from ..algorithms.invariants import coin

    rl_config.rollout = replace(rl_config.rollout, pass_rate=[0.0, 0.5], pass_rate_samples=2, max_steps=1)
    summary = grpo.train(rl_config, reward_fn=coin)
    stored = json.loads((Path(rl_config.run.output_dir) / "pass_rates.json").read_text())
    assert len(stored["passes"]) == 48 and summary["training"]["steps"] == 1
    assert stored["samples"] == 2 and set(stored["passes"].values()) <= {0, 1, 2}
    # the same steps on the map as another run's: what the map took is the difference
    rl_config.rollout = replace(rl_config.rollout, pass_rate_map=rl_config.run.output_dir)
    rl_config.run = replace(rl_config.run, output_dir=f"{rl_config.run.output_dir}-again")
    again = grpo.train(rl_config, reward_fn=coin)
    model = load_policy(rl_config.model, PeftConfig(), train=False).model
    assert 48 * 2 <= stored["tokens"] and 48 < stored["prompt_tokens"]
    drawn = forward_flops(model, stored["prompt_tokens"] + stored["tokens"], stored["tokens"])
    assert summary["training"]["flops"] - again["training"]["flops"] == pytest.approx(drawn, rel=1e-6)
