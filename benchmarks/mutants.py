"""Change the grader, its arithmetic and the statistics at one place, and count the changes that their tests
do not notice.

    python -m benchmarks.mutants                                             150 changes, stored
    python -m benchmarks.mutants --count 20                                  fewer; nothing is stored
    python -m benchmarks.mutants --module tasks/answers/number.py --count 0  every change of one module

A change swaps one operator, comparison, Boolean word, number or truth value for its neighbour. The tests of
the module run in a fork of this process, in which the heavy libraries are loaded already. A change that no
test notices survives. Some survivors mean the same as the original (a bound that no value meets): read them
before a test is written for them.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reckoner.machine import environment

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
LIMIT = 300
"""Seconds after which the tests of a change are taken to have noticed it: it never ends."""

TESTS = {
    "tasks/answers/number.py": ("tests/tasks/answers/test_number.py",),
    "tasks/arithmetic.py": ("tests/tasks/test_arithmetic.py",),
    "analysis/intervals.py": ("tests/analysis/test_statistics.py",),
    "analysis/statistics.py": (
        "tests/analysis/test_statistics.py",
        "tests/analysis/test_statistics_of_samples.py",
        "tests/analysis/test_power.py",
    ),
    "analysis/power.py": ("tests/analysis/test_power.py",),
}
NEIGHBOURS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
}


def neighbour(node: ast.AST) -> ast.AST | None:
    """`node` with its change, or None where it has none."""
    changed: Any = copy.deepcopy(node)
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp) and type(node.op) in NEIGHBOURS:
        changed.op = NEIGHBOURS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        changed = node.operand
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in NEIGHBOURS:
        changed.ops[0] = NEIGHBOURS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        changed.value = not node.value if isinstance(node.value, bool) else node.value + 1
    else:
        return None
    return changed


def mutants(source: str) -> Iterator[tuple[int, str, str, str]]:
    """Line, what stands there, what stands there instead, and the whole changed source, for every change."""
    tree = ast.parse(source)
    hints = {
        id(inner)
        for node in ast.walk(tree)
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if hint is not None
        for inner in ast.walk(hint)
    }
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            places = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for at, node in places:
                if (
                    not isinstance(node, ast.expr)
                    or id(node) in hints
                    or (changed := neighbour(node)) is None
                ):
                    continue
                _put(parent, field, at, changed)
                yield node.lineno, ast.unparse(node), ast.unparse(changed), ast.unparse(tree)
                _put(parent, field, at, node)


def _put(parent: ast.AST, field: str, at: int | None, node: ast.AST) -> None:
    if at is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[at] = node


def noticed(package: Path, module: str) -> bool:
    """Whether the tests of `module` fail on the package that lies below `package`, in a fork of this
    process."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        sys.path.insert(0, str(package))
        sys.dont_write_bytecode = True  # of two changes of one size in one second the first would be loaded
        for name in [name for name in sys.modules if name.split(".")[0] == "reckoner"]:
            del sys.modules[name]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        import pytest

        early = "ignore::pytest.PytestAssertRewriteWarning"  # libraries are loaded already
        # Tests of time say nothing of values, and fail on a busy machine.
        words = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", "not linear", "-W", early]
        code = pytest.main([*words, *TESTS[module]])
        os._exit(int(code))
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status != 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the changes, print each survivor, and store the share."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, help="changes to draw; 0 is all (default: 150, stored)")
    parser.add_argument("--module", choices=TESTS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    import hypothesis  # noqa: F401  # loaded once, here, for all forks
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401

    os.chdir(ROOT)
    chosen = [
        (module, *mutant)
        for module in options.module or TESTS
        for mutant in mutants((ROOT / "src" / "reckoner" / module).read_text(encoding="utf-8"))
    ]
    total = len(chosen)
    if (count := 150 if options.count is None else options.count) and count < total:
        chosen = random.Random(options.seed).sample(chosen, count)
    began, survivors = time.monotonic(), []
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(ROOT / "src", place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for module in options.module or TESTS:
            if noticed(Path(place), module):
                raise SystemExit(f"{module}: its tests fail without any change")
        for number, (module, line, was, instead, source) in enumerate(sorted(chosen), start=1):
            target = Path(place) / "reckoner" / module
            original = target.read_text(encoding="utf-8")
            target.write_text(source, encoding="utf-8")
            if not noticed(Path(place), module):
                survivors.append({"module": module, "line": line, "was": was[:100], "instead": instead[:100]})
                print(f"{module}:{line}: {was[:100]}  ->  {instead[:100]}", flush=True)
            target.write_text(original, encoding="utf-8")
            if number % 25 == 0:
                print(
                    f"{number} of {len(chosen)} tried, {len(survivors)} survive", file=sys.stderr, flush=True
                )
    share = len(survivors) / len(chosen)
    print(f"{len(survivors)} of {len(chosen)} changes survive ({100 * share:.1f} %), drawn from {total:,}")
    if options.count is None:
        result = {
            "command": f"python -m benchmarks.mutants --seed {options.seed}",
            "environment": environment(),
            "seconds": round(time.monotonic() - began),
            "possible": total,
            "tried": len(chosen),
            "survived": len(survivors),
            "share": round(share, 4),
            "survivors": survivors,
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
