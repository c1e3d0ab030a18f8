"""A policy that trains in seconds: 20,000 weights, and everything that reinforcement learning has to mend.

    python learn/toy.py                 # writes learn/toy again: the model folder and problems.jsonl

A question is `7 gains 5` or `700 loses 500`, its answer ` #### 12`, ` #### 200`, ` #### 1,200`. The policy
has learnt to calculate, and two bad habits: six times out of ten it adds where it should take away, or the
other way round, and six times out of ten it goes on after the answer with another one. So it begins near one
right answer in eight, and with none where it is greedy. What it lacks is in the reward.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from tinier_zero import Gemma, sft
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

FOLDER = Path(__file__).parent / "toy"
PROBLEMS = FOLDER / "problems.jsonl"
WORDS = [
    "<pad>",
    "<eos>",
    "<bos>",
    "Question:",
    "Answer:",
    "####",
    " ",
    "\n",
    ",",
    *"0123456789",
    "gains",
    "loses",
]
CONFIG = {
    "architectures": ["GemmaForCausalLM"],
    "model_type": "gemma",
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def problems() -> list[dict[str, str]]:
    """Both verbs with every pair of numbers, small and large, shuffled."""
    told = []
    for verb, a, b, unit in itertools.product(("gains", "loses"), range(5, 15), range(1, 6), (1, 100, 1000)):
        gold = f"{(a + b if verb == 'gains' else a - b) * unit:,}"
        told.append({"question": f"{a * unit} {verb} {b * unit}", "solution": f"#### {gold}", "gold": gold})
    return random.Random(0).sample(told, len(told))


def habits(problem: dict[str, str], draw: random.Random) -> dict[str, str]:
    """The problem with a solution as the policy has seen it: mostly the other operation, and another answer
    after the first."""
    a, verb, b = problem["question"].split()
    mistaken = draw.random() < 0.6
    solution = f"#### {int(a) + int(b) if (verb == 'gains') != mistaken else int(a) - int(b):,}"
    return problem | {"solution": solution + f"\n#### {draw.randint(0, 9)}" * (draw.random() < 0.6)}


def write_folder() -> None:
    """The configuration, a tokenizer of whole words and single digits, and random weights."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Za-z]+:?|#+|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(WORDS[:3])
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    PROBLEMS.write_text("".join(json.dumps(problem) + "\n" for problem in problems()))
    torch.manual_seed(0)
    c, layer = CONFIG, {"input_layernorm": (32,), "post_attention_layernorm": (32,)}
    layer |= {
        f"self_attn.{name}_proj": shape
        for name, shape in (("q", (32, 32)), ("k", (16, 32)), ("v", (16, 32)), ("o", (32, 32)))
    }
    layer |= {"mlp.gate_proj": (64, 32), "mlp.up_proj": (64, 32), "mlp.down_proj": (32, 64)}
    shapes = {"embed_tokens": (len(WORDS), 32), "norm": (32,)}
    shapes |= {
        f"layers.{i}.{name}": shape for i in range(c["num_hidden_layers"]) for name, shape in layer.items()
    }
    weights = {
        f"model.{name}.weight": torch.randn(shape) * 0.15 * (len(shape) > 1) for name, shape in shapes.items()
    }
    save_file(weights, FOLDER / "model.safetensors", {"format": "pt"})


def main() -> None:
    write_folder()
    policy, draw = Gemma(FOLDER), random.Random(0)
    seen = [habits(problem, draw) for _ in range(130) for problem in problems()]
    for rate in (3e-3, 1e-3, 3e-4):
        sft(policy, seen, 400, rate)
    save_file(
        {name: w.detach() for name, w in policy.w.items()}, FOLDER / "model.safetensors", {"format": "pt"}
    )


if __name__ == "__main__":
    main()
