"""Every verb with the input of a clumsy or hostile user: one clear line and code 2, never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from .conftest import write_run, write_study

LINE = {"id": "1", "completion": "#### 1", "gold": "1"}
FILES = {
    "empty": b"",
    "blank": b"\n\n",
    "binary": b"PK\x03\x04\x00\xff\xfe\x00",
    "utf16": '{"id": "1"}\n'.encode("utf-16"),
    "latin1": '{"id": "é"}\n'.encode("latin-1"),
    "array": b'[{"id": "1"}]\n',
    "number": b"3\n",
    "text": b"hello\n",
    "cut": b'{"id": "1", "comple',
    "deep": b"[" * 200_000,
    "bom": b"\xef\xbb\xbf{}\n",
    "nul": b"\0\0\0\n",
    "huge integer": b'{"id": ' + b"9" * 5_000 + b"}\n",
    "no fields": b"{}\n",
    "long line": b"x" * 3_000_000,
    "surrogate": b'{"\\ud800": 1}\n',
    "nan": b'{"id": NaN, "completion": "x", "gold": "1"}\n',
    "id a list": b'{"id": ["x"], "completion": "x", "gold": "1"}\n',
    "text a number": b'{"id": "1", "completion": 5, "gold": "1"}\n',
    "gold a list": b'{"id": "1", "completion": "x", "gold": [1]}\n',
    "gold no number": b'{"id": "1", "completion": "x", "gold": "abc"}\n',
    "sample infinite": b'{"id": "1", "strict": true, "sample": 1e999}\n',
    "grade no boolean": b'{"id": "1", "strict": "yes"}\n',
    "grade null": b'{"id": "1", "strict": null}\n',
}
READERS = {
    "grade": ["grade", "{}"],
    "grade gold": ["grade", "ok", "--gold", "{}"],
    "compare": ["compare", "ok", "{}"],
    "compare gold": ["compare", "bare", "--gold", "{}"],
    "errors": ["errors", "{}"],
    "errors of two": ["errors", "ok", "{}"],
    "data": ["data", "stats", "data.path={}"],
    "test data": ["data", "stats", "data.path=ok", "data.test_path={}"],
    "settings": ["sft", "--dry-run", "--config", "{}"],
    "predict": ["predict", "{}", "--input", "ok"],
    "eval": ["eval", "{}"],
    "report": ["report", "{}"],
    "verify": ["verify", "{}"],
    "rollouts": ["rollouts", "{}"],
    "merge": ["merge", "{}", "out"],
    "chat": ["chat", "{}"],
    "sft from": ["sft", "model.model_name_or_path={}", "run.output_dir=r"],
    "ppo from": ["ppo", "--init", "{}", "run.output_dir=r"],
    "grpo from": ["grpo", "--init", "{}", "run.output_dir=r"],
    "study of": ["study", "--preset", "smoke", "model.model_name_or_path={}", "run.output_dir=s"],
}
PASSES = {("grade", "id a list"), ("grade gold", "text a number"), ("compare gold", "text a number")}
PASSES |= {
    ("settings", name)
    for name, content in FILES.items()
    if name in ("empty", "blank", "bom", "no fields") or b"," in content
}
"""What a verb does not look at, files without settings, and lines with several unknown settings, each of
which gets its line."""
HEAVY = {"predict", "eval", "rollouts", "merge", "chat", "sft from", "ppo from", "grpo from", "study of"}
"""Verbs that look at a folder: what is in a file does not matter to them, so they get few."""


def cases():
    for verb in READERS:
        for name in ["missing", "folder", "long name", *FILES]:
            if (verb, name) not in PASSES and (
                verb not in HEAVY or name in ("missing", "folder", "long name", "binary")
            ):
                yield pytest.param(verb, name, id=f"{verb}-{name}")


@pytest.mark.parametrize(("verb", "name"), list(cases()))
def test_a_file_that_cannot_be_used(refused, tmp_path, verb, name):
    (tmp_path / "ok").write_text(json.dumps(LINE) + "\n")
    (tmp_path / "bare").write_text(json.dumps({"id": "1", "completion": "x"}) + "\n")
    target = {"missing": "nowhere", "folder": "folder", "long name": "n" * 300}.get(name, "input")
    if name == "folder":
        (tmp_path / "folder").mkdir()
    elif name in FILES:
        (tmp_path / "input").write_bytes(FILES[name])
    before = sorted(path.name for path in tmp_path.rglob("*"))
    words = (word.replace("{}", target) for word in READERS[verb])
    refused(*words, lines=4 if "data" in verb else 1)  # two fields of each file of problems
    after = sorted(
        path.name for path in tmp_path.rglob("*") if path.name not in ("s", "study.json", ".lock", "runs")
    )
    assert [name for name in after if name not in before] == [], (
        "a command that was refused leaves nothing behind"
    )


RECORDS = {
    "grade": [
        {"strict": "yes"},
        {"strict": None},
        {"strict": 1},
        {"verdict": "zzz"},
        {"problem_id": 5},
        {"problem_id": ["a"]},
        {"zzz": 1},
        {"sample": "x"},
        {"sample": True},
        {"markers": 1.5},
        {"strict_value": 7},
    ],
    "completion": [
        {"text": 5},
        {"text": None},
        {"finish": "zzz"},
        {"logprob": "x"},
        {"token_count": "x"},
        {"sample": {}},
        {"problem_id": None},
    ],
    "problem": [
        {"gold": 5},
        {"question": 5},
        {"solution": None},
        {"steps": "x"},
        {"category": 5},
        {"unseen": "x"},
        {"id": 5},
        {"template": []},
    ],
    "evaluation": [
        {"n": "x"},
        {"n": float("inf")},
        {"split": 5},
        {"predictions": 5},
        {"seconds": None, "decoding": 3},
        {"strict": []},
    ],
}
SUMMARIES = [
    {"name": 3},
    {"name": ["x"]},
    {"seed": "x"},
    {"grader": 5},
    {"training": [1]},
    {"training": {}},
    {"evaluations": None},
    {"evaluations": {}},
    {"evaluations": ["x"]},
    {"evaluations": []},
    {"variant": 1},
]


@pytest.mark.parametrize("verb", ["compare", "errors"])
@pytest.mark.parametrize(
    ("kind", "fields"), [(kind, fields) for kind, several in RECORDS.items() for fields in several], ids=str
)
def test_a_record_of_the_wrong_kind(refused, tmp_path, kind, fields, verb):
    write_run(tmp_path / "r", **{kind: fields})
    refused(verb, "r", says="r/")


@pytest.mark.parametrize("fields", SUMMARIES, ids=str)
def test_a_summary_of_the_wrong_kind(refused, tmp_path, fields):
    write_run(tmp_path / "r", summary=fields)
    refused("errors", "r")


STUDIES = [
    {"arms": None},
    {"arms": [1]},
    {"arms": {}},
    {"name": 5},
    {"seed": "x"},
    {"pairs": 3},
    {"pairs": [["one"]]},
    {"pairs": [["one", "zzz"]]},
    {"command": 5},
    {"model": None},
]
ARMS = [
    {"title": 5},
    {"after": 5},
    {"reason": 5},
    {"state": 5},
    {"method": None},
    {"folder": 5},
    {"folder": "nowhere"},
    {"name": None},
    {"name": "two"},
]


@pytest.mark.parametrize("fields", STUDIES, ids=str)
def test_a_study_of_the_wrong_kind(refused, tmp_path, fields):
    write_study(tmp_path / "s", ["x"], **fields)
    refused("report", "s", says="study.json")


@pytest.mark.parametrize("fields", ARMS, ids=str)
def test_an_arm_of_the_wrong_kind(refused, tmp_path, fields):
    write_study(tmp_path / "s", ["x"])
    document = json.loads((tmp_path / "s" / "study.json").read_text())
    document["arms"][0] |= fields
    (tmp_path / "s" / "study.json").write_text(json.dumps(document))
    refused("report", "s")


COUNTS = [
    "31/0",
    "0/0",
    "5/3",
    "x",
    "",
    "31",
    "nan/3",
    "1e400/3",
    "101%/5",
    "31,5/100",
    "1/9" + "9" * 30,
    "9" * 5_000 + "/1",
    "--counts/2",
    "½/2",
]


@pytest.mark.parametrize("count", COUNTS, ids=[text[:20] for text in COUNTS])
def test_a_count_that_is_none(refused, count):
    refused("compare", "--counts", count, "1/2")


@pytest.mark.parametrize(
    "arguments",
    [
        ["grade", "ok", "--grader", "zzz"],
        ["grade", "ok", "--completion-field", "zzz"],
        ["grade", "ok", "--output", "no/where"],
        ["grade", "ok", "--output", "folder"],
        ["grade", "ok", "--output", "-", "--json"],
        ["compare"],
        ["compare", "ok", "ok"],
        ["compare", "r", "--split", "zzz"],
        ["compare", "r", "ok", "--pair", "x"],
        ["compare", "r", "ok", "--pair", "a:b"],
        ["compare", "r", "ok", "--baseline", "zzz"],
        ["errors", "r", "--limit", "-1"],
        ["errors", "r", "--limit", "x"],
        ["errors", "r", "--html", "no/where.html"],
        ["data", "make", "--n", "0"],
        ["data", "make", "--n", "x"],
        ["data", "make", "--n", "1", "--seed", "1.5"],
        ["data", "make", "--n", "1", "--category", "zzz"],
        ["data", "make", "--n", "1", "--output", "folder"],
        ["rollouts", "r"],
        ["rollouts", "r", "--step", "-1"],
        ["plan", "model.model_name_or_path=nowhere/at/all"],
        ["plan", "--rate", "-1"],
        ["verify", "ok"],
        ["zzz"],
        ["grade"],
        ["report"],
        ["--zzz"],
        ["grade", "ok", "--zzz"],
    ],
    ids=" ".join,
)
def test_options_that_cannot_be(refused, tmp_path, arguments):
    (tmp_path / "ok").write_text(json.dumps(LINE) + "\n")
    (tmp_path / "folder").mkdir()
    write_run(tmp_path / "r")
    refused(*arguments)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "ok").write_text(json.dumps(LINE) + "\n")
    (tmp_path / "closed").mkdir(mode=0o500)
    refused("grade", "ok", "--output", "closed/x", says="cannot be written")
    refused("sft", "run.output_dir=closed/r", says="cannot be used as output folder")


def test_a_name_in_any_script_is_fine(reckon, tmp_path):
    (tmp_path / "数学 é\u202e.jsonl").write_text(json.dumps(LINE) + "\n")
    found = reckon("grade", "数学 é\u202e.jsonl")
    assert found.code == 0 and "\u202e" not in found.out
    assert "\u202e" not in reckon("compare", "数学 é\u202e.jsonl").out


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["data", "make", "--n", "200000"], ["grade", "many.jsonl", "--output", "-"]],
    ids=" ".join,
)
def test_a_reader_that_goes_away(tmp_path, arguments):
    (tmp_path / "many.jsonl").write_text((json.dumps(LINE) + "\n") * 5_000)
    with subprocess.Popen(
        [sys.executable, "-m", "reckoner", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as running:
        running.stdout.readline()
        running.stdout.close()
        assert b"Traceback" not in running.stderr.read()
    assert running.returncode in (0, 128 + signal.SIGPIPE)
