"""A run goes on from anywhere, with nothing but what it began with, and is stopped by signals without a
mess.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from reckoner.algorithms import sft
from reckoner.config import Config, PeftConfig
from reckoner.errors import InputError
from reckoner.runs import checkpoints
from reckoner.runs import folder as runs
from reckoner.training import loop as training


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def at(config: Config, folder: Path, **train) -> Config:
    return replace(
        config,
        run=replace(config.run, output_dir=str(folder), save_steps=1),
        train=replace(config.train, **train),
    )


def kill_after(steps: int):
    """A progress callback that lets so many steps of this sitting happen."""
    left = [steps]

    def on_progress(phase: str, done: int, total: int, note: str) -> None:
        left[0] -= phase == "train"
        if left[0] < 0 or (left[0] == 0 and phase == "train"):
            raise Killed

    return on_progress


def outcome(folder: Path) -> tuple[str, list[dict]]:
    """sha256 of the final weights, and the metrics without their clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    digest = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    return digest, [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_sitting_of_one_step_each_to_the_end_of_three_epochs(tiny_config, tmp_path):
    """The boundaries of the epochs and the last step are among the places where it is taken up again."""
    size = dict(num_train_epochs=3.0, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    sft.train(at(tiny_config, tmp_path / "whole", **size))
    for _ in range(9):
        with pytest.raises(Killed):
            sft.train(at(tiny_config, tmp_path / "cut", **size), kill_after(1))
    sft.train(at(tiny_config, tmp_path / "cut", **size))
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_an_evaluator_that_fails_loses_nothing(tiny_config, tmp_path):
    def fail(phase: str, done: int, total: int, note: str) -> None:
        if (
            phase == "dev"
            and sorted((tmp_path / "r" / "checkpoints").glob("step-*"))[-1].name != "step-000000"
        ):
            raise RuntimeError("the evaluator fails")

    config = at(tiny_config, tmp_path / "r", eval_steps=3)
    config.run.save_steps = 0
    with pytest.raises(RuntimeError, match="the evaluator fails"):
        sft.train(config, fail)
    assert checkpoints.newest(tmp_path / "r" / "checkpoints", pytest.fail).step == 3


@pytest.fixture
def begun(tiny_config, tiny_model, tmp_path):
    """A run of one step on a model folder and a data file of its own, which a test may change."""
    model, data, test = tmp_path / "base", tmp_path / "mine.jsonl", tmp_path / "test.jsonl"
    shutil.copytree(tiny_model, model)
    test.write_text('{"question": "What is 1 plus 2?", "answer": "#### 3"}\n')
    data.write_text(
        "".join(
            f'{{"question": "What is {i} plus 1?", "answer": "{i}+1={i + 1}\\n#### {i + 1}"}}\n'
            for i in range(60)
        )
    )
    config = at(tiny_config, tmp_path / "r")
    config = replace(config, model=replace(config.model, model_name_or_path=str(model)))
    config = replace(
        config, data=replace(config.data, path=str(data), test_path=str(test), max_train_samples=0)
    )
    with pytest.raises(Killed):
        sft.train(config, kill_after(1))
    return config


def change_weights(config: Config, folder: Path) -> None:
    path = folder / "base" / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, path, {"format": "pt"})


def change_file(name: str, old: str, new: str):
    def change(config: Config, folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


CHANGES = {
    "data file": (
        change_file("mine.jsonl", "What is 7 plus 1?", "How much is 7 plus 1?"),
        r"the data file .*mine.jsonl is not what it was when this run began",
    ),
    "tokenizer": (
        change_file("base/tokenizer_config.json", "{", '{"a_note": "other",'),
        "the tokenizer is not what it was",
    ),
    "base model": (change_weights, "the base model is not what it was"),
    "architecture": (
        change_file("base/config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'),
        "the base model is not what it was",
    ),
    "version": (
        change_file("r/environment.json", f'"torch": "{metadata.version("torch")}"', '"torch": "2.0.0"'),
        r"was started with torch=2.0.0, this command has .*Install that version again",
    ),
    "setting": (
        lambda config, folder: setattr(config.train, "learning_rate", 2e-3),
        r"was started with train.learning_rate=0.001, this command has 0.002",
    ),
    "length": (
        lambda config, folder: setattr(config.train, "num_train_epochs", 2.0),
        r"train.num_train_epochs=1.0, this command has 2.0.*or give --extend",
    ),
}


@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES)
def test_what_has_changed_since_the_start_is_refused_by_name(begun, tmp_path, change, message):
    change(begun, tmp_path)
    with pytest.raises(InputError, match=message):
        sft.train(begun)
    assert len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_run_is_extended_and_equals_a_longer_one(tiny_config, tmp_path):
    """With a constant rate, nothing tells that the second epoch was asked for later."""
    constant = dict(lr_scheduler_type="constant", warmup_ratio=0.0)
    sft.train(at(tiny_config, tmp_path / "short", **constant))
    longer = at(tiny_config, tmp_path / "short", **constant, num_train_epochs=2.0)
    with pytest.raises(InputError, match="num_train_epochs=1.0, this command has 2.0"):
        sft.train(longer)
    runs.extend(longer)
    sft.train(longer)
    sft.train(at(tiny_config, tmp_path / "long", **constant, num_train_epochs=2.0))
    assert outcome(tmp_path / "short") == outcome(tmp_path / "long")


@pytest.mark.parametrize(
    "train, message",
    [
        (
            dict(num_train_epochs=0.5),
            "--extend: .* has train.num_train_epochs=1.0 already, this command asks for 0.5",
        ),
        (
            dict(num_train_epochs=2.0, learning_rate=1e-5),
            "changes nothing but the length, and .* was started with train.learning_rate=0.001",
        ),
    ],
)
def test_extend_changes_the_length_and_nothing_else(tiny_config, tmp_path, train, message):
    runs.Run.open(at(tiny_config, tmp_path / "r")).close()
    with pytest.raises(InputError, match=message):
        runs.extend(at(tiny_config, tmp_path / "r", **train))


def test_extend_needs_a_run_that_was_not_evaluated(tiny_config, tmp_path):
    with pytest.raises(InputError, match="there is no run to extend"):
        runs.extend(at(tiny_config, tmp_path / "r"))
    with runs.Run.open(at(tiny_config, tmp_path / "r")) as run:
        counts = dict.fromkeys(
            ("n", "strict", "flexible", "no_answer", "truncated", "multi_marker", "tokens"), 1
        )
        texts = ("prompt", "prompt_hash", "decoding", "predictions", "grades", "problems")
        entry = {"split": "test", "seconds": 1.0, "max_new_tokens": 8, **counts, **dict.fromkeys(texts, "x")}
        run.conclude({"status": "finished", "evaluations": [entry]})
    with pytest.raises(InputError, match="holds predictions of the shorter run. Start from it with --init"):
        runs.extend(at(tiny_config, tmp_path / "r", num_train_epochs=2.0))


def test_a_run_of_no_steps_is_refused(tiny_config, tmp_path):
    with pytest.raises(InputError, match="train.num_train_epochs=0 trains nothing"):
        sft.train(at(tiny_config, tmp_path / "r", num_train_epochs=0.0))


@pytest.mark.parametrize("warmup, refused", [(0.0, 1), (0.5, 4), (1.0, 6)])
def test_a_rate_that_reaches_no_weight_is_refused_once_it_is_at_its_full(
    tiny_config, tmp_path, warmup, refused
):
    """Of six steps, and not after the whole run; a run that is all warm-up is refused at its end."""
    seen = []

    def note(phase: str, done: int, total: int, note: str) -> None:
        seen.append(done * (phase == "train"))

    config = at(tiny_config, tmp_path / "r", learning_rate=1e-30, warmup_ratio=warmup)
    with pytest.raises(
        InputError, match=rf"weight has not changed after step {refused}: train.learning_rate is too small"
    ):
        sft.train(config, note)
    assert max(seen) == (refused if warmup == 1 else refused - 1)
    assert not (tmp_path / "r" / "model").exists()


def test_a_frozen_weight_that_changes_is_a_bug_and_crashes(tiny_config, tmp_path, monkeypatch):
    loaded = []
    load = training.load_policy
    monkeypatch.setattr(
        training, "load_policy", lambda *given, **more: loaded.append(load(*given, **more)) or loaded[0]
    )

    def touch(phase: str, done: int, total: int, note: str) -> None:
        if (phase, done) == ("train", 2):
            frozen = next(p for p in loaded[0].model.parameters() if not p.requires_grad)
            frozen.data[0] += 1e-6

    config = replace(at(tiny_config, tmp_path / "r"), peft=PeftConfig(method="lora", lora_r=4))
    with pytest.raises(RuntimeError, match="is frozen and has changed"):
        sft.train(config, touch)


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT] * 2, [signal.SIGTERM, signal.SIGINT]],
    ids=str,
)
def test_a_signal_ends_a_run_with_75_and_the_same_command_goes_on(
    tiny_config, tmp_path, start_reckon, numbers
):
    config = at(tiny_config, tmp_path / "r", num_train_epochs=40.0)
    config.run.threads = 1
    metrics = tmp_path / "r" / "metrics.jsonl"
    (tmp_path / "settings.yaml").write_text(re.sub(r"^preset: ''\n", "", config.to_yaml()))
    running = start_reckon("sft", "--config", "settings.yaml")
    running.wait(lambda: metrics.is_file() and metrics.read_text().count("\n") > 3)
    for number in numbers:
        running.send_signal(number)
    said = running.wait().stderr
    lines = [line for line in said.splitlines() if line.startswith("reckon: ")]
    assert running.returncode == 75 and "Traceback" not in said
    assert (
        lines == ["reckon: interrupted. The same command goes on from what was saved, if anything was"]
        or len(numbers) == 2
    )
    before = checkpoints.newest(tmp_path / "r" / "checkpoints", pytest.fail).step
    with pytest.raises(Killed):
        sft.train(config, kill_after(2))
    assert checkpoints.newest(tmp_path / "r" / "checkpoints", pytest.fail).step == before + 2


def test_signals_are_put_back_after_a_command():
    from reckoner.cli import main

    before = signal.getsignal(signal.SIGTERM)
    assert main(["--version"]) == 0
    assert signal.getsignal(signal.SIGTERM) == before


def test_nothing_is_renamed_before_its_bytes_are_on_the_disk(tiny_config, tmp_path, monkeypatch):
    """What a power cut may lose: a file whose content was not flushed before the rename that shows it."""
    flushed: set[tuple[int, int, int]] = set()
    fsync, replace_ = os.fsync, os.replace

    def state(path: object) -> tuple[int, int, int]:
        found = os.stat(path)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def watch_fsync(descriptor: int) -> None:
        flushed.add(state(descriptor))
        fsync(descriptor)

    def watch_replace(source: object, target: object) -> None:
        files = [p for p in Path(source).rglob("*") if p.is_file()] if os.path.isdir(source) else [source]
        assert all(state(path) in flushed for path in files), f"{source} was not flushed"
        if Path(target).name.startswith("step-"):
            assert (
                Path(target).name == "step-000000"
                or state(Path(target).parents[1] / "metrics.jsonl") in flushed
            )
        replace_(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    sft.train(at(tiny_config, tmp_path / "r"))
    assert len(flushed) > 30
