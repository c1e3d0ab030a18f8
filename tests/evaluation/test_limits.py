"""How many tokens a model may write."""

import json
from collections.abc import Sequence

import pytest
import torch

from reckoner.config import Config, PeftConfig
from reckoner.evaluation import limits
from reckoner.evaluation.evaluate import encode, load_problems, make_prompt
from reckoner.evaluation.limits import dev_limit, grow, solution_lengths, token_limit
from reckoner.evaluation.sample import greedy
from reckoner.models.policy import load_policy
from reckoner.runs.integrity import MANIFEST, manifest
from reckoner.runs.records import write_json
from reckoner.tasks.prompts import Prompt


def test_the_limit_is_the_995th_percentile():
    assert token_limit(Config(), [*range(1, 201)]) == 200
    assert token_limit(Config(), [*range(1, 1001)]) == 996
    assert token_limit(Config(), [7]) == 7


def test_solutions_are_counted_as_they_are_trained_on(tiny_config, monkeypatch):
    """Stop token included, whatever number is encoded at once."""
    monkeypatch.setattr(limits, "ENCODED_AT_ONCE", 3)
    policy = load_policy(tiny_config.model, PeftConfig(), train=False)
    problems = load_problems(tiny_config, "train")[:7]
    prompt = make_prompt(tiny_config, policy)
    expected = [len(example.completion_ids) for example in encode(policy, prompt, problems)]
    assert solution_lengths(policy, prompt, problems) == expected and len(set(expected)) > 1
    assert solution_lengths(policy, prompt, []) == []


NEVER = 10**9


@pytest.mark.parametrize(
    ("lengths", "found", "asked"),
    [
        ([100] * 198 + [150] * 2, 100, [(200, 100)]),  # 1 % cut is little enough
        ([100] * 197 + [150] * 3, 200, [(200, 100), (3, 200)]),
        ([90] * 99 + [350] * 101, 400, [(200, 100), (101, 200), (101, 400)]),  # most may think first
        ([350] * 200, 400, [(200, 100), (200, 200), (200, 400)]),
        ([90] * 140 + [NEVER] * 60, 100, [(200, 100), (60, 200)]),  # the rest repeats itself
        ([90] * 140 + [150] * 4 + [NEVER] * 56, 100, [(200, 100), (60, 200)]),
        ([90] * 140 + [150] * 5 + [NEVER] * 55, 200, [(200, 100), (60, 200), (55, 400)]),
        ([NEVER] * 200, 100, [(200, 100), (200, 200), (200, 400)]),
        ([90] * 99 + [390] * 51 + [450] * 50, 500, [(200, 100), (101, 200), (101, 400), (50, 500)]),
    ],
)
def test_the_limit_of_an_untrained_model_doubles_while_that_ends_its_answers(lengths, found, asked):
    calls = []

    def cut(rows: Sequence[int], limit: int) -> list[int]:
        calls.append((len(rows), limit))
        return [row for row in rows if lengths[row] > limit]

    assert (grow(cut, len(lengths), 100, 500), calls) == (found, asked)


def test_a_limit_is_noted_and_not_sought_again(tiny_config, tmp_path):
    policy = load_policy(tiny_config.model, PeftConfig(), train=False)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[list(policy.stop_ids)] = 0  # no answer ends
    prompt, dev = make_prompt(tiny_config, policy), load_problems(tiny_config, "dev")
    steps = []

    def limit(name: str, load) -> int:
        settings = tiny_config.eval
        return dev_limit(tmp_path, name, load, prompt, dev, 5, settings, lambda *step: steps.append(step))

    assert limit("a", lambda: policy) == 5
    assert steps[-1] == ("limit", 8, 8, "20 tokens")
    assert json.loads((tmp_path / "limits.json").read_text()) == {"a": 5}
    (tmp_path / "limits.json").write_text('{"a": 7}')
    assert limit("a", lambda: pytest.fail("the model is loaded")) == 7
    assert limit("b", lambda: policy) == 5
    assert json.loads((tmp_path / "limits.json").read_text()) == {"a": 7, "b": 5}
    (tmp_path / "summary.json").write_text("{}")
    write_json(tmp_path / MANIFEST, manifest(tmp_path))
    assert limit("a", lambda: pytest.fail("the model is loaded")) == 7
    (tmp_path / "limits.json").write_text('{"a": 3, "b": 5}')  # not as the finished run left it
    assert limit("a", lambda: policy) == 5
    assert json.loads((tmp_path / "limits.json").read_text()) == {"a": 5}


def test_a_new_question_stops_plain_prompts_only(tiny_config):
    policy = load_policy(tiny_config.model, PeftConfig(), train=False)
    plain, chat = (greedy(policy, Prompt(chat=chat), 9).stop_strings for chat in (False, True))
    assert set(plain) - set(chat) == {"\nQuestion:", "\nQ:", "\nProblem:"}
    assert "<|im_end|>" in chat and not any("\n" in stop for stop in chat)
