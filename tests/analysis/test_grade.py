"""`grade_file` and the verb `grade`: the same lines with verdicts, exact counts, and each fault named."""

from __future__ import annotations

import gc
import io
import json
import re
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from reckoner.analysis.grade import GradeCounts, disagreement_table, document, grade_file, rate_table
from reckoner.analysis.lines import Fields
from reckoner.cli import main
from reckoner.errors import InputError
from reckoner.runs.records import Completion, Problem, dumps, write_jsonl
from reckoner.tasks.answers.grading import grade
from reckoner.tasks.answers.other_graders import GRADERS

LINES = [
    {"completion": "3+4=7\n#### 7", "gold": "7", "note": "kept"},
    {"completion": "#### 8", "gold": 7},
    {"completion": "it is 7", "gold": "7"},
    {"completion": "#### 8", "gold": "7", "finish": "length"},
    {"completion": "#### 5\n#### 7</s>#### 9", "gold": "3+4=7\n#### 7"},
    {"completion": None, "gold": 7.0},
]
VERDICTS = ["correct", "wrong", "no_answer", "truncated", "correct", "no_answer"]


@pytest.fixture
def source(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", LINES)
    return tmp_path / "in.jsonl"


def read_back(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_lines_keep_their_order_and_fields_and_gain_verdicts(source, tmp_path):
    grade_file(source, tmp_path / "out.jsonl")
    graded = read_back(tmp_path / "out.jsonl")
    assert [line["verdict"] for line in graded] == VERDICTS
    assert [
        {name: line[name] for name in before} for line, before in zip(graded, LINES, strict=True)
    ] == LINES
    assert graded[4] | LINES[4] == LINES[4] | {
        "strict": True, "flexible": True, "strict_value": "7", "flexible_value": "7", "verdict": "correct",
        "markers": 2, "grader": "reckoner-2",
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_it_says_how_far_it_is_of_how_many_lines(tmp_path):
    path, said = tmp_path / "many.jsonl", []
    write_jsonl(path, LINES[:2] * 1250)
    grade_file(path, on_progress=lambda *now: said.append(now))
    assert said == [("grade", done, 2500, "") for done in (0, 1000, 2000)]
    path.rename(path.with_suffix(".json"))  # not a line a completion: how many there are is not known
    said.clear()
    grade_file(path.with_suffix(".json"), on_progress=lambda *now: said.append(now))
    assert {total for _, _, total, _ in said} == {0}


def test_counts(source):
    tally = grade_file(source)
    assert (tally.n, tally.strict, tally.flexible, tally.no_answer, tally.truncated) == (6, 2, 3, 2, 1)
    assert (tally.multi_marker, tally.disagreements, tally.cuts, tally.skipped) == (1, 1, 1, 0)


def test_a_graded_file_can_be_graded_again(source, tmp_path):
    grade_file(source, tmp_path / "once.jsonl")
    grade_file(tmp_path / "once.jsonl", tmp_path / "once.jsonl")
    grade_file(source, tmp_path / "twice.jsonl")
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "twice.jsonl").read_bytes()


def test_our_own_predictions(tmp_path):
    problem = Problem("test-0", "How many?", "#### 7", "7", "main", "nano")
    completions = [Completion("test-0", n, "9f", f"#### {n}", 3, "stop", -0.1, "run") for n in range(10)]
    write_jsonl(tmp_path / "predictions.jsonl", completions)
    tally = grade_file(tmp_path / "predictions.jsonl", tmp_path / "out.jsonl", problems={"test-0": problem})
    assert (tally.n, tally.strict) == (10, 1)
    for completion, line in zip(completions, read_back(tmp_path / "out.jsonl"), strict=True):
        assert json.loads(dumps(grade(completion, problem))).items() <= line.items()


def test_fields_by_other_names(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"output": "#### 7", "answer": "so\\n#### 7", "key": 5}\n')
    assert grade_file(path, fields=Fields(completion="output", gold="answer")).strict == 1
    assert (
        grade_file(
            path,
            fields=Fields(completion="output", id="key"),
            problems={"5": Problem("5", "", "", "8", "", "")},
        ).strict
        == 0
    )
    path.write_text('{"a": {"b": [{"out": "#### 7", "finish_reason": "length"}]}, "meta": {"gold": 8}}\n')
    assert grade_file(path, fields=Fields(completion="a.b.0.out", gold="meta.gold")).truncated == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"completion": "x"', "not JSON"),
        ("[]", "expected an object, found list"),
        (
            '{"gold": "7"}',
            "no field 'completion' or 'text' (fields: gold). Name it with --completion-field of reckon grade",
        ),
        ('{"text": "x"}', "no field 'gold' (fields: text). Name it with --gold-field of reckon grade"),
        ('{"text": 7, "gold": "7"}', "the completion is int, not text"),
        ('{"text": "x", "gold": null}', "gold is NoneType, not a number"),
        ('{"text": "x", "gold": true}', "gold is bool, not a number"),
        ('{"text": "x", "gold": "7", "gold": "8"}', "not JSON (a key stands twice in one object)"),
        ('{"text": "x", "gold": "many"}', "gold 'many' is not a number"),
        ('{"text": "x", "gold": "7", "p": NaN}', "holds a number that JSON cannot write"),
        ('{"text": "x", "gold": "7", "p": 1e999}', "holds a number that JSON cannot write"),
    ],
)
def test_a_broken_line_stops_with_its_number_or_is_counted(tmp_path, line, says):
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text(f'{{"text": "#### 7", "gold": "7"}}\n\n{line}\n{{"text": "#### 8", "gold": "8"}}\n')
    with pytest.raises(InputError) as error:
        grade_file(path, output)
    assert f"in.jsonl line 3: {says}" in str(error.value)
    assert list(tmp_path.iterdir()) == [path]
    tally = grade_file(path, output, skip_bad=True)
    assert (tally.n, tally.strict, tally.skipped) == (2, 2, 1)
    assert len(read_back(output)) == 2


