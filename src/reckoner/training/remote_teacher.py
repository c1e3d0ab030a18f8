"""A teacher that stands behind a server (vLLM, SGLang): it reads token ids and gives their log-probs.

The completion API with `echo` and `logprobs` returns the log-prob of every token of the prompt. Sent is a
prompt with its completion, as token ids, so that no text is split again. One token is drawn at the end, as
servers insist, and thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reckoner import ranks
from reckoner.config import Config
from reckoner.errors import InputError, Stopped
from reckoner.evaluation.server import Caller, first_choice
from reckoner.models.policy import Policy
from reckoner.training.rollouts import Rollout

SPELT = "Tom has 12 apples and buys 30 more: 12+30=42, so $42 in all."
"""A text that servers with another vocabulary split, or spell, in another way."""

ROUNDING = 0.01
"""Log-probs may exceed 0 by this much, in nats: a server computes in bfloat16."""


@dataclass(frozen=True)
class Read:
    """The tokens of one text as the server spells them, and the log-prob of each but the first."""

    tokens: Sequence[str]
    logprobs: Sequence[float]


class RemoteTeacher:
    """The model `distill.teacher` of the server `endpoint.url`, whose operations nobody counts here.

    Raises `InputError` for no name, and for a temperature at which servers give no log-probs.
    """

    def __init__(self, config: Config) -> None:
        if not config.distill.teacher:
            raise InputError("distill.teacher is empty: name the model as the server of endpoint.url does")
        if config.rollout.temperature != 1:
            raise InputError(
                f"rollout.temperature={config.rollout.temperature:g}: a server gives log-probs at "
                "temperature 1. Set rollout.temperature=1, or a teacher that runs here"
            )
        self.name, self.settings = config.distill.teacher, config.endpoint
        self.caller, self.pins = Caller(config.endpoint), dict[str, str]()

    def check_vocabulary(self, policy: Policy) -> None:
        """Raises `InputError` where the server spells the policy's tokens as another text."""
        ids = policy.tokenizer(SPELT, add_special_tokens=False)["input_ids"]
        spelt = "".join(ranks.from_first(lambda: list(self._read(ids).tokens)))
        if spelt.replace("▁", "").replace("Ġ", "").replace(" ", "") != SPELT.replace(" ", ""):
            raise InputError(
                f"distill.teacher={self.name} has another vocabulary than {policy.name}: it reads the tokens "
                f"of {SPELT!r} as {spelt[:80]!r}. Its log-probs would be of other texts"
            )

    def logprobs(self, policy: Policy, rollout: Rollout, max_tokens: int) -> Tensor:
        """log pi_T [B, T] of the completions of `policy`."""
        judged = torch.zeros_like(rollout.logprobs)
        judged[rollout.mask] = judged.new_tensor(ranks.from_first(lambda: self._judge(rollout)))
        return judged

    def _judge(self, rollout: Rollout) -> list[float]:
        """The log-probs of all completion tokens, one after another."""
        texts = [(one.prompt_ids, one.completion_ids) for one in rollout.examples]
        with ThreadPoolExecutor(min(self.settings.concurrency, len(texts))) as pool:
            read = pool.map(lambda text: self._read([*text[0], *text[1]]), texts)
            try:
                return [
                    value
                    for (prompt, _), one in zip(texts, read, strict=True)
                    for value in one.logprobs[len(prompt) - 1 :]
                ]
            except (InputError, Stopped):
                self.caller.failed.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _read(self, ids: Sequence[int]) -> Read:
        asked = {"model": self.name, "prompt": list(ids), "echo": True, "logprobs": 1}
        fields = {**asked, "max_tokens": 1, "temperature": 1, **self.settings.extra}
        url = f"{self.caller.url}/completions"
        return self.caller.send(
            url, fields, lambda answer: _prompt_of(answer, len(ids)), "a text of the policy"
        )


def _prompt_of(answer: Any, count: int) -> Read:
    """What a server says of the `count` tokens that it was sent."""
    said = first_choice(answer).get("logprobs")
    if isinstance(said, dict) and isinstance(tokens := said.get("tokens"), list):
        logprobs = said.get("token_logprobs")
        if isinstance(logprobs, list) and min(len(tokens), len(logprobs)) >= count:
            read = Read(tokens[:count], logprobs[1:count])
            if all(isinstance(one, str) for one in read.tokens) and all(map(_sound, read.logprobs)):
                return read
    raise InputError(
        "the server of endpoint.url gives no log-probs of a prompt (echo, logprobs); vLLM and SGLang do. "
        "Name a teacher that runs here, with endpoint.url empty"
    )


def _sound(logprob: Any) -> bool:
    return type(logprob) in (int, float) and math.isfinite(logprob) and logprob <= ROUNDING
