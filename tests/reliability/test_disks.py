"""Disks that are full, read-only or under a quota, really: the old checkpoint stays valid, the end is one
line, and the run goes on.
"""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from reckoner.algorithms import sft
from reckoner.cli import main
from reckoner.config import Config
from reckoner.errors import Stopped
from reckoner.evaluation import evaluate
from reckoner.runs import checkpoints

KILOBYTES = (64, 200, 700, 1900, 2300, 2600, 2900, 3300)
"""Sizes at which a disk is full at the first file, in a log, in a checkpoint or at the final weights of the
run below.
"""


class Disk:
    """A small file system (tmpfs) of one folder, which can be made larger or read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def mount(self, options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    subprocess.run(["umount", "--lazy", str(made.folder)], capture_output=True, check=False)


def in_folder(config: Config, folder: Path) -> Config:
    return replace(config, run=replace(config.run, output_dir=str(folder), save_steps=2))


def check_valid(folder: Path) -> list[str]:
    """Every checkpoint that shows must verify; returns their names."""
    found = sorted(path for path in (folder / "checkpoints").glob("step-*"))
    assert [checkpoints.fault(path) for path in found] == [""] * len(found)
    return [path.name for path in found]


def same_end(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (one, other)
    ]
    return lines[0] == lines[1] and all(bool((first[name] == second[name]).all()) for name in first)


def test_a_disk_that_is_full_at_every_stage(tiny_config, tmp_path, disk):
    sft.train(in_folder(tiny_config, tmp_path / "whole"))
    disk.mount("size=28k")
    config, stopped = in_folder(tiny_config, disk.folder / "r"), 0
    for size in KILOBYTES:
        disk.mount(f"remount,size={size}k")
        try:
            sft.train(config)
        except Stopped as end:
            stopped += 1
            assert "\n" not in str(end) and ("cannot be written" in str(end) or "no space left" in str(end))
        check_valid(disk.folder / "r")
    assert stopped >= 5
    disk.mount("remount,size=32m")
    sft.train(config)
    assert same_end(tmp_path / "whole", disk.folder / "r")


def test_a_full_disk_is_one_line_and_75(tiny_config, tmp_path, disk, capsys):
    disk.mount("size=900k")
    settings = tmp_path / "settings.yaml"
    settings.write_text(in_folder(tiny_config, disk.folder / "r").to_yaml().replace("preset: ''\n", ""))
    assert main(["sft", "--config", str(settings)]) == 75
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reckon: ")]
    assert (
        len(said) == 1
        and "cannot be written (needs 1." in said[0]
        and said[0].endswith("Fix this and rerun the same command.")
    )


def test_an_evaluation_on_a_full_disk_goes_on(tiny_config, tmp_path, disk):
    config = in_folder(tiny_config, disk.folder / "r")
    config.eval = replace(config.eval, split="test", batch_size=2, max_new_tokens=40)
    disk.mount("size=28k")
    with pytest.raises(Stopped):
        evaluate.evaluate_model(config)
    disk.mount("remount,size=8m")
    _, entry = evaluate.evaluate_model(config)
    assert entry["n"] == config.data.max_test_samples
    whole = in_folder(config, tmp_path / "r")
    whole.eval = config.eval
    evaluate.evaluate_model(whole)
    assert (tmp_path / "r" / entry["predictions"]).read_bytes() == (
        disk.folder / "r" / entry["predictions"]
    ).read_bytes()


def test_a_disk_that_becomes_read_only(tiny_config, disk):
    disk.mount("size=16m")
    config = in_folder(tiny_config, disk.folder / "r")

    def protect(phase: str, done: int, total: int, note: str) -> None:
        if (phase, done) == ("train", 3):
            disk.mount("remount,ro")

    with pytest.raises(Stopped, match="cannot be written .Read-only file system"):
        sft.train(config, protect)
    assert check_valid(disk.folder / "r") == ["step-000000", "step-000002"]
    disk.mount("remount,rw")
    assert sft.train(config)["status"] == "finished"


def test_a_quota_on_the_size_of_files(tiny_config, tmp_path):
    """The limit of the kernel on a process's files stands for a quota: it needs no rights, and is as
    final."""
    config = in_folder(tiny_config, tmp_path / "r")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(phase: str, done: int, total: int, note: str) -> None:
        if (phase, done) == ("train", 3):
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))

    try:
        with pytest.raises(Stopped, match="checkpoints/step-000004: cannot be written"):
            sft.train(config, limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert check_valid(tmp_path / "r") == ["step-000000", "step-000002"]
    assert sft.train(config)["status"] == "finished"


@pytest.mark.parametrize("name", ["checkpoints", "model", "metrics.jsonl"])
def test_something_of_another_kind_in_the_way(tiny_config, tmp_path, name):
    """A file where a folder should be, and a folder where a file should be."""
    config = in_folder(tiny_config, tmp_path / "r")
    (tmp_path / "r").mkdir()
    place = tmp_path / "r" / name
    place.mkdir() if "." in name else place.write_text("in the way")
    with pytest.raises(Stopped, match=f"{name}.* cannot be written"):
        sft.train(config)
    place.rmdir() if "." in name else place.unlink()
    assert sft.train(config)["status"] == "finished"
