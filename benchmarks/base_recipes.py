"""Sizes and recipes of the base model, pretrained on equally many tokens, beside bases that are there: why
the embedded one is as it is.

    python benchmarks/base_recipes.py --only wide deep    minutes for each; goes on where it was stopped
    python benchmarks/base_recipes.py --base NAME=FOLDER  a base that is made already

A recipe is one stage from random weights, on the text of the third stage, and changes one thing of the first
recipe. After pretraining: one-shot prompting, then full SFT on `main` with the settings of the nano preset,
both on dev (test is never read here), and the single calculations of the fine-tuned model. All share the
preset's learning rate of fine-tuning, which was searched for the embedded size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from base_model import calculations, scores, share_of, size

from reckoner import console
from reckoner.algorithms import sft
from reckoner.analysis.readers import read_completion_set
from reckoner.config import load_config
from reckoner.evaluation.evaluate import evaluate_model
from reckoner.runs.folder import environment, write_json
from reckoner.runs.records import read_json

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "benchmarks" / "results" / "base-recipes.json"
RECIPES: dict[str, str] = {
    "embedded": "",
    "narrow": "--hidden 64 --intermediate 256",
    "slim": "--hidden 96 --intermediate 384",
    "wide": "--hidden 192 --heads 6 --intermediate 768",
    "shallow": "--layers 3",
    "deep": "--layers 6",
    "larger-batch": "--rows 16",
    "smaller-batch": "--rows 2",
    "adamw": "--optimizer adamw --learning-rate 3e-3",
    "explain-half": "--practised-share 50",
    "explain-all": "--practised-share 100",
    "operands-count": "--given-weight 1",
}
"""What each recipe changes, as arguments of scripts/pretrain_nano.py."""


def main() -> None:
    """Measure the recipes asked for that `--work` does not hold yet, and store all that it holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--tokens", type=float, default=1.5e6, help="of pretraining, for each recipe")
    parser.add_argument(
        "--base",
        nargs="*",
        metavar="NAME=FOLDER",
        default=[],
        help="instead of the recipes: bases that are there",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/base-recipes"))
    parser.add_argument("settings", nargs="*", help="section.key=value of fine-tuning")
    given = parser.parse_args()
    bases = {name: Path(folder) for name, _, folder in (one.partition("=") for one in given.base)}
    for name in bases or given.only:
        if not (given.work / name / "outcome.json").is_file():
            base = bases.get(name) or pretrain(RECIPES[name], given.work / name, given.tokens)
            write_json(given.work / name / "outcome.json", measure(base, given.work / name, given.settings))
    outcomes = {path.parent.name: read_json(path) for path in sorted(given.work.glob("*/outcome.json"))}
    result = {
        "command": "python benchmarks/base_recipes.py",
        "seed": 0,
        "recipes": outcomes,
        "environment": environment(),
    }
    write_json(OUTPUT, result)
    console.table(HEADERS, [row(name, one) for name, one in outcomes.items()])


def pretrain(change: str, folder: Path, tokens: float) -> Path:
    """Pretrain one recipe as a process of its own, unless that is done, and return the model folder."""
    base, words = folder / "base", change.split()
    rows = int(words[words.index("--rows") + 1]) if "--rows" in words else 4
    words += [
        "--mixture",
        "annotated",
        "--steps",
        str(round(tokens / rows / 256)),
        "--out",
        str(base),
        "--work",
        str(folder / "pretraining"),
    ]
    if not (base / "manifest.json").is_file():
        subprocess.run([sys.executable, str(ROOT / "scripts" / "pretrain_nano.py"), *words], check=True)
    return base


def measure(base: Path, folder: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Prompt a base, fine-tune it, and say what dev says."""
    facts = read_json(base / "pretraining.json")
    stages = list(stages_of(facts))
    evaluate_model(config(base, folder / "prompted", *settings, "prompt.shots=1", "eval.split=dev"))
    training = sft.train(config(base, folder / "tuned", *settings))["training"]
    evaluate_model(
        load_config(
            "",
            [folder / "tuned" / "config.yaml"],
            [f"model.model_name_or_path={folder / 'tuned'}", "eval.split=dev"],
        )
    )
    tuned = read_completion_set(folder / "tuned", split="dev")
    return {
        "settings": facts["settings"],
        "shares": facts["shares"],
        "parameters": facts["parameters"],
        **size(base),
        "wheel_bytes": packed(base),
        "stages": len(stages),
        "pretraining_seconds": sum(done["seconds"] for done in stages),
        "pretraining_tokens": sum(done["tokens"] for done in stages),
        "pretraining_loss": facts["done"]["loss"],
        "arithmetic_of_the_base": facts["results"]["arithmetic"],
        "prompted": scores(read_completion_set(folder / "prompted", split="dev")),
        "tuned": scores(tuned),
        "tuning_epochs": training["epochs"],
        "tuning_seconds": training["seconds"],
        "calculations": calculations(tuned),
        "threads": torch.get_num_threads(),
    }


def stages_of(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What each stage of pretraining did, the last one first."""
    yield facts["done"]
    if before := facts.get("before"):
        yield from stages_of(before)


def config(model: Path, folder: Path, *settings: str) -> Any:
    """The nano preset's full SFT on `main`, on another base."""
    arm = load_config("nano").study.arms["full-main"].set
    rate = f"train.learning_rate={arm['train']['learning_rate']}"
    return load_config(
        "nano", [], [f"model.model_name_or_path={model}", f"run.output_dir={folder}", rate, *settings]
    )


def packed(folder: Path) -> int:
    """Bytes that the model adds to a wheel, which deflates each file on its own."""
    return sum(len(zlib.compress(path.read_bytes())) for path in folder.iterdir())


HEADERS = [
    "recipe",
    "change",
    "parameters",
    "in the wheel",
    "stages",
    "tokens seen",
    "pretraining took",
    "one-shot",
    "flexible",
    "SFT",
    "SFT took",
    "calculations",
]


def row(name: str, one: dict[str, Any]) -> list[str]:
    """One recipe as a row of the table; accuracies on dev."""
    prompted, tuned = one["prompted"], one["tuned"]
    return [
        name,
        RECIPES.get(name, ""),
        f"{one['parameters']:,}",
        f"{one['wheel_bytes'] / 1e6:.1f} MB",
        str(one["stages"]),
        f"{one['pretraining_tokens'] / 1e6:.1f} M",
        f"{one['pretraining_seconds'] / 60:.0f} min",
        f"{100 * prompted['strict'] / prompted['n']:.1f} %",
        f"{100 * prompted['flexible'] / prompted['n']:.1f} %",
        f"{100 * tuned['strict'] / tuned['n']:.1f} %",
        f"{one['tuning_seconds']:.0f} s",
        f"{100 * share_of(one['calculations'].values()):.1f} %",
    ]


if __name__ == "__main__":
    main()
