"""The train, dev and test problems of a data set: from the Hub, a folder, a file, or the embedded set.

One row: `{"question": "Weng earns $12 an hour ...", "answer": "... = $<<0.2*50=10>>10.\\n#### 10"}`. `main`
and `socratic` are two solutions of one problem and share its id.

From train are cut, by hash of the question and so equally for both variants, 8 exemplars for prompts and then
`dev_size` problems. Test is returned only to `load("test", ...)`; its questions are compared with train's
whenever both are at hand, and one that stands in both is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from reckoner import nano
from reckoner.config.suites import known_files, read_suite
from reckoner.errors import InputError
from reckoner.nano import question_hash as question_hash
from reckoner.runs.integrity import sha256
from reckoner.runs.records import Problem, dumps
from reckoner.tasks.formats import RowFormat, read_rows
from reckoner.tasks.tables import Rows, read_table

EXEMPLARS = 8
"""Train problems that serve in prompts and are left out."""
TRAIN_PROBLEMS, TEST_PROBLEMS = 7_473, 1_319
"""Of GSM8K and of the embedded set."""
RELATIVE = re.compile(r"~(?:renumber|reverse|sample|paraphrase)-[0-9]+")
"""Stands in the id of a problem that was made of another one, behind the id of that parent."""

Stamp = tuple[tuple[int, int], ...]
"""Time of the last change and size of each file."""


@dataclass(frozen=True)
class Source(RowFormat):
    """Where problems come from: the settings of section `data`. A `path` decides over `source`."""

    source: str = "nano"
    suite: str = ""
    path: str = ""
    test_path: str = ""
    hub_name: str = "openai/gsm8k"
    hub_config: str = ""
    hub_revision: str = ""
    hub_train_split: str = "train"
    hub_test_split: str = "test"
    local_files_only: bool = False
    variant: str = "main"
    columns: str = ""
    records: str = ""
    dev_size: float = 500
    nano_omitted_first_steps: float = 0.0
    max_train_samples: int = 0
    max_test_samples: int = 0


def load(split: str, **source: Any) -> list[Problem]:
    """The problems of "train", "dev" or "test" in the order of their file; `source` is a `Source` by keyword.

    Train leaves out dev and the exemplars. `max_train_samples` and `max_test_samples` keep the problems with
    the smallest hashes. Raises `InputError` for anything wrong with the data.
    """
    settings = Source(**source)
    if split == "test":
        return _smallest(_part(settings, "test").problems.values(), settings.max_test_samples)
    _, dev, train = _cut(settings)
    return list(dev) if split == "dev" else _smallest(train, settings.max_train_samples)


def every(**source: Any) -> list[Problem]:
    """All problems of the train data, before anything is cut or left out."""
    return list(_part(Source(**source), "train").problems.values())


def exemplars(**source: Any) -> list[Problem]:
    """The 8 train problems that prompts may show, in the order of their use; never trained on."""
    return list(_cut(Source(**source))[0])


def files(**source: Any) -> list[dict[str, Any]]:
    """Split, path, sha256 and rows of each data file; `published` names a known file of GSM8K.

    Rows that are not in a file have the sha256 of the file that they would make.
    """
    settings = Source(**source)
    return [
        {
            "split": split,
            "path": part.name,
            "sha256": part.sha256,
            "rows": len(part.problems),
            "published": known_files().get(part.sha256, ("", ""))[1],
        }
        for split, part in _parts(settings).items()
    ]


def problem_counts(**source: Any) -> tuple[int, int]:
    """Train and test problems, without a network: of files that are here, as the suite says, or GSM8K's."""
    settings = Source(**source)
    if any(Path(name).exists() for name in (settings.path, settings.test_path) if name):
        found = files(**source)
        return tuple(sum(one["rows"] for one in found if one["split"] == name) for name in ("train", "test"))
    stated = read_suite(settings.suite).about.get("counts", {}) if settings.suite else {}
    return stated.get("train", TRAIN_PROBLEMS), stated.get("test", TEST_PROBLEMS)


def digests(**source: Any) -> dict[str, str]:
    """The sha256 of each data file by its name in inputs.json."""
    return {f"data file {file['path']}": file["sha256"] for file in files(**source)}


@dataclass(frozen=True)
class _Part:
    """The train or test data as read: its name in messages, and the problems by the name of their row."""

    name: str
    sha256: str
    problems: Mapping[str, Problem]


def _part(settings: Source, name: str) -> _Part:
    parts = _parts(settings)
    if name in parts:
        return parts[name]
    if not settings.path:
        raise InputError(
            f"{', '.join(part.name for part in parts.values())}: there are no {name} problems beside it. "
            "Name a file of them with " + ("data.path" if name == "train" else "data.test_path")
        )
    if not Path(settings.path).is_dir():
        raise InputError(
            f"data.path={settings.path} is one file. Name the test problems with data.test_path=FILE"
        )
    missing = file_name(name, settings.variant)
    raise InputError(
        f"{settings.path}: no {missing} in this folder, which data.variant={settings.variant} needs"
    )


