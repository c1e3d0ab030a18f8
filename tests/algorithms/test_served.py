"""Completions from a second process: the same bytes, and a gate for what another engine may get wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence

import pytest
import torch
from safetensors.torch import load_file

from reckoner.algorithms import grpo
from reckoner.config.schema import ROLLOUT_ENGINES
from reckoner.engine import generate, process, scheduler, serve, served
from reckoner.errors import InputError, Stopped
from reckoner.models.adapters import adapters_off

from .invariants import Scene, coin
from .resuming import metrics
from .test_sampler import DTYPES, RECKONER, draw_with, gate_of, measure, scene_of


class Forked:
    """The process of an engine as a fork of this one, which has imported everything; else as `Popen`."""

    def __init__(self, command: Sequence[str]) -> None:
        orders, answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                os.setsid()
                os.dup2(orders[0], 0)
                os.dup2(answers[1], 1)
                os.closerange(3, 200)
                sys.stdin, sys.stdout, sys.stderr = (open(n, "rww"[n], closefd=False) for n in range(3))
                torch.set_num_threads(1)
                serve.main()
                code = 0
            finally:
                os._exit(code)
        os.close(orders[0])
        os.close(answers[1])
        self.stdin, self.stdout = open(orders[1], "w", encoding="ascii"), open(answers[0], "rb", buffering=0)
        self.code: int | None = None

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


@pytest.fixture
def fork(monkeypatch):
    """Processes that sample are forks; `fork(Engine)` gives them another engine."""
    monkeypatch.setattr(served, "start", Forked)

    def use(engine: type) -> None:
        monkeypatch.setitem(serve.ENGINES, "process", engine)

    return use


@pytest.fixture
def serving(tmp_path, fork):
    """Let the process of a scene draw, with the weights that its policy has now."""
    running = []

    def start(scene: Scene) -> served.Served:
        scene.config.rollout.engine = "process"
        scene.sampler.served = served.Served(scene.config, scene.policy, tmp_path, scene.sampler.longest)
        running.append(scene.sampler.served)
        scene.sampler.served.update(scene.policy)
        return scene.sampler.served

    yield start
    for one in running:
        one.close()


class Stale(serve.OwnEngine):
    """Takes the first weights alone."""

    def update(self, path):
        if not hasattr(self, "there"):
            super().update(path)
        self.there = True


class WithoutAdapter(serve.OwnEngine):
    def sample(self, *asked):
        with adapters_off(self.policy):
            super().sample(*asked)


class Warmer(serve.OwnEngine):
    """Draws, and reports, at another temperature than it is asked for."""

    def sample(self, asked, sampling, emit):
        super().sample(asked, dataclasses.replace(sampling, temperature=1.3), emit)


def move(policy, share: float, only: str = "") -> None:
    """Add noise of this share of its own size to each trained weight, or to those that have no size yet."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if only in name and p.requires_grad:
                size = share * p.std() if p.any() else torch.tensor(share)
                p.add_(torch.randn(p.shape, generator=draw) * size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_honest_process_passes_and_draws_what_this_one_draws(dtype, tiny, serving):
    scene = scene_of(tiny, dtype)
    gate, there = gate_of(scene), serving(scene)
    for step in (1, 2):
        there.update(scene.policy)
        rollout = scene.draw(8 * step)
        measure(scene, gate, rollout, step)
        scene.sampler.served = None
        own = scene.draw(8 * step)
        assert [e.completion for e in rollout.episodes] == [e.completion for e in own.episodes]
        assert torch.equal(rollout.logprobs, own.logprobs)
        scene.sampler.served = there
        move(scene.policy, 0.03)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stale_weights_are_caught_and_named(dtype, tiny, fork, serving):
    fork(Stale)
    scene = scene_of(tiny, dtype)
    gate, there = gate_of(scene), serving(scene)
    measure(scene, gate, scene.draw())
    move(scene.policy, 0.05)
    there.update(scene.policy)
    with pytest.raises(InputError, match=r"step 2: .* as of stale weights.* Set rollout.engine=own"):
        measure(scene, gate, scene.draw(8), 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_missing_adapter_is_caught_and_named(dtype, tiny, fork, serving):
    fork(WithoutAdapter)
    size = f"model.dtype={dtype}", "rollout.num_prompts=8", "rollout.num_generations=8"
    scene = Scene(RECKONER, tiny, "peft.method=lora", *size)
    gate, there = gate_of(scene), serving(scene)
    measure(scene, gate, scene.draw())
    move(scene.policy, 0.05, "lora_B")
    there.update(scene.policy)
    with pytest.raises(InputError, match="step 2: .* they are those of the model without its adapter"):
        measure(scene, gate, scene.draw(8), 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_temperature_is_caught_and_named(dtype, tiny, fork, serving):
    fork(Warmer)
    scene = scene_of(tiny, dtype)
    serving(scene)
    with pytest.raises(
        InputError, match=r"step 1: .* those of temperature 1\.[23]\d, not of rollout.temperature=1"
    ):
        measure(scene, gate_of(scene), scene.draw())


@pytest.mark.parametrize(
    ("change", "raw", "why"),
    [
        ({"top_p": 0.8}, False, "no token is likelier than they say, as in a distribution cut by top-p"),
        ({"top_k": 3}, False, "no token is likelier than they say, as in a distribution cut by top-p"),
        ({"top_k": 3}, True, "are right, but they are far likelier at a lower temperature, or cut by top-p"),
        ({"temperature": 1.4}, True, "are right, but they are far likelier at a higher temperature"),
    ],
    ids=str,
)
def test_truncated_sampling_is_caught_and_named(change, raw, why, tiny, serving, monkeypatch):
    """It reports the log-probs of what it drew from, or as vLLM's default those of the whole distribution."""
    for module in (generate, scheduler):
        monkeypatch.setattr(module, "draw", draw_with(change, raw))
    count = 32 if raw else 8  # what is right in itself shows in many tokens only
    scene = Scene(RECKONER, tiny, "rollout.num_prompts=8", f"rollout.num_generations={count}")
    serving(scene)
    with pytest.raises(InputError, match=f"step 1: .*{why}"):
        measure(scene, gate_of(scene), scene.draw())


class Dies(serve.OwnEngine):
    """Is killed in the middle of step 2."""

    rounds = 0

    def sample(self, asked, sampling, emit):
        self.rounds += 1

        def emit_once(*one):
            emit(*one)
            if self.rounds == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        super().sample(asked, sampling, emit_once)


def test_a_run_whose_process_is_killed_ends_with_the_bytes_of_one_without(rl_config, tmp_path, fork):
    rl_config.peft.method, rl_config.rollout.max_steps, rl_config.run.save_steps = "lora", 2, 1
    folders = [tmp_path / name for name in ("own", "process")]
    rl_config.run.output_dir = str(folders[0])
    grpo.train(rl_config, reward_fn=coin)
    rl_config.rollout.engine, rl_config.run.output_dir = "process", str(folders[1])
    fork(Dies)
    with pytest.raises(
        Stopped, match=r"rollout.engine=process was killed .* the same command goes on from there"
    ):
        grpo.train(rl_config, reward_fn=coin)
    fork(serve.OwnEngine)
    grpo.train(rl_config, reward_fn=coin)
    assert metrics(folders[0]) == metrics(folders[1])
    (name,) = (path.name for path in (folders[0] / "model").glob("*model.safetensors"))
    own, process = (load_file(folder / "model" / name) for folder in folders)
    assert all(torch.equal(tensor, process[name]) for name, tensor in own.items())
    for step in (1, 2):
        path = f"rollouts/step-{step:06d}.jsonl"
        assert (folders[0] / path).read_bytes() == (folders[1] / path).read_bytes()
    assert not (folders[1] / served.WEIGHTS).exists()
    backend = json.loads((folders[1] / "environment.json").read_text())["backend"]
    assert backend.endswith(" · rollouts: our engine in a second process")


def test_a_setting_names_each_engine():
    assert ("own", *serve.ENGINES) == ROLLOUT_ENGINES


class Hangs(serve.OwnEngine):
    def sample(self, *asked):
        os.kill(os.getpid(), signal.SIGSTOP)


def test_a_process_that_hangs_is_ended(tiny, fork, serving, monkeypatch):
    fork(Hangs)
    scene = scene_of(tiny, "float32")
    there = serving(scene)
    monkeypatch.setattr(process, "SILENCE", 0.2)
    with pytest.raises(Stopped, match="of rollout.engine=process gave no sign of life for 0.2 s"):
        scene.draw()
    there.close()
    assert there.process.wait() == -signal.SIGKILL


def test_the_command_ends_with_2_and_one_line(tiny_model, tmp_path, fork, start_reckon):
    fork(Warmer)
    words = [f"model.model_name_or_path={tiny_model}", "run.output_dir=run", "run.threads=1"]
    words += [
        "data.dev_size=8",
        "data.max_train_samples=48",
        "eval.dev_samples=2",
        "prompt.chat_template=off",
    ]
    words += ["rollout.num_prompts=8", "rollout.num_generations=8", "rollout.engine=process"]
    command = start_reckon("grpo", *words).wait()
    assert command.returncode == 2, command
    (line,) = command.stderr.splitlines()[-1:]
    assert line.startswith("reckon: step 1: the completions were not drawn by the policy")
    assert "temperature 1.30" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "vllm"}, r"rollout.engine=vllm needs vllm: pip install 'reckonlab\[vllm\]'"),
        ({"engine": "process"}, "samples for one process, and torchrun started 2"),
    ],
)
def test_what_cannot_serve_is_refused_in_one_line(settings, message, rl_config, monkeypatch):
    rl_config.rollout = dataclasses.replace(rl_config.rollout, **settings)
    if settings["engine"] == "process":
        monkeypatch.setattr("reckoner.ranks.size", lambda: 2)
    with pytest.raises(InputError, match=message):
        served.check(rl_config)


def test_the_process_starts_as_a_command_of_its_own(tiny, tmp_path):
    """As for a user: a new interpreter, which takes seconds to import torch."""
    scene = scene_of(tiny, "float32")
    own = scene.draw()
    scene.config.rollout.engine = "process"
    there = scene.sampler.served = served.Served(scene.config, scene.policy, tmp_path, scene.sampler.longest)
    there.update(scene.policy)
    assert torch.equal(scene.draw().logprobs, own.logprobs)
    there.process.stdin.close()
    assert there.process.wait() == 0
    there.close()
