"""What reinforcement learning changed, against numbers worked out by hand.

In the fixture's study of 60 problems full main solves p-02 to p-35, PPO p-00 to p-47 and GRPO p-04 to p-37.
Flexible grading adds p-10, p-30 and p-50 to each, as far as they are not solved anyway.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reckoner.analysis import figures, study_tables
from reckoner.analysis.controls import Ending, splits
from reckoner.analysis.findings import find, format_rate, length, phases
from reckoner.analysis.limits import limits
from reckoner.analysis.report import context, document, render_html, render_markdown
from reckoner.analysis.sentences import split_sentence, verdict
from reckoner.analysis.statistics import holm, mcnemar
from reckoner.analysis.study_records import read_study
from reckoner.analysis.tables import EMPTY
from reckoner.cli.publish import show_study
from reckoner.errors import InputError
from reckoner.runs.integrity import tune_digest


@pytest.fixture(scope="module")
def found(learned_path):
    return find(read_study(learned_path))


@pytest.fixture(scope="module")
def told(found):
    return {gain.result.arm.name: gain for gain in found.gains}


def test_fixed_and_broken_against_the_start(told):
    assert {name: gain.start.arm.name for name, gain in told.items()} == {
        "ppo": "full-main",
        "grpo": "full-main",
    }
    ppo, grpo = told["ppo"].strict, told["grpo"].strict
    assert (ppo.fixed, ppo.broken, ppo.n) == (14, 0, 60) and ppo.estimate == pytest.approx(14 / 60)
    assert (grpo.fixed, grpo.broken) == (2, 2) and grpo.estimate == 0
    assert ppo.p == mcnemar(14, 0) and told["ppo"].pair.verdict == "better"
    assert told["grpo"].pair.verdict == "unresolved"


def test_flexible_gain_stands_beside_the_strict_one(told):
    # flexibly full main has p-50 more, PPO p-50 too: 35 and 49
    assert told["ppo"].flexible.estimate == pytest.approx(14 / 60)
    assert told["ppo"].result.score.flexible == pytest.approx(49 / 60)


def test_p_values_are_adjusted_over_all_declared_pairs(found, told):
    family = {(pair.a, pair.b): pair.difference.p for pair in found.pairs}
    assert set(family) == {
        ("full-main", "1shot"),
        *((arm, other) for arm in ("ppo", "grpo") for other in ("1shot", "full-main")),
        ("grpo", "ppo"),
    }
    adjusted = dict(zip(family, holm(list(family.values())), strict=True))
    assert told["ppo"].pair.p_holm == pytest.approx(adjusted["ppo", "full-main"])


def test_gain_by_group_sums_to_the_whole(told):
    groups = told["ppo"].groups
    assert set(groups) == {
        "category",
        "template",
        "calculations in the reference",
        "size of the answer",
        "length of the question",
    } - {"length of the question"}
    # unseen templates are those with index % 5 == 4; of p-00, p-01 and p-36 to p-47 these are p-39 and p-44
    assert {label: (gap.fixed, gap.n) for label, gap in groups["template"]} == {
        "in train": (12, 48),
        "not in train": (2, 12),
    }
    assert {label: gap.fixed for label, gap in groups["category"]} == {"buying": 5, "sharing": 5, "time": 4}
    assert all(sum(gap.n for _, gap in parts) == 60 for parts in groups.values())


def test_kinds_of_error_before_and_after(found, told):
    # of p-36 to p-47, which PPO solves as well as p-00 and p-01, p-38 was truncated and p-39 had no number
    kinds = told["ppo"].kinds
    assert kinds["truncated"] == (3, 2)
    assert (
        sum(before for before, _ in kinds.values()) == 26 and sum(after for _, after in kinds.values()) == 12
    )


def test_format_rate_and_length(found):
    # a marker with a number stands in every answer that is neither truncated nor without a number
    assert format_rate(found.results[1].source) == pytest.approx(54 / 60)
    assert length(found.results[1].source) == 20


def test_verdict_says_what_was_gained_and_what_was_not(found):
    said = verdict(found)
    assert said[0] == (
        "This run of PPO from full main solves 80.0 % of the test problems; "
        "the best prompt solves 15.0 % with the format forgiven, 10.0 % strict."
    )
    assert said[2] == (
        "PPO from full main solves 81.2 % of the problems from templates seen in training (39 of 48; 95 % "
        "interval 68.1-89.8 %). It solves 75.0 % of those from unseen templates (9 of 12; 95 % interval "
        "46.8-91.1 %). None of the 4 arms solves more than 75.0 % of these (46.8-91.1 %)."
    )
    assert said[4] == (
        "By reinforcement learning from full main (56.7 %) this run gains: PPO from full main 23.3 points "
        "(11.3-33.9; 23.3 with the format forgiven; at 2 times the operations). GRPO from full main is not "
        "told apart from full main, from which it starts (+0.0 points at 2 times the operations)."
    )
    assert said[5] == (
        "This run of GRPO from full main is worse than that of PPO from full main (-23.3 points)."
    )


def test_a_gain_that_may_be_the_format_is_called_so(found):
    """PPO's answers, read flexibly, were as good before: every problem of full main counts flexibly."""
    start = found.results[1]
    grades = {key: replace(grade, flexible=True) for key, grade in start.source.grades.items()}
    forgiven = replace(
        found,
        results=(
            found.results[0],
            replace(start, runs=(replace(start.runs[0], grades=grades),)),
            *found.results[2:],
        ),
    )
    assert verdict(forgiven)[4].startswith(
        "By reinforcement learning from full main (56.7 %) this run gains: PPO from full main 23.3 points "
        "(11.3-33.9; -18.3 with the format forgiven; at 2 times the operations). What PPO from full main "
        "gained cannot be told from learning the format."
    )