def _cut(settings: Source) -> tuple[tuple[Problem, ...], ...]:
    """Exemplars, dev and the rest of the train data; dev and rest in the order of the file.

    Exemplars and dev hold a question once; all other solutions of these questions are left out of the rest,
    and so is all that was made of them. What was made of another problem is in neither.
    """
    return _cut_once(replace(settings, max_train_samples=0, max_test_samples=0), _stamp(settings))


@lru_cache(maxsize=4)
def _cut_once(settings: Source, stamp: Stamp) -> tuple[tuple[Problem, ...], ...]:
    part = _part(settings, "train")
    every = list(part.problems.values())
    first = {_hash(problem): problem for problem in reversed(every)}
    questions = [p for p in every if first[_hash(p)] is p and not RELATIVE.search(p.id)]
    size = settings.dev_size if settings.dev_size >= 1 else round(settings.dev_size * len(questions))
    if size != int(size):
        raise InputError(f"data.dev_size={size} must be a whole number of problems, or a fraction below 1")
    if len(questions) <= EXEMPLARS + size:
        raise InputError(
            f"{part.name}: {len(questions):,} problems are too few for {EXEMPLARS} exemplars, "
            f"data.dev_size={settings.dev_size:g} "
            "and training. Set data.dev_size=0.1, or give more"
        )

    def order(problem: Problem) -> bytes:
        return hashlib.sha256(f"exemplar {_hash(problem)}".encode()).digest()

    shots = sorted(questions, key=order)[:EXEMPLARS]
    shown = {problem.id for problem in shots}
    rest = [problem for problem in questions if problem.id not in shown]
    dev = _smallest(rest, int(size)) if size else []
    held = {_hash(problem) for problem in (*shots, *dev)}
    held_ids = {problem.id for problem in (*shots, *dev)}
    train = (p for p in every if _hash(p) not in held and _parent(p) not in held_ids)
    return tuple(shots), tuple(dev), tuple(train)


def _parent(problem: Problem) -> str:
    """The id of the problem that this one was made of; its own for all others."""
    return RELATIVE.split(problem.id)[0]


def _smallest(problems: Iterable[Problem], n: int) -> list[Problem]:
    """The `n` problems with the smallest hashes, in the given order; all of them for `n` = 0."""
    problems = list(problems)
    if not n:
        return problems
    kept = {problem.id for problem in sorted(problems, key=_hash)[:n]}
    return [problem for problem in problems if problem.id in kept]


def _hash(problem: Problem) -> str:
    return question_hash(problem.question)


def file_name(part: str, variant: str) -> str:
    """The name of the file of "train" or "test" problems in a data folder."""
    return f"{part}.jsonl" if variant == "main" else f"{part}_{variant}.jsonl"


def _paths(settings: Source) -> dict[str, Path]:
    """The files of train and test that there are."""
    if not settings.path:
        return {"test": Path(settings.test_path)} if settings.test_path else {}
    root = Path(settings.path)
    if not root.exists():
        raise InputError(f"{root}: no such file or folder to read problems from")
    if root.is_dir():
        paths = {part: root / file_name(part, settings.variant) for part in ("train", "test")}
    else:
        paths = {"train": root}
    paths = {part: path for part, path in paths.items() if path.exists()}
    return paths | ({"test": Path(settings.test_path)} if settings.test_path else {})


def _stamp(settings: Source) -> Stamp:
    """Changes when a file does, so that a file is read once but never served stale."""
    found = [path.stat() for path in _paths(settings).values() if path.exists()]
    return tuple((status.st_mtime_ns, status.st_size) for status in found)


def _parts(settings: Source) -> dict[str, _Part]:
    """Train and test as far as they are there, whatever is then cut from them."""
    whole = replace(settings, dev_size=0, max_train_samples=0, max_test_samples=0)
    return _parts_once(whole, _stamp(settings))


@lru_cache(maxsize=4)
def _parts_once(settings: Source, stamp: Stamp) -> dict[str, _Part]:
    if settings.path or settings.test_path:
        parts, faults = {}, []
        for name, path in _paths(settings).items():
            try:
                parts[name] = _from_file(settings, name, path)
            except InputError as error:
                faults.append(str(error))
        if faults:
            raise InputError("\n".join(faults))
    elif settings.source == "nano":
        parts = {name: _from_nano(settings, name) for name in ("train", "test")}
    else:
        parts = _from_hub(settings)
    if "train" in parts and "test" in parts:
        _refuse_overlap(parts["train"], parts["test"])
    return parts


