"""The numbers of runs and studies, derived again from their completions."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reckoner import __version__
from reckoner.analysis.readers import read_completion_set
from reckoner.analysis.report import build_report
from reckoner.analysis.study_records import RunRecord, read_run, read_study
from reckoner.runs.records import count_grades

WRITTEN = ("report.md", "report.html", "figures/*.csv")
"""What a report consists of beside its table, as far as it is compared."""

DRAWN = re.compile(r"<svg.*?</svg>|<script.*?</script>|data:[^\"')]+", re.DOTALL)
"""What a page holds of pictures and packed data, whose bytes depend on matplotlib and zlib."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One run or study: how many numbers were derived again, which differ, and what was not compared."""

    name: str
    numbers: int
    faults: tuple[str, ...]
    unchecked: tuple[str, ...] = ()


def replay(folder: Path) -> list[Replayed]:
    """Grade the completions of a run, or of every arm of a study, and compare with what is stored.

    Of a study the report is written again into the folder: every number of table.csv must be as it was, and
    the text and the figures' data too, unless the page says that another version wrote it.
    Raises `InputError` where the folder does not fit together.
    """
    if not (folder / "study.json").is_file():
        return [_replay_run(read_run(folder))]
    arms = [_replay_run(run) for arm in read_study(folder).arms for run in arm.runs.values()]
    before = _report(folder)
    build_report(folder)
    after = _report(folder)
    old, new = (_cells(texts.pop("table.csv", [])) for texts in (before, after))
    faults = [
        f"table.csv, {arm}, {column}: {old[arm, column]!r} is {new.get((arm, column), 'missing')!r}"
        for arm, column in old
        if old[arm, column] != new.get((arm, column)) and (column in {name for _, name in new} or not new)
    ]
    unchecked = ["pictures, the packed data of report.html, and slides"]
    if odd := {name for _, name in old} ^ {name for _, name in new} if old else set():
        unchecked.append(f"columns of table.csv that only one version has: {', '.join(sorted(odd))}")
    page = "\n".join(before.get("report.html", ()))
    writer = re.search(r'<meta name="generator" content="reckoner ([^"]*)">', page)
    if writer and writer[1] != __version__:
        unchecked.append(f"{', '.join(before)}: written by reckoner {writer[1]}, and this is {__version__}")
    else:
        faults += [one for name, lines in before.items() for one in _different(name, lines, after[name])]
    cells = len(old.keys() & new.keys())
    return [*arms, Replayed(f"{folder.name}: report", cells, tuple(faults), tuple(unchecked))]


def _report(folder: Path) -> dict[str, list[str]]:
    """The lines of the files of a report that are compared, by name."""
    paths = [path for pattern in ("table.csv", *WRITTEN) for path in sorted(folder.glob(pattern))]
    texts = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths}
    return {name: DRAWN.sub("", text).splitlines() for name, text in texts.items()}


def _replay_run(run: RunRecord) -> Replayed:
    faults, numbers = [], 0
    for one in run.evaluations:
        fresh = read_completion_set(run.folder / one.predictions).grades
        stored = read_completion_set(run.folder / one.grades).grades
        numbers += len(fresh)
        odd = [key for key in fresh.keys() | stored.keys() if fresh.get(key) != stored.get(key)]
        if odd:
            item, sample = min(odd)
            faults.append(f"{one.grades}: {len(odd)} grades differ, the first is {item} sample {sample}")
        for name, count in count_grades(fresh.values()).items():
            numbers += 1
            if getattr(one, name) != count:
                faults.append(f"{one.predictions}: {name} is {count}, the summary has {getattr(one, name)}")
    return Replayed(run.name, numbers, tuple(faults))


def _cells(lines: list[str]) -> dict[tuple[str, str], str]:
    """The cells of a table.csv by arm and column."""
    return {(row["arm"], name): cell for row in csv.DictReader(lines) for name, cell in row.items()}


def _different(name: str, before: list[str], after: list[str]) -> Iterator[str]:
    """The first line in which a document differs."""
    for number, (old, new) in enumerate(zip(before, after, strict=False), 1):
        if old != new:
            yield f"{name} line {number}: {old[:80]!r} is {new[:80]!r}"
            return
    if len(before) != len(after):
        yield f"{name}: {len(before)} lines are {len(after)}"
