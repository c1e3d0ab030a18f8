"""Atomic, verified, pickle-free checkpoints.

A checkpoint is a folder `step-000100` of safetensors and JSON. It is written under a temporary name,
MANIFEST.json with sizes and sha256 comes last, every file is flushed to disk, then one rename makes it
visible. So a folder with the final name is whole unless the disk lied, and the manifest tells even that.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from reckoner import ranks
from reckoner.errors import Stopped
from reckoner.runs.documents import DevLine, State
from reckoner.runs.integrity import MANIFEST, fault, manifest
from reckoner.runs.records import read_json, write_json
from reckoner.runs.safe_paths import publish, writing

STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int
    folder: Path

    @property
    def state(self) -> State:
        return read_json(self.folder / "state.json", State)

    def tensors(self, group: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Those of one file with their names ("policy", "policy-optimizer"), on the CPU, one at a time."""
        with safe_open(self.folder / f"{group}.safetensors", "pt") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)


def give(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """What a rank does while rank 0 is in `save`: it gives its parts of divided tensors."""
    for tensors in groups.values():
        for _ in _whole(tensors):
            pass


def _whole(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors with their names, parts of all ranks joined, on the CPU where they were divided."""
    for name, tensor in tensors.items():
        joined = ranks.whole(tensor.detach())
        yield name, joined if joined is tensor else joined.cpu()


def save(
    parent: Path, step: int, groups: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write `parent/step-NNNNNN`; raises `Stopped` when the disk refuses. Older ones stay as they were.

    The other ranks must call `give` with their groups meanwhile.
    """
    final = parent / f"step-{step:06d}"
    temporary = parent / f".tmp-{final.name}"
    with writing(final):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        check_space(parent, sum(t.nbytes for tensors in groups.values() for t in tensors.values()))
        for name, tensors in groups.items():
            _save_tensors(tensors, temporary / f"{name}.safetensors")
        write_json(temporary / "state.json", dict(state))
        write_json(temporary / MANIFEST, manifest(temporary))
        publish(temporary, final)
    return final


def is_saved(parent: Path, step: int) -> bool:
    """Whether the checkpoint of a step is there and whole."""
    folder = parent / f"step-{step:06d}"
    return folder.is_dir() and not fault(folder)


def newest(parent: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint to resume from: it verifies, and so does the best one that it knows.

    Each that does not is named through `warn`. Newer ones are deleted, since the steps after this one come
    again.
    """
    usable, limit = None, math.inf
    for step, folder in sorted(_folders(parent), reverse=True):
        if step >= limit:
            continue
        if why := fault(folder):
            warn(f"{folder} is damaged ({why}); it is left out")
            continue
        checkpoint = Checkpoint(step, folder)
        evaluations = checkpoint.state["evaluations"]
        best = best_step(evaluations) if evaluations else step
        at = parent / f"step-{best:06d}"
        if best == step or not (why := fault(at)):
            usable = checkpoint
            break
        warn(
            f"{at}, the best so far, is damaged ({why}). The steps from the checkpoint before it on are "
            "trained again"
        )
        limit = best
    if limit < math.inf:
        _delete(parent, [folder for step, folder in _folders(parent) if usable is None or step > usable.step])
    return usable


def best_step(evaluations: Sequence[DevLine]) -> int:
    """The step with the most dev problems solved; of equals the one with the lowest dev loss."""
    return max(evaluations, key=lambda line: (line["dev_strict"], -line["dev_loss"]))["step"]


def at_step(parent: Path, step: int) -> Checkpoint:
    """The checkpoint of one step; raises `Stopped` if it does not verify."""
    folder = parent / f"step-{step:06d}"
    if why := fault(folder):
        raise Stopped(
            f"{folder} is damaged ({why}). The same command trains again from the checkpoint before it"
        )
    return Checkpoint(step, folder)


def prune(parent: Path, keep: int, always: set[int]) -> None:
    """Delete all but the newest `keep` checkpoints and those of the steps in `always`.

    A checkpoint loses its name before its files: a kill in between leaves none that is there in part.
    """
    tidy(parent)
    _delete(parent, [folder for step, folder in sorted(_folders(parent))[:-keep] if step not in always])


def _delete(parent: Path, folders: Iterable[Path]) -> None:
    for folder in folders:
        os.replace(folder, parent / f".tmp-{folder.name}")
    tidy(parent)


def tidy(parent: Path) -> None:
    """Delete what a killed save or deletion left behind."""
    for leftover in parent.glob(".tmp-step-*"):
        shutil.rmtree(leftover)


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as "parameter name/state name" -> tensor (plain numbers become 0-d tensors)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Put back what `optimizer_tensors` gave, on each parameter's device and divided as it is."""
    parameters = dict(model.named_parameters())
    for path, value in tensors:
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = value if value.dim() == 0 else ranks.divided_like(value, parameter)


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def restore_weights(model: torch.nn.Module, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Copy saved weights into the trainable ones; the names must be the same."""
    weights = trainable(model)
    with torch.no_grad():
        for name, saved in tensors:
            if name not in weights:
                break
            parameter = weights.pop(name)
            parameter.copy_(ranks.divided_like(saved, parameter))
        else:
            if not weights:
                return
    raise Stopped("the checkpoint is of another model: its weights have other names")


def _folders(parent: Path) -> list[tuple[int, Path]]:
    folders = parent.iterdir() if parent.is_dir() else []
    return [(int(match[1]), p) for p in folders if (match := STEP.fullmatch(p.name)) and p.is_dir()]


def _save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    try:
        save_file({name: t.contiguous() for name, t in _whole(tensors)}, path)
    except SafetensorError as error:
        raise OSError(None, str(error)) from error


def check_space(folder: Path, needed: int) -> None:
    """Raise `OSError` where the disk of `folder` has not room for `needed` bytes and a little more."""
    free, room = shutil.disk_usage(folder).free, needed * 1.05 + 1_000_000
    if free < room:
        raise OSError(None, f"needs {room / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")
