"""Adding a model family is one row in `FAMILIES`: every fast backend and the plan then know it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from reckoner.engine import backend
from reckoner.engine.batches import Example, collate
from reckoner.engine.hidden_states import completion_states
from reckoner.errors import InputError
from reckoner.models.families import (
    FAMILIES,
    Family,
    has_plain_head,
    known_models,
    meta_model,
    model_config,
    unsupported,
)
from reckoner.models.sources import verified_embedded

TINY = dict(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)


class DummyConfig(LlamaConfig):
    model_type = "dummy_llama"


class DummyForCausalLM(LlamaForCausalLM):
    config_class = DummyConfig


AutoConfig.register("dummy_llama", DummyConfig, exist_ok=True)
AutoModelForCausalLM.register(DummyConfig, DummyForCausalLM, exist_ok=True)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(DummyConfig(**TINY), attn_implementation="eager").eval()


def test_a_family_without_a_row_is_computed_by_its_own_modules(model):
    reason = "unknown architecture dummy_llama"
    assert unsupported(model) == backend.modules_reason(model) == reason and not has_plain_head(model)
    assert backend.sampling_backend(model, "auto") == ("transformers", reason)


def test_one_row_gives_a_family_every_fast_backend_and_its_shapes(model, monkeypatch):
    batch = collate([Example("a", (2, 3, 4), (5, 6)), Example("b", (2, 3, 4), (7,))], 0)
    with monkeypatch.context() as patched:
        patched.setattr(backend, "modules_reason", lambda model: "asked")
        modules = completion_states(model, batch)
    row = Family(shapes={"somebody/dummy-1b": (32, 2, 2, 2, 16, 48, 97)})
    monkeypatch.setitem(FAMILIES, "dummy_llama", row)
    assert not unsupported(model) and not backend.modules_reason(model) and has_plain_head(model)
    assert backend.sampling_backend(model, "native") == ("native", "")
    assert torch.allclose(completion_states(model, batch), modules, atol=2e-5)
    assert "somebody/dummy-1b" in known_models()
    config = model_config("somebody/dummy-1b-it")
    assert isinstance(config, DummyConfig) and config.hidden_size == 32


def test_a_row_without_packed_layers_has_a_plain_head_only(model, monkeypatch):
    monkeypatch.setitem(FAMILIES, "dummy_llama", Family(packed=False))
    assert unsupported(model) and has_plain_head(model)


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("google/gemma-2b-it", 2_506_172_416),
        ("google/gemma-2-2b", 2_614_341_888),
        ("google/gemma-2-9b-it", 9_241_705_984),
        ("google/gemma-3-1b-it", 999_885_952),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
    ],
)
def test_published_counts(name, parameters):
    assert sum(p.numel() for p in meta_model(model_config(name)).parameters()) == parameters


def test_local_folder_and_unknown_names(tmp_path):
    assert model_config("nano").to_dict() == model_config(str(verified_embedded())).to_dict()
    with pytest.raises(
        InputError, match="its shape is not known here; .* hf download someone/large, .* google/gemma-2b"
    ):
        model_config("someone/large")
