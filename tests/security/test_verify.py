"""`reckon verify` names each file of a finished run, of its data and of its base model that is not what it
was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from reckoner.errors import InputError
from reckoner.runs.folder import Run
from reckoner.runs.integrity import check_finished, fault, manifest, run_files
from reckoner.runs.records import read_json


@pytest.fixture
def study(session, tmp_path, monkeypatch) -> Path:
    """A copy of the study with the data and base model it was made from, in which the tests break things."""
    for name in ("base", "data"):
        shutil.copytree(session.root / name, tmp_path / name)
    (tmp_path / "work").mkdir()
    shutil.copytree(session.folder / "s", tmp_path / "work" / "s")
    monkeypatch.chdir(tmp_path / "work")
    return Path("s")


@pytest.fixture
def verify(reckon, study, tmp_path, monkeypatch):
    def run(*arguments: object):
        monkeypatch.chdir(tmp_path / "work")
        return reckon("verify", *arguments)

    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_untouched_study_is_as_it_was(verify, study):
    found = verify(study, "--json")
    assert found.code == 0 and found.err == ""
    runs = json.loads(found.out)
    assert [Path(one["run"]).name for one in runs] == ["zero", "full", "lora", "ppo", "grpo"]
    assert all(one["faults"] == [] for one in runs)
    full = runs[1]
    assert (
        full["files"]["predictions"] == 4
        and full["files"]["grades"] == 2
        and full["files"]["checkpoints"] >= 1
        and full["files"]["model"] >= 4
    )
    assert len(full["manifest"]) == 64 and full["unchecked"] == []
    assert "as it was" in verify(study).out


CLASSES = [
    "config.yaml",
    "environment.json",
    "inputs.json",
    "data.json",
    "prompt.json",
    "metrics.jsonl",
    "summary.json",
    "model/model.safetensors",
    "model/config.json",
    "model/tokenizer.json",
    "checkpoints/*/policy.safetensors",
    "checkpoints/*/policy-optimizer.safetensors",
    "checkpoints/*/state.json",
    "checkpoints/*/MANIFEST.json",
    "problems/test.jsonl",
    "predictions/test-*.jsonl",
    "predictions/test-*.json",
    "grades/test-*.jsonl",
    "problems/dev.jsonl",
]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("change", ["one bit", "cut", "gone"])
def test_each_class_of_file_is_watched(verify, study, name, change):
    path = sorted((study / "full").glob(name))[-1]
    if change == "one bit":
        flip(path)
    elif change == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    found = verify(study / "full")
    if (name, change) == ("summary.json", "gone"):
        assert "has not finished. Give the command that began it again" in found.err
    else:
        shown = str(path) if "checkpoints" not in name else str(path.parent)
        assert shown in found.err
    assert (
        found.code == 2
        and "Traceback" not in found.err
        and all(line.startswith("reckon: ") for line in found.err.splitlines())
    )


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("data/train.jsonl", "data file"),
        ("data/test.jsonl", "data file"),
        ("base/model.safetensors", "base model"),
        ("base/tokenizer.json", "tokenizer"),
    ],
)
def test_what_the_run_was_made_from_is_watched(verify, study, tmp_path, part, said):
    path = tmp_path / part
    if part.endswith("jsonl"):
        path.write_text(path.read_text().replace("####  ", "#### ").replace("question", "question", 1) + "\n")
    elif part.endswith("tokenizer.json"):
        path.write_text(path.read_text() + " ")
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    found = verify(study / "full")
    assert found.code == 2 and said in found.err and "is not what it was trained with" in found.err


def test_what_is_not_here_is_said_to_be_unchecked(verify, study, tmp_path):
    shutil.rmtree(tmp_path / "data")
    found = verify(study / "full")
    assert found.code == 0 and "not checked: data: ../data/train.jsonl: no such file or folder" in found.out


@pytest.mark.parametrize(
    "name",
    ["model/modeling_x.py", "model/pytorch_model.bin", "predictions/other.jsonl", "new.json", "deep/er/file"],
)
def test_a_file_that_was_not_there_is_named(verify, study, name):
    path = study / "full" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    found = verify(study / "full")
    assert found.code == 2 and f"{path}: was not there when the run finished" in found.err


@pytest.mark.parametrize(
    "entries",
    [
        "[]",
        "{",
        '{"a": 1}',
        '{"../../data/train.jsonl": {}}',
        '{"/etc/passwd": {"size": 1, "sha256": "x"}}',
        "[" * 100_000,
    ],
)
def test_a_hostile_manifest(verify, study, entries):
    (study / "full" / "MANIFEST.json").write_text(entries)
    found = verify(study / "full")
    assert found.code == 2 and found.err.startswith("reckon: ") and "Traceback" not in found.err


def test_what_cannot_be_verified(verify, study):
    (study / "full" / "MANIFEST.json").unlink()
    assert "has no MANIFEST.json" in verify(study / "full").err
    assert "no finished run here" in verify("nowhere").err


def test_an_evaluation_added_later_keeps_the_hashes_of_before(reckon, verify, study, tmp_path, monkeypatch):
    before = read_json(study / "full" / "MANIFEST.json")
    flip(study / "full" / "metrics.jsonl")
    monkeypatch.chdir(tmp_path / "work")
    assert (
        reckon("eval", study / "full", "eval.split=dev", "eval.temperature=1", "eval.num_samples=2").code == 0
    )
    after = read_json(study / "full" / "MANIFEST.json")
    assert {name for name in after if after[name] != before.get(name)} <= {
        "summary.json",
        "prompt.json",
        *(name for name in after if "-t1-n2" in name),
    }
    assert after.keys() > before.keys()
    found = verify(study / "full")
    assert found.err.count("\n") == 1 and "metrics.jsonl: has changed" in found.err


def test_a_run_is_never_finished_without_its_hashes(tiny_settings, tmp_path, monkeypatch):
    order = []
    with Run.open(tiny_settings(tmp_path / "r")) as run:
        for module in ("folder", "records"):
            monkeypatch.setattr(
                f"reckoner.runs.{module}.write_text", lambda path, text: order.append(path.name)
            )
        run.conclude({"status": "finished"})
    assert order == ["MANIFEST.json", "summary.json"]


def test_run_files_leave_out_what_is_hidden_and_see_checkpoints_by_their_manifest(tmp_path):
    for name in (
        ".lock",
        "MANIFEST.json",
        "a.json",
        "model/b",
        "checkpoints/step-000001/MANIFEST.json",
        "checkpoints/step-000001/w",
        "checkpoints/step-000002/w",
        ".tmp/x",
        "x/MANIFEST.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert run_files(tmp_path) == [
        "a.json",
        "checkpoints/step-000001/MANIFEST.json",
        "checkpoints/step-000002/w",
        "model/b",
        "x/MANIFEST.json",
    ]


def test_the_fault_of_a_folder(tmp_path):
    (tmp_path / "a").write_text("hello")
    assert manifest(tmp_path) == {
        "a": {"size": 5, "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}
    }
    assert fault(tmp_path) == f"{tmp_path / 'MANIFEST.json'}: cannot be read (No such file or directory)"
    (tmp_path / "MANIFEST.json").write_text(json.dumps(manifest(tmp_path)))
    assert fault(tmp_path) == ""
    (tmp_path / "a").write_text("hullo")
    assert fault(tmp_path) == "a has changed"
    (tmp_path / "b").write_text("")
    assert fault(tmp_path) == "its files are not those of its manifest"


def test_what_a_finished_run_holds_is_checked_before_it_is_used(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("model/w", "other", "summary.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "MANIFEST.json").write_text(json.dumps(manifest(tmp_path, ["model/w", "other"])))
    check_finished(tmp_path, "model", "other")
    (tmp_path / "other").write_text("changed")
    check_finished(tmp_path, "model")
    with pytest.raises(InputError, match="other: has changed since the run finished. Put it back as it was"):
        check_finished(tmp_path, "model", "other")
    (tmp_path / "model" / "extra").write_text("")
    with pytest.raises(InputError, match="model/extra: was not there when the run finished"):
        check_finished(tmp_path, "model")
    (tmp_path / "summary.json").unlink()
    with pytest.raises(InputError, match="no finished run here"):
        check_finished(tmp_path, "model")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(InputError, match="has not finished. Give the command that began it again"):
        check_finished(tmp_path, "model")


@pytest.mark.parametrize("verb", ["eval", "predict", "chat", "sft", "grpo"])
def test_a_run_that_is_not_as_it_finished_is_not_used(refused, tmp_path, verb):
    """An emptied config.yaml would score other problems, and a run that --extend began again would become a
    prompt's."""
    run = tmp_path / "r"
    (run / "model").mkdir(parents=True)
    for name in ("model/w", "config.yaml", "summary.json"):
        (run / name).write_text("preset: nano\n")
    (run / "MANIFEST.json").write_text(json.dumps(manifest(run, ["model/w", "config.yaml"])))
    (run / "config.yaml").write_text("")
    (tmp_path / "q").write_text('{"question": "a"}\n')
    words = {"predict": [run, "--input", "q"], "sft": ["--init", run], "grpo": ["--init", run]}.get(
        verb, [run]
    )
    refused(verb, *words, says="r/config.yaml: has changed since the run finished")
    (run / "summary.json").unlink()
    refused(verb, *words, says="r: has not finished. Give the command that began it again")


