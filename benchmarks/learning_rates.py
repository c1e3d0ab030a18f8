"""The learning rate of each method in the nano preset: the same number of trials each, judged on dev, never on test.

    python benchmarks/learning_rates.py --work runs/learning-rates        about 12 minutes on 2 cores

Every trial is a whole run of the study's own length. The rate with the most dev problems solved is chosen (ties: lower dev
loss), and benchmarks/results/learning_rates.json keeps all trials.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from reckoner.algorithms.sft import train
from reckoner.cli.options import use_threads
from reckoner.config import load_config
from reckoner.runs import environment

GRIDS = {"none": [1e-3, 2e-3, 3e-3], "lora": [5e-3, 1e-2, 2e-2]}
OUTPUT = Path(__file__).parent / "results" / "learning_rates.json"


def trial(work: Path, method: str, rate: float) -> dict[str, float | int | str]:
    """Train once and return what dev said at the best step."""
    name = f"{'full' if method == 'none' else method}-{rate:g}"
    settings = [f"peft.method={method}", f"train.learning_rate={rate}", f"run.output_dir={work / name}", "eval.dev_samples=0"]
    config = load_config("nano", [], settings)
    use_threads(config)
    done = train(config)["training"]
    lines = [json.loads(line) for line in (work / name / "metrics.jsonl").read_text().splitlines()]
    best = next(line for line in lines if line.get("dev_strict") is not None and line["step"] == done["best_step"])
    return {
        "method": method,
        "learning_rate": rate,
        "dev_strict": best["dev_strict"],
        "dev_n": best["dev_n"],
        "dev_loss": best["dev_loss"],
        "best_step": done["best_step"],
        "seconds": done["seconds"],
    }


def main() -> None:
    """Run all trials that `--work` does not hold yet and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/learning-rates"))
    parser.add_argument("--methods", nargs="*", choices=[*GRIDS], help="run the trials of these only, and store nothing")
    given = parser.parse_args()
    trials = []
    for method in given.methods or GRIDS:
        for rate in GRIDS[method]:
            trials.append(trial(given.work, method, rate))
            print(trials[-1], flush=True)
    if given.methods:
        return
    chosen = {
        method: max((t for t in trials if t["method"] == method), key=lambda t: (t["dev_strict"], -t["dev_loss"]))["learning_rate"]
        for method in GRIDS
    }
    result = {"command": "python benchmarks/learning_rates.py", "seed": 0, "chosen": chosen, "trials": trials, "environment": environment()}
    OUTPUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"chosen: {chosen}")


if __name__ == "__main__":
    main()
