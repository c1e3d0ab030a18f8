"""`reckon verify`: whether a finished run and its inputs are what they were when it finished."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import add
from pathlib import Path

from reckoner.config import build_config
from reckoner.errors import InputError
from reckoner.models.sources import resolve
from reckoner.runs.documents import Inputs, Manifest, Sidecar
from reckoner.runs.folder import Progress, read_config, silent
from reckoner.runs.integrity import MANIFEST, changed, read_manifest, require_finished, sha256
from reckoner.runs.ledger import read_ledger
from reckoner.runs.listing import run_folders
from reckoner.runs.records import read_json
from reckoner.runs.safe_paths import refuse_links
from reckoner.tasks import gsm8k


@dataclass(frozen=True)
class Verification:
    """One run: its files by kind, the sha256 of its manifest, its faults, and what was not checked."""

    run: str
    files: dict[str, int]
    manifest: str
    faults: tuple[str, ...]
    unchecked: tuple[str, ...]


def verify(folder: Path, on_progress: Progress = silent) -> list[Verification]:
    """Check a run, or every finished run of a study, against the hashes noted when it finished.

    Raises `InputError` where there is nothing to check: no such folder, not finished, or no manifest.
    """
    if not (folder / "study.json").is_file():
        return [_verify_run(folder, on_progress)]
    refuse_links(folder)
    done = run_folders(folder, "done")
    if not done:
        raise InputError(f"{folder}: no run of this study has finished")
    return [_verify_run(run, on_progress) for run in done]


def _verify_run(folder: Path, on_progress: Progress) -> Verification:
    path = folder / MANIFEST
    require_finished(folder)
    promised = read_manifest(folder)
    refuse_links(folder)
    read, megabytes = 0, sum(one["size"] for one in promised.values()) // 10**6

    def seen(size: int) -> None:
        nonlocal read
        read += size
        on_progress(f"MB of {folder.name}", read // 10**6, megabytes, "")

    faults = list(changed(folder, promised, seen=seen))
    kinds = Counter(name.split("/")[0] for name in promised)
    wrong, unchecked = [], ["data, base model and openings of test, since the run's own files have changed"]
    if not faults:
        wrong, unchecked = map(add, _inputs(folder), _openings(folder, promised))
    return Verification(str(folder), dict(kinds), sha256(path), (*faults, *wrong), tuple(unchecked))


def _inputs(folder: Path) -> tuple[list[str], list[str]]:
    """What is wrong with the data and base model of a run, and what of them is not on this machine."""
    if not (folder / "inputs.json").is_file():
        return [], []
    pinned = read_json(folder / "inputs.json", Inputs)
    config = build_config([(read_config(folder / "config.yaml"), {})])
    faults, unchecked = [], []
    model, here = config.model, config.data.source == "nano" or config.data.path  # only the Hub has others
    for kind in ("data", "base model"):
        try:
            if kind == "data":
                digests = gsm8k.digests(**config.problem_source()) if here else {}
            else:
                digests = resolve(model.model_name_or_path, model.revision, fetch=False).pins
        except InputError as error:
            unchecked.append(f"{kind}: {error}")
            continue
        faults += [
            f"{folder}: the {name} is not what it was trained with"
            for name, digest in digests.items()
            if pinned.get(name, digest) != digest
        ]
        unchecked += [] if digests else [f"{kind}: not on this machine, and verify asks no network"]
    return faults, unchecked


def _openings(folder: Path, promised: Manifest) -> tuple[list[str], list[str]]:
    """What is wrong with the ledger of test, and which evaluations on test are not in it."""
    faults, unchecked = [], []
    for name in (name for name in promised if name.startswith("predictions/") and name.endswith(".json")):
        seal = read_json(folder / name, Sidecar).get("seal")
        if seal is None:
            if name.startswith("predictions/test-"):
                unchecked.append(f"openings of test: {name} is from before they were counted")
            continue
        ledger = read_ledger(seal["test"])
        if not ledger.path.is_file():
            unchecked.append(
                f"openings of test: {ledger.path} is not on this machine, though {folder / name} opened "
                "test: it was deleted, or the run was made elsewhere"
            )
        elif all(one.id != seal["id"] for one in ledger.openings):
            faults.append(f"{ledger.path}: lacks the opening of {folder / name}: a line was deleted")
        faults += [one for one in ledger.faults if one not in faults]
    return faults, unchecked
