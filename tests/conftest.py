"""What many tests share: settings of hypothesis, and a model small enough to train in a second."""

import atexit
import dataclasses
import gc
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile, mkdtemp

import pytest
from benchmarks.small_gemma import small_gemma
from hypothesis import settings

# Collections would walk what the tests import again and again; `pytest_collection_finish` turns them on.
gc.disable()

# Tensors of tests are tiny: a second thread only waits. Set before torch is imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _own_test_ledger() -> None:
    """A cache of its own for the ledger of test; the rest of the user's cache is linked into it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    own = Path(mkdtemp(prefix="reckoner-tests-"))
    atexit.register(rmtree, own, ignore_errors=True)
    for kind in ("numba", "gguf"):
        (home / "reckoner" / kind).mkdir(mode=0o700, parents=True, exist_ok=True)
    (own / "reckoner").mkdir(mode=0o700)
    for entry in (*home.iterdir(), *(home / "reckoner").iterdir()):
        if entry.name not in ("reckoner", "test-ledger"):
            (own / entry.relative_to(home)).symlink_to(entry)
    os.environ["XDG_CACHE_HOME"] = str(own)


_own_test_ledger()

# No wall-clock limit: on a busy machine it fails tests that are right.
settings.register_profile("reckoner", deadline=None)
settings.load_profile("reckoner")


def pytest_configure() -> None:
    """Side by side, each worker and what it starts keep to one core: threads of torch that share one wait
    for each other.

    A suite in the background of a shell inherits that interrupts are ignored; what it starts must not.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that none is left to one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Runs collect garbage before they measure memory; what the tests imported is not searched."""
    gc.collect()
    gc.freeze()
    gc.enable()


class Command:
    """`reckon` with these words in a fork of this process: a process of its own that has imported everything.

    What it computes needs run.threads=1: a fork would wait for threads that OpenMP started before it.
    """

    def __init__(self, words: Sequence[object], cwd: Path, stdin: bytes = b"") -> None:
        self._files = [TemporaryFile() for _ in range(3)]
        self._files[0].write(stdin)
        self._files[0].seek(0)
        self.returncode: int | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads hold no lock of ours
            self.pid = os.fork()
        if not self.pid:
            self._become([str(word) for word in words], cwd)

    def _become(self, words: Sequence[str], cwd: Path) -> None:
        code = 1
        try:
            for number, file in enumerate(self._files):
                os.dup2(file.fileno(), number)
            how = {"buffering": 1, "errors": "surrogateescape", "closefd": False}  # as under LC_ALL=C
            streams = [open(number, mode, **how) for number, mode in enumerate("rww")]
            sys.stdin, sys.stdout, sys.stderr = streams
            os.chdir(cwd)
            warnings.resetwarnings()
            sys.modules["torch"].set_num_threads(1)  # makes a pool anew, before threads do so side by side
            sys.argv = ["reckon", *words]
            code = import_module("reckoner.__main__").main()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        """The exit code (a signal's number below zero) of a command that has ended."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = 120) -> "Command":
        """This command, once it has ended or `until` is true; else it is killed, and the test fails."""
        end = time.monotonic() + seconds
        while self.poll() is None and not until():
            if time.monotonic() > end:
                self.close()
                pytest.fail(f"the command takes longer than {seconds} s")
            time.sleep(0.01)
        return self

    def _written(self, number: int) -> str:
        size = os.fstat(self._files[number].fileno()).st_size
        return os.pread(self._files[number].fileno(), size, 0).decode()

    stdout = property(lambda self: self._written(1), doc="What it has written so far.")
    stderr = property(lambda self: self._written(2), doc="What it has written so far.")

    def __repr__(self) -> str:
        return f"Command({self.returncode=}, {self.stdout=}, {self.stderr=})"

    def close(self) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.returncode = -signal.SIGKILL
        for file in self._files:
            file.close()


@pytest.fixture
def set_threads():
    """Sets the threads of torch until the test ends."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def start_reckon(tmp_path) -> Iterator[Callable[..., Command]]:
    """Start a command line that knows torch already; what is left of it at the end of the test is killed."""
    import_module("reckoner.study.execute")
    started: list[Command] = []

    def start(*words: object, cwd: Path = tmp_path, stdin: bytes = b"") -> Command:
        started.append(Command(words, cwd, stdin))
        return started[-1]

    yield start
    for command in started:
        command.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """60,000 random weights, most of whose answers are short, so that tests are."""
    return small_gemma(tmp_path_factory.mktemp("tiny") / "model", seed=1, eos=5)


@pytest.fixture
def tiny_config(tiny_model, tmp_path):
    """48 embedded problems to learn from, 8 for dev, 12 for test, six steps an epoch, in a fresh run
    folder.
    """
    from reckoner.config import (
        Config,
        DataConfig,
        EvalConfig,
        ModelConfig,
        PromptConfig,
        RunConfig,
        TrainConfig,
    )

    return Config(
        model=ModelConfig(model_name_or_path=str(tiny_model)),
        data=DataConfig(dev_size=8, max_train_samples=48, max_test_samples=12),
        prompt=PromptConfig(chat_template="off"),
        train=TrainConfig(learning_rate=1e-3, per_device_train_batch_size=4, gradient_accumulation_steps=2),
        eval=EvalConfig(dev_samples=4),
        run=RunConfig(output_dir=str(tmp_path / "run"), save_steps=0),
    )


@pytest.fixture
def rl_config(tiny_config):
    """A run of 4 steps of 4 x 4 completions on embedded problems, evaluated every second step, without a
    guard.
    """
    tiny_config.rollout = dataclasses.replace(
        tiny_config.rollout, num_prompts=4, num_generations=4, max_steps=4, patience=0, kl_samples=8
    )
    tiny_config.train.eval_steps = 2
    tiny_config.train.lr_scheduler_type = "constant"
    tiny_config.eval.dev_samples = 2
    return tiny_config
