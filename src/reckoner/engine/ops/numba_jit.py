"""Compilation of loops by Numba, the folder in which compiled loops are kept, and the numbers in loops.

Numba reads its cache with pickle, which runs code. So the folder belongs to one user, and each file carries
its own digest. Numbers are fp32, and bfloat16 as the upper half of fp32's bits.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from reckoner.errors import one_line
from reckoner.machine import say_once, user_cache

try:
    import numba
    from numba.core.caching import FunctionCache, IndexDataCacheFile
    from numba.extending import overload
except ImportError:
    AVAILABLE = False
    FunctionCache: Any = object  # type: ignore[no-redef]
    IndexDataCacheFile: Any = object  # type: ignore[no-redef]
else:
    AVAILABLE = True

single = np.float32
"""The type of constants in loops: a Python number would make the arithmetic around it double."""

ARITHMETIC: Any = {"fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"}, "error_model": "numpy"}
"""Sums may be reordered and products joined with sums, so that loops become vector instructions.

NaN and infinities keep their meaning.
"""


SEAL = hashlib.sha256().digest_size


class _Sealed(IndexDataCacheFile):
    """Numba's cache files of one loop, each with the sha256 of its content at the end.

    A damaged file is removed and its loop compiled again, instead of being unpickled.
    """

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
        return super().load(key)  # type: ignore[no-untyped-call]


class _Cache(FunctionCache):
    """Numba's cache of one loop. No run ends because a loop cannot be kept: the disk may be full."""

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError) as error:  # Numba's own errors are of the second kind
            say_once(f"a compiled loop is not kept ({one_line(error)}): the next process compiles it anew")


@cache
def cache_folder() -> Path | None:
    """The folder of compiled loops, which nobody else may write; None, after a warning, without one."""
    folder, reason = user_cache("numba")
    if reason:
        advice = "Set XDG_CACHE_HOME to a folder of your own"
        warnings.warn(
            f"{folder}: {reason}, so that loops are compiled anew in each process (7 s). {advice}",
            stacklevel=2,
        )
    return None if reason else folder


@cache
def _sources() -> str:
    """sha256 of the files that loops are made from."""
    files = sorted(Path(__file__).parent.glob("numba_*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled where it is first called, and kept in `cache_folder` for later processes."""
    if not AVAILABLE:
        return function
    compiled = numba.njit(nogil=True, **ARITHMETIC)(function)
    if folder := cache_folder():
        config: Any = numba.config
        settings = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = str(folder), ""
        compiled.enable_caching()
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = settings
        compiled._cache.__class__ = _Cache
        compiled._cache._cache_file.__class__ = _Sealed
        # A loop holds what is inlined from other files: a change in any of them makes it compile again.
        compiled._cache._cache_file._source_stamp = _sources()
    return compiled


def inline_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` inlined into the loops that call it.

    A separate function would exist twice, compiled in two ways. Which one is called, and so how sums round,
    would depend on whether a process compiles a loop or loads it from disk.
    """
    return numba.njit(forceinline=True, **ARITHMETIC)(function) if AVAILABLE else function


def by_type(choose: Callable[..., Any]) -> Callable[..., Any]:
    """A function of loops that `choose` picks for the types of its arguments, inlined as by `inline_jit`."""

    def stub(*_: Any) -> None:
        raise NotImplementedError(f"{choose.__name__} exists in loops alone")

    if AVAILABLE:
        options: Any = {"forceinline": True, **ARITHMETIC}
        overload(stub, strict=False, jit_options=options)(choose)
    return stub


def array(x: Tensor) -> np.ndarray:
    """The memory of `x`, bfloat16 as the bits of its numbers (uint16).

    It must be contiguous: for another layout loops would be compiled once more.

    Processes that compile two layouts side by side could also overwrite each other's files. Raises
    `ValueError`.
    """
    if not x.is_contiguous():
        raise ValueError(f"loops take contiguous tensors alone, not one of strides {x.stride()}")
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).detach().numpy()


EXP_SERIES = tuple(single(1 / k) for k in (720, 120, 24, 6, 2, 1, 1))
"""Factors of the Taylor series of e^r below that of r^7."""


@by_type
def widen(value: Any) -> Any:
    """The fp32 number of a bfloat16's bits, and an fp32 number itself."""
    if str(value) == "uint16":
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@by_type
def narrow(value: Any, array: Any) -> Any:
    """What `array` holds of an fp32 number: it itself, or the bits of the nearest bfloat16, ties to even."""
    if str(array.dtype) == "uint16":
        return lambda value, array: np.uint16(_rounded(np.float32(value).view(np.uint32)) >> np.uint32(16))
    return lambda value, array: value


@inline_jit
def _rounded(bits: np.uint32) -> np.uint32:
    """The bits of an fp32 number, increased so that their upper half is that of the nearest bfloat16."""
    return np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))


@inline_jit
def exp(x: np.float32) -> np.float32:
    """e^x within a relative error of 6e-7 for x from -87 to 88, e^-87 below and infinity above; NaN for NaN.

    It is 2^n e^r. r is at most half of ln 2, so a Taylor series gives e^r; n goes into the exponent's bits.
    """
    x = single(-87) if x < single(-87) else x
    x = single(89) if x > single(89) else x
    n = np.floor(x * single(1 / np.log(2)) + single(0.5))
    r = x - n * single(np.log(2))
    series = single(1 / 5040)
    for term in EXP_SERIES:
        series = series * r + term
    return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
