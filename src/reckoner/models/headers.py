"""The header of a safetensors file, checked before any library reads the file.

Format: 8 bytes with the length of the header (little-endian), the header as JSON, then the tensors' bytes. The bounds
are those of the format's own documentation: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from reckoner.errors import InputError

LONGEST = 100_000_000
"""Bytes of a header; the format allows no more."""

BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
BITS |= {
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E8M0": 8,
}


def check_header(path: Path) -> dict[str, list[int]]:
    """Name -> shape of each tensor in a safetensors file.

    Raises `InputError` unless the header is JSON without repeated names and its tensors cover the rest of the file
    exactly once, each with the bytes that its type and shape need.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LONGEST, size - 8):
                raise InputError(
                    f"{path}: not a safetensors file, or cut short: a header of {length:,} bytes in a file of {size:,}. Fetch it again"
                )
            header = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return _shapes(json.loads(header, object_pairs_hook=_unique), size - 8 - length)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged safetensors file ({error}). Fetch it again") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _shapes(entries: Any, room: int) -> dict[str, list[int]]:
    """The shapes in a header whose tensors have `room` bytes; raises `ValueError`."""
    if not isinstance(entries, dict):
        raise ValueError("it is no object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ holds more than texts")
    spans, shapes = [], {}
    for name, entry in entries.items():
        if (
            not isinstance(entry, dict)
            or entry.keys() != {"dtype", "shape", "data_offsets"}
            or str(entry["dtype"]) not in BITS
        ):
            raise ValueError(f"{name[:80]} is no tensor of a known type")
        shape, span = entry["shape"], entry["data_offsets"]
        for numbers in (shape, span):
            if (
                not isinstance(numbers, list)
                or len(numbers) > 16
                or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
            ):
                raise ValueError(f"{name[:80]} has {str(numbers)[:80]} where whole numbers stand")
        if len(span) != 2 or (span[1] - span[0]) * 8 != math.prod(shape) * BITS[str(entry["dtype"])]:
            raise ValueError(f"{name[:80]} has other bytes than its type and shape need")
        spans.append(span)
        shapes[name] = shape
    end = 0
    for start, after in sorted(spans):
        if start != end:
            raise ValueError("its tensors overlap or leave gaps")
        end = after
    if end != room:
        raise ValueError(f"its tensors need {end:,} bytes, and {room:,} follow")
    return shapes