def test_one_broken_line_among_very_many_is_named_and_nothing_is_written(tmp_path, capsys):
    lines = [dumps({"completion": f"#### {n}", "gold": n}) for n in range(4_000)]
    lines[3_210] = '{"completion": "#### 7", "gold": "7 or 8"}'
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    assert main(["grade", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "line 3211" in said and "7 or 8" in said and "line 3212" not in said
    assert not (tmp_path / "out.jsonl").exists()


def test_all_lines_that_cannot_be_graded_are_told_at_once(tmp_path, capsys):
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    golds = ["3 hours", "7", "2:30"]
    path.write_text("".join(f'{{"completion": "#### 7", "gold": "{gold}"}}\n' for gold in golds))
    assert main(["grade", str(path), "--output", str(output)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"reckon: {path} line 1: gold '3 hours' is not a number")
    assert second.startswith(f"reckon: {path} line 3: gold '2:30' is not a number")
    assert second.endswith(". Leave such lines out with --skip-bad") and not output.exists()
    path.write_text('{"completion": "#### 7", "gold": "x"}\n' * 25)
    assert main(["grade", str(path), "--output", "-"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "line 1: gold 'x' is" in err
    assert "; also line 2, line 3, " in err
    assert err.endswith(", line 20. Leave such lines out with --skip-bad; these are the first 20\n")


def test_files_that_cannot_be_used(tmp_path, source):
    with pytest.raises(InputError, match="nothing.jsonl: cannot be read"):
        grade_file(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match="cannot be written"):
        grade_file(source, tmp_path / "no" / "folder.jsonl")
    with pytest.raises(InputError, match="is a folder. Name a file"):
        grade_file(source, tmp_path)
    with pytest.raises(InputError, match="the gold file has no item 'test-1'"):
        (tmp_path / "one.jsonl").write_text('{"id": "test-1", "text": "x"}\n')
        grade_file(tmp_path / "one.jsonl", problems={})
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no line to grade"):
        grade_file(tmp_path / "empty.jsonl")
    with pytest.raises(InputError, match="no grader 'oficial'. Choose among official, "):
        grade_file(source, graders=("oficial",))


def test_a_device_is_written_to_and_never_replaced(source):
    assert grade_file(source, Path("/dev/null")).n == 6
    assert Path("/dev/null").is_char_device()


def test_other_graders_are_set_beside_ours(source, tmp_path):
    tally = grade_file(source, tmp_path / "out.jsonl", graders=tuple(GRADERS))
    assert [line["graders"]["official"] for line in read_back(tmp_path / "out.jsonl")] == [
        True,
        False,
        False,
        False,
        False,
        False,
    ]
    assert (
        tally.right("official"),
        tally.right("strict", "official"),
        tally.right("official", "strict"),
    ) == (1, 1, 0)
    assert tally.disagree("official", "flexible") == tally.disagree("flexible", "official") == 2
    headers, rows = disagreement_table(tally)
    assert headers == ["lines that differ", "strict", "flexible", *GRADERS]
    assert rows[0][:4] == ["strict", "", "1", "1"]
    headers, rows = rate_table(tally)
    assert rows[2] == ["official", "1/6", "16.7 %", "3.0-56.4", "0", "1"]


def test_document_holds_every_count_with_its_interval(source):
    found = document(grade_file(source))
    assert (found["grader"], found["n"], found["skipped"]) == ("reckoner-2", 6, 0)
    assert found["rates"]["strict"]["count"] == 2
    assert found["rates"]["strict"]["low"] == pytest.approx(0.09677, abs=1e-5)
    assert found["rates"]["strict"]["high"] == pytest.approx(0.70001, abs=1e-5)
    assert found["disagreements"] == [{"a": "strict", "b": "flexible", "only_a": 0, "only_b": 1}]
    assert json.loads(dumps(found)) == found


def test_an_empty_tally_counts_nothing():
    assert (GradeCounts().strict, GradeCounts().disagree("strict", "flexible")) == (0, 0)


REASONING = (
    "He buys 12 boxes of 8 pens, so he has 12*8 = <<12*8=96>>96 pens. He gives 3 pens to each of "
    "his 15 pupils, so 3*15 = <<3*15=45>>45 are gone. That leaves 96-45 = <<96-45=51>>51 pens. He "
    "then loses 6 and finds 4, so he ends up with 51-6+4 = <<51-6+4=49>>49 pens in all, which he "
    "keeps for himself.\n"
)


def write_many(path, n):
    with open(path, "w") as file:
        for number in range(n):
            file.write(
                dumps({"id": number, "completion": f"{REASONING}#### {number % 90}", "gold": "49"}) + "\n"
            )


def peak(path, output):
    tracemalloc.start()
    tally = grade_file(path, output)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return tally.n, most


def test_memory_does_not_grow_with_the_file(tmp_path):
    write_many(tmp_path / "small.jsonl", 100)
    write_many(tmp_path / "large.jsonl", 2_000)
    small, large = (
        peak(tmp_path / "small.jsonl", tmp_path / "a"),
        peak(tmp_path / "large.jsonl", tmp_path / "b"),
    )
    assert (small[0], large[0]) == (100, 2_000)
    assert large[1] < small[1] + 50_000


@pytest.mark.slow  # a tracer of lines makes it slower than what it is compared with
def test_eight_thousand_lines_cost_a_few_times_what_reading_them_does(tmp_path):
    """Processors differ fivefold, so the bound is work of this one; 2.2 to 4.3 times were measured."""
    assert len(REASONING) + 7 >= 300
    write_many(tmp_path / "in.jsonl", 8_000)
    reading, grading = [], []
    gc.disable()  # its walks depend on what other tests have left
    for _ in range(3):
        start = time.process_time()
        for line in (tmp_path / "in.jsonl").read_text().splitlines():
            re.findall(r"-?\d[\d,]*\.?\d*", json.dumps(json.loads(line)))
        read = time.process_time()
        grade_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
        reading.append(read - start)
        grading.append(time.process_time() - read)
    gc.enable()
    assert min(grading) < 5 * min(reading)


def test_the_verb_prints_rates_with_intervals(source, tmp_path, capsys):
    assert main(["grade", str(source), "--output", str(tmp_path / "out.jsonl"), "--grader", "all"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["strict", "2/6", "33.3", "%", "9.7-70.0"]
    assert printed[3].split() == ["official", "1/6", "16.7", "%", "3.0-56.4", "0", "1"]
    assert len(read_back(tmp_path / "out.jsonl")) == 6


def test_the_verb_finds_golds_by_id(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"id": "a", "completion": "#### 7"}\n')
    (tmp_path / "gold.jsonl").write_text('{"id": "a", "answer": "3+4\\n#### 7"}\n')
    assert main(["grade", str(tmp_path / "in.jsonl"), "--gold", str(tmp_path / "gold.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rates"]["strict"]["count"] == 1


def test_the_verb_reads_stdin_and_writes_stdout(source, capfdbinary, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    assert main(["grade", "-", "--output", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == VERDICTS
    assert b"2/6" in err


@pytest.mark.parametrize(
    ("options", "says", "lines"),
    [
        (["--json", "--output", "-"], "both write to stdout", 1),
        (["--grader", "x"], "no grader 'x'", 1),
        (["--completion-field", "c"], "line 1: no field 'c'", 3),  # lines of three sorts of fields
    ],
)
def test_the_verb_refuses_in_a_line_for_each_fault(source, capsys, options, says, lines):
    assert main(["grade", str(source), *options]) == 2
    assert says in (said := capsys.readouterr().err) and said.count("\n") == lines
