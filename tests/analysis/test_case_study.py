"""docs/case-study.md and docs/statistics.md say what the committed results say."""

import json
import re
from pathlib import Path

import pytest

from reckoner.analysis.wording import p_value, percent

ROOT = Path(__file__).parents[2]
STUDY = json.loads((ROOT / "benchmarks" / "results" / "case_study.json").read_text())
TEXT = (ROOT / "docs" / "case-study.md").read_text()
FLAT = " ".join(TEXT.split())
NAMES = {
    "6b_finetuning": "6B",
    "6b_verification": "6B + verifier",
    "175b_finetuning": "175B",
    "175b_verification": "175B + verifier",
}


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def test_accuracies():
    for arm in STUDY["comparison"]["arms"]:
        share = f"{100 * arm['low']:.1f}-{100 * arm['high']:.1f}"
        assert (
            row(NAMES[arm["name"]], f"{arm['correct']:.0f}/1,319 = {percent(arm['accuracy'])}", share) in TEXT
        )
    assert STUDY["labels"] == {"agree": 5276, "of": 5276}


def test_pairs():
    for pair in STUDY["comparison"]["pairs"]:
        gap = pair["difference"]
        a, b, low, high, fixed, broken = (
            NAMES[pair["a"]],
            NAMES[pair["b"]],
            gap["low"],
            gap["high"],
            gap["fixed"],
            gap["broken"],
        )
        if gap["estimate"] < 0:
            a, b, low, high, fixed, broken = b, a, -high, -low, broken, fixed
        cells = (
            f"{a} - {b}",
            f"+{100 * abs(gap['estimate']):.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            str(fixed),
            str(broken),
            p_value(pair["p_holm"]),
        )
        assert row(*cells) in TEXT


def test_calculations_in_the_reference():
    steps = STUDY["steps"]
    for group, gap in steps["differences"].items():
        solved = [str(steps["counts"][name][group][0]) for name in steps["pair"]]
        numbers = re.escape(f"| {group} | {gap['n']} | {solved[0]} | {solved[1]} | ")
        found = re.search(numbers + r"\**([-+\d.]+)\** \| ([-+\d.]+) to ([-+\d.]+) \| (\S+) \|", TEXT)
        assert [float(found[i]) for i in (1, 2, 3)] == [
            round(100 * gap[key], 1) for key in ("estimate", "low", "high")
        ]
        assert found[4] == p_value(gap["p_holm"])
    others = steps["others_than_2"]
    assert (others["n"], *(round(100 * others[key], 1) for key in ("estimate", "low", "high"))) == (
        977,
        1.1,
        -2.1,
        4.3,
    )
    assert (round(steps["trend"]["points_a_calculation"], 1), round(steps["trend"]["p"], 3)) == (-2.5, 0.014)


def test_small_samples():
    found = STUDY["small_samples"].values()
    assert (
        row("order of the two reversed or tied", *(f"{100 * one['reversed_or_tied']:.0f} %" for one in found))
        in TEXT
    )
    assert (
        row("difference found (p < 0.05)", *(f"{100 * one['p_below_0.05']:.0f} %" for one in found)) in TEXT
    )


def test_kinds():
    profiles = STUDY["kinds"]["profiles"].values()
    shares = [
        [100 * p["kinds"].get(kind, {"share": 0})["share"] for p in profiles]
        for kind in ("wrong_number", "arithmetic")
    ]
    assert "{:.0f}, {:.0f}, {:.0f} and {:.0f} % of the errors".format(*shares[0]) in FLAT
    assert f"{min(shares[1]):.1f} to {max(shares[1]):.1f} % of the wrong answers hold" in FLAT
    assert 0.075 < max(STUDY["kinds"]["total_variation"].values()) < 0.085
    assert [p["lucky"] for p in profiles] == [1, 2, 0, 4]
    plans = ("wrong_number", "other_plan", "wrong_operation", "missing_step", "invented_number")
    assert all(0.885 < sum(p["kinds"][kind]["share"] for kind in plans) < 0.95 for p in profiles)


def test_answer_lines_and_references():
    lines = STUDY["answer_lines"]
    assert [(lines[name]["with_point"], lines[name]["with_comma"]) for name in NAMES] == [
        (133, 14),
        (0, 0),
        (106, 14),
        (0, 0),
    ]
    for name, right, helped in (
        ("6b_verification", ["257", "419", "451", "582"], 4),
        ("175b_verification", ["257", "1293"], 2),
    ):
        assert [case["problem"][5:] for case in lines[name]["cut_at_comma"] if case["text_right"]] == right
        assert sum(case["label"] and not case["text_right"] for case in lines[name]["cut_at_point"]) == helped
    assert [len(lines[name]["cut_at_comma"]) for name in ("6b_verification", "175b_verification")] == [14, 5]
    assert (
        STUDY["agreement"]["all"],
        STUDY["agreement"]["any"],
        len(STUDY["agreement"]["same_wrong_answer"]),
    ) == (156, 887, 7)
    assert STUDY["agreement"]["same_wrong_answer"]["test-454"] == {"answer": "240", "gold": "150"}
    references = STUDY["references"]
    assert (references["annotated"], references["plain"], references["false"]) == (
        4282,
        212,
        {"test-1024": ["32 - $20 = 300"]},
    )


@pytest.mark.parametrize(
    ("label", "path"),
    [
        ("one accuracy: Wilson", ("one_accuracy", "wilson")),
        ("one accuracy: normal", ("one_accuracy", "normal")),
        ("paired: Bonett-Price (ours)", ("paired", "coverage", "bonett_price")),
        ("paired: Newcombe, method 10", ("paired", "coverage", "newcombe_paired")),
        ("paired: Tango", ("paired", "coverage", "tango")),
        ("paired: Wald", ("paired", "coverage", "wald")),
    ],
)
def test_coverage_in_the_documents(label, path):
    found = json.loads((ROOT / "benchmarks" / "results" / "statistics.json").read_text())
    for key in path:
        found = found[key]
    line = next(
        line
        for line in (ROOT / "docs" / "statistics.md").read_text().splitlines()
        if line.startswith(f"| {label} |")
    )
    for cell, exact in zip(line.strip("| ").split(" | ")[1:], found.values(), strict=True):
        least, mean = map(float, cell.split(" / "))
        assert (least, mean) == pytest.approx((exact["least"], exact["mean"]), abs=0.051)
