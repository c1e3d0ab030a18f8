"""The search for the best prompt of the untrained model: declared, on dev only, counted and read back."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import yaml

from reckoner.analysis.study_records import read_study
from reckoner.config import PromptConfig, build_config
from reckoner.evaluation.session import load_problems
from reckoner.runs.records import Problem
from reckoner.study import arms as plans
from reckoner.study import search
from reckoner.study.run import run_study
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.answers.number import grade_text
from reckoner.tasks.prompts import Prompt


def test_the_space_begins_with_the_studys_own_prompt_and_repeats_none():
    base = PromptConfig(instruction="Think.")
    drawn = search.candidates(base, 40, "a template with enable_thinking", seed=3)
    assert drawn[0] == base and len(drawn) == len({str(one) for one in drawn}) == 40
    assert drawn == search.candidates(base, 40, "a template with enable_thinking", seed=3)
    assert {one.chat_template for one in drawn[1:]} == {"on", "off"}
    for one in drawn[1:]:
        assert not (one.shots and "only the final number" in one.instruction), "worked examples show steps"
        forms = [("boxed", "boxed"), ("The answer is", "answer-is"), ("####", "####"), ("", "####")]
        assert one.answer_format == next(form for word, form in forms if word in one.instruction)
        assert one.chat_template == "on" or not one.chat_template_kwargs
    assert {one.chat_template for one in search.candidates(PromptConfig(), 20, "", 0)[1:]} == {"off"}


def test_an_answer_is_read_in_the_format_that_was_asked_for():
    """Worked examples show it too. By "####" the first text would be read as 3, its last number."""
    drawn = search.candidates(PromptConfig(), 300, "", seed=0)
    texts = {"boxed": r"\boxed{12} apples for 3", "answer-is": "The answer is 12. She has 3 friends."}
    for answer_format, text in texts.items():
        shown = [one for one in drawn if one.answer_format == answer_format]
        assert {one.shots for one in shown} == {0, 1, 4, 8}
        example = Prompt(answer_format=answer_format).answer("12 of 12.\n#### 12")
        assert "####" not in example and grade_text(example, "12").flexible
        problem = Problem("p", "?", "#### 12", "12", "main", "test")
        assert Answer.to(problem, text, answer_format).grade.strict
        assert not Answer.to(problem, text).grade.flexible


def test_a_study_searches_its_prompt_and_asks_it(tiny_config, tmp_path):
    """Every prompt of a random model solves nothing, so that of equals the first, the study's own, wins."""
    layer = {**tiny_config.to_dict(), "study": {"arms": {"asked": {}}, "prompt_search": 3}}
    layer["run"]["output_dir"], layer["data"]["dev_size"] = str(tmp_path / "s"), 40
    config = build_config([(layer, {})])
    arms = plans.plan_study(config)
    folder = run_study(config, arms, arms, "reckon study")
    record = json.loads((folder / "prompt_search.json").read_text())
    dev = len(load_problems(config, "dev"))
    assert dev == 40
    assert [(one["n"], len(one["scores"])) for one in record["rounds"]] == [(32, 3), (40, 2)]
    assert record["completions"] == 3 * 32 + 2 * 40
    # -1 marks a prompt that this model cannot have
    assert all(-1 <= solved <= one["n"] for one in record["rounds"] for solved, _ in one["scores"])
    best = max(record["rounds"][-1]["scores"], key=lambda pair: pair[0])
    assert record["winner"] == best[1] == asdict(arms[0].config.prompt)
    saved = yaml.safe_load((folder / "searched-prompt" / "config.yaml").read_text())
    assert saved["prompt"] == record["winner"]
    asked = read_study(folder)
    assert asked.search["prompts"] == 3 and [arm.state for arm in asked.arms] == ["done", "done"]


@pytest.fixture
def halved(monkeypatch, tmp_path):
    """A search in which the prompts with more worked examples solve more; notes what was asked."""
    asked = []

    def solved(config, policy, prompt, problems):
        asked.append(len(problems))
        return len(problems) * prompt.shots // 16

    monkeypatch.setattr(search, "_solved", solved)
    monkeypatch.setattr(search, "load_problems", lambda config, split: list(range(100)) * (split == "dev"))
    tokenizer = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=None))
    monkeypatch.setattr(search, "load_policy", lambda model, peft, train: tokenizer)
    config = build_config([({"study": {"arms": {"a": {}}, "prompt_search": 8}}, {})])
    return lambda: search.best_prompt(tmp_path, config, 8, lambda *progress: None), asked, tmp_path


def test_the_better_half_goes_on_to_twice_as_many_problems(halved):
    find, asked, folder = halved
    winner = find()
    assert asked == [32] * 8 + [64] * 4 + [100] * 2
    record = json.loads((folder / "prompt_search.json").read_text())
    assert record["completions"] == search.completions(8, 100) == 8 * 32 + 4 * 64 + 2 * 100
    assert winner.shots == max(one["shots"] for _, one in record["rounds"][0]["scores"])
    assert find() == winner and len(asked) == 14, "it is read back"


def test_the_search_is_a_prompting_arm_of_the_study(tmp_path):
    layer = {"study": {"arms": {"a": {"method": "sft"}}, "prompt_search": 8}, "run": {"output_dir": "x"}}
    searched, trained = plans.plan_study(build_config([(layer, {})]))
    assert (searched.name, searched.method, searched.title) == (
        "searched-prompt",
        "prompt",
        "best of 8 searched prompts",
    )
    assert trained.name == "a"
