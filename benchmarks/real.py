"""How fast a real model trains and decodes on this machine's cores, against the peers on the same work.

    python -m benchmarks.real --model FOLDER --data FOLDER                 floors, SFT and greedy decoding
    python -m benchmarks.real --model FOLDER --data FOLDER --only decode --gguf FILE

The model's folder holds its weights in fp32 or bfloat16, that of the data holds train.jsonl and test.jsonl of
GSM8K. Peers not installed are left out: trl (`pip install -e '.[bench]'`) and llama-cpp-python, which
reads FILE. Arms take turns; medians of `--repeat` laps are compared. A part measured again replaces
its old figures in results/real.json.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.measure import Arm, alternate, apart, gemm_rate, machine, merge, timed

from benchmarks import rollouts, trainers
from reckoner.config import Config, load_config
from reckoner.engine.cost import forward_flops, training_flops
from reckoner.engine.generate import Sampling
from reckoner.engine.ops.dispatch import product
from reckoner.evaluation.evaluate import ask, encode, load_problems, make_prompt
from reckoner.models.policy import Policy, load_policy


def settings(options: argparse.Namespace, dtype: str) -> Config:
    """The general settings with the model and data of the command line."""
    given = {"model.model_name_or_path": options.model, "data.path": options.data, "model.dtype": dtype}
    return load_config("general", [], [f"{name}={value}" for name, value in given.items()])


def task_of(options: argparse.Namespace) -> trainers.Task:
    """The first `--problems` train problems."""
    config = settings(options, "bfloat16")
    policy = load_policy(config.model, config.peft, train=False)
    problems = load_problems(config, "train")[: options.problems]
    return trainers.Task(encode(policy, make_prompt(config, policy), problems), Path(options.model))


def floors(options: argparse.Namespace) -> dict[str, Any]:
    """Operations of an SFT step and of a decoded token, and the rates of the model's own products."""
    config, task = settings(options, "bfloat16"), task_of(options)
    model = load_policy(config.model, config.peft, train=True).model
    sizes = model.config
    hidden, inner = sizes.hidden_size, sizes.intermediate_size
    shapes = {"gate and up": (hidden, 2 * inner), "down": (inner, hidden), "attention out": (hidden, hidden)}
    found: dict[str, Any] = {
        "tokens a problem": task.tokens / len(task.examples),
        "supervised": task.supervised / len(task.examples),
        "training FLOP a token": training_flops(model, task.tokens, task.supervised) / task.tokens,
        "decoding FLOP a token": forward_flops(model, 1, 1),
        "bytes of bfloat16 weights": 2 * sum(p.numel() for p in model.parameters()),
    }
    for rows in (16, 64, 2048):
        for name, shape in shapes.items():
            rates = {
                str(dtype).removeprefix("torch."): gemm_rate(rows, *shape, dtype, linear=product) / 1e9
                for dtype in (torch.float32, torch.bfloat16)
            }
            found[f"GFLOP/s, {rows} rows, {name}"] = rates
    for name, value in found.items():
        print(f"  {name:40} {value}")
    return found


def supervised(options: argparse.Namespace) -> dict[str, Any]:
    """Full fine-tuning with fp32 masters, 16 sequences a step."""
    task = task_of(options)
    arms: dict[str, Arm] = {
        "ours, bfloat16": apart(trainers.ours, task, "none", 16, "bfloat16"),
        "ours, float32": apart(trainers.ours, task, "none", 16, "float32"),
    }
    lean = {**trainers.LEAN, "bf16": True, "train_sampling_strategy": "group_by_length"}
    peers = {"transformers Trainer, bf16 grouped": apart(trainers.original_arm, task, PLAIN | lean)}
    if importlib.util.find_spec("trl"):
        peers["trl, bf16 grouped"] = apart(trainers.trl_arm, task, lean)
    arms |= {name: lambda peer=peer: peer()[0] for name, peer in peers.items()}
    return {"tokens": task.tokens, "arms": alternate(arms, options.repeat, "tokens/s")}


PLAIN = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
"""What differs from the original study's recipe: one pass a step, nothing computed twice."""


