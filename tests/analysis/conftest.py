"""A small study folder whose every number can be worked out by hand.

Test has 60 problems `p-00` to `p-59`. Each arm is right on one stretch of them (`RIGHT`), so fixed and broken counts are
differences of ranges. A wrong answer is truncated where the number ends in 8, has no number where it ends in 9, and has a
slip in its first step otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reckoner.records import Completion, Grade, Problem, write_jsonl

PROMPTS = ("0shot", "0shot-instruction", "1shot", "1shot-instruction")
TRAINED = {"full-main": ("none", "main"), "full-socratic": ("none", "socratic"), "lora-main": ("lora", "main"), "lora-socratic": ("lora", "socratic")}
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
DEV = {"0shot": 2, "0shot-instruction": 3, "1shot": 4, "1shot-instruction": 5}
BEST_PROMPT = "1shot-instruction"
TITLES = {"0shot": "zero-shot", "0shot-instruction": "zero-shot + instruction", "1shot": "one-shot", "1shot-instruction": "one-shot + instruction", "full-main": "full main", "full-socratic": "full socratic", "lora-main": "LoRA main", "lora-socratic": "LoRA socratic"}
CATEGORIES = ("buying", "sharing", "time")
STEPS = 40


@pytest.fixture(scope="session")
def study_writer() -> Callable[..., Path]:
    return write_study


@pytest.fixture(scope="session")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole fixture study, to be read only."""
    return write_study(tmp_path_factory.mktemp("study") / "nano")


def problem(index: int, question: str = "") -> Problem:
    boxes, pens, given = 2 + index % 9, 3 + index % 7, 1 + index % 3
    left = boxes * pens - given
    text = question or f"Ann has {boxes} boxes with {pens} pens each. She gives {given} to Ben. How many pens are left? ({index})"
    solution = f"Ann has {boxes}*{pens}=<<{boxes}*{pens}={boxes * pens}>>{boxes * pens} pens.\nShe keeps {boxes * pens}-{given}=<<{boxes * pens}-{given}={left}>>{left} pens.\n#### {left}"
    return Problem(f"p-{index:02d}", text, solution, str(left), "main", "fixture", CATEGORIES[index % 3], 2 + index % 4, f"t{index % 5}", index % 5 == 4)


def answer(item: Problem, index: int, right: bool, text: str = "") -> tuple[Completion, Grade]:
    """A completion and its grade."""
    wrong = item.solution.replace("\n#### ", "\n#### 1")
    first, value = item.solution.split(">>")[0].rsplit("=", 1)
    slip = item.solution.replace(f"={value}>>{value}", f"={int(value) + 1}>>{int(value) + 1}", 1).replace(f"\n#### {item.gold}", f"\n#### {int(item.gold) + 1}")
    verdict = "correct" if right else {8: "truncated", 9: "no_answer"}.get(index % 10, "wrong")
    written = {"correct": item.solution, "wrong": slip, "no_answer": "I do not know.", "truncated": wrong[:30]}[verdict]
    value = {"correct": item.gold, "wrong": str(int(item.gold) + 1)}.get(verdict)
    completion = Completion(item.id, 0, "hash", text or written, 20, "length" if verdict == "truncated" else "stop", -1.5, "run")
    return completion, Grade(item.id, 0, right, right or index % 20 == 10, value, value, verdict, int(right or verdict == "wrong"))


