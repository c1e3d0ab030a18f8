"""A sampler that is not the policy stops a run before its first update, in fp32 and in bfloat16; an honest
one never does.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from reckoner.algorithms import ALGORITHMS, grpo, ppo
from reckoner.engine import generate, sampling, scheduler
from reckoner.errors import InputError
from reckoner.models.adapters import adapters_off
from reckoner.training.gate import Gate
from reckoner.training.rollouts import Sampler

from .invariants import Code, Scene
from .resuming import metrics

RECKONER = Code("reckoner")
DTYPES = ("float32", "bfloat16")


def scene_of(tiny, dtype, *settings):
    """A policy that is surer than a random one, and steps of 64 completions."""
    scene = Scene(
        RECKONER,
        tiny,
        f"model.dtype={dtype}",
        "rollout.num_prompts=8",
        "rollout.num_generations=8",
        *settings,
    )
    with torch.no_grad():
        scene.policy.model.get_input_embeddings().weight.mul_(2.0)
    return scene


def gate_of(scene, past=()) -> Gate:
    return Gate(SimpleNamespace(config=scene.config, metrics=lambda: list(past)))


def measure(scene, gate, rollout, step=1):
    return gate.check(scene.policy, rollout, step, scene.max_tokens)


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_honest_sampler_passes(dtype, engine, tiny):
    for seed in range(3):
        scene = scene_of(tiny, dtype, f"run.seed={seed}", f"eval.engine={engine}")
        gate, moved = gate_of(scene), torch.Generator().manual_seed(seed)
        for step in (1, 2):
            found = measure(scene, gate, scene.draw(8 * step), step)
            assert found["sampler_gap"] < (1e-5 if dtype == "float32" else 0.05), found
            assert found["sampler_evidence"] < 5, found
            with torch.no_grad():
                for p in scene.policy.model.parameters():
                    p.add_(torch.randn(p.shape, generator=moved) * 1e-3)


def draw_with(change: dict, reports_raw: bool):
    """A sampler with other settings than the run's; it reports its own distribution, or the policy's as
    vLLM does.
    """
    draw = sampling.draw

    def planted(logits, uniform, asked):
        tokens, logprobs = draw(logits, uniform, dataclasses.replace(asked, **change))
        own = dataclasses.replace(asked, **change)
        probabilities = (logits / (asked if reports_raw else own).temperature).softmax(-1)
        if not reports_raw:
            probabilities = sampling._truncate(probabilities, own.top_k, own.top_p)
            probabilities = probabilities / probabilities.sum(-1, keepdim=True)
        return tokens, probabilities.gather(-1, tokens[:, None])[:, 0].log()

    return planted


@pytest.mark.parametrize("reports_raw", [False, True])
@pytest.mark.parametrize(
    "change", [{"temperature": 0.7}, {"temperature": 1.4}, {"top_p": 0.9}, {"top_k": 3}], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_another_temperature_and_a_truncated_distribution_are_caught(
    dtype, change, reports_raw, tiny, monkeypatch
):
    for module in (generate, scheduler):
        monkeypatch.setattr(module, "draw", draw_with(change, reports_raw))
    scene = scene_of(tiny, dtype, "rollout.num_generations=64")
    with pytest.raises(InputError, match="step 1: the completions were not drawn by the policy"):
        measure(scene, gate_of(scene), scene.draw())


@pytest.mark.parametrize("dtype", DTYPES)
def test_stale_weights_are_caught(dtype, tiny):
    """The sampler keeps the weights of step 1 while the policy moves on."""
    scene = scene_of(tiny, dtype)
    gate, draw = gate_of(scene), torch.Generator().manual_seed(0)
    measure(scene, gate, scene.draw(), 1)
    stale = scene.draw(8)
    with torch.no_grad():
        for p in scene.policy.model.parameters():
            p.add_(torch.randn(p.shape, generator=draw) * 0.03 * p.std())
    with pytest.raises(InputError, match="step 2: the completions were not drawn by the policy"):
        measure(scene, gate, stale, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_missing_adapter_is_caught(dtype, tiny):
    scene = scene_of(tiny, dtype, "peft.method=lora")
    gate = gate_of(scene)
    measure(scene, gate, scene.draw(), 1)
    with torch.no_grad():
        for name, p in scene.policy.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.02)
    measure(scene, gate, scene.draw(8), 2)
    with adapters_off(scene.policy):
        without = scene.draw(8)
    with pytest.raises(InputError, match="step 2: the completions were not drawn by the policy"):
        measure(scene, gate, without, 2)


@pytest.mark.parametrize("train", [grpo.train, ppo.train])
def test_the_gap_is_measured_where_no_update_runs(train, rl_config, tmp_path):
    """All rewards are 0, so that nothing is updated."""
    nothing = SimpleNamespace(total=0.0, parts={"correct": 0.0})
    rl_config.rollout.max_steps = 1
    rl_config.run.output_dir = str(tmp_path / "honest")
    train(rl_config, reward_fn=lambda *_: nothing)
    (line,) = (line for line in metrics(tmp_path / "honest") if "reward" in line)
    assert line["kl_reference"] < 1e-6 and 0 < line["sampler_gap"] < 1e-5 and line["sampler_evidence"] < 5
    assert line["grad_norm"] in (None, 0.0)


@pytest.mark.parametrize("method", [name for name, one in ALGORITHMS.items() if one.needs_rollouts])
def test_a_sampler_that_is_not_the_policy_stops_every_method_in_step_1(
    method, rl_config, tmp_path, monkeypatch
):
    draw = Sampler.draw

    def broken(sampler, *arguments):
        weight = sampler.policy.model.get_input_embeddings().weight
        with torch.no_grad():
            weight.mul_(1.5)
            episodes = draw(sampler, *arguments)
            weight.div_(1.5)
        return episodes

    monkeypatch.setattr(Sampler, "draw", broken)
    rl_config.distill.teacher = rl_config.model.model_name_or_path
    rl_config.run.output_dir = str(tmp_path / "broken")
    with pytest.raises(InputError, match="step 1: the completions were not drawn by the policy"):
        ALGORITHMS[method].train(rl_config)
    assert not any("reward" in line for line in metrics(tmp_path / "broken"))


def test_a_resumed_run_remembers_the_gap_of_its_first_step(tiny):
    scene = scene_of(tiny, "bfloat16")
    rollout = scene.draw()
    rollout.logprobs.mul_(1.08)
    past = [{"reward": 0.0, "sampler_gap": 0.02, "step": 1}]
    gate = gate_of(scene, past)
    with pytest.raises(InputError, match=r"of themselves \(limit 0.04\)"):
        measure(scene, gate, rollout, 2)
    past[0]["sampler_gap"] = 0.2  # and never above the limit of step 1
    gate = gate_of(scene, past)
    assert measure(scene, gate, rollout, 2)["sampler_gap"] == pytest.approx(0.08, abs=0.01)
