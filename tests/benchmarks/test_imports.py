"""What scripts import from the package exists, also where they import it only when they run for minutes."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for folder in ("benchmarks", "scripts") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_name_taken_from_the_package_is_there(path):
    taken = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reckoner")]
    for node in taken:
        module = importlib.import_module(node.module)
        for alias in node.names:
            if not hasattr(module, alias.name):
                importlib.import_module(f"{node.module}.{alias.name}")


def test_the_scripts_are_found():
    assert {"cpu.py", "plan_accuracy.py", "pretrain_nano.py"} <= {path.name for path in SCRIPTS}
