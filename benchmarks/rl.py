"""PPO and GRPO against the SFT model that they start from, and against what the same compute buys without a
reward for answers.

    python benchmarks/rl.py --work runs/rl    30 minutes a seed on 2 cores
    python benchmarks/rl.py runs/nano         goes on with these studies
    taskset -c 0 python benchmarks/rl.py --work runs/rl --seeds 1   one seed on one core, another beside it

For each seed, on the embedded problems and the full test split: the arms of the nano study that use RL, and
from the same SFT model as controls
    more-sft     continued SFT on the reference solutions
    rejection    SFT on the model's own right answers among as many completions as GRPO drew (RFT, Yuan 2023)
    random       GRPO paid by coin, for as many steps
The first two have the floating-point operations of GRPO as their budget, counted and with those of drawing;
the result states operations and seconds of each arm. Everything is chosen on dev. Where nothing is won, dev
keeps step 0, which is the SFT model itself, so every control is shown as kept and, as CONTROL-last, after its
last step. Test is read once for each of them, and results/rl.json keeps the paired tests, the kinds of errors
before and after, and accuracy by category and on templates that never occur in train.
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

from reckoner.algorithms import grpo, sft
from reckoner.algorithms.sft import accumulate_gradient, epoch_order
from reckoner.analysis.compare import Pair, compare
from reckoner.analysis.mistakes import profile
from reckoner.analysis.readers import CompletionSet, read_completion_set
from reckoner.cli.options import use_threads
from reckoner.config import Config, load_config
from reckoner.engine.batches import Example
from reckoner.engine.cost import forward_flops, training_flops
from reckoner.evaluation.evaluate import evaluate_model
from reckoner.models.policy import load_policy
from reckoner.runs.checkpoints import at_step, restore_weights
from reckoner.runs.folder import Run, environment, silent, write_json
from reckoner.runs.records import read_json
from reckoner.study.arms import plan_study
from reckoner.study.run import run_study
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.rewards import Reward
from reckoner.training.loop import Training
from reckoner.training.rollouts import Sampler

OUTPUT = Path(__file__).parent / "results" / "rl.json"
START, TRAINED = "full-main", ("ppo", "grpo", "lora-grpo")
CONTROLS = ("more-sft", "rejection", "random")
RATES = (1e-4, 2e-4, 4e-4, 1e-3)
"""Peak learning rates that each control with SFT may choose from, on dev; 2e-4 is that of SFT itself."""


def coin(answer: Answer, *_: object) -> Reward:
    """Pays half of all texts, whatever they say."""
    paid = float(hashlib.sha256(answer.text.encode()).digest()[0] % 2)
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
        shutil.rmtree(target, ignore_errors=True) if name != "random" else None
        {"more-sft": more_sft, "rejection": rejection, "random": random_reward}[name](configs, target, budget)
        own = load_config(
            "", [target / "config.yaml"], [f"model.model_name_or_path={target}", "eval.split=test"]
        )
        evaluate_model(own)
        evaluate_last(target)
        print(f"{target}: {time.perf_counter() - began:.0f} s", flush=True)


def evaluate_last(target: Path) -> None:
    """Evaluate on test what a control was after its last step, in the folder `CONTROL-last` beside it."""
    summary, last = read_json(target / "summary.json"), target.with_name(f"{target.name}-last")
    config = load_config("", [target / "config.yaml"], [f"run.output_dir={last}", "eval.split=test"])
    policy = load_policy(config.model, config.peft, train=True)
    newest = at_step(target / "checkpoints", summary["training"]["steps"])
    restore_weights(policy.model, newest.tensors("policy"))
    policy.save(last / "weights")
    config.model.model_name_or_path = str(last / "weights")
    evaluate_model(config)


def moved(config: Config, target: Path) -> Config:
    """A copy of `config` that writes into `target`."""
    config = copy.deepcopy(config)
    config.run.output_dir = str(target)
    return config


def random_reward(configs: dict[str, Config], target: Path, budget: dict[str, Any]) -> None:
    """GRPO as it stands, paid by coin."""
    grpo.train(moved(configs["grpo"], target), reward_fn=coin)


def more_sft(configs: dict[str, Config], target: Path, budget: dict[str, Any]) -> None:
    """SFT goes on from the SFT model for as many operations as GRPO took, at the rate that dev prefers."""
    first = read_json(target.parent / START / "summary.json")["training"]
    trials = []
    for rate in RATES:
        config = moved(configs[START], target.with_name(f"{target.name}-{rate:g}"))
        config.model.model_name_or_path = str(target.parent / START)
        config.train.num_train_epochs = first["epochs"] * budget["flops"] / first["flops"]
        config.train.learning_rate = rate
        sft.train(config)
        trials.append(Path(config.run.output_dir))
    choose(trials, target)


def rejection(configs: dict[str, Config], target: Path, budget: dict[str, Any]) -> None:
    """Draw from the SFT model as many completions as GRPO drew, keep the distinct right ones, and learn them
    with what is left."""
    trials: list[Path] = []
    examples: list[Example] = []
    for rate in RATES:
        config = moved(configs["grpo"], target.with_name(f"{target.name}-{rate:g}"))
        config.train.learning_rate = rate
        with Run.open(config) as run:
            training = Training.begin(run, silent)
            policy = training.policy
            if not examples:
                began = time.perf_counter()
                examples, drawing = right_answers(Sampler(run, policy, training.data), budget["samples"])
                seconds = time.perf_counter() - began
            tokens = sum(map(len, examples)) / len(examples)
            supervised = sum(len(example.completion_ids) for example in examples) / len(examples)
            each = training_flops(policy.model, tokens, supervised)
            learn(training, examples, round((budget["flops"] - drawing) / each), drawing, seconds)
        trials.append(Path(config.run.output_dir))
    choose(trials, target)


def right_answers(sampler: Sampler, problems: int) -> tuple[list[Example], float]:
    """Every distinct right answer to the first `problems` prompts of the stream, and the operations that
    drawing took, as GRPO counts them."""
    found: dict[tuple[str, str], Example] = {}
    drawn = prompts = 0
    for first in range(0, problems, 256):
        episodes = sampler.draw(first, min(256, problems - first), silent)
        prompts += sum(len(e.example.prompt_ids) for e in episodes[:: sampler.sampling.num_samples])
        drawn += sum(len(episode.logprobs) for episode in episodes)
        for episode in episodes:
            if episode.grade.strict and episode.completion.finish == "stop":
                found.setdefault((episode.problem.id, episode.completion.text), episode.example)
    return list(found.values()), forward_flops(sampler.policy.model, prompts + drawn, drawn)


def learn(training: Training, examples: list[Example], samples: int, flops: float, seconds: float) -> None:
    """SFT on `examples` until `samples` were seen, the rate falling to 0; the best epoch on dev is kept.

    `flops` and `seconds` are what drawing the examples took; they count as the run's.
    """
    run, policy, state = training.run, training.policy, training.state
    batch = load_config("nano").train.per_device_train_batch_size
    total, per_epoch = max(1, samples // batch), math.ceil(len(examples) / batch)
    state.seconds = state.seconds or seconds
    policy.model.eval()
    while True:
        if (state.step % per_epoch == 0 or state.step == total) and not state.evaluated:
            training.evaluate_dev()
            training.save()
        if state.step == total:
            break
        epoch, index = divmod(state.step, per_epoch)
        order = epoch_order(tuple(map(len, examples)), batch, run.config.run.seed, epoch)
        chosen = [examples[i] for i in order[index]]
        began = time.perf_counter()
        loss, _ = accumulate_gradient(policy, chosen, batch)
        rate = run.config.train.learning_rate * (1 - state.step / total)  # linear, towards 0
        training.apply_step("policy", rate, loss)
        training.count_step(chosen, time.perf_counter() - began)
        state.flops += flops
        run.log(**state.costs, loss=loss)
    training.finish("sft")


def choose(trials: Sequence[Path], target: Path) -> None:
    """Make the trial that solved most of dev the arm."""

    def solved(trial: Path) -> int:
        lines = map(json.loads, (trial / "metrics.jsonl").read_text().splitlines())
        return max(line.get("dev_strict", 0) for line in lines)

    shutil.copytree(max(trials, key=solved), target)


def summarise(folders: Mapping[int, Path], names: Sequence[str]) -> dict[str, Any]:
    """Accuracy of every arm, paired tests against the SFT model seed by seed and over all seeds, and errors
    before and after."""
    seeds, studies = list(folders), list(folders.values())
    controls = [f"{name}{end}" for name in names if name in CONTROLS for end in ("", "-last")]
    trained = [name for name in names if name in TRAINED]
    arms = [START, *trained, *controls]
    sources = {name: [read_completion_set(study / name, split="test") for study in studies] for name in arms}
    pairs = [(name, START) for name in arms[1:]]
    pairs += [(name, control) for name in trained for control in controls]
    everything = [
        replace(source, name=f"{name}@{seed}")
        for name, found in sources.items()
        for seed, source in zip(seeds, found, strict=True)
    ]
    by_seed = {
        f"seed-{seed}": compare(
            [replace(found[i], name=name) for name, found in sources.items()],
            [(name, START) for name in arms[1:]],
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
        f"{pair.a} against {pair.b}: {100 * difference.estimate:+.1f} points, 95 % "
        f"{100 * difference.low:+.1f} to "
        f"{100 * difference.high:+.1f}, Holm p {pair.p_holm:.2g}, {pair.verdict}"
    )


def errors_of(source: CompletionSet) -> dict[str, Any]:
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
