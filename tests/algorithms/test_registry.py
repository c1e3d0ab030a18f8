"""A training method is one file and one line; its file imports little, and its verb is near to backward."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

import reckoner
from reckoner.algorithms import ALGORITHMS
from reckoner.cli import train as verbs

from .invariants import coin

DUMMY = """
from reckoner.runs.folder import Run, silent
from reckoner.training.loop import Training

def train(config, on_progress=silent):
    with Run.open(config) as run:
        if summary := run.finished("dummy"):
            return summary
        training = Training.begin(run, on_progress)
        for _ in training.steps():
            training.count_step([], 0.0)
            training.end_step({}, "")
        return training.finish("dummy")
"""
LINE = """
import sys
from reckoner.algorithms import ALGORITHMS, Algorithm
ALGORITHMS["dummy"] = Algorithm("dummy", "", False, True, "Learns nothing.", module="dummy_method")
from reckoner.cli import main
for command in sys.argv[1:]:
    assert main(command.split()) == 0
"""
STUDY = """
data: {{dev_size: 8, max_train_samples: 32, max_test_samples: 4}}
model: {{model_name_or_path: {model}}}
prompt: {{chat_template: "off"}}
eval: {{dev_samples: 2}}
run: {{threads: 1}}
study: {{jobs: 1, arms: {{plain: {{method: prompt}}, mine: {{method: dummy, title: My method}}}}}}
"""


def test_a_method_is_one_file_and_one_line(tiny_model, tmp_path):
    """From `reckon dummy` to the report; it counts as rewarded, and as no other method."""
    (tmp_path / "dummy_method.py").write_text(DUMMY)
    (tmp_path / "study.yaml").write_text(STUDY.format(model=tiny_model))
    paths = os.pathsep.join([str(tmp_path), str(Path(reckoner.__file__).parent.parent)])
    settings = "--config study.yaml run.output_dir="
    done = subprocess.run(
        [sys.executable, "-c", LINE, "--help", f"dummy {settings}one", f"study {settings}all"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Learns nothing." in done.stdout
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["method"] == "dummy"
    record = json.loads((tmp_path / "all" / "study.json").read_text())
    (arm,) = (arm for arm in record["arms"] if arm["name"] == "mine")
    assert (arm["method"], arm["rewarded"], arm["state"]) == ("dummy", True, "done")
    assert {arm["rewarded"] for arm in record["arms"] if arm["method"] == "prompt"} == {False}
    assert "My method" in (tmp_path / "all" / "report.md").read_text()


@pytest.mark.parametrize("method", ["sft", "ppo", "grpo", "rejection", "dpo", "distill"])
def test_an_algorithm_file_imports_few_names_of_ours(method):
    path = Path(inspect.getfile(ALGORITHMS[method].train))
    ours = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("reckoner")
    ]
    assert len({node.module for node in ours}) <= 6
    assert sum(len(node.names) for node in ours) <= 16


def test_the_registry_imports_no_torch():
    path = Path(reckoner.__file__).parent / "algorithms" / "__init__.py"
    modules = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {module.partition(".")[0] for module in modules} <= set(sys.stdlib_module_names)


class Reached(BaseException):
    """Stops a run at its first backward pass."""


@pytest.mark.parametrize("method", ["sft", "ppo", "grpo", "rejection", "dpo"])
def test_three_calls_lead_from_a_verb_to_backward(method, rl_config, monkeypatch):
    """The verb calls `train`, that the update, and that backward."""
    frames: list[str] = []

    def backward(self, *_, **__):
        stack = inspect.stack()
        frames.extend(
            f.function for f in stack if f"reckoner{os.sep}" in f.filename and "/tests/" not in f.filename
        )
        raise Reached

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    rl_config.rollout = replace(rl_config.rollout, temperature=1.0)
    if ALGORITHMS[method].rewarded:
        monkeypatch.setattr("reckoner.training.rl.Sampler.most", 1.0, raising=False)
        train = ALGORITHMS[method].train
        monkeypatch.setattr(inspect.getmodule(train), "train", lambda c, p: train(c, p, coin))
    monkeypatch.setattr(verbs, "_method_config", lambda *_: rl_config)
    monkeypatch.setattr(verbs, "_prepare", lambda *_: None)
    group = typer.main.get_command(verbs.verbs)
    with pytest.raises(Reached):
        group.commands[method].callback()
    called = frames[: frames.index("verb") + 1]
    assert called[-2:] == ["train", "verb"] and len(called) == 3, called
