"""Pretrain the embedded base model from nothing, on text made as it is needed. Two CPU cores, one sitting.

    python scripts/pretrain_nano.py --steps 20000 --out src/reckoner/models/nano --work runs/pretrain

Killed and started again with the same arguments it goes on from its last state. `--minutes` counts training
time only and decides the schedule; `--steps` instead makes the result independent of the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pretrain_optimizer import Muon
from pretrain_result import evaluate, write_card, write_facts, write_manifest, write_model
from pretrain_text import Document, documents
from pretrain_tokenizer import train_tokenizer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

from reckoner import nano
from reckoner.engine.batches import Example, collate
from reckoner.engine.distributed import Replicas, Share
from reckoner.engine.logprobs import completion_logprobs
from reckoner.runs.records import dumps

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
    length: int = 256
    learning_rate: float = 5e-3
    warmup: float = 0.02
    decay: float = 0.9
    weight_decay: float = 0.1
    given_weight: float = 0.05
    optimizer: str = "muon"


def main() -> None:
    """Train, evaluate and write the model folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument(
        "--work", type=Path, required=True, help="state and loss log; start again here to resume"
    )
    given = vars(parser.parse_args())
    out, work = given.pop("out"), given.pop("work")
    settings = Settings(**given)
    if (settings.steps > 0) == (settings.minutes > 0):
        parser.error("give either --steps or --minutes")
    if settings.optimizer not in ("muon", "adamw"):
        parser.error("--optimizer is muon or adamw")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(settings, work / "tokenizer")
    model, done = train(settings, tokenizer, work)
    write_model(out, model, tokenizer)
    results = evaluate(model, tokenizer, settings.seed, HELD_OUT + 1)
    (work / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    write_facts(out, asdict(settings), model.num_parameters(), done, results)
    write_card(out)
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
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<end_of_turn>"),
    ]
    model.generation_config.do_sample = False
    return model


def encode(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, texts: list[Document]
) -> Iterator[tuple[list[int], list[float]]]:
    """Token ids of each document, `<bos>` first and `<eos>` last, and the weight of each in the loss."""
    encoded = tokenizer([document.text for document in texts], return_offsets_mapping=True)
    for document, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        weights, spans = [1.0] * len(ids), iter(document.given)
        start, end = next(spans, (0, 0))
        for index, (left, right) in enumerate(offsets):
            while left >= end > 0:
                start, end = next(spans, (0, 0))
            if start <= left < end and left < right:
                weights[index] = settings.given_weight
        yield [*ids, tokenizer.eos_token_id], [*weights, 1.0]


def batches(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of ids and weights [rows, length + 1] from number `start` on, without end; always the same.

    A row is filled with whole documents and begins with one. What does not fit is dropped: more text costs
    nothing.
    """
    shard, first = 0, 0
    while True:
        texts = list(documents(settings.seed, shard))
        ids, weights = _rows(settings, encode(settings, tokenizer, texts))
        usable = len(ids) // settings.rows
        for index in range(max(start - first, 0), usable):
            part = slice(index * settings.rows, (index + 1) * settings.rows)
            yield ids[part], weights[part]
        shard, first = shard + 1, first + usable


def _rows(settings: Settings, encoded: Iterable[tuple[list[int], list[float]]]) -> tuple[Tensor, Tensor]:
    size, rows, row = settings.length + 1, [], ([], [])
    for ids, weights in encoded:
        row = (row[0] + ids, row[1] + weights)
        if len(row[0]) >= size:
            rows.append((row[0][:size], row[1][:size]))
            row = ([], [])
    ids, weights = zip(*rows, strict=True)
    return torch.tensor(ids), torch.tensor(weights)


def next_token_loss(model: GemmaForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the cross-entropy in nats of each next token of ids [B, T + 1]."""
    rows = [Example("", (first,), tuple(rest)) for first, *rest in ids.tolist()]
    logprobs = completion_logprobs(model, collate(rows, model.config.pad_token_id)).logprobs
    return -(logprobs * weights[:, 1:].flatten()).sum()


def rate(settings: Settings, progress: float) -> float:
    """Learning rate at a share of the run: linear warm-up, constant, then linear decay to zero."""
    return settings.learning_rate * min(1.0, progress / settings.warmup, (1 - progress) / settings.decay)


def train(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, work: Path
) -> tuple[GemmaForCausalLM, dict[str, float]]:
    """Train to the end of the schedule and return the model with steps, tokens, seconds and loss."""
    model = make_model(settings, tokenizer)
    optimizer = Muon(model, settings.weight_decay, matrices=settings.optimizer == "muon")
    state = resume(work, settings, model, optimizer)
    step, seconds, average = int(state["step"]), state["seconds"], state["loss"]
    source = batches(settings, tokenizer, step)

    def gradient(share: Share) -> float:
        """Add the gradient of this share of the next batch, which every process makes for itself."""
        ids, weights = next(source)
        rows = slice(share.index, None, share.count)
        loss = next_token_loss(model, ids[rows], weights[rows]) / weights[:, 1:].sum()
        loss.backward()
        return loss.item()

    saved = time.monotonic()
    with open(work / "loss.jsonl", "a", encoding="ascii") as log, Replicas(gradient, model) as replicas:
        while (progress := step / settings.steps if settings.steps else seconds / 60 / settings.minutes) < 1:
            began = time.monotonic()
            loss = sum(replicas())
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
            optimizer.step(rate(settings, progress))
            average = loss if step == 0 else 0.98 * average + 0.02 * loss
            step, seconds = step + 1, seconds + time.monotonic() - began
            if step % 50 == 0:
                line = {"step": step, "loss": average, "lr": rate(settings, progress)}
                log.write(dumps({**line, "grad_norm": norm.item(), "seconds": seconds}) + "\n")
                log.flush()
            if time.monotonic() - saved > 120:
                counters = {"step": step, "seconds": seconds, "loss": average}
                save_state(work, settings, model, optimizer, counters)
                saved = time.monotonic()
    done = {"step": step, "seconds": seconds, "loss": average}
    save_state(work, settings, model, optimizer, done)
    return model, {**done, "tokens": step * settings.rows * settings.length}


def save_state(
    work: Path, settings: Settings, model: GemmaForCausalLM, optimizer: Muon, state: dict[str, float]
) -> None:
    """Write weights, moments and counters as one safetensors file, so that they cannot disagree."""
    tensors = {f"weight/{name}": p.detach().contiguous() for name, p in model.named_parameters()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer.tensors().items()}
    metadata = {"state": json.dumps(state), "settings": json.dumps(asdict(settings))}
    save_file(tensors, work / "state.tmp", metadata=metadata)
    os.replace(work / "state.tmp", work / "state.safetensors")


def resume(work: Path, settings: Settings, model: GemmaForCausalLM, optimizer: Muon) -> dict[str, float]:
    """Restore the last state of this work folder, or start at step 0. Exits where the settings are others."""
    path = work / "state.safetensors"
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "loss": 0.0}
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if Settings(**json.loads(metadata["settings"])) != settings:
        sys.exit(f"{work} was started with {metadata['settings']}; use another --work")
    tensors = load_file(path)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"weight/{name}"])
        for name, tensor in optimizer.tensors().items():
            tensor.copy_(tensors[f"optimizer/{name}"])
    return json.loads(metadata["state"])


if __name__ == "__main__":
    main()
