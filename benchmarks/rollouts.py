"""Generation speed on the embedded model: our native engine against `model.generate` at its best batch sizes.

    python benchmarks/rollouts.py --out benchmarks/results/rollouts.json

Both get the same prompts, sorted by length, the same stop tokens and the same limit; generated tokens are counted up to
the stop token, so a row that idles until its batch ends counts for nothing. Runs alternate and medians are compared, as
wall time and as CPU time of the process: on a machine shared with others only the second is worth reading.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig

from reckoner.config import ModelConfig, PeftConfig
from reckoner.engine.generate import Sampling, generate
from reckoner.models.policy import Policy, load_policy
from reckoner.tasks import nano
from reckoner.tasks.prompts import Prompt


def ceiling(policy: Policy, rows: int = 256) -> float:
    """GFLOP/s (per second of CPU time) of the model's largest product at a decoding step of `rows` rows."""
    weight = policy.model.model.layers[0].mlp.gate_proj.weight.detach()
    weight, x = torch.cat((weight, weight)), torch.randn(rows, weight.shape[1])
    best = 0.0
    for _ in range(10):
        started = time.process_time()
        for _ in range(50):
            torch.nn.functional.linear(x, weight)
        best = max(best, 50 * 2 * rows * weight.numel() / (time.process_time() - started) / 1e9)
    return best


def peer(policy: Policy, prompts: list[list[int]], sampling: Sampling, batch: int) -> int:
    """Generate with `model.generate`; returns the tokens up to and with each row's stop token."""
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=sampling.temperature > 0,
        temperature=sampling.temperature or None,
        top_k=0 if sampling.temperature else None,
        eos_token_id=list(sampling.stop_ids),
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    rows = sorted((prompt for prompt in prompts for _ in range(sampling.num_samples)), key=len)
    stop, count = torch.tensor(sampling.stop_ids), 0
    for at in range(0, len(rows), batch):
        group = rows[at : at + batch]
        width = max(map(len, group))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in group])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in group])
        out = policy.model.generate(ids, attention_mask=mask, generation_config=config)[:, width:]
        ended = torch.isin(out, stop).cumsum(1)
        count += int((ended - torch.isin(out, stop).long() == 0).sum())
    return count


def ours(policy: Policy, prompts: list[list[int]], sampling: Sampling, batch: int) -> int:
    """Generate with the native engine; returns the tokens."""
    results = generate(policy, prompts, sampling, batch, "native")
    return sum(len(sample.ids) for row in results for sample in row)


def compare(arms: dict[str, Callable[[], int]], repeat: int) -> dict[str, dict[str, float]]:
    """Run the arms in turn, `repeat` times; medians of seconds, CPU seconds and tokens per second of either."""
    runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in arms}
    for _ in range(repeat):
        for name, run in arms.items():
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = run()
            runs[name].append((time.perf_counter() - wall, time.process_time() - cpu, tokens))
    table = {}
    for name, rows in runs.items():
        table[name] = {
            "tokens": statistics.median(tokens for *_, tokens in rows),
            "seconds": statistics.median(wall for wall, *_ in rows),
            "cpu_seconds": statistics.median(cpu for _, cpu, _ in rows),
            "tokens_per_second": statistics.median(tokens / wall for wall, _, tokens in rows),
            "tokens_per_cpu_second": statistics.median(tokens / cpu for _, cpu, tokens in rows),
        }
        print(
            f"  {name:22}" + "".join(f"  {key} {value:,.1f}" for key, value in table[name].items()),
            flush=True,
        )
    return table


def workloads(policy: Policy, problems: int) -> dict[str, tuple[list[list[int]], Sampling]]:
    """Greedy evaluation of test problems, zero- and one-shot, and rollouts of 8 completions at temperature 1."""
    found, shots = nano.problems("test", "main")[:problems], nano.problems("train", "main")[:1]
    plain = [policy.encode_prompt(Prompt().render(problem.question)) for problem in found]
    shown = [
        policy.encode_prompt(Prompt(exemplars=tuple(shots)).render(problem.question)) for problem in found
    ]
    limit, stop = 150, policy.stop_ids
    return {
        "evaluation, zero-shot": (plain, Sampling(limit, stop_ids=stop)),
        "evaluation, one-shot": (shown, Sampling(limit, stop_ids=stop)),
        "rollouts, 8 a prompt": (plain[: problems // 10], Sampling(limit, 1.0, num_samples=8, stop_ids=stop)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano", help="embedded model, folder or run folder")
    parser.add_argument("--problems", type=int, default=1280)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--ours", type=int, nargs="*", default=[256], help="batch sizes of the native engine")
    parser.add_argument("--peer", type=int, nargs="*", default=[64, 256], help="batch sizes of generate")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    policy = load_policy(ModelConfig(model_name_or_path=options.model), PeftConfig(), train=False)
    report = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "ceiling_gflops_per_cpu_second": ceiling(policy),
        "workloads": {},
    }
    print(json.dumps(report))
    for name, (prompts, sampling) in workloads(policy, options.problems).items():
        print(f"{name}: {len(prompts)} prompts of {statistics.mean(map(len, prompts)):.0f} tokens")
        arms = {f"ours {b}": lambda b=b, p=prompts, s=sampling: ours(policy, p, s, b) for b in options.ours}
        arms |= {
            f"generate {b}": lambda b=b, p=prompts, s=sampling: peer(policy, p, s, b) for b in options.peer
        }
        report["workloads"][name] = table = compare(arms, options.repeat)
        best = max(row["tokens_per_cpu_second"] for arm, row in table.items() if arm.startswith("generate"))
        fastest = max(row["tokens_per_cpu_second"] for arm, row in table.items() if arm.startswith("ours"))
        print(f"  {fastest / best:.2f} times generate at its best (CPU time)")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
