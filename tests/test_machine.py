"""Memory that is measured anew for each piece of work, and versions."""

import ctypes
import gc
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reckoner import machine


def test_peak_memory_can_start_again():
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    high = machine.peak_memory_bytes(reset=True)
    del block
    machine.peak_memory_bytes(reset=True)
    assert high - machine.peak_memory_bytes() > 100_000_000


def test_what_earlier_work_has_freed_does_not_count_as_later_works():
    """Small blocks stay with the allocator, and a cycle with the collector, until they are asked for."""
    before = machine.peak_memory_bytes(reset=True)
    gc.disable()
    rows = [[str(n)] for n in range(1_000_000)]
    rows.append(rows)
    del rows
    assert machine.peak_memory_bytes() - before > 50_000_000
    gc.enable()
    machine.peak_memory_bytes(reset=True)
    assert machine.peak_memory_bytes() - before < 10_000_000


def test_versions_are_of_what_is_installed():
    found = machine.versions(("reckoner", "no-such-package"))
    assert found.keys() == {"reckoner"} and found["reckoner"][0].isdigit()
    assert set(machine.DECISIVE) <= set(machine.PACKAGES)


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_without_git_there_is_an_environment_and_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machine.environment()
    assert found["commit"] == "" and found["versions"]["torch"]


@pytest.mark.skipif(not shutil.which("git"), reason="this machine has no git")
def test_a_commit_is_that_of_the_checkout_which_tracks_the_source(monkeypatch, tmp_path):
    """Installed inside a project, the package lies in that project's checkout but is not tracked by it."""
    package = tmp_path / "venv" / "reckoner"
    package.mkdir(parents=True)
    (package / "machine.py").write_text("")
    (tmp_path / "theirs.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "theirs.py")
    git(tmp_path, "commit", "-qm", "theirs")
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    assert machine.environment()["commit"] == ""
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "ours")
    assert machine.environment()["commit"] == git(tmp_path, "rev-parse", "HEAD")


def test_the_digest_of_the_code_follows_every_python_file(monkeypatch, tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("machine.py", "inner/a.py"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    before = machine.code_digest()
    (tmp_path / "notes.txt").write_text("")
    assert machine.code_digest() == before == machine.environment()["code"]
    (tmp_path / "inner" / "a.py").write_text("x = 1")
    edited = machine.code_digest()
    (tmp_path / "inner" / "a.py").rename(tmp_path / "inner" / "b.py")
    assert len({before, edited, machine.code_digest()}) == 3


FAULTS = """
import resource, sys
from reckoner.machine import keep_freed_memory
if sys.argv[1:]:
    keep_freed_memory()
for turn in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * 12_000_000 for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="this system's C library keeps freed memory in its own way",
)
def test_freed_memory_is_kept_for_the_next_allocation():
    """48 MB are 11,719 pages; given back and taken anew, each of them is a page fault."""
    given_back, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, *how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ([], ["keep"])
    )
    assert kept < 100 < 1_000 < given_back


def test_slow_calls_of_what_a_stranger_wrote_end_together(monkeypatch):
    """Each of them is far within its own limit."""
    monkeypatch.setattr(machine, "_slow", 0.0)
    calls = 0
    with pytest.raises(machine.OverLimit, match="it takes more than 0.25 s on several texts"):
        for _ in range(9):
            with machine.bounded(together=0.25):
                time.sleep(0.12)
            calls += 1
    assert calls <= 2  # the busier the machine, the fewer
    with machine.bounded():
        time.sleep(0.12)  # a call of another kind has its own limit


def test_what_a_stranger_wrote_ends_in_time_and_leaves_no_limit_behind():
    before = signal.getsignal(signal.SIGALRM), resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(machine.OverLimit, match="it takes more than 0.2 s"), machine.bounded(seconds=0.2):
        re.match(r"(a+)+b", "a" * 50)
    with pytest.raises(MemoryError), machine.bounded(memory=2**26):
        bytearray(2**28)
    with machine.bounded(seconds=0.2):
        pass
    time.sleep(0.3)  # a timer that was left running would end this process
    assert (signal.getsignal(signal.SIGALRM), resource.getrlimit(resource.RLIMIT_AS)) == before
