"""Names, paths and files from outside: no name leaves its folder, only regular files are read.

A run folder may come from anywhere, so what its files name is foreign, and a link in it could send what is
read or written elsewhere. Paths that a user types are his own affair.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from reckoner.errors import InputError, Stopped

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, where such a folder could not even be unpacked."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

LONGEST = 240
"""Characters of a path in a file, all of which a file system takes as one name."""


def check_name(name: str) -> str:
    """Return `name` if it is fit for a folder of ours; raises `InputError` otherwise."""
    if not NAME.fullmatch(name) or name.endswith(".") or RESERVED.fullmatch(name):
        raise InputError(
            f"{name[:100]!r} is not a name for a run: letters, digits, '.', '_' and '-', at most 64, "
            "beginning with a letter or digit"
        )
    return name


def as_name(text: str) -> str:
    """Any text as letters, digits, '.', '_' and '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")


def resolve_within(folder: Path, relative: str, where: Path) -> Path:
    """`folder / part`, named by the file `where`: a relative path of plain names, of which none is a link.

    Raises `InputError`.
    """
    path, names = folder, relative.split("/")
    plain = (
        relative.isprintable()
        and len(relative) <= LONGEST
        and not any(name in ("", ".", "..") or re.search(r"[\\:]", name) for name in names)
    )
    for name in names if plain else ():
        path = path / name
        plain = plain and not path.is_symlink()
    if not plain:
        raise InputError(f"{where}: {relative[:100]!r} leaves the folder, or is no plain relative path")
    return path


def refuse_links(folder: Path) -> None:
    """Raise `InputError` where a file or folder below `folder` is a link: it leads elsewhere."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(path := os.path.join(parent, name)):
                raise InputError(
                    f"{path} is a link to {os.readlink(path)[:100]!r}: a run keeps its files in its own "
                    "folder. Put the file itself there"
                )


def refuse_link(path: Path) -> None:
    """Raise `InputError` where a path beside an output, which no user named, is a link elsewhere."""
    if path.is_symlink():
        raise InputError(
            f"{path} is a link to {os.readlink(path)[:100]!r}, and what stands there would be overwritten. "
            "Delete the link"
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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses (full, read-only, a file in the way) into `Stopped` with one line."""
    try:
        yield
    except OSError as error:
        raise Stopped(
            f"{path}: cannot be written ({error.strerror}). Finished work is kept. "
            "Fix this and rerun the same command."
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """The one way to write a file: what the block writes replaces `path` when the block ends well.

    Whoever reads sees the old file or the new one, also after a power cut. A link that the user typed is
    followed. A pipe or device is written as it stands. Raises `Stopped` where the system refuses.
    """
    target = Path(os.path.realpath(path))
    with writing(path):
        if target.exists() and not target.is_file():
            with open(target, "wb") as file:
                yield file
            return
        temporary = target.with_name(f".{target.name}.tmp")
        with open(temporary, "wb", opener=_claim) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)


def _claim(name: str, flags: int) -> int:
    """Open a file for this process alone: another one that writes to the same place is left to end."""
    descriptor = os.open(name, flags & ~os.O_TRUNC | os.O_NOFOLLOW, 0o666)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(descriptor, 0)
    return descriptor


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, final: Path) -> None:
    """Replace `final` by a written folder, flushed first: after a power cut it is whole or absent."""
    for path in (*(p for p in temporary.rglob("*") if p.is_file()), temporary):
        flush(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    flush(final.parent)


def check_output(path: Path) -> None:
    """Raise `InputError` early where a file that the user named as output could not be written."""
    parent = Path(os.path.realpath(path)).parent
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
        why = "is a folder" if path.is_dir() else f"cannot be written in {parent}"
        raise InputError(f"{path}: {why}. Name a file in a folder that is there and may be written")
