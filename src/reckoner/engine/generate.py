"""Completions with log-probs and finish reasons: one function, two engines.

`native` is the batched KV engine of `scheduler`. `transformers` is the model's own forward pass and cache,
for architectures that the native engine does not know. Both draw with `sampling.draw`, so they give the same
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any

import torch
from torch import Tensor, nn

from reckoner.engine.backend import decoding_shares, sampling_backend
from reckoner.engine.calculator import Calculate, Calculator
from reckoner.engine.packed import NativeModel
from reckoner.engine.sampling import Sample, Sampling, Stops, draw, stream_key, uniforms
from reckoner.engine.scheduler import CHUNK_STEPS, BatchScheduler, Emit, Job
from reckoner.errors import InputError
from reckoner.models.sharding import gathered

__all__ = ["Sample", "Sampling", "generate"]


def generate(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    batch_size: int = 256,
    engine: str = "auto",
    on_done: Callable[[int, int, Sample], None] | None = None,
    keys: Sequence[int] | None = None,
    calculate: Calculate | None = None,
) -> list[list[Sample]]:
    """`sampling.num_samples` completions of each prompt (token ids, BOS included), as `[prompt][sample]`.

    At most `batch_size` completions are decoded at once. Neither that nor the order of the prompts changes a
    draw: it depends on the seed, the prompt's key (`keys[i]`, by default its index), the sample and the step.
    `on_done(prompt, sample, result)` is called as each completion ends. `engine` is `native`, `transformers`
    or `auto`; auto is native where `backend.sampling_backend` allows it. A completion that fills the model's
    context ends there with finish "length". Dropout is off; the model is left as it was. `calculate` gives
    what is forced and not drawn (see `calculator`). Sharded weights are gathered on every rank meanwhile.

    Raises `InputError` for a prompt that leaves no room in the model's context, an empty prompt, or
    `engine="native"` with a model it does not know.
    """
    jobs = _jobs(policy, prompts, sampling, keys)
    results: list[list[Any]] = [[None] * sampling.num_samples for _ in prompts]

    def emit(job: Job, sample: Sample) -> None:
        results[job.prompt][job.sample] = sample
        if on_done:
            on_done(job.prompt, job.sample, sample)

    stops = Stops(sampling, policy.tokenizer, policy.decode, policy.device)

    def calculator() -> Calculator | None:
        tools = policy.tokenizer, policy.decode, policy.device
        return Calculator(calculate, *tools) if calculate else None

    with gathered(policy.model):  # by every rank, also one without jobs
        if jobs and sampling_backend(policy.model, engine)[0] == "native":
            with torch.inference_mode():
                positions = max(len(prompts[job.prompt]) + job.limit for job in jobs) + CHUNK_STEPS
                model = NativeModel(policy.model, policy.dtype, positions, decodes=True)
            count = min(decoding_shares(policy.model), batch_size, len(jobs))
            rows = [len(range(index, batch_size, count)) for index in range(count)]

            def share(index: int, emit: Emit) -> None:
                with torch.inference_mode():
                    own = jobs[index::count], rows[index]
                    BatchScheduler(model, prompts, *own, sampling, stops, calculator()).run(emit)

            _side_by_side(share, count, emit)
        elif jobs:
            with torch.inference_mode(), policy.autocast(), _evaluating(policy.model):
                for at in range(0, len(jobs), batch_size):
                    group = jobs[at : at + batch_size]
                    texts = [prompts[job.prompt] for job in group]
                    _decode(policy, texts, group, sampling, stops, emit, calculator())
    return results


def _side_by_side(share: Callable[[int, Emit], None], count: int, emit: Emit) -> None:
    """`share(index, emit)` for each index, on a thread of Python's with one of torch's.

    Calls of `emit` are one at a time. When a share fails or the caller is interrupted, the others end where
    they emit next.
    """
    if count == 1:
        return share(0, emit)
    lock, ended, threads = Lock(), Event(), torch.get_num_threads()

    def emit_alone(job: Job, sample: Sample) -> None:
        with lock:
            if ended.is_set():
                raise CancelledError
            emit(job, sample)

    def run(index: int) -> None:
        torch.set_num_threads(1)
        share(index, emit_alone)

    try:
        with ThreadPoolExecutor(count) as pool:
            shares = [pool.submit(run, index) for index in range(count)]
            try:
                wait(shares, return_when=FIRST_EXCEPTION)
            finally:
                ended.set()
    finally:
        torch.set_num_threads(threads)
    errors = [error for each in shares if (error := each.exception())]
    if errors:
        raise next(error for error in errors if not isinstance(error, CancelledError))


def _jobs(
    policy: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[int] | None
) -> list[Job]:
    """All completions to make, shortest prompt first, so that neighbours need little padding."""
    if sampling.max_new_tokens < 1 or sampling.num_samples < 1 or sampling.temperature < 0:
        raise InputError("generation needs max_new_tokens >= 1, num_samples >= 1 and temperature >= 0")
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            rule = f"it must have at least 1 and leave room in a context of {context}"
            remedy = "Use fewer prompt.shots or a shorter question"
            raise InputError(f"prompt {index} has {len(prompt)} tokens: {rule}. {remedy}")
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    return [
        Job(
            prompt=index,
            sample=sample,
            limit=min(sampling.max_new_tokens, context - len(prompts[index])),
            key=stream_key(sampling.seed, index if keys is None else keys[index], sample),
        )
        for index in order
        for sample in range(sampling.num_samples)
    ]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off, and each module back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    yield
    for module, training in modes:
        module.training = training


def _decode(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    jobs: list[Job],
    sampling: Sampling,
    stops: Stops,
    emit: Callable[[Job, Sample], None],
    calculator: Calculator | None,
) -> None:
    """One batch by a plain loop over `model(...)`, with left padding and explicit positions."""
    width, device = max(map(len, prompts)), policy.device
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in prompts], device=device)
    pads = torch.tensor([width - len(row) for row in prompts], device=device)
    mask = (torch.arange(width, device=device) >= pads[:, None]).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    keys = torch.tensor([job.key for job in jobs], device=device)
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    waiting = dict(enumerate(jobs))
    cache = None
    while waiting:
        out = policy.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        drawn = draw(out.logits[:, -1].float(), uniforms(keys, torch.full_like(keys, len(tokens))), sampling)
        if calculator and tokens:
            drawn = calculator.force(
                [(job.prompt, job.sample) for job in jobs], torch.stack(tokens, 1), *drawn
            )
        tokens.append(drawn[0])
        logprobs.append(drawn[1])
        ids, positions = drawn[0][:, None], positions[:, -1:] + 1
        mask = torch.cat((mask, torch.ones_like(ids)), 1)
        rows, values = torch.stack(tokens, 1), torch.stack(logprobs, 1)
        may_have_stopped = stops.may_have_stopped(ids).tolist()
        for row in [row for row, job in waiting.items() if may_have_stopped[row] or len(tokens) >= job.limit]:
            sample = stops.finished(rows[row].tolist(), values[row].tolist(), waiting[row].limit)
            if sample is not None:
                emit(waiting.pop(row), sample)
