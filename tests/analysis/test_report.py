"""The report says what the tests found, in numbers worked out by hand, and foreign text stays text."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckoner.analysis import explorer, page, study_tables
from reckoner.analysis.findings import find
from reckoner.analysis.intervals import wilson
from reckoner.analysis.limits import limits
from reckoner.analysis.page import fenced, typeset
from reckoner.analysis.report import build_report, context, document, render_html, render_markdown
from reckoner.analysis.sentences import verdict
from reckoner.analysis.study_records import read_study
from reckoner.analysis.tables import EMPTY, Cell, Table
from reckoner.analysis.wording import amount, guard, inert, visible
from reckoner.console import clock
from reckoner.errors import InputError, Stopped

TRAINED = ("full-main", "full-socratic", "lora-main", "lora-socratic")
PROMPT = "the best prompt (one-shot + instruction, 13.3 % with the format forgiven, 8.3 % strict)"


@pytest.fixture(scope="module")
def found(study_path):
    return find(read_study(study_path))


@pytest.fixture(scope="module")
def built(study_writer, tmp_path_factory) -> Path:
    """A folder with its report, built once."""
    folder = study_writer(tmp_path_factory.mktemp("built") / "nano")
    build_report(folder)
    return folder


def cells(table: Table, title: str) -> dict[str, Cell]:
    row = next(row for row in table.rows if row.title == title)
    return dict(zip(table.columns, table.cells(row), strict=True))


# What is said


def test_verdict_is_what_the_tests_found(found):
    headline, sure, *rest = verdict(found)
    assert headline == (
        "This run of full main solves 56.7 % of the test problems; the best prompt solves 13.3 % with the "
        "format forgiven, 8.3 % strict."
    )
    # flexible grading adds p-10, p-30 and p-50 to p-00 to p-04: 34 right answers against 8
    assert re.fullmatch(
        r"This run solves 34 of 60 \(95 % interval 44\.1-68\.4 %\)\. Against the best prompt, "
        r"one-shot \+ instruction with its format forgiven, the difference is \+43\.3 points "
        r"\(26\.7-57\.1; Holm p <0\.001\)\.",
        sure,
    ), sure
    assert rest == [
        "Full main solves 56.2 % of the problems from templates seen in training (27 of 48; 95 % interval "
        "42.3-69.3 %). It solves 58.3 % of those from unseen templates (7 of 12; 95 % interval 32.0-80.7 %). "
        "None of the 8 arms solves more than 58.3 % of these (32.0-80.7 %).",
        f"All 4 trained runs beat {PROMPT}, by 30.0 to 43.3 points.",
        "Not told apart at n = 60: full main and LoRA main; full socratic and LoRA socratic.",
    ]


def test_the_best_prompt_counts_by_the_better_reading(found):
    """No pair of a trained arm is judged against the strict score of a prompt that forgets the format."""
    base = found.baseline
    assert (base.reading, base.solved) == ("flexible", pytest.approx(8 / 60))
    pair = next(result.pair for result in found.results if result.arm.name == "full-main")
    # full main alone solves p-05 to p-35 but p-10 and p-30; the prompt alone p-00, p-01 and p-50
    assert (pair.difference.fixed, pair.difference.broken) == (29, 3)
    assert {(p.a, p.b) for p in found.strict_pairs} == {(p.a, p.b) for p in found.pairs}
    for line in verdict(found):
        assert "8.3 %" not in line or "8.3 % strict" in line or "58.3 %" in line


def with_baseline(found, flexible, judged):
    """The findings with another flexible score of the best prompt and other verdicts against it."""
    base = found.baseline
    results = [
        replace(r, score=replace(r.score, flexible=flexible))
        if r is base
        else replace(r, pair=replace(r.pair, verdict=judged[r.arm.name]) if r.pair else None)
        for r in found.results
    ]
    return replace(found, results=tuple(results))


def test_a_gain_that_is_only_the_format_is_called_so(found):
    judged = dict(zip(TRAINED, ("better", "better", "unresolved", "unresolved"), strict=True))
    assert verdict(with_baseline(found, 0.54, judged))[4] == (
        "LoRA main and LoRA socratic are ahead of the best prompt only by strict grading. With the format "
        "forgiven, the best prompt solves 54.0 % and these runs 46.7 % to 53.3 %. The gain over it cannot be "
        "told from learning the format."
    )


def test_an_arm_of_three_seeds_is_not_called_one_run(found):
    """Of the averages of the seeds the sentence says "these runs"."""
    judged = dict(zip(TRAINED, ("better", "better", "better", "unresolved"), strict=True))
    one = with_baseline(found, 0.54, judged)
    several = replace(one, results=tuple(replace(r, runs=r.runs * 3) for r in one.results))
    assert "solves 54.0 % and this run 46.7 %" in verdict(one)[4]
    assert "solves 54.0 % and these runs 46.7 %" in verdict(several)[4]


def test_a_prompt_that_solves_more_is_the_headline(found):
    judged = dict.fromkeys(TRAINED, "unresolved")
    assert verdict(with_baseline(found, 0.6, judged))[0] == (
        "No trained arm solves more than the best prompt, which solves 60.0 % with the format forgiven, 8.3 "
        "% strict: this run of full main solves 56.7 %."
    )
    assert verdict(with_baseline(found, 0.5, judged))[0] == (
        "This run of full main solves the most, 56.7 %, but cannot be told apart from the best prompt, which "
        "solves 50.0 % with the format forgiven, 8.3 % strict."
    )


def test_limits_say_what_cannot_be_said(found):
    said = limits(found)
    prompts = [one for one in found.results if one.arm.untrained]
    trained = tuple(one for one in found.results if not one.arm.untrained)
    declared = {1: "The best prompt is the only one that was declared.", 0: "The best prompt"}
    for count, start in declared.items():
        fewer = limits(replace(found, results=(*prompts[:count], *trained)))
        assert any(line.startswith(start) for line in fewer) is bool(count)
    assert said[0].startswith("This is no evidence about large models")
    assert said[1].startswith("Each arm is one run, with seed 0. The variance between seeds was not measured")
    assert any(
        re.fullmatch(
            r"Full main and LoRA main cannot be told apart: about \d+ problems would tell, if the difference "
            r"seen \(\+5\.0 points\) is the true one\.",
            line,
        )
        for line in said
    )
    # each arm is right on a stretch, so 6 of the 60 end in 8 and 6 in 9, less those it solves
    assert (
        "Answers cut at the length limit count as not solved: 8 of 8 arms, most of zero-shot + instruction "
        "(10.0 %)." in said
    )
    assert said[-3:] == [
        "Refused arm has no result (refused: the socratic train file is not there).",
        "Failed arm has no result (failed: loss is not finite at step 7).",
        "Waiting arm has no result (waiting).",
    ]


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (
            ("better", "better", "worse", "worse"),
            f"2 of 4 trained runs beat {PROMPT}, by 40.0 to 43.3 points; LoRA main, LoRA socratic are "
            f"worse than it.",
        ),
        (
            ("worse", "unresolved", "worse", "worse"),
            f"3 of 4 trained runs are worse than {PROMPT}; full socratic cannot be told apart from it.",
        ),
        (
            ("unresolved",) * 4,
            f"None of the 4 trained runs can be told apart from {PROMPT} at n = 60.",
        ),
        (
            ("better", "unresolved", "unresolved", "worse"),
            f"1 of 4 trained runs beat {PROMPT}, by 43.3 points; LoRA socratic is worse than it; "
            "full socratic, LoRA main cannot be told apart from it.",
        ),
    ],
)
def test_verdict_names_every_outcome_and_ranks_none_that_was_not_found(found, verdicts, said):
    pairs = dict(zip(TRAINED, verdicts, strict=True))
    results = [
        replace(r, pair=replace(r.pair, verdict=pairs[r.arm.name]) if r.pair else None) for r in found.results
    ]
    assert verdict(replace(found, results=tuple(results)))[3] == said


def test_one_trained_arm_has_its_own_grammar(study_writer, tmp_path):
    found = find(read_study(study_writer(tmp_path / "s", arms=("1shot", "full-main"))))
    prompt = "the best prompt (one-shot, 15.0 % with the format forgiven, 10.0 % strict)"
    assert verdict(found)[3] == f"The trained run beats {prompt}, by 41.7 points."
    unclear = [
        replace(r, pair=replace(r.pair, verdict="unresolved") if r.pair else None) for r in found.results
    ]
    said = verdict(replace(found, results=tuple(unclear)))[3]
    assert said == f"The trained run cannot be told apart from {prompt} at n = 60."


def test_summary_for_a_terminal(found):
    summary = study_tables.summary(found)
    assert summary.title == "nano · test 60 · greedy · strict grading · seed 0 · test opened once by each arm"
    rows = {row[0]: dict(zip(["arm", *summary.columns], row, strict=True)) for row in summary.texts()}
    assert rows["one-shot + instruction (best prompt)"]["right"] == "5/60"
    assert rows["LoRA main"] | {"Holm p": ""} == {
        "arm": "LoRA main",
        "right": "31/60",
        "accuracy": "51.7 % (5.0 % cut)",
        "95 % interval": "39.3-63.8",
        "flexible": "53.3 %",
        "vs best prompt": "+38.3 (22.1-52.1)",
        "Holm p": "",
        "verdict": "better",
        "time": "0:16",
        "tokens": "200.0 k",
    }
    assert rows["failed arm"]["verdict"] == "failed"


def test_document_is_json_with_every_number(found):
    value = json.loads(json.dumps(document(found), allow_nan=False))
    assert value["baseline"] == "1shot-instruction" and len(value["comparison"]["pairs"]) == 6
    assert [arm["state"] for arm in value["arms"]][-3:] == ["refused", "failed", "waiting"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (388.06, "6:28"), (3600, "1:00:00"), (7325, "2:02:05")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1_800_000, "1.8 M"), (2_268_928, "2.3 M"), (5e9, "5.0 G"), (1000, "1.0 k")],
)
def test_amount(count, text):
    assert amount(count) == text


# Tables


def test_table_of_arms(found):
    row = cells(study_tables.arms(found), "full main")
    low, high = wilson(34, 60)
    assert (row["accuracy"].text, row["accuracy"].detail) == ("56.7 %", "34/60")
    assert row["95 % interval"].text == f"{100 * low:.1f}-{100 * high:.1f}"
    assert (row["flexible"].text, row["flexible"].detail) == (
        "[58.3]",
        "+1.7",
    )  # p-50 alone of 10, 30, 50 is not solved
    # 39, 49 and 59 have no number, 38, 48 and 58 are cut
    assert (row["no answer"].text, row["no answer"].detail) == ("5.0 %", "5.0 % cut")
    assert "truncated" not in row
    assert (row["vs best prompt"].text, row["verdict"].text, row["verdict"].tone) == (
        "+43.3",
        "better",
        "better",
    )
    assert (row["time"].text, row["tokens"].text, row["memory"].text) == ("0:20", "200.0 k", "1.40 GB")
    lines = {row.title: row for row in study_tables.arms(found).rows}
    assert lines["one-shot + instruction"].tag == "best prompt" and not lines["one-shot"].tag
    assert (
        lines["refused arm"].lost == "refused: the socratic train file is not there"
        and not lines["refused arm"].cells
    )


def test_table_of_pairs_counts_fixed_and_broken(found):
    table = study_tables.pairs(found)
    # full main solves p-02 to p-35, one-shot + instruction with its format forgiven p-00 to p-04, p-10, p-30
    # and p-50, LoRA main p-02 to p-32
    against = cells(table, "full main against one-shot + instruction")
    assert (against["fixed"].value, against["broken"].value) == (29, 3)
    siblings = cells(table, "full main against LoRA main")
    assert (siblings["fixed"].value, siblings["broken"].value) == (3, 0)
    assert siblings["p"].text == "0.25"  # three coins alike: 2 / 2^3
    assert siblings["verdict"].text == "not told apart" and siblings["n to resolve"].text.startswith("about ")
    assert len(table.rows) == 6


def test_accuracy_stands_beside_the_tokens_it_costs(found):
    """Test has 60 problems. Where all arms are asked alike, for one completion, they cost alike: no table."""
    alike = [replace(r, evaluation=replace(r.evaluation, prompt_hash="one")) for r in found.results]
    assert not study_tables.inference(replace(found, results=tuple(alike))).rows
    calculated = replace(alike[4].evaluation, tokens=600, decoding="greedy with a calculator")
    table = study_tables.inference(
        replace(found, results=(*alike[:4], replace(alike[4], evaluation=calculated)))
    )
    assert cells(table, "full main")["tokens a problem"].text == "10.0"
    shown = {"token_ids": list(range(7))}
    longer = [replace(r, run=replace(r.run, prompt=shown)) for r in found.results]
    table = study_tables.inference(replace(found, results=tuple(longer)))
    assert cells(table, "one-shot")["tokens of the prompt"].text == "7", "its prompt differs"
    paid = replace(found.results[4].evaluation, tokens=720, samples=8, decoding="temperature 1, best of 8")
    again = replace(found.results[5].evaluation, tokens=90, fixed=4, broken=7, decoding="greedy, refined")
    results = [*found.results]
    results[4], results[5] = replace(results[4], evaluation=paid), replace(results[5], evaluation=again)
    table = study_tables.inference(replace(found, results=tuple(results)))
    voted, refined = cells(table, "full main"), cells(table, "full socratic")
    assert (voted["tokens a problem"].text, voted["decoding"].text) == ("12.0", "temperature 1, best of 8")
    assert (refined["tokens a problem"].text, refined["fixed"].text, refined["broken"].text) == (
        "1.5",
        "4",
        "7",
    )
    assert voted["accuracy"].value == pytest.approx(34 / 60) and voted["fixed"] == EMPTY
    assert len(table.rows) == len(found.results)


def test_table_of_losses_and_costs(found):
    losses = cells(study_tables.losses(found), "LoRA main")
    last = sum(1.2 + 2.8 * 0.85 ** (step - 1) + 0.05 * (step % 2) for step in range(37, 41)) / 4
    assert (losses["train, final"].text, losses["train, final"].detail) == (f"{last:.4f}", "mean of last 4")
    assert (losses["dev, step 0"].text, losses["solutions"].text) == ("4.0000", "main")
    costs = cells(study_tables.costs(found), "full socratic")
    # 6,000 tokens and 32 problems in 0.6 seconds
    assert (costs["a second"].text, costs["a second"].detail) == ("10,000", "53.3 samples")
    assert (costs["time"].text, costs["time"].detail, costs["evaluation"].detail) == (
        *("0:24", "", "10.0 a second"),
    )
    assert cells(study_tables.costs(found), "one-shot")["steps"] == EMPTY


def test_accuracy_by_category_and_errors_by_kind(found):
    grids = {table.title: table for table in study_tables.grids(found)}
    # of p-02 to p-35 index % 3 is 0 for 11 (3, 6, ..., 33), 1 for 11 (4, ..., 34), 2 for 12 (2, ..., 35)
    by_category = {row.title: row.cells["full main"].value for row in grids["Accuracy by category"].rows}
    assert by_category == pytest.approx({"buying": 11 / 20, "sharing": 11 / 20, "time": 12 / 20})
    kinds = {row.title: row.cells["full main"].value for row in grids["Errors by kind"].rows}
    assert kinds["truncated or repeating"] == 3 and sum(kinds.values()) == 26
    assert dict(grids["Errors by kind"].glossary)["truncated or repeating"].startswith("The text was cut")


def test_csv_has_the_numbers(found):
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO(study_tables.numbers(found).csv()))}
    assert len(rows) == 11
    row = rows["LoRA socratic"]
    assert (float(row["correct"]), int(row["n"]), float(row["accuracy"])) == (26, 60, pytest.approx(26 / 60))
    assert (float(row["low"]), float(row["high"])) == pytest.approx(wilson(26, 60))
    assert float(row["difference"]) == pytest.approx(18 / 60) and row["verdict"] == "better"
    assert rows["one-shot"]["p"] == rows["one-shot"]["seconds"] == ""
    assert (
        rows["failed arm"]["state"] == "failed: loss is not finite at step 7"
        and rows["failed arm"]["accuracy"] == ""
    )


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"])
def test_csv_text_is_no_formula(text):
    assert guard(text).startswith("'") and "\n" not in guard(text + "\n")


@pytest.mark.parametrize(
    "formula", ["=1+1", " +1", "@SUM(A1)", "\uff1d1+1", "\uff0b1", "\uff0d1", "\uff20SUM(A1)"]
)
@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_csv_text_is_no_formula_behind_a_separator_or_in_full_width(formula, separator):
    """Where the comma is the decimal sign, a spreadsheet cuts a line at semicolons; at tabs always."""
    assert guard(formula) == f"'{formula}"
    assert guard(f"arm{separator}{formula}") == f"arm{separator}'{formula}"
    assert guard("full main; p = 3, a-b") == "full main; p = 3, a-b"


@given(st.text())
def test_csv_cells_come_back(text):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([guard(text)])
    assert out.getvalue().count("\n") == 1
    (cell,) = next(csv.reader([out.getvalue()]), [""])
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) and cell == guard(text)


# Files


def test_everything_is_written_and_nothing_else(built):
    own = {path.name for path in built.iterdir() if path.is_file()}
    assert own == {"study.json", "report.html", "report.md", "table.csv"}
    figures = sorted(path.name for path in (built / "figures").iterdir())
    assert len(figures) == 24
    assert figures[:3] == ["accuracy-seconds.csv", "accuracy-seconds.png", "accuracy-seconds.svg"]


def test_same_study_same_bytes(built, tmp_path):
    copy = shutil.copytree(built, tmp_path / "nano")
    build_report(copy)
    for name in ("report.html", "report.md", "table.csv"):
        assert (copy / name).read_bytes() == (built / name).read_bytes()


def test_page_is_self_contained_and_its_policy_lets_only_its_own_code_run(built):
    page = (built / "report.html").read_text(encoding="utf-8")
    parsed = parse(page)
    policy = next(
        a["content"]
        for tag, a in parsed.elements
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    blocks = {kind: re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL) for kind in ("style", "script")}
    for kind, texts in blocks.items():
        assert len(texts) == 1
        digest = base64.b64encode(hashlib.sha256(texts[0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag, attributes in parsed.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "audio", "video"}
        assert not [name for name in attributes if name.startswith("on") or name in {"style", "srcset"}]
        assert attributes.get("src", "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert set(re.findall(r"https?://[\w./-]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_page_has_one_heading_each_and_every_figure(built):
    parsed = parse((built / "report.html").read_text(encoding="utf-8"))
    tags = Counter(tag for tag, _ in parsed.elements)
    assert tags["h1"] == tags["main"] == 1 and tags["figure"] == 8 and tags["h2"] == 8
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for tag, attributes in parsed.elements if tag == "a"}
    assert targets == {"table", "accuracy", "learning", "cost", "errors", "explorer", "setup"} <= set(ids)


def test_markdown_shows_the_same_numbers_and_links_figures_that_exist(built):
    text = (built / "report.md").read_text(encoding="utf-8")
    assert "| full main | 56.7 % (34/60) |" in text
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(links) == 8 and all((built / link).is_file() for link in links)
    table = text[text.index("| arm |") :].split("\n\n")[0].splitlines()
    assert len({line.count("|") - line.count("\\|") for line in table}) == 1 and len(table) == 13


def test_setup_shows_prompt_data_and_command(found):
    facts = context(found, {})
    assert facts["command"] == "reckon study"
    assert {
        name: value
        for name, value in facts["facts"]
        if name in {"Data", "Times that test was opened", "Decoding"}
    } == {
        "Data": "nano (7,473 rows, sha256 abababababab)",
        "Times that test was opened": "1 by each arm",
        "Decoding": "greedy, at most 96 new tokens",
    }
    # the trained arms were prompted as the zero-shot arm was
    assert [prompt["arms"] for prompt in facts["prompts"]][
        0
    ] == "zero-shot, full main, full socratic, LoRA main, LoRA socratic"
    assert facts["prompts"][0]["rendered"].startswith("<bos>Question: Ann has 2 boxes")
    assert facts["baseline"].startswith(
        "Baseline: one-shot + instruction, the best of the prompts on dev (zero-shot 2/40,"
    )


def test_samples_are_the_first_of_each_pattern(found):
    samples = context(found, {})["samples"]
    assert [(sample["problem"].id, sample["why"]) for sample in samples] == [
        ("p-05", "full main right, one-shot + instruction wrong"),
        ("p-00", "one-shot + instruction right, full main wrong"),
        ("p-36", "nobody right"),
    ]


def test_a_folder_that_cannot_be_written(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "nano")
    shutil.rmtree(folder / "figures")
    (folder / "figures").write_text("in the way")
    with pytest.raises(Stopped, match="figures: cannot be written"):
        build_report(folder)
    with pytest.raises(InputError, match=r"has no study\.json"):
        build_report(tmp_path)


# Studies that are small, young or hopeless


@pytest.mark.parametrize(
    ("arms", "size", "first"),
    [
        ((), 60, "No arm has a test result yet."),
        (
            ("0shot",),
            60,
            "Zero-shot solves the most of 60 test problems: 8.3 % with the format forgiven, 3.3 % strict.",
        ),
        (("full-main",), 60, "This run of full main solves the most of 60 test problems: 56.7 %."),
        (("0shot", "full-main"), 1, "No arm solved any of the 1 test problems."),
        (
            ("0shot", "0shot-instruction"),
            20,
            "Zero-shot + instruction solves the most of 20 test problems: 10.0 % with the format forgiven, "
            "5.0 % strict.",
        ),
    ],
    ids=["nothing", "one prompt", "one run", "one problem", "prompts"],
)
def test_studies_of_all_sizes(study_writer, tmp_path, arms, size, first):
    folder = study_writer(tmp_path / "s", arms=arms, size=size)
    found = find(read_study(folder))
    assert verdict(found)[0].startswith(first)
    facts = context(found, {})
    parse(render_html(facts, found))
    assert render_markdown(facts).startswith("# nano\n")
    assert study_tables.numbers(found).csv().count("\n") == len(arms) + 4


def test_nothing_solved(study_writer, tmp_path):
    found = find(read_study(study_writer(tmp_path / "s", arms=("0shot", "full-main"), size=1)))
    assert verdict(found)[:2] == [
        "No arm solved any of the 1 test problems.",
        "The 95 % interval reaches up to 79.3 %.",
    ]


def test_run_without_log_and_documents(study_writer, tmp_path):
    folder = study_writer(tmp_path / "s", arms=("1shot", "full-main"))
    for name in ("metrics.jsonl", "config.yaml", "prompt.json", "data.json", "environment.json"):
        (folder / "full-main" / name).unlink(missing_ok=True)
    build_report(folder)
    assert not (folder / "figures" / "training-loss.svg").exists()
    assert cells(study_tables.losses(find(read_study(folder))), "full main")["train, final"] == EMPTY


# Foreign text


class Page(HTMLParser):
    """Every element with its attributes, and that each end tag fits."""

    VOID = frozenset({"meta", "input", "br", "img", "link", "hr", "path", "use", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parse(page: str) -> Page:
    parsed = Page()
    parsed.feed(page)
    parsed.close()
    assert not parsed.open
    return parsed


HOSTILE = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "</style><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>", "</svg><script>alert(1)</script>", "</title><script>alert(1)</script>", "<!-- ",
    "-->", "<!--<script>", "]]>",
    "<![CDATA[", "<?xml ?>", "<!doctype html>", "\" onmouseover=\"alert(1)", "' onmouseover='alert(1)",
    "`${alert(1)}`", "javascript:alert(1)",
    "{{ 7*7 }}", "{% raw %}", "{# x", "{{ self.__init__.__globals__ }}", "&lt;script&gt;",
    "&#60;script&#62;", "&amp;", "&", "<", ">", "\"", "'",
    "\\", "\\u003cscript\\u003e", "\u2028alert(1)\u2029", "\x00<script>", "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07", "\r\n\r\n<script>", "\u202ecba",
    "\u2066<b>\u2069", "\ud800", "\udfff<x>", "\ufeff", "\uffff", "\U0001f600" * 9, "日本語", "\u0301" * 40,
    "a" * 3000, "<" * 800, "&" * 800,
    "<a href=javascript:alert(1)>x</a>", "<base href=//evil>", "<meta http-equiv=refresh content=0>",
    "<link rel=stylesheet href=//evil>",
    "<iframe src=//evil>", "<object data=//evil>", "<form action=//evil>",
    "<input autofocus onfocus=alert(1)>", "<details open ontoggle=alert(1)>",
    "<style>*{display:none}</style>", "<textarea>", "</textarea>", "</pre><b>", "</table>", "</td></tr>",
    "<template>", "<plaintext>", "<noscript>",
    "=HYPERLINK(\"//evil\")", "+1+1", "-1", "@SUM(1)", "\t=1", "| a | b |", "```\n# x\n```",
    "[x](javascript:alert(1))", "![x](//evil/x.png)",
    "$\\frac{1}{2}$", "%s%n{0}", "12+3=<<12+3=16>>16", "#### 1\n#### 2", "\\x3cscript\\x3e",
    "<math><mi//xlink:href=\"data:x,alert(1)\">", "..\\..\\x", "../../x",
]  # fmt: skip


def shape(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """Elements and the names of their attributes, without what is inside figures."""
    return [(tag, tuple(sorted(attributes))) for tag, attributes in parse(page).elements]


@pytest.mark.parametrize("turn", range(4))
def test_foreign_text_adds_no_element_and_no_attribute(study_writer, tmp_path, turn):
    """Every string in turn is question, answer, name, reason, prompt, version and configuration."""
    assert len(HOSTILE) >= 80
    arms, size = ("1shot", "full-main", "lora-main"), len(HOSTILE) - 1
    strings = HOSTILE[turn:] + HOSTILE[:turn]
    pages = []
    for name, words in (("plain", ["a word", "other words"]), ("hostile", strings)):
        found = find(read_study(study_writer(tmp_path / name, arms=arms, size=size, strings=words)))
        facts = context(found, {})
        pages.append(render_html(facts, found).encode("utf-8", "backslashreplace").decode())
        inline = render_markdown(facts)
        assert not re.search(
            r"(?<!\\)<(?!<)/?[a-z!?]",
            re.sub(r"^(`{3,})text\n.*?^\1$", "", inline, flags=re.DOTALL | re.MULTILINE),
            re.IGNORECASE,
        )
    plain, hostile = (Counter(shape(page)) for page in pages)
    assert set(hostile) <= set(plain)
    fixed = {"script", "style", "meta", "section", "table", "nav", "a", "input", "select", "button", "figure"}
    assert {key: n for key, n in hostile.items() if key[0] in fixed} == {
        key: n for key, n in plain.items() if key[0] in fixed
    }


def test_hostile_study_has_its_figures_and_files(study_writer, tmp_path, unpack):
    folder = study_writer(tmp_path / "s", size=len(HOSTILE), arms=("1shot", "full-main"), strings=HOSTILE)
    build_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert [tag for tag, _ in parse(page).elements if tag == "script"] == ["script", "script"]
    data = unpack(re.search(r'<script type="text/plain" id="data">(.*?)</script>', page)[1])
    questions = {item[1] for item in data["problems"]}
    assert len(questions & set(HOSTILE)) > 60
    list(csv.reader((folder / "table.csv").read_text(encoding="utf-8").splitlines()))


def test_packed_data_hold_any_text_and_no_markup(unpack):
    value = ["</script>", "<!--", "&amp;", "\u2028\u2029", "\ud800", "\x00", "日本"]
    text = page.embed(value)
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*", text) and unpack(text) == value


@given(st.text(alphabet="`~abc\n# |<", max_size=80))
def test_a_fence_holds_any_text(text):
    first, *body, last = fenced(text).split("\n")
    assert first == last + "text" and not any(line.strip().startswith(last) for line in body)


@pytest.mark.parametrize("text", HOSTILE)
def test_inert_markdown_is_one_line_without_markup(text):
    line = inert(text)
    assert "\n" not in line and not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|#&]", re.sub(r"\\.", "", line))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- item", "\\- item"), ("+ item", "\\+ item"), ("1. item", "1\\. item"), ("12) item", "12\\) item"),
        ("---", "\\---"), ("===", "\\==="),
        ("ask @user", "ask @\u2060user"), ("-3.2 to +1.0", "-3.2 to +1.0"), ("3.5 %", "3.5 %"),
        ("a - b", "a - b"),
    ],
)  # fmt: skip
def test_inert_markdown_begins_no_list_and_calls_no_user(text, line):
    assert inert(text) == line


def test_visible_and_typeset():
    assert visible("a\x00\x1b\ud800\n\tb") == "a\\x00\\x1b\\xd800\n\tb"
    assert visible("a\u202eb\u2066") == "a\\x202eb\\x2066" and inert("\u202eb") == "\\\\x202eb"
    assert (
        typeset("44.1-68.4, -3.2 to +1.0, p 1.2e-07, lora-main")
        == '<span class="whole">44.1\u201368.4</span>, \u22123.2 to +1.0, p 1.2e\u221207, lora-main'
    )
    assert typeset("<b>1-2</b>") == '&lt;b&gt;<span class="whole">1\u20132</span>&lt;/b&gt;'
    assert typeset("8.3 % at n = 60, k = 4") == "8.3\u00a0% at n\u00a0=\u00a060, k\u00a0=\u00a04"


# The explorer's data


def test_payload_holds_every_problem_and_answer(found):
    data = explorer.study_contents(found)
    assert data["arms"][4] == "full main" and data["marks"] == list(range(8)) and len(data["problems"]) == 60
    key, question, gold, solution, category, steps, unseen, answers, rows = data["problems"][38]
    assert (key, gold, category, steps, unseen) == ("p-38", "21", "time", 4, 0)
    assert question.startswith("Ann has 4 boxes with 6 pens") and solution.endswith("#### 21")
    # every arm is cut there after the same characters, which are stored once
    assert rows == [[0] * 8] and len(answers) == 1 and data["seeds"] == [0]
    verdict_code, value, text, left, slips, kind, detail = answers[0]
    assert (verdict_code, value, left, data["kinds"][kind]) == (3, None, 0, "truncated or repeating")


def test_wrong_calculations_are_marked_where_javascript_finds_them():
    text = "\U0001f600 5+5=<<5+5=11>>11 and 2*3=<<2*3=6>>6"
    ((start, end, right),) = explorer.marked_slips(text)
    units = text.encode("utf-16-le")
    assert units[2 * start : 2 * end].decode("utf-16-le") == "<<5+5=11>>" and right == "10"


def test_long_texts_are_cut_so_that_the_page_stays_small(monkeypatch):
    monkeypatch.setattr(explorer, "BUDGET", 100_000)
    assert explorer.longest_text(["x" * 1000] * 100) == 8000
    assert explorer.longest_text(["x" * 1000] * 101) == 800
    assert explorer.longest_text(["x" * 9000] * 1000) == explorer.CUTS[-1]


def test_a_cut_text_says_how_much_is_missing(study_writer, tmp_path, monkeypatch):
    folder = study_writer(tmp_path / "s", arms=("full-main",), strings=["y" * 500])
    monkeypatch.setattr(explorer, "BUDGET", 400)
    answers = explorer.study_contents(find(read_study(folder)))["problems"][0][7]
    assert len(answers) == 1 and answers[0][2] == "y" * 300 and answers[0][3] == 200


def test_shorten_counts_what_it_left_out():
    assert page.shorten("a" * 3001) == "a" * 3000 + "\n[1 more characters]" and page.shorten("a") == "a"


def test_a_reward_that_paid_for_something_else_is_a_limit(learned_path, tmp_path):
    folder = tmp_path / "nano"
    shutil.copytree(learned_path, folder)
    path = folder / "grpo" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if "reward" in line]
    for number, line in enumerate(steps):
        line["flagged"] = int(number >= len(steps) - 2)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = limits(find(read_study(folder)))
    assert sum("rose while exact match did not" in line for line in said) == 1
    assert any(
        f"The reward of GRPO from full main rose while exact match did not (from step {steps[-2]['step']} "
        "on, in 2 steps): it paid for something else." in line
        for line in said
    )
    assert not any("rose while" in line for line in limits(find(read_study(learned_path))))
