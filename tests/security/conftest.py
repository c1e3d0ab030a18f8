"""What the tests of hostile input share: the command line in this process, and a finished run whose every
text is chosen."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reckoner.cli import main
from reckoner.runs.integrity import MANIFEST, manifest, run_files
from reckoner.runs.records import Completion, Grade, Problem, write_json, write_jsonl


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def reckon(capsys, monkeypatch, tmp_path) -> Callable[..., Outcome]:
    """Run one command line in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def refused(reckon) -> Callable[..., str]:
    """Run a command that must end with code 2 (or 75, where the disk is at fault) and one clear line, and
    return the line.

    A verb that names every fault of its data at once may write up to `lines`.
    """

    def run(*arguments: object, says: str = "", stdin: bytes = b"", lines: int = 1) -> str:
        found = reckon(*arguments, stdin=stdin)
        assert found.code in (2, 75), found
        said = [line for line in found.err.split("\n") if line.startswith("reckon: ")]
        assert 1 <= len(said) <= lines and found.err.endswith("\n".join(said) + "\n"), found.err
        assert max(map(len, said)) < 1100
        assert says in said[0] and "Traceback" not in found.err and found.err.replace("\n", "").isprintable()
        return said[0]

    return run


EVALUATION = {
    "split": "test",
    "prompt": "0shot",
    "prompt_hash": "h",
    "n": 2,
    "strict": 1,
    "flexible": 1,
    "no_answer": 0,
    "truncated": 0,
}
EVALUATION |= {
    "multi_marker": 0,
    "tokens": 8,
    "seconds": 1.0,
    "decoding": "greedy",
    "max_new_tokens": 9,
    "grader": "reckoner-2",
}
EVALUATION |= {part: f"{part}/test-0shot.jsonl" for part in ("problems", "predictions", "grades")}


def write_run(
    folder: Path,
    texts: Sequence[str] = ("ours",),
    summary: dict[str, Any] | None = None,
    **changes: dict[str, Any],
) -> Path:
    """A prompting run of one right and one wrong answer for each text, which stands in every place where
    foreign text can.

    `summary` changes fields of summary.json; `evaluation`, `problem`, `completion` and `grade` those of the
    records.
    """
    problems, completions, grades = [], [], []
    for index, text in enumerate(texts):
        for right in (True, False):
            name = f"{index}-{right} {text}"
            problems.append(
                Problem(
                    name, f"What is 3+4? {text}", f"3+4=<<3+4=7>>7 {text}\n#### 7", "7", "main", "x", text
                )
            )
            said = f"3+4=<<3+4={7 if right else 8}>> {text}\n#### {7 if right else 8}"
            completions.append(Completion(name, 0, "h", said, 4, "stop", -1.0, text))
            grades.append(
                Grade(
                    name,
                    0,
                    right,
                    right,
                    "7" if right else "8",
                    "7" if right else "8",
                    "correct" if right else "wrong",
                    1,
                )
            )
    counts = {"n": len(grades), "strict": len(texts), "flexible": len(texts)}
    for kind, records in (("problem", problems), ("completion", completions), ("grade", grades)):
        lines = [json.loads(json.dumps(vars_of(record))) | changes.get(kind, {}) for record in records]
        path = folder / ("predictions" if kind == "completion" else f"{kind}s") / "test-0shot.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, lines)
    document = {
        "name": folder.name,
        "method": "prompt",
        "peft": "none",
        "variant": "main",
        "init": None,
        "seed": 0,
        "grader": "reckoner-2",
    }
    evaluation = EVALUATION | counts | changes.get("evaluation", {})
    document |= {"status": "finished", "training": None, "evaluations": [evaluation]} | (summary or {})
    (folder / "summary.json").write_text(json.dumps(document))
    return sign(folder)


def sign(run: Path) -> Path:
    """Write the manifest of a run over the files that lie there."""
    write_json(run / MANIFEST, manifest(run, run_files(run)))
    return run


