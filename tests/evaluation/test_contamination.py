"""What an untrained model knows of test: questions that it finishes word for word, and other numbers."""

from dataclasses import replace

from reckoner.evaluation import contamination
from reckoner.evaluation.sample import Answered
from reckoner.evaluation.session import load_problems, opened_test
from reckoner.models.policy import load_policy
from reckoner.runs.ledger import read_ledger
from reckoner.runs.records import Completion


def test_only_a_question_finished_word_for_word_counts(tiny_config, monkeypatch):
    """What the model writes is given: the whole rest, one word changed, too little, and more."""
    policy = load_policy(tiny_config.model, tiny_config.peft, train=False)
    texts = ["Ann has four pens and Bob has two .", "One two three four", "One two three four", "a b c"]
    written = [" Bob has two . Then", "three  five", "three", "c\nQuestion"]
    asked = []
    problems = [
        replace(one, question=text)
        for one, text in zip(load_problems(tiny_config, "test"), texts, strict=False)
    ]

    def fake(policy, prompt, problems, sampling, settings):
        asked.extend(prompt.render(one.question) for one in problems)
        return [
            Answered(one, [1], Completion(one.id, 0, "", text, 1, "stop", 0.0, ""), None)
            for one, text in zip(problems, written, strict=True)
        ]

    monkeypatch.setattr(contamination, "answers", fake)
    assert contamination.finishes(policy, problems, tiny_config.eval) == [True, False, False, True]
    assert asked == ["Ann has four pens and", "One two", "One two", "a b"]


def test_a_random_model_finishes_nothing_and_the_opening_counts(tiny_config):
    test = load_problems(tiny_config, "test")
    before = len(read_ledger(opened_test(tiny_config)).openings)
    found = contamination.ask_untrained(tiny_config, test, test[:3], test[3:6])
    assert [len(one) for one in found] == [len(test), 3, 3] and not any(found[0])
    assert len(read_ledger(opened_test(tiny_config)).openings) == before + 1
