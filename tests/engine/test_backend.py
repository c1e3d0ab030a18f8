"""What a run says of its backends is what computes."""

from __future__ import annotations

import pytest
import torch

from reckoner.config import ModelConfig, PeftConfig
from reckoner.engine import backend
from reckoner.engine.backend import choose, modules_reason
from reckoner.engine.ops import onednn_ops
from reckoner.errors import InputError
from reckoner.models.policy import load_policy

CPU = ModelConfig("nano", device="cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_one_line_for_the_embedded_model():
    policy = load_policy(CPU, PeftConfig(), train=True)
    library = "oneDNN" if onednn_ops.AVAILABLE else "torch"
    assert str(choose(policy, trains=True)) == (
        f"training: packed pass · sampling: native KV engine · {library} fp32, compiled loops"
    )
    assert str(choose(policy, trains=False)) == f"sampling: native KV engine · {library} fp32, compiled loops"
    torch.set_num_threads(4)
    assert str(choose(policy, trains=False)).endswith("fp32, torch operations")


def test_a_slow_backend_says_why(monkeypatch):
    dropping = load_policy(CPU, PeftConfig(method="lora", lora_dropout=0.1), train=True)
    found = choose(dropping, trains=True)
    assert (found.training, found.training_reason) == ("the model's own modules", "dropout")
    assert str(found).startswith("training: the model's own modules (slower: dropout) · sampling: native")
    low = load_policy(ModelConfig("nano", device="cpu", dtype="bfloat16"), PeftConfig(), train=True)
    monkeypatch.setattr(backend, "has_bfloat16", lambda: True)
    assert str(choose(low, trains=True)).endswith(
        "packed pass · sampling: native KV engine · torch bf16, compiled loops"
    )
    monkeypatch.setattr(backend, "has_bfloat16", lambda: False)
    assert str(choose(low, trains=True)).endswith(
        "torch bf16, compiled loops (slow: this CPU has no bfloat16 "
        "instructions; model.dtype=float32 is many times faster)"
    )
    recomputing = load_policy(
        ModelConfig("nano", device="cpu", gradient_checkpointing=True), PeftConfig(), train=True
    )
    assert choose(recomputing, trains=True).training_reason == "recomputed activations"


def test_an_unknown_architecture(family_models, policy_of):
    policy = policy_of(family_models["granite"])
    found = choose(policy, trains=True)
    assert found.training_reason == found.sampling_reason == "unknown architecture granite"
    assert "sampling: transformers (slower: unknown architecture granite)" in str(found)
    assert choose(policy, "transformers", trains=False).sampling_reason == "", "asked for: no reason is owed"
    with pytest.raises(
        InputError, match="eval.engine=native cannot run this model .unknown architecture granite"
    ):
        choose(policy, "native", trains=False)
    with pytest.raises(InputError, match="eval.engine=vllm: choose auto, native or transformers"):
        choose(policy, "vllm", trains=False)


def test_the_reason_is_that_of_the_moment():
    """The same model trains by its modules and is scored by the packed pass, since only training drops
    anything."""
    model = load_policy(CPU, PeftConfig(method="lora", lora_dropout=0.1), train=True).model
    assert modules_reason(model.train()) == "dropout" and modules_reason(model.eval()) == ""
    assert modules_reason(model, training=True) == "dropout"
