"""The twelve invariants of reinforcement learning hold, and those of each further method. Each fault of the
original study, or that a method invites, breaks at least one of them.

The twelfth, that PPO, GRPO and RLOO find the best arm of a bandit, is in test_bandit.py.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import reckoner

from . import variants
from .invariants import CHECKS as SHARED
from .invariants import Code

CHECKS = {**SHARED, **variants.CHECKS}


@dataclass(frozen=True)
class Fault:
    """Replace `old`, which stands once in `file`, by `new`; then the check `caught_by` must fail."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str


FAULTS = [
    Fault(
        "padding gap between prompt and completion",
        "engine/batches.py",
        """    prompts = torch.tensor([len(example.prompt_ids) for example in examples])
    lengths = torch.tensor([len(example.completion_ids) for example in examples])
    flat = torch.tensor(list(chain.from_iterable((*e.prompt_ids, *e.completion_ids) for e in examples)))""",
        """    longest = max(len(example.prompt_ids) for example in examples)
    prompts = torch.tensor([longest for example in examples])
    lengths = torch.tensor([len(example.completion_ids) for example in examples])
    padded = ((*e.prompt_ids, *[pad_id] * (longest - len(e.prompt_ids)), *e.completion_ids) for e in examples)
    flat = torch.tensor(list(chain.from_iterable(padded)))""",
        "first_update_is_on_policy",
    ),
    Fault(
        "the same prompts at every step",
        "training/rollouts.py",
        "for at in range(first, first + count))",
        "for at in range(count))",
        "prompts_are_new",
    ),
    Fault(
        "bf16 weights without fp32 masters",
        "models/policy.py",
        "weights = getattr(torch, model.train_dtype) if full else dtype",
        "weights = dtype",
        "updates_move_the_weights",
    ),
    Fault(
        "the stop token masked where pad is eos",
        "engine/batches.py",
        "lengths = torch.tensor([len(example.completion_ids) for example in examples])",
        "lengths = torch.tensor([sum(i != pad_id for i in example.completion_ids) for example in examples])",
        "padding_changes_nothing",
    ),
    Fault(
        "sampling at one temperature, scoring at another (GRPO)",
        "algorithms/grpo.py",
        "policy.model, micro_batch, config.rollout.temperature",
        "policy.model, micro_batch, 1.0",
        "first_update_is_on_policy",
    ),
    Fault(
        "sampling at one temperature, scoring at another (PPO)",
        "algorithms/ppo.py",
        "policy.model, micro_batch, temperature, ppo",
        "policy.model, micro_batch, 1.0, ppo",
        "first_update_is_on_policy",
    ),
    Fault(
        'float("1,000") in the reward',
        "tasks/rewards.py",
        "float(answer.grade.strict)",
        "float(answer.gold.isdigit() and answer.grade.strict)",
        "gold_earns_one_and_nothing_else_does",
    ),
    Fault(
        "KL taken off the reward before the group is normalised",
        "algorithms/grpo.py",
        "rewards = rollout.rewards.view(-1, generations)",
        "rewards = (rollout.rewards - 0.05 * (rollout.logprobs - reference).sum(-1)).view(-1, generations)",
        "equal_rewards_give_no_gradient",
    ),
    Fault(
        "loss divided by the number of iter_microbatches twice (GRPO)",
        "algorithms/grpo.py",
        "loss = (weights[index] * losses).sum()",
        "loss = (weights[index] * losses).sum() / len(list(iter_microbatches(policy, rollout, rows, "
        "training.max_tokens)))",
        "passes_change_no_gradient",
    ),
    Fault(
        "loss divided by the number of iter_microbatches twice (PPO)",
        "algorithms/ppo.py",
        """rollout, batch, sums)
                    loss = (weights[index] * losses).sum()""",
        """rollout, batch, sums)
                    loss = (weights[index] * losses).sum() / len(
                        list(iter_microbatches(policy, rollout, rows, training.max_tokens))
                    )""",
        "passes_change_no_gradient",
    ),
    Fault(
        "the first #### counts",
        "tasks/rewards.py",
        "float(answer.grade.strict)",
        "float(str(answer.reading.first) == answer.gold.replace(',', ''))",
        "gold_earns_one_and_nothing_else_does",
    ),
    Fault(
        "prompt text in the scored text",
        "training/rollouts.py",
        "[one.answer for one in group]",
        "[Answer(self.policy.decode(o.prompt_ids) + o.completion.text, o.answer.gold) for o in group]",
        "gold_earns_one_and_nothing_else_does",
    ),
    Fault(
        "dropout during the update",
        "training/rollouts.py",
        "    model.eval()\n",
        "    model.train()\n",
        "first_update_is_on_policy",
    ),
    Fault(
        "discounted far from the reward",
        "config/schema.py",
        "gamma: float = setting(1.0,",
        "gamma: float = setting(0.99,",
        "reward_reaches_the_first_token",
    ),
    Fault(
        "copies are learned (rejection)",
        "algorithms/rejection.py",
        " or wrong or episode.way in seen[episode.problem.id]:",
        " or wrong:",
        "distinct_right_solutions_are_learned",
    ),
    Fault(
        "right answers by wrong calculations are learned (rejection)",
        "algorithms/rejection.py",
        "if episode.reward < rejection.min_reward or wrong or",
        "if episode.reward < rejection.min_reward or",
        "distinct_right_solutions_are_learned",
    ),
    Fault(
        "the grader is not asked (rejection)",
        "algorithms/rejection.py",
        "if episode.reward < rejection.min_reward or wrong",
        "if wrong",
        "distinct_right_solutions_are_learned",
    ),
    Fault(
        "the worse completion is preferred (DPO)",
        "algorithms/dpo.py",
        "ratios[best] - ratios[worst]",
        "ratios[worst] - ratios[best]",
        "the_better_rises_over_the_start",
    ),
    Fault(
        "the sign of the preference (DPO)",
        "algorithms/dpo.py",
        "-F.logsigmoid(beta * margins)",
        "-F.logsigmoid(-beta * margins)",
        "the_better_rises_over_the_start",
    ),
    Fault(
        "the reference is who drew, not the start (DPO)",
        "algorithms/dpo.py",
        "pair_margins(logprobs, reference[index],",
        "pair_margins(logprobs, rollout.logprobs[index],",
        "the_better_rises_over_the_start",
    ),
    Fault(
        "forward KL for reverse (distillation)",
        "algorithms/distill.py",
        "-(logprobs - old).exp() * (teacher - old)",
        "-(teacher - old).exp() * logprobs",
        "the_reverse_kl_falls",
    ),
    Fault(
        "the policy moves away from the teacher (distillation)",
        "algorithms/distill.py",
        "(teacher - old)",
        "(old - teacher)",
        "the_reverse_kl_falls",
    ),
    Fault(
        "the advantage has a gradient (distillation)",
        "algorithms/distill.py",
        "(teacher - old)",
        "(teacher - logprobs)",
        "the_reverse_kl_falls",
    ),
    Fault(
        "a ratio for each token (GSPO)",
        "algorithms/grpo.py",
        "(sums / counts.clamp(min=1))[rows]",
        "change",
        "a_completion_has_one_ratio",
    ),
    Fault(
        "the ratio grows with the length (GSPO)",
        "algorithms/grpo.py",
        "(sums / counts.clamp(min=1))[rows]",
        "sums[rows]",
        "a_completion_has_one_ratio",
    ),
    Fault(
        "the weight has a gradient (CISPO)",
        "algorithms/grpo.py",
        ".clamp(max=1 + epsilon_high).detach()",
        ".clamp(max=1 + epsilon_high)",
        "no_token_drops_out",
    ),
    Fault(
        "tokens beyond the clip drop out (CISPO)",
        "algorithms/grpo.py",
        "return cispo_loss(logprobs, old, advantages, high)",
        "return policy_loss(logprobs, old, advantages, low, high)",
        "no_token_drops_out",
    ),
    Fault(
        "normalised by the group (REINFORCE++)",
        "algorithms/grpo.py",
        'group_advantages(rewards.reshape(1, -1), "std").view_as(rewards)',
        'group_advantages(rewards, "std")',
        "the_std_is_that_of_the_batch",
    ),
    Fault(
        "normalised by the group (REINFORCE++ with a baseline)",
        "algorithms/grpo.py",
        "centred / centred.std().clamp(min=1e-6)",
        "centred / rewards.std(-1, keepdim=True).clamp(min=1e-6)",
        "the_std_is_that_of_the_batch",
    ),
    Fault(
        "long completions are paid (overlong)",
        "training/rollouts.py",
        "penalty += overlong_penalty(",
        "penalty -= overlong_penalty(",
        "the_last_tokens_cost",
    ),
    Fault(
        "the whole length costs (overlong)",
        "training/rollouts.py",
        "max(0.0, (length - (limit - last)) / last)",
        "length / limit",
        "the_last_tokens_cost",
    ),
]


