"""Intervals and tests over problems and seeds, and what a study with several seeds says."""

import json
from math import sqrt

import numpy as np
import pytest
from scipy.stats import norm, t

from reckoner.analysis import figures, seeds, study_tables
from reckoner.analysis.explorer import study_contents
from reckoner.analysis.findings import find, frontier
from reckoner.analysis.intervals import wilson
from reckoner.analysis.limits import budget_sentence, limits
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.sentences import heading, verdict
from reckoner.analysis.statistics import paired_difference
from reckoner.analysis.study_records import read_study

GRID = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], dtype=float)


def test_the_parts_of_the_variance_by_hand():
    """Means of items 1, 2/3, 1/3, 0 and of seeds 1/2, 3/4, 1/4."""
    parts = seeds.noise(GRID)
    assert (parts.seeds, parts.runs) == (pytest.approx(0.0625 / 3), 3)
    # sums of squares: 3 in all, 1/2 of the runs, 5/3 of the items, 5/6 left over with 6 degrees of freedom
    assert parts.items == pytest.approx((5 / 9 - 5 / 36) / 12)


def test_cochran_weighs_both_quantiles_by_their_variance():
    parts = seeds.Noise(items=3e-4, seeds=1e-4, runs=3)
    assert parts.quantile() == pytest.approx(0.75 * norm.ppf(0.975) + 0.25 * t.ppf(0.975, 2))
    assert seeds.Noise(3e-4, 0.0, 3).quantile() == pytest.approx(norm.ppf(0.975))


@pytest.mark.parametrize("estimate", [1e-4, 0.01, 0.05, 0.3])
def test_the_p_value_is_the_level_at_which_the_interval_excludes_zero(estimate):
    parts = seeds.Noise(items=2e-4, seeds=5e-5, runs=4)
    p = parts.p_value(estimate)
    assert parts.quantile(p) * sqrt(parts.variance) == pytest.approx(estimate, rel=1e-6)
    assert parts.p_value(-estimate) == p and parts.p_value(0.0) == 1.0


def test_below_three_seeds_the_tests_speak_of_the_runs():
    a, b = GRID[:2], 1 - GRID[:2]
    assert seeds.seed_difference(a, b) == paired_difference(a.mean(axis=0), b.mean(axis=0))
    assert seeds.accuracy_interval(GRID[:1]) == wilson(2, 4)
    assert seeds.seed_difference(a, b).seeds == 1


def test_a_seed_effect_that_both_arms_share_cancels():
    generator = np.random.default_rng(1)
    start = generator.random((5, 400)) < np.array([0.3, 0.4, 0.5, 0.6, 0.7])[:, None]
    after = start | (generator.random((5, 400)) < 0.1)
    gained = seeds.seed_difference(after, start)
    assert gained.seeds == 5 and gained.low > 0 and gained.high - gained.low < 0.06
    low, high = seeds.accuracy_interval(start.astype(float))
    assert high - low > 0.3, "alone, the arm moves by its seeds"


def test_an_interval_from_counts_alone_covers_the_seeds_and_is_not_too_narrow():
    assert seeds.counts_interval([30, 31], 40) == wilson(30.5, 40), "two runs are too few"
    # 30, 15 and 30 of 40: variance of the mean over items 0.625 * 0.375 / 40, over runs (3/8)^2 / 3 / 3
    items, runs = 0.625 * 0.375 / 40, 0.015625
    z = (items * norm.ppf(0.975) + runs * t.ppf(0.975, 2)) / (items + runs)
    n = 0.625 * 0.375 / (items + runs)
    half = z * sqrt(n) / (n + z * z) * sqrt(0.625 * 0.375 + z * z / (4 * n))
    centre = (n * 0.625 + z * z / 2) / (n + z * z)
    assert seeds.counts_interval([30, 15, 30], 40) == pytest.approx((centre - half, centre + half))
    grid = np.random.default_rng(3).random((3, 200)) < np.linspace(0, 1, 200)
    low, high = seeds.accuracy_interval(grid)
    wider = seeds.counts_interval(grid.sum(axis=1), 200)
    assert wider[0] < low and high < wider[1]


def test_one_run_of_a_prompt_meets_every_seed_of_the_other_arm():
    prompt = np.array([[0.0, 0, 1, 0]])
    tested = seeds.seed_difference(GRID, prompt)
    assert tested.seeds == 3 and tested.estimate == pytest.approx(0.25)


def test_runs_are_paired_by_their_seeds():
    def runs(*names: str, **settings) -> list[CompletionSet]:
        return [CompletionSet(name, {}, settings=settings) for name in names]

    a = runs("a@0", "a@1", "a@2")
    assert seeds.by_seed(a, runs("b@2", "b@0", "b@1")) == ([[0, 1, 2], [1, 2, 0]], True)
    assert seeds.by_seed(a, runs("prompt@0")) == ([[0, 1, 2], [0]], True), "a prompt has no seed"
    assert seeds.by_seed(a, runs("b@4", "b@3")) == ([[0, 1, 2], [1, 0]], False), "no run belongs to another"
    assert seeds.by_seed(a, runs("b@0", "b@1"))[1] is False, "all runs count, so none can be paired"
    assert seeds.by_seed(a, runs("b@0", trained=True))[1] is False, "one run of a method is not three"


