"""Policies: what is loaded is what was saved, and what is chosen is said."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reckoner.config import ModelConfig, PeftConfig
from reckoner.engine import hidden_states
from reckoner.engine.batches import Example, collate
from reckoner.errors import InputError
from reckoner.models.policy import choose_precision, load_policy, quiet

FULL, LORA = PeftConfig(), PeftConfig(method="lora", lora_r=4, lora_alpha=8, lora_dropout=0.0)


@pytest.fixture
def policy(tiny_model):
    return load_policy(ModelConfig(str(tiny_model)), FULL, train=False)


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_embedded_model_loads_without_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    policy = load_policy(ModelConfig(), FULL, train=False)
    assert policy.name == "nano" and policy.model.config.model_type == "gemma"
    assert 1_000_000 <= policy.parameters_total <= 4_000_000 and len(policy.tokenizer) <= 2048
    assert all(p.dtype == torch.float32 for p in policy.model.parameters()) and not policy.model.training
    assert {policy.tokenizer.eos_token_id, policy.tokenizer.convert_tokens_to_ids("<end_of_turn>")} == set(
        policy.stop_ids
    )


@pytest.mark.parametrize("stated", ["1e999", "0.5", "true", '"x"', "[1, null]", "4294967296"])
def test_an_end_that_is_no_token_id_is_refused(folder, stated):
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": {stated}}}')
    with pytest.raises(InputError, match="no token ids|generation_config.json"):
        load_policy(ModelConfig(str(folder)), FULL, train=False)


def test_embedded_tokenizer_shows_every_digit():
    tokenizer = load_policy(ModelConfig(), FULL, train=False).tokenizer
    digits = {str(d): tokenizer.convert_tokens_to_ids(str(d)) for d in range(10)}
    for text in ("She pays 1234.50$<<12*34=408>>408.\n#### 408", " 7%", "(12+3)"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert [i for i in ids if i in digits.values()] == [digits[c] for c in text if c.isdigit()]
        assert not [
            t for t in tokenizer.convert_ids_to_tokens(ids) if len(t) > 1 and any(c.isdigit() for c in t)
        ]


def test_tokenizers_of_equal_files_share_what_they_remember_and_no_attribute(tiny_model, tmp_path):
    """A tokenizer of its own for each arm grew by 0.2 MB an arm, for good."""
    one, other = (
        load_policy(
            ModelConfig(str(shutil.copytree(tiny_model, tmp_path / name))), FULL, train=False
        ).tokenizer
        for name in "ab"
    )
    assert one.backend_tokenizer is other.backend_tokenizer
    one.chat_template = None
    assert other.chat_template
    settings = tmp_path / "b" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "pad_token": "<eos>"}))
    changed = load_policy(ModelConfig(str(tmp_path / "b")), FULL, train=False).tokenizer
    assert (
        changed.backend_tokenizer is not one.backend_tokenizer
        and changed.pad_token_id == changed.eos_token_id != one.pad_token_id
    )


def test_embedded_tokenizer_keeps_any_text(policy):
    for text in (
        "\u2028 \u2019 \u00bd $1,000 \t\n\n  x",
        "".join(map(chr, range(32, 127))),
        "caf\u00e9 \u65e5\u672c",
    ):
        assert policy.decode(policy.encode_prompt(text)) == text


def test_prompts_have_one_bos_and_completions_one_stop(policy):
    bos, eos = policy.tokenizer.bos_token_id, policy.tokenizer.eos_token_id
    ids = policy.encode_prompt("Question: 1+1?\nAnswer:")
    assert ids.count(bos) == 1 and ids[0] == bos
    prompt, answer = policy.encode_example("Question: 1+1?\nAnswer:", " 2")
    assert prompt == ids and answer[-1] == eos and answer.count(eos) == 1 and bos not in answer
    assert policy.encode_prompt("Question: 1+1?\nAnswer: 2") == ids + answer[:-1]


def test_chat_follows_the_template_of_the_tokenizer(policy):
    messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?"},
    ]
    assert policy.tokenizer.decode(policy.encode_prompt(messages)) == (
        "<bos><start_of_turn>user\n1+1?<end_of_turn>\n<start_of_turn>model\n2<end_of_turn>\n"
        "<start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert (
        policy.encode_example(messages, "4")[1][-1]
        == policy.tokenizer.convert_tokens_to_ids("<end_of_turn>")
        == policy.turn_end
    )
    assert (
        policy.encode_prompt(messages)
        == policy.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    )
    with pytest.raises(InputError, match="System role not supported"):
        policy.encode_prompt([{"role": "system", "content": "Be brief."}, *messages])
    with pytest.raises(InputError, match="must alternate"):
        policy.encode_prompt(messages[1:])


def test_saved_and_loaded_again_is_equal_bit_for_bit(tiny_model, tmp_path):
    policy = load_policy(ModelConfig(str(tiny_model)), FULL, train=True)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(torch.randn_like(p) / 3)
    policy.save(tmp_path / "saved")
    again = load_policy(ModelConfig(str(tmp_path / "saved")), FULL, train=True)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for name, tensor in policy.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]) and torch.equal(
            tensor, plain.state_dict()[name]
        ), name
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("1 a")["input_ids"] == policy.encode_prompt(
        "1 a"
    )
    assert not [f.name for f in (tmp_path / "saved").iterdir() if f.suffix in {".bin", ".pt", ".pkl"}]


def test_training_takes_all_weights_or_the_adapter_alone(tiny_model):
    full = load_policy(ModelConfig(str(tiny_model)), FULL, train=True)
    assert full.parameters_trainable == full.parameters_total and full.model.training
    lora = load_policy(ModelConfig(str(tiny_model)), LORA, train=True)
    assert {n for n, p in lora.model.named_parameters() if p.requires_grad} == {
        n for n, _ in lora.model.named_parameters() if "lora_" in n
    }
    assert lora.parameters_total - lora.parameters_trainable == full.parameters_total


@pytest.mark.parametrize(
    "change, message",
    [
        ("missing", "1 missing keys"),
        ("extra", "1 unexpected keys"),
        ("shape", "1 mismatched keys"),
        ("nan", "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(folder, change, message):
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    match change:
        case "missing":
            del tensors[name]
        case "extra":
            tensors["model.layers.9.mlp.up_proj.weight"] = tensors[name].clone()
        case "shape":
            tensors[name] = tensors[name][:-1].clone()
        case "nan":
            tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=message):
        load_policy(ModelConfig(str(folder)), FULL, train=False)


def test_damaged_files_are_one_clear_line(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="damaged safetensors file, or cut short. Fetch it again") as error:
        load_policy(ModelConfig(str(folder)), FULL, train=False)
    assert "\n" not in str(error.value)
    (folder / "model.safetensors").write_bytes(weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gemmma"}))
    with pytest.raises(InputError, match="no architecture"):
        load_policy(ModelConfig(str(folder)), FULL, train=False)


def test_precision_is_chosen_in_one_place_and_said():
    chosen = choose_precision(ModelConfig(device="cpu"), full=True)
    assert (chosen.device.type, chosen.dtype, chosen.weights) == ("cpu", torch.float32, torch.float32)
    assert chosen.note == "cpu, float32 (exact on a CPU)"
    mixed = choose_precision(ModelConfig(device="cpu", dtype="bfloat16"), full=True)
    assert (mixed.dtype, mixed.weights) == (torch.bfloat16, torch.float32) and mixed.note.endswith(
        "float32 master weights"
    )
    assert choose_precision(ModelConfig(device="cpu", dtype="bfloat16"), full=False).weights == torch.bfloat16
    lean = choose_precision(ModelConfig(device="cpu", dtype="bfloat16", train_dtype="bfloat16"), full=True)
    assert lean.weights == torch.bfloat16 and "master" not in lean.note
    with pytest.raises(
        InputError,
        match="model.train_dtype=bfloat16 is less precise than the computation; set model.dtype=bfloat16 too",
    ):
        choose_precision(ModelConfig(device="cpu", train_dtype="bfloat16"), full=True)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch sees no GPU"):
            choose_precision(ModelConfig(device="cuda"), full=True)
        with pytest.raises(InputError, match="qlora needs a GPU"):
            load_policy(ModelConfig(), PeftConfig(method="qlora"), train=True)


def test_a_token_that_ends_and_pads_is_learned_by_the_modules_too(folder):
    """torch gives the padding token of an embedding no gradient; here it also ends each turn of a prompt."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": 1}))
    model = load_policy(ModelConfig(str(folder), device="cpu"), FULL, train=True).model
    batch, found = collate([Example("a", (2, 30, 1, 40), (50, 1))], 1), []
    for states in (hidden_states.completion_states, hidden_states._plain):
        model.zero_grad()
        states(model, batch)[:, 0].sum().backward()
        found.append(model.get_input_embeddings().weight.grad[1].clone())
    assert found[0].abs().max() > 1e-3
    assert torch.allclose(*found, atol=1e-5)


