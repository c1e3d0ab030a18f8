"""Arms side by side: the same results as one after another, and no process outlives its study."""

import errno
import json
import os
import queue
import signal
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reckoner.config import Config, build_config
from reckoner.config.schema import ENGINES
from reckoner.engine import process
from reckoner.errors import Stopped
from reckoner.runs.folder import silent
from reckoner.study import arms as plans
from reckoner.study import pool as workers
from reckoner.study import run as study
from reckoner.study import runner as runners


@pytest.fixture
def all_cores():
    """Every core of the machine for this test and what it starts; workers of the suite are bound to one."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no process to cores")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count()))
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("arms run side by side on two cores or more")
    yield
    os.sched_setaffinity(0, before)


def study_of(model: Path, folder: Path, **keys) -> Config:
    values = {
        "model": {"model_name_or_path": str(model)},
        "data": {"dev_size": 8, "max_train_samples": 48, "max_test_samples": 12},
        "prompt": {"chat_template": "off"},
        "train": {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        "eval": {"dev_samples": 4},
        "run": {"output_dir": str(folder), "threads": 1, "save_steps": 1},
    }
    values["study"] = {
        "arms": {
            "prompt": {},
            "first": {"method": "sft"},
            "second": {"method": "sft", "init": "first"},
            "lost": {"method": "sft", "set": {"data": {"path": str(folder / "nowhere")}}},
            "after-lost": {"method": "sft", "init": "lost"},
            "other": {"method": "sft", "set": {"train": {"learning_rate": 2e-3}}},
        },
        **keys,
    }
    return build_config([(values, {})])


def run(config: Config, progress=lambda arm: silent) -> Path:
    arms = plans.plan_study(config)
    return study.run_study(config, arms, arms, "reckon study", progress)


def outcomes(folder: Path) -> dict:
    """What a study leaves that no clock decides: weights, predictions, metrics, states."""
    names = ("prompt", "first", "second", "other")
    files = {
        str(p.relative_to(folder)): p.read_bytes()
        for n in names
        for p in (folder / n).rglob("*")
        if p.suffix == ".safetensors" and "checkpoints" not in p.parts
    }
    files |= {
        str(p.relative_to(folder)): p.read_bytes()
        for n in names
        for p in (folder / n / "predictions").glob("*.jsonl")
    }
    for name in names[1:]:
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        files[name] = [
            {
                key: value
                for key, value in json.loads(line).items()
                if "seconds" not in key and "per_second" not in key and "memory" not in key
            }
            for line in lines
        ]
    states = {
        arm["name"]: (arm["state"], arm["reason"].replace(str(folder), ""))
        for arm in json.loads((folder / "study.json").read_text())["arms"]
    }
    return {**files, "states": states}


@pytest.fixture(scope="module")
def alone(tiny_model, tmp_path_factory):
    """What the study leaves when its arms run one after another."""
    return outcomes(run(study_of(tiny_model, tmp_path_factory.mktemp("alone") / "s")))


def test_arms_end_the_same_side_by_side_as_one_after_another(
    tiny_model, alone, tmp_path, all_cores, monkeypatch
):
    said, started, start = [], [], workers.WorkerPool.start
    monkeypatch.setattr(
        workers.WorkerPool,
        "start",
        lambda worker_pool, arm, progress: (started.append(arm.name), start(worker_pool, arm, progress)),
    )
    together = outcomes(
        run(
            study_of(tiny_model, tmp_path / "s", jobs=2),
            lambda arm: lambda phase, done, total, note="": said.append((arm, phase)),
        )
    )
    assert together == alone and len(alone) > 10
    assert alone["states"]["lost"][0] == "refused" and alone["states"]["after-lost"] == (
        "refused",
        "it starts from lost, which was refused",
    )
    order = [arm for arm, phase in said if phase == "done"]
    assert order.index("first") < order.index("second")
    assert started[:3] == ["first", "lost", "other"] and set(started[3:]) == {"second", "prompt"}, (
        "arms that train first, and none whose start was refused"
    )
    assert ("first", "train") in said and ("second", "test") in said


def test_what_trains_starts_first_and_long_prompts_before_short_ones(tmp_path):
    class OneAtATime(workers.WorkerPool):
        def __init__(self) -> None:
            super().__init__([])
            self.started: list[str] = []
            self.going: list[plans.Arm] = []

        at_work = property(lambda worker_pool: worker_pool.going)

        def room(self, arm) -> bool:
            return not self.going

        def start(self, arm, on_progress) -> None:
            self.started.append(arm.name)
            self.going.append(arm)

        def wait(self):
            return self.going.pop()

    arms = {
        "short": {},
        "long": {"set": {"prompt": {"shots": 2}}},
        "middle": {"set": {"prompt": {"shots": 1}}},
        "full": {"method": "sft"},
    }
    planned = plans.plan_study(
        build_config([({"study": {"arms": arms}, "run": {"output_dir": str(tmp_path / "s")}}, {})])
    )
    worker_pool = OneAtATime()
    assert len(list(study._run(planned, planned, worker_pool, lambda name: silent))) == 4
    assert worker_pool.started == ["full", "long", "middle", "short"]


def test_more_jobs_than_cores_or_arms_are_not_started(tmp_path, all_cores, monkeypatch):
    started = []
    monkeypatch.setattr(runners, "WorkerPool", lambda shares, **_: started.append(shares))
    cores = len(os.sched_getaffinity(0))

    def count(jobs: int, arms: int) -> int:
        config = study_of(tmp_path, tmp_path / "s", jobs=jobs)
        alone = runners.local(config, [plans.plan_study(config)[0]] * arms)
        return alone.count if alone else len(started[-1])

    assert count(0, 100) == count(1000, 1000) == cores
    assert count(2, 1) == count(1, 9) == 1


def worker(arm: str) -> list[str]:
    """The command of a worker that does `arm` in place of an arm, without torch."""
    return [sys.executable, "-P", "-c", WORKER.format(arm=arm)]


WORKER = """
import sys
from types import ModuleType

