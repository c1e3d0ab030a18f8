"""How fast we are on this machine's cores, against the peers on the same work and against the machine's own
limit.

    make bench                    everything, about 18 minutes; the peers go into an environment of their own
    make bench ARGS="--only sft"  one part: ceiling, sft, rollouts, grpo, evaluation or start-up

Arms take turns, medians of `--repeat` laps are compared, and SFT is timed only after the first 20 losses of
all trainers agree to 1e-3. A part that is measured again replaces its old figures in results/cpu.json. Peers
run at the best of several settings, each stored, and at their defaults. Where trl is not installed, the parts
that need it say so and are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from benchmarks.figures import goals_picture, table
from benchmarks.measure import alternate, apart, bf16_pays, gemm_rate, machine, merge

from benchmarks import grpo_steps, rollouts, trainers
from reckoner.algorithms import sft
from reckoner.config import ModelConfig, PeftConfig, load_config
from reckoner.engine.cost import forward_flops, training_flops
from reckoner.engine.generate import Sampling
from reckoner.engine.ops.dispatch import product
from reckoner.models.policy import load_policy

Part = Callable[[argparse.Namespace], dict[str, Any]]
LIMIT = 150
"""Most tokens of a completion; the longest embedded solution has fewer."""


def ceiling(options: argparse.Namespace) -> dict[str, Any]:
    """GFLOP/s of matrix products alone: those of an SFT step (2,048 tokens) and of a decoding step (256
    rows), and one large square.

    In fp32 by torch's own choice of a library, and by the faster of it and oneDNN, which is the ceiling that
    we are held to.
    """
    config = load_policy(ModelConfig(), PeftConfig(), train=False).model.config
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = {
        "sft, gate and up": (2048, hidden, 2 * inner),
        "sft, down": (2048, inner, hidden),
        "sft, attention out": (2048, hidden, hidden),
        "decoding, gate and up": (256, hidden, 2 * inner),
        "decoding, down": (256, inner, hidden),
        "square 1024": (1024, 1024, 1024),
    }
    found: dict[str, Any] = {}
    for name, shape in shapes.items():
        own, ours = (
            gemm_rate(*shape, torch.float32, linear=way) / 1e9
            for way in (torch.nn.functional.linear, product)
        )
        found[name] = {
            "float32": max(own, ours),
            "float32, torch's own": own,
            "bfloat16": gemm_rate(*shape, torch.bfloat16) / 1e9,
        }
        print(
            f"  {name:24}"
            + "".join(f"  {kind} {rate:4.0f}" for kind, rate in found[name].items())
            + " GFLOP/s"
        )
    return found


def supervised(options: argparse.Namespace) -> dict[str, Any]:
    """Training on 640 problems; LoRA only by us, against our full fine-tuning."""
    task = trainers.Task.of("nano", 2 * options.problems)
    policy = load_policy(ModelConfig(), PeftConfig(), train=True)
    found: dict[str, Any] = {"examples": len(task.examples), "tokens": task.tokens}
    found["flops_per_token"] = training_flops(policy.model, task.tokens, task.supervised) / task.tokens
    arms = {
        "ours": apart(trainers.ours, task),
        "ours, batch 32": apart(trainers.ours, task, "none", 32),
        "ours, LoRA": apart(trainers.ours, task, "lora"),
    }
    found |= {"peers in": "bfloat16" if bf16_pays() else "float32", "tried": {}}
    if has_trl():
        found["loss_gaps"] = trainers.check_losses(task)
        peers = {
            name: apart(trainers.trl_arm, task, chosen)
            for name, chosen in trainers.worth_trying(trainers.TRL).items()
        }
        laps = {name: peer()[0] for name, peer in peers.items()}
        found["tried"] = {name: lap.work / lap.seconds for name, lap in laps.items()}
        best = max(found["tried"], key=found["tried"].get)
        for name in {best, "trl defaults"}:
            arms[name] = lambda name=name: peers[name]()[0]
    original = apart(trainers.original_arm, task, {})
    arms["original recipe"] = lambda: original()[0]
    return found | {"arms": alternate(arms, options.repeat, "tokens/s")}


def sampled(options: argparse.Namespace) -> dict[str, Any]:
    """128 prompts x 8 completions at temperature 1 from a model that was fine-tuned, as RL draws them."""
    policy = load_policy(ModelConfig(model_name_or_path=str(tuned())), PeftConfig(), train=False)
    prompts = rollouts.test_prompts(policy, max(1, options.problems // 5 * 2))
    sampling = Sampling(LIMIT, 1.0, num_samples=8, stop_ids=policy.stop_ids)
    return {"prompts": len(prompts), **generation(policy, prompts, sampling, [64, 256, 512], options.repeat)}


def evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """Greedy decoding of all 1,319 test problems by the same model."""
    policy = load_policy(ModelConfig(model_name_or_path=str(tuned())), PeftConfig(), train=False)
    prompts = rollouts.test_prompts(policy, 1319 if options.problems >= 320 else options.problems)
    return {
        "prompts": len(prompts),
        **generation(policy, prompts, Sampling(LIMIT, stop_ids=policy.stop_ids), [64, 256], options.repeat),
    }


def generation(
    policy: Any, prompts: list[list[int]], sampling: Sampling, batches: list[int], repeat: int
) -> dict[str, Any]:
    """Rates of ours at the study's batch and of `generate` at `batches`, the slower of which run only
    once."""
    arms = {"ours": rollouts.ours(policy, prompts, sampling, load_config("nano").eval.batch_size)}
    peers = {f"generate, batch {size}": rollouts.peer(policy, prompts, sampling, size) for size in batches}
    tried = {name: arm() for name, arm in peers.items()}
    tried = {name: lap.work / lap.seconds for name, lap in tried.items()}
    best = max(tried, key=tried.get)
    kept = {best, f"generate, batch {batches[0]}"}
    arms |= {name: arm for name, arm in peers.items() if name in kept}
    flops = forward_flops(policy.model, 1, 1)
    return {"tried": tried, "flops_per_token": flops, "arms": alternate(arms, repeat, "tokens/s")}


def reinforced(options: argparse.Namespace) -> dict[str, Any]:
    """A GRPO step of 32 prompts x 8 completions and two updates, from the same fine-tuned model."""
    size = grpo_steps.Size(max(4, options.problems // 10), 8, LIMIT)
    with grpo_steps.ours(tuned(), size, 2) as (arm, material):
        arms, tried = {"ours": arm}, {}
        if has_trl():
            peers = {
                name: grpo_steps.trl_arm(tuned(), material, size, 2, chosen)
                for name, chosen in grpo_steps.TRL.items()
            }
            laps = {name: peer() for name, peer in peers.items()}
            tried = {name: lap.work / lap.seconds for name, lap in laps.items()}
            best = max(tried, key=tried.get)
            arms |= {name: peers[name] for name in {best, "trl defaults"}}
        return {
            "prompts": size.prompts,
            "tried": tried,
            "arms": alternate(arms, options.repeat, "completions/s"),
        }


def start_up(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds until `reckon --help`, `grade` and `compare` have answered, and until `trl --help` has."""
    program = str(Path(sys.executable).with_name("reckon"))
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "completions.jsonl"
        lines.write_text('{"text": "3 + 4 = 7\\n#### 7", "gold": "7"}\n')
        commands = {
            "reckon --help": [program, "--help"],
            "reckon grade": [program, "grade", str(lines)],
            "reckon compare": [program, "compare", "--counts", "31/100", "28/100"],
        }
        if has_trl():
            commands["trl --help"] = [str(Path(sys.executable).with_name("trl")), "--help"]
        found = {}
        for name, command in commands.items():
            laps = [seconds(command) for _ in range(options.repeat + 1)][1:]
            found[name] = {"seconds": statistics.median(laps), "laps": laps}
            print(f"  {name:20} {found[name]['seconds']:.3f} s")
        return found


