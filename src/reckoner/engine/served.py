"""Completions from another process: `rollout.engine` other than `own`, behind the call of `generate`.

The process (`serve`) is asked in JSON lines on its stdin and answers likewise; `null` is a sign of life.

| asked | answered |
|---|---|
| `{"load": {...}}`: a `ServedModel` | `{"done": name}` of the engine, with its version |
| `{"update": path}`: weights by name in a safetensors file | `{"done": ""}` |
| `{"sample": {...}}`: prompts as token ids, `Sampling`, keys | one line a completion, then `{"done": ""}` |

A completion is `[prompt, sample, ids, logprobs, finish]`. In the place of an answer stands what ends the run:
`{"input": message}` or `{"memory": message}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from reckoner import ranks
from reckoner.config import Config
from reckoner.engine.process import answers, close_pipes, command, end, start, tell
from reckoner.engine.sampling import Sample, Sampling
from reckoner.errors import InputError, require
from reckoner.models.merge import plain_weights
from reckoner.models.policy import Policy
from reckoner.runs.safe_paths import writing

COMMAND = command("reckoner.engine.serve")

WEIGHTS = ".rollout-weights.safetensors"
"""The file in a run folder that is there while weights are handed over."""


@dataclass(frozen=True)
class ServedModel:
    """What an engine loads: `model` and `peft` as settings, or `folder` in the dtype of the computation."""

    engine: str
    model: dict[str, Any]
    peft: dict[str, Any]
    vllm: dict[str, Any]
    folder: str
    dtype: str
    longest: int


class Served:
    """The process that samples for a run. `close` ends it; it ends by itself when this process is gone."""

    def __init__(self, config: Config, policy: Policy, folder: Path, longest: int) -> None:
        """Start the engine; weights are handed over in `folder`, and no text has more tokens than `longest`.

        Raises `InputError` where the engine cannot serve this run.
        """
        self.engine = config.rollout.engine
        check(config)
        self.path = folder / WEIGHTS
        self.process = start(COMMAND)
        what = ServedModel(
            self.engine,
            asdict(config.model),
            asdict(config.peft),
            asdict(config.vllm),
            str(policy.base.folder),
            str(policy.dtype).removeprefix("torch."),
            longest,
        )
        self.name = self._ask({"load": asdict(what)})

    def update(self, policy: Policy) -> None:
        """Hand over the weights that training changes; vLLM gets all, with the adapter merged."""
        trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        weights = plain_weights(policy) if self.engine == "vllm" else trained
        with writing(self.path):
            try:
                save_file({name: w.detach().contiguous() for name, w in weights.items()}, self.path)
            except SafetensorError as error:
                raise OSError(None, str(error)) from error
        self._ask({"update": str(self.path.resolve())})
        self.path.unlink()

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        batch_size: int,
        engine: str,
        on_done: Callable[[int, int, Sample], None],
        keys: Sequence[int],
    ) -> list[list[Sample]]:
        """As `generate.generate`, with the weights that were handed over last."""
        results: list[list[Any]] = [[None] * sampling.num_samples for _ in prompts]

        def take(answer: Any) -> None:
            prompt, sample, ids, logprobs, finish = answer
            results[prompt][sample] = Sample(tuple(ids), tuple(logprobs), finish)
            on_done(prompt, sample, results[prompt][sample])

        how = {"batch_size": batch_size, "engine": engine, "keys": list(keys)}
        how |= {"prompts": [list(prompt) for prompt in prompts], "threads": torch.get_num_threads()}
        self._ask({"sample": {**how, "sampling": asdict(sampling)}}, take)
        return results

    def _ask(self, what: Any, take: Callable[[Any], None] = lambda answer: None) -> str:
        """Pass each answer to `take` until it is done, and return the last. Raises what ended the engine."""
        tell(self.process, what)
        for answer in answers(self.process, f"rollout.engine={self.engine}", "a smaller eval.batch_size"):
            if not isinstance(answer, dict):
                take(answer)
            elif "input" in answer:
                raise InputError(f"rollout.engine={self.engine}: {answer['input']}")
            elif "memory" in answer:
                raise MemoryError(answer["memory"])
            else:
                return answer["done"]
        raise AssertionError("it answers, or is lost or silent")

    def close(self) -> None:
        """End the process and those that it started."""
        end(self.process)
        close_pipes(self.process)
        self.path.unlink(missing_ok=True)


def check(config: Config) -> None:
    """Raises `InputError` where `rollout.engine` is not installed, or cannot serve such a run."""
    engine = config.rollout.engine
    if ranks.size() > 1:
        raise InputError(
            f"rollout.engine={engine} samples for one process, and torchrun started {ranks.size()}, which "
            "share the sampling already. Set rollout.engine=own, or leave torchrun out"
        )
    if engine == "vllm":
        require("vllm", "rollout.engine=vllm")
        if config.peft.method == "qlora":
            raise InputError(
                "rollout.engine=vllm is handed plain weights, and peft.method=qlora has none. "
                "Set peft.method=lora or rollout.engine=own"
            )