def write_run(folder: Path, arm: str, size: int = 60, question: str = "", text: str = "", name: str = "") -> None:
    """One finished run folder; `size` scales the ranges of `RIGHT` with the number of problems."""
    for part in ("problems", "predictions", "grades"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    low, high = (size * bound // 60 for bound in RIGHT[arm])
    items = [problem(index, question) for index in range(size)]
    pairs = [answer(item, index, low <= index < high, text) for index, item in enumerate(items)]
    prompt = arm if arm in PROMPTS else "0shot"
    files = {part: f"{part}/test-{prompt}.jsonl" for part in ("predictions", "grades")} | {"problems": "problems/test.jsonl"}
    write_jsonl(folder / files["problems"], items)
    write_jsonl(folder / files["predictions"], [completion for completion, _ in pairs])
    write_jsonl(folder / files["grades"], [grade for _, grade in pairs])
    verdicts = [grade.verdict for _, grade in pairs]
    test = {
        "split": "test",
        "prompt": prompt,
        "prompt_hash": f"{PROMPTS.index(prompt):08x}",
        "n": size,
        "strict": high - low,
        "flexible": sum(grade.flexible for _, grade in pairs),
        "no_answer": verdicts.count("no_answer"),
        "truncated": verdicts.count("truncated"),
        "multi_marker": 0,
        "tokens": 20 * size,
        "seconds": 6.0,
        "decoding": "greedy",
        "max_new_tokens": 96,
        "reads": 1,
        **files,
    }
    dev = {**test, "split": "dev", "n": 40, "strict": DEV.get(arm, 20)}
    peft, variant = TRAINED.get(arm, ("none", "main"))
    document = {
        "name": name or arm,
        "method": "prompt" if arm in PROMPTS else "sft",
        "peft": peft,
        "variant": variant,
        "init": None,
        "seed": 0,
        "grader": "reckoner-1",
        "status": "finished",
        "evaluations": [dev, test],
        "training": training(folder, arm, peft) if arm in TRAINED else None,
    }
    write(folder / "summary.json", document)
    write(folder / "environment.json", {"python": "3.11.2", "system": "Linux x86_64", "processor": "fixture", "cores": 2, "versions": {"torch": "2.13.0", "transformers": "5.23.0"}, "commit": "0" * 40})
    write(folder / "data.json", {"source": "nano", "variant": variant, "files": [{"path": "nano", "sha256": "ab" * 32, "rows": 7473}], "sizes": {"train": 6973, "dev": 40, "test": size}, "supervised_tokens": 400_000, "dropped": [], "lengths": {"p50": 90, "max": 180}})
    shown = f"Question: {items[0].question}\nAnswer:"
    write(folder / "prompt.json", {"name": prompt, "hash": test["prompt_hash"], "template": "Question: {question}\nAnswer:", "instruction": "", "shots": [], "chat_template": False, "rendered": f"<bos>{shown}", "token_ids": [1, 2, 3]})
    (folder / "config.yaml").write_text(f"# digest: 00ff\nmodel:\n  model_name_or_path: nano\nrun:\n  seed: 0\n  output_dir: {json.dumps(name or arm)}\n")


def training(folder: Path, arm: str, peft: str) -> dict[str, object]:
    """Write metrics.jsonl (loss falls from 4 to about 1, one step takes half a second) and return the summary of it."""
    floor = {"none": 1.0, "lora": 1.2}[peft] - (0.1 if "socratic" in arm else 0)
    lines: list[dict[str, object]] = [{"step": 0, "dev_loss": 4.0, "dev_token_accuracy": 0.1, "dev_strict": 0, "dev_n": 40}]
    for step in range(1, STEPS + 1):
        loss = floor + (4 - floor) * 0.85 ** (step - 1) + 0.05 * (step % 2)
        lines.append({"step": step, "epoch": step / STEPS, "loss": loss, "learning_rate": 1e-3, "grad_norm": 1.0, "tokens": 5000 * step, "supervised_tokens": 2500 * step, "samples": 32 * step, "seconds": 0.5 * step, "token_accuracy": 0.5})
        if step % 10 == 0:
            lines.append({"step": step, "dev_loss": loss + 0.1, "dev_token_accuracy": 0.6, "dev_strict": step // 2, "dev_n": 40})
    write_jsonl(folder / "metrics.jsonl", lines)
    return {
        "steps": STEPS,
        "epochs": 1.0,
        "samples": 32 * STEPS,
        "tokens": 5000 * STEPS,
        "supervised_tokens": 2500 * STEPS,
        "flops": 1e12,
        "seconds": 0.5 * STEPS,
        "peak_memory_bytes": 1_400_000_000 if peft == "none" else 900_000_000,
        "parameters": 1_000_000,
        "trainable_parameters": 1_000_000 if peft == "none" else 60_000,
        "loss_first": 4.05,
        "loss_final": floor + 0.03,
        "dev_loss_first": 4.0,
        "dev_loss_final": floor + 0.1,
        "learning_rate": 1e-3,
        "best_step": STEPS,
    }


def write_study(folder: Path, arms: tuple[str, ...] = tuple(RIGHT), size: int = 60, question: str = "", text: str = "", name: str = "") -> Path:
    """A study of `arms`, and after them one refused, one failed and one waiting arm. Hostile text goes where it is given."""
    for arm in arms:
        write_run(folder / arm, arm, size, question, text, name)
    listed = [{"name": arm, "title": name or TITLES[arm], "method": "prompt" if arm in PROMPTS else "sft", "folder": arm, "after": [], "state": "done", "reason": ""} for arm in arms]
    lost = {
        "refused": name or "data: the socratic train file is not there",
        "failed": name or "loss is not finite at step 7",
        "waiting": name or "waits for full-socratic",
    }
    listed += [{"name": state, "title": f"{state} arm", "method": "sft", "folder": state, "after": ["full-main"], "state": state, "reason": reason} for state, reason in lost.items()]
    pairs = [[arm, "best-prompt"] for arm in arms if arm in TRAINED] + [["full-main", "lora-main"], ["full-socratic", "lora-socratic"], ["full-main", "refused"]]
    known = {*arms, "best-prompt", "refused"}
    document = {
        "name": name or "nano",
        "preset": "nano",
        "seed": 0,
        "model": name or "nano",
        "baseline": "best-prompt",
        "arms": listed,
        "pairs": [pair for pair in pairs if known.issuperset(pair)],
    }
    write(folder / "study.json", document)
    return folder


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="ascii")