def vars_of(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def write_study(folder: Path, texts: Sequence[str], **fields: Any) -> Path:
    """A study of two prompting runs whose titles, reasons and commands are foreign too."""
    text = texts[0]
    arms = []
    for name in ("one", "two"):
        write_run(folder / name, texts, {"name": name})
        shown = {
            "rendered": text,
            "name": text,
            "hash": "h",
            "shots": [],
            "chat_template": False,
            "token_ids": [1],
        }
        (folder / name / "prompt.json").write_text(json.dumps(shown))
        (folder / name / "environment.json").write_text(
            json.dumps({"processor": text, "cores": 2, "versions": {"torch": text}, "commit": text})
        )
        (folder / name / "config.yaml").write_text(f"# {json.dumps(text)}\n")
        sign(folder / name)
        arms.append(
            {
                "name": name,
                "title": f"{name} {text}",
                "method": "prompt",
                "folder": name,
                "state": "done",
                "reason": "",
                "after": [],
            }
        )
    arms.append(
        {
            "name": "three",
            "title": text,
            "method": "sft",
            "folder": "three",
            "state": "failed",
            "reason": text,
            "after": [],
        }
    )
    document = {
        "name": text,
        "preset": text,
        "seed": 0,
        "model": text,
        "command": text,
        "arms": arms,
        "pairs": [["one", "two"]],
    }
    (folder / "study.json").write_text(json.dumps(document | fields))
    return folder


@pytest.fixture
def tiny_settings() -> Callable[[Path], Any]:
    """A configuration that writes into a given folder; nothing is loaded for it."""
    from reckoner.config import Config, RunConfig

    return lambda folder: Config(run=RunConfig(output_dir=str(folder)))


TOKENS = {
    "HF_TOKEN": "hf_" + "Qx7" * 11,
    "WANDB_API_KEY": "0a1b2c3d" * 5,
    "AWS_SECRET_ACCESS_KEY": "wJalr/XUtn+FEMI" * 2,
    "OPENAI_API_KEY": "sk-proj-" + "Zz9_" * 9,
    "GITHUB_TOKEN": "ghp_" + "aB3" * 12,
    "HUB_PASSWORD": "correct horse battery",
}
"""Fake secrets in the environment; the last is given as a setting too."""

SETTINGS = """
model: {model_name_or_path: ../base}
data: {path: ../data/train.jsonl, test_path: ../data/test.jsonl, dev_size: 6}
prompt: {chat_template: "off"}
train: {learning_rate: 1e-3, per_device_train_batch_size: 4, gradient_accumulation_steps: 2}
rollout: {num_prompts: 4, num_generations: 2, max_steps: 1, patience: 0, kl_samples: 4}
eval: {dev_samples: 2}
run: {threads: 1}
study:
  name: guarded
  arms:
    zero: {method: prompt}
    full: {method: sft}
    lora: {method: sft, set: {peft: {method: lora, lora_r: 2}}}
    ppo: {method: ppo, init: full}
    grpo: {method: grpo, init: full}
"""
VERBS = [
    ["--version"],
    ["doctor"],
    ["doctor", "--json"],
    ["study", "--config", "study.yaml", "run.output_dir=s"],
    ["study", "--config", "study.yaml", "run.output_dir=s", "--dry-run"],
    ["report", "s"],
    ["verify", "s"],
    ["verify", "s/lora", "--json"],
    ["eval", "s/full", "eval.split=dev"],
    ["predict", "s/lora", "--input", "../data/test.jsonl", "--output", "p.jsonl"],
    ["chat", "s/grpo"],
    ["compare", "s/full", "s/lora", "--split", "test"],
    ["errors", "s/full", "--split", "test"],
    ["errors", "s/full", "s/lora", "--split", "test", "--html", "e.html"],
    ["rollouts", "s/grpo"],
    ["rollouts", "s/ppo", "--json"],
    ["merge", "s/lora", "merged"],
    ["grade", "graded.jsonl", "--output", "g.jsonl"],
    ["plan", "--config", "study.yaml"],
    ["data", "stats", "--config", "study.yaml", "--tokens"],
    ["data", "show-labels", "--config", "study.yaml"],
    ["data", "make", "--n", "3"],
    ["sft", "--init", "s/full", "--config", "study.yaml", "run.output_dir=more"],
]
REFUSED = [
    ["sft", "--config", "study.yaml", f"model.hf_token={TOKENS['HUB_PASSWORD']}"],
    ["sft", "--config", "study.yaml", f"prompt.instruction={TOKENS['HUB_PASSWORD']}", "--debug"],
    ["eval", f"https://user:{TOKENS['GITHUB_TOKEN']}@host/model"],
    ["sft", f"model.model_name_or_path={TOKENS['HF_TOKEN']}"],
    ["sft", "--hub-token", TOKENS["HF_TOKEN"]],
]
GUARD = """
import os, sys
def watch(event, arguments):
    calls = ("connect", "getaddrinfo", "gethostbyname", "sendto", "sendmsg", "bind")
    if event in ["socket." + call for call in calls]:
        os.write(2, f"NETWORK: {event} {arguments}\\n".encode())
        os._exit(99)
sys.addaudithook(watch)
"""
DRIVER = """
import io, json, sys
from reckoner.cli import main
codes = []
for arguments in json.load(open("verbs.json")):
    print("VERB", *arguments[:1], file=sys.stderr)
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"What is 3+4?\\n"), encoding="utf-8")
    codes.append(main(arguments))
json.dump(codes, open("codes.json", "w"))
"""


@dataclass(frozen=True)
class Session:
    """Every verb, run one after the other in a process of its own that has secrets in its environment and no
    network."""

    root: Path
    folder: Path
    code: int
    out: bytes
    err: bytes


@pytest.fixture(scope="session")
def session(tiny_model, tmp_path_factory) -> Session:
    from reckoner.nano import stream

    root = tmp_path_factory.mktemp("guarded")
    folder, data, guard = root / "work", root / "data", root / "guard"
    for place in (folder, data, guard):
        place.mkdir()
    shutil.copytree(tiny_model, root / "base")
    rows = [{"question": p.question, "answer": p.solution} for p in stream(48, 7, "main")]
    write_jsonl(data / "train.jsonl", rows[:42])
    write_jsonl(data / "test.jsonl", rows[42:])
    write_jsonl(folder / "graded.jsonl", [{"id": "1", "completion": "#### 7", "gold": "7"}])
    (folder / "study.yaml").write_text(SETTINGS)
    (folder / "verbs.json").write_text(json.dumps(VERBS + REFUSED))
    (guard / "sitecustomize.py").write_text(GUARD)
    hidden = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = (
        {name: value for name, value in os.environ.items() if name not in hidden}
        | TOKENS
        | {"PYTHONPATH": os.pathsep.join([str(guard), *sys.path])}
    )
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=folder, env=environment, capture_output=True, timeout=600
    )
    return Session(root, folder, done.returncode, done.stdout, done.stderr)
