"""A capsule: runs or a study in one zip archive with the sha256 of each file, opened only when all are whole.

Checkpoints are left out, and weights unless they are asked for; the manifest of each run still holds their
hashes. The same files give the same bytes. Names of an archive are foreign: each must lead to a plain path
below the folder, and what is unpacked is exactly what the capsule promises, byte for byte.
"""

from __future__ import annotations

import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from reckoner.errors import InputError
from reckoner.runs.documents import Capsule
from reckoner.runs.integrity import entry, require_finished, run_files
from reckoner.runs.records import fit, json_object, json_text
from reckoner.runs.safe_paths import check_name, refuse_links, regular_file, replacing, resolve_within

INDEX = "capsule.json"
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, UnicodeError)
"""What zipfile raises for a damaged archive, or for one that says it is encrypted."""

DATE = (1980, 1, 1, 0, 0, 0)
"""Of every file in a capsule: the earliest that zip knows, so that equal files give equal bytes."""


def pack(folders: Sequence[Path], output: Path, weights: bool = False) -> Capsule:
    """Write finished runs or studies to `output`; raises `InputError` where a folder is neither."""
    names = [check_name(folder.resolve().name) for folder in folders]
    if len(set(names)) < len(names):
        raise InputError(f"two of the folders are called {max(names, key=names.count)}. Rename one")
    files: dict[str, Path] = {}
    for folder, name in zip(folders, names, strict=True):
        if not (folder / "study.json").is_file():
            require_finished(folder)
        refuse_links(folder)
        files |= {f"{name}/{one}": folder / one for one in _kept(folder, weights)}
    index: Capsule = {"folders": names, "files": {name: entry(path) for name, path in files.items()}}
    with replacing(output) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_info(INDEX), json_text(index))
        for name, path in sorted(files.items()):
            with path.open("rb") as source, archive.open(_info(name), "w", force_zip64=True) as target:
                while block := source.read(2**20):
                    target.write(block)
    return index


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _kept(folder: Path, weights: bool) -> Iterator[str]:
    """The files of a run or study that a capsule holds, manifests of runs included."""
    manifests = [path.relative_to(folder).as_posix() for path in folder.rglob("MANIFEST.json")]
    for name in {*run_files(folder), *manifests}:
        parts = Path(name).parts
        hidden = any(part.startswith(".") for part in parts)
        if not hidden and "checkpoints" not in parts and (weights or Path(name).suffix != ".safetensors"):
            yield name


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Path, Capsule]]:
    """A capsule's folders in a temporary folder that lasts as long as the block.

    Raises `InputError` naming the file that is missing, was added or has a changed byte.
    """
    with TemporaryDirectory(prefix="reckoner-capsule-") as made:
        root = Path(made)
        try:
            with regular_file(path) as file, zipfile.ZipFile(file) as archive:
                index = _index(path, archive)
                for name, promised in index["files"].items():
                    target = resolve_within(root, name, path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _extract(path, archive, name, target, promised["size"], promised["sha256"])
        except DAMAGE as error:
            raise InputError(f"{path}: cannot be read as a capsule ({error})") from error
        yield root, index


def _index(path: Path, archive: zipfile.ZipFile) -> Capsule:
    names = [info.filename for info in archive.infolist()]
    if names.count(INDEX) != 1 or archive.getinfo(INDEX).file_size > 2**26:
        raise InputError(f"{path}: has no {INDEX}. Give a file that `reckon pack` wrote")
    try:
        index = fit(json_object(archive.read(INDEX)), Capsule, f"{path}: {INDEX}")
    except DAMAGE as error:
        raise InputError(f"{path}: {INDEX} has changed since it was packed") from error
    odd = set(names) ^ {INDEX, *index["files"]}
    if odd or len(names) != len(set(names)):
        what = min(odd) if odd else max(names, key=names.count)
        raise InputError(f"{path}: {what} was {'removed' if what in index['files'] else 'added'}")
    return index


def _extract(path: Path, archive: zipfile.ZipFile, name: str, target: Path, size: int, sha256: str) -> None:
    """Unpack one file, reading no more than its promised size and one byte."""
    digest, left = hashlib.sha256(), size + 1
    changed = InputError(f"{path}: {name} has changed since it was packed")
    try:
        with archive.open(name) as source, target.open("xb") as file:
            while left and (block := source.read(min(left, 2**20))):
                digest.update(block)
                left -= file.write(block)
    except DAMAGE as error:
        raise changed from error
    if left != 1 or digest.hexdigest() != sha256:
        raise changed
