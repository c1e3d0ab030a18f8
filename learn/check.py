"""What passes, with exact values and gradients.

    python learn/check.py              # all exercises
    python learn/check.py gae update   # some
    python learn/check.py --solutions  # the solutions
    python learn/check.py --puzzles    # the files in learn/work that `python learn/puzzles/faults.py N` wrote

Exit code 0 where everything passes, else 1. What an unfinished file raises by mistake is shown as Python
shows it.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent


class Compare:
    """Compares and counts; the first difference ends the exercise with a line that names it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, what: str, got: Tensor, wanted: Any) -> None:
        wanted = torch.as_tensor(wanted, dtype=torch.float32)
        assert isinstance(got, Tensor), f"{what}: a tensor is wanted, not {type(got).__name__}"
        assert got.shape == wanted.shape, f"{what}: shape {list(got.shape)}, not {list(wanted.shape)}"
        assert torch.allclose(got.float(), wanted, rtol=0, atol=1e-6), (
            f"{what}: {rounded(got)}, not {rounded(wanted)}"
        )
        self.count += wanted.numel()


def rounded(tensor: Tensor) -> Any:
    return [rounded(row) for row in tensor] if tensor.ndim else round(tensor.item(), 4)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values).requires_grad_()


def policy_loss(solve: Callable[..., Tensor], same: Compare) -> None:
    """The four cases of sign and side, and the point where the policy has not moved."""
    logprobs = leaf(1.5, 0.5, 1.5, 0.5, 1.0, 1.0).log().detach().requires_grad_()
    loss = solve(logprobs, torch.zeros(6), torch.tensor([1.0, 1, -1, -1, 2, -2]), 0.2, 0.28)
    same(
        "loss at rho 1.5, 0.5, 1.5, 0.5, 1, 1 and A 1, 1, -1, -1, 2, -2", loss, [-1.28, -0.5, 1.5, 0.8, -2, 2]
    )
    loss.sum().backward()
    same("its gradient by log pi_theta (0 where the clip holds)", logprobs.grad, [0, -0.5, 1.5, 0, -2, 2])
    same("loss with log pi_old = -1", solve(leaf(-1.0), torch.tensor([-1.0]), torch.ones(1), 0.2, 0.28), [-1])


def value_loss(solve: Callable[..., Tensor], same: Compare) -> None:
    """Within the clip; beyond it, where V improved; beyond it, where V got worse."""
    values = leaf(0.3, 1.0, 2.0)
    loss = solve(values, torch.zeros(3), torch.tensor([1.0, 1.0, 0.0]), 0.5)
    same("loss of V 0.3, 1, 2 with V_old 0, R 1, 1, 0 and c 0.5", loss, [0.245, 0.125, 2])
    loss.sum().backward()
    same("its gradient by V", values.grad, [-0.7, 0, 2])


def kl_estimate(solve: Callable[..., Tensor], same: Compare) -> None:
    """At d = log 2, and on average over a distribution, where k1 and k3 must be the true divergence."""
    wanted = {"k1": (-0.693147, 1.0), "k2": (0.240227, -0.693147), "k3": (0.306853, -1.0)}
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    means = {"k1": 0.0252672, "k2": 0.0248624, "k3": 0.0252672}
    for name, (value, gradient) in wanted.items():
        logprobs = leaf(0.25).log().detach().requires_grad_()
        estimate = solve(logprobs, torch.tensor([0.5]).log(), name)
        same(f"{name} at pi_theta 0.25, pi_ref 0.5", estimate, [value])
        estimate.sum().backward()
        same(f"its gradient by log pi_theta ({name})", logprobs.grad, [gradient])
        same(
            f"mean of {name} under pi_theta 0.5, 0.3, 0.2 with pi_ref 0.4, 0.4, 0.2",
            (p * solve(p.log(), q.log(), name)).sum(),
            means[name],
        )


def gae(solve: Callable[..., Tensor], same: Compare) -> None:
    """Two rows that end at different columns, with rubbish in the value behind the end of the second."""
    rewards, values = torch.tensor([[0.0, 0, 1], [0, 2, 0]]), torch.tensor([[0.5, 0.25, 0.5], [1, 1, 9]])
    actions = torch.tensor([[True, True, True], [True, True, False]])
    same("gamma 1, lam 1", solve(rewards, values, actions, 1.0, 1.0), [[0.5, 0.75, 0.5], [1, 1, 0]])
    same("gamma 1, lam 0", solve(rewards, values, actions, 1.0, 0.0), [[-0.25, 0.25, 0.5], [0, 1, 0]])
    same("gamma 0.9, lam 0.8", solve(rewards, values, actions, 0.9, 0.8), [[0.1282, 0.56, 0.5], [0.62, 1, 0]])


def group_advantages(solve: Callable[..., Tensor], same: Compare) -> None:
    """Hand-worked groups, and groups with nothing to say."""
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    wanted = [[0.75, -0.25, -0.25, -0.25], [0.5, 0.5, -0.5, -0.5], [0, 0, 0, 0]]
    same("rewards 1000, 1100, 1111", solve(rewards), wanted)
    equal = solve(torch.full((1, 7), 0.1))
    same("seven rewards of 0.1", equal, torch.zeros(1, 7))
    assert not equal.any(), (
        "seven rewards of 0.1 must give exactly 0: equality is seen in the rewards, before the mean rounds"
    )