NAME = "planted"
"""The package that holds a fault: imported by one name for all of them, its files are compiled once."""


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the package under another name; compiled loops are shared."""
    source, copy = Path(reckoner.__file__).parent, tmp_path_factory.mktemp("copy") / NAME
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    for path in copy.rglob("*.py"):
        path.write_text(renamed(path.read_text(encoding="utf-8")), encoding="utf-8")
    return copy


def renamed(text: str) -> str:
    return re.sub(r"\breckoner\b", NAME, text)


@pytest.fixture
def code(copied, monkeypatch):
    """The copy, imported anew."""
    monkeypatch.syspath_prepend(copied.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for loops in ("numba_jit", "numba_attention", "numba_ops"):
        sys.modules[f"{NAME}.engine.ops.{loops}"] = importlib.import_module(f"reckoner.engine.ops.{loops}")
    yield Code(NAME)
    for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[name]


@pytest.fixture
def fault(request, copied):
    """A fault in the copy, for one test."""
    fault = request.param
    path = copied / fault.file
    whole, old = path.read_text(encoding="utf-8"), renamed(fault.old)
    assert whole.count(old) == 1, f"{fault.file} has changed: {old!r} no longer stands there once"
    replaced(path, whole.replace(old, renamed(fault.new)))
    yield fault
    replaced(path, whole)


def replaced(path: Path, text: str) -> None:
    """Write a module and drop what was compiled of it, which is known by size and second alone."""
    path.write_text(text, encoding="utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


@pytest.mark.parametrize("name", CHECKS)
def test_holds(name, code, tiny):
    """In the copy, so that what fails with a fault in it fails by that fault."""
    CHECKS[name](code, tiny)


@pytest.mark.parametrize("fault", FAULTS, indirect=True, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault, code, tiny):
    # weights that no update would move are refused before they are trained
    with pytest.raises((AssertionError, code("errors").InputError)):
        CHECKS[fault.caught_by](code, tiny)
