"""What computes: the one table of backends, by device, precision, architecture, adapter and dropout.

| work | fast backend | otherwise |
|---|---|---|
| training and scoring | packed pass: joined weights, every token once | the model's own modules |
| sampling | native KV engine | transformers' forward pass and cache |
| products | oneDNN, fp32 on an x86 CPU | the library that torch chooses (oneDNN too, in bfloat16) |
| operations between products | compiled loops on a CPU, Triton on a GPU | torch |

`choose` looks once per run and says its choice in one line, with the reason wherever a slow backend is taken.
The engine asks the other functions while it computes, so the line cannot differ from what runs. No other
module tests a condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reckoner.engine.ops import numba_ops, onednn_ops, triton_ops
from reckoner.errors import InputError
from reckoner.models.families import unsupported
from reckoner.models.sharding import is_sharded

ENGINES = ("auto", "native", "transformers")

LOOP_MAX_THREADS = 2
"""Threads of torch up to which one core with compiled loops is as fast as torch's operations on all."""

SHARED_PARAMETERS = 2**25
"""Parameters above which a core decodes a share of the completions by itself."""

NO_BFLOAT16 = "this CPU has no bfloat16 instructions; model.dtype=float32 is many times faster"


@dataclass(frozen=True, slots=True)
class Backend:
    """What computes one run. `training` is empty where nothing trains, a reason for a fast backend."""

    training: str
    sampling: str
    kernels: str
    training_reason: str = ""
    sampling_reason: str = ""

    def __str__(self) -> str:
        """One line for people."""
        works = (
            ("training", self.training, self.training_reason),
            ("sampling", self.sampling, self.sampling_reason),
        )
        lines = [f"{work}: {name}{reason and f' (slower: {reason})'}" for work, name, reason in works if name]
        return " · ".join([*lines, self.kernels])


def choose(policy: Any, engine: str = "auto", *, trains: bool, dropout: bool = True) -> Backend:
    """The backends of a run that samples with `eval.engine=engine` and, if it `trains`, trains `policy`.

    `dropout=False`: training leaves the modules in the mode in which they are, as reinforcement learning
    does. Raises `InputError` for an engine that cannot run this model.
    """
    sampling, sampling_reason = sampling_backend(policy.model, engine)
    training = training_reason = ""
    if trains:
        training_reason = modules_reason(policy.model, training=True if dropout else None)
        training = "the model's own modules" if training_reason else "packed pass"
    names = {"native": "native KV engine", "transformers": "transformers"}
    return Backend(training, names[sampling], _kernels(policy), training_reason, sampling_reason)


def modules_reason(model: nn.Module, training: bool | None = None, kind: str = "") -> str:
    """Why only the model's own modules can train or score it, in few words; empty where the packed pass can.

    `training` and `kind` (of device) say how it will be used; by default as the model is now.
    """
    kind = kind or model.get_input_embeddings().weight.device.type
    if is_sharded(model):
        return "sharded weights"
    if kind not in {"cpu", "cuda"}:
        return f"device {kind}"
    busy = [module for module in model.modules() if (module.training if training is None else training)]
    if any(one.p if isinstance(one, nn.Dropout) else getattr(one, "attention_dropout", 0) for one in busy):
        return "dropout"
    if any(getattr(module, "gradient_checkpointing", False) for module in busy):
        return "recomputed activations"
    return unsupported(model)


def sampling_backend(model: nn.Module, engine: str) -> tuple[str, str]:
    """ "native" or "transformers" for `eval.engine`, and why not native where that was not asked for."""
    if engine not in ENGINES:
        raise InputError(f"eval.engine={engine}: choose auto, native or transformers")
    if engine == "transformers":
        return engine, ""
    reason = unsupported(model)
    if reason and engine == "native":
        raise InputError(f"eval.engine=native cannot run this model ({reason}). Set eval.engine=auto")
    return ("transformers", reason) if reason else ("native", "")


def decoding_shares(model: nn.Module) -> int:
    """Shares into which completions are cut, each on a core of its own: one a thread for a large model on a
    CPU.

    The operations of a small one are so short that threads would wait for Python's lock.
    """
    weight = model.get_input_embeddings().weight
    large = sum(parameter.numel() for parameter in model.parameters()) > SHARED_PARAMETERS
    return torch.get_num_threads() if large and weight.device.type == "cpu" else 1


