"""What pretraining leaves behind: the model folder, its manifest, its measurements and its card."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pretrain_text import BRACKETS, EDITION, SHARES, TAUGHT, annotated, documents
from torch.nn import functional
from transformers import GemmaForCausalLM, PreTrainedTokenizerFast

from reckoner import nano
from reckoner.models.policy import for_transformers_4
from reckoner.runs.records import Problem

FACTS = "pretraining.json"
UNMEASURED = "Not measured yet: `python benchmarks/base_model.py` measures it and writes this section."


def write_model(out: Path, model: GemmaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write bf16 weights, configs and tokenizer, which plain transformers loads."""
    model.to(torch.bfloat16).save_pretrained(out)
    model.float()
    tokenizer.save_pretrained(out)
    # bf16 saves space; what loads the model by default computes in fp32, as every figure here was measured
    config = (out / "config.json").read_text(encoding="utf-8")
    (out / "config.json").write_text(config.replace('"bfloat16"', '"float32"'), encoding="utf-8")
    for_transformers_4(out / "tokenizer_config.json")


def write_manifest(out: Path) -> None:
    """Write the sha256 of every file but the card, which `reckoner.models.sources` checks at load."""
    files = sorted(
        path for path in out.iterdir() if path.is_file() and path.name not in {"manifest.json", "CARD.md"}
    )
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (out / "manifest.json").write_text(json.dumps({"sha256": digests}, indent=1) + "\n")


def loss_by_kind(
    model: GemmaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, shard: int
) -> dict[str, float]:
    """Mean next-token loss in nats of held-out documents of `mixture`, by kind."""
    total: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for document in islice(documents(seed, shard), 400):
        ids = torch.tensor([[*tokenizer(document.text)["input_ids"], tokenizer.eos_token_id]])[:, :1024]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].float()
        total[document.kind] += functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count[document.kind] += ids.shape[1] - 1
    return {kind: total[kind] / count[kind] for kind in SHARES if count[kind]}


