"""The learning rates of supervised fine-tuning in the smollm2 preset: as many short trials for either arm.

    python -m benchmarks.real_rates --data FOLDER --work runs/real-rates

A trial is the arm of the preset on `PROBLEMS` train problems for one epoch, with another rate. So short a run
solves too few dev problems to be told apart by them, so the lower loss on the solutions of `DEV` dev problems
is better. A best rate of a short run is not that of a long one: what is chosen is the best of four guesses,
for both arms. benchmarks/results/real_rates.json keeps all trials; a trial that `--work` holds is only read.
It takes 25 minutes on 2 cores that multiply in bfloat16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from reckoner.algorithms import ALGORITHMS
from reckoner.cli.options import use_threads
from reckoner.config import load_config
from reckoner.runs.folder import environment
from reckoner.study.arms import plan_study

GRIDS = {
    "full-main": [5e-5, 1.5e-4, 4.5e-4, 1.35e-3],
    "lora-main": [4.5e-4, 1.35e-3, 4.05e-3, 1.215e-2],
}
"""As many rates for each arm, each three times the one before."""
PROBLEMS, DEV = 320, 64
OUTPUT = Path(__file__).parent / "results" / "real_rates.json"


def trial(data: Path, work: Path, name: str, rate: float) -> dict[str, Any]:
    """Train the arm with this rate; what dev said before the first step and after the last."""
    settings = {
        "data.path": data,
        "data.max_train_samples": PROBLEMS,
        "model.dtype": "bfloat16",
        "train.num_train_epochs": 1,
        "train.eval_steps": 0,
        "eval.dev_samples": DEV,
        "run.output_dir": work,
        "study.prompt_search": 0,
    }
    preset = load_config("smollm2", [], [f"{key}={value}" for key, value in settings.items()])
    arm = next(arm for arm in plan_study(preset) if arm.name == name)
    config, folder = arm.config, work / f"{name}-{rate:g}"
    config.train.learning_rate, config.train.eval_steps, config.run.output_dir = rate, 0, str(folder)
    use_threads(config)
    done = ALGORITHMS[arm.method].train(config, lambda *_: None)["training"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    dev = [line for line in lines if line.get("dev_loss") is not None]
    return {
        "arm": name,
        "learning_rate": rate,
        "steps": done["steps"],
        "dev_n": dev[-1]["dev_n"],
        "dev_loss_before": dev[0]["dev_loss"],
        "dev_loss": dev[-1]["dev_loss"],
        "dev_strict": dev[-1]["dev_strict"],
        "seconds": done["seconds"],
    }


def main() -> None:
    """Run all trials that `--work` does not hold yet and store the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/real-rates"))
    given = parser.parse_args()
    trials = []
    for name, rate in ((name, rate) for name, rates in GRIDS.items() for rate in rates):
        trials.append(trial(given.data, given.work, name, rate))
        print(trials[-1], flush=True)
    chosen = {
        name: min((t for t in trials if t["arm"] == name), key=lambda t: t["dev_loss"])["learning_rate"]
        for name in GRIDS
    }
    facts = {
        "command": "python -m benchmarks.real_rates --data FOLDER",
        "seed": 0,
        "problems": PROBLEMS,
        "chosen": chosen,
        "trials": trials,
        "environment": environment(),
    }
    OUTPUT.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"chosen: {chosen}")


if __name__ == "__main__":
    main()