def seconds(command: list[str]) -> float:
    """How long `command` takes; raises `SystemExit` where it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return time.perf_counter() - began


@cache
def tuned() -> Path:
    """A run that fine-tuned the embedded model for 100 steps, made anew by each call of the script: rollouts
    of the base model would not end."""
    folder = Path("runs/bench/sft")
    shutil.rmtree(folder, ignore_errors=True)
    config = load_config(
        "nano",
        [],
        [
            f"run.output_dir={folder}",
            "train.num_train_epochs=0.22",
            "train.learning_rate=2e-3",
            "eval.dev_samples=32",
        ],
    )
    sft.train(config)
    return folder


def has_trl() -> bool:
    return importlib.util.find_spec("trl") is not None


PARTS: dict[str, Part] = {
    "ceiling": ceiling,
    "sft": supervised,
    "rollouts": sampled,
    "evaluation": evaluation,
    "grpo": reinforced,
    "start-up": start_up,
}


def main() -> None:
    """Measure what was asked for, store it, and show all that is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--repeat", type=int, default=5, help="measured laps of each arm")
    parser.add_argument(
        "--problems", type=int, default=320, help="size of the tasks; smaller only to try the script out"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="cpu", help="results/NAME.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not has_trl():
        print("trl is not installed here: its arms are left out (make bench installs it)")
    for name in options.only:
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        began = time.perf_counter()
        found = PARTS[name](options)
        stored = merge(options.name, {name: {"machine": machine(), "load": os.getloadavg()[0], **found}})
        print(f"  took {time.perf_counter() - began:.0f} s", flush=True)
    print(table(stored))
    goals_picture(stored, options.name)


if __name__ == "__main__":
    main()
