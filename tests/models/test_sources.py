"""Where models come from, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
import socket

import pytest

from reckoner.errors import InputError
from reckoner.models.sources import (
    EMBEDDED,
    TOKENIZER,
    check_folder,
    resolve,
    verified_embedded,
    verify_manifest,
)
from reckoner.runs.integrity import manifest


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_embedded_files_are_those_of_the_manifest():
    path = verified_embedded()
    named = json.loads((path / "manifest.json").read_text())["sha256"]
    assert {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= set(named)
    assert sum(f.stat().st_size for f in path.iterdir() if f.is_file()) < 8_000_000


def test_one_flipped_byte_of_embedded_weights_is_found(tmp_path):
    copy = shutil.copytree(verified_embedded(), tmp_path / "nano")
    verify_manifest(copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"model\.safetensors is missing, damaged or was replaced"):
        verify_manifest(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing, damaged or was replaced"):
        verify_manifest(copy)


@pytest.mark.parametrize("text", ["{}", '{"sha256": {}}', '{"sha256": {"config.json": "ab"}}'])
def test_a_manifest_that_does_not_name_the_weights_protects_nothing(tmp_path, text):
    copy = shutil.copytree(verified_embedded(), tmp_path / "nano")
    (copy / "manifest.json").write_text(text)
    with pytest.raises(
        InputError, match=r"manifest\.json does not name every file of weights; install reckoner again"
    ):
        verify_manifest(copy)


def test_weights_beside_those_of_the_manifest_are_refused(tmp_path):
    copy = shutil.copytree(verified_embedded(), tmp_path / "nano")
    shutil.copy(copy / "model.safetensors", copy / "model-00002.safetensors")
    with pytest.raises(InputError, match="does not name every file of weights"):
        verify_manifest(copy)


def test_nothing_local_touches_the_network(monkeypatch, folder):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert resolve(EMBEDDED).reference == EMBEDDED
    assert resolve(str(folder)).folder == folder
    with pytest.raises(InputError, match="no such model folder"):
        resolve("./runs/nothing")


def test_a_run_folder_is_its_model(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    source = resolve(str(run))
    assert source.folder == run / "model" and source.adapters == () and source.reference == str(run / "model")


@pytest.mark.parametrize(
    "missing, message",
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no .*safetensors weights$"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_an_incomplete_folder_says_what_it_lacks(folder, missing, message):
    (folder / missing).unlink()
    with pytest.raises(InputError, match=message):
        check_folder(folder)


def test_a_pickle_is_never_the_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pytorch_model.bin is a pickle, which can run code"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_folder_is_never_run(folder, tmp_path, name):
    ran = tmp_path / "ran"
    (folder / "modeling_x.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}))
    with pytest.raises(InputError, match="own code"):
        resolve(str(folder))
    assert not ran.exists()


def test_broken_json_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: cannot be read as JSON"):
        resolve(str(folder))


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        resolve(str(tmp_path / "model.bin"))


def _adapter(folder, **config):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": EMBEDDED} | config)
    )
    (folder / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    return folder


def test_an_adapter_names_its_base(tmp_path):
    source = resolve(str(_adapter(tmp_path / "a")))
    assert source.folder == verified_embedded() and source.adapters == (tmp_path / "a",)
    outer = resolve(str(_adapter(tmp_path / "b", base_model_name_or_path=str(tmp_path / "a"))))
    assert outer.folder == verified_embedded() and outer.adapters == (tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    "config, message",
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"base_model_name_or_path": None}, "does not say what it adapts"),
        ({"base_model_name_or_path": "/no/such/base"}, "/no/such/base: no such model folder"),
    ],
)
def test_bad_adapters(tmp_path, config, message):
    with pytest.raises(InputError, match=message):
        resolve(str(_adapter(tmp_path / "a", **config)))


def test_an_adapter_of_itself(tmp_path):
    with pytest.raises(InputError, match="adapts itself"):
        resolve(str(_adapter(tmp_path / "a", base_model_name_or_path=str(tmp_path / "a"))))


def test_an_adapter_over_other_weights_is_refused(tmp_path, folder):
    adapter = _adapter(tmp_path / "a", base_model_name_or_path=str(folder))
    (adapter / "base.json").write_text(
        json.dumps({"name": str(folder), "sha256": resolve(str(folder)).digest()})
    )
    resolve(str(adapter))
    with open(folder / "model.safetensors", "rb+") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(InputError, match="trained over other weights"):
        resolve(str(adapter))


@pytest.mark.parametrize("known", ["noted", "from before it was noted"])
def test_an_adapter_over_another_tokenizer_is_refused(tmp_path, folder, known):
    """Two ids of its base swapped, and the adapter would read and write other words."""
    adapter, base = _adapter(tmp_path / "a", base_model_name_or_path=str(folder)), resolve(str(folder))
    note = {"name": str(folder), "sha256": base.digest(), "tokenizer": base.digest(TOKENIZER)}
    if known != "noted":
        del note["tokenizer"]
    (adapter / "base.json").write_text(json.dumps(note))
    resolve(str(adapter))
    swap_two_ids(folder)
    if known == "noted":
        with pytest.raises(InputError, match="trained with another tokenizer than .* has now; restore it"):
            resolve(str(adapter))
    else:
        resolve(str(adapter))


def swap_two_ids(folder):
    """Exchange the ids of two words of tokenizer.json."""
    document = json.loads((folder / "tokenizer.json").read_text())
    words = document["model"]["vocab"]
    a, b = list(words)[300:302]
    words[a], words[b] = words[b], words[a]
    (folder / "tokenizer.json").write_text(json.dumps(document))


@pytest.mark.parametrize("change", ["flipped", "added", "removed"])
def test_weights_of_a_finished_run_are_checked_on_use(folder, tmp_path, change):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    names = ["model/" + path.name for path in (run / "model").iterdir()]
    (run / "summary.json").write_text("{}")
    (run / "config.yaml").write_text("")
    (run / "MANIFEST.json").write_text(
        json.dumps({**manifest(run, names), "config.yaml": {"size": 1, "sha256": ""}})
    )
    assert resolve(str(run)).folder == run / "model"
    weights = run / "model" / "model.safetensors"
    match change:
        case "flipped":
            content = bytearray(weights.read_bytes())
            content[-5] ^= 1
            weights.write_bytes(content)
        case "added":
            shutil.copy(weights, run / "model" / "more.safetensors")
        case "removed":
            (run / "model" / "generation_config.json").unlink()
    with pytest.raises(InputError, match="has changed since|was not there when|is missing"):
        resolve(str(run))
    with pytest.raises(InputError, match="has changed since|was not there when|is missing"):
        resolve(str(run / "model"))
