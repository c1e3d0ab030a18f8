"""Calibrate the instrument: embedded studies whose truth is known, and what the report makes of them.

    python -m benchmarks.calibration --work runs/calibration                    three hours on one core
    python -m benchmarks.calibration --work runs/calibration --parts equal      a part, beside another

    equal   one recipe trained with many seeds: any two groups of runs differ by luck alone
    size    solutions whose first step is missing at known rates: the effect must follow the rate
    coin    GRPO paid by coin: must gain nothing over its start
    leak    5 % of the problems that are scored stand in train under another last sentence
    rate    an arm whose learning rate is 16 times too small: the search must leave it

Runs are scored on dev, whose problems choose nothing here: each run keeps its last step. What is done is kept
in `--work`, so the same command goes on. A part that is finished replaces its entry in
benchmarks/results/calibration.json.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.figures import calibration_picture
from numpy.typing import NDArray

from reckoner.algorithms import ALGORITHMS
from reckoner.analysis.readers import read_completion_set
from reckoner.analysis.seeds import seed_difference
from reckoner.cli.options import use_threads
from reckoner.config import load_config
from reckoner.evaluation.evaluate import evaluate_model
from reckoner.machine import environment
from reckoner.runs.records import Problem, dumps, read_json, write_json, write_jsonl
from reckoner.study.tune import tune
from reckoner.tasks import gsm8k
from reckoner.tasks.overlap import overlap

OUTPUT = Path(__file__).parent / "results" / "calibration.json"
RUNS, PAIRS, SEEDS = 60, 200, (0, 1, 2)
RATE, GRPO_RATE = 2.4e-3, 9e-5
"""The rates of the study's arms `full-main` and `grpo` (benchmarks/results/learning_rates.json)."""
LAST = ["train.eval_steps=1000000", "eval.dev_samples=50", "eval.split=dev", f"train.learning_rate={RATE}"]
"""Dev is read before the first step and after the last, which is kept."""
SMALL = ["data.max_train_samples=300", "train.num_train_epochs=3", *LAST]
DIAL = (0.0, 0.15, 0.3, 0.44)
LEAKED = 0.05

Scores = dict[str, float]
"""By problem, 1 where its answer is right."""


def trained(folder: Path, method: str, seed: int, settings: Sequence[str]) -> Scores:
    """Train, ask all of dev, and return what is right; a run that is finished is only read."""
    done = folder / "scores.json"
    if not done.is_file():
        config = load_config(
            "nano", [], [f"run.output_dir={folder}", f"run.seed={seed}", "run.threads=1", *settings]
        )
        use_threads(config)
        ALGORITHMS[method].train(config, lambda *_: None)
        evaluate_model(replace(config, model=replace(config.model, model_name_or_path=str(folder))))
        write_json(done, read_completion_set(folder, split=config.eval.split).shares())
    return read_json(done)


def grid(runs: Sequence[Scores]) -> NDArray[np.float64]:
    """Scores [runs, problems] in the order of the problems of the first run."""
    return np.array([[run[problem] for problem in runs[0]] for run in runs])


def percents(*values: float) -> list[float]:
    return [round(100 * value, 2) for value in values]


def difference(a: Sequence[Scores], b: Sequence[Scores]) -> dict[str, Any]:
    """What the report would say of arm a against arm b, in points."""
    found = seed_difference(grid(a), grid([{name: run[name] for name in a[0]} for run in b]))
    return {
        "runs": [len(a), len(b)],
        "accuracies": [percents(*grid(one).mean(axis=1)) for one in (a, b)],
        "points": percents(found.estimate)[0],
        "interval": percents(found.low, found.high),
        "p": float(f"{found.p:.2g}"),
    }


def equal(work: Path) -> dict[str, Any]:
    """How often two arms of one recipe are told apart: by one run each, and by three runs each.

    200 pairs of arms are drawn from all runs, no run twice in a pair; pairs share runs, so they are not
    independent and the shares have no interval.
    """
    scores = []
    for seed in range(RUNS):
        folder = work / "equal" / f"seed-{seed}"
        scores.append(trained(folder, "sft", seed, SMALL))
        shutil.rmtree(folder / "model", ignore_errors=True)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        print(f"equal {seed + 1}/{RUNS}: {sum(scores[-1].values()):.0f} of {len(scores[-1])}", flush=True)
    right, rng = grid(scores), np.random.default_rng(0)
    told = {}
    for runs in (1, 3):
        drawn = (rng.permutation(RUNS)[: 2 * runs] for _ in range(PAIRS))
        told[runs] = sum(seed_difference(right[one[:runs]], right[one[runs:]]).p < 0.05 for one in drawn)
    accuracies = right.mean(axis=1)
    return {
        "settings": SMALL,
        "accuracy, mean and std over runs": percents(accuracies.mean(), accuracies.std(ddof=1)),
        "runs": RUNS,
        "pairs": PAIRS,
        "pairs told apart, one run each": int(told[1]),
        "pairs told apart, three runs each": int(told[3]),
        "accuracies": percents(*accuracies),
    }


