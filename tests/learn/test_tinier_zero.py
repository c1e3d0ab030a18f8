"""The one-file course computes what the real algorithms compute: losses, advantages, log-probs, gradients
of an update.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from reckoner.algorithms import grpo, ppo
from reckoner.config import load_config
from reckoner.engine.batches import Example, collate
from reckoner.engine.logprobs import completion_logprobs
from reckoner.models.critic import Critic
from reckoner.tasks.answers.number import grade_text
from reckoner.tasks.arithmetic import check_steps
from reckoner.training.rl import RolloutTraining
from reckoner.training.rollouts import Rollout

SIZES = {
    "prompts": 6,
    "generations": 4,
    "updates": 1,
    "limit": 16,
    "learning_rate": 0.0,
    "critic_learning_rate": 0.0,
}


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.fixture
def tokens():
    """Random quantities of [5, 7] tokens with rows of different lengths."""
    torch.manual_seed(1)
    actions = torch.arange(7) < torch.tensor([7, 3, 1, 5, 7])[:, None]
    draw = {
        name: torch.randn(5, 7) * actions
        for name in ("logprobs", "old", "reference", "values", "returns", "advantages")
    }
    return SimpleNamespace(actions=actions, rewards=torch.tensor([1.0, 0, 0.5, 1, 0]), **draw)


@pytest.mark.parametrize("algorithm", [grpo, ppo])
@pytest.mark.parametrize("epsilons", [(0.2, 0.28), (0.1, 0.1)])
def test_policy_loss(zero, tokens, algorithm, epsilons):
    results = []
    for module in (zero, algorithm):
        logprobs = tokens.logprobs.clone().requires_grad_()
        loss = module.policy_loss(logprobs, tokens.old, tokens.advantages, *epsilons)
        loss.sum().backward()
        results.append((loss, logprobs.grad))
    for ours, theirs in zip(*results, strict=True):
        same(ours, theirs)


def test_value_loss(zero, tokens):
    results = []
    for module in (zero, ppo):
        values = tokens.values.clone().requires_grad_()
        loss = module.value_loss(values, tokens.old, tokens.returns, 0.5)
        loss.sum().backward()
        results.append((loss, values.grad))
    for ours, theirs in zip(*results, strict=True):
        same(ours, theirs)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("algorithm", [grpo, ppo])
def test_kl(zero, tokens, algorithm, estimator):
    results = []
    for module in (zero, algorithm):
        logprobs = tokens.logprobs.clone().requires_grad_()
        estimate = module.kl_estimate(logprobs, tokens.reference, estimator)
        estimate.sum().backward()
        results.append((estimate, logprobs.grad))
    for ours, theirs in zip(*results, strict=True):
        same(ours, theirs)


@pytest.mark.parametrize("gamma, lam", [(1.0, 1.0), (1.0, 0.0), (0.99, 0.95), (0.5, 0.3)])
def test_advantages_of_ppo(zero, tokens, gamma, lam):
    paid = zero.token_rewards(tokens.rewards, tokens.actions)
    same(paid, ppo.token_rewards(tokens.rewards, tokens.actions))
    rubbish = tokens.values + ~tokens.actions * 9.0
    ours = zero.gae(paid, rubbish, tokens.actions, gamma, lam)
    same(ours, ppo.gae(paid, rubbish, tokens.actions, gamma, lam))
    same(zero.whiten(ours, tokens.actions), ppo.whiten(ours, tokens.actions))


def test_advantages_of_grpo(zero):
    rewards = torch.rand(20, 8).round(decimals=1)
    rewards[3:6] = 0.1
    same(zero.group_advantages(rewards), grpo.group_advantages(rewards))
    assert not zero.group_advantages(rewards)[3:6].any()


@pytest.mark.parametrize(
    "text, gold",
    [
        ("3*4=12\n#### 12", "12"),
        ("#### 1,000", "1,000"),
        ("#### 1000", "1,000"),
        ("#### 5\n#### 7", "7"),
        ("#### 7\n#### 5", "7"),
        ("12", "12"),
        ("#### ", "12"),
        ("", "12"),
        ("#### 13", "12"),
        ("#### -3", "-3"),
        ("#### 3", "-3"),
        ("####12", "12"),
    ],
)
def test_reward_is_the_strict_grade(zero, text, gold):
    assert bool(zero.reward(text, gold)) == grade_text(text, gold).strict


def test_stories_are_calculated_right(zero):
    problems = zero.stories(500, 3)
    assert problems == zero.stories(500, 3) and problems != zero.stories(500, 4)
    assert len({p["question"] for p in problems}) > 495
    for problem in problems:
        steps = check_steps(problem["solution"])
        assert steps == [] or all(step.right for step in steps) and int(problem["gold"]) == steps[-1].value
        assert zero.reward(problem["solution"], problem["gold"]) == 1


class Recorder:
    """An optimizer that keeps the gradient of its step and changes nothing."""

    def __init__(self, weights):
        self.param_groups, self.gradients = [{"params": list(weights), "lr": 0.0}], []

    def step(self):
        self.gradients = [None if w.grad is None else w.grad.clone() for w in self.param_groups[0]["params"]]

    def zero_grad(self, set_to_none=True):
        for w in self.param_groups[0]["params"]:
            w.grad = None


@pytest.fixture
def scene(zero, learn):
    """One rollout of the toy policy, for the course and for the package, whose model transformers loads
    from the same folder.
    """

    def make(method, **settings):
        torch.manual_seed(2)
        toy = learn / "toy"
        s = zero.Settings(method=method, **SIZES | settings)
        problems = [json.loads(row) for row in (toy / "problems.jsonl").read_text().splitlines()[: s.prompts]]
        policy, reference = zero.Gemma(toy), zero.Gemma(toy)
        for w in reference.w.values():
            w.data += 0.02 * torch.randn(w.shape)
        critic = zero.critic_of(reference) if method == "ppo" else None
        if critic:
            critic.w["head"].data.normal_(0, 0.2)
        batch, known, line = zero.roll(s, policy, critic, reference, problems)
        model = AutoModelForCausalLM.from_pretrained(toy, dtype=torch.float32)
        examples = []
        for ids, real in zip(batch.ids, batch.real, strict=True):
            prompt, completion = (
                ids[: batch.start][real[: batch.start]],
                ids[batch.start :][real[batch.start :]],
            )
            examples.append(Example("", tuple(prompt.tolist()), tuple(completion.tolist())))
        texts = policy.tokenizer.decode_batch([list(e.completion_ids) for e in examples])
        rewards = torch.tensor(
            [zero.reward(text, problems[i // s.generations]["gold"]) for i, text in enumerate(texts)]
        )
        truncated = torch.tensor([e.completion_ids[-1] != policy.eos for e in examples])
        theirs = SimpleNamespace(
            policy=SimpleNamespace(
                model=model, tokenizer=SimpleNamespace(pad_token_id=0), device="cpu", autocast=nullcontext
            ),
            rollout=Rollout(
                [SimpleNamespace(example=example) for example in examples],
                rewards,
                known["old"],
                batch.actions,
                truncated,
            ),
            schedule=SimpleNamespace(batch=len(examples)),
            sampler=SimpleNamespace(limit=s.limit),
            generations=f"rollout.num_generations={s.generations}",
        )
        assert 0 < rewards.mean() < 1 and rewards.mean().item() == pytest.approx(line["reward"])
        return SimpleNamespace(
            s=s,
            policy=policy,
            reference=reference,
            critic=critic,
            batch=batch,
            known=known,
            model=model,
            theirs=theirs,
        )

    return make


def gradients_by_name(names, recorder):
    return {name: g for name, g in zip(names, recorder.gradients, strict=True) if g is not None}


def compare(ours, theirs):
    assert ours.keys() == theirs.keys()
    largest = max(gradient.abs().max() for gradient in ours.values()).item()
    assert largest > 1e-4
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=min(1e-6, 1e-5 * largest))


def test_log_probs_are_the_engines(scene):
    at = scene("grpo")
    collated = collate(at.theirs.rollout.examples, 0)
    with torch.no_grad():
        ours = at.batch.logprobs(at.policy, 1.3)[at.batch.actions]
        torch.testing.assert_close(
            ours, completion_logprobs(at.model, collated, 1.3).logprobs, rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            at.known["old"][at.batch.actions],
            completion_logprobs(at.model, collated, 1.0).logprobs,
            rtol=0,
            atol=1e-5,
        )


def training_of(theirs, config, valuer=None, **optimizers):
    """What an update of the package sees of its run."""
    modules = {"policy": theirs.policy.model, "critic": valuer}
    return RolloutTraining(
        run=SimpleNamespace(config=config),
        policy=theirs.policy,
        data=None,
        schedule=theirs.schedule,
        optimizers={name: (modules[name], optimizer) for name, optimizer in optimizers.items()},
        state=None,
        on_progress=None,
        sampler=theirs.sampler,
        reference=None,
        gate=None,
        guard=None,
        max_tokens=200,
        valuer=valuer,
    )


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_grpo_update(zero, scene, kl_coef):
    at = scene("grpo", kl_coef=kl_coef)
    settings = [f"grpo.kl_coef={kl_coef}", "rollout.num_mini_batches=1", "train.max_grad_norm=1"]
    config = load_config("", [], [*settings, at.theirs.generations])
    recorders = [Recorder(at.policy.w.values()), Recorder(at.model.parameters())]
    line = zero.update(at.s, at.policy, None, recorders[:1], at.batch, at.known)
    batch = grpo.estimate(at.theirs.rollout, at.known["reference"], config)
    same(at.known["advantages"], batch.advantages[:, None] * at.batch.actions)
    training = training_of(at.theirs, config, policy=recorders[1])
    grpo.update(training, at.theirs.rollout, batch, 0.0, 1)
    ours, theirs = (
        gradients_by_name(at.policy.w, recorders[0]),
        gradients_by_name(dict(at.model.named_parameters()), recorders[1]),
    )
    assert line["log_ratio"] < 1e-3
    compare(ours, theirs)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_ppo_update(zero, scene, kl_coef):
    at = scene("ppo", kl_coef=kl_coef, gamma=0.97, lam=0.9)
    settings = [
        "ppo.gamma=0.97",
        "ppo.lam=0.9",
        f"ppo.kl_coef={kl_coef}",
        "ppo.epsilon_high=0.28",
        "rollout.num_mini_batches=1",
        "train.max_grad_norm=1",
    ]
    config = load_config("", [], settings)
    trunk = AutoModelForCausalLM.from_config(at.model.config).float()
    trunk.load_state_dict(
        {name: w.detach() for name, w in at.critic.w.items() if name.startswith("model.")}, strict=False
    )
    critic = Critic(at.model.config.hidden_size, trunk)
    critic.head.load_state_dict(
        {"weight": at.critic.w["head"].detach(), "bias": at.critic.w["bias"].detach()}
    )
    ours = [Recorder(at.policy.w.values()), Recorder(at.critic.w.values())]
    theirs = [Recorder(at.model.parameters()), Recorder(critic.parameters())]

    zero.update(at.s, at.policy, at.critic, ours, at.batch, at.known)
    training = training_of(at.theirs, config, critic, policy=theirs[0], critic=theirs[1])
    values = ppo.score_values(training, at.theirs.rollout)
    batch = ppo.estimate(at.theirs.rollout, values, at.known["reference"], config)
    for name in ("values", "returns", "advantages"):
        torch.testing.assert_close(
            at.known[name][at.batch.actions], getattr(batch, name)[at.batch.actions], rtol=0, atol=1e-5
        )
    same_batch = ppo.AdvantageBatch(
        at.known["values"], at.known["returns"], at.known["advantages"], at.known["reference"]
    )
    ppo.update(training, at.theirs.rollout, same_batch, (0.0, 0.0), 1)
    compare(
        gradients_by_name(at.policy.w, ours[0]),
        gradients_by_name(dict(at.model.named_parameters()), theirs[0]),
    )
    names = {"head": "head.weight", "bias": "head.bias"}
    mine = {names.get(n, f"trunk.{n}"): g for n, g in gradients_by_name(at.critic.w, ours[1]).items()}
    compare(mine, gradients_by_name(dict(critic.named_parameters()), theirs[1]))


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_the_reward_rises(zero, learn, method):
    toy = learn / "toy"
    s = zero.Settings(
        method, str(toy), str(toy / "problems.jsonl"), steps=20, prompts=16, limit=16, learning_rate=1e-3
    )
    lines = list(zero.train(s))
    assert lines[-1]["dev"] > lines[0]["dev"] + 0.1
    assert sum(line["reward"] for line in lines[-4:]) / 4 > lines[1]["reward"] + 0.1
    assert all(line["log_ratio"] < 1e-3 for line in lines[1:])


def test_it_reads_what_data_make_writes(zero, tmp_path):
    """The pair of commands of learn/README.md: the text behind `####` is the gold."""
    from reckoner.cli import main

    path = tmp_path / "problems.jsonl"
    assert main(["data", "make", "--n", "12", "--seed", "7", "--output", str(path)]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for ours, row in zip(zero.read(str(path)), rows, strict=True):
        assert ours["solution"] == row["answer"]
        assert grade_text(row["answer"], ours["gold"]).strict and zero.reward(ours["solution"], ours["gold"])
    settings = zero.Settings(
        problems=str(path), steps=1, sft_steps=1, prompts=2, generations=2, limit=8, learning_rate=0.0
    )
    first, last = zero.train(settings)
    assert (first["step"], last["step"]) == (0, 1) and 0 <= last["dev"] <= 1 and "reward" in last


def test_a_copy_of_the_course_begins_with_the_toy(learn, tmp_path):
    """Without the package beside it, the file takes the toy and its problems."""
    copy = tmp_path / "learn"
    (copy / "toy").mkdir(parents=True)
    for name in ("tinier_zero.py", *(f"toy/{file.name}" for file in (learn / "toy").iterdir())):
        shutil.copy(learn / name, copy / name)
    words = ["--steps", "1", "--sft_steps", "1", "--prompts", "2", "--generations", "2", "--limit", "8"]
    # -I: neither PYTHONPATH nor this folder, so that only what is installed is imported
    command = [sys.executable, "-I", str(copy / "tinier_zero.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["step", "0"], ["step", "1"]]


def test_it_stands_alone(learn):
    source = (learn / "tinier_zero.py").read_text()
    names = {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.split(".")[0] in {"reckoner", "transformers"}}
    assert source.count("\n") < 450
