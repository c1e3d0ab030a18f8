"""Against the plain computation: all logits of `model(...)`, log-softmax, gather."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from reckoner.engine import logprobs
from reckoner.engine.batches import Example, collate
from reckoner.engine.logprobs import completion_logprobs, completion_states, cross_entropy
from reckoner.engine.ops import onednn_ops
from reckoner.engine.optim import apply_step, make_optimizer

from .conftest import CONFIGS, VOCABULARY, build

EXAMPLES = [
    Example("a", (2, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20), (21, 22, 23, 1)),
    Example("b", (2, 31), (32, 33, 34, 35, 36, 1)),
    Example("c", (2, 41, 42, 43, 44), (45,)),
]
FAMILIES = sorted(CONFIGS)


def plain(model, example, temperature=1.0):
    """`(log-probs, entropies, first choices)` of one example, alone and unpadded, from full logits."""
    ids = torch.tensor([[*example.prompt_ids, *example.completion_ids]])
    logits = model(ids).logits[0, len(example.prompt_ids) - 1 : -1].double() / temperature
    logp = logits.log_softmax(-1)
    targets = torch.tensor(example.completion_ids)
    entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(-1, targets[:, None])[:, 0], entropy, logits.argmax(-1) == targets


def plain_batch(model, temperature=1.0):
    return [torch.cat(parts) for parts in zip(*(plain(model, e, temperature) for e in EXAMPLES), strict=True)]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got, expected, tolerance=1e-5):
    assert got.keys() == expected.keys() and got
    whole = torch.stack([grad.norm() for grad in expected.values()]).norm()
    for name in got:
        assert (got[name] - expected[name]).norm() <= tolerance * whole, name


@pytest.fixture(params=["one chunk", "chunks"])
def chunking(request, monkeypatch):
    if request.param == "chunks":
        monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cpu", 400)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_equal_the_plain_computation(family_models, family, side, chunking):
    model = family_models[family]
    batch = collate(EXAMPLES, pad_id=1, device="cpu", side=side)
    for temperature in (1.0, 0.7):
        expected, entropy, top1 = plain_batch(model, temperature)
        stats = completion_logprobs(model, batch, temperature, with_entropy=True)
        assert torch.allclose(stats.logprobs.double(), expected, atol=1e-5)
        assert torch.allclose(stats.entropy.double(), entropy, atol=1e-5)
        assert torch.equal(stats.top1, top1)
        lean = completion_logprobs(model, batch, temperature)
        assert lean.entropy is None and torch.allclose(lean.logprobs, stats.logprobs, atol=1e-6)
        known = completion_logprobs(model, batch, temperature, states=completion_states(model, batch))
        assert torch.equal(known.logprobs, lean.logprobs)
    loss, hits = cross_entropy(model, batch)
    assert float(loss.detach()) == pytest.approx(-float(plain_batch(model)[0].sum().detach()), abs=1e-4)
    assert int(hits) == int(top1.sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_the_plain_computation(family, chunking):
    model = build(family)
    batch = collate(EXAMPLES, 0, "cpu")
    weights = torch.linspace(-1, 2, len(batch.targets))

    logp, entropy, _ = plain_batch(model, 0.7)
    expected = gradients(model, (weights * logp + 0.3 * entropy).sum())
    stats = completion_logprobs(model, batch, 0.7, with_entropy=True)
    assert_same_gradients(gradients(model, (weights * stats.logprobs + 0.3 * stats.entropy).sum()), expected)

    expected = gradients(model, -plain_batch(model)[0].sum() / 11)
    assert_same_gradients(gradients(model, cross_entropy(model, batch)[0] / 11), expected)


def test_micro_batches_sum_to_the_gradient_of_the_whole(chunking):
    model = build("gemma")
    whole = gradients(model, cross_entropy(model, collate(EXAMPLES, 0, "cpu"))[0] / 11)
    parts = sum(cross_entropy(model, collate([e], 0, "cpu", "left"))[0] / 11 for e in reversed(EXAMPLES))
    assert_same_gradients(gradients(model, parts), whole, 1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_composition_and_order_change_nothing(family_models, side):
    model = family_models["gemma"]
    together = completion_logprobs(model, collate(EXAMPLES, 1, "cpu", side)).logprobs.split([4, 6, 1])
    reverse = completion_logprobs(model, collate(EXAMPLES[::-1], 5, "cpu", side)).logprobs.split([1, 6, 4])
    for example, a, b in zip(EXAMPLES, together, reversed(reverse), strict=True):
        alone = completion_logprobs(model, collate([example], 0, "cpu")).logprobs
        assert torch.allclose(a, alone, atol=1e-6) and torch.allclose(b, alone, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_trains_the_adapter_through_the_wrapper(chunking):
    model = get_peft_model(
        build("llama"),
        LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, lora_dropout=0.0),
    )
    batch = collate(EXAMPLES, 0, "cpu")
    assert torch.allclose(
        completion_logprobs(model, batch).logprobs.double(), plain_batch(model)[0], atol=1e-5
    )
    got = gradients(model, cross_entropy(model, batch)[0])
    assert all("lora_" in name for name in got)
    assert_same_gradients(got, gradients(model, -plain_batch(model)[0].sum()))
    with model.disable_adapter():
        reference = completion_logprobs(model, batch).logprobs
    assert (reference - completion_logprobs(model, batch).logprobs).abs().max() > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_head_module_is_never_called(family_models, side):
    model, seen = family_models["llama"], []
    hook = model.lm_head.register_forward_hook(lambda *_: seen.append("head"))
    batch = collate(EXAMPLES, 0, "cpu", side)
    assert completion_states(model, batch).shape == (11, 48)
    cross_entropy(model, batch)
    hook.remove()
    assert seen == []


def test_no_tensor_of_all_logits_exists(monkeypatch):
    """The largest logits tensor an 11 x 97 batch makes under a limit of 400 elements has 4 rows."""
    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cpu", 400)
    rows, linear = [], logprobs.linear
    monkeypatch.setattr(logprobs, "linear", lambda x, *weights: rows.append(len(x)) or linear(x, *weights))
    model, batch = build("gemma"), collate(EXAMPLES, 0, "cpu")
    cross_entropy(model, batch)[0].backward()
    assert rows == [4, 4, 3]
    completion_logprobs(model, batch).logprobs.sum().backward()
    assert rows == [4, 4, 3] * 2 + [3, 4, 4]


def test_slices_of_many_rows_equal_autograd_over_all_at_once():
    """600 positions are two whole slices and a part of one; the head is tied, so its weight has gradients
    from both ends."""
    model = build("gemma")
    drawn = torch.randint(5, 90, (6, 100), generator=torch.Generator().manual_seed(0)).tolist()
    batch = collate([Example(str(index), (2, 3), tuple(ids)) for index, ids in enumerate(drawn)], 0, "cpu")
    states = completion_states(model, batch)
    expected = F.cross_entropy(states @ model.lm_head.weight.T, batch.targets, reduction="sum")
    right = gradients(model, expected)
    loss, _ = cross_entropy(model, batch)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert_same_gradients(gradients(model, loss), right)


@pytest.mark.skipif(not onednn_ops.AVAILABLE, reason="this build of torch has no oneDNN products")
def test_products_with_the_head_meet_the_same_shapes_whatever_the_completions(monkeypatch):
    """20 and 33 completion positions are both filled up to one `ROW_MULTIPLE`; oneDNN would prepare three
    more products for the second."""
    shapes, inner, model = set(), onednn_ops.linear, build("llama")
    monkeypatch.setattr(
        onednn_ops,
        "linear",
        lambda x, weight: shapes.add((x.shape, weight.shape)) or inner(x, weight),
    )
    for way in (
        lambda batch: cross_entropy(model, batch)[0],
        lambda batch: completion_logprobs(model, batch).logprobs.sum(),
    ):
        seen = []
        for count in (20, 33):
            shapes.clear()
            way(collate([Example("a", (2, 3), tuple(range(4, 4 + count)))], 0, "cpu")).backward()
            seen.append({shape for shape in shapes if VOCABULARY in (*shape[0], *shape[1])})
        assert seen[0] == seen[1] and len(seen[0]) == 3


def test_no_completion_tokens_and_bad_temperature(family_models):
    batch = collate([Example("a", (2, 3), ())], 0, "cpu")
    loss, hits = cross_entropy(family_models["gemma"], batch)
    assert (float(loss.detach()), int(hits)) == (0.0, 0)
    assert completion_logprobs(family_models["gemma"], batch).logprobs.shape == (0,)
    with pytest.raises(ValueError, match="temperature"):
        completion_logprobs(family_models["gemma"], batch, 0.0)


def test_bfloat16_autocast_keeps_the_softmax_in_fp32(chunking):
    model, batch = build("gemma"), collate(EXAMPLES, 0, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        stats = completion_logprobs(model, batch)
        loss, _ = cross_entropy(model, batch)
    assert stats.logprobs.dtype == loss.dtype == torch.float32
    assert torch.allclose(stats.logprobs.double(), plain_batch(model)[0], atol=0.3)
    assert all(grad.dtype == torch.float32 for grad in gradients(model, loss).values())


def test_a_hundred_steps_in_bfloat16_end_where_fp32_does():
    """Masters, moments and sums are fp32, so that what rounding does to a step averages out.

    Every second token is one of eight at random, and the next one follows from it: the loss ends above ln(8)
    / 2.
    """
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        model, losses, generator = build("llama").train(), [], torch.Generator().manual_seed(0)
        optimizer = make_optimizer(model.named_parameters())
        for _ in range(100):
            rows = 5 + torch.randint(8, (8, 10), generator=generator)
            rows = torch.stack((rows, 90 - 10 * (rows - 5)), 2).flatten(1).tolist()
            batch = collate([Example("", (2, 3), tuple(row)) for row in rows], 0)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = cross_entropy(model, batch)[0] / len(batch.targets)
            loss.backward()
            apply_step(optimizer, model.parameters(), 1e-3, 1.0)
            losses.append(loss.item())
        ends.append(sum(losses[-10:]) / 10)
        assert losses[0] > 4 and 1.04 < ends[-1] < 1.4
    assert 0 < abs(ends[1] / ends[0] - 1) < 0.005
