"""The learning rate of each method in the nano preset, judged on dev, never on test: full SFT and LoRA with as many trials each.

    python benchmarks/learning_rates.py --work runs/learning-rates                            about 30 minutes on 2 cores
    taskset -c 0 python benchmarks/learning_rates.py --work runs/learning-rates --arms full-main grpo    a part, on one core

A trial is the arm of the preset with another rate. Those with reinforcement learning start from the best trial of full SFT. The
rate with the most dev problems solved is chosen (ties: lower dev loss), and benchmarks/results/learning_rates.json keeps all trials.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reckoner.arm_runs import trainer
from reckoner.arms import plan_study
from reckoner.cli.options import use_threads
from reckoner.config import load_config
from reckoner.runs import environment

START = "full-main"
GRIDS = {
    START: [1.3e-4, 2e-4, 3e-4, 4e-4, 6e-4, 8e-4, 1.2e-3],
    "lora-main": [5e-4, 1e-3, 1.5e-3, 2e-3, 2.5e-3, 3e-3, 4.5e-3],
    "ppo": [9e-5, 1.3e-4, 2e-4, 3e-4, 4.5e-4],
    "grpo": [9e-5, 1.3e-4, 2e-4, 3e-4, 4.5e-4],
    "lora-grpo": [3e-4, 5e-4, 1e-3, 2e-3, 3e-3],
}
OUTPUT = Path(__file__).parent / "results" / "learning_rates.json"


def trial(work: Path, name: str, rate: float, start: str) -> dict[str, Any]:
    """Train the arm with this rate and return what dev said at the best step; a trial that `work` holds is only read."""
    folder = work / f"{name}-{rate:g}"
    preset = load_config("nano", [], [f"run.output_dir={work}", "eval.dev_samples=0"])
    arm = next(arm for arm in plan_study(preset) if arm.name == name)
    arm.config.train.learning_rate, arm.config.run.output_dir = rate, str(folder)
    if arm.after:
        arm.config.model.model_name_or_path = start
    use_threads(arm.config)
    done = trainer(arm.method)(arm.config, lambda *_: None)["training"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = next(line for line in lines if line.get("dev_strict") is not None and line["step"] == done["best_step"])
    dev = {key: kept[key] for key in ("dev_strict", "dev_n", "dev_loss")}
    return {"arm": name, "learning_rate": rate, **dev, "best_step": done["best_step"], "steps": done["steps"], "seconds": done["seconds"]}


def best(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return max(trials, key=lambda trial: (trial["dev_strict"], -trial["dev_loss"]))


def main() -> None:
    """Run all trials that `--work` does not hold yet and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/learning-rates"))
    parser.add_argument("--arms", nargs="*", choices=[*GRIDS], help="run the trials of these only, and store nothing")
    given = parser.parse_args()
    wanted = [name for name in GRIDS if not given.arms or name in given.arms]
    later = {arm.name for arm in plan_study(load_config("nano")) if arm.after}
    if START not in wanted and (needing := [name for name in wanted if name in later]):
        parser.error(f"{needing[0]} starts from the best trial of {START}: name that too; what --work holds is only read")
    trials: dict[str, list[dict[str, Any]]] = {}
    for name in wanted:
        start = f"{START}-{best(trials[START])['learning_rate']:g}" if START in trials else ""
        trials[name] = []
        for rate in GRIDS[name]:
            trials[name].append(trial(given.work, name, rate, str(given.work / start)))
            print(trials[name][-1], flush=True)
    if given.arms:
        return
    chosen = {name: best(found)["learning_rate"] for name, found in trials.items()}
    every = [trial for found in trials.values() for trial in found]
    result = {"command": "python benchmarks/learning_rates.py", "seed": 0, "chosen": chosen, "trials": every, "environment": environment()}
    OUTPUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"chosen: {chosen}")


if __name__ == "__main__":
    main()
