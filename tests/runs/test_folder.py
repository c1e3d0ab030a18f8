"""Run folders: one owner, one configuration, and streams that are functions of their names."""

import json
import multiprocessing
from dataclasses import replace

import pytest

from reckoner.config import Config, RunConfig, TrainConfig
from reckoner.errors import InputError, Stopped
from reckoner.runs import folder as runs
from reckoner.runs import safe_paths as places


def config_in(folder, **train) -> Config:
    return Config(run=RunConfig(output_dir=str(folder)), train=TrainConfig(**train))


def test_stream_seeds_are_fixed_for_ever():
    assert runs.stream_seed(0, "dropout", 1) == 0x37290B97A76449E
    values = {
        runs.stream_seed(seed, purpose, step)
        for seed in range(4)
        for purpose in ("a", "b")
        for step in range(50)
    }
    assert len(values) == 400 and all(0 <= value < 2**63 for value in values)


@pytest.mark.parametrize("name", ["a", "full-main", "A.b_c-9", "0"])
def test_good_names(name):
    assert runs.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc",
        "a/b",
        "a\\b",
        "a b",
        ".hidden",
        "-x",
        "a\0",
        "x" * 65,
        "é",
        "a.",
        "$(x)",
        "a\n",
        "~",
        "con:",
    ],
)
def test_names_that_could_leave_the_folder(name):
    with pytest.raises(InputError, match="is not a name for a run"):
        runs.check_name(name)


def test_open_writes_what_ran_and_reopens(tmp_path):
    config = config_in(tmp_path / "r", learning_rate=1e-4)
    with runs.Run.open(config) as run:
        run.log(step=1, loss=0.5)
    assert runs.read_config(tmp_path / "r" / "config.yaml") == config.to_dict()
    assert (tmp_path / "r" / "config.yaml").read_text().startswith(f"# digest: {config.digest()}\n")
    environment = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert environment["versions"]["reckoner"] == "0.1.0" and environment["cores"] >= 1
    with runs.Run.open(config) as run:
        assert run.summary == {}


def test_another_configuration_is_refused_by_name(tmp_path):
    runs.Run.open(config_in(tmp_path / "r", learning_rate=1e-4)).close()
    with pytest.raises(
        InputError,
        match=r"r was started with train.learning_rate=0.0001, this command has 0.0003. Use another",
    ):
        runs.Run.open(config_in(tmp_path / "r", learning_rate=3e-4))


def test_how_often_it_saves_may_change(tmp_path):
    config = config_in(tmp_path / "r")
    runs.Run.open(config).close()
    other = replace(config, run=replace(config.run, save_steps=7, logging_steps=3))
    with runs.Run.open(other) as run:
        assert (run.config.run.save_steps, run.folder) == (7, tmp_path / "r")


def test_another_version_is_refused_by_name_until_the_run_is_finished(tmp_path):
    config = config_in(tmp_path / "r")
    runs.Run.open(config).close()
    path = tmp_path / "r" / "environment.json"
    began = json.loads(path.read_text())
    runs.write_json(path, {**began, "versions": {**began["versions"], "torch": "1.0", "scipy": "0.1"}})
    with pytest.raises(
        InputError,
        match=r"r was started with torch=1.0, this command has 2\..*. Install that version again, or use",
    ):
        runs.Run.open(config)
    runs.Run(tmp_path / "r", config, -1).conclude({"status": "finished", "evaluations": []})
    runs.Run.open(config).close()


def test_a_kill_before_the_configuration_is_written_leaves_a_run_that_opens(tmp_path):
    config = config_in(tmp_path / "r")
    runs.Run.open(config).close()
    (tmp_path / "r" / "config.yaml").unlink()
    runs.Run.open(config).close()
    assert runs.read_config(tmp_path / "r" / "config.yaml") == config.to_dict()


