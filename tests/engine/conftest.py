"""Small random models of each family and a byte-level tokenizer, built from configs without any download."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 97
SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=1,
    initializer_range=0.15,
)
SHARED_KEYS = dict(  # the last two layers attend to the keys and values of the first two
    num_hidden_layers=4,
    sliding_window=8,
    layer_types=["sliding_attention", "full_attention"] * 2,
    num_kv_shared_layers=2,
    vocab_size_per_layer_input=VOCABULARY,
    hidden_size_per_layer_input=4,
    initializer_range=0.08,  # their norms make more of rounding
    final_logit_softcapping=5.0,
)
CONFIGS = {
    "gemma": GemmaConfig(**{**SIZES, "num_key_value_heads": 1}),
    "gemma2": Gemma2Config(**SIZES, sliding_window=8, final_logit_softcapping=5.0, query_pre_attn_scalar=16),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        sliding_window=8,
        query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES),
    "granite": GraniteConfig(**{k: v for k, v in SIZES.items() if k != "head_dim"}, logits_scaling=3.0),
    "gemma3n": Gemma3nTextConfig(
        **{**SIZES, **SHARED_KEYS},
        altup_num_inputs=2,
        laurel_rank=4,
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
    ),
    "gemma4": Gemma4TextConfig(**{**SIZES, **SHARED_KEYS}, global_head_dim=16),
}


def build(family: str, **changes: object) -> torch.nn.Module:
    """A model of `family` with the same random weights each time, norms included."""
    torch.manual_seed(7)
    config = type(CONFIGS[family])(**{**CONFIGS[family].to_dict(), **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session")
def family_models() -> dict[str, torch.nn.Module]:
    """One model a family. Tests that change weights build their own."""
    return {family: build(family) for family in CONFIGS}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens: 0 pad, 1 eos, 2 bos, then printable ASCII, so that `VOCABULARY` tokens decode to
    text."""
    characters = [chr(code) for code in range(33, 33 + VOCABULARY - 5)]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", "Ġ", "Ċ", *characters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture
def policy_of(tokenizer):
    """Wrap a model in what the engine needs of a policy."""

    def wrap(model: torch.nn.Module) -> SimpleNamespace:
        return SimpleNamespace(
            model=model,
            tokenizer=tokenizer,
            device=torch.device("cpu"),
            dtype=torch.float32,
            autocast=nullcontext,
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        )

    return wrap