def decoding(options: argparse.Namespace) -> dict[str, Any]:
    """Greedy answers to the first `--prompts` test problems, at most `--tokens` tokens each."""
    config = settings(options, "bfloat16")
    policy = load_policy(config.model, config.peft, train=False)
    prompt = make_prompt(config, policy)
    prompts = [
        ask(policy, prompt, problem.question) for problem in load_problems(config, "test")[: options.prompts]
    ]
    sampling = Sampling(options.tokens, stop_ids=policy.stop_ids)
    exact = load_policy(settings(options, "float32").model, config.peft, train=False)
    arms = {}
    for size in options.batches:
        arms[f"ours, bfloat16, batch {size}"] = rollouts.ours(policy, prompts, sampling, size)
        arms[f"generate, bfloat16, batch {size}"] = rollouts.peer(policy, prompts, sampling, size)
        if options.gguf and importlib.util.find_spec("llama_cpp"):
            arms[f"llama.cpp, batch {size}"] = llama(options, policy, prompts, sampling, size)
    arms[f"ours, float32, batch {size}"] = rollouts.ours(exact, prompts, sampling, size)
    return {"prompts": len(prompts), "arms": alternate(arms, options.repeat, "tokens/s")}


def llama(
    options: argparse.Namespace, policy: Policy, prompts: list[list[int]], sampling: Sampling, size: int
) -> Arm:
    """llama.cpp's batched decoding of the same prompts, `size` sequences at once; its work counts as ours."""
    import llama_cpp as cpp
    import numpy as np

    cpp.llama_backend_init()
    cpp.quiet = cpp.llama_log_callback(lambda *_: None)  # kept as long as llama.cpp may call it
    cpp.llama_log_set(cpp.quiet, ctypes.c_void_p(0))
    model = cpp.llama_model_load_from_file(options.gguf.encode(), cpp.llama_model_default_params())
    words = len(policy.tokenizer)
    longest = max(map(len, prompts)) + sampling.max_new_tokens
    rows = sorted(prompts, key=len)

    def group(batch: list[list[int]]) -> int:
        wanted = cpp.llama_context_default_params()
        wanted.n_ctx, wanted.n_seq_max = len(batch) * longest, len(batch)
        wanted.n_batch = wanted.n_ubatch = 2048
        wanted.n_threads = wanted.n_threads_batch = torch.get_num_threads()
        context = cpp.llama_init_from_model(model, wanted)
        last: list[int] = []
        for index, ids in enumerate(batch):
            decode(context, [(token, at, index, at == len(ids) - 1) for at, token in enumerate(ids)])
            last.append(best(context, len(ids) - 1))
        alive, count, lengths = list(range(len(batch))), len(batch), [len(ids) for ids in batch]
        for _ in range(sampling.max_new_tokens - 1):
            alive = [index for index in alive if last[index] not in sampling.stop_ids]
            if not alive:
                break
            decode(context, [(last[index], lengths[index], index, True) for index in alive])
            for row, index in enumerate(alive):
                last[index], lengths[index] = best(context, row), lengths[index] + 1
            count += len(alive)
        cpp.llama_free(context)
        return count

    def decode(context: Any, entries: list[tuple[int, int, int, bool]]) -> None:
        batch = cpp.llama_batch_init(len(entries), 0, 1)
        batch.n_tokens = len(entries)
        for row, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[row], batch.pos[row], batch.logits[row] = token, position, wanted
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
        failed = cpp.llama_decode(context, batch)
        cpp.llama_batch_free(batch)
        if failed:
            raise SystemExit(f"llama_decode: {failed}")

    def best(context: Any, row: int) -> int:
        return int(np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, row), (words,)).argmax())

    return timed(lambda: sum(group(rows[at : at + size]) for at in range(0, len(rows), size)))


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "floors": floors,
    "sft": supervised,
    "decode": decoding,
}


def main() -> None:
    """Measure what was asked for and store it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--data", required=True, help="folder of GSM8K's files")
    parser.add_argument("--gguf", default="", help="the same model for llama.cpp")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--repeat", type=int, default=5, help="measured laps of each arm")
    parser.add_argument("--problems", type=int, default=128, help="train problems of a lap")
    parser.add_argument("--prompts", type=int, default=128, help="test problems of a lap")
    parser.add_argument("--tokens", type=int, default=160, help="most tokens of an answer")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="real", help="results/NAME.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of processes that `apart` starts
    for name in options.only:
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        began = time.perf_counter()
        found = PARTS[name](options)
        # A folder's path is this machine's affair: its name says which model it was.
        about = {"model": Path(options.model).name, "machine": machine(), "load": os.getloadavg()[0]}
        merge(options.name, {name: {**about, **found}})
        print(f"  took {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
