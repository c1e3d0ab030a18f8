"""A random Gemma with the embedded tokenizer, in a folder as transformers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def small_gemma(folder: Path, seed: int, eos: float = 1.0, **changed: Any) -> Path:
    """60,000 weights drawn from `seed`, or as many as `changed` entries of its configuration say.

    The embedding of the end of text is multiplied by `eos`: at 3 about half of the completions end before
    their limit, at 5 most of them, after 3 to 30 tokens.
    """
    import torch
    from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM

    from reckoner.models.sources import verified_embedded

    tokenizer = AutoTokenizer.from_pretrained(verified_embedded())
    torch.manual_seed(seed)
    small = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.2,
    }
    model = GemmaForCausalLM(GemmaConfig(**(small | changed)))
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.eos_token_id] *= eos
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