def test_runs_that_do_not_belong_together_all_count():
    a = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    b = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0]])
    found = seeds.seed_difference(a, b, paired=False)
    assert found.estimate == pytest.approx(7 / 16 - 4 / 12)
    # means of the runs: 1/2, 1/2, 3/4, 0 and 1/4, 1/4, 1/2
    assert found.noise.seeds == pytest.approx(19 / 768 + 1 / 144)
    assert found.seeds == 3
    shuffled = seeds.seed_difference(a[[2, 0, 3, 1]], b[[1, 2, 0]], paired=False)
    assert (shuffled.estimate, shuffled.p) == pytest.approx((found.estimate, found.p)), "no order matters"
    with pytest.raises(ValueError):
        seeds.seed_difference(a, b)


def test_two_arms_that_agree_on_everything_have_an_interval():
    same = seeds.seed_difference(GRID, GRID)
    assert same.p == 1.0 and same.low < 0 < same.high


def test_more_seeds_leave_the_items_and_thin_out_the_rest():
    more = seeds.Noise(items=4e-4, seeds=9e-5, runs=3).with_runs(9)
    assert (more.items, more.seeds) == pytest.approx((4e-4, 3e-5))


def test_stated_power_is_what_simulated_studies_find():
    """Within 2 points: 4,000 pairs of arms with the assumed noise, tested as a study tests them."""
    n, runs, gap = 400, 3, 0.06
    expected = seeds.assumed_noise(n, runs, discordance=0.2, seed_std=0.01)
    generator, found = np.random.default_rng(7), 0
    for _ in range(4000):
        items = generator.normal(gap, sqrt(0.1), n)
        luck = generator.normal(0, sqrt(0.1), (runs, n))
        each = generator.normal(0, 0.01 * sqrt(2), (runs, 1))
        parts = seeds.noise(grid := items + luck + each)
        found += parts.p_value(float(grid.mean())) < 0.05
    assert found / 4000 == pytest.approx(seeds.seed_power(gap, expected), abs=0.02)
    assert seeds.seed_power(seeds.detectable_seeds(expected), expected) == pytest.approx(0.8, abs=1e-3)


def test_a_study_over_seeds_speaks_of_methods(seeded):
    found = find(read_study(seeded))
    assert [result.seeds for result in found.results] == [1, 3, 3]
    cell = next(row for row in study_tables.arms(found).rows if row.title == "full main").cells["each seed"]
    assert (cell.text, cell.detail) == ("56.7 56.7 56.7", "sd 0.0")
    assert "seeds 4, 5, 6" in heading(found)
    said = verdict(found)
    assert said[0].startswith(
        "Full main solves 56.7 % of the test problems, on average over 3 seeds; the best"
    )
    assert said[1].startswith("Its 3 runs solve 34, 34 and 34 of 60 (95 % interval 44.")
    assert "over problems and seeds)" in said[1]
    assert any("all 2 trained methods beat the best prompt" in line.lower() for line in said)
    assert "this run" not in " ".join(said).lower()
    covered = "Intervals and tests cover the choice of problems and the 3 seeds"
    assert any(line.startswith(covered) for line in limits(found))


def test_three_equal_runs_are_counted_as_one_run_of_the_same_problems(seeded, study_path):
    """Of 60 problems 12 have unseen templates; full main solves 7 of these and 27 of the others."""
    found, single = find(read_study(seeded)), find(read_study(study_path))
    full, alone = (next(r for r in one.results if r.arm.name == "full-main") for one in (found, single))
    assert found.mistakes(full) == single.mistakes(alone)
    assert {name: (part.right, part.n) for name, part in full.parts("template").items()} == {
        "in train": (27, 48),
        "not in train": (7, 12),
    }
    assert "(27 of 48;" in verdict(found)[2] and "(7 of 12;" in verdict(found)[2]
    title = "Accuracy by template"
    tables = {table.title: table for table in study_tables.grids(found)}
    assert [row.tag for row in tables[title].rows] == ["n = 48", "n = 12"]
    errors = {row.title: row.cells["full main"].text for row in tables["Errors by kind"].rows}
    assert sum(map(int, errors.values())) == 26
    picture = figures.unseen(found)
    assert "12 problems of new templates" in picture.note
    drawn = next(row for row in picture.data if row[0] == "full main")
    assert tuple(drawn[2:4]) == pytest.approx(seeds.accuracy_interval(np.array([[1] * 7 + [0] * 5] * 3)))


