"""The weights of a transformers decoder, checked and packed for `native`; the module itself is never touched.

q, k and v become one matrix; the attention scale and `1 + weight` of Gemma's norms are folded in. Where weights are
narrow, gate and up become one matrix too and LoRA is merged as W + scale * B A. To train wide ones on a GPU they stay apart:
merging would cost a gradient of W's size, and joining a copy of most weights. A model whose structure is not exactly the
known one is refused by `unsupported`, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reckoner.engine.ops.autograd import (
    GELU_TANH,
    SILU,
    GatedActivation,
    add_norm,
    gated,
    gated_mlp,
    rms_norm,
)
from reckoner.engine.ops.lora import Adapted, fits, gated_low_rank, low_rank
from reckoner.engine.ops.onednn import linear


@dataclass(frozen=True, slots=True)
class Family:
    """In what an architecture departs from Llama."""

    norm_offset: float = 0.0  # a norm multiplies by offset + weight
    scaled_embedding: bool = False  # embeddings times sqrt(hidden size)
    sandwich: bool = False  # norms after attention and after the MLP too
    score_softcap: bool = False  # attention scores are soft-capped


FAMILIES = {
    "llama": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma": Family(norm_offset=1.0, scaled_embedding=True),
    "gemma2": Family(norm_offset=1.0, scaled_embedding=True, sandwich=True, score_softcap=True),
    "gemma3_text": Family(norm_offset=1.0, scaled_embedding=True, sandwich=True),
}
NORMS = {"input_layernorm", "post_attention_layernorm"}
SANDWICH_NORMS = NORMS | {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
GATES = {"GELUTanh": GELU_TANH, "SiLU": SILU, "SiLUActivation": SILU}
Low = dict[nn.Module, tuple[Tensor, Tensor]]
"""A [r, in] and scale * B [out, r] of each projection with LoRA."""
STATIC_ROPE = {"default", "linear", "llama3"}


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map: its effective weight [out, in], or that of the base and LoRA's A [r, in] and scale * B [out, r] beside it."""

    weight: Tensor
    bias: Tensor | None
    low: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.low is None:
            return linear(x, self.weight, self.bias)
        return low_rank(x, self.weight, self.bias, *self.low)

    @property
    def adapted(self) -> Adapted | None:
        """The weight, A and B where that is all; else nothing."""
        return (self.weight, *self.low) if self.low and self.bias is None else None

    def heads(self, size: int, factor: float) -> Projection:
        """The same with the outputs of each head of `size` as `_interleave` has them, times `factor`."""
        weight, bias, low = self.weight, self.bias, self.low
        return Projection(
            _interleave(weight, size) * factor,
            None if bias is None else _interleave(bias, size) * factor,
            None if low is None else (low[0], _interleave(low[1], size) * factor),
        )


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm in fp32 with the factor it multiplies by, its result in `dtype`."""

    factor: Tensor
    eps: float
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x.float(), self.factor, self.eps).to(self.dtype)

    def of_sum(self, x: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        """`x + more` of [M, H], x in fp32, and the norm of it."""
        return add_norm(x, more, self.factor, self.eps, self.dtype)


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer, packed."""

    attention_norm: Norm
    qkv: Projection
    query_norm: Norm | None
    key_norm: Norm | None
    out: Projection
    after_attention: Norm | None
    mlp_norm: Norm
    gate_up: tuple[Projection, ...]  # one of both, or one each
    activation: Callable[[Tensor], Tensor]
    gate: GatedActivation | None  # the activation once more, where `kernels` knows it
    down: Projection
    after_mlp: Norm | None
    window: int | None
    kind: str
    softcap: float | None

    def mlp(self, x: Tensor) -> Tensor:
        """The gated MLP of [..., H]."""
        first, *second = self.gate_up
        plain = not second and first.bias is None and self.down.bias is None
        if self.gate and plain and x.device.type == "cpu" and x.dtype == torch.float32:
            return gated_mlp(x, first.weight, self.down.weight, self.gate)
        if not second:
            gate, up = first(x).chunk(2, -1)
        else:
            parts = [part.adapted for part in (*self.gate_up, self.down)]
            if self.gate and all(parts) and fits(x, *parts):
                return gated_low_rank(x, self.gate, *parts)
            gate, up = first(x), second[0](x)
        return self.down(gated(gate, up, self.activation, self.gate))


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole decoder, packed in one dtype (norms in fp32, the embedding as it was)."""

    embedding: Tensor  # [V, H]
    embedding_scale: float
    layers: list[Layer]
    norm: Norm
    head: Projection
    logit_softcap: float | None
    frequencies: dict[str, tuple[Tensor, float]]  # RoPE of each kind of layer: [head size / 2] and a factor
    query_heads: int
    kv_heads: int
    head_size: int


def unsupported(model: nn.Module) -> str:
    """Why the native engine cannot run `model`, in a few words; empty when it can."""
    config = model.config.get_text_config()
    family = FAMILIES.get(config.model_type)
    if family is None:
        return f"unknown architecture {config.model_type}"
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    embedding = model.get_input_embeddings()  # peft's class for an adapted one is named Embedding too
    plain = type(embedding) is nn.Embedding or type(embedding).__name__ in _SCALED
    if type(head) is not nn.Linear or not plain:
        return "an adapted or quantized embedding or LM head"
    if getattr(config, "use_bidirectional_attention", False):
        return "bidirectional attention"
    for layer in decoder.layers:
        attention, kind = _children(layer.self_attn), getattr(layer.self_attn, "layer_type", None) or ""
        if _children(layer) != {"self_attn", "mlp", *(SANDWICH_NORMS if family.sandwich else NORMS)}:
            return "unknown parts in a layer"
        if attention - {"q_norm", "k_norm"} != PROJECTIONS or _children(layer.mlp) - {"act_fn"} != {
            "gate_proj",
            "up_proj",
            "down_proj",
        }:
            return "unknown parts in attention or MLP"
        if kind not in {"", "full_attention", "sliding_attention"}:
            return f"unknown attention {kind}"
        projections = [getattr(layer.self_attn, name) for name in PROJECTIONS]
        projections += [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
        if reason := next(filter(None, map(_opaque, projections)), ""):
            return reason
        frequencies = _frequencies(decoder.rotary_emb, kind)
        if frequencies is None or 2 * len(frequencies[0]) != layer.self_attn.head_dim:
            return "unknown rotary embedding"
    return ""


_SCALED = ("GemmaTextScaledWordEmbedding", "Gemma2TextScaledWordEmbedding", "Gemma3TextScaledWordEmbedding")


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _opaque(module: nn.Module) -> str:
    """Why the weight of a projection cannot be read; empty when it can."""
    base = getattr(module, "base_layer", module)
    if type(base) is not nn.Linear:
        return f"a projection of type {type(base).__name__}"
    if base is module or module.merged:
        return ""
    if type(module).__module__ != "peft.tuners.lora.layer" or module.lora_variant:
        return "an adapter that is not plain LoRA"
    if any(b.bias is not None for b in module.lora_B.values()):
        return "LoRA with a bias of its own"
    return ""


def _active(module: nn.Module) -> list[str]:
    """The names of the LoRA that a projection applies beside its weight."""
    adapted = hasattr(module, "lora_A") and not module.merged and not module.disable_adapters
    return [name for name in module.active_adapters if name in module.lora_A] if adapted else []


def _effective(module: nn.Module, dtype: torch.dtype, low: Low | None) -> Projection:
    """A projection with its active LoRA: beside it as `low` has it, or folded into the weight where there is no `low`."""
    base = getattr(module, "base_layer", module)
    weight, bias = base.weight, None if base.bias is None else base.bias.to(dtype)
    if low is not None:
        return Projection(weight.to(dtype), bias, low.get(module))
    for name in _active(module):
        weight = weight + module.get_delta_weight(name).to(weight.dtype)
    return Projection(weight.to(dtype), bias)


def _low(layers: nn.Module, dtype: torch.dtype) -> Low:
    """A and scaled B of every projection with LoRA. They are cast together: one by one, both ways, they are a sixth of all operations of a pass."""
    by_scale: dict[float, list[tuple[nn.Module, str]]] = {}
    for module in layers.modules():
        for name in _active(module):
            by_scale.setdefault(module.scaling[name], []).append((module, name))
    low: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
    for scale, group in by_scale.items():
        downs = _together([module.lora_A[name].weight for module, name in group], dtype)
        ups = _together([module.lora_B[name].weight for module, name in group], dtype, scale)
        for (module, _), down, up in zip(group, downs, ups, strict=True):
            low.setdefault(module, []).append((down, up))
    return {module: _stacked(pairs) for module, pairs in low.items()}


def _together(parts: Sequence[Tensor], dtype: torch.dtype, factor: float = 1.0) -> list[Tensor]:
    """Each of `parts` times `factor` in `dtype`, made as one tensor."""
    flat = torch.cat([part.flatten() for part in parts]).to(dtype)
    pieces = (flat if factor == 1 else flat * factor).split([part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def _stacked(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One A and B for the sum of several, of a rank that fills rows of 16 bytes, without which a GPU's products take several times as long."""
    down, up = (
        pairs[0]
        if len(pairs) == 1
        else (torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1))
    )
    missing = -len(down) % 8
    return (F.pad(down, (0, 0, 0, missing)), F.pad(up, (0, missing))) if missing else (down, up)


