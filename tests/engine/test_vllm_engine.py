"""The adapter to vLLM against a stand-in with the arguments that vLLM 0.15 documents."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from reckoner.engine.sampling import Sample, Sampling
from reckoner.engine.served import ServedModel
from reckoner.engine.vllm_engine import VllmEngine, WeightLoader
from reckoner.errors import InputError

CALLS: list[tuple] = []


@dataclasses.dataclass(kw_only=True)
class SamplingParams:
    temperature: float
    max_tokens: int
    seed: int
    stop: list[str] | None
    stop_token_ids: list[int]
    logprobs: int
    ignore_eos: bool


class LLM:
    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_model_len: int,
        load_format: str,
        generation_config: str,
        logprobs_mode: str,
        enable_prefix_caching: bool,
        enable_sleep_mode: bool,
        worker_extension_cls: str,
        trust_remote_code: bool,
        gpu_memory_utilization: float,
        tensor_parallel_size: int,
    ) -> None:
        if max_model_len > 1000:
            raise ValueError("max_model_len (2000) is greater\nthan the derived max_model_len")
        assert worker_extension_cls == "reckoner.engine.vllm_engine.WeightLoader"
        assert (logprobs_mode, generation_config, trust_remote_code) == ("processed_logprobs", "vllm", False)
        self.worker = WeightLoader()
        self.worker.model_runner = SimpleNamespace(model=self)

    def load_weights(self, weights) -> None:
        CALLS.append(("weights", {name: tensor.tolist() for name, tensor in weights}))

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        return [getattr(self.worker, method)(*args, **(kwargs or {}))]

    def reset_prefix_cache(self) -> bool:
        CALLS.append(("reset",))
        return True

    def sleep(self, level: int = 1) -> None:
        CALLS.append(("sleep", level))

    def wake_up(self, tags=None) -> None:
        CALLS.append(("wake",))

    def generate(self, prompts, sampling_params, *, use_tqdm=True):
        """The prompt again, and its last token as the log-prob of each."""
        CALLS.append(("seeds", [one.seed for one in sampling_params]))
        for prompt in prompts:
            ids = tuple(prompt["prompt_token_ids"])
            logprobs = [{i: SimpleNamespace(logprob=-ids[-1] / 2)} for i in ids]
            yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=logprobs)])


@pytest.fixture
def engine(monkeypatch, tiny_model):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__version__ = LLM, SamplingParams, "0.15.0"
    monkeypatch.setitem(sys.modules, "vllm", module)
    CALLS.clear()
    options = {
        "gpu_memory_utilization": 0.4,
        "tensor_parallel_size": 1,
        "sleep": True,
    }
    what = ServedModel("vllm", {}, {}, options, str(tiny_model), "bfloat16", 100)
    return VllmEngine(), what


def test_completions_end_and_are_numbered_as_our_own(engine, tmp_path):
    served, what = engine
    assert served.load(what) == "vLLM 0.15.0"
    save_file({"lm_head.weight": torch.tensor([1.0, 2.0])}, tmp_path / "weights")
    served.update(str(tmp_path / "weights"))
    stop = served.tokenizer("\n\nQuestion:", add_special_tokens=False)["input_ids"]
    end = served.tokenizer.eos_token_id
    prompts = [[7, end, 9], [7, 8], [7, *stop]]
    sampling = Sampling(
        2 + len(stop), 1.0, num_samples=2, seed=3, stop_ids=(end,), stop_strings=("\n\nQuestion:",)
    )
    drawn = {}
    served.sample(
        {"prompts": prompts, "keys": [5, 6, 7]}, sampling, lambda *one: drawn.update({one[:2]: one[2]})
    )
    for sample in (0, 1):
        assert drawn[0, sample] == Sample((7, end), (-4.5, -4.5), "stop")
        assert drawn[1, sample] == Sample((7, 8), (-4.0, -4.0), "length")
        assert drawn[2, sample] == Sample((7,), (-stop[-1] / 2,), "stop")
    (seeds,) = (call[1] for call in CALLS if call[0] == "seeds")
    assert len(set(seeds)) == 6 and all(0 <= seed < 2**63 for seed in seeds)
    served.update(str(tmp_path / "weights"))
    names = [call[0] for call in CALLS]
    assert names == ["weights", "reset", "seeds", "sleep", "wake", "weights", "reset"]
    assert CALLS[0][1] == {"lm_head.weight": [1.0, 2.0]}


def test_what_vllm_refuses_is_one_line(engine):
    served, what = engine
    what = dataclasses.replace(what, longest=2000)
    with pytest.raises(
        InputError, match=r"^max_model_len \(2000\) is greater than the derived max_model_len$"
    ):
        served.load(what)
