"""Write puzzle N, a copy of tinier_zero.py with one fault in it, to learn/work.

    python learn/puzzles/faults.py 3          # symptoms: README.md; answers: ANSWERS.md
    python learn/puzzles/faults.py 3 --again  # from the beginning

Whoever wants to solve a puzzle stops reading here: what follows are the ten faults, and the probes that find
them. A fault replaces a piece of `tinier_zero.py`; each was in somebody's published trainer
(learn/puzzles/ANSWERS.md). A probe takes a trainer as a module and says in one line what is wrong with what
it does, not with how it is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

LEARN = Path(__file__).parent.parent
RUN = (
    "--init learn/toy --problems learn/toy/problems.jsonl --prompts 32 --updates 4 --limit 16 "
    "--learning_rate 1e-3 --steps 30"
)


@dataclass(frozen=True)
class Fault:
    """Replace each `old`, which stands once in the file, by its `new`; the probe named must then fail."""

    name: str
    edits: tuple[tuple[str, str], ...]
    probe: str
    arguments: str = RUN


FAULTS = (
    Fault(
        "a shift that is off by one",
        (("[:, self.start - 1 : -1][self.actions]", "[:, self.start :][self.actions]"),),
        "sampler_equals_scorer",
    ),
    Fault(
        "positions that count columns",
        (("(self.real.cumsum(-1) - 1).clamp(min=0)", "torch.arange(self.ids.shape[1]).expand_as(self.ids)"),),
        "sampler_equals_scorer",
    ),
    Fault(
        "padding between prompt and completion",
        (
            (
                "[(start - len(p), p + c, longest - len(c)) for p, c in",
                "[(0, p + [0] * (start - len(p)) + c, longest - len(c)) for p, c in",
            ),
        ),
        "padding_changes_nothing",
    ),
    Fault(
        "a stop token that is no action",
        (
            (
                "            True,\n            scores",
                "            drawn[:, 0] != model.eos,\n            scores",
            ),
        ),
        "stopping_is_an_action",
    ),
    Fault(
        "scored at another temperature than sampled",
        (
            (
                "logprobs = batch.logprobs(policy, s.temperature)\n            losses",
                "logprobs = batch.logprobs(policy, 1.0)\n            losses",
            ),
        ),
        "first_update_is_on_policy",
        f"{RUN} --temperature 0.6",
    ),
    Fault(
        "a comma in the gold answer",
        (('.replace(",", "") == gold.replace(",", "")', '.replace(",", "") == gold'),),
        "commas_are_read",
    ),
    Fault(
        "the first marker counts",
        (('text.rpartition("####")[2]', 'text.split("####")[1]'),),
        "last_marker_counts",
    ),
    Fault(
        "gradients that are never cleared",
        (("    optimizer.zero_grad()\n    return", "    return"),),
        "gradients_are_cleared",
    ),
    Fault(
        "rewards of other questions in the group",
        (
            (
                "group_advantages(rewards.view(-1, s.generations)).view(-1, 1)",
                "group_advantages(rewards.view(s.generations, -1).T).reshape(-1, 1)",
            ),
        ),
        "groups_are_of_one_question",
    ),
    Fault(
        "weights kept in bf16",
        (
            (
                "    optimizer.zero_grad()\n    return",
                '    for weight in optimizer.param_groups[0]["params"]:\n        weight.data = '
                "weight.data.bfloat16().float()\n    optimizer.zero_grad()\n    return",
            ),
        ),
        "small_steps_move_the_weights",
        RUN.replace("1e-3", "1e-4").replace("--steps 30", "--steps 60"),
    ),
)


def planted(fault: Fault) -> str:
    """The text of `tinier_zero.py` with the fault in it."""
    text = (LEARN / "tinier_zero.py").read_text(encoding="utf-8")
    for old, new in fault.edits:
        assert text.count(old) == 1, f"tinier_zero.py has changed: {old!r} no longer stands there once"
        text = text.replace(old, new)
    return text


class Scene:
    """A trainer `m` with the toy policy and 8 questions, short and long ones in turn."""

    def __init__(self, m: ModuleType, **settings: Any) -> None:
        self.m, self.folder = m, LEARN / "toy"
        base = {
            "init": str(self.folder),
            "problems": str(self.folder / "problems.jsonl"),
            "prompts": 8,
            "generations": 4,
            "limit": 16,
        }
        self.settings = m.Settings(**base | settings)
        self.policy = m.Gemma(self.folder)
        rows = [
            json.loads(row)
            for row in (self.folder / "problems.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        kinds = [[row for row in rows if ("00" in row["question"]) == big][:4] for big in (False, True)]
        self.problems = [row for pair in zip(*kinds, strict=True) for row in pair]
        torch.manual_seed(0)

    def attempt(self, problems: list[dict[str, str]], generations: int, temperature: float) -> Any:
        return self.m.attempt(self.settings, self.policy, problems, generations, temperature)

    def step(self) -> dict[str, float]:
        """One rollout and its update; what the trainer prints of them."""
        rollout, known, _ = self.m.roll(self.settings, self.policy, None, self.policy, self.problems)
        optimizer = torch.optim.AdamW(self.policy.w.values(), self.settings.learning_rate, weight_decay=0.0)
        return self.m.update(self.settings, self.policy, None, [optimizer], rollout, known)


def questions_are_new(m: ModuleType) -> None:
    asked, roll, scene = [], m.roll, Scene(m, steps=3)
    m.roll = lambda *arguments: asked.append([p["question"] for p in arguments[-1]]) or roll(*arguments)
    list(m.train(scene.settings))
    assert not set(asked[0]) & set(asked[1]), (
        "steps 1 and 2 ask the same questions: most of the problems are never seen"
    )


def sampler_equals_scorer(m: ModuleType) -> None:
    scene = Scene(m)
    batch, reported, _ = scene.attempt(scene.problems, 4, 1.0)
    with torch.no_grad():
        gap = (reported - batch.logprobs(scene.policy, 1.0)).abs().max().item()
    assert gap < 1e-3, (
        "the sampler reports other log-probs than the scorer finds "
        f"for the same tokens: they differ by {gap:.2f}"
    )


def padding_changes_nothing(m: ModuleType) -> None:
    scene = Scene(m)
    together = texts(scene, scene.problems)
    alone = [texts(scene, [problem])[0] for problem in scene.problems]
    different = sum(a != b for a, b in zip(alone, together, strict=True))
    assert not different, (
        f"{different} of {len(alone)} greedy completions depend on which other prompts are in the batch"
    )


def texts(scene: Scene, problems: list[dict[str, str]]) -> list[str]:
    batch, _, _ = scene.attempt(problems, 1, 0.0)
    return scene.policy.tokenizer.decode_batch(batch.ids[:, batch.start :].tolist())


def stopping_is_an_action(m: ModuleType) -> None:
    scene = Scene(m)
    batch, _, _ = scene.attempt(scene.problems, 8, 1.0)
    stops = batch.ids[:, batch.start :] == scene.policy.eos
    learnt = (stops & batch.actions).sum().item()
    assert learnt == stops.sum(), (
        f"{stops.sum()} completions stop, and {learnt} of the stop tokens are among the actions"
    )


def first_update_is_on_policy(m: ModuleType) -> None:
    for temperature in (1.0, 0.6):
        gap = Scene(m, temperature=temperature).step()["log_ratio"]
        assert gap < 1e-3, (
            f"before the first update |log rho| is {gap:.2f} at "
            f"temperature {temperature}; nothing has moved yet"
        )


def commas_are_read(m: ModuleType) -> None:
    for text, gold in (("#### 1,000", "1,000"), ("#### 1000", "1,000"), ("#### 1,000", "1000")):
        assert m.reward(text, gold) == 1, f"{text!r} earns nothing where the gold answer is {gold!r}"


def last_marker_counts(m: ModuleType) -> None:
    assert m.reward("#### 5\n#### 7", "7") == 1, (
        "a completion that ends in the right answer earns nothing, after another answer"
    )
    assert m.reward("#### 7\n#### 5", "7") == 0, (
        "a completion that ends in a wrong answer is paid for the one before it"
    )


def gradients_are_cleared(m: ModuleType) -> None:
    scene = Scene(m)
    scene.step()
    left = sum(w.grad is not None and bool(w.grad.any()) for w in scene.policy.w.values())
    assert not left, (
        f"after the update {left} of {len(scene.policy.w)} weights still hold a gradient, which the "
        "next one adds to"
    )


def groups_are_of_one_question(m: ModuleType) -> None:
    scene, earned, pay = Scene(m), [], m.reward
    m.reward = lambda text, gold: earned.append(pay(text, gold)) or earned[-1]
    _, known, _ = m.roll(scene.settings, scene.policy, None, scene.policy, scene.problems)
    rewards = torch.tensor(earned).view(-1, 4)
    wanted = (rewards - rewards.mean(-1, keepdim=True)).flatten()
    assert torch.allclose(known["advantages"][:, 0], wanted, atol=1e-6), (
        "an advantage is not the reward less the mean of its own question's rewards"
    )


def small_steps_move_the_weights(m: ModuleType) -> None:
    scene = Scene(m, learning_rate=5e-7)
    scene.step()  # whatever happens to the weights of the folder has happened after it
    before = {name: w.detach().clone() for name, w in scene.policy.w.items()}
    scene.step()
    matrices = [name for name, w in before.items() if w.ndim > 1 and "embed" not in name]
    moved = sum((before[name] != scene.policy.w[name]).sum().item() for name in matrices) / sum(
        before[name].numel() for name in matrices
    )
    assert moved > 0.5, f"a step of 5e-7 moves {moved:.1%} of the weights in the layers"


PROBES = {
    probe.__name__: probe
    for probe in (
        questions_are_new,
        sampler_equals_scorer,
        padding_changes_nothing,
        stopping_is_an_action,
        first_update_is_on_policy,
        commas_are_read,
        last_marker_counts,
        gradients_are_cleared,
        groups_are_of_one_question,
        small_steps_move_the_weights,
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\nWhoever")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("number", type=int, choices=range(1, len(FAULTS) + 1))
    parser.add_argument("--again", action="store_true", help="overwrite what is there")
    arguments = parser.parse_args()
    fault, path = FAULTS[arguments.number - 1], LEARN / "work" / f"puzzle_{arguments.number:02}.py"
    if path.exists() and not arguments.again:
        print(f"{path} is there already; --again writes it anew", file=sys.stderr)
        return 2
    path.write_text(planted(fault), encoding="utf-8")
    print(f"symptom:  learn/puzzles/README.md, puzzle {arguments.number}")
    print(f"see it:   python learn/work/{path.name} {fault.arguments}")
    print(f"mended?   python learn/check.py --puzzles {arguments.number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
