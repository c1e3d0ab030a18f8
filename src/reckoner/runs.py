"""A run folder: who may write there, what is written, and the random streams of a run.

Everything that a run leaves behind is JSON, JSONL, YAML or safetensors. A folder belongs to one configuration: opening it
with another one is refused by the name of the first setting that differs. One process at a time holds its lock; the lock
is the kernel's (flock), so a killed process leaves none behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from reckoner.config import Config
from reckoner.faults import InputError, Stopped
from reckoner.records import dumps, read_json_lines

Progress = Callable[[str, int, int, str], None]
"""`on_progress(phase, done, total, note)`: how the lower layers report without knowing who shows it."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PACKAGES = ("reckoner", "torch", "transformers", "tokenizers", "peft", "safetensors", "datasets", "numpy", "scipy", "bitsandbytes")


def silent(phase: str, done: int, total: int, note: str) -> None:
    """The progress callback that shows nothing."""


def check_name(name: str) -> str:
    """Return `name` if it is fit for a folder of ours; raises `InputError` otherwise."""
    if not NAME.fullmatch(name) or name.endswith("."):
        raise InputError(f"{name!r} is not a name for a run: letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit")
    return name


def stream_seed(seed: int, purpose: str, step: int = 0) -> int:
    """The seed (63 bits) of one random stream. A pure function, so that resuming needs no replay."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def write_text(path: Path, text: str) -> None:
    """Replace `path` in one step: a reader sees the old file or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by one readable JSON document, in one step."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses (full, read-only, a file in the way) into `Stopped` with one line."""
    try:
        yield
    except OSError as error:
        raise Stopped(f"{path}: cannot be written ({error.strerror}). Nothing finished is lost: mend it and run the same command again") from error


def peak_memory_bytes(reset: bool = False) -> int:
    """Largest resident size of this process in bytes, since the start or the last reset (Linux can reset, others cannot)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    peak = int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))) * 1024
    if reset and os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
    return peak


def environment() -> dict[str, Any]:
    """Versions and hardware, without names of users, hosts or paths."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    here = Path(__file__).parent
    git = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": versions,
        "commit": git.stdout.strip() if git.returncode == 0 else "",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@dataclass
class Run:
    """An open run folder. Use `Run.open(config)` as a context manager; leaving it frees the lock."""

    folder: Path
    config: Config
    _lock: int

    @classmethod
    def open(cls, config: Config, attach: bool = False) -> Run:
        """Make or reopen `config.run.output_dir`; raises `InputError` if it is in use or holds another configuration.

        `attach` lets an evaluation with its own settings write beside what a run has done.
        """
        folder = Path(config.run.output_dir)
        check_name(folder.name)
        lock = lock_folder(folder)
        run = cls(folder, config, lock)
        saved = folder / "config.yaml"
        if saved.is_file():
            if attach:
                return run
            if found := differences(read_config(saved), config.to_dict()):
                run.close()
                raise InputError(f"{folder} was started with {found[0]}. Use another run.output_dir")
        else:
            write_text(saved, f"# digest: {config.digest()}\n{config.to_yaml()}")
            write_json(folder / "environment.json", environment())
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._lock)

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; empty before anything has finished."""
        return read_json(self.folder / "summary.json", missing={})

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl. docs/metrics.md defines every name."""
        with writing(self.folder / "metrics.jsonl"), open(self.folder / "metrics.jsonl", "a", encoding="ascii") as file:
            file.write(dumps(metrics) + "\n")

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop the metrics after `step`, which the resumed run writes again, and return those kept. A torn last line goes too."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        whole = drop_torn_line(path)
        kept = [line for line in whole if line["step"] <= step]
        write_text(path, "".join(dumps(line) + "\n" for line in kept))
        return kept


def lock_folder(folder: Path) -> int:
    """Create `folder` and take its lock; returns the file descriptor that holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{folder}: cannot be used as output folder ({error.strerror}). Set run.output_dir to one that can be written") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise InputError(f"{folder} is in use by another reckon command. Wait for it or use another run.output_dir") from error
    return lock


def drop_torn_line(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file that was being appended to: bytes after the last line feed are cut off the file."""
    with open(path, "rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
    return [value for _, value in read_json_lines(path)]


def read_json(path: Path, missing: Any = None) -> Any:
    """One JSON document; `missing` where there is no such file (or `InputError` when that is None)."""
    if not path.is_file() and missing is not None:
        return missing
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error


def read_config(path: Path) -> dict[str, Any]:
    """The nested mapping of a saved config.yaml."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as a saved configuration ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: is not a saved configuration")
    return value


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, each as "key=old, this command has new"; where and how often a run saves does not count."""
    free = {"run.output_dir", "run.logging_steps", "run.save_steps", "run.save_total_limit"}
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
        path = f"{prefix}{key}"
        left, right = old.get(key), new.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{path}.")
        elif left != right and path not in free:
            found.append(f"{path}={left}, this command has {right}")
    return found
