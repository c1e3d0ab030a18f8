"""Models named by their Hub id, from a cache as the Hub's client lays it out, without a network."""

from __future__ import annotations

import json
import shutil
import socket

import huggingface_hub.constants as hub
import pytest
import torch
from safetensors.torch import save_file

from reckoner.cli import main
from reckoner.config import ArmConfig, Config, ModelConfig, PeftConfig, StudyConfig
from reckoner.errors import InputError
from reckoner.machine import say_once
from reckoner.models.families import UnknownShape, model_config
from reckoner.models.policy import load_policy
from reckoner.models.sources import resolve
from reckoner.plan import plan
from reckoner.study.arms import plan_study
from reckoner.study.runner import device_memory
from reckoner.tasks import gsm8k

NAME, COMMIT, OTHER = "someone/tiny-gemma", "0" * 39 + "1", "0" * 39 + "2"


@pytest.fixture
def cache(tiny_model, tmp_path, monkeypatch):
    """HF_HOME/hub with one model: files in blobs, links to them in the snapshots of two commits, `main` at
    the first."""
    root = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    for commit in (COMMIT, OTHER):
        (root / "snapshots" / commit).mkdir(parents=True)
        for number, file in enumerate(sorted(tiny_model.iterdir())):
            blob = shutil.copy(file, root / "blobs" / f"{number:064x}")
            (root / "snapshots" / commit / file.name).symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return root


def test_a_cached_model_loads_by_its_hub_id(cache, tiny_model):
    source = resolve(NAME)
    assert source.folder == cache / "snapshots" / COMMIT and source.reference == NAME
    policy = load_policy(ModelConfig(NAME), PeftConfig(), train=False)
    assert policy.name == NAME
    assert (
        policy.parameters_total
        == load_policy(ModelConfig(str(tiny_model)), PeftConfig(), train=False).parameters_total
    )


def test_what_a_file_names_is_not_fetched(cache, tmp_path, monkeypatch):
    """A Hub id in an adapter or in the configuration of a run: from the cache, or one line; the user's own
    would be fetched."""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    assert resolve(NAME, fetch=False).folder == cache / "snapshots" / COMMIT
    with pytest.raises(
        InputError, match="someone/else is named by a file .* Get it with: hf download someone/else"
    ):
        resolve("someone/else", fetch=False)
    (tmp_path / "adapter").mkdir()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "someone/else"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(InputError, match="someone/else is named by a file"):
        resolve(str(tmp_path / "adapter"))
    with pytest.raises(InputError, match="Add data.hub_name=some/set to this command to fetch it"):
        gsm8k.load("train", source="gsm8k", hub_name="some/set", local_files_only=True)
    assert not hub.HF_HUB_OFFLINE
    with pytest.raises(AssertionError, match="a connection was tried"):
        gsm8k.load("train", source="gsm8k", hub_name="some/set")


def test_a_hub_id_that_is_not_listed_is_planned_by_what_the_cache_holds(cache, tiny_model, capsys):
    shape = model_config(str(tiny_model)).to_dict()
    assert model_config(NAME).to_dict() == model_config(NAME, OTHER).to_dict() == shape
    known = load_policy(ModelConfig(str(tiny_model)), PeftConfig(), train=False).parameters_total
    assert plan(Config(model=ModelConfig(NAME))).parameters == known
    (cache / "snapshots" / OTHER / "config.json").unlink()
    with pytest.raises(UnknownShape, match=f"{NAME}: its shape is not known here"):
        model_config(NAME, OTHER)
    with pytest.raises(UnknownShape, match=f"{NAME}: its shape is not known here"):
        plan(Config(model=ModelConfig(NAME, OTHER)))
    assert main(["plan", "model.model_name_or_path=someone/else"]) == 2
    assert "someone/else: its shape is not known here" in capsys.readouterr().err


def test_a_study_of_a_model_of_unknown_shape_goes_on_without_an_estimate(cache, tmp_path, capsys, caplog):
    """It ends where the weights are fetched, which the cache lacks and this machine may not."""
    say_once.cache_clear()
    config = Config(model=ModelConfig("someone/else"), study=StudyConfig(arms={"a": ArmConfig("sft")}))
    config.run.output_dir = str(tmp_path / "s")
    assert device_memory(config, plan_study(config)[0]) is None
    say_once.cache_clear()
    caplog.clear()
    words = ["--preset", "smoke", "--arm", "full-main", f"run.output_dir={tmp_path / 's'}"]
    assert main(["study", *words, "model.model_name_or_path=someone/else"]) == 2
    assert caplog.text.count("no estimate of time and memory: someone/else: its shape is not known") == 1
    assert "reckon: someone/else: not available from the Hub" in capsys.readouterr().err


def test_a_name_that_no_hub_id_may_have_is_one_line(cache):
    with pytest.raises(InputError, match=r"a--b/c: not available from the Hub \(HFValidationError"):
        resolve("a--b/c")


def test_a_revision_is_pinned(cache):
    assert resolve(NAME, OTHER).folder == cache / "snapshots" / OTHER
    with pytest.raises(InputError, match=f"{NAME}: not available from the Hub"):
        resolve(NAME, "f" * 40)


def test_an_adapter_over_a_hub_model_finds_its_base_again(cache, tmp_path):
    policy = load_policy(ModelConfig(NAME), PeftConfig(method="lora", lora_r=2), train=True)
    policy.save(tmp_path / "adapter")
    again = load_policy(ModelConfig(str(tmp_path / "adapter")), PeftConfig(), train=False)
    assert again.base.name == NAME and again.parameters_total == policy.parameters_total


def test_what_is_not_cached_is_one_line_that_says_what_to_do(cache):
    with pytest.raises(
        InputError, match="someone/else: not available from the Hub .*HF_TOKEN; offline, give a folder"
    ) as error:
        resolve("someone/else")
    assert "\n" not in str(error.value)
