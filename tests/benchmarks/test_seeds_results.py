"""What benchmarks/results/seeds.json promises: few false claims, honest intervals, the power as stated."""

import json
from pathlib import Path

import pytest

RESULTS = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "results" / "seeds.json").read_text(encoding="utf-8")
)
SETTINGS = {"n", "seeds", "seed effect", "studies", "repeats", "samples"}


@pytest.mark.parametrize("part", ["false_positives", "reach"])
def test_no_false_claim_is_made_in_more_than_five_of_a_hundred_studies(part):
    rows = RESULTS.get(part, [])
    assert rows or part == "reach", "the simulation of reach may not have run yet"
    claims = [(name, share) for row in rows for name, share in row.items() if name not in SETTINGS]
    assert [claim for claim in claims if claim[1] > 5.0] == []
    assert len(claims) >= 7 * len(rows) * (part == "false_positives")


@pytest.mark.parametrize("interval", ["accuracy", "difference"])
def test_intervals_cover_95_percent_within_two_points(interval):
    assert len(RESULTS["coverage"]) >= 40
    assert [row for row in RESULTS["coverage"] if not 93 <= row[interval] <= 97] == []


def test_the_stated_power_is_found_within_two_points():
    assert len(RESULTS["power"]) >= 5
    assert [row for row in RESULTS["power"] if abs(row["stated"] - row["found"]) > 2] == []
