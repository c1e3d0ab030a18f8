"""Every model family of transformers that a study may name, as a random model of a few thousand weights.

Each goes through SFT, resumption, GRPO of an adapter, merging and evaluation; a run says what computes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from reckoner.algorithms import grpo, sft
from reckoner.config import Config, load_config
from reckoner.evaluation.evaluate import evaluate_model
from reckoner.models.families import FAMILIES
from reckoner.models.merge import merge
from reckoner.models.policy import quiet

from .invariants import coin
from .resuming import Killed, kill_after, metrics

SIZES = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=256,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=2,
    initializer_range=0.2,
    vocab_size=99,
)
HEADS = dict(SIZES, head_dim=8)
SLIDING = dict(HEADS, sliding_window=8, query_pre_attn_scalar=8, final_logit_softcapping=5.0)
SHARED = dict(  # the last two of four layers read the keys and values of the first two
    HEADS,
    num_hidden_layers=4,
    sliding_window=8,
    layer_types=["sliding_attention", "full_attention"] * 2,
    num_kv_shared_layers=2,
    vocab_size_per_layer_input=99,
    hidden_size_per_layer_input=4,
    final_logit_softcapping=5.0,
)
GEMMA3N = dict(altup_num_inputs=2, laurel_rank=4, activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0])
VISION = dict(
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    image_size=8,
    patch_size=4,
    model_type="siglip_vision_model",
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=5e5,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm2": ("llama", dict(SIZES, tie_word_embeddings=True, pad_token_id=1)),  # the padding is the EOS
    "smollm3": ("smollm3", dict(SIZES, no_rope_layers=[1, 0])),
    "llama3.2": ("llama", dict(HEADS, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE)),
    "qwen2.5": ("qwen2", dict(SIZES, tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(HEADS, tie_word_embeddings=True)),
    "gemma": ("gemma", HEADS),
    "gemma2": ("gemma2", dict(SLIDING, attn_logit_softcapping=5.0)),
    "gemma3": ("gemma3_text", SLIDING),
    "gemma3-nested": (
        "gemma3",
        {"text_config": SLIDING, "vision_config": VISION, "mm_tokens_per_image": 4, "eos_token_id": 1},
    ),
    "gemma3n": ("gemma3n_text", SHARED | GEMMA3N),
    "gemma4": ("gemma4_text", dict(SHARED, global_head_dim=16)),
    "gemma4-nested": (
        "gemma4",
        {"text_config": dict(SHARED, global_head_dim=16), "vision_config": None, "audio_config": None},
    ),
    "phi4-mini": ("phi3", dict(SIZES, tie_word_embeddings=True)),
    "mistral": ("mistral", dict(HEADS, sliding_window=None)),
    "olmo2": ("olmo2", SIZES),
    "granite": ("granite", dict(SIZES, logits_scaling=3.0, embedding_multiplier=2.0)),
}
"""DeepSeek-R1-Distill is Llama or Qwen 2."""
PROJECTIONS = {"phi4-mini": "[qkv_proj,o_proj,gate_up_proj,down_proj]"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, numbers in {"train": range(18), "test": range(20, 22)}.items():
        rows = ({"question": f"{n}+1?", "answer": f"{n + 1}\n#### {n + 1}"} for n in numbers)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def base_of(tmp_path_factory, tiny):
    """The folder of a family: its random model, and a tokenizer of characters."""

    def make(name: str) -> Path:
        kind, values = KINDS[name]
        folder = tmp_path_factory.mktemp(name) / "base"
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
        with quiet():
            model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        tokenizer.pad_token_id = values.get("pad_token_id", 0)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def config_of(data, tmp_path):
    def make(model: Path, run: str, *settings: str) -> Config:
        small = [
            f"data.path={data}",
            f"data.test_path={data}/test.jsonl",
            "data.dev_size=2",
            "train.per_device_train_batch_size=4",
            "train.gradient_accumulation_steps=1",
            "train.learning_rate=0.01",
            "train.lr_scheduler_type=constant",
            "run.save_steps=1",
            "model.device=cpu",
        ]
        places = [f"model.model_name_or_path={model}", f"run.output_dir={tmp_path / run}"]
        return load_config("", [], [*places, *small, *settings])

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_family_learns_resumes_merges_and_is_evaluated(base_of, config_of, tmp_path, name):
    base = base_of(name)
    targets = f"peft.lora_target_modules={PROJECTIONS.get(name, '[q_proj,o_proj,down_proj]')}"
    said: list[str] = []

    def listen(phase: str, done: int, total: int, note: str) -> None:
        said.extend([note] if phase == "backend" else [])

    summary = sft.train(config_of(base, "whole"), listen)
    with pytest.raises(Killed):
        sft.train(config_of(base, "cut"), kill_after(1))
    sft.train(config_of(base, "cut"))
    whole, cut = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[key]) for key, tensor in whole.items())
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    assert summary["training"]["steps"] == 2
    assert summary["training"]["dev_loss_final"] < summary["training"]["dev_loss_first"]
    assert said == [json.loads((tmp_path / "whole" / "environment.json").read_text())["backend"]]
    kind = AutoConfig.from_pretrained(base).get_text_config().model_type
    fast = kind in FAMILIES and FAMILIES[kind].packed
    assert said[0].startswith(
        "training: packed pass · sampling: native KV engine"
        if fast
        else f"training: the model's own modules (slower: unknown architecture {kind})"
    )

    rollout = [
        "rollout.num_prompts=2",
        "rollout.num_generations=2",
        "rollout.max_steps=1",
        "rollout.patience=0",
    ]
    grpo.train(config_of(tmp_path / "whole", "lora", "peft.method=lora", targets, *rollout), reward_fn=coin)
    assert "greedy text is the same" in merge(tmp_path / "lora", tmp_path / "merged")
    texts = []
    for model in ("lora", "merged"):
        folder, entry = evaluate_model(config_of(tmp_path / model, f"eval-{model}", "eval.split=test"))
        lines = (folder / entry["predictions"]).read_text().splitlines()
        texts.append([json.loads(line)["text"] for line in lines])
    assert texts[0] == texts[1] and len(texts[0]) == 2
