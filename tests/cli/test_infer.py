"""The verbs that use a model, through the command line's own entry, on a model small enough to wait for."""

import io
import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from reckoner.cli import main

SMALL = [
    "data.dev_size=8",
    "data.max_train_samples=24",
    "data.max_test_samples=6",
    "prompt.chat_template=off",
    "run.threads=1",
]


@pytest.fixture
def questions(tmp_path) -> Path:
    rows = [
        {"id": i, "question": f"Ann has {i} pens and buys 3. How many has she? \u2028 <script>"}
        for i in range(5)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def predict(model: Path, source: Path, output: Path, *more: str) -> int:
    sets = ("eval.max_new_tokens=12", "run.threads=1")
    return main(["predict", str(model), "--input", str(source), "--output", str(output), *sets, *more])


def test_predict_keeps_order_and_fields(tiny_model, questions, tmp_path):
    assert predict(tiny_model, questions, tmp_path / "out.jsonl", "--output-field", "answer") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(5)) and all(
        row["question"].endswith("<script>") for row in rows
    )
    assert all(
        isinstance(row["answer"], str) and 1 <= row["tokens"] <= 12 and row["finish"] in ("stop", "length")
        for row in rows
    )


@pytest.mark.parametrize(
    "text, message",
    [
        (
            '{"question": "a"}\n{"question": 3}\n',
            "line 2: no text field 'question' (fields: question). Name it with --question-field",
        ),
        ('{"q": "a"}\n', "line 1: no text field 'question' (fields: q)"),
        ('{"question": "a"}\n{broken\n', "line 2: not JSON"),
        ('{"question": "a \\ud800"}\n', "line 1: cannot be written as it was read"),
        ('{"question": "a", "score": NaN}\n', "line 1: cannot be written as it was read"),
    ],
)
def test_predict_names_a_bad_line(tiny_model, tmp_path, capsys, text, message):
    (tmp_path / "q.jsonl").write_text(text)
    assert predict(tiny_model, tmp_path / "q.jsonl", tmp_path / "out.jsonl") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("reckon: ") and message in said


def test_a_killed_predict_goes_on_where_it_stood(tiny_model, questions, tmp_path, capsys):
    """Pieces of four: the second is cut short, and the first is not generated again."""
    whole, cut, part = (tmp_path / name for name in ("whole", "cut", ".cut.part"))
    batch = ("eval.batch_size=1",)
    assert predict(tiny_model, questions, whole, *batch) == 0
    rows = questions.read_text().splitlines(keepends=True)
    questions.write_text("".join(rows[:4]) + "{broken\n")
    assert predict(tiny_model, questions, cut, *batch) == 2 and not cut.exists()
    assert part.read_text() == "".join(whole.read_text().splitlines(keepends=True)[:4])
    written = part.stat().st_mtime_ns
    with open(part, "a") as file:
        file.write('{"id": "torn')
    questions.write_text("".join(rows))
    assert predict(tiny_model, questions, cut, *batch, "eval.temperature=1") == 2
    assert "was made with sampling.temperature=0.0" in capsys.readouterr().err
    forged = part.read_text().replace('"finish": "', '"finish": "x', 1)
    kept = part.read_text()
    part.write_text(forged)
    assert predict(tiny_model, questions, cut, *batch) == 2
    assert "has changed since it was written" in capsys.readouterr().err
    part.write_text(kept)
    assert written and predict(tiny_model, questions, cut, *batch) == 0
    assert cut.read_text() == whole.read_text() and not list(tmp_path.glob(".cut*"))


def test_predict_goes_on_with_the_same_questions_only(tiny_model, questions, tmp_path, capsys):
    batch = ("eval.batch_size=1",)
    rows = questions.read_text().splitlines(keepends=True)
    questions.write_text("".join(rows[:4]) + "{broken\n")
    assert predict(tiny_model, questions, tmp_path / "out", *batch) == 2
    questions.write_text("".join(reversed(rows)))
    assert predict(tiny_model, questions, tmp_path / "out", *batch) == 2
    assert ".out.part: answers other questions than" in capsys.readouterr().err


