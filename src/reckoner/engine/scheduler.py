"""Batched decoding in waves, with keys and values preallocated and written in place.

A wave is a set of rows that start together: their prompts end at the same column, so a step writes one column and reads
the columns before it. The next wave starts when half of the rows have finished, and one forward pass then decodes the
rows of all waves: one product a weight, one attention a wave. So no row reads keys older than its own wave, and no
finished row is computed: its place is filled by the last row of its wave, which costs one copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from reckoner.engine.packed.forward import ALIGNED, KERNELS, NativeModel, Prefix, attend, causal_mask
from reckoner.engine.packed.weights import Layer
from reckoner.engine.sampling import Sample, Sampling, Stops, draw, uniforms

CHUNK_STEPS = 4
"""Steps between two looks at what was sampled. A finished row runs on for 1.5 steps on average."""
PREFILL_TOKENS = {"cpu": 2048, "cuda": 65536}
"""Prompt tokens in one forward pass, padding included: enough to fill the products, few enough for the caches."""
SHARED = 32
"""Shortest common beginning worth two more products a layer."""


@dataclass(frozen=True, slots=True)
class Job:
    """One completion to make."""

    prompt: int
    sample: int
    limit: int  # most tokens to generate
    key: int  # of its random numbers


Emit = Callable[[Job, Sample], None]


class DecodeBatch:
    """The rows of one wave. Token `steps - 1` is the newest; its key and value are not yet known."""

    def __init__(self, model: NativeModel, jobs: list[Job], lengths: list[int], width: int) -> None:
        """Room for `jobs`, whose prompts have `lengths` tokens, the longest of them `width`."""
        rows, most = len(jobs), max(job.limit for job in jobs)
        weights, device = model.weights, model.device
        columns = width + most + CHUNK_STEPS
        layout = (
            len(weights.layers),
            2,
            rows,
            weights.kv_heads,
            columns + -columns % ALIGNED,
            weights.head_size,
        )
        self.jobs, self.width, self.most = jobs, width, most
        self.steps = self.seen = 0  # tokens drawn, and how many of them have been searched for stops
        self.lengths = torch.tensor(lengths, device=device)
        self.limits = torch.tensor([job.limit for job in jobs], device=device)
        self.keys = torch.tensor([job.key for job in jobs], device=device)
        self.tokens = torch.zeros((rows, most + CHUNK_STEPS), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((rows, most + CHUNK_STEPS), device=device)
        # Zeros, not `empty`: what a masked column holds is multiplied by 0 and must be finite.
        self.cache = torch.zeros(layout, dtype=model.dtype, device=device)
        hidden = torch.arange(layout[4], device=device) < width - self.lengths[:, None]
        self.mask = self.cache.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None]

    def write(self, tokens: Tensor, logprobs: Tensor) -> None:
        """Keep the drawn tokens of one step."""
        self.tokens[:, self.steps], self.logprobs[:, self.steps] = tokens, logprobs
        self.steps += 1

    def attend(self, index: int, layer: Layer, heads: Tensor, prefix: Prefix) -> Tensor:
        """Keep the newest token's keys and values, the last of its `heads` [n, 1, ., d], and attend to all up to them."""
        end, cache, kv = self.width + self.steps, self.cache[index], self.cache.shape[3]
        cache[:, :, :, end - 1] = heads[:, 0, -2 * kv :].unflatten(1, (2, kv)).transpose(0, 1)
        low = max(0, end - layer.window) if layer.window else 0
        keys, values, mask = cache[0, :, :, low:end], cache[1, :, :, low:end], self.mask[..., low:end]
        if not heads.is_cuda or layer.softcap or prefix:
            return attend(heads[:, :, : -2 * kv], keys, values, mask, prefix, layer.softcap)
        queries = heads[:, 0, : -2 * kv].unflatten(1, (kv, -1))
        mask = (mask.clone() if low % ALIGNED else mask)[:, None].expand(
            len(queries), kv, queries.shape[2], -1
        )
        return F.scaled_dot_product_attention(queries, keys, values, mask, scale=1.0).reshape(
            len(queries), 1, -1
        )

    def ended(self, stops: Stops) -> list[int]:
        """Rows that may have ended since the last look, in ascending order."""
        found = stops.may_have_stopped(self.tokens[:, self.seen : self.steps]) | (self.limits <= self.steps)
        self.seen = self.steps
        return found.nonzero()[:, 0].tolist()

    def drop(self, rows: set[int]) -> None:
        """Forget `rows`: live rows from the end take their places, in place."""
        count = len(self.jobs) - len(rows)
        holes = [row for row in range(count) if row in rows]
        movers = [row for row in range(count, len(self.jobs)) if row not in rows]
        end = self.width + self.steps
        if holes:
            self.cache[:, :, holes, :, :end] = self.cache[:, :, movers, :, :end]
        self.cache = self.cache[:, :, :count]
        for name in ("lengths", "limits", "keys", "tokens", "logprobs", "mask"):
            values = getattr(self, name)
            values[holes] = values[movers]
            setattr(self, name, values[:count])
        for hole, mover in zip(holes, movers, strict=True):
            self.jobs[hole] = self.jobs[mover]
        del self.jobs[count:]


