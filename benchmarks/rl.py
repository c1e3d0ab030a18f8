"""PPO and GRPO against the SFT model that they start from, and against what the same time buys without reinforcement learning.

    python benchmarks/rl.py --work runs/rl                          about 20 minutes a seed on 2 cores; goes on where it was stopped
    python benchmarks/rl.py runs/nano                               the studies of these folders, a seed each, are gone on with
    taskset -c 0 python benchmarks/rl.py --work runs/rl --seeds 1   one seed on one core, another beside it

For each seed, on the embedded problems and the full test split: the arms of the nano study that use RL, and from the same SFT
model as controls
    more-sft     continued SFT on the reference solutions, for the seconds that GRPO trained
    rejection    SFT on the model's own right answers among as many completions as GRPO drew (RFT, Yuan 2023)
    random       GRPO paid by coin
Everything is chosen on dev, test is read once an arm, and results/rl.json keeps the paired tests, the kinds of errors before and
after, and accuracy by category and on templates that never occur in train.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reckoner import training
from reckoner.algorithms import grpo, sft
from reckoner.algorithms.sft import accumulate_gradient, epoch_order
from reckoner.analysis.compare import Pair, compare
from reckoner.analysis.errors import profile
from reckoner.analysis.runfiles import Source, read_source
from reckoner.arms import plan_study
from reckoner.cli.options import use_threads
from reckoner.config import Config, load_config
from reckoner.engine.batches import Example
from reckoner.engine.optim import apply_step, learning_rate, make_optimizer
from reckoner.evaluate import evaluate_model
from reckoner.models.policy import Policy, load_policy
from reckoner.records import read_json
from reckoner.rollouts import Sampler
from reckoner.runs import Run, environment, silent, write_json
from reckoner.study import run_study
from reckoner.tasks.rewards import Reward

OUTPUT = Path(__file__).parent / "results" / "rl.json"
START, TRAINED = "full-main", ("ppo", "grpo", "lora-grpo")
CONTROLS = ("more-sft", "rejection", "random")
RATES = (3e-4, 1e-3)
"""Peak learning rates that each control with SFT may choose from, on dev."""


def coin(text: str, *_: object) -> Reward:
    """Pays half of all texts, whatever they say."""
    paid = float(hashlib.sha256(text.encode()).digest()[0] % 2)
    return Reward(paid, {"correct": paid})


def main() -> None:
    """Run what `--work` does not hold yet, then compare and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, default=Path("runs/rl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--arms", nargs="*", default=[*TRAINED, *CONTROLS], help="which arms besides full-main"
    )
    parser.add_argument("--out", type=Path, default=OUTPUT, help="where the result is stored")
    arguments = parser.parse_args()
    folders = {seed: arguments.work / f"seed-{seed}" for seed in arguments.seeds}
    for folder in arguments.studies:
        folders[read_json(folder / "study.json")["seed"]] = folder
    for seed, folder in folders.items():
        run_seed(folder, seed, arguments.arms)
    result = summarise(folders, arguments.arms)
    write_json(arguments.out, result)
    for line in result["verdicts"]:
        print(line)


def run_seed(folder: Path, seed: int, names: Sequence[str]) -> None:
    """All arms of one seed, each evaluated on test once."""
    config = load_config("nano", [], [f"run.seed={seed}", f"run.output_dir={folder}"])
    use_threads(config)
    arms = plan_study(config)
    wanted = [arm for arm in arms if arm.name == START or (arm.name in names and arm.name in TRAINED)]
    run_study(config, arms, wanted, "python benchmarks/rl.py")
    configs = {arm.name: arm.config for arm in arms}
    budget = read_json(folder / "grpo" / "summary.json")["training"]
    for name in names:
        target = folder / name
        if name not in CONTROLS or read_json(target / "summary.json", missing={}).get("evaluations"):
            continue
        began = time.perf_counter()
        {"more-sft": more_sft, "rejection": rejection, "random": random_reward}[name](configs, target, budget)
        own = load_config(
            "", [target / "config.yaml"], [f"model.model_name_or_path={target}", "eval.split=test"]
        )
        evaluate_model(own)
        print(f"{target}: {time.perf_counter() - began:.0f} s", flush=True)


def moved(config: Config, target: Path) -> Config:
    """A copy of `config` that writes into `target`."""
    config = copy.deepcopy(config)
    config.run.output_dir = str(target)
    return config


def random_reward(configs: dict[str, Config], target: Path, budget: dict[str, Any]) -> None:
    """GRPO as it stands, paid by coin."""
    grpo.train(moved(configs["grpo"], target), judge=coin)


def more_sft(configs: dict[str, Config], target: Path, budget: dict[str, Any]) -> None:
    """SFT goes on from the SFT model for as many seconds as GRPO trained, at the rate that dev prefers."""
    first = read_json(target.parent / START / "summary.json")["training"]
    trials = []
    for rate in RATES:
        config = moved(configs[START], target.with_name(f"{target.name}-{rate:g}"))
        config.model.model_name_or_path = str(target.parent / START)
        config.train.num_train_epochs = first["epochs"] * budget["seconds"] / first["seconds"]
        config.train.learning_rate = rate
        sft.train(config)
        trials.append(Path(config.run.output_dir))
    choose(trials, target)


