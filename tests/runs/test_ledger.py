"""The ledger of test: what is opened is counted, and a line that is gone leaves a gap that is told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reckoner.config import Config, PeftConfig
from reckoner.errors import InputError, Stopped
from reckoner.evaluation.evaluate import evaluate, evaluate_model
from reckoner.models.policy import load_policy
from reckoner.runs.folder import Run, silent
from reckoner.runs.ledger import Opening, new_seal, note_opening, read_ledger
from reckoner.verify import verify

TEST = "ab" * 32


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def opened(run: str = "run", weights: str = "w", seal=None):
    return note_opening(seal or new_seal(TEST), Path(run), "predictions/test.jsonl", weights, 12)


def test_openings_are_chained_and_counted_once_each():
    seal = new_seal(TEST)
    first = opened(seal=seal)
    assert [one.line for one in opened(seal=seal).openings] == [1]
    ledger = opened("other")
    assert [one.line for one in ledger.openings] == [1, 2] and ledger.faults == ()
    assert ledger.openings[0] == first.openings[0] and ledger.openings[0].before == ""
    assert ledger.earlier(ledger.openings[1].id) == (1, 1)
    assert ledger.by_run(Path("run"), "predictions/test.jsonl") == 1
    assert read_ledger(TEST) == ledger
    assert read_ledger("cd" * 32).openings == ()


@pytest.mark.parametrize("gone", [0, 1, 2, 3])
def test_a_deleted_line_is_told_and_the_count_goes_on(gone):
    for _ in range(4):
        path = opened().path
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for number, line in enumerate(lines) if number != gone))
    assert len(read_ledger(TEST).faults) == 1
    ledger = opened()
    assert ledger.openings[-1].line == 5 and len(ledger.faults) == 1


def test_every_change_of_a_line_is_told():
    for _ in range(3):
        path = opened().path
    kept = path.read_text()
    for old, new in (('"n": 12', '"n": 13'), ('"weights": "w"', '"weights": "v"'), ('{"line"', '{"lime"')):
        for at in (0, 1, 2):
            lines = kept.splitlines(keepends=True)
            lines[at] = lines[at].replace(old, new)
            path.write_text("".join(lines))
            assert read_ledger(TEST).faults, (old, at)
    path.write_text(kept)
    assert read_ledger(TEST).faults == ()
    path.unlink()
    assert "3 openings were noted" in read_ledger(TEST).faults[0]


@pytest.mark.parametrize(
    "head", [None, "{}", "[]", "junk", '{"line": "3", "sha256": ""}', '{"line": 1.5, "sha256": ""}']
)
def test_a_head_that_is_gone_or_no_head_is_told_for_good(head):
    """Beside two of three lines; the head that the next opening writes must not hide it."""
    for _ in range(3):
        path = opened().path
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    beside = path.with_suffix(".head.json")
    beside.unlink() if head is None else beside.write_text(head)
    (fault,) = read_ledger(TEST).faults
    assert fault.startswith(str(beside)) and "how many openings of test there were is not known" in fault
    (after,) = opened().faults
    assert after.startswith(f"{path} line 3: does not follow the line before it")


def test_a_kill_before_the_first_line_leaves_no_fault(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Opening, "__init__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            opened()
    assert read_ledger(TEST).faults == () == opened().faults


def test_a_cache_that_cannot_be_written_stops_before_test_is_opened(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(Stopped, match=r"test-ledger.*cannot be written"):
        opened()


@pytest.fixture
def config(tiny_config) -> Config:
    return replace(tiny_config, eval=replace(tiny_config.eval, split="test", max_new_tokens=4))


def test_neither_a_deleted_run_nor_its_predictions_lower_the_count(config):
    said: list[str] = []

    def listen(phase, done, total, note):
        if phase == "seal":
            said.append(note)

    def look(on_progress=silent):
        return evaluate_model(replace(config, run=replace(config.run)), on_progress)

    folder, entry = look()
    assert entry["reads"] == 1 and look()[1]["reads"] == 1 and said == []
    sizes = sum(one["size"] for one in json.loads((folder / "MANIFEST.json").read_text()).values())
    (run,) = verify(folder, lambda *now: said.append(now))
    assert run.faults == () and run.unchecked == ()
    assert said[-1] == (f"MB of {folder.name}", sizes // 10**6, sizes // 10**6, "")
    said.clear()
    for path in (folder / entry["predictions"], (folder / entry["predictions"]).with_suffix(".json")):
        path.unlink()
    (folder / "summary.json").unlink()
    assert look(listen)[1]["reads"] == 2
    shutil.rmtree(folder)
    assert look(listen)[1]["reads"] == 3
    assert said == [
        "these weights have opened test 1 time before, all models 1",
        "these weights have opened test 2 times before, all models 2",
    ]


def test_verify_names_a_ledger_that_lacks_an_opening_or_is_not_there(config):
    folder, entry = evaluate_model(config)
    seal = json.loads((folder / entry["predictions"]).with_suffix(".json").read_text())["seal"]
    ledger = read_ledger(seal["test"])
    assert [one.run for one in ledger.openings] == [str(folder.resolve())]
    ledger.path.write_text("")
    (run,) = verify(folder)
    assert len(run.faults) == 2
    assert "lacks the opening of" in run.faults[0] and "its last line was changed or deleted" in run.faults[1]
    shutil.rmtree(ledger.path.parent)
    (run,) = verify(folder)
    assert run.faults == () and "it was deleted, or the run was made elsewhere" in run.unchecked[0]


def test_verify_checks_the_openings_of_further_sets(config):
    with Run.open(config) as run:
        run.conclude({"status": "finished", "evaluations": []})
        policy = load_policy(config.model, PeftConfig(), train=False)
        entry = evaluate(run, policy, "test", limit=4, other=config, name="svamp")
    assert entry["predictions"].startswith("predictions/svamp-")
    (found,) = verify(run.folder)
    assert (found.faults, found.unchecked) == ((), ())
    seal = json.loads((run.folder / entry["predictions"]).with_suffix(".json").read_text())["seal"]
    read_ledger(seal["test"]).path.write_text("")
    (found,) = verify(run.folder)
    assert "lacks the opening of" in found.faults[0]


def test_verify_checks_each_seed_of_an_arm_that_is_done(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [
        {"seed": seed, "folder": f"s/sft/seed-{seed}", "state": state}
        for seed, state in enumerate(("done", "done", "failed"))
    ]
    for run in runs[:2]:
        evaluate_model(replace(config, run=replace(config.run, output_dir=run["folder"])))
        run["folder"] = run["folder"].removeprefix("s/")
    arm = {"name": "sft", "folder": "sft", "method": "sft", "state": "done", "runs": runs}
    study = {"name": "s", "preset": "", "seed": 0, "model": "nano", "arms": [arm], "pairs": []}
    Path("s/study.json").write_text(json.dumps(study))
    found = verify(Path("s"))
    assert [(one.run, one.faults) for one in found] == [("s/sft/seed-0", ()), ("s/sft/seed-1", ())]
    runs[1]["folder"] = "../elsewhere"
    Path("s/study.json").write_text(json.dumps(study))
    with pytest.raises(InputError, match="leaves the folder"):
        verify(Path("s"))


def test_dev_is_not_sealed(config):
    dev = replace(config, eval=replace(config.eval, split="dev"))
    folder, entry = evaluate_model(dev)
    assert json.loads((folder / entry["predictions"]).with_suffix(".json").read_text())["seal"] is None
    assert entry["reads"] == 1
    with Run.open(dev, attach=True) as run:
        assert run.summary["evaluations"] == [entry]
