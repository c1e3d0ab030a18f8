"""The numbers of runs and studies, derived again from their completions."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reckoner.analysis.readers import read_completion_set
from reckoner.analysis.report import build_report
from reckoner.analysis.study_records import RunRecord, read_run, read_study
from reckoner.runs.records import count_grades


@dataclass(frozen=True, slots=True)
class Replayed:
    """One run or study: how many numbers were derived again, and which differ."""

    name: str
    numbers: int
    faults: tuple[str, ...]


def replay(folder: Path) -> list[Replayed]:
    """Grade the completions of a run, or of every arm of a study, and compare with what is stored.

    Of a study the report is written again into the folder: every number of table.csv must be as it was, and
    report.md too, unless this version has other columns.
    Raises `InputError` where the folder does not fit together.
    """
    if not (folder / "study.json").is_file():
        return [_replay_run(read_run(folder))]
    arms = [_replay_run(run) for arm in read_study(folder).arms for run in arm.runs.values()]
    stored = {name: folder / name for name in ("table.csv", "report.md") if (folder / name).is_file()}
    before = {name: path.read_text(encoding="utf-8").splitlines() for name, path in stored.items()}
    build_report(folder)
    after = {name: path.read_text(encoding="utf-8").splitlines() for name, path in stored.items()}
    old, new = (_cells(texts.get("table.csv", [])) for texts in (before, after))
    faults = [
        f"table.csv, {arm}, {column}: {old[arm, column]!r} is {new.get((arm, column), 'missing')!r}"
        for arm, column in old
        if old[arm, column] != new.get((arm, column)) and (column in {name for _, name in new} or not new)
    ]
    if before.get("table.csv", [])[:1] == after.get("table.csv", [])[:1]:
        faults += _different("report.md", before.get("report.md", []), after.get("report.md", []))
    cells = len(old.keys() & new.keys())
    return [*arms, Replayed(f"{folder.name}: report", cells, tuple(faults))]


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
