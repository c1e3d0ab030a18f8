"""The packed forward pass with a gradient against the model's own modules, and when only the modules will
do."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from reckoner.engine import backend
from reckoner.engine import hidden_states as states
from reckoner.engine.batches import Example, collate
from reckoner.engine.hidden_states import completion_states
from reckoner.engine.ops import numba_ops
from reckoner.engine.packed import NativeModel, pack
from reckoner.models.policy import _checkpoint_activations

from .conftest import CONFIGS, build

EXAMPLES = [
    Example("a", (2, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20), (21, 22, 23, 1)),
    Example("b", (2, 31), (32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 1)),
    Example("c", (2, 41, 42, 43, 44), (45,)),
]
SHARED = [
    Example("a0", (2, 11, 12, 13, 14), (21, 22, 23, 1)),
    Example("b0", (2, 31), (32, 33, 34, 35, 36, 37, 1)),
    Example("a1", (2, 11, 12, 13, 14), (24, 1)),
    Example("a2", (2, 11, 12, 13, 14), (21, 22, 25, 26, 27, 28, 1)),
    Example("b1", (2, 31), (1,)),
]
NATIVE = ["gemma", "gemma2", "gemma3", "llama", "qwen2", "qwen3"]


SOME = ["q_proj", "v_proj", "gate_proj", "down_proj"]
ALL = [*SOME, "k_proj", "o_proj", "up_proj"]


def adapted(model, dropout=0.0, targets=SOME, rank=3):
    torch.manual_seed(5)
    return get_peft_model(
        model,
        LoraConfig(
            r=rank, lora_alpha=6, target_modules=targets, init_lora_weights=False, lora_dropout=dropout
        ),
    )


def both_ways(model, batch, packed=completion_states):
    """States and gradients of a random projection of them: packed, and by the modules."""
    found = []
    for way in (packed, states._plain):
        model.zero_grad()
        result = way(model, batch)
        generator = torch.Generator().manual_seed(1)
        (result * torch.randn(result.shape, generator=generator)).sum().backward()
        found.append(
            (
                result.detach(),
                {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
            )
        )
    return found


@pytest.fixture(params=[True, False], ids=["loops", "torch"])
def each_way(request, monkeypatch):
    """With numba_ops loops, and as on more threads than they are for."""
    monkeypatch.setattr(numba_ops, "AVAILABLE", numba_ops.AVAILABLE and request.param)


@pytest.mark.usefixtures("each_way")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", NATIVE)
def test_states_and_gradients_equal_the_modules(family, lora):
    model = adapted(build(family)) if lora else build(family)
    assert not backend.modules_reason(model)
    (packed, got), (plain, expected) = both_ways(model, collate(EXAMPLES, 0, "cpu"))
    assert packed.shape == (18, 48) and torch.allclose(packed, plain, atol=2e-5)
    assert got.keys() == expected.keys() and all("lora_" in name for name in got) == lora
    whole = torch.stack([grad.norm() for grad in expected.values()]).norm()
    for name in got:
        assert (got[name] - expected[name]).norm() <= 1e-5 * whole, name


@pytest.mark.usefixtures("each_way")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("family", NATIVE)
def test_a_prompt_is_computed_once_for_all_its_completions(family):
    """As many tokens go through the products as there are distinct ones, and no number changes."""
    model, batch = build(family), collate(SHARED, 0, "cpu")
    assert (
        len(batch.unique_positions) == 5 + 2 + sum(len(e.completion_ids) for e in SHARED)
        and len(batch.shared_prefix_positions) == 5 + 5 + 2
    )
    assert torch.equal(
        batch.input_ids.flatten()[batch.unique_positions][batch.packed_index[batch.shared_prefix_positions]],
        batch.input_ids.flatten()[batch.shared_prefix_positions],
    )
    (packed, got), (plain, expected) = both_ways(model, batch)
    assert torch.allclose(packed, plain, atol=2e-5)
    whole = torch.stack([grad.norm() for grad in expected.values()]).norm()
    assert all((got[name] - expected[name]).norm() <= 1e-5 * whole for name in expected)


def test_passes_are_filled_to_rows_that_come_again():
    """70 tokens and 73 become 128, 130 and 128 become 192; what fills them is the first token, and no place
    of a row points to it."""

    def rows(*lengths):
        batch = collate(
            [Example(str(n), (1, n), tuple(range(2, length))) for n, length in enumerate(lengths)], 0, "cpu"
        )
        tokens = states.PackedBatch(batch, 0, 1)
        assert torch.equal(
            tokens.ids[0][batch.packed_index[batch.unique_positions]],
            batch.input_ids.flatten()[batch.unique_positions],
        )
        assert (
            len(batch.unique_positions) == sum(lengths) == batch.packed_index.max() + 1
            and (tokens.filled[sum(lengths) :] == 0).all()
        )
        return tokens.ids.shape[1]

    assert [rows(30, 20, 20), rows(30, 20, 20, 3), rows(90, 20, 20), rows(64, 64)] == [128, 128, 192, 192]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("family", NATIVE)
def test_lora_beside_its_weights_equals_lora_folded_into_them(family):
    model, batch = adapted(build(family)), collate(EXAMPLES, 0, "cpu")

    def beside(model, batch):
        native = NativeModel(model, torch.float32, batch.input_ids.shape[1], fold=False)
        assert (
            native.weights.layers[0].qkv.lora
            and native.weights.layers[0].gate_up[0].lora
            and not native.weights.layers[0].gate_up[1].lora
        )
        tokens = states.PackedBatch(batch, len(native.weights.layers) - 1, native.weights.kv_heads)
        return native.hidden(tokens.ids, tokens.positions, tokens)[: len(batch.rows)]

    (apart, got), (plain, expected) = both_ways(model, batch, beside)
    assert torch.allclose(apart, plain, atol=2e-5)
    assert got.keys() == expected.keys()
    whole = torch.stack([grad.norm() for grad in expected.values()]).norm()
    for name in got:
        assert (got[name] - expected[name]).norm() <= 1e-5 * whole, name


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_the_parts_of_several_adapters_add_up_to_what_is_folded():
    """Two of them, of other ranks and scales, on overlapping projections."""
    model = adapted(build("gemma"))
    model.add_adapter(
        "second", LoraConfig(r=5, lora_alpha=1, target_modules=["v_proj", "up_proj"], init_lora_weights=False)
    )
    model.base_model.set_adapter(["default", "second"])
    beside, folded = (pack(model, torch.float32, fold).layers[1] for fold in (False, True))
    qkv, gate, up = (part.weight + part.lora[1] @ part.lora[0] for part in (beside.qkv, *beside.gate_up))
    assert torch.allclose(qkv, folded.qkv.weight, atol=1e-6) and torch.allclose(
        torch.cat((gate, up)), folded.gate_up[0].weight, atol=1e-6
    )
    assert [len(part.lora[0]) % 8 for part in beside.gate_up] == [0, 0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_off_is_the_model_beneath():
    batch, model = collate(EXAMPLES, 0, "cpu"), adapted(build("gemma"))
    with model.disable_adapter():
        assert torch.allclose(
            completion_states(model, batch), completion_states(build("gemma"), batch), atol=1e-6
        )
    assert (completion_states(model, batch) - completion_states(build("gemma"), batch)).abs().max() > 1e-2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_when_only_the_modules_will_do():
    assert all(not backend.modules_reason(build(family)) for family in NATIVE)
    assert backend.modules_reason(build("granite"))

    dropping = adapted(build("gemma"), dropout=0.1)
    assert backend.modules_reason(dropping.train()) and not backend.modules_reason(dropping.eval())
    attention = build("llama", attention_dropout=0.1)
    assert backend.modules_reason(attention.train()) and not backend.modules_reason(attention.eval())
    recomputing = build("gemma")
    _checkpoint_activations(recomputing)
    assert backend.modules_reason(recomputing.train()) and not backend.modules_reason(recomputing.eval())


@pytest.mark.parametrize("family", ["llama", "gemma3n", "gemma4"])
def test_recomputed_activations_give_the_same_gradient(family):
    """Gemma 3n and 4 hand keys and values from layer to layer beside the states, which must carry a gradient
    too."""
    model, batch = build(family).train(), collate(EXAMPLES, 0, "cpu")
    kept = both_ways(model, batch, states._plain)[0]
    _checkpoint_activations(model)
    recomputed = both_ways(model, batch, states._plain)[0]
    assert torch.equal(kept[0], recomputed[0]) and kept[1].keys() == recomputed[1].keys()
    for name, gradient in kept[1].items():
        assert torch.allclose(gradient, recomputed[1][name], atol=1e-5), name


def test_left_padding_goes_through_the_modules_and_gives_the_same(family_models):
    assert set(CONFIGS) >= set(NATIVE)
    for family in NATIVE:
        left, right = (
            completion_states(family_models[family], collate(EXAMPLES, 0, "cpu", side))
            for side in ("left", "right")
        )
        assert torch.allclose(left, right, atol=2e-5)


@pytest.mark.usefixtures("each_way")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", NATIVE)
def test_bfloat16_products_stay_near_fp32(family, lora):
    """Rounding to 8 bits leaves states within 3 % of their norm, and the whole gradient, which is kept in
    fp32, within 5 %."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = adapted(build(family)) if lora else build(family)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            result = completion_states(model, collate(SHARED, 0, "cpu"))
        assert result.dtype == dtype and not backend.modules_reason(model)
        result.float().square().mul(torch.linspace(-1, 1, result.shape[1])).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found.append((result.float().detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    for exact, near, most in zip(*found, (0.03, 0.05), strict=True):
        assert 0 < (near - exact).norm() < most * exact.norm()
