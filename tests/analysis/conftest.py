"""A small study folder whose every number can be worked out by hand.

Test has 60 problems `p-00` to `p-59`. Each arm is right on one stretch of them (`RIGHT`), so fixed and broken
counts are differences of ranges. A wrong answer is truncated where the number ends in 8, has no number where
it ends in 9, and has a slip in its first step otherwise. Every twentieth problem, from the tenth, is flexibly
right.
"""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reckoner.runs.records import Completion, Grade, Problem, write_jsonl

RIGHT = {
    "0shot": (0, 2),
    "0shot-instruction": (0, 3),
    "1shot": (0, 6),
    "1shot-instruction": (0, 5),
    "full-main": (2, 36),
    "full-socratic": (4, 36),
    "lora-main": (2, 33),
    "lora-socratic": (4, 30),
}
LEARNED = {"ppo": (0, 48), "grpo": (4, 38)}
"""Arms of reinforcement learning from full main, in a study of their own."""
DEV = {"0shot": 2, "0shot-instruction": 3, "1shot": 4, "1shot-instruction": 5}
TITLES = dict(
    zip(
        RIGHT,
        (
            "zero-shot",
            "zero-shot + instruction",
            "one-shot",
            "one-shot + instruction",
            "full main",
            "full socratic",
            "LoRA main",
            "LoRA socratic",
        ),
        strict=True,
    )
)
TITLES |= {"ppo": "PPO from full main", "grpo": "GRPO from full main"}
METHODS = dict.fromkeys(DEV, "prompt") | {"ppo": "ppo", "grpo": "grpo"}
CATEGORIES = ("buying", "sharing", "time")
STEPS = 40


@pytest.fixture(scope="session")
def study_writer() -> Callable[..., Path]:
    return write_study


@pytest.fixture(scope="session")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole fixture study, to be read only."""
    return write_study(tmp_path_factory.mktemp("study") / "nano")


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    """The study of the fixtures in which full main and LoRA main ran three times, the same each time."""
    folder = write_study(tmp_path / "s", ("1shot", "full-main", "lora-main"))
    path = folder / "study.json"
    document = json.loads(path.read_text())
    for arm in document["arms"][1:3]:
        whole = folder / arm["folder"]
        runs = [{"seed": s, "folder": f"{arm['name']}/seed-{s}", "state": "done"} for s in (4, 5, 6)]
        for run in runs:
            shutil.copytree(whole, folder / "new" / run["folder"])
        shutil.rmtree(whole)
        shutil.move(folder / "new" / arm["name"], whole)
        arm["runs"] = runs
    path.write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="session")
def learned_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with PPO and GRPO from full main, to be read only."""
    return write_study(tmp_path_factory.mktemp("learned") / "nano", ("1shot", "full-main", "ppo", "grpo"))


@pytest.fixture(scope="session")
def unpack() -> Callable[[str], Any]:
    """The data of a page from the text of their element."""
    return lambda text: json.loads(zlib.decompress(base64.b64decode(text, validate=True)))


class Words:
    """Texts of a study: its own, or `strings` in turn wherever a text of foreign origin stands."""

    def __init__(self, strings: Sequence[str] = ()) -> None:
        self.strings, self.turn = strings, -1

    def __call__(self, own: str) -> str:
        self.turn += 1
        return self.strings[self.turn % len(self.strings)] if self.strings else own


def problem(index: int, words: Words) -> Problem:
    boxes, pens, given = 2 + index % 9, 3 + index % 7, 1 + index % 3
    full, left = boxes * pens, boxes * pens - given
    question = words(
        f"Ann has {boxes} boxes with {pens} pens each. She gives {given} to Ben. "
        f"How many pens are left? ({index})"
    )
    solution = (
        f"Ann has {boxes}*{pens}=<<{boxes}*{pens}={full}>>{full} pens.\n"
        f"She keeps {full}-{given}=<<{full}-{given}={left}>>{left} pens.\n#### {left}"
    )
    return Problem(
        f"p-{index:02d}",
        question,
        solution,
        str(left),
        "main",
        "fixture",
        CATEGORIES[index % 3],
        2 + index % 4,
        f"t{index % 5}",
        index % 5 == 4,
    )


def answer(item: Problem, index: int, right: bool, words: Words) -> tuple[Completion, Grade]:
    """A completion and its grade."""
    full = item.solution.split(">>")[0].rsplit("=", 1)[1]
    slip = item.solution.replace(f"={full}>>", f"={int(full) + 1}>>", 1).replace(
        f"#### {item.gold}", f"#### {int(item.gold) + 1}"
    )
    verdict = "correct" if right else {8: "truncated", 9: "no_answer"}.get(index % 10, "wrong")
    text = {"correct": item.solution, "wrong": slip, "no_answer": "I do not know.", "truncated": slip[:30]}[
        verdict
    ]
    value = {"correct": item.gold, "wrong": str(int(item.gold) + 1)}.get(verdict)
    completion = Completion(
        item.id, 0, "hash", words(text), 20, "length" if verdict == "truncated" else "stop", -1.5, "run"
    )
    return completion, Grade(
        item.id, 0, right, right or index % 20 == 10, value, value, verdict, int(right or verdict == "wrong")
    )


