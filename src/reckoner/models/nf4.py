"""NF4 weights (Dettmers et al., 2023): in 4 bits to train an adapter over, and the same numbers unpacked.

An adapter fits the weights that it was trained over. So it is stored with their rounding (`base.json`), and
wherever it is used later, its base is rounded to NF4 and back: test, merging and export compute what training
did, in plain modules and without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reckoner.errors import InputError
from reckoner.runs.records import read_json

DTYPES = ("float32", "bfloat16", "float16")
"""Of the numbers that NF4 stands for; the dtype in which the model computed."""


def check(device: torch.device) -> None:
    """Raises `InputError` where no adapter can be trained over NF4 weights."""
    if device.type != "cuda":
        raise InputError("peft.method=qlora needs a GPU; set peft.method=lora")
    _library()


def quantize(model: nn.Module, dtype: torch.dtype, device: torch.device) -> str:
    """Put 4-bit projections on `device` in place of the decoder's; embedding, norms and LM head stay.

    Returns the name of `dtype`, in which they compute.
    """
    library = _library()
    for parent, name, layer in _projections(model):
        four_bits = library.nn.Linear4bit(
            layer.in_features, layer.out_features, False, dtype, quant_type="nf4", device="meta"
        )
        four_bits.weight, four_bits.bias = _rounded(layer.weight.to(dtype), device), layer.bias
        setattr(parent, name, four_bits)
    return str(dtype).removeprefix("torch.")


def round_weights(model: nn.Module, dtype: str, device: torch.device) -> None:
    """Round the decoder's projections to NF4 and back, as `dtype` on `device`: the twin of `quantize`."""
    dequantize = _library().functional.dequantize_4bit
    for _, _, layer in _projections(model):
        four_bits = _rounded(layer.weight.to(getattr(torch, dtype)), device)
        layer.weight.data.copy_(dequantize(four_bits.data, four_bits.quant_state))


def dtype_of(adapter: Path) -> str:
    """The dtype of the NF4 weights that the adapter of this folder was trained over; empty for plain ones."""
    dtype = read_json(adapter / "base.json", missing={}).get("nf4", "")
    if dtype not in ("", *DTYPES):
        what = f"nf4 is {str(dtype)[:40]!r}, and none of {', '.join(DTYPES)}"
        raise InputError(f"{adapter}/base.json: {what}. Restore that file")
    return str(dtype)


def count(parameter: torch.Tensor) -> int:
    """Weights in a parameter; one in NF4 holds two a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _projections(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The linear layers of the decoder, each with its parent and its name there."""
    for parent in list(model.get_decoder().modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                yield parent, name, layer


def _rounded(weight: torch.Tensor, device: torch.device) -> Any:
    """The weight in NF4: blocks of 64 under a scale, and the scales in 8 bits in blocks of 256."""
    return _library().nn.Params4bit(weight.detach(), requires_grad=False, quant_type="nf4").to(device)


def _library() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise InputError(
            "an adapter over NF4 weights (peft.method=qlora) needs bitsandbytes: pip install bitsandbytes"
        ) from error
    return bitsandbytes
