"""The shape of the package: who imports whom, how long things are, what may never be called."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "reckoner"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}

SPINE = {"faults", "records", "documents", "places", "manifests", "machine"}
TORCH = {"torch", "transformers", "peft", "safetensors", "tokenizers", "accelerate", "bitsandbytes"}
LAYERS = {
    # layer: (rooms and modules of ours it may import, third-party packages it may not import)
    "faults": (set(), TORCH | {"omegaconf", "numpy"}),
    "places": ({"faults"}, TORCH | {"omegaconf", "numpy"}),
    "machine": (set(), TORCH | {"omegaconf", "numpy"}),
    "documents": (set(), TORCH | {"omegaconf", "numpy"}),
    "manifests": ({"faults", "places", "records", "documents"}, TORCH | {"omegaconf", "numpy"}),
    "records": ({"faults", "places"}, TORCH | {"omegaconf", "numpy"}),
    "console": (SPINE, TORCH | {"omegaconf", "numpy"}),
    "runs": (SPINE | {"config"}, TORCH | {"numpy"}),
    "config": (SPINE | {"config", "presets"}, TORCH | {"numpy"}),
    "nano": (SPINE | {"nano"}, TORCH | {"omegaconf", "numpy"}),
    "tasks": (SPINE | {"tasks", "nano"}, TORCH | {"omegaconf"}),
    "analysis": (
        SPINE | {"analysis", "tasks.grading", "tasks.arithmetic", "tasks.graders"},
        TORCH | {"omegaconf"},
    ),
    "arms": (SPINE | {"config", "runs"}, TORCH | {"numpy"}),
    "checkpoints": (SPINE | {"runs"}, {"transformers", "peft"}),
    "models": (SPINE | {"config", "models"}, {"datasets"}),
    "engine": (SPINE | {"models", "engine"}, {"datasets", "omegaconf"}),
    "evaluate": (SPINE | {"config", "runs", "tasks", "models", "engine"}, set()),
    "predict": (SPINE | {"config", "runs", "tasks", "models", "engine", "evaluate"}, set()),
    "training": (SPINE | {"config", "runs", "checkpoints", "tasks", "models", "engine", "evaluate"}, set()),
    "rollouts": (SPINE | {"config", "runs", "tasks", "models", "engine", "evaluate", "training"}, set()),
    "monitor": (SPINE | {"config", "runs", "models", "engine", "training", "rollouts"}, set()),
    "transcripts": (SPINE | {"runs", "models", "rollouts"}, set()),
    "algorithms": (
        SPINE
        | {"config", "runs", "checkpoints", "tasks", "models", "engine", "evaluate", "training"}
        | {"rollouts", "monitor", "transcripts"},
        set(),
    ),
    "arm_runs": (
        SPINE | {"config", "runs", "arms", "models", "engine", "evaluate", "monitor", "algorithms"},
        set(),
    ),
    "workers": (SPINE | {"config", "runs", "arms", "arm_runs"}, set()),
    "verify": (SPINE | {"config", "runs", "tasks", "models.sources"}, TORCH),
    "devices": (
        SPINE | {"config", "models", "engine", "tasks", "runs", "evaluate", "training", "algorithms"},
        set(),
    ),
    "plan": (
        SPINE
        | {"config", "arms", "models", "engine", "tasks", "runs", "evaluate", "training", "algorithms"}
        | {"devices"},
        set(),
    ),
}


def layer_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            if node.module and node.module.startswith("reckoner"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(name: str, permitted: set[str]) -> bool:
    inner = name.removeprefix("reckoner.")
    return any(inner == p or inner.startswith(p + ".") for p in permitted) or any(
        p.startswith(inner + ".") for p in permitted
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path):
    layer = layer_of(path)
    if layer not in LAYERS:
        return
    ours, forbidden = LAYERS[layer]
    for name in imports(TREES[path]):
        if name == "reckoner" or name == "reckoner.__version__":
            continue
        if name.startswith("reckoner."):
            assert allowed(name, ours), f"{layer} may not import {name}"
        else:
            assert name.split(".")[0] not in forbidden, f"{layer} may not import {name}"


def test_algorithms_never_import_one_another():
    for path in (PACKAGE / "algorithms").glob("*.py"):
        assert not [name for name in imports(TREES[path]) if name.startswith("reckoner.algorithms")], (
            path.name
        )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_sizes_and_annotations(path):
    assert path.read_text().count("\n") <= 500
    assert path.stem not in {"utils", "common", "helpers", "misc"}
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= (120 if node.name.startswith("train") else 60), f"{node.name}: {length} lines"
            if not node.name.startswith("_"):
                assert node.returns is not None, f"{node.name} has no return annotation"
                bare = [
                    a.arg for a in node.args.args if a.annotation is None and a.arg not in {"self", "cls"}
                ]
                assert not bare, f"{node.name}: {bare} not annotated"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_fault_is_swallowed_unseen(path):
    """What may never be called stands in tests/security/test_banned_code.py."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None and ast.unparse(node.type) not in {"Exception", "BaseException"}
