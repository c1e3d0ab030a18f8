"""Shares of a computation in forked processes: the same numbers as in one, and no process that outlives its
parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import chain

import pytest
import torch
from torch import nn

from reckoner.engine import distributed as module
from reckoner.engine.distributed import Replicas, Share
from reckoner.errors import Stopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@pytest.fixture
def three(set_threads):
    """Three threads for torch, and so three shares."""
    set_threads(3)


def children() -> set[str]:
    """Numbers of the processes that this one started, without `ps` itself."""
    found = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="], capture_output=True, text=True
    ).stdout.splitlines()
    return {pid for pid, command in (line.split(maxsplit=1) for line in found) if command != "ps"}


@pytest.fixture
def none_left():
    """No process is left but those of other tests."""
    before = children()
    yield
    assert children() == before


def test_shares_hold_every_item_once():
    shares = [list(Share(index, 3).of("abcdefgh")) for index in range(3)]
    assert shares == [list("adg"), list("beh"), list("cf")] and sorted(chain(*shares)) == list("abcdefgh")


def test_gradients_add_up_and_results_come_in_order(three):
    """Loss (w x)^2 / 2 for x = 1 to 6 and w = 2: its gradient is w times the sum of squares, 182; a bias that
    takes no part has none."""
    line = nn.Linear(1, 1)
    nn.init.constant_(line.weight, 2.0)

    def gradient(share, numbers, scale):
        mine = list(share.of(numbers))
        for x in mine:
            (scale * (line.weight * x).square().sum() / 2).backward()
        return share.index, mine, os.getpid(), torch.get_num_threads()

    with Replicas(gradient, line) as replicas:
        first = replicas([*range(1, 7)], 1.0)
        assert line.weight.grad.item() == 182 and line.bias.grad is None
        replicas([*range(1, 7)], 0.5)
        assert line.weight.grad.item() == 182 + 91
    assert [list(found[:2]) for found in first] == [[0, [1, 4]], [1, [2, 5]], [2, [3, 6]]]
    assert len({found[2] for found in first}) == 3 and {found[3] for found in first} == {1}
    assert torch.get_num_threads() == 3


def test_every_share_sees_the_weights_after_a_step(three):
    line = nn.Linear(1, 1, bias=False)
    nn.init.constant_(line.weight, 8.0)
    optimizer = torch.optim.SGD(line.parameters(), 0.5)

    def gradient(share):
        (line.weight.square().sum() / 2 / share.count).backward()
        return line.weight.item()

    with Replicas(gradient, line) as replicas:
        for weight in (8.0, 4.0, 2.0):
            assert replicas() == [weight] * 3
            optimizer.step()
            optimizer.zero_grad()
    assert line.weight.item() == 1.0


def test_a_small_module_on_several_threads_alone_is_shared(three, monkeypatch):
    line = nn.Linear(1, 1)
    where = lambda share: os.getpid()  # noqa: E731
    with Replicas(where, line) as small:
        assert len(set(small())) == 3
    monkeypatch.setattr(module, "MAX_GRADIENTS", 5)
    with Replicas(where, line) as large:
        assert large() == [os.getpid()]
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with Replicas(where, line) as gpu:
        assert gpu() == [os.getpid()]
    monkeypatch.undo()
    torch.set_num_threads(1)
    with Replicas(where, line) as alone:
        assert alone() == [os.getpid()]


def test_threads_are_one_for_each_share_and_all_while_they_rest(three):
    with Replicas(lambda share: torch.get_num_threads(), nn.Linear(1, 1)) as replicas:
        assert torch.get_num_threads() == 1 and replicas() == [1, 1, 1]
        with replicas.resting():
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_a_killed_process_stops_the_run_with_a_remedy(three, none_left):
    def work(share):
        if share.index == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with (
        pytest.raises(Stopped, match=r"killed \(possibly out of memory\)\. Try run.threads=1"),
        Replicas(work, nn.Linear(1, 1)) as replicas,
    ):
        replicas()


def test_a_process_killed_between_two_calls_is_the_same(three, none_left):
    """The system may kill it while this process evaluates: the next message finds nobody."""
    with (
        pytest.raises(Stopped, match=r"a process of this run was killed"),
        Replicas(lambda share: share.index, nn.Linear(1, 1)) as replicas,
    ):
        assert replicas() == [0, 1, 2]
        os.kill(list(replicas.others)[1], signal.SIGKILL)
        time.sleep(0.2)
        replicas()


def test_a_process_without_memory_is_as_one_killed_for_want_of_it(three, none_left, capfd):
    def work(share):
        if share.index == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    with (
        pytest.raises(Stopped, match=r"killed \(possibly out of memory\)\. Try run.threads=1"),
        Replicas(work, nn.Linear(1, 1)) as replicas,
    ):
        replicas()
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_hangs_stops_the_run(three, none_left, monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 1.0)
    with (
        pytest.raises(Stopped, match=r"process \d+ of this run gave no sign of life for 1 s"),
        Replicas(lambda share: share.index, nn.Linear(1, 1)) as replicas,
    ):
        assert replicas() == [0, 1, 2]
        os.kill(list(replicas.others)[1], signal.SIGSTOP)
        replicas()


@pytest.mark.parametrize("number, words", [(signal.SIGTERM, "was asked to end"), (signal.SIGXCPU, "crashed")])
def test_a_process_that_another_signal_ended_stops_the_run_too(number, words, three, none_left):
    work = lambda share: os.kill(os.getpid(), number) if share.index == 1 else None  # noqa: E731
    with (
        pytest.raises(Stopped, match=f"a process of this run {words}.* The same command goes on from there"),
        Replicas(work, nn.Linear(1, 1)) as replicas,
    ):
        replicas()


def test_a_bug_in_a_share_is_loud(three, none_left, capfd):
    def work(share):
        return 1 / (share.index - 2)

    with pytest.raises(RuntimeError, match="ended with code 1"), Replicas(work, nn.Linear(1, 1)) as replicas:
        replicas()
    assert "ZeroDivisionError" in capfd.readouterr().err


ORPHANS = """
import os, sys, time, torch
from torch import nn
from reckoner.engine.distributed import Replicas
torch.set_num_threads(2)
def work(share):
    if share.index:
        print(os.getpid(), flush=True)
    time.sleep(60)
with Replicas(work, nn.Linear(1, 1)) as replicas:
    replicas()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(how):
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(how)
        parent.wait(20)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")
