"""`reckon compare` and `reckon mistakes` as they are typed, and text that wants to do harm on its way to
the terminal.
"""

import base64
import json
import re
import shlex
import subprocess
import sys
import zlib

import pytest

from reckoner.cli import main


@pytest.fixture
def theirs(tmp_path):
    """Two files of completions of another tool, four problems, and a file of the problems."""
    problems = [
        {
            "id": f"q{i}",
            "question": f"What is {i} + 2?",
            "solution": f"{i}+2=<<{i}+2={i + 2}>>{i + 2}\n#### {i + 2}",
        }
        for i in range(4)
    ]
    right = [{"id": p["id"], "completion": p["solution"]} for p in problems]
    wrong = [{"id": f"q{i}", "completion": f"{i} + 2 = {i + 3}\n#### {i + 3}"} for i in range(4)]
    files = {"gold": problems, "a": [*right[:3], wrong[3]], "b": [right[0], *wrong[1:]], "short": right[:2]}
    for name, lines in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_compare_prints_tables_and_words(theirs, capsys):
    code, out, _ = run(
        capsys, "compare", theirs / "a.jsonl", theirs / "b.jsonl", "--gold", theirs / "gold.jsonl"
    )
    assert code == 0
    rows = [line.split("  ") for line in out.splitlines()]
    assert any({"a", "3/4", "75.0 %", "30.1-95.4"} <= {cell.strip() for cell in row} for row in rows)
    assert "a and b cannot be told apart at this n: +50.0 points" in out


def test_compare_json_holds_every_figure(theirs, capsys):
    code, out, _ = run(
        capsys,
        "compare",
        theirs / "a.jsonl",
        theirs / "b.jsonl",
        "--gold",
        theirs / "gold.jsonl",
        "--pair",
        "b:a",
        "--json",
    )
    found = json.loads(out)
    assert code == 0 and found["n"] == 4 and found["grader"] == "reckoner-2"
    assert [arm["correct"] for arm in found["arms"]] == [3, 1]
    assert (
        found["pairs"][0]["a"] == "b"
        and found["pairs"][0]["difference"]["broken"] == 2
        and found["pairs"][0]["difference"]["p"] == 0.5
    )