def rejection(configs: dict[str, Config], target: Path, budget: dict[str, Any]) -> None:
    """Draw from the SFT model as many completions as GRPO drew, keep the distinct right ones, and learn them in the time left."""
    first = read_json(target.parent / START / "summary.json")["training"]
    trials: list[Path] = []
    examples: list[Example] = []
    for rate in RATES:
        config = moved(configs["grpo"], target.with_name(f"{target.name}-{rate:g}"))
        config.train.learning_rate = rate
        with Run.open(config) as run:
            policy = load_policy(config.model, config.peft, train=True)
            material = training.prepare(run, policy)
            if not examples:
                began = time.perf_counter()
                examples = right_answers(Sampler(run, policy, material), budget["samples"])
                seconds = max(0.0, budget["seconds"] - (time.perf_counter() - began))
            learn(run, policy, material, examples, round(seconds / first["seconds"] * first["samples"]))
        trials.append(Path(config.run.output_dir))
    choose(trials, target)


def right_answers(sampler: Sampler, problems: int) -> list[Example]:
    """Prompt and completion of every distinct right answer to the first `problems` prompts of the stream, stop token included."""
    found: dict[tuple[str, str], Example] = {}
    for first in range(0, problems, 256):
        for episode in sampler.draw(first, min(256, problems - first), silent):
            if episode.grade.strict and episode.completion.finish == "stop":
                found.setdefault((episode.problem.id, episode.completion.text), episode.example)
    return list(found.values())


def learn(
    run: Run, policy: Policy, material: training.Material, examples: list[Example], samples: int
) -> None:
    """SFT on `examples` until `samples` were seen, the rate falling to 0; the best epoch on dev is kept."""
    train, batch = run.config.train, load_config("nano").train.per_device_train_batch_size
    total, per_epoch = max(1, samples // batch), math.ceil(len(examples) / batch)
    optimizer = make_optimizer(
        policy.model.named_parameters(), train.optim, train.weight_decay, (0.9, train.adam_beta2)
    )
    optimizers = {"policy": (policy.model, optimizer)}
    position = training.resume(run, optimizers, silent)
    policy.model.eval()
    while True:
        if (position.step % per_epoch == 0 or position.step == total) and not position.evaluated:
            training.evaluate_dev(run, policy, material, position, silent)
            training.save(run, optimizers, position)
        if position.step == total:
            break
        epoch, index = divmod(position.step, per_epoch)
        chosen = [
            examples[i]
            for i in epoch_order(tuple(map(len, examples)), batch, run.config.run.seed, epoch)[index]
        ]
        began = time.perf_counter()
        loss, _ = accumulate_gradient(policy, chosen, batch)
        rate = learning_rate(position.step + 1, total, train.learning_rate, "linear")
        apply_step(optimizer, policy.model.parameters(), rate, train.max_grad_norm)
        position.advance(chosen, time.perf_counter() - began)
        run.log(**position.costs, loss=loss)
    training.finish(run, policy, optimizers, position, "sft")


def choose(trials: Sequence[Path], target: Path) -> None:
    """Make the trial that solved most of dev the arm."""

    def solved(trial: Path) -> int:
        lines = map(json.loads, (trial / "metrics.jsonl").read_text().splitlines())
        return max(line.get("dev_strict", 0) for line in lines)

    shutil.copytree(max(trials, key=solved), target)


def summarise(folders: Mapping[int, Path], names: Sequence[str]) -> dict[str, Any]:
    """Accuracy of every arm, paired tests against the SFT model seed by seed and over all seeds, and errors before and after."""
    seeds, studies = list(folders), list(folders.values())
    sources = {
        name: [read_source(study / name, split="test") for study in studies] for name in (START, *names)
    }
    pairs = [(name, START) for name in names]
    pairs += [
        (name, control) for name in names if name in TRAINED for control in names if control in CONTROLS
    ]
    everything = [
        replace(source, name=f"{name}@{seed}")
        for name, found in sources.items()
        for seed, source in zip(seeds, found, strict=True)
    ]
    by_seed = {
        f"seed-{seed}": compare(
            [replace(found[i], name=name) for name, found in sources.items()],
            [(name, START) for name in names],
        )
        for i, seed in enumerate(seeds)
    }
    overall = compare(everything, pairs)
    return {
        "command": " ".join(["python benchmarks/rl.py", *sys.argv[1:]]),
        "environment": environment(),
        "verdicts": [verdict(pair) for pair in overall.pairs],
        "overall": asdict(overall),
        "by_seed": {seed: asdict(found) for seed, found in by_seed.items()},
        "errors": {name: [errors_of(source) for source in found] for name, found in sources.items()},
        "training": {
            name: [read_json(study / name / "summary.json")["training"] for study in studies]
            for name in (START, *names)
        },
        "curves": {
            name: [curve(study / name) for study in studies] for name in names if name in (*TRAINED, "random")
        },
    }


def verdict(pair: Pair) -> str:
    difference = pair.difference
    return (
        f"{pair.a} against {pair.b}: {100 * difference.estimate:+.1f} points, 95 % {100 * difference.low:+.1f} to "
        f"{100 * difference.high:+.1f}, Holm p {pair.p_holm:.2g}, {pair.verdict}"
    )


def errors_of(source: Source) -> dict[str, Any]:
    """Wrong answers by kind, and right ones by group of problems."""
    found = profile(source)
    return {
        "n": found.n,
        "wrong": found.wrong,
        "slips": found.slips,
        "kinds": {kind.kind: kind.count for kind in found.kinds},
        "groups": {
            title: {group.label: [group.n - group.wrong, group.n] for group in groups}
            for title, groups in found.groups.items()
        },
    }


def curve(folder: Path) -> list[dict[str, Any]]:
    """The metrics of every step and of every evaluation on dev."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