EVAL = ("eval.temperature=1", "eval.num_samples=2")


def forge(path: Path) -> None:
    """One more right answer in the first evaluation of a summary."""
    summary = read_json(path)
    summary["evaluations"][0]["strict"] += 1
    path.write_text(json.dumps(summary))


@pytest.mark.parametrize(
    "verb", [("eval", *EVAL), ("card",), ("errors",), ("noise",)], ids=lambda verb: verb[0]
)
def test_a_forged_summary_is_used_by_no_verb_and_never_gets_a_hash(verify, reckon, study, monkeypatch, verb):
    run, (name, *more) = study / "full", verb
    monkeypatch.chdir(study.absolute().parent)
    before = (run / "MANIFEST.json").read_bytes()
    forge(run / "summary.json")
    forged = (run / "summary.json").read_bytes()
    found = reckon(name, run, *more)
    assert found.code == 2 and f"{run}/summary.json: has changed since the run finished" in found.err
    assert ((run / "MANIFEST.json").read_bytes(), (run / "summary.json").read_bytes()) == (before, forged)
    assert f"{run}/summary.json: has changed" in verify(run).err


@pytest.mark.parametrize("name", ["prompt.json", "environment.json", "config.yaml", "data.json"])
def test_a_card_shows_no_file_that_has_changed(verify, reckon, study, name):
    (study / "full" / name).write_text("\n" + (study / "full" / name).read_text())
    found = reckon("card", study / "full")
    assert found.code == 2 and f"{study}/full/{name}: has changed since the run finished" in found.err


