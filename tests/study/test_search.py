"""The search for the best prompt of the untrained model: declared, on dev only, counted and read back."""

import json
from types import SimpleNamespace

import pytest

from reckoner.config import PromptConfig, build_config
from reckoner.study import arms as plans
from reckoner.study import search


def test_the_space_begins_with_the_studys_own_prompt_and_repeats_none():
    base = PromptConfig(instruction="Think.")
    drawn = search.candidates(base, 40, "a template with enable_thinking", seed=3)
    assert drawn[0] == base and len(drawn) == len({str(one) for one in drawn}) == 40
    assert drawn == search.candidates(base, 40, "a template with enable_thinking", seed=3)
    assert {one.chat_template for one in drawn[1:]} == {"on", "off"}
    for one in drawn[1:]:
        assert not (one.shots and "boxed" in one.instruction), "worked examples show another format"
        assert one.chat_template == "on" or not one.chat_template_kwargs
    assert {one.chat_template for one in search.candidates(PromptConfig(), 20, "", 0)[1:]} == {"off"}


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
    assert record["completions"] == 8 * 32 + 4 * 64 + 2 * 100
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
