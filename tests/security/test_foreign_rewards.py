"""A reward function that only a stranger's settings name is never imported."""

import json
import sys

import pytest

from reckoner.config import build_config
from reckoner.runs.integrity import MANIFEST, manifest, run_files
from reckoner.study.retrain import _plan

from .conftest import write_run, write_study

PLANTED = """
from pathlib import Path
Path({mark!r}).write_text("ran")

def pay(text, problem, grade):
    return float(grade.strict)
"""


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The file that the module `planted` writes when it is imported, as a package and as a module."""
    mark = tmp_path / "mark"
    (tmp_path / "planted").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "planted" / f"{name}.py").write_text(PLANTED.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    for name in ("planted", "planted.inner"):
        sys.modules.pop(name, None)


def foreign_run(folder, **sections):
    """A finished run whose settings are `sections`, as its author left them."""
    write_run(folder)
    (folder / "config.yaml").write_text(json.dumps(sections))
    (folder / "data.json").write_text("{}")
    (folder / MANIFEST).write_text(json.dumps(manifest(folder, run_files(folder))))
    return folder


@pytest.mark.parametrize("name", ["planted:pay", "planted.inner:pay"])
def test_audit_imports_the_function_of_a_run_only_when_it_is_typed(name, mark, refused, reckon, tmp_path):
    run = foreign_run(tmp_path / "theirs", rollout={"reward": name})
    said = refused(
        "audit", run, "--split", "test", says=f"{run}/config.yaml pays by the Python function {name}."
    )
    assert said.endswith(f"If you trust it, add rollout.reward={name}") and not mark.exists()
    assert reckon("audit", run, "--split", "test", "rollout.reward=correct").code in (0, 2)
    assert not mark.exists()
    found = reckon("audit", run, "--split", "test", f"rollout.reward={name}", "--json")
    assert mark.exists() and json.loads(found.out or found.err)["completions"] == 2


def test_replay_trains_by_a_function_of_an_archive_only_when_it_is_named(mark, refused, reckon, tmp_path):
    run = foreign_run(tmp_path / "theirs", rollout={"reward": "planted.inner:pay"})
    assert reckon("pack", run, "--output", "theirs.zip").code == 0
    advice = "add --reward planted.inner:pay"
    assert refused("replay", "theirs.zip", "--train", says="theirs/config.yaml pays by").endswith(advice)
    other = refused("replay", "theirs.zip", "--train", "--reward", "mine:pay", says="but you named mine:pay.")
    assert other.endswith(advice) and not mark.exists()
    both = ("--reward", "planted.inner:pay", "--reward", "mine:pay")
    refused(
        "replay", "theirs.zip", "--train", *both, says="--reward mine:pay: nothing in the archive pays by"
    )
    refused("replay", "theirs.zip", "--reward", "planted.inner:pay", says="--reward is for --train")
    assert not mark.exists()


def test_replay_looks_at_each_arm_of_a_study(mark, refused, reckon, tmp_path):
    study = write_study(tmp_path / "theirs", ["text"])
    arm = {"method": "grpo", "set": {"rollout": {"reward": "planted:pay"}}}
    arms = {"full": {"method": "sft"}, "grpo": arm | {"init": "full"}}
    (study / "config.yaml").write_text(json.dumps({"study": {"arms": arms}}))
    assert reckon("pack", study, "--output", "theirs.zip").code == 0
    refused(
        "replay", "theirs.zip", "--train", says="theirs/config.yaml pays by the Python function planted:pay"
    )
    assert not mark.exists()


def test_an_archive_chooses_no_cluster_no_tracker_and_no_download(tmp_path):
    """Slurm's options hold lines of shell, Ray's an address."""
    arms = {"full": {"method": "sft", "set": {"run": {"report_to": ["wandb"]}}}}
    study = {"engine": "slurm", "cluster": {"cluster": "local", "slurm_setup": ["touch mark"]}, "arms": arms}
    (tmp_path / "study.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(json.dumps({"study": study, "run": {"report_to": ["mlflow"]}}))
    assert build_config([(json.loads((tmp_path / "config.yaml").read_text()), {})]).study.engine == "slurm"
    config, (arm,) = _plan(tmp_path, "again")
    assert (config.study.engine, config.study.cluster) == ("local", {})
    for own in (config, arm.config):
        assert own.run.report_to == [] and own.data.local_files_only