def write_run(folder: Path, arm: str, size: int, words: Words) -> None:
    """One finished run folder; `size` stretches the ranges of `RIGHT` to another number of problems."""
    for part in ("problems", "predictions", "grades"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    low, high = (size * bound // 60 for bound in (RIGHT | LEARNED)[arm])
    items = [problem(index, words) for index in range(size)]
    answers = [answer(item, index, low <= index < high, words) for index, item in enumerate(items)]
    prompt = arm if arm in DEV else "0shot"
    files = {
        "problems": "problems/test.jsonl",
        "predictions": f"predictions/test-{prompt}.jsonl",
        "grades": f"grades/test-{prompt}.jsonl",
    }
    write_jsonl(folder / files["problems"], items)
    write_jsonl(folder / files["predictions"], [completion for completion, _ in answers])
    write_jsonl(folder / files["grades"], [grade for _, grade in answers])
    verdicts = [grade.verdict for _, grade in answers]
    test = {
        "split": "test",
        "prompt": prompt,
        "prompt_hash": f"hash-{prompt}",
        "n": size,
        "strict": high - low,
    }
    test |= {
        "flexible": sum(grade.flexible for _, grade in answers),
        "no_answer": verdicts.count("no_answer"),
        "truncated": verdicts.count("truncated"),
    }
    test |= {
        "multi_marker": 0,
        "tokens": 20 * size,
        "seconds": 6.0,
        "decoding": "greedy",
        "max_new_tokens": 96,
        "reads": 1,
        **files,
    }
    trained = arm not in DEV
    peft, variant = "lora" if "lora" in arm else "none", "socratic" if "socratic" in arm else "main"
    summary = {
        "name": arm,
        "method": arm if arm in LEARNED else "sft" if trained else "prompt",
        "peft": peft,
        "variant": variant,
        "init": None,
        "seed": 0,
        "grader": "reckoner-2",
    }
    summary |= {
        "evaluations": [
            {**test, "split": "dev", "n": 40, "strict": DEV.get(arm, 20), "flexible": DEV.get(arm, 20)},
            test,
        ],
        "training": reinforcement(folder)
        if arm in LEARNED
        else training(folder, peft, variant)
        if trained
        else None,
    }
    write(folder / "summary.json", summary)
    write(
        folder / "environment.json",
        {
            "processor": words("a processor"),
            "cores": 2,
            "versions": {"torch": words("2.13.0")},
            "commit": "0123456789abcdef",
        },
    )
    write(
        folder / "data.json",
        {
            "source": "nano",
            "files": [{"path": words("nano"), "sha256": "ab" * 32, "rows": 7473}],
            "dropped": [],
        },
    )
    shown = words(f"<bos>Question: {items[0].question}\nAnswer:")
    write(
        folder / "prompt.json",
        {
            "name": prompt,
            "hash": f"hash-{prompt}",
            "shots": [],
            "chat_template": False,
            "rendered": shown,
            "token_ids": [1, 2, 3],
        },
    )
    config = f"# digest: 00ff\nmodel:\n  model_name_or_path: {words('nano')}\nrun:\n  seed: 0\n"
    (folder / "config.yaml").write_text(config, encoding="utf-8", errors="surrogatepass")


def training(folder: Path, peft: str, variant: str) -> dict[str, Any]:
    """Write metrics.jsonl: loss falls from 4 to about 1; full main takes 0.5 s and 5,000 tokens a step."""
    floor, pace, solved = (1.0, 0.5, 0.5) if peft == "none" else (1.2, 0.4, 0.45)
    tokens = 5000
    if variant == "socratic":
        floor, pace, solved, tokens = floor - 0.1, pace * 1.2, solved - 0.1, 6000
    lines: list[dict[str, Any]] = [{"step": 0, "dev_loss": 4.0, "dev_strict": 0, "dev_n": 40}]
    for step in range(1, STEPS + 1):
        loss = floor + (4 - floor) * 0.85 ** (step - 1) + 0.05 * (step % 2)
        lines.append(
            {
                "step": step,
                "loss": loss,
                "tokens": tokens * step,
                "samples": 32 * step,
                "seconds": pace * step,
            }
        )
        if step % 10 == 0:
            lines.append(
                {"step": step, "dev_loss": loss + 0.1, "dev_strict": int(solved * step), "dev_n": 40}
            )
    write_jsonl(folder / "metrics.jsonl", lines)
    summary = {
        "steps": STEPS,
        "samples": 32 * STEPS,
        "tokens": tokens * STEPS,
        "supervised_tokens": 2500 * STEPS,
        "seconds": pace * STEPS,
        "flops": 1e12,
    }
    summary |= {
        "peak_memory_bytes": 1_400_000_000 if peft == "none" else 900_000_000,
        "parameters": 1_000_000,
    }
    summary |= {
        "trainable_parameters": 1_000_000 if peft == "none" else 60_000,
        "loss_first": 4.05,
        "loss_final": floor + 0.03,
    }
    return summary | {
        "dev_loss_first": 4.0,
        "dev_loss_final": floor + 0.1,
        "learning_rate": 1e-3,
        "best_step": STEPS,
    }


def reinforcement(folder: Path) -> dict[str, Any]:
    """Write metrics.jsonl of 20 steps: reward rises from 0.42 to 0.80.

    64 completions of 30 tokens take half a second to draw.
    """
    lines: list[dict[str, Any]] = [
        {"step": 0, "seconds": 0.0, "dev_loss": 1.0, "dev_strict": 16, "dev_n": 40}
    ]
    for step in range(1, 21):
        seconds = {"seconds_generate": 0.5, "seconds_score": 0.1, "seconds_update": 0.4}
        counts = {
            "completions": 64,
            "length": 30.0,
            "trained_tokens": 1500,
            "tokens": 2000 * step,
            "samples": 8 * step,
        }
        health = {
            "kl_reference": 0.001 * step,
            "entropy": 0.5 - 0.01 * step,
            "format_rate": 0.95,
            "exact_match": 0.4 + 0.02 * step,
        }
        lines.append(
            {"step": step, "reward": 0.4 + 0.02 * step, "seconds": float(step), **health, **counts, **seconds}
        )
        if step % 10 == 0:
            lines.append(
                {
                    "step": step,
                    "seconds": float(step),
                    "dev_loss": 1.1,
                    "dev_strict": 16 + step // 2,
                    "dev_n": 40,
                }
            )
    write_jsonl(folder / "metrics.jsonl", lines)
    summary = {
        "steps": 20,
        "samples": 160,
        "tokens": 40_000,
        "supervised_tokens": 30_000,
        "seconds": 20.0,
        "flops": 1e12,
        "peak_memory_bytes": 1_500_000_000,
    }
    summary |= {
        "parameters": 1_000_000,
        "trainable_parameters": 1_000_000,
        "loss_first": None,
        "loss_final": None,
    }
    return summary | {"dev_loss_first": 1.0, "dev_loss_final": 1.1, "learning_rate": 1e-4, "best_step": 20}


def write_study(
    folder: Path, arms: Sequence[str] = tuple(RIGHT), size: int = 60, strings: Sequence[str] = ()
) -> Path:
    """A study of `arms`, and after them one refused, one failed and one waiting arm.

    With `strings`, these stand in turn for every question, answer, title, reason, prompt and configuration.
    """
    words = Words(strings)
    for arm in arms:
        write_run(folder / arm, arm, size, words)
    listed = [
        {
            "name": arm,
            "title": words(TITLES[arm]),
            "method": METHODS.get(arm, "sft"),
            "folder": arm,
            "after": ["full-main"] * (arm in LEARNED),
            "state": "done",
        }
        for arm in arms
    ]
    for state, reason in {
        "refused": "the socratic train file is not there",
        "failed": "loss is not finite at step 7",
        "waiting": "",
    }.items():
        listed.append(
            {
                "name": state,
                "title": words(f"{state} arm"),
                "method": "sft",
                "folder": state,
                "after": ["full-main"],
                "state": state,
                "reason": words(reason),
            }
        )
    declared = [
        ["full-main", "best-prompt"],
        ["full-socratic", "best-prompt"],
        ["lora-main", "best-prompt"],
        ["lora-socratic", "best-prompt"],
    ]
    declared += [[arm, other] for arm in LEARNED for other in ("best-prompt", "full-main")] + [
        ["grpo", "ppo"]
    ]
    declared += [["full-main", "lora-main"], ["full-socratic", "lora-socratic"], ["full-main", "refused"]]
    known = {*arms, "best-prompt", "refused"}
    document = {
        "name": words("nano"),
        "preset": "nano",
        "seed": 0,
        "model": words("nano"),
        "command": words("reckon study"),
        "arms": listed,
    }
    write(folder / "study.json", {**document, "pairs": [pair for pair in declared if known.issuperset(pair)]})
    return folder


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="ascii")
