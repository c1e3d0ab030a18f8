"""Published rows: their intervals, impossible percentages, and what they can rank."""

import json
import re

import pytest

from reckoner.analysis.claims import PUBLISHED, judge, pair_table, row_table, summary
from reckoner.analysis.readers import read_published
from reckoner.analysis.statistics import fisher
from reckoner.cli import main
from reckoner.errors import InputError


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_original_study_as_printed_and_as_stored():
    groups = {group.name: group for group in judge(PUBLISHED)}
    printed, stored = groups["original study, as printed"], groups["original study, as stored"]
    impossible = [one.row.title for one in printed.rows if "impossible" in one.claim.problem]
    assert impossible == ["base, one-shot", "LoRA socratic", "LoRA main", "PPO from full main", "full main"]
    assert not any(one.claim.problem for one in stored.rows)
    pairs = {(pair.a, pair.b): pair for pair in stored.comparison.pairs}
    assert pairs["base, one-shot", "LoRA socratic"].verdict == "unresolved"
    assert pairs["base, one-shot", "full main"].verdict == "worse"
    assert pairs["full socratic", "full main"].needs > 100
    ppo = next(p for p in printed.comparison.pairs if (p.a, p.b) == ("PPO from full main", "full main"))
    assert ppo.fisher == pytest.approx(fisher(72, 256, 79, 256)) == pytest.approx(0.56, abs=0.01)


def test_the_published_rows_are_facts_with_sources():
    rows = read_published(PUBLISHED)
    others = [row for row in rows if not row.group.startswith("original study")]
    assert len(others) >= 30 and all(row.source and row.group for row in rows)
    assert not [
        one for group in judge(PUBLISHED)[2:] for one in group.rows if one.claim and one.claim.problem
    ]


def test_pairs_are_of_one_group_and_a_row_without_n_ranks_nothing(tmp_path):
    path = write(
        tmp_path / "rows.jsonl",
        {"title": "a", "n": 1000, "k": 100, "group": "x"},
        {"title": "b", "n": 1000, "k": 900, "group": "y"},
        {"title": "a", "percent": "28.0", "n": 256, "group": "y"},
        {"title": "c", "percent": 50, "group": "x"},
    )
    groups = judge(path)
    assert [(g.name, [one.row.title for one in g.rows]) for g in groups] == [
        ("x", ["a", "c"]),
        ("y", ["b", "a"]),
    ]
    assert [[(p.a, p.b, p.verdict) for p in g.comparison.pairs] for g in groups] == [
        [],
        [("b", "a", "better")],
    ]
    assert [row.cells["possible"].text for row in row_table(groups).rows] == [
        "yes",
        "n not stated",
        "yes",
        "no",
    ]
    assert [row.title for row in pair_table(groups).rows] == ["y: b against a"]
    assert summary(groups) == [
        "4 rows: 1 without an n, 1 with an impossible percentage.",
        "1 of 1 pairs can be ranked (unpaired tests, Holm within each group).",
        "a: 28.0 % of 256 is impossible: 71/256 is 27.73 % and 72/256 is 28.12 %. "
        "The nearest, 72/256, is used.",
    ]


@pytest.mark.parametrize(
    "row, said",
    [
        ({"title": "a", "n": 10}, "rows.jsonl row 2 ('a'): give k or percent"),
        ({"title": "a", "n": 10, "k": 1, "percent": 10}, "rows.jsonl row 2 ('a'): give k or percent"),
        ({"title": "a", "k": 1}, "rows.jsonl row 2 ('a'): k=1 needs n"),
        ({"title": "a", "n": 10, "k": 11}, "rows.jsonl row 2 ('a'): 11 right of 10 is impossible"),
        ({"title": "a", "n": 0, "k": 0}, "rows.jsonl row 2 ('a'): n=0 is no number of problems"),
        ({"title": "a", "n": 10**40, "k": 0}, "rows.jsonl row 2 ('a'): n=1"),
        ({"title": " ", "n": 10, "k": 1}, "rows.jsonl row 2 (' '): the title is empty"),
        ({"title": "fine", "n": 10, "k": 1}, "rows.jsonl row 2 ('fine'): the title stands twice"),
        ({"title": "fine", "percent": 1}, "rows.jsonl row 2 ('fine'): the title stands twice"),
        ({"title": "a", "n": 10, "score": 1}, "line 2: PublishedRow has no field score"),
        ({"n": 10, "k": 1}, "line 2: "),
        (None, "no rows"),
    ],
)
def test_a_bad_row_is_one_line(tmp_path, row, said, capsys):
    path = write(tmp_path / "rows.jsonl", *([{"title": "fine", "n": 9, "k": 3}, row] if row else []))
    assert main(["claims", str(path)]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize("n", [{}, {"n": 10}])
@pytest.mark.parametrize("percent", [101, 100.1, "150", "abc", "-3", -3, "nan", "", "31,5", 1e-7])
def test_what_is_no_percentage_is_refused_with_and_without_n(tmp_path, percent, n):
    path = write(tmp_path / "rows.jsonl", {"title": "a", "percent": percent, **n})
    with pytest.raises(InputError) as caught:
        judge(path)
    expected = f"{path} row 1 ('a'): percent={percent!r} is no number from 0 to 100, as 31.0"
    assert str(caught.value) == expected


def test_the_verb_prints_the_shipped_rows_and_json(capsys):
    assert main(["claims"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"as printed: full main +79/256 +30\.9 % +25\.5-36\.8 +no", out)
    assert main(["claims", "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)
    assert groups[0]["rows"][0]["claim"]["k"] == 15 and groups[0]["comparison"]["pairs"]
