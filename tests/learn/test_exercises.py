"""The checks accept the solutions, name the blanks, and find the mistakes that people make."""

from __future__ import annotations

import sys

import pytest
import torch

from .conftest import load

NAMES = (
    "completion_logprobs",
    "gae",
    "group_advantages",
    "policy_loss",
    "value_loss",
    "kl_estimate",
    "update",
)


@pytest.fixture
def run(check, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
        code = check.main()
        return code, capsys.readouterr().out.splitlines()

    return call


def test_solutions_pass(run):
    code, lines = run("--solutions")
    assert code == 0 and lines[-1] == "7 of 7 pass"
    assert [line.split()[:2] for line in lines[:-1]] == [[name, "passes"] for name in NAMES]


def test_blanks_are_named_with_their_hint(run, learn):
    code, lines = run()
    assert code == 1 and lines[-1] == "0 of 7 pass"
    hints = (learn / "HINTS.md").read_text()
    for name, line in zip(NAMES, lines, strict=False):
        assert line.split()[:2] == [name, "blank"] and line.endswith(f"learn/HINTS.md, {name}")
        section = hints.split(f"## {name}\n")[1].split("\n## ")[0]
        assert section.count("<details>") == 3


def test_one_by_name(run):
    assert run("gae", "--solutions")[1] == ["gae                    passes   18 numbers", "1 of 1 pass"]
    with pytest.raises(SystemExit, match="2"):
        run("gea")


MISTAKES = [
    ("policy_loss", "torch.minimum(ratio * advantages", "torch.maximum(ratio * advantages"),
    ("policy_loss", "1 + epsilon_high", "1 + epsilon"),
    ("policy_loss", "-torch.minimum", "torch.minimum"),
    ("policy_loss", "(logprobs - old).exp()", "(logprobs - logprobs.detach()).exp()"),
    ("value_loss", "torch.maximum", "torch.minimum"),
    ("value_loss", ") / 2", ")"),
    (
        "value_loss",
        "old + (values - old).clamp(-cliprange, cliprange)",
        "values.clamp(-cliprange, cliprange) - 1",
    ),
    ("kl_estimate", "reference - logprobs", "logprobs - reference"),
    ("kl_estimate", "d.exp() - 1 - d", "d.exp() - 1 + d"),
    ("gae", "gamma * lam * next_advantage", "lam * next_advantage"),
    ("gae", "actions[:, t] * values[:, t]", "values[:, t]"),
    ("gae", "actions[:, t] * (delta + gamma * lam * next_advantage)", "delta + gamma * lam * next_advantage"),
    ("group_advantages", ".masked_fill(equal, 0.0)", ""),
    ("group_advantages", "rewards.mean(-1, keepdim=True)", "rewards.mean()"),
    ("completion_logprobs", "start - 1 : -1", "start:"),
    ("completion_logprobs", " * real[:, start:]", ""),
    ("completion_logprobs", ".log_softmax(-1)", ""),
    ("update", "actions[rows].sum()", "actions.sum()"),
    ("update", "((losses * actions[part]).sum() / tokens)", "(losses[actions[part]].mean())"),
    ("update", "        optimizer.zero_grad()\n", ""),
    ("update", "old[part]).exp()", "logprobs_of(part).detach()).exp()"),
    ("update", "losses * actions[part]", "losses"),
]


@pytest.mark.parametrize("name, old, new", MISTAKES)
def test_a_mistake_is_found(check, learn, tmp_path, capsys, name, old, new):
    text = (learn / "solutions" / f"{name}.py").read_text()
    assert old in text
    (tmp_path / f"{name}.py").write_text(text.replace(old, new))
    assert not check.check_exercise(name, tmp_path)
    assert capsys.readouterr().out.split()[:2] == [name, "wrong"]


def test_solutions_are_what_the_course_runs(zero, learn):
    torch.manual_seed(0)
    solved = {name: getattr(load(learn / "solutions" / f"{name}.py"), name) for name in NAMES}
    a, b, c = torch.randn(3, 4, 6)
    actions = torch.arange(6) < torch.tensor([6, 2, 1, 4])[:, None]
    assert torch.allclose(solved["policy_loss"](a, b, c, 0.2, 0.3), zero.policy_loss(a, b, c, 0.2, 0.3))
    assert torch.allclose(solved["value_loss"](a, b, c, 0.5), zero.value_loss(a, b, c, 0.5))
    assert torch.allclose(solved["gae"](a, b, actions, 0.9, 0.7), zero.gae(a, b, actions, 0.9, 0.7))
    assert torch.equal(solved["group_advantages"](a.round()), zero.group_advantages(a.round()))
    for name in ("k1", "k2", "k3"):
        assert torch.allclose(solved["kl_estimate"](a, b, name), zero.kl_estimate(a, b, name))
