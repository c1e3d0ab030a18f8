"""The model families that the engine knows: one row each, and the check that a model is exactly one of them.

The packed pass and the native KV engine compute a decoder from its weights alone. So a model whose structure
is not exactly that of its row is refused by `unsupported`, never guessed. The rows also hold the shapes of
models that a study is likely to name, so that a plan needs neither weights nor network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from reckoner.errors import InputError
from reckoner.models.foreign import Foreign
from reckoner.models.gguf import read_config
from reckoner.models.sources import EMBEDDED, SMOLLM2, SMOLLM2_HUB, cached, is_gguf, is_hub_id, resolve
from reckoner.runs.records import read_json


@dataclass(frozen=True, slots=True)
class Family:
    """How an architecture departs from Llama, and the shapes of its models that a study is likely to name.

    The logits of every family here are `head(hidden)`, soft-capped where its config says so, and nothing
    else. Any other model is asked for its own logits.
    """

    packed: bool = True  # the packed pass and the native engine know its layers
    norm_offset: float = 0.0  # a norm multiplies by offset + weight
    scaled_embedding: bool = False  # embeddings times sqrt(hidden size)
    sandwich_norms: bool = False  # norms after attention and after the MLP too
    score_softcap: bool = False  # attention scores are soft-capped
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # Hub id -> values of `SHAPE_KEYS`


SHAPE_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
)
"""From each public `config.json`; Gemma 3 above 1B as its language model. All tie their embeddings."""

FAMILIES = {
    "llama": Family(shapes={"HuggingFaceTB/SmolLM2-135M": (576, 30, 9, 3, 64, 1536, 49152)}),
    "qwen2": Family(
        shapes={
            "Qwen/Qwen2.5-0.5B": (896, 24, 14, 2, 64, 4864, 151936),
            "Qwen/Qwen2.5-1.5B": (1536, 28, 12, 2, 128, 8960, 151936),
        }
    ),
    "qwen3": Family(),
    "gemma": Family(
        norm_offset=1.0,
        scaled_embedding=True,
        shapes={
            "google/gemma-2b": (2048, 18, 8, 1, 256, 16384, 256000),
            "google/gemma-7b": (3072, 28, 16, 16, 256, 24576, 256000),
        },
    ),
    "gemma2": Family(
        norm_offset=1.0,
        scaled_embedding=True,
        sandwich_norms=True,
        score_softcap=True,
        shapes={
            "google/gemma-2-2b": (2304, 26, 8, 4, 256, 9216, 256000),
            "google/gemma-2-9b": (3584, 42, 16, 8, 256, 14336, 256000),
            "google/gemma-2-27b": (4608, 46, 32, 16, 128, 36864, 256000),
        },
    ),
    "gemma3_text": Family(
        norm_offset=1.0,
        scaled_embedding=True,
        sandwich_norms=True,
        shapes={
            "google/gemma-3-1b": (1152, 26, 4, 1, 256, 6912, 262144),
            "google/gemma-3-4b": (2560, 34, 8, 4, 256, 10240, 262208),
            "google/gemma-3-12b": (3840, 48, 16, 8, 256, 15360, 262208),
            "google/gemma-3-27b": (5376, 62, 32, 16, 128, 21504, 262208),
        },
    ),
    **dict.fromkeys(
        ("gemma3n_text", "gemma4_text", "mistral", "olmo2", "smollm3", "phi3", "gpt2", "gpt_neox"),
        Family(packed=False),
    ),
}
"""By `model_type` of transformers."""

_ENDINGS = ("-it", "-pt", "-Instruct")

NORMS = {"input_layernorm", "post_attention_layernorm"}
SANDWICH_NORMS = NORMS | {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP_PROJECTIONS = {"gate_proj", "up_proj", "down_proj"}
STATIC_ROPE = {"default", "linear", "llama3"}


def has_plain_head(model: nn.Module) -> bool:
    """Whether logits of `model` are its LM head's product with the last states, soft-capped at most."""
    head = model.get_output_embeddings()
    return model.config.get_text_config().model_type in FAMILIES and type(head) is nn.Linear


def unsupported(model: nn.Module) -> str:
    """Why the packed pass and the native engine cannot run `model`, in a few words; empty when they can."""
    config = model.config.get_text_config()
    family = FAMILIES.get(config.model_type)
    if family is None or not family.packed:
        return f"unknown architecture {config.model_type}"
    decoder, embedding = model.get_decoder(), type(model.get_input_embeddings())
    # peft's class for an adapted embedding is named Embedding too.
    plain = embedding is nn.Embedding or embedding.__name__.endswith("TextScaledWordEmbedding")
    if type(model.get_output_embeddings()) is not nn.Linear or not plain:
        return "an adapted or quantized embedding or LM head"
    if getattr(config, "use_bidirectional_attention", False):
        return "bidirectional attention"
    reasons = (_unsupported_layer(layer, family, decoder.rotary_emb) for layer in decoder.layers)
    return next(filter(None, reasons), "")