def test_compare_counts(capsys):
    code, out, _ = run(capsys, "compare", "--counts", "31/100", "20/100", "ppo=28.0%/256", "--barnard")
    assert code == 0
    assert "22.8-40.6" in out and "Barnard p" in out and "0.078" in out
    assert "28.0 % of 256 is impossible" in out and "Unpaired" in out
    code, out, _ = run(capsys, "compare", "--counts", "31/100", "20/100", "--json")
    assert json.loads(out)["paired"] is False and json.loads(out)["claims"][0]["low"] == pytest.approx(
        0.2278, abs=1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "a.jsonl", "short.jsonl", "--gold", "gold.jsonl"], "--intersect"),
        (["compare", "a.jsonl", "b.jsonl"], "--gold FILE"),
        (["compare", "a.jsonl", "b.jsonl", "--gold", "gold.jsonl", "--pair", "a"], "write A:B"),
        (
            ["compare", "a.jsonl", "b.jsonl", "--gold", "gold.jsonl", "--baseline", "c"],
            "no input is called 'c'",
        ),
        (["compare", "absent.jsonl"], "cannot be read"),
        (["compare", "--counts", "31"], "is not a count"),
        (
            ["compare", "31/100", "ppo=28.0%/256"],
            "31/100 is no run or file but looks like a count, which no test can pair: "
            "say reckon compare --counts 31/100 ppo=28.0%/256",
        ),
        (
            ["compare", "31/100", "a.jsonl", "--gold", "gold.jsonl"],
            "say reckon compare --counts 31/100 a=3/4",
        ),
        (["compare", "5/5", "5/5", "x=1/2"], "say reckon compare --counts count-1=5/5 count-2=5/5 x=1/2"),
        (["compare", "a=5/5", "a=4/5"], "say reckon compare --counts count-1=5/5 count-2=4/5"),
        (["compare", "0/0", "1/1"], "'0/0': of no problems there is no accuracy. Leave it out"),
        (["compare", "1/1", "3/2"], "'3/2': 3 right of 2 is impossible"),
        (["errors", "absent.jsonl"], "cannot be read"),
        (["errors", "a.jsonl", "short.jsonl", "--gold", "gold.jsonl"], "same problems"),
    ],
)
def test_bad_input_is_one_line(theirs, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(theirs)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("reckon: ") and err.count("\n") == 1 and said in err


def test_errors_of_one_run(theirs, capsys):
    code, out, _ = run(capsys, "errors", theirs / "b.jsonl", "--gold", theirs / "gold.jsonl")
    assert code == 0
    assert "b: 3 of 4 completions are wrong. 3 hold a false calculation; 0 of these are right" in out
    assert "arithmetic slip      3" in out and "q1 · 1 + 2 = 4, right is 3" in out
    code, out, _ = run(capsys, "errors", theirs / "b.jsonl", "--gold", theirs / "gold.jsonl", "--json")
    assert json.loads(out)["kinds"][0]["kind"] == "arithmetic"


def test_errors_between_two_runs(theirs, capsys):
    code, out, _ = run(
        capsys,
        "errors",
        theirs / "b.jsonl",
        theirs / "a.jsonl",
        "--gold",
        theirs / "gold.jsonl",
        "--limit",
        1,
    )
    assert code == 0
    assert "a fixed 2 and broke 0 of 4 problems of b; both solve 1, neither 1" in out
    assert "they part at calculation 1: b 1 + 2 = 4 | a 1+2 = 3" in out and "1 more fixed" in out
    code, out, _ = run(
        capsys, "errors", theirs / "b.jsonl", theirs / "a.jsonl", "--gold", theirs / "gold.jsonl", "--json"
    )
    assert [change["problem_id"] for change in json.loads(out)["fixed"]] == ["q1", "q2"]


def test_what_was_fixed_needs_golds_alone(theirs, capsys):
    """The kinds of mistakes are read off the solutions, which most files of other tools do not hold."""
    golds = [{"id": f"q{i}", "gold": str(i + 2)} for i in range(4)]
    (theirs / "gold.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golds))
    words = [theirs / "b.jsonl", theirs / "a.jsonl", "--gold", theirs / "gold.jsonl"]
    code, out, _ = run(capsys, "mistakes", *words)
    assert code == 0 and "a fixed 2 and broke 0 of 4 problems of b" in out
    assert "fixed · q1 · gold 3\nthey part at" in out and "b: wrong   a: right\n" in out
    assert run(capsys, "mistakes", *words[:1], *words[2:])[0] == 2


def test_spans_are_compared_by_exact_match(tmp_path, capsys):
    for name, said in (("a", "Tom Brady"), ("b", "Brady and others")):
        line = {"id": "q", "kind": "span", "completion": f"#### {said}", "gold": "Tom Brady"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line))
    code, out, _ = run(capsys, "compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--json")
    assert code == 0 and [arm["correct"] for arm in json.loads(out)["arms"]] == [1, 0]


@pytest.mark.parametrize("solved", [True, False])
def test_a_report_of_files_of_other_tools(theirs, capsys, monkeypatch, solved):
    monkeypatch.chdir(theirs)
    if not solved:
        golds = [{"id": f"q{i}", "gold": str(i + 2)} for i in range(4)]
        (theirs / "gold.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golds))
    code, _, err = run(capsys, "report", "a.jsonl", "short.jsonl", "--gold", "gold.jsonl")
    assert code == 2 and "--intersect" in err and not (theirs / "report.html").exists()
    code, out, _ = run(capsys, "report", "a.jsonl", "b.jsonl", "--gold", "gold.jsonl")
    assert code == 0 and out.endswith("report: report.html\n")
    page = (theirs / "report.html").read_text()
    assert "<title>Comparison: a and b</title>" in page
    assert [title in page for title in ("<h2>Accuracy", "<h2>Samples", "<h2>Differences")] == [1, 0, 1]
    assert "a and b cannot be told apart at this n: +50.0 points" in page
    assert ("1 + 2 = 4, right is 3" in unpacked(page)) is solved


def unpacked(page):
    """The data that a page packs for its script, as JSON."""
    packed = re.search(r'<script type="text/plain" id="data">(.*?)</script>', page)[1]
    return zlib.decompress(base64.b64decode(packed)).decode()


HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07",
    "\x1b]8;;http://x\x1b\\",
    "\r overwritten",
    "\u202eevil",
    "\ud800",
    "\0",
    "[red]x[/red]",
    "\x9b31m",
    "9" * 5000,
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_reaches_the_terminal_inert(tmp_path, capsys, hostile):
    (tmp_path / "gold.jsonl").write_text(
        json.dumps({"id": f"q{hostile}", "question": f"What{hostile}?", "solution": f"{hostile}\n#### 5"})
        + "\n"
    )
    for name, answer in (("a", 4), ("b", 5)):
        text = f"{hostile} 1+1=2\nthen {hostile}\n#### {answer}"
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": f"q{hostile}", "completion": text}) + "\n")
    gold = ("--gold", tmp_path / "gold.jsonl")
    for arguments in (
        ["errors", tmp_path / "a.jsonl"],
        ["errors", tmp_path / "a.jsonl", tmp_path / "b.jsonl"],
        ["compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl"],
    ):
        code, out, err = run(capsys, *arguments, *gold)
        assert (code, err) == (0, "")
        assert not set("\x1b\x07\r\0\x9b\u202e\ud800") & set(out)
        code, out, _ = run(capsys, *arguments, *gold, "--json")
        assert code == 0 and json.loads(out) and out.isascii()


def test_compare_starts_without_what_it_does_not_need():
    code = (
        "import sys, reckoner.cli as c; c.main(['compare', '--counts', '31/100', '20/100']); "
        "print(sorted({'torch', 'matplotlib', 'scipy', 'transformers', 'rich', 'reckoner.analysis.canvas',"
        " 'reckoner.analysis.findings', 'reckoner.analysis.mistakes'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("counts", [["31/100"], ["31/100", "31/100"], ["a=3/4"], ["x=28.0%/256", "x=3/4"]])
def test_the_command_that_a_count_beside_a_run_suggests_works(theirs, capsys, counts):
    code, _, err = run(capsys, "compare", *counts, theirs / "a.jsonl", "--gold", theirs / "gold.jsonl")
    suggested = shlex.split(err.rpartition("say reckon ")[2])
    assert code == 2 and run(capsys, *suggested)[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "{}", "31/100"],
        ["compare", "a.jsonl", "{}", "--gold", "gold.jsonl"],
        ["mistakes", "{}"],
        ["mistakes", "a.jsonl", "{}", "--gold", "gold.jsonl"],
        ["passk", "{}", "{}"],
        ["card", "{}"],
        ["pack", "{}"],
        ["verify", "{}"],
    ],
)
def test_a_run_that_has_not_finished_is_one_line(theirs, capsys, monkeypatch, words):
    monkeypatch.chdir(theirs)
    (theirs / "sft").mkdir()
    said = "reckon: sft: no finished run here (it has no summary.json). Name a folder that a run wrote\n"
    words = [word.format("sft") for word in words]
    assert run(capsys, *words) == (2, "", said)
    (theirs / "sft" / "config.yaml").write_text("run: {seed: 0}\n")
    said = "reckon: sft: has not finished. Give the command that began it again, and then this one\n"
    assert run(capsys, *words) == (2, "", said)
