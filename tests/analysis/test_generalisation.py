"""Other sets in a study: the same tests as on its own, Holm over all sets, and seed questions as effects."""

import json
import shutil

import pytest

from reckoner.analysis import figures
from reckoner.analysis.canvas import drawing
from reckoner.analysis.findings import find
from reckoner.analysis.generalisation import ledger_tables, std_between, suite_findings
from reckoner.analysis.intervals import wilson
from reckoner.analysis.report import build_report
from reckoner.analysis.statistics import holm
from reckoner.analysis.study_records import read_study
from reckoner.analysis.wording import span


@pytest.fixture
def folder(study_path, tmp_path):
    """The fixture study, each arm evaluated once more under the names of two sets and of one to forget."""
    copy = tmp_path / "nano"
    shutil.copytree(study_path, copy)
    for path in copy.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        (test,) = [one for one in summary["evaluations"] if one["split"] == "test"]
        for name in ("svamp", "mgsm-de", "arc-easy"):
            entry = {**test, "split": name}
            for kind in ("problems", "predictions", "grades"):
                entry[kind] = test[kind].replace("test", name)
                shutil.copy(path.parent / test[kind], path.parent / entry[kind])
            summary["evaluations"].append(entry)
        path.write_text(json.dumps(summary))
    (copy / "suites.json").write_text('{"suites": ["svamp", "mgsm-de"], "forgetting": ["arc-easy"]}')
    return copy


def test_every_set_is_compared_like_test_and_holm_goes_over_all_of_them(folder):
    findings = find(read_study(folder))
    on_test = {result.arm.name: result.pair for result in findings.results if result.pair}
    svamp, german, arc = suite_findings(findings)
    assert [one.name for one in (svamp, german, arc)] == ["svamp", "mgsm-de", "arc-easy"]
    assert [one.forgetting for one in (svamp, german, arc)] == [False, False, True]
    family, alone = (holm([p.difference.p for p in on_test.values()] * times) for times in (2, 1))
    for one, adjusted in ((svamp, family), (german, family[len(on_test) :]), (arc, alone)):
        assert one.pairs.keys() == on_test.keys()
        for (arm, pair), p in zip(one.pairs.items(), adjusted, strict=False):
            assert pair.difference == on_test[arm].difference and pair.p_holm == p
            assert pair.verdict == ("better" if p < 0.05 else "unresolved")


def test_the_report_has_one_table_and_one_picture_of_them(folder):
    findings = build_report(folder)
    table, *groups = ledger_tables(findings)
    assert len(table.rows) == 3 * len(findings.results)
    assert [row.title for row in table.rows][-1] == f"arc-easy (forgetting): {findings.results[-1].title}"
    assert [group.title for group in groups] == [f"{n} by category" for n in ("svamp", "mgsm-de", "arc-easy")]
    assert list(groups[0].rows[0].cells) == ["buying (20)", "sharing (20)", "time (20)"]
    with drawing():
        picture = figures.suites(findings)
    assert picture.title == "12 of 12 differences on other sets are above zero"
    of_set = [row[1] for row in picture.data if row[0].startswith("mgsm-de: ")]
    assert len(of_set) == 4 and of_set == sorted(of_set, reverse=True)
    assert f">+{100 * of_set[0]:.1f}<" in picture.svg
    assert "Other sets" in (folder / "report.html").read_text()


def test_a_difference_that_one_seed_question_makes_is_none(folder):
    """Full main wins 34 problems. Instances of one seed question, they are one observation and no verdict."""
    for arm in folder.glob("*/problems/svamp*.jsonl"):
        rows = [json.loads(line) for line in arm.read_text().splitlines()]
        for number, row in enumerate(rows):
            row["template"] = "one" if number < 36 else f"t{number % 12}"
        arm.write_text("".join(json.dumps(row) + "\n" for row in rows))
    findings = find(read_study(folder))
    svamp, german, _ = suite_findings(findings)
    pair, other = svamp.pairs["full-main"], german.pairs["full-main"]
    assert pair.p_holm < 0.001 and pair.over_templates[0] <= 0 < pair.over_templates[1]
    assert (pair.verdict, other.verdict) == ("unresolved", "better") and other.over_templates[0] > 0
    cells = next(row.cells for row in ledger_tables(findings)[0].rows if row.title == "svamp: full main")
    assert cells["over templates"].text == span(*pair.over_templates)
    assert cells["verdict"].text == "not told apart"


def test_shares_by_category_have_intervals(folder):
    group = ledger_tables(find(read_study(folder)))[1]
    cell = next(row for row in group.rows if row.title == "full main").cells["buying (20)"]
    assert cell.detail == span(*wilson(20 * cell.value, 20))


def test_the_title_counts_verdicts_and_not_intervals(folder):
    """Two arms win 6 problems and lose none: 1.1 to 18.2 points, p 0.031, and by Holm 0.062."""
    for arm in ("lora-main", "lora-socratic"):
        (path,) = (folder / arm).glob("grades/svamp-*.jsonl")
        grades = [json.loads(line) for line in path.read_text().splitlines()]
        right = {f"p-{index:02d}" for index in (*range(5), 10, 30, 50, *range(20, 26))}
        path.write_text("".join(json.dumps({**g, "strict": g["problem_id"] in right}) + "\n" for g in grades))
    findings = find(read_study(folder))
    pairs = suite_findings(findings)[0].pairs
    assert all(pairs[arm].difference.low > 0 for arm in ("lora-main", "lora-socratic"))
    assert pairs["lora-main"].p_holm == pytest.approx(2 * 2**-5)
    assert figures.suites(findings).title == "10 of 12 differences on other sets are above zero"


@pytest.mark.parametrize(("absent", "left"), [(("full-main",), 4), (("full-main", "lora-main"), 3), ((), 6)])
def test_an_arm_that_has_not_answered_a_set_takes_only_its_own_pairs_away(folder, absent, left):
    """Of the declared pairs, four with the best prompt and two between arms, those that remain are tested."""
    drop(folder, "svamp", absent)
    on = suite_findings(find(read_study(folder)))[0].on
    assert len(on.pairs) == left and not {name for pair in on.pairs for name in (pair.a, pair.b)} & {*absent}
    assert len(on.results) == 8 - len(absent)


def test_a_set_that_only_prompts_have_answered_tests_nothing(folder):
    drop(folder, "svamp", ("full-main", "full-socratic", "lora-main", "lora-socratic"))
    svamp = suite_findings(build_report(folder))[0]
    assert svamp.on.pairs == () and svamp.pairs == {} and len(svamp.on.results) == 4


def drop(folder, name, arms):
    """Take the evaluation of one set away from some arms."""
    for arm in arms:
        path = folder / arm / "summary.json"
        summary = json.loads(path.read_text())
        summary["evaluations"] = [one for one in summary["evaluations"] if one["split"] != name]
        path.write_text(json.dumps(summary))


def test_a_study_without_further_sets_shows_none(study_path):
    findings = find(read_study(study_path))
    assert suite_findings(findings) == [] and ledger_tables(findings) == []
    assert figures.suites(findings) is None


def test_the_deviation_between_seed_questions():
    """Means 1 and 0 of two values each: MS_between 1, MS_within 0, two values a cluster: sqrt(1 / 2)."""
    assert std_between([1, 1, 0, 0], "aabb") == pytest.approx(0.5**0.5)
    assert std_between([1, 0, 1, 0], "aabb") == 0.0
    assert std_between([1, 0, 1], "abc") is None and std_between([1, 0], "aa") is None