def _from_nano(settings: Source, name: str) -> _Part:
    found = nano.problems(name, settings.variant, settings.nano_omitted_first_steps)
    made = {problem.id: problem for problem in found}
    digest = _rows_digest(
        {"question": problem.question, "answer": problem.solution} for problem in made.values()
    )
    return _Part(f"nano {name} (embedded)", digest, made)


def _from_file(settings: Source, name: str, path: Path) -> _Part:
    rows = list(read_table(path, settings.columns, settings.records))
    digest = sha256(path)
    label = read_suite(settings.suite).name if settings.suite else known_files().get(digest, (path.name,))[0]
    return _Part(str(path), digest, _read(settings, name, str(path), label, rows))


def _from_hub(settings: Source) -> dict[str, _Part]:
    if not settings.hub_name:
        raise InputError(
            f"data.suite={settings.suite} is not on the Hub. Name its file with data.test_path=FILE"
        )
    import datasets

    called, splits = settings.hub_name, {"train": settings.hub_train_split, "test": settings.hub_test_split}
    splits = {name: split for name, split in splits.items() if split}
    pinned = {"revision": settings.hub_revision} if settings.hub_revision else {}
    try:
        with _offline() if settings.local_files_only else nullcontext():
            configs = [] if settings.local_files_only else datasets.get_dataset_config_names(called, **pinned)
            variant = settings.variant
            config = settings.hub_config or (variant if variant in configs or not configs else configs[0])
            unclear = not settings.hub_config and config != variant and len(configs) > 1
            if configs and (config not in configs or unclear):
                raise InputError(
                    f"{called}: choose a configuration with data.hub_config ({', '.join(configs)})"
                )
            try:
                found = datasets.load_dataset(called, config, **pinned)
            except (OSError, ValueError):
                if not settings.local_files_only or settings.hub_config:
                    raise
                found = datasets.load_dataset(called, **pinned)  # the only one there is, as "default"
                config = next(iter(found.values())).info.config_name
    except InputError:
        raise
    except (OSError, ValueError) as error:
        if settings.local_files_only:
            raise InputError(
                f"{called} is named by a run folder and not in this machine's cache; only what you name "
                "yourself is fetched. "
                f"Add data.hub_name={settings.hub_name} to this command to fetch it"
            ) from error
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise InputError(
            f"{called} cannot be had from the Hub ({reason}). Give a folder with train.jsonl and test.jsonl "
            "as data.path=FOLDER, "
            "or use data.source=nano, which needs no network"
        ) from error
    called = f"{called} ({config})"
    if missing := [name for name in splits if splits[name] not in found]:
        raise InputError(
            f"{called} has no split {' and '.join(splits[name] for name in missing)}, only "
            f"{', '.join(found)}. "
            f"Name it with data.hub_{missing[0]}_split"
        )
    parts = {}
    for name, split in splits.items():
        rows = [(f"row {number}", dict(row)) for number, row in enumerate(found[split])]
        label = read_suite(settings.suite).name if settings.suite else settings.hub_name.rpartition("/")[2]
        problems = _read(settings, name, f"{called} {split}", label, rows)
        fields = [f for f in (settings.question_field, settings.solution_field, settings.gold_field) if f]
        plain = all(f in row for _, row in rows[:1] for f in fields)
        digest = _rows_digest({f: row[f] for f in fields} if plain else row for _, row in rows)
        parts[name] = _Part(f"{called} {split}", digest, problems)
    return parts


@contextmanager
def _offline() -> Iterator[None]:
    """No request to the Hub inside: both libraries look at this name of theirs at each call."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _read(settings: Source, split: str, name: str, label: str, rows: Rows) -> dict[str, Problem]:
    return read_rows(rows, settings, name, split=split, variant=settings.variant, source=label)


def _rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of the JSONL file that the rows would make; GSM8K's own files are written in just this way."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{dumps(row)}\n".encode())
    return digest.hexdigest()


def _refuse_overlap(train: _Part, test: _Part) -> None:
    own, tested = ({problem.id for problem in part.problems.values()} for part in (train, test))
    for place, problem in train.problems.items():
        if _parent(problem) in tested - own:
            raise InputError(f"{train.name} {place}: made of a problem of {test.name}. Take it out of train")
    places = {_hash(problem): place for place, problem in train.problems.items()}
    shared = [
        (place, places[key]) for place, problem in test.problems.items() if (key := _hash(problem)) in places
    ]
    if shared:
        raise InputError(
            f"{test.name} {shared[0][0]}: the same question as {train.name} {shared[0][1]}; {len(shared):,} "
            "of "
            f"{len(test.problems):,} test questions are in train, so that the test would measure memory. "
            "Take them out of one"
        )
