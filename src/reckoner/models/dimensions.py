"""The shapes of models, so that a plan needs neither weights nor network.

Those of models that a study is likely to name are in `families`. A local folder is read instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from reckoner.errors import InputError
from reckoner.models.families import FAMILIES, SHAPE_KEYS
from reckoner.models.foreign import Foreign
from reckoner.models.gguf import read_config
from reckoner.models.sources import EMBEDDED, SMOLLM2, SMOLLM2_HUB, is_gguf, resolve
from reckoner.runs.records import read_json

_ENDINGS = ("-it", "-pt", "-Instruct")


def known_models() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Family and shape of the Hub ids whose shapes are known, without their instruction-tuned twins."""
    rows = ((name, kind, shape) for kind, family in FAMILIES.items() for name, shape in family.shapes.items())
    return {name: (kind, shape) for name, kind, shape in sorted(rows)}


def model_config(name: str) -> PretrainedConfig:
    """The configuration of "nano", a folder, a run, a GGUF file or a known Hub id; else `InputError`."""
    if is_gguf(Path(name)):
        return read_config(Path(name))
    if name == EMBEDDED or Path(name).is_dir():
        path = resolve(name).folder / "config.json"
        values: dict[str, Any] = read_json(path, any_number=True)
        kind = values.pop("model_type", None)
    else:
        hub = SMOLLM2_HUB if name == SMOLLM2 else name
        base = next((hub.removesuffix(end) for end in _ENDINGS if hub.endswith(end)), hub)
        if base not in (shapes := known_models()):
            advice = f"give a local folder, or one of {', '.join(shapes)}"
            raise InputError(f"{name}: its shape is not known here; {advice}")
        kind, shape = shapes[base]
        values = dict(zip(SHAPE_KEYS, shape, strict=True), tie_word_embeddings=True)
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
    head: int  # weights of the LM head, tied or not
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
        config, head = network.config.get_text_config(), network.get_output_embeddings().weight
        ends = {
            id(head): head.numel(),
            id(network.get_input_embeddings().weight): network.get_input_embeddings().weight.numel(),
        }
        parameters = sum(p.numel() for p in network.parameters())
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            parameters=parameters,
            block=parameters - sum(ends.values()),
            head=head.numel(),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            queries=heads * size,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            vocabulary=config.vocab_size,
            materializes_attention_scores=bool(getattr(config, "attn_logit_softcapping", None)),
        )

    @property
    def projected_in(self) -> int:
        """Widths of the inputs of a layer's seven projections, added up."""
        return 5 * self.hidden + self.queries + self.intermediate

    @property
    def projected_out(self) -> int:
        """Widths of their outputs, added up."""
        return 2 * self.hidden + self.queries + 2 * self.keys + 2 * self.intermediate

    @property
    def kept_keys(self) -> int:
        """Numbers that a token leaves in the cache of keys and values."""
        return 2 * self.layers * self.keys