def test_more_training_is_named_as_the_missing_control(found):
    missing = (
        "No arm trained full main further without a reward, so the gain of reinforcement learning "
        "cannot be told apart from that of more training."
    )
    assert missing in limits(found)
    control = replace(found.results[3], arm=replace(found.results[3].arm, method="sft", rewarded=False))
    assert missing not in limits(replace(found, results=(*found.results[:3], control)))


def test_table_before_and_after(found):
    table = study_tables.gained(found)
    lines = {row.title: dict(zip(table.columns, table.cells(row), strict=True)) for row in table.rows}
    assert (
        list(lines) == ["full main", "PPO from full main", "GRPO from full main"]
        and table.rows[0].tag == "start"
    )
    ppo = lines["PPO from full main"]
    assert (ppo["vs its start"].text, ppo["fixed"].text, ppo["broken"].text, ppo["verdict"].text) == (
        "+23.3",
        "14",
        "0",
        "better",
    )
    assert (ppo["flexible, vs its start"].text, ppo["flexible, vs its start"].detail) == (
        "+23.3",
        "11.3-33.9",
    )
    # of 12 problems of new templates PPO fixed p-39 and p-44; 19 slips became 7
    assert (ppo["new templates, vs its start"].text, ppo["format rate"].text) == ("+16.7", "93.3 %")
    mistake = ppo["mistake that changed most"]
    assert (mistake.text, mistake.detail, mistake.value) == ("arithmetic slip", "19 to 7", -12)
    assert (
        lines["full main"]["vs its start"] == EMPTY and lines["full main"]["tokens an answer"].text == "20.0"
    )


def test_generation_is_counted_apart_from_training(found):
    # 20 steps of 64 completions of 30 tokens in half a second each, and 1,500 tokens learnt from in 0.4 s
    spent = phases(found.results[2].run)
    assert spent.seconds == pytest.approx((10.0, 2.0, 8.0)) and (spent.generated, spent.trained) == (
        38_400,
        30_000,
    )
    assert phases(found.results[1].run) is None
    (row, _) = study_tables.phase_costs(found).rows
    assert [cell.text for cell in row.cells.values()] == ["3,840", "3,750", "50 %", "10 %", "40 %"]
    assert found.spent(found.results[2]) == pytest.approx(40.0)  # 20 of its own, 20 of full main


def test_a_cost_is_that_with_the_start_and_its_own_below(found):
    table = study_tables.costs(found)
    ppo = table.rows[2].cells
    assert (ppo["time"].text, ppo["time"].detail) == ("0:40", "0:20 its own")
    assert (ppo["FLOPs"].text, ppo["FLOPs"].detail) == ("2e+12", "1e+12 its own")
    assert len(table.columns) == 7


def test_figures_of_reinforcement_learning(found):
    pictures = [picture for section in figures.draw(found).values() for picture in section]
    drawn = {picture.name: picture.title.replace("\u00a0", " ") for picture in pictures}
    assert list(drawn) == [
        "accuracy",
        "effects",
        "unseen",
        "training-loss",
        "dev-accuracy",
        "policy",
        "accuracy-seconds",
        "kinds",
        "accuracy-steps",
    ]
    assert drawn["policy"] == "PPO from full main: reward from 0.42 to 0.80"
    assert drawn["dev-accuracy"] == "PPO from full main rises from 40.0 % to 65.0 % of dev"
    # PPO has 12 wrong of 60: p-48 and p-58 are cut, p-49 and p-59 without a number, p-50 without the format
    assert drawn["kinds"] == (
        "PPO from full main loses 11.7 % of the problems to slips of arithmetic, 0.0 % to other mistakes"
    )


