"""Arms on a cluster: what is lost goes on elsewhere, and what differs on a node is one line on the driver."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from reckoner.config import Config, build_config
from reckoner.errors import InputError, Stopped
from reckoner.runs.folder import lock_folder, silent
from reckoner.runs.integrity import read_tune_record
from reckoner.study import arms as plans
from reckoner.study import cluster, worker
from reckoner.study import run as study
from reckoner.study.runner import runner
from reckoner.study.tune import tune


def study_of(model: Path, folder: Path, **keys) -> Config:
    values = {
        "model": {"model_name_or_path": str(model)},
        "data": {"dev_size": 8, "max_train_samples": 48, "max_test_samples": 6},
        "prompt": {"chat_template": "off"},
        "train": {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        "eval": {"dev_samples": 2},
        "run": {"output_dir": str(folder), "threads": 1, "save_steps": 1},
        "study": {"arms": {"first": {"method": "sft"}}, "jobs": 0, **keys},
    }
    return build_config([(values, {})])


def outcomes(folder: Path) -> dict[str, bytes]:
    """The predictions and the weights of every arm."""
    files = [*folder.rglob("predictions/*.jsonl"), *folder.rglob("model/*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Made:
    """A cluster whose tasks say what a test wrote, one text for each task, and then are over."""

    def __init__(self, *texts: str, left: str = "") -> None:
        self.texts, self.left, self.cancelled, self.messages = list(texts), left, [], []

    def submit(self, arm, message, answers):
        self.messages.append(json.loads(message))
        text = self.texts.pop(0)
        Path(answers).write_text(text)
        return text

    def over(self, task):
        return None if task.endswith("...") else "node 7 is gone"

    def cancel(self, task):
        self.cancelled.append(task)

    def name(self, task):
        return task

    def find(self, name):
        return name if name == self.left else None


DONE = '{"state": "done", "reason": ""}\n'


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(cluster, "POLL", 0.01)


def of_first(tiny_model, tmp_path, made: Made):
    config = study_of(tiny_model, tmp_path / "s")
    chosen = plans.plan_study(config)
    return cluster.ClusterRunner(made, config, chosen), chosen[0]


def test_a_lost_task_is_submitted_again_and_what_it_said_is_passed_on(tiny_model, tmp_path, quick):
    made = Made('null\n{"progress": ["train", 3, 6, "loss 1"]}\n{"progress": ["tra', DONE)
    running, arm = of_first(tiny_model, tmp_path, made)
    said = []
    running.start(arm, lambda *what: said.append(what))
    assert running.at_work == [arm] and running.wait() is arm
    assert (arm.state, running.at_work) == ("done", [])
    assert said == [
        ("queued", 0, 0, ""),
        ("train", 3, 6, "loss 1"),
        ("lost", 0, 0, "its worker was lost (node 7 is gone); it goes on elsewhere"),
    ]
    assert made.messages[0] == made.messages[1] and made.messages[0]["folder"] == os.getcwd()
    running.close()
    assert not (tmp_path / ".s.tasks").exists() and made.cancelled == []


def test_an_arm_that_always_loses_its_worker_stops_the_study(tiny_model, tmp_path, quick):
    running, arm = of_first(tiny_model, tmp_path, made := Made(*[""] * 11))
    running.start(arm, silent)
    with pytest.raises(Stopped, match="arm first was lost 10 times, the last time because node 7 is gone"):
        running.wait()
    assert made.texts == []


def test_a_cluster_of_ray_that_is_not_there_is_one_line(tiny_model, tmp_path, monkeypatch):
    def init(**options):
        raise ConnectionError("Could not find any running Ray instance. Please specify --address")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    monkeypatch.setattr(cluster, "require", lambda *_: None)
    config = study_of(tiny_model, tmp_path / "s")
    with pytest.raises(InputError, match="there is no Ray cluster here.*ray start.*study.cluster.address"):
        cluster.Ray(config, lambda arm: 0)
    config.study.cluster = {"address": "first:6379"}
    with pytest.raises(InputError, match="there is no Ray cluster at first:6379"):
        cluster.Ray(config, lambda arm: 0)


class Refusing(Made):
    """A cluster that refuses the second task, and as many after it as a test wants."""

    def __init__(self, *texts: str, refusals: int) -> None:
        super().__init__(*texts)
        self.refusals = refusals

    def submit(self, arm, message, answers):
        if self.messages and self.refusals:
            self.refusals -= 1
            raise InputError("study.engine=slurm: the controller does not answer")
        return super().submit(arm, message, answers)


def test_a_lost_task_that_cannot_be_submitted_waits_and_costs_no_other(tiny_model, tmp_path, quick):
    running, arm = of_first(tiny_model, tmp_path, made := Refusing("", DONE, refusals=2))
    said = []
    running.start(arm, lambda phase, done, total, note: said.append(note))
    assert running.wait() is arm and (arm.state, len(made.messages), made.cancelled) == ("done", 2, [])
    failed = (
        "its worker was lost (node 7 is gone); not yet submitted again: study.engine=slurm: the controller"
    )
    assert [note.startswith(failed) for note in said[1:]] == [True, True, False]


def test_what_can_never_be_submitted_again_stops_the_study(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "POLL", 1e-5)
    running, arm = of_first(tiny_model, tmp_path, made := Refusing("", refusals=99))
    running.start(arm, silent)
    with pytest.raises(Stopped, match="arm first was lost and cannot be submitted again: study.engine=slurm"):
        running.wait()
    assert made.refusals == 99 - cluster.LOSSES


def test_a_task_without_a_sign_of_life_is_cancelled(tiny_model, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(cluster, "SILENCE", 0.05)
    hangs = 'null\n{"progress": ["train", 1, 6, "..."]}\n...'
    running, arm = of_first(tiny_model, tmp_path, made := Made(hangs, DONE))
    running.start(arm, silent)
    assert running.wait() is arm and made.cancelled == [hangs]


def test_what_another_command_left_at_work_is_not_submitted_again(tiny_model, tmp_path, quick):
    left = "null\n..."
    before, arm = of_first(tiny_model, tmp_path, Made(left))
    before.start(arm, silent)  # and is killed
    running, arm = of_first(tiny_model, tmp_path, made := Made(left=left))
    running.start(arm, silent)
    (answers,) = (tmp_path / ".s.tasks" / "first").glob("*.jsonl")
    answers.write_text("null\n" + DONE)
    assert running.wait() is arm and (arm.state, made.messages) == ("done", [])
    before.close()
    assert before._cluster.cancelled == [left]


def test_an_arm_without_its_data_is_refused_before_it_is_queued(tmp_path, tiny_model):
    running, arm = of_first(tiny_model, tmp_path, made := Made())
    arm.config.data.path = str(tmp_path / "nowhere")
    running.start(arm, silent)
    assert running.wait() is arm and arm.state == "refused" and "nowhere" in arm.reason
    assert made.messages == []


@pytest.mark.parametrize(
    "answer, error, words",
    [
        ('{"input": "node a has another torch"}', InputError, "node a has another torch"),
        ('{"stopped": "disk full"}', Stopped, "disk full"),
        ('{"memory": "out of memory"}', MemoryError, "out of memory"),
        ('{"bug": "Traceback: KeyError"}', RuntimeError, "a process of the study ended with:\nTraceback"),
    ],
)
def test_what_ends_a_task_ends_the_study(answer, error, words, tiny_model, tmp_path, quick):
    running, arm = of_first(tiny_model, tmp_path, Made(answer + "\n"))
    running.start(arm, silent)
    with pytest.raises(error, match=words):
        running.wait()


def told(tiny_model, tmp_path, **changed) -> tuple[str, list[dict]]:
    """What `work_there` returns and says for the arm of the study, with a changed message."""
    arm = plans.plan_study(study_of(tiny_model, tmp_path / "s"))[0]
    message = {"order": worker.order(arm), "inputs": worker.inputs(arm), "folder": os.getcwd(), "threads": 1}
    answers = tmp_path / "answers"
    answers.write_text('null\n{"progress": ["tr')
    why = worker.work_there(json.dumps({**message, **changed}), str(answers))
    return why, [json.loads(line) for line in answers.read_text().splitlines() if line.endswith("}")]


def test_a_node_with_other_code_or_data_is_named(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "n7")
    arm = plans.plan_study(study_of(tiny_model, tmp_path / "s"))[0]
    here = worker.inputs(arm)
    assert {"torch", "source code of reckoner", "base model", "tokenizer"} < here.keys()
    (data,) = (name for name in here if name.startswith("data file") and "train" in name)
    for name in ("torch", "source code of reckoner", "base model", data):
        why, said = told(tiny_model, tmp_path, inputs={**here, name: "another"})
        line = f"node n7 has another {name} than this command. Put the same there"
        assert (why, said) == ("", [{"input": line}])
    assert not (tmp_path / "s").exists()
    nowhere = str(tmp_path / "nowhere")
    why, said = told(tiny_model, tmp_path, folder=nowhere)
    assert why == f"n7 does not see {tmp_path} or {nowhere}, which every node must share"


def test_a_task_waits_for_the_lock_of_a_lost_one_and_tells_a_bug(tiny_model, tmp_path, monkeypatch):
    ran = []

    def run_arm(arm, on_progress):
        ran.append(os.path.exists(arm.config.run.output_dir))
        raise KeyError("a bug")

    monkeypatch.setattr("reckoner.study.execute.run_arm", run_arm)
    with pytest.raises(KeyError):
        told(tiny_model, tmp_path)
    said = [json.loads(line) for line in (tmp_path / "answers").read_text().splitlines()]
    assert "in run_arm" in said[-1]["bug"] and "KeyError: 'a bug'" in said[-1]["bug"]
    held = lock_folder(tmp_path / "s" / "first")
    begun = time.monotonic()
    with pytest.raises(InputError, match="is in use by another reckon command"):
        lock_folder(tmp_path / "s" / "first", patience=0.6)
    assert time.monotonic() - begun > 0.6
    os.close(held)
    os.close(lock_folder(tmp_path / "s" / "first", patience=0.6))


def until(what, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def processes(name: bytes) -> list[int]:
    def called(path: Path) -> bool:
        try:
            return path.read_bytes().startswith(name)
        except (FileNotFoundError, ProcessLookupError):
            return False

    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if called(path)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")  # submitit waits for no job of its own
def test_jobs_of_submitit_end_as_arms_of_one_machine(tiny_model, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    monkeypatch.chdir(tmp_path)
    alone, there = (study_of(tiny_model, tmp_path / name) for name in ("alone", "there"))
    there.study.engine, there.study.cluster = "slurm", {"cluster": "local", "timeout_min": 60}
    arms = plans.plan_study(alone)
    study.run_study(alone, arms, arms, "reckon study")
    arms, killed = plans.plan_study(there), []

    def kill_one(label: str):
        def on_progress(phase, done, total, note=""):
            if phase == "train" and done >= 2 and not killed:
                killed.append(running._tasks[0].handle)
                os.kill(int(killed[0].job_id), signal.SIGKILL)  # and its child ends with it
                for pid in processes(sys.executable.encode() + b"\0-u\0-m\0submitit.core._submit"):
                    os.kill(pid, signal.SIGKILL)
            said.append((phase, note))

        return on_progress

    said: list[tuple[str, str]] = []
    with runner(there, arms) as running:
        study.run_study(there, arms, arms, "reckon study", kill_one, running)
    assert (
        outcomes(tmp_path / "there") == outcomes(tmp_path / "alone") and len(outcomes(tmp_path / "alone")) > 1
    )
    assert any(phase == "lost" and "is INTERRUPTED" in note for phase, note in said)


def test_engines_that_are_not_there_are_named(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("reckoner.errors.find_spec", lambda name: None)
    for engine, package, extra in (("ray", "ray", "ray"), ("slurm", "submitit", "slurm")):
        config = study_of(tiny_model, tmp_path / "s", engine=engine)
        with pytest.raises(
            InputError, match=rf"study.engine={engine} needs {package}: pip .*reckonlab\[{extra}\]"
        ):
            runner(config, [])


NODES = """
import sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
nodes = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node})
second = nodes.add_node(**node)
print(nodes.address, flush=True)
sys.stdin.readline()
nodes.remove_node(second, allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
nodes.shutdown()
"""
"""A Ray cluster of two nodes with one CPU each, the second of which goes at the first line from us."""


@pytest.fixture
def ray_nodes(monkeypatch):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    for name in ("RAY_raylet_start_wait_time_s", "RAY_agent_register_timeout_ms"):
        monkeypatch.setenv(name, "600000")  # a busy machine takes long
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    words = [sys.executable, "-c", NODES]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nodes:
        yield nodes
        nodes.communicate("\n\n")


@pytest.mark.slow
def test_a_study_on_ray_outlives_its_worker_its_node_and_its_command_and_is_searched_there(
    tiny_model, tmp_path, start_reckon, ray_nodes
):
    arms = {
        "first": {"method": "sft"},
        "other": {"method": "sft", "set": {"train": {"learning_rate": 2e-3}}},
        "second": {"method": "sft", "init": "first"},
    }
    config = study_of(tiny_model, tmp_path / "alone", arms=arms, jobs=1)
    config.train.num_train_epochs = 3.0
    chosen = plans.plan_study(config)
    study.run_study(config, chosen, chosen, "reckon study")
    config.run.output_dir, config.study.jobs, config.study.engine = "there", 0, "ray"
    config.study.cluster = {"address": ray_nodes.stdout.readline().strip()}
    (tmp_path / "settings.yaml").write_text(config.to_yaml())
    there = tmp_path / "there"

    def steps(name: str) -> int:
        return max([int(path.name[5:]) for path in (there / name / "checkpoints").glob("step-*")], default=0)

    def at_work() -> list[int]:
        return processes(b"ray::work_there")

    going = start_reckon("study", "--config", "settings.yaml")
    going.wait(lambda: steps("first") and steps("other"), seconds=1200)
    killed = at_work()
    ray_nodes.stdin.write("\n")
    ray_nodes.stdin.flush()
    assert len(killed) == 2 and ray_nodes.stdout.readline() == "removed\n"
    for pid in at_work():
        os.kill(pid, signal.SIGKILL)  # the worker on the node that is left
    going.wait(lambda: going.stderr.count("was lost") == 2, seconds=600)
    before = steps("first") + steps("other")
    going.wait(lambda: steps("first") + steps("other") > before, seconds=1200)
    going.send_signal(signal.SIGKILL)
    going.wait()
    assert "its worker was lost (The worker died unexpectedly" in going.stderr, going.stderr
    until(lambda: not at_work())
    again = start_reckon("study", "--config", "settings.yaml").wait(seconds=1200)
    assert again.returncode == 0, again.stderr
    assert outcomes(there) == outcomes(tmp_path / "alone") and len(outcomes(there)) == 6
    assert not (tmp_path / ".there.tasks").exists()
    searched = start_reckon("tune", "--config", "settings.yaml", "--trials", 2, "--arm", "other")
    assert searched.wait(seconds=1200).returncode == 0, searched.stderr
    config.run.output_dir, config.study.jobs, config.study.engine = str(tmp_path / "alone"), 1, "local"
    assert tune(config, 2, ["other"]) == read_tune_record(there)
