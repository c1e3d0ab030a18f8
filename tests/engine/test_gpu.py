"""What a GPU computes by the packed pass and the native engine, against the model's own modules there; and
against a CPU."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from reckoner.engine import backend, logprobs
from reckoner.engine.batches import collate
from reckoner.engine.generate import Sampling, generate
from reckoner.engine.logprobs import completion_logprobs, cross_entropy
from reckoner.engine.ops import triton_ops
from reckoner.engine.ops.dispatch import GELU_TANH, SILU

from .conftest import build
from .test_generate import PROMPTS, STOPS
from .test_hidden_states import ALL, EXAMPLES, NATIVE, SHARED, adapted

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


def half():
    return torch.autocast("cuda", torch.bfloat16)


def loss_and_gradients(model, batch, context):
    model.zero_grad()
    with context():
        loss, _ = cross_entropy(model, batch)
    loss.backward()
    return float(loss.detach()), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def distance(found, expected):
    """The norm of the difference of all gradients, as a share of that of the expected ones."""
    assert found.keys() == expected.keys()
    gaps = torch.stack([(found[name] - expected[name]).norm() for name in expected])
    return float(gaps.norm() / torch.stack([grad.norm() for grad in expected.values()]).norm())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("chunk", [400, 2**28])
@pytest.mark.parametrize("examples", [EXAMPLES, SHARED])
@pytest.mark.parametrize("lora", [None, {}, {"targets": ALL}, {"targets": ALL, "rank": 24}])
@pytest.mark.parametrize("family", NATIVE)
def test_loss_and_gradients_equal_the_modules(monkeypatch, family, lora, examples, chunk):
    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cuda", chunk)
    model = (build(family) if lora is None else adapted(build(family), **lora)).cuda()
    batch = collate(examples, 0, "cuda")
    assert not backend.modules_reason(model)
    packed, low = loss_and_gradients(model, batch, nullcontext), loss_and_gradients(model, batch, half)
    monkeypatch.setattr(backend, "modules_reason", lambda model: "asked")
    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cuda", 2**28)
    plain, plain_low = loss_and_gradients(model, batch, nullcontext), loss_and_gradients(model, batch, half)
    assert packed[0] == pytest.approx(plain[0], rel=1e-5) and distance(packed[1], plain[1]) < 1e-5
    assert low[0] == pytest.approx(plain[0], rel=1e-2)
    # In bfloat16 it is as far from fp32 as the modules are, not farther.
    assert distance(low[1], plain[1]) < 1.5 * distance(plain_low[1], plain[1])


@pytest.mark.skipif(not triton_ops.AVAILABLE, reason="Triton is not installed")
@pytest.mark.parametrize("rank", [3, 16, 32, 64])
@pytest.mark.parametrize("gate", [GELU_TANH, SILU])
@pytest.mark.parametrize("shape", [(1000, 1000), (7, 300)])
def test_a_gate_s_thin_products_equal_those_of_its_results(gate, rank, shape):
    torch.manual_seed(0)
    rows, width = shape
    gate_out, up, upstream, a = (
        torch.randn(size, width, device="cuda").bfloat16() for size in (rows, rows, rows, rank)
    )
    thin, plain = (
        [torch.randn(rows, rank, device="cuda").bfloat16() for _ in range(3)],
        gate.factors,
    )
    value, slopes = (
        triton_ops.gated_act(gate_out, up, *plain),
        triton_ops.gated_act_backward(gate_out, up, upstream, *plain),
    )
    same, with_a = triton_ops.gated_act_lora(gate_out, up, *plain, a)
    *also, sums = triton_ops.gated_act_lora_backward(gate_out, up, upstream, *plain, thin)
    assert torch.equal(same, value) and all(map(torch.equal, also, slopes))
    wanted = [
        value.double() @ a.double().T,
        *(part.double().T @ wide.double() for part, wide in zip(thin, (*slopes, value), strict=True)),
    ]
    for found, right in zip((with_a, *sums), wanted, strict=True):
        assert float((found.double() - right).norm() / right.norm()) < 4e-3


@pytest.mark.parametrize("family", NATIVE)
def test_tokens_equal_those_of_a_cpu_and_log_probs_the_scorer(tokenizer, policy_of, family):
    sampling = Sampling(20, 1.0, num_samples=2, seed=3, stop_ids=STOPS)
    expected = generate(policy_of(build(family)), PROMPTS, sampling, 16, "native")
    policy = policy_of(build(family).cuda())
    policy.device = torch.device("cuda")
    found = generate(policy, PROMPTS, sampling, 16, "native")
    assert [[sample.ids for sample in row] for row in found] == [
        [sample.ids for sample in row] for row in expected
    ]
    examples = [
        SimpleNamespace(prompt_ids=tuple(p), completion_ids=s.ids)
        for p, row in zip(PROMPTS, found, strict=True)
        for s in row
    ]
    scored = completion_logprobs(policy.model, collate(examples, 0, "cuda")).logprobs
    sampled = torch.tensor(
        [value for row in found for sample in row for value in sample.logprobs], device="cuda"
    )
    assert torch.allclose(sampled, scored, atol=1e-4)


@pytest.mark.parametrize("family", NATIVE)
def test_log_probs_of_sampling_in_bfloat16_are_close_to_the_scorer_s(policy_of, family):
    policy = policy_of(build(family).cuda())
    policy.device, policy.dtype = torch.device("cuda"), torch.bfloat16
    found = generate(policy, PROMPTS, Sampling(20, 1.0, num_samples=2, seed=3, stop_ids=STOPS), 16, "native")
    examples = [
        SimpleNamespace(prompt_ids=tuple(p), completion_ids=s.ids)
        for p, row in zip(PROMPTS, found, strict=True)
        for s in row
    ]
    with half():
        scored = completion_logprobs(policy.model, collate(examples, 0, "cuda")).logprobs
    sampled = torch.tensor(
        [value for row in found for sample in row for value in sample.logprobs], device="cuda"
    )
    assert float((sampled - scored.detach()).abs().mean()) < 0.02