def test_the_explorer_has_the_answers_of_every_seed_and_each_text_once(seeded):
    path = seeded / "full-main" / "seed-5" / "predictions" / "test-0shot.jsonl"
    lines = path.read_text().splitlines()
    lines[20] = json.dumps(json.loads(lines[20]) | {"text": "another text\n#### 20"})
    path.write_text("\n".join(lines) + "\n")
    data = study_contents(find(read_study(seeded)))
    assert (data["arms"], data["seeds"]) == (["one-shot", "full main", "LoRA main"], [4, 5, 6])
    *_, answers, rows = data["problems"][20]
    # both trained arms solve p-20 by the reference's text, which the prompt does not
    assert rows == [[0, 1, 1], [0, 2, 1], [0, 1, 1]]
    assert [answer[0] for answer in answers] == [1, 0, 0] and answers[2][2] == "another text\n#### 20"


def test_dev_at_the_common_budget_is_the_mean_of_the_seeds(seeded):
    """Full main ends with 30 of 40 dev problems under seeds 4 and 6, and here with 15 under seed 5."""
    before = {one.result.arm.name: one.dev for one in frontier(find(read_study(seeded)))}
    path = seeded / "full-main" / "seed-5" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    right = max(line.get("dev_strict", 0) for line in lines)
    halved = [{**line, "dev_strict": right // 2} if "dev_strict" in line else line for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in halved))
    found = find(read_study(seeded))
    full, lora = frontier(found)
    assert before["full-main"] == (right, 40) and (full.runs, lora.runs) == (3, 3)
    assert full.dev == (pytest.approx((2 * right + right // 2) / 3), 40) and lora.dev == before["lora-main"]
    assert budget_sentence(found).endswith("at the smallest common one, 1e+12 operations.")
    assert full.interval == seeds.counts_interval([right, right // 2, right], 40)
    row = next(row for row in study_tables.costs(found).rows if row.title == "full main")
    assert row.cells["dev at the common budget"].detail.endswith(", mean of 3 runs")


@pytest.mark.parametrize(("preset", "model", "told"), [("demo", "nano", 1), ("nano", "someone/7b", 0)])
def test_the_embedded_model_is_no_evidence_about_large_ones_whatever_the_preset(seeded, preset, model, told):
    document = json.loads((seeded / "study.json").read_text())
    (seeded / "study.json").write_text(json.dumps(document | {"preset": preset, "model": model}))
    said = " ".join(limits(find(read_study(seeded))))
    assert said.count("This is no evidence about large models") == told


def test_the_table_shows_every_seed(seeded):
    table = study_tables.summary(find(read_study(seeded)))
    row = next(row for row in table.rows if row.title == "full main")
    assert row.cells["each seed"].text == "56.7 56.7 56.7" and row.cells["sd of seeds"].value == 0
    assert "each seed" in table.columns


def test_a_seed_that_is_missing_is_named_and_two_are_too_few(seeded):
    path = seeded / "study.json"
    document = json.loads(path.read_text())
    arm = document["arms"][1]
    arm["runs"][2] |= {"state": "failed", "reason": "loss is not finite"}
    arm["reason"] = "seed 6 failed: loss is not finite"
    path.write_text(json.dumps(document))
    found = find(read_study(seeded))
    assert [result.seeds for result in found.results] == [1, 2, 3]
    assert "Full main lacks runs (seed 6 failed: loss is not finite)." in limits(found)
    assert verdict(found)[0].startswith("These runs of full main solve 56.7 %")


def test_where_a_seed_failed_the_sentence_is_over_the_runs_of_the_table(seeded):
    """Run 6 of both arms solves nothing, and full main has no run 5: 34 and 0 against 31, 31 and 0."""
    for arm in ("full-main", "lora-main"):
        (path,) = (seeded / arm / "seed-6").glob("grades/test-*.jsonl")
        path.write_text(path.read_text().replace('"strict": true', '"strict": false'))
    path = seeded / "study.json"
    document = json.loads(path.read_text())
    document["arms"][1]["runs"][1] |= {"state": "failed", "reason": "loss is not finite"}
    document["pairs"] = [["full-main", "lora-main"]]
    path.write_text(json.dumps(document))
    found = find(read_study(seeded))
    (pair,) = found.pairs
    _, full, lora = (result.score for result in found.results)
    assert pair.difference.estimate == pytest.approx(34 / 2 / 60 - 62 / 3 / 60)
    assert pair.difference.estimate == pytest.approx(full.accuracy - lora.accuracy)
    (first, *_) = study_tables.matrix(found).rows
    assert first.cells["2"].value == pytest.approx(lora.accuracy - full.accuracy)
    (said,) = [line for line in limits(found) if "do not have the same seeds" in line]
    assert said.startswith("full-main and lora-main") and "(full-main@4, full-main@6; lora-main@4," in said


def test_one_run_that_is_left_of_a_method_is_not_called_a_method(seeded):
    path = seeded / "study.json"
    document = json.loads(path.read_text())
    for run in document["arms"][1]["runs"][1:]:
        run |= {"state": "failed", "reason": "loss is not finite"}
    document["pairs"] = [["full-main", "lora-main"]]
    path.write_text(json.dumps(document))
    (pair,) = find(read_study(seeded)).pairs
    assert pair.difference.seeds == 1
