"""What scripts import from the package exists, also where they import it only when they run for minutes."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for folder in ("benchmarks", "scripts") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_name_taken_from_the_package_is_there(path):
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    taken = [
        (node.module, alias.name)
        for node in tree
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reckoner")
        for alias in node.names
    ]
    assert [f"{module}.{name}" for module, name in taken if not is_there(module, name)] == []


def is_there(module: str, name: str) -> bool:
    """Whether `from module import name` works: an attribute, or a module of its own."""
    found = importlib.import_module(module)
    return hasattr(found, name) or (
        hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None
    )


def test_the_scripts_are_found():
    assert {"cpu.py", "plan_accuracy.py", "pretrain_nano.py"} <= {path.name for path in SCRIPTS}