def _frequencies(rotary: nn.Module, kind: str) -> tuple[Tensor, float] | None:
    """RoPE frequencies [head size / 2] and factor of a layer kind; None if they depend on the length of the input."""
    types = rotary.rope_type
    if isinstance(types, dict):
        if types.get(kind) not in STATIC_ROPE:
            return None
        return getattr(rotary, f"{kind}_inv_freq"), getattr(rotary, f"{kind}_attention_scaling")
    return (rotary.inv_freq, rotary.attention_scaling) if types in STATIC_ROPE else None


def _interleave(rows: Tensor, size: int) -> Tensor:
    """Reorder the rows of each head from halves (a..., b...) to pairs (a, b, a, b, ...); products of heads do not change."""
    return rows.view(-1, 2, size // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def _norm(module: nn.Module, family: Family, dtype: torch.dtype) -> Norm:
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
    return Norm(family.norm_offset + module.weight.float(), eps, dtype)


def _head_norm(module: nn.Module | None, family: Family, scale: float, dtype: torch.dtype) -> Norm | None:
    if module is None:
        return None
    norm = _norm(module, family, dtype)
    return Norm(_interleave(norm.factor, len(norm.factor)) * scale, norm.eps, dtype)


def pack(model: nn.Module, dtype: torch.dtype, fold: bool = True) -> Weights:
    """The weights of a model for which `unsupported` is empty, for products in `dtype`; `fold` merges LoRA, gate and up.

    The head is copied only if `dtype` differs.
    """
    config, decoder, embedding = (
        model.config.get_text_config(),
        model.get_decoder(),
        model.get_input_embeddings().weight,
    )
    family = FAMILIES[config.model_type]
    low = None if fold else _low(decoder.layers, dtype)
    layers = [_pack_layer(layer, family, config, dtype, low) for layer in decoder.layers]
    scale = config.hidden_size**0.5 if family.scaled_embedding else 1.0
    return Weights(
        embedding=embedding,
        embedding_scale=float(torch.tensor(scale, dtype=embedding.dtype)),
        layers=layers,
        norm=_norm(decoder.norm, family, dtype),
        head=_effective(model.get_output_embeddings(), dtype, low),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        frequencies={
            kind: _frequencies(decoder.rotary_emb, kind) for kind in {layer.kind for layer in layers}
        },
        query_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=decoder.layers[0].self_attn.head_dim,
    )


def _pack_layer(layer: nn.Module, family: Family, config: Any, dtype: torch.dtype, low: Low | None) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    if family.sandwich:
        after_attention, mlp_norm = layer.post_attention_layernorm, layer.pre_feedforward_layernorm
    else:
        after_attention, mlp_norm = None, layer.post_attention_layernorm
    kind = getattr(attention, "layer_type", None) or ""
    sliding = kind == "sliding_attention"
    query_norm = getattr(attention, "q_norm", None)
    gate, up = _effective(mlp.gate_proj, dtype, low), _effective(mlp.up_proj, dtype, low)
    return Layer(
        attention_norm=_norm(layer.input_layernorm, family, dtype),
        qkv=_pack_qkv(attention, 1.0 if query_norm else attention.scaling, dtype, low),
        query_norm=_head_norm(query_norm, family, attention.scaling, dtype),
        key_norm=_head_norm(getattr(attention, "k_norm", None), family, 1.0, dtype),
        out=_effective(attention.o_proj, dtype, low),
        after_attention=_norm(after_attention, family, torch.float32) if after_attention else None,
        mlp_norm=_norm(mlp_norm, family, dtype),
        gate_up=(_join(gate, up),) if low is None else (gate, up),
        activation=mlp.act_fn,
        gate=GATES.get(type(mlp.act_fn).__name__),
        down=_effective(mlp.down_proj, dtype, low),
        after_mlp=_norm(layer.post_feedforward_layernorm, family, torch.float32) if family.sandwich else None,
        window=config.sliding_window if sliding else None,
        kind=kind,
        softcap=config.attn_logit_softcapping if family.score_softcap else None,
    )


def _pack_qkv(attention: nn.Module, scale: float, dtype: torch.dtype, low: Low | None) -> Projection:
    size = attention.head_dim
    queries, keys, values = (
        _effective(module, dtype, low) for module in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return _join(queries.heads(size, scale), keys.heads(size, 1.0), values)


def _join(*parts: Projection) -> Projection:
    """One projection whose output is the outputs of `parts` side by side."""
    weight = torch.cat([part.weight for part in parts])
    bias = low = None
    if any(part.bias is not None for part in parts):
        bias = torch.cat(
            [part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
        )
    if any(part.low for part in parts):
        lows = [
            part.low
            or (part.weight.new_zeros(0, part.weight.shape[1]), part.weight.new_zeros(len(part.weight), 0))
            for part in parts
        ]
        low = torch.cat([down for down, _ in lows]), torch.block_diag(*(up for _, up in lows))
    return Projection(weight, bias, low)
