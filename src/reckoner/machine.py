"""The machine and the packages that a run has, and the memory that it takes. Torch-free."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import logging
import math
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import Any

from reckoner import __version__
from reckoner.errors import InputError

ADDRESS_SPACE = 2**31
"""Bytes of addresses that Python, torch, scipy and Numba map before any work; a third of it is held."""

PACKAGES = (
    "reckoner",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "safetensors",
    "datasets",
    "numpy",
    "numba",
    "scipy",
    "bitsandbytes",
)
DECISIVE = ("reckoner", "torch", "transformers", "tokenizers", "peft", "numba", "bitsandbytes")
"""Packages whose version decides what a run computes: none of them may change before it is finished."""


def peak_memory_bytes(reset: bool = False) -> int:
    """Largest resident size of this process in bytes, since its start or the last reset (Linux only).

    A reset first returns what earlier work has freed: the allocator keeps it otherwise, and it would count as
    later work's.
    """
    if reset:
        gc.collect()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
    status = Path("/proc/self/status")
    if not status.is_file():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    peak = (
        int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
        * 1024
    )
    if reset and os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
    return peak


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 32 MiB for later allocations; elsewhere nothing changes.

    By itself it gives the end of its heap back, and the system clears every page anew in each step of a
    training.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD


def allowed_cores() -> int:
    """The cores that this process may use: those of its affinity where the system has one, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def say_once(line: str) -> None:
    """Log a line that a user should read, the first time that a process comes upon it."""
    logging.getLogger("reckoner").warning(line)


def user_cache(kind: str) -> tuple[Path, str]:
    """A folder of ours in the user's cache, made for its owner alone, and why it cannot be used, if so.

    Neither it nor a folder above it may let others replace what is in it.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home).absolute() / "reckoner" / kind
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
        return folder, next(
            (f"others may write in {path}" for path in _writable_by_others(folder.resolve())), ""
        )
    except OSError as error:
        return folder, str(error.strerror)


def _writable_by_others(folder: Path) -> Iterator[Path]:
    """Those of `folder` and its parents in which another user may replace an entry.

    Write access of one's own group counts for `folder`, not for its parents.
    """
    for path in (folder, *folder.parents):
        status = path.stat()
        trusted_group = path != folder and status.st_gid == os.getegid()
        sticky = path != folder and status.st_mode & 0o1000
        writable = status.st_mode & (0o002 if trusted_group else 0o022) and not sticky
        if status.st_uid not in (os.geteuid(), 0) or writable:
            yield path


def environment() -> dict[str, Any]:
    """Versions and hardware, without names of users, hosts or paths."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "allowed_cores": allowed_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": versions(PACKAGES),
        "commit": _commit(),
        "code": code_digest(),
    }


def code_digest() -> str:
    """sha256 over the Python files of this package: a version number does not show an edited file."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        digest.update(f"{path.relative_to(here).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _commit() -> str:
    """The commit of this package's source; empty without git, or where the repository does not track it.

    A package installed inside somebody's project lies in that project's checkout, whose commit says nothing
    of it.
    """
    here = Path(__file__)
    if not shutil.which("git"):
        return ""
    for words in (["ls-files", "--error-unmatch", here.name], ["rev-parse", "HEAD"]):
        command = ["git", "-C", str(here.parent), *words]
        git = subprocess.run(command, capture_output=True, text=True, check=False)
        if git.returncode:
            return ""
    return git.stdout.strip()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed ones of `packages` with their versions; ours is that of the code which runs."""
    from importlib import metadata  # a tenth of the start of every verb, and few ask

    installed = {}
    for package in packages:
        if package == "reckoner":  # a distribution of this name is another project
            installed[package] = __version__
            continue
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def check_address_space() -> None:
    """Refuse a limit of addresses (`ulimit -v`) in which libraries cannot start: OpenBLAS tries for ever.

    Raises `InputError`.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= soft < ADDRESS_SPACE:
        raise InputError(
            f"ulimit -v allows {soft // 1024:,} KiB of addresses, and the libraries need "
            f"{ADDRESS_SPACE // 1024:,} before any model is loaded. "
            "Raise it, or limit the memory with a cgroup"
        )


SLOW, _slow = 0.1, 0.0
"""Seconds from which a call of `bounded` is slow, and what slow calls have taken in this process."""

TOGETHER = 60.0
"""Seconds that slow calls over the texts of a data set may take together."""


@contextmanager
def bounded(seconds: float = 10.0, memory: int = 2**30, together: float = math.inf) -> Iterator[None]:
    """Run what a stranger wrote (a template, a regular expression) within limits of time and memory.

    Raises `OverLimit` after that time and `MemoryError` beyond that memory. Calls that are `SLOW` may take
    `together` seconds in one process, so that thousands of texts cannot each take almost the limit. Signals
    reach only the main thread of a process; elsewhere there is no limit.
    """
    global _slow
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    limit, began = min(seconds, max(SLOW, together - _slow)), time.monotonic()

    def stop(number: int, frame: FrameType | None) -> None:
        whole = f"{seconds:g} s" if limit == seconds else f"{together:g} s on several texts"
        raise OverLimit(f"it takes more than {whole}")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")  # Linux; where it is missing only the time is limited
    most = (
        int(pages.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory if pages.is_file() else soft
    )
    before = signal.signal(signal.SIGALRM, stop)
    if most != soft and (soft == resource.RLIM_INFINITY or most < soft):
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        took = time.monotonic() - began
        _slow += took if took > SLOW and together < math.inf else 0.0
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class OverLimit(RuntimeError):
    """What `bounded` runs takes too long. The message says how long it may take."""