def test_inputs_are_noted_once_and_a_changed_one_is_named(tmp_path):
    with runs.Run.open(config_in(tmp_path / "r")) as run:
        for _ in range(2):
            run.pin({"tokenizer": "1a", "base model": "2b"})
        with pytest.raises(
            InputError, match="r: the base model is not what it was when this run began. Put it back"
        ):
            run.pin({"tokenizer": "1a", "base model": "3c"})
        with pytest.raises(InputError, match="the tokenizer is not what it was"):
            run.pin({"base model": "2b"})
        assert json.loads((run.folder / "inputs.json").read_text()) == {"tokenizer": "1a", "base model": "2b"}
        (run.folder / "inputs.json").write_text("{}")
        with pytest.raises(InputError, match="the tokenizer is not what it was"):
            run.pin({"tokenizer": "1a", "base model": "2b"})
        (run.folder / "inputs.json").unlink()
        for work in ("checkpoints", "predictions"):
            (run.folder / work / "done").mkdir(parents=True)
            with pytest.raises(InputError, match="inputs.json: cannot be read"):
                run.pin({"tokenizer": "1a", "base model": "2b"})
            (run.folder / work / "done").rmdir()


def test_other_source_code_of_the_same_version_is_refused_until_the_run_is_finished(tmp_path, monkeypatch):
    config = config_in(tmp_path / "r")
    runs.Run.open(config).close()
    monkeypatch.setattr(runs, "code_digest", lambda: "other")
    with pytest.raises(
        InputError, match="started by other source code of the same version .*Restore that code"
    ):
        runs.Run.open(config)
    with pytest.raises(InputError, match="started by other source code of the same version"):
        runs.Run.open(config_in(tmp_path / "r", learning_rate=1.0), attach=True)
    runs.Run(tmp_path / "r", config, -1).conclude({"status": "finished", "evaluations": []})
    runs.Run.open(config).close()


def test_a_finished_run_of_another_method_is_named(tmp_path):
    with runs.Run.open(config_in(tmp_path / "r")) as run:
        assert run.finished("sft") is None
        summary = {"status": "finished", "method": "prompt", "evaluations": []}
        run.conclude(summary)
        assert run.finished("prompt") == summary
        with pytest.raises(InputError, match="r is a finished run of prompt. Use another run.output_dir"):
            run.finished("sft")


def test_a_published_folder_takes_the_place_of_the_old(tmp_path):
    for name, text in (("new", "two"), ("final", "one")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(text)
    places.publish(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final" / "a").read_text() == "two" and not (tmp_path / "new").exists()


def test_the_lock_holds_between_processes_and_dies_with_its_owner(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()

    def own() -> None:
        runs.lock_folder(tmp_path / "r")
        ready.set()
        release.wait(30)

    owner = context.Process(target=own)
    owner.start()
    assert ready.wait(30)
    with pytest.raises(InputError, match="is in use by another reckon command"):
        runs.lock_folder(tmp_path / "r")
    owner.kill()
    owner.join()
    runs.lock_folder(tmp_path / "r")


def test_rewind_cuts_what_came_after_and_refuses_what_was_changed_before(tmp_path):
    with runs.Run.open(config_in(tmp_path / "r")) as run:
        path = run.folder / "metrics.jsonl"
        run.rewind(runs.NOTHING)
        for step in (1, 2):
            run.log(step=step, loss=float(step))
        known = run.flush()
        run.log(step=3, loss=3.0)
        with open(path, "a") as file:
            file.write('{"step": 4, "lo')
        run.rewind(known)
        kept = '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n'
        assert path.read_text() == kept and [line["step"] for line in run.metrics()] == [1, 2]
        for forged in (kept.replace("2.0", "0.1"), kept[:25], ""):
            path.write_text(forged)
            with pytest.raises(InputError, match="metrics.jsonl: has changed since it was written"):
                run.rewind(known)
        path.unlink()
        with pytest.raises(InputError, match="metrics.jsonl: has changed since it was written"):
            run.rewind(known)


def test_a_metric_that_is_not_finite_is_a_bug(tmp_path):
    with runs.Run.open(config_in(tmp_path / "r")) as run, pytest.raises(ValueError):
        run.log(step=1, loss=float("nan"))


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "r").write_text("")
    with pytest.raises(InputError, match="cannot be used as output folder"):
        runs.Run.open(config_in(tmp_path / "r"))
    with pytest.raises(Stopped, match="cannot be written"):
        runs.write_text(tmp_path / "r" / "x", "text")


def test_differences_are_named_by_path():
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    assert runs.differences(old, new) == [
        "a.c=2, this command has 5",
        "d=3, this command has None",
        "e=None, this command has 4",
    ]
