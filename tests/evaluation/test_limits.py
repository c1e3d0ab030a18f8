"""How many tokens a model may write."""

from reckoner.config import Config, PeftConfig
from reckoner.evaluation import limits
from reckoner.evaluation.evaluate import encode, load_problems, make_prompt
from reckoner.evaluation.limits import solution_lengths, token_limit
from reckoner.models.policy import load_policy


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