def run_arm(*_):
    {arm}

for name in ("torch", "reckoner.study.execute"):
    sys.modules[name] = module = ModuleType(name)
    module.run_arm, module.set_num_threads = run_arm, print

import reckoner.engine.process as process
import reckoner.study.worker as worker
process.BEAT = 0.05
worker.main()
"""


@pytest.fixture
def one_each(tiny_model, tmp_path, all_cores, monkeypatch):
    """Run a study on made-up GPUs: each arm's label, the CUDA_VISIBLE_DEVICES of its real worker, and how
    many arms were at work.
    """
    going = worker("import os, time; _[1]('', 0, 0, os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.1)")
    pool = workers.WorkerPool
    monkeypatch.setattr(runners, "WorkerPool", lambda *shares, **how: pool(*shares, command=going, **how))

    def ran(devices: list[workers.Gpu], jobs: int) -> list[tuple[str, str, int]]:
        monkeypatch.setattr(runners, "gpus", lambda: devices)
        arms = {"prompt": {}, "first": {"method": "sft"}, "second": {"method": "sft", "init": "first"}}
        config = study_of(tiny_model, tmp_path / "s", arms={**arms, "other": {"method": "sft"}}, jobs=jobs)
        planned, seen = plans.plan_study(config), []
        with runners.runner(config, planned) as running:

            def progress(label: str):
                return lambda phase, done, total, gpu: seen.append((label, gpu, len(running.at_work)))

            for arm, _ in study._run(planned, planned, running, progress):
                arm.state = "done"
        return seen

    return ran


def test_each_arm_has_a_gpu_of_its_own(one_each):
    """Who speaks first on a busy machine is chance; which GPU the two that wait for nothing have is not."""
    seen = one_each([workers.Gpu("3", 0), workers.Gpu("GPU-7f", 0)], jobs=0)
    labels, gpus = [label for label, *_ in seen], {label: gpu for label, gpu, _ in seen}
    assert sorted(labels) == ["first", "other", "prompt", "second"]
    assert labels.index("first") < labels.index("second")
    assert {gpus["first"], gpus["other"]} == {"3", "GPU-7f"}


def test_two_arms_share_a_gpu_where_the_plan_has_memory_for_both(tiny_model, tmp_path, one_each, monkeypatch):
    config = study_of(tiny_model, tmp_path / "s")
    sizes = {arm.name: runners.device_memory(config, arm) for arm in plans.plan_study(config)}
    assert sizes["second"] == sizes["first"] > sizes["prompt"] > 600e6
    enough = sizes["first"] + sizes["other"]
    assert max(n for *_, n in one_each([workers.Gpu("0", enough)], jobs=2)) == 2
    little = sizes["first"] + sizes["prompt"] - 1
    assert [n for *_, n in one_each([workers.Gpu("0", little)], jobs=2)] == [1, 1, 1, 1]
    monkeypatch.setattr(runners, "device_memory", lambda config, arm: None)  # a shape that nobody knows
    assert [n for *_, n in one_each([workers.Gpu("0", enough)], jobs=2)] == [1, 1, 1, 1]


def test_a_gpu_has_the_name_that_its_worker_is_given(monkeypatch):
    monkeypatch.setattr(workers, "DRIVERS", ("/dev/nothing",))
    assert workers.gpus() == []
    monkeypatch.setattr(workers, "DRIVERS", ("/dev/null",))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    sizes = [SimpleNamespace(total_memory=80), SimpleNamespace(total_memory=40)]
    monkeypatch.setattr("torch.cuda.get_device_properties", sizes.__getitem__)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert workers.gpus() == [("0", 80), ("1", 40)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7f")
    assert workers.gpus() == [("5", 80), ("GPU-7f", 40)]


def test_the_settings_name_every_engine():
    assert tuple(runners.ENGINES) == ENGINES


def test_an_error_of_the_system_in_a_worker_is_one_of_the_study(tiny_model, tmp_path, all_cores):
    failing = worker("raise OSError(5, 'Input/output error', '/data/é')")
    arm = plans.plan_study(study_of(tiny_model, tmp_path / "s"))[0]
    with closing(workers.WorkerPool([[0]], failing)) as worker_pool:
        worker_pool.start(arm, silent)
        with pytest.raises(OSError, match="Input/output error") as caught:
            worker_pool.wait()
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "/data/é")
    assert (
        "In a process of the study:" in caught.value.__notes__[0]
        and "run_arm(arm, " in caught.value.__notes__[0]
    )


def test_want_of_memory_in_a_worker_is_that_of_the_study(tiny_model, tmp_path):
    failing = worker("raise RuntimeError('out of memory')")
    arm = plans.plan_study(study_of(tiny_model, tmp_path / "s"))[0]
    with closing(workers.WorkerPool([[0]], failing)) as worker_pool:
        worker_pool.start(arm, silent)
        with pytest.raises(MemoryError, match="out of memory"):
            worker_pool.wait()


def of_study(pid: int) -> list[int]:
    """The worker processes of a study; other tests may have left this process children of another kind."""
    children = [
        int(child)
        for of_thread in Path(f"/proc/{pid}/task").glob("*/children")
        for child in of_thread.read_text().split()
    ]
    return [child for child in children if is_worker(child)]


def is_worker(pid: int) -> bool:
    try:
        return b"reckoner.study.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def until(what, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


BUSY = worker("import time; _[1]('train', 0, 1); time.sleep(60)")


def stopped(model: Path, tmp_path: Path, start_reckon: Any, number: int, at_work: Any) -> Any:
    """Send a signal to a study `at_work`; its process, once it and all of its workers have ended."""
    (tmp_path / "settings.yaml").write_text(study_of(model, tmp_path / "s", jobs=2).to_yaml())
    going = start_reckon("study", "--config", "settings.yaml")
    going.wait(lambda: at_work(going) and len(of_study(going.pid)) == 2)
    processes = of_study(going.pid)
    going.send_signal(number)
    going.wait()
    until(lambda: not any(alive(pid) for pid in processes), seconds=10)
    return going


@pytest.mark.slow
def test_a_killed_study_leaves_no_process_and_goes_on(tiny_model, alone, tmp_path, all_cores, start_reckon):
    saved = tmp_path / "s" / "other" / "checkpoints"
    going = stopped(tiny_model, tmp_path, start_reckon, signal.SIGKILL, lambda _: saved.is_dir())
    assert going.returncode == -signal.SIGKILL
    again = start_reckon("study", "--config", "settings.yaml", "study.jobs=1").wait()
    assert again.returncode == 2, again.stderr  # two arms of this study are refused
    assert outcomes(tmp_path / "s") == alone


def test_ctrl_c_ends_the_workers_too(tiny_model, tmp_path, all_cores, start_reckon, monkeypatch):
    monkeypatch.setattr(runners, "WorkerPool", partial(workers.WorkerPool, command=BUSY))
    going = stopped(
        tiny_model, tmp_path, start_reckon, signal.SIGINT, lambda going: "  train  " in going.stderr
    )
    assert going.returncode == 75 and "reckon: interrupted." in going.stderr
    assert "Traceback" not in going.stderr


ENDINGS = [
    (signal.SIGKILL, r"was killed \(possibly out of memory\). Try study.jobs=1; the same command"),
    (signal.SIGTERM, "was asked to end. The same command"),
    (signal.SIGSEGV, r"crashed \(SIGSEGV\). The same command"),
    (signal.SIGABRT, r"crashed \(SIGABRT\). The same command"),
]
LIVING = worker("import time; time.sleep(60)")


@pytest.mark.parametrize("number, words", ENDINGS, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_worker_that_a_signal_ended_stops_the_study_in_words(state, number, words, tiny_model, tmp_path):
    arm = plans.plan_study(study_of(tiny_model, tmp_path / "s"))[0]
    with closing(workers.WorkerPool([[0]], LIVING)) as worker_pool:
        (worker,) = worker_pool._listeners
        if state == "busy":
            worker_pool.start(arm, silent)
        worker.send_signal(number)
        if state == "idle":
            worker.wait(10)
            worker_pool.start(arm, silent)
        with pytest.raises(Stopped, match=f"a process of the study {words} goes on from there"):
            worker_pool.wait()


def test_a_worker_that_hangs_stops_the_study_and_one_that_works_does_not(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "SILENCE", 30.0)
    arm = plans.plan_study(study_of(tiny_model, tmp_path / "s"))[0]
    with closing(workers.WorkerPool([[0]], LIVING)) as worker_pool:
        (worker,) = worker_pool._listeners
        worker_pool.start(arm, silent)
        monkeypatch.setattr(process, "SILENCE", 1.0)
        with pytest.raises(queue.Empty):
            worker_pool._messages.get(timeout=1.5)  # signs of life are none of the study's business
        worker.send_signal(signal.SIGSTOP)
        with pytest.raises(
            Stopped,
            match=f"process {worker.pid} of the study gave no sign of life for 1 s, as one that was stopped",
        ):
            worker_pool.wait()
    assert worker.returncode == -signal.SIGKILL


def test_a_killed_worker_stops_the_study_in_words(tiny_model, tmp_path, monkeypatch):
    killed = []
    monkeypatch.setitem(runners.ENGINES, "local", lambda *_: workers.WorkerPool([[0]], BUSY))

    def kill_one(arm):
        def on_progress(phase, done, total, note=""):
            if phase == "train" and not killed:
                killed.append(of_study(os.getpid())[0])
                os.kill(killed[0], signal.SIGKILL)

        return on_progress

    config = study_of(tiny_model, tmp_path / "s", jobs=2)
    with pytest.raises(
        Stopped, match=r"a process of the study was killed \(possibly out of memory\). Try study.jobs=1"
    ):
        run(config, kill_one)
    assert killed and of_study(os.getpid()) == []