def size(work: Path) -> dict[str, Any]:
    """Full SFT on 1,500 solutions, of which a known share omits its first step."""
    runs = {}
    for rate in DIAL:
        settings = [*LAST, f"data.nano_omitted_first_steps={rate}"]
        folders = {seed: work / "size" / f"{rate:g}-seed-{seed}" for seed in SEEDS}
        runs[rate] = [trained(folder, "sft", seed, settings) for seed, folder in folders.items()]
    return {f"omitted {rate:g} against 0": difference(runs[rate], runs[0.0]) for rate in DIAL[1:]}


def coin(work: Path) -> dict[str, Any]:
    """The GRPO of the study paid by coin, from the runs of `size` that saw whole solutions."""
    size(work)
    starts = [work / "size" / f"0-seed-{seed}" for seed in SEEDS]
    settings = [
        *("data.max_train_samples=0", f"train.learning_rate={GRPO_RATE}", "train.lr_scheduler_type=constant"),
        *("rollout.num_prompts=64", "rollout.num_generations=8", "rollout.max_steps=24"),
        *("rollout.reward=coin", "train.eval_steps=1000000", "eval.dev_samples=50"),
    ]
    paid = []
    for seed, start in zip(SEEDS, starts, strict=True):
        own = [*settings, f"model.model_name_or_path={start}"]
        paid.append(trained(work / "coin" / f"seed-{seed}", "grpo", seed, own))
    return difference(paid, [read_json(start / "scores.json") for start in starts])


def leak(work: Path) -> dict[str, Any]:
    """Full SFT on train with and without 5 % of dev in it, and what `data stats` says of both."""
    source = load_config("nano", [], []).problem_source()
    dev, train = gsm8k.load("dev", **source), gsm8k.load("train", **source)
    leaked = dev[:: round(1 / LEAKED)]
    added = [replace(one, question=f"{one.question} Show your work.") for one in leaked]
    found = {
        name: overlap(dev, [one.question for one in problems])
        for name, problems in (("clean", train), ("leaked", [*train, *added]))
    }
    with_leak = trained_on(work / "leak" / "with", [*train, *added], dev)
    without = trained_on(work / "leak" / "without", train, dev)
    names = {problem.id for problem in leaked}

    def only(runs: Sequence[Scores], inside: bool) -> list[Scores]:
        return [{name: one for name, one in run.items() if (name in names) == inside} for run in runs]

    return {
        "problems of dev in train, planted": len(leaked),
        "found": {name: {"exact": len(one.exact), "ngram": len(one.ngram)} for name, one in found.items()},
        "found among the planted": len(names & set(found["leaked"].ngram)),
        "on the leaked problems": difference(only(with_leak, True), only(without, True)),
        "on the others": difference(only(with_leak, False), only(without, False)),
        "on all": difference(with_leak, without),
    }


def trained_on(folder: Path, problems: Sequence[Problem], dev: Sequence[Problem]) -> list[Scores]:
    """Full SFT of each seed on the solutions of these problems, scored on dev as if it were test."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, written in (("train", problems), ("dev", dev)):
        write_jsonl(
            folder / f"{name}.jsonl",
            ({"id": one.id, "question": one.question, "answer": one.solution} for one in written),
        )
    settings = [
        *(
            "data.source=gsm8k",
            f"data.path={folder / 'train.jsonl'}",
            f"data.test_path={folder / 'dev.jsonl'}",
        ),
        *("data.dev_size=20", "data.max_train_samples=0", "eval.dev_samples=0", "eval.split=test"),
        *(f"train.learning_rate={RATE}", "train.eval_steps=1000000"),
    ]
    return [trained(folder / f"seed-{seed}", "sft", seed, settings) for seed in SEEDS]


def rate(work: Path) -> dict[str, Any]:
    """The search of LoRA's rate that begins at a sixteenth of the study's."""
    config = load_config(
        "nano",
        [],
        [
            *(f"run.output_dir={work / 'rate'}", "run.threads=1", "eval.dev_samples=200"),
            *("data.max_train_samples=300", "study.arms.lora-main.set.train.learning_rate=2.5e-4"),
        ],
    )
    return {**tune(config, 6, ["lora-main"])["arms"]["lora-main"]}


PARTS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "equal": equal,
    "size": size,
    "coin": coin,
    "leak": leak,
    "rate": rate,
}


def main() -> None:
    """Run the parts that were asked for, and store each as it ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--parts", nargs="*", choices=[*PARTS], default=[*PARTS])
    given = parser.parse_args()
    for name in given.parts:
        found = PARTS[name](given.work)
        stored = read_json(OUTPUT, missing={})
        environments = stored.get("environments", {}) | {name: environment()}
        stored |= {"command": "python -m benchmarks.calibration", "environments": environments, name: found}
        write_json(OUTPUT, stored)
        print(dumps({name: found}), flush=True)
    if rows := effects(stored):
        calibration_picture(rows)


def effects(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of the picture: each known world that was measured, with the difference found in it."""
    rows = {name.split(" against")[0]: found for name, found in stored.get("size", {}).items()}
    if "coin" in stored:
        rows["paid by coin"] = stored["coin"]
    if "leak" in stored:
        rows["leak: leaked"] = stored["leak"]["on the leaked problems"]
        rows["leak: others"] = stored["leak"]["on the others"]
    return rows


if __name__ == "__main__":
    main()
