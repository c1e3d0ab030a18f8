"""Batched decoding, with keys and values preallocated and written in place.

A decode batch is a set of rows that start together: their prompts end at the same column, so a step writes
one column and reads the columns before it. The next decode batch starts when half of the rows have finished.
One forward pass then decodes the rows of all of them: one product a weight, one attention a decode batch. So
no row reads keys older than its own batch, and no finished row is computed: the last row of its batch moves
there, which costs one copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from reckoner.engine import backend
from reckoner.engine.calculator import Calculator
from reckoner.engine.ops import dispatch
from reckoner.engine.ops.torch_ops import Prefix, attention, causal_mask
from reckoner.engine.packed import MASK_ALIGNMENT, SDPA_BACKENDS, KVCache, Layer, NativeModel
from reckoner.engine.sampling import Sample, Sampling, Stops, draw, uniforms

CHUNK_STEPS = 4
"""Steps between two searches for finished rows. A finished row runs on for 1.5 steps on average."""
PREFILL_TOKENS = {"cpu": 2048, "cuda": 65536}
"""Prompt tokens in one forward pass, padding included: enough for the products, few enough for caches."""
MIN_SHARED_PREFIX = 32
"""Shortest common prefix of all prompts, in tokens, that is worth two more products a layer."""
MIN_LOOPS_PREFIX = 8
"""The same where compiled loops attend, which need no further product."""


@dataclass(frozen=True, slots=True)
class Job:
    """One completion to make."""

    prompt: int
    sample: int
    limit: int  # most tokens to generate
    key: int  # of its random numbers


Emit = Callable[[Job, Sample], None]


class DecodeBatch:
    """Rows that started together. Token `steps - 1` is the newest; its key and value are not yet known."""

    def __init__(self, model: NativeModel, jobs: list[Job], lengths: list[int], width: int) -> None:
        """Memory for `jobs`, whose prompts have `lengths` tokens, the longest of them `width`."""
        rows, most = len(jobs), max(job.limit for job in jobs)
        weights, device = model.weights, model.device
        columns = width + most + CHUNK_STEPS
        columns += -columns % MASK_ALIGNMENT
        layout = len(weights.layers), rows, weights.kv_heads
        self.jobs, self.width, self.most = jobs, width, most
        self.steps = self.seen = 0  # tokens drawn, and how many of them have been searched for stops
        self.lengths = torch.tensor(lengths, device=device)
        self.limits = torch.tensor([job.limit for job in jobs], device=device)
        self.seeds = torch.tensor([job.key for job in jobs], device=device)
        self.tokens = torch.zeros((rows, most + CHUNK_STEPS), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((rows, most + CHUNK_STEPS), device=device)
        # Zeros, not `empty`: what a masked column holds is multiplied by 0 and must be finite.
        self.values = torch.zeros((*layout, columns, weights.head_size), dtype=model.dtype, device=device)
        self.keys = torch.zeros_like(self.values)
        self.loops = backend.use_decoding_loops(self.values, any(layer.softcap for layer in weights.layers))
        if self.loops:  # they read the keys of a head side by side
            self.keys = self.keys.view(*layout, weights.head_size, columns).transpose(-1, -2)
        self.begins = width - self.lengths
        hidden = torch.arange(columns, device=device) < self.begins[:, None]
        self.mask = self.values.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None]

    def write(self, tokens: Tensor, logprobs: Tensor) -> None:
        """Keep the drawn tokens of one step."""
        self.tokens[:, self.steps], self.logprobs[:, self.steps] = tokens, logprobs
        self.steps += 1

    def attend(self, index: int, layer: Layer, heads: Tensor, prefix: Prefix) -> Tensor:
        """Keep keys and values of the newest token's `heads` [n, 1, ., d], and attend to all so far."""
        end, keys, values = self.width + self.steps, self.keys[index], self.values[index]
        kv = keys.shape[1]
        keys[:, :, end - 1], values[:, :, end - 1] = heads[:, 0, -2 * kv : -kv], heads[:, 0, -kv:]
        low = max(0, end - layer.window) if layer.window else 0
        if self.loops:
            cache = keys.transpose(-1, -2), values, self.begins.clamp(min=low), end
            return dispatch.decoding_attention(heads[:, 0], *cache, prefix)[:, None]
        keys, values, mask = keys[:, :, low:end], values[:, :, low:end], self.mask[..., low:end]
        if not backend.use_sdpa_decoding(heads, layer.softcap, prefix):
            return attention(heads[:, :, : -2 * kv], keys, values, mask, prefix, layer.softcap)
        queries = heads[:, 0, : -2 * kv].unflatten(1, (kv, -1))
        mask = (mask.clone() if low % MASK_ALIGNMENT else mask)[:, None]
        mask = mask.expand(len(queries), kv, queries.shape[2], -1)
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask, scale=1.0)
        return mixed.reshape(len(queries), 1, -1)

    def ended(self, stops: Stops) -> list[int]:
        """Rows that may have ended since the last search, in ascending order."""
        ended = stops.may_have_stopped(self.tokens[:, self.seen : self.steps]) | (self.limits <= self.steps)
        self.seen = self.steps
        return ended.nonzero()[:, 0].tolist()

    def drop(self, rows: set[int]) -> None:
        """Forget `rows`; live rows from the end move to their indices, in place."""
        count = len(self.jobs) - len(rows)
        holes = [row for row in range(count) if row in rows]
        movers = [row for row in range(count, len(self.jobs)) if row not in rows]
        end = self.width + self.steps
        for name in ("keys", "values"):
            cache = getattr(self, name)
            if holes:
                cache[:, holes, :, :end] = cache[:, movers, :, :end]
            setattr(self, name, cache[:, :count])
        for name in ("lengths", "begins", "limits", "seeds", "tokens", "logprobs", "mask"):
            values = getattr(self, name)
            values[holes] = values[movers]
            setattr(self, name, values[:count])
        for hole, mover in zip(holes, movers, strict=True):
            self.jobs[hole] = self.jobs[mover]
        del self.jobs[count:]


