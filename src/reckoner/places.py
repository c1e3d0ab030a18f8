"""Names, paths and files that come from outside: no name leads out of its folder, and only regular files are read.

A run folder may come from anywhere, so what its files name is foreign, and a link in it could send what is read or
written elsewhere. Paths that a user types are his own affair.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from contextlib import AbstractContextManager, nullcontext
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from reckoner.faults import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, where such a folder could not even be unpacked."""

LONGEST = 240
"""Characters of a path in a file, all of which a file system takes as one name."""


def check_name(name: str) -> str:
    """Return `name` if it is fit for a folder of ours; raises `InputError` otherwise."""
    if not NAME.fullmatch(name) or name.endswith(".") or RESERVED.fullmatch(name):
        raise InputError(
            f"{name[:100]!r} is not a name for a run: letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit"
        )
    return name


def inside(folder: Path, part: str, where: Path) -> Path:
    """`folder / part`, named by the file `where`: a relative path of plain names, of which none is a link. Raises `InputError`."""
    path, names = folder, part.split("/")
    plain = (
        part.isprintable()
        and len(part) <= LONGEST
        and not any(name in ("", ".", "..") or re.search(r"[\\:]", name) for name in names)
    )
    for name in names if plain else ():
        path = path / name
        plain = plain and not path.is_symlink()
    if not plain:
        raise InputError(f"{where}: {part[:100]!r} leaves the folder, or is no plain relative path")
    return path


def refuse_links(folder: Path) -> None:
    """Raise `InputError` where a file or folder below `folder` is a link, since writing through it would end up elsewhere."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(path := os.path.join(parent, name)):
                raise InputError(
                    f"{path} is a link to {os.readlink(path)[:100]!r}: a run keeps its files in its own folder. Put the file itself there"
                )


def regular_file(path: Path | str) -> BufferedReader:
    """`path`, opened to read its bytes; every file that is read is opened here. Raises what `open` raises.

    A FIFO, device or socket raises `InputError`: it may block, never end, or give its bytes only once.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a pipe, device or socket, not a file. Save its content as a file first")
    return open(path, "rb")


def input_file(source: Path | str) -> AbstractContextManager[BinaryIO]:
    """As `regular_file`, and "-" is the standard input."""
    if str(source) != "-":
        return regular_file(source)
    if sys.stdin is None:
        raise InputError("-: the standard input is closed. Name a file")
    return nullcontext(sys.stdin.buffer)
