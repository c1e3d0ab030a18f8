"""A reward that rises while exact match does not is told."""

import math
import random
from types import SimpleNamespace

import pytest

from reckoner.config import Config, RunConfig
from reckoner.training.metrics import FLAG_STEPS, Guard, reward_flag, slope_t


def lines(rewards, matches):
    return [{"reward": r, "exact_match": m} for r, m in zip(rewards, matches, strict=True)]


def test_slope_in_standard_errors():
    """Ordinary least squares by hand: y = 0, 1, 1, 2 has slope 0.6 and standard error sqrt(0.1 / 5)."""
    assert slope_t([0, 1, 1, 2]) == pytest.approx(0.6 / math.sqrt(0.2 / 2 / 5))
    assert slope_t([1, 1, 1]) == 0 and slope_t([1, 2, 3]) == math.inf


def test_only_a_rising_reward_over_a_flat_verdict_is_flagged():
    draw = random.Random(0)
    rising = [0.2 + 0.02 * step + draw.gauss(0, 0.03) for step in range(30)]
    flat = [0.3 + draw.gauss(0, 0.03) for _ in range(30)]
    assert "it pays for something else" in reward_flag(lines(rising, flat))
    assert reward_flag(lines(rising, rising)) == reward_flag(lines(flat, flat)) == ""
    assert reward_flag(lines(rising, flat)[: FLAG_STEPS - 1]) == ""


def test_runs_without_a_hack_are_rarely_flagged():
    """Reward and verdict are equal in a sound run: of 200 made up, none may be flagged."""
    draw = random.Random(1)
    for _ in range(200):
        values = [min(1, max(0, 0.3 + 0.005 * i + draw.gauss(0, 0.05))) for i in range(40)]
        assert reward_flag(lines(values, values)) == ""


def test_the_guard_tells_each_step_whether_it_is_flagged(tmp_path):
    """Before a step is logged, so that the metrics and the report have it and not the terminal alone."""
    config = Config(run=RunConfig(output_dir=str(tmp_path)))
    config.rollout.patience = 0
    guard = Guard(SimpleNamespace(config=config, metrics=list), 1.0)
    draw, flagged = random.Random(0), []
    for step in range(30):
        line = {"reward": 0.2 + 0.02 * step + draw.gauss(0, 0.03), "exact_match": 0.3 + draw.gauss(0, 0.03)}
        flagged.append(guard.flags(line))
        guard.check(line)
    assert flagged.index(True) == FLAG_STEPS - 1 and guard.flag
