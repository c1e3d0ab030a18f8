"""The course's files are scripts, not a package: they are loaded by path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

LEARN = Path(__file__).parents[2] / "learn"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"course_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def learn() -> Path:
    return LEARN


@pytest.fixture
def zero() -> ModuleType:
    return load(LEARN / "tinier_zero.py")


@pytest.fixture
def check() -> ModuleType:
    return load(LEARN / "check.py")


@pytest.fixture
def faults() -> ModuleType:
    return load(LEARN / "puzzles" / "faults.py")