def test_autocast_only_over_masters_of_another_dtype(tiny_model):
    ids = torch.tensor([[2, 7, 8]])
    for dtype, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        policy = load_policy(ModelConfig(str(tiny_model), dtype=dtype, device="cpu"), FULL, train=True)
        with policy.autocast():
            assert policy.model(input_ids=ids).logits.dtype == expected
        assert all(p.dtype == torch.float32 for p in policy.model.parameters())


def test_checkpointing_does_not_change_gradients(tiny_model):
    gradients = []
    for peft in (FULL, LORA):
        for on in (False, True):
            torch.manual_seed(1)
            policy = load_policy(ModelConfig(str(tiny_model), gradient_checkpointing=on), peft, train=True)
            policy.model(
                input_ids=torch.tensor([[2, 7, 8, 9]]), use_cache=False
            ).logits.square().sum().backward()
            gradients.append({n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None})
        (without, with_) = gradients[-2:]
        assert without.keys() == with_.keys() and without
        for name, gradient in without.items():
            torch.testing.assert_close(gradient, with_[name])


def test_quiet_puts_everything_back():
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(KeyError), quiet():
        assert not logging.is_progress_bar_enabled()
        raise KeyError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_numbers_that_transformers_writes_for_no_limit_are_read(folder):
    for name, field in (
        ("tokenizer_config.json", '"model_max_length": 1000000000000000019884624838656'),
        ("config.json", '"time_step_limit": [0.0, Infinity]'),
    ):
        settings = json.loads((folder / name).read_text())
        settings.pop(field.split('"')[1], None)
        (folder / name).write_text(json.dumps(settings).removesuffix("}") + f", {field}}}")
    policy = load_policy(ModelConfig(str(folder)), FULL, train=False)
    assert policy.tokenizer.model_max_length == 1000000000000000019884624838656
