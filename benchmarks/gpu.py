"""How fast we are on one GPU: a model of Gemma-2B's real dimensions with random weights, so that nothing is
downloaded.

    python -m benchmarks.gpu                      all, 10 minutes on an H200; results/gpu.json
    python -m benchmarks.gpu --only sft rollouts  some parts: ceiling, sft, lora, lean, rollouts, ppo, grpo
    python -m benchmarks.gpu --tiny               tiny, on a CPU: a test, not a measurement

Only the engine is imported, so that torch, transformers, peft, accelerate and triton are enough: no trl,
datasets, omegaconf, typer or vllm. Sequences have GSM8K's lengths in Gemma tokens (85 of prompt, 105 of
solution in SFT, 141 in RL). Peak memory is the allocator's; utilisation is useful FLOPs a second over the
best measured matrix product.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from benchmarks.measure import gemm_rate, machine, merge, synchronize, timed
from torch import Tensor, nn

from reckoner.engine.batches import Batch, Example, collate, micro_batches
from reckoner.engine.cost import forward_flops, training_flops
from reckoner.engine.generate import Sampling, generate
from reckoner.engine.logprobs import completion_logprobs, completion_states, cross_entropy
from reckoner.engine.optim import apply_step, make_optimizer

GEMMA_2B = dict(
    hidden_size=2048,
    num_hidden_layers=18,
    num_attention_heads=8,
    num_key_value_heads=1,
    head_dim=256,
    intermediate_size=16384,
    vocab_size=256000,
)
TINY = dict(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=16,
    intermediate_size=128,
    vocab_size=512,
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CLIP = 0.2


@dataclass(frozen=True)
class Setting:
    """Dimensions, device, and how much of everything."""

    shape: dict[str, int]
    device: torch.device
    batch: int  # sequences of an SFT step
    budgets: Sequence[int]  # tokens of a forward pass, padding included
    little: int  # the same where memory counts
    completions: int  # of an RL step, and decoded at once
    prompt: int
    solution: int
    answer: int  # tokens of a completion in RL
    repeat: int

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A new model with random weights."""
        from transformers import AutoModelForCausalLM, GemmaConfig

        torch.manual_seed(0)
        with self.device:
            return AutoModelForCausalLM.from_config(
                GemmaConfig(**self.shape, tie_word_embeddings=True), dtype=dtype, attn_implementation="sdpa"
            )

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16)

    def examples(self, count: int, completion: int, seed: int = 0) -> list[Example]:
        """Random tokens in sequences whose lengths vary by a third around the means, as GSM8K's do."""
        draw = random.Random(seed)

        def ids(mean: int) -> tuple[int, ...]:
            return tuple(
                draw.randrange(3, self.shape["vocab_size"])
                for _ in range(max(1, round(draw.gauss(mean, mean / 3))))
            )

        return [Example(str(i), ids(self.prompt), ids(completion)) for i in range(count)]


def batches(setting: Setting, examples: Sequence[Example], budget: int) -> list[Batch]:
    """Forward passes of at most `budget` tokens."""
    lengths = [len(example) for example in examples]
    return [
        collate([examples[i] for i in part], 0, setting.device)
        for part in micro_batches(range(len(examples)), lengths, budget)
    ]


def medians(setting: Setting, work: Callable[[], float], unit: str) -> dict[str, Any]:
    """Median rate of `repeat` laps after a warm one, and the peak of memory over them."""
    arm = timed(work)
    arm()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    laps = [arm() for _ in range(setting.repeat)]
    rates = [lap.work / lap.seconds for lap in laps]
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    found = {
        "rate": statistics.median(rates),
        "unit": unit,
        "rates": rates,
        "seconds": statistics.median(lap.seconds for lap in laps),
        "peak_gb": peak,
    }
    print(
        f"    {found['rate']:12,.1f} {unit}  {found['seconds']:.3f} s" + (f"  {peak:.1f} GB" if peak else ""),
        flush=True,
    )
    return found


