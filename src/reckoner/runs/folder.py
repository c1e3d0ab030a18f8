"""A run folder: who may write there, what is written, and the random streams of a run.

Everything that a run leaves behind is JSON, JSONL, YAML or safetensors. A folder belongs to one
configuration, one set of inputs (data, tokenizer, base model) and one set of package versions: going on with
another is refused by its name. One process at a time holds its lock; the lock is the kernel's (flock), so a
killed process leaves none behind.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reckoner import ranks
from reckoner.config import NO_IDENTITY, Config, build_config, read_layer
from reckoner.errors import InputError, Stopped
from reckoner.machine import DECISIVE, code_digest, environment, versions
from reckoner.runs.documents import Entry, Environment, Inputs
from reckoner.runs.integrity import (
    MANIFEST,
    NOTHING,
    entry,
    hash_prefix,
    manifest,
    read_manifest,
    read_summary,
    run_files,
    sha256,
)
from reckoner.runs.records import dumps, json_text, read_json, read_json_lines, write_json, write_text
from reckoner.runs.safe_paths import check_name, flush, refuse_links, regular_file, writing

Progress = Callable[[str, int, int, str], None]
"""`on_progress(phase, done, total, note)`: how the lower layers report without knowing who shows it."""

LENGTH = ("train.num_train_epochs", "rollout.max_steps")
"""Settings that `extend` may raise."""


WORK = ("checkpoints/*", "predictions/*", "limits.json")
"""What a folder holds once something was computed there, as patterns."""


def silent(phase: str, done: int, total: int, note: str) -> None:
    """The progress callback that shows nothing."""


def stream_seed(seed: int, purpose: str, step: int = 0) -> int:
    """The seed (63 bits) of one random stream. A pure function, so that resuming needs no replay."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass
