"""A run that is refused memory in the middle of a step keeps what is finished, and goes on to the same
end."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from reckoner.algorithms import grpo, sft
from reckoner.errors import out_of_memory

from .invariants import coin
from .resuming import metrics

REFUSED = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 8 bytes"
)


def ending(train, config, folder):
    """The weights and metrics with which a run of `config` ends in `folder`."""
    train(dataclasses.replace(config, run=dataclasses.replace(config.run, output_dir=str(folder))))
    return load_file(folder / "model" / "model.safetensors"), metrics(folder)


@pytest.mark.parametrize(
    "train", [sft.train, lambda config: grpo.train(config, reward_fn=coin)], ids=["sft", "grpo"]
)
def test_want_of_memory_loses_nothing(train, rl_config, tmp_path, monkeypatch):
    rl_config.run.save_steps, rl_config.rollout.max_steps, rl_config.data.max_train_samples = 1, 2, 16
    backward, calls = torch.Tensor.backward, []

    def refused(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError(REFUSED)
        return backward(*arguments, **options)

    monkeypatch.setattr(torch.Tensor, "backward", refused)
    with pytest.raises(RuntimeError) as error:
        ending(train, rl_config, tmp_path / "refused")
    assert out_of_memory(error.value) and len(calls) == 4
    weights, lines = ending(train, rl_config, tmp_path / "refused")
    expected, whole = ending(train, rl_config, tmp_path / "whole")
    assert lines == whole and all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())
