"""How the cost of training and of drawing grows: with model size, sequence length, completions of a prompt,
and data.

    python -m benchmarks.scaling  about 4 minutes on 2 cores; results/scaling.json, docs/figures/scaling-*.svg
    python -m benchmarks.scaling --only completions

Everything is timed on Gemma models of the embedded one's vocabulary with random weights and tokens, 0.5 to 16
million parameters. Ideal lines are costs in proportion; what lies below them at the small end is overhead
that does not shrink with the work.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from benchmarks.figures import scaling_picture
from benchmarks.measure import alternate, machine, merge, timed
from torch import nn
from transformers import AutoModelForCausalLM, GemmaConfig

from reckoner.engine.batches import Example, collate
from reckoner.engine.generate import Sampling, generate
from reckoner.engine.logprobs import cross_entropy
from reckoner.engine.optim import apply_step, make_optimizer

VOCABULARY = 1024
SHAPES = ((96, 3), (128, 4), (192, 5), (256, 6), (384, 7), (512, 7))
"""Hidden size and layers: 0.5 to 16 million parameters, the second the embedded model's."""

Costs = dict[float, float]
"""Size -> milliseconds."""


def model(hidden: int, layers: int) -> nn.Module:
    """A Gemma model with heads of 32 and an MLP four times as wide as it."""
    torch.manual_seed(0)
    sizes = dict(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_attention_heads=hidden // 32,
        num_key_value_heads=1,
        head_dim=32,
    )
    config = GemmaConfig(
        **sizes, num_hidden_layers=layers, vocab_size=VOCABULARY, max_position_embeddings=2048
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)


def examples(count: int, length: int) -> list[Example]:
    """Random tokens, the first 40 % of each sequence its prompt."""
    draw = random.Random(0)
    rows = ([draw.randrange(3, VOCABULARY) for _ in range(length)] for _ in range(count))
    cut = max(1, round(0.4 * length))
    return [Example("", tuple(row[:cut]), tuple(row[cut:])) for row in rows]


def training(network: nn.Module, rows: Sequence[Example], batch: int = 16) -> Callable[[], float]:
    """One pass of SFT over `rows`."""
    optimizer = make_optimizer(network.train().named_parameters())

    def run() -> float:
        for at in range(0, len(rows), batch):
            loss, _ = cross_entropy(network, collate(rows[at : at + batch], 0))
            loss.backward()
            apply_step(optimizer, network.parameters(), 1e-5, 1.0)
        return 1.0

    return run


def drawing(network: nn.Module, prompts: int, samples: int, limit: int = 48) -> Callable[[], float]:
    """`samples` completions of `limit` tokens after each of `prompts` prompts of 64."""
    policy = SimpleNamespace(
        model=network,
        tokenizer=None,
        decode=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
        autocast=nullcontext,
    )
    asked = [row.prompt_ids for row in examples(prompts, 160)]

    def run() -> float:
        generate(policy, asked, Sampling(limit, 1.0, num_samples=samples), engine="native")
        return 1.0

    return run


def measure(runs: Mapping[float, Callable[[], float]], repeat: int) -> Costs:
    """Median milliseconds of each run, the runs in turn."""
    found = alternate({f"{size:,.0f}": timed(run) for size, run in runs.items()}, repeat, "runs/s")
    return {size: 1000 * row["seconds"] for size, row in zip(runs, found.values(), strict=True)}


def by_parameters(repeat: int) -> dict[str, Costs]:
    """Training on 2,048 tokens, and drawing 64 x 48 tokens, by models of six sizes."""
    sizes = {
        float(sum(p.numel() for p in network.parameters())): network
        for network in (model(*shape) for shape in SHAPES)
    }
    trained = measure({size: training(network, examples(16, 128)) for size, network in sizes.items()}, repeat)
    return {
        "training step": trained,
        "drawing": measure({size: drawing(network, 8, 8) for size, network in sizes.items()}, repeat),
    }


def by_length(repeat: int) -> dict[str, Costs]:
    """Training on 4,096 tokens cut into sequences of 32 to 1,024: what grows is attention."""
    network = model(*SHAPES[1])
    return {
        "training, 4,096 tokens": measure(
            {
                float(n): training(network, examples(4096 // n, n), 4096 // n)
                for n in (32, 64, 128, 256, 512, 1024)
            },
            repeat,
        )
    }


def by_completions(repeat: int) -> dict[str, Costs]:
    """Drawing 1 to 64 completions of each of 8 prompts, and 8 of 1 to 64 prompts: a prompt is computed once
    for all of its own."""
    network, counts = model(*SHAPES[1]), (1, 2, 4, 8, 16, 32, 64)
    many = measure({float(8 * n): drawing(network, 8, n) for n in counts}, repeat)
    return {
        "more completions of 8 prompts": many,
        "more prompts, 8 of each": measure({float(8 * n): drawing(network, n, 8) for n in counts}, repeat),
    }


def by_data(repeat: int) -> dict[str, Costs]:
    """One epoch of SFT over 16 to 512 problems."""
    network = model(*SHAPES[1])
    return {
        "an epoch of SFT": measure(
            {float(n): training(network, examples(n, 128)) for n in (16, 32, 64, 128, 256, 512)}, repeat
        )
    }


PARTS: dict[str, tuple[Callable[[int], dict[str, Costs]], str]] = {
    "parameters": (by_parameters, "parameters"),
    "length": (by_length, "tokens of a sequence"),
    "completions": (by_completions, "completions"),
    "data": (by_data, "problems"),
}


def main() -> None:
    """Measure, store, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.only:
        part, axis = PARTS[name]
        print(f"{name}: {part.__doc__}", flush=True)
        costs = part(options.repeat)
        merge("scaling", {name: {"machine": machine(), "load": os.getloadavg()[0], "milliseconds": costs}})
        scaling_picture(
            f"scaling-{name}",
            f"Cost against {axis}",
            {label: list(found.items()) for label, found in costs.items()},
            axis,
            "milliseconds",
        )


if __name__ == "__main__":
    main()
