"""What a folder holds, by size and sha256: written beside the files when they are finished, and checked before they are trusted.

A manifest tells accidents and careless changes. It is no signature: who changes a file can write its manifest again, so
the sha256 of the manifest itself, which `reckon verify` prints, is what to note elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"

Entries = dict[str, dict[str, Any]]
"""Relative path -> {"size": bytes, "sha256": hex}."""


def sha256(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder: Path, names: Iterable[str] | None = None) -> Entries:
    """Size and sha256 of the named files of a folder; by default of all that lie directly in it but the manifest."""
    if names is None:
        names = (p.name for p in folder.iterdir() if p.is_file() and p.name != MANIFEST)
    return {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in sorted(names)
    }


def fault(folder: Path) -> str:
    """Why a folder with a manifest cannot be used, or '' if every byte directly in it is as it was written."""
    try:
        promised = json.loads((folder / MANIFEST).read_bytes())
        found = manifest(folder)
    except (OSError, ValueError, RecursionError) as error:
        return f"{MANIFEST}: {error}"
    if not isinstance(promised, dict) or promised.keys() != found.keys():
        return "its files are not those of its manifest"
    changed = [name for name in found if promised[name] != found[name]]
    return f"{changed[0]} has changed" if changed else ""


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