def use_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes x [..., K] times weight [N, K]: in fp32 on an x86 CPU, of enough rows.

    Always where the weight lies as `onednn_ops.reorder` laid it.
    """
    if weight.is_mkldnn:
        return True
    fits = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    return fits and onednn_ops.AVAILABLE and x.numel() >= onednn_ops.ONEDNN_MIN_ROWS * x.shape[-1] > 0


def use_reordered(weight: Tensor) -> bool:
    """Whether weights are laid out anew for decoding: in bfloat16 on an x86 CPU that multiplies it."""
    fits = weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    return fits and onednn_ops.AVAILABLE and has_bfloat16()


def use_numba(x: Tensor) -> bool:
    """Whether compiled loops compute with `x`: contiguous on a CPU where torch has few threads."""
    fits = x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu" and x.is_contiguous()
    return numba_ops.AVAILABLE and fits and torch.get_num_threads() <= LOOP_MAX_THREADS


def use_triton(x: Tensor) -> bool:
    """Whether Triton's kernels compute with `x`: on a GPU."""
    return x.is_cuda and triton_ops.AVAILABLE


def use_gated_mlp(x: Tensor) -> bool:
    """Whether an MLP of x is one operation with a gradient of ours: on a CPU."""
    return x.device.type == "cpu"


def use_lora_kernels(x: Tensor, *adapted: tuple[Tensor, Tensor, Tensor] | None) -> bool:
    """Whether `lora_gated_mlp` computes an MLP: 16 bits on a GPU, frozen weights, one rank, not too large.

    `adapted` are weight, A and B of each projection, None for one without.
    """
    lora = [one for one in adapted if one]
    if len(lora) < len(adapted) or not use_triton(x) or x.dtype.itemsize != 2:
        return False
    ranks = {len(a) for _, a, _ in lora}
    frozen = not any(weight.requires_grad for weight, _, _ in lora)
    return frozen and len(ranks) == 1 and max(ranks) <= triton_ops.MAX_RANK


def use_packed_attention(heads: Tensor, window: int | None, softcap: float | None) -> bool:
    """Whether compiled loops attend over packed tokens; otherwise attention sees padded rows."""
    return window is None and softcap is None and use_numba(heads)


def use_decoding_loops(values: Tensor, softcapped: bool) -> bool:
    """Whether compiled loops attend in a decoding step: in bfloat16 on a CPU. `values` are a cache [...,
    d]."""
    return (
        values.dtype == torch.bfloat16 and use_numba(values) and not softcapped and values.shape[-1] % 4 == 0
    )


def use_sdpa_decoding(heads: Tensor, softcap: float | None, prefix: object) -> bool:
    """Whether a decoding step attends by torch's fused kernel: on a GPU, without soft-cap or prefix."""
    return heads.is_cuda and not softcap and prefix is None


def _kernels(policy: Any) -> str:
    """The libraries of products, and of what lies between them."""
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[policy.dtype]
    if policy.device.type == "cuda":
        return f"cuBLAS {precision}, {'Triton kernels' if triton_ops.AVAILABLE else 'torch operations'}"
    sample = torch.zeros(onednn_ops.ONEDNN_MIN_ROWS, 1, dtype=policy.dtype, device=policy.device)
    library = "oneDNN" if use_onednn(sample, sample) else "torch"
    loops = "compiled loops" if use_numba(sample) else "torch operations"
    slow = precision == "bf16" and not has_bfloat16()
    return f"{library} {precision}, {loops}" + f" (slow: {NO_BFLOAT16})" * slow


def precision_note(dtype: str, parameters: int = 0) -> str:
    """What to know of `model.dtype` on this CPU, for a model of so many parameters; empty where nothing.

    Products of a small model are no faster in bfloat16 (benchmarks/NOTES.md).
    """
    if dtype == "bfloat16":
        return "" if has_bfloat16() else NO_BFLOAT16
    faster = parameters > SHARED_PARAMETERS and has_bfloat16()
    return "model.dtype=bfloat16 takes about half the time on this CPU" * faster


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by instructions of its own, not by widening each number first."""
    known = ("avx512_bf16", "amx_bf16", "bf16")  # x86, and Arm's own name
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return any(
        not set(known).isdisjoint(line.split()) for line in lines if line[:5].lower() in ("flags", "featu")
    )
