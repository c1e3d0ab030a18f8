"""vLLM as the engine that samples for a run, by its offline class `LLM`.

Written against the documentation of vLLM 0.15: `LLM`, `SamplingParams`, `collective_rpc` with a
`worker_extension_cls`, and sleep mode. It has never run here: no machine of this project has vLLM. The gate
(`training/gate.py`) decides in step 1 whether what it draws is usable.

`logprobs_mode="processed_logprobs"` gives log-probs at the temperature of the run; vLLM's default gives those
at temperature 1. Each completion has a seed of its own, but its numbers also depend on what else is in the
batch: a run is not repeated bit by bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from safetensors.torch import load_file

from reckoner.engine.sampling import Sample, Sampling, Stops, stream_key
from reckoner.engine.served import ServedModel
from reckoner.errors import InputError
from reckoner.models.policy import load_tokenizer
from reckoner.models.sources import resolve


class WeightLoader:
    """What vLLM adds to each of its workers; `model_runner` is the worker's."""

    model_runner: Any

    def take_weights(self, path: str) -> None:
        """Copy the weights of a safetensors file over the model's; names are those of transformers."""
        self.model_runner.model.load_weights(load_file(path).items())


class VllmEngine:
    """Three methods that `serve.Engine` describes."""

    def load(self, what: ServedModel) -> str:
        """Start vLLM with the shape of the model; its weights are handed over before the first prompt."""
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm import LLM, __version__

        options = dict(what.vllm)
        self.sleeps, self.asleep = options.pop("sleep"), False
        try:
            self.llm = LLM(
                model=what.folder,
                dtype=what.dtype,
                max_model_len=what.longest,
                load_format="dummy",
                generation_config="vllm",  # not the model's own temperature, top-k and top-p
                logprobs_mode="processed_logprobs",
                enable_prefix_caching=True,
                enable_sleep_mode=self.sleeps,
                worker_extension_cls=f"{__name__}.{WeightLoader.__name__}",
                trust_remote_code=False,
                **options,
            )
        except ValueError as error:  # what vLLM says of an argument, a model or a device that it cannot serve
            raise InputError(" ".join(str(error).split())[:300]) from error
        self.tokenizer = load_tokenizer(resolve(what.folder))
        return f"vLLM {__version__}"

    def update(self, path: str) -> None:
        """Take new weights, and forget what was computed with the old ones."""
        self._wake()
        self.llm.collective_rpc("take_weights", args=(path,))
        self.llm.reset_prefix_cache()

    def sample(
        self, asked: dict[str, Any], sampling: Sampling, emit: Callable[[int, int, Sample], None]
    ) -> None:
        """One request a completion, each with its seed; `emit` gets them all at the end."""
        from vllm import SamplingParams

        self._wake()
        jobs = [(i, sample) for i in range(len(asked["prompts"])) for sample in range(sampling.num_samples)]
        params = [
            SamplingParams(
                temperature=sampling.temperature,
                max_tokens=sampling.max_new_tokens,
                seed=stream_key(sampling.seed, asked["keys"][i], sample) % 2**63,
                stop=list(sampling.stop_strings) or None,
                stop_token_ids=list(sampling.stop_ids),
                ignore_eos=True,  # it is one of those
                logprobs=0,  # of the drawn token alone
            )
            for i, sample in jobs
        ]
        prompts = [{"prompt_token_ids": asked["prompts"][i]} for i, _ in jobs]
        stops = Stops(sampling, self.tokenizer, self._decode, "cpu")
        for (i, sample), output in zip(jobs, self.llm.generate(prompts, params, use_tqdm=False), strict=True):
            (one,) = output.outputs
            ids = list(one.token_ids)
            logprobs = [step[token].logprob for step, token in zip(one.logprobs, ids, strict=True)]
            ended = stops.finished(ids, logprobs, min(sampling.max_new_tokens, len(ids)))
            assert ended, "its limit is its length"
            emit(i, sample, ended)
        if self.sleeps:
            self.llm.sleep(level=1)
            self.asleep = True

    def _wake(self) -> None:
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False

    def _decode(self, ids: Any) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