def test_a_run_of_reinforcement_learning_begins_where_its_start_ended(found):
    picture = next(one for one in figures.draw(found)["learning"] if one.name == "dev-accuracy")
    # full main trained for 20 seconds, PPO for 20 more
    assert [row[2] for row in picture.data if row[1] == "PPO from full main"] == [20, 30, 40]


def test_report_has_a_section_only_where_something_learned_from_a_reward(found, study_path):
    page, text = (
        render(context(found, {}), found) for render in (render_html, lambda facts, _: render_markdown(facts))
    )
    assert (
        '<section id="reinforcement">' in page
        and '<a href="#reinforcement">' in page
        and "## Reinforcement learning" in text
    )
    other = find(read_study(study_path))
    page = render_html(context(other, {}), other)
    assert "reinforcement" not in page and other.gains == []


def test_an_arm_that_names_itself_as_its_start_starts_from_nothing(found):
    odd = replace(found.results[2], arm=replace(found.results[2].arm, after=("ppo",)))
    changed = replace(found, results=(*found.results[:2], odd))
    assert changed.start(odd) is None and changed.spent(odd) == 20.0


def test_a_search_that_ends_at_the_prompt_of_an_arm_leaves_that_arm_as_the_start(found):
    asked, _, ppo, _ = found.results
    searched = replace(asked, arm=replace(asked.arm, name="searched-prompt"))
    zero = replace(ppo, arm=replace(ppo.arm, after=()), evaluation=asked.evaluation)
    assert replace(found, results=(searched, asked, zero)).start(zero) is asked
    assert replace(found, results=(searched, zero)).start(zero) is searched


def costing(found, **flops):
    """The findings where arms took other operations of their own: by default each took 1e12."""
    results = tuple(
        replace(one, run=replace(one.run, training=replace(one.run.training, flops=flops[one.arm.name])))
        if one.arm.name in flops
        else one
        for one in found.results
    )
    return replace(found, results=results)


def test_a_comparison_names_the_budgets_that_differ_by_more_than_a_tenth(found):
    """PPO takes 1e12 after full main's 1e12, and GRPO 1.1e12 or 3e12."""
    pair = "This run of GRPO from full main is worse than that of PPO from full main (-23.3 points"
    near, far = costing(found, grpo=1.1e12), costing(found, grpo=3e12)
    assert near.budget("grpo", "ppo") == pytest.approx(2.1 / 2) and far.budget("grpo", "ppo") == 2
    assert near.budget("grpo", "1shot") == 0, "a prompt trains nothing"
    assert verdict(near)[-1] == f"{pair})."
    assert verdict(far)[-1] == f"{pair} at 2 times the operations)."
    untested = replace(far, results=tuple(replace(one, pair=None) for one in far.results))
    assert "the most of 60 test problems (each arm at its own budget): 80.0 %" in verdict(untested)[0]


@pytest.fixture(scope="module")
def controlled(found):
    """GRPO as a study's only reinforcement learning; PPO's results stand for more SFT and for a coin."""
    _, start, ppo, grpo = found.results
    graded = dict(grpo.source.grades)
    # "#### 18", and another number after it: right by strict grading alone
    graded["p-20", 0] = replace(graded["p-20", 0], flexible=False)
    run = replace(grpo.runs[0], grades=graded)
    grpo = replace(grpo, runs=(run,), source=replace(grpo.source, grades=graded))
    more = replace(ppo.arm, name="more", title="more SFT", method="sft", rewarded=False, control_of="grpo")
    coin = replace(ppo.arm, name="coin", title="coin reward", control_of="grpo")
    results = (found.results[0], start, grpo, *(replace(ppo, arm=arm, pair=None) for arm in (more, coin)))
    arms = tuple(one.arm for one in results)
    return replace(found, study=replace(found.study, arms=arms), results=results)


def test_an_answer_that_only_strict_grading_counts_is_a_gain_of_form(controlled):
    """GRPO solves p-20 by strict grading alone, which full main solves by both; else the form is the same."""
    (even,) = splits(controlled)
    assert even.parts[0].difference.estimate == pytest.approx(1 / 60)
    assert sum(part.difference.estimate for part in even.parts) == pytest.approx(even.gain.strict.estimate)


