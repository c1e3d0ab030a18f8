"""Loops against the same formulas in float64, at sizes that fill no vector register as at those that do."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from reckoner.engine import backend
from reckoner.engine.ops import dispatch, numba_jit, numba_ops, torch_ops
from reckoner.engine.ops.dispatch import GELU_TANH, SILU, attention, rms_norm
from reckoner.engine.ops.numba_attention import BLOCK, Sequences
from reckoner.machine import say_once

pytestmark = pytest.mark.skipif(not numba_ops.AVAILABLE, reason="Numba is not installed")
GATES = {"gelu": (GELU_TANH, lambda g: F.gelu(g, approximate="tanh")), "silu": (SILU, F.silu)}


PRINTS_SUMS = """
import torch
from reckoner.engine.ops.dispatch import attention
from reckoner.engine.ops.numba_attention import Sequences
torch.set_num_threads(1)
heads = torch.randn(210, 6, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
begins, ends = torch.tensor([0, 1, 35]), torch.tensor([70, 68, 70])
mixed = attention(heads, Sequences(torch.arange(210).view(3, 70), begins, ends), 2)
mixed.backward(mixed.detach().sin())
mixed, grad = mixed.double(), heads.grad.double()
print(mixed.sum().item(), mixed.square().sum().item(), grad.square().sum().item())
"""


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_exp_is_right_over_its_range():
    x = np.linspace(-87, 88, 20_001, dtype=np.float32)
    found, exact = np.array([numba_jit.exp(each) for each in x]), np.exp(x.astype(np.float64))
    errors = np.abs(found / exact - 1)
    assert errors.max() < 6e-7 and errors[np.abs(x) < 1].max() < 1.2e-7


def test_exp_ends_at_its_ends_and_keeps_nan():
    ends = [numba_jit.exp(np.float32(x)) for x in (-1e30, -np.inf, 1e30, np.inf)]
    assert ends == [*[numba_jit.exp(np.float32(-87))] * 2, np.inf, np.inf] and np.isnan(
        numba_jit.exp(np.float32("nan"))
    )
    assert numba_jit.exp(np.float32(0)) == 1


@pytest.mark.parametrize("name", GATES)
@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 70), st.integers(0, 2**31))
def test_gates_and_their_gradients(name, rows, width, seed):
    gate, function = GATES[name]
    gate_up, upstream = 3 * draw(seed, rows, 2 * width), draw(seed + 1, rows, width)
    exact = gate_up.double().requires_grad_()
    g, u = exact.chunk(2, -1)
    wanted = function(g) * u
    wanted.backward(upstream.double())
    gradient, again = numba_ops.gated_act_backward(gate_up, upstream, *gate.factors)
    value = numba_ops.gated_act(gate_up, *gate.factors)
    assert torch.allclose(value.double(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.allclose(again.double(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.allclose(gradient.double(), exact.grad, rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 70), st.integers(0, 2**31))
def test_norms_and_their_gradients(rows, width, seed):
    x, factor, upstream = draw(seed, rows, width), draw(seed + 1, width), draw(seed + 2, rows, width)
    exact = [x.double().requires_grad_(), factor.double().requires_grad_()]
    wanted = F.rms_norm(exact[0], (width,), exact[1], 1e-2)
    wanted.backward(upstream.double())
    ours = [x.clone().requires_grad_(), factor.clone().requires_grad_()]
    found = rms_norm(*ours, 1e-2)
    found.backward(upstream)
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    for got, right in zip(ours, exact, strict=True):
        assert torch.allclose(got.grad.double(), right.grad, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(
    st.integers(1, 20),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(1, 20),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_turns_are_complex_products_of_the_first_heads(rows, heads, more, pairs, back, seed):
    x, angles = draw(seed, rows, heads + more, 2 * pairs), draw(seed + 1, rows, pairs)
    rope_cos_sin = torch.polar(torch.full_like(angles, 1.5), angles)
    rope_cos_sin = rope_cos_sin.conj() if back else rope_cos_sin
    wanted = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rope_cos_sin[:, None]
    wanted = torch.cat((torch.view_as_real(wanted).flatten(-2)[:, :heads], x[:, heads:]), 1)
    numba_ops.rope(x, rope_cos_sin, heads, x)
    assert torch.allclose(x, wanted, atol=1e-5) and torch.equal(x[:, heads:], wanted[:, heads:])


def plain(heads, sequences, kv):
    """The same attention, sequence after sequence, by torch."""
    size = heads.shape[2]
    out = heads.new_zeros(len(heads), heads.shape[1] - 2 * kv, size)
    for tokens, begin, end in zip(
        sequences.tokens, sequences.begins.tolist(), sequences.ends.tolist(), strict=True
    ):
        seen = heads[tokens[:end]]
        queries, keys, values = (
            part.transpose(0, 1) for part in seen.split((heads.shape[1] - 2 * kv, kv, kv), 1)
        )
        mixed = F.scaled_dot_product_attention(
            queries[None], keys[None], values[None], is_causal=True, scale=1.0, enable_gqa=True
        )
        out = out.index_copy(0, tokens[begin:end], mixed[0].transpose(0, 1)[begin:end])
    return out.flatten(1)


def shared(lengths, common):
    """Sequences of `common` tokens that all share, and `lengths` of their own each; the first one computes
    what is shared."""
    own, at = [], common
    for length in lengths:
        own.append([*range(common), *range(at, at + length)])
        at += length
    ends = torch.tensor([len(row) for row in own])
    tokens = torch.tensor([row + [0] * (int(ends.max()) - len(row)) for row in own])
    begins = torch.tensor([0] + [common] * (len(own) - 1))
    return at, Sequences(tokens, begins, ends)


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 3 * BLOCK), min_size=1, max_size=4),
    st.integers(0, 2 * BLOCK + 3),
    st.sampled_from([(1, 1), (1, 4), (2, 2), (3, 1)]),
    st.sampled_from([2, 6, 16, 34]),
    st.integers(0, 2**31),
)
@example([2 * BLOCK, 1, BLOCK + 1], BLOCK, (1, 4), 32, 0)
def test_attention_and_its_gradient(lengths, common, groups, size, seed):
    """Of sequences that begin alike: their tokens are computed once, and the gradient of shared ones is the
    sum over all that see them."""
    kv, group = groups
    count, sequences = shared(lengths, common)
    heads, upstream = draw(seed, count, kv * (group + 2), size), draw(seed + 1, count, kv * group * size)
    exact, ours = heads.double().requires_grad_(), heads.clone().requires_grad_()
    wanted, found = plain(exact, sequences, kv), attention(ours, sequences, kv)
    wanted.backward(upstream.double())
    found.backward(upstream)
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-5)
    assert torch.allclose(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)


def convert_in_a_loop(numbers, out):
    for i in range(numbers.shape[1]):
        out[0, i] = numba_jit.narrow(numba_jit.widen(numbers[0, i]), out)


def test_bfloat16_is_rounded_as_by_torch():
    """Ties to even, up to a larger exponent, to infinity and from NaN, and back again."""
    ends = [1 + 2**-8, 1 + 3 * 2**-8, 2 - 2**-9, 3.4e38, -3.4e38, math.inf, math.nan, 0.0, -0.0, 1e-40]
    x = draw(0, 20_000) * 2.0 ** torch.randint(-30, 30, (20_000,)).float()
    x = torch.cat((x, torch.tensor(ends)))[None]
    rounded, widened = torch.empty_like(x, dtype=torch.bfloat16), torch.empty_like(x)
    convert = numba_jit.loop(convert_in_a_loop)
    convert(numba_jit.array(x), numba_jit.array(rounded))
    assert torch.equal(rounded.float().nan_to_num(7), x.bfloat16().float().nan_to_num(7))
    convert(numba_jit.array(x.bfloat16()), numba_jit.array(widened))
    assert torch.equal(widened.nan_to_num(7), x.bfloat16().float().nan_to_num(7))


@settings(max_examples=20)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 2**31))
def test_loops_in_bfloat16_are_those_of_fp32_rounded(rows, pairs, seed):
    """Each reads what is rounded, computes in fp32, and rounds once."""
    low, below = torch.bfloat16, dict(rtol=2**-7, atol=1e-5)
    gate_up, upstream = (3 * draw(seed, rows, 2 * pairs)).to(low), draw(seed + 1, rows, pairs).to(low)
    pieces = [
        numba_ops.gated_act(gate_up, *SILU.factors),
        *numba_ops.gated_act_backward(gate_up, upstream, *SILU.factors),
    ]
    exact = [numba_ops.gated_act(gate_up.float(), *SILU.factors),
             *numba_ops.gated_act_backward(gate_up.float(), upstream.float(), *SILU.factors)]  # fmt: skip
    x, factor, angles = draw(seed, rows, pairs), draw(seed + 2, pairs), draw(seed + 3, rows, pairs)
    leaves = [x.clone().requires_grad_(), factor.clone().requires_grad_()]
    same = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    normed, twin = rms_norm(*leaves, 1e-2, low), rms_norm(*same, 1e-2)
    normed.backward(upstream)
    twin.backward(upstream.float())
    pieces += [normed, *(leaf.grad for leaf in leaves)]
    exact += [twin, *(leaf.grad for leaf in same)]
    rope_cos_sin = torch.polar(torch.ones_like(angles), angles)
    heads = gate_up.view(rows, 1, -1)
    whole = heads.float()
    numba_ops.rope(whole, rope_cos_sin, 1, whole)
    numba_ops.rope(heads, rope_cos_sin, 1, heads)
    for found, right in zip([*pieces, heads], [*exact, whole], strict=True):
        assert torch.allclose(found.float(), right, **below)


def test_attention_in_bfloat16_is_that_of_fp32_rounded():
    count, sequences = shared([20, 9, 33], 17)
    low = draw(0, count, 2 * 5, 16).bfloat16().requires_grad_()
    whole = low.detach().float().requires_grad_()
    found, wanted = attention(low, sequences, 2), attention(whole, sequences, 2)
    found.backward(wanted.detach().bfloat16())
    wanted.backward(wanted.detach().bfloat16().float())
    assert found.dtype == low.grad.dtype == torch.bfloat16
    assert torch.allclose(found.float(), wanted, rtol=2**-7, atol=1e-6)
    assert (low.grad.float() - whole.grad).norm() < 0.01 * whole.grad.norm()


@settings(max_examples=20)
@given(
    st.integers(1, 5),
    st.sampled_from([(1, 1), (3, 3), (2, 4), (1, 9)]),
    st.sampled_from([4, 20]),
    st.integers(0, 20),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_a_decoding_step_attends_as_torch_does(rows, groups, size, before, low, seed):
    """Each row from where its prompt begins, after a prefix that all see, in columns that are not all taken
    yet."""
    kv, group = groups
    dtype, columns, end = torch.bfloat16 if low else torch.float32, 37, 33
    heads = draw(seed, rows, kv * (group + 2), size).to(dtype)
    keys, values = (draw(seed + i, rows, kv, columns, size).to(dtype) for i in (1, 2))
    prefix = tuple(draw(seed + i, kv, before, size).to(dtype) for i in (3, 4)) if before else None
    begins = torch.arange(rows) * 7
    mask = torch.zeros(rows, end).masked_fill_(torch.arange(end) < begins[:, None], -torch.inf)[:, None]
    exact = (part[:, :, :end].float() for part in (keys, values))
    wanted = torch_ops.attention(
        heads[:, None, : -2 * kv].float(), *exact, mask, prefix and tuple(map(Tensor.float, prefix)), None
    )
    found = dispatch.decoding_attention(
        heads, keys.transpose(-1, -2).contiguous(), values, begins, end, prefix
    )
    assert found.dtype == dtype
    assert torch.allclose(found.float(), wanted[:, 0], rtol=2**-7 if low else 1e-5, atol=1e-5)


def test_attention_by_hand():
    """Two tokens of one head of size one: the second asks with ln 3, so that its weights are 1/4 and 3/4 for
    keys 0 and 1."""
    heads = torch.tensor([[[5.0], [0.0], [8.0]], [[math.log(3.0)], [1.0], [4.0]]])
    sequences = Sequences(torch.tensor([[0, 1]]), torch.tensor([0]), torch.tensor([2]))
    assert torch.allclose(attention(heads, sequences, 1), torch.tensor([[8.0], [0.25 * 8 + 0.75 * 4]]))


def test_a_token_that_attends_nowhere_gets_zero_and_gives_none():
    heads = draw(0, 5, 3, 4).requires_grad_()
    out = attention(heads, Sequences(torch.tensor([[0, 1, 2]]), torch.tensor([1]), torch.tensor([3])), 1)
    out.sum().backward()
    assert not out[[0, 3, 4]].any() and out[[1, 2]].all()
    assert not heads.grad[[3, 4]].any() and not heads.grad[0, 0].any() and heads.grad[0, 1:].all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_hidden(wrong):
    """A run must notice them in its loss or gradient."""
    heads = draw(0, 20, 3, 4)
    heads[7, 1:, 2] = wrong
    sequences = Sequences(torch.arange(20)[None], torch.tensor([0]), torch.tensor([20]))
    assert not attention(heads, sequences, 1)[19].isfinite().all()
    gate_up, x = draw(0, 1, 40), draw(1, 1, 20)
    gate_up[0, 3] = x[0, 3] = wrong
    assert (
        not numba_ops.gated_act(gate_up, *GELU_TANH.factors).isfinite().all()
        and not rms_norm(x, torch.ones(20), 1e-6).isfinite().all()
    )


def test_what_loops_take(monkeypatch):
    x = torch.ones(4, 6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: backend.LOOP_MAX_THREADS)
    assert (
        backend.use_numba(x)
        and not backend.use_numba(x.double())
        and not backend.use_numba(x.T)
        and not backend.use_numba(x.to("meta"))
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: backend.LOOP_MAX_THREADS + 1)
    assert not backend.use_numba(x)


def test_loops_are_compiled_where_no_folder_takes_them(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    numba_jit.cache_folder.cache_clear()
    with pytest.warns(UserWarning, match="Not a directory, so that loops are compiled anew in each process"):
        double = numba_jit.loop(lambda x: x + x)
    numba_jit.cache_folder.cache_clear()
    assert double(np.float32(1.5)) == 3


@pytest.mark.parametrize(
    "mode, above, taken",
    [
        (0o700, 0o700, True),
        (0o755, 0o755, True),
        (0o777, 0o700, False),
        (0o722, 0o755, False),
        (0o1777, 0o700, False),
        (0o700, 0o777, False),
        (0o700, 0o1777, True),
        (0o700, 0o775, True),
    ],
)
def test_a_folder_that_others_may_write_keeps_no_loops(monkeypatch, tmp_path, mode, above, taken):
    folder = tmp_path / "home" / "reckoner" / "numba"
    folder.mkdir(parents=True)
    folder.chmod(mode), (tmp_path / "home").chmod(above)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    numba_jit.cache_folder.cache_clear()
    if taken:
        assert numba_jit.cache_folder() == folder
    else:
        with pytest.warns(UserWarning, match="others may write in"):
            assert numba_jit.cache_folder() is None
    numba_jit.cache_folder.cache_clear()


def test_the_folder_of_loops_is_made_for_its_owner_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "other"))
    numba_jit.cache_folder.cache_clear()
    assert numba_jit.cache_folder() == tmp_path / "new" / "reckoner" / "numba"
    assert numba_jit.cache_folder().stat().st_mode & 0o777 == 0o700
    double = numba_jit.loop(lambda x: x + x)
    numba_jit.cache_folder.cache_clear()
    assert double(np.float32(1.5)) == 3 and not (tmp_path / "other").exists()
    assert len(list((tmp_path / "new").rglob("*.nb[ic]"))) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "planted", "empty"])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_loop_is_compiled_anew_and_nothing_of_it_is_run(monkeypatch, tmp_path, kind, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    numba_jit.cache_folder.cache_clear()

    def double(x):
        return x + x

    assert numba_jit.loop(double)(np.float32(1.5)) == 3
    (path,) = tmp_path.rglob(f"*.{kind}")
    content = path.read_bytes()
    planted = pickle.dumps(Bomb(str(tmp_path / "ran")))
    flipped = content[:50] + bytes([content[50] ^ 1]) + content[51:]
    damaged = {"truncated": content[:-9], "flipped": flipped, "planted": planted, "empty": b""}
    path.write_bytes(damaged[damage])
    again = numba_jit.loop(double)
    assert again(np.float32(1.5)) == 3 and not (tmp_path / "ran").exists()
    assert path.stat().st_size >= len(content) - 8 and sum(again.stats.cache_misses.values()) == 1
    third = numba_jit.loop(double)
    numba_jit.cache_folder.cache_clear()
    assert third(np.float32(1.5)) == 3 and sum(third.stats.cache_hits.values()) == 1


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_loop_from_disk_rounds_as_where_it_was_compiled(tmp_path):
    def sums() -> list[float]:
        done = subprocess.run(
            [sys.executable, "-c", PRINTS_SUMS],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return [float(number) for number in done.stdout.split()]

    compiles = sums()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert sums() == compiles and len(compiles) == 3
    assert {path.name.split("-")[0] for path in kept} == {
        "numba_attention._attention",
        "numba_attention._attention_backward",
    }
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == kept, (
        "the second process found them on disk"
    )


def test_other_layouts_are_refused():
    with pytest.raises(ValueError, match=r"contiguous tensors alone, not one of strides \(1, 3\)"):
        numba_jit.array(torch.zeros(2, 3).T)


@pytest.mark.parametrize(
    "place, error",
    [
        ("_cache_file.save", OSError(28, "No space left on device")),
        ("_impl.reduce", RuntimeError("no compiled object yet for <Library>")),  # Numba's, seen once
    ],
)
def test_a_loop_that_cannot_be_kept_is_one_line_and_computes(place, error, monkeypatch, tmp_path, caplog):
    def fail(*_):
        raise error

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    numba_jit.cache_folder.cache_clear()
    double = numba_jit.loop(lambda x: x + x)
    numba_jit.cache_folder.cache_clear()
    part, method = place.split(".")
    monkeypatch.setattr(getattr(double._cache, part), method, fail)
    say_once.cache_clear()
    assert double(np.float32(1.5)) == 3 and double(2) == 4
    (line,) = {record.message for record in caplog.records}
    assert line == f"a compiled loop is not kept ({error}): the next process compiles it anew"
    assert not list(tmp_path.rglob("*.nbc"))