def ceiling(setting: Setting) -> dict[str, Any]:
    """TFLOP/s of bf16 products of the MLP, of the head and of a large square."""
    hidden, inner, words = (
        setting.shape["hidden_size"],
        setting.shape["intermediate_size"],
        setting.shape["vocab_size"],
    )
    shapes = {
        "mlp": (max(setting.budgets), hidden, 2 * inner),
        "head": (max(setting.budgets) // 4, hidden, words),
        "square": (4 * hidden, 4 * hidden, 4 * hidden),
    }
    found = {
        name: gemm_rate(*shape, torch.bfloat16, setting.device.type) / 1e12 for name, shape in shapes.items()
    }
    print("    " + ", ".join(f"{name} {rate:.2f}" for name, rate in found.items()) + " TFLOP/s")
    return found


def sft(setting: Setting) -> dict[str, Any]:
    """Full weights: fp32 masters, bf16 computation."""
    return steps(setting, setting.model().train(), "adamw", setting.budgets)


def lora(setting: Setting) -> dict[str, Any]:
    """LoRA of rank 16 on every projection of bf16 weights, itself in fp32."""
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM")
    return steps(
        setting, get_peft_model(setting.model(torch.bfloat16), adapter).train(), "adamw", setting.budgets
    )


def lean(setting: Setting) -> dict[str, Any]:
    """Full weights in as little memory as we can: bf16 rounded stochastically, moments in 8 bits
    (bitsandbytes), activations recomputed."""
    if find_spec("bitsandbytes") is None:
        print("    left out: bitsandbytes is not installed")
        return {}
    model = setting.model(torch.bfloat16).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return steps(setting, model, "adamw_8bit", [setting.little])


def steps(setting: Setting, model: nn.Module, optimizer_name: str, budgets: Sequence[int]) -> dict[str, Any]:
    """Optimizer steps of SFT at several sizes of a forward pass; those that do not fit are left out."""
    optimizer = make_optimizer(model.named_parameters(), optimizer_name)
    examples = setting.examples(setting.batch, setting.solution)
    tokens, supervised = sum(map(len, examples)), sum(len(example.completion_ids) for example in examples)
    flops, found = training_flops(model, tokens, supervised) / len(examples), {}
    for budget in budgets:
        parts = batches(setting, examples, budget)

        def step(parts: list[Batch] = parts) -> float:
            for batch in parts:
                with setting.autocast():
                    loss, _ = cross_entropy(model, batch)
                (loss / supervised).backward()
            apply_step(optimizer, model.parameters(), 1e-6, 1.0)
            return len(examples)

        print(f"  {budget} tokens a pass")
        try:
            found[str(budget)] = {**medians(setting, step, "samples/s"), "flops_per_sample": flops}
        except torch.OutOfMemoryError:
            print("    does not fit into this GPU's memory")
            optimizer.zero_grad(set_to_none=True)
    return found


def rollouts(setting: Setting) -> dict[str, Any]:
    """Sampling at temperature 1 with log-probs: `completions` at once, 8 of each prompt, all of full
    length."""
    policy = as_policy(setting, setting.model(torch.bfloat16).eval(), torch.bfloat16)
    prompts = [example.prompt_ids for example in setting.examples(setting.completions // 8, 1)]

    def run() -> float:
        drawn = generate(
            policy, prompts, Sampling(setting.answer, 1.0, num_samples=8), setting.completions, "native"
        )
        return sum(len(sample.ids) for row in drawn for sample in row)

    return medians(setting, run, "tokens/s") | {"flops_per_token": forward_flops(policy.model, 1, 1)}


def as_policy(setting: Setting, model: nn.Module, dtype: torch.dtype) -> SimpleNamespace:
    """What `generate` needs to know of a policy; without stop strings there is nothing to decode."""
    return SimpleNamespace(
        model=model,
        tokenizer=None,
        decode=None,
        device=setting.device,
        dtype=dtype,
        autocast=setting.autocast,
    )


def reinforce(setting: Setting, critic: bool, updates: int) -> dict[str, Any]:
    """A whole step: draw, value (with a critic of the policy's size), and `updates` clipped updates of policy
    and critic.

    Rewards are random and advantages plain: the work is that of `algorithms`, whose equations are tested
    there.
    """
    model = setting.model().eval()
    policy, optimizer = as_policy(setting, model, torch.bfloat16), make_optimizer(model.named_parameters())
    trunk = setting.model().eval() if critic else None
    judge = nn.Linear(setting.shape["hidden_size"], 1, device=setting.device)
    learners = [*trunk.named_parameters(), *judge.named_parameters()] if trunk else []
    slow = make_optimizer(learners) if learners else None
    prompts = [example.prompt_ids for example in setting.examples(setting.completions // 8, 1)]
    budget = setting.budgets[1]

    def values(batch: Batch) -> Tensor:
        with setting.autocast():
            states = completion_states(trunk, batch)
        return judge(states.float())[:, 0]

    def step() -> float:
        drawn = generate(
            policy, prompts, Sampling(setting.answer, 1.0, num_samples=8), setting.completions, "native"
        )
        examples = [
            Example("", tuple(prompt), sample.ids)
            for prompt, row in zip(prompts, drawn, strict=True)
            for sample in row
        ]
        old = [torch.tensor(sample.logprobs, device=setting.device) for row in drawn for sample in row]
        if trunk:
            with torch.no_grad():
                [values(batch) for batch in batches(setting, examples, budget)]
        for update in range(updates):
            mine = range(update, len(examples), updates)
            for part in micro_batches(mine, [len(example) for example in examples], budget):
                batch = collate([examples[i] for i in part], 0, setting.device)
                with setting.autocast():
                    logprobs = completion_logprobs(model, batch).logprobs
                ratio = (logprobs - torch.cat([old[i] for i in part])).exp()
                advantages = torch.randn(len(part), device=setting.device)[batch.rows]
                loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
                loss.mean().backward()
                if trunk:
                    values(batch).square().mean().backward()
            apply_step(optimizer, model.parameters(), 1e-6, 1.0)
            if slow:
                apply_step(slow, [parameter for _, parameter in learners], 1e-5, 1.0)
        return len(examples)

    return medians(setting, step, "completions/s")


PARTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "ceiling": ceiling,
    "sft": sft,
    "lora": lora,
    "lean": lean,
    "rollouts": rollouts,
    "ppo": partial(reinforce, critic=True, updates=4),
    "grpo": partial(reinforce, critic=False, updates=2),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure what was asked for and store it; returns all that is stored."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--tiny", action="store_true", help="tiny dimensions on the CPU")
    parser.add_argument(
        "--name", default="", help="results/NAME.json; default gpu, or nothing is stored with --tiny"
    )
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args(arguments)
    if options.tiny:
        setting = Setting(TINY, torch.device("cpu"), 8, (256, 512), 128, 16, 8, 10, 12, options.repeat)
    elif torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
        setting = Setting(
            GEMMA_2B, torch.device("cuda"), 256, (8192, 16384, 32768), 4096, 512, 85, 105, 141, options.repeat
        )
    else:
        raise SystemExit("torch sees no GPU here; --tiny runs the same code on the CPU with tiny dimensions")
    stored = options.name or ("" if options.tiny else "gpu")
    found: dict[str, Any] = {}
    for name in options.only:
        print(f"{name}", flush=True)
        part = {name: {"machine": machine(), **PARTS[name](setting)}}
        found = merge(stored, part) if stored else found | part
        gc.collect()
        synchronize()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


if __name__ == "__main__":
    main()
