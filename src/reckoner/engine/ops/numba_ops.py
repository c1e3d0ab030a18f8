"""Parts of a decoder as one loop each for one core of a CPU, compiled by Numba: torch goes through memory once an operation, these once.

`takes` says where they are used. Plain torch does the same elsewhere, and where Numba is missing.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from glob import escape
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

try:
    import numba
    from numba.core.caching import IndexDataCacheFile
except ImportError:
    AVAILABLE = False
    IndexDataCacheFile = object
else:
    AVAILABLE = True

THREADS = 2
"""Threads of torch up to which one core with these loops is as fast as torch's operations on all."""

single = np.float32
"""Constants in loops are of this type: a Python number would make the arithmetic around it double."""


ARITHMETIC = {"fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"}, "error_model": "numpy"}
"""Sums may be reordered and products joined with sums, so that loops become vector instructions; NaN and infinities stay what they are."""


SEAL = hashlib.sha256().digest_size


class _Sealed(IndexDataCacheFile):
    """Numba's files of one loop, each with the sha256 of its content at the end: a damaged one is compiled anew, not unpickled."""

    @contextmanager
    def _open_for_write(self, path: str) -> Iterator[BinaryIO]:
        with super()._open_for_write(path) as file:
            yield (content := io.BytesIO())
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())

    def load(self, key: Any) -> Any:
        for path in Path(self._cache_path).glob(escape(self._index_name.removesuffix("nbi")) + "*nb[ic]"):
            content = path.read_bytes()
            if hashlib.sha256(content[:-SEAL]).digest() != content[-SEAL:]:
                path.unlink(missing_ok=True)
        return super().load(key)


def _shared(folder: Path) -> Iterator[Path]:
    """`folder` and those above it in which another user could put something else in its place; a group of one's own is oneself."""
    for path in (folder, *folder.parents):
        found = path.stat()
        mine = path != folder and found.st_gid == os.getegid()
        sticky = path != folder and found.st_mode & 0o1000
        if found.st_uid not in (os.geteuid(), 0) or (
            found.st_mode & (0o002 if mine else 0o022) and not sticky
        ):
            yield path


@cache
def cache_folder() -> Path | None:
    """The user's folder of compiled loops, which nobody else may write; None, after a warning, where there can be none.

    Numba reads what is there with pickle, and runs it. So the folder is made for its owner alone, and neither it nor a
    folder above it may let others put a file or another folder in its place.
    """
    reason, home = "", os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home).absolute() / "reckoner" / "numba"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
        reason = next((f"others may write in {path}" for path in _shared(folder.resolve())), "")
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        warnings.warn(
            f"{folder}: {reason}, so that loops are compiled anew in each process (7 s). Set XDG_CACHE_HOME to a folder of your own",
            stacklevel=2,
        )
    return None if reason else folder


def loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled where it is first called, and kept in `cache_folder` for later processes."""
    if not AVAILABLE:
        return function
    compiled = numba.njit(nogil=True, **ARITHMETIC)(function)
    if folder := cache_folder():
        settings = numba.config.CACHE_DIR, numba.config.CACHE_LOCATOR_CLASSES
        numba.config.CACHE_DIR, numba.config.CACHE_LOCATOR_CLASSES = str(folder), ""
        compiled.enable_caching()
        numba.config.CACHE_DIR, numba.config.CACHE_LOCATOR_CLASSES = settings
        compiled._cache._cache_file.__class__ = _Sealed
    return compiled


def inline_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a part of the loops that call it, in whose code it disappears.

    As a function of its own it would be there twice, compiled in two ways: which one is called, and so what sums round to,
    would depend on whether a process compiles a loop or finds it on disk. What is on disk does not notice that a part
    in another file has changed.
    """
    return numba.njit(forceinline=True, **ARITHMETIC)(function) if AVAILABLE else function


def takes(x: Tensor) -> bool:
    """Whether loops compute with `x`: in fp32, contiguous, on a CPU of which torch uses a core or two."""
    return (
        AVAILABLE
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.is_contiguous()
        and torch.get_num_threads() <= THREADS
    )


def array(x: Tensor) -> np.ndarray:
    """The memory of `x` as loops take it, which is contiguous: for another layout they would be compiled once more.

    Of two layouts, processes that compile side by side could also overwrite each other's on disk.
    """
    if not x.is_contiguous():
        raise ValueError(f"loops take contiguous tensors alone, not one of strides {x.stride()}")
    return x.detach().numpy()


def gated_act_forward(gate_up: Tensor, linear: float, cubic: float) -> Tensor:
    """`f(g) * u` [M, I] of g and u side by side in `gate_up` [M, 2 I], f(g) = g sigmoid(linear g + cubic g^3)."""
    out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    _gated_act_forward(array(gate_up), single(linear), single(cubic), array(out))
    return out


