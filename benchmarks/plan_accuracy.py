"""Rates for `reckon plan`, and whether a plan tells the truth: predicted against measured, for 0.5M to 16M
parameters.

    python -m benchmarks.plan_accuracy --out benchmarks/results/plan.json          all, or --sizes 1M 4M
    python -m benchmarks.plan_accuracy --out benchmarks/results/plan.json --rates  writes presets/rates.json

Random Gemmas of the embedded model's form train on embedded problems with the engine's own functions (full
weights, LoRA, and LoRA with dropout, which takes the model's own modules; batch 32) and generate (128 prompts
x 32 tokens). Each case runs in a process of its own, on one thread, so that its peak is its own and its CPU
time is its wall time on a machine that is not shared. The plan gets the lengths that were really drawn. Its
rates are those of the other sizes (each size is left out of what predicts it), or those that `--measure`
takes in the same process. The rates of a GPU come from h200.json, those of a CPU on
135M parameters, in float32 and bfloat16, from real.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.small_gemma import small_gemma

SIZES = {
    "0.5M": (96, 3, 3, 384),
    "1M": (128, 4, 4, 512),
    "2M": (160, 5, 5, 640),
    "4M": (224, 5, 7, 896),
    "8M": (288, 6, 9, 1152),
    "16M": (384, 7, 12, 1536),
}
"""Hidden size, layers, heads of 32, MLP width."""
CASES = ("full", "lora", "dropout", "generate")
BATCH, PROMPTS, DRAWN = 32, 128, 32
RESULTS = Path(__file__).parent / "results" / "plan.json"


def make_model(size: str, folder: str) -> None:
    """A random Gemma of this size with the embedded tokenizer, as a model folder."""
    hidden, layers, heads, inner = SIZES[size]
    small_gemma(
        Path(folder),
        seed=0,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        head_dim=32,
        max_position_embeddings=2048,
        initializer_range=0.02,
    )


def case_config(case: str, folder: str) -> Any:
    """The configuration of a case with the model of `folder`: one core, and one pass for each step."""
    from reckoner.config import load_config

    settings = [
        f"model.model_name_or_path={folder}",
        "data.max_train_samples=4096",
        f"train.per_device_train_batch_size={BATCH}",
        "train.gradient_accumulation_steps=1",
        "prompt.chat_template=off",
        "run.threads=1",
        "model.device=cpu",
        "eval.dev_samples=1",
    ]
    adapted = {"lora": ["peft.method=lora"], "dropout": ["peft.method=lora", "peft.lora_dropout=0.05"]}
    return load_config("", (), [*settings, *adapted.get(case, [])])


def run_case(size: str, case: str) -> dict[str, Any]:
    """Measure one case in this process and predict it; seconds are CPU seconds of one thread."""
    import torch

    from reckoner.devices import device, measure

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_model(size, folder)
        config = case_config(case, folder)
        # Before the case, as `reckon plan --measure` does: the allocator of a process that has trained asks
        # for no pages.
        parameters = network_of(size, "full")[1]
        devices = {"stored": device(config, parameters)[0], "measured": measure(config)}
        if RESULTS.is_file():
            known = json.loads(RESULTS.read_text())["cases"]
            devices["stored"] = replace(devices["stored"], rates=core_rates(known, left_out=size))
        count = 3 if case == "dropout" else 100
        found = generate_case(config) if case == "generate" else train_case(config, count)
        predictions = {
            f"predicted_{name}": predict(config, case, found, one) for name, one in devices.items()
        }
        return {**found, **predictions}


def train_case(config: Any, count: int, least: float = 20.0) -> dict[str, Any]:
    """At least `count` steps of SFT and `least` seconds, after one to warm up: seconds and lengths of the
    median step, peak of the process.

    A plan is of a run, in which a hundred batches have met most of the shapes that the engine's products are
    prepared for.
    """
    from reckoner.algorithms import sft
    from reckoner.engine.optim import apply_step, make_optimizer
    from reckoner.evaluation.evaluate import encode, load_problems, make_prompt
    from reckoner.machine import peak_memory_bytes
    from reckoner.models.policy import load_policy
    from reckoner.training.schedule import Schedule

    policy = load_policy(config.model, config.peft, train=True)
    examples = encode(policy, make_prompt(config, policy), load_problems(config, "train"))
    optimizer = make_optimizer(policy.model.named_parameters())
    schedule, seconds, drawn = Schedule.of(config, len(examples), rollouts=False), [], []
    for step in range(1, schedule.per_epoch + 1):
        batch = sft.step_examples(examples, schedule, 0, step)
        started = time.process_time()
        sft.accumulate_gradient(policy, batch, BATCH)
        apply_step(optimizer, policy.model.parameters(), 1e-4, 1.0)
        seconds.append(time.process_time() - started)
        drawn.append(batch)
        if len(seconds) > count and sum(seconds[1:]) > least:
            break
    tokens = [sum(map(len, batch)) for batch in drawn]
    rates = [second / count for second, count in zip(seconds[1:], tokens[1:], strict=True)]
    mean = statistics.mean(tokens)
    completion = statistics.mean(len(e.completion_ids) for batch in drawn for e in batch)
    longest = max(max(map(len, batch)) for batch in drawn)
    return {
        "seconds": statistics.median(rates) * mean,
        "peak_bytes": peak_memory_bytes(),
        "length": mean / BATCH,
        "completion": completion,
        "longest": longest,
        "largest": max(tokens),
    }


def generate_case(config: Any) -> dict[str, Any]:
    """Greedy completions of a random model, which never ends one by itself: the second of two laps."""
    from reckoner.engine.generate import generate
    from reckoner.evaluation.evaluate import load_problems, make_prompt
    from reckoner.evaluation.sample import greedy
    from reckoner.machine import peak_memory_bytes
    from reckoner.models.policy import load_policy

    policy = load_policy(config.model, config.peft, train=False)
    prompt = make_prompt(config, policy)
    prompts = [
        policy.encode_prompt(prompt.render(problem.question))
        for problem in load_problems(config, "train")[:PROMPTS]
    ]
    for _ in range(2):
        started = time.process_time()
        samples = generate(policy, prompts, greedy(policy, prompt, DRAWN), PROMPTS)
        seconds = time.process_time() - started
    drawn = statistics.mean(len(sample.ids) for (sample,) in samples)
    mean = statistics.mean(map(len, prompts))
    return {
        "seconds": seconds,
        "peak_bytes": peak_memory_bytes(),
        "length": mean + drawn,
        "completion": drawn,
        "longest": max(map(len, prompts)) + DRAWN,
    }


WORKS = {"full": "train", "lora": "lora", "dropout": "modules", "generate": "generate"}
"""The name of each case among a device's rates."""


