"""Scale on paper: one step on 1 to 64 GPUs, and a study on 1, 8 and 64, from the plans of `reckon plan`.

    python -m benchmarks.scale      writes benchmarks/results/scale.json and prints its tables; a minute

One step: data parallel under torchrun, gradients summed in a ring (see `reckoner.plan`). The study: every run
has one GPU to itself. Each trained arm of the preset is searched with `TRIALS` trials in rounds to
their ends, then run with `SEEDS` seeds; what starts from another arm waits for it. The longest run that is
ready goes to the first free GPU.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reckoner.config import load_config
from reckoner.machine import environment
from reckoner.plan import Plan, plan_counts
from reckoner.runs.records import write_json
from reckoner.study.arms import plan_study
from reckoner.study.tune import ROUND

OUTPUT = Path(__file__).parent / "results" / "scale.json"
DEVICE, DOLLARS = "h200", 3.0
MODELS = {"2B": "google/gemma-2b-it", "9B": "google/gemma-2-9b-it", "27B": "google/gemma-3-27b-it"}
SMALL = ["eval.batch_size=64", "train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=8"]
"""What lets 9B and 27B fit: the same steps in smaller passes."""
COUNTS, TRIALS, SEEDS = (1, 8, 64), 8, 5
ARM = {"2B": "grpo", "9B": "lora-grpo", "27B": "lora-grpo"}
"""Full weights of 9B and 27B with their moments are larger than one GPU, and nothing is sharded."""


def planned(model: str, arm: str = "", gpus: int = 1) -> dict[int, list[Plan]]:
    given = [f"model.model_name_or_path={MODELS[model]}", *(SMALL if model != "2B" else [])]
    config = load_config("gemma-2b", [], given)
    return plan_counts(config, arm, gpus, on=DEVICE, rate_per_hour=DOLLARS)


def steps(model: str) -> list[dict[str, Any]]:
    """Seconds of one step of GRPO, of them for the sum of gradients, and what 1 GPU would take of it."""
    by_count = {count: plans[0] for count, plans in planned(model, ARM[model], 64).items()}

    def step(one: Plan) -> float:
        return one.seconds / one.steps

    alone = step(by_count[1])
    return [
        {
            "gpus": count,
            "GiB each": round(one.memory.total / 2**30, 1),
            "seconds a step": round(step(one), 3),
            "of them for the sum": round(one.phases.get("exchange", 0.0) / one.steps, 3),
            "GB summed an update": round(4 * one.trainable / 1e9, 3),
            "efficiency, %": round(100 * alone / step(one) / count, 1),
        }
        for count, one in by_count.items()
    ]


def makespan(runs: Mapping[str, tuple[float, Sequence[str]]], gpus: int) -> float:
    """Seconds until all runs are done; each takes some seconds, after others of these names have ended."""
    waiting, at_work, now = dict(runs), [], 0.0
    while waiting or at_work:
        going = waiting.keys() | {name for _, name in at_work}
        ready = [name for name, (_, needs) in waiting.items() if going.isdisjoint(needs)]
        ready.sort(key=lambda name: -runs[name][0])
        for name in ready[: gpus - len(at_work)]:
            heapq.heappush(at_work, (now + waiting.pop(name)[0], name))
        now, _ = heapq.heappop(at_work)
    return now


def searches(own: Mapping[str, float], starts: Mapping[str, str]) -> dict[str, tuple[float, list[str]]]:
    """The trials of all arms: a round waits for the one before it, the first for the search of its start."""
    runs, rounds = {}, range(TRIALS // ROUND)

    def names(arm: str, number: int) -> list[str]:
        return [f"{arm} {number}.{trial}" for trial in range(ROUND)]

    for arm, seconds in own.items():
        for number in rounds:
            before = [(arm, number - 1)] if number else [(starts[arm], rounds[-1])] if arm in starts else []
            needs = [name for one in before for name in names(*one)]
            runs |= dict.fromkeys(names(arm, number), (seconds, needs))
    return runs


def study(model: str) -> list[dict[str, Any]]:
    """Hours and dollars of the search and the seeds on each number of GPUs, for the arms that fit on one."""
    arms = plan_study(load_config("gemma-2b"))
    fits = {one.name: one for one in planned(model)[1] if one.memory.total < one.available}
    own = {arm.name: fits[arm.name].total_seconds for arm in arms if arm.name in fits}
    starts = {arm.name: arm.after for arm in arms if arm.after}
    trained = [arm.name for arm in arms if arm.name in own and arm.method != "prompt"]
    trained = [name for name in trained if starts.get(name, name) in own]
    asked = [arm.name for arm in arms if arm.name in own and arm.method == "prompt"]
    rows = []
    for gpus in COUNTS:
        searched = makespan(searches({name: own[name] for name in trained}, starts), gpus)
        seeds = {
            f"{name} {seed}": (own[name], [f"{starts[name]} {seed}"] if name in starts else [])
            for name in trained
            for seed in range(SEEDS)
        }
        wall = searched + makespan({**seeds, **{name: (own[name], []) for name in asked}}, gpus)
        work = sum(own[name] for name in asked) + (TRIALS + SEEDS) * sum(own[name] for name in trained)
        rows.append(
            {
                "gpus": gpus,
                "runs": len(asked) + (TRIALS + SEEDS) * len(trained),
                "GPU hours of work": round(work / 3600, 1),
                "hours": round(wall / 3600, 2),
                "dollars": round(wall / 3600 * gpus * DOLLARS),
                "busy, %": round(100 * work / wall / gpus, 1),
            }
        )
    return rows


def main() -> None:
    """Plan everything and store it."""
    found: dict[str, Any] = {
        "command": "python -m benchmarks.scale",
        "device": DEVICE,
        "dollars a GPU hour": DOLLARS,
        "trials": TRIALS,
        "seeds": SEEDS,
        "step": {f"{model} {ARM[model]}": steps(model) for model in MODELS},
        "study": {model: study(model) for model in MODELS},
        "environment": environment(),
    }
    write_json(OUTPUT, found)
    for part in ("step", "study"):
        for name, rows in found[part].items():
            print(f"\n{part}, {name}\n| {' | '.join(rows[0])} |\n|{' ---: |' * len(rows[0])}")
            for row in rows:
                print(f"| {' | '.join(f'{value:,}' for value in row.values())} |")


if __name__ == "__main__":
    main()
