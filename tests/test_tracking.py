"""Trackers get what stands in metrics.jsonl, once; libraries are offline, and their files are read back."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reckoner import tracking
from reckoner.cli import main
from reckoner.config import load_config
from reckoner.config.describe import every_setting
from reckoner.errors import InputError, Stopped


def line(step: int) -> str:
    return json.dumps({"step": step, "loss": 4.0 / step, "seconds": float(step)}) + "\n"


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """An arm of a study with three logged steps and half of a fourth."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "nano" / "sft"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("run: {seed: 0}\n")
    (folder / "environment.json").write_text("{}")
    study = {"name": "nano", "preset": "nano", "seed": 0, "model": "nano", "arms": [], "pairs": []}
    (folder.parent / "study.json").write_text(json.dumps(study))
    (folder / "metrics.jsonl").write_text("".join(map(line, (1, 2, 3))) + '{"step": 4, "lo')
    return folder


def need(name: str):
    return pytest.importorskip(name, reason=f"{name} is not installed (extra: tracking)")


def grow(folder: Path) -> None:
    """The run was killed, goes on from step 2 and logs the same lines again, and more."""
    (folder / "metrics.jsonl").write_text("".join(map(line, (1, 2, 3, 4, 5))))


class Fake:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.runs: list[tracking.Tracked] = []
        self.logged: list[tuple[int, float]] = []
        self.ended = 0

    def __call__(self, run):
        self.runs.append(run)
        return lambda values, step: self.logged.append((step, values["loss"])), self.end

    def end(self) -> None:
        self.ended += 1


def test_each_line_is_sent_once_in_one_run_of_the_studys_group(run, monkeypatch):
    fake = Fake()
    monkeypatch.setitem(tracking.TRACKERS, "json", fake)  # a module that is always there
    assert tracking.track(run, "json") == 3 and fake.ended == 1
    grow(run)
    assert tracking.track(run, "json") == 2 and tracking.track(run, "json") == 0
    assert fake.logged == [(1, 4.0), (2, 2.0), (3, 4 / 3), (4, 1.0), (5, 0.8)]
    assert len({one.id for one in fake.runs}) == 1
    assert {(one.name, one.group) for one in fake.runs} == {("sft", "nano")}
    assert fake.runs[0].config == {"run": {"seed": 0}}


@pytest.mark.parametrize("ends", [KeyboardInterrupt, OSError])
def test_a_send_that_ends_early_goes_on_in_its_run_at_the_line_that_failed(run, monkeypatch, ends):
    class Breaks(Fake):
        def __call__(self, opened):
            log, finish = super().__call__(opened)

            def log_until(values, step):
                if step == 2 and len(self.runs) == 1:
                    raise ends("in the middle")
                log(values, step)

            return log_until, finish

    monkeypatch.setitem(tracking.TRACKERS, "json", fake := Breaks())
    with pytest.raises((KeyboardInterrupt, Stopped)):
        tracking.track(run, "json")
    assert json.loads((run / ".tracking" / "json.json").read_text())["lines"] == 1
    assert tracking.track(run, "json") == 2
    assert [step for step, _ in fake.logged] == [1, 2, 3]
    assert len({one.id for one in fake.runs}) == 1 and len(fake.runs) == 2


def test_a_killed_send_leaves_one_run_and_sends_no_step_twice(run):
    code = (
        "import os, sys; from pathlib import Path; from reckoner import tracking\n"
        "def open_run(run):\n"
        "    out = Path('sent.txt').open('a'); out.write(run.id + '\\n'); out.flush()\n"
        "    def log(values, step):\n"
        "        out.write(f'{step}\\n'); out.flush()\n"
        "        if step == int(sys.argv[1]): os.kill(os.getpid(), 9)\n"
        "    return log, out.close\n"
        "tracking.TRACKERS['json'] = open_run; tracking.track(Path(sys.argv[2]), 'json')"
    )
    for last, exits in ((2, -9), (0, 0)):
        done = subprocess.run([sys.executable, "-c", code, str(last), str(run)], check=False, timeout=60)
        assert done.returncode == exits
    identity, *sent = Path("sent.txt").read_text().split()
    assert sent == ["1", "2", identity, "3"]


def test_seeds_of_an_arm_are_one_group_and_keep_the_arms_name(run, monkeypatch):
    study = json.loads((run.parent / "study.json").read_text())
    seeds = [{"seed": s, "folder": f"sft/seed-{s}", "state": "done"} for s in (0, 1)]
    study["arms"] = [{"name": "sft", "folder": "sft", "method": "sft", "state": "done", "runs": seeds}]
    (run.parent / "study.json").write_text(json.dumps(study))
    for seed in seeds:
        folder = run.parent / seed["folder"]
        folder.mkdir()
        for name in ("config.yaml", "metrics.jsonl"):
            (folder / name).write_bytes((run / name).read_bytes())
    for name in ("config.yaml", "metrics.jsonl"):
        (run / name).unlink()
    monkeypatch.setitem(tracking.TRACKERS, "json", fake := Fake())
    assert tracking.track(run.parent, "json") == 6 and len({one.id for one in fake.runs}) == 2
    assert [(one.name, one.group) for one in fake.runs] == [("sft/seed-0", "nano"), ("sft/seed-1", "nano")]


