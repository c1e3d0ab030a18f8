"""Size and sha256 of the files of a folder: written at the end of a run, checked before use.

A manifest tells accidents and careless changes. It is no signature: who changes a file can write its manifest
again, so the sha256 of the manifest itself, which `reckon verify` prints, is what to note elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from reckoner.errors import InputError
from reckoner.runs.documents import Entry, Manifest, Summary, TuneRecord
from reckoner.runs.records import dumps, read_json
from reckoner.runs.safe_paths import regular_file, resolve_within

MANIFEST = "MANIFEST.json"
NOTHING: Entry = {"size": 0, "sha256": hashlib.sha256().hexdigest()}
"""Of a file in which nothing is written yet."""


def sha256(path: Path) -> str:
    """sha256 of a file, in hex."""
    with regular_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_prefix(path: Path, size: int) -> hashlib._Hash:
    """The sha256 of the first `size` bytes of a file, open for more bytes."""
    digest = hashlib.sha256()
    with regular_file(path) as file:
        while size > 0 and (block := file.read(min(size, 2**20))):
            digest.update(block)
            size -= len(block)
    return digest


def entry(path: Path) -> Entry:
    """Size and sha256 of a file."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def manifest(folder: Path, names: Iterable[str] | None = None) -> Manifest:
    """The entries of the named files of a folder; by default of all directly in it but the manifest."""
    if names is None:
        names = (p.name for p in folder.iterdir() if p.is_file() and p.name != MANIFEST)
    return {name: entry(folder / name) for name in sorted(names)}


def fault(folder: Path) -> str:
    """Why a folder with a manifest cannot be used, or '' if every file in it is as it was written."""
    try:
        promised = read_json(folder / MANIFEST, Manifest)
        present = manifest(folder)
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if promised.keys() != present.keys():
        return "its files are not those of its manifest"
    changed = [name for name in present if promised[name] != present[name]]
    return f"{changed[0]} has changed" if changed else ""


def changed(
    run: Path, promised: Manifest, *subpaths: str, seen: Callable[[int], object] = lambda size: None
) -> Iterator[str]:
    """What is wrong with each file of `run` at or below `subpaths` (none given: every file).

    Its manifest says how each file was when it finished. A file that it does not name is wrong too.
    The manifests of checkpoints are followed. `seen` is called with the size of each file that was read.
    """

    def belongs(name: str) -> bool:
        return not subpaths or any(name == subpath or name.startswith(f"{subpath}/") for subpath in subpaths)

    for name, known in promised.items():
        if not belongs(name):
            continue
        path = resolve_within(run, name, run / MANIFEST)
        if not path.is_file():
            yield f"{path}: is missing"
        elif path.stat().st_size != known["size"] or sha256(path) != known["sha256"]:
            yield f"{path}: has changed since the run finished"
        elif path.name == MANIFEST and (why := fault(path.parent)):
            yield f"{path.parent}: {why}"
        seen(known["size"])
    for name in run_files(run):
        if belongs(name) and name not in promised:
            yield f"{run / name}: was not there when the run finished, or an evaluation of it did not finish"


def require_finished(run: Path) -> None:
    """Raise `InputError` where there is no run, or one that has not finished."""
    if (run / "summary.json").is_file():
        return
    if (run / "config.yaml").is_file():
        raise InputError(f"{run}: has not finished. Give the command that began it again, and then this one")
    raise InputError(f"{run}: no finished run here (it has no summary.json). Name a folder that a run wrote")


def check_finished(run: Path, *subpaths: str) -> None:
    """Raise `InputError` unless `run` has finished and its files at or below `subpaths` are unchanged.

    Whoever uses a file of a finished run (weights, configuration, predictions) calls this first.
    """
    require_finished(run)
    _refuse(run, changed(run, read_manifest(run), *subpaths))


def check_known(run: Path, *names: str) -> None:
    """Raise `InputError` where one of these files of a finished `run` is not as its manifest names it."""
    promised = read_manifest(run) if (run / "summary.json").is_file() else {}
    if known := [name for name in names if name in promised]:
        _refuse(run, changed(run, promised, *known))


def _refuse(run: Path, wrong: Iterable[str]) -> None:
    for what in wrong:
        raise InputError(f"{what}. Put it back as it was (reckon verify {run} names all that differs)")


def read_manifest(run: Path) -> Manifest:
    """The manifest of a finished run; raises `InputError` where there is none."""
    if not (run / MANIFEST).is_file():
        raise InputError(
            f"{run}: has no {MANIFEST}, which a run writes when it finishes. Put it back: without it the "
            "run's files cannot be checked"
        )
    promised: Manifest = read_json(run / MANIFEST, Manifest)
    return promised


def read_summary(run: Path) -> dict[str, Any]:
    """What the `summary.json` of a run holds; empty before anything has finished.

    Raises `InputError` where it is not what the run wrote. After a kill between the manifest and the summary
    it is the one of before, whose hash the manifest holds as well. Only a summary without a status, which is
    from before there were manifests, needs none.
    """
    path = run / "summary.json"
    summary: dict[str, Any] = read_json(path, Summary, missing={})
    if summary.get("status") or (summary and (run / MANIFEST).is_file()):
        known = read_manifest(run).get(path.name, NOTHING)
        if sha256(path) not in (known["sha256"], known.get("before")):
            _refuse(run, [f"{path}: has changed since the run finished"])
    return summary


def run_files(folder: Path) -> list[str]:
    """The files of a run by their paths, without hidden ones; a checkpoint is there by its own manifest."""
    paths = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(parent).relative_to(folder)
        if below.parts[:1] == ("checkpoints",) and len(below.parts) == 2 and MANIFEST in files:
            files = [MANIFEST]
        paths += [(below / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(path for path in paths if path != MANIFEST)


def read_tune_record(folder: Path) -> TuneRecord | None:
    """The record of a study's search for rates, None where there is none.

    Raises `InputError` for one that was edited.
    """
    path = folder / "tune" / "record.json"
    if not path.is_file():
        return None
    record: TuneRecord = read_json(path, TuneRecord)
    if record["digest"] != tune_digest(record):
        raise InputError(
            f"{path}: was edited after the search. Put it back, or delete {path.parent} and search again"
        )
    return record


def tune_digest(record: TuneRecord) -> str:
    """sha256 of what a record holds but for this."""
    return hashlib.sha256(dumps({**record, "digest": ""}).encode()).hexdigest()
