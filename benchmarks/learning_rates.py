"""The learning rate of each method in the nano preset, judged on dev, never on test: as many trials each.

    python benchmarks/learning_rates.py --work runs/learning-rates                    50 minutes of one core
    python benchmarks/learning_rates.py --work runs/learning-rates --arms full-main   a part, beside another

A trial is the arm of the preset with another rate, on one thread. One seed cannot tell neighbouring rates
apart, whose dev scores differ by less than their noise: what is chosen is no more than the best of three
trials, for every method. The rate with the most dev problems solved over all seeds is chosen (ties: lower dev
loss). Trials with reinforcement learning start from full SFT of the same seed at the chosen rate, and more
SFT and rejection sampling, its controls, spend what GRPO spent. benchmarks/results/learning_rates.json keeps
all trials.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reckoner.algorithms import ALGORITHMS
from reckoner.cli.options import use_threads
from reckoner.config import load_config
from reckoner.runs.folder import environment
from reckoner.study.arms import plan_study

START, CONTROLLED = "full-main", "grpo"
SEEDS = [0]
GRIDS = {
    START: [8e-4, 2.4e-3, 7.2e-3],
    "lora-main": [1.3e-3, 4e-3, 1.2e-2],
    "ppo": [9e-5, 2.7e-4, 8.1e-4],
    "grpo": [3e-5, 9e-5, 2.7e-4],
    "lora-grpo": [2e-4, 6e-4, 1.8e-3],
    "grpo-zero": [1e-4, 3e-4, 9e-4],
    "grpo-more-sft": [9e-5, 2.7e-4, 8e-4],
    "grpo-rejection": [9e-5, 2.7e-4, 8e-4],
}
"""As many rates for each method, each three times the one before."""
OUTPUT = Path(__file__).parent / "results" / "learning_rates.json"


def trial(
    work: Path, name: str, rate: float, seed: int, start: float | None, budget: float
) -> dict[str, Any]:
    """Train the arm with this rate and return what dev said at the best step; a trial that `work` holds is
    only read. `budget` is the most that a control may spend, in 10^12 operations."""
    preset = load_config(
        "nano",
        [],
        [
            f"run.output_dir={work}",
            "eval.dev_samples=0",
            f"run.seed={seed}",
            "run.threads=1",
            "study.controls=true",
        ],
    )
    arm = next(arm for arm in plan_study(preset) if arm.name == name)
    folder = folder_of(work, name, rate, seed)
    arm.config.train.learning_rate, arm.config.run.output_dir = rate, str(folder)
    if arm.spends_as:
        arm.config.train.max_tflops = budget
    if start is not None:
        arm.config.model.model_name_or_path = str(folder_of(work, START, start, seed))
    use_threads(arm.config)
    done = ALGORITHMS[arm.method].train(arm.config, lambda *_: None)["training"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = next(
        line for line in lines if line.get("dev_strict") is not None and line["step"] == done["best_step"]
    )
    dev = {key: kept[key] for key in ("dev_strict", "dev_n", "dev_loss")}
    return {
        "arm": name,
        "learning_rate": rate,
        "seed": seed,
        **dev,
        "best_step": done["best_step"],
        "steps": done["steps"],
        "seconds": done["seconds"],
        "tflops": done["flops"] / 1e12,
    }


def folder_of(work: Path, name: str, rate: float, seed: int) -> Path:
    return work / f"{name}-{rate:g}-seed-{seed}"


def best(trials: Sequence[dict[str, Any]]) -> float:
    """The rate with the most dev problems solved, all seeds together; of equal ones that with the lower dev
    loss."""

    def score(rate: float) -> tuple[int, float]:
        mine = [trial for trial in trials if trial["learning_rate"] == rate]
        return sum(trial["dev_strict"] for trial in mine), -sum(trial["dev_loss"] for trial in mine)

    return max(sorted({trial["learning_rate"] for trial in trials}), key=score)


def main() -> None:
    """Run all trials that `--work` does not hold yet and store the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/learning-rates"))
    parser.add_argument(
        "--arms",
        nargs="*",
        choices=[*GRIDS],
        default=[*GRIDS],
        help="run the trials of these only, and store nothing",
    )
    parser.add_argument(
        "--seeds", nargs="*", type=int, default=SEEDS, help="run the trials of these only, and store nothing"
    )
    parser.add_argument(
        "--start",
        type=float,
        help="rate of full SFT that reinforcement learning starts from (default: the best of the trials)",
    )
    given = parser.parse_args()
    controlled = load_config("nano", [], ["study.controls=true"])
    later = {arm.name for arm in plan_study(controlled) if arm.after}
    trials: dict[str, list[dict[str, Any]]] = {}
    start, budget = given.start, 0.0
    for name in (name for name in GRIDS if name in given.arms):
        if name in later and start is None:
            if START not in trials:
                parser.error(
                    f"{name} starts from the best trial of {START}: name "
                    "that arm too, or its rate with --start"
                )
            start = best(trials[START])
        tries = ((rate, seed) for rate in GRIDS[name] for seed in given.seeds)
        trials[name] = []
        for rate, seed in tries:
            trials[name].append(trial(given.work, name, rate, seed, start if name in later else None, budget))
            print(trials[name][-1], flush=True)
        print(f"{name}: {best(trials[name]):g}", flush=True)
        if name == CONTROLLED:
            kept = [one for one in trials[name] if one["learning_rate"] == best(trials[name])]
            budget = max(one["tflops"] for one in kept)
    if set(given.arms) == set(GRIDS) and set(given.seeds) == set(SEEDS):
        store(trials)


def store(trials: dict[str, list[dict[str, Any]]]) -> None:
    chosen = {name: best(found) for name, found in trials.items()}
    every = [trial for found in trials.values() for trial in found]
    result = {
        "command": "python benchmarks/learning_rates.py",
        "seeds": SEEDS,
        "chosen": chosen,
        "trials": every,
        "environment": environment(),
    }
    OUTPUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"chosen: {chosen}")


if __name__ == "__main__":
    main()