class Rollout:
    """All waves of one call of `generate`."""

    def __init__(
        self,
        model: NativeModel,
        prompts: Sequence[Sequence[int]],
        jobs: list[Job],
        rows: int,
        sampling: Sampling,
        stops: Stops,
    ) -> None:
        """At most `rows` completions at once. `jobs` are taken from the end, so they should lie shortest prompt first."""
        self.model, self.queue, self.rows, self.sampling, self.stops = model, jobs, rows, sampling, stops
        self.waves: list[DecodeBatch] = []
        self.prefix: list[Prefix] = [None] * len(model.weights.layers)
        self.offset = self._share(prompts)
        self.prompts = [list(prompt[self.offset :]) for prompt in prompts]

    def run(self, emit: Emit) -> None:
        """Make every completion, calling `emit` as each one ends."""
        with sdpa_kernel(KERNELS):
            while self.queue or self.waves:
                live = sum(len(wave.jobs) for wave in self.waves)
                if self.queue and live <= self.rows // 2:
                    self._start(self.rows - live)
                    self._retire_finished(emit)
                if self.waves:
                    self._decode_chunk()
                    self._retire_finished(emit)

    def _share(self, prompts: Sequence[Sequence[int]]) -> int:
        """Compute what all `prompts` begin with, short of a last token; returns its length, 0 if it is not worth it."""
        first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
        most = min(map(len, prompts)) - 1
        count = next((at for at in range(most) if first[at] != last[at]), most)
        if count < SHARED or len(self.queue) == 1 or any(layer.window for layer in self.model.weights.layers):
            return 0
        cache = DecodeBatch(self.model, [Job(0, 0, 1, 0)], [count], count).cache[..., :count, :]
        self._prefill(cache, [list(first[:count])], [0], offset=0)
        self.prefix = [(keys, values) for keys, values in cache[:, :, 0]]
        return count

    def _start(self, rows: int) -> None:
        """Begin a wave with the next `rows` jobs: each prompt is prefilled once for all its samples in the wave."""
        jobs = [self.queue.pop() for _ in range(min(rows, len(self.queue)))]
        prompts = {job.prompt: self.prompts[job.prompt] for job in jobs}
        width = len(self.prompts[jobs[0].prompt])
        wave = DecodeBatch(self.model, jobs, [len(prompts[job.prompt]) for job in jobs], width)
        budget = PREFILL_TOKENS["cuda" if self.model.device.type == "cuda" else "cpu"]
        samples, states = Counter(job.prompt for job in jobs), []
        names = list(prompts)
        for at in range(0, len(names), count := max(1, budget // width)):
            chunk = names[at : at + count]
            source = [index for index, name in enumerate(chunk) for _ in range(samples[name])]
            place = sum(map(len, states))
            target = wave.cache[:, :, place : place + len(source), :, :width]
            states.append(self._prefill(target, [prompts[name] for name in chunk], source, self.offset))
        logits = self.model.logits(torch.cat(states))
        wave.write(*draw(logits, uniforms(wave.keys, torch.zeros_like(wave.keys)), self.sampling))
        self.waves.append(wave)

    def _prefill(self, cache: Tensor, prompts: list[list[int]], source: list[int], offset: int) -> Tensor:
        """Run `prompts`, keep what row i needs (prompt `source[i]`) in `cache`, return its last hidden state [rows, H]."""
        device, width = self.model.device, max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts], device=device)
        pads = torch.tensor([width - len(row) for row in prompts], device=device)
        positions = torch.arange(width, device=device) - pads[:, None]
        memory = _Prompts(
            cache[..., -width:, :], source, positions >= 0, self.prefix, self.model.weights.layers[-1]
        )
        return self.model.hidden(ids, positions.clamp(min=0) + offset, memory)[source]

    def _decode_chunk(self) -> None:
        """Decode a few steps, no more than some row still needs."""
        count = min(CHUNK_STEPS, max(wave.most - wave.steps for wave in self.waves))
        sizes = [len(wave.jobs) for wave in self.waves]
        steps = torch.arange(count, device=self.model.device)
        uniform = torch.cat([uniforms(wave.keys[:, None], wave.steps + steps) for wave in self.waves])
        for step in range(count):
            ids = torch.cat([wave.tokens[:, wave.steps - 1] for wave in self.waves])
            positions = torch.cat([wave.lengths + (wave.steps - 1 + self.offset) for wave in self.waves])
            hidden = self.model.hidden(ids[:, None], positions[:, None], self)
            tokens, logprobs = draw(self.model.logits(hidden), uniform[:, step], self.sampling)
            for wave, *drawn in zip(self.waves, tokens.split(sizes), logprobs.split(sizes), strict=True):
                wave.write(*drawn)

    def attend(self, index: int, layer: Layer, heads: Tensor) -> Tensor:
        """One decoding step of one layer, wave by wave (see `native.Memory`)."""
        sizes, prefix = [len(wave.jobs) for wave in self.waves], self.prefix[index]
        pieces = zip(self.waves, heads.split(sizes), strict=True)
        mixed = [wave.attend(index, layer, piece, prefix) for wave, piece in pieces]
        whole = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        return self.pick(whole) if layer is self.model.weights.layers[-1] else whole

    def pick(self, x: Tensor) -> Tensor:
        """The one position of a decoding step."""
        return x[:, -1]

    def _retire_finished(self, emit: Emit) -> None:
        """Emit the rows that have ended since the last look and forget them."""
        for wave in self.waves:
            rows = wave.ended(self.stops)
            if not rows:
                continue
            tokens = wave.tokens[rows, : wave.steps].tolist()
            logprobs = wave.logprobs[rows, : wave.steps].tolist()
            done = set()
            for row, ids, values in zip(rows, tokens, logprobs, strict=True):
                sample = self.stops.finished(ids, values, wave.jobs[row].limit)
                if sample is not None:
                    emit(wave.jobs[row], sample)
                    done.add(row)
            wave.drop(done)
        self.waves = [wave for wave in self.waves if wave.jobs]


