"""The seal of test: a hash-chained ledger of every time that test problems were opened on this machine.

It lies in the user's cache, one file for each set of test problems, named by their sha256, so that deleting
a run or its predictions shortens nothing. Each line holds the sha256 of the line before it, and a file
beside it the number and hash of the last. A line or file that was changed or deleted leaves a gap that
`reckon verify` names, and the numbers go on behind it. Where both files are gone, only the runs that opened
test can tell. A ledger is no signature: who can write there can
forge all of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypedDict

from reckoner.errors import InputError
from reckoner.machine import user_cache
from reckoner.runs.documents import Seal
from reckoner.runs.records import dumps, fit, json_object, read_json, write_json
from reckoner.runs.safe_paths import writing


class Head(TypedDict):
    """The number of openings, and the sha256 of the last line."""

    line: int
    sha256: str


LOST_HEAD = "the head was lost"
NO_OPENINGS: Head = {"line": 0, "sha256": ""}


@dataclass(frozen=True, slots=True)
class Opening:
    """One line: an evaluation that began. `weights` is their fingerprint, `n` the number of problems."""

    line: int
    id: str
    when: str
    run: str
    predictions: str
    weights: str
    n: int
    before: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """The lines of one ledger that can be read, and what is wrong with it; `path` is its file."""

    path: Path
    openings: tuple[Opening, ...]
    faults: tuple[str, ...]

    def by_run(self, run: Path, predictions: str) -> int:
        """How often one evaluation of a run was begun, whatever was deleted in between."""
        wanted = str(run.resolve()), predictions
        return sum((one.run, one.predictions) == wanted for one in self.openings)

    def earlier(self, opening_id: str) -> tuple[int, int]:
        """Openings before this one: those of the same weights, and all."""
        own = next(one for one in self.openings if one.id == opening_id)
        same = sum(one.weights == own.weights for one in self.openings if one.line < own.line)
        return same, own.line - 1


def new_seal(test: str) -> Seal:
    """What a predictions file keeps of its opening: an id of its own, and the sha256 of the problems."""
    return {"id": uuid.uuid4().hex, "test": test}


def note_opening(seal: Seal, run: Path, predictions: str, weights: str, n: int) -> Ledger:
    """Write an opening into the ledger, unless it is there, and return the ledger with it.

    Raises `Stopped` where the cache cannot be written.
    """
    path, head = _paths(seal["test"])
    with writing(path), open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = _lines(file)
        if not lines and not head.exists():
            write_json(head, NO_OPENINGS)
        ledger, last = _read(path, head, lines)
        if all(one.id != seal["id"] for one in ledger.openings):
            count, fault = _head(head)
            number = max([one.line for one in ledger.openings] + [count["line"]]) + 1
            when = datetime.now(UTC).isoformat(timespec="seconds")
            # behind a head that was lost the chain stays broken, so that the new head hides nothing
            before = LOST_HEAD if fault else last
            opening = Opening(number, seal["id"], when, str(run.resolve()), predictions, weights, n, before)
            text = dumps(opening).encode()
            file.write(text + b"\n")
            file.flush()
            write_json(head, {"line": opening.line, "sha256": hashlib.sha256(text).hexdigest()})
            ledger, _ = _read(path, head, _lines(file))
    return ledger


def read_ledger(test: str) -> Ledger:
    """The ledger of the test problems with this sha256; without lines where this machine has none."""
    path, head = _paths(test)
    if not path.is_file():
        return _read(path, head, [])[0] if head.exists() else Ledger(path, (), ())
    with open(path, "rb") as file:
        return _read(path, head, _lines(file))[0]


def _paths(test: str) -> tuple[Path, Path]:
    folder, _ = user_cache("test-ledger")  # where it cannot be written, `writing` says so
    return folder / f"{test}.jsonl", folder / f"{test}.head.json"


def _lines(file: BinaryIO) -> list[bytes]:
    file.seek(0)
    return file.read().splitlines()


def _head(head: Path) -> tuple[Head, str]:
    """What the head holds, and what is wrong with it."""
    if not head.exists():
        return NO_OPENINGS, f"{head}: was deleted; how many openings of test there were is not known"
    try:
        return read_json(head, Head), ""
    except InputError as error:
        return NO_OPENINGS, f"{error}. It was changed; how many openings of test there were is not known"


def _read(path: Path, head: Path, lines: Sequence[bytes]) -> tuple[Ledger, str]:
    """The ledger, and the sha256 of its last line ('' without one)."""
    openings: list[Opening] = []
    faults, before, number = [], "", 0
    for position, raw in enumerate(lines, 1):
        where = f"{path} line {position}"
        try:
            opening = fit(json_object(raw), Opening, where)
        except InputError:
            faults.append(f"{where}: has been changed: it is no opening")
        else:
            if (opening.before, opening.line) != (before, number + 1):
                faults.append(
                    f"{where}: does not follow the line before it. A line was changed or deleted; the "
                    f"openings of test count to {opening.line}"
                )
            openings.append(opening)
            number = opening.line
        before = hashlib.sha256(raw).hexdigest()
    last, fault = _head(head)
    if fault:
        faults.append(fault)
    if last["line"] > number or (last["line"] == number and last["sha256"] != before):
        faults.append(f"{path}: its last line was changed or deleted; {last['line']} openings were noted")
    return Ledger(path, tuple(openings), tuple(faults)), before