def completion_logprobs(solve: Callable[..., Tensor], same: Compare) -> None:
    """Probabilities that differ from column to column, so that a shift by one is seen; the last place is
    padding."""
    columns = torch.tensor(
        [[0.2, 0.3, 0.5], [0.1, 0.6, 0.3], [0.7, 0.1, 0.2], [0.25, 0.5, 0.25], [0.3, 0.3, 0.4]]
    )
    logits = (columns.log() + 3).repeat(2, 1, 1).requires_grad_()
    ids = torch.tensor([[0, 2, 1, 2, 1], [2, 2, 1, 1, 0]])
    real = torch.tensor([[False, True, True, True, True], [True, True, True, True, False]])
    found = solve(logits, ids, real, 2)
    same("log-probs", found, torch.tensor([[0.6, 0.2, 0.5], [0.6, 0.1, 1.0]]).log())
    found.sum().backward()
    same("gradient at the column that predicts y_0", logits.grad[0, 1], [-0.1, 0.4, -0.3])
    same(
        "gradient by column (row 1 ends one earlier)",
        logits.grad.abs().sum(-1),
        [[0, 0.8, 1.6, 1, 0], [0, 0.8, 1.8, 0, 0]],
    )


def update(solve: Callable[..., None], same: Compare) -> None:
    """A policy whose weights are the log-probs themselves, under plain gradient descent with rate 1."""
    old, actions = (
        torch.tensor([[-1.0, -1], [-1, -1], [-1, -1]]),
        torch.tensor([[True, True], [True, False], [True, True]]),
    )
    advantages = torch.tensor([[0.3, 0.3], [-0.6, -0.6], [0.9, 0.9]])

    def after(mini_batches: list[list[int]], pass_size: int, rate: float = 1.0) -> Tensor:
        weights = old.clone().requires_grad_()
        weights.grad = torch.full_like(weights, 100.0)
        optimizer = torch.optim.SGD([weights], lr=rate)
        rows = [torch.tensor(part) for part in mini_batches]
        solve(optimizer, lambda part: weights[part], old, advantages, actions, rows, pass_size, 0.2)
        return weights.detach() + 1

    once = [[0.06, 0.06], [-0.12, 0], [0.18, 0.18]]
    same("one mini-batch in one pass: each weight moves by A / N, N = 5", after([[0, 1, 2]], 3), once)
    same(
        "one mini-batch in passes of 1 and of 2",
        torch.stack([after([[0, 1, 2]], size) for size in (1, 2)]),
        [once, once],
    )
    apart = [[0.1, 0.1], [-0.2, 0], [0.45, 0.45]]
    same("mini-batches [0, 1] and [2]: N = 3 and 2", after([[0, 1], [2]], 1), apart)
    twice = [[0.45, 0.45]]
    same("row 2 twice: the second time rho = 1.57 is clipped", after([[2], [2]], 1)[2:], twice)
    grown = 0.045 + 0.045 * torch.tensor(0.045).exp().item()
    same(
        "row 2 twice at rate 0.1: pi_old stays that of the rollout",
        after([[2], [2]], 1, 0.1)[2:],
        [[grown, grown]],
    )


EXERCISES = {
    f.__name__: f
    for f in (completion_logprobs, gae, group_advantages, policy_loss, value_loss, kl_estimate, update)
}


def load(path: Path) -> ModuleType:
    """The module in a file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"learn_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check_exercise(name: str, folder: Path) -> bool:
    """Print one line on an exercise; whether it passes."""
    same = Compare()
    try:
        EXERCISES[name](getattr(load(folder / f"{name}.py"), name), same)
    except NotImplementedError as blank:
        print(f"{name:22} blank    {blank}")
    except AssertionError as wrong:
        print(f"{name:22} wrong    {wrong}")
    else:
        print(f"{name:22} passes   {same.count} numbers")
        return True
    return False


def check_puzzle(number: int, folder: Path) -> bool:
    """Print one line on a puzzle; whether it is mended and nothing else is broken."""
    puzzles, path = load(HERE / "puzzles" / "faults.py"), folder / f"puzzle_{number:02}.py"
    if not path.is_file():
        print(f"puzzle {number:2}   not begun   python learn/puzzles/faults.py {number}")
        return False
    try:
        for probe in puzzles.PROBES.values():
            probe(load(path))
    except AssertionError as wrong:
        print(f"puzzle {number:2}   not yet     {wrong}")
        return False
    print(f"puzzle {number:2}   mended      {len(puzzles.PROBES)} probes pass")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="EXERCISE",
        help=f"one or more of {', '.join(EXERCISES)}; with --puzzles, numbers",
    )
    parser.add_argument("--solutions", action="store_true", help="check learn/solutions")
    parser.add_argument("--puzzles", action="store_true", help="check the puzzles in learn/work")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = [str(n) for n in range(1, 11)] if arguments.puzzles else list(EXERCISES)
    if unknown := set(arguments.names) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    names = arguments.names or known
    if arguments.puzzles:
        results = [check_puzzle(int(name), HERE / "work") for name in names]
    else:
        results = [
            check_exercise(name, HERE / ("solutions" if arguments.solutions else "exercises"))
            for name in names
        ]
    print(f"{sum(results)} of {len(results)} pass")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
