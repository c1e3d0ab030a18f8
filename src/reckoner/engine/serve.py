"""The process that samples for a run: it loads a model, takes new weights, and completes prompts when asked.

`served` has the table of what it is asked. An engine is a class with three methods; further ones stand in
ENGINES. It ends when its stdin closes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from reckoner.config import ModelConfig, PeftConfig
from reckoner.engine.generate import generate
from reckoner.engine.process import Send, taking_orders
from reckoner.engine.sampling import Sample, Sampling
from reckoner.engine.served import ServedModel
from reckoner.engine.vllm_engine import VllmEngine
from reckoner.errors import InputError, out_of_memory
from reckoner.models.policy import load_policy

Emit = Callable[[int, int, Sample], None]


class Engine(Protocol):
    """What samples. All raise `InputError` for what they cannot do."""

    def load(self, what: ServedModel) -> str:
        """Make the model ready, with any weights: `update` comes before the first prompt. Returns a name."""

    def update(self, path: str) -> None:
        """Take the weights of a safetensors file."""

    def sample(self, asked: dict[str, Any], sampling: Sampling, emit: Emit) -> None:
        """Pass each completion on as it ends."""


class OwnEngine:
    """The engine of every other command, in a process of its own: the draws are the same."""

    def load(self, what: ServedModel) -> str:
        """The model as the run loads it, with an adapter of the same shape."""
        self.policy = load_policy(ModelConfig(**what.model), PeftConfig(**what.peft), train=True)
        return "our engine"

    def update(self, path: str) -> None:
        """Copy the trained weights over those that were loaded."""
        trained = {name: p for name, p in self.policy.model.named_parameters() if p.requires_grad}
        weights = load_file(path)
        if weights.keys() != trained.keys():
            raise InputError("the weights that were handed over are of another model")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])

    def sample(self, asked: dict[str, Any], sampling: Sampling, emit: Emit) -> None:
        """Draws depend on the seed, the prompt's key, the sample and the step, as everywhere."""
        torch.set_num_threads(asked["threads"])
        how = asked["batch_size"], asked["engine"], emit, asked["keys"]
        generate(self.policy, asked["prompts"], sampling, *how)


ENGINES: dict[str, type[Engine]] = {"process": OwnEngine, "vllm": VllmEngine}


def main() -> None:
    """Answer what comes on stdin until it closes."""
    with taking_orders() as (order, send):
        try:
            _serve(order, send)
        except InputError as error:
            send({"input": str(error)})
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            send({"memory": str(error)})


def _serve(order: Callable[[], Any], send: Send) -> None:
    what = ServedModel(**order()["load"])
    engine = ENGINES[what.engine]()
    done = engine.load(what)
    while True:
        send({"done": done})
        done = ""
        match order():
            case {"update": path}:
                engine.update(path)
            case {"sample": asked}:
                fields: dict[str, Any] = {
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in asked["sampling"].items()
                }
                engine.sample(
                    asked,
                    Sampling(**fields),
                    lambda prompt, sample, one: send([prompt, sample, one.ids, one.logprobs, one.finish]),
                )


if __name__ == "__main__":
    main()