def flops(network: Any, case: str, found: dict[str, Any]) -> float:
    """Operations of the measured work, as a plan counts them."""
    from reckoner.engine.cost import forward_flops, training_flops

    if case == "generate":
        return forward_flops(network, PROMPTS * found["length"], PROMPTS * found["completion"])
    return training_flops(network, BATCH * found["length"], BATCH * found["completion"])


def network_of(size: str, case: str) -> tuple[Any, int]:
    """The model of a case without storage, and its parameters before an adapter."""
    from transformers import GemmaConfig

    from reckoner.config import PeftConfig
    from reckoner.models.adapters import add_lora
    from reckoner.models.families import meta_model

    hidden, layers, heads, inner = SIZES[size]
    shape = {"num_key_value_heads": 1, "head_dim": 32, "vocab_size": 1024}
    network = meta_model(
        GemmaConfig(
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            **shape,
        )
    )
    parameters = sum(p.numel() for p in network.parameters())
    adapted = case in ("lora", "dropout")
    return (add_lora(network, PeftConfig(method="lora"), "random") if adapted else network), parameters


def core_rates(cases: dict[str, Any], left_out: str = "") -> dict[str, list[list[float]]]:
    """Operations a second of one core by kind of work, each with the parameters of the model that it was
    measured on."""
    rates: dict[str, list[list[float]]] = {work: [] for work in WORKS.values()}
    for name, found in cases.items():
        size, case = name.split()
        if size != left_out:
            network, parameters = network_of(size, case)
            rates[WORKS[case]].append([parameters, round(flops(network, case, found) / found["seconds"], -8)])
    return rates