def test_controls_that_spent_otherwise_are_not_called_equal(controlled):
    (even,) = splits(controlled)
    assert split_sentence(even) == (
        "GRPO from full main differs from full main by +0.0 points: format +1.7, more training +23.3 and own "
        "right samples and the reward itself -25.0, by controls of equal operations. In these runs own right "
        "samples and the reward itself lowered the accuracy (-35.8 to -12.6)."
    )
    assert [part.title for part in even.parts] == [
        "format",
        "more training",
        "own right samples and the reward itself",
    ]
    assert sum(part.difference.estimate for part in even.parts) == pytest.approx(0)
    (uneven,) = splits(costing(controlled, more=4e11, coin=1.5e12))
    assert uneven.budgets == {"more SFT": 0.4, "coin reward": 1.5}
    assert "-25.0, by controls of unequal operations." in split_sentence(uneven)


def test_parts_and_controls_stand_in_tables(controlled):
    found = costing(controlled, more=4e11, coin=1.5e12)
    (row,) = study_tables.parted(found).rows
    assert list(row.cells) == [
        *("gain", "format", "more training", "own right samples and the reward itself", "coin reward"),
    ]
    assert (row.cells["gain"].text, row.cells["coin reward"].text) == ("+0.0", "+23.3")
    assert row.cells["coin reward"].detail == "11.3-33.9" and row.cells["format"].tone == "unclear"
    table = study_tables.controls(found)
    assert {one.title: one.cells["operations"].text for one in table.rows} == {
        "GRPO from full main": "1.00",
        "more SFT": "0.40",
        "coin reward": "1.50",
    }
    (split,) = document(replace(found, comparison=replace(found.comparison, pairs=())))["splits"]
    assert split["budgets"] == {"more SFT": 0.4, "coin reward": 1.5} and split["start"] == "full-main"


def test_a_search_that_was_not_equal_stands_among_the_limits_and_the_last_words(found, capsys):
    study = replace(
        found.study,
        arms=tuple(replace(arm, trials=8 * (arm.name in ("full-main", "ppo"))) for arm in found.study.arms),
    )
    unequal = replace(found, study=study)
    line = next(line for line in limits(unequal) if "searched unequally" in line)
    assert "dev (trials: full main 8, PPO from full main 8, GRPO from full main 0, refused arm 0," in line
    show_study(unequal, as_json=False)
    assert "The learning rates were searched unequally" in " ".join(capsys.readouterr().out.split())
    arms = tuple(replace(arm, trials=8) for arm in found.study.arms)
    alike = limits(replace(found, study=replace(found.study, arms=arms)))
    assert not any("searched" in line for line in alike)


def test_the_trials_of_an_arm_are_those_of_its_record(study_writer, tmp_path):
    folder = study_writer(tmp_path / "s", ("1shot", "full-main"))
    best = {"learning_rate": 1e-3, "dev": 0.5, "best": "trial-0", "tried": [{}, {}, {}]}
    (folder / "tune").mkdir()
    record = {"seed": 0, "span": 10.0, "arms": {"full-main": best | {"settings": "s"}}, "digest": ""}
    record["digest"] = tune_digest(record)
    (folder / "tune" / "record.json").write_text(json.dumps(record))
    assert {arm.name: arm.trials for arm in read_study(folder).arms if arm.run} == {
        "1shot": 0,
        "full-main": 3,
    }
    (folder / "tune" / "record.json").write_text(json.dumps(record).replace("[{}, {}, {}]", "[{}]"))
    with pytest.raises(InputError, match="record.json: was edited after the search"):
        read_study(folder)


def test_a_control_that_kept_another_step_than_its_last_says_both(controlled):
    """Of two runs one kept its start: 16 and 20 of 40 solved at the kept steps, 12 and 20 at the last."""

    def ran(coin, kept, solved):
        lines = [{"step": step, "dev_strict": k, "dev_n": 40} for step, k in solved]
        training = replace(coin.run.training, best_step=kept)
        return replace(coin.run, metrics=tuple(lines), training=training)

    def ending(*runs):
        arm = replace(coin.arm, runs=dict(enumerate(ran(coin, *run) for run in runs)))
        study = replace(controlled.study, arms=(*controlled.study.arms[:-1], arm))
        results = (*controlled.results[:-1], replace(coin, arm=arm))
        changed = replace(controlled, study=study, results=results)
        (split,) = splits(changed)
        return split.endings.get("coin reward"), study_tables.controls(changed).rows[-1].cells

    *_, coin = controlled.results
    found, said = ending((0, [(0, 16), (4, 12)]), (4, [(0, 16), (4, 20)]))
    assert found == Ending((0, 4), 4, dev_kept=36 / 80, dev_last=32 / 80)
    assert (said["kept step"].text, said["kept step"].detail) == ("0 and 4", "of 4")
    assert (said["dev there"].text, said["dev at its last step"].text) == ("45.0 %", "40.0 %")
    none, said = ending((4, [(0, 16), (4, 20)]), (4, [(4, 20)]))
    assert none is None and said["kept step"].text == "the last"
    assert ending((None, [(0, 16)]))[0] is None
