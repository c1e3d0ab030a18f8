"""The same numbers as torch's own linear map, whoever computes them, and that oneDNN does where it should."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from reckoner.engine.backend import use_onednn
from reckoner.engine.ops import onednn_ops
from reckoner.engine.ops.dispatch import fill_rows, linear, product, weight_gradient
from reckoner.engine.ops.onednn_ops import ONEDNN_MIN_ROWS, ROW_MULTIPLE

here = pytest.mark.skipif(
    not onednn_ops.AVAILABLE,
    reason="this build of torch has no oneDNN products for its CPU",
)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3 * ONEDNN_MIN_ROWS),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_linear_and_its_gradients_equal_torchs(rows, inner, outer, biased, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias, above = (
        torch.randn(shape, generator=generator)
        for shape in ((2, rows, inner), (outer, inner), (outer,), (2, rows, outer))
    )
    bias = bias if biased else None
    found = []
    for way in (linear, F.linear):
        leaves = [t.clone().requires_grad_() for t in (x, weight, *([bias] if biased else []))]
        out = way(*leaves)
        out.backward(above)
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for ours, torchs in zip(*found, strict=True):
        assert ours.shape == torchs.shape
        assert torch.allclose(ours, torchs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "inner", "outer"), [(64, 8, 24), (64, 24, 8), (3, 5, 2)])
def test_weight_gradient_is_above_transposed_times_x(rows, inner, outer):
    torch.manual_seed(0)
    above, x = torch.randn(rows, outer), torch.randn(rows, inner)
    assert torch.allclose(weight_gradient(above, x), above.T @ x, atol=1e-4)


def test_a_product_by_hand():
    x, weight = torch.tensor([[1.0, 2.0]] * ONEDNN_MIN_ROWS), torch.tensor([[3.0, 4.0], [5.0, -6.0]])
    assert torch.equal(product(x, weight), torch.tensor([[11.0, -7.0]] * ONEDNN_MIN_ROWS))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 3 * ONEDNN_MIN_ROWS),
    st.integers(1, 2 * ONEDNN_MIN_ROWS),
    st.integers(1, 2 * ONEDNN_MIN_ROWS),
    st.integers(0, 2**31),
)
def test_weight_gradients_of_blocks_add_up(rows, inner, outer, seed):
    """Whichever of the two is narrower, and whoever computes."""
    generator = torch.Generator().manual_seed(seed)
    above, x = (torch.randn(2 * rows + 5, width, generator=generator) for width in (outer, inner))
    total = None
    for part, inputs in zip(above.split([rows, 5, rows]), x.split([rows, 5, rows]), strict=True):
        total = weight_gradient(part, inputs, total)
    assert torch.allclose(total, above.T @ x, atol=1e-4)


@pytest.mark.parametrize("rows", [2, ONEDNN_MIN_ROWS])
def test_a_weight_gradient_is_added_to_what_is_there(rows):
    total = torch.tensor([[1.0, 1.0], [0.0, -1.0], [2.0, 0.0]])
    found = weight_gradient(torch.tensor([[1.0, 2.0, -1.0]] * rows), torch.tensor([[3.0, 4.0]] * rows), total)
    assert torch.equal(
        found,
        torch.tensor(
            [[1.0 + 3 * rows, 1 + 4 * rows], [6.0 * rows, 8 * rows - 1], [2.0 - 3 * rows, -4.0 * rows]]
        ),
    )


def test_a_frozen_weight_gets_no_gradient_and_its_input_does():
    x, weight = torch.ones(ONEDNN_MIN_ROWS, 2, requires_grad=True), torch.eye(2)
    linear(x, weight).sum().backward()
    assert weight.grad is None and torch.equal(x.grad, torch.ones(ONEDNN_MIN_ROWS, 2))


@here
def test_onednn_takes_many_rows_in_fp32_on_a_cpu_and_nothing_else():
    weight = torch.ones(4, 3)
    assert use_onednn(torch.ones(ONEDNN_MIN_ROWS, 3), weight) and use_onednn(
        torch.ones(2, ONEDNN_MIN_ROWS // 2, 3), weight
    )
    assert not use_onednn(torch.ones(ONEDNN_MIN_ROWS - 1, 3), weight) and not use_onednn(
        torch.ones(ONEDNN_MIN_ROWS, 0), weight[:, :0]
    )
    assert not use_onednn(torch.ones(ONEDNN_MIN_ROWS, 3).double(), weight.double())
    assert not use_onednn(torch.ones(ONEDNN_MIN_ROWS, 3).bfloat16(), weight.bfloat16())
    assert not use_onednn(torch.ones(ONEDNN_MIN_ROWS, 3, device="meta"), weight.to("meta"))


def test_without_onednn_torch_computes(monkeypatch):
    torch.manual_seed(0)
    x, weight = torch.randn(ONEDNN_MIN_ROWS, 3), torch.randn(4, 3)
    expected = product(x, weight)
    monkeypatch.setattr(onednn_ops, "AVAILABLE", False)
    assert torch.allclose(product(x, weight), expected, atol=1e-6) and not use_onednn(x, weight)


@here
def test_rows_are_filled_up_with_zeros_where_onednn_multiplies():
    x = torch.ones(ROW_MULTIPLE + 1, 3)
    assert torch.equal(fill_rows(x), torch.cat((x, torch.zeros(ROW_MULTIPLE - 1, 3))))
    whole, few, double = (
        torch.ones(ROW_MULTIPLE, 3),
        torch.ones(ONEDNN_MIN_ROWS - 1, 3),
        torch.ones(ROW_MULTIPLE + 1, 3).double(),
    )
    assert fill_rows(whole) is whole and fill_rows(few) is few and fill_rows(double) is double


MEETS_SHAPES = """
import ctypes
import torch
from reckoner.engine.ops.dispatch import product
from reckoner.engine.ops.onednn_ops import PRIMITIVE_CACHE_SIZE

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

def held() -> int:
    libc.mallinfo2.restype = Info
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd

libc = ctypes.CDLL(None)
torch.set_num_threads(1)
weight = torch.zeros(512, 128)
for rows in range(500, 600 + PRIMITIVE_CACHE_SIZE):
    product(torch.zeros(rows, 128), weight)
before = held()
for rows in range(2000, 2100):
    product(torch.zeros(rows, 128), weight)
print((held() - before) / 100)
"""


@here
@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="this system's allocator does not tell what it has given out",
)
def test_what_is_prepared_for_old_shapes_is_given_up():
    def bytes_a_shape(**environment: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", MEETS_SHAPES],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)

    kept = bytes_a_shape(LRU_CACHE_CAPACITY="2048", ONEDNN_PRIMITIVE_CACHE_CAPACITY="2048")
    assert kept > 10 * bytes_a_shape(), (
        "beyond PRIMITIVE_CACHE_SIZE shapes nothing more is held; a user's own numbers are left alone"
    )