def gpu_rates(stored: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Operations a second of an H200 on Gemma-2B, from h200.json."""
    parameters, each = 2_506_172_416, stored["rollouts"]
    train, lora = (stored[kind]["16384"] for kind in ("sft", "lora"))
    rates = {
        "train": train["rate"] * train["flops_per_sample"],
        "lora": lora["rate"] * lora["flops_per_sample"],
        "generate": each["rate"] * each["flops_per_token"],
    }
    return {work: [[parameters, round(rate, -10)]] for work, rate in rates.items()}


SMOLLM2, LORA = 134_515_008, 0.96
"""Parameters of SmolLM2-135M, and the rate of its LoRA over that of full SFT: 418 and 306 tokens a second of
processor time in bfloat16 (NOTES.md), at 0.706 times the operations a token."""

WIDENED = {"train": 14.0, "lora": 14.0, "modules": 14.0, "generate": 6.3}
"""Times longer in bfloat16 than in float32 on a CPU without its instructions: one core with AVX2, shapes of
SmolLM2's MLP (NOTES.md). Training takes the two products of the gradient too."""


def real_rates(stored: dict[str, Any], dtype: str) -> dict[str, list[list[float]]]:
    """Operations a second of one core on SmolLM2-135M in `dtype`, from real.json.

    What the prompts of `decode` took is not counted, so that its rate is a little low. The modules were
    measured in bfloat16 alone: in float32 they get the ratio of the packed pass.
    """
    ours, floors = f"ours, {dtype}", stored["floors"]
    packed = {name: stored["sft"]["arms"][f"ours, {name}"]["rate"] for name in ("bfloat16", "float32")}
    trainer = stored["sft"]["arms"]["transformers Trainer, bf16 grouped"]["rate"]
    cores, each = stored["sft"]["machine"]["threads"], floors["training FLOP a token"]
    found = {
        "train": packed[dtype] * each / cores,
        "lora": packed[dtype] * each / cores * LORA,
        "modules": trainer * packed[dtype] / packed["bfloat16"] * each / cores,
        "generate": stored["decode"]["arms"][f"{ours}, batch 64"]["rate"]
        * floors["decoding FLOP a token"]
        / stored["decode"]["machine"]["threads"],
    }
    return {work: [[SMOLLM2, round(rate, -8)]] for work, rate in found.items()}


def write_rates(cases: dict[str, Any], path: Path, h200: Path) -> None:
    """Put what was measured into the file of devices; what it says of them otherwise stays."""
    devices, real = json.loads(path.read_text()), json.loads(h200.with_name("real.json").read_text())
    two = json.loads(h200.with_name("plan_processes.json").read_text())
    small, large = core_rates(cases), real_rates(real, "float32")
    devices["cpu"] = {
        "origin": {
            "rates": "results/plan.json, of one core; the last point, 135M, from results/real.json",
            "bfloat16": "results/real.json, SmolLM2-135M on two cores with AVX512_BF16",
            "derived": "lora at 135M: 0.96 times train (NOTES.md); modules at 135M in float32: those in "
            "bfloat16 times the ratio of train",
            "link": "GB/s that each of two processes sends, results/plan_processes.json",
            "widened": "times longer than float32 without bfloat16 instructions, a core with AVX2 (NOTES.md)",
        },
        "rates": {work: points + large[work] for work, points in small.items()},
        "bfloat16": real_rates(real, "bfloat16"),
        "widened": WIDENED,
        "link": two["link"],
    }
    devices["h200"]["rates"] = gpu_rates(json.loads(h200.read_text()))
    path.write_text(json.dumps(devices, indent=1) + "\n")


def predict(config: Any, case: str, found: dict[str, Any], device: Any) -> dict[str, float]:
    """What a plan says of the same work on `device`: seconds, and peak bytes."""
    from reckoner.models.families import meta_model, model_config
    from reckoner.plan import plan

    lengths = (found["length"], found["completion"])
    if case == "generate":
        network = meta_model(model_config(config.model.model_name_or_path))
        parameters = sum(p.numel() for p in network.parameters())
        seconds = flops(network, case, found) / device.rate("generate", parameters)
        memory = plan(config, "prompt", samples=BATCH, lengths=lengths, measured=device).memory
        return {"seconds": seconds, "peak_bytes": memory.total}
    one = plan(config, samples=BATCH, lengths=lengths, measured=device)
    return {"seconds": one.phases["update"], "peak_bytes": one.memory.total}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=SIZES)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument(
        "--one", nargs=2, metavar=("SIZE", "CASE"), help="measure one case in this process and print it"
    )
    parser.add_argument("--out", type=Path, help="JSON to add the cases to")
    parser.add_argument("--rates", action="store_true", help="write presets/rates.json from what --out holds")
    options = parser.parse_args()
    if options.rates:
        from reckoner import presets

        target = Path(presets.__file__).with_name("rates.json")
        write_rates(json.loads(options.out.read_text())["cases"], target, RESULTS.with_name("h200.json"))
        return
    if options.one:
        print(json.dumps(run_case(*options.one)))
        return
    stored = json.loads(options.out.read_text()) if options.out and options.out.is_file() else {"cases": {}}
    for size in options.sizes:
        for case in options.cases:
            command = [sys.executable, "-m", "benchmarks.plan_accuracy", "--one", size, case]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            found = json.loads(done.stdout)
            stored["cases"][f"{size} {case}"] = found
            for quantity, unit in (("seconds", 1.0), ("peak_bytes", 2**20)):
                ratios = ", ".join(
                    f"{name} {found[f'predicted_{name}'][quantity] / found[quantity]:.2f}"
                    for name in ("stored", "measured")
                )
                print(
                    f"{size:>5} {case:9} {quantity:11} {found[quantity] / unit:9.3f}   predicted over "
                    f"measured: {ratios}",
                    flush=True,
                )
    if options.out:
        import torch

        stored |= {"command": "python -m benchmarks.plan_accuracy", "torch": torch.__version__, "threads": 1}
        options.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
