"""A transformers decoder packed for the engine's own forward pass; the module itself is never touched.

Packing: q, k and v become one matrix; the attention scale and `1 + weight` of Gemma's norms are folded in.
With `fold`, gate and up become one matrix too, and LoRA is merged as W + scale * B A. Without it they stay
apart, as for training in 16 bits: merging would cost a gradient of W's size, and joining a copy.

The forward pass keeps keys and values wherever the caller wants them. RoPE is one complex product, and the
last layer computes only the wanted positions. Products are in the dtype of the weights. The sum of the layers
is always in fp32, as under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from reckoner.engine import backend
from reckoner.engine.ops import dispatch
from reckoner.engine.ops.dispatch import GELU_TANH, SILU, Adapted, GatedActivation
from reckoner.engine.ops.onednn_ops import ONEDNN_MIN_ROWS, ROW_MULTIPLE, reorder
from reckoner.engine.ops.torch_ops import rows_to_multiple
from reckoner.models.families import FAMILIES, Family, rope_frequencies

SDPA_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention on a GPU, without cuDNN's, which takes a tenth of a second to prepare for each new shape."""
DECODE_ROW_MULTIPLE, DECODE_MAX_ROWS = 16, 512
"""Up to `DECODE_MAX_ROWS`, as in a decoding step, rows are filled up to a multiple of 16, not 64."""
MASK_ALIGNMENT = 16
"""A GPU's attention reads a mask whose rows begin at multiples of this many numbers."""
GATES = {"GELUTanh": GELU_TANH, "SiLU": SILU, "SiLUActivation": SILU}
Factors = tuple[Tensor, Tensor]
"""A [r, in] and scale * B [out, r] of a projection with LoRA."""
LoraFactors = dict[nn.Module, Factors]


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map: its effective weight [out, in], or the base's weight with LoRA's factors beside it."""

    weight: Tensor
    bias: Tensor | None
    lora: Factors | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.lora is None:
            return dispatch.linear(x, self.weight, self.bias)
        return dispatch.lora_linear(x, self.weight, self.bias, *self.lora)

    @property
    def adapted(self) -> Adapted | None:
        """The weight, A and B of a projection with LoRA and no bias, else None."""
        return (self.weight, *self.lora) if self.lora and self.bias is None else None

    def reordered(self) -> Projection:
        """The same map for products without a gradient, of few rows, in bfloat16 on a CPU."""
        return Projection(reorder(self.weight), self.bias)

    def heads(self, size: int, factor: float) -> Projection:
        """The same map with the outputs of each head of `size` interleaved, times `factor`."""
        weight = _interleave(self.weight, size) * factor
        bias = None if self.bias is None else _interleave(self.bias, size) * factor
        lora = self.lora and (self.lora[0], _interleave(self.lora[1], size) * factor)
        return Projection(weight, bias, lora)


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm in fp32 with the factor it multiplies by, its result in `dtype`."""

    factor: Tensor
    eps: float
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return dispatch.rms_norm(x.float(), self.factor, self.eps, self.dtype)


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
    gate: GatedActivation | None  # the activation once more, where `dispatch` has a name for it
    down: Projection
    after_mlp: Norm | None
    window: int | None
    kind: str
    softcap: float | None

    def mlp(self, x: Tensor) -> Tensor:
        """The gated MLP of [..., H]."""
        first, *second = self.gate_up
        unbiased = first.bias is None and self.down.bias is None
        if self.gate and not second and unbiased and backend.use_gated_mlp(x):
            return dispatch.gated_mlp(x, first.weight, self.down.weight, self.gate)
        if not second:
            gate, up = first(x).chunk(2, -1)
        else:
            adapted = [projection.adapted for projection in (*self.gate_up, self.down)]
            if self.gate and backend.use_lora_kernels(x, *adapted):
                return dispatch.lora_gated_mlp(x, self.gate, *filter(None, adapted))
            gate, up = first(x), second[0](x)
        return self.down(dispatch.gated_act(gate, up, self.activation, self.gate))


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole decoder, packed in one dtype (norms in fp32, the embedding as it was)."""

    embedding: Tensor  # [V, H]
    embedding_scale: float
    layers: list[Layer]
    norm: Norm
    head: Projection
    logit_softcap: float | None
    frequencies: dict[str, Any]  # RoPE of each kind of layer: [head size / 2] and a factor
    query_heads: int
    kv_heads: int
    head_size: int

    def reordered(self) -> Weights:
        """The same decoder with the layout of `Projection.reordered`."""
        layers = [
            replace(
                layer,
                qkv=layer.qkv.reordered(),
                out=layer.out.reordered(),
                gate_up=tuple(each.reordered() for each in layer.gate_up),
                down=layer.down.reordered(),
            )
            for layer in self.layers
        ]
        return replace(self, layers=layers, head=self.head.reordered())


def _active(module: nn.Module) -> list[str]:
    """The names of the LoRA that a projection applies beside its weight."""
    adapted = hasattr(module, "lora_A") and not module.merged and not module.disable_adapters
    return [name for name in module.active_adapters if name in module.lora_A] if adapted else []


def _projection(module: nn.Module, dtype: torch.dtype, lora: LoraFactors | None) -> Projection:
    """A projection with its active LoRA: beside it as in `lora`, or folded in where `lora` is None."""
    base = getattr(module, "base_layer", module)
    weight, bias = base.weight, None if base.bias is None else base.bias.to(dtype)
    if lora is not None:
        return Projection(weight.to(dtype), bias, lora.get(module))
    for name in _active(module):
        weight = weight + module.get_delta_weight(name).to(weight.dtype)
    return Projection(weight.to(dtype), bias)


def _lora_factors(layers: nn.Module, dtype: torch.dtype) -> LoraFactors:
    """A and scaled B of every projection with LoRA.

    They are cast together: cast one by one, they would be a sixth of all operations of a pass forward and
    back.
    """
    by_scale: dict[float, list[tuple[nn.Module, str]]] = {}
    for module in layers.modules():
        for name in _active(module):
            by_scale.setdefault(module.scaling[name], []).append((module, name))
    factors: dict[nn.Module, list[Factors]] = {}
    for scale, group in by_scale.items():
        downs = _cast_together([module.lora_A[name].weight for module, name in group], dtype)
        ups = _cast_together([module.lora_B[name].weight for module, name in group], dtype, scale)
        for (module, _), down, up in zip(group, downs, ups, strict=True):
            factors.setdefault(module, []).append((down, up))
    return {module: _stack(pairs) for module, pairs in factors.items()}


def _cast_together(tensors: Sequence[Tensor], dtype: torch.dtype, factor: float = 1.0) -> list[Tensor]:
    """Each of `tensors` times `factor` in `dtype`, made as one tensor."""
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(dtype)
    chunks = (flat if factor == 1 else flat * factor).split([tensor.numel() for tensor in tensors])
    return [chunk.view(tensor.shape) for chunk, tensor in zip(chunks, tensors, strict=True)]


def _stack(pairs: Sequence[Factors]) -> Factors:
    """One A and B for the sum of several, of a rank that is a multiple of 8.

    A GPU's products take several times as long where rows are not whole multiples of 16 bytes.
    """
    down, up = pairs[0]
    if len(pairs) > 1:
        down, up = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1)
    missing = -len(down) % 8
    return (F.pad(down, (0, 0, 0, missing)), F.pad(up, (0, missing))) if missing else (down, up)


def _interleave(rows: Tensor, size: int) -> Tensor:
    """Reorder the rows of each head from halves (a..., b...) to pairs (a, b, ...); products stay equal."""
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
    """The weights of a model that is not `unsupported`, in `dtype`; `fold` merges LoRA, gate and up.

    The head is copied only if `dtype` differs.
    """
    config, decoder = model.config.get_text_config(), model.get_decoder()
    embedding = model.get_input_embeddings().weight
    family = FAMILIES[config.model_type]
    lora = None if fold else _lora_factors(decoder.layers, dtype)
    layers = [_pack_layer(layer, family, config, dtype, lora) for layer in decoder.layers]
    scale = config.hidden_size**0.5 if family.scaled_embedding else 1.0
    return Weights(
        embedding=embedding,
        embedding_scale=float(torch.tensor(scale, dtype=embedding.dtype)),
        layers=layers,
        norm=_norm(decoder.norm, family, dtype),
        head=_projection(model.get_output_embeddings(), dtype, lora),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        frequencies={layer.kind: rope_frequencies(decoder.rotary_emb, layer.kind) for layer in layers},
        query_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=decoder.layers[0].self_attn.head_dim,
    )


def _pack_layer(
    layer: nn.Module, family: Family, config: Any, dtype: torch.dtype, lora: LoraFactors | None
) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    if family.sandwich_norms:
        after_attention, mlp_norm = layer.post_attention_layernorm, layer.pre_feedforward_layernorm
    else:
        after_attention, mlp_norm = None, layer.post_attention_layernorm
    kind = getattr(attention, "layer_type", None) or ""
    sliding = kind == "sliding_attention"
    query_norm = getattr(attention, "q_norm", None)
    gate, up, queries, keys, values = (
        _projection(module, dtype, lora)
        for module in (mlp.gate_proj, mlp.up_proj, attention.q_proj, attention.k_proj, attention.v_proj)
    )
    size, scale = attention.head_dim, 1.0 if query_norm else attention.scaling
    return Layer(
        attention_norm=_norm(layer.input_layernorm, family, dtype),
        qkv=_join(queries.heads(size, scale), keys.heads(size, 1.0), values),
        query_norm=_head_norm(query_norm, family, attention.scaling, dtype),
        key_norm=_head_norm(getattr(attention, "k_norm", None), family, 1.0, dtype),
        out=_projection(attention.o_proj, dtype, lora),
        after_attention=_norm(after_attention, family, torch.float32) if after_attention else None,
        mlp_norm=_norm(mlp_norm, family, dtype),
        gate_up=(_join(gate, up),) if lora is None else (gate, up),
        activation=mlp.act_fn,
        gate=GATES.get(type(mlp.act_fn).__name__),
        down=_projection(mlp.down_proj, dtype, lora),
        after_mlp=_norm(layer.post_feedforward_layernorm, family, torch.float32)
        if family.sandwich_norms
        else None,
        window=config.sliding_window if sliding else None,
        kind=kind,
        softcap=config.attn_logit_softcapping if family.score_softcap else None,
    )


def _join(*projections: Projection) -> Projection:
    """One projection whose output is the outputs of `projections` side by side."""
    weights, biases = [each.weight for each in projections], [each.bias for each in projections]
    bias = lora = None
    if any(each is not None for each in biases):
        zeros = (weight.new_zeros(len(weight)) for weight in weights)
        bias = torch.cat([zero if each is None else each for zero, each in zip(zeros, biases, strict=True)])
    if any(each.lora for each in projections):
        empty = ((w.new_zeros(0, w.shape[1]), w.new_zeros(len(w), 0)) for w in weights)
        factors = [each.lora or none for each, none in zip(projections, empty, strict=True)]
        lora = torch.cat([down for down, _ in factors]), torch.block_diag(*(up for _, up in factors))
    return Projection(torch.cat(weights), bias, lora)


class KVCache:
    """Where a forward pass keeps keys and values."""

    def attend(self, index: int, layer: Layer, heads: Tensor) -> Tensor:
        """Attention of `heads` [n, T, query heads + 2 kv heads, d], as [n, T, query heads * d].

        Queries come first; the new keys and values after them are kept. The last layer attends from the
        positions of `pick` only.
        """
        raise NotImplementedError

    def pick(self, x: Tensor) -> Tensor:
        """The wanted positions of x [n, T, H], by default the last of each row."""
        return x[:, -1]


class NativeModel:
    """A packed copy of a supported model's weights in one dtype, and its forward pass."""

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        positions: int,
        fold: bool = True,
        decodes: bool = False,
    ) -> None:
        """Pack a model that is not `unsupported`, for up to `positions` tokens; `fold` as in `pack`.

        With `decodes`, products have no gradient, and few rows.
        """
        self.weights = pack(model, dtype, fold)
        if decodes and backend.use_reordered(self.weights.head.weight):
            self.weights = self.weights.reordered()
        self.dtype, self.positions, self.device = dtype, positions, self.weights.embedding.device
        self.rope_cos_sin = {}  # by kind of layer, complex [positions, head size / 2]
        for kind, (frequencies, factor) in self.weights.frequencies.items():
            angles = torch.arange(positions, device=frequencies.device)[:, None] * frequencies.float()
            self.rope_cos_sin[kind] = torch.polar(torch.full_like(angles, factor), angles)

    def hidden(self, ids: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Hidden states [..., H] of `ids` [n, T] at `positions` [n, T], of those that `cache` picks."""
        weights, shape = self.weights, ids.shape
        x = F.embedding(self._filled(ids.flatten()), weights.embedding).float()
        if weights.embedding_scale != 1:
            x = x * weights.embedding_scale
        positions = self._filled(positions.flatten())
        rope_cos_sin = {kind: table[positions] for kind, table in self.rope_cos_sin.items()}
        norms = [*(layer.attention_norm for layer in weights.layers[1:]), weights.norm]
        normed = weights.layers[0].attention_norm(x)
        for index, (layer, following) in enumerate(zip(weights.layers, norms, strict=True)):
            heads = self._heads(layer, normed, rope_cos_sin[layer.kind])[: ids.numel()].unflatten(0, shape)
            mixed = cache.attend(index, layer, heads).flatten(0, -2)
            if layer is weights.layers[-1]:
                x = cache.pick(x[: ids.numel()].unflatten(0, shape))
                count, x = len(x), self._filled(x)
            mixed = layer.out(self._filled(mixed))
            mixed = layer.after_attention(mixed) if layer.after_attention else mixed
            x = x + mixed
            mixed = layer.mlp(layer.mlp_norm(x))
            x = x + (layer.after_mlp(mixed) if layer.after_mlp else mixed)
            normed = following(x)
        return normed[:count]

    def _heads(self, layer: Layer, normed: Tensor, rope_cos_sin: Tensor) -> Tensor:
        """Queries and keys with RoPE, and values, of a layer: [M, query heads + 2 kv heads, head size]."""
        size, kv = self.weights.head_size, self.weights.kv_heads
        sizes = self.weights.query_heads, kv, kv
        qkv = layer.qkv(normed)
        if layer.query_norm and layer.key_norm:
            queries, keys, values = qkv.unflatten(-1, (-1, size)).split(sizes, dim=1)
            normed_heads = layer.query_norm(queries), layer.key_norm(keys), values
            qkv = torch.cat([each.flatten(1) for each in normed_heads], -1)
        return dispatch.rope(qkv, rope_cos_sin, sum(sizes[:2]), size).view(len(normed), -1, size)

    def _filled(self, x: Tensor) -> Tensor:
        """x [M, ...] and zeros up to a number of rows that a CPU meets again (see `ROW_MULTIPLE`)."""
        if x.device.type != "cpu" or len(x) < ONEDNN_MIN_ROWS:
            return x
        return rows_to_multiple(x, DECODE_ROW_MULTIPLE if len(x) <= DECODE_MAX_ROWS else ROW_MULTIPLE)

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits [n, V] of hidden states [n, H]."""
        cap = self.weights.logit_softcap
        logits = self.weights.head(self._filled(hidden))[: len(hidden)].float()
        return cap * torch.tanh(logits / cap) if cap else logits