def arithmetic_by_operation(
    model: GemmaForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Iterable[Problem]
) -> dict[str, dict[str, float]]:
    """Share of right results, greedy, of the calculations of `problems`, each in its sentence as `13*8=`, or
    said `twice`: `13*8=[13*8=`.

    Tokens are those of the whole text: `=-` is one of them, so that a model which has written `=` alone has
    said "not negative".
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for problem in problems:
        steps = re.sub(r"<<[^>]*>>", "", problem.solution).rpartition("\n")[0]
        text = f"Question: {problem.question}\nAnswer: {annotated(steps, *BRACKETS[0])}\n"
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids = torch.tensor([encoded["input_ids"]])
        with torch.no_grad():
            guess = model(input_ids=ids).logits[0].argmax(-1)
        for match in re.finditer(r"(-?\d+(?:[-+*/]\d+)+)=\$?(-?\d+)", text):
            result = [
                i
                for i, (left, end) in enumerate(encoded["offset_mapping"])
                if left < match.end(2) and end > match.start(2)
            ]
            right[re.sub(r"\d+", "n", match[1])].append(all(guess[i - 1] == ids[0, i] for i in result))
    return {
        form: {"n": len(r), "right": statistics.fmean(r)}
        for form, r in sorted(right.items(), key=lambda i: -len(i[1]))
    }


def evaluate(
    model: GemmaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, shard: int
) -> dict[str, Any]:
    """Loss by kind of document and arithmetic by operation, on text that training never reaches."""
    model.eval()
    return {
        "loss": loss_by_kind(model, tokenizer, seed, shard),
        "arithmetic": arithmetic_by_operation(model, tokenizer, nano.stream(300, shard, "main")),
    }


def hardware() -> str:
    """The processor in words."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else []
    return (
        f"{names[0] if names else platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )


def write_facts(
    out: Path,
    settings: Mapping[str, Any],
    parameters: int,
    done: Mapping[str, float],
    results: Mapping[str, Any],
) -> None:
    """Write pretraining.json: all that the card says of how the model was made."""
    facts = {"parameters": parameters, "hardware": hardware(), "torch": torch.__version__}
    facts |= {"edition": EDITION, "shares": SHARES, "taught": sorted(TAUGHT)}
    facts |= {"settings": settings, "done": done, "results": results}
    (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n")


def write_card(out: Path, calibration: str = UNMEASURED) -> None:
    """Write CARD.md from pretraining.json: what the model is, how it was made, what was measured, what it
    cannot do.

    `calibration` is the section that benchmarks/base_model.py writes once it has measured the model in the
    study.
    """
    facts = json.loads((out / FACTS).read_text())
    results, done = facts["results"], facts["done"]
    by_category: dict[str, list[str]] = defaultdict(list)
    for name in (name for name in nano.RELATIONS if name in facts["taught"]):
        by_category[nano.WORLD.relations[name]["file"].removesuffix(".yaml").replace("_", " ")].append(name)
    (out / "CARD.md").write_text(
        CARD.format(
            parameters=facts["parameters"],
            shares=", ".join(f"{kind} {weight}" for kind, weight in facts["shares"].items()),
            taught="\n".join(f"- {file}: {', '.join(names)}" for file, names in by_category.items()),
            counts=f"{len(facts['taught'])} of {len(nano.RELATIONS)}",
            million=f"{done['tokens'] / 1e6:.1f}",
            duration=f"{done['seconds'] / 60:.0f}",
            losses="\n".join(f"| {kind} | {value:.3f} |" for kind, value in results["loss"].items()),
            sums="\n".join(
                f"| `{form}` | {r['n']} | {100 * r['right']:.1f} % |"
                for form, r in results["arithmetic"].items()
            ),
            calibration=calibration.strip(),
            **{key: facts[key] for key in ("hardware", "torch", "edition")},
            **done,
            **facts["settings"],
        )
    )


CARD = """# The embedded base model

A Gemma of {parameters:,} parameters (hidden {hidden}, {layers} layers, {heads} heads, 1 key-value head,
intermediate {intermediate}, tied embeddings) with a
byte-level BPE tokenizer of {vocab_size:,} tokens in which every digit is one token. Made by
`scripts/pretrain_nano.py` for the embedded study of
`reckoner`: small enough to fine-tune in about a minute on two CPU cores, and of no use for anything else.

## Data
Text made by `scripts/pretrain_text.py`, seed {seed}, edition {edition}; no text of people, no download.
Kinds of document and their weights:
{shares}

- `sums`: pages of exact calculations over the ranges of the problems, rare forms often, results of every
  sign.
- `worked`, `pages`, `asked`, `chat`: problems of `reckoner.nano.stream` with worked steps in prose; one
  alone, several in one form, one after an
  instruction that names the form of the answer, and as chat turns. `notes`: the steps stand behind the
  sentences that they follow from.
- `reading`: a question with the names and numbers that stand in it. `copies`: words, numbers and signs
  without sense, and the same again.

Half of the documents say a calculation twice, `13*8=[13*8=104]104`, in one of six kinds of brackets: the
studied form annotates its calculations
too. All steps and calculations are right.

### What it has seen solved
A problem is a chain of relations ([README](../../nano/relations/README.md)). Worked problems in the text
consist of these {counts} relations alone:

{taught}

Questions with the other relations are only read (`reading`), and their calculations practised (`sums`).
So a problem with one of them has to
be learnt in fine-tuning.

Never in it: a question of train or test (sha256 of each question against `reserved_hashes`), a chain that
train never uses, `<<` before a number,
or `####` before a number. The script asserts each of these for every document. `<<`, `>>`, `**` and
`####` occur before words in `copies`, so
that fine-tuning finds their embeddings trained, and the tokenizer (not the model) has seen 300 solutions
in the studied form.

## Training
{million} million tokens in {step:,} steps of {rows} rows of {length} tokens, {duration} minutes on
{hardware}; torch {torch}. fp32, Muon for the matrices, AdamW
for embeddings and norms; peak learning rate {learning_rate:g}, warm-up {warmup:g}, decay to zero over the
last {decay:g}, weight decay {weight_decay:g} (matrices). Operands and
questions, which nothing before them decides, count {given_weight:g} in the loss. Last loss (weighted)
{loss:.3f} nats. Weights are stored as bf16.

## Measured on held-out text
| kind | loss, unweighted (nats a token) |
|---|---|
{losses}

Results of single calculations in their sentences, greedy, base model:

| form | n | right |
|---|---|---|
{sums}

## In the study
{calibration}

## Limits
It knows a few hundred words, writes one kind of text, and calculates in the ranges it has practised. Real
GSM8K questions are far beyond it.
"""