@pytest.mark.parametrize("verb", ["eval", "card", "verify"])
def test_a_run_whose_manifest_was_deleted_is_not_used(verify, reckon, study, verb):
    (study / "zero" / "MANIFEST.json").unlink()
    found = reckon(verb, study / "zero")
    assert found.code == 2 and f"{study}/zero: has no MANIFEST.json" in found.err
    assert not (study / "zero" / "MANIFEST.json").exists()


def test_a_changed_note_of_predictions_is_told_before_they_are_scored_again(verify, reckon, study):
    (note,) = (study / "full" / "predictions").glob("test-*.json")
    note.write_text(note.read_text().replace('"seconds": ', '"seconds": 1', 1))
    found = reckon("eval", study / "full", "eval.split=test")
    assert found.code == 2 and f"{note}: has changed since the run finished" in found.err


def test_a_kill_between_the_hashes_and_the_summary_costs_one_evaluation(tmp_path, monkeypatch, tiny_settings):
    first, second = ({"status": "finished", "seed": seed, "evaluations": []} for seed in (1, 2))
    with Run.open(tiny_settings(tmp_path / "r")) as run:
        run.conclude(first)
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr("reckoner.runs.folder.write_text", kill)
            run.conclude(second)
        assert run.summary == first
        run.conclude(second)
        assert run.summary == second
        check_finished(run.folder)
        (run.folder / "summary.json").write_text(json.dumps({**second, "seed": 3}))
        with pytest.raises(InputError, match="summary.json: has changed since the run finished"):
            run.conclude(second)


def kill(*_: object) -> None:
    raise KeyboardInterrupt


def test_verify_says_what_it_compares(verify, study):
    said = verify(study / "full").out
    assert "each file of the run by size and sha256, and the data files, tokenizer and base model" in said