class _Prompts:
    """The memory of a prefill: each position sees its prompt up to itself, and the cache gets a copy for every sample."""

    def __init__(
        self, cache: Tensor, source: list[int], real: Tensor, prefix: list[Prefix], last: Layer
    ) -> None:
        self.cache, self.source, self.real, self.prefix, self.last = cache, source, real, prefix, last
        self.masks: dict[int | None, Tensor] = {}

    def attend(self, index: int, layer: Layer, heads: Tensor) -> Tensor:
        """One layer of a prefill (see `native.Memory`)."""
        kv = self.cache.shape[3]
        queries, keys, values = heads.split((heads.shape[2] - 2 * kv, kv, kv), dim=2)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        self.cache[index, 0] = keys[self.source]
        self.cache[index, 1] = values[self.source]
        if layer.window not in self.masks:
            self.masks[layer.window] = self._mask(layer.window)
        queries = queries[:, -1:] if layer is self.last else queries
        mask = self.masks[layer.window][:, -queries.shape[1] :]
        mixed = attend(queries, keys, values, mask, self.prefix[index], layer.softcap)
        return self.pick(mixed) if layer is self.last else mixed

    def pick(self, x: Tensor) -> Tensor:
        """The last position of each prompt."""
        return x[:, -1]

    def _mask(self, window: int | None) -> Tensor:
        mask = causal_mask(self.real.shape[1], window, self.cache).masked_fill(
            ~self.real[:, None], -torch.inf
        )
        # Padding sees itself, so that no row of the softmax is empty.
        mask.diagonal(dim1=1, dim2=2).zero_()
        return mask
