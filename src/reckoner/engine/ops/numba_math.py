"""Numbers in loops: e^x, and bfloat16 as the upper half of fp32's bits. All are inlined into their loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from reckoner.engine.ops.numba_jit import by_type, inline_jit, single

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