@pytest.mark.parametrize("planted", [".out.jsonl.part", ".out.jsonl.json"])
def test_predict_writes_through_no_planted_link(tiny_model, questions, tmp_path, capsys, planted):
    victim, link = tmp_path / "victim", tmp_path / planted
    for content in (None, "{}"):
        if content:
            victim.write_text(content)
        link.unlink(missing_ok=True)
        link.symlink_to(victim)
        assert predict(tiny_model, questions, tmp_path / "out.jsonl") == 2
        assert f"{link} is a link to '{victim}'" in capsys.readouterr().err
        assert victim.exists() == bool(content) and (not content or victim.read_text() == content)
    assert not (tmp_path / "out.jsonl").exists()


def test_merge_writes_through_no_planted_link(tiny_model, tmp_path, capsys):
    (tmp_path / "victim").mkdir()
    (tmp_path / ".tmp-out").symlink_to(tmp_path / "victim")
    assert main(["merge", str(tiny_model), str(tmp_path / "out")]) == 2
    assert f"{tmp_path}/.tmp-out is a link to" in capsys.readouterr().err
    assert not list((tmp_path / "victim").iterdir())


def test_predict_never_overwrites(tiny_model, questions, capsys):
    assert predict(tiny_model, questions, questions) == 2
    assert "exists already" in capsys.readouterr().err


def test_chat_answers_each_line(tiny_model, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("How many?\n\n"))
    assert main(["chat", str(tiny_model), "eval.max_new_tokens=5", "run.threads=1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 1


def test_eval_writes_beside_a_run_and_prints_intervals(tiny_config, tmp_path, capsys):
    folder = tmp_path / "sft"
    model = tiny_config.model.model_name_or_path
    settings = [f"model.model_name_or_path={model}", "peft.method=lora", "train.learning_rate=1e-3", *SMALL]
    assert main(["sft", "--preset", "nano", *settings, f"run.output_dir={folder}"]) == 0
    capsys.readouterr()
    assert main(["eval", str(folder), "--json", "run.threads=1"]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert (entry["split"], entry["n"], entry["prompt"]) == ("dev", 8, "0shot")
    assert main(["eval", str(folder), "eval.split=test", "run.threads=1"]) == 0
    assert "/6" in capsys.readouterr().out
    splits = [e["split"] for e in json.loads((folder / "summary.json").read_text())["evaluations"]]
    assert splits == ["dev", "test"]
    capsys.readouterr()
    assert main(["eval", str(folder), f"run.output_dir={tmp_path / 'other'}"]) == 2
    assert "lies in its own folder. Leave it out" in capsys.readouterr().err
    assert main(["merge", str(folder), str(tmp_path / "merged")]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_eval_of_something_that_is_no_model(tmp_path, capsys):
    assert main(["eval", str(tmp_path / "nothing")]) == 2
    assert "no such model folder" in capsys.readouterr().err


def test_a_model_folder_without_tokenizer(tiny_model, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_model / name).read_bytes())
    assert main(["eval", str(bare), *SMALL]) == 2
    assert "has no tokenizer" in capsys.readouterr().err


def test_plan_of_the_original_study_counts_its_adapter(capsys):
    assert main(["plan", "--preset", "gemma-2b", "peft.method=lora", "--json"]) == 0
    planned = {arm["name"]: arm for arm in json.loads(capsys.readouterr().out)}
    assert (planned["lora-main"]["parameters"], planned["lora-main"]["trainable"]) == (
        2_506_172_416,
        19_611_648,
    )


def test_doctor_tells_versions_and_no_places(capsys):
    assert main(["doctor", "--json"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text)
    assert found["versions"]["torch"] and "nano" in found["presets"] and found["embedded_model"] == "verified"
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
