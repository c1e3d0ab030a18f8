"""QLoRA is one thing from start to end: what was trained over NF4 weights is used over the same numbers."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch
from torch import nn

from reckoner.config import ModelConfig, PeftConfig
from reckoner.errors import InputError
from reckoner.models import nf4
from reckoner.models.adapters import add_lora
from reckoner.models.merge import merge
from reckoner.models.policy import Policy, load_policy

LORA = PeftConfig(method="qlora", lora_r=4, lora_alpha=8)
IDS = torch.tensor([[2, 30, 40, 50, 60, 7]])
CPU = torch.device("cpu")
with_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def trained_over(policy: Policy, folder: str) -> Policy:
    """The policy with an adapter that is not zero, as a run in NF4 saves it."""
    torch.manual_seed(0)
    policy.model, policy.nf4, policy.base = add_lora(policy.model, LORA, folder), "float32", policy.base
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.05)
    return policy


def to_eighths(model: nn.Module, dtype: str, device: torch.device) -> None:
    """In place of NF4, where bitsandbytes is not installed: the decoder's weights become multiples of 1/8."""
    assert (dtype, device) == ("float32", CPU)
    for _, _, layer in nf4._projections(model):
        layer.weight.data.copy_((8 * layer.weight).round() / 8)


def test_test_and_merge_are_computed_on_the_weights_that_were_trained_over(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(nf4, "round_weights", to_eighths)
    policy = load_policy(ModelConfig(str(tiny_model), device="cpu"), PeftConfig(), train=False)
    plain = logits(policy.model)
    to_eighths(policy.model, "float32", CPU)
    trained_over(policy, str(tiny_model)).save(tmp_path / "run" / "model")
    assert json.loads((tmp_path / "run" / "model" / "base.json").read_text())["nf4"] == "float32"
    again = load_policy(ModelConfig(str(tmp_path / "run"), device="cpu"), PeftConfig(), train=False)
    assert torch.equal(logits(again.model), logits(policy.model)) and again.nf4 == "float32"
    assert again.note == "cpu, float32 (exact on a CPU), over NF4 weights; attention sdpa"
    assert "merged into the NF4 weights it was trained over, float32" in merge(
        tmp_path / "run", tmp_path / "merged"
    )
    for source, train in (("merged", False), ("run", True)):
        model = ModelConfig(str(tmp_path / source), device="cpu")
        other = load_policy(model, PeftConfig(), train=train)
        assert torch.allclose(logits(other.model.eval()), logits(policy.model), atol=1e-5) and not other.nf4
    with policy.model.disable_adapter():
        assert (logits(policy.model) - plain).abs().max() > 1e-3, "the base as it was is another model"


def test_what_cannot_be_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "base.json").write_text('{"nf4": "int8"}')
    with pytest.raises(InputError, match=r"base.json: nf4 is 'int8', and none of float32, bfloat16, float16"):
        nf4.dtype_of(tmp_path)
    with pytest.raises(InputError, match="peft.method=qlora needs a GPU; set peft.method=lora"):
        load_policy(ModelConfig(device="cpu"), LORA, train=True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="needs bitsandbytes: pip install bitsandbytes$"):
        nf4.check(torch.device("cuda"))


class Decoder(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def get_decoder(self) -> nn.Module:
        return self


@with_library
def test_a_block_of_nf4_by_hand():
    """64 weights with a scale of 2: each becomes twice the nearest of the 16 quantiles of a normal one."""
    layer = nn.Linear(64, 1, bias=False)
    layer.weight.data.zero_()
    layer.weight.data[0, :6] = torch.tensor([2.0, -2.0, 1.0, 0.3, -0.11, 0.07])
    nf4.round_weights(Decoder(layer), "float32", CPU)
    wanted = torch.tensor([2.0, -2.0, 2 * 0.44070983, 2 * 0.16093020, 2 * -0.09105004, 0.0])
    assert torch.allclose(layer.weight[0, :6], wanted, atol=1e-6)
    assert layer.weight[0, 6:].abs().max() == 0


@with_library
def test_four_bits_and_their_plain_twin_are_one_model(tiny_model, tmp_path):
    """They have the same logits, gradients of an adapter and count of weights, up to rounding in fp32."""
    twin, policy, plain = (
        load_policy(ModelConfig(str(tiny_model), device="cpu"), PeftConfig(), train=False) for _ in range(3)
    )
    assert nf4.quantize(policy.model, torch.float32, CPU) == "float32"
    assert policy.parameters_total == twin.parameters_total
    nf4.round_weights(twin.model, "float32", CPU)
    found = []
    for each in (policy, twin):
        model = trained_over(each, str(tiny_model)).model.train()
        model(input_ids=IDS).logits.square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and all("lora_" in name for name in found[0])
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-5), name
    assert torch.allclose(logits(policy.model), logits(twin.model), atol=1e-5)
    assert torch.unique(twin.model.get_decoder().layers[0].mlp.up_proj.base_layer.weight[0, :]).numel() <= 16
    policy.save(tmp_path / "run" / "model")
    again = load_policy(ModelConfig(str(tmp_path / "run"), device="cpu"), PeftConfig(), train=False)
    assert torch.allclose(logits(again.model), logits(policy.model), atol=1e-5)
    assert (logits(trained_over(plain, str(tiny_model)).model) - logits(policy.model)).abs().max() > 1e-2