def gated_act_backward(
    gate_up: Tensor, upstream: Tensor, linear: float, cubic: float
) -> tuple[Tensor, Tensor]:
    """The gradient [M, 2 I] of `gate_up` for that [M, I] of `gated_act_forward`'s result, and that result once more."""
    gradient, out = torch.empty_like(gate_up), torch.empty_like(upstream)
    _gated_act_backward(
        array(gate_up), array(upstream), single(linear), single(cubic), array(gradient), array(out)
    )
    return gradient, out


def norm_forward(x: Tensor, factor: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x / sqrt(mean(x^2) + eps) * factor` of x [M, H], and what each row was multiplied by [M]."""
    out, inverse = torch.empty_like(x), x.new_empty(len(x))
    _norm_forward(array(x), array(factor), single(eps), array(out), array(inverse))
    return out, inverse


def norm_backward(x: Tensor, factor: Tensor, inverse: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x [M, H] and factor [H] for that of `norm_forward`'s first result."""
    for_x, for_factor = torch.empty_like(x), torch.zeros_like(factor)
    _norm_backward(array(x), array(factor), array(inverse), array(upstream), array(for_x), array(for_factor))
    return for_x, for_factor


def rope(x: Tensor, rope_cos_sin: Tensor, heads: int) -> None:
    """Multiply, in place, the pairs of the first `heads` of x [M, heads or more, d] by complex `turns` [M, d / 2]."""
    plain = torch.view_as_real(rope_cos_sin.conj() if rope_cos_sin.is_conj() else rope_cos_sin)
    _rope(array(x), array(plain), heads, single(-1 if rope_cos_sin.is_conj() else 1))


@inline_jit
def exp(x: np.float32) -> np.float32:
    """e^x within 6e-7 of itself for x from -87 to 88, e^-87 below and infinity above; NaN of NaN.

    2^n e^r with r of at most half of ln 2 (its Taylor series) and n as the exponent's bits, all of it arithmetic that vectors have.
    """
    x = single(-87) if x < single(-87) else x
    x = single(89) if x > single(89) else x
    n = np.floor(x * single(1 / np.log(2)) + single(0.5))
    r = x - n * single(np.log(2))
    series = single(1 / 5040)
    for term in (
        single(1 / 720),
        single(1 / 120),
        single(1 / 24),
        single(1 / 6),
        single(0.5),
        single(1),
        single(1),
    ):
        series = series * r + term
    return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@loop
def _gated_act_forward(gate_up, linear, cubic, out):
    width = out.shape[1]
    for row in range(len(out)):
        for i in range(width):
            g = gate_up[row, i]
            out[row, i] = g / (single(1) + exp(-g * (linear + cubic * g * g))) * gate_up[row, width + i]


@loop
def _gated_act_backward(gate_up, upstream, linear, cubic, gradient, out):
    width = out.shape[1]
    for row in range(len(out)):
        for i in range(width):
            g, u, above = gate_up[row, i], gate_up[row, width + i], upstream[row, i]
            bent = cubic * g * g
            opening = single(1) / (single(1) + exp(-g * (linear + bent)))
            value = g * opening
            slope = opening + value * (single(1) - opening) * (linear + single(3) * bent)
            gradient[row, i] = above * u * slope
            gradient[row, width + i] = above * value
            out[row, i] = value * u


@loop
def _norm_forward(x, factor, eps, out, inverse):
    width = x.shape[1]
    for row in range(len(x)):
        total = single(0)
        for i in range(width):
            total += x[row, i] * x[row, i]
        scale = single(1) / np.sqrt(total / single(width) + eps)
        inverse[row] = scale
        for i in range(width):
            out[row, i] = x[row, i] * scale * factor[i]


@loop
def _norm_backward(x, factor, inverse, upstream, for_x, for_factor):
    width = x.shape[1]
    for row in range(len(x)):
        scale, along = inverse[row], single(0)
        for i in range(width):
            along += upstream[row, i] * factor[i] * x[row, i]
        along *= scale * scale / single(width)
        for i in range(width):
            for_factor[i] += upstream[row, i] * x[row, i] * scale
            for_x[row, i] = (upstream[row, i] * factor[i] - x[row, i] * along) * scale


@loop
def _rope(x, rope_cos_sin, heads, sign):
    for row in range(len(x)):
        for head in range(heads):
            numbers, angles = x[row, head], rope_cos_sin[row]
            for i in range(len(angles)):
                a, b, cosine, sine = numbers[2 * i], numbers[2 * i + 1], angles[i, 0], sign * angles[i, 1]
                numbers[2 * i] = a * cosine - b * sine
                numbers[2 * i + 1] = a * sine + b * cosine