class BatchScheduler(KVCache):
    """All decode batches of one call of `generate`; the `KVCache` of a decoding step."""

    def __init__(
        self,
        model: NativeModel,
        prompts: Sequence[Sequence[int]],
        jobs: list[Job],
        rows: int,
        sampling: Sampling,
        stops: Stops,
        calculator: Calculator | None = None,
    ) -> None:
        """At most `rows` completions at once; `jobs` are taken from the end, the longest prompt first."""
        self.model, self.queue, self.rows, self.sampling, self.stops = model, jobs, rows, sampling, stops
        self.calculator = calculator
        self.batches: list[DecodeBatch] = []
        self.prefix: list[Prefix] = [None] * len(model.weights.layers)
        self.offset = self._share(prompts)
        self.prompts = [list(prompt[self.offset :]) for prompt in prompts]

    def run(self, emit: Emit) -> None:
        """Make every completion, calling `emit` as each one ends."""
        with sdpa_kernel(SDPA_BACKENDS):
            while self.queue or self.batches:
                live = sum(len(batch.jobs) for batch in self.batches)
                if self.queue and live <= self.rows // 2:
                    self._start(self.rows - live)
                    self._retire_finished(emit)
                if self.batches:
                    self._decode_chunk()
                    self._retire_finished(emit)

    def _share(self, prompts: Sequence[Sequence[int]]) -> int:
        """Compute the common prefix of all `prompts`, short of a last token; returns its length, or 0."""
        first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
        most = min(map(len, prompts)) - 1
        count = next((at for at in range(most) if first[at] != last[at]), most)
        windows = any(layer.window for layer in self.model.weights.layers)
        batch = DecodeBatch(self.model, [Job(0, 0, 1, 0)], [count], count)
        least = MIN_LOOPS_PREFIX if batch.loops else MIN_SHARED_PREFIX
        if count < least or len(self.queue) == 1 or windows:
            return 0
        cache = batch.keys[..., :count, :], batch.values[..., :count, :]
        self._prefill(cache, [list(first[:count])], [0], offset=0)
        self.prefix = [(keys[0], values[0]) for keys, values in zip(*cache, strict=True)]
        return count

    def _start(self, rows: int) -> None:
        """Start a decode batch with the next `rows` jobs, each prompt prefilled once for all its samples."""
        jobs = [self.queue.pop() for _ in range(min(rows, len(self.queue)))]
        prompts = {job.prompt: self.prompts[job.prompt] for job in jobs}
        width = len(self.prompts[jobs[0].prompt])
        batch = DecodeBatch(self.model, jobs, [len(prompts[job.prompt]) for job in jobs], width)
        budget = PREFILL_TOKENS["cuda" if self.model.device.type == "cuda" else "cpu"]
        samples, states, begin = Counter(job.prompt for job in jobs), list[Tensor](), 0
        names = list(prompts)
        for at in range(0, len(names), count := max(1, budget // width)):
            chunk = names[at : at + count]
            source = [index for index, name in enumerate(chunk) for _ in range(samples[name])]
            span = slice(begin, begin + len(source))
            begin = span.stop
            target = batch.keys[:, span, :, :width], batch.values[:, span, :, :width]
            states.append(self._prefill(target, [prompts[name] for name in chunk], source, self.offset))
        logits = self.model.logits(torch.cat(states))
        batch.write(*draw(logits, uniforms(batch.seeds, torch.zeros_like(batch.seeds)), self.sampling))
        self.batches.append(batch)

    def _prefill(
        self, cache: tuple[Tensor, Tensor], prompts: list[list[int]], source: list[int], offset: int
    ) -> Tensor:
        """Run `prompts`; row i of the keys and values gets those of prompt `source[i]`.

        Returns last states [rows, H].
        """
        device, width = self.model.device, max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts], device=device)
        pads = torch.tensor([width - len(row) for row in prompts], device=device)
        positions = torch.arange(width, device=device) - pads[:, None]
        last = self.model.weights.layers[-1]
        keys, values = (each[..., -width:, :] for each in cache)
        prefill = _Prefill(keys, values, source, positions >= 0, self.prefix, last)
        return self.model.hidden(ids, positions.clamp(min=0) + offset, prefill)[source]

    def _decode_chunk(self) -> None:
        """Decode a few steps, no more than some row still needs."""
        count = min(CHUNK_STEPS, max(batch.most - batch.steps for batch in self.batches))
        sizes = [len(batch.jobs) for batch in self.batches]
        steps = torch.arange(count, device=self.model.device)
        uniform = torch.cat([uniforms(batch.seeds[:, None], batch.steps + steps) for batch in self.batches])
        for step in range(count):
            ids = torch.cat([batch.tokens[:, batch.steps - 1] for batch in self.batches])
            positions = torch.cat([batch.lengths + (batch.steps - 1 + self.offset) for batch in self.batches])
            hidden = self.model.hidden(ids[:, None], positions[:, None], self)
            tokens, logprobs = draw(self.model.logits(hidden), uniform[:, step], self.sampling)
            split = zip(tokens.split(sizes), logprobs.split(sizes), strict=True)
            for batch, drawn in zip(self.batches, split, strict=True):
                if self.calculator:
                    names = [(job.prompt, job.sample) for job in batch.jobs]
                    drawn = self.calculator.force(names, batch.tokens[:, : batch.steps], *drawn)
                batch.write(*drawn)

    def attend(self, index: int, layer: Layer, heads: Tensor) -> Tensor:
        """One decoding step of one layer, batch by batch (see `KVCache`)."""
        sizes, prefix = [len(batch.jobs) for batch in self.batches], self.prefix[index]
        split = zip(self.batches, heads.split(sizes), strict=True)
        mixed = [batch.attend(index, layer, own, prefix) for batch, own in split]
        whole = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        return self.pick(whole) if layer is self.model.weights.layers[-1] else whole

    def _retire_finished(self, emit: Emit) -> None:
        """Emit the rows that have ended since the last search and forget them."""
        for batch in self.batches:
            rows = batch.ended(self.stops)
            if not rows:
                continue
            tokens = batch.tokens[rows, : batch.steps].tolist()
            logprobs = batch.logprobs[rows, : batch.steps].tolist()
            done = set()
            for row, ids, values in zip(rows, tokens, logprobs, strict=True):
                sample = self.stops.finished(ids, values, batch.jobs[row].limit)
                if sample is not None:
                    emit(batch.jobs[row], sample)
                    done.add(row)
            batch.drop(done)
        self.batches = [batch for batch in self.batches if batch.jobs]


@dataclass
class _Prefill(KVCache):
    """The `KVCache` of a prefill: a position sees its prompt up to itself, and every sample gets a copy."""

    keys: Tensor
    values: Tensor
    source: list[int]
    real: Tensor
    prefix: list[Prefix]
    last: Layer
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(self, index: int, layer: Layer, heads: Tensor) -> Tensor:
        """One layer of a prefill (see `KVCache`)."""
        kv = self.keys.shape[2]
        queries, keys, values = heads.split((heads.shape[2] - 2 * kv, kv, kv), dim=2)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        self.keys[index], self.values[index] = keys[self.source], values[self.source]
        if layer.window not in self.masks:
            mask = causal_mask(self.real.shape[1], layer.window, self.values)
            mask = mask.masked_fill(~self.real[:, None], -torch.inf)
            # Padding sees itself, so that no row of the softmax is empty.
            mask.diagonal(dim1=1, dim2=2).zero_()
            self.masks[layer.window] = mask
        queries = queries[:, -1:] if layer is self.last else queries
        mask = self.masks[layer.window][:, -queries.shape[1] :]
        mixed = attention(queries, keys, values, mask, self.prefix[index], layer.softcap)
        return self.pick(mixed) if layer is self.last else mixed
