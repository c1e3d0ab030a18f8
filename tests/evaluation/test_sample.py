"""One loop asks and grades: its records, its draws, and one reading of each completion."""

from __future__ import annotations

import json

import pytest

from reckoner.config import PeftConfig
from reckoner.engine.sampling import Sample, Sampling
from reckoner.evaluation import sample
from reckoner.evaluation.evaluate import evaluate_model, load_problems, make_prompt
from reckoner.models.policy import load_policy
from reckoner.runs.records import Completion, Grade
from reckoner.tasks.answers import number


@pytest.fixture
def asked(tiny_config):
    policy = load_policy(tiny_config.model, PeftConfig(), train=False)
    return policy, make_prompt(tiny_config, policy), load_problems(tiny_config, "test")[:3], tiny_config.eval


def test_answers_come_problem_by_problem_with_what_was_drawn(asked, monkeypatch):
    policy, prompt, problems, settings = asked
    drawn = [[Sample((5, 1), (-1.0, -0.5), "stop"), Sample((7,), (-2.0,), "length")] for _ in problems]
    monkeypatch.setattr(sample, "generate", lambda *_: drawn)
    found = sample.answers(policy, prompt, problems, Sampling(8, num_samples=2), settings, "run")
    assert [(one.problem.id, one.completion.sample) for one in found] == [
        (problem.id, n) for problem in problems for n in (0, 1)
    ]
    text = policy.decode((5, 1))
    assert found[0].completion == Completion(problems[0].id, 0, prompt.digest, text, 2, "stop", -1.5, "run")
    assert found[1].tokens is drawn[0][1] and found[1].completion.finish == "length"
    assert found[2].prompt_ids == sample.ask(policy, prompt, problems[1].question)


def test_a_draw_depends_on_its_key_and_each_completion_is_counted(asked):
    policy, prompt, problems, settings = asked
    sampling, counted = Sampling(6, temperature=1.0, num_samples=2, seed=3), []
    whole = sample.answers(policy, prompt, problems, sampling, settings, on_done=counted.append)
    rest = sample.answers(policy, prompt, problems[1:], sampling, settings, keys=range(1, 3))
    assert [one.tokens.ids for one in whole[2:]] == [one.tokens.ids for one in rest]
    assert counted == [1, 2, 3, 4, 5, 6]


def test_a_completion_is_read_once_for_its_reward_and_its_grade(asked, monkeypatch):
    policy, prompt, (problem, *_), _ = asked
    readings = []
    monkeypatch.setattr(number, "read", lambda text: readings.append(text) or reader(text))
    record = Completion(problem.id, 4, "", f"#### {problem.gold}", 3, "length", -1.0, "")
    one = sample.Answered(problem, [], record, Sample((), (), "length"))
    assert one.answer.grade.strict and one.answer.reading.markers == 1
    assert one.grade == Grade(problem.id, 4, True, True, problem.gold, problem.gold, "correct", 1)
    assert readings == [record.text]


reader = number.read


def test_an_evaluation_says_its_backend_once_and_stores_it(tiny_config, tmp_path):
    tiny_config.run.output_dir = str(tmp_path / "evaluated")
    said = []
    folder, _ = evaluate_model(tiny_config, lambda phase, *rest: said.append((phase, rest[-1])))
    (line,) = [note for phase, note in said if phase == "backend"]
    assert line.startswith("sampling: native KV engine")
    assert json.loads((folder / "environment.json").read_text())["backend"] == line
