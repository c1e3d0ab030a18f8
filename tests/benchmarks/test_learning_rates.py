"""The rates of the embedded study are those that its stored search chose, with as many trials for each."""

import json
from collections import Counter
from pathlib import Path

from benchmarks.learning_rates import best

from reckoner.config import load_config

STORED = json.loads((Path(__file__).parents[2] / "benchmarks/results/learning_rates.json").read_text())


def test_the_preset_has_the_rates_that_were_chosen():
    arms = load_config("nano").study.arms
    own = {name: arm.set["train"]["learning_rate"] for name, arm in arms.items() if arm.method != "prompt"}
    own |= {f"grpo-{control}": rate for control, rate in arms["grpo"].control_rates.items()}
    assert {name: own[name] for name in STORED["chosen"]} == STORED["chosen"]
    assert own["full-socratic"] == own["full-main"] and own["lora-socratic"] == own["lora-main"]


def test_each_method_had_as_many_trials_and_its_best_was_taken():
    assert set(Counter(one["arm"] for one in STORED["trials"]).values()) == {3}
    for name, rate in STORED["chosen"].items():
        assert best([one for one in STORED["trials"] if one["arm"] == name]) == rate


def test_of_equal_rates_the_one_with_the_lower_dev_loss_is_best():
    trials = [
        {"learning_rate": rate, "dev_strict": solved, "dev_loss": loss}
        for rate, solved, loss in ((1e-4, 10, 0.3), (1e-4, 12, 0.3), (2e-4, 11, 0.2), (2e-4, 11, 0.2))
    ]
    assert best(trials) == 2e-4
