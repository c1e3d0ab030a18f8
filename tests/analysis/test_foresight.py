"""What a study will be able to say, before it runs."""

import pytest

from reckoner.analysis import power, seeds
from reckoner.analysis.foresight import Design, foresee, outlook
from reckoner.cli.train import study_outlook
from reckoner.config import load_config
from reckoner.study.arms import choose, plan_study

TWO = Design(
    n=1319,
    seeds=1,
    pairs=(("sft", "best-prompt"), ("grpo", "sft")),
    trained=frozenset({"sft", "grpo"}),
    rewarded=frozenset({"grpo"}),
    controlled=frozenset(),
    prompts=4,
    discordance=0.2,
    seed_std=0.01,
)
TITLES = {"sft": "SFT", "grpo": "GRPO", "best-prompt": "best prompt"}


def design(**changes) -> Design:
    from dataclasses import replace

    return replace(TWO, **changes)


def test_one_seed_has_the_power_of_exact_mcnemar_at_the_first_holm_step():
    assert [one.smallest for one in foresee(TWO)] == [power.detectable(1319, 0.2, 0.025)] * 2


def test_a_prompt_has_no_seed_and_its_pair_more_power():
    first, second = foresee(design(seeds=5))
    assert first.smallest == seeds.detectable_seeds(seeds.assumed_noise(1319, 5, 0.2, 0.01, 1), 0.025)
    assert second.smallest == seeds.detectable_seeds(seeds.assumed_noise(1319, 5, 0.2, 0.01, 2), 0.025)
    assert first.smallest < second.smallest


def test_a_pair_that_cannot_succeed_is_named():
    """24 problems with 20 % disagreement: five problems decide, and 2 / 2^5 is more than 0.025."""
    small = design(n=24)
    assert [one.smallest for one in foresee(small)] == [None, None]
    lines = outlook(small, TITLES)
    assert "cannot succeed at this n, whatever is true: SFT - best prompt and GRPO - SFT" in lines


def test_the_head_says_what_can_and_what_cannot_be_said():
    lines = outlook(TWO, TITLES)
    assert lines[0] == "what this study can show: 2 declared pairs (Holm), n = 1,319 test problems, 1 seed"
    assert "from 3.9 points on, with 80 % power: SFT - best prompt and GRPO - SFT" in lines
    assert "no method can be called better, only these runs: study.seeds=3 measures the seeds" in lines
    assert "no controls of grpo: a gain may be more training or format (study.controls=true)" in lines
    whole = outlook(design(seeds=5, controlled=frozenset({"grpo"})), TITLES)
    assert "a method can be called better, over 5 seeds" in whole
    assert "the gain of RL is split into format, more training, own samples and the reward itself" in whole
    assert max(len(lines), len(whole)) <= 10
    assert "training is compared with the best of 4 prompts on dev, its format forgiven" in lines
    one = "training is compared with one prompt, its format forgiven"
    assert one in outlook(design(prompts=1), TITLES)


def test_without_a_prompt_nothing_beats_prompting():
    assert "no prompt is tried, so training cannot be said to beat prompting" in outlook(
        design(prompts=0), TITLES
    )


@pytest.mark.parametrize("n", [100, 400])
def test_no_pair_is_promised_a_difference_larger_than_the_disagreement(n):
    for one in foresee(design(n=n, seeds=3, seed_std=0.05)):
        assert one.smallest is None or one.smallest <= 0.2


def test_what_one_arm_alone_leaves_out_is_not_asked_for_again():
    config = load_config("smoke", [], ["study.controls=true", "study.prompt_search=4"])
    lines = study_outlook(config, choose(plan_study(config), ["grpo"]), 24)
    assert "no controls of grpo: a gain may be more training or format (--arm leaves them out)" in lines
    none = "no prompt is tried, so training cannot be said to beat prompting"
    assert f"{none} (--arm leaves prompts out)" in lines
    every = study_outlook(config, plan_study(config), 24)
    assert not [line for line in every if "leaves" in line or line.startswith(("no controls", "no prompt"))]