def test_unknown_and_missing_trackers_are_one_line(run, monkeypatch, capsys):
    assert main(["track", str(run), "--to", "wandbb"]) == 2
    assert "wandbb is no tracker. Choose from wandb, tensorboard, mlflow, trackio" in capsys.readouterr().err
    monkeypatch.setitem(tracking.TRACKERS, "not_here", Fake())
    with pytest.raises(
        InputError, match=r"not_here is not installed. Run: pip install 'reckonlab\[tracking\]'"
    ):
        tracking.check(["not_here"])
    assert main(["track", str(run.parent.parent), "--to", "tensorboard"]) == 2


def test_what_a_library_raises_is_one_line(run, monkeypatch, capsys):
    def full(tracked):
        raise sqlite3.OperationalError("database or disk\nis full")

    monkeypatch.setattr(tracking, "check", lambda names: None)
    monkeypatch.setitem(tracking.TRACKERS, "trackio", full)
    assert main(["track", str(run), "--to", "trackio"]) == 75
    line = "reckon: trackio: database or disk is full. The same command sends what is missing\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("name", "variable", "value", "code", "says"),
    [
        ("wandb", "WANDB_MODE", "online", 2, "No API key configured"),
        ("mlflow", "MLFLOW_TRACKING_URI", "http://127.0.0.1:9", 75, "Max retries exceeded"),
        ("mlflow", "MLFLOW_TRACKING_URI", "ftp://127.0.0.1", 2, "unsupported URI"),
    ],
)
def test_a_tracker_that_refuses_or_cannot_be_reached_is_one_line(run, name, variable, value, code, says):
    need(name)
    hidden = {key: text for key, text in os.environ.items() if not key.startswith(("WANDB", "MLFLOW"))}
    alone = {variable: value, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "HOME": str(run)}
    command = [sys.executable, "-m", "reckoner", "track", str(run), "--to", name]
    done = subprocess.run(
        command, env=hidden | alone, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == code and says in done.stderr, done.stderr
    assert done.stderr.startswith(f"reckon: {name}: ") and done.stderr.count("\n") == 1


def test_one_tracker_is_named_without_a_list(run, tmp_path, monkeypatch, capsys):
    for typed, wanted in (("wandb", "wandb"), ("[wandb, mlflow]", ["wandb", "mlflow"])):
        assert load_config("", (), [f"run.report_to={typed}"]).run.report_to == wanted
    (tmp_path / "settings.yaml").write_text("run: {report_to: wandb}\n")
    assert load_config("", [tmp_path / "settings.yaml"]).run.report_to == "wandb"
    (tmp_path / "mapping.yaml").write_text("run: {report_to: {a: 1}}\n")
    with pytest.raises(
        InputError, match=r"report_to=\{'a': 1\} is not a text, or a list of them, as \[a, b\]"
    ):
        load_config("", [tmp_path / "mapping.yaml"])
    for typed in ("wandbb", "[mlflow, wandbb]"):
        with pytest.raises(
            InputError, match=r"run.report_to=wandbb is not one of .* \(did you mean wandb\?\)"
        ):
            load_config("", (), [f"run.report_to={typed}"])
    (field,) = (one for one in every_setting() if one.name == "run.report_to")
    assert field.allowed == ", ".join(tracking.TRACKERS)
    with pytest.raises(InputError, match="wandbb is no tracker"), tracking.reporting(run, "wandbb"):
        pass


def test_a_tracker_that_fails_costs_the_run_one_line(run, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "check", lambda names: None)
    trained = []
    with tracking.reporting(run, ["broken"]):
        trained.append("to its end")
    err = capsys.readouterr().err
    assert trained and err.count("\n") == 1
    assert "broken is no tracker" in err and f"Later: reckon track {run} --to broken" in err


def test_tensorboard_events_read_back(run):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert tracking.track(run, "tensorboard") == 3
    grow(run)
    with tracking.reporting(run, ["tensorboard"]):
        pass
    events = EventAccumulator(str(run / ".tracking" / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("loss")] == [1, 2, 3, 4, 5]


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, behind a header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def test_wandb_is_offline_without_a_key_and_its_files_read_back(run, monkeypatch):
    need("wandb")
    from wandb.proto import wandb_internal_pb2

    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "reckoner", "track", str(run), "--to", "wandb"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = (run / ".tracking").rglob("*.wandb")
    steps, groups = [], set()
    for raw in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(raw)
        if record.HasField("history"):
            items = {"".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            steps.append((items["_step"], items["loss"]))
        if record.HasField("run"):
            groups.add((record.run.run_group, record.run.display_name))
    assert steps == [(1, 4.0), (2, 2.0), (3, pytest.approx(4 / 3))] and groups == {("nano", "sft")}


def test_mlflow_file_store_reads_back(run):
    need("mlflow")
    from mlflow import MlflowClient

    tracking.track(run, "mlflow")
    grow(run)
    tracking.track(run, "mlflow")
    client = MlflowClient(f"file:{Path('mlruns').absolute()}")
    number = client.get_experiment_by_name("reckoner").experiment_id
    (only,) = client.search_runs([number])
    assert [one.step for one in client.get_metric_history(only.info.run_id, "loss")] == [1, 2, 3, 4, 5]
    assert only.data.tags["group"] == "nano"


def test_trackio_database_reads_back(run, monkeypatch):
    need("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(run / "trackio"))
    command = [sys.executable, "-m", "reckoner", "track", str(run), "--to", "trackio"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        grow(run)

    (path,) = (run / "trackio").glob("*.db")
    rows = sqlite3.connect(path).execute("select step, metrics from metrics order by step").fetchall()
    assert [(step, json.loads(text)["loss"]) for step, text in rows if b"loss" in text][:4] == [
        (1, 4.0),
        (2, 2.0),
        (3, pytest.approx(4 / 3)),
        (4, 1.0),
    ]
