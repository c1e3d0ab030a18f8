"""Pretrain the embedded base model from nothing, on text made as it is needed. Two CPU cores, one sitting.

    python scripts/pretrain_nano.py --minutes 25 --out src/reckoner/models/nano --work runs/pretrain

Killed and started again with the same arguments it goes on from its last state. `--minutes` counts training time only
and decides the schedule; `--steps` instead makes the result independent of the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pretrain_result import evaluate, write_card, write_manifest, write_model
from pretrain_text import documents
from pretrain_tokenizer import train_tokenizer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

from reckoner.records import dumps
from reckoner.tasks import nano

HELD_OUT = 1_000_000
"""The first shard that training never reaches; it serves the tokenizer and the evaluation."""


@dataclass(frozen=True)
class Settings:
    """What decides the result. Lengths in tokens, `learning_rate` is the peak."""

    seed: int = 0
    steps: int = 0
    minutes: float = 0.0
    vocab_size: int = 1024
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 512
    rows: int = 8
    length: int = 512
    learning_rate: float = 3e-3
    warmup: float = 0.02
    weight_decay: float = 0.1
    beta2: float = 0.98


def main() -> None:
    """Train, evaluate and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--work", type=Path, required=True, help="state and loss log; start again here to resume")
    parser.add_argument("--no-compile", action="store_true", help="train without torch.compile")
    given = vars(parser.parse_args())
    out, work, compiled = given.pop("out"), given.pop("work"), not given.pop("no_compile")
    settings = Settings(**given)
    if (settings.steps > 0) == (settings.minutes > 0):
        parser.error("give either --steps or --minutes")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(settings, work / "tokenizer")
    model, done = train(settings, tokenizer, work, compiled)
    write_model(out, model, tokenizer)
    results = evaluate(model, tokenizer, settings.seed, HELD_OUT + 1)
    (work / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    write_card(out, asdict(settings), model.num_parameters(), done, results)
    write_manifest(out)


def make_tokenizer(settings: Settings, folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of this work folder, trained at the first call.

    It sees the studied solutions once, so that `<<`, `>>` and `####` are tokens; the model never does.
    """
    if not folder.exists():
        texts = [document.text for document in documents(settings.seed, HELD_OUT)]
        texts += [problem.solution for problem in nano.stream(300, HELD_OUT, "socratic")]
        train_tokenizer(texts, settings.vocab_size, 2048).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def make_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> GemmaForCausalLM:
    """An untrained Gemma with one key-value head and tied embeddings, in fp32."""
    torch.manual_seed(settings.seed)
    config = GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=1,
        head_dim=settings.hidden // settings.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = GemmaForCausalLM(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    model.generation_config.do_sample = False
    return model


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of each document, `<bos>` first and `<eos>` last."""
    return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]


def batches(settings: Settings, tokenizer: PreTrainedTokenizerFast, start: int) -> Iterator[Tensor]:
    """Batches [rows, length] from number `start` on, without end; shard `s` gives the same batches every time.

    A row is filled with whole documents and begins with one. What does not fit is dropped: more text costs nothing.
    """
    shard, first = 0, 0
    while True:
        cache = _rows(settings, encode(tokenizer, [d.text for d in documents(settings.seed, shard)]))
        usable = len(cache) // settings.rows
        for index in range(max(start - first, 0), usable):
            yield cache[index * settings.rows : (index + 1) * settings.rows]
        shard, first = shard + 1, first + usable


def _rows(settings: Settings, encoded: list[list[int]]) -> Tensor:
    rows: list[list[int]] = []
    row: list[int] = []
    for ids in encoded:
        row += ids
        if len(row) >= settings.length:
            rows.append(row[: settings.length])
            row = []
    return torch.tensor(rows)


def next_token_loss(model: GemmaForCausalLM, rows: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each next token of rows [B, T]."""
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def rate(settings: Settings, progress: float) -> float:
    """Learning rate at a share of the run: linear warm-up, then linear decay to zero."""
    return settings.learning_rate * min(progress / settings.warmup, (1 - progress) / (1 - settings.warmup))


def train(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, work: Path, compiled: bool
) -> tuple[GemmaForCausalLM, dict[str, float]]:
    """Train to the end of the schedule and return the model with steps, tokens, seconds and loss."""
    model = make_model(settings, tokenizer)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, settings.beta2), fused=True)
    state = resume(work, settings, model, optimizer)
    step, seconds, average = int(state["step"]), state["seconds"], state["loss"]
    loss_of: Callable[[Tensor], Tensor] = lambda rows: next_token_loss(model, rows)  # noqa: E731
    loss_of = torch.compile(loss_of) if compiled else loss_of
    source, saved, began = batches(settings, tokenizer, step), time.monotonic(), 0.0
    with open(work / "loss.jsonl", "a", encoding="ascii") as log:
        while (progress := step / settings.steps if settings.steps else seconds / 60 / settings.minutes) < 1:
            rows = next(source)
            began = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = rate(settings, progress)
            loss = loss_of(rows)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
            optimizer.step()
            optimizer.zero_grad()
            average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
            step += 1
            # The first steps compile; a schedule in minutes is one of training only.
            seconds += (time.monotonic() - began) if step - int(state["step"]) > 2 else 0.0
            if step % 20 == 0:
                log.write(
                    dumps({"step": step, "loss": average, "lr": rate(settings, progress), "grad_norm": norm.item(), "seconds": seconds})
                    + "\n"
                )
                log.flush()
            if time.monotonic() - saved > 120:
                save_state(work, settings, model, optimizer, {"step": step, "seconds": seconds, "loss": average})
                saved = time.monotonic()
    done = {"step": step, "seconds": seconds, "loss": average}
    save_state(work, settings, model, optimizer, done)
    return model, {**done, "tokens": step * settings.rows * settings.length}


def save_state(
    work: Path, settings: Settings, model: GemmaForCausalLM, optimizer: torch.optim.Optimizer, state: dict[str, float]
) -> None:
    """Write weights, moments and counters as one safetensors file, so that they cannot disagree."""
    tensors = {f"weight/{name}": p.detach().contiguous() for name, p in model.named_parameters()}
    for index, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        tensors |= {f"optimizer/{index}/{key}": value.contiguous() for key, value in optimizer.state[p].items()}
    metadata = {"state": json.dumps(state), "settings": json.dumps(asdict(settings))}
    save_file(tensors, work / "state.tmp", metadata=metadata)
    os.replace(work / "state.tmp", work / "state.safetensors")


def resume(
    work: Path, settings: Settings, model: GemmaForCausalLM, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """Restore the last state of this work folder, or start at step 0. Exits where the settings are others."""
    path = work / "state.safetensors"
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "loss": 0.0}
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if json.loads(metadata["settings"]) != asdict(settings):
        sys.exit(f"{work} was started with {metadata['settings']}; use another --work")
    tensors = load_file(path)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"weight/{name}"])
    for index, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        prefix = f"optimizer/{index}/"
        optimizer.state[p] = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return json.loads(metadata["state"])


if __name__ == "__main__":
    main()