class Run:
    """An open run folder. Use `Run.open(config)` as a context manager; leaving it frees the lock."""

    folder: Path
    config: Config
    _lock: int
    _new: bool = False
    follows: bool = False
    """Whether another rank writes what this run leaves behind."""
    ending: ExitStack = field(default_factory=ExitStack)
    """What else ends with the run."""

    @classmethod
    def open(cls, config: Config, attach: bool = False) -> Run:
        """Make or reopen `config.run.output_dir`.

        Raises `InputError` if it is in use, holds another configuration, or was begun under other versions
        and is not finished. `attach` lets an evaluation with its own settings write beside what a run has
        done. Under torchrun rank 0 alone opens the folder; the others write into one of their own, which goes
        when they end.
        """
        if ranks.rank():
            ranks.from_first(lambda: None)
            folder = Path(tempfile.mkdtemp(prefix="reckon-rank-"))
            return cls(folder, config, lock_folder(folder), follows=True)
        run: list[Run] = []
        ranks.from_first(lambda: run.append(cls._open(config, attach)))
        return run[0]

    @classmethod
    def _open(cls, config: Config, attach: bool) -> Run:
        folder = Path(config.run.output_dir)
        check_name(folder.name)
        lock = lock_folder(folder)
        run = cls(folder, config, lock)
        try:
            refuse_links(folder)
            if not (folder / "config.yaml").is_file():
                run._new = True
                write_json(folder / "environment.json", environment())
                run.write_config()
            else:
                run._check(attach)
        except (InputError, Stopped):
            run.close()
            raise
        return run

    def _check(self, attach: bool) -> None:
        """Whether this command continues what the folder holds. Raises `InputError`."""
        changed = [] if attach else differences(_settings(self.folder), self.config.to_dict())
        if changed:
            longer = ", or give --extend" if changed[0].startswith(LENGTH) else ""
            raise InputError(
                f"{self.folder} was started with {changed[0]}. Use another run.output_dir{longer}"
            )
        if self.summary.get("status") != "finished":
            begun = read_json(self.folder / "environment.json", Environment)
            check_maker(self.folder, begun, "use another run.output_dir")

    def finished(self, method: str) -> dict[str, Any] | None:
        """The summary of a finished run of `method`; None before it has finished.

        `InputError` for a run of another method.
        """
        return ranks.from_first(lambda: self._finished(method))

    def _finished(self, method: str) -> dict[str, Any] | None:
        summary = self.summary
        if summary.get("status") != "finished":
            return None
        if summary.get("method") != method:
            raise InputError(
                f"{self.folder} is a finished run of {summary.get('method')}. Use another run.output_dir"
            )
        return summary

    def write_config(self) -> None:
        write_text(self.folder / "config.yaml", f"# digest: {self.config.digest()}\n{self.config.to_yaml()}")

    def pin(self, inputs: Mapping[str, str]) -> None:
        """Note the sha256 of each input of the run by its name; raises `InputError` where one has changed."""
        ranks.require_same({"code": code_digest(), "configuration": self.config.digest(), **inputs})
        path = self.folder / "inputs.json"
        begun = any(next(self.folder.glob(name), None) for name in (path.name, *WORK))
        before = read_json(path, Inputs) if begun else dict(inputs)
        names = [*before, *(name for name in inputs if name not in before)]
        if changed := [name for name in names if before.get(name) != inputs.get(name)]:
            raise InputError(
                f"{self.folder}: the {changed[0]} is not what it was when this run began. Put it back, or "
                "use another run.output_dir"
            )
        if not begun:
            write_json(path, before)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._new and kind is not None and issubclass(kind, InputError):
            self._withdraw()
        self.close()

    def _withdraw(self) -> None:
        """A run that was refused before it did anything leaves no folder, which would refuse the next try."""
        if any(
            (self.folder / name).exists()
            for name in ("metrics.jsonl", "checkpoints", "predictions", "study.json")
        ):
            return
        for name in ("config.yaml", "environment.json", "inputs.json", "data.json", "prompt.json"):
            (self.folder / name).unlink(missing_ok=True)
        if os.listdir(self.folder) == [".lock"]:
            shutil.rmtree(self.folder)

    def close(self) -> None:
        self.ending.close()
        os.close(self._lock)
        if self.follows:
            shutil.rmtree(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """See `read_summary`."""
        return read_summary(self.folder)

    def conclude(self, summary: Mapping[str, Any], written: Iterable[str] = ()) -> None:
        """Write `summary.json`, and before it the sha256 of every file for `reckon verify`.

        `written` are the files of an evaluation that was added to a finished run: those of before keep the
        hashes they had.
        """
        path, text = self.folder / MANIFEST, json_text(dict(summary))
        before = read_manifest(self.folder) if self.summary else {}
        names = set(run_files(self.folder) if not before else written) - {"summary.json"}
        last: Entry = {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        with writing(path):
            if before:
                last["before"] = sha256(self.folder / "summary.json")
            write_json(path, {**before, **manifest(self.folder, names), "summary.json": last})
        write_text(self.folder / "summary.json", text)

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl. docs/metrics.md defines every name."""
        with (
            writing(self.folder / "metrics.jsonl"),
            open(self.folder / "metrics.jsonl", "a", encoding="ascii") as file,
        ):
            file.write(dumps(metrics) + "\n")

    def note_environment(self, **facts: str) -> None:
        """Add facts to environment.json; it stays as it is once the run has finished."""
        path = self.folder / "environment.json"
        if not self.summary and path.is_file():
            write_json(path, {**read_json(path, Environment), **facts})

    def flush(self) -> Entry:
        """Wait until all metrics are on disk, and return their entry: a checkpoint never knows more."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return NOTHING
        with writing(path):
            for target in (path, self.folder):
                flush(target)
        return entry(path)

    def rewind(self, known: Entry) -> None:
        """Cut metrics.jsonl to what a checkpoint knew of it; the resumed run writes again what came after.

        Raises `InputError` where those first bytes are not what the run wrote: they are reported.
        """
        remedy = "Put it back as it was, or delete the run and train again"
        cut_to_prefix(self.folder / "metrics.jsonl", known, remedy)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far."""
        path = self.folder / "metrics.jsonl"
        return [line for _, line in read_json_lines(path)] if path.is_file() else []


def extend(config: Config) -> None:
    """Let the run in `config.run.output_dir` go on to more epochs or steps than it started with.

    The learning rate follows the new length from here on. Raises `InputError` where anything else differs,
    the run would be shorter, or predictions of the shorter run lie there.
    """
    folder = Path(config.run.output_dir)
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: there is no run to extend")
    with Run.open(config, attach=True) as run:
        old, new = _settings(folder), config.to_dict()
        for section, name in (key.split(".") for key in LENGTH):
            if new[section][name] < old[section][name]:
                raise InputError(
                    f"--extend: {folder} has {section}.{name}={old[section][name]} already, this command "
                    f"asks for {new[section][name]}"
                )
            old[section][name] = new[section][name]
        if changed := differences(old, new):
            raise InputError(
                f"--extend changes nothing but the length, and {folder} was started with {changed[0]}"
            )
        if run.summary.get("evaluations"):
            raise InputError(
                f"{folder} holds predictions of the shorter run. Start from it with --init {folder} "
                "run.output_dir=FOLDER instead"
            )
        with writing(folder):
            (folder / "summary.json").unlink(missing_ok=True)
        run.write_config()


def lock_folder(folder: Path, patience: float = 0.0) -> int:
    """Create `folder` and take its lock, for which it waits so many seconds; returns the file descriptor."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Stopped(f"{folder}: no space left. Free some and give the same command again") from error
        raise InputError(
            f"{folder}: cannot be used as output folder ({error.strerror}). Set run.output_dir to one that "
            "can be written"
        ) from error
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError as error:
            if time.monotonic() < end:
                time.sleep(0.5)
                continue
            os.close(lock)
            raise InputError(
                f"{folder} is in use by another reckon command. Wait for it or use another run.output_dir"
            ) from error


def cut_to_prefix(path: Path, known: Entry, remedy: str) -> hashlib._Hash:
    """Cut a file to the first bytes, which `known` describes; returns their sha256, open for more.

    Raises `InputError` with the remedy where these bytes have changed.
    """
    size = path.stat().st_size if path.is_file() else 0
    digest = hash_prefix(path, known["size"]) if size else hashlib.sha256()
    if size < known["size"] or digest.hexdigest() != known["sha256"]:
        raise InputError(f"{path}: has changed since it was written. {remedy}")
    if size > known["size"]:
        with writing(path):
            os.truncate(path, known["size"])
    return digest


def check_maker(begun: Path, maker: Environment, otherwise: str) -> None:
    """Raise `InputError` where `begun` was begun with other versions or other code than this command's.

    `otherwise` is what the user may do instead of going back to those.
    """
    then, now = (
        {name: one.get(name) for name in DECISIVE} for one in (maker["versions"], versions(DECISIVE))
    )
    if changed := differences(then, now):
        raise InputError(f"{begun} was started with {changed[0]}. Install that version again, or {otherwise}")
    if maker.get("code") != code_digest():
        commit = f" (commit {maker['commit']})" if maker.get("commit") else ""
        raise InputError(
            f"{begun} was started by other source code of the same version of reckoner. "
            f"Restore that code{commit} to go on, or {otherwise}"
        )


def read_config(path: Path) -> dict[str, Any]:
    """The nested mapping of a saved config.yaml."""
    try:
        with regular_file(path) as file:
            return read_layer(file.read().decode(), str(path))[0]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a saved configuration ({error})") from error


def _settings(folder: Path) -> dict[str, Any]:
    """The settings that a run began with; one that came later than the run has its default."""
    return build_config([(read_config(folder / "config.yaml"), {})]).to_dict()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings of settings, each as "key=old, this command has new".

    Settings that do not count for a run's identity are left out.
    """
    changed = []
    for key in [*old, *(k for k in new if k not in old)]:
        path = f"{prefix}{key}"
        left, right = old.get(key), new.get(key)
        if path in NO_IDENTITY:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            changed += differences(left, right, f"{path}.")
        elif left != right:
            changed.append(f"{path}={left}, this command has {right}")
    return changed
