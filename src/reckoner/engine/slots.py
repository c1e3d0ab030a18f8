"""Continuous batching over one preallocated key-value cache.

A slot is a row of the cache. All slots write at the same column, so a decoding step is one slice write, and attention
reads one slice: the columns from the first live token to now. What all prompts begin with (worked examples, an
instruction) is computed once and kept once, outside the slots. A finished row's slot is given to the next prompt, which
is prefilled (once for all its samples that start together) so that it ends at the current column; when no prompt
waits, finished rows are dropped. Every row has its own positions, so alignment changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reckoner.engine.native import NativeModel
from reckoner.engine.sampling import Sample, Sampling, Stops, draw, uniforms

BURST = 4
"""Steps between two looks at what was sampled. A finished row runs on for 1.5 steps on average."""
PREFILL_TOKENS = {"cpu": 2048, "cuda": 65536}
"""Prompt tokens in one forward pass, padding included: enough to fill the products, few enough for the memory."""
SLACK = 64
"""Spare columns: the cache is moved to its left end once in so many steps."""
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


class Slots:
    """The rows being generated. Column `end` holds each row's newest token, whose key and value are not yet known."""

    def __init__(
        self,
        model: NativeModel,
        prompts: Sequence[Sequence[int]],
        jobs: list[Job],
        rows: int,
        sampling: Sampling,
        stops: Stops,
    ) -> None:
        """`jobs` are taken from the end, so they should lie shortest prompt first."""
        self.model, self.queue, self.sampling, self.stops = model, jobs, sampling, stops
        self.prefix: list[tuple[Tensor, Tensor]] = []
        self.offset = self._share(prompts)
        self.prompts = [list(prompt[self.offset :]) for prompt in prompts]
        rows = min(rows, len(jobs))
        self.longest = longest = max(map(len, self.prompts))
        width = longest + max(job.limit for job in jobs) + BURST + (SLACK if len(jobs) > rows else 0)
        layout = (len(model.weights.layers), 2, rows, model.weights.kv_heads, width, model.weights.head_size)
        self.cache = torch.zeros(layout, dtype=model.dtype, device=model.device)
        self.mask = torch.zeros((rows, 1, width), dtype=model.dtype, device=model.device)
        self.tokens = torch.zeros((rows, width), dtype=torch.long, device=model.device)
        self.logprobs = torch.zeros((rows, width), device=model.device)
        self.start = torch.zeros(
            rows, dtype=torch.long, device=model.device
        )  # column of a row's first prompt token
        self.first = torch.zeros_like(self.start)  # column of its first generated token
        self.limit = torch.zeros_like(self.start)
        self.key = torch.zeros_like(self.start)
        self.jobs: list[Job | None] = [None] * rows
        self.low = 0  # first column of any live row
        self.end = longest
        self.seen = longest  # columns before this one have been searched for stops

    def run(self, emit: Emit) -> None:
        """Make every completion, calling `emit` as each one ends."""
        while self.queue or any(self.jobs):
            self._make_room()
            self._refill()
            self._harvest(emit)
            if any(self.jobs):
                self._burst()
                self._harvest(emit)

    def _share(self, prompts: Sequence[Sequence[int]]) -> int:
        """Compute what all `prompts` begin with, short of a last token; returns its length, 0 if it is not worth it."""
        first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
        most = min(len(first), len(last), *map(len, prompts)) - 1
        count = next((at for at in range(most) if first[at] != last[at]), most)
        if count < SHARED or len(self.queue) == 1 or any(layer.window for layer in self.model.weights.layers):
            return 0
        device, weights = self.model.device, self.model.weights
        kept = torch.zeros(
            (len(weights.layers), 2, 1, weights.kv_heads, count, weights.head_size),
            dtype=self.model.dtype,
            device=device,
        )
        ids, row = (
            torch.tensor([first[:count]], device=device),
            torch.zeros(1, dtype=torch.long, device=device),
        )
        memory = _Prefill(kept, row, row, torch.ones_like(ids, dtype=torch.bool), [])
        self.model.hidden(ids, torch.arange(count, device=device)[None], memory)
        self.prefix = [(keys, values) for keys, values in kept[:, :, 0]]
        return count

    def _refill(self) -> None:
        """Give free slots to waiting prompts, not for fewer than a sixteenth of the rows: a prefill has its fixed cost."""
        free = [slot for slot, job in enumerate(self.jobs) if job is None]
        if not self.queue or len(free) < min(len(self.queue), max(1, len(self.jobs) // 16)):
            return
        budget = PREFILL_TOKENS["cuda" if self.model.device.type == "cuda" else "cpu"]
        while free and self.queue:
            longest = len(self.prompts[self.queue[-1].prompt])
            taken: list[Job] = []
            prompts: dict[int, int] = {}
            while self.queue and len(taken) < len(free):
                known = self.queue[-1].prompt in prompts
                if not known and prompts and (len(prompts) + 1) * longest > budget:
                    break
                job = self.queue.pop()
                prompts.setdefault(job.prompt, len(prompts))
                taken.append(job)
            slots, free = free[: len(taken)], free[len(taken) :]
            self._admit(taken, slots, prompts)

    def _admit(self, jobs: list[Job], slots: list[int], prompts: dict[int, int]) -> None:
        """Prefill `prompts` (index: row of the prefill) and start `jobs` in `slots`, their first token drawn."""
        device, end = self.model.device, self.end
        ids = [self.prompts[prompt] for prompt in prompts]
        width = max(map(len, ids))
        padded = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=device)
        pads = torch.tensor([width - len(row) for row in ids], device=device)
        place = torch.tensor(slots, device=device)
        source = torch.tensor([prompts[job.prompt] for job in jobs], device=device)

        columns = torch.arange(width, device=device)
        memory = _Prefill(
            self.cache[:, :, :, :, end - width : end],
            place,
            source,
            columns >= pads[:, None],
            self.prefix,
        )
        hidden = self.model.hidden(padded, (columns - pads[:, None]).clamp(min=0) + self.offset, memory)
        logits = self.model.logits(hidden)[source]

        self.start[place] = start = end - width + pads[source]
        self.first[place] = end
        self.limit[place] = torch.tensor([job.limit for job in jobs], device=device)
        self.key[place] = key = torch.tensor([job.key for job in jobs], device=device)
        before = torch.arange(self.mask.shape[-1], device=device) < start[:, None]
        self.mask[place] = torch.zeros_like(before, dtype=self.mask.dtype).masked_fill_(before, -torch.inf)[
            :, None
        ]
        uniform = uniforms(key, torch.zeros_like(key))
        self.tokens[place, end], self.logprobs[place, end] = draw(logits, uniform, self.sampling)
        for slot, job in zip(slots, jobs, strict=True):
            self.jobs[slot] = job
        self.low = min(self.low, end - width)

    def _burst(self) -> None:
        """Decode a few steps, no more than some row still needs."""
        live = torch.tensor([job is not None for job in self.jobs], device=self.model.device)
        left = int(((self.first + self.limit - 1 - self.end) * live).max())
        count = min(BURST, left)
        steps = self.end + 1 - self.first[:, None] + torch.arange(count, device=self.model.device)
        uniform = uniforms(self.key[:, None], steps)
        for step in range(count):
            # A finished row in its slot runs on beyond its last position, unread.
            positions = (self.end - self.start + self.offset).clamp(max=self.model.positions - 1)[:, None]
            hidden = self.model.hidden(self.tokens[:, self.end : self.end + 1], positions, self)
            drawn = draw(self.model.logits(hidden), uniform[:, step], self.sampling)
            self.end += 1
            self.tokens[:, self.end], self.logprobs[:, self.end] = drawn

    def extend(
        self, layer: int, window: int | None, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write one decoding step at column `end`, in place, and show the live columns (see `native.Memory`)."""
        cache = self.cache[layer]
        cache[0, :, :, self.end] = keys[:, 0]
        cache[1, :, :, self.end] = values[:, 0]
        low = self.low if window is None else max(self.low, self.end + 1 - window)
        shown = cache[:, :, :, low : self.end + 1]
        return shown[0], shown[1], self.mask[:, :, low : self.end + 1]

    def _harvest(self, emit: Emit) -> None:
        """Emit the rows that have ended since the last look and free their slots."""
        ended = self.end + 1 - self.first >= self.limit
        ended |= self.stops.suspects(self.tokens[:, self.seen : self.end + 1])
        self.seen = self.end + 1
        rows = [row for row in ended.nonzero()[:, 0].tolist() if self.jobs[row] is not None]
        if not rows:
            return
        firsts = self.first.tolist()
        tokens = self.tokens[rows, : self.end + 1].tolist()
        logprobs = self.logprobs[rows, : self.end + 1].tolist()
        for row, ids, values in zip(rows, tokens, logprobs, strict=True):
            job = self.jobs[row]
            sample = self.stops.finished(ids[firsts[row] :], values[firsts[row] :], job.limit)
            if sample is not None:
                self.jobs[row] = None
                emit(job, sample)

    def _make_room(self) -> None:
        """Drop finished rows once they are an eighth and no prompt waits; move the cache left before it is full."""
        live = [row for row, job in enumerate(self.jobs) if job is not None]
        if not live:
            self.low = self.end = self.seen = self.longest
            return
        self.low = int(self.start[live].min())
        if not self.queue and len(live) <= len(self.jobs) * 7 // 8:
            self._keep(torch.tensor(live, device=self.model.device))
            self.jobs = [self.jobs[row] for row in live]
        if self.end + BURST >= self.tokens.shape[1]:
            self._move_left()

    def _keep(self, rows: Tensor) -> None:
        self.cache = self.cache.index_select(2, rows)
        for name in ("mask", "tokens", "logprobs", "start", "first", "limit", "key"):
            setattr(self, name, getattr(self, name).index_select(0, rows))

    def _move_left(self) -> None:
        shift, count = self.low, self.end + 1 - self.low
        for layer in self.cache:
            layer[:, :, :, :count] = layer[:, :, :, shift : self.end + 1].clone()
        for tape in (self.mask, self.tokens, self.logprobs):
            tape[..., :count] = tape[..., shift : self.end + 1].clone()
        self.mask[..., count:] = 0
        self.start -= shift
        self.first -= shift
        self.end -= shift
        self.seen -= shift
        self.low = 0


class _Prefill:
    """The memory of a prefill: each position sees the prompt up to itself, and the cache gets a copy for every sample."""

    def __init__(
        self,
        target: Tensor,
        slots: Tensor,
        source: Tensor,
        real: Tensor,
        prefix: list[tuple[Tensor, Tensor]],
    ) -> None:
        self.target, self.slots, self.source, self.real, self.prefix = target, slots, source, real, prefix
        self.masks: dict[int | None, Tensor] = {}

    def extend(
        self, layer: int, window: int | None, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `native.Memory`."""
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        self.target[layer, 0, self.slots] = keys[self.source]
        self.target[layer, 1, self.slots] = values[self.source]
        if window not in self.masks:
            self.masks[window] = self._mask(window)
        return keys, values, self.masks[window]

    def _mask(self, window: int | None) -> Tensor:
        columns = torch.arange(self.real.shape[1], device=self.real.device)
        distance = columns[:, None] - columns
        visible = (distance >= 0) & (distance < (window or len(columns)))
        # Padding sees itself, so that no row of the softmax is empty.
        visible = (visible & self.real[:, None]) | (distance == 0)
        return self.target.new_zeros(visible.shape).masked_fill_(~visible, -torch.inf)
