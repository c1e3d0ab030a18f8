"""Size and sha256 of the files of a folder: written at the end of a run, checked before use.

A manifest tells accidents and careless changes. It is no signature: who changes a file can write its manifest
again, so the sha256 of the manifest itself, which `reckon verify` prints, is what to note elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from reckoner.errors import InputError
from reckoner.runs.documents import Entry, Manifest
from reckoner.runs.records import read_json
from reckoner.runs.safe_paths import inside, regular_file

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
        found = manifest(folder)
    except (OSError, InputError) as error:
        return f"{MANIFEST}: {error}"
    if promised.keys() != found.keys():
        return "its files are not those of its manifest"
    changed = [name for name in found if promised[name] != found[name]]
    return f"{changed[0]} has changed" if changed else ""


def changed(folder: Path, promised: Manifest) -> Iterator[str]:
    """What is wrong with each file of `folder` that differs from its manifest; follows checkpoints."""
    for name, known in promised.items():
        path = inside(folder, name, folder / MANIFEST)
        if not path.is_file():
            yield f"{path}: is missing"
        elif path.stat().st_size != known["size"] or sha256(path) != known["sha256"]:
            yield f"{path}: has changed since the run finished"
        elif path.name == MANIFEST and (why := fault(path.parent)):
            yield f"{path.parent}: {why}"


def check_finished(run: Path, *parts: str) -> None:
    """Raise `InputError` unless `run` has finished and its files below `parts` are unchanged.

    Whoever uses a file of a finished run (weights, configuration, predictions) calls this first. A file there
    that no manifest names is a fault too.
    """
    if not (run / "summary.json").is_file():
        raise InputError(f"{run}: has not finished. Give the command that began it again, and then this one")
    promised = read_json(run / MANIFEST, Manifest)

    def belongs(name: str) -> bool:
        return any(name == part or name.startswith(f"{part}/") for part in parts)

    wrong = list(changed(run, {name: known for name, known in promised.items() if belongs(name)}))
    wrong += [
        f"{run / n}: was not there when the run finished"
        for n in run_files(run)
        if belongs(n) and n not in promised
    ]
    if wrong:
        raise InputError(f"{wrong[0]}. Put it back as it was (reckon verify {run} names all that differs)")


def run_files(folder: Path) -> list[str]:
    """The files of a run by their paths, without hidden ones; a checkpoint is there by its own manifest."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(parent).relative_to(folder)
        own = inside.parts[:1] == ("checkpoints",) and len(inside.parts) == 2 and MANIFEST in files
        names = (
            [MANIFEST]
            if own
            else [name for name in files if not name.startswith(".") and (inside.parts or name != MANIFEST)]
        )
        found += [(inside / name).as_posix() for name in names]
    return sorted(found)
