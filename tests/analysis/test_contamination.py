"""Overlap of test with what is learnt, and problems with other numbers."""

import json
from dataclasses import replace

import pytest

from reckoner import nano
from reckoner.analysis.contamination import overlap_table, renumber
from reckoner.cli import main
from reckoner.runs.records import Problem
from reckoner.tasks import gsm8k
from reckoner.tasks.overlap import overlap

TALE = "Robin keeps {} hens in the barn behind the old mill and sells {} eggs to the baker every morning."


def problem(name, question, solution="", gold="1"):
    return Problem(name, question, solution, gold, "main", "mine")


def test_three_kinds_of_overlap():
    test = [
        problem("same", TALE.format(3, 4)),
        problem("numbers", TALE.format(8, 9)),
        problem("half", TALE.format(3, 4) + " How many eggs is that in two weeks and a day?"),
        problem("other", "A ship carries 12 crates of tea across the sea and loses 5 of them in a storm."),
        problem("short", "What is 7 + 5?"),
    ]
    found = overlap(test, [TALE.format(3, 4).upper().replace(".", " !"), "what is 7, 6"])
    assert found.n == 5
    assert found.exact == ("same",)
    assert found.masked == ("same", "numbers", "short")
    assert found.ngram == ("same", "half")
    row = overlap_table({"train": found}).rows[0]
    assert row.cells["numbers masked"].text == "3 of 5, 60.0 % (23.1-88.2)"


def test_a_planted_leak_of_five_per_cent_is_found():
    """67 of the 1,319 embedded test questions, under other numbers or with a sentence more, among train's."""
    source = {"source": "nano"}
    train = [one.question for one in gsm8k.load("train", **source)]
    test = gsm8k.load("test", **source)
    clean = overlap(test, train)
    stories = [
        problem(f"t{i}", f"Tale {chr(97 + i % 26)} {chr(97 + i // 26)} tells: {one.question} {TALE}")
        for i, one in enumerate(test)
    ]
    assert not clean.exact and not overlap(stories, train).masked
    leaked = stories[:: len(stories) // 66]
    share = len(leaked) / len(stories)
    found = overlap(stories, [*train, *(one.question for one in leaked)])
    assert 0.045 < share < 0.055 and found.exact == tuple(one.id for one in leaked)
    shifted = [one.question.replace("2", "7").replace("3", "9") for one in leaked]
    assert set(overlap(stories, [*train, *shifted]).masked) >= {one.id for one in leaked}


def test_other_numbers_and_the_gold_that_follows():
    one = problem(
        "a",
        "Ann has 12 bags of 5 pens and gives 8 pens to each of 2 friends.",
        "12*5=<<12*5=60>>60\n8*2=<<8*2=16>>16\n60-16=<<60-16=44>>44\n#### 44",
        "44",
    )
    for seed in range(20):
        new = renumber(one, seed)
        assert new is not None and new.id == "a-renumbered" and new.solution == ""
        bags, pens, given, friends = (int(word) for word in new.question.split() if word.isdigit())
        assert new.question != one.question
        assert int(new.gold) == bags * pens - given * friends >= 0
    assert renumber(one, 3) == renumber(one, 3)


@pytest.mark.parametrize(
    "question, solution, gold",
    [
        ("Ann has 3 pens.", "She has 3 pens.\n#### 3", "3"),
        ("Ann has 3 pens and 3 caps.", "3+3=<<3+3=6>>6\n#### 6", "6"),
        ("Ann has 3 pens and 4 caps.", "3+4=<<3+4=7>>7\n#### 8", "8"),
        ("Ann has 3 pens and 4 caps.", "3+4=<<x+4=7>>7\n#### 7", "7"),
    ],
)
def test_what_cannot_be_renumbered_is_left_out(question, solution, gold):
    assert renumber(problem("a", question, solution, gold)) is None


def test_renumbered_embedded_problems_keep_their_text_but_for_numbers():
    made = [(one, renumber(one)) for one in nano.problems("test", "main")[:200]]
    kept = [(one, other) for one, other in made if other]
    assert len(kept) > 60
    for one, other in kept:
        assert overlap([other], [one.question]).masked == (other.id,)
        assert not overlap([other], [one.question]).exact
        assert replace(other, id=one.id, question="", solution="", gold="") == replace(
            one, question="", solution="", gold=""
        )


def test_data_stats_prints_and_stores_the_overlap(tmp_path, capsys):
    rows = [
        json.dumps({"question": f"Number {i}: how many pens are {i} pens and 2 pens?", "answer": f"#### {i}"})
        for i in range(60)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:50]))
    (tmp_path / "test.jsonl").write_text("\n".join(rows[50:]))
    also = tmp_path / "more.jsonl"
    also.write_text(rows[55] + "\n")
    words = ["data", "stats", f"data.path={tmp_path}", "data.dev_size=5", "--also", str(also)]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["contamination"]["overlap"]
    assert found[str(also)]["exact"] == ["test-5"] or len(found[str(also)]["exact"]) == 1
    assert len(found["train"]["masked"]) == 10 and found["train"]["exact"] == []
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "test questions also in" in out and "10 of 10, 100.0 %" in out
    also.write_text('{"problem": "?"}\n')
    assert main(words) == 2
    assert "line 1: no question" in capsys.readouterr().err