def _unsupported_layer(layer: nn.Module, family: Family, rotary: nn.Module) -> str:
    attention, mlp = layer.self_attn, layer.mlp
    kind = getattr(attention, "layer_type", None) or ""
    if _children(layer) != {"self_attn", "mlp", *(SANDWICH_NORMS if family.sandwich_norms else NORMS)}:
        return "unknown parts in a layer"
    if (
        _children(attention) - {"q_norm", "k_norm"} != PROJECTIONS
        or _children(mlp) - {"act_fn"} != MLP_PROJECTIONS
    ):
        return "unknown parts in attention or MLP"
    if kind not in {"", "full_attention", "sliding_attention"}:
        return f"unknown attention {kind}"
    projections = [getattr(attention, name) for name in PROJECTIONS]
    projections += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if reason := next(filter(None, map(_unreadable, projections)), ""):
        return reason
    frequencies = rope_frequencies(rotary, kind)
    if frequencies is None or 2 * len(frequencies[0]) != attention.head_dim:
        return "unknown rotary embedding"
    return ""


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _unreadable(module: nn.Module) -> str:
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


def rope_frequencies(rotary: nn.Module, kind: str) -> tuple[Tensor, float] | None:
    """RoPE frequencies [head size / 2] and factor of a layer kind; None if they vary with the length."""
    types = rotary.rope_type
    if isinstance(types, dict):
        if types.get(kind) not in STATIC_ROPE:
            return None
        return getattr(rotary, f"{kind}_inv_freq"), getattr(rotary, f"{kind}_attention_scaling")
    return (rotary.inv_freq, rotary.attention_scaling) if types in STATIC_ROPE else None


def known_models() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Family and shape of the Hub ids whose shapes are known, without their instruction-tuned twins."""
    rows = ((name, kind, shape) for kind, family in FAMILIES.items() for name, shape in family.shapes.items())
    return {name: (kind, shape) for name, kind, shape in sorted(rows)}


class UnknownShape(InputError):
    """A model whose shape this machine does not know: it can be fetched and trained, and not planned."""


def model_config(name: str, revision: str = "") -> PretrainedConfig:
    """The configuration of "nano", a folder, a run, a GGUF file, or a Hub id that is known or cached here.

    Raises `UnknownShape` for another one, and `InputError` for an unsound folder.
    """
    if is_gguf(Path(name)):
        return read_config(Path(name))
    shapes, hub = known_models(), SMOLLM2_HUB if name == SMOLLM2 else name
    base = next((hub.removesuffix(end) for end in _ENDINGS if hub.endswith(end)), hub)
    if name == EMBEDDED or Path(name).is_dir():
        folder: Path | None = resolve(name).folder
    else:
        folder = None if base in shapes else cached(name, revision)
    if folder and (folder / "config.json").is_file():
        values: dict[str, Any] = read_json(folder / "config.json", any_number=True)
        kind = values.pop("model_type", None)
    elif base in shapes:
        kind, shape = shapes[base]
        values = dict(zip(SHAPE_KEYS, shape, strict=True), tie_word_embeddings=True)
    else:
        if not is_hub_id(name):
            resolve(name)  # says what is wrong with a path, as for a run
        advice = f"get it with: hf download {name}, or give a local folder, or one of {', '.join(shapes)}"
        raise UnknownShape(f"{name}: its shape is not known here; {advice}")
    with Foreign(f"{name}: no architecture that the installed transformers knows"):
        return AutoConfig.for_model(kind, **values)


def meta_model(config: PretrainedConfig) -> nn.Module:
    """The model of `config` without storage: every shape is right, nothing is allocated."""
    with torch.device("meta"), Foreign(f"{config.model_type}: no model can be made of this configuration"):
        return AutoModelForCausalLM.from_config(config)


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder that decide its cost; `queries` and `keys` are heads times head size."""

    parameters: int
    block: int  # weights outside embedding and LM head
    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    intermediate: int
    vocabulary: int
    materializes_attention_scores: bool  # attention keeps its scores, since no fused kernel soft-caps them

    @classmethod
    def of(cls, network: nn.Module) -> Shape:
        """The shape of a model, which may be without storage."""
        config, parameters = network.config.get_text_config(), sum(p.numel() for p in network.parameters())
        ends = {network.get_output_embeddings().weight, network.get_input_embeddings().weight}
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            parameters=parameters,
            block=parameters - sum(weight.numel() for weight in ends),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            queries=heads * size,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            vocabulary=config.vocab_size,
            materializes_attention_scores=bool(getattr(config, "attn_logit_softcapping", None)),
        )
